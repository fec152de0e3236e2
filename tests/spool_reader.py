#!/usr/bin/env python3
"""A second reader of the spool's format (docs/format.md), with nothing but Python's standard library.

usage: spool_reader.py JOURNAL_FOLDER [DICTIONARY]

Prints a line of JSON per record that is to be delivered: stream, ordinal, received_at, record (hex). Payloads that are
compressed need the `zstd` program, and those packed with the dictionary the dictionary's file; where the program is missing,
`record` is null and the header alone is told. The last line sums up: blocks, damaged bytes.
"""

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib

MAGIC = b"LKSB"
VERSION = 1
HEADER = struct.Struct("<4sBBBBQIIIqI")
RECORDS, NOTES, STATE = 1, 2, 3
STREAMS = ("events", "stats", "node_rooms")


def block_at(data, at):
    """(fields, payload, end) of the whole block at this place, or None."""
    if len(data) - at < HEADER.size + 4:
        return None
    magic, version, kind, stream, codec, ordinal, count, raw, length, received, crc = HEADER.unpack_from(data, at)
    if magic != MAGIC or zlib.crc32(data[at : at + 36]) != crc:
        return None
    if version > VERSION:
        sys.exit(f"format version {version}: this reader knows {VERSION}")
    end = at + HEADER.size + length
    if end + 4 > len(data) or zlib.crc32(data[at:end]) != struct.unpack_from("<I", data, end)[0]:
        return None
    return (kind, stream, codec, ordinal, count, raw, received), data[at + HEADER.size : end], end + 4


def blocks(data):
    """All whole blocks; stretches that are none come as (None, length)."""
    at = 0
    while at < len(data):
        found = block_at(data, at)
        if found:
            fields, payload, at = found
            yield fields, payload
            continue
        start, at = at, data.find(MAGIC, at + 1)
        while at != -1 and not block_at(data, at):
            at = data.find(MAGIC, at + 1)
        at = len(data) if at == -1 else at
        yield None, at - start


def unpack(codec, payload, dictionary):
    """The payload as it was; None without a zstd program."""
    if codec & 0xF0:
        sys.exit("an encrypted payload: this reader has no key")
    if codec == 0:
        return payload
    if not shutil.which("zstd"):
        return None
    command = ["zstd", "-d", "-c", "-q"]
    with tempfile.NamedTemporaryFile(suffix=".zst") as file:
        file.write(payload)
        file.flush()
        if codec == 2:
            command += ["-D", dictionary]
        return subprocess.run([*command, file.name], check=True, capture_output=True).stdout


class Bincode:
    """bincode 2, standard configuration."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        self.at += count
        return self.data[self.at - count : self.at]

    def u64(self):
        first = self.take(1)[0]
        width = {251: 2, 252: 4, 253: 8}.get(first, 0)
        return int.from_bytes(self.take(width), "little") if width else first

    def ranges(self):
        return [(self.u64(), self.u64()) for _ in range(self.u64())]

    def size(self):
        return [self.u64() for _ in range(3)]


class Progress:
    """How far a stream is."""

    def __init__(self, reader=None):
        self.head, self.done = 0, set()
        if reader:
            _next, self.head = reader.u64(), reader.u64()
            self.finish(reader.ranges())
            reader.size()
            _delivered, _set_aside = reader.u64(), reader.u64()
            for _ in range(reader.u64()):
                reader.u64(), reader.u64()

    def finish(self, ranges):
        for first, count in ranges:
            self.done.update(range(first, first + count))


def notes(reader, progress):
    for _ in range(reader.u64()):
        stream, fate = reader.u64(), reader.u64()
        if fate == 2:
            reader.u64()
        progress[stream].finish(reader.ranges())
        reader.u64(), reader.size()
    assert reader.at == len(reader.data), "a note has more in it than this reader knows"


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def framed(payload):
    """The records of a wrapper message."""
    at = 0
    while at < len(payload):
        assert payload[at] == 0x0A, "not the wrapper's field 1"
        length, at = varint(payload, at + 1)
        yield payload[at : at + length]
        at += length


def main():
    folder, dictionary = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    progress = [Progress() for _ in STREAMS]
    found, whole, damaged = [], 0, 0
    for name in sorted(name for name in os.listdir(folder) if name.endswith(".journal")):
        with open(os.path.join(folder, name), "rb") as file:
            data = file.read()
        for fields, payload in blocks(data):
            if fields is None:
                damaged += payload
                continue
            whole += 1
            kind, stream, codec, ordinal, count, raw, received = fields
            if kind == RECORDS:
                unpacked = unpack(codec, payload, dictionary)
                assert unpacked is None or len(unpacked) == raw, "the unpacked length is another one"
                records = list(framed(unpacked)) if unpacked is not None else [None] * count
                assert len(records) == count, "the block holds another number of records"
                found += [(stream, ordinal + i, received, record) for i, record in enumerate(records)]
                continue
            unpacked = unpack(codec, payload, dictionary)
            if unpacked is None:
                continue
            if kind == STATE:
                reader = Bincode(unpacked)
                assert reader.u64() == int(name.split(".")[0]), "the state is another segment's"
                progress = [Progress(reader) for _ in STREAMS]
                assert reader.at == len(unpacked), "the state has more in it than this reader knows"
            elif kind == NOTES:
                notes(Bincode(unpacked), progress)
    for stream, ordinal, received, record in found:
        if ordinal >= progress[stream].head and ordinal not in progress[stream].done:
            record = None if record is None else record.hex()
            print(json.dumps([STREAMS[stream], ordinal, received, record]))
    print(json.dumps({"blocks": whole, "damaged_bytes": damaged}))


main()
