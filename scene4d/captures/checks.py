"""Reading what others wrote: bounded, contained, and refused in one clear line.

Every value that a capture file names is checked here before anything is allocated or opened because of it.
Messages say what, where, why and what to do.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np

from scene4d.errors import InputError

MAX_JSON_BYTES = 128 << 20  # DyCheck's largest file has 70 kB; 18,000 poses of 16 numbers take 10 MB
MAX_SIDE = 32768  # pixels; OpenCV's remap stops at 32767
MAX_PIXELS = 1 << 28
MAX_COORDINATE = 1e9  # float32 keeps no millimetres beyond; larger numbers are broken files
RIGID_TOLERANCE = 1e-3  # files with four decimals are off by up to 1e-4


class CaptureWarning(UserWarning):
    """Something in a capture was ambiguous or odd; the message says how it was read."""


def read_json(path: Path) -> dict | list:
    """The object or list in a JSON file. Raises InputError for a missing, oversized, malformed or too deep file."""
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise InputError(f"{path}: {size} bytes is more than any capture file has; is it the right file?")
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {e.strerror or e}") from e
    except RecursionError as e:
        raise InputError(f"{path}: nested too deeply to be a capture file") from e
    except InputError:
        raise
    except ValueError as e:  # also UnicodeDecodeError, JSONDecodeError and integers of thousands of digits
        raise InputError(f"{path}: is not valid JSON: {str(e)[:120]}; write the file again") from e
    if not isinstance(value, dict | list):
        raise InputError(f"{path}: must hold a JSON object or list, got {type(value).__name__}")
    return value


def read_object(path: Path) -> dict:
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: must hold a JSON object, got a list")
    return value


def objects(value: object, where: str) -> list[dict]:
    """A non-empty list of JSON objects."""
    if not isinstance(value, list) or not value or not all(isinstance(v, dict) for v in value):
        raise InputError(f"{where}: must be a non-empty list of objects")
    return value


def inside(root: Path, name: object, where: str) -> Path:
    """The path of a file that a capture names. It must lie in the capture's folder (links there are followed)."""
    if not isinstance(name, str) or not name or "\0" in name or len(name) > 4096:
        raise InputError(f"{where}: a file name must be a non-empty string, got {str(name)[:80]!r}")
    plain = os.path.normpath(name.replace("\\", "/"))
    if os.path.isabs(plain):
        plain = os.path.relpath(plain, os.path.abspath(root))
    if plain == ".." or plain.startswith("../"):
        raise InputError(f"{where}: {name!r} lies outside of the capture's folder; move the files into it")
    return root / plain


def number(value: object, where: str, low: float = -MAX_COORDINATE, high: float = MAX_COORDINATE) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{where}: must be a number, got {str(value)[:80]!r}")
    if not (low <= value <= high):  # also false for NaN
        raise InputError(f"{where}: must be in [{low:g}, {high:g}], got {_brief(value)}")
    return float(value)


def integer(value: object, where: str, low: int = 0, high: int = 10**9) -> int:
    found = number(value, where, low, high)
    if found != int(found):
        raise InputError(f"{where}: must be a whole number, got {found:g}")
    return int(found)


def _brief(value: int | float) -> str:
    try:
        return f"{value:g}"
    except OverflowError:
        return "an integer beyond 1e308"


