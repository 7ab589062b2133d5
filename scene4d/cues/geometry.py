"""Maps of one picture's depth that visibility rests on: bends, edges, slopes, holes filled from behind.

1/z is affine in the pixel on a plane: its second difference is 0 there, however grazing the view, and large where
depth jumps. All maps have the shape [..., H, W]; depth 0 = none.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BEND = 0.05  # second difference of 1/z, as a share of 1/z, from which a pixel lies at an edge

OF_A_SIDE = 0.02  # relative difference of depth up to which a pixel belongs to the nearest or farthest side


def inverse_depth(depth: Tensor) -> Tensor:
    """1/z, 0 where there is none."""
    seen = depth > 0
    return torch.where(seen, 1.0 / depth.masked_fill(~seen, 1.0), 0.0)


def bends(inverse: Tensor) -> Tensor:
    """Largest second difference of 1/z along rows and columns as a share of 1/z; infinite where there is no depth.

    At the border of the picture the difference across it is not known and counts as 0.
    """
    across = torch.zeros_like(inverse)
    across[..., 1:-1] = (inverse[..., 2:] - 2 * inverse[..., 1:-1] + inverse[..., :-2]).abs()
    along = torch.zeros_like(inverse)
    along[..., 1:-1, :] = (inverse[..., 2:, :] - 2 * inverse[..., 1:-1, :] + inverse[..., :-2, :]).abs()
    seen = inverse > 0
    share = torch.maximum(across, along) / inverse.masked_fill(~seen, 1.0)
    return share.masked_fill(~seen, torch.inf)


def edges(inverse: Tensor) -> Tensor:
    """bool: at a jump of depth, on either side, or without depth."""
    return bends(inverse) > BEND


def slopes(depth: Tensor, edge: Tensor) -> Tensor:
    """(largest - smallest depth of the 3x3 pixels) / depth: what half a pixel may change. 0 at edges."""
    spread = largest(depth) + largest(-depth)
    return torch.where(edge, 0.0, spread / depth.masked_fill(depth <= 0, 1.0))


def flying(depth: Tensor, edge: Tensor) -> Tensor:
    """bool: at or beside an edge, with a depth between those of both sides: of neither of them. Also where there is no
    depth.

    Estimated depth slides from one surface to the other over a pixel or two; what is as near as the nearest of its 3x3
    neighbours, or as far as the farthest, belongs to a side.
    """
    farthest, nearest = largest(depth), -largest(torch.where(depth > 0, -depth, -torch.inf))
    between = (depth > nearest * (1 + OF_A_SIDE)) & (depth < farthest * (1 - OF_A_SIDE))
    return (dilate(edge, 1) & between) | (depth <= 0)


def mended(depth: Tensor, instances: Tensor, rounds: int = 2) -> Tensor:
    """[H, W] depth whose flying pixels take that of a neighbour of their own instance: of the 3x3 pixels around them
    that do not fly, the one nearest in depth. Where there is none after `rounds`, depth stays."""
    H, W = depth.shape
    loose = flying(depth, edges(inverse_depth(depth))) & (depth > 0)
    found = depth.clone()
    for _ in range(rounds):
        rows, columns = loose.nonzero().unbind(1)
        if len(rows) == 0:
            break
        own, best = depth[rows, columns], torch.full_like(depth[rows, columns], torch.inf)
        taken = own.clone()
        for i in (-1, 0, 1):
            for j in (-1, 0, 1):
                r, c = (rows + i).clamp(0, H - 1), (columns + j).clamp(0, W - 1)
                usable = ~loose[r, c] & (found[r, c] > 0) & (instances[r, c] == instances[rows, columns])
                distance = torch.where(usable, (found[r, c] - own).abs(), torch.inf)
                taken = torch.where(distance < best, found[r, c], taken)
                best = torch.minimum(best, distance)
        found[rows, columns] = taken
        loose = loose.clone()
        loose[rows, columns] = best.isinf()
    return found


def largest(maps: Tensor, radius: int = 1) -> Tensor:
    """The largest value within `radius` pixels along rows and columns, of uint8 (on the CPU) or floats."""
    side, planes = 2 * radius + 1, maps.reshape(-1, *maps.shape[-2:])
    if maps.device.type == "cpu":  # OpenCV is ten times as fast as torch's pooling there
        kernel = np.ones((side, side), np.uint8)
        return torch.from_numpy(np.stack([cv2.dilate(plane, kernel) for plane in planes.numpy()])).reshape(maps.shape)
    across = F.max_pool2d(planes[:, None], (1, side), 1, (0, radius))
    return F.max_pool2d(across, (side, 1), 1, (radius, 0)).reshape(maps.shape)


def dilate(mask: Tensor, radius: int) -> Tensor:
    """bool: True within `radius` pixels along rows and columns (a square) of a True pixel."""
    if radius <= 0:
        return mask
    if mask.device.type == "cpu":
        return largest(mask.to(torch.uint8), radius).bool()
    return largest(mask.float(), radius) > 0.5


def nearness(mask: Tensor, reach: int) -> Tensor:
    """1 at pixels of the mask, falling to 0 in steps at `reach` pixels from it."""
    total, near = mask.float(), mask
    for _ in range(1, reach):
        near = dilate(near, 1)
        total = total + near.float()
    return total / reach


def completed(depth: Tensor, rounds: int) -> Tensor:
    """Holes (depth 0) of [H, W] filled from the farther side: each round takes the farthest of the 3x3 neighbours.

    What no round reaches stays 0.
    """
    filled = depth
    for _ in range(rounds):
        hole = filled <= 0
        if not bool(hole.any()):
            break
        filled = torch.where(hole, largest(filled), filled)
    return filled
