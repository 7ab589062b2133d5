"""`scene4d fit`: the project that it makes, what it refuses, kills and resumes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from scene4d.captures import open_capture
from scene4d.cli import main
from scene4d.commands.fit import Config
from scene4d.errors import EXIT_BAD_INPUT, EXIT_CANCELLED, EXIT_DIVERGED, EXIT_OUT_OF_MEMORY
from scene4d.files.project import load_project
from scene4d.fitting.settings import PRESETS
from scene4d.fitting.train import Fit
from scene4d.runs import read_journal
from scene4d.scene_tools import scene_hash
from tests.scene4d.test_fit_capture import write_capture

ROOT = Path(__file__).parents[2]
QUICK = ("--preset", "draft", "--steps", "20", "--max-gaussians", "300", "--handles", "0", "--threads", "1")
SLOW = ("--preset", "draft", "--steps", "240", "--max-gaussians", "300", "--handles", "0", "--threads", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("captures") / "ball")


@pytest.fixture(scope="module")
def made(folder: Path) -> Path:
    """A project beside its capture."""
    out = folder.parent / "made.s4d"
    assert main(["fit", str(folder), "--out", str(out), *QUICK, "--long-side", "48", "--hold-out", "1"]) == 0
    return out


def run_of(out: Path) -> Path:
    return sorted((out / "runs").iterdir())[-1]


def refused(capsys: pytest.CaptureFixture[str], *args: Any) -> str:
    """The line that `scene4d fit ARGS` says when it refuses."""
    assert main(["fit", *map(str, args)]) == EXIT_BAD_INPUT
    message = capsys.readouterr().err
    assert message.startswith("scene4d fit: ") and message.count("\n") == 1
    return message


# -- the project


def test_project_holds_the_scene_and_what_it_was_fitted_to(made: Path, folder: Path) -> None:
    project, capture = load_project(made), open_capture(folder)
    metrics = json.loads((run_of(made) / "metrics.json").read_text())
    assert scene_hash(project.scene) == metrics["scene_hash"] and len(project.scene) == metrics["gaussians"]
    assert project.capture == "../ball" and project.units == "m" and project.fps == capture.fps
    assert project.canonical_time == pytest.approx(capture.duration / 2)
    assert project.fit is not None
    expected = {"long_side": 48, "frames": None, "hold_out": "1", "preset": "draft", "seed": 0, "steps": 20}
    assert expected.items() <= project.fit.items() and project.fit["run"] == run_of(made).name
    assert project.fit["psnr_train"] == metrics["psnr_train"] > 10
    trained = {v.camera for v in capture.split("train")}
    assert {c.name for c in project.cameras if c.exposure is not None} == trained
    assert [(c.name, c.width) for c in project.cameras] == [(name, 64) for name in capture.camera_names]
    steps = [r["step"] for r in read_journal(run_of(made) / "log.jsonl")]
    assert steps == [9, 19] and (run_of(made) / "previews" / "step_000020.png").is_file()


def test_frames_left_out_are_those_that_an_evaluation_holds_out(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(made), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {v["frame"] for v in found["views"] if v["group"] == "train"} == {0, 2}
    psnr = json.loads((run_of(made) / "metrics.json").read_text())["psnr_train"]
    assert found["groups"]["train"]["full"]["psnr"] == pytest.approx(psnr, abs=1e-3)


def test_command_says_what_to_do_next_and_without_exposure_or_previews_leaves_none(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a" / "b" / "c" / "far.s4d"
    assert main(["fit", str(folder), "--out", str(out), *QUICK, "--no-exposure", "--no-previews"]) == 0
    said = capsys.readouterr().out
    assert "Gaussians" in said and f"`scene4d evaluate {out}`" in said and f"`scene4d render {out}" in said
    project = load_project(out)
    assert not any(c.exposure is not None for c in project.cameras) and not (run_of(out) / "previews").exists()
    assert project.capture == str(folder.resolve())  # too far for ../../../..


@pytest.mark.parametrize("preset", PRESETS)
def test_options_replace_what_the_preset_says_and_no_more(preset: Any) -> None:
    base = PRESETS[preset]
    config = Config(capture=Path("c"), out=Path("o.s4d"), preset=preset, steps=7, sh_degree=3, exposure=False)
    found = config.settings()
    assert (found.steps, found.sh_degree, found.exposure) == (7, 3, False)
    assert (found.long_side, found.handles, found.lr_means) == (base.long_side, base.handles, base.lr_means)
    assert Config(capture=Path("c"), out=Path("o.s4d"), preset=preset).settings() == base


# -- what is refused


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nowhere"], "nowhere: no such file or folder"),
        (["CAPTURE", "--frames", "7:9"], "frames '7:9' names none of its 4 frames, 0 to 3"),
        (["CAPTURE", "--frames", "2"], "1 frame is left to fit to"),
        (["CAPTURE", "--hold-out", "::"], "no frame is left to fit to"),
        (["CAPTURE", "--steps", "0"], "steps must be between 1 and 1e+07, got 0"),
        (["CAPTURE", "--preset", "finest"], "--preset"),
        (["CAPTURE", "--resume", "--overwrite"], "--resume must not be given together with --overwrite"),
        (["CAPTURE", "--resume"], "holds no fit to resume; start one without --resume"),
        ([], "CAPTURE must be given"),
    ],
)
def test_bad_input_gives_one_line_and_leaves_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], words: str
) -> None:
    out = tmp_path / "new.s4d"
    assert words in refused(capsys, *[str(folder) if a == "CAPTURE" else a for a in args], "--out", out)
    assert not out.exists()


def test_capture_without_cameras_is_refused(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, folder / "images" / "cam00", "--out", tmp_path / "new.s4d")
    assert "has no pose" in message and "--estimate-cameras" in message


def test_place_that_is_taken_is_refused(
    made: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = load_project(made).scene
    assert "already exists" in refused(capsys, folder, "--out", made, *QUICK)
    assert "is finished" in refused(capsys, folder, "--out", made, "--resume")
    assert "must end in .s4d" in refused(capsys, folder, "--out", tmp_path / "a")
    (tmp_path / "b.s4d").mkdir()
    (tmp_path / "b.s4d" / "thesis.tex").write_text("mine")
    assert "holds thesis.tex" in refused(capsys, folder, "--out", tmp_path / "b.s4d", "--overwrite")
    (tmp_path / "c.s4d").write_text("mine")
    assert "is no folder" in refused(capsys, folder, "--out", tmp_path / "c.s4d", "--overwrite")
    assert scene_hash(load_project(made).scene) == scene_hash(before)


@pytest.mark.skipif(find_spec("tensorboard") is not None, reason="tensorboard is installed")
def test_tensorboard_that_is_not_installed_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, folder, "--out", tmp_path / "a.s4d", "--tensorboard")
    assert "pip install 'scene4d[plots]'" in message


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_cuda_that_is_not_there_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "CUDA" in refused(capsys, folder, "--out", tmp_path / "a.s4d", "--device", "cuda")


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (FloatingPointError("the loss is nan"), EXIT_DIVERGED, "diverged 4 times"),
        (MemoryError(), EXIT_OUT_OF_MEMORY, "smaller --max-gaussians or --long-side"),
    ],
)
def test_fit_that_cannot_go_on_ends_with_its_exit_code_and_no_project(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
    words: str,
) -> None:
    def failing(fit: Fit) -> dict[str, float]:
        raise error

    monkeypatch.setattr(Fit, "advance", failing)
    out = tmp_path / "a.s4d"
    assert main(["fit", str(folder), "--out", str(out), *QUICK]) == code
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert [p.name for p in out.iterdir()] == ["runs"]


# -- stopping and going on


def cancelling(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sends this process Ctrl-C when a step begins."""
    advance = Fit.advance

    def install(step: int) -> None:
        def interrupted(fit: Fit) -> dict[str, float]:
            if fit.step == step:
                os.kill(os.getpid(), signal.SIGINT)
            return advance(fit)

        monkeypatch.setattr(Fit, "advance", interrupted)

    return install


