"""The definition of `move_gaussians` in plain torch: float64 capable, any device, differentiable to any order."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from renderers.motion import MAX_ELAPSED, MAX_LOG_SOFTNESS, Motion, check_slots
from renderers.quaternions import conjugate, multiply, nonzero, rotate


def move(motion: Motion) -> tuple[Tensor, Tensor, Tensor]:
    points, quats, logits = motion.means, motion.quats, motion.logit_opacities
    if motion.coefficients is not None and motion.t_ref is not None:
        points = points + _polynomial(motion.coefficients, motion.t - motion.t_ref)
    if motion.dual_quats is not None and motion.slots is not None and motion.slot_logits is not None:
        real, dual = blend_dual_quaternions(motion.dual_quats, motion.slots, motion.slot_logits)
        points = rotate(real, points) + 2 * multiply(dual, conjugate(real))[..., 1:]
        quats = multiply(real, nonzero(quats))
    if motion.t_on is not None and motion.t_off is not None and motion.log_softness is not None:
        inv_tau = torch.exp(-motion.log_softness.clamp(-MAX_LOG_SOFTNESS, MAX_LOG_SOFTNESS))
        since = (motion.t - motion.t_on).clamp(max=MAX_ELAPSED) * inv_tau
        until = (motion.t_off - motion.t).clamp(max=MAX_ELAPSED) * inv_tau
        logits = product_logit(product_logit(logits, since), until)
    return points, quats, logits


def velocity(motion: Motion, rates: Tensor | None) -> Tensor:
    """d means / dt [N, 3] where the transforms change at `rates` [J, 8] = d dual_quats / dt. Exact and differentiable.

    With unit real part r and r' conj(r) = (0, w / 2), the rotated point p turns at w x R p.
    """
    points, slopes = motion.means, torch.zeros_like(motion.means)
    if motion.coefficients is not None and motion.t_ref is not None:
        elapsed = motion.t - motion.t_ref
        points = points + _polynomial(motion.coefficients, elapsed)
        powers = torch.arange(1, motion.coefficients.shape[1] + 1, device=elapsed.device)
        factors = powers * elapsed[:, None] ** (powers - 1)  # [N, P]
        slopes = slopes + (motion.coefficients * factors[..., None]).sum(1)
    if motion.dual_quats is None or motion.slots is None or motion.slot_logits is None or rates is None:
        return slopes
    weights = blend_weights(motion.dual_quats, motion.slots, motion.slot_logits)
    norm, real, dual = _mix(motion.dual_quats, motion.slots, weights)
    turned, moved = _weighted_sum(rates, motion.slots, weights).split(4, 1)
    stretch = (real * turned).sum(1, keepdim=True)
    real_rate, dual_rate = (turned - real * stretch) / norm, (moved - dual * stretch) / norm
    omega = 2 * multiply(real_rate, conjugate(real))[:, 1:]
    shift = 2 * (multiply(dual_rate, conjugate(real)) + multiply(dual, conjugate(real_rate)))[:, 1:]
    return rotate(real, slopes) + torch.linalg.cross(omega, rotate(real, points)) + shift


def blend_dual_quaternions(
    dual_quats: Tensor,  # [J, 8]
    slots: Tensor,  # [N, M]
    slot_logits: Tensor,  # [N, M]
) -> tuple[Tensor, Tensor]:
    """Real and dual part [N, 4] of the weighted mean, divided by the length of the real part.

    The dual part may keep a component along the real one; it does not act on points.
    """
    _, real, dual = _mix(dual_quats, slots, blend_weights(dual_quats, slots, slot_logits))
    return real, dual


def blend_weights(dual_quats: Tensor, slots: Tensor, slot_logits: Tensor) -> Tensor:
    """Softmax weights [N, M] over the slots in use, signed so that real parts point the way of the first one."""
    check_slots(slots, dual_quats.shape[0])
    used = slots >= 0
    real = dual_quats.detach()[slots.clamp_min(0).long(), :4]  # [N, M, 4]
    first = used.int().argmax(1)  # the first slot in use
    pivot = real[torch.arange(slots.shape[0], device=real.device), first]
    sign = torch.where((real * pivot[:, None]).sum(-1) >= 0, 1.0, -1.0).to(real.dtype)
    some = used.any(1, keepdim=True)  # a row without any keeps finite logits, and gets no weight
    return torch.softmax(slot_logits.masked_fill(~used & some, -torch.inf), 1) * sign * used


def _mix(dual_quats: Tensor, slots: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Length [N, 1] of the real part of the weighted sum, and both parts [N, 4] divided by it."""
    identity = dual_quats.new_tensor([1.0, 0, 0, 0, 0, 0, 0, 0])
    empty = (slots < 0).all(1, keepdim=True)
    real, dual = torch.where(empty, identity, _weighted_sum(dual_quats, slots, weights)).split(4, 1)
    norm = torch.linalg.vector_norm(real, dim=1, keepdim=True).clamp_min(1e-18)
    return norm, real / norm, dual / norm


def _weighted_sum(rows: Tensor, slots: Tensor, weights: Tensor) -> Tensor:  # [J, 8], [N, M], [N, M] -> [N, 8]
    return (weights[..., None] * rows[slots.clamp_min(0).long()]).sum(1)


def product_logit(a: Tensor, b: Tensor) -> Tensor:
    """logit(S(a) S(b)): 1 / (S(a) S(b)) - 1 = e^-b + e^-a (1 + e^-b), without cancellation."""
    return -torch.logaddexp(-b, -a - logsigmoid(b))


def _polynomial(coefficients: Tensor, elapsed: Tensor) -> Tensor:  # [N, P, 3], [N] -> [N, 3]
    value = torch.zeros_like(coefficients[:, 0])
    for term in reversed(coefficients.unbind(1)):
        value = (value + term) * elapsed[:, None]
    return value
