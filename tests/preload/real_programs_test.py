#!/usr/bin/python3
"""Real programs under libbartender.so: same output and status as without it.

    real_programs_test.py [--quick] [--only PATTERN] [--python-tests DIR] [--nodes BARTENDERD] LIBRARY [BARTENDER_TOOL]

Each program runs without the preload once, then with every size routed to the arena (BARTENDER_THRESHOLD=0) and with the
default settings.  Every case checks that an arena was really used.  --quick takes smaller inputs.  --nodes takes another
mode instead: every size routed, little of it kept near, the rest on two memory nodes.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
import unittest
import xml.etree.ElementTree

import driver
from driver import arenas_in, run

LIBRARY = TOOL = SCRATCH = PYTHON_TESTS = None
QUICK = False
MODES = ('plain', 'threshold_0', 'default')
NODES = []


def addresses():
    return ','.join(f'127.0.0.1:{node.port}' for node in NODES)


def size(full, quick):
    return quick if QUICK else full


class Case(unittest.TestCase):
    """Three modes, each with a work directory of the same name and an empty directory for arenas."""

    maxDiff = 4000
    near = '8M'  # half, or less, of what the programs need

    def setUp(self):
        self.place = os.path.join(SCRATCH, 'arenas')
        self.work = os.path.join(SCRATCH, 'work')
        self.fresh()

    def fresh(self):
        for path in (self.place, self.work):
            os.makedirs(path, exist_ok=True)
            driver.empty(path)

    def need(self, name, package):
        if shutil.which(name) is None:
            self.skipTest(f'{name} is not installed (package {package})')

    def environment(self, mode, keep=True):
        result = driver.clean_environment(self.work)
        # Dates and names that would differ from run to run.
        for who in ('AUTHOR', 'COMMITTER'):
            result.update({f'GIT_{who}_NAME': 'A', f'GIT_{who}_EMAIL': 'a@example.org',
                           f'GIT_{who}_DATE': '2020-01-01T00:00:00Z'})
        result.update(GIT_CONFIG_NOSYSTEM='1', TZ='UTC', PYTHONHASHSEED='0')
        if mode != 'plain':
            result['LD_PRELOAD'] = LIBRARY
            result['BARTENDER_ARENA'] = os.path.join(self.place, '%e%n.arena')
            if mode in ('threshold_0', 'far'):
                result['BARTENDER_THRESHOLD'] = '0'
            if mode == 'far':
                result['BARTENDER_NEAR'] = self.near
                result['BARTENDER_NODES'] = addresses()
                result['BARTENDER_KEY_FILE'] = os.path.join(SCRATCH, 'key')
            if keep:
                result['BARTENDER_ON_EXIT'] = 'keep'
        return result

    def check_loaded(self, outcome, allowed=None):
        for line in outcome.err.splitlines():
            if allowed is not None and allowed in line:
                continue
            self.assertFalse('cannot be preloaded' in line or line.startswith('bartender'), str(outcome))

    def check_arenas(self, mode, routes_by_default=True):
        """An arena was used, and what is kept checks clean."""
        if mode == 'plain' or (mode == 'default' and not routes_by_default):
            return
        paths = arenas_in(self.place)
        self.assertTrue(paths, f'no arena was used ({mode})')
        if TOOL is not None and os.access(TOOL, os.X_OK):
            for path in paths:
                nodes = ['--nodes', addresses(), '--key-file', os.path.join(SCRATCH, 'key')] if mode == 'far' else []
                checked = run([TOOL, 'check', *nodes, path], driver.clean_environment(self.work), timeout_s=120)
                self.assertEqual(checked.status, 0, f'bartender check\n{checked}')

    def same(self, arguments, stdin=None, status=0, timeout_s=120, prepare=None, also=None, routes_by_default=True):
        """Runs `arguments` in all modes; compares status, both outputs, and what `also()` tells of the work directory."""
        told = {}
        for mode in MODES:
            self.fresh()
            if prepare is not None:
                prepare()
            outcome = run(arguments, self.environment(mode), timeout_s=timeout_s, stdin=stdin, directory=self.work)
            if mode != 'plain':
                self.check_loaded(outcome)
            self.assertEqual(outcome.status, status, f'{mode}\n{outcome}')
            told[mode] = (outcome.out, outcome.err, also() if also is not None else None)
            self.assertTrue(any(told[mode]), 'a run that says nothing compares nothing')
            self.assertEqual(told[mode], told['plain'], f'{mode} differs\n{outcome}')
            self.check_arenas(mode, routes_by_default)

    def script(self, text, shell='/bin/sh', **options):
        self.same([shell, '-c', text], **options)

    def digest_of(self, *names):
        """One digest of files in the work directory."""
        result = hashlib.sha256()
        for name in names:
            with open(os.path.join(self.work, name), 'rb') as file:
                result.update(file.read())
        return result.hexdigest()


# --- python3 ---------------------------------------------------------------------------------------------------------

PYTHON = '/usr/bin/python3'


class Python(Case):
    """Python's own test modules, with PYTHONMALLOC=malloc so that every object is ours."""

    def python_environment(self, mode):
        result = self.environment(mode, keep=False)  # children by the hundred
        result['PYTHONMALLOC'] = 'malloc'
        if PYTHON_TESTS is not None:
            result['PYTHONPATH'] = PYTHON_TESTS
        return result

    def verdicts(self, module, mode):
        """Verdict of each test function of the module."""
        self.fresh()
        report = os.path.join(self.work, 'report.xml')
        ignored = ['-i', '*timeout*', '-i', '*NoPoll*', '-i', '*_dead', '-i', '*stdout_close*'] if QUICK else []
        outcome = run([PYTHON, '-m', 'test', '--junit-xml', report, *ignored, module], self.python_environment(mode),
                      timeout_s=size(600, 150), directory=self.work)
        if mode != 'plain':
            # Some children of test_subprocess become other users, to whom the test's directory is closed: they say so and go on.
            self.check_loaded(outcome, allowed='access is refused' if module == 'test_subprocess' else None)
        self.assertTrue(os.path.exists(report), f'{mode}\n{outcome}')
        tests = {}
        for test in xml.etree.ElementTree.parse(report).getroot().iter('testcase'):
            good = test.find('failure') is None and test.find('error') is None
            tests[test.get('name')] = f'{test.get("result")} {"ok" if good else "FAILED"}'
        return outcome, tests

    def run_module(self, module):
        found = run([PYTHON, '-c', f'import test.{module}'], self.python_environment('plain'))
        if found.status != 0:
            self.skipTest(f'python3 has no {module} (package libpython3.11-testsuite)')
        plain_outcome, plain = self.verdicts(module, 'plain')
        self.assertGreater(len(plain), 20, f'the module has tests\n{plain_outcome}')
        for mode in MODES[1:]:
            in_use = run([PYTHON, '-c', 'import ctypes; x = bytearray(100000); print(ctypes.CDLL(None).btd_active())'],
                         self.python_environment(mode))
            self.assertEqual((in_use.status, in_use.out), (0, '1\n'), f'the arena is used\n{in_use}')
            outcome, tests = self.verdicts(module, mode)
            different = {name: (plain.get(name), tests.get(name)) for name in plain.keys() | tests.keys()
                         if plain.get(name) != tests.get(name)}
            self.assertEqual(different, {}, f'{mode}: (without, with) the preload\n{outcome}')
            self.assertEqual(outcome.status, plain_outcome.status, f'{mode}\n{outcome}')


