"""Errors of regions against planted ones of known size."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from scene4d.metrics import images, perceptual
from scene4d.metrics.region_errors import drift, ghost, pooled_psnr, region_lpips, region_ssim
from scene4d.metrics.region_types import METRICS, RegionClip, Score

DATA = os.environ.get("SCENE4D_TEST_DATA")
WEIGHTS = Path(DATA or ".") / "lpips" / "lpips_alex_v0.1.npz"
needs_weights = pytest.mark.skipif(not (DATA and WEIGHTS.is_file()), reason="needs SCENE4D_TEST_DATA with lpips/")
T, H, W = 5, 24, 32


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape)).float()


def box_mask(frames: int = T) -> Tensor:
    mask = torch.zeros(frames, H, W, dtype=torch.bool)
    mask[:, 6:18, 8:20] = True
    return mask


def test_psnr_pools_pixels_of_all_frames_and_sees_nothing_outside() -> None:
    truth, mask = 0.5 * noise(T, H, W, 3), box_mask()
    mask[3:] = False
    output = truth + 0.4
    output[0][mask[0]] = truth[0][mask[0]] + 0.1
    output[1:3][mask[1:3]] = truth[1:3][mask[1:3]] + 0.01
    found = pooled_psnr(output, truth, mask)
    assert found.value == pytest.approx(-10 * math.log10((0.1**2 + 2 * 0.01**2) / 3), abs=1e-4)
    assert found.count == 3 * 12 * 12


def test_psnr_of_equal_files_is_100_and_of_one_step_of_8_bits_is_48() -> None:
    truth = (noise(T, H, W, 3) * 200).to(torch.uint8)
    assert pooled_psnr(truth, truth, box_mask()).value == 100.0
    assert pooled_psnr(truth + 1, truth, box_mask()).value == pytest.approx(20 * math.log10(255), abs=1e-4)


@pytest.mark.parametrize("measure", [pooled_psnr, region_ssim, drift])
def test_empty_region_is_skipped_with_a_reason_and_is_no_zero(measure) -> None:
    truth = noise(T, H, W, 3)
    found = measure(truth + 0.1, truth, torch.zeros(T, H, W, dtype=torch.bool))
    assert found.value is None and "no pixel" in found.skipped
    assert found.as_json() == {"skipped": found.skipped}


def test_score_is_a_number_or_a_reason() -> None:
    for bad in ((None, 0, ""), (1.0, 1, "why"), (math.nan, 1, ""), (math.inf, 1, "")):
        with pytest.raises(ValueError, match="must be"):
            Score(*bad)


def test_ssim_of_a_region_is_one_where_only_the_outside_is_wrong() -> None:
    truth, mask = noise(T, H, W, 3), box_mask()
    output = torch.where(mask[..., None], truth, 1 - truth)
    assert region_ssim(output, truth, mask).value == pytest.approx(1.0, abs=1e-6)
    inside = torch.where(mask[..., None], 1 - truth, truth)
    assert region_ssim(inside, truth, mask).value < 0.3


def test_ssim_of_a_region_is_that_of_the_whole_filled_picture() -> None:
    truth, mask = noise(T, H, W, 3), box_mask()
    mask[:, 0:3, 0:4] = True  # at a corner, where windows reach over the picture's border
    output = (truth + 0.3 * noise(T, H, W, 3, seed=1)).clamp(0, 1)
    filled = torch.where(mask[..., None], output, truth)
    maps = images.ssim_map(filled, truth, "zeros").mean(-1)
    assert region_ssim(output, truth, mask).value == pytest.approx(float(maps[mask].mean()), abs=1e-6)
    lone = box_mask()
    filled = torch.where(lone[..., None], output, truth)
    maps = images.ssim_map(filled, truth, "zeros").mean(-1)
    assert region_ssim(output, truth, lone).value == pytest.approx(float(maps[lone].mean()), abs=1e-6)


@needs_weights
def test_lpips_of_a_region_sees_it_alone_and_weighs_frames_by_their_pixels() -> None:
    weights = perceptual.load_lpips(WEIGHTS)
    truth, mask = noise(3, 64, 80, 3), torch.zeros(3, 64, 80, dtype=torch.bool)
    mask[0, 20:40, 30:50], mask[1, 20:30, 30:50] = True, True
    outside = torch.where(mask[..., None], truth, 1 - truth)
    assert region_lpips(outside, truth, mask, weights).value == pytest.approx(0.0, abs=1e-6)
    worse = torch.where(mask[..., None], 1 - truth, truth)
    parts = [region_lpips(worse[t : t + 1], truth[t : t + 1], mask[t : t + 1], weights) for t in range(2)]
    expected = (400 * parts[0].value + 200 * parts[1].value) / 600
    assert region_lpips(worse, truth, mask, weights).value == pytest.approx(expected, rel=1e-5) and expected > 0.03


def test_lpips_of_tiny_pictures_is_skipped() -> None:
    tiny = noise(1, 20, 20, 3)
    weights = perceptual.LpipsWeights((), (), ())
    assert "smaller than 31" in region_lpips(tiny, tiny, torch.ones(1, 20, 20, dtype=torch.bool), weights).skipped


@pytest.mark.parametrize("slope", [0.02, 0.0, -0.01])
def test_planted_drift_is_its_slope_in_ten_frames(slope: float) -> None:
    truth, mask = 0.4 * noise(T, H, W, 3), box_mask()
    error = 0.1 + slope * torch.arange(T).view(T, 1, 1, 1)
    output = torch.where(mask[..., None], truth + error, truth + 0.6)
    assert drift(output, truth, mask).value == pytest.approx(10 * slope, abs=1e-5)


def test_drift_counts_frames_by_their_place_in_time() -> None:
    truth, mask = 0.4 * noise(7, H, W, 3), box_mask(7)
    mask[[1, 2, 4]] = False
    output = truth + 0.03 * torch.arange(7).view(7, 1, 1, 1)
    assert drift(output, truth, mask).value == pytest.approx(0.3, abs=1e-5)
    mask[3:] = False
    assert "1 frames" in drift(output, truth, mask).skipped


def test_planted_ghost_has_its_share() -> None:
    """60 of the 144 pixels show what was removed; half of the region cannot tell, as nothing changed there."""
    truth, mask = torch.full((T, H, W, 3), 0.3), box_mask()
    stale = truth.clone()
    stale[:, 6:18, 8:14] = 0.9
    output = truth.clone()
    output[:, 6:11, 8:14] = 0.9  # 5 of 12 rows
    output[:, 0:4] = 0.9  # outside the region
    found = ghost(output, truth, stale, mask)
    assert found.value == pytest.approx(5 / 12) and found.count == T * 12 * 6


@pytest.mark.parametrize(("share", "is_ghost"), [(0.49, False), (0.53, False), (0.56, True), (1.0, True)])
def test_ghost_needs_a_margin_of_a_twentieth(share: float, is_ghost: bool) -> None:
    """Between truth 0.2 and stale 0.8: distances 0.6 s and 0.6 (1 - s) differ by 0.05 at s = 0.5417."""
    truth, mask = torch.full((1, H, W, 3), 0.2), box_mask(1)
    stale = torch.full((1, H, W, 3), 0.8)
    assert ghost(truth + share * (stale - truth), truth, stale, mask).value == float(is_ghost)


def test_ghost_is_skipped_where_nothing_stood() -> None:
    truth, mask = noise(1, H, W, 3), box_mask(1)
    assert "before" in ghost(truth, truth, truth + 0.04, mask).skipped
    assert "no pixel" in ghost(truth, truth, truth, mask & False).skipped


def test_goodness_points_the_right_way() -> None:
    assert METRICS["preserve.psnr"].goodness(30) > METRICS["preserve.psnr"].goodness(20)
    assert METRICS["reveal.ghost"].goodness(0.0) > METRICS["reveal.ghost"].goodness(0.5)
    seam = METRICS["reveal.seam"]
    assert seam.goodness(1.0) > max(seam.goodness(1.6), seam.goodness(0.6)) and seam.goodness(1.0) == 0


def test_clip_of_wrong_shapes_is_refused() -> None:
    roles, scored = torch.zeros(T, H, W, dtype=torch.uint8), torch.ones(T, H, W, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"output must have shape \[5, 24, 32, 3\], got \[5, 24, 30, 3\]"):
        RegionClip(noise(T, H, 30, 3), None, roles, scored)
    with pytest.raises(ValueError, match="scored must be bool"):
        RegionClip(noise(T, H, W, 3), None, roles, scored.float())
    with pytest.raises(ValueError, match="roles must be at most 3, got 7"):
        RegionClip(noise(T, H, W, 3), None, roles + 7, scored)
