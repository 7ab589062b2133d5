"""Items from worlds and from clips whose truth is known; the baselines fail where they must."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from scene4d.benchmarks.footage import clip_flow as flow_of
from scene4d.benchmarks.footage import cut_out, load_footage, paste, seen_elsewhere
from scene4d.benchmarks.footage_items import feet_in_space, pasted_over, put_aside, shifted
from scene4d.benchmarks.world_edits import asked_of, make_scenes
from scene4d.captures import open_capture
from scene4d.errors import InputError
from scene4d.metrics.benchmark_items import KINDS, MAGNITUDES, load_benchmark, load_clip, read_frames
from scene4d.metrics.benchmark_scores import score_results
from scene4d.path_files import load_path
from scene4d.worlds import edited
from scripts import make_region_benchmark as script

DATA = Path(os.environ.get("SCENE4D_TEST_DATA") or ".")
needs_dog = pytest.mark.skipif(not (DATA / "davis_dog").is_dir(), reason="needs SCENE4D_TEST_DATA with davis_dog/")
needs_parkour = pytest.mark.skipif(not (DATA / "parkour").is_dir(), reason="needs SCENE4D_TEST_DATA with parkour/")
H, W, T = 72, 96, 6
EDITS = ("camera", "remove", "insert")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Three large edits of the room, in small pictures, with all baselines."""
    out = tmp_path_factory.mktemp("bench")
    config = script.Config(
        out / "bench",
        scenes=("room",),
        kinds=EDITS,
        magnitudes=("large",),
        width=80,
        height=60,
        frames=4,
        baselines=out / "results",
    )
    assert script.main(config) == [f"room.{kind}.large" for kind in EDITS]
    return out / "bench", out / "results"


@pytest.fixture(scope="module")
def scored(made: tuple[Path, Path]) -> dict[str, dict[str, Any]]:
    benchmark = load_benchmark(made[0])
    results = {name: score_results(benchmark, made[1] / name, None) for name in script.BASELINES}
    return {m: {n: i["scores"] for n, i in r["items"].items()} for m, r in results.items()}


def test_source_is_a_capture_without_the_truth_and_the_path_is_one_of_ours(made: tuple[Path, Path]) -> None:
    item = load_benchmark(made[0]).items[0]
    capture = open_capture(item.source)
    assert len(capture.views) == 4 and capture.depth(capture.views[0]) is not None
    assert {v.split for v in capture.views} == {"train"} and not list(item.source.glob("truth*"))
    path = load_path(item.folder / "camera_path.json")
    assert len(path) == 4 and path.scene_times is not None


def test_of_edits_of_things_the_source_frame_is_right_wherever_nothing_changed(
    made: tuple[Path, Path], scored: dict[str, dict[str, Any]]
) -> None:
    for item in load_benchmark(made[0]).items:
        clip = load_clip(item, made[1] / "copy_source")
        if item.kind == "camera":
            continue
        assert clip.reference is not None and clip.stale is not None and torch.equal(clip.output, clip.stale)
        same = (clip.reference.int() - clip.stale.int()).abs().amax(-1) <= 1
        assert same.float().mean() > 0.6 and not same.all()
    assert scored["copy_source"]["room.insert.large"]["preserve.psnr"]["value"] > 45


def test_ghosts_are_found_in_the_source_and_hardly_in_the_render(scored: dict[str, dict[str, Any]]) -> None:
    found = {m: scored[m]["room.remove.large"] for m in scored}
    assert (
        found["copy_source"]["reveal.ghost"]["value"] == 1.0 and found["copy_source"]["preserve.ghost"]["value"] == 1.0
    )
    assert found["copy_render"]["preserve.ghost"]["value"] < 0.2


