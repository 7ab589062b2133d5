"""PSNR and SSIM of whole images and of masked parts, differentiable.

H W pixels, P pictures (the leading axes in one).
"""

from __future__ import annotations

import functools
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # Wang et al. 2004, section III.B
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # K1, K2 of the same, for a range of 1
Padding = Literal["valid", "zeros"]


def check_images(image: Tensor, truth: Tensor, mask: Tensor | None) -> None:
    """Raises ValueError: shapes or types do not fit."""
    if image.ndim < 3 or image.shape[-1] != 3:
        raise ValueError(f"image must have shape [..., H, W, 3], got {list(image.shape)}")
    if image.shape != truth.shape:
        raise ValueError(f"truth must have the image's shape {list(image.shape)}, got {list(truth.shape)}")
    if not image.is_floating_point() or image.dtype != truth.dtype:
        raise ValueError(f"image and truth must have the same float type, got {image.dtype} and {truth.dtype}")
    if mask is not None and (mask.dtype != torch.bool or mask.shape != image.shape[:-1]):
        raise ValueError(f"mask must be bool {list(image.shape[:-1])}, got {mask.dtype} {list(mask.shape)}")


def masked_mean(
    values: Tensor,  # [..., H, W]
    mask: Tensor | None,  # [..., H, W] bool
) -> Tensor:
    """Mean of the pixels in the mask, [...]; NaN where it is empty. Values outside may be anything, NaN too."""
    if mask is None:
        return values.mean((-2, -1))
    total = torch.where(mask, values, values.new_zeros(())).sum((-2, -1))
    return total / mask.sum((-2, -1))


def psnr(image: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB, [...]: -10 log10 of the mean squared error over pixels and channels.

    Equal images give infinity, an empty mask NaN. Raises ValueError.
    """
    check_images(image, truth, mask)
    error = image - truth
    if mask is not None:  # before the square: what is outside has a gradient of 0 even where it is NaN
        error = torch.where(mask[..., None], error, error.new_zeros(()))
    return -10.0 * torch.log10(masked_mean(error.square().mean(-1), mask))


def ssim(image: Tensor, truth: Tensor, mask: Tensor | None = None, padding: Padding = "valid") -> Tensor:
    """Structural similarity, [...]: the mean of `ssim_map` over channels and over the window centres in the mask.

    With padding "valid" windows lie inside the image (Wang et al. 2004), and pixels nearer to the border than half a
    window count only through their neighbours; with "zeros" every pixel has a window (the code of 3DGS and its kin).
    Windows reach over the border of a mask. Raises ValueError.
    """
    similarity = ssim_map(image, truth, padding).mean(-1)
    check_images(image, truth, mask)
    if mask is not None and padding == "valid":
        edge = SSIM_WINDOW // 2
        mask = mask[..., edge:-edge, edge:-edge]
    return masked_mean(similarity, mask)


def ssim_map(image: Tensor, truth: Tensor, padding: Padding = "valid") -> Tensor:
    """Structural similarity of each window, Wang et al. 2004 equation 13, [..., H', W', 3]; H' = H - 10 if "valid".

    Raises ValueError: also for images smaller than the window.
    """
    check_images(image, truth, None)
    if padding not in ("valid", "zeros"):
        raise ValueError(f"padding must be 'valid' or 'zeros', got {padding!r}")
    height, width = image.shape[-3:-1]
    if padding == "valid" and min(height, width) < SSIM_WINDOW:
        raise ValueError(f"images must be at least {SSIM_WINDOW} pixels wide and high, got {width}x{height}")
    x, y = (a.movedim(-1, -3).reshape(-1, 1, height, width) for a in (image, truth))  # [3 P, 1, H, W]
    means = _blur(torch.cat([x, y, x * x, y * y, x * y], 1), padding)  # [3 P, 5, H', W']
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = means.unbind(1)
    var_x, var_y, cov = mean_xx - mean_x * mean_x, mean_yy - mean_y * mean_y, mean_xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x * mean_x + mean_y * mean_y + SSIM_C1)
    similarity = luminance * (2 * cov + SSIM_C2) / (var_x + var_y + SSIM_C2)
    return similarity.reshape(*image.shape[:-3], 3, *similarity.shape[1:]).movedim(-3, -1)


@functools.cache
def _window() -> tuple[float, ...]:
    """The Gaussian that makes the window, in one dimension, of sum 1."""
    offset = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    weights = torch.exp(-offset.square() / (2 * SSIM_SIGMA**2))
    return tuple((weights / weights.sum()).tolist())


def _blur(maps: Tensor, padding: Padding) -> Tensor:
    """Weighted means over the window around each pixel: [..., H, W] -> [..., H', W']."""
    if padding == "zeros":
        maps = F.pad(maps, (SSIM_WINDOW // 2,) * 4)
    return _blur_axis(_blur_axis(maps, -1), -2)


def _blur_axis(maps: Tensor, axis: int) -> Tensor:
    # sums of shifted images: on a CPU six times as fast as conv2d with one channel, forward, and four times backward
    weights, edge = _window(), SSIM_WINDOW // 2
    size = maps.shape[axis] - 2 * edge
    total = weights[edge] * maps.narrow(axis, edge, size)
    for i in range(edge):
        pair = maps.narrow(axis, i, size) + maps.narrow(axis, 2 * edge - i, size)
        total = total.add(pair, alpha=weights[i])
    return total
