"""scene.ply: exact round trips, what other viewers see in it, files that are not what they say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plyfile import PlyData

from renderers import Gaussians
from scene4d.errors import InputError
from scene4d.files import scene_ply
from scene4d.files.ply import END, parse_ply, ply_bytes
from scene4d.files.scene_ply import parse_scene, scene_bytes
from scene4d.rig import Rig
from scene4d.scene import Scene4D, static_scene
from scene4d.scene_tools import scene_from_tensors, scene_hash, scene_tensors
from tests.scene4d.random_scenes import still_rig
from tests.scene4d.stored_scenes import any_scene, moving_scene

PLACE = Path("scene.ply")
STANDARD = [
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
    *(f"f_rest_{i}" for i in range(45)),
    *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
]


def stored(scene: Scene4D, t: float = 0.0) -> bytes:
    return b"".join(scene_bytes(scene, "m", 30.0, t))


def viewer_gaussians(path: Path) -> Gaussians:
    """What a 3DGS viewer loads: `load_ply` of graphdeco-inria/gaussian-splatting, which knows nothing of ours."""
    vertex = PlyData.read(str(path))["vertex"]

    def table(prefix: str) -> np.ndarray:
        names = [p.name for p in vertex.properties if p.name.startswith(prefix)]
        return np.stack([vertex[name] for name in sorted(names, key=lambda name: int(name.split("_")[-1]))], 1)

    f_dc = np.stack([vertex["f_dc_0"], vertex["f_dc_1"], vertex["f_dc_2"]], 1)[:, :, None]
    f_rest = table("f_rest_").reshape(len(f_dc), 3, -1)
    columns = [
        np.stack([vertex["x"], vertex["y"], vertex["z"]], 1),
        table("rot"),
        table("scale_"),
        np.array(vertex["opacity"]),
        np.concatenate([f_dc, f_rest], 2).transpose(0, 2, 1),
    ]
    means, quats, log_scales, logit_opacities, sh = (torch.from_numpy(x.copy()) for x in columns)
    return Gaussians(means, quats, log_scales, logit_opacities, sh=sh)


# -- round trips


@settings(max_examples=80, deadline=None)
@given(
    N=st.integers(0, 5), S=st.sampled_from([1, 4, 9, 16]), P=st.sampled_from([None, 0, 1, 3]), M=st.integers(0, 4),
    J=st.sampled_from([None, 0, 1, 2, 4]), window=st.booleans(), seed=st.integers(0, 1000),
)  # fmt: skip
def test_scene_of_any_shape_comes_back_bit_by_bit(
    N: int, S: int, P: int | None, M: int, J: int | None, window: bool, seed: int
) -> None:
    scene = any_scene(N, S, P, M, J, window=window, seed=seed)
    back = parse_scene(stored(scene, 0.1), PLACE)
    assert scene_hash(back) == scene_hash(scene)  # names, so absent parts too; dtypes, shapes and bits
    assert (back.rig is None, back.residuals is None, back.t_on is None) == (J is None, P is None, not window)


def test_every_tensor_of_a_scene_has_a_place_in_the_file() -> None:
    named = ({*scene_ply.STANDARD, *scene_ply.OURS} - {"normals", "f_dc", "f_rest"}) | {"sh", "rig"}
    assert named == {field.name for field in fields(Scene4D)}
    assert [*scene_ply.HANDLE, *scene_ply.KNOT] == [field.name for field in fields(Rig)]


def test_scene_in_training_is_stored_like_its_copy() -> None:
    scene = moving_scene()
    leaves = {n: x.clone().requires_grad_(x.is_floating_point()) for n, x in scene_tensors(scene).items()}
    assert stored(scene_from_tensors(leaves), 0.4) == stored(scene, 0.4)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda scene: scene.to(dtype=torch.float64), r"scene must be float32 \(scene\.to\(dtype=torch\.float32\)"),
        (lambda scene: replace(scene, means=scene.means * torch.nan), "means must be finite"),
        (lambda scene: replace(scene, t_on=scene.t_off + 1), "t_off must not be before t_on"),
    ],
)
def test_scene_that_would_not_come_back_is_not_stored(change: Callable[[Scene4D], Scene4D], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        stored(change(moving_scene()))


# -- what others see


@pytest.mark.parametrize("t", [-1.0, 0.0, 0.37, 5.0])
def test_viewer_that_knows_no_motion_sees_the_canonical_time(tmp_path: Path, t: float) -> None:
    scene = moving_scene()
    (tmp_path / "scene.ply").write_bytes(stored(scene, t))
    seen, expected = viewer_gaussians(tmp_path / "scene.ply"), scene.at(t)
    assert torch.equal(seen.means, expected.means) and not torch.equal(seen.means, scene.means)
    assert torch.equal(seen.quats, expected.quats) and torch.equal(seen.log_scales, expected.log_scales)
    assert torch.equal(seen.logit_opacities, expected.logit_opacities.clamp_min(-80))
    assert seen.sh is not None and expected.sh is not None and torch.equal(seen.sh, expected.sh)


def sliding_scene() -> Scene4D:
    """Two Gaussians at 0 on a handle that goes from x = 0 at 0 s to x = 1 at 1 s; the second one goes at 0.2 s."""
    rig = replace(
        still_rig([[0, 0, 0]]),
        knot_counts=torch.tensor([2], dtype=torch.int32),
        knot_times=torch.tensor([0.0, 1.0]).double(),
        knot_quats=torch.tensor([[1.0, 0, 0, 0]] * 2).double(),
        knot_translations=torch.tensor([[0.0, 0, 0], [1, 0, 0]]).double(),
    )
    quats = torch.tensor([[1.0, 0, 0, 0]] * 2).double()
    zeros = torch.zeros(2).double()
    scene = replace(
        static_scene(Gaussians(zeros.new_zeros(2, 3), quats, zeros.new_zeros(2, 3), zeros, zeros.new_zeros(2, 4, 3))),
        rig=rig,
        handle_ids=torch.zeros(2, 1, dtype=torch.int32),
        handle_logits=zeros[:, None],
        t_on=zeros - torch.inf,
        t_off=torch.tensor([torch.inf, 0.2]).double(),
        log_softness=zeros - 20,
    )
    return scene.to(dtype=torch.float32)


def test_thing_that_slides_by_one_in_a_second_is_seen_half_way_after_half_of_it(tmp_path: Path) -> None:
    (tmp_path / "scene.ply").write_bytes(stored(sliding_scene(), 0.5))
    seen = viewer_gaussians(tmp_path / "scene.ply")
    torch.testing.assert_close(seen.means, torch.tensor([[0.5, 0, 0]] * 2))
    # 0.3 s after its end with a softness of e^-20 s the logit is -1.5e8: exp of its negative would overflow in a viewer
    assert seen.logit_opacities.tolist() == [0.0, -80.0]
    assert torch.exp(-seen.logit_opacities).isfinite().all()


@pytest.mark.parametrize("t", [1e300, 3e38])
def test_viewers_get_finite_numbers_where_the_motion_overflows(tmp_path: Path, t: float) -> None:
    scene = moving_scene()
    scene.quats[::2] = 3.4e38  # finite, until they are turned
    (tmp_path / "scene.ply").write_bytes(stored(scene, t))
    seen = viewer_gaussians(tmp_path / "scene.ply")
    assert not scene.at(t).means.isfinite().all() and not scene.at(t).quats.isfinite().all()
    for tensor in (seen.means, seen.quats, seen.logit_opacities):
        assert tensor.isfinite().all()
    assert scene_hash(parse_scene(stored(scene, t), PLACE)) == scene_hash(scene)


def test_plyfile_reads_standard_properties_first_and_colour_channel_by_channel(tmp_path: Path) -> None:
    scene = any_scene(5, 16, 3, 4, 2)
    (tmp_path / "scene.ply").write_bytes(b"".join(scene_bytes(scene, "m", 24.0, 0.25)))
    ply = PlyData.read(str(tmp_path / "scene.ply"))
    assert [p.name for p in ply["vertex"].properties][:62] == STANDARD
    for c in range(3):
        assert ply["vertex"][f"f_dc_{c}"].tobytes() == scene.sh[:, 0, c].numpy().tobytes()
        for k in range(15):  # index = channel * 15 + coefficient, as 3DGS transposes before it flattens
            assert ply["vertex"][f"f_rest_{15 * c + k}"].tobytes() == scene.sh[:, k + 1, c].numpy().tobytes()
    rig, residuals = scene.rig, scene.residuals
    assert rig is not None and residuals is not None
    assert ply["vertex"]["residual_5"].tobytes() == residuals[:, 1, 2].numpy().tobytes()
    assert ply["vertex"]["rest_rot_0"].tobytes() == scene.quats[:, 0].numpy().tobytes()
    assert ply["knot"]["qw"].tobytes() == rig.knot_quats[:, 0].numpy().tobytes()
    assert ply["knot"]["tz"].tobytes() == rig.knot_translations[:, 2].numpy().tobytes()
    assert ply["handle"]["cy"].tobytes() == rig.centers[:, 1].numpy().tobytes()
    assert ply["handle"]["n_knots"].tolist() == rig.knot_counts.tolist()
    assert ply.comments == ["scene4d scene 1", "units m", "fps 24.0", "canonical_time 0.25"]


def test_scene_that_does_not_move_is_stored_once() -> None:
    ply = parse_ply(stored(any_scene(5, 16, None, 0, None, window=False), 0.7), PLACE)
    assert list(ply.tables) == ["vertex"]
    assert list(ply.tables["vertex"].dtype.names or ()) == [*STANDARD, "label", "instance"]


def test_only_what_the_canonical_time_changes_is_stored_twice() -> None:
    scene = any_scene(5, 1, None, 0, None)  # windows alone: they change opacities
    names = parse_ply(stored(scene, 0.7), PLACE).tables["vertex"].dtype.names or ()
    assert [name for name in names if name.startswith("rest_")] == ["rest_opacity"]
    slid = parse_ply(stored(sliding_scene(), 0.5), PLACE).tables["vertex"].dtype.names or ()
    assert [name for name in slid if name.startswith("rest_")] == ["rest_x", "rest_y", "rest_z", "rest_opacity"]


# -- hostile files


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
        (header("element vertex 1", "property float x") + b"1234", "no scene of a project"),
        (header("comment scene4d scene 2", "element a 0", "property float x"), "version '2' is not 1; update"),
        (header("comment scene4d scene 1", "element a 0", "property float x"), "must have the element vertex"),
        (header("comment scene4d scene 1", "element vertex 0", "property float x"), "property y must be there"),
        (header(*(f"element e{i} 999999999999\nproperty double x" for i in range(500))), "truncated"),
    ],
)
def test_hostile_header_is_refused_before_anything_is_allocated(data: bytes, complaint: str) -> None:
    with pytest.raises(InputError, match=rf"^scene\.ply: .*{complaint}"):
        parse_scene(data, PLACE)


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 2500), value=st.integers(0, 255), cut=st.integers(0, 400))
def test_any_damage_to_a_scene_is_an_input_error_or_a_scene_that_can_be_shown(place: int, value: int, cut: int) -> None:
    data = bytearray(stored(any_scene()))
    data[place % len(data)] = value
    try:
        scene = parse_scene(bytes(data[: len(data) - cut]), PLACE)
    except InputError as e:
        assert "\n" not in str(e) and str(e).startswith("scene.ply: ")
        return
    assert cut == 0 and scene.at(0.3).means.shape == (len(scene), 3)


def changed(element: str, change: Callable[[dict[str, np.ndarray]], object]) -> bytes:
    """The file of a scene after `change` has been at the columns of an element."""
    ply = parse_ply(stored(any_scene(), 0.1), PLACE)
    columns = {name: ply.tables[element][name].copy() for name in ply.tables[element].dtype.names or ()}
    change(columns)
    table = np.empty(len(ply.tables[element]), [(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        table[name] = values
    return b"".join(ply_bytes({**ply.tables, element: table}, ply.comments))


@pytest.mark.parametrize(
    ("element", "name", "values", "complaint"),
    [
        ("vertex", "handle_1", 1_000_000, "handle_ids must be -1 or one of the 3 handles, got 1000000"),
        ("vertex", "handle_0", -2, "handle_ids must be -1 or one"),
        ("vertex", "instance", 7, "handle_ids must be handles of the Gaussian's own instance"),
        ("vertex", "label", -1, "labels must not be negative"),
        ("vertex", "rest_x", np.nan, "means must be finite"),
        ("vertex", "scale_1", 1e9, "log_scales must be at most"),
        ("vertex", "t_on", np.inf, "t_on must be a time"),
        ("vertex", "log_softness", -21.0, "log_softness must be from"),
        ("handle", "parent", [-1, -1, 2], "parents must be -1 or an earlier handle"),
        ("handle", "parent", [1, -1, -1], "parents must be -1 or an earlier handle"),
        ("handle", "parent", [-1, -1, -(2**31)], "parents must be -1 or an earlier handle"),
        ("handle", "instance", -1, "instances must not be negative"),
        ("handle", "interp", 2, "interpolations must be 0 or 1"),
        ("handle", "n_knots", [1, 2, 4], "knot_counts must add up to the 6 knots"),
        ("handle", "n_knots", [7, -2, 1], "knot_counts must be at least 1"),
        ("handle", "n_knots", 2**31 - 1, "knot_counts must add up"),
        ("handle", "cx", np.inf, "centers must be finite"),
        ("knot", "t", 0.0, "knot_times must increase"),
        ("knot", "qw", np.nan, "knot_quats must be finite"),
    ],
)
def test_file_with_numbers_that_lead_nowhere_is_refused(
    element: str, name: str, values: object, complaint: str
) -> None:
    parse_scene(changed(element, lambda columns: None), PLACE)  # whole until it is changed

    def change(columns: dict[str, np.ndarray]) -> None:
        columns[name][:] = values

    with pytest.raises(InputError, match=rf"^scene\.ply: {complaint}") as e:
        parse_scene(changed(element, change), PLACE)
    assert "\n" not in str(e.value)


def rename(old: str, new: str) -> Callable[[dict[str, np.ndarray]], object]:
    return lambda columns: columns.update({new: columns.pop(old)})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c: c.pop("nx"), "property nx must be there and be float"),
        (lambda c: c.update(x=c["x"].astype(np.float64)), "property x must be there and be float"),
        (lambda c: c.update(label=c["label"].astype(np.float32)), "property label must be there and be int"),
        (lambda c: c.pop("rest_y"), "property rest_y must be there"),
        (lambda c: c.pop("t_ref"), "property t_ref must be there"),
        (lambda c: c.pop("t_off"), "property t_off must be there"),
        (lambda c: c.pop("residual_2"), "residual_\\* must be 3 properties or a multiple, got 2"),
        (lambda c: c.pop("f_rest_8"), "f_rest_\\* must be 3 properties or a multiple, got 8"),
        (lambda c: [c.pop(f"f_rest_{i}") for i in (6, 7, 8)], "sh must have 1, 4, 9 or 16"),
        (lambda c: c.pop("handle_logit_1"), r"handle_logits must have shape \[7, 2\]"),
        (rename("handle_1", "handle_2"), "property 'handle_2' must be one that"),
        (rename("nz", "colour"), "property nz must be there"),
        (lambda c: c.update(colour=c["x"]), "property 'colour' must be one that"),
        (lambda c: c.update({f"handle_{i}": c["handle_0"] for i in range(2, 6)}), r"handle_logits must have shape"),
    ],
)
def test_file_with_other_properties_is_refused(change: Callable, complaint: str) -> None:
    with pytest.raises(InputError, match=rf"^scene\.ply: {complaint}"):
        parse_scene(changed("vertex", change), PLACE)


def test_file_with_half_a_rig_is_refused() -> None:
    ply = parse_ply(stored(any_scene()), PLACE)
    for missing, complaint in ((["knot"], "must have the element"), (["handle", "knot"], "'handle_0' must be one")):
        tables = {name: table for name, table in ply.tables.items() if name not in missing}
        with pytest.raises(InputError, match=complaint):
            parse_scene(b"".join(ply_bytes(tables, ply.comments)), PLACE)
