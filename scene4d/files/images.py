"""Channels of a rendering as files that keep their values: 16-bit PNG, EXR, npy; and PNG pictures to look at.

What the numbers in a PNG stand for: `coding`, and docs/rendering.md. H W pixels.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from scene4d.errors import InputError
from scene4d.files.atomic import write_atomic

# channel -> names of its planes in an EXR file
EXR_PLANES = {
    "rgb": ("R", "G", "B"),
    "alpha": ("A",),
    "depth": ("Z",),
    "flow": ("flow.x", "flow.y"),
    "normal": ("N.x", "N.y", "N.z"),
    "label": ("label",),
    "id": ("id",),
}
FLOW_STEPS, FLOW_ZERO = 64.0, 32768  # KITTI 2015: value = 64 * pixels + 2^15


@dataclass(frozen=True)
class Coded:
    """A map as whole numbers, and how many of its pixels did not fit."""

    values: np.ndarray  # uint16 [H, W] or [H, W, 3]
    clipped: int


def png_bytes(image: np.ndarray) -> bytes:
    """uint8 or uint16 [H, W] or RGB [H, W, 3] as PNG. Raises ValueError: another dtype or shape."""
    good = image.dtype in (np.uint8, np.uint16) and (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3))
    if not good or image.size == 0:
        raise ValueError(f"image must be uint8 or uint16 [H, W] or [H, W, 3], got {image.dtype} {list(image.shape)}")
    done, data = cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)  # OpenCV's order is BGR
    assert done
    return data.tobytes()


def npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def write_png(path: Path, image: np.ndarray) -> None:
    """As `png_bytes`, to a file. Raises InputError: it cannot be written."""
    write_atomic(path, png_bytes(image))


def read_png(path: Path) -> np.ndarray:
    """A PNG as it is: uint8 or uint16, [H, W] or RGB [H, W, 3]. Raises InputError."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if image is None:
        raise InputError(f"{path}: is missing or no PNG")
    return image[..., ::-1] if image.ndim == 3 else image


def encode(channel: str, values: np.ndarray, depth_unit: float) -> Coded:
    """A channel's map as 16-bit numbers; `coding` says how to read them.

    Depths are counted in `depth_unit` scene units.
    """
    values = np.asarray(values, np.float64)  # float32 would lose a part of a step
    if channel in ("rgb", "alpha"):
        return Coded(to_integers(values, 65535), 0)
    if channel == "normal":
        shown = to_integers(0.5 + 0.5 * values, 65535)
        return Coded(np.where((values == 0).all(-1, keepdims=True), np.uint16(0), shown), 0)
    if channel == "depth":
        return _counted(values / depth_unit)
    if channel == "flow":
        coded = _counted(values * FLOW_STEPS + FLOW_ZERO)
        seen = (values != 0).any(-1, keepdims=True).astype(np.uint16)  # KITTI's third plane: valid
        return Coded(np.concatenate([coded.values, seen], -1), coded.clipped)
    return _counted(values + 1.0)  # label, id: -1, nothing, is 0


def coding(channel: str, depth_unit: float) -> dict[str, Any]:
    """How to read the numbers that `encode` gives: value = scale * number + offset, and what stands for nothing."""
    if channel == "normal":
        return {"scale": 2 / 65535, "offset": -1.0, "nothing": [0, 0, 0]}
    if channel == "depth":
        return {"scale": depth_unit, "offset": 0.0, "nothing": 0}
    if channel == "flow":
        scale, offset = 1 / FLOW_STEPS, -FLOW_ZERO / FLOW_STEPS
        return {"scale": scale, "offset": offset, "planes": ["right", "down", "1 where it is not zero"]}
    if channel in ("label", "id"):
        return {"scale": 1, "offset": -1, "nothing": 0}
    return {"scale": 1 / 65535, "offset": 0.0}


def exr_planes(channel: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """A channel's map as float32 planes under their names."""
    planes = values[..., None] if values.ndim == 2 else values
    return {name: planes[..., k].astype(np.float32) for k, name in enumerate(EXR_PLANES[channel])}


def to_integers(image: np.ndarray, largest: int) -> np.ndarray:
    """Floats in [0, 1], clipped, to the nearest of 0 to `largest`: uint8 or uint16. NaN is 0."""
    scaled = np.nan_to_num(np.asarray(image, np.float64), nan=0.0).clip(0, 1) * largest
    return (scaled + 0.5).astype(np.uint8 if largest <= 255 else np.uint16)


def _counted(values: np.ndarray) -> Coded:
    rounded = np.rint(values)
    clipped = int(((rounded < 0) | (rounded > 65535)).sum())
    return Coded(rounded.clip(0, 65535).astype(np.uint16), clipped)
