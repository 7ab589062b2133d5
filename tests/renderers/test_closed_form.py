"""Values of `rasterize` from the equations, written again here in plain numpy.

Float64 throughout. TOLERANCE covers rounding only: some 1e3 operations on numbers of order 1 to 1e2, eps 2e-16.
A column is a 1x1 image that looks at the centres of all its Gaussians, so that each alpha is the bare opacity.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from scipy.special import expit, logit, sph_harm_y

from renderers import Gaussians, RasterOptions
from tests.renderers.scenes import (
    BACKENDS,
    DEFAULTS,
    Scene,
    pinhole,
    random_gaussians,
    random_scene,
    render,
    small_motion,
)

TOLERANCE = 1e-9
pytestmark = pytest.mark.parametrize("backend", BACKENDS)


def tensor(values: object) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.float64))


def column(depths: list[float], opacities: list[float], colors: list[list[float]] | None = None) -> Scene:
    """Gaussians on the axis of a 1x1 camera. `features` is the identity: the feature map holds the weights."""
    N = len(depths)
    gaussians = Gaussians(
        tensor([[0, 0, z] for z in depths]),
        tensor([[1, 0, 0, 0]] * N),
        tensor(np.full((N, 3), -2.0)),
        tensor(logit(opacities)),
        colors=tensor(np.eye(max(N, 3))[:N, :3] if colors is None else colors),
    )
    return Scene(gaussians, pinhole(1, 1, 10.0), features=tensor(np.eye(N)))


def weights(scene: Scene, backend: str, options: RasterOptions = DEFAULTS) -> np.ndarray:
    features = render(scene, backend, options).features
    assert features is not None
    return features[0, 0, 0].numpy()


# --- One Gaussian ------------------------------------------------------------------------------------------------


def one_gaussian(mean: list[float], sigma: float, opacity: float) -> tuple[Scene, np.ndarray]:
    """An isotropic Gaussian at `mean` in the coordinates of a turned camera, with fx != fy; and its K."""
    pose = small_motion(np.random.default_rng(1), angle=2.0, shift=3.0)
    R, t = pose[:3, :3], pose[:3, 3]
    gaussians = Gaussians(
        (R.mT @ (tensor(mean) - t))[None],
        tensor([[0.3, -0.2, 0.9, 0.5]]),
        torch.full((1, 3), float(np.log(sigma)), dtype=torch.float64),
        tensor([logit(opacity)]),
        colors=tensor([[0.2, 1.7, -0.4]]),
    )
    K = np.array([[40.0, 0, 11.3], [0, 50, 8.9], [0, 0, 1]])
    cameras = replace(pinhole(24, 17, 1.0, pose[None]), K=tensor(K)[None])
    return Scene(gaussians, cameras, tensor([[3.0, -2.0]]), tensor([[0.1, 0.5, 0.9]])), K


def isotropic_alpha(mean: list[float], sigma: float, opacity: float, K: np.ndarray, antialiased: bool, clamp: bool):
    """EWA: cov2d = sigma^2 J J^T + 0.3 I on the 24x17 image of `one_gaussian`; alpha [17, 24]."""
    x, y, z = mean
    (fx, _, cx), (_, fy, cy), _ = K
    tx, ty = x / z, y / z
    if clamp:  # the slope in J goes no farther than 15 % of the field of view past the edge of the image
        tx = np.clip(tx, (-cx - 0.15 * 24) / fx, (24 - cx + 0.15 * 24) / fx)
        ty = np.clip(ty, (-cy - 0.15 * 17) / fy, (17 - cy + 0.15 * 17) / fy)
    J = np.array([[fx / z, 0, -fx * tx / z], [0, fy / z, -fy * ty / z]])
    sharp = sigma**2 * J @ J.T
    cov = sharp + 0.3 * np.eye(2)
    if antialiased:
        opacity *= np.sqrt(np.linalg.det(sharp) / np.linalg.det(cov))
    columns, rows = np.meshgrid(np.arange(24) + 0.5, np.arange(17) + 0.5)
    d = np.stack([columns - (fx * x / z + cx), rows - (fy * y / z + cy)], -1)
    alpha = opacity * np.exp(-0.5 * np.einsum("hwi,ij,hwj->hw", d, np.linalg.inv(cov), d))
    return np.where(alpha >= 1 / 255, np.minimum(alpha, 0.999), 0)


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("sigma", [0.002, 0.15, 5.0])  # thinner than a pixel, some pixels wide, wider than the image
def test_one_gaussian_follows_the_ewa_equations(backend: str, sigma: float, antialiased: bool) -> None:
    mean, color = [0.31, -0.17, 3.0], np.array([0.2, 1.7, -0.4])
    scene, K = one_gaussian(mean, sigma, 0.8)
    got = render(scene, backend, RasterOptions(antialiased=antialiased))
    alpha = isotropic_alpha(mean, sigma, 0.8, K, antialiased, clamp=False)
    assert (alpha > 0).any() or (antialiased and sigma < 0.01)
    assert got.features is not None
    np.testing.assert_allclose(got.alpha[0], alpha, atol=TOLERANCE)
    background = (1 - alpha[..., None]) * [0.1, 0.5, 0.9]
    np.testing.assert_allclose(got.image[0], alpha[..., None] * color + background, atol=TOLERANCE)
    np.testing.assert_allclose(got.depth[0], np.where(alpha > 0, 3.0, 0.0), atol=TOLERANCE)
    np.testing.assert_allclose(got.features[0], alpha[..., None] * [3.0, -2.0], atol=TOLERANCE)


# The image ends at slopes of -0.28 and 0.32 (x), -0.18 and 0.16 (y); J stops at -0.37, 0.41 and -0.23, 0.21.
@pytest.mark.parametrize(
    ("slope", "beyond"),
    [
        ((0.4, 0.0), False),
        ((0.0, -0.22), False),
        ((-0.7, 0.0), True),
        ((0.9, 0.0), True),
        ((0.0, -0.5), True),
        ((0.0, 0.6), True),
    ],
)
def test_slope_in_the_jacobian_stops_15_percent_beyond_the_image(
    backend: str, slope: tuple[float, float], beyond: bool
) -> None:
    mean = [3 * slope[0], 3 * slope[1], 3.0]
    scene, K = one_gaussian(mean, 0.7, 0.9)
    got = render(scene, backend).alpha[0].numpy()
    clamped, exact = (isotropic_alpha(mean, 0.7, 0.9, K, antialiased=False, clamp=c) for c in (True, False))
    np.testing.assert_allclose(got, clamped, atol=TOLERANCE)
    assert clamped.max() > 0.01 and (np.abs(clamped - exact).max() > 1e-3) == beyond


def test_one_contribution_is_capped_at_max_alpha_and_the_cap_has_no_gradient(backend: str) -> None:
    for options, cap in ((RasterOptions(), 0.999), (RasterOptions(max_alpha=0.7), 0.7)):
        scene = column([2.0], [1 - 1e-12], [[1.0, 0.5, 0.0]]).with_leaves()
        got = render(scene, backend, options)
        assert got.alpha.item() == pytest.approx(cap, abs=TOLERANCE)
        got.image.sum().backward()
        assert scene.gaussians.logit_opacities.grad is not None and scene.gaussians.logit_opacities.grad.item() == 0


def test_gradient_of_a_bare_opacity_is_that_of_the_sigmoid(backend: str) -> None:
    scene = column([2.0], [0.3], [[2.0, 0.0, 0.0]]).with_leaves()
    render(scene, backend).image.sum().backward()
    assert scene.gaussians.logit_opacities.grad is not None and scene.gaussians.colors is not None
    assert scene.gaussians.logit_opacities.grad.item() == pytest.approx(2 * 0.3 * 0.7, abs=TOLERANCE)
    assert scene.gaussians.colors.grad is not None
    np.testing.assert_allclose(scene.gaussians.colors.grad, np.full((1, 3), 0.3), atol=TOLERANCE)


@pytest.mark.parametrize(("factor", "drawn"), [(1 + 1e-6, True), (1 - 1e-6, False)])
def test_contribution_below_one_255th_is_dropped(backend: str, factor: float, drawn: bool) -> None:
    got = render(column([2.0], [factor / 255]), backend)
    assert got.alpha.item() == pytest.approx(factor / 255 if drawn else 0, abs=1e-12)
    assert bool((got.screen.radii > 0).all()) == drawn


def test_only_depths_from_near_to_far_are_drawn_and_the_limits_belong_to_them(backend: str) -> None:
    depths = [0.5 - 1e-9, 0.5, 3.0, 8.0, 8.0 + 1e-9, 0.0, -3.0]
    got = weights(column(depths, [0.1] * 7), backend, RasterOptions(near=0.5, far=8.0))
    np.testing.assert_allclose(got, [0, 0.1, 0.09, 0.081, 0, 0, 0], atol=TOLERANCE)


def test_colors_are_used_as_they_are_below_zero_and_above_one(backend: str) -> None:
    image = render(column([2.0], [0.5], [[-4.0, 7.0, 0.0]]), backend).image
    np.testing.assert_allclose(image[0, 0, 0], [-2.0, 3.5, 0.0], atol=TOLERANCE)


# --- Blending ----------------------------------------------------------------------------------------------------


def test_nearer_gaussian_covers_the_farther_one_whatever_their_indices(backend: str) -> None:
    colors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    for order in ([0, 1], [1, 0]):
        scene = column([2.0, 5.0], [0.6, 0.7], colors).pick(torch.tensor(order))
        got = render(replace(scene, background=tensor([0.0, 0.0, 1.0])), backend)
        np.testing.assert_allclose(got.image[0, 0, 0], [0.6, 0.4 * 0.7, 0.4 * 0.3], atol=TOLERANCE)
        assert got.alpha.item() == pytest.approx(1 - 0.4 * 0.3, abs=TOLERANCE)
        assert got.depth.item() == pytest.approx((0.6 * 2 + 0.28 * 5) / 0.88, abs=TOLERANCE)


def test_equal_depths_are_blended_by_index(backend: str) -> None:
    opacities = np.linspace(0.05, 0.3, 20)
    expected = opacities * np.cumprod(np.concatenate([[1], 1 - opacities[:-1]]))
    np.testing.assert_allclose(weights(column([3.0] * 20, list(opacities)), backend), expected, atol=TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_depths_one_unit_in_the_last_place_apart_are_told_apart(backend: str, dtype: torch.dtype) -> None:
    kind = np.float32 if dtype == torch.float32 else np.float64
    farther = np.nextafter(kind(3), kind(4), dtype=kind)
    got = weights(column([float(farther), 3.0], [0.5, 0.5]).to(dtype), backend)
    np.testing.assert_allclose(got, [0.25, 0.5], atol=1e-6)  # float32 rounding


def test_gaussian_that_would_take_transmittance_to_1e_4_is_dropped_with_all_behind_it(backend: str) -> None:
    got = weights(column([2.0, 3.0, 4.0], [0.99, 0.9901, 0.1]), backend)  # 0.01 -> 9.9e-5 would be too little
    np.testing.assert_allclose(got, [0.99, 0, 0], atol=TOLERANCE)
    got = weights(column([2.0, 3.0, 4.0], [0.99, 0.9899, 0.1]), backend)  # 0.01 -> 1.01e-4 still goes
    np.testing.assert_allclose(got, [0.99, 0.009899, 0], atol=TOLERANCE)


@pytest.mark.parametrize(("opacities", "expected"), [([0.4, 0.3, 0.9], 3.0), ([0.6, 0.9, 0.9], 2.0),
                                                     ([0.2, 0.2, 0.2], 0.0), ([0.5, 0.9, 0.9], 2.0)])  # fmt: skip
def test_median_depth_is_that_of_the_gaussian_that_takes_transmittance_to_one_half(
    backend: str, opacities: list[float], expected: float
) -> None:
    median = render(column([2.0, 3.0, 4.0], opacities), backend, want=["median_depth"]).median_depth
    assert median is not None and median.item() == expected


def test_top_is_the_gaussian_of_largest_weight_and_minus_one_where_there_is_none(backend: str) -> None:
    for opacities, index, weight in (([0.3, 0.6, 0.9], 1, 0.42), ([0.8, 0.9, 0.9], 0, 0.8), ([1e-3] * 3, -1, 0)):
        got = render(column([2.0, 3.0, 4.0], opacities), backend, want=("top",))
        assert got.top_id is not None and got.top_weight is not None
        assert got.top_id.dtype == torch.int32 and got.top_id.item() == index
        assert got.top_weight.item() == pytest.approx(weight, abs=TOLERANCE)


def test_features_are_not_divided_by_alpha_and_have_no_background(backend: str) -> None:
    scene = random_scene(3)
    got = render(replace(scene, features=torch.ones(30, 1, dtype=torch.float64)), backend)
    assert got.features is not None
    np.testing.assert_allclose(got.features[..., 0], got.alpha, atol=TOLERANCE)


def test_nothing_in_view_leaves_the_background(backend: str) -> None:
    scene = random_scene(3)
    scene = scene.with_tensors(means=-scene.gaussians.means)
    got = render(scene, backend, want=("top", "median_depth", "weight_sum"))
    assert scene.background is not None and got.features is not None and got.screen.weight_sum is not None
    assert torch.equal(got.image, scene.background[0].expand(1, 17, 24, 3))
    for empty in (got.alpha, got.depth, got.features, got.median_depth, got.top_weight, got.screen.weight_sum):
        assert empty is not None and not empty.any()
    assert not got.screen.radii.any()


# --- Spherical harmonics -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_sh_colour_is_the_sum_over_scipys_harmonics_along_the_view_plus_half(backend: str, degree: int) -> None:
    """3DGS keeps the Condon-Shortley phase, as scipy does: sqrt(2) Re Y_l^m for m > 0, sqrt(2) Im Y_l^|m| for m < 0."""
    rng = np.random.default_rng(degree)
    mean, C = np.array([0.4, -1.0, 2.0]), 30
    scene = column([1.0], [0.9])
    coefficients = rng.normal(size=(1, (degree + 1) ** 2, 3))
    R = Rotation.random(C, rng=rng).as_matrix()
    pose = np.tile(np.eye(4), (C, 1, 1))  # in each camera the mean lies at (0, 0, 3)
    pose[:, :3, :3], pose[:, :3, 3] = R, [0, 0, 3.0] - R @ mean
    gaussians = replace(scene.gaussians, means=tensor([mean]), colors=None, sh=tensor(coefficients))
    got = render(Scene(gaussians, pinhole(1, 1, 10.0, tensor(pose))), backend).image[:, 0, 0].numpy()
    x, y, z = (R.transpose(0, 2, 1) @ [0, 0, 1]).T  # the optical axes in the world run from camera to Gaussian
    colour = np.full((C, 3), 0.5)
    for k, (degree_k, m) in enumerate((q, m) for q in range(degree + 1) for m in range(-q, q + 1)):
        Y = sph_harm_y(degree_k, abs(m), np.arccos(z), np.arctan2(y, x))
        real = Y.real if m == 0 else np.sqrt(2) * (Y.real if m > 0 else Y.imag)
        colour += real[:, None] * coefficients[0, k]
    np.testing.assert_allclose(got, 0.9 * np.maximum(colour, 0), atol=TOLERANCE)
    assert degree == 0 or ((colour < 0).any() and (colour > 0).any())


# --- A slow loop over a random scene ------------------------------------------------------------------------------


def project_slowly(scene: Scene, c: int, eps2d: float, antialiased: bool) -> list[tuple]:
    """(depth, index, mean2d, cov2d, opacity) of each Gaussian in front of the camera, nearest first."""
    g, pose, K = scene.gaussians, scene.cameras.world_to_cam[c].numpy(), scene.cameras.K[c].numpy()
    seen = []
    for i in range(len(g)):
        x, y, z = pose[:3, :3] @ g.means[i].numpy() + pose[:3, 3]
        R = Rotation.from_quat(g.quats[i].numpy(), scalar_first=True).as_matrix()
        cov3d = R @ np.diag(np.exp(2 * g.log_scales[i].numpy())) @ R.T
        margin_x, margin_y = 0.15 * scene.cameras.width, 0.15 * scene.cameras.height
        tx = np.clip(x / z, *(np.array([-margin_x, scene.cameras.width + margin_x]) - K[0, 2]) / K[0, 0])
        ty = np.clip(y / z, *(np.array([-margin_y, scene.cameras.height + margin_y]) - K[1, 2]) / K[1, 1])
        J = np.array([[K[0, 0], 0, -K[0, 0] * tx], [0, K[1, 1], -K[1, 1] * ty]]) / z @ pose[:3, :3]
        sharp = J @ cov3d @ J.T
        cov2d = sharp + eps2d * np.eye(2)
        opacity = expit(g.logit_opacities[i].item())
        if antialiased:
            opacity *= np.sqrt(max(np.linalg.det(sharp), 0) / np.linalg.det(cov2d))
        if z >= 0.01:
            seen.append((z, i, np.array([K[0, 0] * x / z + K[0, 2], K[1, 1] * y / z + K[1, 2]]), cov2d, opacity))
    return sorted(seen, key=lambda entry: entry[:2])


def blend_slowly(scene: Scene, c: int, eps2d: float, antialiased: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """Weights [H, W, N], median depth [H, W], and how near any decision was to falling the other way."""
    H, W, N = scene.cameras.height, scene.cameras.width, len(scene.gaussians)
    result, median, margin = np.zeros((H, W, N)), np.zeros((H, W)), 1.0
    seen = [(z, n, m, np.linalg.inv(cov), o) for z, n, m, cov, o in project_slowly(scene, c, eps2d, antialiased)]
    for i in range(H):
        for j in range(W):
            T = 1.0
            for z, n, mean2d, conic, opacity in seen:
                d = np.array([j + 0.5, i + 0.5]) - mean2d
                alpha = min(opacity * np.exp(-0.5 * (d @ conic @ d)), 0.999)
                margin = min(margin, abs(alpha * 255 - 1))
                if alpha < 1 / 255:
                    continue
                after = T * (1 - alpha)
                margin = min(margin, abs(after / 1e-4 - 1), abs(after - 0.5))
                if after <= 1e-4:
                    break
                result[i, j, n] = alpha * T
                if T > 0.5 >= after:
                    median[i, j] = z
                T = after
    return result, median, margin


Slow = tuple[np.ndarray, np.ndarray, float]


def check_against_slow_loop(scene: Scene, backend: str, options: RasterOptions, slow: list[Slow]) -> None:
    got = render(scene, backend, options, want=("top", "median_depth", "weight_sum"))
    assert scene.features is not None and scene.background is not None and scene.gaussians.colors is not None
    assert got.screen.weight_sum is not None and got.top_id is not None
    for c, (w, median, _) in enumerate(slow):
        pose = scene.cameras.world_to_cam[c].numpy()
        alpha, top = w.sum(-1), w.max(-1)
        z = scene.gaussians.means.numpy() @ pose[2, :3] + pose[2, 3]
        expected = {
            "image": w @ scene.gaussians.colors.numpy() + (1 - alpha[..., None]) * scene.background[c].numpy(),
            "alpha": alpha,
            "depth": w @ z / np.where(alpha > 0, alpha, 1),
            "features": w @ scene.features.numpy(),
            "median_depth": median,
            "top_weight": top,
        }
        for name, reference in expected.items():
            np.testing.assert_allclose(getattr(got, name)[c], reference, atol=TOLERANCE, err_msg=name)
        np.testing.assert_allclose(got.screen.weight_sum[c], w.sum((0, 1)), atol=TOLERANCE)
        ids = got.top_id[c].numpy()
        assert ((ids == -1) == (top == 0)).all()
        np.testing.assert_allclose(np.take_along_axis(w, ids[..., None], -1)[..., 0], top, atol=TOLERANCE)


@pytest.mark.parametrize(("eps2d", "antialiased"), [(0.3, False), (0.3, True), (1e-4, False), (1.7, True)])
def test_two_views_of_30_gaussians_equal_a_slow_loop(backend: str, eps2d: float, antialiased: bool) -> None:
    scene = random_scene(11, C=2)
    slow = [blend_slowly(scene, c, eps2d, antialiased) for c in range(2)]
    assert min(margin for *_, margin in slow) > 1e-9  # from every threshold; rounding is some 1e-13
    check_against_slow_loop(scene, backend, RasterOptions(eps2d=eps2d, antialiased=antialiased), slow)


@settings(deadline=None, derandomize=True, max_examples=15)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 12), width=st.integers(1, 18), height=st.integers(1, 18))
def test_small_views_of_any_scene_equal_a_slow_loop(
    backend: str, seed: int, count: int, width: int, height: int
) -> None:
    scene = random_scene(seed, count, (width, height))
    slow = blend_slowly(scene, 0, 0.3, antialiased=False)
    assume(slow[2] > 1e-9)
    check_against_slow_loop(scene, backend, DEFAULTS, [slow])


@pytest.mark.parametrize("seed", range(3))
def test_radii_about_means2d_bound_all_pixels_with_a_contribution_and_no_more(backend: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = Scene(random_gaussians(rng, 40), pinhole(48, 33, 40.0))
    screen = render(scene, backend).screen
    assert screen.radii.dtype == torch.int32 and screen.radii.shape == (1, 40, 2)
    centres = np.stack(np.meshgrid(np.arange(48) + 0.5, np.arange(33) + 0.5), -1)
    for _, i, mean2d, cov2d, opacity in project_slowly(scene, 0, 0.3, antialiased=False):
        d = centres - mean2d
        sigma = np.einsum("hwi,ij,hwj->hw", d, np.linalg.inv(cov2d), d) / 2
        touched = np.abs(d[sigma <= np.log(255 * opacity)])
        radii = screen.radii[0, i].numpy()
        assert (touched <= radii).all()
        if radii.any():
            np.testing.assert_allclose(screen.means2d[0, i], mean2d, atol=TOLERANCE)
            reach = np.sqrt(2 * np.log(255 * opacity) * np.diag(cov2d))  # of the ellipse on which alpha is 1/255
            assert (radii >= reach - TOLERANCE).all() and (radii <= reach + 1).all(), f"{radii} for {reach}"
