"""`scene4d fit --depth-folder`, `--depth-model` and `--cameras`, on a world whose exact depth is known."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from scene4d.captures import Capture, open_capture
from scene4d.cli import main
from scene4d.errors import EXIT_BAD_INPUT, EXIT_CANCELLED, InputError
from scene4d.evaluation import fitted_capture
from scene4d.files.project import load_project
from scene4d.fitting.clouds import static_cloud
from scene4d.fitting.depth_maps import DepthSource, folder_reader, network_source, take_depth_maps
from scene4d.fitting.footage import Footage, open_footage
from scene4d.fitting.train import Fit
from scene4d.models import DepthModel, load_depth_model, predict_depth
from scene4d.scene_tools import scene_hash
from tests.scene4d.test_fit_capture import write_capture
from tests.scene4d.test_models import tiny_network

QUICK = ("--preset", "draft", "--steps", "20", "--max-gaussians", "300", "--handles", "0", "--threads", "1")
TRAINED = [f"cam0{k}" for k in range(6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture with exact depth maps."""
    return write_capture(tmp_path_factory.mktemp("captures") / "ball")


@pytest.fixture(scope="module")
def bare(folder: Path) -> Path:
    """The same capture without its depth maps."""
    return without_depth(folder, folder.parent / "bare")


def without_depth(folder: Path, out: Path) -> Path:
    shutil.copytree(folder, out)
    shutil.rmtree(out / "depth")
    description = json.loads((out / "cameras.json").read_text())
    for camera in description["cameras"]:
        del camera["depth"]
    (out / "cameras.json").write_text(json.dumps(description))
    return out


def fit(capture: Path, out: Path, *options: Any) -> int:
    return main(["fit", str(capture), "--out", str(out), *QUICK, *map(str, options)])


def refused(capsys: pytest.CaptureFixture[str], *args: Any) -> str:
    """The line that `scene4d fit ARGS` says when it refuses."""
    capsys.readouterr()
    assert main(["fit", *map(str, args)]) == EXIT_BAD_INPUT
    message = capsys.readouterr().err
    assert message.startswith("scene4d fit: ") and message.count("\n") == 1
    return message


def footage_of(capture: Capture, long_side: int = 64) -> Footage:
    small = capture.resized(long_side)
    return open_footage(small, small.split("train"))


def report_of(out: Path) -> dict[str, Any]:
    (run,) = (out / "runs").iterdir()
    return json.loads((run / "depth_maps.json").read_text())


# -- folders


@pytest.mark.parametrize("long_side", [64, 40])
def test_folder_of_exact_depth_gives_the_background_that_the_captures_own_depth_gives(
    folder: Path, bare: Path, tmp_path: Path, long_side: int
) -> None:
    own, without = footage_of(open_capture(folder), long_side), footage_of(open_capture(bare), long_side)
    reader = folder_reader(folder / "depth", open_capture(bare))
    told = take_depth_maps(without, DepthSource(reader, "metric"), tmp_path / "report.json")
    assert told.startswith("depth maps of 18 views: median error ")
    for view in own.views:
        given, taken = own.depth(view), without.depth(view)
        assert given is not None and taken is not None and torch.equal(given, taken)
    clouds = [static_cloud(f, {}, 300, torch.Generator().manual_seed(0)) for f in (own, without)]
    assert len(clouds[0]) > 100
    assert torch.equal(clouds[0].xyz, clouds[1].xyz) and torch.equal(clouds[0].rgb, clouds[1].rgb)


