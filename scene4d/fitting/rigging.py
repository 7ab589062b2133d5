"""A rig from tracks: handles by farthest-point sampling, poses by Procrustes, weights by distance along the whole path.

n points, J handles, T frames, M slots, L knots.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from renderers.poses import CUBIC
from scene4d.fitting.rotations import matrix_quats, procrustes
from scene4d.fitting.settle import HandleTracks
from scene4d.fitting.tracking import PointTracks
from scene4d.rig import Rig

SIGNATURE_TIMES = 12  # at which paths are compared
PROCRUSTES_POINTS = 24
LEAST_HANDLES = 4  # of a thing that moves


@dataclass(frozen=True, eq=False)
class Rigging:
    """A rig and how points follow it."""

    rig: Rig
    origin_time: float  # seconds at which all handles are at rest
    slots: Tensor  # [n, M] int32 handles, -1 = none
    logits: Tensor  # [n, M]
    tracks: HandleTracks  # what the handles were made from


def signatures(tracks: PointTracks) -> Tensor:
    """Where points are at some times, side by side, [n, 3 times]: points that stay together are near in it."""
    T = len(tracks.frames)
    picked = torch.linspace(0, T - 1, min(T, SIGNATURE_TIMES)).round().long().unique()
    return tracks.xyz[picked].permute(1, 0, 2).flatten(1)


def path_distance(a: Tensor, b: Tensor) -> Tensor:
    """Largest distance [n, m] over time between paths a [n, 3 times] and b [m, 3 times] (MoSca, section 4.1)."""
    steps = zip(a.split(3, 1), b.split(3, 1), strict=True)
    largest = torch.zeros(len(a), len(b))
    for at_a, at_b in steps:
        largest = torch.maximum(largest, torch.cdist(at_a, at_b))
    return largest


def farthest_points(paths: Tensor, count: int) -> Tensor:
    """Indices [count] of paths [n, 3 times] that are far from each other; deterministic, starts in the middle."""
    first = int((paths - paths.mean(0)).square().sum(1).argmin())
    chosen = [first]
    distance = path_distance(paths, paths[first : first + 1])[:, 0]
    while len(chosen) < min(count, len(paths)):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, path_distance(paths, paths[chosen[-1] :][:1])[:, 0])
    return torch.tensor(chosen)


def moves(tracks: PointTracks, tolerance: float) -> dict[int, bool]:
    """By instance: whether more than a tenth of its points leave their place by more than `tolerance`."""
    reach = (tracks.xyz - tracks.xyz[tracks.origin]).norm(dim=-1).amax(0)
    found = tracks.instances.unique().tolist()
    return {i: bool((reach[tracks.instances == i] > tolerance).float().mean() > 0.1) for i in found}


def handle_share(tracks: PointTracks, instances: list[int], handles: int) -> dict[int, int]:
    """How many handles each instance gets: by the square root of its number of points."""
    counts = {i: float((tracks.instances == i).sum()) ** 0.5 for i in instances}
    total = sum(counts.values())
    return {i: max(LEAST_HANDLES, round(handles * counts[i] / total)) for i in instances}


def make_rigging(
    tracks: PointTracks, times: list[float], knot_times: Tensor, settings: tuple[int, int], tolerance: float
) -> Rigging | None:
    """Handles for the instances that move; None where nothing does.

    Args:
        times: [T] seconds of the frames of `tracks`.
        knot_times: [k] seconds, the same for all handles.
        settings: number of handles in all, and slots per Gaussian.
        tolerance: scene units; below it a point has not moved.
    """
    moving = [i for i, flag in moves(tracks, tolerance).items() if flag]
    if not moving or settings[0] == 0:
        return None
    handles, M = settings
    paths = signatures(tracks)
    chosen, owners = [], []
    for instance, count in handle_share(tracks, moving, handles).items():
        rows = (tracks.instances == instance).nonzero()[:, 0]
        picked = rows[farthest_points(paths[rows], count)]
        chosen.append(picked)
        owners += [instance] * len(picked)
    ids, owner = torch.cat(chosen), torch.tensor(owners, dtype=torch.int32)
    rotations, positions, trust = _handle_paths(tracks, paths, ids, owner)
    rig = _rig(tracks.xyz[tracks.origin][ids], owner, (rotations, positions), times, knot_times)
    slots, logits = follow(paths, tracks.instances, paths[ids], owner, M)
    return Rigging(rig, times[tracks.origin], slots, logits, HandleTracks(times, positions, trust))


def follow(paths: Tensor, instances: Tensor, handle_paths: Tensor, owner: Tensor, M: int) -> tuple[Tensor, Tensor]:
    """Slots [n, M] int32 and logits [n, M]: the nearest handles of the same instance along the path."""
    slots = torch.full((len(paths), M), -1, dtype=torch.int32)
    logits = torch.zeros(len(paths), M)
    for instance in owner.unique().tolist():
        mine, handles = (instances == instance).nonzero()[:, 0], (owner == instance).nonzero()[:, 0]
        if not len(mine):
            continue
        distance = path_distance(paths[mine], handle_paths[handles])
        k = min(M, len(handles))
        near, index = distance.topk(k, dim=1, largest=False)
        reach = near[:, -1:].clamp_min(1e-9)
        slots[mine, :k] = handles[index].int()
        logits[mine, :k] = -4.0 * (near / reach).square()
    return slots, logits


def _handle_paths(tracks: PointTracks, paths: Tensor, ids: Tensor, owner: Tensor) -> tuple[Tensor, ...]:
    """Rotations [T, J, 3, 3] and positions [T, J, 3] of handles from points that stay with them, and trust [T, J]."""
    distance = path_distance(paths[ids], paths)
    distance[owner[:, None] != tracks.instances] = torch.inf
    near, index = distance.topk(min(PROCRUSTES_POINTS, len(paths)), dim=1, largest=False)
    reach = near[:, min(8, near.shape[1] - 1)].clamp_min(1e-9)
    weights = torch.exp(-(near / (2 * reach[:, None])).square()).nan_to_num()
    weights = weights * (tracks.seen.mean(0)[index].clamp(0, 1) + 0.02)
    trust = (weights * tracks.seen.clamp(0, 1)[:, index]).sum(-1) / weights.sum(1)
    rest = tracks.xyz[tracks.origin][index]  # [J, k, 3]
    middle = (weights[..., None] * rest).sum(1) / weights.sum(1)[:, None]
    rotations, positions = [], []
    center = tracks.xyz[tracks.origin][ids]
    for xyz in tracks.xyz:
        there = xyz[index]
        mean = (weights[..., None] * there).sum(1) / weights.sum(1)[:, None]
        there_off, rest_off = there - mean[:, None], rest - middle[:, None]
        R = procrustes(torch.einsum("jk,jka,jkb->jab", weights, there_off, rest_off))
        rotations.append(R)
        positions.append((R @ (center - middle)[..., None])[..., 0] + mean)
    return torch.stack(rotations), torch.stack(positions), trust


def _rig(center: Tensor, owner: Tensor, poses: tuple[Tensor, Tensor], times: list[float], knot_times: Tensor) -> Rig:
    """The rig whose knots lie on handle paths given at `times`, interpolated between them."""
    rotations, positions = poses
    J, k = len(center), len(knot_times)
    at = np.interp(knot_times.numpy(), times, np.arange(len(times)))
    low = torch.from_numpy(np.floor(at)).long().clamp(0, len(times) - 1)
    high = (low + 1).clamp(0, len(times) - 1)
    part = torch.from_numpy(at).float() - low
    quats = torch.stack([matrix_quats(R) for R in rotations])
    a, b = quats[low], quats[high]
    b = torch.where((a * b).sum(-1, keepdim=True) < 0, -b, b)
    mixed = torch.nn.functional.normalize(torch.lerp(a, b, part[:, None, None]), dim=-1)
    moved = torch.lerp(positions[low], positions[high], part[:, None, None]) - center
    count = torch.full((J,), k, dtype=torch.int32)
    return Rig(
        centers=center.clone(),
        parents=torch.full((J,), -1, dtype=torch.int32),
        instances=owner,
        interpolations=torch.full((J,), CUBIC, dtype=torch.int32),
        knot_counts=count,
        knot_times=knot_times.float().repeat(J),
        knot_quats=mixed.permute(1, 0, 2).reshape(J * k, 4).contiguous(),
        knot_translations=moved.permute(1, 0, 2).reshape(J * k, 3).contiguous(),
    )


def knot_schedule(first: float, last: float, spacing: float) -> Tensor:
    """Times [k] from first to last seconds, evenly, about `spacing` seconds apart; one where they are the same."""
    if last <= first:
        return torch.tensor([first])
    count = max(2, round((last - first) / spacing) + 1)
    return torch.linspace(first, last, count)
