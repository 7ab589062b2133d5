"""What a fit minimises, besides the pictures; docs/fitting.md names the sources.

J handles, E edges, L knots, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from renderers.quaternions import conjugate, multiply
from scene4d import motion
from scene4d.rig import Rig

EDGES = 6  # of a handle to its neighbours, on each level
LEVELS = (1, 4, 16)  # every handle, every fourth, every sixteenth: far handles are tied too (MoSca, section 4.2)


@dataclass(frozen=True, eq=False)
class HandleGraph:
    """Which handles of an instance stay at their distances."""

    a: Tensor  # [E]
    b: Tensor  # [E]
    weights: Tensor  # [E]
    spacing: Tensor  # [E] distance at rest, for relative errors


def handle_graph(rig: Rig, paths: Tensor) -> HandleGraph:
    """Edges between handles whose paths [J, 3 times] stay near each other, on several levels."""
    from scene4d.fitting.rigging import path_distance

    J = len(rig)
    distance = path_distance(paths, paths)
    distance[rig.instances[:, None] != rig.instances] = torch.inf
    distance.fill_diagonal_(torch.inf)
    pairs = []
    for level in LEVELS:
        members = torch.arange(0, J, level)
        if len(members) < 2:
            continue
        near, index = distance[:, members].topk(min(EDGES, len(members)), dim=1, largest=False)
        rows = torch.arange(J)[:, None].expand_as(index)
        good = near.isfinite()
        pairs.append(torch.stack([rows[good], members[index][good]], 1))
    edges = torch.cat(pairs).sort(1).values.unique(dim=0) if pairs else torch.zeros(0, 2, dtype=torch.int64)
    edges = edges[edges[:, 0] != edges[:, 1]]
    rest = (rig.centers[edges[:, 0]] - rig.centers[edges[:, 1]]).norm(dim=1)
    # handles that drift apart over time are tied loosely: they belong to different parts
    drift = distance[edges[:, 0], edges[:, 1]] / rest.clamp_min(1e-9)
    weights = torch.exp(-(drift - 1).clamp_min(0) * 2)
    return HandleGraph(edges[:, 0], edges[:, 1], weights, rest.clamp_min(1e-6))


def rigidity(rig: Rig, graph: HandleGraph, t: float, other: float) -> Tensor:
    """As rigid as possible between two times (Sorkine and Alexa 2007; MoSca, equation 6).

    Sum over edges of w |R_a(t)^T (p_b - p_a)(t) - same at the other|^2, relative to the edge's length at rest, plus the
    change of relative rotation.
    """
    sides = []
    for time in (t, other):
        quats, translations = motion.handle_poses(rig, time)
        at = rotate(quats, rig.centers) + translations
        local = rotate(conjugate(quats[graph.a]), at[graph.b] - at[graph.a]) / graph.spacing[:, None]
        turn = multiply(conjugate(quats[graph.a]), quats[graph.b])
        sides.append((local, turn))
    (local, turn), (other_local, other_turn) = sides
    bend = 1 - (turn * other_turn).sum(1).square()  # sin^2 of half the angle: no sign, no acos
    error = (local - other_local).square().sum(1) + 4 * bend
    return (graph.weights * error).sum() / graph.weights.sum().clamp_min(1e-9)


def smoothness(rig: Rig, size: float) -> Tensor:
    """Mean square of the third differences of knots, in units of the scene's size and radians.

    It leaves constant acceleration alone, so it continues a motion where nothing was observed.
    """
    J = len(rig)
    count = int(rig.knot_counts[0])  # a fit gives all handles the same knots
    if count < 4 or rig.knot_times.shape[0] != J * count:
        return rig.centers.new_zeros(())
    shift = rig.knot_translations.reshape(J, count, 3) / size
    quats = normalize(rig.knot_quats, dim=1).reshape(J, count, 4)
    sign = torch.where((quats[:, 1:] * quats[:, :-1]).sum(-1) < 0, -1.0, 1.0).cumprod(1)
    quats = torch.cat([quats[:, :1], quats[:, 1:] * sign[..., None]], 1)
    return shift.diff(n=3, dim=1).square().sum(-1).mean() + quats.diff(n=3, dim=1).square().sum(-1).mean()


def rotate(quats: Tensor, vectors: Tensor) -> Tensor:
    """Vectors [n, 3] turned by unit quaternions [n, 4] wxyz."""
    w, u = quats[:, :1], quats[:, 1:]
    across = 2 * torch.linalg.cross(u, vectors)
    return vectors + w * across + torch.linalg.cross(u, across)


def mask_loss(moving: Tensor, mask: Tensor, weights: Tensor | None) -> Tensor:
    """Mean absolute difference of the rendered share of moving things [H, W] from the mask [H, W]."""
    error = (moving - mask.to(moving)).abs()
    return error.mean() if weights is None else (error * weights).sum() / weights.sum().clamp_min(1)


def depth_loss(depth: Tensor, alpha: Tensor, truth: Tensor) -> Tensor:
    """Mean relative error of depth [H, W] where there is a measurement and something was drawn; at most 0.2 each."""
    known = (truth > 0) & (alpha.detach() > 0.5)
    error = ((depth - truth).abs() / truth.clamp_min(1e-6)).clamp_max(0.2)
    return torch.where(known, error, error.new_zeros(())).sum() / known.sum().clamp_min(1)


def skinning_entropy(logits: Tensor, slots: Tensor) -> Tensor:
    """Mean entropy of the weights with which Gaussians follow handles [N, M]."""
    used = slots >= 0
    some = used.any(1)
    weights = torch.where(used, logits, logits.new_full((), -1e9)).softmax(1)
    entropy = -(weights * weights.clamp_min(1e-12).log()).sum(1)
    return torch.where(some, entropy, entropy.new_zeros(())).sum() / some.sum().clamp_min(1)


def window_loss(t_on: Tensor, t_off: Tensor, duration: float) -> Tensor:
    """Mean of the capture's duration over the length of the windows [N] in seconds: long ones are cheap."""
    return (duration / (t_off - t_on).clamp_min(0.02 * duration)).mean()


def exposure_prior(exposure: Tensor) -> Tensor:
    """Mean square distance of the cameras' colour matrices [C, 3, 4] from leaving colours as they are."""
    return (exposure - torch.eye(3, 4, device=exposure.device)).square().mean()
