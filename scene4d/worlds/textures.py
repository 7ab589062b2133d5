"""Colours of surface points: smooth functions of the rest frame, so that they move with the surface."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from scene4d.worlds.types import Texture

WAVES = 20  # enough that the noise does not look periodic


@lru_cache(maxsize=1024)
def _waves(texture: Texture) -> tuple[Tensor, Tensor, Tensor]:
    """Wave vectors [3, WAVES] in radians a metre, phases [WAVES], and each wave's share in the channels [WAVES, 3]."""
    random = np.random.default_rng([texture.seed, 417])
    directions = random.normal(size=(WAVES, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = texture.wavelength * 3.0 ** random.uniform(0.0, 1.0, (WAVES, 1))
    mix = 0.6 * random.normal(size=(WAVES, 3)) + random.normal(size=(WAVES, 1))  # mostly brightness, as in nature
    mix *= texture.noise * math.sqrt(2.0) / np.linalg.norm(mix, axis=0)  # the variance of a cosine is 1/2
    phases = random.uniform(0.0, 2.0 * math.pi, WAVES)
    vectors = (2.0 * math.pi * directions / lengths).T
    first, second, third = (torch.from_numpy(a.astype(np.float32, order="C")) for a in (vectors, phases, mix))
    return first, second, third


def texture_colors(texture: Texture, points: Tensor) -> Tensor:
    """sRGB in (0, 1), float32 [N, 3], of points [N, 3] in the rest frame."""
    points = points.to(torch.float32)
    color = points.new_tensor(texture.color)
    if any(texture.checks):
        color2 = points.new_tensor(texture.color2)
        product = torch.ones_like(points[:, 0])
        for i, period in enumerate(texture.checks):
            if period:
                product = product * torch.sin(points[:, i] * (2.0 * math.pi / period))
        share = 0.5 + 0.5 * torch.tanh(product / texture.softness)
        color = color2 + share[:, None] * (color - color2)
    else:
        color = color.expand_as(points)
    if texture.noise:
        vectors, phases, mix = _waves(texture)
        color = color + torch.cos(points @ vectors + phases) @ mix
    # identity around 1/2 with slope 1, never out of gamut: clipping would put kinks into smooth textures
    return torch.sigmoid(4.0 * (color - 0.5))
