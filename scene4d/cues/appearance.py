"""The appearance cue: colours sampled from source pictures, and how the rest is filled.

    C(p) = sum_s w_s I_s(u_s) / g_s / sum_s w_s        over the K best views, g_s the exposure gain of each

A view with the target's own line of sight, at its own time, is used alone.

Samples are bicubic. Where a target pixel covers more than two source pixels along a side they come from a smaller copy
of the picture (a power of two, area averages), so that nothing aliases.

H W pixels, K views, L sizes of a picture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scene4d.cues.evidence import Evidence
from scene4d.cues.geometry import dilate
from scene4d.cues.sources import Prepared
from scene4d.cues.visibility import SAME_SIGHT

GRAY = 0.5  # where there is no cue
FILL_REACH = 8  # pixels around what is observed that are filled from it
FILL_LEVELS = 15  # halvings: enough for any picture
SAME_TIME = 1e-4  # seconds
MOST_LEVELS = 5  # of a picture: up to 1/16


def sample_cue(prepared: Prepared, evidence: Evidence, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Colours [n, 3] of the pixels where `wanted` [n], 0 elsewhere, and their standard deviation over the views [n]."""
    K, n = evidence.view.shape
    used = (evidence.view >= 0) & wanted
    samples = torch.zeros(K * n, 3, device=evidence.u.device)
    views = torch.where(used, evidence.view, -1).reshape(-1)
    u, v, resolution = evidence.u.reshape(-1), evidence.v.reshape(-1), evidence.resolution.reshape(-1)
    order = torch.argsort(views, stable=True)
    counts = torch.bincount(views + 1, minlength=len(prepared) + 1).tolist()
    for s, places in enumerate(order.split(counts)[1:]):  # the first are those without a view
        if len(places):
            found = sample_view(prepared, s, u[places], v[places], resolution[places])
            samples.index_copy_(0, places, found / prepared.gains[s])
    samples = samples.view(K, n, 3)
    own = own_pixels(evidence)
    weight = torch.where(used & (own | ~own.any(0)), evidence.weight, 0.0)[..., None]
    total = weight.sum(0).clamp(min=1e-12)
    color = (weight * samples).sum(0) / total
    spread = ((weight * (samples - color).square()).sum(0) / total).mean(-1).sqrt()
    return color, spread


def own_pixels(evidence: Evidence) -> Tensor:
    """bool [K, n]: the view has the target's very line of sight, at its time: its pixel is the target's own."""
    return (evidence.view >= 0) & (evidence.cosine > 1 - SAME_SIGHT) & (evidence.gap < SAME_TIME)


def sample_view(prepared: Prepared, s: int, u: Tensor, v: Tensor, resolution: Tensor) -> Tensor:
    """Colours [n, 3] in [0, 1] of view s at pixels u, v [n]; `resolution` [n] is source pixels a target pixel."""
    width, height = prepared.views.size(s)
    picture = prepared.views.images[s, :height, :width].permute(2, 0, 1)[None].float() / 255.0
    level = resolution.clamp(min=1.0).log2().floor().clamp(max=MOST_LEVELS - 1).int()
    levels = torch.unique(level).tolist()
    place = torch.stack([u / width, v / height], -1) * 2 - 1  # what grid_sample counts in
    colors = torch.empty(len(u), 3, device=u.device)
    done = 0
    for wanted in levels:
        while done < wanted and min(picture.shape[2:]) > 1:
            picture = F.avg_pool2d(picture, 2, ceil_mode=True, count_include_pad=False)
            done += 1
        chosen = slice(None) if len(levels) == 1 else (level == wanted).nonzero()[:, 0]
        grid = _on_grid(place[chosen], (width, height), picture.shape[2:], 1 << done)
        found = F.grid_sample(picture, grid[None, None], "bicubic", "border", align_corners=False)
        colors[chosen] = found[0, :, 0].T.clamp(0.0, 1.0)
    return colors


def _on_grid(place: Tensor, size: tuple[int, int], shape: torch.Size, factor: int) -> Tensor:
    """Places in a copy of the picture whose last row and column may stand for fewer pixels than the others."""
    if factor == 1:
        return place
    scale = place.new_tensor([size[0] / (factor * shape[1]), size[1] / (factor * shape[0])])
    return (place + 1) * scale - 1


def fill(image: Tensor, known: Tensor, reach: int = FILL_REACH) -> Tensor:
    """[H, W, 3] with the pixels within `reach` of `known` [H, W] filled from it smoothly, and gray beyond.

    Push-pull: weighted means at half, quarter, ... size, then back up where nothing finer is known.
    """
    weight = known[None, None].float()
    color = image.permute(2, 0, 1)[None] * weight
    stack = [(color, weight)]
    for _ in range(FILL_LEVELS):
        if max(color.shape[2:]) < 2:
            break
        color = F.avg_pool2d(color, 2, ceil_mode=True, count_include_pad=False)
        weight = F.avg_pool2d(weight, 2, ceil_mode=True, count_include_pad=False)
        stack.append((color, weight))
    color, weight = stack[-1]
    pulled = torch.where(weight > 0, color / weight.clamp(min=1e-12), GRAY)
    for color, weight in reversed(stack[:-1]):
        up = F.interpolate(pulled, color.shape[2:], mode="bilinear", align_corners=False)
        pulled = torch.where(weight > 0, color / weight.clamp(min=1e-12), up)
    near = dilate(known, reach)
    filled = torch.where(near[..., None], pulled[0].permute(1, 2, 0), GRAY)
    return torch.where(known[..., None], image, filled)
