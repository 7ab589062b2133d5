"""The photometric loss: against its formula written as loops, the metric it is made of, and its two backends."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from renderers.photometric import photometric_loss
from scene4d.metrics.images import ssim_map

BACKENDS = ("torch", "cpu")
SIZES = [
    (1, 1),
    (5, 7),
    (11, 11),
    (1, 40),
    (40, 1),
    (23, 67),
    (37, 256),
    (12, 257),
    (9, 530),
]  # a strip has 256 columns


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def pictures(H: int, W: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Image and truth [H, W, 3] that resemble each other, weights [H, W] of which about a third is 0."""
    g = torch.Generator().manual_seed(H * 1000 + W)
    image = torch.rand(H, W, 3, generator=g, dtype=dtype)
    truth = (image + 0.2 * torch.randn(H, W, 3, generator=g, dtype=dtype)).clamp(0, 1)
    weights = torch.rand(H, W, generator=g, dtype=dtype) * (torch.rand(H, W, generator=g, dtype=dtype) > 0.3)
    weights[0, 0] = 0.5  # some weight in the smallest picture
    return image, truth, weights


def value_and_gradient(
    image: Tensor, truth: Tensor, weights: Tensor | None, ssim_weight: float, backend: str
) -> tuple[Tensor, Tensor]:
    leaf = image.detach().clone().requires_grad_()
    loss = photometric_loss(leaf, truth, weights, ssim_weight, backend)
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


def loop_loss(image: Tensor, truth: Tensor, weights: Tensor, ssim_weight: float) -> float:
    """Wang et al. 2004, equations 13 to 16, one window at a time; variances as means of squared deviations."""
    H, W, _ = image.shape
    bell = {(i, j): math.exp(-(i * i + j * j) / (2 * 1.5**2)) for i in range(-5, 6) for j in range(-5, 6)}
    whole, total = sum(bell.values()), 0.0
    for row in range(H):
        for column in range(W):
            for k in range(3):
                samples = []
                for (i, j), share in bell.items():
                    at = (row + i, column + j, k)
                    inside = 0 <= at[0] < H and 0 <= at[1] < W
                    samples.append((share / whole, *((image[at].item(), truth[at].item()) if inside else (0.0, 0.0))))
                x, y = sum(s * a for s, a, _ in samples), sum(s * b for s, _, b in samples)
                var_x, var_y = (
                    sum(s * (a - x) ** 2 for s, a, _ in samples),
                    sum(s * (b - y) ** 2 for s, _, b in samples),
                )
                cov = sum(s * (a - x) * (b - y) for s, a, b in samples)
                ssim = (2 * x * y + 1e-4) * (2 * cov + 9e-4) / ((x * x + y * y + 1e-4) * (var_x + var_y + 9e-4))
                difference = abs(image[row, column, k] - truth[row, column, k]).item()
                total += weights[row, column].item() * ((1 - ssim_weight) * difference + ssim_weight * (1 - ssim))
    return total / (3 * weights.sum().item())


@pytest.mark.parametrize("backend", BACKENDS)
def test_loss_is_the_formula_of_the_paper_summed_in_loops(backend: str) -> None:
    image, truth, weights = pictures(8, 13)
    loss = photometric_loss(image, truth, weights, 0.3, backend)
    assert loss.item() == pytest.approx(loop_loss(image, truth, weights, 0.3), abs=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("H", "W"), SIZES)
def test_structural_part_is_the_metric_with_zero_padding(H: int, W: int, backend: str) -> None:
    """Sums of up to 1e4 terms near 1 in float64."""
    image, truth, weights = pictures(H, W)
    expected = 1 - ssim_map(image, truth, "zeros")
    assert photometric_loss(image, truth, None, 1.0, backend).item() == pytest.approx(expected.mean().item(), abs=1e-12)
    weighted = (weights[..., None] * expected).sum() / (3 * weights.sum())
    assert photometric_loss(image, truth, weights, 1.0, backend).item() == pytest.approx(weighted.item(), abs=1e-12)


