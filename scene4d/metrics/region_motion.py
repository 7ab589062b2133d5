"""How a clip changes along the motion of the surfaces that it should show: flicker, stability, revisits.

The motion is that of the target geometry, not one found in the output: an output that moves otherwise is not steady.

T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from scene4d.metrics.region_types import Frames, Revisit, Score, measured, skipped, unit

EMPTY = "no pixel of the region is seen again"


def temporal_error(frames: Frames, flow: Tensor, visible: Tensor, mask: Tensor) -> Score:
    """Mean |O_t - warp(O_{t-1})| over pixels of the mask whose surface is seen in the frame before, in the mask too.

    Args:
        flow: [T, H, W, 2] pixels from centres in frame t to where the surface is in frame t - 1.
        visible: [T, H, W] bool, it is seen there.
        mask: [T, H, W] bool.
    """
    pairs = [(t - 1, t, flow[t], visible[t]) for t in range(1, len(frames))]
    return _mean_difference(frames, pairs, mask) if pairs else skipped("the clip has one frame")


def revisit_error(frames: Frames, revisits: Sequence[Revisit], mask: Tensor) -> Score:
    """The same between frames that look at one place twice."""
    if not revisits:
        return skipped("the camera comes back to no place it has been")
    return _mean_difference(frames, [(r.earlier, r.later, r.flow, r.visible) for r in revisits], mask)


def _mean_difference(frames: Frames, pairs: Sequence[tuple[int, int, Tensor, Tensor]], mask: Tensor) -> Score:
    total, count = 0.0, 0
    for before, after, flow, visible in pairs:
        places = pixel_centers(*mask.shape[1:]) + flow.float()
        both = mask[after] & visible & held(mask[before], places)
        if not both.any():
            continue
        difference = (unit(frames[after]) - sampled(unit(frames[before]), places)).abs().mean(-1)[both]
        total += float(difference.double().sum())
        count += len(difference)
    return measured(total / count, count) if count else skipped(EMPTY)


def pixel_centers(height: int, width: int) -> Tensor:
    """[H, W, 2] x and y in pixels."""
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([columns, rows], -1)


def held(mask: Tensor, places: Tensor) -> Tensor:
    """bool [H, W]: the mask [H, W] at the pixels that hold the places [H, W, 2]; False outside the picture."""
    height, width = mask.shape
    x, y = places.floor().long().unbind(-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return inside & mask[y.clamp(0, height - 1), x.clamp(0, width - 1)]


def sampled(image: Tensor, places: Tensor) -> Tensor:
    """[H, W, C]: an image [H', W', C] at places [H, W, 2] in pixels, bilinear between centres, the border goes on."""
    size = places.new_tensor([image.shape[1], image.shape[0]])
    grid = (2.0 * places / size - 1.0)[None]
    found = F.grid_sample(image.movedim(-1, 0)[None], grid, "bilinear", "border", align_corners=False)
    return found[0].movedim(0, -1)
