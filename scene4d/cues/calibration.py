"""Confidence in the cue: a model of right and wrong colours, made from the source views and stored as JSON.

In each stratum (what stands still, what moves) an L2 logistic regression on standardised features gives a score, and an
isotonic curve fitted to other frames makes a probability of it. With few labels the raw confidence is scaled instead
(Platt 1999), with next to none a fixed curve stands in, and the result is called uncalibrated.

m labelled pixels, F features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from scipy.special import expit, logit
from torch import Tensor

from scene4d.cues.features import FEATURES
from scene4d.errors import InputError
from scene4d.files.atomic import read_json, write_json

FORMAT, VERSION = "scene4d-cue-calibration", 1
STRATA = ("static", "dynamic")
RIGHT = 0.06  # mean difference of the three channels up to which a cue pixel counts as right
ENOUGH, FEW = 1000, 100  # labels a stratum: for logistic and isotonic, for Platt's scaling
RIDGE = 1.0  # L2 penalty on the coefficients, in labels
KINDS = ("isotonic", "platt", "fixed")
FIXED = (1.0, 1.5)  # scale and shift of logit(raw) where nothing could be learned
CLAMP = 1e-4  # raw confidences are held this far from 0 and 1 in logits
SPREAD = 1e-6  # features that vary less than this are left out
TAIL = 2  # labels of the other kind that are assumed at each end of the isotonic curve: nothing is certain


@dataclass(frozen=True, eq=False)
class Labels:
    """Pixels with known truth."""

    features: np.ndarray  # [m, F] float32
    raw: np.ndarray  # [m]
    error: np.ndarray  # [m] mean difference of the three channels
    dynamic: np.ndarray  # [m] bool
    frame: np.ndarray  # [m] int, which frame each came from
    weight: np.ndarray | None = None  # [m]

    @property
    def right(self) -> np.ndarray:
        return (self.error <= RIGHT).astype(np.float64)

    def subset(self, keep: np.ndarray) -> Labels:
        weight = None if self.weight is None else self.weight[keep]
        return Labels(
            self.features[keep], self.raw[keep], self.error[keep], self.dynamic[keep], self.frame[keep], weight
        )

    def digest(self) -> str:
        """sha256 of all of it."""
        sha = hashlib.sha256()
        for name in ("features", "raw", "error", "dynamic", "frame"):
            sha.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        return sha.hexdigest()


@dataclass(frozen=True)
class Stratum:
    """The model of one stratum; `kind` says which of its parts count."""

    kind: str  # of KINDS
    labels: int  # that it was made from
    mean: tuple[float, ...] = ()  # [F] of the features
    scale: tuple[float, ...] = ()  # [F] what standardised features are multiplied by
    coefficients: tuple[float, ...] = ()  # [F]
    intercept: float = 0.0
    knots_x: tuple[float, ...] = ()  # scores, increasing
    knots_y: tuple[float, ...] = ()  # probabilities, not decreasing
    platt: tuple[float, float] = FIXED  # of logit(raw): scale and shift

    def predict(self, features: np.ndarray, raw: np.ndarray) -> np.ndarray:
        """Probabilities [m]."""
        if self.kind == "isotonic":
            return np.interp(self.score(features), self.knots_x, self.knots_y)
        a, b = self.platt
        return expit(a * logit(np.clip(raw, CLAMP, 1 - CLAMP)) + b)

    def score(self, features: np.ndarray) -> np.ndarray:
        z = (features.astype(np.float64) - np.asarray(self.mean)) * np.asarray(self.scale)
        return z @ np.asarray(self.coefficients) + self.intercept


@dataclass(frozen=True)
class Calibration:
    """What makes confidences of features, and where it comes from."""

    strata: Mapping[str, Stratum]
    hashes: Mapping[str, str] = field(default_factory=dict)  # of labels and whatever else it was made from
    report: Mapping[str, Any] = field(default_factory=dict)  # how good it is, on frames that it was not made from

    @property
    def uncalibrated(self) -> tuple[str, ...]:
        """The strata whose labels were too few."""
        return tuple(name for name in STRATA if self.strata[name].kind == "fixed")

    def confidence(self, features: Tensor, raw: Tensor, dynamic: Tensor) -> Tensor:
        """Probabilities [n] that cues are right, of features [n, F], raw confidences [n] and what moves [n] bool."""
        x, r, d = (t.detach().cpu().numpy() for t in (features, raw, dynamic))
        p = np.empty(len(x))
        for name, members in (("static", ~d), ("dynamic", d)):
            if members.any():
                p[members] = self.strata[name].predict(x[members], r[members])
        return torch.from_numpy(p).to(raw)


def fit_calibration(labels: Labels, hashes: Mapping[str, str] | None = None) -> Calibration:
    """A calibration of labelled pixels: of the frames, in their order, the even ones give the scores and the odd ones
    the curves."""
    frames = np.unique(labels.frame)
    even = np.isin(labels.frame, frames[::2])
    strata = {}
    for name in STRATA:
        members = labels.dynamic == (name == "dynamic")
        strata[name] = _fit_stratum(labels.subset(members & even), labels.subset(members & ~even))
    return Calibration(strata, {"labels": labels.digest(), **(hashes or {})})


def _fit_stratum(first: Labels, second: Labels) -> Stratum:
    count = len(first.raw) + len(second.raw)
    if count < FEW:
        return Stratum("fixed", count)
    if min(len(first.raw), len(second.raw)) < ENOUGH / 2:
        both = [np.concatenate([getattr(first, n), getattr(second, n)]) for n in ("raw", "right")]
        x = logit(np.clip(both[0], CLAMP, 1 - CLAMP))[:, None]
        coefficients, intercept = fit_logistic(x, both[1], None)
        return Stratum("platt", count, platt=(float(max(coefficients[0], 0.0)), float(intercept)))
    mean, deviation = first.features.mean(0, np.float64), first.features.std(0, dtype=np.float64)
    scale = np.where(deviation > SPREAD, 1 / np.maximum(deviation, SPREAD), 0.0)
    coefficients, intercept = fit_logistic((first.features - mean) * scale, first.right, first.weight)
    shape = {"mean": mean, "scale": scale, "coefficients": coefficients}
    listed = {name: tuple(v.tolist()) for name, v in shape.items()}
    model = Stratum("isotonic", count, intercept=float(intercept), **listed)
    x, y = isotonic_curve(model.score(second.features), second.right, second.weight)
    return replace(model, knots_x=tuple(x.tolist()), knots_y=tuple(y.tolist()))


def fit_logistic(x: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> tuple[np.ndarray, float]:
    """Coefficients [F] and intercept of the logistic regression of y [m] on x [m, F] with an L2 penalty, by Newton's
    method; the intercept is not penalised."""
    design = np.concatenate([x, np.ones((len(x), 1))], 1).astype(np.float64)
    w = np.ones(len(x)) if weight is None else weight
    penalty = np.full(design.shape[1], RIDGE)
    penalty[-1] = 1e-6  # keeps the system regular where all labels agree
    beta = np.zeros(design.shape[1])

    def loss(b: np.ndarray) -> float:
        margin = design @ b
        return float((w * (np.logaddexp(0, margin) - y * margin)).sum() + 0.5 * (penalty * b * b).sum())

    best = loss(beta)
    for _ in range(50):
        p = expit(design @ beta)
        gradient = design.T @ (w * (p - y)) + penalty * beta
        hessian = (design * (w * p * (1 - p))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while size > 1e-4 and loss(beta - size * step) > best:
            size /= 2
        beta = beta - size * step
        found = loss(beta)
        if best - found < 1e-9 * max(abs(best), 1.0):
            break
        best = found
    return beta[:-1], float(beta[-1])


def isotonic_curve(score: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Knots of the non-decreasing curve nearest to the labels (pool adjacent violators): the middle score of each pool
    and its share of right pixels. Two labels of the other kind at either end keep it off 0 and 1."""
    order = np.argsort(score, kind="stable")
    x, y = score[order], y[order].astype(np.float64)
    w = np.ones(len(x)) if weight is None else weight[order]
    x = np.concatenate([x[:1], x, x[-1:]])
    y, w = np.concatenate([[1.0], y, [0.0]]), np.concatenate([[TAIL], w, [TAIL]])
    fitted = isotonic_regression(y, weights=w).x
    values, first, counts = np.unique(fitted, return_index=True, return_counts=True)
    middle = np.array([np.average(x[a : a + n], weights=w[a : a + n]) for a, n in zip(first, counts, strict=True)])
    keep = np.concatenate([[True], np.diff(middle) > 0])
    return middle[keep], values[keep]


