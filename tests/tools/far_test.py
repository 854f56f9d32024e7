#!/usr/bin/python3
"""The bartender command and arenas with far memory: what lies on memory nodes is delivered as it was, or said to be missing, never as zeros.

far_test.py BARTENDER LIBRARY BARTENDERD [unittest arguments]

A program fills an arena whose near part is too small for it, over two memory nodes on loopback, and is killed.
"""

import ctypes
import hashlib
import json
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "node"))
from protocol import crc32c  # noqa: E402

BARTENDER = LIBRARY = BARTENDERD = None
TIME_LIMIT_S = 60
KEY = bytes(range(32))
SEAL_KEY = bytes(range(50, 82))
BLOCK_BYTES = 1 << 20
BLOCK_COUNT = 64

# Blocks of 1 MiB whose bytes follow from their number, which is in the first 8 of them.
PROGRAM = f"""
import hashlib, os, signal, sys
blocks = []
for i in range({BLOCK_COUNT}):
    block = bytearray({BLOCK_BYTES})
    block[:] = hashlib.shake_128(i.to_bytes(8, "little")).digest({BLOCK_BYTES})
    block[:8] = i.to_bytes(8, "little")
    blocks.append(block)
print("ready", flush=True)
sys.stdin.readline()
"""


# A chain of small and large blocks from a root, in random order, and as many that only point into it.  A large one's number is behind
# the link; each eighth also holds an address that no later process will have anything at.
LINKED = 32
SMALL_PER_LINK = 50
CHAIN = f"""
import ctypes, random, sys
lib = ctypes.CDLL(None)
lib.btd_cluster_create.restype = lib.btd_malloc.restype = ctypes.c_void_p
lib.btd_malloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
lib.btd_root_set.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
cluster = lib.btd_cluster_create(None)
def make(size, data=b""):
    block = lib.btd_malloc(cluster, size)
    assert block
    ctypes.memset(block, 0, size)
    ctypes.memmove(block + 8, data, len(data))
    return block
kept, leaked = [], []
for i in range({LINKED}):
    volatile = (0x7f1200000000 + i if i % 8 == 0 else 0).to_bytes(8, "little")
    for blocks, name in ((kept, b"kept"), (leaked, b"leak")):
        blocks.append(make({BLOCK_BYTES}, name * 2 + i.to_bytes(8, "little") + volatile + bytes([255]) * ({BLOCK_BYTES} - 40)))
        blocks += [make(1000) for _ in range({SMALL_PER_LINK})]
random.Random(1).shuffle(kept)
for block, link in zip(kept + leaked, [0] + kept + kept):
    ctypes.c_uint64.from_address(block).value = link
assert lib.btd_root_set(cluster, b"chain", kept[-1]) == 0
print("ready", flush=True)
sys.stdin.readline()
"""


def expected(number):
    return number.to_bytes(8, "little") + hashlib.shake_128(number.to_bytes(8, "little")).digest(BLOCK_BYTES)[8:]


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def line_of(process):
    ready, _, _ = select.select([process.stdout], [], [], TIME_LIMIT_S)
    line = process.stdout.readline() if ready else b""
    if not line:
        process.kill()
        raise AssertionError((process.communicate(), process.returncode))
    return line


class Daemon:
    def __init__(self, store, key_file, address="127.0.0.1:0"):
        self.process = subprocess.Popen([BARTENDERD, "--json", "--listen", address, "--store", store, "--capacity", "256M",
                                         "--key-file", key_file, "--transport", "tcp"],
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=die_with_parent)
        self.address = json.loads(line_of(self.process))["address"]

    def kill(self):
        self.process.kill()
        self.process.wait(TIME_LIMIT_S)
        self.process.stdout.close()


