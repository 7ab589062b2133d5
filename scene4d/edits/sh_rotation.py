"""Real spherical harmonics turned with an object, in the renderers' order and signs.

A colour f(d) = Y(d) c over directions d becomes f'(d) = f(R^-1 d) when its object turns by R. Each band is closed under
rotations, so c' = D(R) c with one square block a degree. Block l is found from its definition, Y_l(d) D_l = Y_l(R^-1 d)
on directions that determine it, in float64: exact to rounding.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from renderers.spherical_harmonics import sh_basis

SAMPLES = 32  # directions: the largest band has 7 functions


def sh_rotation(R: Tensor, count: int) -> Tensor:
    """D [count, count] float64 of a rotation matrix [3, 3]; `count` is 1, 4, 9 or 16."""
    directions, inverses = _samples()
    R = R.double().cpu()
    turned = sh_basis(directions @ R, count)  # rows d^T R are (R^-1 d)^T
    D = torch.zeros(count, count, dtype=torch.float64)
    for degree in range(math.isqrt(count)):
        band = slice(degree**2, (degree + 1) ** 2)
        D[band, band] = inverses[degree] @ turned[:, band]
    return D


@lru_cache(maxsize=1)
def _samples() -> tuple[Tensor, tuple[Tensor, ...]]:
    """Directions [SAMPLES, 3] on a Fibonacci sphere, and the pseudo-inverse of each band's basis there."""
    k = torch.arange(SAMPLES, dtype=torch.float64) + 0.5
    z, angle = 1 - 2 * k / SAMPLES, math.pi * (1 + math.sqrt(5)) * k
    r = (1 - z * z).sqrt()
    directions = torch.stack([r * angle.cos(), r * angle.sin(), z], -1)
    basis = sh_basis(directions, 16)
    return directions, tuple(torch.linalg.pinv(basis[:, n * n : (n + 1) ** 2]) for n in range(4))
