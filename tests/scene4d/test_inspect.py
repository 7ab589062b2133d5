"""`scene4d inspect`: what it warns of, on captures made to have exactly that fault."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scene4d.captures import Capture, CaptureWarning, open_capture
from scene4d.captures.inspection import Report, inspect_capture
from scene4d.captures.quality import motion_lag
from scene4d.cli import main
from tests.scene4d.captures_on_disk import make_truth, real_data, write_video

WIDTH, HEIGHT, FRAMES = 96, 64, 48


def scenery(seed: int) -> np.ndarray:
    """A still, textured background, uint8 [H, W, 3]."""
    coarse = np.random.default_rng(seed).integers(40, 200, (HEIGHT // 4, WIDTH // 4, 3), np.uint8)
    return np.kron(coarse, np.ones((4, 4, 1), np.uint8))


def pulse(t: np.ndarray | float) -> np.ndarray:
    """Where a square is, 0 to 1: it moves in bursts, so that its speed tells the time."""
    t = np.asarray(t, float)
    return 0.5 + 0.3 * np.sin(t / 2.3) * np.sin(t / 7.1) + 0.15 * np.sin(t / 1.1 + 1)


def film(camera: int, late: int = 0) -> list[np.ndarray]:
    """A bright square before the scenery; a late camera shows at frame k what happened at k - late."""
    frames = []
    for k in range(FRAMES):
        frame = scenery(camera).copy()
        left = int(8 + pulse(k - late) * (WIDTH - 32))
        frame[20 + 4 * camera : 36 + 4 * camera, left : left + 12] = 250
        frames.append(frame)
    return frames


def write_capture(root: Path, films: dict[str, list[np.ndarray]], fps: dict[str, float] | None = None) -> Capture:
    specs = []
    for i, (name, frames) in enumerate(films.items()):
        rate = (fps or {}).get(name, 30.0)
        write_video(root / f"{name}.mp4", frames, rate)
        truth = make_truth(i, fx=100.0, fy=100.0, cx=WIDTH / 2, cy=HEIGHT / 2)
        specs.append({"name": name, "video": f"{name}.mp4", "fps": rate, "K": truth.K.tolist(),
                      "world_to_cam": truth.world_to_cam.tolist()})  # fmt: skip
    (root / "cameras.json").write_text(json.dumps({"cameras": specs, "units": "m"}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaptureWarning)
        return open_capture(root)


def warned(report: Report, *words: str) -> bool:
    return any(all(word in warning for word in words) for warning in report.warnings)


def test_a_good_capture_gives_no_warnings_about_its_pictures(tmp_path: Path) -> None:
    report = inspect_capture(write_capture(tmp_path, {"a": film(0), "b": film(1)}))
    assert [w for w in report.warnings if "degrees" not in w] == []
    assert (report.views, report.frames, report.fps) == (2 * FRAMES, FRAMES, 30.0)
    first = report.quality[0]
    square = 12 * 16 / (WIDTH * HEIGHT)
    assert first.moving_area is not None and square < first.moving_area < 6 * square  # dilated, and where it was


def test_different_counts_and_rates_are_told(tmp_path: Path) -> None:
    capture = write_capture(tmp_path, {"a": film(0), "b": film(1)[:40]}, {"a": 30.0, "b": 25.0})
    report = inspect_capture(capture, samples=4)
    assert warned(report, "frame counts differ", "b has 40", "a 48") and warned(
        report, "frame rates differ", "b has 25"
    )


def test_a_late_camera_is_told_with_its_lag(tmp_path: Path) -> None:
    report = inspect_capture(write_capture(tmp_path, {"a": film(0), "b": film(1, late=5)}), samples=4)
    assert warned(report, "b looks about 5 frames late against a")


def test_motion_lag_finds_a_shift_of_noisy_speed() -> None:
    rng = np.random.default_rng(0)
    speed = np.abs(np.diff(pulse(np.arange(120.0))))
    for lag in (-9, 0, 4):
        late = np.roll(speed, lag) * 3 + 0.01 * rng.random(len(speed))
        assert motion_lag(speed, late, 20)[0] == lag


def test_an_exposure_jump_is_told_with_its_frame_and_its_stops(tmp_path: Path) -> None:
    frames = film(0)
    brighter = [np.clip(f * 1.25, 0, 255).astype(np.uint8) if k >= 24 else f for k, f in enumerate(frames)]
    report = inspect_capture(write_capture(tmp_path, {"a": brighter, "b": film(1)}), samples=FRAMES)
    assert report.quality[0].exposure_jumps == [24] and report.quality[1].exposure_jumps == []
    assert report.quality[0].largest_jump == pytest.approx(2.2 * np.log2(1.25), abs=0.1)
    assert warned(report, "a: exposure jumps", "at frames 24")


def test_blurred_frames_are_told(tmp_path: Path) -> None:
    import cv2

    frames = [cv2.GaussianBlur(f, (0, 0), 3) if k in (10, 11) else f for k, f in enumerate(film(0))]
    report = inspect_capture(write_capture(tmp_path, {"a": frames}), samples=FRAMES)
    assert report.quality[0].blurred == [10, 11] and warned(report, "2 of 48 frames", "10, 11")


def test_black_borders_are_told(tmp_path: Path) -> None:
    frames = [f.copy() for f in film(0)]
    for frame in frames:
        frame[:6], frame[-4:] = 0, 0
    assert warned(inspect_capture(write_capture(tmp_path, {"a": frames}), samples=6), "about 6, 4, 0, 0 pixels")


def test_cameras_in_one_place_and_leaps_are_told(tmp_path: Path) -> None:
    frames = film(0)[:20]
    write_video(tmp_path / "a.mp4", frames)
    truth = make_truth(0, fx=100.0, fy=100.0, cx=WIDTH / 2, cy=HEIGHT / 2)
    poses = [truth.world_to_cam for _ in frames]
    for k, pose in enumerate(poses):
        pose[0, 3] += 0.01 * k + (2.0 if k >= 12 else 0.0)
    camera = {"name": "a", "video": "a.mp4", "K": truth.K.tolist(), "world_to_cam": [p.tolist() for p in poses]}
    (tmp_path / "cameras.json").write_text(json.dumps({"cameras": [camera]}))
    report = inspect_capture(open_capture(tmp_path), samples=4)
    assert report.rig is not None and report.rig.jumps == ["a: frame 11 to 12"]
    camera["world_to_cam"] = truth.world_to_cam.tolist()
    (tmp_path / "cameras.json").write_text(json.dumps({"cameras": [camera]}))
    assert warned(inspect_capture(open_capture(tmp_path), samples=4), "from one place")


def test_neighbour_angles_are_those_between_the_cameras_seen_from_the_scene(tmp_path: Path) -> None:
    angles = {"a": 0.0, "b": 20.0, "c": 50.0}
    specs = []
    for name, degrees in angles.items():
        write_video(tmp_path / f"{name}.mp4", film(0)[:3])
        turn = np.deg2rad(degrees)
        pose = np.eye(4)
        pose[:3, :3] = [[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]
        pose[2, 3] = 4.0  # all look at the origin from four units away
        specs.append({"name": name, "video": f"{name}.mp4", "K": [[90, 0, 48], [0, 90, 32], [0, 0, 1]],
                      "world_to_cam": pose.tolist()})  # fmt: skip
    (tmp_path / "cameras.json").write_text(json.dumps({"cameras": specs}))
    rig = inspect_capture(open_capture(tmp_path), samples=2).rig
    assert rig is not None and rig.neighbour_angles == pytest.approx({"a": 20.0, "b": 20.0, "c": 30.0}, abs=0.01)
    assert rig.distance == pytest.approx(4.0) and rig.widest_angle == pytest.approx(50.0)
    assert rig.extent == pytest.approx(8.0 * np.sin(np.deg2rad(25.0)))


def test_the_command_prints_tables_json_and_a_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_capture(tmp_path / "in", {"a": film(0), "b": film(1)})
    before = sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "in").rglob("*"))
    sheet = tmp_path / "out/sheet.png"
    assert main(["inspect", str(tmp_path / "in"), "--sheet", str(sheet), "--samples", "4"]) == 0
    text = capsys.readouterr().out
    assert "96 views" in text and "96x64" in text and "cameras: 2 still" in text and "1000 steps" in text
    with Image.open(sheet) as picture:
        colours = {tuple(c) for _, c in picture.convert("RGB").getcolors(1 << 20)}
    assert {(31, 119, 180), (214, 39, 40)} <= colours  # a frustum of each camera
    assert main(["inspect", str(tmp_path / "in"), "--json", "--samples", "4", "--frames", "0:10"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["views"] == 20 and data["cameras"][1]["name"] == "b" and data["fit"]["memory_bytes"] > 2e8
    assert sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "in").rglob("*")) == before  # nothing written to


def test_options_out_of_range_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for options in (["--samples", "0"], ["--estimate-cameras"], ["--fps", "-3"]):
        assert main(["inspect", str(tmp_path), *options]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_capture_without_cameras_says_how_to_get_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "clip.mp4", film(0))
    assert main(["inspect", str(tmp_path / "clip.mp4"), "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert "--estimate-cameras --out" in capsys.readouterr().out


def test_real_captures_draw_their_sheets(tmp_path: Path) -> None:
    from scene4d.captures.sheet import contact_sheet

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaptureWarning)
        capture = open_capture(real_data("parkour")).subset("::10")
    sheet = contact_sheet(capture, inspect_capture(capture, samples=3))
    assert sheet.width == 1600 and sheet.height > 600
