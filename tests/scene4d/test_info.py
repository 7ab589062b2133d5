"""`scene4d info`: what it counts, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scene4d.cli import main
from scene4d.errors import EXIT_BAD_INPUT
from scene4d.files.project import load_project, save_project
from scene4d.runs import create_run
from scene4d.scene_tools import scene_hash
from tests.scene4d.stored_scenes import any_project, any_scene


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    project = any_project()
    scene = project.scene
    assert scene.rig is not None
    scene = replace(
        scene,
        rig=replace(
            scene.rig,
            parents=torch.tensor([-1, -1, -1], dtype=torch.int32),
            instances=torch.tensor([1, 2, 2], dtype=torch.int32),
            knot_times=torch.tensor([0.5, 0.0, 1.0, 0.0, 1.0, 2.5]),
        ),
        handle_ids=torch.tensor(
            [[-1, -1], [0, -1], [0, 0], [2, 1], [-1, 2], [-1, -1], [-1, -1]], dtype=torch.int32
        ),
        instances=torch.tensor([0, 1, 1, 2, 2, 0, 0], dtype=torch.int32),
    )  # fmt: skip
    save_project(tmp_path / "[a].s4d", replace(project, scene=scene, capture="[red]"))
    return tmp_path / "[a].s4d"


def test_info_counts_what_the_project_holds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with create_run(folder / "runs", "fit", {}) as run:
        run.finish({})
    create_run(folder / "runs", "fit", {}).close()
    assert main(["info", str(folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["gaussians"], facts["handles"], facts["knots"], facts["moving"]) == (7, 3, 6, 4)
    assert (facts["instances"], facts["sh_degree"], facts["time_range"]) == (3, 1, [0.0, 2.5])
    assert (facts["cameras"], facts["cameras_with_exposure"], facts["edits"]) == (2, 1, 1)
    assert facts["sha256_ok"] and facts["fit"] == any_project().fit
    assert facts["scene_hash"] == scene_hash(load_project(folder).scene)
    assert facts["bytes"] == {p.name: p.stat().st_size for p in folder.iterdir() if p.name in facts["bytes"]}
    assert sorted(run["finished"] for run in facts["runs"]) == [False, True]


def test_table_shows_names_as_they_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "[a].s4d" in out and "[red]" in out and "0 to 2.5 s" in out and "7, SH degree 1" in out
    assert "pictures of long side 960 px, frames all" in out and "frames 0:60:8" in out
    assert "2, 1 with an exposure of its own" in out


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"P": None, "J": None, "window": False}, "nothing changes"),
        ({"P": None, "J": 0, "window": False}, "nothing changes"),
        ({"P": 1, "J": None, "window": False}, "no end"),
    ],
)
def test_scene_without_knots_and_windows_has_no_time_range(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], parts: dict, words: str
) -> None:
    save_project(tmp_path / "a.s4d", replace(any_project(), scene=any_scene(**parts)))
    assert main(["info", str(tmp_path / "a.s4d"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["time_range"], facts["handles"], facts["residual_coefficients"]) == (None, 0, parts["P"] or 0)
    assert main(["info", str(tmp_path / "a.s4d")]) == 0
    assert words in capsys.readouterr().out


@pytest.mark.parametrize("J", [None, 0])
def test_time_range_without_knots_is_that_of_the_windows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], J: int | None
) -> None:
    inf = torch.inf
    scene = replace(any_scene(2, J=J), t_on=torch.tensor([-inf, 0.5]), t_off=torch.tensor([1.5, inf]))
    save_project(tmp_path / "a.s4d", replace(any_project(), scene=scene))
    assert main(["info", str(tmp_path / "a.s4d"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["time_range"] == [0.5, 1.5]


def test_what_a_file_says_of_its_fit_cannot_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = {"long_side": "\x1b[31m", "frames": {"a": [1] * 100}, "hold_out": "[bold]\n"}
    save_project(tmp_path / "a.s4d", replace(any_project(), fit=fit))
    assert main(["info", str(tmp_path / "a.s4d")]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "frames [bold]\\n" in out and max(map(len, out.splitlines())) <= 200


def test_project_that_was_not_fitted_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cameras = tuple(replace(camera, exposure=None) for camera in any_project().cameras)
    save_project(tmp_path / "a.s4d", replace(any_project(), fit=None, cameras=cameras))
    assert main(["info", str(tmp_path / "a.s4d")]) == 0
    out = capsys.readouterr().out
    assert "unknown" in out and "held out" not in out and "2, none with an exposure of its own" in out


def test_damaged_project_is_refused_in_one_line_that_names_the_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray((folder / "scene.ply").read_bytes())
    data[-3] ^= 4
    (folder / "scene.ply").write_bytes(data)
    assert main(["info", str(folder)]) == EXIT_BAD_INPUT
    err = capsys.readouterr().err
    assert "scene.ply: was changed or is damaged" in err and err.count("\n") == 1
