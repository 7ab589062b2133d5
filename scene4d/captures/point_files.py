"""Sparse points from .ply and .npy files, never more memory than the file has bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from scene4d.captures.capture import Points
from scene4d.captures.checks import MAX_COORDINATE, read_npy
from scene4d.errors import InputError

PLY_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
MAX_HEADER = 1 << 16


def make_points(xyz: np.ndarray, rgb: np.ndarray | None, where: str) -> Points | None:
    """Points of float64 [P, 3] positions and 0-255 colours; those that are not finite or absurdly far are left out."""
    with np.errstate(invalid="ignore"):
        good = (np.abs(xyz) <= MAX_COORDINATE).all(-1)  # false for NaN
    if not good.any():
        if len(xyz):
            raise InputError(f"{where}: none of the {len(xyz)} points is finite")
        return None
    colors = None
    if rgb is not None and rgb[good].any():  # all black = the file has no colours
        colors = torch.from_numpy((rgb[good] / 255.0).clip(0.0, 1.0).astype(np.float32))
    return Points(torch.from_numpy(xyz[good].astype(np.float32)), colors)


def read_points(path: Path) -> Points | None:
    """Points of a .ply file with x y z (and red green blue), or of a .npy array [P, 3]."""
    if not path.is_file():
        raise InputError(f"{path}: the point file is missing")
    if path.suffix.lower() == ".npy":
        found = read_npy(path)
        if found.ndim != 2 or found.shape[1] != 3:
            raise InputError(f"{path}: points must have shape [P, 3], got {list(found.shape)}")
        return make_points(found.astype(np.float64), None, str(path))
    if path.suffix.lower() != ".ply":
        raise InputError(f"{path}: points must be a .ply or .npy file")
    table, types = _read_ply(path)
    names = table.dtype.names or ()
    if not {"x", "y", "z"} <= set(names):
        raise InputError(f"{path}: its vertices have no x, y, z")
    xyz = np.stack([table[n].astype(np.float64) for n in "xyz"], -1)
    colors = ("red", "green", "blue")
    rgb = np.stack([table[n].astype(np.float64) for n in colors], -1) if set(colors) <= set(names) else None
    if rgb is not None and PLY_TYPES[types["red"]][0] == "f":
        rgb = rgb * 255.0
    return make_points(xyz, rgb, str(path))


def _read_ply(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    """The vertex table, which must be the first element and have no lists, and the PLY types of its columns."""
    with path.open("rb") as file:
        head = file.read(MAX_HEADER)
        end = head.find(b"end_header")
        if not head.startswith(b"ply") or end < 0:
            raise InputError(f"{path}: is not a PLY file, or its header is longer than {MAX_HEADER} bytes")
        body = head.index(b"\n", end) + 1 if b"\n" in head[end:] else len(head)
        form, count, fields = _ply_header(path, head[:end].decode("latin-1"))
        size = path.stat().st_size - body
        if form == "ascii":
            if count * max(1, 2 * len(fields)) > size + 1:
                raise InputError(f"{path}: promises {count} points, {size} bytes hold fewer: truncated")
            file.seek(body)
            rows = [row.split() for row in file.read().splitlines()[:count]]
            try:
                return np.array([tuple(row) for row in rows], dtype=[(n, "f8") for n, _ in fields]), dict(fields)
            except (ValueError, TypeError) as e:
                raise InputError(f"{path}: a row of points is malformed: {str(e)[:80]}") from e
        order = "<" if form == "binary_little_endian" else ">"
        dtype = np.dtype([(n, order + PLY_TYPES[t]) for n, t in fields])
        if count * dtype.itemsize > size:
            raise InputError(f"{path}: promises {count} points, {size} bytes hold fewer: truncated")
        file.seek(body)
        return np.frombuffer(file.read(count * dtype.itemsize), dtype), dict(fields)


def _ply_header(path: Path, text: str) -> tuple[str, int, list[tuple[str, str]]]:
    form, count, fields, elements = "", -1, [], 0
    for line in text.splitlines()[1:]:
        words = line.split()
        if words[:1] == ["format"] and len(words) > 1:
            form = words[1]
        elif words[:1] == ["element"] and len(words) == 3:
            elements += 1
            if elements == 1:
                if words[1] != "vertex" or not words[2].isdecimal() or len(words[2]) > 12:
                    raise InputError(f"{path}: its first element must be `vertex` and a count, got {line[:60]!r}")
                count = int(words[2])
        elif words[:1] == ["property"] and elements == 1:
            if len(words) != 3 or words[1] not in PLY_TYPES or words[2] in dict(fields):
                raise InputError(f"{path}: unsupported vertex property {line[:60]!r}")
            fields.append((words[2], words[1]))
    if form not in ("ascii", "binary_little_endian", "binary_big_endian") or count < 0 or not fields:
        raise InputError(f"{path}: its PLY header is incomplete")
    return form, count, fields
