#!/usr/bin/python3
"""A memory node from outside: who gets in, what a request does, what a crash leaves.

node_test.py BARTENDERD BARTENDER [unittest arguments]

Loopback only, ports that the kernel chooses, stores in a scratch directory.  BTD_SEED repeats a run.
"""

import json
import os
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import protocol  # noqa: E402
from node_daemon import TIME_LIMIT_S, Daemon, die_with_parent  # noqa: E402
from protocol import (CORRUPT, DEPTH, EXTENT_BYTES, FENCED, FORGET, GOOD, HELLO, LIST, NO_SPACE, NOT_FOUND, PROOF, READ, REFUSED, RELEASE, STALE,
                      STATUS, WRITE, Client, Closed, Goodbye, crc32c, message, write_body)  # noqa: E402

BARTENDERD = BARTENDER = None
KEY = bytes(range(32))
SEED = int(os.environ.get("BTD_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)


class Case(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="bartender-node-")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.key_file = self.path("key")
        with open(self.key_file, "w") as file:
            file.write(KEY.hex() + "\n")
        os.chmod(self.key_file, 0o600)

    def path(self, name):
        return os.path.join(self.directory, name)

    def arguments(self, *more, capacity="4M", store="store", listen="127.0.0.1:0"):
        return ["--listen", listen, "--store", self.path(store), "--key-file", self.key_file, "--capacity", capacity, *more]

    def start(self, *more, **options):
        daemon = Daemon(BARTENDERD, *self.arguments(*more, **options))
        self.addCleanup(daemon.kill)
        return daemon

    def refused(self, status, text, *arguments):
        result = subprocess.run([BARTENDERD, *map(str, arguments)], capture_output=True, timeout=TIME_LIMIT_S, preexec_fn=die_with_parent)
        self.assertEqual(result.returncode, status, result)
        self.assertEqual(result.stderr.count(b"\n"), 1, result.stderr)
        self.assertTrue(result.stderr.startswith(b"bartenderd: "))
        self.assertIn(text, result.stderr.decode())

    def client(self, daemon, **options):
        client = Client(daemon.port)
        self.addCleanup(client.close)
        client.greet(KEY, **options)
        return client

    def assert_alive(self, daemon):
        with Client(daemon.port) as client:
            client.greet(KEY, arena=bytes(16), client=bytes(16), epoch=0, role=1)
            self.assertEqual(client.ask(STATUS, struct.pack("<Q", 0))[0], GOOD)


class Starting(Case):
    def test_no_key_no_start(self):
        arguments = self.arguments()
        os.unlink(self.key_file)
        self.refused(3, "cannot be read", *arguments)
        for text, mode, why in ((KEY.hex(), 0o640, "chmod 600"), (KEY.hex()[:-1], 0o600, "openssl"), (KEY.hex() + "00", 0o600, "openssl"),
                                ("", 0o600, "openssl"), ("g" * 64, 0o600, "openssl")):
            with open(self.key_file, "w") as file:
                file.write(text)
            os.chmod(self.key_file, mode)
            self.refused(3, why, *arguments)
        self.refused(64, "--key-file", "--listen", "127.0.0.1:0", "--store", self.path("store"), "--capacity", "4M")
        self.assertFalse(os.path.exists(self.path("store")))

    def test_wildcard_address_only_when_told_so(self):
        for address in ("0.0.0.0:0", "[::]:0", "[::ffff:0.0.0.0]:0"):
            self.refused(3, "--allow-any-address", *self.arguments(listen=address))
        for address in ("localhost:0", "127.0.0.1", ":7", "127.0.0.1:65536", "[::1:0", "1.2.3.4.5:0"):
            self.refused(64, "is no address", *self.arguments(listen=address))
        self.start("--allow-any-address", listen="0.0.0.0:0")

    def test_foreign_damaged_and_busy_stores_are_left_alone(self):
        with open(self.path("store"), "wb") as file:
            file.write(b"precious" + bytes(5 << 20))
        self.refused(3, "holds something else", *self.arguments())
        with open(self.path("store"), "rb") as file:
            self.assertEqual(file.read(8), b"precious")
        daemon = self.start(store="other")
        self.refused(3, "in use", *self.arguments(store="other"))
        self.assertEqual(daemon.stop(), 0)
        self.refused(3, "was made for", *self.arguments(store="other", capacity="8M"))
        self.refused(64, "--capacity", *self.arguments(store="new", capacity="64K"))
        with open(self.path("other"), "r+b") as file:
            file.seek(36)
            file.write(b"\xff")
        self.refused(2, "header is damaged", *self.arguments(store="other"))
        self.refused(4, "cannot get all of its space", *self.arguments(store="huge", capacity="60T"))
        self.assertFalse(os.path.exists(self.path("huge")))

    def test_sigterm_drains_and_ends_with_0(self):
        daemon = self.start()
        client = self.client(daemon)
        self.assertEqual(client.write(1, 1, b"x"), GOOD)
        self.assertEqual(daemon.stop(), 0)
        with self.assertRaises((Goodbye, Closed)):
            client.read(1)


class Handshake(Case):
    def test_good_key_is_accepted(self):
        daemon = self.start()
        with Client(daemon.port) as client:
            _, _, (capacity, quota, extents, address, rkey, depth) = client.greet(KEY)
            self.assertEqual((capacity, extents, address, rkey, depth), (64, 0, 0, 0, DEPTH))

    def test_wrong_replayed_lower_and_garbage_are_refused_1000_of_1000(self):
        randomness = random.Random(SEED)
        daemon = self.start()
        honest = self.client(daemon, epoch=7)
        self.assertEqual(honest.write(5, 1, b"mine"), GOOD)
        with Client(daemon.port) as heard:
            first, proof, _ = heard.greet(KEY, epoch=7)
        tried = refused = 0

        def attempt(action, statuses):
            nonlocal tried, refused
            tried += 1
            with Client(daemon.port) as client:
                try:
                    action(client)
                except Goodbye as goodbye:
                    self.assertIn(goodbye.status, statuses)
                    refused += 1
                except Closed:
                    refused += 1

        def replay_all(client):
            client.send(first)
            client.receive()
            client.send(proof)
            client.receive()

        def replay_before_hello(client):
            client.send(proof)
            client.receive()

        def garbage(client):
            client.send(randomness.randbytes(randomness.randrange(16, 400)))
            client.receive()

        def flipped_hello(client):
            data = bytearray(protocol.hello(b"A" * 16, b"C" * 16, 7))
            data[randomness.randrange(len(data))] ^= 1 << randomness.randrange(8)
            # A longer size is waited for; hang up instead.
            client.send(bytes(data))
            client.socket.shutdown(socket.SHUT_WR)
            client.receive()

        def unasked(client):
            client.send(message(READ, struct.pack("<QQ", 5, 0)))
            client.receive()

        def reflect(client):
            # A node that proves itself with what the client said would fall for this.
            client.greet(KEY, epoch=7, proof_of=message(PROOF, bytes(32)))

        for _ in range(125):
            attempt(lambda client: client.greet(randomness.randbytes(32), epoch=7), {REFUSED})
            attempt(replay_all, {REFUSED})
            attempt(replay_before_hello, {REFUSED})
            attempt(garbage, {REFUSED})
            attempt(flipped_hello, {REFUSED})
            attempt(unasked, {REFUSED})
            attempt(reflect, {REFUSED})
            attempt(lambda client: client.greet(KEY, epoch=randomness.randrange(1, 7)), {FENCED})
        print(f"refused: {refused} of {tried}, seed {SEED}")
        self.assertEqual((tried, refused), (1000, 1000))
        self.assertEqual(honest.read(5), (GOOD, 1, b"mine"))

    def test_versions_transport_and_durability_must_meet(self):
        daemon = self.start()
        for fields in ({"versions": (3, 4)}, {"versions": (0, 0)}, {"transport": 1}):
            with Client(daemon.port) as client, self.assertRaises(Goodbye) as goodbye:
                client.greet(KEY, **fields)
            self.assertEqual(goodbye.exception.status, REFUSED)
        with Client(daemon.port) as client:
            client.greet(KEY, versions=(1, 9))
        shm = tempfile.mkdtemp(prefix="bartender-node-", dir="/dev/shm")
        self.addCleanup(shutil.rmtree, shm, ignore_errors=True)
        volatile = self.start(store=os.path.join(shm, "store"))
        self.assertEqual((volatile.state["backend"], volatile.state["durability"]), ("tmpfs", "process"))
        with Client(volatile.port) as client, self.assertRaises(Goodbye) as goodbye:
            client.greet(KEY, durability=1)
        self.assertEqual(goodbye.exception.status, REFUSED)

    def test_oversized_messages_are_refused_before_their_bytes_come(self):
        daemon = self.start()
        for data in (struct.pack("<IBBHII", protocol.MAGIC, HELLO, 0, 65535, 0, 0), struct.pack("<IBBHII", protocol.MAGIC, HELLO, 0, 88, 1, 0),
                     struct.pack("<IBBHII", protocol.MAGIC, WRITE, 0, 56, 65536, 0)):
            with Client(daemon.port) as client, self.assertRaises((Goodbye, Closed)):
                client.send(data)
                client.receive()
        for kind, body, length in ((WRITE, write_body(1, 1, 65537, 0), 65537), (WRITE, write_body(1, 1, 10, 0), 11),
                                   (WRITE, write_body(1, 1, 0, 0), 0), (READ, struct.pack("<QQ", 1, 1), 5),
                                   (WRITE, write_body(1, 0, 1, 0), 1)):
            client = self.client(daemon)
            with self.assertRaises(Goodbye) as goodbye:
                client.send(message(kind, body, payload_bytes=length))
                client.receive()
            self.assertEqual(goodbye.exception.status, CORRUPT)
        client = self.client(daemon)
        with self.assertRaises(Goodbye):
            client.send(message(READ, struct.pack("<QQ", 1, 1), slot=DEPTH))
            client.receive()

    def test_silent_and_slow_clients_are_dropped_others_are_served(self):
        daemon = self.start()
        honest = self.client(daemon)
        silent = Client(daemon.port)
        trickling = Client(daemon.port)
        slow = self.client(daemon)
        slow.send(message(WRITE, write_body(9, 1, 60000, 0), payload_bytes=60000))
        started = time.monotonic()
        data = protocol.hello(b"A" * 16, b"C" * 16, 1)
        gone = {}
        for tick in range(200):
            for name, client in (("silent", silent), ("trickling", trickling), ("slow", slow)):
                if name in gone:
                    continue
                ready, _, _ = select.select([client.socket], [], [], 0)
                if ready:
                    gone[name] = time.monotonic() - started
                    continue
                try:
                    if name == "trickling":
                        client.socket.send(data[tick % len(data):][:1])
                    elif name == "slow":
                        client.socket.send(b"z")
                except OSError:
                    gone[name] = time.monotonic() - started
            self.assertEqual(honest.write(1, tick + 1, b"on time"), GOOD)
            if len(gone) == 3:
                break
            time.sleep(0.1)
        print("dropped after s:", {name: round(after, 1) for name, after in gone.items()})
        self.assertEqual(len(gone), 3, gone)
        self.assertEqual(honest.read(9)[0], NOT_FOUND)
        silent.close()
        trickling.close()

    def test_strangers_cannot_keep_clients_out(self):
        daemon = self.start()
        strangers = [socket.create_connection(("127.0.0.1", daemon.port)) for _ in range(200)]
        try:
            client = self.client(daemon)
            self.assertEqual(client.write(1, 1, b"in"), GOOD)
        finally:
            for stranger in strangers:
                stranger.close()

    def test_too_many_clients_are_told_so(self):
        daemon = self.start()
        clients = [self.client(daemon) for _ in range(256)]
        with Client(daemon.port) as client, self.assertRaises((Goodbye, Closed)):
            client.greet(KEY)
        clients.pop().close()
        time.sleep(0.3)
        self.client(daemon)


class Extents(Case):
    def test_write_read_list_release(self):
        client = self.client(self.start())
        randomness = random.Random(SEED)
        self.assertEqual(client.read(3), (NOT_FOUND, 0, b""))
        model = {}
        for extent in {randomness.getrandbits(64) for _ in range(20)}:
            model[extent] = randomness.randbytes(randomness.choice((1, 63, 4096, 20000)))
            self.assertEqual(client.write(extent, 1, model[extent]), GOOD)
        for extent, data in model.items():
            self.assertEqual(client.read(extent, 1), (GOOD, 1, data))
        entries = [(extent, 1, len(data), crc32c(data)) for extent, data in sorted(model.items())]
        self.assertEqual(client.list(), entries)
        self.assertEqual(client.list(entries[7][0]), entries[7:])
        self.assertEqual(client.list(entries[7][0] + 1), entries[8:])
        gone = entries[3][0]
        self.assertEqual(client.release(gone), GOOD)
        self.assertEqual(client.release(gone), NOT_FOUND)
        self.assertEqual(client.read(gone)[0], NOT_FOUND)
        self.assertEqual(len(client.list()), 19)

    def test_a_seal_is_kept_with_the_extent_and_given_back(self):
        daemon = self.start()
        client = self.client(daemon)
        seal = bytes(range(1, 29))
        self.assertEqual(client.write(1, 1, b"sealed", seal=seal), GOOD)
        self.assertEqual(client.write(2, 1, b"plain"), GOOD)
        for _ in range(2):
            self.assertEqual((client.read(1), client.seal), ((GOOD, 1, b"sealed"), seal))
            self.assertEqual((client.read(2), client.seal), ((GOOD, 1, b"plain"), bytes(28)))
            daemon.kill()
            daemon = self.start()
            client = self.client(daemon)
        body = bytearray(write_body(1, 2, 1, crc32c(b"x"), seal))
        body[-1] = 1  # reserved
        with self.assertRaises(Goodbye):
            client.ask(WRITE, bytes(body), b"x")

    def test_generations_only_rise(self):
        client = self.client(self.start())
        self.assertEqual(client.write(1, 5, b"five"), GOOD)
        for generation in (1, 4, 5):
            self.assertEqual(client.ask(WRITE, write_body(1, generation, 4, crc32c(b"four")), b"four")[:2], (STALE, 5))
        self.assertEqual(client.read(1, 6)[:2], (STALE, 5))
        self.assertEqual(client.write(1, 6, b"six"), GOOD)
        self.assertEqual(client.read(1, 6), (GOOD, 6, b"six"))

    def test_bytes_that_do_not_match_their_checksum_are_not_taken(self):
        client = self.client(self.start())
        self.assertEqual(client.write(1, 1, b"good"), GOOD)
        self.assertEqual(client.ask(WRITE, write_body(1, 2, 4, crc32c(b"good")), b"bad!")[0], CORRUPT)
        self.assertEqual(client.read(1), (GOOD, 1, b"good"))

    def test_arenas_do_not_see_each_other(self):
        daemon = self.start()
        one, two = self.client(daemon, arena=b"1" * 16), self.client(daemon, arena=b"2" * 16)
        self.assertEqual(one.write(1, 1, b"one"), GOOD)
        self.assertEqual(two.read(1)[0], NOT_FOUND)
        self.assertEqual(two.write(1, 9, b"two"), GOOD)
        self.assertEqual(one.read(1), (GOOD, 1, b"one"))
        self.assertEqual(two.release(1), GOOD)
        self.assertEqual(len(one.list()), 1)

    def test_all_slots_in_flight_and_a_second_request_on_one_is_a_fault(self):
        client = self.client(self.start())
        data = bytes(100)
        for slot in range(DEPTH):
            client.send(message(WRITE, write_body(slot, 1, 100, crc32c(data)), data, slot))
        replies = sorted(client.receive()[1] for _ in range(DEPTH))
        self.assertEqual(replies, list(range(DEPTH)))
        # Both in one segment, and the first needs a commit, so that the second comes while it is in progress.
        body = write_body(1, 2, 100, crc32c(data))
        with self.assertRaises((Goodbye, Closed)):
            client.send(message(WRITE, body, data, 3) + message(RELEASE, struct.pack("<Q", 1), slot=3))
            client.receive()
            client.receive()

    def test_a_client_that_reads_no_replies_is_bounded_and_dropped(self):
        daemon = self.start()
        client = self.client(daemon)
        self.assertEqual(client.write(1, 1, bytes(EXTENT_BYTES)), GOOD)
        greedy = self.client(daemon)
        greedy.socket.settimeout(0.2)
        started = time.monotonic()
        dropped = None
        while dropped is None and time.monotonic() < started + 20:
            for slot in range(DEPTH):
                try:
                    greedy.socket.send(message(READ, struct.pack("<QQ", 1, 0), slot=slot))
                except socket.timeout:
                    pass
                except OSError:
                    dropped = time.monotonic() - started
                    break
        self.assertIsNotNone(dropped)
        with open(f"/proc/{daemon.process.pid}/status") as status:
            resident = int(next(line for line in status if line.startswith("RssAnon")).split()[1])
        print(f"dropped after {dropped:.1f} s, anonymous memory {resident} KiB")
        self.assertLess(resident, 32 << 10)
        self.assert_alive(daemon)

    def test_full_store_refuses_new_extents_but_not_new_generations(self):
        client = self.client(self.start(capacity="1M"))  # 16 slots, 1 of them in reserve
        written = 0
        while client.write(written, 1, b"full") == GOOD:
            written += 1
        self.assertEqual(written, 15)
        self.assertEqual(client.write(99, 1, b"more"), NO_SPACE)
        for generation in range(2, 40):
            self.assertEqual(client.write(generation % 15, generation, b"newer"), GOOD)
        self.assertEqual(client.release(0), GOOD)
        self.assertEqual(client.write(99, 1, b"more"), GOOD)

    def test_quota_is_each_arenas(self):
        daemon = self.start("--quota", "320K")
        one, two = self.client(daemon, arena=b"1" * 16), self.client(daemon, arena=b"2" * 16)
        for client in (one, two):
            for extent in range(5):
                self.assertEqual(client.write(extent, 1, b"q"), GOOD)
            self.assertEqual(client.write(5, 1, b"q"), NO_SPACE)
            self.assertEqual(client.write(4, 2, b"q"), GOOD)
            self.assertEqual(client.release(0), GOOD)
            self.assertEqual(client.write(5, 1, b"q"), GOOD)
        # Many at once do not slip past it.
        self.assertEqual([one.release(extent) for extent in range(1, 6)], [GOOD] * 5)
        for slot in range(DEPTH):
            one.send(message(WRITE, write_body(100 + slot, 1, 1, crc32c(b"q")), b"q", slot))
        statuses = [one.receive()[3][0] for _ in range(DEPTH)]
        self.assertEqual(statuses.count(GOOD), 5, statuses)

    def test_nothing_of_a_released_extent_is_left_in_a_slot_that_is_used_again(self):
        daemon = self.start(capacity="128K")
        client = self.client(daemon)
        self.assertEqual(client.write(1, 1, b"secret" * 5000), GOOD)
        self.assertEqual(client.release(1), GOOD)
        for generation in range(1, 5):
            self.assertEqual(client.write(2, generation, b"short"), GOOD)
        with open(self.path("store"), "rb") as file:
            self.assertNotIn(b"secret", file.read())


class Readers(Case):
    def reader(self, daemon, arena=b"A" * 16):
        client = Client(daemon.port)
        self.addCleanup(client.close)
        _, _, accept = client.greet(KEY, arena=arena, client=bytes(16), epoch=0, role=2)
        return client, accept[2]

    def test_a_reader_sees_what_there_is_and_disturbs_nobody(self):
        daemon = self.start()
        owner = self.client(daemon, epoch=7)
        self.assertEqual(owner.write(1, 1, b"one"), GOOD)
        reader, extents = self.reader(daemon)
        self.assertEqual(extents, 1)
        self.assertEqual(reader.read(1), (GOOD, 1, b"one"))
        self.assertEqual(owner.write(2, 5, b"two"), GOOD)
        self.assertEqual([entry[:2] for entry in reader.list()], [(1, 1), (2, 5)])
        self.assertEqual(reader.read(2, 6)[0], STALE)
        newer = self.client(daemon, epoch=8, client=b"n" * 16)  # fences the owner, not the reader
        self.assertEqual(newer.read(2), (GOOD, 5, b"two"))
        self.assertEqual(reader.read(2), (GOOD, 5, b"two"))

    def test_a_reader_can_change_nothing(self):
        daemon = self.start()
        self.assertEqual(self.client(daemon).write(1, 1, b"one"), GOOD)
        for request in (message(WRITE, write_body(1, 2, 1, crc32c(b"x")), b"x"), message(RELEASE, struct.pack("<Q", 1)),
                        message(FORGET, b"A" * 16), message(STATUS, struct.pack("<Q", 0))):
            reader, _ = self.reader(daemon)
            reader.send(request)
            with self.assertRaises((Goodbye, Closed)):
                reader.receive()
        self.assertEqual(self.reader(daemon)[0].read(1), (GOOD, 1, b"one"))
        with Client(daemon.port) as thief, self.assertRaises(Goodbye):
            thief.greet(bytes(32), client=bytes(16), epoch=0, role=2)
        for epoch, role in ((1, 2), (0, 0), (0, 3)):
            with Client(daemon.port) as odd, self.assertRaises((Goodbye, Closed)):
                odd.greet(KEY, epoch=epoch, role=role)

    def test_a_reader_outlives_its_arena_and_makes_none(self):
        daemon = self.start()
        reader, extents = self.reader(daemon)
        self.assertEqual((extents, reader.list(), reader.read(1)[0]), (0, [], NOT_FOUND))
        owner = self.client(daemon)
        self.assertEqual(owner.write(1, 1, b"one"), GOOD)
        self.assertEqual(reader.read(1), (GOOD, 1, b"one"))
        self.assertEqual(owner.forget(), GOOD)
        owner.close()
        end = time.monotonic() + TIME_LIMIT_S
        while reader.list():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.05)
        self.assertEqual(reader.read(1)[0], NOT_FOUND)


class Epochs(Case):
    def test_higher_epoch_ends_the_older_connections_first(self):
        daemon = self.start()
        old = [self.client(daemon, epoch=1, client=b"o" * 16) for _ in range(3)]
        self.assertEqual(old[0].write(1, 1, b"old"), GOOD)
        other = self.client(daemon, arena=b"B" * 16, epoch=1)
        new = self.client(daemon, epoch=2, client=b"n" * 16)
        for client in old:
            with self.assertRaises((Goodbye, Closed)) as ended:
                client.write(1, 2, b"too late")
            if isinstance(ended.exception, Goodbye):
                self.assertEqual(ended.exception.status, FENCED)
        self.assertEqual(new.read(1), (GOOD, 1, b"old"))
        self.assertEqual(other.write(1, 1, b"not concerned"), GOOD)

    def test_two_clients_of_one_epoch_the_second_is_fenced(self):
        daemon = self.start()
        first = self.client(daemon, epoch=3, client=b"1" * 16)
        with Client(daemon.port) as second, self.assertRaises(Goodbye) as goodbye:
            second.greet(KEY, epoch=3, client=b"2" * 16)
        self.assertEqual(goodbye.exception.status, FENCED)
        again = self.client(daemon, epoch=3, client=b"1" * 16)  # a second thread of the first
        self.assertEqual(again.write(1, 1, b"both"), GOOD)
        self.assertEqual(first.read(1)[0], GOOD)

    def test_epoch_outlives_the_daemon(self):
        daemon = self.start()
        self.client(daemon, epoch=9)
        daemon.kill()
        daemon = self.start()
        with Client(daemon.port) as client, self.assertRaises(Goodbye) as goodbye:
            client.greet(KEY, epoch=8)
        self.assertEqual(goodbye.exception.status, FENCED)
        self.client(daemon, epoch=9)

    def test_wrong_key_with_a_high_epoch_fences_nobody(self):
        daemon = self.start()
        client = self.client(daemon, epoch=1)
        for _ in range(20):
            with Client(daemon.port) as thief, self.assertRaises((Goodbye, Closed)):
                thief.greet(bytes(32), epoch=2**63)
        self.assertEqual(client.write(1, 1, b"still here"), GOOD)


class Media(Case):
    DATA_OFFSET = 4096 + 2 * 1024 * 64 + 64 * 128

    def slots(self):
        """{extent: (slot, generation)} of what the store holds, from docs/store.md."""
        found = {}
        with open(self.path("store"), "rb") as file:
            file.seek(4096 + 2 * 1024 * 64)
            for slot in range(64):
                magic, _, extent, generation = struct.unpack("<Q16sQQ", file.read(128)[:40])
                if magic and found.get(extent, (0, 0))[1] < generation:
                    found[extent] = (slot, generation)
        return found

    def poke(self, offset):
        with open(self.path("store"), "r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 0x40]))

    def test_flipped_bytes_of_an_extent_are_seen_by_the_checksum(self):
        daemon = self.start()
        client = self.client(daemon)
        self.assertEqual(client.write(1, 1, b"x" * 1000), GOOD)
        slot, _ = self.slots()[1]
        data_offset = -(-self.DATA_OFFSET // EXTENT_BYTES) * EXTENT_BYTES
        self.poke(data_offset + slot * EXTENT_BYTES + 500)
        client.send(message(READ, struct.pack("<QQ", 1, 0)))
        _, _, _, body, payload = client.receive()
        # The checksum is the one that came with the bytes, so whoever reads them knows.
        self.assertNotEqual(struct.unpack("<BBHIQII", body[:24])[5], crc32c(payload))

    def test_each_flipped_bit_of_a_header_loses_that_extent_alone(self):
        daemon = self.start()
        client = self.client(daemon)
        for extent in range(64 - 4):
            self.assertEqual(client.write(extent, 1, b"x"), GOOD)
        daemon.kill()
        slot, _ = self.slots()[7]
        offset = 4096 + 2 * 1024 * 64 + slot * 128
        with open(self.path("store"), "rb") as file:
            sound = file.read()
        randomness = random.Random(SEED)
        for byte in randomness.sample(range(128), 12):
            with open(self.path("store"), "wb") as file:
                file.write(sound)
            self.poke(offset + byte)
            daemon = self.start()
            client = self.client(daemon)
            self.assertEqual(daemon.state["damaged_headers"], 1)
            self.assertEqual(client.read(7)[0], NOT_FOUND)
            self.assertEqual([entry[0] for entry in client.list()], [extent for extent in range(60) if extent != 7])
            daemon.kill()

    def test_restart_serves_what_was_there(self):
        daemon = self.start()
        client = self.client(daemon)
        for generation in (1, 2, 3):
            for extent in range(20):
                self.assertEqual(client.write(extent, generation, struct.pack("<QQ", extent, generation) * 50), GOOD)
        self.assertEqual(client.release(0), GOOD)
        before = client.list()
        node = daemon.state["node"]
        self.assertEqual(daemon.stop(), 0)
        daemon = self.start()
        self.assertEqual((daemon.state["node"], daemon.state["extents"], daemon.state["damaged_headers"]), (node, 19, 0))
        client = self.client(daemon, epoch=2)
        self.assertEqual(client.list(), before)
        self.assertEqual(client.read(5), (GOOD, 3, struct.pack("<QQ", 5, 3) * 50))

    def test_kill_at_random_moments_loses_nothing_that_was_acknowledged(self):
        randomness = random.Random(SEED)
        model, unknown = {}, {}
        kills = acknowledged = 0
        generation = 0
        print(f"seed {SEED}")
        for life in range(20):
            daemon = self.start()
            client = self.client(daemon, epoch=life + 1)
            listed = {entry[0]: entry[1:] for entry in client.list()}
            for extent, (expected, data) in model.items():
                possible = {expected: data, **unknown.get(extent, {})}
                status, found, payload = client.read(extent)
                if 0 in possible and status == NOT_FOUND:
                    continue
                self.assertEqual(status, GOOD)
                self.assertIn(found, possible)
                self.assertEqual(payload, possible[found])
                self.assertEqual(listed[extent], (found, len(payload), crc32c(payload)))
            self.assertLessEqual(set(listed), set(model) | set(unknown))
            for extent, possible in unknown.items():
                status, found, payload = client.read(extent)
                if status == GOOD:
                    model[extent] = (found, payload)
                else:
                    self.assertEqual(status, NOT_FOUND)
                    self.assertTrue(0 in possible or extent not in model, (extent, possible))
                    model.pop(extent, None)
            unknown = {}
            timer = threading.Timer(randomness.uniform(0.01, 0.25), daemon.process.kill)
            timer.start()
            try:
                while True:
                    sent = []
                    for slot in range(8):
                        extent = slot * 5 + randomness.randrange(5)
                        if randomness.random() < 0.1:
                            sent.append((slot, extent, 0, b""))
                            unknown.setdefault(extent, {})[0] = b""
                            client.send(message(RELEASE, struct.pack("<Q", extent), slot=slot))
                            continue
                        generation += 1
                        data = struct.pack("<QQ", extent, generation) * randomness.randrange(1, 30)
                        sent.append((slot, extent, generation, data))
                        unknown.setdefault(extent, {})[generation] = data
                        client.send(message(WRITE, write_body(extent, generation, len(data), crc32c(data)), data, slot))
                    for _ in sent:
                        _, slot, _, body, _ = client.receive()
                        _, extent, written, data = next(entry for entry in sent if entry[0] == slot)
                        self.assertIn(body[0], (GOOD,) if written else (GOOD, NOT_FOUND))
                        acknowledged += 1
                        unknown.pop(extent)
                        if written:
                            model[extent] = (written, data)
                        else:
                            model.pop(extent, None)
            except (Closed, Goodbye):
                kills += 1
            timer.join()
            daemon.kill()
        print(f"kills: {kills}, acknowledged and found again: {acknowledged}")
        self.assertEqual(kills, 20)


class Forgetting(Case):
    UUID = "41414141-4141-4141-4141-414141414141"

    def node(self, daemon, *arguments, status=0):
        result = subprocess.run([BARTENDER, "node", f"127.0.0.1:{daemon.port}", "--key-file", self.key_file, *arguments],
                                capture_output=True, timeout=TIME_LIMIT_S)
        self.assertEqual(result.returncode, status, result)
        return result

    def arenas(self, daemon):
        return {arena["uuid"]: arena for arena in json.loads(self.node(daemon, "--json").stdout)["arenas"]}

    def wait_until_gone(self, daemon, uuid=UUID):
        end = time.monotonic() + TIME_LIMIT_S
        while uuid in self.arenas(daemon):
            self.assertLess(time.monotonic(), end)
            time.sleep(0.05)

    def fill(self, client, count=8, data=b"secret" * 2000):
        for extent in range(count):
            self.assertEqual(client.write(extent, 1, data), GOOD)

    def test_an_owner_that_ends_well_leaves_nothing(self):
        daemon = self.start("--quota", "512K", capacity="640K")
        first, second = self.client(daemon, epoch=5), self.client(daemon, epoch=5)
        self.fill(first)
        self.assertEqual(first.forget(), GOOD)
        self.assertEqual(first.forget(), GOOD)  # twice is once
        self.assertEqual(first.read(3)[0], GOOD)
        self.assertEqual(first.write(3, 2, b"still served"), GOOD)
        first.close()
        self.assertEqual(second.read(3), (GOOD, 2, b"still served"))
        arena = self.arenas(daemon)[self.UUID]
        self.assertEqual((arena["extents"], arena["state"], arena["owner_connected"]), (8, "ending", True))
        second.close()
        self.wait_until_gone(daemon)
        # Capacity and quota are free, and of the epoch nothing is remembered.
        client = self.client(daemon, epoch=1, client=b"n" * 16)
        self.assertEqual(client.list(), [])
        self.fill(client, data=b"x")
        self.assertEqual(client.write(8, 1, b"x"), NO_SPACE)
        self.assertEqual([client.release(extent) for extent in range(8)], [GOOD] * 8)
        for extent in range(8):
            self.assertEqual(client.write(extent, 1, bytes(EXTENT_BYTES)), GOOD)

    def test_an_owner_that_was_cut_off_finds_everything_when_it_is_back(self):
        daemon = self.start()
        client = self.client(daemon)
        self.fill(client)
        self.assertEqual(client.forget(), GOOD)
        for _ in range(3):
            client.close()
            time.sleep(0.9)  # less than the linger, three times more than it
            client = self.client(daemon)
            self.assertEqual(client.read(7)[0], GOOD)
        client.close()
        self.wait_until_gone(daemon)

    def test_the_mark_outlives_the_daemon(self):
        daemon = self.start()
        client = self.client(daemon)
        self.fill(client)
        self.assertEqual(client.forget(), GOOD)
        daemon.kill()
        daemon = self.start()
        self.assertEqual(daemon.state["extents"], 8)
        self.assertEqual(self.client(daemon).read(1)[0], GOOD)  # the owner, still ending
        daemon.kill()
        daemon = self.start()
        self.wait_until_gone(daemon)
        daemon.kill()
        self.assertEqual(self.start().state["extents"], 0)

    def test_a_new_owner_keeps_what_is_there(self):
        daemon = self.start()
        client = self.client(daemon)
        self.fill(client)
        self.assertEqual(client.forget(), GOOD)
        client.close()
        new = self.client(daemon, epoch=2, client=b"n" * 16)
        arena = self.arenas(daemon)[self.UUID]
        self.assertEqual((arena["state"], arena["extents"], arena["epoch"]), ("kept", 8, 2))
        new.close()
        time.sleep(2.5)
        self.assertEqual(self.arenas(daemon)[self.UUID]["extents"], 8)

    def test_nobody_forgets_for_another(self):
        daemon = self.start()
        victim = self.client(daemon, arena=b"V" * 16)
        self.fill(victim)
        client = self.client(daemon)
        with self.assertRaises(Goodbye) as goodbye:
            client.forget(b"V" * 16)
        self.assertEqual(goodbye.exception.status, CORRUPT)
        with Client(daemon.port) as observer:
            observer.greet(KEY, arena=bytes(16), client=bytes(16), epoch=0, role=1)
            self.assertEqual(observer.forget(b"V" * 16), REFUSED)
            self.assertEqual(observer.forget(b"N" * 16), NOT_FOUND)
        self.assertEqual(victim.read(1)[0], GOOD)

    def test_an_administrator_forgets_what_nobody_uses(self):
        daemon = self.start()
        client = self.client(daemon, epoch=3)
        self.fill(client)
        refused = self.node(daemon, "--forget", self.UUID, status=3).stderr
        self.assertIn(b"is connected", refused)
        self.assertEqual(refused.count(b"\n"), 1)
        client.close()
        self.assertIn(b"no arena", self.node(daemon, "--forget", "00" * 16, status=4).stderr)
        for bad in ("41", self.UUID + "0", "g" * 32):
            self.assertIn(b"is no arena's uuid", self.node(daemon, "--forget", bad, status=64).stderr)
        end = time.monotonic() + TIME_LIMIT_S
        while self.arenas(daemon)[self.UUID]["owner_connected"]:
            self.assertLess(time.monotonic(), end)
        self.assertIn(b"away", self.node(daemon).stdout)
        document = json.loads(self.node(daemon, "--forget", self.UUID, "--json").stdout)
        self.assertEqual(document["forgotten"], {"uuid": self.UUID, "epoch": 3, "extents": 8, "bytes": 8 * 12000})
        self.assertEqual(self.arenas(daemon), {})
        self.fill(self.client(daemon))
        text = self.node(daemon, "--forget", self.UUID, status=3)
        daemon.kill()
        daemon = self.start()
        text = self.node(daemon, "--forget", self.UUID.replace("-", "")).stdout
        self.assertIn(b"8 extents", text)

    def test_kill_while_forgetting_leaves_whole_extents_or_none(self):
        randomness = random.Random(SEED)
        print(f"seed {SEED}")
        kept = gone = 0
        for life in range(40):
            daemon = self.start(capacity="32M")
            client = self.client(daemon, epoch=life + 1)
            data = randomness.randbytes(300)
            for extent in range(200):
                client.send(message(WRITE, write_body(extent, life + 1, len(data), crc32c(data)), data, extent % DEPTH))
                if extent % DEPTH == DEPTH - 1 or extent == 199:
                    for _ in range(extent % DEPTH + 1):
                        self.assertEqual(client.receive()[3][0], GOOD)
            client.close()
            with Client(daemon.port) as observer:
                observer.greet(KEY, arena=bytes(16), client=bytes(16), epoch=0, role=1)
                while True:
                    if life % 4 == 3:
                        daemon.process.send_signal(signal.SIGSTOP)  # too early to have read it
                    observer.send(message(FORGET, b"A" * 16))
                    if life % 2:
                        if life % 4 == 1:
                            time.sleep(randomness.uniform(0, 0.002))
                        daemon.process.kill()
                        break
                    if observer.reply(0, FORGET)[0] == GOOD:  # else the owner's end is not noticed yet
                        time.sleep(randomness.uniform(0, 0.002))
                        break
            daemon.kill()
            daemon = self.start(capacity="32M")
            client = self.client(daemon, epoch=life + 1)
            self.assertEqual(daemon.state["damaged_headers"], 0)
            listed = client.list()
            if life % 2 == 0 or not listed:
                self.assertEqual(listed, [])
                gone += 1
            else:
                self.assertEqual([entry[0] for entry in listed], list(range(200)))
                self.assertEqual(client.read(199), (GOOD, life + 1, data))
                kept += 1
            daemon.kill()
        print(f"kept whole: {kept}, gone: {gone}")
        self.assertGreater(kept, 0)
        self.assertGreater(gone, 19)


class Fuzz(Case):
    def test_garbage_after_the_handshake_ends_one_connection_and_no_other(self):
        randomness = random.Random(SEED)
        daemon = self.start()
        honest = self.client(daemon)
        self.assertEqual(honest.write(1, 1, b"honest"), GOOD)
        kinds = {READ: "<QQ", WRITE: "<QQ40x", RELEASE: "<Q", LIST: "<Q", STATUS: "<Q", FORGET: "<QQ"}
        print(f"seed {SEED}")
        for _ in range(400):
            client = Client(daemon.port)
            client.greet(KEY, arena=b"F" * 16)
            try:
                for _ in range(randomness.randrange(1, 6)):
                    kind = randomness.choice(list(kinds))
                    body = randomness.randbytes(struct.calcsize(kinds[kind]))
                    payload = b""
                    if kind == WRITE:
                        length = randomness.choice((0, 1, 100, 65536, 65537, 2**31))
                        payload = bytes(min(length, 200))
                        body = write_body(*struct.unpack("<QQ", body[:16]), length, randomness.getrandbits(32))
                    data = bytearray(message(kind, body, payload, slot=randomness.randrange(DEPTH)))
                    for _ in range(randomness.randrange(3)):
                        data[randomness.randrange(len(data))] = randomness.randrange(256)
                    if randomness.random() < 0.2:
                        data = data[:randomness.randrange(len(data))]
                    client.send(bytes(data))
            except Closed:
                pass
            client.close()
        self.assertEqual(honest.read(1), (GOOD, 1, b"honest"))
        self.assertIsNone(daemon.process.poll())


class Command(Case):
    def test_man_page_completion_and_unit_know_the_options(self):
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        text = subprocess.run([BARTENDERD, "--help"], capture_output=True, text=True, timeout=TIME_LIMIT_S).stdout
        options = re.findall(r"(?m)^  (?:-h,)?(--[a-z-]+)", text)
        self.assertGreater(len(options), 8)
        with open(root + "/docs/man/bartenderd.1") as page, open(root + "/docs/completions/bartenderd.bash") as completion:
            for known in (page.read().replace("\\-", "-"), completion.read()):
                for option in options:
                    self.assertRegex(known, re.escape(option) + r"(?![a-z-])")
        with open(root + "/docs/systemd/bartenderd.service") as unit:
            for option in re.findall(r"--[a-z-]+", unit.read()):
                self.assertIn(option, options)

    def run_node(self, *arguments, status=0):
        result = subprocess.run([BARTENDER, "node", *map(str, arguments)], capture_output=True, timeout=TIME_LIMIT_S)
        self.assertEqual(result.returncode, status, result)
        return result

    def test_state_as_text_and_json(self):
        daemon = self.start("--quota", "2M")
        client = self.client(daemon)
        for extent in range(3):
            self.assertEqual(client.write(extent, 1, b"x" * 100), GOOD)
        address = f"127.0.0.1:{daemon.port}"
        state = json.loads(self.run_node(address, "--key-file", self.key_file, "--json").stdout)
        self.assertEqual((state["schema"], state["command"], state["node"]), (1, "node", daemon.state["node"]))
        self.assertEqual((state["backend"], state["durability"], state["transports"]), ("file", "power", ["tcp"]))
        self.assertEqual((state["capacity_bytes"], state["quota_bytes"]), (4 << 20, 2 << 20))
        self.assertEqual((state["writes"], state["connections"]), (3, 2))
        self.assertEqual([(a["uuid"], a["epoch"], a["extents"], a["bytes"], a["connections"]) for a in state["arenas"]],
                         [("41414141-4141-4141-4141-414141414141", 1, 3, 300, 1)])
        text = self.run_node(address, "--key-file", self.key_file).stdout.decode()
        for word in ("41414141-4141-4141-4141-414141414141", "4 MiB", "power"):
            self.assertIn(word, text)

    def test_failures_are_one_line(self):
        daemon = self.start()
        address = f"127.0.0.1:{daemon.port}"
        other = self.path("other")
        with open(other, "w") as file:
            file.write("ab" * 32)
        os.chmod(other, 0o600)
        free = socket.socket()
        free.bind(("127.0.0.1", 0))
        for arguments, status in (((address, "--key-file", other), 3), ((address, "--key-file", self.path("none")), 4),
                                  ((f"127.0.0.1:{free.getsockname()[1]}", "--key-file", self.key_file), 4), (("nowhere", "--key-file", self.key_file), 64)):
            result = self.run_node(*arguments, status=status)
            self.assertEqual(result.stderr.count(b"\n"), 1)
            self.assertTrue(result.stderr.startswith(b"bartender: "))
        free.close()


if __name__ == "__main__":
    BARTENDERD, BARTENDER = sys.argv[1:3]
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
