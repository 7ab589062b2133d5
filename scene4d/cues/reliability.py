"""How good a confidence is: calibration errors, proper scores, ranking, sparsification.

m pixels with a confidence p in [0, 1] and y, 1 where the cue was right.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import rankdata

BINS = 15
INTERVALS = 50  # of the sparsification curves
SURE = 1e-6  # probabilities are held this far from 0 and 1 in logarithms


def calibration_bins(p: np.ndarray, y: np.ndarray, equal: str = "mass", weights: np.ndarray | None = None):
    """(mean p, mean y, share) of each of 15 bins, those that are empty left out.

    equal: "mass", bins that hold as many pixels each (equal p stay together), or "width".
    """
    if equal not in ("mass", "width"):
        raise ValueError(f"equal must be mass or width, got {equal!r}")
    w = np.ones_like(p, dtype=np.float64) if weights is None else weights.astype(np.float64)
    if equal == "width":
        index = np.minimum((p * BINS).astype(int), BINS - 1)
    else:
        order = np.argsort(p, kind="stable")
        place = np.empty(len(p))
        place[order] = (np.cumsum(w[order]) - w[order] / 2) / max(w.sum(), 1e-300)
        values, inverse = np.unique(p, return_inverse=True)
        mean = np.bincount(inverse, place * w, len(values)) / np.maximum(np.bincount(inverse, w, len(values)), 1e-300)
        index = np.minimum((mean[inverse] * BINS).astype(int), BINS - 1)
    mass = np.bincount(index, w, BINS)
    full = mass > 0
    mean_p, mean_y = np.bincount(index, w * p, BINS), np.bincount(index, w * y, BINS)
    return mean_p[full] / mass[full], mean_y[full] / mass[full], mass[full] / mass.sum()


def expected_calibration_error(
    p: np.ndarray, y: np.ndarray, equal: str = "mass", weights: np.ndarray | None = None
) -> float:
    """Mean over the bins, by their share, of |mean p - mean y| (Guo et al. 2017, eq. 5)."""
    if len(p) == 0:
        return float("nan")
    mean_p, mean_y, share = calibration_bins(p, y, equal, weights)
    return float((np.abs(mean_p - mean_y) * share).sum())


def brier(p: np.ndarray, y: np.ndarray) -> float:
    """Mean squared difference (Brier 1950)."""
    return float(np.square(p - y).mean()) if len(p) else float("nan")


def log_loss(p: np.ndarray, y: np.ndarray) -> float:
    """Mean negative log likelihood in nats."""
    if len(p) == 0:
        return float("nan")
    p = np.clip(p, SURE, 1 - SURE)
    return float(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean())


def auroc(p: np.ndarray, y: np.ndarray) -> float:
    """Probability that a right pixel has more confidence than a wrong one, ties half; NaN with only one kind."""
    right = int(y.sum())
    wrong = len(y) - right
    if right == 0 or wrong == 0:
        return float("nan")
    ranks = rankdata(p)
    return float((ranks[y > 0.5].sum() - right * (right + 1) / 2) / (right * wrong))


def sparsification(confidence: np.ndarray, error: np.ndarray) -> dict[str, Any]:
    """Mean error of what is left when the least confident share is removed, and by the error itself (the oracle).

    ause: area between both curves; aurg: area between random removal and the curve; both over the mean error
    (Poggi et al. 2020). Ties in confidence are averaged.
    """
    if len(error) == 0 or float(error.mean()) <= 0:
        return {"ause": 0.0, "aurg": 0.0, "curve": [], "oracle": []}
    e = error.astype(np.float64) / error.mean()
    values, inverse = np.unique(confidence, return_inverse=True)
    tied = np.bincount(inverse, e) / np.bincount(inverse)
    by_confidence = tied[inverse][np.argsort(-confidence, kind="stable")]
    curve, oracle = _remaining(by_confidence), _remaining(np.sort(e))
    return {
        "ause": float((curve - oracle).mean()),
        "aurg": float((1 - curve).mean()),
        "curve": curve.tolist(),
        "oracle": oracle.tolist(),
    }


def _remaining(errors: np.ndarray) -> np.ndarray:
    """Mean of the first 100 %, 98 %, ... of the errors."""
    total = np.cumsum(errors)
    counts = np.maximum((len(errors) * (1 - np.arange(INTERVALS) / INTERVALS)).astype(int), 1)
    return total[counts - 1] / counts


def assess(p: np.ndarray, y: np.ndarray, error: np.ndarray) -> dict[str, Any]:
    """All of it as JSON can hold it: not a number is null."""
    y = y.astype(np.float64)
    curves = sparsification(p, error)
    numbers = {
        "pixels": len(p),
        "right": float(y.mean()) if len(y) else None,
        "ece": expected_calibration_error(p, y),
        "ece_width": expected_calibration_error(p, y, "width"),
        "brier": brier(p, y),
        "nll": log_loss(p, y),
        "auroc": auroc(p, y),
        "ause": curves["ause"],
        "aurg": curves["aurg"],
    }
    return {name: None if isinstance(x, float) and not np.isfinite(x) else x for name, x in numbers.items()}
