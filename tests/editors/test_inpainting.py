"""Painting of holes, push-pull and looking up other frames, against closed forms."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from editors.classical.inpainting import inpainted
from editors.classical.sheets import points_of, projected, seen_in, sheet_of, spread, whole_depth
from tests.editors.plane_clips import H, W, Z, wall_colors, wall_frame, wall_points


def test_hole_in_one_colour_gets_that_colour_and_the_rest_stays() -> None:
    image = np.full((40, 50, 3), 0.3, np.float32)
    hole = np.zeros((40, 50), bool)
    hole[8:30, 10:40] = True
    image[hole] = 0.9
    out = inpainted(image, ~hole, hole)
    assert np.abs(out - 0.3).max() <= 1e-3
    assert np.array_equal(out[~hole], image[~hole])


def test_pixels_that_are_neither_known_nor_wanted_are_not_looked_at() -> None:
    image = np.random.default_rng(0).random((32, 32, 3)).astype(np.float32)
    wanted, other = np.zeros((2, 32, 32), bool)
    wanted[10:20, 10:20] = True
    other[10:20, 20:30] = True
    changed = image.copy()
    changed[other] = 1 - changed[other]
    a, b = (inpainted(x, ~(wanted | other), wanted) for x in (image, changed))
    assert np.array_equal(a[wanted], b[wanted])
    assert np.array_equal(b[other], changed[other])


def test_wide_hole_in_a_noisy_picture_is_nearer_to_it_than_what_opencv_paints_alone() -> None:
    """A slow wave with noise, a quarter of the picture missing: OpenCV carries the noise of the border far inside."""
    rows, columns = np.mgrid[:96, :96].astype(np.float32)
    clean = 0.5 + 0.3 * np.stack([np.sin(columns / 24), np.cos(rows / 24), np.sin((rows + columns) / 30)], -1)
    noisy = (clean + 0.06 * np.random.default_rng(1).standard_normal(clean.shape)).astype(np.float32)
    hole = np.zeros((96, 96), bool)
    hole[24:72, 24:72] = True
    ours = inpainted(noisy, ~hole, hole)
    alone = cv2.inpaint((noisy.clip(0, 1) * 255).astype(np.uint8), hole.astype(np.uint8), 4, cv2.INPAINT_TELEA) / 255
    error, plain = (float(np.square(x - clean)[hole].mean()) for x in (ours, alone))
    assert error < 0.8 * plain


def test_picture_of_which_nothing_is_known_becomes_gray() -> None:
    everything = np.ones((6, 7), bool)
    assert (inpainted(np.zeros((6, 7, 3), np.float32), ~everything, everything) == 0.5).all()


def test_spread_keeps_what_is_known_continues_one_value_and_gives_zero_for_nothing() -> None:
    values = torch.rand(13, 9, 2)
    known = torch.rand(13, 9) > 0.4
    assert torch.allclose(spread(values, known.float())[known], values[known])
    one = spread(torch.full((13, 9, 1), 0.7), known.float())
    assert torch.allclose(one, torch.full_like(one, 0.7))
    assert (spread(values, torch.zeros(13, 9)) == 0).all()


def test_missing_depth_is_that_around_it_and_says_so() -> None:
    depth = torch.full((12, 16), 3.0)
    depth[4:8, 5:9] = 0
    found, guessed = whole_depth(depth)
    torch.testing.assert_close(found, torch.full((12, 16), 3.0))
    assert torch.equal(guessed, depth == 0)
    assert (whole_depth(torch.zeros(4, 5))[0] == 1).all()


def test_points_of_a_frame_are_projected_back_to_the_centres_of_its_pixels() -> None:
    sheet = sheet_of(wall_frame(0.7, 0.0))
    u, v, z = projected(sheet.camera, points_of(sheet))
    torch.testing.assert_close(u.reshape(H, W)[0], torch.arange(W) + 0.5)
    torch.testing.assert_close(v.reshape(H, W)[:, 0], torch.arange(H) + 0.5)
    torch.testing.assert_close(z, torch.full((H * W,), Z))


def test_another_frame_shows_the_true_colours_between_its_pixels_and_nothing_outside_of_its_picture() -> None:
    """A shift of 3.5 pixels: bilinear means of the wall's colours, which are smooth."""
    here, there = (sheet_of(wall_frame(x, 0.0)) for x in (0.0, 3.5 * Z / 40))
    there.image = wall_colors(*wall_points(3.5 * Z / 40))
    pixels = torch.arange(H * W)
    usable = torch.ones(H, W, dtype=torch.bool)
    colors, seen = seen_in(here, points_of(here), pixels, there, usable)
    expected = torch.arange(W) + 0.5 >= 3.5
    assert torch.equal(seen.reshape(H, W), expected.expand(H, W))
    truth = wall_colors(*wall_points(0.0)).reshape(-1, 3)
    inside = seen & (torch.arange(H * W) % W > 4)
    torch.testing.assert_close(colors[inside], truth[inside], atol=0.01, rtol=0)


def test_only_usable_pixels_of_another_frame_are_mixed() -> None:
    """Every other column may be used; the rest is black and must not darken what lies between."""
    here, there = (sheet_of(wall_frame(x, 0.0)) for x in (0.0, 0.25 * Z / 40))
    usable = (torch.arange(W) % 2 == 0).expand(H, W)
    there.image = torch.where(usable[..., None], 0.8, 0.0).expand(H, W, 3)
    colors, seen = seen_in(here, points_of(here), torch.arange(H * W), there, usable)
    assert seen.any() and not seen.all()
    torch.testing.assert_close(colors[seen], torch.full_like(colors[seen], 0.8))


def test_surface_behind_what_another_frame_shows_is_not_seen_there() -> None:
    here = sheet_of(wall_frame(0.0, 0.0))
    other = wall_frame(0.0, 0.0)
    other.cue.depth[:, : W // 2] = 0.9 * Z
    there = sheet_of(other)
    _, seen = seen_in(here, points_of(here), torch.arange(H * W), there, torch.ones(H, W, dtype=torch.bool))
    columns = seen.reshape(H, W).all(0)
    assert not columns[: W // 2 - 1].any() and columns[W // 2 + 1 :].all()
