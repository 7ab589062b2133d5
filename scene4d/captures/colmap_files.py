"""COLMAP's model files, text and binary. Every count in a binary header is bounded by the bytes that are left.

Source: colmap.github.io/format.html, /rigs.html.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scene4d.captures.checks import array, integer
from scene4d.captures.lens import Lens
from scene4d.captures.lens_files import COLMAP_MODELS, colmap_lens
from scene4d.errors import InputError

SEEN = np.dtype([("xy", "<f8", 2), ("point", "<i8")])  # where an image saw a point
TRACK = np.dtype([("image", "<i4"), ("index", "<i4")])  # which images saw a point


@dataclass(frozen=True, eq=False)
class ColmapImage:
    id: int
    name: str
    world_to_cam: np.ndarray  # [4, 4]
    camera: int
    pixels: np.ndarray  # [M, 2] float64; the first pixel's centre is (0.5, 0.5), as here
    points: np.ndarray  # [M] int64 point ids, -1 = none


@dataclass(frozen=True, eq=False)
class ColmapModel:
    cameras: dict[int, Lens]
    images: list[ColmapImage]
    point_ids: np.ndarray  # [P] int64
    xyz: np.ndarray  # [P, 3] float64
    rgb: np.ndarray  # [P, 3] uint8
    frames: dict[int, int] = field(default_factory=dict)  # image id -> frame id, from frames.bin or frames.txt


def read_model(folder: Path) -> ColmapModel:
    """The model in a folder; binary files are preferred to text, as COLMAP does."""
    binary = (folder / "images.bin").is_file()
    if binary:
        cameras, images = _cameras_bin(folder / "cameras.bin"), _images_bin(folder / "images.bin")
    else:
        cameras, images = _cameras_txt(folder / "cameras.txt"), _images_txt(folder / "images.txt")
    for image in images:
        if image.camera not in cameras:
            raise InputError(
                f"{folder}: image {image.name!r} names camera {image.camera}, which the model does not have"
            )
    points = folder / ("points3D.bin" if binary else "points3D.txt")
    ids, xyz, rgb = np.zeros(0, np.int64), np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
    if points.is_file():
        ids, xyz, rgb = _points_bin(points) if binary else _points_txt(points)
    frames = folder / ("frames.bin" if binary else "frames.txt")
    found = {}
    if frames.is_file():
        found = _frames_bin(frames) if binary else _frames_txt(frames)
    return ColmapModel(cameras, images, ids, xyz, rgb, found)


def _pose(qvec: object, tvec: object, where: str) -> np.ndarray:
    w, x, y, z = q = array(qvec, (4,), f"{where}: quaternion")
    if not 0.5 < np.linalg.norm(q) < 2.0:
        raise InputError(f"{where}: its quaternion must have length 1, got {np.linalg.norm(q):g}")
    w, x, y, z = q / np.linalg.norm(q)
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = array(tvec, (3,), f"{where}: translation")
    return pose


# -- binary ----------------------------------------------------------------------------------------------------------


class _Bytes:
    """A little-endian file read piece by piece, each checked against what is left."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"{path}: is missing")
        self.path, self.data, self.at = path, path.read_bytes(), 0

    def take(self, form: str) -> tuple:
        size = struct.calcsize(form)
        if self.at + size > len(self.data):
            raise InputError(f"{self.path}: ends after {len(self.data)} bytes in the middle of an entry: truncated")
        values = struct.unpack_from(form, self.data, self.at)
        self.at += size
        return values

    def count(self, form: str, least: int) -> int:
        """A count of entries of at least `least` bytes each."""
        (found,) = self.take(form)
        if found * least > len(self.data) - self.at:
            left = len(self.data) - self.at
            raise InputError(f"{self.path}: promises {found} entries, {left} bytes hold fewer: truncated or damaged")
        return found

    def table(self, dtype: np.dtype, count: int) -> np.ndarray:
        found = np.frombuffer(self.data, dtype, count, self.at)
        self.at += count * dtype.itemsize
        return found

    def text(self) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise InputError(f"{self.path}: a name has no end: truncated or damaged")
        found = self.data[self.at : end].decode("utf-8", "replace")
        self.at = end + 1
        return found


def _cameras_bin(path: Path) -> dict[int, Lens]:
    data = _Bytes(path)
    cameras = {}
    for _ in range(data.count("<Q", 48)):
        id, model, width, height = data.take("<iiQQ")
        if model not in COLMAP_MODELS:
            known = ", ".join(f"{i} {name}" for i, (name, _) in COLMAP_MODELS.items())
            raise InputError(f"{path}: camera {id}: model {model} is not supported; known: {known}")
        name, count = COLMAP_MODELS[model]
        cameras[id] = colmap_lens(name, data.take(f"<{count}d"), width, height, f"{path.name}: camera {id}")
    return cameras


