"""What stands still in the pictures of a camera that stands still, and where something else is in front of it.

T frames, H W pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from scene4d.fitting.footage import Footage

WINDOW = 8  # frames in which a background shows itself once
BLUR = 1.5  # pixels; a single quiet pixel is chance
MOVED = 0.08  # of a channel's range; above the noise and the shadows of ordinary video
MOST_FRAMES = 150  # of a camera, for the background
LEAST_AREA = 25  # pixels; smaller spots are noise


def stable_background(frames: Tensor) -> Tensor:
    """What each pixel showed while it changed least, [T, H, W, 3] in [0, 1] -> [H, W, 3].

    The mean over the window of frames with the smallest variance. A temporal median takes the person who stays where he
    is for half of the time for background; but bodies are never as quiet as walls.
    """
    T = len(frames)
    window = min(WINDOW, max(2, T // 2))
    if T < 3:
        return frames.mean(0)
    best = torch.full(frames.shape[1:3], torch.inf)
    background = torch.zeros_like(frames[0])
    for first in range(T - window + 1):
        part = frames[first : first + window]
        mean = part.mean(0)
        variance = (part - mean).square().mean((0, -1))
        smooth = torch.from_numpy(cv2.GaussianBlur(variance.numpy(), (0, 0), BLUR))
        better = smooth < best
        best = torch.where(better, smooth, best)
        background = torch.where(better[..., None], mean, background)
    return background


def moving_parts(image: Tensor, background: Tensor) -> Tensor:
    """Bool [H, W]: where an image [H, W, 3] differs from the background, without specks and small holes."""
    change = (image - background).abs().amax(-1).numpy()
    mask = (cv2.GaussianBlur(change, (0, 0), 0.7) > MOVED).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    count, areas, stats, _ = cv2.connectedComponentsWithStats(mask)
    small = np.flatnonzero(stats[:count, cv2.CC_STAT_AREA] < LEAST_AREA)
    mask[np.isin(areas, small)] = 0
    return torch.from_numpy(mask > 0)


def find_backgrounds(footage: Footage) -> dict[str, Tensor]:
    """The background of every camera that stands still and has at least three training frames."""
    found = {}
    for name in footage.camera_names:
        views = footage.of_camera(name)
        if footage.capture.is_static(name) and len(views) >= 3:
            picked = views[:: max(1, -(-len(views) // MOST_FRAMES))]
            found[name] = stable_background(torch.stack([footage.image(v) for v in picked]))
    return found


def add_motion_masks(footage: Footage, backgrounds: dict[str, Tensor]) -> None:
    """Motion masks for the views that have no mask and whose camera has a background."""
    for view in footage.views:
        if view.camera in backgrounds and footage.instances(view) is None:
            mask = moving_parts(footage.image(view), backgrounds[view.camera])
            valid = footage.valid(view)
            footage.motion_masks[view.key] = mask if valid is None else mask & valid
