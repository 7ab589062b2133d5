"""Optical flow between two frames, against pictures that were moved by known amounts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from scene4d.fitting.flows import dis_flow, guessed_flow, pair_flow, pixel_grid, sample


def texture(xy: Tensor, seed: int = 0, wavelength: float = 14.0) -> Tensor:
    """A smooth random colour [..., 3] uint8 at places [..., 2] in pixels."""
    g = torch.Generator().manual_seed(seed)
    angles, phases = 2 * math.pi * torch.rand(3, 12, generator=g), 2 * math.pi * torch.rand(3, 12, generator=g)
    lengths = wavelength * (1 + 2 * torch.rand(3, 12, generator=g))
    waves = torch.stack([angles.cos(), angles.sin()], -1) * (2 * math.pi / lengths)[..., None]  # [3, 12, 2]
    value = torch.sin(torch.einsum("...a,cka->...ck", xy, waves) + phases).mean(-1)
    return (127.5 + 220 * value).clamp(0, 255).byte()


def two_things(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Masks of instances 1 and 2 that move by (5, 0) and (-3, 7)."""
    a, b = torch.zeros(2, height, width, dtype=torch.int32)
    a[10:20, 8:24], b[10:20, 13:29] = 1, 1
    a[30:42, 40:50], b[37:49, 37:47] = 2, 2
    return a, b


@pytest.mark.parametrize(("height", "width"), [(90, 120), (250, 300)])  # smaller and larger than the finest level
def test_flow_of_a_shifted_picture_is_the_shift(height: int, width: int) -> None:
    shift = torch.tensor([3.4, -2.2])
    grid = pixel_grid(height, width)
    flow = dis_flow(texture(grid), texture(grid - shift))
    inner = flow[10:-10, 10:-10] - shift
    assert flow.shape == (height, width, 2)
    assert float(inner.norm(dim=-1).mean()) < 0.2
    assert float(inner.norm(dim=-1).quantile(0.95)) < 0.5


def test_flow_goes_from_the_first_picture_to_the_second() -> None:
    """A picture that grows about its middle: flow varies over the picture and belongs to the first one's pixels."""
    grid = pixel_grid(120, 160)
    middle, growth = torch.tensor([80.0, 60.0]), 1.05
    flow = dis_flow(texture(grid), texture(middle + (grid - middle) / growth))
    error = (flow - (growth - 1) * (grid - middle))[10:-10, 10:-10].norm(dim=-1)
    assert float(error.mean()) < 0.25


def test_a_guess_finds_a_shift_that_the_search_alone_does_not() -> None:
    grid, shift = pixel_grid(96, 200), torch.tensor([70.0, 0.0])
    a, b = texture(grid, wavelength=5.0), texture(grid - shift, wavelength=5.0)
    overlap = (slice(8, -8), slice(8, 200 - 70 - 8))
    alone = (dis_flow(a, b)[overlap] - shift).norm(dim=-1).median()
    guessed = (dis_flow(a, b, shift.expand(96, 200, 2).contiguous())[overlap] - shift).norm(dim=-1).median()
    assert float(alone) > 5.0
    assert float(guessed) < 0.3


def test_guessed_flow_moves_the_middle_of_each_instance_to_its_middle() -> None:
    a, b = two_things(60, 70)
    nobody = torch.zeros(0, 2)
    flow = guessed_flow(a, b, nobody, nobody, torch.zeros(0, dtype=torch.int32))
    torch.testing.assert_close(flow[a == 1], torch.tensor([5.0, 0.0]).expand(160, 2))
    torch.testing.assert_close(flow[a == 2], torch.tensor([-3.0, 7.0]).expand(120, 2))
    assert bool((flow[a == 0] == 0).all())


