"""The definition of `pose_transforms` in plain torch: float64 capable, any device, differentiable to any order."""

from __future__ import annotations

import torch
from torch import Tensor

from renderers.poses import CUBIC, Poses
from renderers.quaternions import conjugate, exp_quat, log_quat, multiply, rotate, unit


def pose(poses: Poses) -> Tensor:
    quats, moved = interpolate_knots(poses)
    translations = poses.centers + moved - rotate(quats, poses.centers)
    parents = poses.parents.long()
    while bool((has := parents >= 0).any()):  # pointer doubling: after k rounds 2^k links of every chain are composed
        up = parents.clamp_min(0)
        outer, shift = quats[up], translations[up]
        translations = torch.where(has[:, None], rotate(outer, translations) + shift, translations)
        quats = torch.where(has[:, None], multiply(outer, quats), quats)
        parents = torch.where(has, parents[up], -1)
    pure = torch.nn.functional.pad(translations, (1, 0))
    return torch.cat([quats, 0.5 * multiply(pure, quats)], -1)


def interpolate_knots(poses: Poses) -> tuple[Tensor, Tensor]:
    """Unit quats [J, 4] and translations [J, 3] relative to the parent and about the centre."""
    index, u = _interval(poses)
    if poses.centers.shape[0] == 0 or not bool((cubic := poses.interpolations == CUBIC).any()):
        return _linear(poses, index[1:3], u)
    quats, moved = _cubic(poses, index, u)
    if bool(cubic.all()):
        return quats, moved
    linear_quats, linear_moved = _linear(poses, index[1:3], u)
    return torch.where(cubic[:, None], quats, linear_quats), torch.where(cubic[:, None], moved, linear_moved)


def _interval(poses: Poses) -> tuple[Tensor, Tensor]:
    """Knot indices [4, J] before, start, end, after (held at the handle's ends), and the place u [J] in start..end."""
    t, times, first = poses.t, poses.knot_times, poses.first_knots
    last = first + poses.knot_counts - 1
    with torch.no_grad():
        reached = times <= (t.repeat_interleave(poses.knot_counts) if t.ndim else t)
        count = torch.nn.functional.pad(reached.cumsum(0), (1, 0))  # over all handles
        here = count.index_select(0, last + 1) - count.index_select(0, first)
        start = torch.maximum(torch.minimum(first + here, last) - 1, first)
        end = torch.minimum(start + 1, last)
        index = torch.stack([torch.maximum(start - 1, first), start, end, torch.minimum(end + 1, last)])
    t0 = times.index_select(0, start)
    span = (times.index_select(0, end) - t0).masked_fill(end == start, 1.0)  # a single knot
    return index, ((t - t0) / span).clamp(0, 1)


def _gather(poses: Poses, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Times [k, J], unit quats [k, J, 4] and translations [k, J, 3] of the knots."""
    flat = index.flatten()
    quats = unit(poses.knot_quats.index_select(0, flat))
    moved = poses.knot_translations.index_select(0, flat)
    return (
        poses.knot_times.index_select(0, flat).view_as(index),
        quats.view(*index.shape, 4),
        moved.view(*index.shape, 3),
    )


def _linear(poses: Poses, index: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    _, quats, moved = _gather(poses, index)
    turn = log_quat(multiply(conjugate(quats[0]), quats[1]))
    u = u[:, None]
    return multiply(quats[0], exp_quat(u * turn)), torch.lerp(moved[0], moved[1], u.expand_as(moved[0]))


def _cubic(poses: Poses, index: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    times, quats, moved = _gather(poses, index)
    there = (index[1:] > index[:-1])[..., None]  # [3, J, 1] the interval before, this one, the one after
    span = torch.where(there, times.diff(dim=0)[..., None], 1.0)
    turns = log_quat(multiply(conjugate(quats[:-1]), quats[1:]))
    slopes = torch.cat([turns, moved.diff(dim=0)], -1) / span  # [3, J, 6]
    rates = torch.stack([_knot_rate(slopes, span, there, 0, 1), _knot_rate(slopes, span, there, 2, 1)])
    thirds = rates * span[1] / 3  # [2, J, 6] inner Bezier control points relative to the ends
    u = u[:, None]
    rise = [1 - (1 - u) ** 3, u * u * (3 - 2 * u), u**3]  # cumulative Bernstein polynomials
    leave, arrive = thirds[0, :, :3], thirds[1, :, :3]
    whole = multiply(conjugate(quats[1]), quats[2])
    middle = log_quat(multiply(multiply(exp_quat(-leave), whole), exp_quat(-arrive)))
    result = quats[1]
    for weight, turn in zip(rise, (leave, middle, arrive), strict=True):
        result = multiply(result, exp_quat(weight * turn))
    steps = (thirds[0, :, 3:], moved[2] - moved[1] - thirds[0, :, 3:] - thirds[1, :, 3:], thirds[1, :, 3:])
    return result, moved[1] + sum(weight * step for weight, step in zip(rise, steps, strict=True))


def _knot_rate(slopes: Tensor, span: Tensor, there: Tensor, other: int, this: int) -> Tensor:
    """Derivative at the knot between intervals `other` and `this`; the slope of `this` where there is no other."""
    parabola = (span[this] * slopes[other] + span[other] * slopes[this]) / (span[this] + span[other])
    return torch.where(there[other], parabola, slopes[this])
