"""The figures of fits: of a small world they are what the commands say; handles against rigs whose error is known."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from scene4d import motion
from scene4d.captures import open_capture
from scene4d.cli import main as scene4d
from scene4d.errors import InputError
from scene4d.files.project import Project
from scene4d.worlds import Box, Capsule, CaptureOptions, Rect, Sphere, arc_rig, capture_world, make_world
from scene4d.worlds.capturing import instance_size
from scripts import fit_figures
from tests.scene4d.test_evaluate_truth import later_shift, surface_scene

TINY = {"steps": 12, "max_gaussians": 300, "frames": 4, "width": 48}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[fit_figures.Config, dict[str, Any]]:
    out = tmp_path_factory.mktemp("figures") / "out"
    config = fit_figures.Config(only=("plane_sphere",), out=out, json=out / "figures.json", preset="draft", **TINY)
    return config, fit_figures.main(config)


def test_figures_are_what_the_commands_say(
    made: tuple[fit_figures.Config, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    config, result = made
    assert config.json is not None and json.loads(config.json.read_text()) == result
    (row,) = result["rows"]
    (project,) = config.out.glob("*.s4d")
    capsys.readouterr()
    assert scene4d(["evaluate", str(project), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    times, cameras = found["groups"]["held_out_times"], found["groups"]["held_out_cameras"]
    assert row["held_out_times"]["psnr"] == pytest.approx(times["full"]["psnr"]) and times["full"]["psnr"] > 8
    assert row["held_out_times"]["moving_psnr"] == pytest.approx(times["moving"]["psnr"])
    assert row["held_out_cameras"]["ssim"] == pytest.approx(cameras["full"]["ssim"])
    assert row["depth_error"] == pytest.approx(found["truth"]["depth"]["all"]["median_relative"])
    assert row["track_error"] == pytest.approx(found["truth"]["tracks"]["moving_objects"]["median_relative"])
    facts = json.loads(next((project / "runs").glob("*/metrics.json")).read_text())
    assert (row["steps"], row["seconds"], row["peak_rss_mb"]) == (12, facts["seconds"], facts["peak_rss_mb"])
    assert row["handles"] > 0 and 0 < row["handles_together"]["median"] < 1


def test_what_is_there_is_not_made_again_and_other_options_are_another_fit(
    made: tuple[fit_figures.Config, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, result = made
    asked, run = [], fit_figures.command
    monkeypatch.setattr(fit_figures, "command", lambda *args: (asked.append(args[0]), run(*args))[1])
    assert fit_figures.main(config)["rows"] == result["rows"] and asked == ["evaluate"]
    (case,) = fit_figures.cases_of("plane_sphere", config)
    places = {fit_figures.project_of(c, o) for o in (config, replace(config, preset="high")) for c in [case]}
    (other,) = fit_figures.cases_of("plane_sphere", replace(config, steps=13))
    assert len({*places, fit_figures.project_of(other, config)}) == 3


def test_fit_that_fails_is_told_with_its_command(tmp_path: Path) -> None:
    config = fit_figures.Config(only=("parkour",), out=tmp_path, parkour=tmp_path / "nowhere")
    with pytest.raises(InputError, match="scene4d fit .*nowhere .*--hold-out 4::8: exit code 2"):
        fit_figures.main(config)


def test_case_without_its_capture_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--parkour FOLDER"):
        fit_figures.main(fit_figures.Config(only=("parkour",), out=tmp_path))
    with pytest.raises(ValueError, match="only must name some of plane_sphere, .*, got 'park'"):
        fit_figures.Config(only=("park",))


def test_one_camera_without_depth_is_the_same_capture_but_for_its_depth(tmp_path: Path) -> None:
    config = fit_figures.Config(out=tmp_path, **TINY)
    (without,), (with_depth,) = (fit_figures.cases_of(name, config) for name in fit_figures.ONE_CAMERA)
    a, b = open_capture(without.capture), open_capture(with_depth.capture)
    assert b.has("depth") and not a.has("depth") and a.has("mask") and not (without.capture / "depth").exists()
    assert [v.key for v in a.views] == [("cam00", k) for k in range(4)] and not a.is_static("cam00")
    assert all(torch.equal(a.image_u8(v), b.image_u8(w)) for v, w in zip(a.views, b.views, strict=True))
    assert without.options == with_depth.options == ("--steps", "12", "--max-gaussians", "300")


def test_leaving_out_each_camera_fits_to_the_others(tmp_path: Path) -> None:
    rig = arc_rig(make_world("plane_sphere"), 16, 12)
    rig = replace(rig, names=rig.names[:3], world_to_cam=rig.world_to_cam[:3], test_cameras=())
    capture_world(make_world("plane_sphere"), rig, tmp_path / "mill", CaptureOptions(frames=2, samples=1, tracks=5))
    config = fit_figures.Config(out=tmp_path, treadmill=tmp_path / "mill", leave_one_out=True, real_steps=9)
    whole, *rest = fit_figures.cases_of("treadmill", config)
    assert whole.options == ("--steps", "9", "--long-side", "480")
    assert [(c.name, c.options[-2:]) for c in rest] == [
        ("treadmill_without_cam00", ("--cameras", "cam01,cam02")),
        ("treadmill_without_cam01", ("--cameras", "cam00,cam02")),
        ("treadmill_without_cam02", ("--cameras", "cam00,cam01")),
    ]
    assert len({fit_figures.project_of(c, config) for c in (whole, *rest)}) == 4


# -- handles


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Project]:
    """The arm's capture, and a project with handles on the surface of its parts that go exactly with them."""
    world, out, times = make_world("arm"), tmp_path_factory.mktemp("arm") / "arm", [0.0, 0.5, 1.0]
    capture_world(world, arc_rig(world, 32, 24), out, CaptureOptions(frames=3, samples=1, points=0, tracks=10))
    scene = surface_scene(world, times, spacing=0.1)
    assert scene.rig is not None and scene.handle_ids is not None
    scene = scene.subset(scene.instances == 1)
    scene = scene.subset(torch.arange(0, len(scene), 4))
    assert scene.rig is not None and scene.handle_ids is not None
    part, J, T = scene.handle_ids[:, 0].long(), len(scene), len(times)
    shifts = [motion.positions(scene, t) - scene.means for t in times]
    rig = replace(
        scene.rig,
        centers=scene.means,
        parents=torch.full((J,), -1, dtype=torch.int32),
        instances=scene.instances,
        interpolations=torch.zeros(J, dtype=torch.int32),
        knot_counts=torch.full((J,), T, dtype=torch.int32),
        knot_times=torch.tensor(times).repeat(J),
        knot_quats=scene.rig.knot_quats.reshape(-1, T, 4)[part].reshape(-1, 4),
        knot_translations=torch.stack(shifts, 1).reshape(-1, 3),
    )
    scene = replace(scene, rig=rig, handle_ids=torch.arange(J, dtype=torch.int32)[:, None])
    return out, Project(scene=scene, capture=str(out), cameras=(), canonical_time=0.0)


