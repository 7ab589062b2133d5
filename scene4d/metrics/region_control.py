"""Whether the camera and the edited things are where they were asked to be, found in the pictures themselves.

Cameras: SIFT features of the true picture, placed in space by its depth, are found again in the output; their pose is
solved by PnP with RANSAC. Things: the true picture of the thing is looked for in the output by masked normalised
cross-correlation. Neither uses flow, point clouds or anything that editors are conditioned on.

T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from scene4d.metrics.region_types import Frames, Score, measured, skipped, unit

SIDE = 640  # pixels: smaller pictures are enlarged, SIFT finds little in small ones
CONTRAST = 0.01  # SIFT's threshold; its default of 0.04 finds nothing on smooth surfaces
RATIO = 0.8  # of the best to the second best match, Lowe 2004 section 7.1
MIN_MATCHES = 12  # inliers below which a pose is not believed
REPROJECTION = 1.5  # pixels of the enlarged picture
MIN_PIXELS = 40  # of a thing, to be looked for
FOUND = 0.6  # correlation from which a thing counts as found
MIN_CONTRAST = 0.02  # standard deviation of a thing's brightness: below, correlation is noise


def camera_errors(
    output: Frames, truth: Frames, depth: Tensor, still: Tensor, K: Tensor
) -> tuple[Score, Score]:  # degrees; of the median depth
    """Mean turn and shift between the asked camera and the one that the output seems to be taken with.

    Args:
        depth: [T, H, W] z of the true picture.
        still: [T, H, W] bool, pixels of the truth whose features are used: what edits and motion do not touch.
        K: [T, 3, 3].

    Frames in which fewer than 12 features agree are left out; if all are, there is no score.
    """
    turns, shifts = [], []
    for t in range(len(output)):
        found = _relative_pose(unit(output[t]), unit(truth[t]), depth[t], still[t], K[t])
        if found is not None:
            turns.append(found[0])
            shifts.append(found[1])
    if not turns:
        reason = skipped(f"in no frame do {MIN_MATCHES} features agree on a camera")
        return reason, reason
    return measured(float(np.mean(turns)), len(turns)), measured(float(np.mean(shifts)), len(shifts))


def _relative_pose(image: Tensor, truth: Tensor, depth: Tensor, still: Tensor, K: Tensor) -> tuple[float, float] | None:
    scale = max(1.0, SIDE / max(depth.shape))
    there = still & (depth > 0)
    if int(there.sum()) < MIN_PIXELS:
        return None
    mask = _enlarged(there.numpy().astype(np.uint8) * 255, scale, cv2.INTER_NEAREST)
    sift = cv2.SIFT.create(contrastThreshold=CONTRAST)
    keys, features = sift.detectAndCompute(_gray(truth, scale), mask)
    other_keys, other_features = sift.detectAndCompute(_gray(image, scale), None)
    if features is None or other_features is None or min(len(features), len(other_features)) < MIN_MATCHES:
        return None
    pairs = cv2.BFMatcher().knnMatch(features, other_features, k=2)
    pairs = [p[0] for p in pairs if len(p) == 2 and p[0].distance < RATIO * p[1].distance]
    if len(pairs) < MIN_MATCHES:
        return None
    at = np.array([keys[p.queryIdx].pt for p in pairs])
    to = np.array([other_keys[p.trainIdx].pt for p in pairs])
    at, to = (at + 0.5) / scale, (to + 0.5) / scale  # OpenCV counts from the first pixel's centre
    rows, columns = np.clip(at[:, 1].astype(int), 0, None), np.clip(at[:, 0].astype(int), 0, None)
    z = depth.numpy()[rows.clip(max=depth.shape[0] - 1), columns.clip(max=depth.shape[1] - 1)].astype(np.float64)
    good = z > 0
    if good.sum() < MIN_MATCHES:
        return None
    return _solve(at[good], to[good], z[good], K.double().numpy(), REPROJECTION / scale)


def _solve(at: np.ndarray, to: np.ndarray, z: np.ndarray, K: np.ndarray, limit: float) -> tuple[float, float] | None:
    rays = np.concatenate([at, np.ones((len(at), 1))], 1) @ np.linalg.inv(K).T
    points = np.ascontiguousarray(rays * z[:, None])
    cv2.setRNGSeed(0)
    options = {"iterationsCount": 500, "reprojectionError": limit, "flags": cv2.SOLVEPNP_SQPNP}
    solved, turn, shift, inliers = cv2.solvePnPRansac(points, np.ascontiguousarray(to), K, None, **options)
    if not solved or inliers is None or len(inliers) < MIN_MATCHES:
        return None
    best = inliers[:, 0]
    turn, shift = cv2.solvePnPRefineLM(points[best], np.ascontiguousarray(to[best]), K, None, turn, shift)
    center = np.linalg.norm(shift)  # the distance of the two centres, whatever the turn
    return float(np.degrees(np.linalg.norm(turn))), float(center / np.median(z))


def object_errors(output: Frames, truth: Frames, ids: Tensor, wanted: Sequence[int]) -> tuple[Score, Score]:
    """Mean distance in pixels between where things are and should be, and the share of times that they were found.

    A thing is asked for in every frame in which the truth shows at least 40 pixels of it that are not of one colour. It
    counts as found where the correlation is at least 0.6; what is not found has no distance.
    """
    distances, asked = [], 0
    for t in range(len(output)):
        for instance in wanted:
            mask = (ids[t] == instance).numpy()
            if mask.sum() < MIN_PIXELS:
                continue
            offset = _offset(_gray(unit(output[t]), 1.0), _gray(unit(truth[t]), 1.0), mask)
            if offset is None:
                continue
            asked += 1
            if offset[2] >= FOUND:
                distances.append(float(np.hypot(offset[0], offset[1])))
    if not asked:
        reason = skipped("the edit places nothing that is large enough to be found")
        return reason, reason
    share = measured(len(distances) / asked, asked)
    if not distances:
        return skipped("nothing that the edit placed was found"), share
    return measured(float(np.mean(distances)), len(distances)), share


def _offset(image: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> tuple[float, float, float] | None:
    """Columns and rows from the true place of a thing to where it is found, and the correlation there."""
    if truth[mask].std() < MIN_CONTRAST * 255:
        return None
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    top, left = rows[0], columns[0]
    cut = (slice(top, rows[-1] + 1), slice(left, columns[-1] + 1))
    height, width = mask.shape
    # room for a thing that is half outside; the padding repeats the border
    pad_y, pad_x = (rows[-1] + 1 - top) // 2, (columns[-1] + 1 - left) // 2
    space = cv2.copyMakeBorder(image, pad_y, pad_y, pad_x, pad_x, cv2.BORDER_REPLICATE).astype(np.float32)
    inside = mask[cut].astype(np.float32)
    scores = cv2.matchTemplate(space, truth[cut].astype(np.float32), cv2.TM_CCOEFF_NORMED, mask=inside)
    scores = np.where(np.isfinite(scores) & (np.abs(scores) <= 1.001), scores, -1.0)
    y, x = np.unravel_index(int(scores.argmax()), scores.shape)
    dx = _peak(scores[y], int(x)) - pad_x - left
    dy = _peak(scores[:, x], int(y)) - pad_y - top
    return float(dx), float(dy), float(scores[y, x])


def _peak(values: np.ndarray, at: int) -> float:
    """Where the parabola through the largest value and its neighbours is highest."""
    if not 0 < at < len(values) - 1:
        return float(at)
    before, best, after = (float(v) for v in values[at - 1 : at + 2])
    bend = before - 2 * best + after
    return at + (0.5 * (before - after) / bend if bend < 0 else 0.0)


def _gray(image: Tensor, scale: float) -> np.ndarray:
    """uint8 [H, W], enlarged."""
    shown = (image.clamp(0, 1) * 255.0).round().to(torch.uint8).numpy()
    return _enlarged(cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY), scale, cv2.INTER_CUBIC)


def _enlarged(image: np.ndarray, scale: float, how: int) -> np.ndarray:
    return image if scale == 1.0 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=how)
