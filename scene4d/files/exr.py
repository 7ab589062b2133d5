"""OpenEXR files: float32 as it is, one named channel a plane."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from scene4d.errors import InputError
from scene4d.files.atomic import write_atomic


def write_exr(path: Path, planes: Mapping[str, np.ndarray]) -> None:
    """Write float32 planes [H, W] under their names (R, Z, flow.x, ...), without loss (ZIP).

    Raises:
        ImportError: the package openexr is not there.
        ValueError: planes differ in shape, or are no float32.
        InputError: it cannot be written.
    """
    write_atomic(path, exr_bytes(planes))


def exr_bytes(planes: Mapping[str, np.ndarray]) -> bytes:
    """As `write_exr`, into memory."""
    OpenEXR = _openexr()
    shapes = {plane.shape for plane in planes.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2 or any(p.dtype != np.float32 for p in planes.values()):
        got = {name: (str(plane.dtype), plane.shape) for name, plane in planes.items()}
        raise ValueError(f"planes must be float32 [H, W] of one shape, got {got}")
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    buffer = io.BytesIO()
    channels = {name: np.ascontiguousarray(plane) for name, plane in planes.items()}
    OpenEXR.File(header, channels).write(buffer)
    return buffer.getvalue()


def read_exr(path: Path) -> dict[str, np.ndarray]:
    """The planes [H, W] of a file by name. Raises InputError: it is missing or none; ImportError as `write_exr`."""
    OpenEXR = _openexr()
    if not path.is_file():
        raise InputError(f"{path}: is missing")
    try:
        channels = OpenEXR.File(str(path), separate_channels=True).channels()
    except (RuntimeError, ValueError, OSError) as e:
        raise InputError(f"{path}: is no OpenEXR file: {' '.join(str(e).split())[:100]}") from e
    return {name: channel.pixels for name, channel in channels.items()}


def _openexr():
    try:
        import OpenEXR
    except ImportError as e:
        raise ImportError("EXR files need OpenEXR: pip install 'scene4d[formats]'") from e
    return OpenEXR
