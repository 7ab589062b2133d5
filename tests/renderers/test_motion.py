"""The motion of Gaussians: closed forms, limits and gradients of the definition and of the C++ kernel."""

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from renderers.motion import Motion, move_gaussians
from renderers.quaternions import multiply
from tests.renderers.random_motion import f64, leaves_of, random_motion, results

# Rounding of float64 in a few dozen operations on numbers of size 1 to 10.
ROUNDING = 1e-12
both_backends = pytest.mark.parametrize("backend", ["torch", "cpu"])


def dual_quaternion(rotation: Rotation, translation: Any) -> Tensor:
    quat = f64(rotation.as_quat(scalar_first=True))
    return torch.cat([quat, 0.5 * multiply(f64([0.0, *translation]), quat)])


def one_gaussian(mean: Any, transforms: list[Tensor], logits: Any, **others: Any) -> Motion:
    return Motion(
        t=f64(others.pop("t", 0.0)),
        means=f64([mean]),
        quats=f64([others.pop("quat", [1.0, 0, 0, 0])]),
        logit_opacities=f64([others.pop("logit", 0.0)]),
        dual_quats=torch.stack(transforms) if transforms else None,
        slots=torch.arange(len(transforms), dtype=torch.int32)[None] if transforms else None,
        slot_logits=f64([logits]) if transforms else None,
        **{name: f64([value]) for name, value in others.items()},
    )


@both_backends
def test_one_transform_moves_and_turns_like_scipys_rigid_motion(backend: str) -> None:
    turn, own = Rotation.from_rotvec([0.3, -1.2, 0.8]), Rotation.from_rotvec([1.0, 0.2, -0.4])
    quat = (2.5 * own.as_quat(scalar_first=True)).tolist()
    motion = one_gaussian([1.0, 2, 3], [dual_quaternion(turn, [4.0, -5, 6])], [0.7], quat=quat)
    means, quats, _ = move_gaussians(motion, backend)
    np.testing.assert_allclose(means[0].numpy(), turn.apply([1, 2, 3]) + [4, -5, 6], atol=ROUNDING)
    expected = 2.5 * (turn * own).as_quat(scalar_first=True)  # the raw length stays
    np.testing.assert_allclose(abs(quats[0].numpy() @ expected), 2.5**2, atol=ROUNDING)


@both_backends
def test_equal_blend_of_rest_and_a_screw_is_half_the_screw(backend: str) -> None:
    """A turn by 1.4 about an axis through p with a shift 0.6 along it, halved: 0.7 and 0.3 (Kavan et al. 2008)."""
    axis, p, x = np.array([2.0, -1, 2]) / 3, np.array([0.5, 1.0, -2.0]), np.array([1.0, 2, 3])

    def screw(angle: float, shift: float) -> tuple[Rotation, np.ndarray]:
        turn = Rotation.from_rotvec(angle * axis)
        return turn, p - turn.apply(p) + shift * axis

    rest = dual_quaternion(Rotation.identity(), [0.0, 0, 0])
    motion = one_gaussian(x.tolist(), [rest, dual_quaternion(*screw(1.4, 0.6))], [0.2, 0.2])
    means, quats, _ = move_gaussians(motion, backend)
    turn, shift = screw(0.7, 0.3)
    np.testing.assert_allclose(means[0].numpy(), turn.apply(x) + shift, atol=ROUNDING)
    np.testing.assert_allclose(quats[0].numpy(), turn.as_quat(scalar_first=True), atol=ROUNDING)


@both_backends
def test_blend_of_translations_is_their_mean_with_softmax_weights(backend: str) -> None:
    shifts, logits = [[1.0, 0, 0], [0, 2, 0], [0, 0, -3]], [0.5, -1.0, 2.0]
    motion = one_gaussian([1.0, 1, 1], [dual_quaternion(Rotation.identity(), s) for s in shifts], logits)
    weights = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(move_gaussians(motion, backend)[0][0].numpy(), 1 + weights @ shifts, atol=ROUNDING)


