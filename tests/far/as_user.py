#!/usr/bin/python3
"""Runs a test driver as an ordinary user who has access to /dev/userfaultfd, and to nothing else that root has.

    as_user.py SCRIPT [FILE | @NAME | WORD ...]

Arguments that are files or directories are copied to where that user can read them; @NAME is passed on as NAME.  The device is one made in a
mount namespace of our own, over the machine's: whatever becomes of us, the machine's own is not touched.  Without root, or where such a namespace
cannot be had, a line says why and the status is 77: skipped.
"""

import os
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'preload'))
sys.dont_write_bytecode = True
import driver  # noqa: E402

USER = 65534
SKIPPED = 77
DEVICE = '/dev/userfaultfd'

# In a mount namespace of its own: a device node that all may use, over the machine's.  A file system made for it, since others may forbid devices.
SCRIPT = '''
set -e
mount -t tmpfs -o mode=755 bartender-test "$1/device"
mknod "$1/device/node" c "$2" "$3"
chmod 666 "$1/device/node"
mount --bind "$1/device/node" /dev/userfaultfd
user=$4
shift 4
exec setpriv --reuid="$user" --regid="$user" --clear-groups --no-new-privs --pdeathsig KILL "$@"
'''


def skip(why):
    print(f'skipped: an ordinary user with access to {DEVICE}: {why}')
    print('0 passed, 0 failed')
    sys.exit(SKIPPED)


def copied(place, argument):
    """The argument, or where the user can read it: a directory with all that is in it."""
    if argument.startswith('@') or not os.path.exists(argument):
        return argument.removeprefix('@')
    to = os.path.join(place, 'files', os.path.basename(argument.rstrip('/')))
    if os.path.isdir(argument):
        shutil.copytree(argument, to, ignore=lambda where, names: [name for name in names if name.endswith('.p') or name == '__pycache__'])
    else:
        shutil.copy(argument, to)
    return to


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    if not driver.ROOT:
        skip('only root can become one')
    if not os.path.exists(DEVICE):
        skip('the machine has no such device: Linux 6.1')
    missing = [tool for tool in ('unshare', 'setpriv', 'mount', 'mknod') if shutil.which(tool) is None]
    if missing:
        skip(f'{" and ".join(missing)} are not installed (package util-linux)')
    driver.stop_on_signals()
    place = driver.scratch_directory()
    os.chmod(place, 0o755)
    for name in ('files', 'device', 'home'):
        os.mkdir(os.path.join(place, name))
    # The driver, with those it imports, in the same places to each other.
    tests = os.path.dirname(HERE)
    for name in ('preload', 'node', 'far'):
        shutil.copytree(os.path.join(tests, name), os.path.join(place, 'tests', name), ignore=lambda where, names: ['programs', '__pycache__'])
    script = os.path.join(place, 'tests', os.path.relpath(os.path.abspath(sys.argv[1]), tests))
    arguments = [copied(place, argument) for argument in sys.argv[2:]]
    for name in ('tests', 'files'):
        subprocess.run(['chmod', '-R', 'a+rX', os.path.join(place, name)], check=True)
    os.chown(os.path.join(place, 'home'), USER, USER)
    device = os.stat(DEVICE).st_rdev
    prefix = ['unshare', '--mount', '--propagation', 'private', 'sh', '-c', SCRIPT, 'sh', place, str(os.major(device)), str(os.minor(device)),
              str(USER)]
    environment = dict(os.environ, HOME=os.path.join(place, 'home'))
    # One that opens the device, so that a machine which forbids any of this is told from a test that fails.
    probe = subprocess.run(prefix + ['sh', '-c', f'exec 3<>{DEVICE}'], env=environment, stderr=subprocess.PIPE, text=True, check=False)
    if probe.returncode != 0:
        skip(f'a mount namespace with the device cannot be had: {probe.stderr.strip()}')
    process = driver.start(prefix + ['/usr/bin/python3', script, *arguments], environment)
    try:
        sys.exit(process.wait())
    finally:
        driver.end_group(process)


if __name__ == '__main__':
    main()
