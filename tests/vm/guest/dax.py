"""In the guest, with an NVDIMM: an arena on a file with DAX and on a DAX device.

    dax.py first | commit fsdax|devdax | verify fsdax|devdax COMMITTED
"""

import glob
import json
import os
import pathlib
import signal
import subprocess
import sys

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
    # A label area of zeros makes one namespace in raw mode, without DAX: labels first, then two namespaces.
    run('ndctl', 'disable-region', 'all')
    run('ndctl', 'init-labels', 'all')
    run('ndctl', 'enable-region', 'all')
    run('ndctl', 'create-namespace', '-m', 'fsdax', '-s', '256M', '-f', '--map=mem', quiet=True)
    run('ndctl', 'create-namespace', '-m', 'devdax', '-s', '128M', '-f', '--map=mem', quiet=True)
    run('mkfs.ext4', '-q', '-b', '4096', '-F', '/dev/pmem0')


def place_of(kind):
    return f'{MOUNT}/one.arena' if kind == 'fsdax' else glob.glob('/dev/dax*')[0]


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
    return [COMMITS, f'{place_of(kind)}?durability=strict&size=64M', *arguments], {'LD_PRELOAD': LIBRARY, 'BARTENDER_LOG': 'info'}


def main():
    what = sys.argv[1]
    if what == 'first':
        prepare()
    pathlib.Path(MOUNT).mkdir(parents=True, exist_ok=True)
    run('mount', '-t', 'ext4', '-o', 'dax=always', '/dev/pmem0', MOUNT)
    print(run('ndctl', 'list', '-N', quiet=True) if what == 'first' else '', flush=True)
    if what == 'first':
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
        run('umount', MOUNT)
        return 0
    command, environment = commits(sys.argv[2], *(['write'] if what == 'commit' else ['verify', sys.argv[3]]))
    if what == 'commit':
        os.execve(command[0], command, {**os.environ, **environment})
    run(*command, environment=environment)
    run(TOOL, 'check', place_of(sys.argv[2]))
    run('umount', MOUNT)
    return 0


sys.exit(main())
