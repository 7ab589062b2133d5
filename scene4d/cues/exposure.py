"""Exposure of the source pictures relative to each other: one gain a channel and view, from surfaces seen by several.

The log ratio of two pictures on the background surface that both see is log g_a - log g_b; the medians m_ab over the
points that two views share give, in the sense of least squares, gains whose logarithms have the mean 0:

    minimise sum_ab n_ab (log g_a - log g_b - m_ab)^2

S source views, n points.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from scene4d.cues.sources import Prepared
from scene4d.cues.visibility import Points, look

POINTS = 400  # of each view
PARTNERS = 6  # views that each view is compared with: those that see most of its points
LEAST = 30  # points that two views share, for a ratio
DARK, BRIGHT = 10, 245  # of 255: beyond these a picture may be clipped
ANCHOR = 1.0  # points' worth by which each gain is held near 1: views that share nothing keep 1


def with_gains(prepared: Prepared) -> Prepared:
    """The same with the gains of `fit_gains`."""
    gains = fit_gains(prepared)
    return replace(prepared, gains=gains, views=replace(prepared.views, gains=gains))


def fit_gains(prepared: Prepared) -> Tensor:
    """[S, 3] gains; 1 for views that share too little with others."""
    S = len(prepared)
    rows = torch.arange(S, device=prepared.inverse.device)
    equations: list[tuple[int, int, float, np.ndarray]] = []
    for s in range(S):
        points, own = _background_points(prepared, s)
        if len(own) < LEAST:
            continue
        pairs = look(prepared, rows, points)
        shared = pairs.visible.sum(1)
        shared[s] = 0
        for other in torch.argsort(shared, descending=True)[:PARTNERS].tolist():
            seen = pairs.visible[other].nonzero()[:, 0]
            if len(seen) < LEAST:
                break
            theirs = _colors(prepared, other, pairs.u[other, seen].long(), pairs.v[other, seen].long())
            ratio, count = _log_ratio(own[seen], theirs)
            if count >= LEAST:
                equations.append((s, other, count, ratio))
    return torch.from_numpy(np.exp(_solve(S, equations))).float().to(prepared.inverse.device)


def _background_points(prepared: Prepared, s: int) -> tuple[Points, Tensor]:
    """Some points of the background that view s sees well, and their colours [n, 3] there."""
    views = prepared.views
    H, W = views.depth.shape[1:]
    trusted = (prepared.allowed.view(-1, H, W)[s] > 0) & (views.instances[s] == 0)
    places = trusted.nonzero()
    step = max(1, len(places) // POINTS)
    v, u = places[step // 2 :: step].unbind(1)
    z = 1.0 / prepared.inverse.view(-1, H, W)[s, v, u]
    K, pose = views.K[s].double(), views.world_to_cam[s].double()
    pixels = torch.stack([u + 0.5, v + 0.5, torch.ones_like(z)], -1).double()
    xyz = ((pixels @ torch.linalg.inv(K).T) * z[:, None].double() - pose[:3, 3]) @ pose[:3, :3]
    n, eye = len(u), prepared.centers[s].reshape(1, 3, 1)
    flat = torch.zeros(n, device=z.device)
    points = Points(
        xyz=xyz.float().T.contiguous()[None],
        eyes=eye,
        normals=torch.zeros(1, 3, n, device=z.device),
        instances=torch.zeros(n, dtype=torch.int16, device=z.device),
        times=flat + prepared.times[s],
        fading=flat,
        footprints=flat + 1.0 / prepared.focals[s],
    )
    return points, _colors(prepared, s, u, v)


def _colors(prepared: Prepared, s: int, u: Tensor, v: Tensor) -> Tensor:
    return prepared.views.images[s, v, u].float()


def _log_ratio(a: Tensor, b: Tensor) -> tuple[np.ndarray, float]:
    """Medians [3] of log(a / b) over the points that neither picture clips, and how many they are."""
    usable = ((a > DARK) & (a < BRIGHT) & (b > DARK) & (b < BRIGHT)).all(1)
    if not bool(usable.any()):
        return np.zeros(3), 0.0
    ratio = (a[usable].log() - b[usable].log()).median(0).values
    return ratio.double().cpu().numpy(), float(usable.sum())


def _solve(S: int, equations: list[tuple[int, int, float, np.ndarray]]) -> np.ndarray:
    """[S, 3] logarithms of the gains."""
    normal, right = np.eye(S) * ANCHOR, np.zeros((S, 3))
    for a, b, count, ratio in equations:
        normal[a, a] += count
        normal[b, b] += count
        normal[a, b] -= count
        normal[b, a] -= count
        right[a] += count * ratio
        right[b] -= count * ratio
    gains = np.linalg.solve(normal, right)
    return gains - gains.mean(0)
