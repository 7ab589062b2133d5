"""Calibration and its metrics against closed forms, other implementations and made-up data whose truth is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit

from scene4d.cues import leave_one_out
from scene4d.cues.calibration import (
    Calibration,
    Labels,
    Stratum,
    fit_calibration,
    fit_logistic,
    isotonic_curve,
    load_calibration,
    save_calibration,
)
from scene4d.cues.drawing import reliability_picture
from scene4d.cues.features import FEATURES
from scene4d.cues.leave_one_out import calibrate, held_out, predicted, weighed
from scene4d.cues.reliability import (
    assess,
    auroc,
    brier,
    calibration_bins,
    expected_calibration_error,
    log_loss,
    sparsification,
)
from scene4d.errors import InputError

F = len(FEATURES)


def made_up(m: int, seed: int = 0, frames: int = 12) -> tuple[Labels, np.ndarray]:
    """Labels whose probability of being right is known; the raw confidence is a wrong function of it."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(m, F)).astype(np.float32)
    p = expit(2.0 + x[:, 0] * 1.2 - x[:, 3] * 0.7)
    right = random.uniform(size=m) < p
    error = np.where(right, random.uniform(0.0, 0.06, m), random.uniform(0.061, 0.4, m))
    return Labels(x, p**4 * 0.6, error, random.uniform(size=m) < 0.3, random.integers(0, frames, m)), p


def test_equal_mass_error_of_a_biased_confidence_is_its_bias() -> None:
    p = np.repeat([0.2, 0.6, 0.9], 1000)
    y = np.concatenate([np.arange(1000) < 1000 * q for q in (0.3, 0.7, 1.0)]).astype(float)
    for equal in ("mass", "width"):
        assert expected_calibration_error(p, y, equal) == pytest.approx(0.1, abs=1e-12)
    assert expected_calibration_error(y, y) == 0.0


def test_bins_of_equal_mass_hold_as_many_and_ties_stay_together() -> None:
    random = np.random.default_rng(0)
    p = random.uniform(size=15_000) ** 8
    shares = calibration_bins(p, np.ones_like(p), "mass")[2]
    assert len(shares) == 15 and shares.max() - shares.min() < 1e-3
    tied = np.concatenate([np.full(1000, 0.99), random.uniform(size=500) * 0.5])
    mean_p, _, shares = calibration_bins(tied, np.ones_like(tied), "mass")
    assert shares[-1] == pytest.approx(2 / 3) and mean_p[-1] == pytest.approx(0.99)


def test_scores_of_single_pixels_are_their_definitions() -> None:
    p, y = np.array([0.8, 0.3]), np.array([1.0, 0.0])
    assert brier(p, y) == pytest.approx((0.04 + 0.09) / 2)
    assert log_loss(p, y) == pytest.approx(-(np.log(0.8) + np.log(0.7)) / 2)
    assert auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1.0])) == pytest.approx(0.75)
    assert auroc(np.array([0.5, 0.5]), y) == 0.5


def test_sparsification_by_the_error_itself_is_the_oracle_and_chance_gains_nothing() -> None:
    random = np.random.default_rng(1)
    error = random.exponential(size=20_000)
    assert sparsification(-error, error)["ause"] == pytest.approx(0.0, abs=1e-9)
    chance = sparsification(random.uniform(size=20_000), error)
    assert abs(chance["aurg"]) < 0.02 and chance["ause"] > 0.3
    constant = sparsification(np.ones(20_000), error)
    assert constant["aurg"] == pytest.approx(0.0, abs=1e-9)
    # exponential errors: what is left below the quantile 1 - s has the mean 1 + s ln(s) / (1 - s)
    s = np.arange(1, 50) / 50
    np.testing.assert_allclose(constant["oracle"][1:], 1 + s * np.log(s) / (1 - s), atol=0.03)


