"""`scene4d.evaluation`: scores by closed form, groups, regions, exposure; the command and its files.

A scene of one Gaussian that no camera sees renders as its background, so that every score is known.
"""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import maximum_filter
from torch import Tensor

from renderers import Gaussians
from scene4d.captures import Capture, open_capture
from scene4d.cli import main
from scene4d.errors import EXIT_BAD_INPUT
from scene4d.evaluation import Evaluation, chosen_views, evaluate, fitted_capture
from scene4d.evaluation_sheet import chosen_scores, depth_picture, evaluation_sheet
from scene4d.evaluation_views import EvaluationOptions, camera_median, spread
from scene4d.files.project import Project, save_project
from scene4d.files.project_cameras import capture_cameras
from scene4d.metrics.perceptual import load_lpips, lpips
from scene4d.scene import Scene4D, static_scene
from scene4d.worlds import CaptureOptions, arc_rig, capture_world, make_world, moving_rig
from tests.scene4d.captures_on_disk import real_data
from tests.scene4d.test_evaluate_truth import surface_scene

SMALL = CaptureOptions(frames=5, samples=1, points=50, tracks=20)
GREY = EvaluationOptions(background=torch.full((3,), 0.25), truth=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = make_world("plane_sphere")
    out = tmp_path_factory.mktemp("captures") / "plane_sphere"
    capture_world(world, arc_rig(world, 64, 48), out, SMALL)
    return out


@pytest.fixture(scope="module")
def capture(folder: Path) -> Capture:
    return open_capture(folder)


@pytest.fixture(scope="module")
def unseen() -> Scene4D:
    away = torch.tensor([[0.0, -50.0, 0.0]])  # all cameras look along +y
    one = Gaussians(away, torch.ones(1, 4), torch.full((1, 3), -4.0), torch.zeros(1), torch.zeros(1, 1, 3))
    return static_scene(one)


def strict(evaluation: Evaluation) -> dict[str, Any]:
    """As JSON, through JSON."""
    return json.loads(json.dumps(evaluation.as_json(), allow_nan=False))


def decibels(error: Tensor | np.ndarray) -> float:
    return -10.0 * math.log10(float((error**2).mean()))


def moving_by_hand(frames: np.ndarray) -> np.ndarray:
    """Bool [T, H, W] of frames [T, H, W, 3]."""
    far = np.any(np.abs(frames - np.median(frames, 0)) > 0.1, axis=-1)
    return np.stack([maximum_filter(f, 5) for f in far])


def test_scores_of_a_flat_picture_are_those_of_the_formula_in_every_region(capture: Capture, unseen: Scene4D) -> None:
    views = [v for v in capture.views if v.camera == "cam01"]
    found = strict(evaluate(unseen, capture, views, options=GREY))
    frames = capture.images(views).double().numpy()
    region = moving_by_hand(frames)
    assert 0.01 < region.mean() < 0.5
    each = [decibels(f - 0.25) for f in frames]
    inside = [decibels((f - 0.25)[m]) for f, m in zip(frames, region, strict=True)]
    for k, view in enumerate(found["views"]):
        assert view["full"]["psnr"] == pytest.approx(each[k], abs=1e-4)
        assert view["moving"]["psnr"] == pytest.approx(inside[k], abs=1e-4)
        assert view["moving"]["pixels"] == region[k].sum()
    train = found["groups"]["train"]
    kept = [k for k, view in enumerate(views) if view.split == "train"]
    assert train["full"]["psnr"] == pytest.approx(np.mean([each[k] for k in kept]), abs=1e-4)
    pooled = decibels((frames - 0.25)[kept][region[kept]])
    assert train["moving"]["psnr_pooled"] == pytest.approx(pooled, abs=1e-4)
    assert train["moving"]["psnr"] != pytest.approx(pooled, abs=1e-3)


def test_held_out_times_and_cameras_are_told_apart(capture: Capture, unseen: Scene4D) -> None:
    found = strict(evaluate(unseen, capture, list(capture.views), options=GREY))["groups"]
    assert {name: group["views"] for name, group in found.items()} == {
        "train": 6 * 4,
        "held_out": 6 + 2 * 5,
        "held_out_times": 6,
        "held_out_cameras": 2 * 5,
    }
    assert list(found["held_out_cameras"]["cameras"]) == ["cam06", "cam07"]
    assert set(found["train"]["cameras"]) == set(found["held_out_times"]["cameras"]) == {f"cam0{i}" for i in range(6)}


def test_fit_says_what_was_held_out_and_which_frames_it_knew(capture: Capture) -> None:
    part, trained = fitted_capture(capture, {"frames": "0:3", "hold_out": "1::2", "long_side": None})
    assert part.frames == [0, 1, 2]
    assert trained == {(f"cam0{c}", frame) for c in range(6) for frame in (0, 2)}
    test = chosen_views(part, trained, "test")
    assert {v.key for v in test} == {v.key for v in part.views} - trained
    assert {v.key for v in chosen_views(part, trained, "train")} == trained
    assert len(chosen_views(part, trained, "all")) == 24
    whole, everything = fitted_capture(capture, None)
    assert len(whole) == 40 and everything == {v.key for v in capture.split("train")}


def test_exposure_changes_the_camera_that_has_one_and_no_other(capture: Capture, unseen: Scene4D) -> None:
    exposure = torch.tensor([[0.5, 0.0, 0.2, 0.1], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 9.0, 0.0]], dtype=torch.float64)
    views = [capture.view("cam00", 0), capture.view("cam01", 0)]
    scores = evaluate(unseen, capture, views, options=replace(GREY, exposures={"cam00": exposure})).views
    shown = torch.tensor([0.5 * 0.25 + 0.2 * 0.25 + 0.1, 0.25, 1.0])  # clamped
    assert scores[0].full.psnr == pytest.approx(decibels(capture.image(views[0]) - shown), abs=1e-4)
    assert scores[1].full.psnr == pytest.approx(decibels(capture.image(views[1]) - 0.25), abs=1e-4)


