"""Source pixels that show about the right surface: one picture of a wall whose depth is 4 % off."""

from __future__ import annotations

import torch
from torch import Tensor

from editors.scene_clips import RIM, loosened, nearly_seen
from scene4d.cues import PRESERVE, Prepared, SourceViews, TargetFrame, make_cue, prepare
from scene4d.cues.geometry import dilate
from tests.editors.plane_clips import H, W, Z, camera_at, wall_colors, wall_points

OFF = 1.04  # the source's depth, of the true one: more than the cue's 2 %, less than what is allowed besides


def views(instances: Tensor) -> Prepared:
    camera = camera_at(0.0)
    return prepare(
        SourceViews(
            images=(wall_colors(*wall_points(0.0)) * 255).round().to(torch.uint8)[None],
            depth=torch.full((1, H, W), Z * OFF),
            instances=instances[None].to(torch.int16),
            world_to_cam=camera.world_to_cam.float(),
            K=camera.K.float(),
            times=torch.zeros(1, dtype=torch.float64),
        )
    )


def target() -> TargetFrame:
    def stay(pixels: Tensor, points: Tensor, seconds: float) -> Tensor:
        return points

    nothing = torch.zeros(H, W, dtype=torch.bool)
    depth, ids = torch.full((H, W), Z), torch.zeros(H, W, dtype=torch.int16)
    return TargetFrame(camera_at(0.0), 0.0, depth, torch.ones(H, W), ids, nothing, stay, torch.zeros(H, W))


def test_pixels_whose_depth_is_a_little_off_are_found_where_the_cue_finds_none() -> None:
    prepared = views(torch.zeros(H, W))
    assert not (make_cue(prepared, target()).roles == PRESERVE).any()
    asked = torch.arange(W).expand(H, W) < 20
    colors, weight = nearly_seen(loosened(prepared), target())(asked)
    assert torch.equal(weight > 0, asked)
    truth = wall_colors(*wall_points(0.0))
    torch.testing.assert_close(colors[asked], truth[asked], atol=0.01, rtol=0)


def test_pixels_on_a_thing_and_near_its_outline_are_not_found() -> None:
    thing = torch.zeros(H, W, dtype=torch.bool)
    thing[10:20, 15:25] = True
    _, weight = nearly_seen(loosened(views(thing)), target())(torch.ones(H, W, dtype=torch.bool))
    assert not (weight > 0)[dilate(thing, RIM)].any()
    assert (weight > 0)[~dilate(thing, RIM + 1)].all()


def test_depth_that_is_far_off_is_not_found() -> None:
    prepared = loosened(views(torch.zeros(H, W)))
    frame = target()
    frame.depth[:, :] = 0.8 * Z
    assert not (nearly_seen(prepared, frame)(torch.ones(H, W, dtype=torch.bool))[1] > 0).any()
