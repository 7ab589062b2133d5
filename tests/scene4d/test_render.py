"""`scene4d render`: frames, cameras, formats, names, refusals. One world in splats, rendered small."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from renderers import Cameras
from scene4d.channels import render_channels
from scene4d.cli import main
from scene4d.commands import render as render_command
from scene4d.commands.render import Config
from scene4d.commands.render_clip import make_clip
from scene4d.edits import StorePath, stack_of
from scene4d.errors import EXIT_BAD_INPUT, EXIT_CANCELLED
from scene4d.files.images import read_png
from scene4d.files.project import Project, load_project, save_project
from scene4d.files.project_cameras import ProjectCamera
from scene4d.path_files import path_json, save_nerfstudio, save_path
from scene4d.paths import CameraPath, arc, between
from scene4d.worlds import arc_rig, make_world, trace
from tests.scene4d.test_channels import splats_of

WIDTH, HEIGHT, FPS, FRAMES = 48, 36, 10.0, 5
TIMES = tuple(k / FPS for k in range(FRAMES))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six cameras on an arc; the middle one also moves."""
    world = make_world("plane_sphere")
    rig = arc_rig(world, WIDTH, HEIGHT)
    start = rig.at(0)
    view = Cameras(start.world_to_cam[2:3], start.K[2:3], WIDTH, HEIGHT)
    scene = splats_of(world, view, trace(world, view, 0.0), TIMES[-1])
    colors = trace(world, view, 0.0).images[0].reshape(-1, 3)
    order = [(trace(world, view, 0.0).parts[0].reshape(-1) == k) for k in range(2)]
    sh = (torch.cat([colors[own] for own in order]) - 0.5) / 0.28209479177387814  # Y_00
    scene = replace(scene, sh=sh[:, None].float().contiguous())
    cameras = [
        ProjectCamera(name, WIDTH, HEIGHT, TIMES, start.K[c : c + 1], start.world_to_cam[c : c + 1])
        for c, name in enumerate(rig.names[:6])
    ]
    path = arc(*(Cameras(start.world_to_cam[c : c + 1], start.K[:1], WIDTH, HEIGHT) for c in (1, 4)))
    moving = ProjectCamera("dolly", WIDTH, HEIGHT, TIMES, path.K[:1], path.world_to_cam[: len(TIMES)])
    exposure = torch.tensor([[0.5, 0, 0, 0.1], [0, 0.5, 0, 0.0], [0, 0, 0.5, 0.0]]).double()
    bright = replace(cameras[5], name="a:b", exposure=exposure)
    project = Project(scene, cameras=(*cameras, moving, bright), fps=FPS, units="m")
    out = tmp_path_factory.mktemp("render") / "room.s4d"
    save_project(out, project)
    return out


def render(folder: Path, out: Path, *options: str) -> int:
    return main(["render", str(folder), "--out", str(out), *options])


def config(folder: Path, **options) -> Config:
    options.setdefault("capture_camera", None if "camera_path" in options else "cam02")
    return Config(project=folder, out=Path("out"), **options)


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_capture_camera_is_rendered_at_its_own_frames_as_the_channels_are(folder: Path, tmp_path: Path) -> None:
    assert render(folder, tmp_path / "o", "--capture-camera", "cam02", "--format", "npy", "--channels", "rgb,id") == 0
    project = load_project(folder)
    camera = project.cameras[2]
    for k, time in enumerate(TIMES):
        view = Cameras(camera.world_to_cam, camera.K, WIDTH, HEIGHT)
        maps = render_channels(project.scene, view, time, ("rgb", "id"))
        for name in ("rgb", "id"):
            found = np.load(tmp_path / "o" / name / f"{k:05d}.npy", allow_pickle=False)
            # poses go through quaternions: 1e-7
            np.testing.assert_allclose(found, maps[name][0].numpy(), atol=1e-3)
    assert len(list((tmp_path / "o" / "rgb").iterdir())) == FRAMES


