#!/usr/bin/env python3
"""A second reader of the on-disk format, written from docs/format.md alone: Python's standard library, and the zstd
command for compressed payloads. Prints one JSON line a block, in the order of the journal.

    read_spool.py <spool folder>/journal [dictionary]
"""

import json
import pathlib
import struct
import subprocess
import sys
import zlib

HEADER = struct.Struct("<4sBBBBQIIIqI")
KINDS = {1: "records", 2: "notes", 3: "state", 4: "dead letters", 5: "dead removed", 6: "dead retried"}
STREAMS = ["events", "stats", "node_rooms"]


def blocks(data):
    """Yields (offset, header fields, packed payload) of whole blocks; steps over everything else."""
    at = 0
    while (at := data.find(b"LKSB", at)) >= 0:
        head = data[at : at + HEADER.size]
        if len(head) == HEADER.size and zlib.crc32(head[:-4]) == struct.unpack("<I", head[-4:])[0]:
            fields = HEADER.unpack(head)
            if fields[1] != 1:
                sys.exit(f"format version {fields[1]} is not known here")
            end = at + HEADER.size + fields[8]
            crc = data[end : end + 4]
            if len(crc) == 4 and zlib.crc32(data[at:end]) == struct.unpack("<I", crc)[0]:
                yield at, fields, data[at + HEADER.size : end]
                at = end + 4
                continue
        at += 1


def unpack(codec, packed, dictionary):
    if codec >> 4:
        return None  # encrypted
    if codec & 15 == 0:
        return packed
    command = ["zstd", "-d", "-c", "-q"]
    if codec & 15 == 2:
        command += ["-D", dictionary]
    return subprocess.run(command, input=packed, capture_output=True, check=True).stdout


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def records(payload):
    at = 0
    while at < len(payload):
        assert payload[at] == 0x0A, "field 1, length-delimited"
        length, at = varint(payload, at + 1)
        yield payload[at : at + length]
        at += length


def main():
    dictionary = sys.argv[2] if len(sys.argv) > 2 else None
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.journal")):
        for at, fields, packed in blocks(path.read_bytes()):
            _, _, kind, stream, codec, ordinal, count, raw_len, _, received_at, _ = fields
            line = {"segment": int(path.stem), "offset": at, "kind": KINDS[kind]}
            payload = unpack(codec, packed, dictionary)
            assert payload is None or len(payload) == raw_len
            if kind == 1:
                line |= {"stream": STREAMS[stream], "ordinal": ordinal, "count": count, "received_at": received_at}
                line["records"] = payload and [record.hex() for record in records(payload)]
            print(json.dumps(line))


main()
