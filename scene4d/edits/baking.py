"""An edited scene as a plain one, that needs no stack any more.

Exact, up to rounding: removed and copied rows, inserted scenes, colours, constant placements, constant opacities, and
clocks a t + b, backwards only for handles of straight interpolation (cubic rotations are other curves backwards). A
constant placement of what follows handles becomes a parent of these handles: dual quaternion blending commutes with a
rigid transform that comes after it, and scales with the scene.

Sampled: keyed placements and bent clocks. Handles get knots at every one of `times`, straight lines in between; rows
with residuals, or whose size changes, get a handle each. Between two times h seconds apart a position is off by at most
h^2 / 8 times its acceleration. A plain scene has one size, one orientation of its colours and one window a Gaussian:
sizes and colours are those of the middle time, and opacities become the window that is nearest to them. `BakeError`
tells what this cost, measured between the times.

T times, J handles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from renderers import Gaussians
from renderers.motion import MAX_LOG_SOFTNESS
from renderers.quaternions import conjugate, multiply, rotate, unit
from scene4d.edits.baking_exact import exact_part, simple_part
from scene4d.edits.evaluating import Evaluator
from scene4d.edits.selecting import time_range
from scene4d.edits.state import State, picked
from scene4d.rig import LINEAR, Rig
from scene4d.scene import Scene4D
from scene4d.scene_tools import concat, without_unused_handles

if TYPE_CHECKING:
    from scene4d.edits.scene import EditedScene

RATE = 30.0  # samples a second of the scene, if times are not given
MAX_SAMPLES, MIN_SAMPLES = 600, 17
CHECKS = 32  # times at most at which the result is compared
FAINT = 1e-3  # share of its largest opacity below which a row counts as gone, where a window is fitted
HARD = 1e-4  # s, softness of the edges of windows that opacities jump at


@dataclass(frozen=True)
class BakeError:
    """Largest differences between an edited scene and its plain one, over times between the samples."""

    sampled: int  # rows that could not be expressed exactly
    position: float  # scene units
    opacity: float
    log_scale: float
    color: float  # of the mean colour and the coefficients, largest of a channel


@torch.no_grad()
def bake_scene(edited: EditedScene, times: Sequence[float] | None = None) -> Scene4D:
    """A plain scene that shows what `edited` shows. `times` [T] seconds: where motion that is not exact is sampled.

    Raises ValueError: times do not increase or are fewer than two.
    """
    state = edited.state
    if state.is_plain:
        return edited.source
    samples = sample_times(state) if times is None else [float(t) for t in times]
    if len(samples) < 2 or any(not a < b for a, b in zip(samples, samples[1:], strict=False)):
        raise ValueError(f"times must increase and be at least two, got {samples[:4]}")
    if not len(state):
        return without_unused_handles(edited.source.subset(torch.zeros(0, dtype=torch.int64)))
    parts, rows = [], []
    for members in _parts(state):
        part = picked(state, members)
        simple = simple_part(part)
        parts.append(_sampled_part(part, samples) if simple is None else exact_part(part, simple))
        rows.append(members)
    order = torch.argsort(torch.cat(rows))
    return concat(parts, keep_instances=True).subset(order)


def sample_times(state: State) -> list[float]:
    """Even times over the scene's range, RATE a second."""
    first, last = time_range(state)
    count = min(max(round((last - first) * RATE) + 1, MIN_SAMPLES), MAX_SAMPLES)
    return np.linspace(first, last, count).tolist()


