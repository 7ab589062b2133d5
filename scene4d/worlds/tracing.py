"""`trace`: exact images, depth, ids and surface points of a world, by casting one ray through each sample.

Geometry is float64, colours float32, all on the CPU. An object is tested only inside the rectangle of the image that
holds its bounding sphere.

O objects, C cameras, N rays, H W pixels or samples, h w samples of one object's rectangle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from renderers import Cameras
from scene4d.worlds.motions import poses_at
from scene4d.worlds.shapes import NEAR, bounding_radius, intersect_shape, rest_normals
from scene4d.worlds.textures import texture_colors
from scene4d.worlds.types import Truth, World

BAND_RAYS = 1 << 19  # rays in flight: about 100 MB


@dataclass(frozen=True)
class Eye:
    """One camera and the objects as it sees them at one time."""

    K: Tensor  # [3, 3] float64
    width: int
    height: int
    world_to_cam: Tensor  # [4, 4] float64
    T_world_rest: Tensor  # [O, 4, 4]
    origins: Tensor  # [O, 3] camera centre in each rest frame
    rays: Tensor  # [O, 3, 3]: rays @ (u, v, 1) is the rest-frame direction of pixel (u, v), with z = 1 in the camera
    boxes: Tensor  # [O, 4] u0 v0 u1 v1 around each object in pixels; u0 > u1 where it is out of sight


def eyes_at(world: World, cameras: Cameras, time: float) -> list[Eye]:
    """The cameras, with all objects posed at `time`."""
    T_world_rest = poses_at(world, time).T_world_rest
    radii = torch.tensor([bounding_radius(o.shape) for o in world.objects], dtype=torch.float64)
    radii = radii * torch.linalg.matrix_norm(T_world_rest[:, :3, :3], ord=2)
    eyes = []
    for pose, K in zip(cameras.world_to_cam, cameras.K, strict=True):
        world_to_cam, K = pose.detach().to("cpu", torch.float64), K.detach().to("cpu", torch.float64)
        T_cam_rest = world_to_cam @ T_world_rest
        T_rest_cam = torch.linalg.inv(T_cam_rest)
        boxes = _boxes(T_cam_rest[:, :3, 3], radii, K, cameras.width, cameras.height)
        rays = T_rest_cam[:, :3, :3] @ torch.linalg.inv(K)
        size = (cameras.width, cameras.height)
        eyes.append(Eye(K, *size, world_to_cam, T_world_rest, T_rest_cam[:, :3, 3], rays, boxes))
    return eyes


def _boxes(centers: Tensor, radii: Tensor, K: Tensor, width: int, height: int) -> Tensor:
    """Pixel rectangles [O, 4] that hold spheres given in camera coordinates; they may be larger than needed."""
    near, far = centers[:, 2] - radii, centers[:, 2] + radii
    sides = []
    for axis, size in ((0, width), (1, height)):
        low, high = centers[:, axis] - radii, centers[:, axis] + radii
        # x / z over the sphere's bounding cube is extreme at a corner
        left = torch.where(low < 0, low / near, low / far) * K[axis, axis] + K[axis, 2]
        right = torch.where(high > 0, high / near, high / far) * K[axis, axis] + K[axis, 2]
        around = near <= NEAR  # the camera may be inside the sphere
        sides.append((torch.where(around, 0.0, left.clamp(0, size)), torch.where(around, size, right.clamp(0, size))))
    boxes = torch.stack([sides[0][0], sides[1][0], sides[0][1], sides[1][1]], -1)
    behind = far <= NEAR
    boxes[behind] = boxes.new_tensor([1.0, 1.0, 0.0, 0.0])
    return boxes


def cast_grid(world: World, eye: Eye, us: Tensor, vs: Tensor) -> tuple[Tensor, Tensor]:
    """First hits of the rays through pixels (us[j], vs[i]): depth [H, W] (inf = none) and object index [H, W] (-1)."""
    depth = torch.full((len(vs), len(us)), torch.inf, dtype=torch.float64)
    parts = torch.full((len(vs), len(us)), -1, dtype=torch.int32)
    columns = torch.searchsorted(us, eye.boxes[:, [0, 2]].contiguous()).tolist()
    rows = torch.searchsorted(vs, eye.boxes[:, [1, 3]].contiguous()).tolist()
    for k, obj in enumerate(world.objects):
        (j0, j1), (i0, i1) = columns[k], rows[k]
        if j0 >= j1 or i0 >= i1:
            continue
        ray = eye.rays[k]
        rows_part = vs[i0:i1, None, None] * ray[:, 1] + ray[:, 2]
        directions = us[None, j0:j1, None] * ray[:, 0] + rows_part  # [h, w, 3]
        s = intersect_shape(obj.shape, eye.origins[k], directions)
        nearest, owner = depth[i0:i1, j0:j1], parts[i0:i1, j0:j1]
        closer = s < nearest
        nearest.copy_(torch.where(closer, s, nearest))
        owner.masked_fill_(closer, k)
    return depth, parts


def cast_rays(world: World, eye: Eye, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """First hits of the rays through `pixels` [N, 2] of the image: depth [N] (inf = none), object index [N] (-1)."""
    depth = torch.full((len(pixels),), torch.inf, dtype=torch.float64)
    parts = torch.full((len(pixels),), -1, dtype=torch.int32)
    u, v = pixels.unbind(-1)
    for k, obj in enumerate(world.objects):
        u0, v0, u1, v1 = eye.boxes[k].tolist()
        near_it = ((u >= u0) & (u <= u1) & (v >= v0) & (v <= v1)).nonzero()[:, 0]
        if len(near_it) == 0:
            continue
        ray = eye.rays[k]
        directions = u[near_it, None] * ray[:, 0] + (v[near_it, None] * ray[:, 1] + ray[:, 2])
        s = intersect_shape(obj.shape, eye.origins[k], directions)
        closer = s < depth[near_it]
        depth[near_it[closer]] = s[closer]
        parts[near_it[closer]] = k
    return depth, parts


def rest_hits(eye: Eye, us: Tensor, vs: Tensor, depth: Tensor, parts: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For every object that was hit: its index, the flat indices of its samples, and the rest points there [n, 3]."""
    flat_depth, flat_parts = depth.reshape(-1), parts.reshape(-1)
    order = torch.argsort(flat_parts, stable=True)
    found, counts = torch.unique_consecutive(flat_parts[order], return_counts=True)
    for k, index in zip(found.tolist(), order.split(counts.tolist()), strict=True):
        if k < 0:
            continue
        u, v = us[index % len(us)], vs[torch.div(index, len(us), rounding_mode="floor")]
        ray = eye.rays[k]
        directions = u[:, None] * ray[:, 0] + v[:, None] * ray[:, 1] + ray[:, 2]
        yield k, index, eye.origins[k] + flat_depth[index, None] * directions


