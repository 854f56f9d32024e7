"""A client of a memory node, written from docs/wire.md and nothing else: what the two programs agree on by mistake shows here."""

import hashlib
import hmac
import os
import socket
import struct

MAGIC = 0x4E445442
HELLO, CHALLENGE, PROOF, ACCEPT, READ, WRITE, RELEASE, LIST, STATUS, FORGET, REPLY, GOODBYE = range(1, 13)
GOOD, NOT_FOUND, STALE, CORRUPT, NO_SPACE, FENCED, REFUSED, LOST, TIMEOUT = range(9)
EXTENT_BYTES = 65536
DEPTH = 16

TABLE = []
for _value in range(256):
    for _ in range(8):
        _value = _value >> 1 ^ (0x82F63B78 if _value & 1 else 0)
    TABLE.append(_value)


def crc32c(data, crc=0):
    """Seeded with 0 and not inverted."""
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    return crc


def message(kind, body, payload=b"", slot=0, payload_bytes=None):
    head = struct.pack("<IBBHI", MAGIC, kind, slot, len(body), len(payload) if payload_bytes is None else payload_bytes)
    return head + struct.pack("<I", crc32c(body, crc32c(head))) + body + payload


def hello(arena, client, epoch, nonce=None, versions=(1, 1), transport=0, durability=0, role=0):
    return message(HELLO, struct.pack("<HHBBBBII16s16sQ32s", *versions, transport, durability, role, 0, 0, 0, arena, client, epoch,
                                      nonce or os.urandom(32)))


def mac(key, label, *parts):
    return hmac.new(key, label + b"\0" + b"".join(parts), hashlib.sha256).digest()


def write_body(extent, generation, length, crc, seal=bytes(28)):
    return struct.pack("<QQII28sI", extent, generation, length, crc, seal, 0)


class Goodbye(Exception):
    def __init__(self, status):
        super().__init__(f"goodbye {status}")
        self.status = status


class Closed(Exception):
    pass


class Client:
    def __init__(self, port, timeout_s=10):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def send(self, data):
        try:
            self.socket.sendall(data)
        except (ConnectionResetError, BrokenPipeError) as error:
            raise Closed from error

    def exactly(self, count):
        data = b""
        while len(data) < count:
            try:
                part = self.socket.recv(count - len(data))
            except ConnectionResetError as error:
                raise Closed from error
            if not part:
                raise Closed
            data += part
        return data

    def receive(self):
        """(type, slot, head and body, body, payload); Goodbye is raised."""
        head = self.exactly(16)
        magic, kind, slot, body_bytes, payload_bytes, crc = struct.unpack("<IBBHII", head)
        assert magic == MAGIC and body_bytes <= 88 and payload_bytes <= EXTENT_BYTES, head
        body = self.exactly(body_bytes)
        assert crc == crc32c(body, crc32c(head[:12]))
        payload = self.exactly(payload_bytes)
        if kind == GOODBYE:
            raise Goodbye(body[0])
        return kind, slot, head + body, body, payload

    def greet(self, key, arena=b"A" * 16, client=b"C" * 16, epoch=1, proof_of=None, **fields):
        """The handshake; returns the messages sent and the accept's fields."""
        first = hello(arena, client, epoch, **fields)
        self.send(first)
        kind, _, challenge, body, _ = self.receive()
        assert kind == CHALLENGE
        self.challenge = challenge
        proof = message(PROOF, mac(key, b"bartender node 1 proof", first, challenge)) if proof_of is None else proof_of
        self.send(proof)
        kind, _, _, body, _ = self.receive()
        assert kind == ACCEPT
        assert hmac.compare_digest(body[40:], mac(key, b"bartender node 1 accept", first, challenge, body[:40])), "the node has another key"
        return first, proof, struct.unpack("<QQQQII", body[:40])

    def ask(self, kind, body, payload=b"", slot=0):
        """(status, generation, payload)."""
        self.send(message(kind, body, payload, slot))
        return self.reply(slot, kind)

    def reply(self, slot, kind):
        got, got_slot, _, body, payload = self.receive()
        status, request, zero, length, generation, crc, zero_too, self.seal, zero_three = struct.unpack("<BBHIQII28sI", body)
        assert (got, got_slot, request, zero, zero_too, zero_three) == (REPLY, slot, kind, 0, 0, 0), body
        assert length == len(payload) and crc == crc32c(payload)
        return status, generation, payload

    def write(self, extent, generation, data, slot=0, seal=bytes(28)):
        return self.ask(WRITE, write_body(extent, generation, len(data), crc32c(data), seal), data, slot)[0]

    def read(self, extent, generation_min=0):
        return self.ask(READ, struct.pack("<QQ", extent, generation_min))

    def release(self, extent):
        return self.ask(RELEASE, struct.pack("<Q", extent))[0]

    def forget(self, arena=b"A" * 16):
        return self.ask(FORGET, arena)[0]

    def list(self, first=0):
        status, _, payload = self.ask(LIST, struct.pack("<Q", first))
        assert status == GOOD
        return list(struct.iter_unpack("<QQII", payload))