# -- files -------------------------------------------------------------------------------------------------------------


def save_calibration(path: Path, calibration: Calibration) -> None:
    """Write a calibration as JSON. Raises InputError."""
    write_json(path, calibration_json(calibration))


def calibration_json(calibration: Calibration) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "features": list(FEATURES),
        "right_within": RIGHT,
        "uncalibrated": list(calibration.uncalibrated),
        "strata": {name: {**vars(stratum)} for name, stratum in calibration.strata.items()},
        "hashes": dict(calibration.hashes),
        "report": dict(calibration.report),
    }


def load_calibration(path: Path) -> Calibration:
    """Read a calibration. Raises InputError: it is none, of other features, or its numbers make no sense."""
    data = read_json(path)
    if data.get("format") != FORMAT or data.get("version") != VERSION:
        raise InputError(f"{path}: must be a calibration of format {FORMAT!r}, version {VERSION}")
    if data.get("features") != list(FEATURES):
        raise InputError(f"{path}: was made for other features than this version's; make it again")
    try:
        strata = {name: _parse_stratum(data["strata"][name]) for name in STRATA}
        return Calibration(strata, dict(data.get("hashes", {})), dict(data.get("report", {})))
    except (KeyError, TypeError, ValueError) as e:
        raise InputError(f"{path}: {' '.join(str(e).split())[:120]}") from e


def _parse_stratum(data: Mapping[str, Any]) -> Stratum:
    lists = {name: tuple(float(v) for v in data[name]) for name in ("mean", "scale", "coefficients")}
    knots = {name: tuple(float(v) for v in data[name]) for name in ("knots_x", "knots_y")}
    a, b = data["platt"]
    stratum = Stratum(
        kind=str(data["kind"]),
        labels=int(data["labels"]),
        intercept=float(data["intercept"]),
        platt=(float(a), float(b)),
        **lists,
        **knots,
    )
    numbers = [v for values in (*lists.values(), *knots.values(), (stratum.intercept, *stratum.platt)) for v in values]
    if stratum.kind not in KINDS or not np.isfinite(numbers).all():
        raise ValueError(f"kind must be one of {', '.join(KINDS)} and all numbers finite, got {stratum.kind!r}")
    if stratum.kind == "isotonic":
        same = {len(v) for v in lists.values()} == {len(FEATURES)} and len(stratum.knots_x) == len(stratum.knots_y) > 0
        rising = (np.diff(stratum.knots_x) > 0).all() and (np.diff(stratum.knots_y) >= 0).all()
        if not (same and rising and 0 <= min(stratum.knots_y) and max(stratum.knots_y) <= 1):
            raise ValueError("knots must increase, with probabilities from 0 to 1, one coefficient a feature")
    return stratum
