"""Project folders: exact round trips, damage that is noticed, kills that leave nothing broken."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scene4d.errors import InputError
from scene4d.files import project as projects
from scene4d.files.ply import parse_ply
from scene4d.files.project import load_project, save_project, update_project
from scene4d.scene_tools import scene_hash
from tests.scene4d.stored_scenes import any_project, any_scene, moving_scene, same

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_project(tmp_path / "room.s4d", any_project())
    return tmp_path / "room.s4d"


def test_project_comes_back_exactly(folder: Path) -> None:
    assert same(load_project(folder), any_project())
    assert sorted(p.name for p in folder.iterdir()) == ["cameras.json", "edits.json", "project.json", "scene.ply"]


def test_second_save_replaces_everything_but_runs(folder: Path) -> None:
    (folder / "runs" / "fit-1").mkdir(parents=True)
    save_project(folder, any_project(1))
    assert same(load_project(folder), any_project(1)) and (folder / "runs" / "fit-1").is_dir()


def test_update_changes_what_it_is_told_and_leaves_other_files_untouched(folder: Path) -> None:
    before = (folder / "scene.ply").stat().st_ino
    update_project(folder, edits=({"name": "remove"},), capture="/elsewhere")
    expected = replace(any_project(), edits=({"name": "remove"},), capture="/elsewhere")
    assert same(load_project(folder), expected) and (folder / "scene.ply").stat().st_ino == before
    update_project(folder, scene=any_scene(3, seed=4))
    assert scene_hash(load_project(folder).scene) == scene_hash(any_scene(3, seed=4))


def test_new_canonical_time_is_shown_by_scene_ply_and_changes_nothing_else(folder: Path) -> None:
    def shown() -> bytes:
        vertex = parse_ply((folder / "scene.ply").read_bytes(), Path()).tables["vertex"]
        return vertex["x"].tobytes()

    scene = moving_scene()
    update_project(folder, scene=scene)
    before = shown()
    update_project(folder, canonical_time=0.5)
    assert shown() == scene.at(0.5).means[:, 0].contiguous().numpy().tobytes() != before
    assert same(load_project(folder), replace(any_project(), scene=scene, canonical_time=0.5))


def test_project_without_fit_and_cameras_without_exposure_say_nothing_of_them(folder: Path) -> None:
    cameras = tuple(replace(camera, exposure=None) for camera in any_project().cameras)
    update_project(folder, fit=None, cameras=cameras)
    found = load_project(folder)
    assert found.fit is None and [camera.exposure for camera in found.cameras] == [None, None]
    assert "exposure" not in (folder / "cameras.json").read_text()


@pytest.mark.parametrize("name", ["project.json", "scene.ply", "cameras.json", "edits.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "longer", "empty"])
def test_damaged_file_is_named(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"truncated": data[:-5], "longer": data + b"}", "empty": b""}[damage])
    with pytest.raises(InputError, match=name):
        load_project(folder)


@pytest.mark.parametrize("name", ["project.json", "scene.ply", "cameras.json", "edits.json"])
def test_any_flipped_bit_is_noticed_and_the_file_named(folder: Path, name: str) -> None:
    data, rng = (folder / name).read_bytes(), np.random.default_rng(0)
    for place in rng.choice(len(data), min(len(data), 150), replace=False):
        changed = bytearray(data)
        changed[place] ^= 1 << int(rng.integers(8))
        (folder / name).write_bytes(changed)
        with pytest.raises(InputError, match=name):
            load_project(folder)


@pytest.mark.parametrize("version", [0, 2, 10**30, -1, "1", True, None, 1.5, [1]])
def test_wrong_version_is_refused_with_the_file_name(folder: Path, version: object) -> None:
    index = json.loads((folder / "project.json").read_text())
    (folder / "project.json").write_text(json.dumps({**index, "version": version}))
    complaint = "is newer than 1; update" if version in (2, 10**30) else "project.json"
    with pytest.raises(InputError, match=complaint):
        load_project(folder)


def test_older_version_goes_through_its_migration(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = json.loads((folder / "project.json").read_text())
    index["rate"] = index.pop("fps")
    (folder / "project.json").write_text(json.dumps({**index, "version": 0}))
    monkeypatch.setitem(projects.MIGRATIONS, 0, lambda old: {**old, "fps": old["rate"], "version": 1})
    assert load_project(folder).fps == 29.97


@pytest.mark.parametrize(
    ("name", "complaint"), [("room", "must end in .s4d"), ("full.s4d", "is no project"), ("file.s4d", "no folder")]
)
def test_nothing_else_is_overwritten(tmp_path: Path, name: str, complaint: str) -> None:
    (tmp_path / "full.s4d").mkdir()
    (tmp_path / "full.s4d" / "thesis.tex").touch()
    (tmp_path / "file.s4d").touch()
    with pytest.raises(InputError, match=complaint):
        save_project(tmp_path / name, any_project())


def test_folder_of_an_unfinished_fit_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.s4d" / "runs").mkdir(parents=True)
    with pytest.raises(InputError, match=r"project\.json: is missing; .*--resume"):
        load_project(tmp_path / "a.s4d")
    with pytest.raises(InputError, match="no such project"):
        load_project(tmp_path / "b.s4d")


def endless() -> dict:
    value: dict = {}
    value["a"] = value
    return value


@pytest.mark.parametrize(
    "field",
    [
        *({"fps": 0.0}, {"fps": float("nan")}, {"fps": 10**400}, {"canonical_time": float("inf")}, {"units": "a\n"}),
        *({"fit": [1]}, {"fit": "a"}, {"fit": {"a": (1, 2)}}, {"fit": {1: 2}}, {"fit": {"a": float("nan")}}),
        *({"fit": {"a": float("inf")}}, {"fit": {"a": Path()}}, {"fit": {"a": "b" * 70_000}}, {"fit": endless()}),
    ],
)
def test_fields_that_make_no_sense_or_would_not_come_back_are_refused(field: dict) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(field))} must"):
        replace(any_project(), **field)


def forge(folder: Path, name: str, change: Callable[[dict], object]) -> None:
    """Change a JSON file of a project with all sha256 as they should be, as only a hostile writer does."""
    content = json.loads((folder / name).read_text())
    change(content)
    index = content if name == "project.json" else json.loads((folder / "project.json").read_text())
    if name != "project.json":
        (folder / name).write_text(json.dumps(content))
        forge_blob(index, name, (folder / name).read_bytes())
    seal(folder, index)


def forge_blob(index: dict, name: str, data: bytes) -> None:
    index["blobs"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def seal(folder: Path, index: dict) -> None:
    index.pop("sha256")
    index["sha256"] = hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()
    (folder / "project.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("project.json", lambda d: d.update(fit=[1]), "fit must be a plain JSON object, got a list"),
        ("project.json", lambda d: d.update(fit={"a": "b" * 70_000}), "fit must have at most 65536 bytes"),
        ("project.json", lambda d: d.update(fps=10**400), "fps must be above 0"),
        ("project.json", lambda d: d.update(blobs={"scene.ply": 1}), "blobs must give bytes and sha256"),
        ("cameras.json", lambda d: d["cameras"][0].update(exposure=None), "NoneType"),
        ("cameras.json", lambda d: d["cameras"][0].update(exposure=[[1.0] * 4] * 4), "exposure must be float64 .3, 4."),
        ("cameras.json", lambda d: d["cameras"][0].update(exposure=[[1e999] * 4] * 3), "exposure must be finite"),
        ("cameras.json", lambda d: d["cameras"][0].update(exposure=[[1.0] * 4, [1.0], []]), "expected sequence"),
        ("cameras.json", lambda d: d["cameras"][0].update(times=[10**400]), "too large"),
        ("cameras.json", lambda d: d["cameras"][0].update(name="a\nb\x1b[31m", width=0), "camera a b .31m: width"),
        ("cameras.json", lambda d: d["cameras"].append("exposure"), "string indices"),
        ("edits.json", lambda d: d.update(edits=[1]), "must hold a list of edits"),
    ],
)
def test_forged_file_is_refused_by_name(
    folder: Path, name: str, change: Callable[[dict], object], complaint: str
) -> None:
    forge(folder, name, lambda content: None)
    assert same(load_project(folder), any_project())  # a faultless forgery passes
    forge(folder, name, change)
    with pytest.raises(InputError, match=rf"{name}: .*{complaint}") as e:
        load_project(folder)
    assert "\n" not in str(e.value)


def test_forged_scene_is_refused_by_name(folder: Path) -> None:
    index, data = json.loads((folder / "project.json").read_text()), (folder / "scene.ply").read_bytes()
    data = data[:-4] + b"\xff\xff\xff\x7f"  # the last number of the last knot: NaN
    (folder / "scene.ply").write_bytes(data)
    forge_blob(index, "scene.ply", data)
    seal(folder, index)
    with pytest.raises(InputError, match=r"scene\.ply: knot_translations must be finite"):
        load_project(folder)


@pytest.mark.parametrize("exposure", [torch.eye(3, 4), torch.eye(4).double(), torch.eye(3, 4).double() * torch.inf])
def test_exposure_that_is_no_finite_float64_3_by_4_is_refused(exposure: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="camera still: exposure must be"):
        replace(any_project().cameras[0], exposure=exposure)


class Killed(BaseException):
    pass


def test_save_that_ends_at_any_step_leaves_the_old_project_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every rename in turn is the one before which the process dies."""
    old, new, rename, seen = any_project(1), any_project(2, N=9), Path.replace, set()
    for last in range(9):
        path, count = tmp_path / f"{last}.s4d", 0
        save_project(path, old)

        def dying(source: Path, target: Path, last: int = last) -> Path:
            nonlocal count
            count += 1
            if count > last:
                raise Killed
            return rename(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", dying)
            try:
                save_project(path, new)
            except Killed:
                pass
        found = load_project(path)
        assert same(found, old) or same(found, new)
        assert same(found, new) == (last >= 4)  # three files and the description are written: the save has happened
        seen.add(same(found, new))
        save_project(path, old)
        assert same(load_project(path), old) and not list(path.glob("*.next"))
    assert seen == {True, False}


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, str(Path.cwd()))
from tests.scene4d.stored_scenes import any_project
from scene4d.files.project import save_project, update_project
path, seed = Path(sys.argv[1]), int(sys.argv[2])
projects = [any_project(seed + i, N=20_000) for i in range(4)]
print("going", flush=True)
while True:
    for project in projects:
        save_project(path, project)
        update_project(path, edits=project.edits * 2)
        update_project(path, edits=project.edits)
"""


def test_killed_process_leaves_a_whole_project(tmp_path: Path) -> None:
    path, rng = tmp_path / "a.s4d", np.random.default_rng(2)
    save_project(path, any_project())
    for i in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(10 * i)], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert process.stdout is not None and process.stdout.readline() == b"going\n"
        time.sleep(rng.uniform(0.02, 0.25))
        process.kill()
        process.wait()
        process.stdout.close()
        found = load_project(path)
        name = found.edits[0]["name"]  # "move SEED": all files are of one save
        assert name == "move 0" or scene_hash(found.scene) == scene_hash(any_scene(20_000, seed=int(name.split()[1])))
    assert name != "move 0"