def array(value: object, shape: tuple[int, ...], where: str) -> np.ndarray:
    """A finite float64 array of the given shape (-1 = any length)."""
    try:
        found = np.asarray(value, dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as e:
        raise InputError(f"{where}: must be numbers of shape {list(shape)}: {str(e)[:80]}") from e
    if found.ndim != len(shape) or any(s not in (-1, n) for s, n in zip(shape, found.shape, strict=True)):
        raise InputError(f"{where}: must have shape {list(shape)}, got {list(found.shape)}")
    if not np.isfinite(found).all():
        raise InputError(f"{where}: holds NaN or infinity")
    if found.size and np.abs(found).max() > MAX_COORDINATE:
        raise InputError(f"{where}: holds {np.abs(found).max():.3g}, larger than {MAX_COORDINATE:g}")
    return found


def rigid(matrix: object, where: str) -> np.ndarray:
    """A [4, 4] float64 rotation and translation from a [3, 4] or [4, 4] matrix.

    The nearest rotation is taken, so that rounded files give exactly rigid poses. Raises InputError for NaN,
    scale, shear and mirrors.
    """
    found = array(matrix, (-1, 4), where)
    if len(found) not in (3, 4):
        raise InputError(f"{where}: a pose must have shape [4, 4] or [3, 4], got {list(found.shape)}")
    if len(found) == 4 and np.abs(found[3] - (0, 0, 0, 1)).max() > RIGID_TOLERANCE:
        raise InputError(f"{where}: the last row of a pose must be 0 0 0 1, got {found[3].tolist()}")
    rotation = found[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > RIGID_TOLERANCE:
        raise InputError(
            f"{where}: the pose is not rigid: its 3x3 part scales or shears (is it transposed, or scaled?)"
        )
    if np.linalg.det(rotation) < 0:
        raise InputError(f"{where}: the pose mirrors (determinant -1); flip one axis of the camera or the world")
    u, _, vt = np.linalg.svd(rotation)
    pose = np.eye(4)
    pose[:3, :3] = u @ vt
    pose[:3, 3] = found[:3, 3]
    return pose


def inverse(pose: np.ndarray) -> np.ndarray:
    """The inverse of a rigid [4, 4] pose."""
    out = np.eye(4)
    out[:3, :3] = pose[:3, :3].T
    out[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
    return out


def image_size(width: object, height: object, where: str) -> tuple[int, int]:
    w = integer(width, f"{where}: width", 1, MAX_SIDE)
    h = integer(height, f"{where}: height", 1, MAX_SIDE)
    if w * h > MAX_PIXELS:
        raise InputError(f"{where}: {w}x{h} has more than {MAX_PIXELS} pixels")
    return w, h


def read_npy(path: Path) -> np.ndarray:
    """A numeric array from a .npy file; never more memory than the file has bytes, never pickles."""
    try:
        with np.errstate(over="raise"):  # a size beyond 64 bits
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(mapped, np.ndarray):
            mapped.close()
            raise InputError(f"{path}: must be a .npy array, is an .npz archive")
        if mapped.dtype.kind not in "fiub":
            raise InputError(f"{path}: must hold numbers, holds {mapped.dtype}")
        return np.array(mapped)
    except InputError:
        raise
    except (OSError, ValueError, EOFError, ArithmeticError, SyntaxError) as e:
        raise InputError(f"{path}: is not a readable .npy array: {str(e)[:120]}") from e


def frame_times(count: int, fps: float | None) -> list[float]:
    """Seconds of frames 0..count-1; without fps the frames span one second."""
    step = 1.0 / fps if fps else 1.0 / max(1, count - 1)
    return [i * step for i in range(count)]


def frames_per_second(value: object, where: str) -> float:
    fps = number(value, where, 1e-3, 1e5)
    if not math.isfinite(1.0 / fps):
        raise InputError(f"{where}: must be positive, got {fps:g}")
    return fps


def chosen_frames(text: str, last: int, where: str) -> range:
    """The frame indices 0..last that "a:b:step" names: a Python slice, or one index."""
    parts = text.split(":")
    try:
        numbers = [int(p) if p.strip() else None for p in parts]
        if len(numbers) == 1 and numbers[0] is not None:
            numbers = [numbers[0], numbers[0] + 1 or None]  # -1 is the last frame, not an empty range
        return range(last + 1)[slice(*numbers)]
    except (ValueError, TypeError) as e:
        raise InputError(f"{where}: must be a:b:step of whole numbers, got {text[:40]!r}") from e
