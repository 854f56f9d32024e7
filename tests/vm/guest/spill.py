"""In the guest: a real program whose data lies on two nodes that are reached by verbs alone, before and after one of them is killed."""

import json
import os
import signal
import subprocess
import sys
import tempfile

ADDRESS = os.environ['BTD_VERBS_ADDRESS']
PROGRAM = r'''
import hashlib, os, sys
def block(i):
    return bytearray(hashlib.sha256(str(i).encode()).digest() * 1500)  # 48,000 bytes
data = [block(i) for i in range(1200)]
print("filled", flush=True)
sys.stdin.readline()
for i in range(0, 1200, 3):
    data[i][100:132] = bytes(32)
wrong = 0
for i, one in enumerate(data):
    expected = block(i)
    if i % 3 == 0: expected[100:132] = bytes(32)
    wrong += one != expected
print("wrong", wrong, flush=True)
sys.stdin.readline()
wrong = sum(data[i] != block(i) for i in range(1, 1200, 3))
print("wrong", wrong, flush=True)
'''


def node(scratch, name, key):
    process = subprocess.Popen([os.environ['BTD_BARTENDERD'], '--listen', f'{ADDRESS}:0', '--transport', 'verbs', '--capacity', '128M',
                                '--store', f'{scratch}/{name}', '--key-file', key, '--json'], stdout=subprocess.PIPE)
    state = json.loads(process.stdout.readline())
    assert state['transports'] == ['verbs'], state
    return process, state['address']


def extents_of(address, key):
    told = subprocess.run([os.environ['BTD_BARTENDER'], 'node', address, '--key-file', key, '--json'], stdout=subprocess.PIPE, timeout=120,
                          check=True)
    state = json.loads(told.stdout)
    return sum(arena['extents'] for arena in state['arenas']), state


def main():
    with tempfile.TemporaryDirectory(dir='/dev/shm') as scratch:
        key = f'{scratch}/key'
        with open(os.open(key, os.O_WRONLY | os.O_CREAT, 0o600), 'w') as file:
            file.write(bytes(range(32)).hex())
        nodes = [node(scratch, name, key) for name in ('one', 'two')]
        environment = dict(os.environ, LD_PRELOAD=os.environ['BTD_LIBRARY'], BARTENDER_ARENA=f'{scratch}/arena', BARTENDER_SIZE='1G',
                           BARTENDER_NODES=','.join(address for _, address in nodes), BARTENDER_KEY_FILE=key, BARTENDER_NEAR='16M',
                           BARTENDER_THRESHOLD=sys.argv[1] if len(sys.argv) > 1 else '4096', BARTENDER_LOG='info')
        program = subprocess.Popen(['/usr/bin/python3', '-c', PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        wrong = []

        def expect(text):
            line = program.stdout.readline().decode().strip()
            print('program:', line, flush=True)
            if line != text:
                wrong.append(f'{line!r}, not {text!r}')

        def go_on():
            program.stdin.write(b'\n')
            program.stdin.flush()

        expect('filled')
        total = 0
        for _, address in nodes:
            extents, state = extents_of(address, key)
            print(address, extents, 'extents', state['transports'], flush=True)
            total += extents
            if extents < 100:
                wrong.append(f'{extents} extents on {address}')
        # Not all need have two replicas yet: the pager may have reached one node before the other.
        if total < 600:
            wrong.append(f'{total} extents on both')
        go_on()
        expect('wrong 0')
        nodes[0][0].send_signal(signal.SIGKILL)
        nodes[0][0].wait()
        go_on()
        expect('wrong 0')
        if program.wait(60) != 0:
            wrong.append(f'status {program.returncode}')
        nodes[1][0].terminate()
        if nodes[1][0].wait(60) != 0:
            wrong.append('the node was not drained')
        print('\n'.join(wrong) or 'good')
        return 1 if wrong else 0


sys.exit(main())
