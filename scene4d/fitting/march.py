"""Coarse to fine in time: a fit starts around one frame and takes in more on both sides, knot by knot.

Before frames join, the Gaussians, which by then look right and sit right at the window's edge, are carried into them by
optical flow, and the handles follow. Tracks made in one go from the first frame drift off limbs; these start anew from
a place that pictures have confirmed. (Luiten et al. 2024 fit frame by frame; here the frames seen stay in the fit.)

J handles, L knots, k knots per handle, n points.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from renderers.quaternions import multiply
from scene4d import motion
from scene4d.fitting.footage import Footage
from scene4d.fitting.losses import HandleGraph, rotate
from scene4d.fitting.model import Model
from scene4d.fitting.rotations import matrix_quats, procrustes
from scene4d.fitting.settle import HandleTracks, settle
from scene4d.fitting.tracking import PointCloud, carry
from scene4d.rig import Rig

MOST_POINTS = 2000
LEAST_OPACITY = 0.2
SETTLE_STEPS = 50
HOLD = 0.1  # share of the march before anything joins: the shape has to be there first
NEWEST = 0.5  # share of the steps that look at the knots that joined last


@dataclass(frozen=True)
class Window:
    """The knots that take part, the first and the last."""

    low: int
    high: int


def window_at(model: Model, origin: float, share: float) -> Window:
    """The window when `share` of the march is done; `origin` is the time in seconds at which it starts."""
    times = knot_times(model)
    middle = int((times - origin).abs().argmin())
    reach = max(middle, len(times) - 1 - middle)
    radius = min(reach, 1 + int(max(0.0, share - HOLD) / (1 - HOLD) * reach))
    return Window(max(0, middle - radius), min(len(times) - 1, middle + radius))


def knot_times(model: Model) -> Tensor:
    """Times [k] in seconds, which a fit gives to all handles."""
    assert model.rig is not None
    return model.rig.knot_times[: int(model.rig.knot_counts[0])].cpu()


@torch.no_grad()
def carry_on(
    footage: Footage, model: Model, graph: HandleGraph, edge: int, to: int, generator: torch.Generator
) -> None:
    """Set the knots from `edge` (exclusive) to `to`, and beyond it, by carrying the scene's moving Gaussians.

    `edge` and `to` are indices of knots; to > edge goes forwards, to < edge backwards in time.
    """
    rig, times = model.rig, knot_times(model)
    assert rig is not None
    frames = _frames_between(footage, float(times[edge]), float(times[to]))
    step = 1 if to > edge else -1
    if len(frames) > 1:
        tracks = _handle_tracks(footage, model, frames, generator)
        poses = [_pose_at(tracks, float(times[i]), step) for i in range(edge + step, to + step, step)]
    else:
        quats, moved = motion.handle_poses(rig, float(times[edge]))
        tracks, poses = None, [(quats, rotate(quats, rig.centers) + moved)] * abs(to - edge)
    quats, shifts = _knots(model)
    for i, (turn, place) in zip(range(edge + step, to + step, step), poses, strict=True):
        quats[:, i], shifts[:, i] = turn, place - rig.centers
    _extrapolate(quats, shifts, to, step)
    changed = torch.zeros(quats.shape[:2], dtype=torch.bool)
    changed[:, edge + 1 :] = step > 0
    changed[:, :edge] = step < 0
    if tracks is not None:
        others = _frames_between(footage, float(times[0]), float(times[-1]))
        window = sorted((float(times[edge]), float(times[to])))
        seen = [footage.time(f) for f in others]
        inside = [t for t in seen if _in_window(t, float(times[edge]), step)] or window
        with torch.enable_grad():
            settled = settle(
                _with_knots(model, quats, shifts), graph, tracks, generator,
                steps=SETTLE_STEPS, mask=changed.reshape(-1), others=inside,
            )  # fmt: skip
        quats, shifts = settled.knot_quats.reshape(quats.shape), settled.knot_translations.reshape(shifts.shape)
    _store(model, quats, shifts, changed.reshape(-1))


def _in_window(t: float, edge: float, step: int) -> bool:
    return t <= edge if step > 0 else t >= edge


def _frames_between(footage: Footage, start: float, end: float) -> list[int]:
    """Training frames from the last one not after `start` to the first one that reaches `end`, in that direction."""
    frames = footage.frames if end >= start else footage.frames[::-1]
    sign = 1 if end >= start else -1
    times = [sign * footage.time(f) for f in frames]
    first = max((i for i, t in enumerate(times) if t <= sign * start + 1e-9), default=0)
    last = next((i for i, t in enumerate(times) if t >= sign * end - 1e-9), len(frames) - 1)
    return frames[first : last + 1]


def _handle_tracks(footage: Footage, model: Model, frames: list[int], generator: torch.Generator) -> HandleTracks:
    """Where handles go from the first of the frames on, and how they turn, from carried Gaussians."""
    scene = model.finished()
    rig, slots, logits = scene.rig, scene.handle_ids, scene.handle_logits
    assert rig is not None and slots is not None and logits is not None
    solid = ((scene.logit_opacities.sigmoid() > LEAST_OPACITY) & (slots[:, 0] >= 0)).nonzero()[:, 0]
    if len(solid) > MOST_POINTS:
        solid = solid[torch.randperm(len(solid), generator=generator)[:MOST_POINTS].sort().values]
    part = scene.subset(solid)
    start = footage.time(frames[0])
    here, speed = motion.positions(part, start), motion.velocities(part, start)
    cloud = PointCloud(here, part.instances, torch.cat([here, part.means], 1))
    weights = _membership(slots[solid], logits[solid], len(rig))  # [J, n]
    quats, moved = motion.handle_poses(rig, start)
    center = rotate(quats, rig.centers) + moved
    xyz, places, turns, trust = here, [center], [quats], [torch.ones(len(rig))]
    certainty = torch.ones(len(part))
    for a, b in zip(frames, frames[1:], strict=False):
        gap = footage.time(b) - footage.time(a)
        move, count = carry(footage, xyz, cloud, (a, b), speed * gap)
        xyz, speed = xyz + move, move / gap
        certainty = torch.minimum(certainty, count.clamp(0, 1))
        turn, place, sure = _follow(weights, certainty, here, xyz, center)
        places.append(place)
        turns.append(multiply(turn, quats))
        trust.append(sure)
    times = [footage.time(f) for f in frames]
    return HandleTracks(times, torch.stack(places), torch.stack(trust), torch.stack(turns))


def _membership(slots: Tensor, logits: Tensor, handles: int) -> Tensor:
    """How much each point belongs to each handle, [J, n]."""
    used = slots >= 0
    share = torch.where(used, logits, logits.new_full((), -1e9)).softmax(1) * used
    weights = torch.zeros(len(slots), handles)
    return weights.scatter_add_(1, slots.long().clamp_min(0), share).T.contiguous()


def _follow(weights: Tensor, certainty: Tensor, a: Tensor, b: Tensor, center: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Turns [J, 4] and new places [J, 3] of handles at `center` as points go from a to b [n, 3], and trust [J]."""
    w = weights * (certainty + 1e-3)
    total = w.sum(1, keepdim=True).clamp_min(1e-9)
    share = w / total
    mean_a, mean_b = share @ a, share @ b
    # sum w (b - mb)(a - ma)^T without a [J, n, 3] table
    cross = torch.einsum("jn,na,nb->jab", share, b, a) - mean_b[:, :, None] * mean_a[:, None, :]
    turn = procrustes(cross)
    place = (turn @ (center - mean_a)[..., None])[..., 0] + mean_b
    sure = (weights * certainty).sum(1) / weights.sum(1).clamp_min(1e-9)
    return matrix_quats(turn), place, sure