@torch.no_grad()
def bake_error(edited: EditedScene, baked: Scene4D, times: Sequence[float] | None = None) -> BakeError:
    """How far `baked` is from `edited`, at the times between the samples."""
    samples = np.asarray(sample_times(edited.state) if times is None else times, dtype=np.float64)
    between = ((samples[1:] + samples[:-1]) / 2)[:: max(len(samples) // CHECKS, 1)]
    worst = np.zeros(4)
    for t in between.tolist():
        a, b = edited.at(t), baked.at(t)
        if len(a):
            found = [_distance(a, b), _largest(a.logit_opacities.sigmoid(), b.logit_opacities.sigmoid())]
            assert a.sh is not None and b.sh is not None
            worst = np.maximum(worst, [*found, _largest(a.log_scales, b.log_scales), _largest(a.sh, b.sh)])
    parts = _parts(edited.state)
    sampled = sum(len(rows) for rows in parts if simple_part(picked(edited.state, rows)) is None)
    return BakeError(sampled, *(float(x) for x in worst))


def _distance(a: Gaussians, b: Gaussians) -> float:
    """Of rows that are to be seen at all."""
    seen = a.logit_opacities.sigmoid() > FAINT
    return float((a.means - b.means).norm(dim=1)[seen].max()) if bool(seen.any()) else 0.0


def _largest(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def _parts(state: State) -> list[Tensor]:
    """Rows by source, chain and instance: a handle serves one instance."""
    keys = torch.stack([state.origins, state.chains, state.instances.long()], 1)
    kinds, group = keys.unique(dim=0, return_inverse=True)
    return [(group == k).nonzero()[:, 0] for k in range(len(kinds))]


# -- sampled -----------------------------------------------------------------------------------------------------------


def _sampled_part(state: State, times: Sequence[float]) -> Scene4D:
    """Rows of one source, chain and instance, with knots at the times."""
    evaluator = Evaluator(state)
    frames = [evaluator.at(t) for t in times]
    middle = frames[len(frames) // 2]
    source = state.sources[int(state.origins[0])].subset(state.parents)
    scales = [now.similarity.scale for t in times for now in evaluator.chains_at(t)]
    rigid = max(scales) - min(scales) <= 1e-9 * max(scales)
    still = source.residuals is None or not bool(source.residuals.any())
    assert middle.sh is not None
    common = {
        "log_scales": middle.log_scales,
        "sh": middle.sh,
        "labels": state.labels,
        "instances": state.instances,
        **_fitted_window(frames, times),
    }
    if rigid and still:
        return _shared_handles(source, evaluator, times, scales[0], common)
    return _own_handles(frames, times, common)


def _shared_handles(
    source: Scene4D, evaluator: Evaluator, times: Sequence[float], scale: float, common: dict[str, Tensor]
) -> Scene4D:
    """The source's handles, resampled with what the chain does; rows without any follow a new one."""
    from scene4d.motion import handle_poses

    source = without_unused_handles(source)
    like, instance = source.means, int(common["instances"][0])
    rig = source.rig
    rest = torch.zeros(1, 3).to(like) if rig is None else torch.cat([rig.centers, rig.centers.new_zeros(1, 3)])
    centers = rest * scale
    quats, shifts = [], []
    for t in times:
        now = evaluator.chains_at(t)[0]
        q, x = like.new_tensor([[1.0, 0, 0, 0]]), like.new_zeros(1, 3)
        if rig is not None:
            poses = handle_poses(rig, now.source_time)
            q, x = torch.cat([poses[0], q]), torch.cat([poses[1], x])
        turn = torch.as_tensor(now.similarity.quat).to(like).expand(len(q), 4)
        after = rotate(turn, x * scale) + torch.as_tensor(now.similarity.translation).to(like)
        quats.append(multiply(turn, q))
        shifts.append(rotate(quats[-1], centers) + after - centers)
    new = len(centers) - 1
    if source.handle_ids is None or source.handle_logits is None:
        ids, logits = torch.full((len(source), 1), new, dtype=torch.int32), like.new_zeros(len(source), 1)
    else:
        ids, logits = source.handle_ids.clone(), source.handle_logits
        alone = (ids < 0).all(1)
        ids[alone, 0] = new
    return Scene4D(
        means=source.means * scale,
        quats=source.quats,
        rig=_sampled_rig(centers, torch.stack(quats, 1), torch.stack(shifts, 1), times, instance),
        handle_ids=ids.to(like.device),
        handle_logits=logits,
        **common,
    )


def _own_handles(frames: list[Gaussians], times: Sequence[float], common: dict[str, Tensor]) -> Scene4D:
    """A handle for each row."""
    middle = frames[len(frames) // 2]
    N, like = len(middle), middle.means
    back = conjugate(unit(middle.quats))
    quats = torch.stack([multiply(unit(frame.quats), back) for frame in frames], 1)
    shifts = torch.stack([frame.means - middle.means for frame in frames], 1)
    instance = int(common["instances"][0])
    return Scene4D(
        means=middle.means,
        quats=middle.quats,
        rig=_sampled_rig(middle.means, quats, shifts, times, instance),
        handle_ids=torch.arange(N, dtype=torch.int32, device=like.device)[:, None],
        handle_logits=like.new_zeros(N, 1),
        **common,
    )


def _sampled_rig(centers: Tensor, quats: Tensor, shifts: Tensor, times: Sequence[float], instance: int) -> Rig:
    """Handles with knots [J, T, ...] at all times."""
    J, T = quats.shape[:2]
    whole = torch.zeros(J, dtype=torch.int32, device=centers.device)
    return Rig(
        centers=centers,
        parents=whole - 1,
        instances=whole + instance,
        interpolations=whole + LINEAR,
        knot_counts=whole + T,
        knot_times=torch.as_tensor(times, dtype=torch.float64).to(centers).repeat(J),
        knot_quats=quats.reshape(-1, 4),
        knot_translations=shifts.reshape(-1, 3),
    )


def _fitted_window(frames: list[Gaussians], times: Sequence[float]) -> dict[str, Tensor]:
    """logit_opacities, and a window where they change: half the largest opacity at its edges, and the slope there."""
    logits = torch.stack([frame.logit_opacities for frame in frames])  # [T, N]
    if bool((logits == logits[0]).all()):
        return {"logit_opacities": logits[0]}
    t = torch.as_tensor(times, dtype=torch.float64)
    opacity = logits.double().sigmoid().cpu()
    most, _ = opacity.max(0)
    share = opacity / most.clamp_min(1e-30)
    on, rise = _edge(share, t)
    off, fall = _edge(share.flip(0), -t.flip(0))
    softness = torch.where(torch.isinf(on), fall, torch.where(torch.isinf(-off), rise, torch.minimum(rise, fall)))
    softness = softness.clamp_min(HARD).log().clamp(-MAX_LOG_SOFTNESS, MAX_LOG_SOFTNESS)
    peak, _ = logits.max(0)
    like = logits[0]
    gone = most < 1e-30
    on, off = on.masked_fill(gone, -torch.inf), (-off).masked_fill(gone, torch.inf)
    return {
        "logit_opacities": peak,
        "t_on": on.to(like),
        "t_off": torch.maximum(off.to(like), on.to(like)),
        "log_softness": softness.to(like),
    }


def _edge(share: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Where shares [T, N] first rise through a half, -inf if they start above; and the softness of a logistic edge of
    the same slope there (1 / 4 tau)."""
    above = share >= 0.5
    first = above.int().argmax(0)
    before = (first - 1).clamp_min(0)
    column = torch.arange(share.shape[1])
    a, b = share[before, column], share[first, column]
    gap = (t[first] - t[before]).clamp_min(1e-12)
    u = ((0.5 - a) / (b - a).clamp_min(1e-12)).clamp(0, 1)
    edge = torch.where(first == 0, -torch.inf, t[before] + u * gap)
    return edge, gap / (4 * (b - a).clamp_min(1e-6))
