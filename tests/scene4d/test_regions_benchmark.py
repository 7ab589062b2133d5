"""Reading a benchmark and results, their scores and tables, and what is said of bad ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scene4d.cli import main as scene4d
from scene4d.errors import InputError
from scene4d.metrics.benchmark_items import load_benchmark, load_clip
from scene4d.metrics.benchmark_scores import composite, scene_interval, summary
from scene4d.metrics.region_types import METRICS
from tests.scene4d.benchmark_on_disk import H, T, W, changed, save, truth_frames, write_benchmark

ITEM = "one.remove.small"


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    return write_benchmark(tmp_path / "bench")


def write_results(folder: Path, frames: np.ndarray, items: tuple[str, ...] = (ITEM, "two.move.large")) -> Path:
    for name in items:
        save(folder / name, frames)
    return folder


def evaluated(bench: Path, *results: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...] = ()) -> dict:
    args = ["evaluate", "--benchmark", str(bench), "--results", *map(str, results), "--json", *options]
    assert scene4d(args) == 0
    return json.loads(capsys.readouterr().out)


def test_the_truth_itself_is_perfect_and_what_cannot_be_measured_says_why(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = write_results(tmp_path / "truth", truth_frames())
    facts = evaluated(bench, truth, capsys=capsys)
    scores = facts["methods"]["truth"]["items"][ITEM]["scores"]
    assert set(METRICS) <= set(scores)
    for name in ("preserve.psnr", "reveal.psnr", "expand.psnr", "whole.psnr"):
        assert scores[name]["value"] == 100.0
    for name in ("preserve.drift", "preserve.flicker", "reveal.ghost", "reveal.stability", "expand.stability"):
        assert scores[name]["value"] == pytest.approx(0.0, abs=1e-6)
    assert scores["reveal.seam"]["value"] == pytest.approx(1.0)
    reasons = {
        "asset.psnr": "no pixel of the region",
        "control.rotation": "no depth or no camera",
        "control.object": "no ids",
        "expand.revisit": "comes back",
        "preserve.ghost": "nothing that was there before",
        "preserve.lpips": "weights of lpips not found",
    }
    for name, reason in reasons.items():
        assert "value" not in scores[name] and reason in scores[name]["skipped"]


def test_planted_errors_come_out_in_their_region_and_in_no_other(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reveal shows what was removed, Preserve flickers by 10/255 in every other frame, Expand is right."""
    frames = truth_frames()
    frames[1::2, :, :34] += 10
    frames[:, 8:20, 8:20] = 250
    scores = evaluated(bench, write_results(tmp_path / "bad", frames), capsys=capsys)["methods"]["bad"]["items"][ITEM][
        "scores"
    ]
    assert scores["reveal.ghost"]["value"] == 1.0 and scores["expand.psnr"]["value"] == 100.0
    assert scores["preserve.flicker"]["value"] == pytest.approx(10 / 255, abs=1e-6)
    assert scores["preserve.flicker.floor"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert scores["preserve.psnr"]["value"] == pytest.approx(-10 * np.log10((10 / 255) ** 2 / 2), abs=1e-3)
    assert scores["reveal.stability"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert scores["preserve.drift"]["value"] == pytest.approx(
        10 * (10 / 255) * 0.2, abs=1e-6
    )  # of 0 1 0 1: 0.2 a frame


def test_ignored_pixels_do_not_count(bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = truth_frames()
    frames[:, :, 33] = 0
    ignore = np.zeros((T, H, W), np.uint8)
    ignore[:, :, 33] = 255
    results = write_results(tmp_path / "edge", frames)
    before = evaluated(bench, results, capsys=capsys)["methods"]["edge"]["items"][ITEM]["scores"]["preserve.psnr"]
    save(bench / "items" / ITEM / "ignore", ignore)
    after = evaluated(bench, results, capsys=capsys)["methods"]["edge"]["items"][ITEM]["scores"]["preserve.psnr"]
    assert before["value"] < 30 and after["value"] == 100.0 and before["count"] - after["count"] == T * H


def test_without_truth_preserve_is_held_against_the_trusted_cue_and_the_rest_is_skipped(
    bench: Path, tmp_path: Path
) -> None:
    from scene4d.metrics.regions import region_scores

    folder = bench / "items" / ITEM
    (folder / "truth").rename(folder / "cue")
    trusted = np.zeros((T, H, W), np.uint8)
    trusted[:, :8] = 255
    save(folder / "trusted", trusted)
    frames = truth_frames()
    frames[:, 20:] = 0  # not trusted there
    results = write_results(tmp_path / "out", frames)
    item = load_benchmark(bench).items[0]
    scores = region_scores(load_clip(item, results), None)
    assert scores["preserve.psnr"].value == 100.0 and scores["preserve.psnr"].count == T * 8 * 34
    for name in ("reveal.psnr", "reveal.ghost", "reveal.seam", "expand.psnr", "whole.psnr", "control.rotation"):
        assert scores[name].skipped == "the item has no truth"
    assert scores["reveal.stability"].value is not None


def test_summary_means_items_of_each_stratum_and_counts_those_that_were_skipped() -> None:
    def item(scene: str, kind: str, value: float | None) -> dict:
        score = {"skipped": "empty"} if value is None else {"value": value, "count": 1}
        return {"scene": scene, "kind": kind, "magnitude": "small", "origin": "world", "scores": {"x": score}}

    found = summary({"a": item("s", "move", 1.0), "b": item("t", "move", 2.0), "c": item("t", "remove", None)})
    assert found["all"]["x"]["value"] == 1.5 and found["all"]["x"]["items"] == 2
    assert found["all"]["x"]["reasons"] == {"empty": 1}
    assert found["move.small"]["x"]["value"] == 1.5 and "value" not in found["remove"]["x"]
    assert found["remove"]["x"]["skipped"] == "empty"


def test_interval_over_scenes_is_that_of_two_scenes_by_hand() -> None:
    """Two scenes with 0 and 1: means of draws are 0, 0.5 or 1, so the interval is from 0 to 1; one scene has none."""
    assert scene_interval({"a": [0.0, 0.0], "b": [1.0, 1.0]}) == [0.0, 1.0]
    assert scene_interval({"a": [0.0, 1.0]}) is None


def test_composite_is_the_weighted_mean_in_steps_of_what_has_a_value() -> None:
    scores = {"preserve.psnr": {"value": 30.0}, "reveal.ghost": {"value": 0.2}, "expand.psnr": {"skipped": "no"}}
    weights = {"preserve.psnr": 3.0, "reveal.ghost": 1.0, "expand.psnr": 5.0}
    assert composite(scores, weights).value == pytest.approx((3 * 30 / 3 - 0.2 / 0.1) / 4)
    assert "none of the weighted" in composite({"expand.psnr": {"skipped": "no"}}, weights).skipped
    with pytest.raises(ValueError, match="not negative, got preserve.psnr: -1"):
        composite(scores, {"preserve.psnr": -1.0})


def test_methods_stand_side_by_side_and_missing_items_are_told(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write_results(tmp_path / "good", truth_frames())
    part = write_results(tmp_path / "part", truth_frames() + 20, (ITEM,))
    out = tmp_path / "out"
    assert scene4d(["evaluate", "--benchmark", str(bench), "--results", str(good), str(part), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "good" in text and "part lacks 1 items: two.move.large" in text and "remove.small" in text
    assert "equal (no votes given)" in text
    facts = json.loads((out / "region_scores.json").read_text())
    assert facts["methods"]["part"]["missing"] == ["two.move.large"]
    means = [facts["methods"][m]["summary"]["all"]["preserve.psnr"] for m in ("good", "part")]
    assert means[0]["value"] > means[1]["value"] and (means[0]["items"], means[1]["items"]) == (2, 1)


def test_weights_of_votes_make_the_composite(bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, weights = write_results(tmp_path / "good", truth_frames()), tmp_path / "weights.json"
    weights.write_text(json.dumps({"weights": {"reveal.psnr": 2.0}}))
    facts = evaluated(bench, results, capsys=capsys, options=("--metric-weights", str(weights)))
    found = facts["methods"]["good"]["items"][ITEM]["scores"]["composite"]
    assert found["value"] == pytest.approx(100 / 3) and facts["composite_weights"] == str(weights)
    weights.write_text(json.dumps({"weights": {"reveal.psnr": -2.0}}))
    args = ["evaluate", "--benchmark", str(bench), "--results", str(results), "--metric-weights", str(weights)]
    assert scene4d(args) == 2 and "not negative, got reveal.psnr" in capsys.readouterr().err


def break_json(bench: Path, **values: object) -> None:
    changed(bench / "items" / ITEM / "item.json", **values)


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (lambda b: break_json(b, kind="paint"), "kind must be one of camera, move"),
        (lambda b: break_json(b, source="../../../elsewhere"), "source must lie in the benchmark"),
        (lambda b: break_json(b, name="other"), "name must be that of its folder"),
        (lambda b: break_json(b, frames=None), "'frames' is missing"),
        (lambda b: break_json(b, frames=5), "times must be 5 numbers, got 4"),
        (lambda b: break_json(b, width="many"), "width must be a whole number"),
        (lambda b: break_json(b, revisits=[[3, 1]]), "the earlier first, got [3, 1]"),
        (lambda b: break_json(b, edit="all"), "edit must be a list of objects"),
        (lambda b: break_json(b, version=9), "version 1"),
        (lambda b: changed(b / "benchmark.json", items=["../x"]), "items must be a list of names"),
        (lambda b: changed(b / "benchmark.json", items=[ITEM, ITEM]), "named twice"),
        (lambda b: (b / "benchmark.json").unlink(), "benchmark.json: is missing"),
        (lambda b: (b / "items" / ITEM / "geometry.npz").write_bytes(b"x"), "no readable .npz"),
        (lambda b: (b / "items" / ITEM / "roles" / "00002.png").unlink(), "lacks 00002.png"),
        (lambda b: save(b / "items" / ITEM / "roles", np.full((T, H, W), 9, np.uint8)), "values must be 0 to 3, got 9"),
        (
            lambda b: np.savez(b / "items" / ITEM / "geometry.npz", flow=np.zeros((T, H, W, 2))),
            "geometry.npz: lacks visible",
        ),
        (
            lambda b: np.savez(b / "items" / ITEM / "geometry.npz", depth=np.full((T, H, W), np.nan)),
            "depth must be finite",
        ),
    ],
)
def test_damaged_benchmark_gets_one_clear_line(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], breaks, message: str
) -> None:
    breaks(bench)
    results = write_results(tmp_path / "out", truth_frames())
    assert scene4d(["evaluate", "--benchmark", str(bench), "--results", str(results)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (truth_frames()[:3], "lacks 00003.png; 4 frames are needed"),
        (truth_frames()[:, :, :30], "is 30x32, the item is 40x32; frames are not resized here"),
        (truth_frames()[..., 0], "must have 8 bits and 3 channels"),
        (np.concatenate([truth_frames(), truth_frames()]), "has 8 PNG files"),
    ],
)
def test_wrong_results_get_one_clear_line(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], frames: np.ndarray, message: str
) -> None:
    results = write_results(tmp_path / "out", frames)
    assert scene4d(["evaluate", "--benchmark", str(bench), "--results", str(results)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_project_and_a_benchmark_exclude_each_other(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for args in ([], ["x.s4d", "--benchmark", str(bench), "--results", "r"]):
        assert scene4d(["evaluate", *args]) == 2
        assert "either a project" in capsys.readouterr().err
    assert scene4d(["evaluate", "--benchmark", str(bench)]) == 2
    assert "go together" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert scene4d(["evaluate", "--benchmark", str(bench), "--results", str(tmp_path / "empty")]) == 2
    assert f"has no folder {ITEM}" in capsys.readouterr().err


def test_clip_is_read_as_it_was_written(bench: Path, tmp_path: Path) -> None:
    results = write_results(tmp_path / "out", truth_frames() + 1)
    clip = load_clip(load_benchmark(bench).items[0], results)
    assert clip.reference is not None and torch.equal(clip.reference + 1, clip.output)
    assert clip.output.shape == (T, H, W, 3) and clip.output.dtype == torch.uint8 and clip.scored.all()
    with pytest.raises(InputError, match="is missing"):
        load_benchmark(tmp_path / "nowhere")
