"""2D masks lifted to Gaussians: one pass a view, no training.

The weight w_i(p) with which Gaussian i is blended into pixel p is linear in the image, so the gradient of
sum_p mask(p) feature(p) by the Gaussian's feature is its weight inside the mask, sum_p mask(p) w_i(p): the backward
pass of a label channel. Over the views, its share inside is that over all that the views show of it. What no view shows
well takes the part of its nearest neighbours that are seen: the inside of a thing goes with its surface.

N Gaussians, K labels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from renderers import Cameras, Gaussians, RasterOptions, rasterize
from renderers.quaternions import rotate, unit
from scene4d.edits.selections import Mask, Screen, View

SEEN = 1e-3  # pixels of blending weight: less is nothing
VISIBLE = 0.1  # share of what a Gaussian would show alone, below which what shows of it has leaked through others
KNOWN = 0.3  # share below which it is not known by its masks: of what is hidden, the rim looks out beside the thing
NEIGHBOURS = 8  # from whom a Gaussian that is not seen takes what it belongs to
REACH = 4.0  # median spacings that a neighbour may be away
NEAR = 1e-3  # scene units


def label_votes(gaussians: Gaussians, cameras: Cameras, labels: Tensor, count: int, backend: str = "auto") -> Tensor:
    """Blending weight [N, count] that each Gaussian has in the pixels of each of `labels` [H, W] from 0 to count - 1.

    One forward and one backward pass of `count` feature channels.
    """
    frozen = Gaussians(
        gaussians.means.detach(),
        gaussians.quats.detach(),
        gaussians.log_scales.detach(),
        gaussians.logit_opacities.detach(),
        colors=gaussians.means.new_zeros(len(gaussians), 3),
    )
    with torch.enable_grad():
        features = gaussians.means.new_zeros(len(gaussians), count).requires_grad_()
        rendered = rasterize(frozen, cameras, features=features, backend=backend).features
        assert rendered is not None
        upstream = (labels.to(rendered.device)[..., None] == torch.arange(count, device=rendered.device)).to(rendered)
        (votes,) = torch.autograd.grad(rendered, features, upstream[None])
    return votes


@dataclass(frozen=True, eq=False)
class Lifted:
    """What views say of the Gaussians."""

    share: Tensor  # [N] of what the views show of it that lies in the masks
    visible: Tensor  # [N] the most that one view shows of it, of what it would show if nothing stood before it


def lifted(frames: Sequence[Gaussians], cameras: Sequence[Cameras], masks: Sequence[Tensor]) -> Lifted:
    """Masks [H, W] bool of views lifted to the Gaussians at the views' times."""
    votes = torch.zeros(len(frames[0]), 2, dtype=frames[0].means.dtype, device=frames[0].means.device)
    visible = votes[:, 0]
    for gaussians, camera, mask in zip(frames, cameras, masks, strict=True):
        found = label_votes(gaussians, camera, mask.long(), 2)
        votes = votes + found
        visible = torch.maximum(visible, found.sum(1) / footprint(gaussians, camera))
    return Lifted(votes[:, 1] / votes.sum(1).clamp_min(SEEN), visible)


def footprint(gaussians: Gaussians, cameras: Cameras) -> Tensor:
    """Pixels of blending weight [N] that each Gaussian has in one camera with nothing before it: its opacity times the
    integral of its splat, 2 pi sqrt(det), as the rasterizer projects it (EWA). At least SEEN."""
    W = cameras.world_to_cam[0, :3, :3]
    x, y, z = (gaussians.means @ W.T + cameras.world_to_cam[0, :3, 3]).unbind(-1)
    z = z.clamp_min(NEAR)
    fx, fy = cameras.K[0, 0, 0], cameras.K[0, 1, 1]
    zero = torch.zeros_like(z)
    J = torch.stack([fx / z, zero, -fx * x / z**2, zero, fy / z, -fy * y / z**2], -1).unflatten(-1, (2, 3))
    q = unit(gaussians.quats)
    axes = torch.eye(3, dtype=q.dtype, device=q.device)
    R = torch.stack([rotate(q, axis.expand_as(gaussians.means)) for axis in axes], -1)
    half = J @ W @ (R * gaussians.log_scales.exp()[:, None])
    covariance = half @ half.mT + RasterOptions().eps2d * torch.eye(2, dtype=q.dtype, device=q.device)
    area = 2 * torch.pi * torch.linalg.det(covariance).clamp_min(0).sqrt()
    return (gaussians.logit_opacities.sigmoid() * area).clamp_min(SEEN)


