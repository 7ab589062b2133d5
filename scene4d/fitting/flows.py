"""Optical flow between training frames of a camera, by OpenCV's DIS (Kroeger et al. 2016).

H W pixels, n points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import KDTree
from torch import Tensor

AGREE = 1.5  # pixels between a point and where forward and backward flow take it
FINE = 240  # pixels: smaller pictures are enlarged, DIS does not look at the finest of its levels


@dataclass(frozen=True, eq=False)
class PairFlow:
    flow: Tensor  # [H, W, 2] pixels
    good: Tensor  # [H, W] bool: forward and backward flow agree


def dis_flow(a: Tensor, b: Tensor, guess: Tensor | None = None, side: int | None = None) -> Tensor:
    """Flow [H, W, 2] in pixels from a to b, both uint8 [H, W, 3]; `guess` [H, W, 2] is where the search starts.

    `side`: the shorter one of the pictures in pixels, where a and b are parts of them.
    """
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(x.numpy(), cv2.COLOR_RGB2GRAY) for x in (a, b)]
    height, width = a.shape[:2]
    scale = max(1, -(-FINE // (side or min(height, width))))
    flow = None if guess is None else guess.numpy() * scale
    if scale > 1:
        grey = [cv2.resize(x, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) for x in grey]
        flow = None if flow is None else cv2.resize(flow, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    start: Any = None if flow is None else np.ascontiguousarray(flow, np.float32)  # OpenCV's stubs know no None here
    flow = solver.calc(grey[0], grey[1], start)
    if scale > 1:
        flow = cv2.resize(flow, (width, height), interpolation=cv2.INTER_AREA) / scale
    return torch.from_numpy(np.ascontiguousarray(flow))


def guessed_flow(ids_a: Tensor, ids_b: Tensor, places: Tensor, shifts: Tensor, owners: Tensor) -> Tensor:
    """Flow [H, W, 2] that moves the middle of every instance of masks [H, W] to its middle in the other picture.

    Of one that the picture's border cuts, the middle is not known. Within an instance flow varies as the shifts [n, 2]
    that are expected at places [n, 2] of points of `owners` [n].
    """
    height, width = ids_a.shape
    grid, flow = pixel_grid(height, width), torch.zeros(height, width, 2)
    for instance in ids_a.unique().tolist():
        here, there, mine = ids_a == instance, ids_b == instance, owners == instance
        if not instance or not bool(there.any()):
            continue
        pixels = grid[here]
        expected = torch.zeros(len(pixels), 2)
        if bool(mine.any()):
            _, near = KDTree(places[mine].numpy()).query(pixels.numpy())
            expected = shifts[mine][torch.from_numpy(near)]
        whole = not (at_border(here) or at_border(there))
        middle = grid[there].mean(0) - pixels.mean(0) if whole or not bool(mine.any()) else expected.mean(0)
        flow[here] = expected + (middle - expected.mean(0))
    return flow


def at_border(mask: Tensor) -> bool:
    """Whether a mask [H, W] reaches the border of the picture: then part of it may lie outside."""
    return bool(mask[0].any() | mask[-1].any() | mask[:, 0].any() | mask[:, -1].any())


def pair_flow(
    a: Tensor, b: Tensor, guess: Tensor | None = None, back_guess: Tensor | None = None, side: int | None = None
) -> PairFlow:
    """Flow from a to b and where it can be trusted; uint8 [H, W, 3]. Guesses [H, W, 2]: where the searches start.

    `side` as for `dis_flow`.
    """
    forward, backward = dis_flow(a, b, guess, side), dis_flow(b, a, back_guess, side)
    height, width = forward.shape[:2]
    there = pixel_grid(height, width) + forward
    back = sample(backward, there.reshape(-1, 2)).reshape(height, width, 2)
    inside = (there >= 0).all(-1) & (there[..., 0] <= width) & (there[..., 1] <= height)
    limit = AGREE + 0.05 * forward.norm(dim=-1)
    return PairFlow(forward, ((forward + back).norm(dim=-1) < limit) & inside)


def pixel_grid(height: int, width: int) -> Tensor:
    """Pixel centres [H, W, 2] (x, y)."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y], -1)


def sample(maps: Tensor, pixels: Tensor, mode: str = "bilinear") -> Tensor:
    """Values of maps [H, W] or [H, W, F] at pixels [n, 2], [n] or [n, F]; beyond the border its values go on."""
    height, width = maps.shape[:2]
    grid = (pixels / pixels.new_tensor([width, height]) * 2 - 1)[None, None]
    values = maps.reshape(height, width, -1).movedim(-1, 0)[None].to(pixels.dtype)
    found = F.grid_sample(values, grid, mode=mode, padding_mode="border", align_corners=False)[0, :, 0].T
    return found if maps.ndim == 3 else found[:, 0]
