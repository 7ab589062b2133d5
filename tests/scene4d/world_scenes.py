"""Scenes made of a world's surfaces: discs on every object, on handles that follow its true poses.

Positions are exact at the knots' times but for deformations, which are those of the first time.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from renderers.spherical_harmonics import C0
from scene4d.rig import LINEAR, Rig
from scene4d.scene import Scene4D
from scene4d.worlds import Box, Rect, Sphere, World, poses_at
from scene4d.worlds.textures import texture_colors
from scene4d.worlds.types import Shape

KNOTS = 17  # at 0, 1/16, ..., 1 s


def world_scene(
    world: World,
    spacing: float = 0.12,  # metres between discs
    wall_spacing: float = 0.25,
    sh_count: int = 1,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Scene4D:
    """Labels are places of objects in the world. `sh_count` above 1: random colours by direction."""
    first = poses_at(world, 0.0)
    parts = []
    for k, obj in enumerate(world.objects):
        step = wall_spacing if isinstance(obj.shape, Rect) else spacing
        points, quats = surface(obj.shape, step)
        colors = texture_colors(obj.texture, points).double()
        points = points @ first.deformation[k].T
        parts.append((points, quats, colors, torch.full((len(points),), math.log(0.6 * step)), k))
    means = torch.cat([p[0] for p in parts])
    labels = torch.cat([torch.full((len(p[0]),), p[4], dtype=torch.int32) for p in parts])
    log_scales = torch.cat([p[3] for p in parts])[:, None].repeat(1, 3).double()
    log_scales[:, 2] -= 2.0  # flat along the normal
    g = torch.Generator().manual_seed(seed)
    sh = 0.15 * torch.randn(len(means), sh_count, 3, generator=g).double()
    sh[:, 0] = (torch.cat([p[2] for p in parts]) - 0.5) / C0
    instances = torch.tensor([o.instance for o in world.objects], dtype=torch.int32)
    return Scene4D(
        means=means,
        quats=torch.cat([p[1] for p in parts]),
        log_scales=log_scales,
        logit_opacities=torch.full((len(means),), 3.0).double(),
        sh=sh,
        labels=labels,
        instances=instances[labels],
        rig=_rig(world, instances),
        handle_ids=labels[:, None].clone(),
        handle_logits=torch.zeros(len(means), 1).double(),
    ).to(dtype=dtype)


def _rig(world: World, instances: Tensor) -> Rig:
    times = torch.linspace(0, 1, KNOTS, dtype=torch.float64)
    poses = torch.stack([poses_at(world, t).T_world_obj for t in times.tolist()], 1)  # [O, T, 4, 4]
    count = len(world.objects)
    return Rig(
        centers=torch.zeros(count, 3).double(),
        parents=torch.full((count,), -1, dtype=torch.int32),
        instances=instances,
        interpolations=torch.full((count,), LINEAR, dtype=torch.int32),
        knot_counts=torch.full((count,), KNOTS, dtype=torch.int32),
        knot_times=times.repeat(count),
        knot_quats=matrix_quats(poses[..., :3, :3].reshape(-1, 3, 3)),
        knot_translations=poses[..., :3, 3].reshape(-1, 3),
    )


def matrix_quats(R: Tensor) -> Tensor:
    from scipy.spatial.transform import Rotation

    return torch.from_numpy(Rotation.from_matrix(R.numpy()).as_quat(scalar_first=True))


def surface(shape: Shape, step: float) -> tuple[Tensor, Tensor]:
    """Points [n, 3] float64 about `step` apart and quaternions [n, 4] that turn z to the normal."""
    if isinstance(shape, Rect):
        points = _grid(shape.half, step)
        normals = torch.tensor([[0.0, 0, 1]]).double().expand_as(points)
    elif isinstance(shape, Box):
        faces = []
        for axis in range(3):
            a, b = (axis + 1) % 3, (axis + 2) % 3
            flat = _grid((shape.half[a], shape.half[b]), step)
            for side in (-1.0, 1.0):
                face = torch.zeros_like(flat)
                face[:, a], face[:, b], face[:, axis] = flat[:, 0], flat[:, 1], side * shape.half[axis]
                normal = torch.zeros_like(flat)
                normal[:, axis] = side
                faces.append((face, normal))
        points, normals = torch.cat([f[0] for f in faces]), torch.cat([f[1] for f in faces])
    else:
        assert isinstance(shape, Sphere), shape
        radii = torch.tensor(shape.radii).double()
        n = max(int(4 * math.pi * float(radii.mean()) ** 2 / step**2), 12)
        k = torch.arange(n).double() + 0.5
        z, angle = 1 - 2 * k / n, math.pi * (1 + math.sqrt(5)) * k
        unit = torch.stack([(1 - z * z).sqrt() * angle.cos(), (1 - z * z).sqrt() * angle.sin(), z], -1)
        points, normals = unit * radii, torch.nn.functional.normalize(unit / radii, dim=1)
    up = torch.tensor([0.0, 0, 1]).double()
    half = torch.cat([1 + normals[:, 2:], torch.linalg.cross(up.expand_as(normals), normals)], 1)
    half[half.norm(dim=1) < 1e-9] = torch.tensor([0.0, 1, 0, 0]).double()  # straight down
    return points, torch.nn.functional.normalize(half, dim=1)


def _grid(half: tuple[float, ...], step: float) -> Tensor:
    axes = []
    for h in half:
        count = max(round(2 * h / step), 1)
        axes.append(torch.from_numpy((np.arange(count) + 0.5) / count * 2 * h - h))
    x, y = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([x.ravel(), y.ravel(), torch.zeros(x.numel()).double()], -1)
