"""Where surfaces go: optical flow and occlusion between any two cameras and times, and point tracks.

Surfaces keep their identity through the rest frame of their object, also from a world to an edited copy of it.

O objects, C cameras, T times, N points, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from renderers import Cameras
from scene4d.worlds.motions import poses_at
from scene4d.worlds.shapes import NEAR
from scene4d.worlds.tracing import Eye, cast_grid, cast_rays, eyes_at, rest_hits
from scene4d.worlds.types import Flow, SurfacePoints, Tracks, World

HIDDEN = 1e-6  # a surface nearer than the point by this share of its depth hides it: float64 noise is far below


def flow(
    world: World,
    cameras_a: Cameras,
    time_a: float,
    cameras_b: Cameras,
    time_b: float,
    world_b: World | None = None,
) -> Flow:
    """Exact flow of every pixel of cameras a at time a to cameras b (as many, or one for all) at time b.

    With `world_b`, an edited copy of `world` or the other way round, a surface goes to the object of the same name in
    it, else to the one it was copied from; surfaces without a counterpart are not defined.

    Backward flow is the same with a and b exchanged.
    """
    if len(cameras_b) not in (1, len(cameras_a)):
        raise ValueError(f"cameras_b must be 1 or as many as cameras_a ({len(cameras_a)}), got {len(cameras_b)}")
    target = world if world_b is None else world_b
    counterpart = torch.tensor(counterparts(world, target))
    us = torch.arange(cameras_a.width, dtype=torch.float64) + 0.5
    vs = torch.arange(cameras_a.height, dtype=torch.float64) + 0.5
    eyes_b = eyes_at(target, cameras_b, time_b)
    found = []
    for c, eye_a in enumerate(eyes_at(world, cameras_a, time_a)):
        depth, parts = cast_grid(world, eye_a, us, vs)
        xyz = torch.full((parts.numel(), 3), torch.nan, dtype=torch.float64)
        for k, index, points in rest_hits(eye_a, us, vs, depth, parts):
            if counterpart[k] >= 0:
                T_world_rest = eyes_b[0].T_world_rest[counterpart[k]]
                xyz[index] = points @ T_world_rest[:3, :3].T + T_world_rest[:3, 3]
        pixels, z, in_frame, visible = look(target, eyes_b[c % len(eyes_b)], xyz)
        start = torch.stack(torch.meshgrid(us, vs, indexing="xy"), -1)
        defined = (z > NEAR).reshape(parts.shape)
        moved = torch.where(defined[..., None], pixels.reshape(start.shape) - start, 0.0)
        found.append((moved.to(torch.float32), defined, in_frame.reshape(parts.shape), visible.reshape(parts.shape)))
    return Flow(*(torch.stack(v) for v in zip(*found, strict=True)))


def counterparts(world_a: World, world_b: World) -> list[int]:
    """For every object of a, the index of the object of b that has its surface: by name, else by origin; -1 = none."""
    by_name = {o.name: i for i, o in enumerate(world_b.objects)}
    by_origin = {o.origin: i for i, o in reversed(list(enumerate(world_b.objects))) if o.origin}
    return [by_name.get(o.name, by_name.get(o.origin, by_origin.get(o.name, -1))) for o in world_a.objects]


def look(world: World, eye: Eye, xyz: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixels [N, 2], depth [N], in frame [N] and visible [N] of world points on surfaces; NaN points are not seen."""
    cam = xyz @ eye.world_to_cam[:3, :3].T + eye.world_to_cam[:3, 3]
    z = cam[:, 2]
    ahead = z > NEAR
    pixels = torch.where(ahead[:, None], cam @ eye.K.T, torch.nan)
    pixels = pixels[:, :2] / pixels[:, 2:]
    size = pixels.new_tensor([eye.width, eye.height])
    in_frame = ahead & ((pixels >= 0) & (pixels < size)).all(-1)
    visible = torch.zeros_like(in_frame)
    inside = in_frame.nonzero()[:, 0]
    nearest, _ = cast_rays(world, eye, pixels[inside])
    visible[inside] = nearest >= z[inside] * (1.0 - HIDDEN)
    return pixels, z, in_frame, visible


def sample_points(world: World, cameras: Cameras, time: float, count: int, seed: int = 0) -> SurfacePoints:
    """About `count` points on surfaces that the cameras see, equally many for every instance, background included.

    An instance that is seen in too few pixels gives all of them. Raises ValueError where nothing is seen.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    us = torch.arange(cameras.width, dtype=torch.float64) + 0.5
    vs = torch.arange(cameras.height, dtype=torch.float64) + 0.5
    parts, rest = [], []
    for eye in eyes_at(world, cameras, time):
        for k, _, points in rest_hits(eye, us, vs, *cast_grid(world, eye, us, vs)):
            parts.append(torch.full((len(points),), k))
            rest.append(points)
    if not parts:
        raise ValueError(f"cameras must see something of world {world.name!r} at {time} s, they see nothing")
    all_parts, all_rest = torch.cat(parts), torch.cat(rest)
    instances = torch.tensor([o.instance for o in world.objects])[all_parts]
    seen = instances.unique().tolist()
    random = torch.Generator().manual_seed(seed)
    chosen = []
    for instance in seen:
        members = (instances == instance).nonzero()[:, 0]
        chosen.append(members[torch.randperm(len(members), generator=random)[: max(1, count // len(seen))]])
    rows = torch.cat(chosen)
    return SurfacePoints(all_parts[rows], all_rest[rows])


def points_at(world: World, points: SurfacePoints, time: float) -> Tensor:
    """World positions [N, 3] float64."""
    T_world_rest = poses_at(world, time).T_world_rest[points.parts]
    return (T_world_rest[:, :3, :3] @ points.rest[:, :, None])[..., 0] + T_world_rest[:, :3, 3]


def tracks(
    world: World,
    points: SurfacePoints,
    cameras: Cameras | Sequence[Cameras],  # the same at all times, or one batch a time
    times: Sequence[float],
) -> Tracks:
    """Paths of surface points through the world and through the images."""
    batches = [cameras] * len(times) if isinstance(cameras, Cameras) else list(cameras)
    if len(batches) != len(times):
        raise ValueError(f"cameras must be one batch a time ({len(times)}), got {len(batches)}")
    paths, seen = [], []
    for time, batch in zip(times, batches, strict=True):
        xyz = points_at(world, points, time)
        views = [look(world, eye, xyz) for eye in eyes_at(world, batch, time)]
        paths.append(xyz)
        seen.append([torch.stack(v) for v in zip(*views, strict=True)])
    pixels, depth, _, visible = (torch.stack(v) for v in zip(*seen, strict=True))
    return Tracks(torch.stack(paths), pixels, depth, visible)
