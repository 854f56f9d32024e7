#!/usr/bin/python3
"""Scenes in a guest under one of Debian's kernels: verbs, spill, power, dax, window.  Skipped (status 77) where no guest can be had.

    vm_test.py SCENE [--quick] --kernel 6.12 --build DIRECTORY --bartenderd FILE --bartender FILE --library FILE --verbs FILE --commits FILE

What the guest says is shown after the seconds since it was started.
"""

import argparse
import json
import os
import pathlib
import re
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


def script(options, name, *arguments, **environment):
    """A file of guest/, with what it needs in its environment."""
    environment |= {'BTD_BARTENDERD': options.bartenderd, 'BTD_BARTENDER': options.bartender, 'BTD_LIBRARY': options.library,
                    'BTD_VERBS_TEST': options.verbs, 'BTD_COMMITS': options.commits, 'BTD_BUILD': options.build, 'BTD_GUEST': HERE / 'guest'}
    lines = [f'export {key}={shlex.quote(str(value))}' for key, value in environment.items()]
    return '\n'.join([*lines, ' '.join(['exec sh', shlex.quote(str(HERE / 'guest' / name)), *map(shlex.quote, arguments)]), ''])


def check(guest):
    status = guest.status()
    if status != 0:
        raise Failed('the guest ended without a status' if status is None else f'status {status} in the guest')


def verbs(options):
    words = ['quick-test' if options.quick else 'test']
    with Guest(options.kernel, ['rdma'], script(options, 'verbs.sh', *words), limit_s=options.limit) as guest:
        check(guest)


def spill(options):
    with Guest(options.kernel, ['rdma'], script(options, 'verbs.sh', 'large-blocks', 'all-blocks'), limit_s=options.limit) as guest:
        check(guest)


def power(options):
    """Two machines with a wire between them; the plug of the node's is pulled."""
    with tempfile.TemporaryDirectory(prefix='bartender-wire-') as scratch:
        wire = os.path.join(scratch, 'wire')
        arguments = {'modules': ['wire', 'rdma'], 'limit_s': options.limit, 'memory_mib': 512}
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


# What the writers must have reported, well into it, before the plug is pulled: commits and writes that have returned.
LEAST = {'fsdax': ('committed', 10000), 'devdax': ('committed', 10000), 'node': ('acknowledged', 960)}


def dax(options):
    """Set up, use, kill -9 programs; then pull the plug on an arena on each kind of DAX and on a memory node while all are written to;
    then look at what is there."""
    with tempfile.NamedTemporaryFile(prefix='bartender-nvdimm-') as image:
        image.truncate(512 << 20)
        arguments = {'modules': ['pmem', 'rdma'], 'pmem': (image.name, 512 << 20), 'limit_s': options.limit}
        words = (['large-blocks'] if options.quick else []) + ['dax-until-cut']
        with Guest(options.kernel, script=script(options, 'verbs.sh', *words), **arguments) as guest:
            for name, (word, least) in LEAST.items():
                if not guest.wait_for(f'^{name}: {word} {least}\n'):
                    raise Failed(f'{name}: nothing was {word}')
            guest.kill()
            told = {name: max(map(int, re.findall(rf'^{name}: {word} (\d+)\n', guest.console, re.M))) for name, (word, _) in LEAST.items()}
        print('the power is cut;', told)
        with Guest(options.kernel, script=script(options, 'verbs.sh', 'dax-after-cut', BTD_TOLD=json.dumps(told)), **arguments) as guest:
            check(guest)


SCENES = {'verbs': verbs, 'spill': spill, 'power': power, 'dax': dax, 'window': window}


def main():
    sys.stdout.reconfigure(line_buffering=True)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('scene', choices=SCENES)
    parser.add_argument('--kernel', choices=kernel.META, default='6.12')
    parser.add_argument('--quick', action='store_true', help='what tells most in the least time')
    parser.add_argument('--limit', type=int, default=400, metavar='SECONDS', help='for each guest')
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
