"""Borders between regions: the band in which no error is counted, and how natural the seam looks.

T frames, H W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scene4d.metrics.region_types import Frames, Score, measured, skipped, unit

BAND = 3  # pixels to each side of a border; true borders are off by up to two where depth is not exact
DEPTH_EDGE = 0.05  # second difference of 1 / z over 1 / z: more is an edge, a plane has 0
REACH = 2  # pixels: a seam is looked for this far to both sides of the border
SEAM_FLOOR = 1.0 / 255.0  # added above and below: a jump that 8 bits cannot show is none


def ignore_band(roles: Tensor, ids: Tensor | None, depth: Tensor | None, band: int = BAND) -> Tensor:
    """bool [T, H, W]: pixels at most `band` pixels from a border of roles, ids or depth, the border's own included."""
    if band < 1:
        raise ValueError(f"band must be at least 1, got {band}")
    border = changes(roles)
    if ids is not None:
        border |= changes(ids)
    if depth is not None:
        border |= depth_edges(depth)
    return F.max_pool2d(border[:, None].float(), 2 * band - 1, 1, band - 1)[:, 0] > 0


def changes(labels: Tensor) -> Tensor:
    """bool [T, H, W]: a pixel beside it, across, along, has another label: both sides of a border are marked."""
    found = torch.zeros(labels.shape, dtype=torch.bool)
    down, right = labels[:, 1:] != labels[:, :-1], labels[:, :, 1:] != labels[:, :, :-1]
    found[:, 1:] |= down
    found[:, :-1] |= down
    found[:, :, 1:] |= right
    found[:, :, :-1] |= right
    return found


def depth_edges(depth: Tensor) -> Tensor:
    """bool [T, H, W]: 1 / z bends by more than 5 % of itself along a row or a column; nothing counts as 1 / z = 0."""
    inverse = torch.where(depth > 0, 1.0 / depth.clamp_min(1e-12), torch.zeros(()))
    found = torch.zeros(depth.shape, dtype=torch.bool)
    for axis in (-1, -2):
        size = inverse.shape[axis]
        if size < 3:
            continue
        low, middle, high = (inverse.narrow(axis, k, size - 2) for k in range(3))
        bent = (low - 2 * middle + high).abs() > DEPTH_EDGE * torch.maximum(middle, torch.maximum(low, high))
        found.narrow(axis, 1, size - 2).logical_or_(bent)
    return found


def seam(output: Frames, truth: Frames, region: Tensor, ids: Tensor | None, depth: Tensor | None) -> Score:
    """The jump at the border of a region over that of the truth: 1 = natural, more = a visible seam, less = a blur.

    For each pair of pixels across the border, the largest difference of neighbours (mean over channels) among those at
    most two pixels from the border, on a line across it; summed, 1/255 a pair added above and below. Borders that are
    those of things (ids, depth) are left out: there the truth jumps too.

    Args:
        region: [T, H, W] bool, the ignore band included: its border is what is looked at.
    """
    surface = _surfaces(region, ids, depth)
    found = wanted = 0.0
    count = 0
    for t in range(len(region)):
        if not region[t].any():
            continue
        image, real = unit(output[t]), unit(truth[t])
        for turn in (False, True):
            parts = (region[t], surface[t], image, real)
            inside, smooth, a, b = (p.transpose(0, 1) for p in parts) if turn else parts
            across = (inside[:, 1:] != inside[:, :-1])[:, REACH:-REACH]
            across &= _all_of(smooth, 2 * REACH + 2)
            if across.any():
                found += float(_jump(a)[across].double().sum())
                wanted += float(_jump(b)[across].double().sum())
                count += int(across.sum())
    if not region.any():
        return skipped("no pixel of the region")
    if not count:
        return skipped("the region has no border within one surface")
    return measured((found / count + SEAM_FLOOR) / (wanted / count + SEAM_FLOOR), count)


def _surfaces(region: Tensor, ids: Tensor | None, depth: Tensor | None) -> Tensor:
    """bool [T, H, W]: not at the edge of a thing."""
    smooth = torch.ones(region.shape, dtype=torch.bool)
    if ids is not None:
        smooth &= ~changes(ids)
    if depth is not None:
        smooth &= ~depth_edges(depth)
    return smooth


def _all_of(mask: Tensor, length: int) -> Tensor:
    """[H, W - length + 1] bool: all of the `length` pixels of a row from here on."""
    return mask.unfold(1, length, 1).all(-1)


def _jump(image: Tensor) -> Tensor:
    """[H, W - 5]: the largest of the five neighbouring differences in six pixels of a row."""
    steps = (image[:, 1:] - image[:, :-1]).abs().mean(-1)
    return steps.unfold(1, 2 * REACH + 1, 1).amax(-1)
