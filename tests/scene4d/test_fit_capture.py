"""`scene4d.fitting.fit`: the same scene however often it is stopped; what happens when a step fails; what is reported.

Captures of three training frames in 64x48 pixels, a few hundred Gaussians, thirty steps.
"""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scene4d.captures import Capture, open_capture
from scene4d.errors import InputError
from scene4d.evaluation import evaluate
from scene4d.evaluation_views import EvaluationOptions
from scene4d.files.images import read_png
from scene4d.fitting.fit import Fitted, Reports, choose_footage, fingerprint, fit_capture
from scene4d.fitting.recovery import prune
from scene4d.fitting.settings import PRESETS, FitSettings, with_changes
from scene4d.fitting.train import Diverged, Fit
from scene4d.runs import Cancelled, create_run, read_journal, resume_run
from scene4d.worlds import CaptureOptions, arc_rig, capture_world, make_world

SMALL = CaptureOptions(frames=4, samples=1, points=300, tracks=10)
SETTINGS = with_changes(
    PRESETS["draft"],
    steps=30,
    max_gaussians=300,
    handles=0,  # the rig takes most of the time; tests that need one ask for it
    checkpoint_steps=10,
    preview_steps=15,
    threads=1,
)
RIGGED = replace(SETTINGS, handles=3)


def write_capture(out: Path, options: CaptureOptions = SMALL) -> Path:
    world = make_world("plane_sphere")
    capture_world(world, arc_rig(world, 64, 48), out, options)
    return out


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    return open_capture(write_capture(tmp_path_factory.mktemp("captures") / "plane_sphere"))


@pytest.fixture(scope="module")
def unmasked(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    """A capture whose masks a fit has to find itself."""
    return open_capture(write_capture(tmp_path_factory.mktemp("captures") / "bare", replace(SMALL, masks=False)))


def fit(capture: Capture, runs: Path, settings: FitSettings = SETTINGS, **others: Any) -> Fitted:
    with create_run(runs, "fit", {}, progress=False) as run:
        return fit_capture(capture, settings, run, **others)


def only_run(runs: Path) -> Path:
    (found,) = runs.iterdir()
    return found


def records(runs: Path) -> list[dict[str, Any]]:
    return read_journal(only_run(runs) / "log.jsonl")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[int, float, int]]]:
    """Puts `fault(fit)` before each step; gives the list of (step, caution, Gaussians) that were tried."""

    def install(fault: Callable[[Fit], None]) -> list[tuple[int, float, int]]:
        tried, advance = [], Fit.advance

        def advanced(fit: Fit) -> dict[str, float]:
            tried.append((fit.step, fit.caution, len(fit.model)))
            fault(fit)
            return advance(fit)

        monkeypatch.setattr(Fit, "advance", advanced)
        return tried

    return install


# -- the same scene


