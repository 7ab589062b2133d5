"""Where the camera and things are found: cameras and shifts of known size, in traced worlds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from renderers import Cameras
from scene4d.metrics.region_control import camera_errors, object_errors
from scene4d.worlds import Move, Rig, arc_rig, edited, make_world, trace, translation

WIDTH, HEIGHT = 160, 120


def turned(rig: Rig, degrees: float, shift: float) -> Cameras:
    """The rig's first camera, turned about its vertical axis and shifted along its own x axis."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    change = torch.tensor([[c, 0, -s, 0], [0, 1, 0, 0], [s, 0, c, 0], [0, 0, 0, 1.0]]).double()
    change[0, 3] = -shift
    return Cameras(change @ rig.at(0).world_to_cam[:1], rig.K[None], WIDTH, HEIGHT)


@pytest.mark.parametrize(("degrees", "shift"), [(0.0, 0.0), (3.0, 0.0), (0.0, 0.2), (-2.0, 0.1)])
def test_camera_that_is_off_is_found_as_far_off_as_it_is(degrees: float, shift: float) -> None:
    world = make_world("room")
    rig = arc_rig(world, WIDTH, HEIGHT)
    truth = trace(world, turned(rig, 0.0, 0.0), 0.0, samples=2)
    output = trace(world, turned(rig, degrees, shift), 0.0, samples=2)
    turn, way = camera_errors(output.images, truth.images, truth.depth, truth.ids == 0, rig.K[None])
    assert turn.value == pytest.approx(abs(degrees), abs=0.35)
    # the median depth of the matched features lies between the nearest and the farthest
    low, high = shift / float(truth.depth.max()), shift / float(truth.depth.min())
    assert low - 0.004 <= way.value <= high + 0.004 and way.count == 1


def test_camera_of_a_blank_or_foreign_output_is_skipped() -> None:
    world = make_world("room")
    rig = arc_rig(world, WIDTH, HEIGHT)
    truth = trace(world, turned(rig, 0.0, 0.0), 0.0, samples=1)
    noise = torch.from_numpy(np.random.default_rng(0).random((1, HEIGHT, WIDTH, 3))).float()
    for output in (torch.full_like(truth.images, 0.5), noise):
        turn, way = camera_errors(output, truth.images, truth.depth, truth.ids == 0, rig.K[None])
        assert turn.value is None and way.value is None and "12 features" in turn.skipped


def spot(x: float, y: float) -> tuple[Tensor, Tensor]:
    """A textured disc of radius 9 before grey at a place in pixels, and its ids."""
    rows, columns = np.mgrid[0:60, 0:80] + 0.5
    u, v = columns - x, rows - y
    inside = u**2 + v**2 < 81
    look = 0.5 + 0.3 * np.sin(0.6 * u + 0.2 * v) * np.cos(0.5 * v)
    image = np.where(inside, look, 0.5)
    return torch.from_numpy(np.repeat(image[None, ..., None], 3, -1)).float(), torch.from_numpy(inside[None] * 4)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (5.0, 3.0), (-12.0, 8.0), (2.4, 0.0)])
def test_thing_that_is_off_is_found_as_many_pixels_off(shift: tuple[float, float]) -> None:
    truth, ids = spot(40, 30)
    output, _ = spot(40 + shift[0], 30 + shift[1])
    distance, found = object_errors(output * 0.8 + 0.1, truth, ids, [4])  # another exposure does not matter
    assert distance.value == pytest.approx(math.hypot(*shift), abs=0.15) and found.value == 1.0


def test_thing_partly_outside_the_picture_is_still_found() -> None:
    truth, ids = spot(40, 30)
    output, _ = spot(5.0, 30.0)
    assert object_errors(output, truth, ids, [4])[0].value == pytest.approx(35.0, abs=0.5)


def test_thing_that_is_gone_counts_as_not_found() -> None:
    truth, ids = spot(40, 30)
    rest = torch.from_numpy(np.random.default_rng(1).random((1, 60, 80, 3))).float()
    both = [torch.cat([a, b]) for a, b in ((truth, rest), (truth, truth), (ids, ids))]
    distance, found = object_errors(*both, [4])
    assert found.value == 0.5 and distance.value == pytest.approx(0.0, abs=0.1) and distance.count == 1
    distance, found = object_errors(rest, truth, ids, [4])
    assert found.value == 0.0 and "was found" in distance.skipped
    assert "large enough" in object_errors(rest, truth, ids, [9])[0].skipped


def test_moved_block_of_a_room_is_off_by_the_motion_in_pixels() -> None:
    world = make_world("room")
    camera = arc_rig(world, WIDTH, HEIGHT).at(0)
    camera = Cameras(camera.world_to_cam[2:3], camera.K[2:3], WIDTH, HEIGHT)
    world_after = edited(world, [Move(2, translation(0.15, 0.0, 0.0))])
    truth, output = (trace(w, camera, 0.3, samples=2) for w in (world_after, world))
    centers = [(t.ids[0] == 2).nonzero().double().mean(0) for t in (truth, output)]
    distance, found = object_errors(output.images, truth.images, truth.ids, [2])
    assert distance.value == pytest.approx(float((centers[0] - centers[1]).norm()), abs=1.5) and found.value == 1.0
