"""Similarity transforms over time, as numbers in float64: x -> s R x + t.

A placement moves, turns and scales about a pivot:  A(t) x = pivot + move(t) + scale(t) turn(t) (x - pivot)
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scene4d.edits.checks import check_choice, check_increasing, check_number, check_numbers, shown
from scene4d.edits.clocks import EASES, eased
from scene4d.edits.codec import many, read_object, reads

Vec3 = tuple[float, float, float]
Quat = tuple[float, float, float, float]
CENTER = "center"
MIN_SCALE, MAX_SCALE = 1e-6, 1e6


@dataclass(frozen=True)
class Key:
    """What a placement does at a time."""

    time: float = 0.0  # seconds; does not matter for the only key
    move: Vec3 = (0.0, 0.0, 0.0)  # scene units
    turn: Quat = (1.0, 0.0, 0.0, 0.0)  # wxyz, any length but 0
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_number("time", self.time)
        check_numbers("move", self.move, 3)
        check_numbers("turn", self.turn, 4)
        if not sum(x * x for x in self.turn) > 1e-12:
            raise ValueError(f"turn must be a quaternion that is not 0, got {shown(self.turn)}")
        check_number("scale", self.scale, MIN_SCALE, MAX_SCALE)


def _read_key(data: Any, depth: int) -> Key:
    return read_object(Key, data, depth)


@dataclass(frozen=True)
class Placement:
    """Keys over time; before the first and after the last it holds. No key: the identity.

    Between keys: straight lines, turns about a fixed axis (slerp, the shorter way), scales by even factors. The pivot
    is a point in the world or `center`: the mean of what is placed, wherever it is at each time.
    """

    keys: tuple[Key, ...] = field(default=(), metadata=reads(many(_read_key)))
    pivot: Vec3 | str = (0.0, 0.0, 0.0)
    ease: str = "linear"

    def __post_init__(self) -> None:
        if not isinstance(self.keys, tuple) or not all(isinstance(key, Key) for key in self.keys):
            raise ValueError(f"keys must be a list of keys, got {shown(self.keys)}")
        if self.pivot != CENTER:
            check_numbers("pivot", self.pivot, 3)
        check_choice("ease", self.ease, EASES)
        check_increasing("times of keys", tuple(key.time for key in self.keys))

    @property
    def is_identity(self) -> bool:
        return all((k.move, k.scale) == ((0, 0, 0), 1) and tuple(k.turn[1:]) == (0, 0, 0) for k in self.keys)

    @property
    def needs_center(self) -> bool:
        """Whether the pivot makes a difference and is where the thing is."""
        return self.pivot == CENTER and any(key.scale != 1 or any(key.turn[1:]) for key in self.keys)

    @property
    def is_constant(self) -> bool:
        return len(self.keys) <= 1 and not self.needs_center


def read_placement(data: Any, depth: int) -> Placement:
    return read_object(Placement, data, depth)


@dataclass(frozen=True)
class Similarity:
    """x -> scale R x + translation."""

    quat: np.ndarray  # [4] float64 wxyz, unit
    scale: float
    translation: np.ndarray  # [3] float64

    @property
    def rotation(self) -> np.ndarray:
        """R [3, 3]."""
        return rotation_matrix(self.quat)

    def then(self, after: Similarity) -> Similarity:
        """This one first, `after` second."""
        shift = after.scale * after.rotation @ self.translation + after.translation
        return Similarity(_unit(quat_product(after.quat, self.quat)), after.scale * self.scale, shift)


IDENTITY = Similarity(np.array([1.0, 0, 0, 0]), 1.0, np.zeros(3))


def placed(placement: Placement, t: float, center: np.ndarray | None = None) -> Similarity:
    """A(t). `center` [3] is where the pivot is if it is `center`."""
    if not placement.keys:
        return IDENTITY
    quat, scale, move = _between(placement, t)
    pivot = np.zeros(3) if placement.pivot == CENTER else np.asarray(placement.pivot, dtype=np.float64)
    if placement.needs_center:
        assert center is not None
        pivot = center
    return Similarity(quat, scale, pivot + move - scale * rotation_matrix(quat) @ pivot)


def _between(placement: Placement, t: float) -> tuple[np.ndarray, float, np.ndarray]:
    keys = placement.keys
    k = bisect.bisect_right([key.time for key in keys], t) - 1
    if k < 0 or k == len(keys) - 1:
        key = keys[max(k, 0)]
        return _unit(np.asarray(key.turn, dtype=np.float64)), float(key.scale), np.asarray(key.move, dtype=np.float64)
    a, b = keys[k], keys[k + 1]
    u = eased((t - a.time) / (b.time - a.time), placement.ease)
    move = (1 - u) * np.asarray(a.move, dtype=np.float64) + u * np.asarray(b.move, dtype=np.float64)
    return _slerp(a.turn, b.turn, u), a.scale ** (1 - u) * b.scale**u, move


def _slerp(a: Quat, b: Quat, u: float) -> np.ndarray:
    first, second = _unit(np.asarray(a, dtype=np.float64)), _unit(np.asarray(b, dtype=np.float64))
    cosine = float(first @ second)
    if cosine < 0:
        second, cosine = -second, -cosine
    angle = math.acos(min(cosine, 1.0))
    if angle < 1e-7:  # the chord is the arc
        return _unit((1 - u) * first + u * second)
    return _unit((math.sin((1 - u) * angle) * first + math.sin(u * angle) * second) / math.sin(angle))


def _unit(q: np.ndarray) -> np.ndarray:
    return q / np.linalg.norm(q)


def quat_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    w = a[0] * b[0] - a[1:] @ b[1:]
    return np.concatenate([[w], a[0] * b[1:] + b[0] * a[1:] + np.cross(a[1:], b[1:])])


def rotation_matrix(q: np.ndarray) -> np.ndarray:
    """[3, 3] of a unit quaternion wxyz."""
    w, x, y, z = q
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def turn_about(axis: Vec3, degrees: float) -> Quat:
    """The quaternion of a turn. Raises ValueError: the axis is 0."""
    check_numbers("axis", axis, 3)
    check_number("degrees", degrees)
    length = math.sqrt(sum(x * x for x in axis))
    if not length > 1e-9:
        raise ValueError(f"axis must not be 0, got {shown(axis)}")
    half = math.radians(degrees) / 2
    x, y, z = (math.sin(half) * value / length for value in axis)
    return (math.cos(half), x, y, z)


def placement_of_matrix(matrix: Any) -> Placement:
    """The constant placement of a similarity [4, 4]. Raises ValueError on another matrix."""
    from scipy.spatial.transform import Rotation

    M = np.asarray(matrix, dtype=np.float64)
    if M.shape != (4, 4) or not np.isfinite(M).all() or not np.allclose(M[3], [0, 0, 0, 1], atol=1e-9):
        raise ValueError(f"matrix must be a finite [4, 4] with the last row 0 0 0 1, got {shown(M.tolist())}")
    scale = float(np.cbrt(max(np.linalg.det(M[:3, :3]), 0.0)))
    if not scale > 0 or not np.allclose(M[:3, :3].T @ M[:3, :3], scale**2 * np.eye(3), atol=1e-5 * scale**2):
        raise ValueError(f"matrix must be a rotation times a scale above 0, got {shown(M.tolist())}")
    quat = Rotation.from_matrix(M[:3, :3] / scale).as_quat(scalar_first=True).tolist()
    return Placement((Key(move=tuple(M[:3, 3].tolist()), turn=tuple(quat), scale=scale),))
