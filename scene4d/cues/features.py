"""What is known of a Preserve pixel's cue without knowing the truth: the features that confidence is made of.

n pixels, F features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scene4d.cues.appearance import own_pixels
from scene4d.cues.evidence import Evidence
from scene4d.cues.geometry import edges, inverse_depth, nearness
from scene4d.cues.target import TargetFrame

FEATURES = (
    "difference",  # of depth in the best view, as a share of what is allowed
    "views",  # log(1 + V)
    "color_spread",  # log of the standard deviation of the colours over the best views
    "angle",  # degrees between the lines of sight to the best view
    "source_edge",  # 1 at a jump of the best view's depth, 0 away from one and for the target's own pixel
    "target_edge",  # the same of the target's depth
    "weight",  # log of the sum of the weights
    "alpha",  # of the rendered target
    "resolution",  # log2 of source pixels a target pixel, best view
    "gap",  # seconds to the best view's picture
    "cycle",  # log(1 + pixels between a pixel and where its source pixel's depth puts it back)
    "texture",  # log of the gradient of the cue's brightness
    "misplaced",  # texture times cycle: the change of colour to expect, log
)
TARGET_REACH = 4  # pixels
FLOOR = 1e-3  # in logarithms of colours: an 8-bit step is 4e-3


def feature_maps(frame: TargetFrame, evidence: Evidence, cue: Tensor, spread: Tensor, known: Tensor) -> Tensor:
    """[n, F] in the order of FEATURES, of `cue` [n, 3] colours, `spread` [n] over views, `known` [n] where there is
    one."""
    shape = frame.depth.shape
    texture = _gradient(cue.mean(-1).reshape(shape), known.reshape(shape)).reshape(-1)
    # a pixel at an outline mixes both sides; its own picture mixes them alike
    target_edge = nearness(edges(inverse_depth(frame.depth)), TARGET_REACH).reshape(-1) * ~own_pixels(evidence).any(0)
    angle = torch.rad2deg(torch.acos(evidence.cosine[0].clamp(-1, 1)))
    columns = (
        evidence.share[0].clamp(max=4),
        torch.log1p(evidence.count.float()),
        torch.log(spread + FLOOR),
        angle,
        evidence.edge[0],
        target_edge,
        torch.log(evidence.total.clamp(min=1e-6)),
        frame.alpha.reshape(-1),
        torch.log2(evidence.resolution[0].clamp(1 / 64, 64)),
        evidence.gap[0].clamp(max=60),
        torch.log1p(evidence.cycle[0].clamp(max=1e3)),
        torch.log(texture + FLOOR),
        torch.log(texture * evidence.cycle[0].clamp(max=1e3) + FLOOR),
    )
    return torch.stack([x.float() for x in columns], -1)


def raw_confidence(evidence: Evidence) -> Tensor:
    """[n] 1 - product of 1 - weight: what the kernels say before they are calibrated."""
    return 1 - evidence.missed


def _gradient(gray: Tensor, known: Tensor) -> Tensor:
    """Length of the gradient a pixel, from neighbours that are both known; 0 elsewhere."""
    planes = gray[None, None]
    weight = known[None, None].float()
    right = (planes[..., 2:] - planes[..., :-2]) / 2 * weight[..., 2:] * weight[..., :-2]
    down = (planes[..., 2:, :] - planes[..., :-2, :]) / 2 * weight[..., 2:, :] * weight[..., :-2, :]
    total = F.pad(right, (1, 1)).square() + F.pad(down, (0, 0, 1, 1)).square()
    return total.sqrt()[0, 0]