def _images_bin(path: Path) -> list[ColmapImage]:
    data = _Bytes(path)
    images = []
    for _ in range(data.count("<Q", 73)):
        id, *pose, camera = data.take("<i7di")
        name = data.text()
        table = data.table(SEEN, data.count("<Q", SEEN.itemsize))
        matrix = _pose(pose[:4], pose[4:], f"{path.name}: {name!r}")
        images.append(ColmapImage(id, name, matrix, camera, table["xy"].copy(), table["point"].copy()))
    return images


def _points_bin(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    data = _Bytes(path)
    count = data.count("<Q", 51)
    ids, xyz, rgb = np.empty(count, np.int64), np.empty((count, 3)), np.empty((count, 3), np.uint8)
    for i in range(count):
        id, *rest = data.take("<q3d3Bd")
        ids[i], xyz[i], rgb[i] = id, rest[:3], rest[3:6]
        data.table(TRACK, data.count("<Q", TRACK.itemsize))
    return ids, xyz, rgb


def _frames_bin(path: Path) -> dict[int, int]:
    data = _Bytes(path)
    found = {}
    for _ in range(data.count("<Q", 68)):
        frame, _rig, *_pose7 = data.take("<II7d")
        for _ in range(data.count("<I", 16)):
            _kind, _sensor, image = data.take("<iIQ")
            found[image] = frame
    return found


# -- text ------------------------------------------------------------------------------------------------------------


def _lines(path: Path) -> list[str]:
    """Lines without comments; empty lines stay, because images without points have an empty second line."""
    if not path.is_file():
        raise InputError(f"{path}: is missing")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{path}: is not a text file: {str(e)[:80]}") from e
    return [line for line in lines if not line.lstrip().startswith("#")]


def _numbers(words: list[str], where: str) -> list[float]:
    try:
        return [float(w) for w in words]
    except ValueError as e:
        raise InputError(f"{where}: {e}") from e


def _ids(words: list[str], where: str) -> list[int]:
    return [integer(v, where, -1, 2**53) for v in _numbers(words, where)]


def _cameras_txt(path: Path) -> dict[int, Lens]:
    cameras = {}
    for line in _lines(path):
        words = line.split()
        if not words:
            continue
        where = f"{path.name}: camera {words[0][:20]}"
        if len(words) < 5:
            raise InputError(f"{where}: a line must be ID MODEL WIDTH HEIGHT PARAMS, got {line[:60]!r}")
        (id, width, height) = _ids([words[0], words[2], words[3]], where)
        cameras[id] = colmap_lens(words[1], _numbers(words[4:], where), width, height, where)
    return cameras


def _images_txt(path: Path) -> list[ColmapImage]:
    lines = _lines(path)
    while lines and not lines[0].strip():
        lines.pop(0)
    images = []
    for top in range(0, len(lines), 2):
        words = lines[top].split(maxsplit=9)
        if not words:
            continue
        where = f"{path.name}: image {words[0][:20]}"
        if len(words) < 10:
            raise InputError(f"{where}: a line must be ID QW QX QY QZ TX TY TZ CAMERA NAME, got {lines[top][:60]!r}")
        id, camera = _ids([words[0], words[8]], where)
        pose = _pose(_numbers(words[1:5], where), _numbers(words[5:8], where), where)
        seen = _numbers(lines[top + 1].split() if top + 1 < len(lines) else [], f"{where}: points")
        if len(seen) % 3:
            raise InputError(f"{where}: its second line must hold triples X Y POINT3D_ID, got {len(seen)} numbers")
        table = np.array(seen).reshape(-1, 3)
        images.append(ColmapImage(id, words[9].strip(), pose, camera, table[:, :2], table[:, 2].astype(np.int64)))
    return images


def _points_txt(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = [words[:7] for line in _lines(path) if (words := line.split())]
    if any(len(r) < 7 for r in rows):
        raise InputError(f"{path}: a line must be ID X Y Z R G B ERROR TRACK")
    try:
        table = np.array(rows, np.float64).reshape(-1, 7)
    except ValueError as e:
        raise InputError(f"{path}: {str(e)[:80]}") from e
    with np.errstate(invalid="ignore"):
        return table[:, 0].astype(np.int64), table[:, 1:4], table[:, 4:7].clip(0, 255).astype(np.uint8)


def _frames_txt(path: Path) -> dict[int, int]:
    found = {}
    for line in _lines(path):
        words = line.split()
        if not words:
            continue
        # FRAME RIG QW QX QY QZ TX TY TZ COUNT, then triples TYPE SENSOR IMAGE
        triples = words[10:]
        if len(words) < 10 or len(triples) % 3:
            raise InputError(
                f"{path}: a line must be FRAME RIG pose COUNT and triples TYPE SENSOR IMAGE, got {line[:60]!r}"
            )
        kinds = [triples[i + 2] for i in range(0, len(triples), 3)]
        (frame, *images) = _ids([words[0], *kinds], path.name)
        found |= dict.fromkeys(images, frame)
    return found
