"""`pose_transforms` in C++: one autograd function. float32 and float64, CPU tensors, first derivatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from renderers import cpu_library as library
from renderers.poses import Poses

REALS = ("centers", "knot_times", "knot_quats", "knot_translations")
INTEGERS = ("parents", "interpolations", "knot_counts", "first_knots")


def pose(poses: Poses) -> Tensor:
    if poses.centers.device.type != "cpu":
        raise ValueError(f"centers must be on the CPU for backend 'cpu', got {poses.centers.device}")
    integers = tuple(getattr(poses, name).contiguous() for name in INTEGERS)
    return _Pose.apply(integers, poses.t, *(getattr(poses, name) for name in REALS))


class _Pose(torch.autograd.Function):
    """t and REALS -> dual quaternions [J, 8]."""

    @staticmethod
    def forward(ctx: Any, integers: tuple[Tensor, ...], t: Tensor, *args: Tensor) -> Tensor:
        reals = tuple(x.contiguous() for x in args)
        dual_quats = t.new_empty(reals[0].shape[0], 8)
        _call("pose", integers, t, reals, {"dual_quats": dual_quats})
        ctx.integers = integers
        ctx.save_for_backward(t, *reals)
        return dual_quats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_dual_quats: Tensor) -> tuple[Tensor | None, ...]:
        t, *reals = ctx.saved_tensors
        v_times, v_reals = t.new_empty(reals[0].shape[0]), [torch.zeros_like(x) for x in reals]
        result = {f"v_{name}": x for name, x in zip(REALS, v_reals, strict=True)}
        upstream = {"v_dual_quats": v_dual_quats.contiguous(), "v_times": v_times}
        _call("pose_backward", ctx.integers, t, tuple(reals), {**upstream, **result})
        return (None, v_times if t.ndim else v_times.sum(), *v_reals)


def _call(
    name: str, integers: tuple[Tensor, ...], t: Tensor, reals: tuple[Tensor, ...], others: dict[str, Tensor]
) -> None:
    times = t.contiguous() if t.ndim else None
    args = library.fill(
        library.PoseArgs(),
        J=reals[0].shape[0],
        threads=torch.get_num_threads(),
        t=0.0 if t.ndim else t.item(),
        times=times,
        **dict(zip(INTEGERS, integers, strict=True)),
        **dict(zip(REALS, reals, strict=True)),
        **others,
    )
    status = library.function(name, t.dtype)(args)
    if status:
        raise MemoryError(f"not enough memory for {args.J} transforms")