def trace(world: World, cameras: Cameras, time: float, samples: int = 2) -> Truth:
    """Everything that the cameras see of a world at a time in seconds.

    Args:
        samples: the images are the mean of samples x samples rays a pixel; all else is taken at pixel centres.

    The cost is near proportional to the rays; CPU results, whatever device the cameras are on.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    us = torch.arange(cameras.width, dtype=torch.float64) + 0.5
    vs = torch.arange(cameras.height, dtype=torch.float64) + 0.5
    views = []
    for eye in eyes_at(world, cameras, time):
        depth, parts, colors, rest, normals = _geometry(world, eye, us, vs, colored=samples == 1)
        image = colors if samples == 1 else _supersampled(world, eye, samples)
        views.append((image, depth, parts, rest, normals))
    image, depth, parts, rest, normals = (torch.stack(v) for v in zip(*views, strict=True))
    instances = torch.tensor([o.instance for o in world.objects] + [0], dtype=torch.int32)  # [-1] is the void's
    return Truth(image, depth, instances[parts.long()], parts, rest, normals)


def _geometry(
    world: World, eye: Eye, us: Tensor, vs: Tensor, colored: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Depth, parts, colours (of the background where not `colored`), rest points and normals at samples."""
    depth, parts = cast_grid(world, eye, us, vs)
    colors, normals = _blank(world, parts.numel()), torch.zeros(parts.numel(), 3)
    rest = torch.zeros(parts.numel(), 3)
    for k, index, points in rest_hits(eye, us, vs, depth, parts):
        normals[index] = _world_normals(world, eye.T_world_rest[k], k, points)
        rest[index] = points.to(torch.float32)
        if colored:
            colors[index] = surface_colors(world, eye.T_world_rest[k], k, points)
    shape = (*parts.shape, 3)
    depth = torch.where(depth.isinf(), 0.0, depth).to(torch.float32)
    return depth, parts, colors.reshape(shape), rest.reshape(shape), normals.reshape(shape)


def _supersampled(world: World, eye: Eye, samples: int) -> Tensor:
    """[H, W, 3]: the mean colour of a regular grid of samples in each pixel, a band of rows at a time."""
    us = (torch.arange(eye.width * samples, dtype=torch.float64) + 0.5) / samples
    rows = max(1, BAND_RAYS // (len(us) * samples))
    bands = []
    for top in range(0, eye.height, rows):
        count = min(rows, eye.height - top)
        vs = top + (torch.arange(count * samples, dtype=torch.float64) + 0.5) / samples
        depth, parts = cast_grid(world, eye, us, vs)
        colors = _blank(world, parts.numel())
        for k, index, points in rest_hits(eye, us, vs, depth, parts):
            colors[index] = surface_colors(world, eye.T_world_rest[k], k, points)
        bands.append(colors.reshape(count, samples, eye.width, samples, 3).mean((1, 3)))
    return torch.cat(bands)


def _blank(world: World, count: int) -> Tensor:
    return torch.tensor(world.background, dtype=torch.float32).repeat(count, 1)


def _world_normals(world: World, T_world_rest: Tensor, k: int, points: Tensor) -> Tensor:
    """float32 [N, 3], unit length: normals go with the inverse transpose."""
    normals = rest_normals(world.objects[k].shape, points) @ torch.linalg.inv(T_world_rest[:3, :3])
    return torch.nn.functional.normalize(normals, dim=-1).to(torch.float32)


def surface_colors(world: World, T_world_rest: Tensor, k: int, points: Tensor) -> Tensor:
    """Colours float32 [N, 3] of rest points [N, 3] of object k, posed by T_world_rest [4, 4] (for the light)."""
    colors = texture_colors(world.objects[k].texture, points)
    if world.light is None:
        return colors
    direction = torch.nn.functional.normalize(torch.tensor(world.light.direction), dim=0)
    lambert = (_world_normals(world, T_world_rest, k, points) @ direction).clamp(min=0.0)
    return colors * (world.light.ambient + (1.0 - world.light.ambient) * lambert)[:, None]
