"""`scene4d edit` and what projects keep for it: one small world, edited from the command line."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from renderers.spherical_harmonics import C0
from scene4d.cli import main
from scene4d.edits import load_edited
from scene4d.errors import EXIT_BAD_INPUT, InputError
from scene4d.files.meshes import Mesh, mesh_scene, read_mesh
from scene4d.files.ply import ply_bytes
from scene4d.files.project import Project, load_project, save_project
from scene4d.files.project_cameras import ProjectCamera
from scene4d.files.splat_ply import read_splat
from scene4d.path_files import save_path
from scene4d.paths import orbit
from scene4d.scene import Scene4D
from scene4d.scene_tools import scene_hash
from scene4d.worlds import arc_rig, make_world
from tests.scene4d.world_scenes import world_scene

WORLD = make_world("room")
BLOCK = 2
CUBE = b"LUT_3D_SIZE 2\n" + b"".join(b"%d %d %d\n" % (1 - r, g, b) for b in (0, 1) for g in (0, 1) for r in (0, 1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rig = arc_rig(WORLD, 64, 48).at(0)
    cameras = tuple(
        ProjectCamera(f"cam{k:02}", 64, 48, (0.0, 1.0), rig.K[k : k + 1].double(), rig.world_to_cam[k : k + 1].double())
        for k in range(3)
    )
    scene = world_scene(WORLD, spacing=0.25, wall_spacing=0.8, sh_count=4)
    save_project(tmp_path / "room.s4d", Project(scene, cameras=cameras, fps=10.0, canonical_time=0.5))
    return tmp_path / "room.s4d"


def edit(folder: Path, *options: str) -> int:
    return main(["edit", str(folder), *options])


def now(folder: Path, t: float = 0.5):
    return load_edited(load_project(folder), folder).at(t)


def ids(folder: Path) -> torch.Tensor:
    return load_edited(load_project(folder), folder).instances


def test_move_remove_undo_redo_and_list(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    was = load_project(folder).scene
    block = was.instances == BLOCK
    assert edit(folder, "move", "--select", "instance:2", "--by", "-0.3", "0", "1e-1") == 0
    assert f"placed {int(block.sum())} Gaussians of instance 2: moved by (-0.3, 0, 0.1)" in capsys.readouterr().out
    torch.testing.assert_close(now(folder).means[block], was.at(0.5).means[block] + torch.tensor([-0.3, 0.0, 0.1]))
    assert edit(folder, "remove", "--select", "instance:1 + instance:3") == 0
    assert ids(folder).unique().tolist() == [0, BLOCK]
    assert edit(folder, "off", "1") == 0
    assert torch.equal(now(folder).means[ids(folder) == BLOCK], was.at(0.5).means[block])
    capsys.readouterr()
    assert edit(folder, "list") == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].split()[:3] == ["1", "off", "transform"] and told[1].split()[:3] == ["2", "on", "remove"]
    assert edit(folder, "undo", "--count", "2") == 0 and load_edited(load_project(folder), folder).is_plain
    assert edit(folder, "redo") == 0 and edit(folder, "on", "1") == 0 and len(load_project(folder).edits) == 2
    assert edit(folder, "clear") == 0 and scene_hash(load_project(folder).scene) == scene_hash(was)
    assert edit(folder, "redo", "--count", "3") == EXIT_BAD_INPUT
    assert edit(folder, "redo", "--count", "2") == 0 and ids(folder).unique().tolist() == [0, BLOCK]


def test_turns_scales_keys_copies_and_clocks(folder: Path) -> None:
    scene = load_project(folder).scene
    block = scene.instances == BLOCK
    assert edit(folder, "duplicate", "--select", "instance:2", "--by", "0", "0.5", "0", "--scale", "2") == 0
    assert ids(folder).unique().tolist() == [0, 1, 2, 3, 4]
    was, copy = scene.at(0.5).means[block], now(folder).means[ids(folder) == 4]
    torch.testing.assert_close(copy.mean(0), was.mean(0) + torch.tensor([0.0, 0.5, 0.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        (copy - copy.mean(0)).norm(dim=1), 2 * (was - was.mean(0)).norm(dim=1), atol=1e-4, rtol=0
    )
    keys = ("--key", "0.25 by=0,0,1", "--key", "0.75 by=0,0,2 turn=0,0,1,90 scale=1.5")
    assert edit(folder, "animate", "--select", "instance:4", *keys, "--pivot", "0,0,0", "--ease", "smooth") == 0
    assert edit(folder, "retime", "--select", "instance:4", "--points", "0:1,1:0") == 0
    assert edit(folder, "retime", "--select", "instance:3", "--freeze", "0.25") == 0
    stack = load_project(folder).edits
    assert stack[1]["placement"]["keys"][1]["turn"] == pytest.approx([math.sqrt(0.5), 0, 0, math.sqrt(0.5)])
    assert stack[2]["clock"] == {"times": [0.0, 1.0], "values": [1.0, 0.0], "outside": "hold"}
    times = load_edited(load_project(folder), folder).provenance(0.1).source_times
    assert times[ids(folder) == 4].unique().tolist() == [0.9] and times[ids(folder) == 3].unique().tolist() == [0.25]


def test_colours_tables_fades_and_names(folder: Path, tmp_path: Path) -> None:
    scene = load_project(folder).scene
    (tmp_path / "invert.cube").write_bytes(CUBE)
    assert edit(folder, "name", "it", "--select", "instance:2") == 0
    assert edit(folder, "recolour", "--select", "name:it", "--gain", "0.5", "1", "1", "--offset", "0.1", "0", "0") == 0
    assert edit(folder, "recolour", "--select", "name:it", "--lut", str(tmp_path / "invert.cube")) == 0
    assert edit(folder, "fade", "--select", "name:it", "--points", "0:1,1:0") == 0
    assert edit(folder, "trim", "--select", "instance:3", "--end", "0.4") == 0
    block, found = scene.instances == BLOCK, now(folder)
    assert found.sh is not None
    mean = C0 * scene.sh[block][:, 0] + 0.5
    expected = torch.stack([1 - (0.5 * mean[:, 0] + 0.1), mean[:, 1], mean[:, 2]], -1)
    torch.testing.assert_close(C0 * found.sh[block][:, 0] + 0.5, expected, atol=1e-5, rtol=0)
    half = 0.5 * scene.logit_opacities[block].sigmoid()
    torch.testing.assert_close(found.logit_opacities[block].sigmoid(), half)
    assert float(found.logit_opacities[scene.instances == 3].max()) < -80
    (asset,) = (folder / "assets").iterdir()
    (folder / "assets" / asset.name).write_bytes(CUBE + b"\n")
    with pytest.raises(InputError, match="its sha256 is not its name"):
        load_edited(load_project(folder), folder)


def test_masks_and_shapes_of_cameras_select(folder: Path, tmp_path: Path) -> None:
    picture = np.zeros((96, 128), np.uint8)  # twice the camera's size
    picture[:, :64] = 255
    cv2.imwrite(str(tmp_path / "left.png"), picture)
    assert edit(folder, "remove", "--select", f'mask:"cam01,{tmp_path / "left.png"}@0.5" & !background') == 0
    assert edit(folder, "undo") == 0
    assert edit(folder, "remove", "--select", "through(rect:cam01,0,0,32,48@0.5) & !background") == 0
    kept = load_edited(load_project(folder), folder).provenance(0.5).parents
    scene, camera = load_project(folder).scene, load_project(folder).cameras[1]
    local = scene.at(0.5).means.double() @ camera.world_to_cam[0, :3, :3].T + camera.world_to_cam[0, :3, 3]
    u, v = (local[:, :2] / local[:, 2:] * camera.K[0, [0, 1], [0, 1]] + camera.K[0, :2, 2]).T
    gone = (scene.instances > 0) & (u >= 0) & (u < 32) & (v >= 0) & (v < 48)
    assert torch.equal(kept, (~gone).nonzero()[:, 0]) and gone.any()


def test_paths_are_kept_and_edits_come_from_files(folder: Path, tmp_path: Path) -> None:
    rig = arc_rig(WORLD, 32, 24).at(0)
    path = orbit(torch.zeros(3), 2.0, type(rig)(rig.world_to_cam[:1], rig.K[:1], 32, 24), up=torch.tensor([0.0, 0, 1]))
    save_path(tmp_path / "around.json", path)
    assert edit(folder, "path", "around", str(tmp_path / "around.json")) == 0
    kept = load_edited(load_project(folder), folder).paths["around"]
    assert torch.equal(kept.world_to_cam, path.world_to_cam) and kept.closed
    entries = [
        {"kind": "remove", "select": {"kind": "instance", "ids": [3]}},
        {"kind": "duplicate", "select": {"kind": "instance", "ids": [2]}, "instance": 8},
    ]
    (tmp_path / "edits.json").write_text(json.dumps(entries))
    assert edit(folder, "apply", str(tmp_path / "edits.json")) == 0
    assert ids(folder).unique().tolist() == [0, 1, 2, 8]
    (tmp_path / "edits.json").write_text(json.dumps([entries[0]]))
    assert edit(folder, "apply", str(tmp_path / "edits.json")) == EXIT_BAD_INPUT  # it is gone already
    assert len(load_project(folder).edits) == 3


def test_bake_writes_a_project_that_shows_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edit(folder, "duplicate", "--select", "instance:2", "--by", "0", "0.5", "0", "--turn", "z,40") == 0
    assert edit(folder, "animate", "--select", "instance:4", "--key", "0", "--key", "1 by=1,0,0") == 0
    out = folder.with_name("baked.s4d")
    assert edit(folder, "bake", "--out", str(out), "--fps", "64") == 0
    told = capsys.readouterr().out
    baked = load_project(out)
    assert f"baked.s4d: {len(baked.scene):,} Gaussians, no edits" in told and "sampled" in told
    assert baked.edits == () and baked.fps == 10.0 and len(baked.cameras) == 3
    torch.testing.assert_close(baked.scene.at(0.37).means, now(folder, 0.37).means, atol=1e-3, rtol=0)


# -- inserted ----------------------------------------------------------------------------------------------------------


def splat_file(path: Path, N: int = 7, rest: int = 9) -> np.ndarray:
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *[f"f_rest_{i}" for i in range(rest)]]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3", "confidence"]
    table = np.zeros(N, [(name, np.float32) for name in names])
    for k, name in enumerate(names):
        table[name] = np.arange(N) * 0.1 + 0.01 * k
    path.write_bytes(b"".join(ply_bytes({"vertex": table})))
    return table


def test_splats_of_others_are_read_by_name(tmp_path: Path) -> None:
    table = splat_file(tmp_path / "a.ply")
    scene = read_splat(tmp_path / "a.ply")
    assert scene.means[:, 1].tolist() == table["y"].tolist() and scene.quats[:, 3].tolist() == table["rot_3"].tolist()
    assert scene.sh[3, 2, 1] == pytest.approx(table["f_rest_4"][3])  # second coefficient of green
    assert scene.log_scales[:, 2].tolist() == table["scale_2"].tolist()
    splat_file(tmp_path / "b.ply", rest=10)
    with pytest.raises(InputError, match="must have 0, 9, 24 or 45 properties"):
        read_splat(tmp_path / "b.ply")
    data = (tmp_path / "a.ply").read_bytes()
    (tmp_path / "c.ply").write_bytes(data.replace(b"opacity", b"opocity"))
    with pytest.raises(InputError, match="has no property opacity"):
        read_splat(tmp_path / "c.ply")
    (tmp_path / "d.ply").write_bytes(data[:-3])
    with pytest.raises(InputError, match="truncated"):
        read_splat(tmp_path / "d.ply")


def test_splats_and_projects_are_inserted_and_kept_in_the_project(folder: Path, tmp_path: Path) -> None:
    splat_file(tmp_path / "thing.ply")
    assert edit(folder, "insert", str(tmp_path / "thing.ply"), "--by", "1", "0", "0", "--scale", "0.5") == 0
    (tmp_path / "thing.ply").unlink()  # the project has its own copy
    added = now(folder).means[ids(folder) == 4]
    expected = 0.5 * torch.arange(7) * 0.1 + 1.0
    torch.testing.assert_close(added[:, 0], expected, atol=1e-6, rtol=0)
    other = folder.with_name("other.s4d")
    save_project(other, replace(load_project(folder), edits=()))
    assert edit(other, "remove", "--select", "background") == 0
    assert edit(folder, "insert", str(other), "--start", "0.5", "--instance", "9") == 0
    mine = now(folder, 0.75).means[ids(folder) == 9]
    assert torch.equal(mine, now(other, 0.25).means)  # with its own edits and its own clock
    found = load_edited(load_project(folder), folder).provenance(0.75)
    assert found.parents[ids(folder) == 9].unique().tolist() == [-1]
    assert edit(folder, "undo") == 0 and edit(folder, "redo") == 0 and (ids(folder) == 9).any()
    assert edit(folder, "insert", str(folder)) == 0  # itself, edited


def test_a_mesh_becomes_discs_on_its_surface() -> None:
    """A square of 2 x 1 in two triangles, red on the left, blue on the right."""
    corners = np.array([[0.0, 0, 3], [2, 0, 3], [2, 1, 3], [0, 1, 3]])
    colors = np.array([[1.0, 0, 0], [0, 0, 1], [0, 0, 1], [1, 0, 0]])
    scene = mesh_scene(Mesh(corners, np.array([[0, 1, 2], [0, 2, 3]]), colors), spacing=0.05)
    assert len(scene) == 800 and bool((scene.means[:, 2] == 3).all())
    assert bool((scene.means[:, 0] > 0).all() & (scene.means[:, 0] < 2).all() & (scene.means[:, 1] < 1).all())
    rgb = C0 * scene.sh[:, 0] + 0.5
    torch.testing.assert_close(rgb[:, 2], scene.means[:, 0] / 2, atol=1e-5, rtol=0)
    counts = np.histogram2d(scene.means[:, 0], scene.means[:, 1], bins=(8, 4), range=((0, 2), (0, 1)))[0]
    assert counts.min() > 15 and counts.max() < 36  # 25 each, evenly spread
    assert scene.log_scales[0].exp().tolist() == pytest.approx([0.03, 0.03, 0.0015])
    with pytest.raises(ValueError, match="spacing must be above 0"):
        mesh_scene(Mesh(corners, np.array([[0, 1, 2]]), colors), spacing=1e-6)


def test_discs_face_along_the_surface() -> None:
    from renderers.quaternions import rotate

    corners = np.array([[0.0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]])
    scene = mesh_scene(Mesh(corners, np.array([[0, 1, 2]]), np.zeros((4, 3))), spacing=0.2)
    axis = rotate(scene.quats, torch.tensor([[0.0, 0, 1]]).expand(len(scene), 3))
    torch.testing.assert_close(axis, torch.tensor([[0.0, -1, 0]]).expand(len(scene), 3), atol=1e-6, rtol=0)


def test_mesh_files_are_read(tmp_path: Path) -> None:
    pytest.importorskip("trimesh", reason="needs trimesh to read meshes")
    (tmp_path / "t.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    mesh = read_mesh(tmp_path / "t.obj")
    assert len(mesh.faces) == 1 and mesh.vertices.shape == (3, 3)


# -- refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("move", "--select", "instance:9", "--by", "1", "0", "0"), "instance must be one of [0, 1, 2, 3], got 9"),
        (("move", "--select", "instance:2"), "move needs --by, --turn or --scale"),
        (("move", "--select", "dog", "--scale", "2"), "'dog': is no kind of selection"),
        (("move", "--select", "all", "--turn", "w,3"), "turn must be AXIS,DEGREES"),
        (("move", "--select", "all", "--scale", "0"), "scale must be a number"),
        (("move", "--select", "box:5,5,5,6,6,6", "--scale", "2"), "select must choose something"),
        (("move", "--select", "rect:cam07,0,0,5,5", "--scale", "2"), "camera must be one of cam00, cam01, cam02"),
        (("animate", "--select", "all"), "animate needs --key"),
        (("animate", "--select", "all", "--key", "0 up=3"), "key must be SECONDS"),
        (("duplicate", "--select", "all", "--instance", "1"), "instance must be new, got 1"),
        (("retime", "--select", "all"), "exactly one of --speed"),
        (("retime", "--select", "all", "--speed", "2", "--freeze", "0"), "exactly one of --speed"),
        (("retime", "--select", "all", "--loop", "1:0"), "loop must be FIRST:LAST"),
        (("fade", "--select", "all", "--points", "0:2"), "factors must be a number from 0 to 1"),
        (("trim", "--select", "all"), "start or end must be given"),
        (("recolour", "--select", "all", "--lut", "no.cube"), "no.cube: is missing"),
        (("insert", "no.ply"), "no.ply: is missing"),
        (("apply", "no.json"), "no.json: is missing"),
        (("on", "1"), "index must be below 0"),
        (("undo",), "must be an edit to undo"),
        (("bake", "--out", "x"), "must end in .s4d"),
        (("melt",), "melt"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_saved(
    folder: Path, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert edit(folder, *options) == EXIT_BAD_INPUT
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1 and told.startswith("scene4d edit: ")
    assert load_project(folder).edits == ()


def test_a_stack_that_fits_no_more_can_be_listed_and_taken_back(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edit(folder, "remove", "--select", "instance:3") == 0
    project = load_project(folder)
    keep: Scene4D = project.scene.subset(project.scene.instances != 3)
    save_project(folder, replace(project, scene=keep))
    assert edit(folder, "move", "--select", "all", "--scale", "2") == EXIT_BAD_INPUT
    assert "edit 1 (remove): instance must be one of" in capsys.readouterr().err
    assert edit(folder, "list") == 0 and "edit 1 (remove)" in capsys.readouterr().out
    assert main(["info", str(folder)]) == 0 and "which do not fit" in capsys.readouterr().out
    assert edit(folder, "off", "1") == 0 and edit(folder, "undo") == 0 and load_project(folder).edits[0]["undone"]
