"""Project folders: exact round trips, damage that is noticed, kills that leave nothing broken."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plyfile import PlyData

from scene4d.errors import InputError
from scene4d.files import project as projects
from scene4d.files import scene_ply
from scene4d.files.ply import END, parse_ply
from scene4d.files.project import Project, load_project, save_project, update_project
from scene4d.files.project_cameras import ProjectCamera
from scene4d.files.scene_ply import SceneTensors, equal_scenes, parse_scene, scene_bytes

ROOT = Path(__file__).parents[2]
PLACE = Path("scene.ply")


def make_scene(N: int = 7, S: int = 4, P: int = 1, M: int = 2, J: int = 3, *, seed: int = 0) -> SceneTensors:
    """Random bits, NaN, infinity and -0 among them: what is stored is not looked at."""
    rng = np.random.default_rng(seed)

    def floats(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.integers(0, 2**32, shape, np.uint32).view(np.float32))

    def ids(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.integers(low, high, shape))

    knots = torch.arange(J) + 1
    first = torch.cumsum(knots, 0) - knots
    L = int(knots.sum())
    return SceneTensors(
        means=floats(N, 3), quats=floats(N, 4), log_scales=floats(N, 3), logit_opacities=floats(N), sh=floats(N, S, 3),
        velocities=floats(N, P, 3), t_on=floats(N), t_off=floats(N), t_tau=floats(N), handle_ids=ids(-1, J, N, M),
        handle_weights=floats(N, M), labels=ids(0, 65536, N), instances=ids(0, 5, N), handle_instances=ids(0, 5, J),
        handle_parents=torch.arange(J) - 1, handle_first_knots=first, handle_knot_counts=knots,
        handle_interpolations=ids(0, 2, J), knot_times=floats(L), knot_quats=floats(L, 4),
        knot_translations=floats(L, 3),
    )  # fmt: skip


def make_project(seed: int = 0, N: int = 7) -> Project:
    rng = np.random.default_rng(seed)
    K = torch.from_numpy(rng.normal(size=(1, 3, 3)))
    moving = torch.from_numpy(rng.normal(size=(3, 4, 4)))
    cameras = (
        ProjectCamera("still", 160, 121, (0.0, 1 / 3, 2 / 3), K, moving[:1]),
        ProjectCamera("moving", 33, 44, (0.0, 1 / 3, 2 / 3), K.expand(3, 3, 3) * moving[:, :3, :3], moving),
    )
    return Project(make_scene(N, seed=seed), "../capture", cameras, ({"name": f"move {seed}"},), "m", 29.97, 1 / 3)


def same(a: Project, b: Project) -> bool:
    plain = ("capture", "edits", "units", "fps", "canonical_time")
    if any(getattr(a, name) != getattr(b, name) for name in plain) or not equal_scenes(a.scene, b.scene):
        return False
    return len(a.cameras) == len(b.cameras) and all(
        (x.name, x.width, x.height, x.times) == (y.name, y.width, y.height, y.times)
        and torch.equal(x.K, y.K)
        and torch.equal(x.world_to_cam, y.world_to_cam)
        for x, y in zip(a.cameras, b.cameras, strict=True)
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_project(tmp_path / "room.s4d", make_project())
    return tmp_path / "room.s4d"


# -- scene.ply


@settings(max_examples=60, deadline=None)
@given(
    N=st.integers(0, 5), S=st.sampled_from([1, 4, 9, 16]), P=st.sampled_from([0, 1, 3]), M=st.integers(0, 4),
    J=st.integers(1, 4), seed=st.integers(0, 1000),
)  # fmt: skip
def test_scene_of_any_shape_comes_back_bit_by_bit(N: int, S: int, P: int, M: int, J: int, seed: int) -> None:
    scene = make_scene(N, S, P, M, J, seed=seed)
    back = parse_scene(b"".join(scene_bytes(scene, "m", 30.0, 0.5)), PLACE)
    assert equal_scenes(scene, back)


def test_scene_without_handles_comes_back() -> None:
    scene = make_scene(M=0, J=0)
    assert equal_scenes(scene, parse_scene(b"".join(scene_bytes(scene, "m", None, 0.0)), PLACE))


def test_plyfile_reads_the_standard_properties_first_and_colour_channel_by_channel(tmp_path: Path) -> None:
    scene = make_scene(5, 16, 3, 4, 2)
    (tmp_path / "scene.ply").write_bytes(b"".join(scene_bytes(scene, "m", 24.0, 0.25)))
    ply = PlyData.read(str(tmp_path / "scene.ply"))
    names = [p.name for p in ply["vertex"].properties]
    assert names[:62] == [
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
        *(f"f_rest_{i}" for i in range(45)),
        *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
    ]
    assert names[62:71] == [f"vel_{i}" for i in range(9)]
    for c in range(3):
        assert ply["vertex"][f"f_dc_{c}"].tobytes() == scene.sh[:, 0, c].numpy().tobytes()
        for k in range(15):  # index = channel * 15 + coefficient, as 3DGS transposes before it flattens
            assert ply["vertex"][f"f_rest_{15 * c + k}"].tobytes() == scene.sh[:, k + 1, c].numpy().tobytes()
    assert ply["vertex"]["rot_0"].tobytes() == scene.quats[:, 0].numpy().tobytes()
    assert ply["knot"]["tz"].tobytes() == scene.knot_translations[:, 2].numpy().tobytes()
    assert ply["handle"]["n_knots"].tolist() == scene.handle_knot_counts.tolist()
    assert ply.comments[1:] == ["units m", "fps 24.0", "canonical_time 0.25"]


def header(*lines: str) -> bytes:
    return "\n".join(["ply", "format binary_little_endian 1.0", *lines]).encode() + b"\n" + END


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "no PLY"),
        (b"solid", "no PLY"),
        (b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\n", "no end"),
        (b"ply\n" + b"comment x\n" * 20_000 + END, "no end within"),
        (b"ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\n" + END, "binary_little_endian"),
        (header("element vertex 999999999999", "property double x"), "promises 7999999999992 bytes, 0 follow"),
        (header("element vertex 9999999999999999999", "property float x"), "not understood: 'element"),
        (header("element vertex -1", "property float x"), "not understood: 'element"),
        (header("element vertex 1e9", "property float x"), "not understood: 'element"),
        (header("element vertex ٣", "property float x"), "not understood"),
        (header("element vertex 1", "property list uchar int i"), "not understood: 'property list"),
        (header("element vertex 1", "property quad x"), "not understood"),
        (header("element vertex 1", "property float x", "property float x"), "not understood"),
        (header("property float x"), "not understood"),
        (header("element vertex 1", "element vertex 1", "property float x"), "not understood"),
        (header("element vertex 999999999999"), "no properties"),
        (header("element vertex 1", "property float x") + b"12345", "trailing"),
        (header("element vertex 1", "property float x") + b"1234", "no element handle"),
        (header(*(f"element e{i} 999999999999\nproperty double x" for i in range(500))), "truncated"),
    ],
)
def test_hostile_header_is_refused_before_anything_is_allocated(data: bytes, complaint: str) -> None:
    with pytest.raises(InputError, match=rf"^scene\.ply: .*{complaint}"):
        parse_scene(data, PLACE)


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 1200), value=st.integers(0, 255), cut=st.integers(0, 400))
def test_any_damage_to_a_scene_is_an_input_error_or_another_scene(place: int, value: int, cut: int) -> None:
    data = bytearray(b"".join(scene_bytes(make_scene(), "m", 30.0, 0.0)))
    data[place % len(data)] = value
    try:
        parse_scene(bytes(data[: len(data) - cut]), PLACE)
    except InputError:
        return
    assert cut == 0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"handle_ids": torch.full((7, 2), 3)}, "handle_ids must be -1 to 2"),
        ({"handle_parents": torch.tensor([-1, 0, 9])}, "handle_parents must be"),
        ({"handle_parents": torch.tensor([0, 0, 0])}, "must not name the handle itself"),
        ({"handle_first_knots": torch.tensor([0, 0, 5])}, "must end within the 6 knots"),
        ({"means": torch.zeros(7, 3, dtype=torch.float64)}, "means must be torch.float32"),
        ({"sh": torch.zeros(7, 5, 3)}, "sh must have"),
        ({"t_on": torch.zeros(6)}, r"t_on must be torch.float32 \[7\]"),
    ],
)
def test_scene_that_points_outside_or_has_other_types_is_refused(change: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        replace(make_scene(), **change)


def test_file_that_points_outside_is_refused() -> None:
    data = b"".join(scene_bytes(make_scene(), "m", 30.0, 0.0))
    start = data.index(END) + len(END)
    vertex = parse_ply(data, PLACE).tables["vertex"].copy()
    vertex["h_idx_1"][3] = 1_000_000
    changed = data[:start] + vertex.tobytes() + data[start + vertex.nbytes :]
    with pytest.raises(InputError, match=r"scene\.ply: handle_ids must be -1 to 2"):
        parse_scene(changed, PLACE)


def test_id_beyond_32_bits_is_refused_not_wrapped() -> None:
    with pytest.raises(ValueError, match="labels must fit into 32 bits"):
        scene_bytes(replace(make_scene(), labels=torch.full((7,), 2**31)), "m", None, 0.0)


def test_every_tensor_of_a_scene_has_a_place_in_the_file() -> None:
    assert [f.name for f in fields(SceneTensors)] == [name for _, name, *_ in scene_ply.LAYOUT]


# -- the folder


def test_project_comes_back_exactly(folder: Path) -> None:
    assert same(load_project(folder), make_project())
    assert sorted(p.name for p in folder.iterdir()) == ["cameras.json", "edits.json", "project.json", "scene.ply"]


def test_second_save_replaces_everything_but_runs(folder: Path) -> None:
    (folder / "runs" / "fit-1").mkdir(parents=True)
    save_project(folder, make_project(1))
    assert same(load_project(folder), make_project(1)) and (folder / "runs" / "fit-1").is_dir()


def test_update_changes_what_it_is_told_and_leaves_other_files_untouched(folder: Path) -> None:
    before = (folder / "scene.ply").stat().st_ino
    update_project(folder, edits=({"name": "remove"},), capture="/elsewhere")
    expected = replace(make_project(), edits=({"name": "remove"},), capture="/elsewhere")
    assert same(load_project(folder), expected) and (folder / "scene.ply").stat().st_ino == before
    update_project(folder, scene=make_scene(3, seed=4))
    assert equal_scenes(load_project(folder).scene, make_scene(3, seed=4))


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
        save_project(tmp_path / name, make_project())


def test_folder_of_an_unfinished_fit_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.s4d" / "runs").mkdir(parents=True)
    with pytest.raises(InputError, match=r"project\.json: is missing; .*--resume"):
        load_project(tmp_path / "a.s4d")
    with pytest.raises(InputError, match="no such project"):
        load_project(tmp_path / "b.s4d")


@pytest.mark.parametrize(
    "field", [{"fps": 0.0}, {"fps": float("nan")}, {"canonical_time": float("inf")}, {"units": "a\n"}]
)
def test_numbers_that_make_no_sense_are_refused(field: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        replace(make_project(), **field)


class Killed(BaseException):
    pass


def test_save_that_ends_at_any_step_leaves_the_old_project_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every rename in turn is the one before which the process dies."""
    old, new, rename, seen = make_project(1), make_project(2, N=9), Path.replace, set()
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
from tests.scene4d.test_project import make_project
from scene4d.files.project import save_project, update_project
path, seed = Path(sys.argv[1]), int(sys.argv[2])
projects = [make_project(seed + i, N=20_000) for i in range(4)]
print("going", flush=True)
while True:
    for project in projects:
        save_project(path, project)
        update_project(path, edits=project.edits * 2)
        update_project(path, edits=project.edits)
"""


def test_killed_process_leaves_a_whole_project(tmp_path: Path) -> None:
    path, rng = tmp_path / "a.s4d", np.random.default_rng(2)
    save_project(path, make_project())
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
        assert name == "move 0" or equal_scenes(found.scene, make_scene(20_000, seed=int(name.split()[1])))
    assert name != "move 0"
