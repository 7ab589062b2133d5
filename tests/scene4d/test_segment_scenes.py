"""Masks made instances, and handles split, on a world whose instances are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from renderers import Cameras
from scene4d.cli import main
from scene4d.edits.segmenting import MaskedView, mask_agreement, segment, split_handles
from scene4d.errors import EXIT_BAD_INPUT
from scene4d.files.project import Project, load_project, save_project
from scene4d.scene import Scene4D
from scene4d.scene_tools import scene_hash
from scene4d.worlds import CaptureOptions, arc_rig, capture_world, make_world, trace
from tests.scene4d.random_scenes import random_rig, random_scene
from tests.scene4d.world_scenes import world_scene

WORLD = make_world("room")
W, H = 96, 72


def forgotten(scene: Scene4D) -> Scene4D:
    """The scene as if nobody knew its instances: all background, handles too."""
    assert scene.rig is not None
    rig = replace(scene.rig, instances=torch.zeros_like(scene.rig.instances))
    return replace(scene, instances=torch.zeros_like(scene.instances), rig=rig)


def views(times: tuple[float, ...] = (0.0, 0.5, 1.0)) -> list[MaskedView]:
    rig = arc_rig(WORLD, W, H).at(0)
    found = []
    for t in times:
        truth = trace(WORLD, rig, t, samples=1)
        for k in range(0, len(rig), 2):
            camera = Cameras(rig.world_to_cam[k : k + 1].float(), rig.K[k : k + 1].float(), W, H)
            found.append(MaskedView(camera, t, truth.ids[k]))
    return found


def test_masks_of_some_frames_give_the_instances_of_the_whole_scene() -> None:
    truth = world_scene(WORLD, spacing=0.08, wall_spacing=0.2)
    found = segment(forgotten(truth), views())
    assert found.ids == (0, 1, 2, 3) and sum(found.counts.values()) == len(truth)
    for k in (1, 2, 3):
        own, real = found.scene.instances == k, truth.instances == k
        assert float((own & real).sum()) > 0.94 * float(own.sum()), k  # the crate hides the floor below it
        assert float((own & real).sum()) > 0.65 * float(real.sum()), k  # of a third no view shows anything
    later = views((0.25,))  # a time that no mask was of
    mine, best = mask_agreement(found.scene, later), mask_agreement(truth, later)  # discs reach over their masks' edges
    assert all(mine[k] > best[k] - 0.02 for k in best) and min(best.values()) > 0.75, (mine, best)
    for t in (0.0, 0.37, 1.0):  # it looks and moves as before
        a, b = truth.at(t), found.scene.at(t)
        assert torch.equal(a.means, b.means) and torch.equal(a.quats, b.quats)


def test_unknown_pixels_do_not_vote() -> None:
    truth = world_scene(WORLD, spacing=0.15, wall_spacing=0.4)
    unknown = [replace(v, ids=torch.where(v.ids == 2, -1, v.ids)) for v in views((0.5,))]
    assert segment(forgotten(truth), unknown).ids == (0, 1, 3)
    with pytest.raises(ValueError, match="views must hold at least one mask"):
        segment(truth, [replace(v, ids=torch.full_like(v.ids, -1)) for v in unknown])


def test_handles_that_serve_two_instances_are_split_with_what_they_follow() -> None:
    rig = random_rig([3, 1, 4, 5, 2], [-1, 0, -1, 1, 3])
    scene = random_scene(40, rig=rig)
    assert scene.handle_ids is not None
    last = torch.where(scene.handle_ids >= 0, 4, -1)  # of instance 2: it follows 3, which follows 1, which follows 0
    instances = torch.randint(0, 3, (40,), generator=torch.Generator().manual_seed(1)).int()
    scene = replace(scene, handle_ids=torch.where((instances == 2)[:, None], last, scene.handle_ids).int())
    after = split_handles(scene, instances)
    assert after.rig is not None and after.handle_ids is not None and len(after.rig) > len(rig)
    for t in (-0.5, 0.2, 0.7, 1.5):
        a, b = scene.at(t), after.at(t)
        torch.testing.assert_close(a.means, b.means, atol=1e-12, rtol=0)
        torch.testing.assert_close(a.quats, b.quats, atol=1e-12, rtol=0)
    for h in range(len(after.rig)):  # slow: who follows it, or a child of it
        followers = instances[(after.handle_ids == h).any(1)].unique().tolist()
        assert set(followers) <= {int(after.rig.instances[h])}
    assert torch.equal(after.instances, instances)


def test_splitting_by_the_instances_that_there_are_changes_nothing() -> None:
    scene = world_scene(WORLD, spacing=0.3, wall_spacing=0.9)
    assert scene_hash(split_handles(scene, scene.instances)) == scene_hash(scene)
    still = replace(scene, rig=None, handle_ids=None, handle_logits=None)
    assert split_handles(still, scene.instances + 1).rig is None


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture with masks, and a project of its exact scene whose instances are forgotten."""
    folder = tmp_path_factory.mktemp("segment")
    capture_world(WORLD, arc_rig(WORLD, W, H), folder / "room", CaptureOptions(frames=3, samples=1))
    scene = forgotten(world_scene(WORLD, spacing=0.1, wall_spacing=0.25))
    save_project(folder / "room.s4d", Project(scene, "../room", fps=2.0))
    return folder


