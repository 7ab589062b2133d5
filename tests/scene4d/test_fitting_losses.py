"""What a fit minimises: zero where it should be, gradients by finite differences, closed forms elsewhere."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from scene4d.fitting.losses import (
    HandleGraph,
    depth_loss,
    exposure_prior,
    handle_graph,
    mask_loss,
    rigidity,
    rotate,
    skinning_entropy,
    smoothness,
)
from scene4d.fitting.settle import HandleTracks, settle, track_error
from scene4d.rig import CUBIC, Rig

KNOTS = 6
TIMES = torch.linspace(0, 1, KNOTS)


def quats_of(vectors: Tensor) -> Tensor:
    """wxyz of rotation vectors [..., 3]."""
    x, y, z, w = Rotation.from_rotvec(vectors.reshape(-1, 3).numpy()).as_quat().T
    return torch.tensor([w.tolist(), x.tolist(), y.tolist(), z.tolist()]).T.reshape(*vectors.shape[:-1], 4)


def make_rig(centers: Tensor, turns: Tensor, shifts: Tensor) -> Rig:
    """Handles [J] with knots at TIMES: rotation vectors and translations [J, KNOTS, 3]."""
    J = len(centers)
    zero = torch.zeros(J, dtype=torch.int32)
    return Rig(
        centers=centers.double(),
        parents=zero - 1,
        instances=zero + 1,
        interpolations=zero + CUBIC,
        knot_counts=zero + KNOTS,
        knot_times=TIMES.repeat(J).double(),
        knot_quats=quats_of(turns).reshape(-1, 4).double(),
        knot_translations=shifts.reshape(-1, 3).double(),
    )


def grid_centers(n: int = 4) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, generator=g)


def rigid_rig() -> Rig:
    """All handles make one motion: a turn about the origin that grows to 2 radians, and a shift."""
    centers = grid_centers()
    turn = TIMES[:, None] * torch.tensor([0.4, -1.2, 1.55])
    matrices = torch.from_numpy(Rotation.from_rotvec(turn.numpy()).as_matrix()).float()
    shift = TIMES[:, None] ** 2 * torch.tensor([1.0, 0.5, -2.0])
    moved = torch.einsum("kab,jb->jka", matrices, centers) + shift
    return make_rig(centers, turn.expand(4, KNOTS, 3), moved - centers[:, None])


def all_pairs(rig: Rig) -> HandleGraph:
    a, b = torch.triu_indices(len(rig), len(rig), 1)
    return HandleGraph(a, b, torch.ones(len(a)).double(), (rig.centers[a] - rig.centers[b]).norm(dim=1))


@pytest.mark.parametrize(("t", "other"), [(0.0, 1.0), (0.2, 0.8), (0.4, 1.0)])  # knots: between them it is not rigid
def test_rigidity_of_a_rigid_motion_is_zero(t: float, other: float) -> None:
    rig = rigid_rig()
    assert float(rigidity(rig, all_pairs(rig), t, other)) < 1e-9


def test_rigidity_sees_bending_stretching_and_twisting() -> None:
    rig = rigid_rig()
    graph = all_pairs(rig)
    knots = rig.knot_translations.clone()
    knots[KNOTS - 1] += 0.3  # one handle leaves its place at the end
    bent = replace(rig, knot_translations=knots)
    assert float(rigidity(bent, graph, 0.0, 1.0)) > 1e-3
    assert float(rigidity(bent, graph, 0.0, 0.4)) < 1e-9  # not yet
    quats = rig.knot_quats.clone()
    quats[KNOTS - 1] = torch.tensor([0.0, 1.0, 0, 0]).double()  # one handle turns on the spot
    assert float(rigidity(replace(rig, knot_quats=quats), graph, 0.0, 1.0)) > 0.1


def test_rigidity_of_a_stretched_pair_is_the_square_of_the_relative_change() -> None:
    centers = torch.tensor([[0.0, 0, 0], [2.0, 0, 0]])
    shifts = torch.zeros(2, KNOTS, 3)
    shifts[1, -1, 0] = 0.5  # from 2 to 2.5
    rig = make_rig(centers, torch.zeros(2, KNOTS, 3), shifts)
    graph = all_pairs(rig)
    assert float(rigidity(rig, graph, 0.0, 1.0)) == pytest.approx(0.25**2)
    twist = torch.zeros(2, KNOTS, 3)
    twist[1, -1, 0] = 0.6  # radians about the edge: lengths stay
    twisted = make_rig(centers, twist, torch.zeros(2, KNOTS, 3))
    assert float(rigidity(twisted, graph, 0.0, 1.0)) == pytest.approx(4 * math.sin(0.3) ** 2)
    loose = HandleGraph(graph.a, graph.b, graph.weights * 0, graph.spacing)
    assert float(rigidity(rig, loose, 0.0, 1.0)) == 0.0


def test_a_quaternion_and_its_negative_are_one_rotation() -> None:
    rig = rigid_rig()
    flipped = rig.knot_quats.clone()
    flipped[KNOTS + 2] *= -1
    flipped[3 * KNOTS + 1] *= -3  # any length
    other = replace(rig, knot_quats=flipped)
    assert float(rigidity(other, all_pairs(rig), 0.2, 0.8)) < 1e-9
    torch.testing.assert_close(smoothness(other, 1.0), smoothness(rig, 1.0))


@pytest.mark.parametrize("loss", ["rigidity", "smoothness"])
def test_gradients_of_losses_of_the_rig(loss: str) -> None:
    rig = rigid_rig()
    g = torch.Generator().manual_seed(1)

    def value(quats: Tensor, translations: Tensor) -> Tensor:
        moving = replace(rig, knot_quats=quats, knot_translations=translations)
        return rigidity(moving, all_pairs(rig), 0.15, 0.85) if loss == "rigidity" else smoothness(moving, 2.0)

    leaves = [
        (x + 0.1 * torch.randn(x.shape, generator=g).double()).requires_grad_()
        for x in (rig.knot_quats, rig.knot_translations)
    ]
    assert torch.autograd.gradcheck(value, leaves)


def test_smoothness_leaves_constant_acceleration_alone_and_sees_a_kick() -> None:
    centers, still = grid_centers(), torch.zeros(4, KNOTS, 3)
    k = torch.arange(KNOTS)[None, :, None].float()
    thrown = (0.3 * k - 0.2 * k**2) * torch.tensor([1.0, 0.0, -2.0]).expand(4, 1, 3)
    assert float(smoothness(make_rig(centers, still, thrown), 1.0)) < 1e-10
    kicked = thrown.clone()
    kicked[2, 3, 1] += 1.0
    # third differences of a single step of 1: 1, -3, 3 (and -1 beyond the last knot), over 4 handles x 3 differences
    assert float(smoothness(make_rig(centers, still, kicked), 1.0)) == pytest.approx((1 + 9 + 9) / 12, rel=1e-4)
    assert float(smoothness(make_rig(centers, still, kicked), 10.0)) == pytest.approx(19 / 1200, rel=1e-4)
    jerked = torch.zeros(4, KNOTS, 3)
    jerked[1, 3, 0] = 0.5
    assert float(smoothness(make_rig(centers, jerked, still), 1.0)) > 1e-3


def test_smoothness_of_few_knots_is_zero() -> None:
    rig = rigid_rig()
    keep = torch.arange(len(rig.knot_times)) % KNOTS < 3
    short = {n: getattr(rig, n)[keep] for n in ("knot_times", "knot_quats", "knot_translations")}
    assert float(smoothness(replace(rig, knot_counts=rig.knot_counts * 0 + 3, **short), 1.0)) == 0.0


def test_rotate_turns_as_matrices_do() -> None:
    vectors = torch.randn(20, 3, generator=torch.Generator().manual_seed(2)).double()
    turns = Rotation.random(20, np.random.default_rng(3))
    x, y, z, w = torch.from_numpy(turns.as_quat()).T
    turned = torch.einsum("nab,nb->na", torch.from_numpy(turns.as_matrix()), vectors)
    torch.testing.assert_close(rotate(torch.stack([w, x, y, z], 1), vectors), turned)


def test_edges_tie_neighbours_of_one_instance_and_those_that_part_only_loosely() -> None:
    """Twenty handles on a line, the first ten of instance 1; of instance 2 the last five drift away."""
    line = torch.arange(20)[:, None] * torch.tensor([0.1, 0.0, 0.0])
    later = line + torch.where(torch.arange(20) >= 15, 2.0, 0.0)[:, None]
    zero = torch.zeros(20, KNOTS, 3)
    rig = replace(make_rig(line, zero, zero), instances=(1 + torch.arange(20) // 10).int())
    graph = handle_graph(rig, torch.cat([line, later], 1))
    assert bool((graph.a < graph.b).all())
    pairs = set(zip(graph.a.tolist(), graph.b.tolist(), strict=True))
    assert len(pairs) == len(graph.a)  # none twice
    assert bool((rig.instances[graph.a] == rig.instances[graph.b]).all())
    assert {(k, k + 1) for k in range(19) if k != 9} <= pairs
    parting = (graph.a < 15) & (graph.b >= 15)
    assert float(graph.weights[~parting].min()) > 0.999
    assert float(graph.weights[parting].max()) < 0.2 if bool(parting.any()) else True
    torch.testing.assert_close(graph.spacing, (graph.b - graph.a) * 0.1, check_dtype=False)


def test_far_handles_are_tied_too() -> None:
    line = torch.arange(64)[:, None] * torch.tensor([0.1, 0.0, 0.0])
    zero = torch.zeros(64, KNOTS, 3)
    graph = handle_graph(make_rig(line, zero, zero), line)
    assert int((graph.b - graph.a).max()) >= 32


def test_settling_takes_handles_back_to_their_tracks() -> None:
    """Knots are spoiled; tracks know better, but for one handle that they put far off without being trusted."""
    rig = rigid_rig()
    rig = Rig(**{n: x.float() if x.is_floating_point() else x for n, x in vars(rig).items() if isinstance(x, Tensor)})
    graph = all_pairs(rig)
    graph = HandleGraph(graph.a, graph.b, graph.weights.float(), graph.spacing)
    xyz = (rig.centers[:, None] + rig.knot_translations.reshape(4, KNOTS, 3)).permute(1, 0, 2)
    trust = torch.ones(KNOTS, 4)
    trust[3, 2] = 0.0
    wrong = xyz.clone()
    wrong[3, 2] += 1.0
    tracks = HandleTracks(TIMES.tolist(), wrong, trust)
    g = torch.Generator().manual_seed(0)
    spoiled = replace(rig, knot_translations=rig.knot_translations + 0.05 * torch.randn(24, 3, generator=g))
    settled = settle(spoiled, graph, tracks, torch.Generator().manual_seed(1))
    before, after = (
        (r.centers[:, None] + r.knot_translations.reshape(4, KNOTS, 3)).permute(1, 0, 2) - xyz
        for r in (spoiled, settled)
    )
    assert float(after.norm(dim=-1).mean()) < 0.4 * float(before.norm(dim=-1).mean())
    assert float(after[3, 2].norm()) < 0.2  # not where the bad track is
    assert not settled.knot_translations.requires_grad
    last = torch.arange(len(rig.knot_times)) % KNOTS == KNOTS - 1
    some = settle(spoiled, graph, tracks, torch.Generator().manual_seed(1), steps=20, mask=last)
    changed = (some.knot_translations != spoiled.knot_translations).any(1)
    assert torch.equal(changed, last)


def test_track_error_is_robust() -> None:
    """Geman and McClure's: x^2 / (1 + x^2) of the distance over 0.3 of the spacing."""
    rig = make_rig(torch.zeros(2, 3), torch.zeros(2, KNOTS, 3), torch.zeros(2, KNOTS, 3))
    xyz = torch.zeros(1, 2, 3).double()
    xyz[0, 0, 1] = 0.6
    tracks = HandleTracks([0.5], xyz, torch.ones(1, 2).double())
    assert float(track_error(rig, tracks, 0, 1.0)) == pytest.approx(0.5 * 4 / 5)
    assert float(track_error(rig, tracks, 0, 2.0)) == pytest.approx(0.5 * 1 / 2)