def test_flow_of_a_clip_leads_from_each_frame_to_the_next_frames_camera(folder: Path, tmp_path: Path) -> None:
    options = ("--capture-camera", "dolly", "--format", "npy", "--channels", "flow,depth")
    assert render(folder, tmp_path / "o", *options) == 0
    assert sorted(p.name for p in (tmp_path / "o" / "flow").iterdir()) == [f"{k:05d}.npy" for k in range(FRAMES - 1)]
    project = load_project(folder)
    poses, K = project.cameras[6].world_to_cam, project.cameras[6].K
    a, b = (Cameras(poses[k : k + 1], K, WIDTH, HEIGHT) for k in (1, 2))
    expected = render_channels(project.scene, a, TIMES[1], ("flow",), t_next=TIMES[2], next_cameras=b)["flow"][0]
    still = render_channels(project.scene, a, TIMES[1], ("flow",), t_next=TIMES[2])["flow"][0]
    found = np.load(tmp_path / "o" / "flow" / "00001.npy", allow_pickle=False)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-3)
    assert float((expected - still).norm(dim=-1).mean()) > 0.1  # the camera moves too


def test_16_bit_depth_is_the_depth_in_the_unit_of_render_json(folder: Path, tmp_path: Path) -> None:
    for kind in ("png16", "npy"):
        assert (
            render(folder, tmp_path / kind, "--capture-camera", "cam02", "--channels", "depth", "--format", kind) == 0
        )
    index = json.loads((tmp_path / "png16" / "render.json").read_text())
    meaning = index["channels"]["depth"]
    exact = np.load(tmp_path / "npy" / "depth" / "00002.npy", allow_pickle=False)
    coded = read_png(tmp_path / "png16" / "depth" / "00002.png")
    assert coded.dtype == np.uint16 and exact.max() > 1 and meaning["clipped_pixels"] == 0
    assert np.abs(coded * meaning["scale"] - exact).max() <= 0.5001 * meaning["scale"]
    assert meaning["scale"] < 1e-3 * exact.max()
    assert [frame["time"] for frame in index["frames"]] == pytest.approx(TIMES)
    camera = load_project(folder).cameras[2]
    assert np.allclose(index["frames"][0]["world_to_cam"], camera.world_to_cam[0], atol=1e-9)


def test_video_has_the_colours_of_the_frames(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert render(folder, tmp_path / "a.mp4", "--capture-camera", "cam02") == 0
    assert render(folder, tmp_path / "o", "--capture-camera", "cam02", "--format", "png") == 0
    video = frames_of(tmp_path / "a.mp4")
    assert len(video) == FRAMES
    for k, frame in enumerate(video):
        assert np.abs(frame - read_png(tmp_path / "o" / "rgb" / f"{k:05d}.png").astype(float)).mean() < 4
    out = capsys.readouterr().out
    assert "5 frames of 48x36 at 10 fps, as mp4" in out and sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "o"]


def test_several_channels_are_a_folder_of_videos_and_ranges_are_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--capture-camera", "cam02", "--channels", ",".join(render_command.CHANNELS), "--depth-range", "2:9")
    assert render(folder, tmp_path / "o", *options, "--format", "mov") == 0
    assert {p.name for p in (tmp_path / "o").iterdir()} == {f"{n}.mov" for n in render_command.CHANNELS} | {
        "render.json"
    }
    assert len(frames_of(tmp_path / "o" / "flow.mov")) == FRAMES - 1
    meaning = json.loads((tmp_path / "o" / "render.json").read_text())["channels"]
    assert (meaning["depth"]["near"], meaning["depth"]["far"]) == (2, 9) and meaning["flow"]["full_at_pixels"] > 0.5
    assert "red 2, blue 9" in capsys.readouterr().out


def test_odd_sizes_are_padded_in_videos_and_it_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--capture-camera", "cam02", "--width", "31", "--height", "21", "--times", "0:0")
    assert render(folder, tmp_path / "a.mp4", *options) == 0
    assert frames_of(tmp_path / "a.mp4")[0].shape == (22, 32, 3)
    assert "the video is 32x22" in capsys.readouterr().out


