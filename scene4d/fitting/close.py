"""Close looks: a view rendered only where something moves, only with what moves and what stands before it.

Behind them lies the picture of the camera's background, if the camera stands still: it need not be rendered. Such a
look costs a small part of a whole picture, so what moves, which shows each of its poses once, gets many of them.

N Gaussians, n of them that move.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from renderers import Cameras, Gaussians
from scene4d.fitting.footage import Footage
from scene4d.scene import Scene4D

REACH = 4.0  # pixels around the picture in which the centre of a Gaussian that stands before something is looked for
FARTHEST = 0.99  # quantile of the depths of what moves


@dataclass(frozen=True)
class MovingPart:
    """The Gaussians of things that move, at a time."""

    gaussians: Gaussians  # [n]
    rows: Tensor  # [n] int64 into the scene
    still: Tensor  # [N - n] int64, the others


def find_backdrops(footage: Footage, backgrounds: dict[str, Tensor]) -> dict[str, Tensor]:
    """What each camera that stands still shows behind all that moves, [H, W, 3]: the mean of frames whose masks leave a
    pixel free, and the `backgrounds` where none does."""
    found = {}
    for name, background in backgrounds.items():
        total, count = torch.zeros_like(background), background.new_zeros(background.shape[:2])
        for view in footage.of_camera(name):
            ids = footage.instances(view)
            free = torch.ones_like(count) if ids is None else (ids == 0).to(count)
            total += footage.image(view) * free[..., None]
            count += free
        mean = total / count.clamp_min(1)[..., None]
        found[name] = torch.where(count[..., None] > 0, mean, background)
    return found


def moving_part(scene: Scene4D, time: float) -> MovingPart | None:
    """What moves, at a time in seconds, differentiable; None where nothing does."""
    moves = scene.instances > 0
    rows = moves.nonzero()[:, 0]
    if not len(rows):
        return None
    return MovingPart(scene.subset(rows).at(time), rows, (~moves).nonzero()[:, 0])


def with_what_hides_it(part: MovingPart, scene: Scene4D, camera: Cameras) -> Gaussians:
    """The moving part, and after it the still Gaussians of the picture that are not behind all of it.

    These carry no gradient: the picture behind them shows them, too.
    """
    with torch.no_grad():
        depths = part.gaussians.means @ camera.world_to_cam[0, 2, :3] + camera.world_to_cam[0, 2, 3]
        farthest = float(depths.kthvalue(max(1, int(FARTHEST * len(depths)))).values)
        before = part.still[_before(scene.means[part.still], camera, farthest)]
    still = {
        name: getattr(scene, name).detach()[before]
        for name in ("means", "quats", "log_scales", "logit_opacities", "sh")
    }
    return Gaussians(**{name: torch.cat([getattr(part.gaussians, name), value]) for name, value in still.items()})


def _before(means: Tensor, camera: Cameras, depth: float) -> Tensor:
    """Bool [N]: whose centres are nearer than `depth` and in the picture."""
    pose, K = camera.world_to_cam[0], camera.K[0]
    x, y, z = (means @ pose[:3, :3].T + pose[:3, 3]).unbind(1)
    near = (z > 0) & (z < depth)
    u, v = x / z * K[0, 0] + K[0, 2], y / z * K[1, 1] + K[1, 2]
    return near & (u > -REACH) & (u < camera.width + REACH) & (v > -REACH) & (v < camera.height + REACH)