def test_cancelled_fit_is_resumed_only_with_its_own_options_and_then_saved(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.s4d"
    cancelling(monkeypatch)(7)
    assert main(["fit", str(folder), "--out", str(out), *QUICK]) == EXIT_CANCELLED
    said = capsys.readouterr().err
    assert f"`scene4d fit --out {out} --resume`" in said and said.endswith("scene4d fit: cancelled\n")
    assert [p.name for p in out.iterdir()] == ["runs"]
    assert (run_of(out) / "checkpoints" / "step_000000008.safetensors").is_file()
    assert "not finished; go on with --resume" in refused(capsys, folder, "--out", out, *QUICK)
    other = refused(capsys, folder, "--out", out, "--resume", "--steps", "21", "--seed", "0", "--no-exposure")
    assert "exposure True, now False" in other and "steps 20, now 21" in other and "seed" not in other
    assert "capture" in refused(capsys, folder.parent, "--out", out, "--resume")
    monkeypatch.undo()
    assert main(["fit", str(folder), "--out", str(out), "--resume", "--steps", "20", "--preset", "draft"]) == 0
    assert load_project(out).fit is not None and len(list((out / "runs").iterdir())) == 1


def test_fit_of_a_capture_that_has_changed_is_not_resumed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    capture, out = write_capture(tmp_path / "ball"), tmp_path / "a.s4d"
    cancelling(monkeypatch)(7)
    assert main(["fit", str(capture), "--out", str(out), *QUICK]) == EXIT_CANCELLED
    description = json.loads((capture / "cameras.json").read_text())
    description["cameras"][0]["K"][0][0] += 1
    (capture / "cameras.json").write_text(json.dumps(description))
    capsys.readouterr()
    assert "has changed since the fit was started" in refused(capsys, "--out", out, "--resume")


def test_overwriting_replaces_the_scene_and_keeps_the_runs(folder: Path, tmp_path: Path) -> None:
    out, hashes = tmp_path / "a.s4d", []
    for seed in ("0", "1"):
        assert main(["fit", str(folder), "--out", str(out), *QUICK, "--seed", seed, "--overwrite"]) == 0
        hashes.append(scene_hash(load_project(out).scene))
    assert hashes[0] != hashes[1] and len(list((out / "runs").iterdir())) == 2


def start(*args: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "scene4d.cli", "fit", *args]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def test_fit_killed_three_times_ends_in_the_scene_of_one_that_was_not(folder: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.s4d", tmp_path / "killed.s4d"
    assert main(["fit", str(folder), "--out", str(whole), *SLOW, "--checkpoint-steps", "15"]) == 0
    chance = random.Random(0)
    args = [str(folder), "--out", str(out), *SLOW, "--checkpoint-steps", "15"]
    for step in (0, 40, 80):
        process = start(*args)
        until = time.monotonic() + 60
        while not reached(out, step + chance.randrange(10)):
            assert process.poll() is None, process.communicate()[1].decode()
            assert time.monotonic() < until
            time.sleep(0.002)
        time.sleep(chance.random() * 0.03)
        process.kill()
        process.communicate()
        assert not (out / "project.json").exists()
        args = ["--out", str(out), "--resume"]
    assert main(["fit", *args]) == 0
    assert scene_hash(load_project(out).scene) == scene_hash(load_project(whole).scene)


def reached(out: Path, step: int) -> bool:
    logs = list(out.glob("runs/*/log.jsonl"))
    return bool(logs) and any(r["step"] >= step for r in read_journal(logs[0]))


def test_help_of_fit_does_without_torch() -> None:
    code = (
        "import sys\nfrom scene4d.cli import main\n"
        "try: main(['fit', '--help'])\nexcept SystemExit: pass\nsys.stderr.write(' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert "--hold-out" in done.stdout and not {"torch", "numpy", "renderers"} & set(done.stderr.split())
