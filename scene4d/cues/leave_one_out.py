"""Labels without truth: each source view is predicted from others, as a target frame would be, and compared with its
picture.

So that the labels are those of the target's situation, the views nearest to the left-out one are left out too, up to
the distance at which the target's own frames have their nearest source view; what still differs in the angles between
the lines of sight is weighed.

S source views, m pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scene4d.cues.calibration import STRATA, Calibration, Labels, fit_calibration
from scene4d.cues.features import FEATURES
from scene4d.cues.frames import CueFrame, CueOptions, draft_cue, finish
from scene4d.cues.reliability import assess
from scene4d.cues.sources import Prepared
from scene4d.cues.target import TargetFrame

PIXELS = 6000  # of one view at most
HELD_OUT = 4  # every fourth view is kept from the calibration and tells how good it is
LEAST_SHARE = 4  # at least a fourth of the views stays
ANGLES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 180.0)  # degrees, borders of the bins that are weighed
MOST_WEIGHT = 5.0
SAME = 1e-4  # of the depth: cameras that are nearer to each other are at one place, whatever their poses' last digits


def nearest_baselines(prepared: Prepared, frames: Sequence[TargetFrame]) -> list[float]:
    """For each target frame the distance to its nearest source camera, over the median depth that it shows."""
    return [float(_baselines(prepared, frame).min()) for frame in frames]


def leave_one_out(
    prepared: Prepared,
    target_at: Callable[[int], TargetFrame],
    baselines: Sequence[float] = (0.0,),
    options: CueOptions | None = None,
    views: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Labels:
    """Labels of the Preserve pixels of source views.

    Args:
        target_at: geometry of source view s, as the provider of the target's geometry sees it.
        baselines: of the target, by `nearest_baselines`; the views take them in turn.
        views: which to predict. Default: all.
    """
    options = replace(options or CueOptions(), keep_features=True, temporal=False)
    rows = torch.arange(len(prepared), device=prepared.inverse.device)
    chosen = range(len(prepared)) if views is None else views
    spread = np.quantile(np.asarray(baselines), (np.arange(8) * 0.618034 + 0.31) % 1.0)  # all through the range
    parts = []
    for k, s in enumerate(chosen):
        frame = target_at(s)
        others = _others(rows, _baselines(prepared, frame), s, float(spread[k % len(spread)]))
        cue = finish(draft_cue(prepared, frame, options, None, others), options, None)
        parts.append(_labels(prepared, cue, s))
        if progress:
            progress(k + 1, len(chosen))
    return Labels(*(np.concatenate([p[i] for p in parts]) for i in range(5)))


def weighed(labels: Labels, angles: np.ndarray) -> Labels:
    """The labels with weights that give their best views' angles the distribution of `angles` [any], the target's."""
    bins = np.asarray(ANGLES)
    column = FEATURES.index("angle")

    def shares(x: np.ndarray) -> np.ndarray:
        counts = np.histogram(x, bins)[0].astype(np.float64) + 1.0
        return counts / counts.sum()

    ratio = shares(angles) / shares(labels.features[:, column])
    place = np.clip(np.digitize(labels.features[:, column], bins) - 1, 0, len(ratio) - 1)
    weight = np.clip(ratio, 1 / MOST_WEIGHT, MOST_WEIGHT)[place]
    return replace(labels, weight=weight / weight.mean())


def calibrate(labels: Labels, hashes: Mapping[str, str] | None = None) -> Calibration:
    """A calibration made from three of four views; the others tell how good it is."""
    frames, held = np.unique(labels.frame), held_out(labels)
    calibration = fit_calibration(labels.subset(~held), hashes)
    report: dict[str, Any] = {
        "labels": len(labels.raw),
        "views": len(frames),
        "held_out_views": len(frames[HELD_OUT - 1 :: HELD_OUT]),
        "held_out": assess_labels(calibration, labels.subset(held)) if held.any() else None,
    }
    return replace(calibration, report=report)


def held_out(labels: Labels) -> np.ndarray:
    """bool [m]: of the views that are kept from the calibration."""
    frames = np.unique(labels.frame)
    return np.isin(labels.frame, frames[HELD_OUT - 1 :: HELD_OUT])


def predicted(calibration: Calibration, labels: Labels) -> np.ndarray:
    """Confidences [m] of labelled pixels."""
    tensors = (torch.from_numpy(x) for x in (labels.features, labels.raw.astype(np.float64), labels.dynamic))
    return calibration.confidence(*tensors).numpy()


def assess_labels(calibration: Calibration, labels: Labels) -> dict[str, Any]:
    """Raw and calibrated confidence against labels: all, by stratum and by angle to the best view."""
    p, angle = predicted(calibration, labels), labels.features[:, FEATURES.index("angle")]
    groups = {"all": np.ones(len(p), bool)}
    groups |= {name: labels.dynamic == (name == "dynamic") for name in STRATA}
    for low, high in zip(ANGLES, ANGLES[1:], strict=False):
        groups[f"{low:g}-{high:g} degrees"] = (angle >= low) & (angle < high)
    found = {}
    for name, members in groups.items():
        if members.any():
            y, e = labels.right[members], labels.error[members]
            found[name] = {"raw": assess(labels.raw[members], y, e), "calibrated": assess(p[members], y, e)}
    return found


def _baselines(prepared: Prepared, frame: TargetFrame) -> Tensor:
    """[S] distances from the frame's camera to the source cameras, over the median depth that it shows."""
    shown = frame.depth[frame.covered]
    scale = float(shown.median()) if shown.numel() else 1.0
    return (prepared.centers - frame.camera.centers.to(prepared.centers)).norm(dim=1) / max(scale, 1e-9)


def _others(rows: Tensor, distance: Tensor, s: int, least: float) -> Tensor:
    """The views to predict view s from: not itself, and none nearer than `least`; at least a fourth of all."""
    keep = (distance >= least * (1 - 1e-6) - SAME) & (rows != s)
    fewest = max(2, len(rows) // LEAST_SHARE)
    if int(keep.sum()) < min(fewest, len(rows) - 1):
        farthest = distance.masked_fill(rows == s, -1.0).topk(min(fewest, len(rows) - 1)).indices
        return rows[farthest.sort().values]
    return rows[keep]


def _labels(prepared: Prepared, cue: CueFrame, s: int) -> tuple[np.ndarray, ...]:
    """Features, raw confidence, error, whether moving, and s, of some Preserve pixels of view s."""
    width, height = prepared.views.size(s)
    picture = prepared.views.images[s, :height, :width].float() / 255.0 / prepared.gains[s]
    good = cue.observed
    if prepared.views.valid is not None:
        good = good & prepared.views.valid[s, :height, :width]
    places = good.reshape(-1).nonzero()[:, 0]
    if len(places) > PIXELS:
        places = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(s))[:PIXELS]]
    error = (cue.image - picture).abs().mean(-1).reshape(-1)[places]
    assert cue.features is not None
    features = cue.features.reshape(-1, cue.features.shape[-1])[places]
    raw, moving = cue.raw_confidence.reshape(-1)[places], cue.moving.reshape(-1)[places]
    arrays = [x.cpu().numpy() for x in (features, raw, error, moving)]
    return (*arrays, np.full(len(places), s))
