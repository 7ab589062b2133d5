"""What stands still in the pictures of a camera that stands still, and where something else is in front of it.

T frames, H W pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from scene4d.captures import View
from scene4d.fitting.flows import sample
from scene4d.fitting.footage import Footage
from scene4d.fitting.hull import inside, large_parts, project, silhouette_votes, visual_hull

WINDOW = 8  # frames in which a background shows itself once
BLUR = 1.5  # pixels; a single quiet pixel is chance
MOVED = 0.08  # of a channel's range; above the noise and the shadows of ordinary video
MOST_FRAMES = 150  # of a camera, for the background
AGREEING = 3  # cameras from which on a mask must agree with the others
HULL_CELLS = 6000  # of a frame, for that
MOSTLY = 0.6  # of a hole's pixels
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
    total, squares = frames[:window].sum(0), frames[:window].square().sum(0)
    for first in range(T - window + 1):
        if first:  # the window moves on by a frame
            gone, come = frames[first - 1], frames[first + window - 1]
            total = total + come - gone
            squares = squares + come.square() - gone.square()
        mean = total / window
        variance = (squares / window - mean.square()).sum(-1).clamp_min_(0)
        smooth = torch.from_numpy(cv2.GaussianBlur(variance.numpy(), (0, 0), BLUR))
        better = smooth < best
        best = torch.where(better, smooth, best)
        background = torch.where(better[..., None], mean, background)
    return background.clamp_(0, 1)


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
    """Motion masks for the views that have no mask and whose camera has a background.

    Where several cameras see a frame, only what they agree on in space is kept: shadows and reflections differ.
    """
    for view in footage.views:
        if view.camera in backgrounds and footage.instances(view) is None:
            mask = moving_parts(footage.image(view), backgrounds[view.camera])
            valid = footage.valid(view)
            footage.motion_masks[view.key] = mask if valid is None else mask & valid
    for frame in footage.frames:
        views = [v for v in footage.at(frame) if v.key in footage.motion_masks]
        if len(views) >= AGREEING:
            _keep_agreed(footage, views)


def _keep_agreed(footage: Footage, views: list[View]) -> None:
    """Drop the parts of masks that no large part of the visual hull falls on; fill holes that the others deny."""
    cameras = [footage.capture.cameras([v]) for v in views]
    masks = [footage.motion_masks[v.key] for v in views]
    cells, side = visual_hull(cameras, masks, HULL_CELLS)
    if not len(cells):
        return
    cells = cells[large_parts(cells, side)]
    _, hits = silhouette_votes(cameras, masks, cells)
    for view, camera, mask in zip(views, cameras, masks, strict=True):
        uv, z = project(camera, cells)
        shown = inside(camera, uv, z)
        if not bool(shown.any()):
            continue
        reach = max(1, round(0.5 * side * float(camera.K[0, 0, 0]) / float(z[shown].median())))
        agreed = _marked(uv[shown], reach + 2, view)
        off = shown & ~(sample(mask.float(), uv, "nearest") > 0.5)
        others = off & (hits >= AGREEING)  # all other cameras have it, this one takes it for background
        filled = _holes(mask & agreed, _marked(uv[others], reach, view))
        footage.motion_masks[view.key] = (mask & agreed) | filled


def _holes(mask: Tensor, denied: Tensor) -> Tensor:
    """Bool [H, W]: what the mask encloses, if most of it is `denied`: the other cameras say that something is there."""
    closed = cv2.morphologyEx(mask.numpy().astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    count, parts = cv2.connectedComponents((closed == 0).astype(np.uint8), connectivity=4)
    area = np.bincount(parts.reshape(-1), minlength=count)
    agreed = np.bincount(parts.reshape(-1), weights=denied.numpy().reshape(-1), minlength=count)
    outside = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    hole = agreed > MOSTLY * area
    hole[outside] = hole[0] = False
    return torch.from_numpy((hole[parts] | (closed > 0)) & ~mask.numpy())


def _marked(uv: Tensor, reach: int, view: View) -> Tensor:
    """Bool [H, W]: within `reach` pixels of one of the pixels [n, 2]."""
    mark = np.zeros((view.height, view.width), np.uint8)
    x, y = uv.long().T.numpy()
    mark[y, x] = 1
    return torch.from_numpy(cv2.dilate(mark, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) > 0)
