"""2D masks lifted to Gaussians: one pass a view, no training.

The weight w_i(p) with which Gaussian i is blended into pixel p is linear in the image, so the gradient of
sum_p mask(p) feature(p) by the Gaussian's feature is its weight inside the mask, sum_p mask(p) w_i(p): the backward
pass of a label channel. Over the views, its share inside is that over all that the views show of it.

N Gaussians, K labels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from renderers import Cameras, Gaussians, rasterize
from scene4d.edits.selections import Mask, Screen, View

SEEN = 1e-3  # pixels of blending weight below which a Gaussian counts as not seen


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


def lifted_share(frames: Sequence[Gaussians], cameras: Sequence[Cameras], masks: Sequence[Tensor]) -> Tensor:
    """The share [N] of what the views show of each Gaussian that lies in the masks [H, W] bool; 0 if not seen."""
    votes = torch.zeros(len(frames[0]), 2, dtype=frames[0].means.dtype, device=frames[0].means.device)
    for gaussians, camera, mask in zip(frames, cameras, masks, strict=True):
        votes = votes + label_votes(gaussians, camera, mask.long(), 2)
    total = votes.sum(1)
    return torch.where(total > SEEN, votes[:, 1] / total.clamp_min(SEEN), 0.0)


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
    canvas = np.zeros((H, W), np.uint8)
    shift = 4  # fractional bits; OpenCV's pixel centres are at whole numbers
    fixed = np.round((points - 0.5) * (1 << shift)).astype(np.int32)
    if screen.shape == "lasso":
        cv2.fillPoly(canvas, [fixed], 255, lineType=cv2.LINE_8, shift=shift)
        return torch.from_numpy(canvas > 0)
    return torch.from_numpy(_stroke(points, screen.radius, x, y))


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
