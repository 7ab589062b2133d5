"""Camera paths: curves through keys, generators, views between cameras, files."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

from renderers import Cameras
from scene4d.errors import InputError
from scene4d.path_files import load_path, save_nerfstudio, save_path
from scene4d.paths import (
    CameraPath,
    arc,
    between,
    cameras_at,
    frame_times,
    look_at,
    orbit,
    resized,
    scene_times_at,
    wiggle,
)

UP = torch.tensor([0.0, -1.0, 0.0]).double()
WIDTH, HEIGHT = 64, 48


def f64(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def intrinsics(focal: float = 70.0) -> Tensor:
    return f64([[focal, 0, 33.0], [0, focal * 1.02, 23.0], [0, 0, 1]])


def camera(eye: list[float], target: list[float], focal: float = 70.0) -> Cameras:
    return Cameras(look_at(f64(eye), f64(target), UP)[None], intrinsics(focal)[None], WIDTH, HEIGHT)


def random_path(T: int = 6, seed: int = 0, **options) -> CameraPath:
    g = torch.Generator().manual_seed(seed)
    times = (0.2 + torch.rand(T, generator=g).double()).cumsum(0)
    poses = torch.eye(4).double().repeat(T, 1, 1)
    turns = torch.randn(T, 3, generator=g).double().cumsum(0) * 0.4
    poses[:, :3, :3] = torch.from_numpy(Rotation.from_rotvec(turns.numpy()).as_matrix())
    poses[:, :3, 3] = torch.randn(T, 3, generator=g).double()
    K = torch.stack([intrinsics(50 + 10 * float(x)) for x in torch.rand(T, generator=g)])
    return CameraPath(times, poses, K, WIDTH, HEIGHT, **options)


def close_to_start(path: CameraPath) -> CameraPath:
    poses, K = path.world_to_cam.clone(), path.K.clone()
    poses[-1], K[-1] = poses[0], K[0]
    return replace(path, world_to_cam=poses, K=K, closed=True)


def pivot_pixels(cameras: Cameras, point: Tensor) -> Tensor:
    seen = (cameras.world_to_cam[:, :3, :3] @ point + cameras.world_to_cam[:, :3, 3]).unsqueeze(1) @ cameras.K.mT
    return (seen[..., :2] / seen[..., 2:])[:, 0]


def test_a_path_passes_through_its_keys() -> None:
    path = random_path()
    cameras = cameras_at(path, path.times)
    torch.testing.assert_close(cameras.world_to_cam, path.world_to_cam, atol=1e-12, rtol=0)
    torch.testing.assert_close(cameras.K, path.K)


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("easing", ["linear", "smooth"])
def test_pose_and_intrinsics_have_a_continuous_velocity(closed: bool, easing: str) -> None:
    path = replace(random_path(), easing=easing)
    path = close_to_start(path) if closed else path
    # times at which the curve is at its inner keys: 3 s^2 - 2 s^3 = share, by bisection
    shares = (path.times - path.times[0]) / path.duration
    low, high = torch.zeros_like(shares), torch.ones_like(shares)
    for _ in range(60):
        middle = (low + high) / 2
        less = 3 * middle**2 - 2 * middle**3 < shares
        low, high = torch.where(less, middle, low), torch.where(less, high, middle)
    at = path.times[0] + path.duration * (shares if easing == "linear" else low)
    keys = at if closed else at[1:-1]

    def slope(step: float) -> Tensor:
        a, b = cameras_at(path, keys), cameras_at(path, keys + step)
        stacked = [(y - x).flatten(1) / step for x, y in ((a.world_to_cam, b.world_to_cam), (a.K, b.K))]
        return torch.cat(stacked, 1)

    before, after = slope(-1e-6), slope(1e-6)
    if closed and easing == "linear":  # the last key is the first
        torch.testing.assert_close(before[-1], after[0], atol=2e-3, rtol=0)
    if easing == "linear":
        assert after.abs().max() > 1
    torch.testing.assert_close(before, after, atol=2e-3, rtol=0)  # 1e-6 times curvatures of some hundred


def test_a_straight_even_path_is_linear_and_two_turns_are_a_slerp() -> None:
    poses = torch.eye(4).double().repeat(4, 1, 1)
    poses[:, 0, 3] = torch.arange(4).double()
    path = CameraPath(torch.arange(4).double(), poses, intrinsics().expand(4, 3, 3), WIDTH, HEIGHT)
    t = torch.linspace(0, 3, 31, dtype=torch.float64)
    torch.testing.assert_close(cameras_at(path, t).world_to_cam[:, 0, 3], t)
    turned = Rotation.from_rotvec([[0, 0, 0], [0.5, -1.0, 1.3]])
    poses = torch.eye(4).double().repeat(2, 1, 1)
    poses[:, :3, :3] = torch.from_numpy(turned.as_matrix())
    path = CameraPath(f64([0.0, 2.0]), poses, intrinsics().expand(2, 3, 3), WIDTH, HEIGHT)
    t = torch.linspace(0, 2, 9, dtype=torch.float64)
    # the slerp of the inverses: the body of a camera is its own frame
    expected = torch.from_numpy(Slerp([0, 2], turned.inv())(t.numpy()).as_matrix()).mT
    torch.testing.assert_close(cameras_at(path, t).world_to_cam[:, :3, :3], expected)


def test_between_two_equal_keys_the_camera_stands_still() -> None:
    poses = torch.eye(4).double().repeat(4, 1, 1)
    poses[:, 0, 3] = f64([0.0, 1.0, 1.0, 3.0])
    path = CameraPath(torch.arange(4).double(), poses, intrinsics().expand(4, 3, 3), WIDTH, HEIGHT)
    x = cameras_at(path, torch.linspace(1, 2, 7, dtype=torch.float64)).world_to_cam[:, 0, 3]
    torch.testing.assert_close(x, torch.ones(7).double())


def test_uneven_keys_on_a_line_never_make_the_camera_go_back() -> None:
    poses = torch.eye(4).double().repeat(5, 1, 1)
    poses[:, 1, 3] = f64([0.0, 0.1, 5.0, 5.05, 6.0])
    path = CameraPath(f64([0.0, 1.0, 1.2, 3.0, 3.1]), poses, intrinsics().expand(5, 3, 3), WIDTH, HEIGHT)
    y = cameras_at(path, torch.linspace(0, 3.1, 400, dtype=torch.float64)).world_to_cam[:, 1, 3]
    assert (y.diff() >= -1e-12).all()


def test_outside_its_keys_an_open_path_rests_and_a_closed_one_repeats() -> None:
    path = random_path()
    outside = cameras_at(path, torch.stack([path.times[0] - 3, path.times[-1] + 3])).world_to_cam
    torch.testing.assert_close(outside, path.world_to_cam[[0, -1]], atol=1e-12, rtol=0)
    loop, t = close_to_start(path), path.times[0] + f64([0.1, 0.7])
    again = cameras_at(loop, t + 2 * loop.duration).world_to_cam
    torch.testing.assert_close(again, cameras_at(loop, t).world_to_cam)


def test_one_key_is_a_still_camera() -> None:
    still = random_path(T=1)
    cameras = cameras_at(still, f64([-1.0, 5.0]))
    torch.testing.assert_close(cameras.world_to_cam, still.world_to_cam.expand(2, 4, 4))
    assert frame_times(still, 25).tolist() == still.times.tolist()


def test_frames_of_an_open_path_include_both_ends_those_of_a_closed_one_do_not_repeat_the_first() -> None:
    path = replace(random_path(T=3), times=f64([1.0, 1.5, 3.0]))
    torch.testing.assert_close(frame_times(path, 2), f64([1.0, 1.5, 2.0, 2.5, 3.0]))
    torch.testing.assert_close(frame_times(close_to_start(path), 2), f64([1.0, 1.5, 2.0, 2.5]))


def test_scene_times_are_straight_between_the_keys() -> None:
    path = replace(random_path(T=3), times=f64([0.0, 1.0, 3.0]), scene_times=f64([5.0, 5.0, 9.0]))
    found = scene_times_at(path, f64([0.5, 2.0, 9.0]))
    assert found is not None and found.tolist() == [5.0, 7.0, 9.0]
    assert scene_times_at(random_path(), f64([0.0])) is None


def test_resized_camera_keeps_height_of_view_and_centres_the_width() -> None:
    here = camera([0, 0, -4], [0, 0, 0])
    points = f64([[0.0, 0.3, 0.0], [0.4, -0.7, 0.5]])
    small, wide = resized(here, 32, 24), resized(here, 100, 48)
    for point in points:
        torch.testing.assert_close(pivot_pixels(small, point) * 2, pivot_pixels(here, point))
        torch.testing.assert_close(pivot_pixels(wide, point) - f64([18.0, 0.0]), pivot_pixels(here, point))


def test_view_between_two_cameras_goes_around_what_both_look_at() -> None:
    target = [0.3, -0.1, 2.0]
    a, b = camera([-2, 0, -1], target, 60.0), camera([2, -0.5, -1.5], target, 90.0)
    for share, end in ((0.0, a), (1.0, b)):
        torch.testing.assert_close(between(a, b, share).world_to_cam, end.world_to_cam)
        torch.testing.assert_close(between(a, b, share).K, end.K)
    half = between(a, b, 0.5)
    torch.testing.assert_close(pivot_pixels(half, f64(target))[0], f64([33.0, 23.0]))  # K is the same there
    distances = [(c.centers[0] - f64(target)).norm() for c in (a, half, b)]
    assert distances[1] == pytest.approx(float(distances[0] + distances[2]) / 2)  # an arc: no short cut
    assert half.K[0, 0, 0] == pytest.approx(75.0)


def test_view_between_parallel_cameras_goes_straight() -> None:
    a, b = camera([-2, 0, -1], [-2, 0, 3]), camera([2, 1, -1], [2, 1, 3])
    torch.testing.assert_close(between(a, b, 0.25).centers[0], f64([-1.0, 0.25, -1.0]))
    torch.testing.assert_close(between(a, b, 0.25).world_to_cam[0, :3, :3], a.world_to_cam[0, :3, :3])


def test_orbit_keeps_distance_and_elevation_and_sees_its_target_upright() -> None:
    target, like = f64([1.0, 2.0, 3.0]), camera([1, 2, -5], [1, 2, 3])
    path = orbit(target, 4.0, like, up=UP, elevation=25.0, seconds=6.0)
    cameras = cameras_at(path, torch.linspace(0, 6, 50, dtype=torch.float64))
    away = cameras.centers - target
    # 0.5 %: cubic curves through keys 22.5 degrees apart
    torch.testing.assert_close(away.norm(dim=1), f64([4.0]).expand(50), rtol=0.005, atol=0)
    sines = (away @ UP) / away.norm(dim=1)
    torch.testing.assert_close(sines, f64([math.sin(math.radians(25))]).expand(50), rtol=0.005, atol=0)
    off = (pivot_pixels(cameras, target) - f64([33.0, 23.0])).norm(dim=1)
    assert off.max() < 0.5
    assert (cameras.world_to_cam[:, 1, :3] @ UP < -0.85).all()  # the picture's y axis points down
    assert path.closed and away[0, 2] < -3  # starts on the side of `like`
    angles = torch.atan2(away[:, 0], -away[:, 2])
    turned = (angles.diff() + math.pi).remainder(2 * math.pi) - math.pi
    assert abs(float(turned.sum())) == pytest.approx(2 * math.pi, rel=0.01)


def test_wiggle_starts_at_the_camera_and_keeps_its_point_in_place() -> None:
    here = camera([1, 0, -4], [0.5, 0.2, 2])
    pivot = here.centers[0] + 5 * here.world_to_cam[0, 2, :3]
    path = wiggle(here, 5.0, amplitude=0.1, seconds=2.0)
    cameras = cameras_at(path, torch.linspace(0, 2, 41, dtype=torch.float64))
    torch.testing.assert_close(cameras.world_to_cam[0], here.world_to_cam[0])
    assert (pivot_pixels(cameras, pivot) - f64([33.0, 23.0])).norm(dim=1).max() < 0.1
    steps = (cameras.centers - here.centers).norm(dim=1)
    assert steps.max() == pytest.approx(0.5, rel=0.05) and path.closed


def test_arc_starts_and_ends_at_its_cameras_and_slowly() -> None:
    a, b = camera([-2, 0, -1], [0, 0, 2]), camera([2, 0, -1], [0, 0, 2], 90)
    path = arc(a, b, 3.0)
    cameras = cameras_at(path, f64([0.0, 0.03, 1.5, 1.53, 3.0]))
    torch.testing.assert_close(cameras.world_to_cam[[0, 4]], torch.cat([a.world_to_cam, b.world_to_cam]))
    steps = cameras.centers.diff(dim=0).norm(dim=1)
    assert steps[0] < 0.1 * steps[2]


def test_our_file_gives_back_the_path_exactly(tmp_path: Path) -> None:
    path = close_to_start(replace(random_path(), scene_times=f64([0.0, 1, 2, 2, 1, 0.5]), easing="smooth"))
    save_path(tmp_path / "p.json", path)
    back = load_path(tmp_path / "p.json")
    for name in ("times", "world_to_cam", "K", "scene_times"):
        assert torch.equal(getattr(back, name), getattr(path, name)), name
    assert (back.width, back.height, back.closed, back.easing) == (WIDTH, HEIGHT, True, "smooth")


def test_our_file_may_give_a_vertical_field_of_view(tmp_path: Path) -> None:
    key = {"time": 0, "world_to_cam": torch.eye(4).tolist(), "fov": 90.0}
    data = {"format": "scene4d-camera-path", "version": 1, "width": 64, "height": 48, "keyframes": [key]}
    (tmp_path / "p.json").write_text(json.dumps(data))
    assert load_path(tmp_path / "p.json").K[0].tolist() == pytest.approx(f64([[24, 0, 32], [0, 24, 24], [0, 0, 1]]))


NERFSTUDIO = {  # a camera at (1, 2, 3) in OpenGL axes that looks down -z of the world
    "camera_type": "perspective",
    "render_height": 480,
    "render_width": 640,
    "fps": 10,
    "seconds": 0.2,
    "camera_path": [
        {"camera_to_world": [1, 0, 0, 1, 0, 1, 0, 2, 0, 0, 1, 3, 0, 0, 0, 1], "fov": 90, "aspect": 1.33},
        {"camera_to_world": [1, 0, 0, 1, 0, 1, 0, 2, 0, 0, 1, 4, 0, 0, 0, 1], "fov": 60, "aspect": 1.33},
    ],
}


def check_nerfstudio(path: CameraPath) -> None:
    cameras = Cameras(path.world_to_cam, path.K, path.width, path.height)
    torch.testing.assert_close(cameras.centers, f64([[1.0, 2, 3], [1, 2, 4]]))
    # a point 2 before, 1 to the right of and 1 above the first camera; 90 degrees: f = 240
    torch.testing.assert_close(pivot_pixels(cameras, f64([2.0, 3, 1]))[0], f64([320 + 120.0, 240 - 120]))
    assert path.times.tolist() == [0.0, 0.1]


@pytest.mark.parametrize("layout", ["rows", "columns", "string"])
def test_nerfstudio_files_are_read_in_their_axes_and_layouts(tmp_path: Path, layout: str) -> None:
    data = json.loads(json.dumps(NERFSTUDIO))
    for frame in data["camera_path"]:
        numbers = frame["camera_to_world"]
        columns = [numbers[4 * j + i] for i in range(4) for j in range(4)]
        frame["camera_to_world"] = {"rows": numbers, "columns": columns, "string": json.dumps(columns)}[layout]
    (tmp_path / "p.json").write_text(json.dumps(data))
    check_nerfstudio(load_path(tmp_path / "p.json"))


def test_nerfstudio_times_count_only_if_every_frame_has_one(tmp_path: Path) -> None:
    data = json.loads(json.dumps(NERFSTUDIO))
    data["camera_path"][0]["render_time"] = 0.25
    (tmp_path / "p.json").write_text(json.dumps(data))
    assert load_path(tmp_path / "p.json").scene_times is None
    data["camera_path"][1]["render_time"] = 0.75
    (tmp_path / "p.json").write_text(json.dumps(data))
    times = load_path(tmp_path / "p.json").scene_times
    assert times is not None and times.tolist() == [0.25, 0.75]


def test_nerfstudio_file_that_we_write_shows_the_same_frames(tmp_path: Path) -> None:
    K = f64([[50, 0, 32], [0, 50, 24], [0, 0, 1]])  # what the format can hold
    path = replace(random_path(), K=K.expand(6, 3, 3), scene_times=f64([0.0, 1, 2, 2, 1, 0.5]))
    save_nerfstudio(tmp_path / "p.json", path, fps=8.0)
    back, times = load_path(tmp_path / "p.json"), frame_times(path, 8.0)
    expected = cameras_at(path, times)
    torch.testing.assert_close(back.world_to_cam, expected.world_to_cam)
    torch.testing.assert_close(back.K, expected.K)
    torch.testing.assert_close(back.scene_times, scene_times_at(path, times))
    assert frame_times(back, 8.0).tolist() == pytest.approx((times - times[0]).tolist())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"camera_type": "fisheye"}, "camera_type must be perspective"),
        ({"camera_path": []}, "camera_path must be a list"),
        ({"fps": 0}, "fps must be above 0"),
        ({"fps": "fast"}, "fps must be a number"),
        ({"render_width": 0}, "width must be 1 to"),
        ({"camera_path": [{"camera_to_world": [1, 2, 3], "fov": 50}]}, "16 numbers"),
        ({"camera_path": [{"camera_to_world": [2, 0, 0, 1, 0, 2, 0, 2, 0, 0, 2, 3, 0, 0, 0, 1], "fov": 5}]}, "rigid"),
        ({"camera_path": [{"camera_to_world": [1] * 16, "fov": 50}]}, "last row 0 0 0 1"),
        ({"camera_path": [{"camera_to_world": [[1], [1, 2]], "fov": 50}]}, "p.json"),
        ({"camera_path": [{"fov": 50}]}, "'camera_to_world' is missing"),
        ({"camera_path": [{"camera_to_world": "[1,", "fov": 50}]}, "p.json"),
        ({"camera_path": [NERFSTUDIO["camera_path"][0] | {"fov": 180}]}, "fov must be between"),
    ],
)
def test_bad_nerfstudio_files_are_refused_in_one_line(tmp_path: Path, change: dict, said: str) -> None:
    (tmp_path / "p.json").write_text(json.dumps(NERFSTUDIO | change))
    with pytest.raises(InputError, match=said) as error:
        load_path(tmp_path / "p.json")
    assert "p.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "version 2 is none"),
        ({"keyframes": [{"time": 0}]}, "is missing"),
        ({"keyframes": 3}, "keyframes must be a list"),
        ({"width": 64.5}, "width must be a whole number"),
        ({"easing": "bouncy"}, "easing must be"),
        ({"closed": 1}, "closed must be true or false"),
        ({"format": "other"}, "is no camera path|camera_path must be a list|is missing"),
    ],
)
def test_bad_files_of_ours_are_refused_in_one_line(tmp_path: Path, change: dict, said: str) -> None:
    save_path(tmp_path / "p.json", random_path())
    data = json.loads((tmp_path / "p.json").read_text())
    (tmp_path / "p.json").write_text(json.dumps(data | change))
    with pytest.raises(InputError, match=said) as error:
        load_path(tmp_path / "p.json")
    assert "\n" not in str(error.value)


def test_paths_that_are_none_are_named() -> None:
    path = random_path()
    with pytest.raises(ValueError, match="times must increase"):
        replace(path, times=path.times.flip(0))
    with pytest.raises(ValueError, match="world_to_cam must be rigid, got another matrix at key 0"):
        replace(path, world_to_cam=2 * path.world_to_cam)
    with pytest.raises(ValueError, match="closed path must end"):
        replace(path, closed=True)
    with pytest.raises(ValueError, match="share must be from 0 to 1"):
        between(camera([0, 0, 0], [0, 0, 1]), camera([1, 0, 0], [0, 0, 1]), 1.5)
    with pytest.raises(ValueError, match="radius must be above 0"):
        orbit(torch.zeros(3), 0.0, camera([0, 0, 0], [0, 0, 1]), up=UP)
