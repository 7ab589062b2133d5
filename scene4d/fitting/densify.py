"""Gaussians put where they are needed, under a fixed cap: 3DGS-MCMC (Kheradmand et al. 2024), in plain torch.

N Gaussians, n chosen ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from scene4d.fitting.model import Model, gather

DEAD = 0.005  # opacity
GROWTH = 1.10  # at most, each time
MOVING_SHARE = 0.4  # of Gaussians, for what moves
MOST_COPIES = 51  # as in the authors' code


def relocate(model: Model, cap: int, need: Tensor, generator: torch.Generator) -> tuple[int, int]:
    """Move dead Gaussians to, and add new ones at, Gaussians drawn by `need` [N] >= 0; returns how many.

    What moves gets a fixed share of them: it is small in most pictures, and what one looks at.

    A Gaussian that becomes k equal ones keeps the picture as it was (equation 9): opacity 1 - (1 - o)^(1/k), and
    smaller scales.
    """
    opacities = model.params["logit_opacities"].detach().sigmoid()
    dead = (opacities <= DEAD).nonzero()[:, 0]
    alive = (opacities > DEAD).nonzero()[:, 0]
    if not len(alive):
        return 0, 0
    N = len(model)
    added = max(0, min(cap, int(N * GROWTH)) - N)
    count = len(dead) + added
    if not count:
        return 0, 0
    weights = (need[alive] * opacities[alive]).cpu().double() + 1e-12
    moves = model.ids["instances"][alive].cpu() > 0
    for group, share in ((moves, MOVING_SHARE), (~moves, 1 - MOVING_SHARE)):
        weights[group] *= share / weights[group].sum().clamp_min(1e-300)
    drawn = alive.cpu()[torch.multinomial(weights, count, replacement=True, generator=generator)]
    copies = torch.bincount(drawn, minlength=N).to(opacities.device)  # new ones at each
    rows = torch.cat([torch.arange(N), torch.zeros(added, dtype=torch.int64)])
    rows[dead.cpu()] = drawn[: len(dead)]
    rows[N:] = drawn[len(dead) :]
    split = copies[rows.to(copies.device)] > 0
    opacity, scales = split_values(model, rows.to(opacities.device), copies)
    gather(model, rows.to(opacities.device), split)
    with torch.no_grad():
        model.params["logit_opacities"][split] = opacity[split]
        model.params["log_scales"][split] = scales[split]
    return len(dead), added


def split_values(model: Model, rows: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Logit opacities [n] and log scales [n, 3] of `rows` after each original has become 1 + copies equal ones."""
    opacity = model.params["logit_opacities"].detach()[rows].sigmoid().clamp(DEAD, 1 - 1e-6)
    k = (1 + copies[rows]).clamp_max(MOST_COPIES)
    share = 1 - (1 - opacity).pow(1 / k)
    ratio = scale_ratio(opacity, share, k)
    share = share.clamp(DEAD, 1 - 1e-6)
    return torch.logit(share), model.params["log_scales"].detach()[rows] + ratio.log()[:, None]


def scale_ratio(opacity: Tensor, share: Tensor, copies: Tensor) -> Tensor:
    """New over old scale [n]: o / sum_{i=1..k} sum_{j=0..i-1} C(i-1, j) (-1)^j o'^(j+1) / sqrt(j+1) (equation 9)."""
    most = int(copies.max())
    j = torch.arange(most, device=opacity.device, dtype=torch.float64)
    powers = share.double()[:, None].pow(j + 1) / (j + 1).sqrt() * torch.where(j % 2 == 0, 1.0, -1.0)  # [n, most]
    total = torch.zeros(len(opacity), dtype=torch.float64, device=opacity.device)
    for i in range(1, most + 1):
        binomials = torch.tensor([math.comb(i - 1, int(x)) for x in range(i)], dtype=torch.float64)
        term = (powers[:, :i] * binomials.to(powers.device)).sum(1)
        total += torch.where(copies >= i, term, 0.0)
    return (opacity.double() / total.clamp_min(1e-12)).clamp(1e-3, 1.0).float()


def add_noise(model: Model, rate: float, generator: torch.Generator) -> None:
    """Shake the means of faint Gaussians along their own shape (equation 8): they look for something to show."""
    with torch.no_grad():
        params = model.params
        opacity = params["logit_opacities"].sigmoid()
        gate = torch.sigmoid(100 * (0.005 - opacity))  # 1 - sigmoid(-100 (0.005 - o)), as in the authors' code
        faint = (gate > 1e-4).nonzero()[:, 0]
        if not len(faint):
            return
        noise = torch.randn(len(faint), 3, generator=generator).to(opacity.device)
        shape = _rotations(params["quats"][faint]) * params["log_scales"][faint].exp()[:, None, :]
        cov = shape @ shape.mT
        params["means"][faint] += (cov @ noise[..., None])[..., 0] * (gate[faint] * rate)[:, None]


def _rotations(quats: Tensor) -> Tensor:
    w, x, y, z = normalize(quats, dim=1).unbind(1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], 1)