class Case(unittest.TestCase):
    is_sealed = False

    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="bartender-far-", dir="/dev/shm")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.key_file = self.key("key", KEY)
        self.seal_key_file = self.key("seal", SEAL_KEY)
        self.clean = {name: value for name, value in os.environ.items() if not name.startswith("BARTENDER_") and name != "LD_PRELOAD"}
        self.clean["HOME"] = self.directory
        self.daemons = [self.daemon(i) for i in range(2)]

    def key(self, name, data):
        path = self.path(name)
        with open(path, "w") as file:
            file.write(data.hex() + "\n")
        os.chmod(path, 0o600)
        return path

    def path(self, name):
        return os.path.join(self.directory, name)

    def daemon(self, index, address="127.0.0.1:0"):
        daemon = Daemon(self.path(f"store{index}"), self.key_file, address)
        self.addCleanup(daemon.kill)
        return daemon

    @property
    def nodes(self):
        return ",".join(daemon.address for daemon in self.daemons)

    @property
    def with_nodes(self):
        environment = dict(self.clean, BARTENDER_NODES=self.nodes, BARTENDER_KEY_FILE=self.key_file)
        if self.is_sealed:
            environment["BARTENDER_SEAL_KEY_FILE"] = self.seal_key_file
        return environment

    def start(self, arena=None, source=PROGRAM, **settings):
        """A program that has filled its arena, most of it far."""
        self.arena = arena or self.path("a.arena")
        environment = dict(self.with_nodes, LD_PRELOAD=LIBRARY, BARTENDER_ARENA=self.arena, BARTENDER_NEAR="16M",
                           BARTENDER_THRESHOLD="64K", BARTENDER_SIZE="256M", PYTHONMALLOC="malloc", **settings)
        program = subprocess.Popen(["/usr/bin/python3", "-c", source], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=self.stderr_file(), preexec_fn=die_with_parent)
        self.addCleanup(self.end, program)
        self.assertEqual(line_of(program), b"ready\n")
        return program

    def stderr_file(self):
        file = open(self.path("stderr"), "wb")
        self.addCleanup(file.close)
        return file

    def end(self, program):
        program.kill()
        program.wait(TIME_LIMIT_S)
        program.stdin.close()
        program.stdout.close()

    def dead_arena(self, **settings):
        self.end(self.start(**settings))

    def stores(self):
        """What the nodes say of the arena, and how many clients they have turned away."""
        states = [json.loads(self.run_tool("node", daemon.address, "--key-file", self.key_file, "--json").stdout) for daemon in self.daemons]
        return [(state["fenced"], state["writes"], state["releases"], [(a["uuid"], a["epoch"], a["extents"], a["state"]) for a in state["arenas"]])
                for state in states]

    def flip_bytes(self, name):
        """One of each extent that the store has."""
        with open(self.path(name), "r+b") as file:
            file.seek(32)
            count, _, data = struct.unpack("<QQQ", file.read(24))
            for slot in range(count):
                file.seek(data + 65536 * slot + 1234)
                byte = file.read(1)
                file.seek(-1, 1)
                file.write(bytes([byte[0] ^ 0x10]))

    def age(self):
        """The arena's last owner died in another boot."""
        with open(self.arena, "r+b") as file:
            header = bytearray(file.read(4096))
            header[176:192] = b"another boot id!"
            header[4092:] = struct.pack("<I", crc32c(header[:4092]) ^ 0xFFFFFFFF)
            file.seek(0)
            file.write(header + header)

    def window_file(self):
        found = [name for name in os.listdir(self.directory) if name.endswith(".far")]
        self.assertEqual(len(found), 1, found)
        return self.path(found[0])

    def run_tool(self, *arguments, status=0, env=None):
        result = subprocess.run([BARTENDER, *map(str, arguments)], capture_output=True, env=env or self.with_nodes, timeout=TIME_LIMIT_S,
                                preexec_fn=die_with_parent)
        self.assertEqual(result.returncode, status, (arguments, result.stdout[-2000:], result.stderr))
        return result

    def tool_json(self, *arguments, **options):
        return json.loads(self.run_tool(*arguments, "--json", **options).stdout)

    def blocks(self, **options):
        """Ids of the program's blocks."""
        found = [block for block in self.tool_json("salvage", self.arena, "--min-size", "1M", **options)["blocks"]
                 if block["size_bytes"] < 2 * BLOCK_BYTES]
        self.assertGreaterEqual(len(found), BLOCK_COUNT)
        return found

    def export(self, block, status=0, **options):
        """The block's bytes; None: it was not exported."""
        output = self.path("block")
        if os.path.exists(output):
            os.unlink(output)
        self.run_tool("salvage", self.arena, "--id", block["id"], "--output", output, status=status, **options)
        if status != 0:
            self.assertFalse(os.path.exists(output))
            return None
        with open(output, "rb") as file:
            return file.read()

    def assert_whole(self, data, seen):
        number = int.from_bytes(data[:8], "little")
        if number < BLOCK_COUNT and data[:BLOCK_BYTES] == expected(number):
            seen.add(number)
        else:
            self.fail(f"a block of {len(data)} bytes that begins with {data[:16].hex()} is none that the program made")

    def assert_all_delivered(self, **options):
        seen = set()
        for block in self.blocks(**options):
            self.assert_whole(self.export(block, **options), seen)
        self.assertEqual(len(seen), BLOCK_COUNT)


