"""The loss between a rendering and a photograph: one function, `photometric_loss`. H W pixels."""

from __future__ import annotations

from importlib import import_module

import torch
from torch import Tensor

from renderers.motion import check_tensor

BACKENDS = {
    "torch": "renderers.photometric_torch",
    "cpu": "renderers.photometric_cpu",
}


def photometric_loss(
    image: Tensor,  # [H, W, 3]
    truth: Tensor,  # [H, W, 3]
    weights: Tensor | None = None,  # [H, W]
    ssim_weight: float = 0.2,  # as in 3DGS (Kerbl et al. 2023, equation 7)
    backend: str = "auto",
) -> Tensor:
    """Weighted mean [] over pixels and channels of absolute difference and structural dissimilarity.

        sum_p w_p ((1 - s) |image_p - truth_p| + s (1 - SSIM_p)) / sum_p w_p,    s = ssim_weight

    SSIM_p is equation 13 of Wang et al. 2004 in the 11x11 Gaussian window (sigma 1.5) around p for colours in [0, 1];
    there are zeros outside the image. Windows reach over pixels without weight; what no window with weight reaches may
    be anything, NaN too. Without any weight the loss is 0. Differentiable in the image.

    Args:
        image: float32 or float64.
        truth: the same type and device.
        weights: the same type and device, >= 0; None = all ones.
        ssim_weight: from 0 to 1.
        backend: "torch" (the definition), "cpu" (C++) or "auto" (by the tensors' device).

    Raises:
        ValueError: a wrong shape, dtype, device or range, or a gradient is asked for by truth or weights.
        RuntimeError: the chosen backend cannot run here.
    """
    _check(image, truth, weights, ssim_weight)
    if backend == "auto":
        backend = "cpu" if image.device.type == "cpu" else "torch"
    if backend not in BACKENDS:
        raise ValueError(f"backend must be auto or one of {', '.join(BACKENDS)}, got {backend!r}")
    return import_module(BACKENDS[backend]).loss(image, truth, weights, ssim_weight)


def _check(image: Tensor, truth: Tensor, weights: Tensor | None, ssim_weight: float) -> None:
    if not isinstance(image, Tensor) or image.dtype not in (torch.float32, torch.float64):
        got = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(f"image must be a float32 or float64 tensor [H, W, 3], got {got}")
    if image.ndim != 3 or image.shape[2] != 3 or not image.numel():
        raise ValueError(f"image must have shape [H, W, 3] and pixels, got {list(image.shape)}")
    check_tensor(truth, "truth", tuple(image.shape), image.dtype, image.device)
    if weights is not None:
        check_tensor(weights, "weights", tuple(image.shape[:2]), image.dtype, image.device)
        if not weights.min() >= 0:  # a NaN as well
            raise ValueError(f"weights must be >= 0, got {weights.min().item()}")
    for name, tensor in (("truth", truth), ("weights", weights)):
        if tensor is not None and tensor.requires_grad:
            raise ValueError(f"{name} must not require a gradient, got requires_grad=True")
    if not 0 <= ssim_weight <= 1:
        raise ValueError(f"ssim_weight must be from 0 to 1, got {ssim_weight}")
