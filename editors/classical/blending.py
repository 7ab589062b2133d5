"""Renders whose colours join those of the cue beside them.

Along the seam both are known on the cue's side: their difference there is continued into the render and added. It dies
out with the distance from the seam, so that a wide part keeps its look in the middle.

H W pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from editors.classical.sheets import spread
from scene4d.cues.geometry import dilate

RING = 3  # pixels beside the seam that are compared
REACH = 24.0  # pixels from the seam over which the correction falls by e
MOST = 0.15  # a larger difference is a fault of the geometry, not of the light


def joined(image: Tensor, render: Tensor, fill: Tensor, fixed: Tensor, trust: Tensor) -> Tensor:
    """`image` [H, W, 3], which is `render` where `fill` [H, W], matched there to its pixels where `fixed` [H, W].

    These count by their `trust` [H, W].
    """
    step = image - render
    beside = dilate(fill, RING) & fixed & (step.abs().amax(-1) <= MOST)
    weight = torch.where(beside, trust, 0.0)
    if not bool((weight > 0).any()):
        return image
    smooth = spread(step, weight / weight.max())
    distance = cv2.distanceTransform((weight <= 0).numpy().astype(np.uint8), cv2.DIST_L2, 5)
    fade = torch.from_numpy(np.exp(-distance / REACH).astype(np.float32))
    matched = (render + smooth * fade[..., None]).clamp(0, 1)
    return torch.where(fill[..., None], matched, image)
