"""One Gaussian whose image is known in closed form: the smallest proof that a backend works on this machine."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from renderers import Cameras, Gaussians, rasterize

SIZE = 17  # pixels; odd, so that a pixel's centre lies on the optical axis
FOCAL = 20.0  # pixels
DEPTH = 2.0
SIGMA = 0.2  # scene units: SIGMA * FOCAL / DEPTH = 2 pixels
OPACITY = 0.5
COLOR = (1.0, 0.5, 0.25)


def largest_error(backend: str, device: str) -> float:
    """Largest deviation of `backend`'s image, alpha and depth from the closed form. NaN if there is one in them."""
    gaussians = Gaussians(
        means=torch.tensor([[0.0, 0.0, DEPTH]], device=device),
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]], device=device),
        log_scales=torch.full((1, 3), math.log(SIGMA), device=device),
        logit_opacities=torch.logit(torch.tensor([OPACITY], device=device)),
        colors=torch.tensor([COLOR], device=device),
    )
    K = torch.tensor([[FOCAL, 0.0, SIZE / 2], [0.0, FOCAL, SIZE / 2], [0.0, 0.0, 1.0]], device=device)
    cameras = Cameras(torch.eye(4, device=device)[None], K[None], SIZE, SIZE)
    rendering = rasterize(gaussians, cameras, backend=backend)
    alpha = closed_form_alpha()
    expected = torch.cat([alpha[..., None] * torch.tensor(COLOR), alpha[..., None], DEPTH * (alpha[..., None] > 0)], -1)
    got = torch.cat([rendering.image[0], rendering.alpha[0, ..., None], rendering.depth[0, ..., None]], -1)
    return (got.cpu() - expected).abs().max().item()


def closed_form_alpha() -> Tensor:  # [SIZE, SIZE]
    """o exp(-d^2 / (2 var)): on the axis the projection of an isotropic Gaussian is exact (EWA)."""
    variance = (SIGMA * FOCAL / DEPTH) ** 2 + 0.3  # px^2; 0.3 is the default eps2d
    distance = torch.arange(SIZE) - (SIZE - 1) / 2
    alpha = OPACITY * torch.exp(-(distance[:, None] ** 2 + distance**2) / (2 * variance))
    return torch.where(alpha >= 1 / 255, alpha, 0.0)
