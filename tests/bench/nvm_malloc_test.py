#!/usr/bin/python3
"""The nvm_malloc benchmarks print what their own scripts read: one integer, and nothing else.

  nvm_malloc_test.py LIBBARTENDER.SO NVM_MALLOC NVM_BARTENDER [NVM_PMEMOBJ]

On malloc, alone and on the arena; on bartender's own interface in each level of durability; on libpmemobj
where it was found.  Recovery after the SIGKILL included: the program itself verifies every node and payload.
No times.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', '..', 'bench'))

# pylint: disable=wrong-import-position
import contenders

ALLOCATING = ('fastalloc', 'alloc_free', 'alloc_free_alloc', 'linkedlist')


def check(name, command, environment, good):
    """Whether the command prints one integer (good), or refuses with status 2 and one line."""
    ran = subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, timeout=60, check=False)
    if good:
        passed = ran.returncode == 0 and ran.stdout.rstrip('\n').isdigit() and not ran.stderr
    else:
        passed = ran.returncode == 2 and not ran.stdout and ran.stderr.count('\n') == 1
    print(f'{name:44} {"ok" if passed else "FAILED"}', flush=True)
    if not passed:
        print(f'  status {ran.returncode}, stdout {ran.stdout!r}, stderr {ran.stderr[-300:]!r}')
    return passed


def cases(library, on_malloc, on_bartender, on_pmemobj, directory):
    plain = contenders.clean_environment()
    arena = dict(plain, LD_PRELOAD=os.path.abspath(library), BARTENDER_THRESHOLD='0',
                 BARTENDER_ARENA=os.path.join(directory, '%e.%p.arena'))
    for word in ALLOCATING:
        yield f'{word}, malloc', [on_malloc, word, '2', '1'], plain, True
        yield f'{word}, arena', [on_malloc, word, '2', '64', '256'], arena, True
    yield 'recovery needs roots', [on_malloc, 'recovery', '2'], plain, False
    yield 'no threads', [on_malloc, 'fastalloc', '0', '64'], plain, False
    yield 'malloc flushes nothing', [on_malloc, 'fastalloc', '1', '64', '--variant', 'no-drain'], \
        plain, False
    # The commands of scripts/bench itself, so that its contenders are tested with the programs.
    levels = [c for c in contenders.all_contenders(library)
              if c.name in ('bartender-process', 'bartender-lazy', 'bartender-strict')]
    for contender in levels:
        preloaded = dict(plain, **contender.settings(directory))
        for words in [[word, '2', '64', '256'] for word in ALLOCATING] + [['recovery', '20']]:
            command = contender.command(['nvm_malloc'] + words, directory)
            good = command[0] == 'nvm_bartender'
            yield f'{words[0]}, {contender.name}', [on_bartender] + command[1:], preloaded, good
    arena_file = ['--arena', os.path.join(directory, 'bench.arena')]
    yield 'interface, no library', [on_bartender, 'fastalloc', '1', '64'] + arena_file, plain, False
    yield 'interface, no such variant', \
        [on_bartender, 'fastalloc', '1', '64', '--variant', 'neither'] + arena_file, plain, False
    if on_pmemobj is not None:
        pool = ['--pool', os.path.join(directory, 'pool'), '--pool-mib', '512']
        forced = dict(plain, PMEM_IS_PMEM_FORCE='1')
        for word in ALLOCATING:
            yield f'{word}, libpmemobj', [on_pmemobj, word, '1', '64'] + pool, forced, True
        yield 'linkedlist, libpmemobj, no-flush', \
            [on_pmemobj, 'linkedlist', '1', '64', '--variant', 'no-flush'] + pool, forced, True
        yield 'recovery, libpmemobj', [on_pmemobj, 'recovery', '20'] + pool, forced, True


def main():
    if len(sys.argv) not in (4, 5):
        sys.exit('usage: nvm_malloc_test.py LIBBARTENDER.SO NVM_MALLOC NVM_BARTENDER [NVM_PMEMOBJ]')
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Meson's time limit: clean up first
    directory = tempfile.mkdtemp(prefix='bartender-nvm-',
                                 dir='/dev/shm' if os.path.isdir('/dev/shm') else None)
    try:
        results = [check(*case) for case in cases(*sys.argv[1:4], (sys.argv + [None])[4],
                                                  directory)]
        # No pool and no arena may stay behind: the next run would find it.
        left = [name for name in os.listdir(directory) if name in ('pool', 'bench.arena')]
        results.append(not left)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(f'{sum(results)} passed, {len(results) - sum(results)} failed')
    sys.exit(0 if all(results) else 1)


if __name__ == '__main__':
    main()