def test_exr_holds_the_same_numbers_as_npy(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("OpenEXR", reason="openexr is not installed")
    from scene4d.files.exr import read_exr

    options = ("--capture-camera", "cam02", "--channels", "normal,flow,label", "--times", "0:0.1")
    for kind in ("exr", "npy"):
        assert render(folder, tmp_path / kind, *options, "--format", kind) == 0
    for channel, names in (("normal", ("N.x", "N.y", "N.z")), ("flow", ("flow.x", "flow.y")), ("label", ("label",))):
        planes = read_exr(tmp_path / "exr" / channel / "00000.exr")
        exact = np.load(tmp_path / "npy" / channel / "00000.npy", allow_pickle=False)
        stacked = np.stack([planes[name] for name in names], -1)
        assert np.array_equal(stacked.reshape(exact.shape), exact.astype(np.float32))


def test_exposure_changes_colours_as_the_camera_does(folder: Path, tmp_path: Path) -> None:
    options = ("--capture-camera", "a:b", "--format", "npy", "--times", "0:0")
    assert render(folder, tmp_path / "plain", *options) == 0
    assert render(folder, tmp_path / "shown", *options, "--exposure") == 0
    plain, there = (np.load(tmp_path / n / "rgb" / "00000.npy", allow_pickle=False) for n in ("plain", "shown"))
    np.testing.assert_allclose(there, 0.5 * plain + [0.1, 0, 0], atol=1e-6)


def test_background_shows_where_the_scene_ends(folder: Path, tmp_path: Path) -> None:
    options = ("--capture-camera", "cam00", "--format", "npy", "--channels", "rgb,alpha", "--times", "0:0")
    assert render(folder, tmp_path / "o", *options, "--background", "0,1,0.5") == 0
    rgb, alpha = (np.load(tmp_path / "o" / n / "00000.npy", allow_pickle=False) for n in ("rgb", "alpha"))
    assert (alpha == 0).any()
    np.testing.assert_allclose(rgb[alpha == 0], np.tile([0, 1, 0.5], (int((alpha == 0).sum()), 1)), atol=1e-6)


def test_frames_of_a_clip_cover_its_times_at_its_speed(folder: Path) -> None:
    project = load_project(folder)
    assert make_clip(config(folder), project).times == pytest.approx(TIMES)
    slow = make_clip(config(folder, speed=0.25), project)
    assert slow.times == pytest.approx([k / 40 for k in range(17)]) and slow.fps == FPS
    part = make_clip(config(folder, times="0.1:0.3", fps=20.0), project)
    assert part.times == pytest.approx([0.1, 0.15, 0.2, 0.25, 0.3]) and part.fps == 20


def straight_path(folder: Path, **options) -> CameraPath:
    camera = load_project(folder).cameras[2]
    poses = camera.world_to_cam.repeat(2, 1, 1)
    poses[1, 0, 3] += 0.8
    K = camera.K.repeat(2, 1, 1)
    return CameraPath(torch.tensor([0.0, 0.8]).double(), poses, K, WIDTH, HEIGHT, **options)


def test_along_a_path_the_scene_runs_at_speed_and_holds_its_last_moment(folder: Path, tmp_path: Path) -> None:
    save_path(tmp_path / "p.json", straight_path(folder))
    project = load_project(folder)
    clip = make_clip(config(folder, camera_path=tmp_path / "p.json"), project)
    assert clip.times == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4])
    start = float(project.cameras[2].world_to_cam[0, 0, 3])
    assert clip.cameras.world_to_cam[:, 0, 3].tolist() == pytest.approx([start + 0.1 * k for k in range(9)])
    frozen = make_clip(config(folder, camera_path=tmp_path / "p.json", times="0.3:0.3", fps=5.0), project)
    assert frozen.times == pytest.approx([0.3] * 5)
    slow = make_clip(config(folder, camera_path=tmp_path / "p.json", speed=0.5), project)
    assert slow.times == pytest.approx([0.05 * k for k in range(9)])


@pytest.mark.parametrize("save", [save_path, lambda file, path: save_nerfstudio(file, path, FPS)])
def test_times_of_a_path_count_unless_others_are_given(folder: Path, tmp_path: Path, save) -> None:
    save(tmp_path / "p.json", straight_path(folder, scene_times=torch.tensor([0.4, 0.0]).double()))
    project = load_project(folder)
    clip = make_clip(config(folder, camera_path=tmp_path / "p.json"), project)
    assert clip.times == pytest.approx([0.4 - 0.05 * k for k in range(9)], abs=1e-6)
    assert make_clip(config(folder, camera_path=tmp_path / "p.json", times="0:9"), project).times[-1] == pytest.approx(
        0.8
    )