for python_module in ('list', 'dict', 'bytes', 'json', 're', 'threading', 'subprocess'):
    setattr(Python, f'test_{python_module}', lambda self, name=python_module: self.run_module('test_' + name))


class PythonPrograms(Case):

    def test_computation_with_threads_and_processes(self):
        text = '''
import concurrent.futures, hashlib, json, multiprocessing, random, zlib
def work(seed):
    chance = random.Random(seed)
    data = {str(i): [chance.random() for _ in range(20)] for i in range(COUNT)}
    text = json.dumps(data, sort_keys=True).encode()
    packed = zlib.compress(text)
    assert zlib.decompress(packed) == text
    return hashlib.sha256(packed).hexdigest()
if __name__ == "__main__":
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        print(list(pool.map(work, range(4))))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(work, range(4)))
'''.replace('COUNT', str(size(4000, 1000)))

        def prepare():
            with open(os.path.join(self.work, 'program.py'), 'w') as file:
                file.write(text)

        self.same([PYTHON, 'program.py'], prepare=prepare, timeout_s=180)

    def test_numpy_if_there(self):
        if run([PYTHON, '-c', 'import numpy'], self.environment('plain')).status != 0:
            self.skipTest('python3 has no numpy (package python3-numpy)')
        self.same([PYTHON, '-c', 'import numpy as n; a = n.arange(1000000.0).reshape(1000, 1000); b = a @ a.T; '
                                 'print(b.sum(), n.sort(b.ravel())[::100001], n.linalg.eigvalsh(b[:50, :50])[-1:].round(3))'])


