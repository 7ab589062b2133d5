"""What a scene looks like besides its colour: depth, coverage, flow, normals, labels, instances.

All of it comes out of the rasterizer as blended features, in as few passes as the number of features allows.

Flow is that of the surface point at the pixel, not of the centres of the Gaussians there. Between t and t_next
Gaussian i moves its surroundings rigidly, x -> R_i (x - mu_i) + mu'_i, so the displacement is affine in x:

    x' - x = A_i x + b_i,     A_i = R_i - 1,     b_i = mu'_i - R_i mu_i

A and b are blended (12 features), divided by alpha, and applied to the point that the rendered depth puts at the
pixel's centre. What moves rigidly is exact whatever the size of its Gaussians; blended displacements of centres would
be those of the point where the centres average to, a fraction of a Gaussian away.

N Gaussians, C cameras, H W pixels, F feature channels.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from renderers import Cameras, Gaussians, Rendering, rasterize
from renderers.quaternions import conjugate, multiply, rotate, unit
from scene4d.scene import Scene4D

if TYPE_CHECKING:
    from scene4d.edits import EditedScene

CHANNELS = ("rgb", "depth", "alpha", "flow", "normal", "label", "id")
NOTHING = -1  # label and id where nothing is
COVERED = 0.5  # alpha from which a pixel shows something: half of it
MAX_FEATURES = 64  # of one pass: each is a float a pixel and a Gaussian
ID_BLOCK = 16  # ids that are weighed against each other together
NEAR = 1e-6  # scene units: a surface point nearer to the next camera has no place in its image
LOST_NORMAL = 1e-6  # blended normals shorter than this share of alpha cancel out: no direction is left


@dataclass(frozen=True)
class _Block:
    """Features of one channel: a signal, or one column for each of the ids `values`."""

    channel: str
    features: Tensor  # [N, F] or [C, N, F]
    values: Tensor | None = None  # [F] int32


def render_channels(
    scene: Scene4D | EditedScene,
    cameras: Cameras,
    t: float,
    channels: Collection[str],
    *,
    t_next: float | None = None,
    next_cameras: Cameras | None = None,
    background: Tensor | None = None,
    backend: str = "auto",
) -> dict[str, Tensor]:
    """Maps of a scene at t seconds from C cameras, for each of `channels`:

        rgb     [C, H, W, 3]  over `background`
        depth   [C, H, W]     expected z in the camera, 0 = nothing
        alpha   [C, H, W]     coverage, 0 to 1
        flow    [C, H, W, 2]  pixels (right, down) from each pixel's centre to where the surface point there is at
                              t_next in the same camera, or in `next_cameras`; 0 = nothing, or behind that camera.
                              Whether something hides the point there is not looked at. On an outline it is the mean
                              of what the pixel shows, as depth is
        normal  [C, H, W, 3]  world, unit length, towards the camera; 0 = nothing. Each Gaussian's shortest axis: those
                              of round Gaussians mean nothing
        label   [C, H, W]     int32 label with the largest blending weight in the pixel, -1 = less than half covered
        id      [C, H, W]     the same of `scene.instances`

    Args:
        scene: or anything else with `at`, `labels` and `instances`.
        cameras, background: taken in the scene's dtype and on its device.
        next_cameras: for flow, as many as `cameras` or one. Default: the same.
        t_next: needed for flow.

    Differentiable, but for label and id, as `renderers.rasterize` is.

    Raises:
        ValueError: an unknown channel, flow without `t_next`, and as `renderers.rasterize` and `Scene4D.at`.
    """
    unknown = [str(name) for name in channels if name not in CHANNELS]
    if isinstance(channels, str) or unknown or not channels:
        raise ValueError(f"channels must be some of {', '.join(CHANNELS)}, got {channels!r}")
    if "flow" in channels and t_next is None:
        raise ValueError("t_next must be given for the channel flow, got None")
    now = scene.at(t)
    cameras = _cameras_like(now.means, cameras)
    background = None if background is None else background.to(now.means)
    blocks = []
    if "flow" in channels and t_next is not None:
        blocks.append(_Block("flow", _displacements(now, scene.at(t_next))))
    if "normal" in channels:
        blocks.append(_Block("normal", facing_normals(now, cameras)))
    for channel, ids in (("label", scene.labels), ("id", scene.instances)):
        blocks += _id_blocks(channel, ids, now.means) if channel in channels else []
    rendering, maps = _render_blocks(now, cameras, blocks, background, backend)
    maps |= {"rgb": rendering.image, "depth": rendering.depth, "alpha": rendering.alpha}
    if "flow" in channels:
        target = cameras if next_cameras is None else _cameras_like(now.means, next_cameras)
        maps["flow"] = _flow(maps["flow"], rendering, cameras, target)
    if "normal" in channels:
        maps["normal"] = _unit_or_zero(maps["normal"], rendering.alpha)
    return {name: maps[name] for name in channels}


def unproject(depth: Tensor, cameras: Cameras) -> Tensor:
    """World points [C, H, W, 3] at the pixels' centres for z depths [C, H, W]. Depth 0 gives the camera's centre."""
    rays = pixel_rays(cameras)
    in_cam = rays * depth[..., None]
    R_cam_world, shift = cameras.world_to_cam[:, :3, :3], cameras.world_to_cam[:, :3, 3]
    return (in_cam - shift[:, None, None]) @ R_cam_world[:, None]  # row vectors: times R is R^T times


def pixel_rays(cameras: Cameras) -> Tensor:
    """Directions [C, H, W, 3] in the camera, of z = 1, through the pixels' centres."""
    like = {"dtype": cameras.K.dtype, "device": cameras.K.device}
    us = torch.arange(cameras.width, **like) + 0.5
    vs = torch.arange(cameras.height, **like) + 0.5
    x = (us - cameras.K[:, 0, 2, None]) / cameras.K[:, 0, 0, None]
    y = (vs - cameras.K[:, 1, 2, None]) / cameras.K[:, 1, 1, None]
    size = (len(cameras), cameras.height, cameras.width)
    return torch.stack([x[:, None].expand(size), y[:, :, None].expand(size), x.new_ones(size)], -1)


