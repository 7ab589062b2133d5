"""Points to start from: on the surfaces that the pictures show, in their colours, no more than wanted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scene4d.captures import open_capture
from scene4d.captures.frames import FrameStore
from scene4d.fitting.backgrounds import find_backgrounds
from scene4d.fitting.clouds import Cloud, join, moving_cloud, pixel_cloud, static_cloud, thinned
from scene4d.fitting.footage import Footage, open_footage
from scene4d.fitting.hull import project
from scene4d.worlds import CaptureOptions, arc_rig, capture_world, make_world, poses_at

RADIUS, PLANE_Y = 0.55, 1.5  # of `plane_sphere`


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "capture"
    world = make_world("plane_sphere")
    capture_world(world, arc_rig(world, 96, 72), out, CaptureOptions(frames=4, samples=2, points=400, tracks=10))
    return out


def footage_of(folder: Path, without: tuple[str, ...] = ()) -> Footage:
    capture = open_capture(folder)
    tracks = {
        name: replace(track, layers={k: v for k, v in track.layers.items() if k not in without})
        for name, track in capture.tracks.items()
    }
    bare = replace(capture, tracks=tracks, store=FrameStore())
    return open_footage(bare, bare.views)


def sphere_center(time: float) -> Tensor:
    return poses_at(make_world("plane_sphere"), time).T_world_obj[1, :3, 3].float()


def random_cloud(n: int) -> Cloud:
    g = torch.Generator().manual_seed(0)
    xyz = torch.rand(n, 3, generator=g) * torch.tensor([2.0, 1.0, 0.5])
    return Cloud(xyz, torch.rand(n, 3, generator=g), torch.full((n,), 0.01), torch.arange(n, dtype=torch.int32))


def test_a_pixels_point_is_seen_in_that_pixel_at_that_depth_in_its_colour(folder: Path) -> None:
    footage = footage_of(folder)
    view = footage.views[1]
    depth, picture = footage.depth(view), footage.image(view)
    assert depth is not None
    pick = torch.zeros(view.height, view.width, dtype=torch.bool)
    pick[10:40, 20:70] = True
    cloud = pixel_cloud(footage, view, depth, picture, pick, 1)
    assert len(cloud) == 30 * 50
    uv, z = project(footage.capture.cameras([view]), cloud.xyz)
    row, column = uv[:, 1].floor().long(), uv[:, 0].floor().long()
    torch.testing.assert_close(uv - uv.floor(), torch.full_like(uv, 0.5), atol=1e-3, rtol=0)
    assert bool(pick[row, column].all())
    torch.testing.assert_close(z, depth[row, column], atol=1e-4, rtol=0)
    assert torch.equal(cloud.rgb, picture[row, column])
    ids = footage.instances(view)
    assert ids is not None and torch.equal(cloud.instances, ids[row, column].int())
    torch.testing.assert_close(cloud.radius, 0.6 * z / float(footage.capture.cameras([view]).K[0, 0, 0]))


def test_pixels_without_depth_give_no_points_and_a_stride_skips_pixels(folder: Path) -> None:
    footage = footage_of(folder)
    view = footage.views[0]
    depth = footage.depth(view)
    assert depth is not None
    holed = depth.clone()
    holed[:, :48] = 0
    everywhere = torch.ones_like(depth, dtype=torch.bool)
    whole = pixel_cloud(footage, view, holed, footage.image(view), everywhere, 1)
    assert len(whole) == 72 * 48
    sparse = pixel_cloud(footage, view, holed, footage.image(view), everywhere, 3)
    assert len(sparse) == 24 * 16
    uv, _ = project(footage.capture.cameras([view]), sparse.xyz)
    assert bool((((uv - 1.5) / 3 - ((uv - 1.5) / 3).round()).abs() < 1e-3).all())


@pytest.mark.parametrize("most", [1, 50, 700])
def test_a_thinned_cloud_has_at_most_so_many_points_of_the_cloud_spread_over_it(most: int) -> None:
    cloud = random_cloud(5000)
    thin = thinned(cloud, most, torch.Generator().manual_seed(1))
    assert 0.5 * most <= len(thin) <= most
    assert torch.equal(thin.xyz, cloud.xyz[thin.instances.long()])  # instances are row numbers here
    assert torch.equal(thin.rgb, cloud.rgb[thin.instances.long()])
    assert len(thin.instances.unique()) == len(thin)
    if most > 1:  # one point of each cell: no point of the cloud is further from one than a cell's diagonal
        side = 2 * float(thin.radius.max())
        assert float(torch.cdist(cloud.xyz, thin.xyz).amin(1).max()) <= 3**0.5 * side * (1 + 1e-5)
        assert side < 3 * (1.0 / most) ** (1 / 3)  # of a cubic metre: the grid is not much coarser than it must be


def test_a_cloud_that_is_small_enough_stays_as_it_is() -> None:
    cloud = random_cloud(30)
    assert thinned(cloud, 30, torch.Generator()) is cloud
    both = join([cloud, cloud.pick(torch.tensor([3, 1]))])
    assert len(both) == 32 and both.instances[-2:].tolist() == [3, 1]


def test_moving_points_at_measured_depth_lie_on_the_sphere(folder: Path) -> None:
    footage = footage_of(folder)
    frame = footage.frames[1]
    cloud = moving_cloud(footage, frame, 1000, torch.Generator().manual_seed(0))
    assert cloud is not None and 500 < len(cloud) <= 1000
    distance = (cloud.xyz - sphere_center(footage.time(frame))).norm(dim=1)
    torch.testing.assert_close(distance, torch.full_like(distance, RADIUS), atol=1e-3, rtol=0)
    assert bool((cloud.instances == 1).all())


def test_moving_points_without_depth_lie_on_the_hull_around_the_sphere(folder: Path) -> None:
    footage = footage_of(folder, without=("depth",))
    frame = footage.frames[1]
    cloud = moving_cloud(footage, frame, 3000, torch.Generator().manual_seed(0))
    assert cloud is not None and len(cloud) <= 3000
    away = cloud.xyz - sphere_center(footage.time(frame))
    seen = away[:, 1] < 0  # the cameras stand on an arc on the side of -y: behind, the hull has a tail
    distance = away[seen].norm(dim=1)
    assert float(distance.min()) > RADIUS * 0.85  # a hull is never smaller, but for a cell and a pixel
    assert float(distance.median()) < RADIUS * 1.25
    assert bool((cloud.instances == 1).all())
    # colours of points that face the cameras are those of the sphere in the pictures, not the wall's
    view = footage.at(frame)[2]
    ids, picture = footage.instances(view), footage.image(view)
    assert ids is not None
    on, off = picture[ids == 1].mean(0), picture[ids == 0].mean(0)
    shade = cloud.rgb[seen].mean(0)
    assert float((shade - on).norm()) < 0.5 * float((shade - off).norm())


def test_without_masks_or_with_one_camera_and_no_depth_nothing_moves(folder: Path) -> None:
    chance = torch.Generator()
    assert moving_cloud(footage_of(folder, without=("mask",)), 0, 100, chance) is None
    whole = footage_of(folder, without=("depth",))
    one = open_footage(whole.capture, [v for v in whole.views if v.camera == "cam00"])
    assert moving_cloud(one, one.frames[0], 100, chance) is None


@pytest.mark.parametrize("without", [(), ("depth",)])
def test_static_points_lie_on_the_wall(folder: Path, without: tuple[str, ...]) -> None:
    """At measured depth, and at depth from the capture's sparse points."""
    footage = footage_of(folder, without)
    cloud = static_cloud(footage, find_backgrounds(footage), 800, torch.Generator().manual_seed(0))
    assert 300 < len(cloud) <= 800
    off = (cloud.xyz[:, 1] - PLANE_Y).abs()
    assert float(off.median()) < 0.02
    if not without:
        assert float(off.max()) < 0.01  # no point of the sphere
    assert bool((cloud.instances == 0).all())
