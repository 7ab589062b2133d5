"""The demo fits a world and films it; repeating it makes nothing again."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest

from scripts import demo


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "a folder"
    config = demo.Config(out=out, world="plane_sphere", frames=4, steps=40, max_gaussians=1500, width=160, fps=6)
    assert demo.main(config) == 0
    return out


def test_the_clip_lasts_as_long_as_the_path_and_moves(made: Path) -> None:
    with av.open(str(made / "scene.mp4")) as clip:
        frames = [frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]
    assert frames[0].shape == (120, 160, 3)
    assert abs(len(frames) - demo.SECONDS * 6) <= 1
    assert abs(frames[0].astype(float) - frames[len(frames) // 2]).mean() > 2  # another view of another moment


def test_the_evaluation_is_of_held_out_views(made: Path) -> None:
    groups = json.loads((made / "evaluation" / "evaluation.json").read_text())["groups"]
    assert groups["held_out"]["full"]["psnr"] > 15  # of 40 steps
    assert (made / "evaluation" / "sheet.png").stat().st_size > 1000


def test_repeating_makes_nothing_again(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in made.rglob("*") if p.is_file()}
    assert demo.main(demo.Config(out=made, world="plane_sphere")) == 0
    assert {p: p.stat().st_mtime_ns for p in made.rglob("*") if p.is_file()} == before
    assert "$" not in capsys.readouterr().out


def test_the_path_swings_between_two_cameras_and_comes_back(made: Path) -> None:
    path = demo.swing(made / "plane_sphere.s4d")
    assert float((path.world_to_cam[0] - path.world_to_cam[-1]).abs().max()) < 1e-9
    assert path.scene_times is not None and float(path.scene_times.max()) == pytest.approx(1.0, abs=0.4)