def test_mask_loss_is_the_mean_difference_where_weights_are() -> None:
    moving = torch.tensor([[0.0, 0.25], [1.0, 0.5]])
    mask = torch.tensor([[False, True], [True, False]])
    assert float(mask_loss(moving, mask, None)) == pytest.approx((0.75 + 0.5) / 4)
    weights = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    assert float(mask_loss(moving, mask, weights)) == pytest.approx(0.75 / 3)
    assert float(mask_loss(moving, mask, torch.zeros(2, 2))) == 0.0


def test_depth_loss_counts_known_pixels_that_something_covers_and_bounds_each() -> None:
    truth = torch.tensor([2.0, 2.0, 2.0, 0.0, 2.0])[None]
    depth = torch.tensor([2.2, 1.0, 2.0, 9.0, 9.0])[None]
    alpha = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.1])[None]
    assert float(depth_loss(depth, alpha, truth)) == pytest.approx((0.1 + 0.2 + 0.0) / 3)
    assert float(depth_loss(depth, alpha, torch.zeros_like(truth))) == 0.0


def test_skinning_entropy_is_that_of_the_weights_in_use() -> None:
    logits = torch.tensor([[0.0, 0, 0, 0], [5.0, 5.0, 99.0, 99.0], [3.0, 0, 0, 0], [0.0, 0, 0, 0]])
    slots = torch.tensor([[0, 1, 2, 3], [0, 1, -1, -1], [0, -1, -1, -1], [-1, -1, -1, -1]])
    expected = (math.log(4) + math.log(2) + 0.0) / 3  # who follows nothing does not count
    assert float(skinning_entropy(logits, slots)) == pytest.approx(expected, abs=1e-6)


def test_exposure_prior_is_zero_for_cameras_that_change_nothing() -> None:
    exposure = torch.eye(3, 4).repeat(2, 1, 1)
    assert float(exposure_prior(exposure)) == 0.0
    exposure[1, 0, 3] = 0.6
    assert float(exposure_prior(exposure)) == pytest.approx(0.36 / 24)
