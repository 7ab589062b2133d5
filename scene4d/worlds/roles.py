"""True roles of the pixels of an edited world's frame, from rays alone: which surfaces did which source views see?

A pixel is

    asset     if an inserted object is seen there
    preserve  if the very surface point at its centre is seen in a source view: its object, posed at that view's time in
              the source world, has the point in the image with nothing in front of it
    reveal    if not, and the point (where it is in the edited world) lies inside the image of a source view
    expand    otherwise; a pixel that shows nothing is judged by its direction at infinity

S source views, H W pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from renderers import Cameras
from scene4d.worlds.correspondence import counterparts, look
from scene4d.worlds.motions import poses_at
from scene4d.worlds.shapes import NEAR
from scene4d.worlds.tracing import Eye, cast_grid, eyes_at, rest_hits
from scene4d.worlds.types import World

PRESERVE, REVEAL, EXPAND = 0, 1, 2
JUMP = 0.05  # second difference of 1/z over 1/z from which depth counts as jumping


@dataclass(frozen=True)
class TrueRoles:
    """Roles of one frame, without doubt."""

    roles: Tensor  # [H, W] uint8 PRESERVE, REVEAL or EXPAND; PRESERVE for assets
    asset: Tensor  # [H, W] bool
    votes: Tensor  # [H, W] int32 source views that see the surface point
    band: Tensor  # [H, W] bool: within two pixels of a border of roles, instances or depth, where metrics look away


def true_roles(
    source: World,
    edited: World,
    camera: Cameras,  # one
    time: float,
    source_cameras: Sequence[Cameras],  # one camera each
    source_times: Sequence[float],
    inserted: Collection[str] = (),
    band: int = 2,
) -> TrueRoles:
    """The roles of what `camera` sees of the edited world at a time, given what the source views saw of the source."""
    (eye,) = eyes_at(edited, camera, time)
    us = torch.arange(camera.width, dtype=torch.float64) + 0.5
    vs = torch.arange(camera.height, dtype=torch.float64) + 0.5
    depth, parts = cast_grid(edited, eye, us, vs)
    hits = list(rest_hits(eye, us, vs, depth, parts))
    twin = counterparts(edited, source)
    world_points = _world_points(eye, us, vs, depth)
    votes = torch.zeros(parts.numel(), dtype=torch.int32)
    extent = torch.zeros(parts.numel(), dtype=torch.bool)
    for cameras, source_time in zip(source_cameras, source_times, strict=True):
        (source_eye,) = eyes_at(source, cameras, source_time)
        T_world_rest = poses_at(source, source_time).T_world_rest
        carried = torch.full((parts.numel(), 3), torch.nan, dtype=torch.float64)
        for k, index, points in hits:
            if twin[k] >= 0 and edited.objects[k].name not in inserted:
                carried[index] = points @ T_world_rest[twin[k], :3, :3].T + T_world_rest[twin[k], :3, 3]
        votes += look(source, source_eye, carried)[3].int()
        extent |= _in_frame(source_eye, world_points)
    assets = torch.tensor([o.name in inserted for o in edited.objects] + [False])[parts.long()]
    roles = torch.where(votes > 0, PRESERVE, torch.where(extent, REVEAL, EXPAND)).reshape(parts.shape)
    roles = torch.where(assets, PRESERVE, roles).to(torch.uint8)
    instances = torch.tensor([o.instance for o in edited.objects] + [0])[parts.long()]
    borders = _borders(roles) | _borders(instances) | _borders(assets) | _jumps(depth)
    near = F.max_pool2d(borders[None, None].float(), 2 * band + 1, 1, band)[0, 0] > 0 if band else borders & False
    return TrueRoles(roles, assets, votes.reshape(parts.shape), near)


def _world_points(eye: Eye, us: Tensor, vs: Tensor, depth: Tensor) -> Tensor:
    """[H W, 4] homogeneous points of the world at the pixels; directions where nothing is."""
    pixels = torch.stack([*torch.meshgrid(us, vs, indexing="xy"), torch.ones_like(depth)], -1).reshape(-1, 3)
    rays = pixels @ torch.linalg.inv(eye.K).T
    z = depth.reshape(-1, 1)
    nothing = z.isinf()
    cam = torch.cat([rays * z.masked_fill(nothing, 1.0), (~nothing).double()], 1)
    return cam @ torch.linalg.inv(eye.world_to_cam).T


def _in_frame(eye: Eye, points: Tensor) -> Tensor:
    cam = points @ eye.world_to_cam[:3].T
    pixels = cam @ eye.K.T
    uv = pixels[:, :2] / pixels[:, 2:]
    return (cam[:, 2] > NEAR) & (uv >= 0).all(1) & (uv < uv.new_tensor([eye.width, eye.height])).all(1)


def _borders(labels: Tensor) -> Tensor:
    """bool [H, W]: a neighbour to the right, left, above or below has another label."""
    found = torch.zeros(labels.shape, dtype=torch.bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    found[:, 1:] |= across
    found[:, :-1] |= across
    found[1:] |= down
    found[:-1] |= down
    return found


def _jumps(depth: Tensor) -> Tensor:
    inverse = torch.where(depth.isinf(), 0.0, 1.0 / depth)
    found = torch.zeros(depth.shape, dtype=torch.bool)
    scale = JUMP * inverse.clamp(min=1e-9)
    found[:, 1:-1] |= (inverse[:, 2:] - 2 * inverse[:, 1:-1] + inverse[:, :-2]).abs() > scale[:, 1:-1]
    found[1:-1] |= (inverse[2:] - 2 * inverse[1:-1] + inverse[:-2]).abs() > scale[1:-1]
    return found