def test_logistic_regression_finds_the_minimum_that_a_general_optimiser_finds() -> None:
    random = np.random.default_rng(2)
    x = random.normal(size=(400, 3))
    y = (random.uniform(size=400) < expit(x @ [1.0, -2.0, 0.0] + 0.5)).astype(float)
    w = random.uniform(0.5, 2.0, 400)

    def loss(b: np.ndarray) -> float:
        margin = x @ b[:3] + b[3]
        return float((w * (np.logaddexp(0, margin) - y * margin)).sum() + 0.5 * (b[:3] ** 2).sum())

    coefficients, intercept = fit_logistic(x, y, w)
    expected = minimize(loss, np.zeros(4), tol=1e-12).x
    np.testing.assert_allclose([*coefficients, intercept], expected, atol=1e-4)


def test_logistic_regression_of_labels_that_all_agree_stays_finite() -> None:
    coefficients, intercept = fit_logistic(np.random.default_rng(0).normal(size=(50, 2)), np.ones(50), None)
    assert np.isfinite(coefficients).all() and np.isfinite(intercept) and intercept > 1


def test_isotonic_curve_never_falls_and_is_never_certain() -> None:
    random = np.random.default_rng(3)
    score = random.normal(size=3000)
    y = (random.uniform(size=3000) < expit(2 * score)).astype(float)
    x, p = isotonic_curve(score, y, None)
    assert (np.diff(x) > 0).all() and (np.diff(p) >= 0).all()
    assert 0 < p[0] and p[-1] < 1
    assert np.abs(np.interp(score, x, p) - expit(2 * score)).mean() < 0.03


def test_calibration_recovers_known_probabilities_and_raw_confidence_does_not() -> None:
    labels, _ = made_up(40_000)
    calibration = calibrate(labels, {"scene": "abc"})
    fresh, p = made_up(20_000, seed=9)
    found = predicted(calibration, fresh)
    assert np.abs(found - p).mean() < 0.02
    assert expected_calibration_error(found, fresh.right) < 0.015
    assert expected_calibration_error(fresh.raw, fresh.right) > 0.2
    assert calibration.uncalibrated == () and calibration.hashes["scene"] == "abc"


def test_strata_are_calibrated_apart() -> None:
    labels, _ = made_up(20_000)
    opposite = np.where(labels.dynamic, 0.5 - labels.error.clip(0, 0.5), labels.error)  # what moves is mostly wrong
    labels = Labels(labels.features, labels.raw, opposite, labels.dynamic, labels.frame)
    found = predicted(calibrate(labels), labels)
    for moving in (False, True):
        members = labels.dynamic == moving
        assert found[members].mean() == pytest.approx(labels.right[members].mean(), abs=0.02)


def test_few_labels_are_scaled_and_next_to_none_are_called_uncalibrated() -> None:
    kinds = {m: fit_calibration(made_up(m)[0]).strata["static"].kind for m in (60, 600, 6000)}
    assert kinds == {60: "fixed", 600: "platt", 6000: "isotonic"}
    assert fit_calibration(made_up(60)[0]).uncalibrated == ("static", "dynamic")
    labels, _ = made_up(900)
    found = predicted(fit_calibration(labels), labels)
    assert expected_calibration_error(found, labels.right) < expected_calibration_error(labels.raw, labels.right) / 3


def test_views_that_tell_how_good_it_is_did_not_make_it() -> None:
    labels, _ = made_up(20_000)
    held = held_out(labels)
    spoiled = Labels(labels.features, labels.raw, np.where(held, 1.0, labels.error), labels.dynamic, labels.frame)
    assert calibrate(labels).strata == calibrate(spoiled).strata
    report = calibrate(spoiled).report["held_out"]["all"]["calibrated"]
    assert report["right"] == 0.0 and report["ece"] > 0.5


