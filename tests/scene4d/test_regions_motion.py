"""Flicker, stability, revisits, seams and the ignore band against planted ones and slow loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from scene4d.metrics.region_borders import changes, depth_edges, ignore_band, seam
from scene4d.metrics.region_motion import held, pixel_centers, revisit_error, sampled, temporal_error
from scene4d.metrics.region_types import Revisit

T, H, W = 4, 20, 26


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape)).float()


def sliding(shift: int) -> tuple[Tensor, Tensor, Tensor]:
    """A picture that moves `shift` pixels to the right a frame; its flow to the frame before, where that is seen."""
    wide = 0.5 * noise(H, W + T * abs(shift) + 8, 3)
    start = T * abs(shift) // 2 + 4
    frames = torch.stack([wide[:, start - t * shift : start - t * shift + W] for t in range(T)])
    flow = torch.tensor([-float(shift), 0.0]).expand(T, H, W, 2)
    x = pixel_centers(H, W)[..., 0] - shift
    visible = ((x >= 0) & (x < W)).expand(T, H, W)
    return frames, flow, visible


ALL = torch.ones(T, H, W, dtype=torch.bool)


def test_what_moves_with_the_surfaces_does_not_flicker() -> None:
    frames, flow, visible = sliding(3)
    found = temporal_error(frames, flow, visible, ALL)
    assert found.value == pytest.approx(0.0, abs=1e-6) and found.count == (T - 1) * H * (W - 3)


def test_flow_of_the_wrong_sign_is_seen() -> None:
    frames, flow, visible = sliding(3)
    assert temporal_error(frames, -flow, visible, ALL).value > 0.1


def test_planted_flicker_has_its_size() -> None:
    """+0.06 in every other frame: 0.06 at each step. Outside the region anything goes."""
    frames, flow, visible = sliding(2)
    mask = ALL.clone()
    mask[:, :6] = False
    frames = frames + 0.06 * (torch.arange(T) % 2).view(T, 1, 1, 1)
    frames[:, :6] = noise(T, 6, W, 3, seed=5)
    assert temporal_error(frames, flow, visible, mask).value == pytest.approx(0.06, abs=1e-6)


def test_a_still_picture_in_a_moving_scene_is_unsteady() -> None:
    """The gradient of a ramp, 0.01 a pixel, times the motion of 3 pixels."""
    ramp = (0.01 * torch.arange(W).float()).view(1, 1, W, 1).expand(T, H, W, 3)
    flow = torch.tensor([-3.0, 0.0]).expand(T, H, W, 2)
    mask = ALL.clone()
    mask[:, :, :4] = False
    assert temporal_error(ramp, flow, ALL, mask).value == pytest.approx(0.03, abs=1e-5)


def test_only_pixels_seen_in_the_region_in_both_frames_count() -> None:
    frames, flow, visible = sliding(2)
    mask = ALL.clone()
    mask[1] = False
    found = temporal_error(frames, flow, visible, mask)  # only frames 2 -> 3 are left
    assert found.count == H * (W - 2)
    mask[[0, 2]] = False
    assert "seen again" in temporal_error(frames, flow, visible, mask).skipped
    assert "one frame" in temporal_error(frames[:1], flow[:1], visible[:1], mask[:1]).skipped


def test_sampling_at_centres_gives_pixels_and_between_them_the_mean() -> None:
    image, centers = noise(H, W, 3), pixel_centers(H, W)
    assert torch.allclose(sampled(image, centers), image, atol=1e-6)
    halfway = sampled(image, centers + torch.tensor([0.5, 0.0]))
    assert torch.allclose(halfway[:, :-1], (image[:, :-1] + image[:, 1:]) / 2, atol=1e-5)
    down = sampled(image, centers + torch.tensor([0.0, 1.0]))
    assert torch.allclose(down[:-1], image[1:], atol=1e-5)


def test_place_is_held_by_the_pixel_around_it_and_by_none_outside() -> None:
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[1, 3] = True
    places = torch.tensor([[3.0, 1.0], [3.99, 1.99], [4.0, 1.5], [-0.1, 1.0], [3.5, 4.5]]).view(1, 5, 2)
    assert held(mask, places)[0].tolist() == [True, True, False, False, False]
    assert not held(torch.ones(4, 5, dtype=torch.bool), places)[0, 3:].any()


def test_revisit_is_the_difference_of_two_frames_along_their_flow() -> None:
    frames, _, _ = sliding(1)
    frames = frames.clone()
    frames[3] += 0.05
    flow = torch.tensor([-3.0, 0.0]).expand(H, W, 2)
    visible = pixel_centers(H, W)[..., 0] >= 3
    found = revisit_error(frames, [Revisit(0, 3, flow, visible)], ALL)
    assert found.value == pytest.approx(0.05, abs=1e-6) and found.count == H * (W - 3)
    assert "comes back" in revisit_error(frames, [], ALL).skipped


# -- seams


def half(width: int = W) -> Tensor:
    region = torch.zeros(1, H, width, dtype=torch.bool)
    region[:, :, width // 2 :] = True
    return region


@pytest.mark.parametrize("off", [0, 1, -2])
@pytest.mark.parametrize("turned", [False, True])
def test_planted_seam_has_its_ratio_also_a_little_off_the_border(off: int, turned: bool) -> None:
    """A ramp of 0.01 a pixel; a step of 0.05 at the border: (0.01 + 0.05 + 1/255) / (0.01 + 1/255)."""
    truth = (0.01 * torch.arange(W).float()).view(1, 1, W, 1).expand(1, H, W, 3)
    step = torch.zeros(W)
    step[W // 2 + off :] = 0.05
    output, region = truth + step.view(1, 1, W, 1), half()
    if turned:
        output, truth, region = (x.transpose(1, 2) for x in (output, truth, region))
    eps = 1 / 255
    assert seam(output, truth, region, None, None).value == pytest.approx((0.06 + eps) / (0.01 + eps), rel=1e-4)


def test_natural_seam_is_one_and_a_blurred_one_less() -> None:
    truth, region = noise(1, H, W, 3), half()
    assert seam(truth, truth, region, None, None).value == pytest.approx(1.0)
    assert seam(truth * 0.2, truth, region, None, None).value < 0.4
    assert "no pixel" in seam(truth, truth, region & False, None, None).skipped


def test_step_far_from_the_border_is_no_seam() -> None:
    truth = torch.full((1, H, W, 3), 0.4)
    output = truth.clone()
    output[:, :, W // 2 + 4 :] += 0.3
    assert seam(output, truth, half(), None, None).value == pytest.approx(1.0)


def test_border_of_a_thing_is_no_seam() -> None:
    truth, region = noise(1, H, W, 3), half()
    ids = region.int()
    assert "within one surface" in seam(truth, truth, region, ids, None).skipped
    depth = torch.where(region, 2.0, 3.0)
    assert "within one surface" in seam(truth, truth, region, None, depth).skipped
    ids[:, : H // 2] = 0  # of the upper half the border lies within one surface
    assert 0 < seam(truth, truth, region, ids, None).count < H // 2


# -- the band


def test_band_reaches_as_far_as_it_says() -> None:
    """The border lies between columns 12 and 13: with a band of 3 the columns 10 to 15 are left out."""
    roles = torch.zeros(1, H, W, dtype=torch.uint8)
    roles[:, :, 13:] = 1
    for band in (1, 2, 3, 4):
        expected = torch.zeros(1, H, W, dtype=torch.bool)
        expected[:, :, 13 - band : 13 + band] = True
        assert torch.equal(ignore_band(roles, None, None, band), expected)
    with pytest.raises(ValueError, match="band must be at least 1, got 0"):
        ignore_band(roles, None, None, 0)


def test_ids_and_depth_make_borders_too() -> None:
    roles = torch.zeros(1, H, W, dtype=torch.uint8)
    ids = roles.clone()
    ids[:, 5:] = 2
    assert ignore_band(roles, ids, None, 1)[0, :, 0].nonzero()[:, 0].tolist() == [4, 5]
    depth = torch.full((1, H, W), 4.0)
    depth[:, :, 9:] = 5.0
    assert ignore_band(roles, None, depth, 1)[0, 0].nonzero()[:, 0].tolist() == [8, 9]
    assert not ignore_band(roles, ids * 0, torch.full((1, H, W), 4.0)).any()


def test_slanted_plane_has_no_depth_edge_and_nothing_has_one_to_something() -> None:
    inverse = 0.2 + 0.01 * torch.arange(W).float() + 0.005 * torch.arange(H).float()[:, None]
    depth = (1 / inverse)[None]
    assert not depth_edges(depth).any()
    depth[:, :, 20:] = 0.0
    assert depth_edges(depth)[0, 0].nonzero()[:, 0].tolist() == [19, 20]


def test_changes_are_what_a_slow_loop_finds() -> None:
    labels = torch.from_numpy(np.random.default_rng(3).integers(0, 2, (2, 7, 9)))
    for t, i, j in np.ndindex(2, 7, 9):
        around = [(i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)]
        expected = any(labels[t, a, b] != labels[t, i, j] for a, b in around if 0 <= a < 7 and 0 <= b < 9)
        assert bool(changes(labels)[t, i, j]) == expected
