"""The geometric stage: handles made consistent with their tracks and with each other before any picture is rendered.

Tracks of what no camera saw are guesses; here they give way to what their neighbours do (MoSca, section 4.2, where
leaving the stage out costs half a decibel). J handles, T frames, L knots.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from scene4d import motion
from scene4d.fitting.losses import HandleGraph, rigidity, rotate, smoothness
from scene4d.rig import Rig

STEPS = 400
RATE = 0.03  # of the distance between handles, and in radians
RIGID, SMOOTH = 0.3, 0.02  # weights beside that of the tracks
FAR = 0.3  # of the distance between handles: tracks that are further off count as outliers


@dataclass(frozen=True, eq=False)
class HandleTracks:
    """Where tracks say that handles are."""

    times: list[float]  # [T] seconds
    xyz: Tensor  # [T, J, 3]
    trust: Tensor  # [T, J] 0 to 1
    turns: Tensor | None = None  # [T, J, 4] unit quaternions, where they are known


def settle(
    rig: Rig,
    graph: HandleGraph,
    tracks: HandleTracks,
    generator: torch.Generator,
    *,
    steps: int = STEPS,
    mask: Tensor | None = None,
    others: list[float] | None = None,
) -> Rig:
    """The rig with knots that follow the tracks as far as they can be believed.

    Args:
        mask: bool [L], knots that may change; all if not given.
        others: seconds with which the tracked times are compared for rigidity; the tracked times if not given.
    """
    if not len(graph.a):
        return rig
    knots = {n: getattr(rig, n).clone().requires_grad_() for n in ("knot_quats", "knot_translations")}
    moving = replace(rig, **knots)
    spacing = float(graph.spacing.median())
    optimizer = torch.optim.Adam(
        [{"params": [knots["knot_quats"]], "lr": RATE}, {"params": [knots["knot_translations"]], "lr": RATE * spacing}]
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    T, compared = len(tracks.times), others or tracks.times
    for step in range(steps):
        fall = 0.02 ** (step / steps)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * fall
        k = int(torch.randint(0, T, (), generator=generator))
        other = compared[int(torch.randint(0, len(compared), (), generator=generator))]
        loss = RIGID * rigidity(moving, graph, tracks.times[k], other)
        loss = loss + track_error(moving, tracks, k, spacing) + SMOOTH * smoothness(moving, spacing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if mask is not None:
            for knot in knots.values():
                assert knot.grad is not None
                knot.grad[~mask] = 0
        optimizer.step()
    return Rig(**{f.name: getattr(moving, f.name).detach() for f in fields(moving)})


def track_error(rig: Rig, tracks: HandleTracks, k: int, spacing: float) -> Tensor:
    """Robust mean square distance of handles from their tracks at frame k, relative to `spacing` (Geman-McClure)."""
    quats, translations = motion.handle_poses(rig, tracks.times[k])
    off = (rotate(quats, rig.centers) + translations - tracks.xyz[k]).square().sum(1) / (FAR * spacing) ** 2
    weight = tracks.trust[k]
    return (weight * off / (1 + off)).sum() / weight.sum().clamp_min(1e-9)
