"""In the guest, with an NVDIMM: an arena on a file with DAX and on a DAX device, and a memory node on another.

    dax.py until-cut | after-cut
"""

import glob
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

MOUNT = '/mnt/pm'
LIBRARY, TOOL, COMMITS = (os.environ[name] for name in ('BTD_LIBRARY', 'BTD_BARTENDER', 'BTD_COMMITS'))
MARK = 'what is in the arena of '
VICTIM = f'''
import os, signal, sys
data = [bytearray(b"{MARK}" + sys.argv[1].encode() + b"." * 40000) for i in range(50)]
print("filled", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
'''


def run(*command, environment=None, wanted=0, quiet=False):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=200, env={**os.environ, **(environment or {})},
                          check=False)
    text = done.stdout.decode(errors='replace')
    if not quiet or done.returncode != wanted:
        print('$', ' '.join(command)[:150], '\n' + text, end='', flush=True)
    if done.returncode != wanted:
        sys.exit(f'FAILED: status {done.returncode}, not {wanted}')
    return text


def prepare():
    # A label area of zeros makes one namespace in raw mode, without DAX: labels first, then the namespaces.
    run('ndctl', 'disable-region', 'all')
    run('ndctl', 'init-labels', 'all')
    run('ndctl', 'enable-region', 'all')
    run('ndctl', 'create-namespace', '-m', 'fsdax', '-s', '256M', '-f', '--map=mem', quiet=True)
    for size in ('128M', '64M'):
        run('ndctl', 'create-namespace', '-m', 'devdax', '-s', size, '-f', '--map=mem', quiet=True)
    run('mkfs.ext4', '-q', '-b', '4096', '-F', '/dev/pmem0')


def place_of(kind):
    """Of an arena, or of the node's store: the larger device is the arena's."""
    devices = sorted(glob.glob('/dev/dax*'), key=lambda device: -int(pathlib.Path('/sys/bus/dax/devices', device[5:], 'size').read_text()))
    return {'fsdax': f'{MOUNT}/one.arena', 'devdax': devices[0], 'node': devices[1]}[kind]


def check_doctor(kind, place, level):
    told = json.loads(run(TOOL, 'doctor', '--json', place, quiet=True))
    wanted = {'backend': kind, 'map_sync': True, 'way': 'flush', 'eadr': False, 'libpmem': True, 'arena_durability': level}
    found = {name: told[name] for name in wanted}
    losses = {level['level']: level['power_loss'] for level in told['levels']}
    print('doctor:', found, losses, flush=True)
    if found != wanted:
        sys.exit(f'FAILED: not {wanted}')
    run(TOOL, 'doctor', place)


def check_killed(kind, place):
    environment = {'LD_PRELOAD': LIBRARY, 'BARTENDER_ARENA': place, 'BARTENDER_DURABILITY': 'strict', 'BARTENDER_SIZE': '64M',
                   'BARTENDER_LOG': 'info'}
    for life in ('first', 'second'):
        run('/usr/bin/python3', '-c', VICTIM, life, environment=environment, wanted=-signal.SIGKILL)
        run(TOOL, 'check', place)
    strings = run(TOOL, 'salvage', place, '--strings', '--length', '30', quiet=True)
    for life in ('first', 'second'):
        count = strings.count(f'{MARK}{life}.')
        print(f'{count} blocks of the {life} life')
        if count < 50:
            sys.exit('FAILED: blocks are missing')


def commits(kind, *arguments):
    # The program's own arena takes addresses at random: with the default size, 64 GiB of 48 TiB, it would sometimes be in the way.
    return [COMMITS, f'{place_of(kind)}?durability=strict&size=64M', *arguments], {'LD_PRELOAD': LIBRARY, 'BARTENDER_LOG': 'info',
                                                                                   'BARTENDER_SIZE': '64M'}


def node():
    """A memory node whose store is a DAX device, and its environment for a client."""
    with open(os.open('/tmp/key', os.O_WRONLY | os.O_CREAT, 0o600), 'w') as file:
        file.write(bytes(range(32)).hex())
    store = place_of('node')
    daemon = subprocess.Popen([os.environ['BTD_BARTENDERD'], '--listen', f'{os.environ["BTD_VERBS_ADDRESS"]}:0', '--transport', 'verbs',
                               '--capacity', '32M', '--store', store, '--key-file', '/tmp/key', '--json'], stdout=subprocess.PIPE)
    told = json.loads(daemon.stdout.readline())
    print('node:', store, {name: told[name] for name in ('backend', 'durability', 'transports', 'extents')}, flush=True)
    if (told['backend'], told['durability'], told['transports']) != ('devdax', 'power', ['verbs']):
        sys.exit('FAILED: not a node on a DAX device')
    return daemon, told['address']


def end_node(daemon):
    """It must have registered its store, once it had a client."""
    daemon.terminate()
    events = daemon.communicate(timeout=60)[0].decode()
    print(*('node: ' + json.loads(line)['event'] for line in events.splitlines()), sep='\n', flush=True)
    if daemon.returncode != 0 or 'the store is registered with the network card' not in events:
        sys.exit(f'FAILED: status {daemon.returncode}, or the store was not registered')


def verbs_test(case, **environment):
    return [os.environ['BTD_VERBS_TEST'], f'--run_test={case}', '--log_level=error', '--color_output=no'], environment


def until_cut():
    prepare()
    run('mount', '-t', 'ext4', '-o', 'dax=always', '/dev/pmem0', MOUNT)
    print(run('ndctl', 'list', '-N', quiet=True), flush=True)
    for kind in ('fsdax', 'devdax'):
        place = place_of(kind)
        check_doctor(kind, place if kind == 'devdax' else MOUNT, None)
        check_killed(kind, place)
        check_doctor(kind, place, 'strict')
        for _ in range(3):
            command, environment = commits(kind, 'once')
            run(*command, environment=environment)
        command, environment = commits(kind, 'verify', '3')
        run(*command, environment=environment)

    def show(name, command, environment):
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **environment})
        for line in writer.stdout:
            print(f'{name}: {line.decode(errors="replace").rstrip()}', flush=True)

    writers = {kind: commits(kind, 'write') for kind in ('fsdax', 'devdax')}
    _, address = node()
    writers['node'] = verbs_test('writes_until_the_power_is_cut', BTD_NODE=address)
    threads = [threading.Thread(target=show, args=(name, *writer)) for name, writer in writers.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.exit('FAILED: nobody cut the power')


def after_cut():
    """BTD_TOLD: {'fsdax': commits, 'devdax': commits, 'node': writes} that were reported."""
    told = json.loads(os.environ['BTD_TOLD'])
    run('mount', '-t', 'ext4', '-o', 'dax=always', '/dev/pmem0', MOUNT)
    for kind in ('fsdax', 'devdax'):
        command, environment = commits(kind, 'verify', str(told[kind]))
        run(*command, environment=environment)
        run(TOOL, 'check', place_of(kind))
    daemon, address = node()
    for case in ('what_was_acknowledged_is_there', 'what_is_read_is_whole_while_it_is_written'):
        command, environment = verbs_test(case, BTD_NODE=address, BTD_TOLD=str(told['node']))
        run(*command, environment=environment)
    end_node(daemon)
    run('umount', MOUNT)


pathlib.Path(MOUNT).mkdir(parents=True, exist_ok=True)
{'until-cut': until_cut, 'after-cut': after_cut}[sys.argv[1]]()
