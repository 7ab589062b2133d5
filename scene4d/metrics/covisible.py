"""The SSIM of the DyCheck benchmark, which looks only at pixels that enough training views have seen.

Source: Gao et al. 2022, "Monocular Dynamic View Synthesis: A Reality Check", and its `core/metrics/image.py`. Blurs are
partial convolutions (Liu et al. 2018, section 3.1): sums over the pixels in the mask, divided by the share of them.

H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.metrics.images import SSIM_C1, SSIM_C2, SSIM_SIGMA, SSIM_WINDOW, check_images


def covisible_ssim(
    image: Tensor,  # [H, W, 3] in [0, 1]
    truth: Tensor,
    mask: Tensor,  # [H, W] bool
) -> Tensor:
    """mSSIM, []: the mean over all windows, of which those without a pixel in the mask count as 1, as published.

    Raises ValueError: shapes or types do not fit, or the images are smaller than the window.
    """
    check_images(image, truth, mask)
    if image.ndim != 3 or min(image.shape[:2]) < SSIM_WINDOW:
        raise ValueError(f"image must be [H, W, 3] of at least {SSIM_WINDOW} pixels a side, got {list(image.shape)}")
    x, y = image.movedim(-1, 0), truth.movedim(-1, 0)
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = (_blur(z, mask) for z in (x, y, x * x, y * y, x * y))
    var_x = (mean_xx - mean_x * mean_x).clamp_min(0.0)
    var_y = (mean_yy - mean_y * mean_y).clamp_min(0.0)
    cov = mean_xy - mean_x * mean_y
    cov = cov.sign() * torch.minimum((var_x * var_y).sqrt(), cov.abs())
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x * mean_x + mean_y * mean_y + SSIM_C1)
    return (luminance * (2 * cov + SSIM_C2) / (var_x + var_y + SSIM_C2)).mean()


def _blur(maps: Tensor, mask: Tensor) -> Tensor:
    """Partial convolution of maps [3, H, W] along rows, then along columns: [3, H - 10, W - 10]."""
    offset = torch.arange(SSIM_WINDOW, dtype=maps.dtype, device=maps.device) - SSIM_WINDOW // 2
    weights = torch.exp(-offset.square() / (2 * SSIM_SIGMA**2))
    weights = weights / weights.sum()
    known = mask.to(maps)
    for axis in (-1, -2):
        total = (maps * known).unfold(axis, SSIM_WINDOW, 1) @ weights
        count = known.unfold(axis, SSIM_WINDOW, 1).sum(-1)
        maps = torch.where(count > 0, total * SSIM_WINDOW / count.clamp_min(1.0), 0.0)
        known = (count > 0).to(maps)
    return maps