def test_equal_seeds_give_equal_scenes_and_another_seed_another_one(capture: Capture, tmp_path: Path) -> None:
    hashes = [fit(capture, tmp_path, replace(SETTINGS, seed=seed)).metrics["scene_hash"] for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_fit_cancelled_between_checkpoints_ends_in_the_same_scene(unmasked: Capture, tmp_path: Path) -> None:
    settings = replace(RIGGED, checkpoint_steps=7)
    whole = fit(unmasked, tmp_path / "whole", settings)
    assert whole.metrics["handles"] > 0
    runs, run = tmp_path / "stopped", create_run(tmp_path / "stopped", "fit", {}, progress=False)
    for last in (9, 19):
        reports = Reports(scalars=lambda step, _, run=run, last=last: run.cancel() if step == last else None)
        with run, pytest.raises(Cancelled) as caught:
            fit_capture(unmasked, settings, run, reports=reports)
        assert caught.value.step == last + 1
        run = resume_run(runs, "fit", progress=False)
    with run:
        resumed = fit_capture(unmasked, settings, run)
    assert resumed.metrics["scene_hash"] == whole.metrics["scene_hash"]
    assert all(torch.equal(resumed.exposures[name], x) for name, x in whole.exposures.items())
    assert [{**r, "time": 0} for r in records(runs)] == [{**r, "time": 0} for r in records(tmp_path / "whole")]


def test_signal_ends_work_without_steps_at_once_and_elsewhere_asks_for_the_end(tmp_path: Path) -> None:
    with create_run(tmp_path, "fit", {}, progress=False) as run:
        with pytest.raises(KeyboardInterrupt), run.interruptible():
            os.kill(os.getpid(), signal.SIGINT)
        assert not run.cancelled
        os.kill(os.getpid(), signal.SIGINT)
        assert run.cancelled
        with pytest.raises(KeyboardInterrupt), run.interruptible():
            pytest.fail("went on although it was to end")


# -- steps that fail


def test_step_that_is_not_finite_goes_back_to_the_checkpoint_with_half_the_rates(
    capture: Capture, tmp_path: Path, steps: Callable[..., list]
) -> None:
    faults = iter([17])

    def fault(fit: Fit) -> None:
        if fit.step == 17 and next(faults, None):
            raise FloatingPointError("the loss is nan at step 17")

    told: list[str] = []
    tried = steps(fault)
    fitted = fit(capture, tmp_path, reports=Reports(event=told.append))
    assert [step for step, *_ in tried] == [*range(18), *range(10, 30)]
    assert [caution for _, caution, _ in tried] == [1.0] * 18 + [0.5] * 20
    assert fitted.metrics["rollbacks"] == 1 and fitted.metrics["steps"] == 30
    events = [r["event"] for r in records(tmp_path) if "event" in r]
    assert events == told and "diverged at step 17" in told[0]


@pytest.mark.parametrize("step", [13, 19])  # seen by the next step's renderer; by the checkpoint that would hold it
def test_parameter_that_is_not_finite_is_found_and_never_gets_into_a_checkpoint(
    capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    advance, faults = Fit.advance, iter([True])

    def spoilt(fit: Fit) -> dict[str, float]:
        scalars = advance(fit)
        if fit.step == step + 1 and next(faults, False):
            fit.model.params["means"].data[7, 1] = torch.nan
        return scalars

    monkeypatch.setattr(Fit, "advance", spoilt)
    fitted = fit(capture, tmp_path)
    assert fitted.metrics["rollbacks"] == 1
    fitted.scene.validate()


def test_fit_that_diverges_four_times_gives_up(capture: Capture, tmp_path: Path, steps: Callable[..., list]) -> None:
    def fault(fit: Fit) -> None:
        if fit.step == 12:
            raise FloatingPointError("the loss is nan at step 12")

    tried = steps(fault)
    with pytest.raises(Diverged, match="diverged 4 times, last at step 12") as caught:
        fit(capture, tmp_path)
    assert caught.value.exit_code == 4
    assert [caution for step, caution, _ in tried if step == 12] == [1.0, 0.5, 0.25, 0.125]


def allocator_error() -> RuntimeError:
    return RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")


@pytest.mark.parametrize("error", [MemoryError("no more"), torch.OutOfMemoryError("CUDA"), allocator_error()])
def test_fit_that_runs_out_of_memory_goes_on_with_seven_tenths_of_the_gaussians(
    capture: Capture, tmp_path: Path, steps: Callable[..., list], error: Exception
) -> None:
    def fault(fit: Fit) -> None:
        if fit.step >= 15 and len(fit.model) > 130:
            raise error

    tried = steps(fault)
    fitted = fit(capture, tmp_path)
    first = tried[0][2]
    assert [n for step, _, n in tried if step == 15] == [first, int(0.7 * first)]
    assert len(fitted.scene) <= int(0.7 * first) <= 130 < first
    assert fitted.metrics["memory_reductions"] == 1


def test_fit_that_never_has_memory_gives_up_after_three_reductions_and_says_what_to_reduce(
    capture: Capture, tmp_path: Path, steps: Callable[..., list]
) -> None:
    def fault(fit: Fit) -> None:
        raise MemoryError

    tried = steps(fault)
    with pytest.raises(MemoryError, match="after 3 reductions; fit with a smaller --max-gaussians or --long-side"):
        fit(capture, tmp_path, replace(SETTINGS, max_gaussians=700))
    assert len(tried) == 4 and all(b[2] == int(0.7 * a[2]) for a, b in zip(tried, tried[1:], strict=False))


def test_other_errors_are_bugs_and_stay_so(capture: Capture, tmp_path: Path, steps: Callable[..., list]) -> None:
    def fault(fit: Fit) -> None:
        raise RuntimeError("a bug")

    tried = steps(fault)
    with pytest.raises(RuntimeError, match="a bug"):
        fit(capture, tmp_path)
    assert len(tried) == 1


def test_pruning_keeps_the_most_opaque_in_their_order_with_their_moments(
    capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Fit] = []
    advance = Fit.advance
    monkeypatch.setattr(Fit, "advance", lambda fit: (seen.append(fit), advance(fit))[1])
    fit(capture, tmp_path, replace(SETTINGS, steps=3))
    last = seen[-1]
    opacities = last.model.params["logit_opacities"].detach().tolist()
    keep = sorted(sorted(range(len(opacities)), key=lambda i: -opacities[i])[:40])
    means = last.model.params["means"]
    expected = means.detach()[keep], last.model.optimizers["means"].state[means]["exp_avg"][keep]
    last.need = torch.arange(len(opacities)).float()
    prune(last, 40)
    means = last.model.params["means"]
    assert torch.equal(means.detach(), expected[0]) and means.requires_grad
    assert torch.equal(last.model.optimizers["means"].state[means]["exp_avg"], expected[1])
    assert last.need is None  # measured of Gaussians that are no more
    prune(last, 41)
    assert len(last.model) == 40


# -- what is fitted to, and what is told


def test_reported_psnr_is_that_of_an_evaluation_of_the_training_views(capture: Capture, tmp_path: Path) -> None:
    fitted = fit(capture, tmp_path, replace(SETTINGS, long_side=40))
    small = capture.resized(40)
    options = EvaluationOptions(exposures=fitted.exposures, truth=False)
    scores = evaluate(fitted.scene, small, small.split("train"), options=options).views
    assert fitted.metrics["psnr_train"] == pytest.approx(np.mean([s.full.psnr for s in scores]), abs=1e-3)
    assert set(fitted.exposures) == {v.camera for v in capture.split("train")} < set(capture.camera_names)
    assert not all(torch.equal(x, torch.eye(3, 4).double()) for x in fitted.exposures.values())


def test_previews_show_the_same_views_rendered_and_as_captured(capture: Capture, tmp_path: Path) -> None:
    fitted = fit(capture, tmp_path)
    files = sorted((only_run(tmp_path) / "previews").iterdir())
    assert [f.name for f in files] == ["step_000000.png", "step_000015.png", "step_000030.png"]
    first, *_, last = [read_png(f) for f in files]
    assert np.array_equal(first[:48, 68:], capture.image_u8(capture.view("cam00", 0)).numpy())
    assert np.array_equal(first[:, 68:], last[:, 68:])
    options = EvaluationOptions(exposures=fitted.exposures, truth=False)
    score = evaluate(fitted.scene, capture, [capture.view("cam00", 0)], options=options).views[0].full.psnr
    error = (last[:48, :64].astype(float) - last[:48, 68:]) / 255.0
    assert -10 * np.log10((error**2).mean()) == pytest.approx(score, abs=0.05)  # rounded to 8 bits


def test_log_holds_every_tenth_step_and_metrics_are_plain_json(capture: Capture, tmp_path: Path) -> None:
    fitted = fit(capture, tmp_path)
    assert [r["step"] for r in records(tmp_path)] == [9, 19, 29]
    assert {"psnr", "rgb", "gaussians"} <= records(tmp_path)[0].keys()
    json.dumps(fitted.metrics, allow_nan=False)
    parts = fitted.metrics["seconds_by_phase"]
    assert fitted.metrics["seconds"] == pytest.approx(sum(parts.values()), abs=0.01)
    assert parts["start"] > 0 and parts["steps"] > 0 and fitted.metrics["peak_rss_mb"] > 50


def test_held_out_frames_and_views_of_the_captures_test_split_are_not_fitted_to(capture: Capture) -> None:
    footage = choose_footage(capture, SETTINGS, "0:3", "1")
    assert footage.frames == [0, 2] and {v.split for v in footage.views} == {"train"}
    assert capture.frames == [0, 1, 2, 3] and {v.frame for v in footage.capture.views} == {0, 1, 2}


@pytest.mark.parametrize(
    ("frames", "hold_out", "words"),
    [
        ("7:9", None, "frames '7:9' names none of its 4 frames, 0 to 3"),
        ("1", None, "1 frame is left to fit to, two are needed"),
        (None, "0:3", "no frame is left to fit to"),
        (None, "9:", "hold_out '9:' names none of its 4 frames, 0 to 3"),
        ("a:b", None, "a:b:step"),
    ],
)
def test_too_few_frames_are_refused_with_the_reason(
    capture: Capture, frames: str | None, hold_out: str | None, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        choose_footage(capture, SETTINGS, frames, hold_out)


def test_fingerprint_tells_another_pose_time_or_choice_of_views(capture: Capture) -> None:
    views = capture.views
    pose = views[0].world_to_cam
    assert pose is not None
    moved = replace(views[0], world_to_cam=pose + 1e-9)
    later = replace(views[0], time=views[0].time + 1e-6)
    found = [fingerprint(v) for v in (views, [moved, *views[1:]], [later, *views[1:]], views[1:], list(views))]
    assert len(set(found)) == 4 and found[0] == found[4]


def test_first_scene_without_memory_says_what_to_reduce(
    capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hungry(*args: Any) -> None:
        raise allocator_error()

    monkeypatch.setattr("scene4d.fitting.fit.start_scene", hungry)
    with pytest.raises(MemoryError, match="--long-side or --max-gaussians"):
        fit(capture, tmp_path)


def test_torch_has_its_threads_back_after_a_fit_and_after_one_that_failed(capture: Capture, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        fit(capture, tmp_path / "a", replace(SETTINGS, steps=1))
        assert torch.get_num_threads() == 2
        with pytest.raises(InputError):
            fit(capture, tmp_path / "b", SETTINGS, frames="0:1")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