def test_fit_with_exact_depth_of_a_folder_is_the_fit_with_the_captures_own(
    folder: Path, bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(folder, tmp_path / "own.s4d") == 0
    assert fit(bare, tmp_path / "none.s4d") == 0
    capsys.readouterr()
    assert fit(bare, tmp_path / "given.s4d", "--depth-folder", folder / "depth") == 0
    assert capsys.readouterr().err.count("depth maps of 18 views: median error ") == 1
    own, none, given = (scene_hash(load_project(tmp_path / f"{n}.s4d").scene) for n in ("own", "none", "given"))
    assert own == given != none


def test_report_tells_how_far_each_view_is_from_the_points(folder: Path, bare: Path, tmp_path: Path) -> None:
    deeper = tmp_path / "deeper"
    shutil.copytree(folder / "depth", deeper)
    for path in sorted((deeper / "cam01").iterdir()):
        np.save(path, 1.1 * np.load(path))
    assert fit(bare, tmp_path / "a.s4d", "--depth-folder", deeper) == 0
    report = report_of(tmp_path / "a.s4d")
    assert report["kind"] == "metric" and len(report["views"]) == 18
    for view in report["views"]:
        assert view["points"] > 100
        assert view["residual"] == pytest.approx(0.1 if view["camera"] == "cam01" else 0.0, abs=0.02)
    assert report["median"] == pytest.approx(np.median([v["residual"] for v in report["views"]]))


def test_relative_maps_take_their_scale_from_sparse_points(folder: Path, bare: Path, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    for name in TRAINED:
        (maps / name).mkdir(parents=True)
        for k, path in enumerate(sorted((folder / "depth" / name).iterdir())):
            inverse = 1000 + 20_000 / np.load(path)  # a scale and a shift
            assert cv2.imwrite(str(maps / name / f"frame{k}.png"), inverse.round().astype(np.uint16))
    assert fit(bare, tmp_path / "a.s4d", "--depth-folder", maps, "--depth-kind", "inverse") == 0
    for view in report_of(tmp_path / "a.s4d")["views"]:
        assert view["scale"] == pytest.approx(1 / 20_000, rel=0.1) and view["residual"] < 0.02


def test_maps_are_rectified_as_the_pictures_are(folder: Path, tmp_path: Path) -> None:
    """A capture whose pictures are distorted, with maps as captured: the own ones and those of the folder agree."""
    bent = tmp_path / "bent"
    shutil.copytree(folder, bent)
    description = json.loads((bent / "cameras.json").read_text())
    for camera in description["cameras"]:
        camera["distortion"]["coefficients"] = [0.2, 0.0, 0.0, 0.0]
    (bent / "cameras.json").write_text(json.dumps(description))
    capture = open_capture(bent)
    reader = folder_reader(bent / "depth", capture)
    flat = folder_reader(folder / "depth", open_capture(folder))
    for view in capture.resized(50).split("train")[:3]:
        own, found = capture.depth(view), reader(view)
        assert own is not None and torch.equal(own, found) and not torch.equal(found, flat(view))


# -- networks


def test_network_gives_maps_of_its_own_pictures_and_the_points_their_scale(
    folder: Path, bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network's answers are what a good one would say: inverse depth, scaled and shifted."""
    network = DepthModel(None, torch.device("cpu"), inverse=True, short_side=14, multiple=14, mean=(), std=())
    capture, asked = open_capture(folder), []
    pictures = {capture.image_u8(v).numpy().tobytes(): v for v in capture.split("train")}

    def answer(model: Any, image: torch.Tensor) -> torch.Tensor:
        view = pictures[image.numpy().tobytes()]
        asked.append(view.key)
        depth = capture.depth(view)
        assert depth is not None and model is network
        return 7.0 / depth - 0.3

    monkeypatch.setattr("scene4d.fitting.depth_maps.load_depth_model", lambda folder, device: network)
    monkeypatch.setattr("scene4d.fitting.depth_maps.predict_depth", answer)
    assert fit(bare, tmp_path / "a.s4d", "--depth-model", tmp_path / "network") == 0
    assert len({*asked}) == len(asked) == 18
    report = report_of(tmp_path / "a.s4d")
    assert report["kind"] == "inverse" and report["median"] < 0.02
    assert all(v["scale"] == pytest.approx(1 / 7, rel=0.1) for v in report["views"])


def test_metric_network_is_not_believed_its_scale(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = DepthModel(None, torch.device("cpu"), inverse=False, short_side=14, multiple=14, mean=(), std=())
    monkeypatch.setattr("scene4d.fitting.depth_maps.load_depth_model", lambda folder, device: network)
    assert network_source(tmp_path, open_capture(folder)).kind == "depth"


def test_saved_network_is_asked_for_every_view(bare: Path, tmp_path: Path) -> None:
    tiny_network().save_pretrained(tmp_path)
    capture = open_capture(bare)
    source, view = network_source(tmp_path, capture), capture.views[3]
    expected = predict_depth(load_depth_model(tmp_path), capture.image_u8(view))
    assert source.kind == "inverse" and torch.equal(source.read(view), expected)


# -- what is refused


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--depth-folder", "x", "--depth-model", "y"], "--depth-folder must not be given together with --depth-model"),
        (["--depth-kind", "metric"], "--depth-kind must be given together with --depth-folder"),
        (["--depth-folder", "nowhere"], "nowhere/cam00: no such folder"),
        (["--depth-model", "nowhere"], "nowhere: config.json is missing"),
        (["--cameras", "cam00,cam00"], "cameras must be different names A,B,..., got"),
        (["--cameras", "cam00,left"], "no camera 'left'; it has cam00, cam01"),
        (["--cameras", "cam00,cam06"], "camera cam06 has no training view"),
    ],
)
def test_bad_options_give_one_line_and_leave_nothing(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], words: str
) -> None:
    out = tmp_path / "new.s4d"
    assert words in refused(capsys, bare, "--out", out, *QUICK, *args)
    assert not out.exists()


def test_network_without_its_library_is_told_in_one_line(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    monkeypatch.setattr("scene4d.models.import_module", missing)
    message = refused(capsys, bare, "--out", tmp_path / "new.s4d", "--depth-model", tmp_path)
    assert "pip install 'scene4d[diffusion]'" in message


def test_wrong_number_of_maps_names_the_folder_and_nothing_is_begun(
    folder: Path, bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "depth", tmp_path / "depth")
    (tmp_path / "depth" / "cam02" / "00003.npy").unlink()
    message = refused(capsys, bare, "--out", tmp_path / "new.s4d", "--depth-folder", tmp_path / "depth")
    assert f"{tmp_path}/depth/cam02: 3 depth maps" in message and "for 4 frames of camera cam02" in message
    assert not (tmp_path / "new.s4d").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [(np.ones((48, 48)), "is 48x48, its picture 64x48"), (np.ones((48, 64, 2)), "must have shape [H, W]")],
)
def test_map_of_a_wrong_shape_is_named(
    folder: Path, bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], values: np.ndarray, words: str
) -> None:
    shutil.copytree(folder / "depth", tmp_path / "depth")
    np.save(tmp_path / "depth" / "cam02" / "00001.npy", values)
    message = refused(capsys, bare, "--out", tmp_path / "new.s4d", "--depth-folder", tmp_path / "depth", *QUICK)
    assert f"{tmp_path}/depth/cam02/00001.npy: " in message and words in message