def test_each_baseline_is_worst_where_it_must_be(scored: dict[str, dict[str, Any]]) -> None:
    """The source does not follow a camera or a thing; the style flickers; the render leaves holes."""
    camera = {m: scored[m]["room.camera.large"] for m in scored}
    assert camera["copy_render"]["preserve.psnr"]["value"] > camera["copy_source"]["preserve.psnr"]["value"] + 5
    assert camera["copy_render"]["expand.psnr"]["value"] < camera["copy_source"]["expand.psnr"]["value"]
    insert = {m: scored[m]["room.insert.large"] for m in scored}
    assert insert["copy_render"]["asset.psnr"]["value"] > insert["copy_source"]["asset.psnr"]["value"] + 5
    flicker = {m: scored[m]["room.insert.large"]["preserve.flicker"]["value"] for m in scored}
    assert flicker.pop("style") > 3 * max(flicker.values())
    cue = {m: scored[m]["room.remove.large"] for m in scored}
    assert cue["cue_inpaint"]["preserve.psnr"]["value"] > cue["copy_render"]["preserve.psnr"]["value"] + 2
    assert cue["cue_inpaint"]["reveal.psnr"]["value"] > cue["copy_render"]["reveal.psnr"]["value"] + 3
    assert cue["cue_inpaint"]["reveal.ghost"]["value"] < 0.3
    assert camera["copy_source"]["preserve.revisit"]["value"] > 2 * camera["copy_render"]["preserve.revisit"]["value"]


def test_truth_as_a_result_is_at_its_floor_and_the_camera_is_where_it_was_asked_to_be(made: tuple[Path, Path]) -> None:
    benchmark = load_benchmark(made[0])
    for item in benchmark.items:
        (made[1] / "truth").mkdir(exist_ok=True)
        if not (made[1] / "truth" / item.name).exists():
            (made[1] / "truth" / item.name).symlink_to(item.folder / "truth")
    for found in score_results(benchmark, made[1] / "truth", None)["items"].values():
        scores = found["scores"]
        assert scores["preserve.psnr"]["value"] == 100.0
        assert scores["preserve.flicker"] == scores["preserve.flicker.floor"]
        assert scores["preserve.flicker"]["value"] < 0.01  # interpolation of smooth textures
        assert scores["control.rotation"].get("value", 0.0) < 0.1
        assert scores["control.object"].get("value", 0.0) < 0.2


def test_what_is_there_is_not_made_again(made: tuple[Path, Path]) -> None:
    place = made[0] / "items" / "room.remove.large" / "item.json"
    before = place.stat().st_mtime_ns
    config = script.Config(made[0], scenes=("none",))
    assert len(script.main(config)) == 3 and place.stat().st_mtime_ns == before


def test_all_ninety_edits_are_asked_for_and_possible_and_grow() -> None:
    scenes = make_scenes()
    assert [s.name for s in scenes] == list(script.SCENES)
    for scene in scenes:
        for kind in KINDS:
            asked = [asked_of(scene, kind, level) for level in range(3)]
            assert [a.magnitude for a in asked] == list(MAGNITUDES) and len({a.instruction for a in asked}) == 3
            worlds = [edited(scene.world, a.edits) for a in asked]
            assert all(w is not scene.world for w in worlds) or kind == "camera"
        counts = [len(asked_of(scene, "remove", level).edits) for level in range(3)]
        assert counts == [1, 2, 3]


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="kinds must name some of camera, .*, got 'paint'"):
        script.Config(Path("x"), kinds=("paint",))
    with pytest.raises(ValueError, match="frames must be at least 4, got 2"):
        script.Config(Path("x"), frames=2)


# -- clips -------------------------------------------------------------------------------------------------------------


