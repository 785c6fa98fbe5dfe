"""Order the tensors of a safetensors file so that devices can use them where they lie.

A device takes the pages of the mapped file as its own memory, if the operands in them are aligned. The format allows
no gaps between tensors, but any order: the data begin a page, the experts of a table lie side by side, and what is a
multiple of a larger power of two comes first, so that everything is aligned as well as its own length allows.
Needs nothing but Python. First thing to break: a tensor whose bytes differ before and after.
"""
import argparse
import json
import os
import re
import struct
from pathlib import Path

PAGE = 4096
EXPERT = re.compile(r"\.experts\.(\d+)\.")


def read(path):
    """(metadata, {name: (header entry, bytes)}) of a file."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    metadata = header.pop("__metadata__", None)
    return metadata, {n: (e, data[e["data_offsets"][0] : e["data_offsets"][1]]) for n, e in header.items()}


def order(sizes):
    """The names of {name: bytes} in the order of the file."""
    tables = {}
    for name in sizes:
        tables.setdefault(EXPERT.sub(".experts.*.", name), []).append(name)
    for names in tables.values():
        names.sort(key=lambda name: int(EXPERT.search(name).group(1)) if EXPERT.search(name) else 0)

    def key(table):
        total = sum(sizes[name] for name in tables[table])
        return -min(PAGE, total & -total), table

    return [name for table in sorted(tables, key=key) for name in tables[table]]


def rewrite(path):
    """Puts the file's tensors in order, atomically."""
    metadata, tensors = read(path)
    names = order({name: len(data) for name, (_, data) in tensors.items()})
    header, at = ({"__metadata__": metadata} if metadata else {}), 0
    for name in names:
        entry, data = tensors[name]
        header[name] = {**entry, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % PAGE)
    partial = Path(str(path) + ".new")
    with open(partial, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            file.write(tensors[name][1])
    os.replace(partial, path)


def main():
    ap = argparse.ArgumentParser(description="order the tensors of a safetensors file for use in place")
    ap.add_argument("file")
    rewrite(ap.parse_args().file)


if __name__ == "__main__":
    main()
