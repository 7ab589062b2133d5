"""The visual hull of what moves: the part of space that lies inside the silhouettes of (nearly) all cameras.

n points, C cameras, H W pixels. Laurentini 1994; here by sampling, with one silhouette allowed to have holes.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from renderers import Cameras
from scene4d.fitting.flows import sample

LEAST_PART = 0.05  # of the largest connected part
COARSE = 32  # cells along the longest side of the first grid


def project(camera: Cameras, xyz: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels [n, 2] and z [n] of world points in the one camera of a batch; pixels mean nothing where z <= 0."""
    local = xyz @ camera.world_to_cam[0, :3, :3].T + camera.world_to_cam[0, :3, 3]
    z = local[:, 2]
    uv = (local @ camera.K[0].T)[:, :2] / torch.where(z.abs() < 1e-9, torch.full_like(z, 1e-9), z)[:, None]
    return uv, z


def inside(camera: Cameras, uv: Tensor, z: Tensor) -> Tensor:
    """Bool [n]: in front of the camera and in its picture."""
    return (z > 1e-6) & (uv >= 0).all(-1) & (uv[:, 0] < camera.width) & (uv[:, 1] < camera.height)


def silhouette_votes(cameras: list[Cameras], masks: list[Tensor], xyz: Tensor) -> tuple[Tensor, Tensor]:
    """For points [n, 3]: how many cameras have them in the picture, and in how many they lie on the mask [H, W]."""
    seen, hits = torch.zeros(len(xyz)), torch.zeros(len(xyz))
    for camera, mask in zip(cameras, masks, strict=True):
        uv, z = project(camera, xyz)
        visible = inside(camera, uv, z)
        seen += visible
        hits += visible & (sample(mask.float(), uv, "nearest") > 0.5)
    return seen, hits


def working_region(cameras: list[Cameras]) -> tuple[Tensor, float]:
    """The point [3] that the cameras look at together, and their mean distance to it."""
    centers = torch.cat([c.centers for c in cameras])
    axes = torch.stack([c.world_to_cam[0, 2, :3] for c in cameras])
    # the point nearest to all viewing axes, pulled a little to the centres so that parallel axes have one too
    across = torch.eye(3) - axes[:, :, None] * axes[:, None, :]
    focus = torch.linalg.solve(across.sum(0) + 1e-3 * torch.eye(3), (across @ centers[..., None]).sum(0))[:, 0]
    return focus, float((centers - focus).norm(dim=1).mean())


def visual_hull(cameras: list[Cameras], masks: list[Tensor], voxels: int) -> tuple[Tensor, float]:
    """Centres [n, 3] of about `voxels` cells inside the hull, and the side of a cell. n = 0 where masks are empty.

    A point belongs to it if all cameras but one that see it (all, of three or fewer) have it on their mask.
    """
    focus, reach = working_region(cameras)
    side = 2 * reach / COARSE
    steps = torch.arange(COARSE) + 0.5
    grid = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    cells = focus - reach + grid * side
    wide = [_dilated(mask, camera, focus, side) for camera, mask in zip(cameras, masks, strict=True)]
    cells = cells[_accepted(cameras, wide, cells)]
    while len(cells) and len(cells) < voxels and side > 1e-9:
        side /= 2
        corners = torch.stack(torch.meshgrid(*[torch.tensor([-0.5, 0.5])] * 3, indexing="ij"), -1).reshape(-1, 3)
        cells = (cells[:, None] + corners * side).reshape(-1, 3)
        wide = [_dilated(mask, camera, focus, side) for camera, mask in zip(cameras, masks, strict=True)]
        cells = cells[_accepted(cameras, wide, cells)]
    return cells[_accepted(cameras, masks, cells)] if len(cells) else cells, side


def _accepted(cameras: list[Cameras], masks: list[Tensor], cells: Tensor) -> Tensor:
    seen, hits = silhouette_votes(cameras, masks, cells)
    return (seen >= min(3, len(cameras))) & (hits >= torch.where(seen > 3, seen - 1, seen))


def _dilated(mask: Tensor, camera: Cameras, focus: Tensor, reach: float) -> Tensor:
    """The mask grown by `reach` scene units at the distance of `focus`: no thin part may slip between coarse cells."""
    z = float(camera.world_to_cam[0, 2, :3] @ focus + camera.world_to_cam[0, 2, 3])
    pixels = int(reach * float(camera.K[0, 0, 0]) / max(z, 1e-6)) + 1
    pixels = min(pixels, max(mask.shape) // 4)
    kernel = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
    return torch.from_numpy(cv2.dilate(mask.numpy().astype(np.uint8), kernel) > 0)


def surface(cells: Tensor, side: float) -> Tensor:
    """Bool [n]: cells [n, 3] of a regular grid that do not have all six neighbours."""
    index = ((cells - cells.min(0).values) / side).round().long() + 1
    size = index.max(0).values + 2
    key = (index[:, 0] * size[1] + index[:, 1]) * size[2] + index[:, 2]
    filled = torch.zeros(int(size.prod()), dtype=torch.bool)
    filled[key] = True
    around = torch.ones(len(cells), dtype=torch.bool)
    for step in (int(size[1] * size[2]), int(size[2]), 1):
        around &= filled[key + step] & filled[key - step]
    return ~around


def large_parts(cells: Tensor, side: float) -> Tensor:
    """Bool [n]: cells [n, 3] of a regular grid in a connected part of at least a twentieth of the largest one."""
    index = ((cells - cells.min(0).values) / side).round().long().numpy()
    grid = np.zeros(index.max(0) + 1, bool)
    grid[tuple(index.T)] = True
    parts = np.zeros(grid.shape, np.int32)
    ndimage.label(grid, np.ones((3, 3, 3)), output=parts)
    sizes = np.bincount(parts.reshape(-1))
    sizes[0] = 0
    return torch.from_numpy((sizes >= LEAST_PART * sizes.max())[parts[tuple(index.T)]])