def of_neighbours(points: Tensor, known: Tensor, values: Tensor) -> Tensor:
    """`values` [N] int32, spread from the `known` [N] bool points [N, D] to the others, layer by layer.

    A point takes what most of its known neighbours have, of the NEIGHBOURS nearest within REACH median spacings;
    0 where no such chain leads to a known point.
    """
    found = values.masked_fill(~known, 0).cpu().numpy().copy()
    done = known.cpu().numpy().copy()
    if done.all() or not done.any():
        return torch.from_numpy(found).to(values)
    places = points.double().cpu().numpy()
    distances, near = KDTree(places).query(places, k=min(NEIGHBOURS + 1, len(places)))
    close = np.asarray(distances <= REACH * np.median(distances[:, 1]))[:, 1:]
    near = np.asarray(near)[:, 1:]
    while True:
        ready = np.flatnonzero(~done & (close & done[near]).any(1))
        if not len(ready):
            return torch.from_numpy(found).to(values)
        usable = close[ready] & done[near[ready]]
        theirs = found[near[ready]]
        equal = (theirs[:, :, None] == theirs[:, None]) & usable[:, None] & usable[:, :, None]
        best = equal.sum(2).argmax(1)  # the neighbour whose value has the most votes; of equal ones the nearest
        found[ready], done[ready] = theirs[np.arange(len(ready)), best], True


def view_cameras(view: View, like: Tensor) -> Cameras:
    pose = torch.tensor(view.world_to_cam, dtype=torch.float64).reshape(1, 4, 4)
    K = torch.tensor(view.K, dtype=torch.float64).reshape(1, 3, 3)
    return Cameras(pose.to(like), K.to(like), view.width, view.height)


def mask_tensor(mask: Mask) -> Tensor:
    """bool [H, W]."""
    on = torch.arange(len(mask.runs)) % 2 == 1
    return on.repeat_interleave(torch.tensor(mask.runs)).reshape(mask.view.height, mask.view.width)


def mask_runs(mask: Tensor) -> tuple[int, ...]:
    """The inverse of `mask_tensor`: lengths of runs, the first of what is off."""
    flat = mask.cpu().numpy().astype(bool).ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate([[0], edges, [len(flat)]])).tolist()
    return tuple([0, *lengths] if len(flat) and flat[0] else lengths)


def shape_mask(screen: Screen) -> Tensor:
    """bool [H, W] of the pixels whose centre lies in the drawn shape."""
    W, H = screen.view.width, screen.view.height
    x, y = np.arange(W) + 0.5, np.arange(H) + 0.5
    points = np.asarray(screen.points, dtype=np.float64)
    if screen.shape == "rectangle":
        (x0, y0), (x1, y1) = points.min(0), points.max(0)
        return torch.from_numpy(((x >= x0) & (x <= x1))[None] & ((y >= y0) & (y <= y1))[:, None])
    inside = _outline(points, x, y) if screen.shape == "lasso" else _stroke(points, screen.radius, x, y)
    return torch.from_numpy(inside)


def _outline(points: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pixels whose centre a line to the right crosses the outline an odd number of times from."""
    inside = np.zeros((len(y), len(x)), bool)
    for a, b in zip(points, np.roll(points, -1, axis=0), strict=True):
        low, high = (a, b) if a[1] <= b[1] else (b, a)
        rows = slice(*np.searchsorted(y, [low[1], high[1]]))
        if rows.start < rows.stop:
            crossing = low[0] + (y[rows] - low[1]) / (high[1] - low[1]) * (high[0] - low[0])
            inside[rows] ^= x[None] < crossing[:, None]
    return inside


def _stroke(points: np.ndarray, radius: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pixels within `radius` of the line through the points."""
    inside = np.zeros((len(y), len(x)), bool)
    for a, b in zip(points, points[1:] if len(points) > 1 else points, strict=False):
        (left, top), (right, bottom) = np.minimum(a, b) - radius, np.maximum(a, b) + radius
        columns = slice(*np.searchsorted(x, [left, right + 1e-9]))
        rows = slice(*np.searchsorted(y, [top, bottom + 1e-9]))
        px, py = x[columns][None], y[rows][:, None]
        step = b - a
        along = ((px - a[0]) * step[0] + (py - a[1]) * step[1]) / max(float(step @ step), 1e-12)
        u = np.clip(along, 0, 1)
        inside[rows, columns] |= (px - a[0] - u * step[0]) ** 2 + (py - a[1] - u * step[1]) ** 2 <= radius**2
    return inside