def test_pixels_that_are_not_valid_count_nowhere(folder: Path, unseen: Scene4D, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    description = json.loads((copy / "cameras.json").read_text())
    description["cameras"] = description["cameras"][:1]
    description["cameras"][0]["valid"] = "valid"
    description.pop("split")
    (copy / "cameras.json").write_text(json.dumps(description))
    (copy / "valid").mkdir()
    for k in range(5):
        mask = np.full((48, 64), 255, np.uint8)
        mask[:, :20] = 0
        Image.fromarray(mask).save(copy / f"valid/{k:05d}.png")
    capture = open_capture(copy)
    found = evaluate(unseen, capture, list(capture.views), options=GREY)
    frames = capture.images(capture.views).double().numpy()
    region = moving_by_hand(frames)[:, :, 20:]
    for score, frame, part in zip(found.views, frames[:, :, 20:], region, strict=True):
        assert score.full.psnr == pytest.approx(decibels(frame - 0.25), abs=1e-4) and score.full.pixels == 48 * 44
        assert score.moving is not None and score.moving.psnr == pytest.approx(decibels((frame - 0.25)[part]), abs=1e-4)


def test_moving_camera_takes_the_masks_and_says_so_where_there_are_none(unseen: Scene4D, tmp_path: Path) -> None:
    world = make_world("plane_sphere")
    for masks in (True, False):
        capture_world(world, moving_rig(world, 5, 64, 48), tmp_path / str(masks), replace(SMALL, masks=masks))
    capture = open_capture(tmp_path / "True")
    view = capture.view("cam00", 1)
    (score,) = evaluate(unseen, capture, [view], options=GREY).views
    mask = capture.mask(view)
    assert mask is not None and score.moving is not None and score.moving.pixels == int(mask.sum()) > 50
    bare = open_capture(tmp_path / "False")
    found = strict(evaluate(unseen, bare, [bare.view("cam00", 1)], options=GREY))["groups"]["train"]
    assert found["moving"] is None and "the camera moves" in found["null"]["moving"]


def test_whatever_is_null_has_a_reason(capture: Capture, tmp_path: Path) -> None:
    """Pictures of one colour that are rendered exactly: infinite PSNR, nothing that moves, no LPIPS."""
    copy = tmp_path / "copy"
    shutil.copytree(capture.root, copy)
    for path in (copy / "images").rglob("*.png"):
        Image.fromarray(np.full((48, 64, 3), 51, np.uint8)).save(path)
    flat = open_capture(copy)
    away = Gaussians(
        torch.tensor([[0.0, -50.0, 0.0]]), torch.ones(1, 4), torch.zeros(1, 3), torch.zeros(1), torch.zeros(1, 1, 3)
    )
    options = EvaluationOptions(background=torch.full((3,), 0.2), lpips_reason="none here", truth=False)
    found = strict(evaluate(static_scene(away), flat, flat.split("train"), options=options))["groups"]["train"]
    assert found["full"]["ssim"] == pytest.approx(1.0)
    for region in ("full", "moving"):
        for metric in ("psnr", "ssim", "lpips", "psnr_pooled"):
            assert (found[region][metric] is None) == (f"{region}.{metric}" in found["null"])
    assert "equals" in found["null"]["full.psnr"] and found["null"]["full.lpips"] == "none here"
    assert "empty" in found["null"]["moving.psnr"]


def test_lpips_is_that_of_the_pictures_where_there_are_weights(capture: Capture, unseen: Scene4D) -> None:
    weights = load_lpips(real_data("lpips") / "lpips_alex_v0.1.npz")
    view = capture.view("cam00", 0)
    found = strict(evaluate(unseen, capture, [view], options=replace(GREY, lpips=weights)))
    image = capture.image(view)
    expected = float(lpips(torch.full_like(image, 0.25), image, weights))
    assert found["groups"]["train"]["full"]["lpips"] == pytest.approx(expected, abs=1e-6)
    assert "lpips" not in found["reasons"]


def test_median_of_a_long_capture_is_over_64_evenly_spaced_frames(tmp_path: Path) -> None:
    frames = 130
    (tmp_path / "images").mkdir()
    values = np.random.default_rng(0).integers(0, 256, frames)
    for k, value in enumerate(values):
        Image.fromarray(np.full((12, 16, 3), value, np.uint8)).save(tmp_path / f"images/{k:03d}.png")
    camera = {"name": "a", "images": "images", "width": 16, "height": 12, "fps": 30, "frames": frames}
    camera |= {"K": [[20, 0, 8], [0, 20, 6], [0, 0, 1]], "world_to_cam": np.eye(4).tolist()}
    (tmp_path / "cameras.json").write_text(json.dumps({"format": "scene4d-capture", "version": 1, "cameras": [camera]}))
    capture = open_capture(tmp_path)
    read = []
    object.__setattr__(capture, "image_u8", lambda view: read.append(view.frame) or Capture.image_u8(capture, view))
    median = camera_median(capture, "a", (16, 12))
    assert median is not None and len(read) == 64 and (read[0], read[-1]) == (0, 129)
    assert set(np.diff(read)) == {2, 3}
    torch.testing.assert_close(median[0, 0, 0], torch.tensor(np.median(values[read]) / 255).float())


def test_spread_takes_the_ends_and_never_more_than_asked() -> None:
    assert spread(range(11), 3) == [0, 5, 10] and spread("ab", 5) == ["a", "b"] and spread([], 3) == []


# -- the sheet and the command -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(capture: Capture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("projects") / "sphere.s4d"
    scene = surface_scene(make_world("plane_sphere"), [capture.at(k)[0].time for k in capture.frames], 0.03)
    fit = {"long_side": 60, "frames": None, "hold_out": None}
    cameras = capture_cameras(capture)
    save_project(path, Project(scene, capture=str(capture.root), cameras=cameras, units="m", fps=4.0, fit=fit))
    return path


def test_command_writes_what_it_measured_and_a_sheet(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(project), "--split", "test", "--json", "--out", str(tmp_path / "out")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "out/evaluation.json").read_text()) == printed
    assert printed["sizes"] == [[60, 45]]  # what it was fitted at
    assert set(printed["groups"]) == {"held_out", "held_out_times", "held_out_cameras"}
    assert printed["groups"]["held_out"]["full"]["psnr"] > 25  # the scene is made of the truth
    assert printed["truth"]["depth"]["all"]["median_relative"] < 0.01
    with Image.open(tmp_path / "out/sheet.png") as sheet:
        assert sheet.width > 4 * 400 and sheet.height > 6 * 300


