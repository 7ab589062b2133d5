"""A scene at a time: positions, velocities, tracks, bakes and their gradients."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor

from renderers import Cameras, Gaussians, rasterize
from scene4d import motion
from scene4d.scene import Scene4D, static_scene
from tests.scene4d.random_scenes import f64, random_rig, random_scene, still_rig, with_grad, with_tensor

# Rounding of float64 in a few dozen operations on numbers of size 1 to 10.
ROUNDING = 1e-12
TIMES = (-1.0, 0.1, 0.42, 0.9, 3.0)


def follows(scene: Scene4D, handles: list[int]) -> Scene4D:
    """Every Gaussian follows these handles with equal weights, without polynomial and window."""
    ids = torch.tensor(handles, dtype=torch.int32).expand(len(scene), -1).clone()
    part = {"handle_ids": ids, "handle_logits": torch.zeros_like(ids, dtype=torch.float64)}
    return replace(scene, **part, residuals=None, t_ref=None, t_on=None, t_off=None, log_softness=None)


def test_object_on_one_handle_moves_as_scipys_rigid_motion() -> None:
    scene = follows(random_scene(20, rig=random_rig([4])), [0])
    assert scene.rig is not None
    for t in TIMES:
        quat, moved = (x[0].numpy() for x in motion.handle_poses(scene.rig, f64(t)))
        turn = Rotation.from_quat(quat, scalar_first=True)
        now = scene.at(t)
        expected = turn.apply(scene.means.numpy()) + moved
        np.testing.assert_allclose(now.means.numpy(), expected, atol=ROUNDING)
        own = Rotation.from_quat(scene.quats.numpy(), scalar_first=True)
        turned = Rotation.from_quat(now.quats.numpy(), scalar_first=True)
        assert (turned * (turn * own).inv()).magnitude().max() < 1e-7  # arccos near 0: sqrt of epsilon


def test_distances_within_a_rigid_object_never_change() -> None:
    scene = follows(random_scene(12, rig=random_rig([5])), [0])
    for t in TIMES:
        torch.testing.assert_close(torch.pdist(scene.at(t).means), torch.pdist(scene.means), atol=ROUNDING, rtol=0)


def test_gaussian_between_two_shifted_handles_moves_by_the_mean_shift() -> None:
    scene = follows(random_scene(7, rig=still_rig([[2.0, 0, 0], [0.0, 4, -2]])), [0, 1])
    torch.testing.assert_close(scene.at(0.3).means, scene.means + f64([1.0, 2, -1]), atol=ROUNDING, rtol=0)


def test_scene_without_parts_is_the_same_gaussians_at_any_time() -> None:
    whole = random_scene(5)
    scene = static_scene(Gaussians(whole.means, whole.quats, whole.log_scales, whole.logit_opacities, sh=whole.sh))
    now = scene.at(1.7)
    assert now.means is scene.means and now.quats is scene.quats and now.logit_opacities is scene.logit_opacities
    assert now.sh is scene.sh and now.log_scales is scene.log_scales
    assert bool((scene.velocity(1.7) == 0).all())


def test_gaussians_outside_their_window_are_not_drawn_and_inside_they_are() -> None:
    scene = static_scene(
        Gaussians(f64([[0.0, 0, 2]]), f64([[1.0, 0, 0, 0]]), f64([[-2.0] * 3]), f64([2.0]), sh=f64([[[1.0] * 3]]))
    )
    scene = replace(scene, t_on=f64([1.0]), t_off=f64([2.0]), log_softness=f64([-5.0]))
    K = f64([[[20.0, 0, 8], [0, 20, 8], [0, 0, 1]]])
    cameras = Cameras(torch.eye(4).double()[None], K, 16, 16)
    drawn = [bool(rasterize(scene.at(t), cameras).alpha.max() > 0.5) for t in (0.5, 1.5, 2.5)]
    assert drawn == [False, True, False]
    assert bool((rasterize(scene.at(0.5), cameras).screen.radii == 0).all())


def test_trimming_a_window_moves_nothing() -> None:
    scene = random_scene()
    assert scene.t_on is not None
    trimmed = replace(scene, t_on=scene.t_on + 0.3)
    torch.testing.assert_close(trimmed.at(0.5).means, scene.at(0.5).means, atol=0, rtol=0)


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_scene_is_differentiable_to_every_parameter(backend: str) -> None:
    scene, leaves = with_grad(random_scene(4))
    moving = {name: x for name, x in leaves.items() if name not in ("log_scales", "sh")}  # those pass through

    def at(t: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        changed = scene
        for name, value in zip(moving, values, strict=True):
            changed = with_tensor(changed, name, value)
        return motion.evaluate(changed, t, backend)

    t = f64(0.42).requires_grad_()
    assert torch.autograd.gradcheck(at, (t, *moving.values()))


def test_gradients_reach_every_parameter_through_the_gaussians() -> None:
    scene, leaves = with_grad(random_scene(30))
    now = scene.at(0.42)
    assert now.sh is not None
    fields = (now.means, now.quats, now.log_scales, now.logit_opacities, now.sh)
    sum(((x * x).sum() for x in fields), torch.zeros(()).double()).backward()
    assert all(x.grad is not None and bool((x.grad != 0).any()) for x in leaves.values())


def test_velocity_is_the_limit_of_differences() -> None:
    scene, h = random_scene(40), 1e-5
    for t in TIMES:
        expected = (scene.at(t + h).means - scene.at(t - h).means) / (2 * h)
        # Error h^2 f''' / 6 + rounding / h: derivatives reach 1e3 here.
        torch.testing.assert_close(scene.velocity(t), expected, atol=1e-6, rtol=1e-6)


def test_velocity_of_a_turning_object_is_the_cross_product() -> None:
    rate = 0.7
    zero = torch.zeros(2).double()
    rig = replace(
        random_rig([2], interpolations=[0]),
        knot_times=f64([0.0, 2.0]),
        knot_quats=torch.stack([f64([1.0, np.cos(rate)]), zero, zero, f64([0.0, np.sin(rate)])], 1),
        knot_translations=torch.zeros(2, 3).double(),
    )
    scene = follows(random_scene(8, rig=rig), [0])
    arm = scene.at(0.9).means - rig.centers
    expected = torch.linalg.cross(f64([[0.0, 0, rate]]).expand_as(arm), arm)
    torch.testing.assert_close(scene.velocity(0.9), expected, atol=ROUNDING, rtol=0)


def test_velocity_is_differentiable_to_every_parameter_that_moves() -> None:
    scene, leaves = with_grad(random_scene(4, rig=random_rig([3, 1, 2], parents=[-1, 0, 1])))
    still = ("log_scales", "sh", "quats", "logit_opacities", "t_on", "t_off", "log_softness")
    moving = {name: x for name, x in leaves.items() if name not in still}

    def velocity(*values: Tensor) -> Tensor:
        changed = scene
        for name, value in zip(moving, values, strict=True):
            changed = with_tensor(changed, name, value)
        return changed.velocity(0.42)

    assert torch.autograd.gradcheck(velocity, tuple(moving.values()))


def test_tracks_are_the_centres_of_the_chosen_gaussians() -> None:
    scene, ids = random_scene(10), [7, 0, 7]
    tracks = scene.tracks(ids, TIMES)
    assert tracks.shape == (len(TIMES), 3, 3)
    for k, t in enumerate(TIMES):
        torch.testing.assert_close(tracks[k], scene.at(t).means[ids], atol=ROUNDING, rtol=0)
    assert scene.tracks(ids, []).shape == (0, 3, 3)


def test_bake_holds_the_scene_at_its_times() -> None:
    scene = random_scene()
    baked = scene.bake(torch.tensor(TIMES))
    assert len(baked) == len(TIMES)
    for k, t in enumerate(baked.times):
        now, frame = scene.at(t), baked.frame(k)
        for name in ("means", "quats", "log_scales", "logit_opacities", "sh"):
            torch.testing.assert_close(getattr(frame, name), getattr(now, name), atol=0, rtol=0)


def test_every_instance_can_have_its_own_clock() -> None:
    rig = random_rig([3, 4, 2], parents=[-1, -1, 1], instances=[0, 1, 1])
    scene = random_scene(12, rig=rig)
    clocks = f64([0.8, 0.2])
    together = scene.at(clocks)
    for instance, t in enumerate(clocks.tolist()):
        members = scene.instances == instance
        alone = scene.at(t)
        for name in ("means", "quats", "logit_opacities"):
            torch.testing.assert_close(
                getattr(together, name)[members], getattr(alone, name)[members], atol=ROUNDING, rtol=0
            )


def test_time_may_be_a_number_of_any_kind() -> None:
    scene = random_scene(4)
    for t in (1, np.float32(1.0), torch.tensor(1.0), torch.tensor(1)):
        torch.testing.assert_close(scene.at(t).means, scene.at(1.0).means, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("t", "message"),
    [
        (float("nan"), "t must be finite"),
        (f64([0.0, float("inf")]), "t must be finite"),
        (torch.zeros(2, 2), "t must be a number or one time per instance"),
        (torch.zeros(1), "t must hold a time for each of the 2 instances, got 1"),
    ],
)
def test_wrong_time_is_refused(t: motion.Time, message: str) -> None:
    scene = random_scene(rig=random_rig([2, 2], instances=[0, 1]))
    with pytest.raises(ValueError, match=message):
        scene.at(t)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 12), st.integers(0, 4), st.sampled_from([0, 1, 3]), st.integers(0, 10**6), st.floats(-2, 3))
def test_kernel_and_definition_give_the_same_scene(N: int, M: int, degree: int, seed: int, t: float) -> None:
    scene = random_scene(N, M, degree, seed=seed)
    expected, got = motion.evaluate(scene, t, "torch"), motion.evaluate(scene, t, "cpu")
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(b, a, atol=1e-9, rtol=1e-9)  # float64, added up in another order


def test_gradients_of_a_scene_do_not_depend_on_the_number_of_threads() -> None:
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 8):
            torch.set_num_threads(threads)
            scene, leaves = with_grad(random_scene(9000))
            now = scene.at(0.42)
            loss = (now.means.sin().sum(1) + now.quats.sin().sum(1) + now.logit_opacities.sin()).double()
            loss.backward(torch.ones_like(loss))
            runs.append({name: x.grad for name, x in leaves.items() if x.grad is not None})
    finally:
        torch.set_num_threads(before)
    assert {"rig.knot_quats", "rig.knot_translations", "handle_logits", "t_on"} <= set(runs[0])
    for run in runs[1:]:
        assert all(torch.equal(run[name], runs[0][name]) for name in runs[0])
