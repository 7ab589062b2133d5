"""`photometric_loss` in C++: one autograd function. float32 and float64, CPU tensors, first derivatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from renderers import cpu_library as library


def loss(image: Tensor, truth: Tensor, weights: Tensor | None, ssim_weight: float) -> Tensor:
    if image.device.type != "cpu":
        raise ValueError(f"image must be on the CPU for backend 'cpu', got {image.device}")
    truth, weights = truth.contiguous(), weights if weights is None else weights.contiguous()
    if image.requires_grad and torch.is_grad_enabled():
        return _Loss.apply(image, truth, weights, ssim_weight)
    return _call(image.contiguous(), truth, weights, ssim_weight, None)[0]


class _Loss(torch.autograd.Function):
    """The gradient costs as much as the loss and shares its rows: it is made in the forward pass."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, truth: Tensor, weights: Tensor | None, ssim_weight: float) -> Tensor:
        image = image.contiguous()
        v_image = torch.empty_like(image)
        value, ctx.scale = _call(image, truth, weights, ssim_weight, v_image)
        ctx.save_for_backward(v_image)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (v_image,) = ctx.saved_tensors
        return v_image * (grads[0] * ctx.scale), None, None, None


def _call(
    image: Tensor, truth: Tensor, weights: Tensor | None, ssim_weight: float, v_image: Tensor | None
) -> tuple[Tensor, float]:
    """The loss [], and what v_image must be multiplied by."""
    args: Any = library.fill(
        library.PhotometricArgs(),
        width=image.shape[1],
        height=image.shape[0],
        threads=torch.get_num_threads(),
        ssim_weight=ssim_weight,
        image=image,
        truth=truth,
        weights=weights,
        v_image=v_image,
    )
    if library.function("photometric", image.dtype)(args):
        raise MemoryError(f"not enough memory for the loss of an image of {image.shape[1]} x {image.shape[0]} pixels")
    return image.new_tensor(args.loss), args.scale
