"""`move_gaussians` in C++: one autograd function. float32 and float64, CPU tensors, first derivatives."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from renderers import cpu_library as library
from renderers.motion import Motion

INPUTS: tuple[str, ...] = (  # of Motion, without t; in the order of the autograd function
    "means", "quats", "logit_opacities", "dual_quats", "slot_logits", "coefficients", "t_ref", "t_on", "t_off",
    "log_softness",
)  # fmt: skip
TIMES = ("t_ref", "t_on", "t_off")  # t enters as its difference to these


def move(motion: Motion) -> tuple[Tensor, Tensor, Tensor]:
    if motion.means.device.type != "cpu":
        raise ValueError(f"means must be on the CPU for backend 'cpu', got {motion.means.device}")
    if motion.slots is None and motion.coefficients is None and motion.t_on is None:
        return motion.means, motion.quats, motion.logit_opacities
    means, quats, logits = _Move.apply(motion.t, motion.slots, *(getattr(motion, name) for name in INPUTS))
    return (
        motion.means if means is None else means,
        motion.quats if quats is None else quats,
        motion.logit_opacities if logits is None else logits,
    )


class _Move(torch.autograd.Function):
    """t, slots and INPUTS -> means, quats, logit_opacities; None for what does not change."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, slots: Tensor | None, *args: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs = {n: x if x is None else x.contiguous() for n, x in zip(INPUTS, args, strict=True)}
        slots = slots if slots is None else slots.contiguous()
        changed = _changed(slots, inputs)
        names = ("out_means", "out_quats", "out_logits")
        outputs = {
            out: torch.empty_like(x) if (x := inputs[name]) is not None and name in changed else None
            for name, out in zip(INPUTS, names, strict=False)
        }
        _call("move", t, slots, inputs, outputs)
        ctx.save_for_backward(t, slots, *inputs.values())
        ctx.set_materialize_grads(False)
        return tuple(outputs.values())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        t, slots, *saved = ctx.saved_tensors
        inputs = dict(zip(INPUTS, saved, strict=True))
        wants_t, _, *wanted = ctx.needs_input_grad
        names = ("v_out_means", "v_out_quats", "v_out_logits")
        upstream = {n: g if g is None else g.contiguous() for n, g in zip(names, grads, strict=True)}
        changed = _changed(slots, inputs)
        result = {
            f"v_{name}": torch.empty_like(x)
            for (name, x), need in zip(inputs.items(), wanted, strict=True)
            if x is not None and (need or (wants_t and name in TIMES)) and (name in changed or name not in INPUTS[:3])
        }
        _call("move_backward", t, slots, inputs, {**upstream, **result})
        v_t = None
        if wants_t:
            v_t = -sum((result[f"v_{name}"] for name in TIMES if inputs[name] is not None), torch.zeros_like(t))
            v_t = v_t.sum() if t.ndim == 0 else v_t
        return (v_t, None, *(result.get(f"v_{n}") if need else None for n, need in zip(INPUTS, wanted, strict=True)))


def _changed(slots: Tensor | None, inputs: dict[str, Tensor | None]) -> set[str]:
    """Which of means, quats and logit_opacities the motion changes."""
    moved = {"means", "quats"} if slots is not None else {"means"} if inputs["coefficients"] is not None else set()
    return moved | ({"logit_opacities"} if inputs["t_on"] is not None else set())


def _call(
    name: str, t: Tensor, slots: Tensor | None, inputs: dict[str, Tensor | None], others: dict[str, Tensor | None]
) -> None:
    means, dual_quats, coefficients = (inputs[n] for n in ("means", "dual_quats", "coefficients"))
    assert means is not None
    times = t.contiguous() if t.ndim else None
    args: ctypes.Structure = library.fill(
        library.MotionArgs(),
        N=means.shape[0],
        J=0 if dual_quats is None else dual_quats.shape[0],
        M=0 if slots is None else slots.shape[1],
        P=0 if coefficients is None else coefficients.shape[1],
        threads=torch.get_num_threads(),
        t=0.0 if t.ndim else t.item(),
        times=times,
        slots=slots,
        **inputs,
        **others,
    )
    status = library.function(name, means.dtype)(args)
    if status == -1:
        raise MemoryError(f"not enough memory for the motion of {means.shape[0]} Gaussians")
    if status:
        assert slots is not None
        raise ValueError(f"slots must be below {args.J}, the number of dual_quats, got {int(slots.max())}")