class Salvage(Case):
    def test_every_block_is_delivered_as_it_was(self):
        self.dead_arena()
        before = self.stores()
        self.assert_all_delivered()
        self.assertEqual(self.stores(), before)  # nobody was fenced, nothing was marked

    def test_options_do_what_the_environment_does_and_the_order_of_nodes_is_of_no_account(self):
        self.dead_arena()
        block = next(block for block in self.blocks() if block["where"] == "far")
        nodes = ",".join(reversed(self.nodes.split(",")))
        output = self.path("block")
        options = ["--nodes", nodes, "--key-file", self.key_file]
        self.run_tool("salvage", self.arena, "--id", block["id"], "--output", output, *options, env=self.clean)
        with open(output, "rb") as file:
            self.assert_whole(file.read(), set())

    def test_sealed_blocks_need_their_key(self):
        self.is_sealed = True
        self.dead_arena()
        self.assert_all_delivered()
        block = next(block for block in self.blocks() if block["where"] == "far")
        self.is_sealed = False
        self.assertIsNone(self.export(block, status=5))

    def test_without_nodes_what_is_near_is_delivered_and_the_rest_is_named(self):
        self.dead_arena()
        blocks = self.blocks(status=5, env=self.clean)
        kinds = {(block["where"], block["fault"]) for block in blocks}
        self.assertEqual(kinds, {("near", None), ("far", "no-nodes")})
        seen = set()
        for block in blocks:
            if block["fault"] is None:
                self.assert_whole(self.export(block, env=self.clean), seen)
            else:
                self.assertIsNone(self.export(block, status=5, env=self.clean))
        self.assertGreater(len(seen), 4)
        self.assertLess(len(seen), BLOCK_COUNT // 2)
        result = self.run_tool("salvage", self.arena, "--strings", "--length", "1000", status=5, env=self.clean)
        self.assertEqual(result.stderr.count(b"\n"), 1)
        self.assertIn(b"--nodes", result.stderr)
        listed = self.run_tool("salvage", self.arena, "--min-size", "1M", status=5, env=self.clean).stdout.decode()
        self.assertIn("far: no-nodes", listed)

    def test_either_node_is_enough_and_without_both_nothing_is_made_up(self):
        self.dead_arena()
        address = self.daemons[0].address
        self.daemons[0].kill()
        self.assert_all_delivered()
        self.daemons[0] = self.daemon(0, address)
        address = self.daemons[1].address
        self.daemons[1].kill()
        self.assert_all_delivered()
        self.daemons[0].kill()
        block = next(block for block in self.blocks(status=5) if block["where"] == "far")
        self.assertEqual(block["fault"], "node-away")
        self.assertIsNone(self.export(block, status=5))

    def test_flipped_bytes_come_from_the_other_node_or_not_at_all(self):
        self.dead_arena()
        self.flip_bytes("store0")
        self.assert_all_delivered()
        self.flip_bytes("store1")
        block = next(block for block in self.blocks() if block["where"] == "far")
        self.assertIsNone(self.export(block, status=5))
        result = subprocess.run([BARTENDER, "salvage", self.arena, "--id", str(block["id"]), "--output", "-"], capture_output=True,
                                env=self.with_nodes)
        self.assertEqual(result.returncode, 5)
        self.assertTrue(expected(int.from_bytes(result.stdout[:8], "little")).startswith(result.stdout) if result.stdout else True)

    def test_without_the_windows_file_nodes_are_not_believed(self):
        self.dead_arena()
        os.rename(self.window_file(), self.path("elsewhere"))
        faults = {block["fault"] for block in self.blocks(status=5)}
        self.assertEqual(faults, {None, "file-gone"})

    def test_of_a_machine_that_died_the_nodes_are_believed(self):
        self.dead_arena()
        os.unlink(self.window_file())
        self.age()
        blocks = self.blocks(status=5)
        self.assertEqual({block["fault"] for block in blocks}, {None, "lost"})
        # What was evicted before it was written to for the last time is older, which nobody can tell; so it is said of all.
        self.assertEqual({(block["where"], block["may_be_older"]) for block in blocks}, {("near", False), ("far", True)})
        whole = 0
        for block in blocks:
            data = self.export(block, status=0 if block["fault"] is None else 5)
            whole += data is not None and data[:BLOCK_BYTES] == expected(data[0])
        self.assertGreater(whole, BLOCK_COUNT // 2)
        self.assertIn(b"may be older", self.run_tool("salvage", self.arena, status=5).stderr)
        self.daemons[0].kill()  # the other one has a copy of each
        self.assertEqual(self.blocks(status=5), blocks)
        self.daemons[1].kill()
        self.assertEqual({block["fault"] for block in self.blocks(status=5)}, {None, "node-away"})

    def test_a_live_program_is_read_without_disturbing_it(self):
        program = self.start()
        before = self.stores()
        self.assert_all_delivered()
        self.assertEqual(self.stores(), before)
        program.stdin.write(b"\n")
        program.stdin.flush()
        self.assertEqual(program.wait(TIME_LIMIT_S), 0)


class CheckAndInfo(Case):
    def check(self, status=0, **options):
        return self.tool_json("check", self.arena, status=status, **options)["far"]

    def test_replicas_are_counted(self):
        self.dead_arena()
        far = self.check()
        self.assertEqual((far["result"], far["replicas"], far["findings"]), ("clean", 2, []))
        self.assertGreater(far["extents"], 40 * 16)
        self.assertEqual(far["extents_by_copies"][2], far["extents"])
        self.assertIn("clean", self.run_tool("check", self.arena).stdout.decode())

        # All that the first node has goes bad, then the copies too.
        self.flip_bytes("store0")
        bad = self.check(status=5)
        self.assertEqual((bad["result"], {f["fault"] for f in bad["findings"]}), ("degraded", {"bad-copy"}))
        self.assertEqual(len(bad["findings"]), far["extents"])
        self.flip_bytes("store1")
        lost = self.check(status=2)
        self.assertEqual((lost["result"], {(f["fault"], f["why"]) for f in lost["findings"]}), ("damaged", {("lost", "corrupt")}))
        self.flip_bytes("store0")
        self.flip_bytes("store1")
        self.assertEqual(self.check(), far)

    def test_a_node_that_is_gone_leaves_few_copies_and_both_leave_nothing_verified(self):
        self.dead_arena()
        extents = self.check()["extents"]
        self.daemons[1].kill()
        far = self.check(status=5)
        self.assertEqual((far["result"], len(far["findings"])), ("degraded", extents))
        self.assertEqual({(f["fault"], f["copies"]) for f in far["findings"]}, {("few-copies", 1)})
        self.assertEqual([node["reachable"] for node in far["nodes"]], [True, False])
        self.daemons[0].kill()
        far = self.check(status=5)
        self.assertEqual({(f["fault"], f["why"]) for f in far["findings"]}, {("unverified", "node-away")})
        far = self.check(status=5, env=self.clean)
        self.assertEqual({(f["fault"], f["why"]) for f in far["findings"]}, {("unverified", "no-nodes")})
        self.assertIn("unverified", self.run_tool("check", self.arena, status=5, env=self.clean).stdout.decode())

    def test_a_node_that_has_lost_its_store_is_found_out(self):
        self.dead_arena()
        extents = self.check()["extents"]
        address = self.daemons[0].address
        self.daemons[0].kill()
        os.unlink(self.path("store0"))
        self.daemons[0] = self.daemon(0, address)
        far = self.check(status=5)
        self.assertEqual(len(far["findings"]), extents)
        address = self.daemons[1].address
        self.daemons[1].kill()
        os.unlink(self.path("store1"))
        self.daemons[1] = self.daemon(1, address)
        far = self.check(status=2)
        self.assertEqual({(f["fault"], f["why"]) for f in far["findings"]}, {("lost", "lost")})

    def test_info_tells_where_far_memory_is(self):
        self.dead_arena()
        far = self.tool_json("info", self.arena)["far"]
        self.assertGreater(far["used_bytes"], 40 << 20)
        self.assertGreater(far["far_bytes"], 40 << 20)
        self.assertGreater(far["near_bytes"], 1 << 20)
        self.assertEqual((far["window_file"], far["window_file_good"], far["unknown_bytes"]), (self.window_file(), True, 0))
        self.assertGreaterEqual(far["window_file_bytes"], far["near_bytes"])
        self.assertEqual(sum(node["extents"] for node in far["nodes"]), sum(arena[2] for state in self.stores() for arena in state[3]))
        listed = self.tool_json("ls", self.arena, env=self.clean)["arenas"][0]["far"]
        self.assertEqual(listed.pop("nodes"), [])
        self.assertEqual(listed, {name: value for name, value in far.items() if name != "nodes"})
        text = self.run_tool("ls", self.arena, env=self.clean).stdout.decode()
        column = text.splitlines()[0].index("FAR") + 3
        self.assertRegex(text.splitlines()[1][:column], r"[4-6]\d\.\d MiB$")
        text = self.run_tool("info", self.arena).stdout.decode()
        self.assertIn(self.daemons[0].address, text)
        self.assertIn("on nodes", self.run_tool("info", self.arena, env=self.clean).stdout.decode())


class Rewrite(Case):
    """Bad copies on nodes are written again by check --repair, from good ones, and by nobody else."""

    def check(self, *arguments, status=0, **options):
        return self.tool_json("check", self.arena, *arguments, status=status, **options)["far"]

    def flip_some(self, name, wanted):
        """A byte in each of the first `wanted` slots that are in use, be it by an extent that is near again."""
        with open(self.path(name), "r+b") as file:
            file.seek(32)
            _, headers, data = struct.unpack("<QQQ", file.read(24))
            slot = 0
            while wanted:
                file.seek(headers + slot * 128)
                if any(file.read(8)):
                    file.seek(data + 65536 * slot + 1234)
                    byte = file.read(1)
                    file.seek(-1, 1)
                    file.write(bytes([byte[0] ^ 0x10]))
                    wanted -= 1
                slot += 1

    def test_bad_copies_are_rewritten_and_only_when_asked(self):
        self.dead_arena()
        clean = self.check()
        self.flip_some("store0", 20)
        flipped = self.stores()
        bad = self.check(status=5)
        count = len(bad["findings"])
        self.assertGreater(count, 3)
        self.assertEqual([finding["fault"] for finding in bad["findings"]], ["bad-copy"] * count)
        self.assertIn("check --repair", self.run_tool("check", self.arena, status=5).stdout.decode())
        self.assertEqual(self.stores(), flipped)
        self.assertEqual(bad["rewritten_copies"], 0)
        mended = self.check("--repair", status=1)
        self.assertEqual(mended.pop("rewritten_copies"), count)
        clean.pop("rewritten_copies")
        self.assertEqual(mended, clean)
        # So many were let go and written there, and the other node has seen nobody.
        (_, writes, releases, _), other = self.stores()
        self.assertEqual((writes - flipped[0][1], releases - flipped[0][2]), (count, count))
        self.assertEqual(other, flipped[1])
        self.flip_bytes("store1")  # all that it has is bad now
        self.assert_all_delivered()

    def test_the_only_good_copies_stay_and_where_none_is_left_nothing_is_changed(self):
        self.dead_arena()
        self.flip_bytes("store0")
        self.flip_some("store1", 20)
        before = self.stores()
        lost = self.check(status=2)
        count = sum(finding["fault"] == "lost" for finding in lost["findings"])
        self.assertGreater(count, 3)
        left = self.check("--repair", status=2)
        self.assertEqual([finding["fault"] for finding in left["findings"]], ["lost"] * count)
        self.assertEqual(left["rewritten_copies"], lost["extents"] - count)
        self.assertEqual(self.stores()[1], before[1])
        self.flip_some("store1", 20)  # as they were
        self.assertEqual([finding["fault"] for finding in self.check(status=5)["findings"]], ["bad-copy"] * count)
        self.assertEqual(self.check("--repair", status=1)["findings"], [])
        self.assert_all_delivered()

    def test_what_a_new_node_lacks_is_copied_there(self):
        self.is_sealed = True
        self.dead_arena()
        self.daemons[0].kill()
        os.unlink(self.path("store0"))
        self.daemons[0] = self.daemon(0)
        far = self.check("--repair", status=1)
        self.assertEqual((far["result"], far["rewritten_copies"]), ("clean", far["extents"]))
        self.daemons[1].kill()
        self.assert_all_delivered()

    def test_a_program_that_runs_is_left_alone(self):
        program = self.start()
        self.flip_some("store0", 2)
        before = self.stores()
        self.run_tool("check", self.arena, "--repair", status=3)
        self.assertEqual(self.stores()[0][0], before[0][0])
        self.end(program)


class Collect(Case):
    """Pointers are followed through far memory, by those who only read and by the collector."""

    REACHED = LINKED * (1 + SMALL_PER_LINK)

    def setUp(self):
        super().setUp()
        self.dead_arena(source=CHAIN)
        self.few = dict(self.with_nodes, BARTENDER_NEAR="4M")  # far less than there is

    def everything(self):
        """The arena's file, the window's and what nodes have."""
        return self.files(), self.stores()

    def files(self):
        """What is in the arena's file and the window's, where they have no holes."""
        digests = []
        for path in (self.arena, self.window_file()):
            digest = hashlib.sha256()
            with open(path, "rb") as file:
                begin = end = 0
                while True:
                    try:
                        begin = os.lseek(file.fileno(), end, os.SEEK_DATA)
                    except OSError:
                        break
                    end = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
                    digest.update(b"%d-%d" % (begin, end) + os.pread(file.fileno(), end - begin, begin))
            digests.append(digest.hexdigest())
        return digests

    def kept(self):
        """Numbers of the large blocks of the chain that salvage delivers whole, and of the others."""
        numbers = {b"kept": [], b"leak": []}
        for block in self.tool_json("salvage", self.arena, "--min-size", "1M")["blocks"]:
            data = self.export(block)
            kind, number = data[8:12], int.from_bytes(data[16:24], "little")
            if kind not in numbers or data[8:16] != kind * 2 or number >= LINKED:
                continue
            self.assertEqual(data[32:BLOCK_BYTES - 40], b"\xff" * (BLOCK_BYTES - 72))
            numbers[kind].append(number)
        return sorted(numbers[b"kept"]), sorted(numbers[b"leak"])

    def test_a_dry_run_follows_all_and_changes_nothing(self):
        before = self.everything()
        for environment in (self.with_nodes, self.few):
            told = self.tool_json("gc", self.arena, "--dry-run", env=environment)
            self.assertEqual(told["reachable_blocks"], self.REACHED)
            self.assertGreaterEqual(told["freed_blocks"], self.REACHED)
        self.assertEqual(self.everything(), before)

    def test_volatile_pointers_are_found_in_far_blocks(self):
        before = self.everything()
        document = self.tool_json("check", self.arena, "--pointers", env=self.few)
        self.assertEqual(document["reachable_blocks"], self.REACHED)
        self.assertEqual(sorted(int(found["value"], 16) for found in document["volatile_pointers"]),
                         [0x7f1200000000 + i for i in range(0, LINKED, 8)])
        self.assertEqual({found["offset"] for found in document["volatile_pointers"]}, {24})
        self.assertEqual(self.everything(), before)

    def test_a_run_frees_what_no_root_leads_to_here_and_on_the_nodes(self):
        told = self.tool_json("gc", self.arena, "--dry-run")
        extents = self.tool_json("info", self.arena)["far"]["used_bytes"]
        done = self.tool_json("gc", self.arena, env=self.few)
        for name in ("reachable_blocks", "reachable_bytes", "freed_blocks", "freed_bytes"):
            self.assertEqual(done[name], told[name], name)
        self.assertEqual(self.kept(), (list(range(LINKED)), []))
        info = self.tool_json("info", self.arena)
        self.assertEqual((info["live_blocks"], info["state"]), (self.REACHED, "clean"))
        self.assertLess(info["far"]["used_bytes"], extents * 3 // 4)
        self.assertEqual(self.tool_json("check", self.arena)["result"], "clean")
        again = self.tool_json("gc", self.arena)
        self.assertEqual((again["reachable_blocks"], again["freed_blocks"]), (self.REACHED, 0))

    def test_what_cannot_be_read_stops_it_before_anything_is_changed(self):
        for daemon in self.daemons:
            daemon.kill()
        before = self.files()
        for environment, hint in ((self.with_nodes, b"start bartenderd"), (self.clean, b"--nodes")):
            for arguments in (("gc", self.arena), ("gc", self.arena, "--dry-run"), ("check", self.arena, "--pointers")):
                result = self.run_tool(*arguments, status=5, env=environment)
                self.assertIn(hint, result.stderr)
                self.assertEqual(result.stderr.count(b"\n"), 1, result.stderr)
        self.assertEqual(self.files(), before)

    def test_one_node_is_enough(self):
        self.daemons[0].kill()
        self.assertEqual(self.tool_json("gc", self.arena, "--dry-run")["reachable_blocks"], self.REACHED)
        self.assertEqual(self.tool_json("gc", self.arena)["reachable_blocks"], self.REACHED)
        self.assertEqual(self.kept(), (list(range(LINKED)), []))


class Healing(Case):
    def test_a_dead_nodes_extents_are_copied_while_the_program_runs(self):
        self.daemons.append(self.daemon(2))
        program = self.start(BARTENDER_LOG="info")
        self.daemons[0].kill()
        end = time.monotonic() + TIME_LIMIT_S
        while True:
            with open(self.path("stderr")) as file:
                if "as many live replicas" in file.read():
                    break
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)
        self.end(program)
        self.daemons.pop(0)
        far = self.check_far()
        self.assertEqual((far["result"], far["extents_by_copies"][2]), ("clean", far["extents"]))
        self.daemons[0].kill()
        self.assert_all_delivered()

    def check_far(self):
        return self.tool_json("check", self.arena)["far"]


class Remove(Case):
    def rm(self, status=0, **options):
        return self.tool_json("rm", self.arena, status=status, **options)["arenas"][0]

    def wait_until_forgotten(self, index):
        end = time.monotonic() + TIME_LIMIT_S
        while self.stores()[index][3]:
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)

    def test_nothing_is_left_anywhere(self):
        self.dead_arena()
        window = self.window_file()
        removed = self.rm()
        self.assertEqual((removed["removed"], removed["left_on_nodes"]), (True, []))
        self.assertFalse(os.path.exists(self.arena) or os.path.exists(window))
        for index in range(2):
            self.wait_until_forgotten(index)

    def test_what_stays_on_nodes_is_told_with_the_command_that_ends_it(self):
        self.dead_arena()
        self.daemons[1].kill()
        result = self.run_tool("rm", self.arena, status=5)
        self.assertEqual(result.stderr.count(b"\n"), 1, result.stderr)
        self.assertFalse(os.path.exists(self.arena))
        command = result.stderr.decode().strip().split("type: bartender ")[1].split()
        self.assertEqual(command[:2], ["node", self.daemons[1].address])
        self.daemons[1] = self.daemon(1, self.daemons[1].address)
        for index in range(2):
            if index == 1:
                self.run_tool(*command)
            self.wait_until_forgotten(index)

    def test_without_nodes_they_keep_what_they_have(self):
        self.dead_arena()
        before = self.stores()
        left = self.rm(status=5, env=self.clean)["left_on_nodes"]
        self.assertEqual([entry["address"] for entry in left], [None])
        self.assertFalse([name for name in os.listdir(self.directory) if name.endswith((".far", ".arena"))])
        self.assertEqual(self.stores(), before)

    def test_an_arena_on_disk_has_its_window_in_shared_memory(self):
        directory = tempfile.mkdtemp(prefix="bartender-far-", dir="/var/tmp")
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        self.dead_arena(arena=os.path.join(directory, "a.arena"))
        far = self.tool_json("info", self.arena)["far"]
        self.assertTrue(far["window_file"].startswith("/dev/shm/bartender-"))
        self.assertTrue(far["window_file_good"])
        self.rm()
        self.assertFalse(os.path.exists(far["window_file"]))

    def test_a_live_arena_is_refused_and_keeps_all(self):
        program = self.start()
        window = self.window_file()
        self.run_tool("rm", self.arena, status=3)
        self.assertTrue(os.path.exists(window))
        self.assert_all_delivered()
        self.end(program)


def main():
    global BARTENDER, LIBRARY, BARTENDERD
    BARTENDER, LIBRARY, BARTENDERD = (os.path.abspath(path) for path in sys.argv[1:4])
    unittest.main(argv=[sys.argv[0], *sys.argv[4:]], verbosity=2)


if __name__ == "__main__":
    main()
