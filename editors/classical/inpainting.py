"""Holes of a picture painted from what surrounds them.

OpenCV's inpainting carries lines well over a few pixels and smears over many. So a wide hole is first painted in a copy
of the picture that is so small that the hole is narrow in it; going up, each size repaints the border of the hole and
keeps the smaller one's colours inside. All pictures are float32 [H, W, 3] in [0, 1].
"""

from __future__ import annotations

import cv2
import numpy as np

from scene4d.files.images import to_integers

NARROW = 6.0  # pixels from the border up to which OpenCV paints at a size
RADIUS = 4.0  # pixels around a pixel that OpenCV looks at
MARGIN = 24  # pixels of surroundings that are looked at, times the scale of the smallest copy
FINE = 65535
GRAY = 0.5  # where nothing is known at all


def inpainted(image: np.ndarray, known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """`image` with its pixels where `wanted` [H, W] painted from those where `known` [H, W].

    Pixels of neither are not looked at. Where nothing is known the picture becomes gray.
    """
    out = image.copy()
    if not wanted.any():
        return out
    known = known & ~wanted
    if not known.any():
        out[wanted] = GRAY
        return out
    depth = cv2.distanceTransform((~known).astype(np.uint8), cv2.DIST_L2, 5)
    levels = max(int(np.ceil(np.log2(max(float(depth[wanted].max()) / NARROW, 1.0)))), 0)
    part = _around(wanted, MARGIN << levels)
    if not known[part].any():
        part = np.s_[:, :]
    painted = _painted(image[part], known[part], levels)
    out[part][wanted[part]] = painted[wanted[part]]
    return out


def _around(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (
        slice(max(rows[0] - margin, 0), rows[-1] + margin + 1),
        slice(max(columns[0] - margin, 0), columns[-1] + margin + 1),
    )


def _painted(image: np.ndarray, known: np.ndarray, levels: int) -> np.ndarray:
    """The whole picture, painted where it was not known."""
    if levels == 0 or min(known.shape) < 4:
        return _opencv(image, known)
    small, small_known = _halved(image, known)
    coarse = _painted(small, small_known, levels - 1)
    height, width = known.shape
    up = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    distance = cv2.distanceTransform((~known).astype(np.uint8), cv2.DIST_L2, 5)
    band = (distance > 0) & (distance <= NARROW)
    # beyond the band the smaller copy's colours stand: OpenCV paints between both
    around = np.where(known[..., None], image, up).astype(np.float32)
    fine = _opencv(around, ~band)
    share = np.clip(1.0 - distance / NARROW, 0.0, 1.0)[..., None]
    mixed = share * fine + (1.0 - share) * up
    return np.where(known[..., None], image, mixed).astype(np.float32)


def _halved(image: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Half the size: means of the known ones of two by two pixels."""
    rows, columns = known.shape[0] % 2, known.shape[1] % 2
    weight = np.pad(known.astype(np.float32), ((0, rows), (0, columns)))
    color = np.pad(image, ((0, rows), (0, columns), (0, 0))) * weight[..., None]
    total = sum(weight[i::2, j::2] for i in (0, 1) for j in (0, 1))
    mean = sum(color[i::2, j::2] for i in (0, 1) for j in (0, 1))
    return (mean / np.maximum(total, 1e-6)[..., None]).astype(np.float32), np.asarray(total) > 0


def _opencv(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """In 16 bits, a colour at a time: OpenCV rounds up and adds a unit step at every pixel that it goes inwards, which
    brightens a hole in 8 bits by several of 255."""
    if known.all():
        return image
    hole = (~known).astype(np.uint8)
    planes = [np.ascontiguousarray(plane) for plane in np.moveaxis(to_integers(image, FINE), -1, 0)]
    found = np.stack([cv2.inpaint(plane, hole, RADIUS, cv2.INPAINT_TELEA) for plane in planes], -1)
    return np.where(known[..., None], image, found.astype(np.float32) / FINE).astype(np.float32)
