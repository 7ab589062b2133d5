"""Rigid transforms that pass through knots, in a tree: one pure function, `pose_transforms`.

J transforms with L knots in all; those of transform 0 come first, then those of transform 1, ...
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor

from renderers.motion import check_tensor

BACKENDS = {
    "torch": "renderers.poses_torch",
    "cpu": "renderers.poses_cpu",
}
LINEAR, CUBIC = 0, 1


@dataclass(frozen=True)
class Poses:
    """What `pose_transforms` takes. That the integers make sense is the caller's business."""

    t: Tensor  # [] or [J]
    centers: Tensor  # [J, 3] what the knots turn about
    parents: Tensor  # [J] int32 index of an earlier transform, -1 = none
    interpolations: Tensor  # [J] int32 LINEAR or CUBIC
    first_knots: Tensor  # [J] int64
    knot_counts: Tensor  # [J] int32, at least 1
    knot_times: Tensor  # [L] increasing within a transform
    knot_quats: Tensor  # [L, 4] wxyz, any length; zero is the identity, the sign does not matter
    knot_translations: Tensor  # [L, 3]


def pose_transforms(poses: Poses, backend: str = "auto") -> Tensor:
    """Unit dual quaternions [J, 8] at t, real part q first, dual part (0, translation) q / 2.

        T_world_rest = T_world_parent @ T_parent_rest,    T_parent_rest x = R (x - center) + center + translation

    R and the translation are interpolated between knots. LINEAR: slerp along the shorter arc, and lerp. CUBIC: Hermite
    curves through the knots; the derivative at a knot is that of the parabola through it and its neighbours (in even
    steps: Catmull-Rom), at the ends the slope of the one interval; rotations are cumulative Bezier curves with these
    derivatives in the body frame (Kim, Kim and Shin 1995, section 4). Both pass through the knots; CUBIC is C1 between
    the first and the last one. Outside, the nearest knot is held. Differentiable to every floating tensor.

    Args:
        poses: see `Poses`; floating tensors of one dtype, all on one device.
        backend: "torch" (the definition), "cpu" (C++) or "auto" (by the tensors' device).

    Raises:
        ValueError: a wrong shape, dtype or device; the argument is named.
        RuntimeError: the chosen backend cannot run here.
    """
    check_poses(poses)
    if backend == "auto":
        backend = "cpu" if poses.centers.device.type == "cpu" else "torch"
    if backend not in BACKENDS:
        raise ValueError(f"backend must be auto or one of {', '.join(BACKENDS)}, got {backend!r}")
    return import_module(BACKENDS[backend]).pose(poses)


def check_poses(poses: Poses) -> None:
    """Raise ValueError on a wrong shape, dtype or device."""
    centers = poses.centers
    if not isinstance(centers, Tensor) or centers.dtype not in (torch.float32, torch.float64) or centers.ndim != 2:
        raise ValueError(f"centers must be a float32 or float64 tensor [J, 3], got {centers!r:.60}")
    J, real = centers.shape[0], centers.dtype
    L = poses.knot_times.shape[0] if isinstance(poses.knot_times, Tensor) and poses.knot_times.ndim else 0
    rules: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "centers": ((J, 3), real),
        "t": ((J,) if isinstance(poses.t, Tensor) and poses.t.ndim else (), real),
        "parents": ((J,), torch.int32),
        "interpolations": ((J,), torch.int32),
        "first_knots": ((J,), torch.int64),
        "knot_counts": ((J,), torch.int32),
        "knot_times": ((L,), real),
        "knot_quats": ((L, 4), real),
        "knot_translations": ((L, 3), real),
    }
    for name, (shape, dtype) in rules.items():
        check_tensor(getattr(poses, name), name, shape, dtype, centers.device)