def write_clip(folder: Path, masks: bool = True) -> Path:
    """A still, textured wall with a disc that goes right 3 pixels a frame; the pictures are PNG."""
    wall = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (H, W, 3), np.uint8), (0, 0), 1.5)
    wall = ((wall.astype(float) - 128) * 3 + 128).clip(0, 255).astype(np.uint8)
    spots = ((wall.astype(int) + 90) % 256).astype(np.uint8)[::-1]
    rows, columns = np.mgrid[0:H, 0:W]
    for name in ("images", "masks") if masks else ("images",):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for t in range(T):
        disc = (columns - 20 - 3 * t) ** 2 + (rows - 30) ** 2 < 100
        picture = np.where(disc[..., None], np.roll(spots, 3 * t, 1), wall)
        cv2.imwrite(str(folder / "images" / f"{t:05d}.png"), picture)
        if masks:
            cv2.imwrite(str(folder / "masks" / f"{t:05d}.png"), disc.astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clips")
    clip = write_clip(out / "wall")
    config = script.Config(
        out / "bench",
        scenes=("none",),
        footage=(clip,),
        footage_frames="::1",
        long_side=W,
        magnitudes=("medium",),
        baselines=out / "results",
    )
    assert script.main(config) == ["wall.remove.medium", "wall.move.medium"]
    return out


def test_removing_again_what_was_pasted_gives_the_clip(clips: Path) -> None:
    """The truth is the clip itself; the source differs from it where its mask says so and nowhere else."""
    item = load_benchmark(clips / "bench").items[0]
    truth = read_frames(item.folder / "truth", item, 3).numpy()
    clip = load_footage(clips / "wall", None, "::1", W)
    assert np.array_equal(truth, clip.frames)
    source = read_frames(item.source / "images", item, 3).numpy()
    thing = read_frames(item.source / "masks", item, 1).numpy() > 0
    assert np.array_equal(source[~thing], truth[~thing]) and (source != truth).any(-1)[thing].mean() > 0.9
    assert thing.any((1, 2)).all() and item.origin == "pseudo-removal"


def test_moved_thing_is_put_back_and_only_hidden_wall_is_to_be_revealed(clips: Path) -> None:
    """Copying the thing back by the offset of the edit gives the thing of the truth, inside its soft edge."""
    item = load_benchmark(clips / "bench").items[1]
    offset = item.edit[0]["offset"]
    assert item.edit[0]["op"] == "move" and offset[0] != 0 and item.edited_instances == (1,)
    truth = read_frames(item.folder / "truth", item, 3).numpy()
    source = read_frames(item.source / "images", item, 3).numpy()
    clip = load_footage(clips / "wall", None, "::1", W)
    assert clip.masks is not None
    back = np.roll(source, (offset[1], offset[0]), (1, 2))
    for t in range(T):
        core = cv2.erode(clip.masks[t].astype(np.uint8), np.ones((7, 7))) > 0
        assert np.abs(back[t][core].astype(int) - truth[t][core]).max() <= 3
    roles = read_frames(item.folder / "roles", item, 1).numpy()
    assert (roles[clip.masks] == 0).all()
    changed = (np.abs(source.astype(int) - truth) > 8).any(-1)
    assert not ((roles == 1) & ~cv2_dilated(changed)).any()


def cv2_dilated(masks: np.ndarray) -> np.ndarray:
    return np.stack([cv2.dilate(m.astype(np.uint8), np.ones((17, 17))) > 0 for m in masks])


def test_layered_render_puts_the_thing_back_over_a_black_hole(clips: Path) -> None:
    benchmark = load_benchmark(clips / "bench")
    scores = score_results(benchmark, clips / "results" / "copy_render", None)["items"]
    assert scores["wall.move.medium"]["scores"]["control.object"]["value"] < 0.5
    source = score_results(benchmark, clips / "results" / "copy_source", None)["items"]
    wanted = abs(benchmark.items[1].edit[0]["offset"][0])
    assert source["wall.move.medium"]["scores"]["control.object"]["value"] == pytest.approx(wanted, abs=1.0)
    assert source["wall.remove.medium"]["scores"]["preserve.ghost"]["value"] > 0.9


def test_hidden_pixels_are_seen_elsewhere_exactly_if_they_come_out_of_hiding() -> None:
    """A still wall: a bar hides columns 40 to 50 always and 20 to 30 in the first half only."""
    wall = np.random.default_rng(1).integers(0, 255, (1, 48, 96, 3), np.uint8)
    wall = cv2.GaussianBlur(wall[0], (0, 0), 1.2)[None].repeat(6, 0)
    hidden = np.zeros((6, 48, 96), bool)
    hidden[:, :, 40:50], hidden[:3, :, 20:30] = True, True
    found = seen_elsewhere(flow_of(wall), hidden)
    assert found[:3, 4:-4, 22:28].all() and not found[:, :, 42:48].any() and not found[~hidden].any()


def test_pasting_keeps_the_foot_the_size_and_all_other_pixels() -> None:
    frame, picture = np.full((60, 80, 3), 50, np.uint8), np.full((20, 10, 3), 200, np.uint8)
    for scale in (0.5, 1.0, 2.0):
        pasted, changed = paste(frame, picture, np.ones((20, 10), bool), (40.0, 50.0), scale)
        rows, columns = np.nonzero(np.abs(pasted[..., 0].astype(int) - 50) > 75)
        assert np.ptp(rows) + 1 == pytest.approx(20 * scale, abs=1.1) and rows.max() == pytest.approx(50, abs=1)
        assert np.ptp(columns) + 1 == pytest.approx(10 * scale, abs=1.1) and columns.mean() == pytest.approx(
            40, abs=0.6
        )
        assert (pasted[~changed] == 50).all()


def test_shift_moves_masks_and_lets_nothing_in() -> None:
    mask = np.zeros((1, 5, 6), bool)
    mask[0, 1, 4] = True
    assert np.argwhere(shifted(mask, (-3, 2))[0]).tolist() == [[3, 1]]
    assert not shifted(mask, (2, 0)).any()


def test_clip_without_masks_is_only_used_for_removals(tmp_path: Path) -> None:
    footage = load_footage(write_clip(tmp_path / "bare", masks=False), None, "::1", W)
    assert footage.masks is None
    with pytest.raises(InputError, match="has no masks"):
        cut_out(footage)
    with pytest.raises(InputError, match="at least 4 are needed"):
        load_footage(tmp_path / "bare", None, "0:3", W)


@needs_dog
def test_dog_that_is_put_aside_leaves_a_filled_hole() -> None:
    footage = load_footage(DATA / "davis_dog", None, "0:16:4", 240)
    assert footage.masks is not None and footage.frames.shape == (4, 135, 240, 3)
    made = put_aside(footage, (40, 0))
    there = shifted(footage.masks, (40, 0))
    core = np.stack([cv2.erode(m.astype(np.uint8), np.ones((7, 7))) > 0 for m in there])
    assert np.abs(made.frames[core].astype(int) - np.roll(footage.frames, 40, 2)[core]).max() <= 3
    hole = footage.masks & ~made.thing
    change = np.abs(made.frames.astype(int) - footage.frames).mean(-1)
    assert change[hole].mean() > 25 and change[~made.lost].max() == 0


@needs_parkour
@needs_dog
def test_foreign_thing_stays_at_a_place_in_space() -> None:
    footage = load_footage(DATA / "parkour", None, "0:16:4", 240)
    found = feet_in_space(footage)
    assert found is not None and footage.K is not None and footage.world_to_cam is not None
    feet, sizes = found
    assert (feet > 0).all() and (feet < [240, 135]).all() and np.ptp(feet[:, 0]) > 2  # the camera moves
    assert sizes.min() > 0.3 and sizes.max() < 3
    dog = cut_out(load_footage(DATA / "davis_dog", None, "0:16:4", 240))
    made = pasted_over(footage, dog, 0.3)
    assert made.thing.any((1, 2)).all() and (made.frames[~made.thing] == footage.frames[~made.thing]).all()
