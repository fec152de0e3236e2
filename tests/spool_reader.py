#!/usr/bin/env python3
"""A second reader of the spool's format (docs/format.md), with nothing but Python's standard library.

usage: spool_reader.py JOURNAL_DIRECTORY [DICTIONARY]

Which records are still to be delivered is known by the queue, which this reader does not read. It prints all records at and above the
ack floor of the newest front: those to be delivered, and some that are done.

A line of JSON per front: {"front": {...}}. A line per record: [stream, sequence number, received at, record (hex)]. Payloads that
are compressed need the `zstd` program, and those packed with the dictionary the dictionary's file; where the program is missing,
the record is null and the header alone is told. The last line sums up: blocks, damaged bytes, torn bytes.
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
VERSION = 2
HEADER = struct.Struct("<4sBBBBQIIIqII")
ENDS_GROUP = 0x80
RECORDS, FRONT, DEAD_LETTERS = 1, 2, 3
STREAMS = ("events", "stats", "node_rooms")


class Block:
    """A whole block."""

    def __init__(self, data, at):
        (_magic, self.version, kind, self.stream, self.codec, self.seq, self.count, self.raw, length, self.received,
         self.group, _crc) = HEADER.unpack_from(data, at)
        self.kind, self.ends_group = kind & ~ENDS_GROUP, bool(kind & ENDS_GROUP)
        self.start, self.end = at, at + HEADER.size + length + 4
        self.payload = data[at + HEADER.size : self.end - 4]


def block_at(data, at):
    """The whole block at this place, or None."""
    if len(data) - at < HEADER.size + 4 or data[at : at + 4] != MAGIC:
        return None
    if data[at + 4] == 1 and zlib.crc32(data[at : at + 36]) == struct.unpack_from("<I", data, at + 36)[0]:
        sys.exit("format version 1: this reader knows 2")
    if zlib.crc32(data[at : at + 40]) != struct.unpack_from("<I", data, at + 40)[0]:
        return None
    block = Block(data, at)
    if block.version != VERSION:
        sys.exit(f"format version {block.version}: this reader knows {VERSION}")
    if block.end > len(data) or zlib.crc32(data[at : block.end - 4]) != struct.unpack_from("<I", data, block.end - 4)[0]:
        return None
    return block


def walk(data):
    """All whole blocks, and the stretches (start, end) between them that are none."""
    at, found, bad = 0, [], []
    while at < len(data):
        block = block_at(data, at)
        if block:
            found.append(block)
            at = block.end
            continue
        start, at = at, data.find(MAGIC, at + 1)
        while at != -1 and not block_at(data, at):
            at = data.find(MAGIC, at + 1)
        at = len(data) if at == -1 else at
        bad.append((start, at))
    return found, bad


def check_groups(found, bad):
    """Blocks that follow each other without damage between agree on where their group begins."""
    places = {end for _, end in bad}
    begins = 0
    for block in found:
        if block.start not in places:
            assert block.group == begins, f"the block at {block.start} says another group: {block.group}, not {begins}"
        begins = block.end if block.ends_group else block.group


def torn_from(found, bad, length):
    """Where the last group begins, if it lacks its end: a write that was cut off."""
    if found and not found[-1].ends_group:
        return found[-1].group
    if bad and bad[-1][1] == length:
        return bad[-1][0]
    return length


def unpack(block, dictionary):
    """The payload as it was; None without a zstd program."""
    if block.codec & 0xF0:
        sys.exit("an encrypted payload: this reader has no key")
    if block.codec == 0:
        return block.payload
    if not shutil.which("zstd"):
        return None
    command = ["zstd", "-d", "-c", "-q"]
    with tempfile.NamedTemporaryFile(suffix=".zst") as file:
        file.write(block.payload)
        file.flush()
        if block.codec == 2:
            command += ["-D", dictionary]
        raw = subprocess.run([*command, file.name], check=True, capture_output=True).stdout
    assert len(raw) == block.raw, "the unpacked length is another one"
    return raw


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

    def per_stream(self):
        return [self.u64() for _ in STREAMS]

    def ending(self):
        if not self.u64():
            return None
        return {"segment": self.u64(), "len": self.u64(), "records": self.u64(), "next": self.per_stream()}

    def totals(self):
        delivered, dead_lettered = self.u64(), self.u64()
        dropped = {self.u64(): self.u64() for _ in range(self.u64())}
        return {"delivered": delivered, "dead_lettered": dead_lettered, "dropped": dropped}

    def front(self):
        front = {
            "segment": self.u64(),
            "first": self.per_stream(),
            "previous": self.ending(),
            "needed_from": self.u64(),
            "ack_floor": self.per_stream(),
            "totals": [self.totals() for _ in STREAMS],
        }
        assert self.at == len(self.data), "the front has more in it than this reader knows"
        return front


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


def read(directory, dictionary):
    """Fronts by segment, and each segment's bytes, blocks and damaged stretches."""
    fronts, segments = {}, []
    for name in sorted(name for name in os.listdir(directory) if name.endswith(".journal")):
        number = int(name.split(".")[0])
        with open(os.path.join(directory, name), "rb") as file:
            data = file.read()
        first = block_at(data, 0)
        if first and first.kind == FRONT:
            front = Bincode(unpack(first, dictionary)).front()
            assert front["segment"] == number, "the front is another segment's"
            fronts[number] = front
        segments.append((number, data))
    lengths = {front["previous"]["segment"]: front["previous"]["len"] for front in fronts.values() if front["previous"]}
    return fronts, [(number, data[: lengths.get(number, len(data))]) for number, data in segments]


def main():
    directory, dictionary = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    fronts, segments = read(directory, dictionary)
    for _, front in sorted(fronts.items()):
        print(json.dumps({"front": front}))
    floor = fronts[max(fronts)]["ack_floor"] if fronts else [0 for _ in STREAMS]
    whole = damaged = torn = 0
    for number, data in segments:
        found, bad = walk(data)
        check_groups(found, bad)
        is_last = number >= max(fronts, default=0)
        end = torn_from(found, bad, len(data)) if is_last else len(data)
        torn += len(data) - end
        damaged += sum(stop - start for start, stop in bad if stop <= end)
        for block in (block for block in found if block.end <= end):
            whole += 1
            if block.kind != RECORDS:
                continue
            raw = unpack(block, dictionary)
            records = list(framed(raw)) if raw is not None else [None] * block.count
            assert len(records) == block.count, "the block holds another number of records"
            for seq, record in enumerate(records, block.seq):
                if seq >= floor[block.stream]:
                    record = None if record is None else record.hex()
                    print(json.dumps([STREAMS[block.stream], seq, block.received, record]))
    print(json.dumps({"blocks": whole, "damaged_bytes": damaged, "torn_bytes": torn}))


main()
