"""Binary PLY files as tables of numbers. The header is checked against the size of the file before anything is read.

Only what our files need: binary, little-endian, no lists. A table is a numpy structured array, one field a property.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scene4d.errors import InputError

TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4",
    "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float32": "f4", "float64": "f8",
}  # fmt: skip
NAMES = {np.dtype(code): name for name, code in reversed(TYPES.items())}  # the old names: every reader knows them
MAX_HEADER = 1 << 16
MAX_DIGITS = 12  # of a count
END = b"end_header\n"


@dataclass(frozen=True)
class Ply:
    """The content of a file."""

    tables: Mapping[str, np.ndarray]  # element -> structured array [count]
    comments: tuple[str, ...]


def ply_bytes(tables: Mapping[str, np.ndarray], comments: Sequence[str] = ()) -> list[bytes]:
    """A file, in parts. The fields of the tables become properties in their order."""
    lines = ["ply", "format binary_little_endian 1.0", *(f"comment {comment}" for comment in comments)]
    body = []
    for name, table in tables.items():
        lines.append(f"element {name} {len(table)}")
        packed = np.dtype([(field, table.dtype[field].newbyteorder("<")) for field in table.dtype.names or ()])
        lines += [f"property {NAMES[packed[field].newbyteorder('=')]} {field}" for field in packed.names or ()]
        body.append(table.astype(packed, copy=False).tobytes())
    return ["\n".join(lines).encode("ascii") + b"\n" + END, *body]


def parse_ply(data: bytes, path: Path) -> Ply:
    """The tables in the content of `path`; they are views of `data`.

    Raises:
        InputError: it is no PLY of this kind, or has not exactly the bytes that its header promises.
    """
    if not data.startswith((b"ply\n", b"ply\r\n")):
        raise InputError(f"{path}: is no PLY file")
    end = data.find(END, 0, MAX_HEADER)
    if end < 0:
        raise InputError(f"{path}: its header has no end within {MAX_HEADER} bytes")
    types, counts, comments = _parse_header(data[:end].decode("latin-1"), path)
    start, promised = end + len(END), sum(counts[name] * types[name].itemsize for name in types)
    if promised != len(data) - start:
        fault = "truncated" if promised > len(data) - start else "trailing bytes"
        raise InputError(f"{path}: its header promises {promised} bytes, {len(data) - start} follow: {fault}")
    tables = {}
    for name, dtype in types.items():
        size = counts[name] * dtype.itemsize
        tables[name] = np.frombuffer(memoryview(data)[start : start + size], dtype)
        start += size
    return Ply(tables, comments)


def _parse_header(text: str, path: Path) -> tuple[dict[str, np.dtype], dict[str, int], tuple[str, ...]]:
    """Types and counts of the elements, and the comments."""
    fields: dict[str, dict[str, str]] = {}
    counts: dict[str, int] = {}
    comments, form, element = [], None, None
    for line in text.rstrip("\n").split("\n")[1:]:
        match line.split():
            case ["comment" | "obj_info", *_]:
                comments.append(line.partition(" ")[2])
            case ["format", form, "1.0"]:
                pass
            case ["element", element, count] if element not in counts and _is_count(count):
                counts[element], fields[element] = int(count), {}
            case ["property", kind, name] if element is not None and kind in TYPES and name not in fields[element]:
                fields[element][name] = "<" + TYPES[kind]
            case _:
                raise InputError(f"{path}: its header has a line that is not understood: {line[:60]!r}")
    if form != "binary_little_endian":
        raise InputError(f"{path}: its format must be binary_little_endian, got {str(form)[:40]!r}")
    empty = [name for name in fields if not fields[name]]
    if empty:
        raise InputError(f"{path}: element {empty[0][:40]!r} has no properties")
    return {name: np.dtype(list(f.items())) for name, f in fields.items()}, counts, tuple(comments)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS
