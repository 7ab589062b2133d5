"""Exact roles of the pixels of an edited world: what sources saw of it, what they could have seen, what they could not.

Preserve: the surface point was seen, unoccluded, in some source view, wherever its object stood then. Reveal: it was
not, but its place in the edited world lies in the frustum of some source view. Expand: outside of all. Surfaces that
the source world does not have (inserted things) are marked as asset, whatever their role.

C cameras, N points, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from renderers import Cameras
from scene4d.worlds.correspondence import counterparts, look
from scene4d.worlds.shapes import NEAR
from scene4d.worlds.tracing import Eye, cast_grid, eyes_at, rest_hits
from scene4d.worlds.types import World

PRESERVE, REVEAL, EXPAND = 0, 1, 2
FAR = 1e6  # metres: where rays that hit nothing end


@dataclass(frozen=True)
class WorldRoles:
    """Exact at pixel centres."""

    roles: Tensor  # [C, H, W] uint8: 0 Preserve, 1 Reveal, 2 Expand; of assets Preserve
    asset: Tensor  # [C, H, W] bool: an inserted surface
    ids: Tensor  # [C, H, W] int32 instance in the edited world


def exact_roles(
    source: World,
    views: Sequence[tuple[Cameras, float]],  # cameras and the time at which they saw the source world
    edited: World,
    cameras: Cameras,
    time: float,
) -> WorldRoles:
    """Roles of what `cameras` see of the edited world at `time`, given the source views.

    Surfaces keep their identity through the rest frame of their object, as in `flow`. Where nothing is, the direction
    is what was seen or not. Raises ValueError: there is no source view.
    """
    if not views:
        raise ValueError("views must hold at least one source view, got none")
    sources = [(eye, at) for batch, at in views for eye in eyes_at(source, batch, at)]
    # those near in time first: they have most likely seen a point, and points that were seen are not asked for again
    sources.sort(key=lambda pair: abs(pair[1] - time))
    counterpart = torch.tensor([*counterparts(edited, source), -1])
    instances = torch.tensor([o.instance for o in edited.objects] + [0], dtype=torch.int32)  # [-1] is the void's
    us = torch.arange(cameras.width, dtype=torch.float64) + 0.5
    vs = torch.arange(cameras.height, dtype=torch.float64) + 0.5
    found = []
    for eye in eyes_at(edited, cameras, time):
        depth, parts = cast_grid(edited, eye, us, vs)
        rest, place = _surface(eye, us, vs, depth, parts)
        own = counterpart[parts.reshape(-1).long()]  # [-1] is the void's
        void = parts.reshape(-1) < 0
        seen = _seen(source, [eye for eye, _ in sources], own, void, rest)
        extent = _in_extent([eye for eye, _ in sources], place)
        asset = (own < 0) & ~void
        roles = torch.where(seen | asset, PRESERVE, torch.where(extent, REVEAL, EXPAND)).to(torch.uint8)
        found.append((roles.reshape(parts.shape), asset.reshape(parts.shape), instances[parts.long()]))
    return WorldRoles(*(torch.stack(v) for v in zip(*found, strict=True)))


def _surface(eye: Eye, us: Tensor, vs: Tensor, depth: Tensor, parts: Tensor) -> tuple[Tensor, Tensor]:
    """Rest points and world points [N, 3] of all pixels; where nothing is, both are far away in the world."""
    u, v = us.repeat(len(vs)), vs.repeat_interleave(len(us))
    rays = torch.stack([u, v, torch.ones_like(u)], -1) @ torch.linalg.inv(eye.K).T
    z = torch.where(depth.isinf(), FAR, depth).reshape(-1, 1)
    place = (z * rays - eye.world_to_cam[:3, 3]) @ eye.world_to_cam[:3, :3]
    rest = place.clone()
    for _, index, points in rest_hits(eye, us, vs, depth, parts):
        rest[index] = points
    return rest, place


def _seen(source: World, eyes: Sequence[Eye], own: Tensor, void: Tensor, rest: Tensor) -> Tensor:
    """bool [N]: rest points of the source world's objects `own` [N] (-1: none) are visible in some view."""
    seen = torch.zeros(len(own), dtype=torch.bool)
    askable = (own >= 0) | void
    for eye in eyes:
        rows = (askable & ~seen).nonzero()[:, 0]
        if len(rows) == 0:
            break
        points, mine = rest[rows], own[rows]
        xyz = points.clone()  # of the void: where it is
        for k in mine.unique().tolist():
            if k >= 0:
                T_world_rest = eye.T_world_rest[k]
                xyz[mine == k] = points[mine == k] @ T_world_rest[:3, :3].T + T_world_rest[:3, 3]
        seen[rows] = look(source, eye, xyz)[3]
    return seen


def _in_extent(eyes: Sequence[Eye], place: Tensor) -> Tensor:
    """bool [N]: world points [N, 3] project into the picture of some view, hidden or not."""
    inside = torch.zeros(len(place), dtype=torch.bool)
    for eye in eyes:
        cam = place @ eye.world_to_cam[:3, :3].T + eye.world_to_cam[:3, 3]
        pixels = cam @ eye.K.T
        pixels = pixels[:, :2] / cam[:, 2:]
        size = pixels.new_tensor([eye.width, eye.height])
        inside |= (cam[:, 2] > NEAR) & ((pixels >= 0) & (pixels < size)).all(-1)
    return inside
