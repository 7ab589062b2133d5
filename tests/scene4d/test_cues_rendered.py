"""Target frames of edited scenes, and the command, on splats that are exactly a world's surfaces."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from renderers import Cameras
from scene4d.cli import main
from scene4d.cues.frames import make_cue
from scene4d.cues.rendered import SceneFrames, scene_sources
from scene4d.cues.roles import PRESERVE, REVEAL
from scene4d.cues.sources import prepare
from scene4d.cues.target import carried, surface_points
from scene4d.edits import EditedScene, Recolour, stack_of
from scene4d.edits.selections import Instance
from scene4d.edits.world_edits import stack_of_world
from scene4d.files.project import Project, save_project
from scene4d.files.project_cameras import ProjectCamera
from scene4d.worlds import (
    CaptureOptions,
    Duplicate,
    Edit,
    Move,
    Remove,
    Retime,
    TimeWarp,
    World,
    capture_world,
    edited,
    make_world,
    moving_rig,
    poses_at,
    trace,
    translation,
)
from scene4d.worlds.rigs import Rig as CameraRig
from scene4d.worlds.splats import splats_of_world

W, H, FRAMES = 80, 60, 5
BLOCK = 2
TURN = ((0.0, -1.0, 0.0, 0.4), (1.0, 0.0, 0.0, 0.3), (0.0, 0.0, 1.0, -0.2), (0.0, 0.0, 0.0, 1.0))


def rig_of(world: World) -> CameraRig:
    return moving_rig(world, FRAMES, W, H)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world("room")


@pytest.fixture(scope="module")
def scene(world: World):
    rig = rig_of(world)
    times = [k / (FRAMES - 1) for k in range(FRAMES)]
    return splats_of_world(world, [rig.at(k) for k in range(FRAMES)], times, knots=np.linspace(-1.0, 2.0, 49))


@pytest.mark.parametrize(
    "edit",
    [
        Move(BLOCK, TURN),
        Duplicate(BLOCK, translation(0.5, 0.5, 0.3), 7),
        Retime(BLOCK, TimeWarp((0.0, 1.0), (0.75, 0.25))),
    ],
    ids=["move", "duplicate", "retime"],
)
def test_surface_points_go_back_to_where_the_world_had_them(world: World, scene, edit: Edit) -> None:
    camera, time = rig_of(world).at(2), 0.5
    after = edited(world, [edit])
    frame = SceneFrames(EditedScene(scene, stack_of_world([edit]))).frame(camera, time)
    name = "block.copy7" if isinstance(edit, Duplicate) else "block"
    truth = trace(after, camera, time, 1)
    k = [o.name for o in after.objects].index(name)
    mine = ((frame.instances == BLOCK) & (truth.parts[0] == k)).reshape(-1).nonzero()[:, 0]
    assert len(mine) > 60 and frame.moving.reshape(-1)[mine].all()
    points = surface_points(frame)[mine]
    twin = [o.name for o in world.objects].index("block")
    maps_at = frame.back_map(mine)
    for seconds in (0.0, 0.25, 1.0):  # knots of the splats' handles: exact there
        T = poses_at(world, seconds).T_world_rest[twin] @ torch.linalg.inv(poses_at(after, time).T_world_rest[k])
        expected = points.double() @ T[:3, :3].T + T[:3, 3]
        found = carried(maps_at(seconds), points.T).T
        off = (found.double() - expected).norm(dim=1)
        assert float((off < 2e-3).float().mean()) > 0.9  # metres; at the outline the row may be the original's


def test_depth_of_splats_is_that_of_the_world_off_its_outlines(world: World, scene) -> None:
    camera = rig_of(world).at(2)
    frame = SceneFrames(scene).frame(camera, 0.5)
    truth = trace(world, camera, 0.5, 1)
    error = ((frame.depth - truth.depth[0]).abs() / truth.depth[0])[frame.covered]
    # a splat's depth is its centre's: on grazing surfaces the nearer ones of a pixel cover the farther ones
    assert float(error.median()) < 0.02 and float((error < 0.04).float().mean()) > 0.85
    assert (frame.instances == truth.ids[0]).float().mean() > 0.92


def test_removed_thing_leaves_what_other_views_saw_and_reveal_for_the_rest(world: World, scene) -> None:
    rig = rig_of(world)
    cameras, times = [rig.at(k) for k in range(FRAMES)], [k / (FRAMES - 1) for k in range(FRAMES)]
    images = [
        (trace(world, c, t, 1).images[0] * 255).round().to(torch.uint8) for c, t in zip(cameras, times, strict=True)
    ]
    prepared = prepare(scene_sources(scene, images, cameras, times))
    cue = make_cue(prepared, SceneFrames(EditedScene(scene, stack_of_world([Remove(BLOCK)]))).frame(cameras[2], 0.5))
    footprint = trace(world, cameras[2], 0.5, 1).ids[0] == BLOCK
    own = prepared.views.instances
    assert footprint.sum() > 100 and (cue.roles[~footprint] == PRESERVE).float().mean() > 0.85
    inner = footprint & cue.observed
    assert (cue.provenance[inner] != 2).all()  # the view that the block hides them from
    truth = trace(edited(world, [Remove(BLOCK)]), cameras[2], 0.5, 1).images[0]
    assert inner.sum() > 20 and float((cue.image - truth)[inner].abs().mean()) < 0.05
    assert (cue.roles[footprint] == REVEAL).sum() > 20 and int(own.max()) == 3


def test_recoloured_thing_is_painted_again_and_a_moved_one_that_stands_still_is_not(world: World, scene) -> None:
    camera = rig_of(world).at(2)
    gray = EditedScene(scene, stack_of([Recolour(Instance((BLOCK,)), gain=(0.2, 1.0, 1.0))]))
    frame = SceneFrames(gray).frame(camera, 0.5)
    changed = frame.flag("changed")
    assert (frame.instances[changed] == BLOCK).all() and changed.sum() > 100
    crate = SceneFrames(EditedScene(scene, stack_of_world([Move(1, translation(0.2, 0.0, 0.0))]))).frame(camera, 0.5)
    mine = (crate.instances == 1) & crate.covered
    assert mine.sum() > 100 and crate.moving[mine].all() and not crate.flag("changed").any()


@pytest.fixture(scope="module")
def project(world: World, scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cues")
    rig = rig_of(world)
    capture_world(world, rig, folder / "room", CaptureOptions(frames=FRAMES, samples=1, tracks=1, points=0))
    times = tuple(k / (FRAMES - 1) for k in range(FRAMES))
    camera = ProjectCamera("cam00", W, H, times, rig.K[None], rig.world_to_cam[0])
    edits = tuple(stack_of_world([Remove(BLOCK)]).to_json())
    save_project(folder / "room.s4d", Project(scene, "../room", (camera,), edits, "m", fps=4.0))
    return folder / "room.s4d"


def test_command_writes_videos_numbers_calibration_and_report(project: Path, tmp_path: Path, capsys) -> None:
    options = ["--capture-camera", "cam00", "--format", "mp4,png,npz", "--save", "cue,roles"]
    assert main(["cues", str(project), *options, "--out", str(tmp_path / "out")]) == 0
    out = tmp_path / "out"
    names = {"overview.mp4", "cue.mp4", "roles.mp4", "calibration.json", "cues.json", "reliability.png"}
    assert names <= {p.name for p in out.iterdir()}
    facts = json.loads((out / "cues.json").read_text())
    frames = len(facts["frames"])
    assert frames >= 3 and len(list((out / "cue").glob("*.png"))) == frames
    assert sum(facts["frames"][0]["shares"].values()) == pytest.approx(1.0)
    assert set(facts["hashes"]) == {"scene", "sources"} and facts["sources"][0]["camera"] == "cam00"
    with np.load(out / "data" / "00001.npz") as arrays:
        assert (arrays["soft_roles"].sum(-1) == 1).all() and arrays["roles"].shape == (H, W)
        share = float((arrays["roles"] == 1).mean())
        assert share == pytest.approx(facts["frames"][1]["shares"]["reveal"], abs=1e-6)
    assert "source views" in capsys.readouterr().out
    assert main(["cues", str(project), *options, "--out", str(out)]) == 2  # is there already
    assert "--overwrite replaces it" in capsys.readouterr().err


def test_command_takes_a_stored_calibration_and_refuses_what_it_cannot_use(
    project: Path, tmp_path: Path, capsys
) -> None:
    bad = tmp_path / "c.json"
    bad.write_text("{}")
    options = ["--capture-camera", "cam00", "--out", str(tmp_path / "x")]
    assert main(["cues", str(project), *options, "--calibration", str(bad)]) == 2
    assert "must be a calibration" in capsys.readouterr().err
    assert main(["cues", str(project), *options, "--save", "colour"]) == 2
    assert "save must be some of" in capsys.readouterr().err
    assert main(["cues", str(project), *options, "--capture", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "x").exists() and not list(tmp_path.glob(".x*"))


def test_camera_of_another_size_than_the_sources_is_served(world: World, scene) -> None:
    rig = rig_of(world)
    images = [torch.zeros(H, W, 3, dtype=torch.uint8), torch.zeros(H // 2, W // 2, 3, dtype=torch.uint8)]
    small = Cameras(rig.at(1).world_to_cam, rig.at(1).K * torch.tensor([[0.5], [0.5], [1.0]]), W // 2, H // 2)
    views = scene_sources(scene, images, [rig.at(0), small], [0.0, 0.25])
    assert views.size(1) == (W // 2, H // 2) and views.depth.shape == (2, H, W)
    cue = make_cue(prepare(views), SceneFrames(scene).frame(rig.at(1), 0.25))
    assert (cue.roles == PRESERVE).float().mean() > 0.8
    assert ((cue.provenance == 1).sum() > 100) and (views.depth[1, H // 2 :] == 0).all()
