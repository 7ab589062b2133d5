"""Sparse points from pictures of a textured plane, and depth from sparse points."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scene4d.captures import Capture, View, open_capture
from scene4d.captures.frames import CameraTrack
from scene4d.fitting.flows import pixel_grid, sample
from scene4d.fitting.footage import Footage, open_footage
from scene4d.fitting.hull import project
from scene4d.fitting.sparse import completed_depth, fundamental, triangulated_points
from scene4d.worlds import CaptureOptions, Texture, arc_rig, capture_world, make_world

PLANE_Y = 1.5  # metres: where the wall of `plane_sphere` stands


@pytest.fixture(scope="module")
def wall(tmp_path_factory: pytest.TempPathFactory) -> Footage:
    """Three still cameras before a wall with small texture and nothing else."""
    world = make_world("plane_sphere")
    plane = world.objects[0]
    fine = Texture((0.55, 0.5, 0.45), noise=0.25, wavelength=0.2, seed=4)
    world = replace(world, objects=(replace(plane, texture=fine),))
    rig = arc_rig(world, 240, 180)
    rig = replace(rig, names=rig.names[:3], world_to_cam=rig.world_to_cam[[0, 2, 5]], test_cameras=())
    out = tmp_path_factory.mktemp("wall") / "capture"
    capture_world(world, rig, out, CaptureOptions(frames=1, fps=1.0, samples=2, masks=False, points=0, tracks=10))
    capture = open_capture(out)
    return open_footage(capture, capture.views)


def test_triangulated_points_lie_on_the_plane(wall: Footage) -> None:
    pictures = {v.camera: wall.image(v) for v in wall.views}
    points = triangulated_points(wall, pictures)
    assert len(points) > 80
    off = (points[:, 1] - PLANE_Y).abs()
    assert float(off.median()) < 0.01  # half a pixel at this distance and these angles
    assert float((off < 0.05).float().mean()) > 0.97
    assert float(points[:, 0].std()) > 0.4 and float(points[:, 2].std()) > 0.3  # all over the picture


def test_what_masks_call_moving_gives_no_points(wall: Footage) -> None:
    masked = Footage(wall.capture, wall.views)
    for view in wall.views:
        half = torch.zeros(view.height, view.width, dtype=torch.bool)
        half[: view.height // 2] = True
        masked.motion_masks[view.key] = half
    points = triangulated_points(masked, {})
    assert len(points) > 20
    lower = points[:, 2] < 0.1  # the world's z is up; the pictures' middle looks at about 0
    assert float(lower.float().mean()) > 0.97


def test_fundamental_matrix_puts_a_point_on_its_line(wall: Footage) -> None:
    a, b = wall.views[0], wall.views[2]
    xyz = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double()
    uv = [project(wall.capture.cameras([v], torch.float64), xyz)[0].numpy() for v in (a, b)]
    lines = np.c_[uv[0], np.ones(50)] @ fundamental(a, b).T
    lines /= np.linalg.norm(lines[:, :2], axis=1, keepdims=True)
    assert np.abs((lines * np.c_[uv[1], np.ones(50)]).sum(1)).max() < 1e-6
    assert np.abs((lines * np.c_[uv[1] + 5.0, np.ones(50)]).sum(1)).max() > 1.0


def test_depth_completed_from_points_of_a_plane_is_the_planes(wall: Footage) -> None:
    view = wall.views[1]
    truth = wall.depth(view)
    assert truth is not None
    g = torch.Generator().manual_seed(1)
    points = torch.rand(600, 3, generator=g) * torch.tensor([6.0, 0.0, 5.0]) + torch.tensor([-3.0, PLANE_Y, -2.5])
    depth = completed_depth(wall, view, points)
    assert depth is not None and depth.shape == (view.height, view.width)
    error = (depth - truth).abs() / truth
    assert float(error.mean()) < 0.01
    assert float(error.quantile(0.99)) < 0.04


def test_a_few_points_far_in_front_do_not_bend_the_plane(wall: Footage) -> None:
    view = wall.views[1]
    truth = wall.depth(view)
    assert truth is not None
    g = torch.Generator().manual_seed(1)
    points = torch.rand(600, 3, generator=g) * torch.tensor([6.0, 0.0, 5.0]) + torch.tensor([-3.0, PLANE_Y, -2.5])
    points[::15, 1] = -1.0  # wrong matches
    depth = completed_depth(wall, view, points)
    assert depth is not None
    assert float(((depth - truth).abs() / truth > 0.05).float().mean()) < 0.02


def test_with_too_few_points_in_the_picture_depth_is_unknown(wall: Footage) -> None:
    view = wall.views[0]
    wide = torch.tensor([[-0.2, 1.5, 0.0], [0.3, 1.5, 0.2]]).repeat(4, 1)
    assert completed_depth(wall, view, wide) is None
    behind = torch.tensor([[0.0, -9.0, 0.0]]).repeat(100, 1)
    assert completed_depth(wall, view, behind) is None


def test_pictures_without_texture_give_no_points(wall: Footage) -> None:
    grey = {v.camera: torch.full((v.height, v.width, 3), 0.5) for v in wall.views}
    assert triangulated_points(wall, grey).shape == (0, 3)


def side_by_side(period: tuple[int, int]) -> tuple[Footage, dict[str, Tensor]]:
    """Two cameras half a metre apart, 3 m before a wall whose texture repeats every `period` (x, y) pixels."""
    K = torch.tensor([[200.0, 0, 100], [0, 200.0, 75], [0, 0, 1]]).double()
    poses = {"left": torch.eye(4).double(), "right": torch.eye(4).double()}
    poses["right"][0, 3] = -0.5
    views = tuple(View(name, 0, 0.0, pose, K, 200, 150, 0) for name, pose in poses.items())
    capture = Capture(Path("none"), "none", views, {name: CameraTrack(name, {}, ()) for name in poses})
    g = torch.Generator().manual_seed(3)
    tile = torch.rand(1, 1, period[1], period[0], generator=g)
    tile = F.avg_pool2d(F.pad(tile, (2, 2, 2, 2), "circular"), 5, 1)[0, 0]  # spots of some pixels
    tile = (tile - tile.mean()) / tile.std() * 0.2 + 0.5
    grid = pixel_grid(150, 200)
    shifts = {"left": 0.0, "right": 200 * 0.5 / 3.0}
    repeated = tile.repeat(450 // period[1] + 2, 600 // period[0] + 2)
    start = torch.tensor([2.0 * period[0], 1.0 * period[1]])
    pictures = {}
    for name, shift in shifts.items():
        places = (grid + torch.tensor([shift, 0.0]) + start).reshape(-1, 2)
        pictures[name] = sample(repeated, places).reshape(150, 200, 1).expand(-1, -1, 3).clamp(0, 1)
    return open_footage(capture, views), pictures


def test_what_repeats_off_the_epipolar_line_is_told_apart_by_it() -> None:
    points = triangulated_points(*side_by_side((300, 40)))  # each row of features is there almost four times
    assert len(points) > 200
    assert float((points[:, 2] - 3).abs().median()) < 0.03
    assert float(((points[:, 2] - 3).abs() < 0.2).float().mean()) > 0.97


def test_what_repeats_along_the_epipolar_line_is_not_believed() -> None:
    assert len(triangulated_points(*side_by_side((25, 300)))) < 8
