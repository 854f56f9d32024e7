#!/usr/bin/python3
"""Scenes in a guest under one of Debian's kernels: verbs, spill, power, dax, window.  Skipped (status 77) where no guest can be had.

    vm_test.py SCENE --kernel 6.12 --build DIRECTORY --bartenderd FILE --bartender FILE --library FILE --verbs FILE --commits FILE

What the guest says is shown with "| " in front.
"""

import argparse
import os
import pathlib
import shlex
import sys
import tempfile
import time

import kernel
from guest import Guest

HERE = pathlib.Path(__file__).resolve().parent
SKIPPED = 77


class Failed(Exception):
    pass


def script(options, name, *arguments):
    """A file of guest/, with what it needs in its environment."""
    environment = {'BTD_BARTENDERD': options.bartenderd, 'BTD_BARTENDER': options.bartender, 'BTD_LIBRARY': options.library,
                   'BTD_VERBS_TEST': options.verbs, 'BTD_COMMITS': options.commits, 'BTD_BUILD': options.build, 'BTD_GUEST': HERE / 'guest'}
    lines = [f'export {key}={shlex.quote(str(value))}' for key, value in environment.items()]
    shell = 'sh' if name.endswith('.sh') else 'python3'
    return '\n'.join([*lines, ' '.join(['exec', shell, shlex.quote(str(HERE / 'guest' / name)), *map(shlex.quote, arguments)]), ''])


def check(guest):
    status = guest.status()
    if status != 0:
        raise Failed('the guest ended without a status' if status is None else f'status {status} in the guest')


def verbs(options):
    with Guest(options.kernel, ['rdma'], script(options, 'verbs.sh', 'test'), limit_s=options.limit) as guest:
        check(guest)


def spill(options):
    with Guest(options.kernel, ['rdma'], script(options, 'verbs.sh', 'spill'), limit_s=options.limit) as guest:
        check(guest)


def power(options):
    """Two machines with a wire between them; the plug of the node's is pulled."""
    with tempfile.TemporaryDirectory(prefix='bartender-wire-') as scratch:
        wire = os.path.join(scratch, 'wire')
        # One processor each: QEMU 7.2 emulating two sometimes lets a kernel see its own code half patched (int3 at boot).
        arguments = {'cpus': 1, 'modules': ['wire', 'rdma'], 'limit_s': options.limit, 'memory_mib': 512}
        with Guest(options.kernel, script=script(options, 'verbs.sh', 'node'), wire=(wire, 1), name='node ', **arguments) as node:
            if not node.wait_for('listening at 10.9.0.1:7070'):
                raise Failed('no node')
            with Guest(options.kernel, script=script(options, 'verbs.sh', 'client'), wire=(wire, 2), name='client ', **arguments) as client:
                if not client.wait_for('^reading$'):
                    raise Failed('the client did not get through')
                node.kill()
                check(client)


def window(options):
    with Guest(options.kernel, [], script(options, 'window.sh'), limit_s=options.limit) as guest:
        check(guest)


def dax(options):
    """Set up, use, kill -9 a program; then pull the plug on one that commits; then look at what is there."""
    with tempfile.NamedTemporaryFile(prefix='bartender-nvdimm-') as image:
        image.truncate(512 << 20)
        nvdimm = (image.name, 512 << 20)
        with Guest(options.kernel, ['pmem'], script(options, 'dax.py', 'first'), pmem=nvdimm, limit_s=options.limit) as guest:
            check(guest)
        for place in ('fsdax', 'devdax'):
            with Guest(options.kernel, ['pmem'], script(options, 'dax.py', 'commit', place), pmem=nvdimm, limit_s=options.limit) as guest:
                # Well into it: the numbers are of commits that have returned.
                if not guest.wait_for(r'^committed 20000\n'):
                    raise Failed(f'{place}: the program committed nothing')
                guest.kill()
                told = max(int(line.split()[1]) for line in guest.console.splitlines() if line.startswith('committed '))
            with Guest(options.kernel, ['pmem'], script(options, 'dax.py', 'verify', place, str(told)), pmem=nvdimm,
                       limit_s=options.limit) as guest:
                check(guest)


SCENES = {'verbs': verbs, 'spill': spill, 'power': power, 'dax': dax, 'window': window}


def main():
    sys.stdout.reconfigure(line_buffering=True)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('scene', choices=SCENES)
    parser.add_argument('--kernel', choices=kernel.META, default='6.12')
    parser.add_argument('--limit', type=int, default=280, metavar='SECONDS', help='for each guest')
    for name in ('build', 'bartenderd', 'bartender', 'library', 'verbs', 'commits'):
        parser.add_argument('--' + name, type=os.path.abspath, required=True)
    options = parser.parse_args()
    began = time.monotonic()
    try:
        SCENES[options.scene](options)
    except kernel.CannotBeHad as why:
        print(f'skipped: {options.scene}: {why}')
        return SKIPPED
    except Failed as why:
        print(f'FAILED: {options.scene} on {options.kernel}: {why}')
        return 1
    print(f'{options.scene} on {options.kernel}: good, {time.monotonic() - began:.0f} s')
    return 0


if __name__ == '__main__':
    sys.exit(main())