def test_maps_in_other_units_are_not_taken_for_metric(folder: Path, bare: Path) -> None:
    capture = open_capture(bare)
    millimetres = folder_reader(folder / "depth", capture, unit=1000.0)
    with pytest.raises(InputError, match="other units"):
        take_depth_maps(footage_of(capture), DepthSource(millimetres, "metric"), Path("never.json"))


def test_camera_that_is_not_fitted_to_needs_no_maps(folder: Path, bare: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "depth", tmp_path / "depth")
    for name in ("cam03", "cam06", "cam07"):
        shutil.rmtree(tmp_path / "depth" / name)
    names = [name for name in TRAINED if name != "cam03"]
    out = tmp_path / "a.s4d"
    assert fit(bare, out, "--depth-folder", tmp_path / "depth", "--cameras", ",".join(names)) == 0
    assert {v["camera"] for v in report_of(out)["views"]} == {*names}


# -- going on


def test_resumed_fit_takes_the_same_maps_and_no_others(
    folder: Path, bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out, advance = tmp_path / "whole.s4d", tmp_path / "stopped.s4d", Fit.advance
    assert fit(bare, whole, "--depth-folder", folder / "depth") == 0

    def interrupted(fit: Fit) -> dict[str, float]:
        if fit.step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return advance(fit)

    monkeypatch.setattr(Fit, "advance", interrupted)
    assert fit(bare, out, "--depth-folder", folder / "depth") == EXIT_CANCELLED
    monkeypatch.undo()
    for others in (["--depth-kind", "depth"], []):
        place = folder / "depth" if others else folder
        message = refused(capsys, "--out", out, "--resume", "--depth-folder", place, *others)
        assert "was started with other options" in message and ("depth_kind metric, now depth" in message) == bool(
            others
        )
    assert "cameras None, now" in refused(capsys, "--out", out, "--resume", "--cameras", "cam00,cam01")
    assert main(["fit", "--out", str(out), "--resume", "--depth-folder", str(folder / "images" / ".." / "depth")]) == 0
    assert scene_hash(load_project(out).scene) == scene_hash(load_project(whole).scene)


# -- cameras


def test_cameras_that_are_left_out_count_as_held_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.s4d"
    assert fit(folder, out, "--cameras", "cam04, cam01") == 0
    project = load_project(out)
    assert project.fit is not None and project.fit["cameras"] == ["cam04", "cam01"]
    assert [c.name for c in project.cameras] == open_capture(folder).camera_names
    assert {c.name for c in project.cameras if c.exposure is not None} == {"cam01", "cam04"}
    capsys.readouterr()
    assert main(["evaluate", str(out), "--json"]) == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert {*groups["train"]["cameras"]} == {*groups["held_out_times"]["cameras"]} == {"cam01", "cam04"}
    assert {*groups["held_out_cameras"]["cameras"]} == {"cam00", "cam02", "cam03", "cam05", "cam06", "cam07"}
    metrics = json.loads(next((out / "runs").glob("*/metrics.json")).read_text())
    assert metrics["views"] == groups["train"]["views"] == 2 * 3


def test_cameras_that_the_capture_does_not_have_are_refused_by_an_evaluation(folder: Path) -> None:
    capture = open_capture(folder)
    for names in (["cam00", "left"], "cam00", [3]):
        with pytest.raises(InputError, match="cameras must be some of the capture's"):
            fitted_capture(capture, {"cameras": names})
    part, trained = fitted_capture(capture, {"cameras": ["cam02"], "hold_out": "1"})
    assert len(part) == len(capture) and trained == {("cam02", 0), ("cam02", 2)}