def facing_normals(gaussians: Gaussians, cameras: Cameras) -> Tensor:
    """Unit vectors [C, N, 3] along each Gaussian's shortest axis, on the side that faces the camera's centre."""
    shortest = one_hot(gaussians.log_scales.argmin(1), 3).to(gaussians.means)
    axes = rotate(unit(gaussians.quats), shortest)
    towards = cameras.centers[:, None] - gaussians.means
    away = (towards * axes).sum(-1, keepdim=True) < 0
    return torch.where(away, -axes, axes)


def _cameras_like(means: Tensor, cameras: Cameras) -> Cameras:
    return Cameras(cameras.world_to_cam.to(means), cameras.K.to(means), cameras.width, cameras.height)


def _displacements(now: Gaussians, after: Gaussians) -> Tensor:
    """A (nine numbers, row by row) and b of every Gaussian, [N, 12]."""
    turn = multiply(unit(after.quats), conjugate(unit(now.quats)))
    axes = torch.eye(3, dtype=turn.dtype, device=turn.device)
    columns = [rotate(turn, axis.expand_as(now.means)) - axis for axis in axes]
    A = torch.stack(columns, -1)  # [N, 3, 3]
    b = after.means - now.means - (A @ now.means[..., None])[..., 0]  # mu' - R mu, without cancellation for A = 0
    return torch.cat([A.flatten(1), b], 1)


