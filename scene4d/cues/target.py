"""What is to be shown: the surface at every pixel of one target frame, and where it was in the source.

H W pixels, n points, T times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from renderers import Cameras
from scene4d.channels import unproject

# Of some pixels (flat indices [n] int64): the affine maps [3, 4, n] that take points of the edited world at the frame's
# time to where the surfaces seen there carried them at a time of the source scene, in seconds
MapsAt = Callable[[float], Tensor]
BackMap = Callable[[Tensor], MapsAt]
COVERED = 0.5  # alpha from which a pixel shows a surface


@dataclass(frozen=True, eq=False)
class TargetFrame:
    """One frame of the edited scene, as geometry. Raises ValueError on shapes that do not fit."""

    camera: Cameras  # one
    time: float  # seconds of the edited scene
    depth: Tensor  # [H, W] median z, 0 = none
    alpha: Tensor  # [H, W]
    instances: Tensor  # [H, W] int16: the instance of the source scene whose surface is seen, 0 = background
    moving: Tensor  # [H, W] bool: the surface was elsewhere at some time of the source: `back_map` is asked
    back_map: BackMap
    source_times: Tensor  # [H, W] seconds: when the source showed the surface in this state
    deforming: Tensor | None = None  # [H, W] bool: not rigid, so that pictures of other times show another shape
    asset: Tensor | None = None  # [H, W] bool: inserted; no source pixel shows it
    changed: Tensor | None = None  # [H, W] bool: recoloured or affected, so that source pixels no longer show it
    image: Tensor | None = None  # [H, W, 3] the edited scene rendered: what assets look like

    def __post_init__(self) -> None:
        shape = (self.camera.height, self.camera.width)
        if len(self.camera) != 1:
            raise ValueError(f"camera must be one camera, got {len(self.camera)}")
        for name in ("depth", "alpha", "instances", "moving", "source_times", "deforming", "asset", "changed"):
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != shape:
                raise ValueError(f"{name} must have shape {list(shape)}, got {list(value.shape)}")
        if self.image is not None and tuple(self.image.shape) != (*shape, 3):
            raise ValueError(f"image must have shape {[*shape, 3]}, got {list(self.image.shape)}")

    @property
    def covered(self) -> Tensor:
        """bool [H, W]: shows a surface."""
        return (self.alpha >= COVERED) & (self.depth > 0)

    def flag(self, name: str) -> Tensor:
        """`deforming`, `asset` or `changed`, False where it is not given."""
        value = getattr(self, name)
        return torch.zeros_like(self.moving) if value is None else value


def surface_points(frame: TargetFrame, depth: Tensor | None = None) -> Tensor:
    """World points [H W, 3] at the pixels' centres, of the frame's depth or of another one."""
    camera = frame.camera
    like = Cameras(camera.world_to_cam.double(), camera.K.double(), camera.width, camera.height)
    depth = frame.depth if depth is None else depth
    return unproject(depth[None].double(), like)[0].reshape(-1, 3).to(frame.depth.dtype)


def carried(maps: Tensor, points: Tensor, shift: bool = True) -> Tensor:
    """Points [3, n] or [3, 1] by maps [3, 4, n]; without `shift`, directions."""
    turned = (maps[:, 0] * points[0]).addcmul_(maps[:, 1], points[1]).addcmul_(maps[:, 2], points[2])
    return turned + maps[:, 3] if shift else turned


def stay(pixels: Tensor) -> MapsAt:
    """The back map of what never moves."""
    maps = torch.eye(3, 4, device=pixels.device)[..., None].expand(3, 4, len(pixels))
    return lambda seconds: maps


def surface_normals(frame: TargetFrame, xyz: Tensor) -> Tensor:
    """[H W, 3] unit normals of the surface `xyz` [H W, 3], towards the camera; 0 where there is none.

    Along either axis the neighbour whose depth differs less is taken, so that an outline keeps its own side's.
    """
    H, W = frame.depth.shape
    points, depth = xyz.reshape(H, W, 3), frame.depth
    across = _nearer_step(points, depth, 1)
    normal = torch.linalg.cross(_nearer_step(points, depth, 0), across).reshape(-1, 3)
    sight = xyz - frame.camera.centers.to(xyz)
    away = (normal * sight).sum(1, keepdim=True) > 0
    length = normal.square().sum(1, keepdim=True).sqrt().clamp(min=1e-20)
    return torch.where(away, -normal, normal) / length * frame.covered.reshape(-1, 1)


def _nearer_step(points: Tensor, depth: Tensor, axis: int) -> Tensor:
    """[H, W, 3] the step from the pixel before or to the pixel after along an axis, whichever changes depth less."""
    if depth.shape[axis] < 2:
        return torch.zeros_like(points)
    steps, change = points.diff(dim=axis), depth.diff(dim=axis).abs()
    first, last = steps.narrow(axis, 0, 1), steps.narrow(axis, steps.shape[axis] - 1, 1)
    endless = torch.full_like(change.narrow(axis, 0, 1), torch.inf)
    before, after = torch.cat([first, steps], axis), torch.cat([steps, last], axis)
    closer = torch.cat([change, endless], axis) <= torch.cat([endless, change], axis)
    return torch.where(closer[..., None], after, before)