def test_view_between_two_capture_cameras_is_between_them(folder: Path) -> None:
    project = load_project(folder)
    a, b = (Cameras(c.world_to_cam, c.K, WIDTH, HEIGHT) for c in project.cameras[:2])
    clip = make_clip(config(folder, capture_camera="cam00:cam01:0.25"), project)
    torch.testing.assert_close(clip.frame(3).world_to_cam, between(a, b, 0.25).world_to_cam)
    assert make_clip(config(folder, capture_camera="a:b:cam01:0"), project).times == pytest.approx(TIMES)


def test_a_moving_capture_camera_is_at_its_poses_at_its_times(folder: Path) -> None:
    project = load_project(folder)
    clip = make_clip(config(folder, capture_camera="dolly", fps=20.0), project)
    torch.testing.assert_close(clip.cameras.world_to_cam[::2], project.cameras[6].world_to_cam)
    middle = (clip.cameras.centers[0] + clip.cameras.centers[2]) / 2
    assert (clip.cameras.centers[1] - middle).norm() < 0.1 * (clip.cameras.centers[0] - middle).norm()


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (48, 36)),
        ({"long_side": 24}, (24, 18)),
        ({"width": 96}, (96, 72)),
        ({"height": 18}, (24, 18)),
        ({"width": 36, "height": 36}, (36, 36)),
    ],
)
def test_size_of_the_pictures_is_as_asked_and_the_view_keeps_its_height(
    folder: Path, options: dict, size: tuple[int, int]
) -> None:
    project = load_project(folder)
    cameras = make_clip(config(folder, **options), project).cameras
    assert (cameras.width, cameras.height) == size
    full = project.cameras[2].K[0]
    assert float(cameras.K[0, 1, 1]) / cameras.height == pytest.approx(float(full[1, 1]) / HEIGHT)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "exactly one of --camera-path and --capture-camera"),
        (("--capture-camera", "nobody"), "is no camera of the project; it has cam00, cam01"),
        (("--capture-camera", "cam00:cam01:2"), "the share must be a number from 0 to 1"),
        (("--capture-camera", "cam00", "--channels", "rgb,heat"), "channels must be some of"),
        (("--capture-camera", "cam00", "--channels", "rgb,rgb"), "each once"),
        (("--capture-camera", "cam00", "--times", "1"), "times must be two numbers"),
        (("--capture-camera", "cam00", "--times", "2:1"), "first <= last"),
        (("--capture-camera", "cam00", "--background", "pink"), "background must be black"),
        (("--capture-camera", "cam00", "--depth-range", "0:3"), "0 < near < far"),
        (("--capture-camera", "cam00", "--fps", "0"), "fps must be above 0"),
        (("--capture-camera", "cam00", "--long-side", "8", "--width", "8"), "--long-side must not"),
        (("--capture-camera", "cam00", "--channels", "flow", "--times", "0:0"), "flow needs two frames"),
        (("--camera-path", "nowhere.json"), "nowhere.json: is missing"),
    ],
)
def test_bad_requests_are_refused_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    assert render(folder, tmp_path / "o", *options) == EXIT_BAD_INPUT
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_existing_output_stays_unless_told_and_folders_of_others_always(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--capture-camera", "cam02", "--times", "0:0.1", "--format", "png")
    out = tmp_path / "o"
    assert render(folder, out, *options) == 0
    (out / "rgb" / "00009.png").write_bytes(b"of a longer clip")
    assert render(folder, out, *options) == EXIT_BAD_INPUT
    assert (out / "rgb" / "00009.png").exists() and "--overwrite replaces it" in capsys.readouterr().err
    assert render(folder, out, *options, "--overwrite") == 0
    assert sorted(p.name for p in (out / "rgb").iterdir()) == ["00000.png", "00001.png"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert render(folder, tmp_path / "mine", *options, "--overwrite") == EXIT_BAD_INPUT
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "o"]


@pytest.mark.parametrize("name", ["a.mp4", "o"])
def test_cancelled_render_exits_with_130_and_leaves_the_old_output(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    options = ("--capture-camera", "cam02")
    assert render(folder, tmp_path / name, *options, "--times", "0:0") == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    draw = render_command._frame

    def press(*args, **kwargs):
        if args[3] == 2:
            raise KeyboardInterrupt
        return draw(*args, **kwargs)

    monkeypatch.setattr(render_command, "_frame", press)
    assert render(folder, tmp_path / name, *options, "--overwrite") == EXIT_CANCELLED
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_ranges_of_colours_hold_the_clip(folder: Path) -> None:
    project = load_project(folder)
    asked = config(folder, channels="depth,flow", long_side=256)  # larger than the previews
    clip = make_clip(asked, project)
    ranges = render_command._ranges(asked, project.scene, clip)
    frames = [render_command._frame(asked, project.scene, clip, k, asked.names) for k in range(FRAMES)]
    depth = np.concatenate([f["depth"][f["depth"] > 0] for f in frames])
    inside = (depth >= ranges.near * 0.999) & (depth <= ranges.far * 1.001)
    assert 0.97 < inside.mean() and ranges.far < 1.05 * depth.max() and ranges.near > 0.95 * depth.min()
    speed = np.concatenate([np.linalg.norm(f["flow"], axis=-1).ravel() for f in frames[:-1]])
    assert ranges.flow == pytest.approx(np.quantile(speed[speed > 0], 0.99), rel=0.1)


def test_edits_are_rendered_unless_told(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = {"kind": "remove", "select": {"kind": "all"}}
    save_project(tmp_path / "e.s4d", replace(load_project(folder), edits=(gone,)))
    options = ("--capture-camera", "cam02", "--times", "0:0", "--format", "npy")
    pictures = {}
    for name, flags in (("with", ()), ("without", ("--no-edits",))):
        assert render(tmp_path / "e.s4d", tmp_path / name, *options, *flags) == 0
        pictures[name] = np.load(next((tmp_path / name / "rgb").glob("*.npy")))
    assert render(folder, tmp_path / "plain", *options) == 0
    assert not pictures["with"].any()  # all is gone
    plain = np.load(next((tmp_path / "plain" / "rgb").glob("*.npy")))
    assert np.array_equal(pictures["without"], plain) and plain.any()
    assert "the edits are left out" in capsys.readouterr().out


def test_a_stack_that_does_not_fit_is_told_and_can_be_left_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_project(tmp_path / "e.s4d", replace(load_project(folder), edits=({"kind": "remove"},)))
    options = ("--capture-camera", "cam02", "--times", "0:0")
    assert render(tmp_path / "e.s4d", tmp_path / "a.mp4", *options) == EXIT_BAD_INPUT
    assert "edit 1: remove must have the field select" in capsys.readouterr().err
    assert render(tmp_path / "e.s4d", tmp_path / "a.mp4", *options, "--no-edits") == 0


def test_a_path_kept_beside_the_edits_can_be_rendered(folder: Path, tmp_path: Path) -> None:
    project = load_project(folder)
    view = make_clip(config(folder, capture_camera="cam00"), project).frame(0)
    path = CameraPath(torch.tensor([0.0, 1.0]).double(), view.world_to_cam.expand(2, 4, 4).double(),
                      view.K.expand(2, 3, 3).double(), view.width, view.height)  # fmt: skip
    kept = StorePath("still", json.dumps(path_json(path)))
    save_project(tmp_path / "e.s4d", replace(project, edits=tuple(stack_of([kept]).to_json())))
    save_path(tmp_path / "still.json", path)
    for out, where in (("kept", "edits:still"), ("file", str(tmp_path / "still.json"))):
        arguments = ["render", str(tmp_path / "e.s4d"), "--camera-path", where, "--out", str(tmp_path / out)]
        assert main([*arguments, "--times", "0:0", "--format", "npy"]) == 0
    a, b = (np.load(next((tmp_path / name / "rgb").glob("*.npy"))) for name in ("kept", "file"))
    assert np.array_equal(a, b)


def test_channels_of_the_command_are_those_that_there_are() -> None:
    from scene4d.channels import CHANNELS

    assert render_command.CHANNELS == CHANNELS


def test_unit_of_depth_is_round_and_reaches_far_enough() -> None:
    from scene4d.files.images_clip import depth_unit

    for farthest in (0.001, 0.9, 13.0, 65.5, 65.6, 1e6):
        unit = depth_unit(farthest)
        assert unit * 65535 >= farthest > unit * 65535 / 2.6
        assert f"{unit:.6e}"[:8] in ("1.000000", "2.000000", "5.000000")