def test_weights_give_labels_the_angles_of_the_target() -> None:
    labels, _ = made_up(20_000)
    column = FEATURES.index("angle")
    labels.features[:, column] = np.random.default_rng(0).uniform(0, 30, 20_000)
    found = weighed(labels, np.random.default_rng(1).uniform(0, 8, 5000))
    assert found.weight is not None and found.weight.mean() == pytest.approx(1.0)
    near = labels.features[:, column] < 8
    assert found.weight[near].sum() > 5 * found.weight[~near].sum() * (near.sum() / (~near).sum())


def test_stored_calibration_is_the_same_and_names_its_data(tmp_path: Path) -> None:
    labels, _ = made_up(8000)
    calibration = calibrate(labels, {"scene": "12"})
    save_calibration(tmp_path / "c.json", calibration)
    again = load_calibration(tmp_path / "c.json")
    assert again.strata == calibration.strata and again.hashes == {"labels": labels_hash(labels), "scene": "12"}
    x = torch.from_numpy(labels.features[:50])
    raw, moving = torch.from_numpy(labels.raw[:50]), torch.from_numpy(labels.dynamic[:50])
    assert torch.equal(again.confidence(x, raw, moving), calibration.confidence(x, raw, moving))


def labels_hash(labels: Labels) -> str:
    return labels.subset(~held_out(labels)).digest()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": "x"}, "must be a calibration of format"),
        ({"version": 9}, "must be a calibration of format"),
        ({"features": ["angle"]}, "was made for other features"),
        ({"strata": {}}, "static"),
    ],
)
def test_file_that_is_no_calibration_is_refused(tmp_path: Path, change: dict, complaint: str) -> None:
    save_calibration(tmp_path / "c.json", calibrate(made_up(3000)[0]))
    data = json.loads((tmp_path / "c.json").read_text())
    (tmp_path / "c.json").write_text(json.dumps(data | change))
    with pytest.raises(InputError, match=complaint):
        load_calibration(tmp_path / "c.json")


@pytest.mark.parametrize("value", [float("1e999"), 2.0, -0.5])
def test_probabilities_that_are_none_are_refused(tmp_path: Path, value: float) -> None:
    save_calibration(tmp_path / "c.json", calibrate(made_up(6000)[0]))
    data = json.loads((tmp_path / "c.json").read_text())
    data["strata"]["static"]["knots_y"][-1] = value
    (tmp_path / "c.json").write_text(json.dumps(data))
    with pytest.raises(InputError):
        load_calibration(tmp_path / "c.json")


def test_assessment_is_plain_json() -> None:
    found = assess(np.ones(5), np.ones(5), np.zeros(5))
    assert found["auroc"] is None and json.loads(json.dumps(found, allow_nan=False))["ece"] == 0.0


def test_reliability_picture_has_three_diagrams_and_draws_both_curves() -> None:
    labels, p = made_up(3000)
    picture = reliability_picture(labels, p)
    assert picture.dtype == np.uint8 and picture.shape[1] == 3 * picture.shape[0]
    for color in ((226, 120, 80), (110, 190, 250)):
        assert (np.abs(picture.astype(int) - color).sum(-1) < 20).sum() > 300


def test_fixed_curve_rises_with_the_raw_confidence() -> None:
    stratum = Stratum("fixed", 0)
    p = stratum.predict(np.zeros((3, F)), np.array([0.1, 0.5, 0.9]))
    assert (np.diff(p) > 0).all()
    calibration = Calibration({"static": stratum, "dynamic": stratum})
    assert calibration.uncalibrated == ("static", "dynamic")


def test_neighbours_at_the_targets_own_place_stay_though_poses_differ_in_their_last_digits() -> None:
    rows, distance = torch.arange(5), torch.tensor([0.0, 3e-8, 0.0, 0.5, 0.6])
    assert leave_one_out._others(rows, distance, 0, 5e-8).tolist() == [1, 2, 3, 4]
    assert leave_one_out._others(rows, distance, 0, 0.4).tolist() == [3, 4]