def test_handles_that_go_with_their_parts_have_no_error(arm: tuple[Path, Project]) -> None:
    found = fit_figures.handles_together(arm[1], arm[0])
    assert found is not None and {*found["parts"]} == {"base", "lower", "upper", "hand", "thumb"}
    assert found["worst_tenth"] < 1e-5 and found["within_gate"] == 1.0 and found["passed"]


@pytest.mark.parametrize(("shift", "passed"), [(0.03, True), (0.06, False)])  # metres; the arm is 2 m high
def test_error_of_handles_is_relative_to_the_size_of_the_instance(
    arm: tuple[Path, Project], shift: float, passed: bool
) -> None:
    moved = replace(arm[1], scene=later_shift(arm[1].scene, (0.0, shift, 0.0)))
    found = fit_figures.handles_together(moved, arm[0])
    size = instance_size(make_world("arm"), 1)
    assert found is not None and found["median"] == pytest.approx(shift / size, rel=1e-3)
    assert found["passed"] == passed and found["within_gate"] == float(passed)


def test_handles_are_not_measured_without_a_rig_or_a_truth(arm: tuple[Path, Project], tmp_path: Path) -> None:
    still = replace(arm[1].scene, rig=None, handle_ids=None, handle_logits=None)
    assert fit_figures.handles_together(replace(arm[1], scene=still), arm[0]) is None
    copy = tmp_path / "copy"
    shutil.copytree(arm[0], copy)
    (copy / "truth.json").unlink()
    assert fit_figures.handles_together(arm[1], copy) is None


@pytest.mark.parametrize(
    ("shape", "point", "distance"),
    [
        (Sphere((2.0, 1.0, 1.0)), (3.0, 0.0, 0.0), 1.0),
        (Sphere((2.0, 1.0, 1.0)), (0.0, 0.5, 0.0), 0.5),
        (Capsule(0.5, 1.0), (0.0, 2.0, 0.7), 1.5),
        (Capsule(0.5, 1.0), (0.0, 3.0, 5.0), 4.5),
        (Capsule(0.5, 1.0), (0.2, 0.0, 0.0), 0.3),
        (Box((1.0, 2.0, 3.0)), (4.0, 6.0, 0.0), 5.0),
        (Box((1.0, 2.0, 3.0)), (0.9, 0.0, 0.0), 0.1),
        (Rect((1.0, 2.0)), (0.0, 5.0, 4.0), 5.0),
    ],
)
def test_distance_from_a_surface_is_that_of_geometry(shape: Any, point: tuple, distance: float) -> None:
    found = fit_figures.surface_distance(shape, torch.tensor([point], dtype=torch.float64))
    assert found.tolist() == pytest.approx([distance])