# --- Databases -------------------------------------------------------------------------------------------------------

class Databases(Case):
    near = '12M'

    def test_sqlite3(self):
        self.need('sqlite3', 'sqlite3')
        count = 60000 if NODES else 300000
        sql = f'''
            pragma cache_size = -20000;
            create table t(id integer primary key, name text, value real, bytes blob);
            begin;
            with recursive n(i) as (select 1 union all select i + 1 from n where i < {count})
              insert into t select i, 'name ' || (i * 7919 % {count}), i * 0.5, zeroblob(i % 50) from n;
            commit;
            create index by_name on t(name);
            update t set value = value * 2 where id % 3 = 0;
            delete from t where id % 10 = 7;
            select count(*), sum(value), sum(length(name)), sum(length(bytes)) from t;
            select name, value from t order by name desc limit 5;
            select substr(name, 1, 7) as prefix, count(*) from t group by prefix order by 2 desc, 1 limit 5;
            vacuum;
            pragma integrity_check;
        '''
        self.same(['sqlite3', 'test.db'], stdin=sql, also=lambda: self.digest_of('test.db'))

    def redis(self, mode):
        """What redis says of a data set before and after a BGSAVE and a reload, under load all the time."""
        environment = self.environment(mode)
        socket = os.path.join(self.work, 'redis.sock')
        server = driver.start(
            ['redis-server', '--port', '0', '--unixsocket', socket, '--dir', self.work, '--save', '', '--daemonize', 'no',
             '--enable-debug-command', 'yes', '--logfile', os.path.join(self.work, 'redis.log')],
            environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            def ask(*arguments, stdin=None):
                outcome = run(['redis-cli', '-s', socket, *arguments], self.environment('plain'), stdin=stdin)
                self.assertEqual(outcome.status, 0, str(outcome))
                return outcome.out.strip()

            def wait_for(what, is_so, limit_s=60):
                end = time.monotonic() + limit_s
                while not is_so():
                    self.assertIsNone(server.poll(), f'{mode}: the server ended: {self.redis_log()}')
                    self.assertLess(time.monotonic(), end, f'{mode}: {what}: {self.redis_log()}')
                    time.sleep(0.02)

            wait_for('start', lambda: os.path.exists(socket) and
                     run(['redis-cli', '-s', socket, 'ping'], self.environment('plain')).out == 'PONG\n')
            commands = []
            for i in range(size(50000, 15000)):
                commands.append(f'SET key:{i} {"v" * (i % 200)}{i}')
                if i % 5 == 0:
                    commands.append(f'RPUSH list:{i % 50} {i} {"x" * (i % 90)}')
                    commands.append(f'HSET hash:{i % 40} field{i} {i * i}')
                    commands.append(f'ZADD sorted:{i % 9} {i} member{i}')
            commands.append('SET large ' + 'L' * 3000000)
            ask(stdin='\n'.join(commands) + '\n')
            told = [ask('DEBUG', 'DIGEST'), ask('DBSIZE'), ask('STRLEN', 'large')]
            load = run(['redis-benchmark', '-s', socket, '-n', str(size(100000, 20000)), '-q', '-P', '16', '-t',
                        'set,get,incr,lpush,rpop,sadd,hset,lrange_100', '-r', '5000'], self.environment('plain'),
                       timeout_s=120)
            self.assertEqual(load.status, 0, str(load))
            ask('DEL', 'mylist', 'myset', 'myhash', 'key:__rand_int__', 'counter:__rand_int__')
            # The benchmark's keys are random: only ours are compared from here on.
            for round_number in range(3):
                saved = ask('LASTSAVE')
                began = ask('BGSAVE')
                self.assertIn('Background saving started', began)
                # Writes while the child saves: the snapshot must not see them half done.
                load = run(['redis-benchmark', '-s', socket, '-n', '5000', '-q', '-t', 'set,lpush', '-r', '1000'],
                           self.environment('plain'))
                self.assertEqual(load.status, 0, str(load))
                wait_for('BGSAVE', lambda: 'rdb_bgsave_in_progress:0' in ask('INFO', 'persistence'))
                self.assertIn('rdb_last_bgsave_status:ok', ask('INFO', 'persistence'), f'{mode}: {self.redis_log()}')
                del saved
            if shutil.which('redis-check-rdb'):
                checked = run(['redis-check-rdb', os.path.join(self.work, 'dump.rdb')], self.environment('plain'))
                self.assertEqual(checked.status, 0, f'{mode}: {checked}')
                self.assertIn('RDB looks OK', checked.out)
            self.assertEqual(ask('DEBUG', 'RELOAD'), 'OK')
            sample = ['GET key:7', 'LRANGE list:5 0 9', 'HGET hash:20 field20', 'ZRANGE sorted:3 0 5', 'STRLEN large',
                      'LLEN list:10', 'ZCARD sorted:0', 'HLEN hash:35']
            told.append(ask(stdin='\n'.join(sample) + '\n'))
            ask('FLUSHALL')
            run(['redis-cli', '-s', socket, 'SHUTDOWN', 'NOSAVE'], self.environment('plain'))
            self.assertEqual(server.wait(30), 0, f'{mode}: {self.redis_log()}')
            err = server.stderr.read().decode()
            self.assertNotIn('bartender', err)
            self.assertNotIn('preloaded', err)
            return told
        finally:
            driver.end_group(server)
            server.stderr.close()

    def redis_log(self):
        try:
            with open(os.path.join(self.work, 'redis.log')) as file:
                return file.read()[-3000:]
        except OSError:
            return ''

    def test_redis_with_benchmark_and_bgsave(self):
        for name, package in (('redis-server', 'redis-server'), ('redis-cli', 'redis-tools'),
                              ('redis-benchmark', 'redis-tools')):
            self.need(name, package)
        plain = None
        for mode in MODES:
            self.fresh()
            told = self.redis(mode)
            plain = plain or told
            self.assertEqual(told, plain, mode)
            self.check_arenas(mode)


# --- git, compilers --------------------------------------------------------------------------------------------------

class Development(Case):
    near = '64M'

    def test_git(self):
        self.need('git', 'git')
        script = f'''set -e
            git init -q -b main r
            cd r
            git config gc.auto 0
            for round in 1 2 3 4; do
              for i in $(seq 1 {size(150, 40)}); do
                seq $((i * round)) $((i * round + {size(2000, 700)})) > file$i.txt
              done
              git add .
              git commit -q -m "round $round"
            done
            git checkout -q -b side HEAD~2
            echo side > side.txt
            git add side.txt
            git commit -q -m side
            git merge -q -m merged main
            git fsck --full --strict 2>&1
            git gc -q --aggressive --prune=now
            git fsck --full --strict 2>&1
            git log --stat --format='%H %s' | sha256sum
            git diff HEAD~1 HEAD | sha256sum
            git blame file7.txt | sha256sum
            git count-objects -v | grep -E 'count|in-pack|packs'
            git clone -q . ../copy
            git -C ../copy rev-parse HEAD'''
        self.script(script, timeout_s=240)

    def test_gcc_compiles_a_cplusplus_file(self):
        self.need('g++', 'g++')

        def prepare():
            with open(os.path.join(self.work, 'file.cpp'), 'w') as file:
                file.write('''
                    #include <algorithm>
                    #include <iostream>
                    #include <map>
                    #include <regex>
                    #include <string>
                    int main() {
                      std::map<std::string, int> words;
                      std::regex word("[a-z]+");
                      std::string text = "to be or not to be, that is the question";
                      for (std::sregex_iterator i(text.begin(), text.end(), word), end; i != end; ++i) words[i->str()]++;
                      for (auto& [name, count] : words) std::cout << name << ' ' << count << '\\n';
                    }''')

        self.script('g++ -std=c++20 -O1 -g -c file.cpp -o file.o && g++ file.o -o program && ./program', prepare=prepare,
                    also=lambda: self.digest_of('file.o', 'program'), timeout_s=240)

    def test_make_and_shell_tools(self):
        self.need('make', 'make')

        def prepare():
            with open(os.path.join(self.work, 'Makefile'), 'w') as file:
                file.write('FILES := $(shell seq 1 60)\nall: $(FILES:%=%.out)\n%.out:\n\t@seq 1 $* | sha256sum > $@\n')

        self.script('make -s -j4 && cat *.out | sha256sum', prepare=prepare)


# --- Shells and text tools -------------------------------------------------------------------------------------------

class Tools(Case):
    near = '32M'

    def lines(self, name='lines.txt'):
        """A text file that is the same every time."""
        with open(os.path.join(self.work, name), 'w') as file:
            value = 12345
            for i in range(size(400000, 120000)):
                value = (value * 1103515245 + 12345) % (1 << 31)
                file.write(f'{value:010d} line {i} {"abcdefgh"[value % 8] * (value % 60)}\n')

    def test_bash_loops_with_subshells(self):
        self.need('bash', 'bash')
        script = f'''
            declare -A table
            for ((i = 0; i < {size(300, 80)}; i++)); do
              value=$( (echo "$i" | (read x; echo $((x * x)))) )
              table[$i]=$value
              (table[$i]=changed; exit $((i % 7))) ; status=$?
              [ "$status" = $((i % 7)) ] && [ "${{table[$i]}}" = "$value" ] || echo bad $i
            done
            for key in "${{!table[@]}}"; do echo "$key ${{table[$key]}}"; done | sort -n | sha256sum
            coproc cat; echo through >&${{COPROC[1]}}; read line <&${{COPROC[0]}}; echo $line
            eval "exec ${{COPROC[1]}}>&-"
            mapfile -t all < <(seq 1 20000); echo ${{#all[@]}} ${{all[19999]}}
            trap 'echo done' EXIT
            x=; for i in $(seq 1 3000); do x="$x$i "; done; echo ${{#x}}
            wait_all() {{ for i in 1 2 3 4 5 6; do (echo $i > part$i) & done; wait; }}; wait_all; cat part*
            exit 5'''
        self.script(script, shell='/bin/bash', status=5, routes_by_default=False)

    def test_dash_loops_with_subshells(self):
        script = f'''i=0; while [ $i -lt {size(300, 100)} ]; do x=$(echo $i | (read y; echo $((y * 3)))); i=$((i + 1)); done
                     echo $x; set -- $(seq 1 5000); echo $#; ls / | wc -l; echo "$*" | sha256sum'''
        self.script(script, routes_by_default=False)

    def test_perl(self):
        self.need('perl', 'perl')
        self.same(['perl', '-e', '''
            my (%h, @a); my $v = 1;
            for my $i (1 .. COUNT) { $v = ($v * 1103515245 + 12345) % 2147483648; $h{"k$v"} .= "x" x ($v % 40); push @a, $v; }
            my $t = join ",", sort { $a <=> $b } @a; my $n = () = $t =~ /(\\d)\\1/g;
            print scalar(keys %h), " ", length($t), " $n\\n";
            my $pid = fork; if (!$pid) { $h{$_} = 1 for 1 .. 1000; print scalar(keys %h), "\\n"; exit 3 } waitpid $pid, 0;
            print $? >> 8, " ", scalar(keys %h), "\\n"; print sprintf("%s", `echo hello`);
            '''.replace('COUNT', str(size(300000, 80000)))])

    def test_grep(self):
        self.same(['grep', '-c', '-E', '7[0-9]* line .* (aa|gg|hh){9,}$', 'lines.txt'], prepare=self.lines)
        self.script('grep -n 77 lines.txt | sha256sum; grep -rc line . | sort; grep -v -F line lines.txt; echo $?; '
                    'grep "" lines.txt | wc -l; grep -e "" -e x -o lines.txt | wc -c; echo; grep -f /dev/null lines.txt; echo $?; '
                    'grep -P "(?<=line )1+ " lines.txt | head -5', prepare=self.lines)

    def test_sort(self):
        self.same(['sort', '--parallel=4', 'lines.txt', '-o', 'sorted.txt'], prepare=self.lines,
                  also=lambda: self.digest_of('sorted.txt'))
        self.script('sort -S 5M -T . lines.txt | sha256sum; sort -k4 -u lines.txt | sha256sum; sort -R lines.txt | wc -l; '
                    'shuf -n 10 lines.txt | wc -l; sort -n lines.txt | uniq -c | tail -2; tac lines.txt | head -1',
                    prepare=self.lines)

    def test_tar(self):
        self.script('mkdir in out; cp lines.txt in/a; ln in/a in/b; ln -s a in/c; split -n 20 lines.txt in/part; '
                    'tar --mtime=@0 --owner=0 --group=0 --sort=name -cf a.tar in && tar -xf a.tar -C out && diff -r in out/in; '
                    'tar -czf a.tgz in && tar -tzf a.tgz | sort; tar --use-compress-program=cat -tf a.tar | wc -l; '
                    'gzip -9 -c lines.txt | gunzip | cmp - lines.txt && sha256sum a.tar', prepare=self.lines)

    def test_text_tools(self):
        self.script("awk '{ n[$4]++; s += $1 } END { for (k in n) print k, n[k]; print s }' lines.txt | sort | sha256sum; "
                    "sed -n 's/line \\([0-9]*\\)/\\1/gp' lines.txt | cut -d' ' -f2 | paste -sd+ | head -c 100; echo; "
                    "find / -xdev -maxdepth 3 -name '*.conf' 2>/dev/null | sort | sha256sum; join lines.txt lines.txt | wc -l; "
                    "diff lines.txt <(sed 's/7/8/' lines.txt) | wc -l; tr a-h A-H < lines.txt | md5sum; od -c lines.txt | tail -3",
                    shell='/bin/bash', prepare=self.lines)

    def test_man(self):
        self.need('man', 'man-db')
        # Debian's containers leave the manual pages out: take one of our own then.
        def prepare():
            with open(os.path.join(self.work, 'page.1'), 'w') as file:
                file.write('.TH PAGE 1\n.SH NAME\npage \\- a page\n.SH DESCRIPTION\n' +
                           '.PP\nSome \\fBwords\\fP to fill, with a table:\n.TS\nl l.\na\tb\n.TE\n' * 200)

        self.same(['man', '-P', 'cat', '-l', 'page.1'], prepare=prepare, routes_by_default=False)
        if os.path.exists('/usr/share/man/man1/ls.1.gz'):
            self.same(['man', '-P', 'cat', 'ls'], routes_by_default=False)

    def test_arenas_of_a_pipeline_vanish(self):
        """Without ON_EXIT=keep a pipeline of good ends leaves nothing, though each part had an arena."""
        self.lines()
        for mode in MODES[1:]:
            outcome = run(['/bin/bash', '-c', 'sort lines.txt | uniq | sort -r | tail -1 | sha256sum'],
                          self.environment(mode, keep=False), directory=self.work)
            self.assertEqual(outcome.status, 0, str(outcome))
            self.check_loaded(outcome)
            self.assertEqual(arenas_in(self.place), [])


def start_nodes(program):
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'node'))
    from node_daemon import Daemon
    key = os.path.join(SCRATCH, 'key')
    with open(key, 'w', opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(os.urandom(32).hex())
    for index in range(2):
        NODES.append(Daemon(program, '--listen', '127.0.0.1:0', '--store', os.path.join(SCRATCH, f'store{index}'), '--capacity', '4G',
                            '--key-file', key))


def parse_arguments():
    global LIBRARY, TOOL, SCRATCH, QUICK, PYTHON_TESTS, MODES
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('library')
    parser.add_argument('tool', nargs='?')
    parser.add_argument('--quick', action='store_true', help='smaller inputs: under three minutes on two cores')
    parser.add_argument('--only', metavar='PATTERN', help='run the cases whose name matches')
    parser.add_argument('--python-tests', metavar='DIR', help="where python's own `test` package lies, if not in python")
    parser.add_argument('--nodes', metavar='BARTENDERD', help='little memory near, the rest on two nodes that this program serves')
    arguments = parser.parse_args()
    LIBRARY = os.path.abspath(arguments.library)
    TOOL = os.path.abspath(arguments.tool) if arguments.tool else None
    QUICK, PYTHON_TESTS = arguments.quick, arguments.python_tests
    if not os.path.exists(LIBRARY):
        parser.error(f'{LIBRARY}: no such file')
    SCRATCH = driver.scratch_directory()
    if arguments.nodes:
        start_nodes(os.path.abspath(arguments.nodes))
        MODES = ('plain', 'far')
    return arguments


if __name__ == '__main__':
    driver.main(sys.modules['__main__'], parse_arguments().only)