def _pose_at(tracks: HandleTracks, t: float, step: int) -> tuple[Tensor, Tensor]:
    """Turn and place of the handles at t: between the tracked frames, or going on as in the last ones."""
    assert tracks.turns is not None
    sign = [step * x for x in tracks.times]
    high = next((i for i, x in enumerate(sign) if x >= step * t - 1e-9 and i > 0), len(sign) - 1)
    low = high - 1
    part = (step * t - sign[low]) / max(sign[high] - sign[low], 1e-9)
    a, b = tracks.turns[low], tracks.turns[high]
    b = torch.where((a * b).sum(1, keepdim=True) < 0, -b, b)
    return normalize(torch.lerp(a, b, part), dim=1), torch.lerp(tracks.xyz[low], tracks.xyz[high], part)


def _knots(model: Model) -> tuple[Tensor, Tensor]:
    """Copies of the knots, [J, k, 4] and [J, k, 3]."""
    rig = model.rig
    assert rig is not None
    J, k = len(rig), int(rig.knot_counts[0])
    quats, shifts = rig.knot_quats.detach().cpu().clone(), rig.knot_translations.detach().cpu().clone()
    return quats.reshape(J, k, 4), shifts.reshape(J, k, 3)


def _extrapolate(quats: Tensor, shifts: Tensor, to: int, step: int) -> None:
    """Knots beyond `to`: one more step of the same motion, then rest."""
    k, before, beyond = quats.shape[1], to - step, to + step
    if not 0 <= beyond < k:
        return
    ahead = quats[:, to]
    if 0 <= before < k:
        shifts[:, beyond] = 2 * shifts[:, to] - shifts[:, before]
        near = torch.where((quats[:, before] * ahead).sum(1, keepdim=True) < 0, -quats[:, before], quats[:, before])
        quats[:, beyond] = normalize(2 * ahead - near, dim=1)
    rest = range(beyond + step, k if step > 0 else -1, step)
    for i in rest:
        quats[:, i], shifts[:, i] = quats[:, beyond], shifts[:, beyond]


def _with_knots(model: Model, quats: Tensor, shifts: Tensor) -> Rig:
    assert model.rig is not None
    plain = replace(model.rig, **{f.name: getattr(model.rig, f.name).detach().cpu() for f in fields(model.rig)})
    return replace(plain, knot_quats=quats.reshape(-1, 4), knot_translations=shifts.reshape(-1, 3))


def _store(model: Model, quats: Tensor, shifts: Tensor, changed: Tensor) -> None:
    """Write the knots in place; the changed ones lose their moments."""
    assert model.rig is not None
    for name, value in (("knot_quats", quats), ("knot_translations", shifts)):
        tensor = getattr(model.rig, name)
        rows = changed.to(tensor.device)
        tensor.data[rows] = value.reshape(tensor.shape).to(tensor.device)[rows]
        state = model.optimizers[name].state.get(tensor, {})
        for key in ("exp_avg", "exp_avg_sq"):
            if key in state:
                state[key][rows] = 0