def test_table_shows_every_group_and_the_truth(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(project), "--long-side", "48", "--split", "all"]) == 0
    out = capsys.readouterr().out
    for words in ("at 48x36", "held out times", "held out cameras", "  cam06", "moving objects", "instance 1", "lost"):
        assert words in out
    assert "nan" not in out.lower()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--capture", "/nowhere"], "no such file or folder"),
        (["--long-side", "0"], "long_side must be at least 1"),
        (["--lpips-weights", "/nowhere.npz"], "weights of lpips not found"),
        (["--split", "validation"], "split"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    project: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(project), *options]) == EXIT_BAD_INPUT
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


def test_project_whose_capture_has_gone_says_how_to_give_it(
    project: Path, capture: Capture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from scene4d.files.project import update_project

    moved = tmp_path / "moved.s4d"
    shutil.copytree(project, moved)
    update_project(moved, capture="../gone", fit={"long_side": "big"})
    assert main(["evaluate", str(moved)]) == EXIT_BAD_INPUT
    assert "give it with --capture FOLDER" in capsys.readouterr().err
    assert main(["evaluate", str(moved), "--capture", str(capture.root)]) == EXIT_BAD_INPUT
    assert "long_side must be a whole number of pixels, got big" in capsys.readouterr().err


def test_sheet_shows_captured_and_rendered_beside_each_other(capture: Capture, unseen: Scene4D) -> None:
    found = evaluate(unseen, capture, [capture.view("cam00", 0)], options=GREY)
    sheet = np.asarray(evaluation_sheet(unseen, capture, found, GREY))
    column = (sheet.shape[1] - 24) // 4
    middle = slice(100, 280), slice(12 + column + 40, 12 + column + 360)
    assert (sheet[middle] == 64).all()  # the background, 0.25
    picture = sheet[100:280, 52:372].astype(float)
    assert picture.std() > 5 and abs(picture.mean() / 255 - float(capture.image(capture.view("cam00", 0)).mean())) < 0.1


def test_sheet_chooses_from_every_group(capture: Capture, unseen: Scene4D) -> None:
    scores = evaluate(unseen, capture, list(capture.views), options=GREY).views
    chosen = chosen_scores(scores, 6)
    assert [s.group for s in chosen] == ["held_out_cameras"] * 2 + ["held_out_times"] * 2 + ["train"] * 2
    assert len({(s.camera, s.frame) for s in chosen}) == 6
    assert len({s.camera for s in chosen}) == 4  # the two held-out ones, and the first and the last of the others


def test_near_is_warm_far_is_cold_and_nothing_is_black() -> None:
    picture = depth_picture(torch.tensor([[1.0, 1.0, 4.0, 4.0, 0.0]])).astype(int)
    near, far, none = picture[0, 0], picture[0, 2], picture[0, 4]
    assert near[0] > near[2] and far[2] > far[0] and (none == 0).all()
