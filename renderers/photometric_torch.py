"""The definition of `photometric_loss` in plain torch: any device, differentiable to any order."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # pixels; Wang et al. 2004, section III.B
C1, C2 = 0.01**2, 0.03**2  # of the same, for a range of 1
EDGE = WINDOW // 2
_BELL = [math.exp(-(i**2) / (2 * SIGMA**2)) for i in range(-EDGE, EDGE + 1)]
TAPS = tuple(value / sum(_BELL) for value in _BELL)


def loss(image: Tensor, truth: Tensor, weights: Tensor | None, ssim_weight: float) -> Tensor:
    weights = torch.ones_like(image[..., 0]) if weights is None else weights
    used, zero = (weights > 0)[..., None], image.new_zeros(())
    errors = (1 - ssim_weight) * torch.where(used, image - truth, zero).abs()
    if ssim_weight > 0:
        reached = F.max_pool2d(used.to(image.dtype).movedim(-1, 0), WINDOW, 1, EDGE).movedim(0, -1) > 0
        # before the windows, not after: so the gradient of what is not reached is 0 even where it is NaN
        x, y = (torch.where(reached, a, zero) for a in (image, truth))
        errors = errors + ssim_weight * torch.where(used, 1 - similarity(x, y), zero)
    total = weights.sum()
    return (weights * errors.mean(-1)).sum() / torch.where(total > 0, total, 1)


def similarity(
    x: Tensor,  # [H, W, 3]
    y: Tensor,  # [H, W, 3]
) -> Tensor:
    """SSIM of the window around each pixel, [H, W, 3]; zeros outside the images."""
    maps = F.pad(torch.stack([x, y, x * x, y * y, x * y]).movedim(-1, 0), (EDGE,) * 4)  # [3, 5, H + 10, W + 10]
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _blur(_blur(maps, -1), -2).movedim(0, -1)
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    variances = mean_xx - mean_x**2 + mean_yy - mean_y**2
    return luminance * (2 * (mean_xy - mean_x * mean_y) + C2) / (variances + C2)


def _blur(maps: Tensor, axis: int) -> Tensor:
    # not conv2d: on a GPU it may round to TF32, and the variances are differences of nearly equal means
    size = maps.shape[axis] - 2 * EDGE
    return sum((tap * maps.narrow(axis, i, size) for i, tap in enumerate(TAPS)), maps.new_zeros(()))