def test_the_command_takes_the_captures_masks(captured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = world_scene(WORLD, spacing=0.1, wall_spacing=0.25)
    assert main(["segment", str(captured / "room.s4d")]) == 0
    told = capsys.readouterr().out
    assert "4 ids from" in told and "instance 3:" in told and "handles: 9 before" in told
    found = load_project(captured / "room.s4d").scene
    agree = found.instances == truth.instances
    assert float(agree.float().mean()) > 0.9


def test_the_command_takes_a_folder_of_masks(captured: Path, tmp_path: Path) -> None:
    """Ids as the pictures have them; only the block is in these."""
    rig, project = arc_rig(WORLD, W, H).at(0), tmp_path / "b.s4d"
    save_project(project, replace(load_project(captured / "room.s4d"), capture=str(captured / "room")))
    truth = trace(WORLD, rig, 0.0, samples=1)
    names = [c.name for c in sorted((captured / "room" / "images").iterdir())]
    for k in (0, 2, 4):
        (tmp_path / "m" / names[k]).mkdir(parents=True)
        picture = ((truth.ids[k] == 2).numpy() * 7).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "m" / names[k] / "0000.png"), picture)
    assert main(["segment", str(project), "--masks", str(tmp_path / "m"), "--no-check"]) == 0
    scene, real = load_project(project).scene, world_scene(WORLD, spacing=0.1, wall_spacing=0.25).instances == 2
    assert scene.instances.unique().tolist() == [0, 7]
    mine = scene.instances == 7
    assert float((mine & real).sum()) / float((mine | real).sum()) > 0.4  # one frame of three cameras


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--masks", "nowhere"], "no such folder of masks"),
        (["--masks", "."], "has no CAMERA/FRAME.png"),
        (["--capture", "nowhere"], "nowhere"),
        (["--cameras", "cam99"], "no camera 'cam99'"),
        (["--long-side", "0"], "long_side must be"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    captured: Path, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = scene_hash(load_project(captured / "room.s4d").scene)
    assert main(["segment", str(captured / "room.s4d"), *options]) == EXIT_BAD_INPUT
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert scene_hash(load_project(captured / "room.s4d").scene) == before


def test_instances_that_edits_need_are_not_taken_away(
    captured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = load_project(captured / "room.s4d")
    assert project.scene.rig is not None
    ids = project.scene.instances + 40
    scene = replace(
        project.scene, instances=ids, rig=replace(project.scene.rig, instances=project.scene.rig.instances + 40)
    )
    edit = {"kind": "remove", "select": {"kind": "instance", "ids": [int(ids[0])]}}
    save_project(tmp_path / "c.s4d", replace(project, scene=scene, capture=str(captured / "room"), edits=(edit,)))
    assert main(["segment", str(tmp_path / "c.s4d"), "--frames", "0:1"]) == EXIT_BAD_INPUT
    assert "the edits do not fit the new instances" in capsys.readouterr().err
