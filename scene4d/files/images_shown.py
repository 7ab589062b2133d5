"""Channels as pictures to look at, uint8 [H, W, 3]. The ranges are the caller's, so that they can hold for a clip.

H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from scene4d.files.images import to_integers

# Steps of the colour wheel from one pure colour to the next: red, yellow, green, cyan, blue, magenta, red
# (Baker et al., A Database and Evaluation Methodology for Optical Flow, 2007)
WHEEL_STEPS = (15, 6, 4, 11, 13, 6)
GOLDEN = 0.618033988749895  # its multiples modulo 1 keep apart: neighbouring ids get distant hues


@dataclass(frozen=True)
class Ranges:
    """What the ends of the colours stand for, fixed over a clip."""

    near: float = 0.0  # z in scene units; 0 < near < far
    far: float = 0.0
    flow: float = 0.0  # pixels, above 0


def shown(channel: str, values: np.ndarray, ranges: Ranges) -> np.ndarray:
    """A channel's map [H, W, ...] as a picture. Raises ValueError for an unknown channel."""
    if channel == "rgb":
        return to_integers(values, 255)
    if channel == "alpha":
        return np.repeat(to_integers(values, 255)[..., None], 3, -1)
    if channel == "depth":
        return depth_colors(values, ranges.near, ranges.far)
    if channel == "flow":
        return flow_colors(values, ranges.flow)
    if channel == "normal":
        return normal_colors(values)
    if channel in ("label", "id"):
        return id_colors(values)
    raise ValueError(f"channel must be known, got {channel!r}")


def depth_colors(depth: np.ndarray, near: float, far: float) -> np.ndarray:
    """Turbo over 1/z: `near` and nearer is red, `far` and farther dark blue, nothing black."""
    share = (1 / np.maximum(depth, 1e-30) - 1 / far) / (1 / near - 1 / far)
    colors = cv2.applyColorMap(to_integers(share, 255), cv2.COLORMAP_TURBO)[..., ::-1]
    return np.where((depth > 0)[..., None], colors, 0).astype(np.uint8)


def flow_colors(flow: np.ndarray, largest: float) -> np.ndarray:
    """The Middlebury colour wheel: hue is direction (right red, down yellow), white stands still, full colour moves
    `largest` pixels, darker more than that."""
    wheel = _wheel()
    speed = np.linalg.norm(flow, axis=-1) / largest
    angle = np.arctan2(-flow[..., 1], -flow[..., 0]) / np.pi
    place = (angle + 1) / 2 * (len(wheel) - 1)
    low = np.floor(place).astype(np.int64)
    share = (place - low)[..., None]
    color = (1 - share) * wheel[low] + share * wheel[(low + 1) % len(wheel)]
    inside = speed[..., None] <= 1
    return to_integers(np.where(inside, 1 - speed[..., None] * (1 - color), 0.75 * color), 255)


def normal_colors(normals: np.ndarray) -> np.ndarray:
    """0.5 + 0.5 n for the world's x, y, z as red, green, blue; nothing is black."""
    seen = (normals != 0).any(-1, keepdims=True)
    return np.where(seen, to_integers(0.5 + 0.5 * normals, 255), 0).astype(np.uint8)


def id_colors(ids: np.ndarray) -> np.ndarray:
    """A colour for each id, the same in every picture: nothing (-1) black, 0 grey, others by the golden ratio."""
    values, index = np.unique(ids, return_inverse=True)
    palette = np.stack([_id_color(int(value)) for value in values])
    return palette[index.reshape(ids.shape)]


def _id_color(value: int) -> np.ndarray:
    if value < 1:
        return np.full(3, 90 if value == 0 else 0, np.uint8)
    hue = value * GOLDEN % 1 * 180  # OpenCV's hues of 8 bits end at 180
    # after some twenty ids hues come close to each other: brightness and saturation change too
    saturation, brightness = (215, 150, 255)[value // 7 % 3], (255, 200, 160)[value // 21 % 3]
    return cv2.cvtColor(np.array([[[hue, saturation, brightness]]], np.uint8), cv2.COLOR_HSV2RGB)[0, 0]


def _wheel() -> np.ndarray:
    """[55, 3] colours in [0, 1]."""
    rows = []
    for k, steps in enumerate(WHEEL_STEPS):
        rise = np.arange(steps) / steps
        color = np.zeros((steps, 3))
        full, moving = ((0, 1), (1, 0), (1, 2), (2, 1), (2, 0), (0, 2))[k]
        color[:, full] = 1
        color[:, moving] = rise if k % 2 == 0 else 1 - rise
        rows.append(color)
    return np.concatenate(rows)
