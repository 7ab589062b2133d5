"""Captures of worlds: read back as any capture, compared with the world; noise; truth."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from renderers import Cameras
from scene4d.captures import open_capture
from scene4d.worlds import (
    CaptureOptions,
    Noise,
    Rig,
    World,
    arc_rig,
    capture_world,
    load_truth,
    make_world,
    moving_rig,
    points_at,
    poses_at,
    trace,
    tracks,
)
from scene4d.worlds.capturing import instance_size
from scene4d.worlds.correspondence import look
from scene4d.worlds.noise import noisy_mask, smooth_field
from scene4d.worlds.tracing import eyes_at
from scene4d.worlds.types import SurfacePoints

SMALL = CaptureOptions(frames=5, samples=1, points=150, tracks=40)


@pytest.fixture(scope="module")
def room() -> tuple[World, Rig]:
    world = make_world("room")
    return world, arc_rig(world, 48, 36)


@pytest.fixture(scope="module")
def folder(room: tuple[World, Rig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("captures") / "room"
    capture_world(*room, out, SMALL)
    return out


def test_capture_reads_back_as_the_world_was_seen(room: tuple[World, Rig], folder: Path) -> None:
    world, rig = room
    capture = open_capture(folder)
    assert capture.camera_names == list(rig.names) and capture.frames == [0, 1, 2, 3, 4]
    assert capture.fps == pytest.approx(4.0) and capture.units == "m" and capture.notes == ()
    for frame in (0, 3):
        truth = trace(world, rig.at(frame), frame / 4, samples=1)
        for c, name in enumerate(rig.names):
            view = capture.view(name, frame)
            assert view.time == pytest.approx(frame / 4)
            assert (capture.image(view) - truth.images[c]).abs().max() <= 0.5 / 255 + 1e-6
            assert torch.equal(capture.depth(view), truth.depth[c])
            assert torch.equal(capture.labels(view), truth.ids[c])
            torch.testing.assert_close(view.world_to_cam, rig.at(frame).world_to_cam[c], atol=1e-12, rtol=0)
            assert torch.equal(view.K, rig.K)


def test_held_out_cameras_and_frames_are_the_test_split(folder: Path) -> None:
    capture = open_capture(folder)
    training = {(v.camera, v.frame) for v in capture.split("train")}
    assert training == {(f"cam{c:02d}", k) for c in range(6) for k in (0, 1, 2, 4)}
    assert len(capture.split("test")) == 8 * 5 - len(training)


def test_points_lie_on_surfaces_that_stand_still_in_their_colours(room: tuple[World, Rig], folder: Path) -> None:
    world, rig = room
    points = open_capture(folder).points
    assert points is not None and len(points) == 150
    found = []
    for time in (0.0, 0.5, 1.0):
        truth = trace(world, rig.at(0), time, samples=1)
        for c, camera in enumerate(rig.at(0).world_to_cam):
            cam = points.xyz.double() @ camera[:3, :3].T + camera[:3, 3]
            pixels = cam @ rig.K.T
            j, i = (pixels[:, :2] / pixels[:, 2:]).long().unbind(-1)
            inside = (cam[:, 2] > 0) & (i >= 0) & (i < 36) & (j >= 0) & (j < 48)
            i, j = i.clamp(0, 35), j.clamp(0, 47)
            here = inside & ((truth.depth[c, i, j] - cam[:, 2]).abs() < 0.15)
            gap = (truth.images[c, i, j] - points.rgb).abs().amax(-1)
            found.append(torch.where(here & (truth.ids[c, i, j] <= 1), gap, torch.inf))
    seen = torch.stack(found).isfinite()
    assert (seen.sum(0) >= 2).double().mean() > 0.97  # on the background or the crate, in two views or more
    assert torch.stack(found).amin(0).median() < 0.05
    training = Cameras(rig.at(0).world_to_cam[:6], rig.K.expand(6, 3, 3), 48, 36)
    seen = [[look(world, eye, points.xyz.double())[3] for eye in eyes_at(world, training, k / 4)] for k in (0, 1, 3, 4)]
    views = torch.stack([torch.stack(row) for row in seen]).any(0).sum(0)
    assert views.min() >= 2  # cameras that stand still: another frame is no other viewpoint


def test_truth_holds_the_world_its_poses_and_tracks(room: tuple[World, Rig], folder: Path) -> None:
    world, rig = room
    read, truth = load_truth(folder)
    assert read == world
    assert truth["times"].tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    np.testing.assert_array_equal(truth["T_world_obj"][2], poses_at(world, 0.5).T_world_obj.numpy())
    points = SurfacePoints(torch.from_numpy(truth["track_parts"]), torch.from_numpy(truth["track_rest"]))
    np.testing.assert_array_equal(truth["track_xyz"][3], points_at(world, points, 0.75).numpy())
    expected = tracks(world, points, rig.at(0), [0.25])
    np.testing.assert_array_equal(truth["track_pixels"][1], expected.pixels[0].numpy())
    np.testing.assert_array_equal(truth["track_visible"][1], expected.visible[0].numpy())
    assert np.bincount(truth["track_instances"]).tolist() == [10, 10, 10, 10]
    assert truth["world_to_cam"].shape == (8, 5, 4, 4)


def test_sizes_of_instances_are_their_extents() -> None:
    assert instance_size(make_world("plane_sphere"), 1) == pytest.approx(1.1)
    arm = make_world("arm")
    top = poses_at(arm, 0.0).T_world_rest[:, 2, 3].max().item()
    assert top < instance_size(arm, 1) < 1.6 * top


def test_one_moving_camera_gets_a_pose_a_frame(tmp_path: Path) -> None:
    world = make_world("room")
    rig = moving_rig(world, 4, 40, 30)
    capture_world(world, rig, tmp_path / "out", CaptureOptions(frames=4, samples=1, points=50, tracks=20))
    capture = open_capture(tmp_path / "out")
    assert [len(capture.split(s)) for s in ("train", "test")] == [3, 1] and not capture.is_static("cam00")
    for k in range(4):
        pose = capture.view("cam00", k).world_to_cam
        torch.testing.assert_close(pose, rig.at(k).world_to_cam[0], atol=1e-12, rtol=0)
        depth = capture.depth(capture.view("cam00", k))
        assert torch.equal(depth, trace(world, rig.at(k), k / 3, samples=1).depth[0])
    with pytest.raises(ValueError, match="rig must have 1 or 5 poses a camera, got 4"):
        capture_world(world, rig, tmp_path / "other", SMALL)


def written(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files if p.name != "truth.npz"}  # zip has dates


def test_noise_is_seeded_and_of_its_size_and_leaves_truth_and_images(
    room: tuple[World, Rig], folder: Path, tmp_path: Path
) -> None:
    def noisy(name: str, seed: int) -> Path:
        noise = Noise(depth=0.02, pose_degrees=0.5, pose_shift=0.01, mask_pixels=1.0, seed=seed)
        capture_world(*room, tmp_path / name, CaptureOptions(5, samples=1, points=150, tracks=40, noise=noise))
        return tmp_path / name

    first, again, other = noisy("a", 1), noisy("b", 1), noisy("c", 2)
    assert written(first) == written(again) != written(other)
    clean, found = open_capture(folder), open_capture(first)
    ratios, turns, changed = [], [], []
    for view in found.views:
        same = clean.view(view.camera, view.frame)
        assert torch.equal(found.image_u8(view), clean.image_u8(same))
        ratios.append(found.depth(view) / clean.depth(same))
        relative = view.world_to_cam @ torch.linalg.inv(same.world_to_cam)
        turns.append(torch.arccos(((relative[:3, :3].trace() - 1) / 2).clamp(-1, 1)).rad2deg())
        changed.append((found.labels(view) != clean.labels(same)).double().mean())
    assert torch.stack(ratios).std().item() == pytest.approx(0.02, rel=0.25)
    assert torch.stack(ratios).mean().item() == pytest.approx(1.0, abs=0.01)
    # a rotation vector of three components of deviation 0.5 has a mean length of 0.5 * 1.6
    assert torch.stack(turns).mean().item() == pytest.approx(0.8, rel=0.4)
    assert 0.002 < torch.stack(changed).mean() < 0.08
    np.testing.assert_array_equal(load_truth(first)[1]["world_to_cam"], load_truth(folder)[1]["world_to_cam"])


def test_mask_noise_moves_borders_of_every_direction_about_as_far_as_it_says() -> None:
    noise, random = Noise(mask_pixels=2.0), np.random.default_rng(3)
    upright = np.repeat((np.arange(200) < 100)[None].astype(np.uint8), 200, 0)
    for mask in (upright, upright.T):
        changed = np.mean([(noisy_mask(mask, noise, random) != mask).sum() for _ in range(20)])
        # the mean of |x| is 0.8 deviations; that many pixels change in each of 200 rows
        assert changed / 200 == pytest.approx(0.8 * 2.0, rel=0.15)


def test_smooth_field_has_unit_deviation_and_is_smooth() -> None:
    field = smooth_field(400, 600, 20.0, np.random.default_rng(0))
    assert field.std() == pytest.approx(1.0, rel=0.15)
    assert np.abs(np.diff(field, axis=0)).mean() < 0.1


def test_layers_and_points_can_be_left_out(tmp_path: Path, room: tuple[World, Rig]) -> None:
    options = CaptureOptions(frames=2, fps=30.0, samples=1, masks=False, depth=False, points=0, tracks=10)
    capture_world(*room, tmp_path / "out", options)
    capture = open_capture(tmp_path / "out")
    assert not capture.has("mask") and not capture.has("depth") and capture.points is None and capture.fps == 30.0
    assert not (tmp_path / "out" / "masks").exists()


def test_progress_is_told_and_a_capture_that_stops_leaves_no_folder(tmp_path: Path, room: tuple[World, Rig]) -> None:
    calls = []

    def stop_at(count: int) -> Callable[[int, int], None]:
        def progress(done: int, total: int) -> None:
            calls.append((done, total))
            if done == count:
                raise KeyboardInterrupt

        return progress

    with pytest.raises(KeyboardInterrupt):
        capture_world(*room, tmp_path / "out", SMALL, stop_at(2))
    assert calls == [(1, 5), (2, 5)] and not (tmp_path / "out").exists()
    capture_world(*room, tmp_path / "out", SMALL, stop_at(99))
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    with pytest.raises(ValueError, match="out must not exist"):
        capture_world(*room, tmp_path / "out", SMALL)


@pytest.mark.parametrize("bad", [{"frames": 0}, {"samples": 0}, {"tracks": 0}, {"points": -1}, {"fps": 0.0}])
def test_wrong_options_are_refused(bad: dict) -> None:
    (name,) = bad
    with pytest.raises(ValueError, match=f"{name} must"):
        CaptureOptions(**bad)


def test_files_are_what_the_page_says(folder: Path) -> None:
    data = json.loads((folder / "cameras.json").read_text())
    assert (data["format"], data["version"], data["units"], data["points"]) == ("scene4d-capture", 1, "m", "points.ply")
    assert data["split"] == {"test_cameras": ["cam06", "cam07"], "test_frames": [3]}
    camera = data["cameras"][0]
    assert camera["images"] == "images/cam00" and (camera["fps"], camera["frames"]) == (4.0, 5)
    with Image.open(folder / camera["masks"] / "00000.png") as mask:
        assert mask.mode == "L"
    assert np.load(folder / camera["depth"] / "00004.npy").dtype == np.float32