def test_guessed_flow_varies_within_an_instance_as_expected_shifts_do() -> None:
    """Points of a thing that turns: their expected shifts are wrong by a constant, the guess is not."""
    a, b = two_things(60, 70)
    places = pixel_grid(60, 70)[a == 1]
    turn = torch.tensor([[0.0, -0.1], [0.1, 0.0]])
    exact = (places - places.mean(0)) @ turn.T + torch.tensor([5.0, 0.0])
    owners = torch.ones(len(places), dtype=torch.int32)
    flow = guessed_flow(a, b, places, exact + torch.tensor([9.0, -4.0]), owners)
    torch.testing.assert_close(flow[a == 1], exact, atol=1e-4, rtol=0)
    others = guessed_flow(a, b, places, exact, 2 * owners)  # points of someone else say nothing about instance 1
    torch.testing.assert_close(others[a == 1], torch.tensor([5.0, 0.0]).expand(160, 2))


def test_the_middle_of_an_instance_that_the_border_cuts_is_not_believed() -> None:
    a, b = torch.zeros(2, 40, 60, dtype=torch.int32)
    a[10:20, 40:56], b[10:20, 48:] = 1, 1  # moves by (8, 0); a third of it leaves the picture
    places = torch.tensor([[48.0, 15.0]])
    known = guessed_flow(a, b, places, torch.tensor([[8.0, 0.0]]), torch.ones(1, dtype=torch.int32))
    torch.testing.assert_close(known[a == 1], torch.tensor([8.0, 0.0]).expand(160, 2))


def test_an_instance_that_is_gone_in_the_other_picture_is_guessed_to_stay() -> None:
    a, b = two_things(60, 70)
    b[b == 2] = 0
    flow = guessed_flow(a, b, torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0, dtype=torch.int32))
    assert bool((flow[a == 2] == 0).all()) and bool((flow[a == 1] != 0).any())


def test_pair_flow_trusts_what_both_pictures_show_and_not_what_gets_covered() -> None:
    height, width, shift = 120, 160, torch.tensor([14.0, 0.0])
    grid = pixel_grid(height, width)
    square_a, square_b = torch.zeros(2, height, width, dtype=torch.bool)
    square_a[40:80, 50:90], square_b[40:80, 64:104] = True, True
    wall = texture(grid, seed=1)
    a = torch.where(square_a[..., None], texture(grid, seed=2), wall)
    b = torch.where(square_b[..., None], texture(grid - shift, seed=2), wall)
    found = pair_flow(a, b)
    covered = square_b & ~square_a  # 14 pixels of the wall
    covered[:, :92] = covered[:, 102:] = False  # away from the square's own edges
    assert int(covered.sum()) > 300
    assert float(found.good[covered].float().mean()) < 0.25
    inner = torch.zeros_like(square_a)
    inner[46:74, 56:84] = True
    assert float(found.good[inner].float().mean()) > 0.95
    assert float((found.flow[inner] - shift).norm(dim=-1).mean()) < 0.3
    still = torch.ones_like(square_a)
    still[25:95, 30:125] = False
    assert float(found.good[still].float().mean()) > 0.95


def test_what_leaves_the_picture_is_not_trusted() -> None:
    grid, shift = pixel_grid(96, 128), torch.tensor([12.0, 0.0])
    found = pair_flow(texture(grid), texture(grid - shift))
    assert not bool(found.good[:, -11:].any())
    assert float(found.good[10:-10, 10:-24].float().mean()) > 0.95


def test_samples_at_pixel_centres_are_the_pixels_and_beyond_the_border_its_values_go_on() -> None:
    maps = torch.rand(5, 7, 2)
    torch.testing.assert_close(sample(maps, pixel_grid(5, 7).reshape(-1, 2)).reshape(5, 7, 2), maps)
    torch.testing.assert_close(sample(maps[..., 0], pixel_grid(5, 7).reshape(-1, 2)).reshape(5, 7), maps[..., 0])
    between = sample(maps, torch.tensor([[2.0, 1.5]]))[0]  # between columns 1 and 2 of row 1
    torch.testing.assert_close(between, (maps[1, 1] + maps[1, 2]) / 2)
    torch.testing.assert_close(sample(maps, torch.tensor([[-9.0, 0.5], [3.5, 99.0]])), maps[[0, 4], [0, 3]])