def _flow(blended: Tensor, rendering: Rendering, cameras: Cameras, target: Cameras) -> Tensor:
    if len(target) not in (1, len(cameras)):
        raise ValueError(f"next_cameras must be 1 or as many as cameras ({len(cameras)}), got {len(target)}")
    seen = rendering.alpha > 0
    affine = blended / rendering.alpha.masked_fill(~seen, 1.0)[..., None]
    points = unproject(rendering.depth, cameras)
    A, b = affine[..., :9].unflatten(-1, (3, 3)), affine[..., 9:]
    moved = (A @ points[..., None])[..., 0] + b
    R_cam_world, shift = target.world_to_cam[:, None, None, :3, :3], target.world_to_cam[:, None, None, :3, 3]
    there = (R_cam_world @ (points + moved)[..., None])[..., 0] + shift
    seen = seen & (there[..., 2] > NEAR)
    z = there[..., 2:].masked_fill(~seen[..., None], 1.0)
    focal, center = target.K[:, [0, 1], [0, 1]], target.K[:, :2, 2]
    pixels = there[..., :2] / z * focal[:, None, None] + center[:, None, None]
    start = pixel_rays(cameras)[..., :2] * cameras.K[:, None, None, [0, 1], [0, 1]] + cameras.K[:, None, None, :2, 2]
    return (pixels - start).masked_fill(~seen[..., None], 0.0)


def _unit_or_zero(vectors: Tensor, alpha: Tensor) -> Tensor:
    lost = vectors.detach().norm(dim=-1) <= LOST_NORMAL * alpha.detach()
    return normalize(vectors, dim=-1, eps=1e-12).masked_fill(lost[..., None], 0.0)


def _id_blocks(channel: str, ids: Tensor, like: Tensor) -> list[_Block]:
    parts = [part for part in ids.unique().split(ID_BLOCK) if len(part)] or [ids.new_zeros(1)]
    return [_Block(channel, (ids[:, None] == part).to(like), part.int()) for part in parts]


def _render_blocks(
    gaussians: Gaussians, cameras: Cameras, blocks: list[_Block], background: Tensor | None, backend: str
) -> tuple[Rendering, dict[str, Tensor]]:
    """The rendering, and of each block's channel the blended features [C, H, W, F] or the strongest id [C, H, W]."""
    maps: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    first = None
    for group in _passes(blocks):
        rendering = rasterize(
            gaussians, cameras, features=_joined(group, len(cameras)), background=background, backend=backend
        )
        first = first or rendering
        start = 0
        for block in group:
            width = block.features.shape[-1]
            assert rendering.features is not None
            part = rendering.features[..., start : start + width]
            start += width
            if block.values is None:
                maps[block.channel] = part
            else:
                _keep_stronger(block, part.detach(), maps, weights)
    assert first is not None
    for channel in weights:
        maps[channel] = maps[channel].masked_fill(first.alpha < COVERED, NOTHING)
    return first, maps


def _passes(blocks: list[_Block]) -> list[list[_Block]]:
    """The blocks in groups of at most MAX_FEATURES columns; at least one group."""
    groups, room = [[]], MAX_FEATURES
    for block in blocks:
        width = block.features.shape[-1]
        if width > room:
            groups.append([])
            room = MAX_FEATURES
        groups[-1].append(block)
        room -= width
    return groups


def _joined(group: list[_Block], C: int) -> Tensor | None:
    features = [block.features for block in group]
    if any(x.ndim == 3 for x in features):
        features = [x if x.ndim == 3 else x.expand(C, *x.shape) for x in features]
    return torch.cat(features, -1) if features else None


def _keep_stronger(block: _Block, part: Tensor, maps: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    assert block.values is not None
    weight, column = part.max(-1)
    value = block.values[column]
    if block.channel not in maps:
        maps[block.channel] = torch.full_like(value, NOTHING)
        weights[block.channel] = torch.full_like(weight, -math.inf)
    better = weight > weights[block.channel]
    maps[block.channel] = torch.where(better, value, maps[block.channel])
    weights[block.channel] = torch.where(better, weight, weights[block.channel])
