"""Lenses against OpenCV's own projections, closed forms, and rendered dots."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from scene4d.captures.lens import Lens, checked_lens, distort, rectify_image, rectify_nearest, rectify_points, to_pixels
from scene4d.captures.lens_files import colmap_lens
from scene4d.errors import InputError
from tests.scene4d.captures_on_disk import dot_centroids, dots

K = np.array([[410.0, 0, 203.0], [0, 405.0, 148.0], [0, 0, 1.0]])
BARREL = (-0.21, 0.06, 0.002, -0.001, -0.01)
FISHEYE = (0.05, -0.02, 0.01, -0.004)


def lens_of(model: str, params: tuple[float, ...], width: int = 400, height: int = 300) -> Lens:
    return Lens(width, height, K[0, 0], K[1, 1], K[0, 2], K[1, 2], model, params)


def rays(spread: float = 0.4) -> np.ndarray:
    grid = np.linspace(-spread, spread, 7)
    return np.stack(np.meshgrid(grid, 0.8 * grid), -1).reshape(-1, 2)


def on_plane(xy: np.ndarray) -> np.ndarray:
    return np.concatenate([xy, np.ones_like(xy[:, :1])], 1)


@pytest.mark.parametrize(
    "params", [(-0.2, 0.05, 0.001, -0.002), BARREL, (0.1, 0.02, 0, 0, 0.01, 0.2, 0.03, 0.001),
               (0.1, 0.02, 0.001, 0, 0.01, 0.2, 0.03, 0.001, 1e-3, 2e-3, -1e-3, 5e-4)]
)  # fmt: skip
def test_radial_tangential_is_opencvs_with_4_5_8_and_12_coefficients(params: tuple[float, ...]) -> None:
    expected = cv2.projectPoints(on_plane(rays()), np.zeros(3), np.zeros(3), K, np.array(params))[0][:, 0]
    np.testing.assert_allclose(to_pixels(lens_of("opencv", params), rays()), expected, atol=1e-9)


def test_fisheye_is_opencvs() -> None:
    expected = cv2.fisheye.projectPoints(on_plane(rays(1.2))[:, None], np.zeros(3), np.zeros(3), K, np.array(FISHEYE))
    np.testing.assert_allclose(to_pixels(lens_of("fisheye", FISHEYE), rays(1.2)), expected[0][:, 0], atol=1e-9)


def test_fov_lens_inverts_as_devernay_and_faugeras_give_it() -> None:
    omega = 0.9
    bent = np.linalg.norm(distort(lens_of("fov", (omega,)), rays()), axis=-1)
    np.testing.assert_allclose(
        np.tan(bent * omega) / (2 * np.tan(omega / 2)), np.linalg.norm(rays(), axis=-1), atol=1e-9
    )


def test_thin_prism_fisheye_without_prism_is_the_fisheye() -> None:
    k1, k2, k3, k4 = FISHEYE
    thin = lens_of("thin_prism_fisheye", (k1, k2, 0, 0, k3, k4, 0, 0))
    np.testing.assert_allclose(distort(thin, rays()), distort(lens_of("fisheye", FISHEYE), rays()), atol=1e-12)


def test_colmap_models_with_one_focal_length_and_fewer_coefficients_are_those_of_opencv() -> None:
    simple = colmap_lens("SIMPLE_RADIAL", [400, 200, 150, -0.1], 400, 300, "x")
    full = colmap_lens("OPENCV", [400, 400, 200, 150, -0.1, 0, 0, 0], 400, 300, "x")
    assert simple == full
    radial = colmap_lens("RADIAL_FISHEYE", [400, 200, 150, 0.05, -0.02], 400, 300, "x")
    assert radial == colmap_lens("OPENCV_FISHEYE", [400, 400, 200, 150, 0.05, -0.02, 0, 0], 400, 300, "x")


LENSES = [
    lens_of("opencv", BARREL),
    lens_of("opencv", (0.25, 0.1, 0, 0)),  # pincushion
    lens_of("fisheye", FISHEYE),
    lens_of("fov", (0.8,)),
    lens_of("thin_prism_fisheye", (0.05, -0.02, 1e-3, 2e-3, 0.01, -0.004, 1e-3, -1e-3)),
    replace(lens_of("opencv", BARREL), skew=6.0),
]


@pytest.mark.parametrize("lens", LENSES, ids=lambda lens: f"{lens.model}-{lens.params[0]}-{lens.skew}")
def test_dots_that_a_lens_bent_lie_where_the_pinhole_camera_sees_them(lens: Lens) -> None:
    """Dots drawn at the distorted positions are found, after rectification, at K (x, y, 1), to 0.06 pixels."""
    flat = lens.rectified()
    target = np.stack(np.meshgrid(np.linspace(30, 370, 8), np.linspace(30, 270, 6)), -1).reshape(-1, 2)
    xy = (target - (flat.cx, flat.cy)) / (flat.fx, flat.fy)
    picture = dots(to_pixels(lens, xy), lens.width, lens.height, sigma=2.0)
    found = dot_centroids(rectify_image(lens, picture), target, radius=8)
    # 1/32 pixel is the resolution of OpenCV's fixed-point maps; a dot's stretch over its window adds as much
    assert np.abs(found - target).max() < 0.06


@pytest.mark.parametrize("size", [(200, 150), (100, 75), (79, 59), (40, 30)])
def test_dots_stay_in_place_when_a_bent_picture_is_shrunk_by_any_factor(size: tuple[int, int]) -> None:
    lens = LENSES[0]
    flat = lens.rectified()
    target = np.array([[80.0, 70.0], [310.0, 80.0], [200.0, 150.0], [90.0, 230.0], [300.0, 220.0]])
    xy = (target - (flat.cx, flat.cy)) / (flat.fx, flat.fy)
    picture = dots(to_pixels(lens, xy), lens.width, lens.height, sigma=8.0)
    small = target * (size[0] / 400, size[1] / 300)
    found = dot_centroids(rectify_image(lens, picture, size), small, radius=max(3, size[0] // 14))
    assert np.abs(found - small).max() < 0.08  # half a pixel of any of the steps would show as 0.1 and more
    labels = rectify_nearest(lens, (picture[..., 0] > 128).astype(np.uint8) * 9, size)
    np.testing.assert_array_equal(labels[small[:, 1].astype(int), small[:, 0].astype(int)], 9)


def test_straight_lines_are_straight_after_rectification() -> None:
    """Lines of a checkerboard plane, bent by 10 pixels by the lens, deviate by less than 0.1 from a straight fit."""
    lens = lens_of("opencv", (-0.35, 0.12, 0.001, 0.0))
    flat = lens.rectified()
    rows = []
    for v in (40.0, 150.0, 262.0):
        line = np.stack([np.linspace(25, 375, 12), np.full(12, v)], -1)
        bent = to_pixels(lens, (line - (flat.cx, flat.cy)) / (flat.fx, flat.fy))
        found = dot_centroids(rectify_image(lens, dots(bent, 400, 300, 2.0)), line, radius=8)
        rows.append(np.abs(np.polyval(np.polyfit(*found.T, 1), found[:, 0]) - found[:, 1]).max())
    fit = np.polyfit(*bent.T, 1)
    assert np.abs(np.polyval(fit, bent[:, 0]) - bent[:, 1]).max() > 3.0  # the lens does bend
    assert max(rows) < 0.1


@pytest.mark.parametrize("lens", LENSES, ids=lambda lens: f"{lens.model}-{lens.params[0]}-{lens.skew}")
def test_no_pixel_of_a_rectified_image_is_empty_and_a_smaller_zoom_would_leave_one(lens: Lens) -> None:
    flat = lens.rectified()
    assert (flat.cx, flat.cy, flat.skew) == (lens.cx, lens.cy, 0.0)
    assert flat.fx / lens.fx == pytest.approx(flat.fy / lens.fy)

    def outside(zoom: float) -> float:
        ys, xs = np.mgrid[: lens.height, : lens.width] + 0.5
        seen = to_pixels(lens, np.stack([(xs - flat.cx) / (flat.fx * zoom), (ys - flat.cy) / (flat.fy * zoom)], -1))
        return float(max(-seen.min(), (seen - (lens.width, lens.height)).max()))

    assert outside(1.0) <= 0.01  # the zoom is found on 65 positions along each side
    if 0.5 < flat.fx / lens.fx:
        assert outside(0.98) > 0.01


def test_a_wide_fisheye_is_cropped_at_half_its_resolution() -> None:
    wide = Lens(400, 300, 120.0, 120.0, 200.0, 150.0, "fisheye", (0.01, 0, 0, 0))  # 190 degrees across
    assert wide.rectified().fx == pytest.approx(60.0)


@pytest.mark.parametrize("lens", LENSES, ids=lambda lens: f"{lens.model}-{lens.params[0]}-{lens.skew}")
def test_rectified_points_project_back_to_where_they_were_seen(lens: Lens) -> None:
    seen = np.random.default_rng(0).uniform((5, 5), (395, 295), (200, 2))
    flat = lens.rectified()
    xy = (rectify_points(lens, seen) - (flat.cx, flat.cy)) / (flat.fx, flat.fy)
    np.testing.assert_allclose(to_pixels(lens, xy), seen, atol=1e-5)


def test_labels_keep_their_values_and_edges_stay_within_a_pixel() -> None:
    lens = lens_of("opencv", BARREL)
    flat = lens.rectified()
    ys, xs = np.mgrid[:300, :400] + 0.5
    labels = np.where(xs < 250, 7, 200).astype(np.uint8)
    straight = rectify_nearest(lens, labels)
    assert set(np.unique(straight)) == {7, 200}
    seen = to_pixels(lens, np.stack([(xs - flat.cx) / flat.fx, (ys - flat.cy) / flat.fy], -1))
    sure = np.abs(seen[..., 0] - 250) > 0.55  # nearest is off by half a pixel at most
    np.testing.assert_array_equal(straight[sure], np.where(seen[..., 0] < 250, 7, 200)[sure])


def test_a_lens_without_distortion_leaves_pixels_untouched() -> None:
    lens = Lens(40, 30, 50, 50, 20, 15)
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    assert rectify_image(lens, image) is image
    assert lens.rectified() == lens


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fx": -400.0}, "focal length fx must be positive"),
        ({"fy": float("nan")}, "focal length fy must be positive"),
        ({"fx": 1e7}, "focal length fx in pixels"),
        ({"cx": 5000.0}, "principal point cx = 5000 lies far outside"),
        ({"width": 0}, "width"),
        ({"width": 10**9}, "width"),
        ({"params": (1.0,)}, "takes 4 or 5 or 8 or 12 coefficients, got 1"),
        ({"params": (-9.0, 0, 0, 0)}, "fold the image"),
        ({"params": (float("inf"), 0, 0, 0)}, "distortion coefficient"),
        ({"model": "omni", "params": ()}, "unknown lens model 'omni'"),
        ({"skew": 300.0}, "skew"),
    ],
)
def test_an_impossible_lens_is_refused_with_its_reason(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        checked_lens(replace(lens_of("opencv", (-0.1, 0.0, 0.0, 0.0)), **change), "cameras.json: camera a")
    assert str(error.value).startswith("cameras.json: camera a") and "\n" not in str(error.value)