@pytest.mark.parametrize("ssim_weight", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("H", "W"), SIZES)
def test_kernel_agrees_with_the_definition_in_float64(H: int, W: int, weighted: bool, ssim_weight: float) -> None:
    image, truth, weights = pictures(H, W)
    inputs = (image, truth, weights if weighted else None, ssim_weight)
    expected, got = value_and_gradient(*inputs, "torch"), value_and_gradient(*inputs, "cpu")
    torch.testing.assert_close(got[0], expected[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(got[1], expected[1], rtol=0, atol=1e-12 * expected[1].abs().max().item())


@pytest.mark.parametrize("weighted", [False, True])
def test_float32_kernel_is_within_rounding_of_the_float64_definition(weighted: bool) -> None:
    """A variance is a difference of means of size 1 (error 1e-7), over C2 = 9e-4 at least: 1e-4 where it is 0."""
    image, truth, weights = pictures(90, 300)
    inputs = (image, truth, weights if weighted else None)
    expected = value_and_gradient(*inputs, 0.2, "torch")
    single = [x if x is None else x.float() for x in inputs]
    got = value_and_gradient(single[0], single[1], single[2], 0.2, "cpu")  # type: ignore[arg-type]
    assert got[0].item() == pytest.approx(expected[0].item(), rel=1e-6)
    assert (got[1] - expected[1]).abs().max() < 1e-4 * expected[1].abs().max()


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_is_that_of_finite_differences(backend: str) -> None:
    image, truth, weights = pictures(7, 9)
    image.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: photometric_loss(x, truth, weights, 0.4, backend), image)


@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_images_cost_nothing_and_pull_nowhere(backend: str) -> None:
    """Of rounding there remains 1e-16 over B1 B2 >= 9e-8 in the slopes."""
    image, _, weights = pictures(20, 30)
    loss, gradient = value_and_gradient(image, image.clone(), weights, 0.2, backend)
    assert abs(loss.item()) < 1e-14
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("backend", BACKENDS)
def test_flat_images_have_the_closed_form_far_from_the_border(backend: str) -> None:
    """No variance: SSIM is its luminance term. One pixel with weight, whose window lies inside."""
    image, truth = (torch.full((21, 25, 3), level, dtype=torch.float64) for level in (0.6, 0.2))
    weights = torch.zeros(21, 25, dtype=torch.float64)
    weights[10, 12] = 3.0
    ssim = (2 * 0.12 + 1e-4) / (0.36 + 0.04 + 1e-4)
    loss, gradient = value_and_gradient(image, truth, weights, 0.2, backend)
    assert loss.item() == pytest.approx(0.8 * 0.4 + 0.2 * (1 - ssim), abs=1e-12)
    seen = torch.zeros(21, 25, dtype=torch.bool)
    seen[5:16, 7:18] = True
    assert torch.equal(gradient.abs().sum(-1) > 0, seen)  # the window, and no pixel more


@pytest.mark.parametrize("backend", BACKENDS)
def test_loss_does_not_depend_on_the_scale_of_the_weights(backend: str) -> None:
    image, truth, weights = pictures(20, 30)
    a = value_and_gradient(image, truth, weights, 0.2, backend)
    b = value_and_gradient(image, truth, 7 * weights, 0.2, backend)
    torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("backend", BACKENDS)
def test_loss_without_any_weight_is_0_with_a_gradient_of_0(backend: str) -> None:
    image, truth, weights = pictures(6, 8)
    loss, gradient = value_and_gradient(image, truth, 0 * weights, 0.2, backend)
    assert loss.item() == 0
    assert not gradient.any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("which", ["image", "truth"])
def test_nan_that_no_window_with_weight_reaches_changes_nothing(which: str, backend: str) -> None:
    image, truth, weights = pictures(20, 40)
    weights[:, 25:] = 0
    clean = value_and_gradient(image, truth, weights, 0.2, backend)
    (image if which == "image" else truth)[:, 30:] = torch.nan  # 5 columns further
    torch.testing.assert_close(value_and_gradient(image, truth, weights, 0.2, backend), clean, rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("ssim_weight", [0.0, 0.2])
def test_nan_shows_in_the_loss_and_in_the_gradient_of_all_windows_that_see_it(ssim_weight: float, backend: str) -> None:
    """The gradient of |NaN| is 0, as it is in torch."""
    image, truth, _ = pictures(30, 40)
    image[14, 15, 1] = torch.nan
    loss, gradient = value_and_gradient(image, truth, None, ssim_weight, backend)
    expected = torch.zeros(30, 40, 3, dtype=torch.bool)
    if ssim_weight:
        expected[4:25, 5:26, 1] = True  # a window's edge and another one
    assert loss.isnan()
    assert torch.equal(gradient.isnan(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_result_is_bit_identical_for_any_number_of_threads(
    dtype: torch.dtype, set_threads: Callable[[int], None]
) -> None:
    """Three strips, and with eight threads three bands of rows."""
    image, truth, weights = pictures(61, 530, dtype)
    results = []
    for threads in (1, 2, 3, 8):
        set_threads(threads)
        results.append(value_and_gradient(image, truth, weights, 0.2, "cpu"))
    for loss, gradient in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("ssim_weight", [0.0, 0.2])
def test_loss_without_a_gradient_is_the_same_number(ssim_weight: float, set_threads: Callable[[int], None]) -> None:
    image, truth, weights = pictures(61, 530)
    set_threads(4)  # bands: rows beside one are not needed without a gradient
    expected, _ = value_and_gradient(image, truth, weights, ssim_weight, "cpu")
    assert torch.equal(photometric_loss(image, truth, weights, ssim_weight, "cpu"), expected)
    with torch.no_grad():
        assert not photometric_loss(image.requires_grad_(), truth, weights, ssim_weight, "cpu").requires_grad


def test_views_that_are_not_contiguous_give_the_result_of_their_copies() -> None:
    image, truth, weights = pictures(24, 36)
    views = (image.transpose(0, 1), truth.flip(1).transpose(0, 1), weights.transpose(0, 1))
    leaf = image.clone().requires_grad_()
    loss = photometric_loss(leaf.transpose(0, 1), views[1], views[2], 0.2, "cpu")
    copies = [x.contiguous() for x in views]
    expected, gradient = value_and_gradient(copies[0], copies[1], copies[2], 0.2, "cpu")
    assert torch.equal(loss.detach(), expected)
    assert torch.equal(torch.autograd.grad(loss, leaf)[0], gradient.transpose(0, 1))


def test_gradient_is_multiplied_by_what_comes_from_above_each_time_it_is_asked_for() -> None:
    image, truth, weights = pictures(12, 15)
    _, gradient = value_and_gradient(image, truth, weights, 0.2, "cpu")
    image.requires_grad_()
    loss = -2.5 * photometric_loss(image, truth, weights, 0.2, "cpu")
    for _ in range(2):
        torch.testing.assert_close(torch.autograd.grad(loss, image, retain_graph=True)[0], -2.5 * gradient)


def test_inputs_are_left_as_they_are() -> None:
    inputs = pictures(30, 31)
    copies = [x.clone() for x in inputs]
    value_and_gradient(*inputs, 0.2, "cpu")
    assert all(torch.equal(a, b) for a, b in zip(inputs, copies, strict=True))


GOOD = {"image": torch.zeros(4, 5, 3), "truth": torch.zeros(4, 5, 3), "weights": torch.ones(4, 5), "ssim_weight": 0.2}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image", torch.zeros(4, 5), r"image must have shape \[H, W, 3\] and pixels, got \[4, 5\]"),
        ("image", torch.zeros(4, 5, 4), r"image must have shape"),
        ("image", torch.zeros(0, 5, 3), r"image must have shape .* got \[0, 5, 3\]"),
        ("image", torch.zeros(4, 5, 3, dtype=torch.uint8), r"image must be a float32 or float64 .* got torch.uint8"),
        ("image", None, r"image must be .* got NoneType"),
        ("truth", torch.zeros(5, 4, 3), r"truth must have shape \[4, 5, 3\], got \[5, 4, 3\]"),
        ("truth", torch.zeros(4, 5, 3).double(), r"truth must be torch.float32"),
        ("truth", torch.zeros(4, 5, 3, requires_grad=True), r"truth must not require a gradient"),
        ("weights", torch.ones(4, 5, 1), r"weights must have shape \[4, 5\], got \[4, 5, 1\]"),
        ("weights", torch.ones(4, 5, dtype=torch.bool), r"weights must be torch.float32"),
        ("weights", torch.full((4, 5), -1.0), r"weights must be >= 0, got -1"),
        ("weights", torch.full((4, 5), torch.nan), r"weights must be >= 0, got nan"),
        ("weights", torch.ones(4, 5, requires_grad=True), r"weights must not require a gradient"),
        ("ssim_weight", 1.5, r"ssim_weight must be from 0 to 1, got 1.5"),
        ("ssim_weight", math.nan, r"ssim_weight must be from 0 to 1, got nan"),
        ("backend", "gpu", r"backend must be auto or one of torch, cpu, got 'gpu'"),
    ],
)
def test_bad_input_is_refused_by_name(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        photometric_loss(**{**GOOD, name: value})  # type: ignore[arg-type]


def test_kernel_refuses_tensors_that_are_not_on_the_cpu() -> None:
    image = torch.zeros(4, 5, 3, device="meta")
    with pytest.raises(ValueError, match="image must be on the CPU for backend 'cpu', got meta"):
        photometric_loss(image, torch.zeros_like(image), backend="cpu")
