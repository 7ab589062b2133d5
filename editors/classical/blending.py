"""Fills whose colours join those around them: the difference along the seam, continued into the fill and taken off.

As in Poisson blending the fill keeps its own changes of colour; the correction is smooth inside, and dies out with the
distance from the seam, so that a wide fill keeps its look in the middle.

H W pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from editors.classical.sheets import spread

RING = 2  # pixels to both sides of the seam that are compared
REACH = 24.0  # pixels from the seam over which the correction falls by e
MOST = 0.15  # a larger difference is an edge of the picture, not of the light
SAME = 0.05  # relative difference of depth up to which both sides are one surface


def joined(image: Tensor, fill: Tensor, fixed: Tensor, depth: Tensor, objects: Tensor, trust: Tensor) -> Tensor:
    """`image` [H, W, 3] whose pixels where `fill` [H, W] are matched to those where `fixed` [H, W].

    Only pixels of one object and about one depth are compared, observed ones by their `trust` [H, W].
    """
    if not bool(fill.any()) or not bool(fixed.any()):
        return image
    difference, weight = torch.zeros_like(image), torch.zeros_like(depth)
    for number in torch.unique(objects[fill]).tolist():
        own = objects == number
        here, there = fill & own, fixed & own
        mean_here, share_here, z_here = _means(image, here.float(), depth)
        mean_there, share_there, z_there = _means(image, there * trust, depth)
        both = here & (share_here > 0) & (share_there > 0)
        both &= (z_here - z_there).abs() <= SAME * z_there
        step = mean_there - mean_here
        both &= step.abs().amax(-1) <= MOST
        difference = torch.where(both[..., None], step, difference)
        weight = torch.where(both, share_there, weight)
    if not bool((weight > 0).any()):
        return image
    smooth = spread(difference, weight / weight.max())
    seam = (weight > 0).numpy()
    distance = cv2.distanceTransform((~seam).astype(np.uint8), cv2.DIST_L2, 5)
    fade = torch.from_numpy(np.exp(-distance / REACH).astype(np.float32))
    matched = (image + smooth * fade[..., None]).clamp(0, 1)
    return torch.where(fill[..., None], matched, image)


def _means(image: Tensor, weight: Tensor, depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted means of colour [H, W, 3] and depth [H, W] in a small square, and the mean weight [H, W]."""
    planes = torch.cat([image, depth[..., None], torch.ones_like(depth)[..., None]], -1) * weight[..., None]
    size = 2 * RING + 1
    found = F.avg_pool2d(planes.permute(2, 0, 1)[None], size, 1, RING)[0].permute(1, 2, 0)
    share = found[..., 4]
    mean = found[..., :4] / share.clamp(min=1e-12)[..., None]
    return mean[..., :3], share, mean[..., 3]
