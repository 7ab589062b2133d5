"""Points carried through time, against the exact tracks of worlds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scene4d.captures import open_capture
from scene4d.captures.frames import FrameStore
from scene4d.fitting.footage import Footage, open_footage
from scene4d.fitting.hull import project
from scene4d.fitting.tracking import PointCloud, PointTracks, neighbours, track_points, unproject
from scene4d.worlds import (
    CaptureOptions,
    Rig,
    SurfacePoints,
    World,
    arc_rig,
    capture_world,
    make_world,
    moving_rig,
    points_at,
    sample_points,
)

FRAMES, FPS = 7, 10.0
MIDDLE = 3
WIDTH, HEIGHT = 120, 90


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Rig, str], Path]:
    """Makes the capture of `plane_sphere` by a rig, once for each name."""
    folder = tmp_path_factory.mktemp("worlds")

    def make(rig: Rig, name: str) -> Path:
        if not (folder / name).exists():
            options = CaptureOptions(frames=FRAMES, fps=FPS, samples=2, points=0, tracks=10)
            capture_world(world(), rig, folder / name, options)
        return folder / name

    return make


def world() -> World:
    return make_world("plane_sphere")


def four_cameras() -> Rig:
    """Of the standard arc, at both ends and within."""
    rig = arc_rig(world(), WIDTH, HEIGHT)
    return replace(rig, names=rig.names[:4], world_to_cam=rig.world_to_cam[[0, 2, 3, 5]], test_cameras=())


def footage_of(folder: Path, without: tuple[str, ...] = ()) -> Footage:
    capture = open_capture(folder)
    tracks = {
        name: replace(track, layers={k: v for k, v in track.layers.items() if k not in without})
        for name, track in capture.tracks.items()
    }
    return open_footage(replace(capture, tracks=tracks, store=FrameStore()), capture.views)


def points_of_sphere(rig: Rig, frame: int, count: int) -> SurfacePoints:
    points = sample_points(world(), rig.at(frame), frame / FPS, 2 * count)
    sphere = torch.tensor([o.instance for o in world().objects])[points.parts] == 1
    return SurfacePoints(points.parts[sphere], points.rest[sphere])


def tracked(footage: Footage, points: SurfacePoints, frame: int) -> tuple[PointTracks, Tensor]:
    """Tracks from a frame, and where the points really are, [T, n, 3]."""
    xyz = points_at(world(), points, frame / FPS).float()
    found = track_points(footage, xyz, torch.ones(len(xyz), dtype=torch.int32), frame)
    truth = torch.stack([points_at(world(), points, footage.time(f)).float() for f in footage.frames])
    return found, truth


@pytest.mark.parametrize("frame", [0, MIDDLE])
def test_cameras_around_carry_points_without_depth(captured: Callable[[Rig, str], Path], frame: int) -> None:
    footage = footage_of(captured(four_cameras(), "four"), without=("depth",))
    found, truth = tracked(footage, points_of_sphere(four_cameras(), frame, 150), frame)
    assert found.frames == tuple(range(FRAMES)) and found.origin == frame
    assert torch.equal(found.xyz[frame], truth[frame])
    moved = (truth[-1] - truth[0]).norm(dim=-1).mean()
    assert float(moved) > 0.5
    error = (found.xyz - truth).norm(dim=-1)
    # a pixel is 3 cm here, and flow adds up over the frames
    assert float(error.median()) < 0.03
    assert float(error[-1].median()) < 0.06


def test_one_moving_camera_carries_points_at_measured_depth(captured: Callable[[Rig, str], Path]) -> None:
    rig = moving_rig(world(), FRAMES, WIDTH, HEIGHT)
    footage = footage_of(captured(rig, "moving"))
    found, truth = tracked(footage, points_of_sphere(rig, MIDDLE, 150), MIDDLE)
    error = (found.xyz - truth).norm(dim=-1)
    near = error[MIDDLE - 1 : MIDDLE + 2]
    assert float(near.median()) < 0.02
    assert float(error.median()) < 0.04


def test_points_count_as_seen_where_a_camera_looks_at_them_and_not_through_others(
    captured: Callable[[Rig, str], Path],
) -> None:
    """Points all over the sphere, dense enough to hide each other."""
    footage = footage_of(captured(four_cameras(), "four"), without=("depth",))
    g = torch.Generator().manual_seed(0)
    rest = 0.55 * torch.nn.functional.normalize(torch.randn(2000, 3, generator=g), dim=1).double()
    found, truth = tracked(footage, SurfacePoints(torch.ones(2000, dtype=torch.int64), rest), MIDDLE)
    away = truth[MIDDLE] - truth[MIDDLE].mean(0)
    front, back = away[:, 1] < -0.3, away[:, 1] > 0.2  # cameras look along +y
    assert float((found.seen[:, front] > 0.5).float().mean()) > 0.85
    assert float((found.seen[:, back] > 0.5).float().mean()) < 0.2
    assert float((found.xyz - truth).norm(dim=-1)[:, front].median()) < 0.03


def test_what_stands_still_stays(captured: Callable[[Rig, str], Path]) -> None:
    footage = footage_of(captured(four_cameras(), "four"), without=("depth", "mask"))
    points = sample_points(world(), four_cameras().at(0), 0.0, 400)
    wall = points.parts == 0
    xyz = points_at(world(), points, 0.0).float()[wall]
    far = xyz[(xyz[:, 0].abs() > 1.2)]  # the sphere crosses the middle
    found = track_points(footage, far, torch.zeros(len(far), dtype=torch.int32), 0)
    assert len(far) > 20
    assert float((found.xyz - far).norm(dim=-1).median()) < 0.01


def test_neighbours_are_the_nearest_of_the_same_instance_itself_first() -> None:
    g = torch.Generator().manual_seed(0)
    xyz, instances = torch.randn(60, 3, generator=g), (torch.arange(60) % 3).int()
    near, weights = neighbours(xyz, instances, 5)
    for i in range(60):
        mine = (instances == instances[i]).nonzero()[:, 0]
        order = mine[(xyz[mine] - xyz[i]).norm(dim=1).argsort()][:5]
        assert near[i].tolist() == order.tolist()
    assert bool((weights[:, 0] == 1).all()) and bool((weights.diff(dim=1) <= 0).all())
    alone, weight = neighbours(xyz[:2], torch.tensor([1, 2]), 5)  # no others: only itself counts
    assert alone.tolist() == [[0] * 5, [1] * 5]
    assert weight.tolist() == [[1, 0, 0, 0, 0]] * 2


def test_points_take_the_rigid_motion_of_the_trusted_ones_around_them() -> None:
    """A third of the points say nonsense and are not trusted; the others turn and shift together."""
    g = torch.Generator().manual_seed(2)
    xyz = torch.rand(300, 3, generator=g)
    turn = torch.linalg.matrix_exp(torch.tensor([[0.0, -0.2, 0.1], [0.2, 0.0, 0.0], [-0.1, 0.0, 0.0]]))
    move = xyz @ turn.T + torch.tensor([0.3, 0.0, -0.1]) - xyz
    trust = (torch.arange(300) % 3 > 0).float() + 1e-6
    said = torch.where(trust[:, None] > 0.5, move, torch.randn(300, 3, generator=g))
    smoothed = PointCloud(xyz, torch.ones(300, dtype=torch.int32)).smooth(xyz, said, trust)
    assert float((smoothed - move).norm(dim=1).max()) < 0.01


def test_unproject_undoes_project() -> None:
    cameras = four_cameras().at(0)
    one = replace(cameras, world_to_cam=cameras.world_to_cam[1:2], K=cameras.K[1:2])
    xyz = torch.randn(40, 3, generator=torch.Generator().manual_seed(1)).double()
    uv, z = project(one, xyz)
    torch.testing.assert_close(unproject(one, uv, z), xyz)
