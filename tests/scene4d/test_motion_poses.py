"""Poses of handles: interpolation of knots, and the tree."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import CubicHermiteSpline
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

from renderers.poses import Poses, pose_transforms
from renderers.quaternions import exp_quat, log_quat
from scene4d.motion import handle_poses
from scene4d.rig import CUBIC, LINEAR, Rig
from tests.scene4d.random_scenes import RIG_FIELDS, f64, random_rig, still_rig

# Rounding of float64 in a few dozen operations on numbers of size 1 to 10.
ROUNDING = 1e-12


@pytest.fixture(params=["torch", "cpu"])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


def rotation(quats: Tensor) -> Rotation:
    return Rotation.from_quat(quats.detach().numpy(), scalar_first=True)


def apart(a: Rotation, b: Rotation) -> float:
    """Largest angle between rotations, radians."""
    return float(np.max((a * b.inv()).magnitude()))


def matrix(quats: Tensor, translations: Tensor) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = rotation(quats).as_matrix(), translations.numpy()
    return T


def at(rig: Rig, t: float, backend: str) -> tuple[Tensor, Tensor]:
    """Poses about the origin."""
    return handle_poses(replace(rig, centers=torch.zeros_like(rig.centers)), f64(t), backend)


def only_translations(times: list[float], values: np.ndarray, kind: int) -> Rig:
    rig = random_rig([len(times)], interpolations=[kind])
    knots = torch.tensor(values)
    return replace(rig, knot_times=f64(times), knot_translations=knots)


def turns_about_z(times: list[float], angles: list[float], kind: int) -> Rig:
    half = f64(angles) / 2
    zero = torch.zeros_like(half)
    rig = random_rig([len(times)], interpolations=[kind])
    quats = torch.stack([half.cos(), zero, zero, half.sin()], 1)
    return replace(rig, knot_times=f64(times), knot_quats=quats)


def test_linear_rotation_is_scipys_slerp_and_linear_translation_is_numpys_interp(backend: str) -> None:
    rig = random_rig([6], interpolations=[LINEAR])
    times, knots = rig.knot_times.numpy(), rotation(rig.knot_quats)
    for t in np.linspace(times[0], times[-1], 23):
        quats, moved = at(rig, float(t), backend)
        assert apart(rotation(quats), Slerp(times, knots)([t])) < 1e-7  # arccos of scipy near 0: sqrt of epsilon
        expected = [np.interp(t, times, rig.knot_translations[:, k].numpy()) for k in range(3)]
        np.testing.assert_allclose(moved[0].numpy(), expected, atol=ROUNDING)


@pytest.mark.parametrize("kind", [LINEAR, CUBIC])
def test_pose_at_a_knot_is_the_knot(kind: int, backend: str) -> None:
    rig = random_rig([5], interpolations=[kind])
    for k, t in enumerate(rig.knot_times.tolist()):
        quats, moved = at(rig, t, backend)
        assert apart(rotation(quats), rotation(rig.knot_quats[k : k + 1])) < 1e-7
        torch.testing.assert_close(moved[0], rig.knot_translations[k], atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("kind", [LINEAR, CUBIC])
def test_pose_is_held_before_the_first_and_after_the_last_knot(kind: int, backend: str) -> None:
    rig = random_rig([4], interpolations=[kind])
    for t, k in ((-3.0, 0), (7.0, 3)):
        quats, moved = at(rig, t, backend)
        assert apart(rotation(quats), rotation(rig.knot_quats[k : k + 1])) < 1e-7
        torch.testing.assert_close(moved[0], rig.knot_translations[k], atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("kind", [LINEAR, CUBIC])
def test_handle_with_one_knot_stands_still(kind: int, backend: str) -> None:
    rig = random_rig([1], interpolations=[kind])
    for t in (-1.0, rig.knot_times[0].item(), 5.0):
        quats, moved = at(rig, t, backend)
        assert apart(rotation(quats), rotation(rig.knot_quats)) < 1e-7
        torch.testing.assert_close(moved, rig.knot_translations, atol=ROUNDING, rtol=0)


def test_cubic_translation_is_the_hermite_spline_with_parabola_derivatives(backend: str) -> None:
    times, values = [0.0, 0.2, 0.7, 1.0, 1.1], np.random.default_rng(0).standard_normal((5, 3))
    rig = only_translations(times, values, CUBIC)
    slopes = np.diff(values, axis=0) / np.diff(times)[:, None]
    middle = np.gradient(values, times, axis=0)[1:-1]  # second order: the parabola through three points
    spline = CubicHermiteSpline(times, values, np.concatenate([slopes[:1], middle, slopes[-1:]]))
    for t in np.linspace(0, 1.1, 34):
        np.testing.assert_allclose(at(rig, float(t), backend)[1][0].numpy(), spline(t), atol=ROUNDING)


def test_cubic_rotation_about_one_axis_is_the_hermite_spline_of_the_angle(backend: str) -> None:
    times, angles = [0.0, 0.5, 0.8, 1.5], [0.0, 1.0, -0.5, 2.0]
    rig = turns_about_z(times, angles, CUBIC)
    slopes = np.diff(angles) / np.diff(times)
    rates = np.concatenate([slopes[:1], np.gradient(angles, times)[1:-1], slopes[-1:]])
    spline = CubicHermiteSpline(times, angles, rates)
    for t in np.linspace(0, 1.5, 31):
        assert apart(rotation(at(rig, float(t), backend)[0]), Rotation.from_rotvec([[0, 0, spline(t)]])) < 1e-7


def test_cubic_is_continuously_differentiable_at_its_inner_knots_and_linear_is_not(backend: str) -> None:
    def jump(kind: int) -> float:
        rig = random_rig([6], interpolations=[kind], seed=3)
        step, worst = 1e-6, 0.0
        for t in rig.knot_times[1:-1].tolist():
            before, here, after = (torch.cat(at(rig, t + d, backend), 1) for d in (-step, 0.0, step))
            signed = [x * torch.where((x[:, :4] * here[:, :4]).sum() < 0, -1.0, 1.0) for x in (before, after)]
            worst = max(worst, ((signed[1] - here) - (here - signed[0])).abs().max().item() / step)
        return worst

    assert jump(CUBIC) < 1e-3  # second derivatives of about 100 times the step
    assert jump(LINEAR) > 0.1


def test_sign_of_a_knots_quaternion_does_not_matter(backend: str) -> None:
    rig = random_rig([5, 5], interpolations=[LINEAR, CUBIC])
    signs = f64([1.0, -1, -1, 1, -1] * 2)
    flipped = replace(rig, knot_quats=rig.knot_quats * signs[:, None])
    for t in (0.1, 0.45, 0.9):
        assert apart(rotation(at(rig, t, backend)[0]), rotation(at(flipped, t, backend)[0])) < 1e-7


def test_length_of_a_knots_quaternion_does_not_matter_and_zero_is_the_identity(backend: str) -> None:
    rig = random_rig([3], interpolations=[LINEAR])
    scaled = replace(rig, knot_quats=rig.knot_quats * f64([[1e-20], [1e20], [3.0]]))
    torch.testing.assert_close(at(scaled, 0.4, backend)[0], at(rig, 0.4, backend)[0], atol=ROUNDING, rtol=0)
    zero = replace(rig, knot_quats=torch.zeros(3, 4).double())
    torch.testing.assert_close(at(zero, 0.4, backend)[0], f64([[1.0, 0, 0, 0]]), atol=0, rtol=0)


def test_handle_that_turns_in_place_leaves_its_centre_where_it_is_between_knots(backend: str) -> None:
    rig = turns_about_z([0.0, 1.0], [0.0, 2.5], LINEAR)
    rig = replace(rig, centers=f64([[5.0, -2.0, 1.0]]), knot_translations=torch.zeros(2, 3).double())
    T = matrix(*(x[0] for x in handle_poses(rig, f64(0.37), backend)))
    np.testing.assert_allclose(T @ [5.0, -2.0, 1.0, 1.0], [5.0, -2.0, 1.0, 1.0], atol=ROUNDING)
    assert np.linalg.norm(T @ [6.0, -2.0, 1.0, 1.0] - [6.0, -2.0, 1.0, 1.0]) > 0.5


def test_child_moves_by_its_parents_motion_after_its_own(backend: str) -> None:
    parents = [-1, 0, 1, -1, 2, 0, 4]  # a chain of five, so that composition needs several rounds
    rig = random_rig([3, 2, 4, 1, 3, 2, 2], parents=parents)
    t = f64(0.42)
    quats, translations = handle_poses(rig, t, backend)
    local = handle_poses(replace(rig, parents=torch.full_like(rig.parents, -1)), t, backend)
    T_parent_rest = [matrix(local[0][j], local[1][j]) for j in range(len(rig))]
    for j in range(len(rig)):
        expected, up = T_parent_rest[j], parents[j]
        while up >= 0:  # T_world_rest = T_world_parent @ T_parent_rest
            expected, up = T_parent_rest[up] @ expected, parents[up]
        np.testing.assert_allclose(matrix(quats[j], translations[j]), expected, atol=ROUNDING)


def test_every_handle_keeps_its_own_clock_when_there_is_a_time_for_each(backend: str) -> None:
    rig = random_rig([3, 5, 1, 4])
    times = f64([0.1, 0.9, 0.5, 2.0])
    together = handle_poses(rig, times, backend)
    for j, t in enumerate(times):
        alone = handle_poses(rig, t, backend)
        for got, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(got[j], expected[j], atol=0, rtol=0)


def gradients_are_right(rig: Rig, t: Tensor, backend: str) -> bool:
    names = ("centers", "knot_times", "knot_quats", "knot_translations")
    inputs = [getattr(rig, name).clone().requires_grad_() for name in names]

    def poses(time: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        return handle_poses(replace(rig, **dict(zip(names, values, strict=True))), time, backend)

    return torch.autograd.gradcheck(poses, (t.clone().requires_grad_(), *inputs))


def test_poses_are_differentiable_to_knots_centres_and_time(backend: str) -> None:
    rig = random_rig([3, 5, 1, 4], parents=[-1, 0, 1, 2])
    assert gradients_are_right(rig, f64(0.42), backend)
    assert gradients_are_right(rig, f64([0.42, 0.3, 0.2, 0.77]), backend)


@pytest.mark.parametrize("kind", [LINEAR, CUBIC])
def test_poses_are_differentiable_where_all_knots_are_equal(kind: int, backend: str) -> None:
    """Where every fit starts; slerp by sines is 0 / 0 there."""
    rig = random_rig([4], interpolations=[kind])
    rest = f64([[1.0, 0, 0, 0]]).repeat(4, 1)
    assert gradients_are_right(replace(rig, knot_quats=rest), f64(0.5), backend)


@pytest.mark.parametrize("angle", [1e-9, 1e-3, 0.0199, 0.0201, 1.0, 3.0, math.pi])
def test_logarithm_and_exponential_are_scipys_on_both_sides_of_the_series(angle: float) -> None:
    axis = f64([2.0, -1.0, 2.0]) / 3
    half = axis * (angle / 2)  # the series ends at a half-angle of 0.01
    quat = torch.tensor(Rotation.from_rotvec(angle * axis.numpy()).as_quat(scalar_first=True))
    torch.testing.assert_close(exp_quat(half), quat, atol=1e-15, rtol=0)
    torch.testing.assert_close(log_quat(quat), half, atol=1e-15, rtol=1e-14)
    assert torch.autograd.gradcheck(exp_quat, half.clone().requires_grad_())


def poses_and_gradients(rig: Rig, t: Tensor, backend: str) -> dict[str, Tensor]:
    """Dual quaternions and the gradients of a random linear function of them."""
    names = ("centers", "knot_times", "knot_quats", "knot_translations")
    leaves = {"t": t.clone().requires_grad_()} | {n: getattr(rig, n).clone().requires_grad_() for n in names}
    integers = {name: getattr(rig, name) for name in ("parents", "interpolations", "first_knots", "knot_counts")}
    transforms = pose_transforms(Poses(**leaves, **integers), backend)
    upstream = torch.randn(transforms.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grads = torch.autograd.grad(transforms, list(leaves.values()), upstream.to(t.dtype))
    return {"transforms": transforms.detach()} | dict(zip(leaves, grads, strict=True))


def in_dtype(rig: Rig, dtype: torch.dtype) -> Rig:
    return replace(rig, **{n: x.to(dtype) for n in RIG_FIELDS if (x := getattr(rig, n)).is_floating_point()})


def random_tree(counts: list[int], seed: int) -> Rig:
    g = torch.Generator().manual_seed(seed)
    parents = [int(torch.randint(-1, j, (), generator=g)) if j else -1 for j in range(len(counts))]
    return random_rig(counts, parents=parents, seed=seed)


counts_of_knots = st.lists(st.integers(1, 6), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(counts_of_knots, st.integers(0, 10**6), st.floats(-0.5, 2), st.booleans())
def test_kernel_agrees_with_the_definition(counts: list[int], seed: int, t: float, clocks: bool) -> None:
    """The same formulas in float64: 1e-9 of the largest gradient leaves room for knots that are close in time."""
    rig = random_tree(counts, seed)
    time = f64(t) if not clocks else f64(t) + 0.2 * rig.centers[:, 0]
    expected, got = (poses_and_gradients(rig, time, backend) for backend in ("torch", "cpu"))
    scale = max(1.0, *(x.abs().max().item() for x in expected.values()))
    for name in expected:
        assert (got[name] - expected[name]).abs().max().item() <= 1e-9 * scale, name


def test_kernel_in_float32_agrees_with_the_definition_in_float64() -> None:
    rig = random_tree([3, 5, 1, 6, 4], seed=7)
    single = in_dtype(rig, torch.float32)
    expected = poses_and_gradients(in_dtype(single, torch.float64), f64(0.40625), "torch")
    got = poses_and_gradients(single, torch.tensor(0.40625), "cpu")
    for name in expected:  # float32 rounds to 6e-8; a hundred operations, and differences of neighbouring knots
        assert (got[name] - expected[name]).abs().max() / expected[name].abs().max() < 1e-4, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_poses_and_gradients_do_not_depend_on_the_number_of_threads(dtype: torch.dtype) -> None:
    rig = random_tree([1 + j % 7 for j in range(300)], seed=0)
    rig = in_dtype(rig, dtype)
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            runs.append(poses_and_gradients(rig, torch.tensor(0.4, dtype=dtype), "cpu"))
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(run[name], runs[0][name]) for name in run)


@settings(deadline=None, max_examples=30)
@given(counts_of_knots, st.integers(0, 10**6), st.floats(-0.5, 2))
def test_poses_are_rigid_whatever_the_knots(counts: list[int], seed: int, t: float) -> None:
    for backend in ("torch", "cpu"):
        quats, translations = handle_poses(random_tree(counts, seed), f64(t), backend)
        torch.testing.assert_close(quats.norm(dim=1), torch.ones(len(counts)).double(), atol=ROUNDING, rtol=0)
        assert bool(torch.isfinite(translations).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["centers", "knot_times", "knot_quats", "knot_translations"])
def test_nan_in_a_parameter_shows_in_the_pose(name: str, dtype: torch.dtype, backend: str) -> None:
    """A fit that has diverged must be seen."""
    rig = in_dtype(random_rig([4, 4]), dtype)
    bad = replace(rig, **{name: torch.full_like(getattr(rig, name), math.nan)})
    assert any(bool(x.isnan().any()) for x in handle_poses(bad, torch.tensor(0.4, dtype=dtype), backend))


def test_rig_without_handles_has_no_poses(backend: str) -> None:
    rig = still_rig([[0.0, 0, 0]])
    empty = Rig(**{name: getattr(rig, name)[:0] for name in RIG_FIELDS})
    quats, translations = handle_poses(empty, f64(0.0), backend)
    assert quats.shape == (0, 4) and translations.shape == (0, 3)
