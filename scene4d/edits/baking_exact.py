"""The part of an edited scene that a plain one can hold exactly: see `scene4d.edits.baking`.

P polynomial coefficients, J handles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from renderers.motion import MAX_LOG_SOFTNESS
from renderers.quaternions import multiply, rotate
from scene4d.edits.clocks import warped
from scene4d.edits.evaluating import Evaluator, chain_at
from scene4d.edits.placements import Similarity
from scene4d.edits.state import Effect, Opacity, Place, State, Warp
from scene4d.rig import LINEAR, PER_KNOT, Rig
from scene4d.scene import Scene4D
from scene4d.scene_tools import without_unused_handles


@dataclass(frozen=True)
class SimpleChain:
    """Source time rate t + offset, then a constant similarity. Opacity and colours are constant too."""

    rate: float
    offset: float
    similarity: Similarity


def simple_chain(chain: Sequence[Effect]) -> SimpleChain | None:
    """The chain in this form, or None where it has another."""
    for effect in chain:
        constant = (
            effect.clock.is_affine
            if isinstance(effect, Warp)
            else effect.placement.is_constant
            if isinstance(effect, Place)
            else (not effect.step and len(set(effect.factors)) == 1)
            if isinstance(effect, Opacity)
            else True
        )
        if not constant:
            return None
    rate, offset = 1.0, 0.0
    for effect in chain:  # theta = w_1(w_2(...)): the last clock is asked first
        if isinstance(effect, Warp):
            b = warped(effect.clock, 0.0)
            a = warped(effect.clock, 1.0) - b
            rate, offset = rate * a, rate * b + offset
    return SimpleChain(rate, offset, chain_at(chain, 0.0).similarity)


def simple_part(state: State) -> SimpleChain | None:
    """That of rows of one source and chain, or None where a plain scene cannot hold them exactly."""
    simple = simple_chain(state.effects[0])
    rig = state.sources[int(state.origins[0])].rig
    if simple is not None and simple.rate < 0 and rig is not None and bool((rig.interpolations != LINEAR).any()):
        return None
    return simple


def exact_part(state: State, simple: SimpleChain) -> Scene4D:
    """Rows of one source, chain and instance as a plain scene."""
    now = Evaluator(state).at(0.0)  # sizes and colours do not depend on the time
    source = state.sources[int(state.origins[0])].subset(state.parents)
    source = replace(source, rig=None, handle_ids=None, handle_logits=None) if simple.rate == 0 else source
    source = _as_instance(without_unused_handles(source), state.instances)
    if simple.rate == 0:
        still = state.sources[int(state.origins[0])].subset(state.parents).at(simple.offset)
        source = replace(
            source, means=still.means, quats=still.quats, logit_opacities=still.logit_opacities,
            residuals=None, t_ref=None, t_on=None, t_off=None, log_softness=None,
        )  # fmt: skip
    else:
        source = _retimed(source, simple.rate, simple.offset)
    factor = chain_at(state.effects[0], 0.0).opacity
    if factor != 1:
        from scene4d.edits.evaluating import faded_logits

        logits = source.logit_opacities
        source = replace(source, logit_opacities=faded_logits(logits, torch.full_like(logits, factor)))
    moved = _placed(source, simple.similarity)
    return replace(moved, log_scales=now.log_scales, sh=now.sh, labels=state.labels)


def _as_instance(scene: Scene4D, instances: Tensor) -> Scene4D:
    rig = scene.rig and replace(scene.rig, instances=torch.full_like(scene.rig.instances, int(instances[0])))
    return replace(scene, rig=rig, instances=instances)


def _retimed(scene: Scene4D, rate: float, offset: float) -> Scene4D:
    """The scene at t as it was at rate t + offset."""
    if (rate, offset) == (1, 0):
        return scene
    changes: dict[str, Tensor | Rig | None] = {}
    if scene.rig is not None:
        changes["rig"] = _retimed_rig(scene.rig, rate, offset)
    if scene.residuals is not None and scene.t_ref is not None:
        powers = scene.residuals.new_tensor([rate**p for p in range(1, scene.residuals.shape[1] + 1)])
        changes |= {"residuals": scene.residuals * powers[:, None], "t_ref": (scene.t_ref - offset) / rate}
    if scene.t_on is not None and scene.t_off is not None and scene.log_softness is not None:
        edges = (scene.t_on - offset) / rate, (scene.t_off - offset) / rate
        softness = scene.log_softness - torch.tensor(abs(rate)).log().to(scene.log_softness)
        changes |= {"t_on": edges[rate < 0], "t_off": edges[rate > 0]}
        changes["log_softness"] = softness.clamp(-MAX_LOG_SOFTNESS, MAX_LOG_SOFTNESS)
    return replace(scene, **changes)


def _retimed_rig(rig: Rig, rate: float, offset: float) -> Rig:
    times = (rig.knot_times - offset) / rate
    if rate > 0:
        return replace(rig, knot_times=times)
    handle = torch.arange(len(rig), device=times.device).repeat_interleave(rig.knot_counts)
    place = torch.arange(len(times), device=times.device) - rig.first_knots[handle]
    order = rig.first_knots[handle] + rig.knot_counts[handle] - 1 - place  # each handle's knots from the last
    quats, translations = rig.knot_quats[order], rig.knot_translations[order]
    return replace(rig, knot_times=times[order], knot_quats=quats, knot_translations=translations)


def _placed(scene: Scene4D, similarity: Similarity) -> Scene4D:
    """The scene after a similarity, but for sizes and colours: a parent of the handles, and free rows moved."""
    like = scene.means
    s = similarity.scale
    q = torch.as_tensor(similarity.quat).to(like)
    T = torch.as_tensor(similarity.translation).to(like)
    rigid = bool((q[1:] != 0).any() or (T != 0).any())
    residuals = None if scene.residuals is None else scene.residuals * s
    means, quats, rig, ids = scene.means * s, scene.quats, scene.rig, scene.handle_ids
    if rig is not None:
        scaled = replace(rig, centers=rig.centers * s, knot_translations=rig.knot_translations * s)
        rig = _under_parent(scaled, q, T) if rigid and len(rig) else scaled
        ids = torch.where(ids >= 0, ids + (len(rig) - len(scaled)), ids) if ids is not None else None
    free = torch.ones(len(scene), dtype=torch.bool, device=like.device) if ids is None else (ids < 0).all(1)
    if rigid and bool(free.any()):
        turn = q.expand(len(means), 4)
        means = torch.where(free[:, None], rotate(turn, means) + T, means)
        quats = torch.where(free[:, None], multiply(turn, quats), quats)
        if residuals is not None:
            turned = rotate(q.expand(*residuals.shape[:2], 4), residuals)
            residuals = torch.where(free[:, None, None], turned, residuals)
    return replace(scene, means=means, quats=quats, residuals=residuals, rig=rig, handle_ids=ids)


def _under_parent(rig: Rig, q: Tensor, T: Tensor) -> Rig:
    """The rig as children of one more handle, the first, which stands at (q, T)."""
    first = {
        "centers": torch.zeros_like(T)[None],
        "parents": rig.parents.new_tensor([-1]),
        "instances": rig.instances[:1],
        "interpolations": rig.interpolations.new_tensor([LINEAR]),
        "knot_counts": rig.knot_counts.new_tensor([1]),
        "knot_times": rig.knot_times.new_zeros(1),
        "knot_quats": q[None],
        "knot_translations": T[None],
    }
    assert set(PER_KNOT) < set(first)
    joined = {f.name: torch.cat([first[f.name], getattr(rig, f.name)]) for f in fields(rig)}
    joined["parents"] = torch.cat([first["parents"], rig.parents + 1])  # a root's -1 becomes 0, the new one
    return Rig(**joined)
