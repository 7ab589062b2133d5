"""What stands still behind somebody, and where somebody is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scene4d.captures import open_capture
from scene4d.captures.frames import FrameStore
from scene4d.fitting.backgrounds import add_motion_masks, find_backgrounds, moving_parts, stable_background
from scene4d.fitting.footage import Footage, open_footage
from scene4d.worlds import CaptureOptions, Drive, arc_rig, capture_world, make_world, moving_rig

T, HEIGHT, WIDTH = 40, 48, 64
BODY = (slice(12, 40), slice(20, 40))
STAYS = 24  # frames, 60 %


def lingering(noise: float = 0.01) -> tuple[Tensor, Tensor]:
    """Frames [T, H, W, 3] of a checked body that stays for 60 % of the time, sways by pixels, then goes; the wall."""
    g = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    wall = 0.5 + 0.2 * torch.sin(torch.stack([0.2 * x + 0.1 * y, 0.15 * y, 0.1 * x - 0.2 * y], -1))
    checks = (((x // 3 + y // 3) % 2) * 0.3)[..., None] * torch.tensor([1.0, 0.8, 0.6])
    frames = wall.repeat(T, 1, 1, 1)
    for k in range(STAYS):
        dy, dx = torch.randint(-2, 3, (2,), generator=g).tolist()
        rows, columns = slice(BODY[0].start + dy, BODY[0].stop + dy), slice(BODY[1].start + dx, BODY[1].stop + dx)
        frames[k, rows, columns] = checks[BODY]
    return (frames + noise * torch.randn(frames.shape, generator=g)).clamp(0, 1), wall


def test_the_wall_behind_one_who_stays_for_most_of_the_time_is_found() -> None:
    frames, wall = lingering()
    found = (stable_background(frames) - wall).abs().mean(-1)
    median = (frames.median(0).values - wall).abs().mean(-1)
    assert float(median[BODY].mean()) > 0.1  # what the obvious way would take for the wall
    assert float(found[BODY].mean()) < 0.01
    assert float(found.max()) < 0.03


def test_background_is_a_mean_over_frames_so_noise_shrinks() -> None:
    g = torch.Generator().manual_seed(1)
    frames = 0.5 + 0.05 * torch.randn(30, 40, 40, 3, generator=g)
    assert float((stable_background(frames) - 0.5).square().mean().sqrt()) < 0.05 / 8**0.5 * 1.2  # 8 frames


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_few_frames_still_give_a_background(count: int) -> None:
    frames = torch.full((count, 20, 30, 3), 0.25)
    torch.testing.assert_close(stable_background(frames), frames[0])


def test_moving_parts_are_where_the_picture_differs_without_specks_and_holes() -> None:
    background = torch.full((60, 80, 3), 0.4)
    image = background.clone()
    image[20:40, 30:60, 1] += 0.3  # one channel is enough
    image[28:30, 40:42] = background[0, 0]  # a hole
    image[5, 5] += 0.5  # a speck
    image[50:52, 70:72] += 0.5  # too small
    image[45:60, 0:20] += 0.04  # a faint shadow
    mask = moving_parts(image, background)
    truth = torch.zeros(60, 80, dtype=torch.bool)
    truth[20:40, 30:60] = True
    assert mask.dtype == torch.bool
    assert int((mask & ~truth).sum()) < 0.2 * int(truth.sum())  # blurred edges
    assert bool(mask[22:38, 32:58].all())
    apart = ~mask.clone()
    apart[15:45, 25:65] = True
    assert bool(apart.all())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sphere that crosses the pictures of two cameras that stand still."""
    out = tmp_path_factory.mktemp("world") / "still"
    world = make_world("plane_sphere")
    plane, sphere = world.objects
    world = replace(world, objects=(plane, replace(sphere, motion=replace(sphere.motion, x=Drive(-1.6, rate=3.2)))))
    rig = arc_rig(world, 96, 72)
    rig = replace(rig, names=rig.names[:2], world_to_cam=rig.world_to_cam[:2], test_cameras=())
    capture_world(world, rig, out, CaptureOptions(frames=18, samples=2, depth=False, points=0, tracks=10))
    return out


def without_masks(folder: Path) -> Footage:
    capture = open_capture(folder)
    tracks = {
        name: replace(track, layers={k: v for k, v in track.layers.items() if k != "mask"})
        for name, track in capture.tracks.items()
    }
    bare = replace(capture, tracks=tracks, store=FrameStore())
    return open_footage(bare, bare.views)


def test_motion_masks_cover_what_moves(folder: Path) -> None:
    footage, whole = without_masks(folder), open_capture(folder)
    backgrounds = find_backgrounds(footage)
    assert sorted(backgrounds) == ["cam00", "cam01"]
    add_motion_masks(footage, backgrounds)
    overlaps = []
    for view in footage.views:
        found, truth = footage.instances(view), whole.mask(view)
        assert found is not None and truth is not None
        overlaps.append(float(((found > 0) & truth).sum()) / max(1.0, float(((found > 0) | truth).sum())))
    assert sum(overlaps) / len(overlaps) > 0.85
    assert min(overlaps) > 0.7


def test_masks_of_the_capture_are_kept(folder: Path) -> None:
    footage = without_masks(folder)
    view = footage.views[3]
    own = torch.zeros(view.height, view.width, dtype=torch.bool)
    own[5:9, 5:9] = True
    footage.motion_masks[view.key] = own
    add_motion_masks(footage, find_backgrounds(footage))
    assert torch.equal(footage.motion_masks[view.key], own)
    assert len(footage.motion_masks) == len(footage.views)
    given = open_capture(folder)
    footage = open_footage(given, given.views)
    add_motion_masks(footage, find_backgrounds(footage))
    assert footage.motion_masks == {}


def test_what_one_camera_alone_takes_for_moving_is_dropped_and_a_hole_in_one_mask_filled(tmp_path: Path) -> None:
    """A spot (a reflection) in the first of five cameras, and a hole in the second one's mask of the sphere."""
    world = make_world("plane_sphere")
    rig = arc_rig(world, 96, 72)
    rig = replace(rig, names=rig.names[:5], world_to_cam=rig.world_to_cam[:5], test_cameras=())
    capture_world(world, rig, tmp_path / "five", CaptureOptions(frames=3, samples=1, depth=False, points=0, tracks=10))
    whole, footage = open_capture(tmp_path / "five"), without_masks(tmp_path / "five")
    truth = {}
    for view in footage.at(1):
        mask = whole.mask(view)
        assert mask is not None
        truth[view.camera] = mask
        footage.motion_masks[view.key] = mask.clone()
    spot, hole = footage.motion_masks["cam00", 1], footage.motion_masks["cam01", 1]
    spot[4:14, 80:92] = True
    rows, columns = truth["cam01"].nonzero().float().mean(0).round().int().tolist()
    hole[rows - 3 : rows + 4, columns - 3 : columns + 4] = False
    add_motion_masks(footage, {})
    for name, mask in truth.items():
        found = footage.motion_masks[name, 1]
        assert float((found & mask).sum() / mask.sum()) > 0.97, name
        assert float((found & ~mask).sum() / mask.sum()) < 0.05, name


def test_a_moving_camera_has_no_background(tmp_path: Path) -> None:
    world = make_world("plane_sphere")
    options = CaptureOptions(frames=4, samples=1, masks=False, depth=False, tracks=10)
    capture_world(world, moving_rig(world, 4, 48, 36), tmp_path / "moving", options)
    capture = open_capture(tmp_path / "moving")
    assert find_backgrounds(open_footage(capture, capture.views)) == {}
