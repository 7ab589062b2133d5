"""Gaussians moved by blended rigid transforms, polynomials and windows: one pure function, `move_gaussians`.

What the transforms and the number t stand for is the caller's business (in scene4d: handles of a rig, and seconds).
N Gaussians, J transforms, M transform slots and P polynomial coefficients per Gaussian.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from importlib import import_module

import torch
from torch import Tensor

BACKENDS = {
    "torch": "renderers.motion_torch",
    "cpu": "renderers.motion_cpu",
}
MAX_SLOTS = 4
DEGREES = (0, 1, 3)  # static, linear, cubic
MAX_LOG_SOFTNESS = 20.0  # e^20 s is 15 years; keeps the argument of the window finite
MAX_ELAPSED = 1e15  # stands for an infinite time before or after a window's edge, so that no 0 * inf arises


@dataclass(frozen=True)
class Motion:
    """What `move_gaussians` takes. The last three groups are each given whole or left out."""

    t: Tensor  # [] or [N]
    means: Tensor  # [N, 3]
    quats: Tensor  # [N, 4] wxyz, any length; a zero quaternion is the identity rotation
    logit_opacities: Tensor  # [N]
    dual_quats: Tensor | None = None  # [J, 8] unit, real part first, both wxyz; the sign of each does not matter
    slots: Tensor | None = None  # [N, M] int32 index of a transform; negative = empty
    slot_logits: Tensor | None = None  # [N, M] the blend's weights are their softmax over the slots in use
    coefficients: Tensor | None = None  # [N, P, 3] of (t - t_ref)^p, p = 1..P
    t_ref: Tensor | None = None  # [N]
    t_on: Tensor | None = None  # [N] -inf = always been there
    t_off: Tensor | None = None  # [N] inf = never goes
    log_softness: Tensor | None = None  # [N] log of tau; held to [-20, 20]


GROUPS = (("dual_quats", "slots", "slot_logits"), ("coefficients", "t_ref"), ("t_on", "t_off", "log_softness"))


def move_gaussians(motion: Motion, backend: str = "auto") -> tuple[Tensor, Tensor, Tensor]:
    """Means [N, 3], quats [N, 4] and logit_opacities [N] at t.

        D_i = normalise(sum_m w_im s_im d_h(i,m)),        s_im = sign(real(d_h(i,m)) . real(d_h(i,first slot in use)))
        x_i = D_i (mu_i + sum_p v_ip (t - t_ref_i)^p),    q_i = rot(D_i) q_i
        o_i = S(logit_opacity_i) S((t - t_on_i) / tau_i) S((t_off_i - t) / tau_i),    S the logistic function

    Dual quaternion blending: Kavan et al. 2008, sections 4 and 5. Differentiable in every floating tensor; the signs
    count as constants, and the derivative by t at the edge of nothing is that of the formulas. Without a slot in use D
    is the identity. A part that is left out costs nothing: its input is returned as it came.

    Args:
        motion: see `Motion`; all tensors of one floating dtype on one device.
        backend: "torch" (the definition), "cpu" (C++) or "auto" (by the tensors' device).

    Raises:
        ValueError: a wrong shape, dtype or device, or a slot that is not below J; the argument is named.
        RuntimeError: the chosen backend cannot run here.
    """
    check_motion(motion)
    motion = _without_empty_parts(motion)
    if backend == "auto":
        backend = "cpu" if motion.means.device.type == "cpu" else "torch"
    if backend not in BACKENDS:
        raise ValueError(f"backend must be auto or one of {', '.join(BACKENDS)}, got {backend!r}")
    return import_module(BACKENDS[backend]).move(motion)


def check_motion(motion: Motion) -> None:
    """Raise ValueError on a wrong shape, dtype or device."""
    means = motion.means
    if not isinstance(means, Tensor) or means.dtype not in (torch.float32, torch.float64) or means.ndim != 2:
        raise ValueError(f"means must be a float32 or float64 tensor [N, 3], got {_what(means)}")
    N = means.shape[0]
    for group in GROUPS:
        if len({getattr(motion, name) is None for name in group}) > 1:
            missing = [name for name in group if getattr(motion, name) is None]
            raise ValueError(f"{', '.join(group)} must be given together, got no {', '.join(missing)}")
    per_item = isinstance(motion.t, Tensor) and motion.t.ndim > 0
    M = None if motion.slots is None or motion.slots.ndim != 2 else motion.slots.shape[1]
    shapes: dict[str, tuple[int | None, ...]] = {
        "t": (N,) if per_item else (),
        "means": (N, 3),
        "quats": (N, 4),
        "dual_quats": (None, 8),
        "slots": (N, None),
        "slot_logits": (N, M),
        "coefficients": (N, None, 3),
    }
    for field in fields(motion):
        name, tensor = field.name, getattr(motion, field.name)
        if tensor is not None:
            dtype = torch.int32 if name == "slots" else means.dtype
            check_tensor(tensor, name, shapes.get(name, (N,)), dtype, means.device)
    if M is not None and M > MAX_SLOTS:
        raise ValueError(f"slots must have at most {MAX_SLOTS} columns, got {M}")
    if motion.coefficients is not None and motion.coefficients.shape[1] not in DEGREES:
        raise ValueError(f"coefficients must be of degree 0, 1 or 3, got {motion.coefficients.shape[1]}")


def check_slots(slots: Tensor, count: int) -> None:
    """Raise ValueError if a slot names none of the `count` transforms."""
    if slots.numel() and int(slots.max()) >= count:
        raise ValueError(f"slots must be below {count}, the number of dual_quats, got {int(slots.max())}")


def check_tensor(
    tensor: object, name: str, shape: tuple[int | None, ...], dtype: torch.dtype, device: torch.device
) -> None:
    """Raise ValueError unless `tensor` has this shape (None = any size), dtype and device."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} must be a tensor, got {_what(tensor)}")
    fits = tensor.ndim == len(shape) and all(b is None or a == b for a, b in zip(tensor.shape, shape, strict=True))
    if not fits:
        rule = ", ".join("*" if n is None else str(n) for n in shape)
        raise ValueError(f"{name} must have shape [{rule}], got {list(tensor.shape)}")
    if tensor.dtype != dtype or tensor.device != device:
        raise ValueError(f"{name} must be {dtype} on {device}, got {_what(tensor)}")


def _without_empty_parts(motion: Motion) -> Motion:
    """Parts whose axis M, J or P is 0 change nothing: left out, so that backends need not know of them."""
    groups: list[tuple[str, ...]] = []
    if motion.slots is not None and motion.dual_quats is not None:
        if motion.dual_quats.shape[0] == 0:
            check_slots(motion.slots, 0)
        groups += GROUPS[:1] if 0 in (motion.slots.shape[1], motion.dual_quats.shape[0]) else []
    if motion.coefficients is not None:
        groups += GROUPS[1:2] if motion.coefficients.shape[1] == 0 else []
    return replace(motion, **{name: None for group in groups for name in group})


def _what(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{value.dtype} {list(value.shape)} on {value.device}"
