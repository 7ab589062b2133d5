"""What the poses of a capture say before any pixel is read: baselines, angles, paths, reprojection.

C cameras or views, P points, M observations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scene4d.captures.capture import Capture, View

POSES = 64  # looked at along a moving camera's path


@dataclass(frozen=True)
class Rig:
    """Where the cameras are. Lengths in the capture's units, angles in degrees."""

    still: int  # cameras that keep their pose
    moving: int
    extent: float  # largest distance between two camera centres
    path_length: float  # of the moving camera that goes furthest; 0 where all stand still
    look_at: tuple[float, float, float] | None  # the point nearest to all optical axes
    distance: float | None  # median distance of the cameras from it
    widest_angle: float  # between two cameras, seen from the point they look at
    neighbour_angles: dict[str, float]  # each camera's nearest other, where all stand still
    jumps: list[str]  # frames at which a moving camera leaps


@dataclass(frozen=True)
class Reprojection:
    """Distance of points, projected, from where they were seen; pixels of the rectified images."""

    observations: int
    views: int
    median: float
    p95: float
    behind: float  # fraction of observed points that lie behind the camera


def measure_rig(capture: Capture) -> Rig:
    """Distances and angles between the cameras. The capture must have cameras."""
    names = capture.camera_names
    still = [name for name in names if capture.is_static(name)]
    views = representative_views(capture, POSES)
    centers, axes = _centers_and_axes(views)
    look_at = _nearest_point(centers, axes)
    distance = None if look_at is None else float((centers - look_at).norm(dim=-1).median())
    rays = axes if look_at is None else torch.nn.functional.normalize(look_at - centers, dim=-1)
    angles = torch.rad2deg(torch.acos((rays @ rays.T).clamp(-1.0, 1.0)))
    nearest: dict[str, float] = {}
    if len(still) > 1 and len(still) == len(names):
        others = angles + 1e3 * torch.eye(len(views))
        nearest = {v.camera: round(float(row.min()), 2) for v, row in zip(views, others, strict=True)}
    paths = [_path(capture, name) for name in names]
    return Rig(
        still=len(still),
        moving=len(names) - len(still),
        extent=float(torch.cdist(centers, centers).max()),
        path_length=max(length for length, _ in paths),
        look_at=None if look_at is None else (float(look_at[0]), float(look_at[1]), float(look_at[2])),
        distance=distance,
        widest_angle=float(angles.max()),
        neighbour_angles=nearest,
        jumps=[jump for _, jumps in paths for jump in jumps],
    )


def representative_views(capture: Capture, most: int) -> list[View]:
    """One view of each camera that stands still, up to `most` along the path of each that moves."""
    shown = []
    for camera in capture.camera_names:
        views = [v for v in capture.views if v.camera == camera]
        count = 1 if capture.is_static(camera) else min(most, len(views))
        shown += [views[i] for i in np.linspace(0, len(views) - 1, count).round().astype(int)]
    return shown


def _centers_and_axes(views: list[View]) -> tuple[Tensor, Tensor]:
    """Camera centres and viewing directions in the world, [C, 3] float64 each."""
    poses = torch.stack([v.world_to_cam for v in views if v.world_to_cam is not None])
    R_cam_world = poses[:, :3, :3]
    return -(R_cam_world.mT @ poses[:, :3, 3:])[..., 0], R_cam_world[:, 2]


def _nearest_point(centers: Tensor, axes: Tensor) -> Tensor | None:
    """The point of least squared distance to all optical axes; None where they are parallel or it lies behind."""
    eye = torch.eye(3, dtype=torch.float64)
    across = eye - axes[:, :, None] * axes[:, None, :]  # [C, 3, 3] projectors off each axis
    system = across.mean(0)
    if torch.linalg.eigvalsh(system)[0] < 1e-4:  # axes within about half a degree of each other
        return None
    point = torch.linalg.solve(system, (across @ centers[..., None]).mean(0)[:, 0])
    in_front = ((point - centers) * axes).sum(-1) > 0
    return point if in_front.double().mean() > 0.5 else None


def _path(capture: Capture, name: str) -> tuple[float, list[str]]:
    """The length of a camera's path, and steps in it that are far longer than those around them."""
    views = [v for v in capture.views if v.camera == name]
    if len(views) < 2 or capture.is_static(name):
        return 0.0, []
    centers, axes = _centers_and_axes(views)
    steps = (centers[1:] - centers[:-1]).norm(dim=-1)
    gaps = torch.tensor([b.frame - a.frame for a, b in zip(views[:-1], views[1:], strict=True)])
    turns = torch.rad2deg(torch.acos((axes[1:] * axes[:-1]).sum(-1).clamp(-1.0, 1.0)))
    speed, turning = steps / gaps, turns / gaps
    # ten times the median and four times what nine steps of ten stay below: a relocation, not a start from rest
    leaps = (speed > 10 * speed.median()) & (speed > 4 * speed.quantile(0.9))
    leaps |= (turning > 10 * turning.median()) & (turning > 4 * turning.quantile(0.9)) & (turning > 5.0)
    found = [f"{name}: frame {views[i].frame} to {views[i + 1].frame}" for i in leaps.nonzero()[:, 0].tolist()]
    return float(steps.sum()), found


def measure_reprojection(capture: Capture) -> Reprojection | None:
    """Reprojection error of the sparse points; None where the format has no observations."""
    if capture.points is None:
        return None
    errors, behind, views = [], [], 0
    for view in capture.views:
        seen = capture.observations.get(view.key)
        if seen is None or view.world_to_cam is None or view.K is None:
            continue
        lens = capture.tracks[view.camera].lens(view.item)
        full = view.K if lens is None else torch.from_numpy(lens.rectified().K)
        xyz = capture.points.xyz[seen.points].double() @ view.world_to_cam[:3, :3].T + view.world_to_cam[:3, 3]
        pixels = (xyz @ full.T)[:, :2] / xyz[:, 2:]
        front = xyz[:, 2] > 0
        miss = (pixels - seen.pixels.double()).norm(dim=-1)
        errors.append(miss[front & miss.isfinite()])
        behind.append(~front)
        views += 1
    if not errors or not sum(map(len, errors)):
        return None
    everything = torch.cat(errors).numpy()
    return Reprojection(
        observations=sum(map(len, errors)),
        views=views,
        median=float(np.median(everything)),
        p95=float(np.percentile(everything, 95)),
        behind=float(torch.cat(behind).double().mean()),
    )
