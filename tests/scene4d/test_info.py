"""`scene4d info`: what it counts, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scene4d.cli import main
from scene4d.errors import EXIT_BAD_INPUT
from scene4d.files.project import save_project
from scene4d.runs import create_run
from tests.scene4d.test_project import make_project


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    project = make_project()
    scene = replace(
        project.scene,
        handle_ids=torch.tensor([[-1, -1], [0, -1], [0, 1], [2, 1], [-1, 2], [-1, -1], [-1, -1]]),
        instances=torch.tensor([0, 1, 1, 2, 2, 0, 0]),
        knot_times=torch.tensor([0.5, 0.0, 1.0, 0.0, 1.0, 2.5]),
    )
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
    assert (facts["cameras"], facts["edits"], facts["sha256_ok"]) == (2, 1, True)
    assert facts["bytes"] == {p.name: p.stat().st_size for p in folder.iterdir() if p.name in facts["bytes"]}
    assert sorted(run["finished"] for run in facts["runs"]) == [False, True]


def test_table_shows_names_as_they_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "[a].s4d" in out and "[red]" in out and "0 to 2.5 s" in out and "7, SH degree 1" in out


def test_damaged_project_is_refused_in_one_line_that_names_the_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray((folder / "scene.ply").read_bytes())
    data[-3] ^= 4
    (folder / "scene.ply").write_bytes(data)
    assert main(["info", str(folder)]) == EXIT_BAD_INPUT
    err = capsys.readouterr().err
    assert "scene.ply: was changed or is damaged" in err and err.count("\n") == 1