@both_backends
def test_sign_of_a_dual_quaternion_does_not_matter(backend: str) -> None:
    motion = random_motion(40)
    assert motion.dual_quats is not None
    signs = f64([1.0, -1, -1, 1, -1])[:, None]
    means, quats, _ = move_gaussians(motion, backend)
    flipped_means, flipped_quats, _ = move_gaussians(replace(motion, dual_quats=motion.dual_quats * signs), backend)
    torch.testing.assert_close(flipped_means, means, atol=ROUNDING, rtol=0)
    same = (flipped_quats - quats).abs().amax(1) < ROUNDING
    turned = (flipped_quats + quats).abs().amax(1) < ROUNDING  # -q is the same rotation
    assert bool((same | turned).all()) and bool(turned.any())


@both_backends
def test_empty_slots_count_for_nothing_wherever_they_stand(backend: str) -> None:
    motion = random_motion(30, M=2)
    assert motion.slots is not None and motion.slot_logits is not None
    gap = torch.full_like(motion.slots[:, :1], -1)
    noise = 50 * torch.randn(30, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    spread = replace(
        motion,
        slots=torch.cat([gap, motion.slots[:, :1], gap, motion.slots[:, 1:]], 1),
        slot_logits=torch.cat([noise, motion.slot_logits[:, :1], -noise, motion.slot_logits[:, 1:]], 1),
    )
    expected, got = results(motion, backend), results(spread, backend)
    for name in ("means_t", "quats_t", "logits_t", "dual_quats"):
        torch.testing.assert_close(got[name], expected[name], atol=ROUNDING, rtol=0)
    assert bool((got["slot_logits"][:, [0, 2]] == 0).all())


@both_backends
def test_gaussian_without_a_slot_in_use_follows_only_its_polynomial(backend: str) -> None:
    motion = random_motion(9)
    assert motion.slots is not None and motion.t_ref is not None and motion.coefficients is not None
    free = replace(motion, slots=torch.full_like(motion.slots, -1))
    s = (motion.t - motion.t_ref)[:, None]
    v1, v2, v3 = motion.coefficients.unbind(1)
    means, quats, _ = move_gaussians(free, backend)
    torch.testing.assert_close(means, motion.means + v1 * s + v2 * s**2 + v3 * s**3, atol=ROUNDING, rtol=ROUNDING)
    torch.testing.assert_close(quats, motion.quats, atol=0, rtol=0)
    assert bool((results(free, backend)["dual_quats"] == 0).all())


@both_backends
def test_zero_quaternion_turns_as_the_identity(backend: str) -> None:
    turn = Rotation.from_rotvec([0.3, -1.2, 0.8])
    motion = one_gaussian([0.0, 0, 0], [dual_quaternion(turn, [0.0, 0, 0])], [0.0], quat=[0.0, 0, 0, 0])
    expected = turn.as_quat(scalar_first=True)
    np.testing.assert_allclose(move_gaussians(motion, backend)[1][0].numpy(), expected, atol=ROUNDING)


def window_logit(logit: float, t: float, t_on: float, t_off: float, tau: float, backend: str) -> float:
    window = {"t_on": t_on, "t_off": t_off, "log_softness": math.log(tau)}
    return move_gaussians(one_gaussian([0.0, 0, 0], [], [], t=t, logit=logit, **window), backend)[2].item()


@both_backends
@pytest.mark.parametrize("t", [-0.3, 0.0, 0.1, 1.0, 1.9, 2.4])
def test_opacity_is_multiplied_by_both_sides_of_the_window(backend: str, t: float) -> None:
    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    opacity = sigmoid(0.8) * sigmoid((t - 0.1) / 0.2) * sigmoid((1.9 - t) / 0.2)
    got = window_logit(0.8, t, 0.1, 1.9, 0.2, backend)
    assert got == pytest.approx(math.log(opacity / (1 - opacity)), abs=ROUNDING)


@both_backends
def test_window_is_flat_inside_and_falls_off_exponentially_outside(backend: str) -> None:
    """Far inside the logit is unchanged; far outside logit = log of the product of the sigmoids' tails."""
    assert window_logit(3.0, 1.0, 0.0, 2.0, 0.01, backend) == pytest.approx(3.0, abs=ROUNDING)
    expected = -1000 + math.log(1 / (1 + math.exp(-3.0)))  # (t - t_on) / tau = -1000, far beyond exp's range
    assert window_logit(3.0, -10.0, 0.0, 2.0, 0.01, backend) == pytest.approx(expected, rel=1e-12)
    assert window_logit(3.0, 12.0, 0.0, 2.0, 0.01, backend) == pytest.approx(expected, rel=1e-12)


@both_backends
def test_opaque_gaussian_stays_opaque_inside_its_window(backend: str) -> None:
    """1 - o is below epsilon at a logit of 60: the result must not go through the opacity itself."""
    assert window_logit(60.0, 1.0, -100.0, 100.0, 1.0, backend) == pytest.approx(60.0, abs=1e-10)
    assert window_logit(200.0, 1.0, -1e4, 1e4, 1.0, backend) == pytest.approx(200.0, abs=1e-10)


@both_backends
def test_logit_beyond_the_range_of_the_exponential_stays_what_it_is_in_float32(backend: str) -> None:
    motion = random_motion(8, parts="window", dtype=torch.float32)
    logits = torch.tensor([-1e4, -200.0, -90, 0, 60, 90, 200, 1e4])
    edge, softness = torch.full((8,), 1e5), torch.zeros(8)
    inside = replace(motion, logit_opacities=logits, t_on=-edge, t_off=edge, log_softness=softness)
    got = move_gaussians(inside, backend)[2]
    torch.testing.assert_close(got, logits, atol=1e-6, rtol=1e-6)  # float32 rounds to 6e-8
    assert all(bool(torch.isfinite(x).all()) for x in results(inside, backend).values())


@both_backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("t", [-1e6, -30.0, 0.5, 40.0, 1e6])
def test_window_and_its_gradients_are_finite_at_any_time_with_any_softness(
    backend: str, dtype: torch.dtype, t: float
) -> None:
    inf = math.inf
    t_on, t_off = [0.0, -inf, 0.0, -inf, 0.0], [1.0, 1.0, inf, inf, 0.0]
    softness = [-100.0, -20, -1, 0, 5, 20, 100]
    N = 5 * len(softness)
    motion = replace(
        random_motion(N, parts="", dtype=dtype),
        t=torch.tensor(t, dtype=dtype),
        t_on=torch.tensor(t_on, dtype=dtype).repeat(len(softness)),
        t_off=torch.tensor(t_off, dtype=dtype).repeat(len(softness)),
        log_softness=torch.tensor(softness, dtype=dtype).repeat_interleave(5),
    )
    for name, value in results(motion, backend).items():
        assert bool(torch.isfinite(value).all()), name


@both_backends
def test_infinite_window_changes_nothing_and_has_no_gradient(backend: str) -> None:
    motion = random_motion(20, parts="window")
    assert motion.t_on is not None
    endless = replace(
        motion, t_on=torch.full_like(motion.t_on, -math.inf), t_off=torch.full_like(motion.t_on, math.inf)
    )
    got = results(endless, backend)
    torch.testing.assert_close(got["logits_t"], motion.logit_opacities, atol=1e-15, rtol=1e-15)
    assert all(bool((got[name] == 0).all()) for name in ("t_on", "t_off", "log_softness"))


@both_backends
@pytest.mark.parametrize("limit", [-20.0, 20.0])
def test_softness_beyond_its_range_counts_as_the_end_of_the_range_and_has_no_gradient(
    backend: str, limit: float
) -> None:
    motion = random_motion(20, parts="window")
    assert motion.log_softness is not None
    at_limit = results(replace(motion, log_softness=torch.full_like(motion.log_softness, limit)), backend)
    beyond = results(replace(motion, log_softness=torch.full_like(motion.log_softness, 1.5 * limit)), backend)
    assert torch.equal(beyond["logits_t"], at_limit["logits_t"])
    assert bool((beyond["log_softness"] == 0).all()) and bool((at_limit["log_softness"] != 0).any())


@both_backends
def test_parts_that_are_left_out_return_their_inputs(backend: str) -> None:
    motion = random_motion(5, parts="")
    assert all(
        got is given
        for got, given in zip(
            move_gaussians(motion, backend), (motion.means, motion.quats, motion.logit_opacities), strict=True
        )
    )
    window = random_motion(5, parts="window")
    means, quats, _ = move_gaussians(window, backend)
    assert means is window.means and quats is window.quats


@both_backends
@pytest.mark.parametrize("clocks", [False, True])
def test_motion_is_differentiable_to_everything(backend: str, clocks: bool) -> None:
    motion, leaves = leaves_of(random_motion(9, clocks=clocks))

    def move(*values: Tensor) -> tuple[Tensor, ...]:
        return move_gaussians(replace(motion, **dict(zip(leaves, values, strict=True))), backend)

    assert torch.autograd.gradcheck(move, tuple(leaves.values()))


@both_backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_in_a_parameter_shows_in_the_result(backend: str, dtype: torch.dtype) -> None:
    """A fit that has diverged must be seen."""
    motion = random_motion(16, dtype=dtype)
    for field in fields(motion):
        value = getattr(motion, field.name)
        if field.name != "slots":
            bad = value.clone().fill_(math.nan)
            moved = move_gaussians(replace(motion, **{field.name: bad}), backend)
            assert any(bool(x.isnan().any()) for x in moved), field.name


@both_backends
@pytest.mark.parametrize("J", [0, 3])
def test_slot_beyond_the_transforms_is_refused(backend: str, J: int) -> None:
    motion = random_motion(20, J=3)
    assert motion.slots is not None and motion.dual_quats is not None
    bad = motion.slots.clone()
    bad[13, 2] = 3
    with pytest.raises(ValueError, match=f"slots must be below {J}"):
        move_gaussians(replace(motion, slots=bad, dual_quats=motion.dual_quats[:J]), backend)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"means": torch.zeros(20, 2).double()}, r"means must have shape \[20, 3\], got \[20, 2\]"),
        ({"means": torch.zeros(20, 3).half()}, "means must be a float32 or float64 tensor"),
        ({"quats": torch.zeros(20, 4)}, "quats must be torch.float64"),
        ({"t": torch.zeros(19).double()}, r"t must have shape \[20\], got \[19\]"),
        ({"slots": torch.zeros(20, 4).long()}, "slots must be torch.int32"),
        ({"slot_logits": torch.zeros(20, 3).double()}, r"slot_logits must have shape \[20, 4\]"),
        ({"dual_quats": torch.zeros(3, 7).double()}, "dual_quats must have shape"),
        ({"coefficients": torch.zeros(20, 2, 3).double()}, "coefficients must be of degree 0, 1 or 3, got 2"),
        ({"t_off": None}, "t_on, t_off, log_softness must be given together, got no t_off"),
        (
            {"slots": torch.zeros(20, 5).int(), "slot_logits": torch.zeros(20, 5).double()},
            "slots must have at most 4 columns, got 5",
        ),
    ],
)
def test_wrong_input_is_refused_by_name(change: dict[str, Tensor | None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        move_gaussians(replace(random_motion(20), **change))


def test_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="backend must be auto or one of torch, cpu"):
        move_gaussians(random_motion(2), backend="gsplat")
