"""Turned and recoloured spherical harmonics against rendered pictures, closed forms and finite differences."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from renderers import Cameras, Gaussians, rasterize
from renderers.spherical_harmonics import C0, sh_basis
from scene4d.edits import EditedScene, Key, Placement, Recolour, Transform, stack_of
from scene4d.edits.colours import Lut, colour_matrix, linear_colours, looked_up, lut_values, parse_cube
from scene4d.edits.placements import placement_of_matrix, rotation_matrix, turn_about
from scene4d.edits.selections import All, Instance
from scene4d.edits.sh_rotation import sh_rotation
from scene4d.errors import InputError
from scene4d.worlds import arc_rig, make_world
from tests.scene4d.world_scenes import world_scene

WORLD = make_world("room")


def random_turn(seed: int) -> tuple[float, float, float, float]:
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(4, generator=g).double()
    return tuple((q / q.norm()).tolist())  # type: ignore[return-value]


@pytest.mark.parametrize("count", [1, 4, 9, 16])
def test_turned_harmonics_are_the_same_function_of_turned_directions(count: int) -> None:
    g = torch.Generator().manual_seed(count)
    directions = torch.nn.functional.normalize(torch.randn(200, 3, generator=g).double(), dim=1)
    sh = torch.randn(count, 3, generator=g).double()
    for seed in range(5):
        R = torch.from_numpy(rotation_matrix(np.array(random_turn(seed))))
        D = sh_rotation(R, count)
        found = sh_basis(directions, count) @ (D @ sh)
        expected = sh_basis(directions @ R, count) @ sh  # at R^-1 d
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
        torch.testing.assert_close(D @ D.T, torch.eye(count).double(), atol=1e-12, rtol=0)
        assert not D[0, 1:].any() and (count < 9 or not D[4:9, 9:].any())


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_turning_everything_is_turning_the_camera_back(backend: str) -> None:
    """To 1e-5 in the picture, at SH degree 3; in float64 to 1e-10."""
    dtype = torch.float64 if backend == "torch" else torch.float32
    scene = world_scene(WORLD, spacing=0.3, wall_spacing=0.9, sh_count=16, dtype=dtype)
    rig = arc_rig(WORLD, 48, 36).at(0)
    turn = random_turn(7)
    placement = Placement((Key(turn=turn, move=(0.3, -0.2, 0.5)),))
    now = EditedScene(scene, stack_of([Transform(All(), placement)])).at(0.4)
    T_edit = torch.eye(4).double()

    T_edit[:3, :3] = torch.from_numpy(rotation_matrix(np.array(turn)))
    T_edit[:3, 3] = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    shown, expected = [
        rasterize(g, Cameras(pose.to(dtype), rig.K[2:3].to(dtype), 48, 36), backend=backend).image
        for g, pose in (
            (now, (rig.world_to_cam[2:3].double() @ torch.linalg.inv(T_edit))),
            (scene.at(0.4), rig.world_to_cam[2:3].double()),
        )
    ]
    assert float(expected.std()) > 0.05
    torch.testing.assert_close(shown, expected, atol=1e-10 if dtype == torch.float64 else 1e-5, rtol=0)


def test_one_turned_instance_shows_the_colours_of_the_side_that_it_turned_to_the_camera() -> None:
    """Only the block is turned, and only the block is rendered: the same as looking at it from the other side."""
    scene = world_scene(WORLD, spacing=0.15, wall_spacing=0.9, sh_count=9)
    block = scene.instances == 2
    turn = turn_about((0.0, 0.0, 1.0), 75.0)
    after = EditedScene(scene, stack_of([Transform(Instance((2,)), Placement((Key(turn=turn),)))])).at(0.2)
    rig = arc_rig(WORLD, 64, 48).at(0)
    T = torch.eye(4).double()

    T[:3, :3] = torch.from_numpy(rotation_matrix(np.array(turn)))
    there = Cameras((rig.world_to_cam[2:3].double() @ torch.linalg.inv(T)).float(), rig.K[2:3].float(), 64, 48)
    here = Cameras(rig.world_to_cam[2:3].float(), rig.K[2:3].float(), 64, 48)
    torch.testing.assert_close(
        rasterize(rows(after, block), there).image,
        rasterize(rows(scene.at(0.2), block), here).image,
        atol=1e-5,
        rtol=0,
    )


def rows(g: Gaussians, mask: Tensor) -> Gaussians:
    assert g.sh is not None
    return Gaussians(g.means[mask], g.quats[mask], g.log_scales[mask], g.logit_opacities[mask], sh=g.sh[mask])


# -- colours -----------------------------------------------------------------------------------------------------------


def colors_of(sh: Tensor, directions: Tensor) -> Tensor:
    return torch.einsum("ds,nsc->ndc", sh_basis(directions, sh.shape[1]), sh) + 0.5


def test_linear_changes_act_on_the_colour_of_every_direction() -> None:
    g = torch.Generator().manual_seed(1)
    sh = torch.randn(20, 9, 3, generator=g).double()
    directions = torch.nn.functional.normalize(torch.randn(30, 3, generator=g).double(), dim=1)
    M = colour_matrix((0.5, 1.2, 2.0), 33.0, 0.4)
    found = colors_of(linear_colours(sh, M, (0.1, -0.2, 0.3)), directions)
    expected = colors_of(sh, directions) @ M.T + torch.tensor([0.1, -0.2, 0.3]).double()
    torch.testing.assert_close(found, expected)


def test_hue_turns_red_to_green_and_keeps_grey_and_saturation_zero_is_luma() -> None:
    red, grey = torch.tensor([1.0, 0, 0]).double(), torch.full((3,), 0.4).double()
    turn = colour_matrix((1.0, 1.0, 1.0), 120.0, 1.0)
    torch.testing.assert_close(turn @ red, torch.tensor([0.0, 1, 0]).double())
    torch.testing.assert_close(turn @ grey, grey)
    torch.testing.assert_close(colour_matrix((1.0, 1.0, 1.0), 0.0, 0.0) @ red, torch.full((3,), 0.2126).double())


def curve(colors: Tensor) -> Tensor:
    r, g, b = colors.unbind(-1)
    return torch.stack([r * r, 0.5 * g + 0.5 * r * b, 1 - b], -1)


def cube(L: int) -> Lut:
    axis = torch.linspace(0, 1, L)
    return Lut(curve(torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)))


def test_tables_interpolate_and_their_derivative_is_that_of_the_values() -> None:
    g = torch.Generator().manual_seed(2)
    colors = torch.rand(50, 3, generator=g).double()
    lut = cube(33)
    value, J = lut_values(colors, lut)
    torch.testing.assert_close(value, curve(colors), atol=3e-4, rtol=0)  # h^2 / 8 of the second derivative 2
    h = 1e-5
    for axis in range(3):
        step = torch.zeros(3).double()
        step[axis] = h
        numeric = (lut_values(colors + step, lut)[0] - lut_values(colors - step, lut)[0]) / (2 * h)
        torch.testing.assert_close(J[:, :, axis], numeric, atol=1e-5, rtol=0)
    outside, flat = lut_values(torch.tensor([[1.7, -0.3, 0.5]]).double(), lut)
    torch.testing.assert_close(outside, curve(torch.tensor([[1.0, 0.0, 0.5]]).double()), atol=1e-6, rtol=0)
    assert not flat[0, :, :2].any()


def test_a_table_for_each_channel_is_the_cube_that_acts_on_each() -> None:
    axis = torch.linspace(0, 1, 17)
    flat = Lut(torch.stack([axis**2, axis, 1 - axis], -1))
    full = Lut(torch.stack(torch.meshgrid(axis**2, axis, 1 - axis, indexing="ij"), -1))
    colors = torch.rand(40, 3, generator=torch.Generator().manual_seed(3)).double()
    for a, b in zip(lut_values(colors, flat), lut_values(colors, full), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_a_table_changes_the_mean_colour_and_half_of_it_is_half_way() -> None:
    sh = torch.zeros(4, 4, 3).double()
    sh[:, 0] = (torch.rand(4, 3, generator=torch.Generator().manual_seed(4)).double() - 0.5) / C0
    mean = C0 * sh[:, 0] + 0.5
    for amount in (1.0, 0.5):
        found = C0 * looked_up(sh, cube(65), amount)[:, 0] + 0.5
        torch.testing.assert_close(found, (1 - amount) * mean + amount * curve(mean), atol=1e-4, rtol=0)


CUBE = b"""# made by hand
TITLE "swap"
LUT_3D_SIZE 2
DOMAIN_MIN 0 0 0
DOMAIN_MAX 1 1 1
0 0 0
0 0 1
0 1 0
0 1 1
1 0 0
1 0 1
1 1 0
1 1 1
"""


def test_a_cube_file_runs_over_red_first() -> None:
    lut = parse_cube(CUBE, Path("swap.cube"))
    value, _ = lut_values(torch.tensor([[0.9, 0.3, 0.1]]), lut)
    torch.testing.assert_close(value, torch.tensor([[0.1, 0.3, 0.9]]))  # red and blue exchanged


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (CUBE[:-6], "must hold 8 colours"),
        (CUBE.replace(b"0 1 0", b"0 x 0"), "line 8 is none"),
        (CUBE.replace(b"0 1 0", b"0 inf 0"), "line 8 is none"),
        (CUBE.replace(b"SIZE 2", b"SIZE 500"), "must give LUT_3D_SIZE 2 to 129"),
        (CUBE.replace(b"MAX 1 1 1", b"MAX 1 0 1"), "DOMAIN_MIN must be below"),
        (b"", "must hold 0 colours of a size given"),
    ],
)
def test_a_broken_cube_file_is_refused_by_name(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=f"swap.cube: .*{message}"):
        parse_cube(data, Path("swap.cube"))


def test_recolouring_and_turning_may_come_in_any_order_and_leave_the_rest() -> None:
    scene = world_scene(WORLD, spacing=0.3, wall_spacing=0.9, sh_count=9)
    lut, key = cube(9), "a" * 64
    turn = Transform(Instance((2,)), Placement((Key(turn=random_turn(5)),)))
    paint = Recolour(Instance((2,)), (0.9, 1.1, 1.0), 20.0, 0.8, lut=key)
    a, b = (EditedScene(scene, stack_of(order), {key: lut}).at(0.3).sh for order in ((turn, paint), (paint, turn)))
    assert a is not None and b is not None
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    assert torch.equal(a[scene.instances != 2], scene.sh[scene.instances != 2])
    assert float((a - scene.sh)[scene.instances == 2].abs().max()) > 0.1


def test_placements_of_matrices_are_those_matrices() -> None:
    turn = turn_about((1.0, -2.0, 0.5), 200.0)

    M = np.eye(4)
    M[:3, :3] = 1.4 * rotation_matrix(np.array(turn))
    M[:3, 3] = [1.0, 2.0, 3.0]
    key = placement_of_matrix(M).keys[0]
    np.testing.assert_allclose(key.scale * rotation_matrix(np.array(key.turn)), M[:3, :3], atol=1e-12)
    assert key.move == (1.0, 2.0, 3.0) and math.isclose(key.scale, 1.4)
    for bad in (np.diag([1.0, 2, 1, 1]), np.diag([-1.0, 1, 1, 1]), np.full((4, 4), np.nan), np.eye(3)):
        with pytest.raises(ValueError, match="matrix must be"):
            placement_of_matrix(bad)
