"""Image metrics against closed forms, slow loops and published values."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from scene4d.errors import InputError
from scene4d.metrics import images, moving, perceptual
from scene4d.weights import MissingWeightsError

DATA = os.environ.get("SCENE4D_TEST_DATA")
WEIGHTS = Path(DATA or ".") / "lpips" / "lpips_alex_v0.1.npz"
needs_weights = pytest.mark.skipif(not (DATA and WEIGHTS.is_file()), reason="needs SCENE4D_TEST_DATA with lpips/")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape))


# -- PSNR


def test_psnr_of_a_constant_error_is_its_decibels() -> None:
    truth = noise(2, 12, 14, 3) * 0.5
    error = torch.tensor([0.1, 0.01], dtype=torch.float64).view(2, 1, 1, 1)
    assert torch.allclose(images.psnr(truth + error, truth), torch.tensor([20.0, 40.0], dtype=torch.float64))


def test_masked_psnr_does_not_see_what_is_outside_not_even_nan() -> None:
    truth, mask = noise(12, 14, 3), torch.zeros(12, 14, dtype=torch.bool)
    mask[3:5, 2:9] = True
    image = torch.where(mask[..., None], truth + 0.1, torch.nan).requires_grad_()
    score = images.psnr(image, truth, mask)
    score.backward()
    assert float(score.detach()) == pytest.approx(20.0) and image.grad is not None and image.grad.isfinite().all()


def test_equal_images_have_infinite_psnr_ssim_one_and_an_empty_mask_gives_nan() -> None:
    truth, empty = noise(12, 14, 3), torch.zeros(12, 14, dtype=torch.bool)
    assert images.psnr(truth, truth) == math.inf
    assert float(images.ssim(truth, truth)) == pytest.approx(1.0)
    assert images.psnr(truth, truth, empty).isnan() and images.ssim(truth, truth, empty).isnan()


# -- SSIM


def slow_ssim_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Wang et al. 2004, equations 13 to 16, window by window; one channel, windows inside the image."""
    offset = np.arange(11) - 5
    window = np.exp(-(offset[:, None] ** 2 + offset[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    result = np.empty((x.shape[0] - 10, x.shape[1] - 10))
    for i in range(result.shape[0]):
        for j in range(result.shape[1]):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            cov = (window * (a - mean_a) * (b - mean_b)).sum()
            c1, c2 = 0.01**2, 0.03**2
            upper = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
            result[i, j] = upper / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return result


@pytest.mark.parametrize("padding", ["valid", "zeros"])
def test_ssim_is_the_slow_loop_over_windows(padding: images.Padding) -> None:
    x = noise(17, 21, 3, seed=1)
    y = (0.7 * x + 0.3 * noise(17, 21, 3, seed=2)).numpy()
    pad = ((5, 5), (5, 5)) if padding == "zeros" else ((0, 0), (0, 0))
    slow = np.stack([slow_ssim_map(np.pad(x.numpy()[..., c], pad), np.pad(y[..., c], pad)) for c in range(3)], -1)
    fast = images.ssim_map(x, torch.from_numpy(y), padding)
    np.testing.assert_allclose(fast.numpy(), slow, rtol=0, atol=1e-11)  # differences of squares in float64
    assert float(images.ssim(x, torch.from_numpy(y), padding=padding)) == pytest.approx(slow.mean(), abs=1e-11)
    mask = noise(17, 21, seed=3) > 0.5
    seen = mask.numpy() if padding == "zeros" else mask.numpy()[5:-5, 5:-5]
    masked = images.ssim(x, torch.from_numpy(y), mask, padding)
    assert float(masked) == pytest.approx(slow.mean(-1)[seen].mean(), abs=1e-11)


def test_ssim_treats_each_picture_of_a_batch_by_itself() -> None:
    x, y = noise(2, 3, 13, 12, 3, seed=4), noise(2, 3, 13, 12, 3, seed=5)
    one_by_one = [[float(images.ssim(x[i, j], y[i, j])) for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(images.ssim(x, y).numpy(), one_by_one, atol=1e-12)


@pytest.mark.parametrize("padding", ["valid", "zeros"])
def test_gradient_of_ssim_is_that_of_finite_differences(padding: images.Padding) -> None:
    x = noise(12, 13, 3, seed=6).requires_grad_()
    y = noise(12, 13, 3, seed=7)
    assert torch.autograd.gradcheck(lambda a: images.ssim(a, y, padding=padding), x, fast_mode=True)


@pytest.mark.parametrize(
    ("image", "truth", "mask", "rule"),
    [
        ((12, 12), (12, 12), None, "image must have shape"),
        ((12, 12, 3), (12, 13, 3), None, "truth must have the image's shape"),
        ((12, 12, 3), (12, 12, 3), (12, 12, 1), "mask must be bool"),
        ((10, 12, 3), (10, 12, 3), None, "at least 11 pixels"),
    ],
)
def test_what_does_not_fit_is_refused(image: tuple, truth: tuple, mask: tuple | None, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        images.ssim(torch.zeros(image), torch.zeros(truth), None if mask is None else torch.ones(mask) > 0)


# -- LPIPS


def example(name: str) -> Tensor:
    with Image.open(WEIGHTS.parent / f"ex_{name}.png") as picture:
        return torch.from_numpy(np.asarray(picture.convert("RGB"), np.float32) / 255)


@needs_weights
def test_lpips_gives_the_two_published_values() -> None:
    weights, truth = perceptual.load_lpips(WEIGHTS), example("ref")
    scores = perceptual.lpips(torch.stack([example("p0"), example("p1")]), truth.expand(2, -1, -1, -1), weights)
    assert scores.tolist() == pytest.approx([0.722, 0.138], abs=5e-4)  # published to three digits
    assert float(perceptual.lpips(truth, truth, weights)) == 0


@needs_weights
def test_lpips_is_found_in_the_folders_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENE4D_WEIGHTS", str(WEIGHTS.parents[1]))
    assert torch.equal(perceptual.load_lpips().heads[4], perceptual.load_lpips(WEIGHTS).heads[4])


@needs_weights
def test_lpips_has_a_gradient_that_is_finite_everywhere_and_right_where_checked() -> None:
    weights = perceptual.load_lpips(WEIGHTS).to("cpu", torch.float64)
    truth = example("ref").double()[:33, :35]
    black = torch.zeros_like(truth).requires_grad_()
    perceptual.lpips(black, truth, weights).backward()
    assert black.grad is not None and black.grad.isfinite().all()
    x = example("p0").double()[:33, :35].requires_grad_()
    assert torch.autograd.gradcheck(lambda a: perceptual.lpips(a, truth, weights), x, fast_mode=True, atol=1e-4)


@needs_weights
def test_masked_lpips_of_a_local_change_is_large_around_it_and_nearly_nothing_far_away() -> None:
    weights, truth = perceptual.load_lpips(WEIGHTS), noise(128, 256, 3, seed=8).float()
    image, near = truth.clone(), torch.zeros(128, 256, dtype=torch.bool)
    image[40:80, 20:60] = 0.5
    near[40:80, 20:60] = True
    far = torch.zeros_like(near)
    far[:, 240:] = True  # beyond the receptive field of 195 pixels
    assert float(perceptual.lpips(image, truth, weights, near)) > 0.3
    assert float(perceptual.lpips(image, truth, weights, far)) < 1e-6
    whole = torch.ones_like(near)
    unmasked = float(perceptual.lpips(image, truth, weights))
    assert float(perceptual.lpips(image, truth, weights, whole)) == pytest.approx(unmasked, rel=0.1)


def test_missing_and_wrong_weights_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENE4D_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingWeightsError, match=r"lpips_alex_v0\.1\.npz"):
        perceptual.load_lpips()
    with pytest.raises(MissingWeightsError, match="mine.npz"):
        perceptual.load_lpips(tmp_path / "mine.npz")
    (tmp_path / "mine.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="no readable"):
        perceptual.load_lpips(tmp_path / "mine.npz")
    np.savez(tmp_path / "mine.npz", **{"conv0.weight": np.zeros((64, 3, 11, 10), np.float32)})
    with pytest.raises(InputError, match=r"conv0\.weight must be finite float32 \[64, 3, 11, 11\], is float32"):
        perceptual.load_lpips(tmp_path / "mine.npz")
    np.savez(tmp_path / "mine.npz", **{"conv0.weight": np.array([print], object)})
    with pytest.raises(InputError, match="no readable"):
        perceptual.load_lpips(tmp_path / "mine.npz")


# -- moving region


@pytest.mark.parametrize("count", [1, 4, 5])
def test_temporal_median_is_that_of_numpy_in_chunks_too(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = noise(count, 7, 5, 3, seed=9)
    monkeypatch.setattr(moving, "CHUNK", count * 5 * 3 * 2)  # two rows at a time
    np.testing.assert_allclose(moving.temporal_median(frames).numpy(), np.median(frames.numpy(), 0), atol=1e-15)


def test_moving_region_is_the_slow_loop() -> None:
    frames = noise(5, 20, 24, 3, seed=10) * 0.08 + 0.3
    frames[1, 14, 3, 0] = 0.0  # darker counts as well
    frames[2, 6, 7, 1] = 0.9
    frames[3, 0, 23, 2] = 0.9
    frames[4, 10, 10] += 0.02
    median = np.median(frames.numpy(), 0)
    expected = np.zeros((5, 20, 24), bool)
    for t in range(5):
        for i in range(20):
            for j in range(24):
                if np.abs(frames.numpy()[t, i, j] - median[i, j]).max() > 0.1:
                    expected[t, max(0, i - 2) : i + 3, max(0, j - 2) : j + 3] = True
    assert expected.sum() == 25 + 9 + 25
    assert np.array_equal(moving.moving_mask(frames).numpy(), expected)
    assert np.array_equal(moving.moving_mask(frames[2:3], torch.from_numpy(median)).numpy(), expected[2:3])
