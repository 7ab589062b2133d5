"""The rows of an edited scene at a time.

A row that went through the effects e_1, ..., e_n is evaluated in two sweeps over its chain. Back from the last: the
clock starts at the scene's time, tau_n = t; an effect sees tau_k, and tau_(k-1) = w(tau_k) where e_k is a clock w,
else tau_k. The source is evaluated at theta = tau_0. Then forth: the similarities A_k(tau_k) follow each other,
opacities are multiplied, colours changed.

    x' = s R x(theta) + T,   q' = r q(theta),   log_scales' = log_scales + log s,   sh' = D(R) f(sh)

N' rows, C chains, S SH coefficients.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from renderers import Gaussians
from renderers.quaternions import multiply, rotate
from scene4d.edits.clocks import warped
from scene4d.edits.colours import linear_colours, looked_up
from scene4d.edits.placements import IDENTITY, Similarity, placed
from scene4d.edits.sh_rotation import sh_rotation
from scene4d.edits.state import Colour, Effect, Opacity, Place, State, Warp
from scene4d.scene import Scene4D, gaussian_tensors
from scene4d.scene_tools import without_unused_handles

LOWEST_LOG_OPACITY = -90.0  # of a factor 0: no renderer draws e^-90, and the logit stays finite in float32


@dataclass(frozen=True)
class ChainNow:
    """What a chain does at a time."""

    source_time: float
    similarity: Similarity
    opacity: float


@dataclass(frozen=True, eq=False)
class Group:
    """Rows that read one source at one time."""

    chain: int  # any chain of the group: all have the same clocks
    scene: Scene4D  # the part of the source that is read
    rows: Tensor | None  # [n] int64 rows of the edited scene; None: all of them, in order
    reads: Tensor | None  # [n] int64 rows of `scene`; None: all of them, in order


class Evaluator:
    """Evaluates a state at times; keeps what does not depend on the time."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._turned: tuple[Tensor, Tensor] | None = None  # rotations [C, 3, 3] and the sh they gave

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Rows by source and clocks."""
        state = self.state
        clocks = [tuple(id(e) for e in chain if isinstance(e, Warp)) for chain in state.effects]
        numbers = {key: k for k, key in enumerate(dict.fromkeys(clocks))}
        clock_of = torch.tensor([numbers[key] for key in clocks], device=state.chains.device)
        keys = state.origins * max(len(numbers), 1) + clock_of[state.chains] if len(state) else state.origins
        groups = []
        for key in keys.unique().tolist():
            rows = (keys == key).nonzero()[:, 0]
            origin, chain = int(state.origins[rows[0]]), int(state.chains[rows[0]])
            groups.append(_group(state, rows, origin, chain))
        return tuple(groups)

    @cached_property
    def moved(self) -> Tensor:
        """Rows [n] int64 whose chain holds a placement that is not the identity."""
        flags = [any(isinstance(e, Place) and not e.placement.is_identity for e in c) for c in self.state.effects]
        return self._rows_of(flags)

    @cached_property
    def faded(self) -> Tensor:
        return self._rows_of([any(isinstance(e, Opacity) for e in chain) for chain in self.state.effects])

    @cached_property
    def _members(self) -> list[Tensor]:
        """Rows [n] int64 of each chain."""
        return [(self.state.chains == k).nonzero()[:, 0] for k in range(len(self.state.effects))]

    def _rows_of(self, flags: list[bool]) -> Tensor:
        table = torch.tensor(flags, dtype=torch.bool, device=self.state.chains.device)
        return table[self.state.chains].nonzero()[:, 0]

    def chains_at(self, t: float) -> list[ChainNow]:
        return [chain_at(chain, t) for chain in self.state.effects]

    def at(self, t: float) -> Gaussians:
        """The edited scene at t seconds."""
        if not len(self.state):
            nothing = torch.zeros(0, dtype=torch.int64, device=self.state.chains.device)
            return self.state.sources[0].subset(nothing).at(t)
        now = self.chains_at(t)
        means, quats, logits = self._read_motion(now)
        log_scales, sh = self._static
        rows = self.moved
        if len(rows):
            chains = self.state.chains[rows]
            q, T, s = (table[chains] for table in self._tables(now))
            moved = s[:, None] * rotate(q, means[rows]) + T
            means = means.index_copy(0, rows, moved)
            quats = quats.index_copy(0, rows, multiply(q, quats[rows]))
            log_scales = log_scales.index_copy(0, rows, log_scales[rows] + s.log()[:, None])
            sh = self._turned_sh(sh, now)
        if len(self.faded):
            factors = logits.new_tensor([chain.opacity for chain in now])[self.state.chains[self.faded]]
            logits = logits.index_copy(0, self.faded, faded_logits(logits[self.faded], factors))
        return Gaussians(means, quats, log_scales, logits, sh=sh)

    # -- parts

    def _read_motion(self, now: Sequence[ChainNow]) -> tuple[Tensor, Tensor, Tensor]:
        """Means, quats and logits of the sources, each row at its own time."""
        parts = []
        for group in self.groups:
            found = group.scene.at(now[group.chain].source_time)
            read = (found.means, found.quats, found.logit_opacities)
            parts.append(read if group.reads is None else tuple(x[group.reads] for x in read))
        means, quats, logits = self._assembled(parts)
        return means, quats, logits

    @property
    def _static(self) -> tuple[Tensor, Tensor]:
        """log_scales and recoloured sh of all rows; kept unless gradients flow through them."""
        inputs = [x for scene in self.state.sources for x in (scene.log_scales, scene.sh)]
        if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
            return self._read_static()
        return self._static_kept

    @cached_property
    def _static_kept(self) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return self._read_static()

    def _read_static(self) -> tuple[Tensor, Tensor]:
        most = max((group.scene.sh.shape[1] for group in self.groups), default=1)
        parts = []
        for group in self.groups:
            sh = group.scene.sh
            if sh.shape[1] < most:
                sh = torch.nn.functional.pad(sh, (0, 0, 0, most - sh.shape[1]))
            read = (group.scene.log_scales, sh)
            parts.append(read if group.reads is None else tuple(x[group.reads] for x in read))
        log_scales, sh = self._assembled(parts)
        for k, chain in enumerate(self.state.effects):
            changes = [effect for effect in chain if isinstance(effect, Colour)]
            if changes:
                rows = self._members[k]
                sh = sh.index_copy(0, rows, recoloured(sh[rows], changes))
        return log_scales, sh

    def _assembled(self, parts: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Tensors of all rows in order from those of the groups."""
        if len(parts) == 1 and self.groups[0].rows is None:
            return parts[0]
        return tuple(torch.cat(tensors).index_select(0, self._order) for tensors in zip(*parts, strict=True))

    @cached_property
    def _order(self) -> Tensor:
        """For every row its place among the rows of the groups, one group after the other."""
        rows = torch.cat([group.rows for group in self.groups if group.rows is not None])
        order = torch.empty_like(rows)
        order[rows] = torch.arange(len(rows), device=rows.device)
        return order

    def _tables(self, now: Sequence[ChainNow]) -> tuple[Tensor, Tensor, Tensor]:
        """Quats [C, 4], T [C, 3] and s [C] in the scene's dtype."""
        like = self.state.sources[0].means
        found = [chain.similarity for chain in now]
        arrays = ([f.quat for f in found], [f.translation for f in found])
        q, T = (torch.as_tensor(np.stack(x), dtype=like.dtype, device=like.device) for x in arrays)
        return q, T, like.new_tensor([f.scale for f in found])

    def _turned_sh(self, sh: Tensor, now: Sequence[ChainNow]) -> Tensor:
        """sh with the chains' rotations; the last result is kept: most placements do not turn over time."""
        if sh.shape[1] == 1:
            return sh
        R = torch.as_tensor(np.stack([chain.similarity.rotation for chain in now]))
        if self._turned is not None and not sh.requires_grad and torch.equal(self._turned[0], R):
            return self._turned[1]
        rows, parts = [], []
        for k in range(len(now)):
            if not torch.equal(R[k], torch.eye(3, dtype=R.dtype)):
                members = self._members[k]
                flat = sh[members].transpose(0, 1)  # [S, n, 3]: one product instead of n small ones
                D = sh_rotation(R[k], sh.shape[1]).to(sh)
                parts.append((D @ flat.reshape(len(D), -1)).reshape(flat.shape).transpose(0, 1))
                rows.append(members)
        turned = sh.index_copy(0, torch.cat(rows), torch.cat(parts)) if rows else sh
        if not turned.requires_grad:
            self._turned = (R, turned)
        return turned


def _group(state: State, rows: Tensor, origin: int, chain: int) -> Group:
    source = state.sources[origin]
    parents = state.parents[rows]
    everything = None if len(rows) == len(state) else rows
    wanted, reads = parents.unique(return_inverse=True)
    if len(wanted) == len(parents) and bool((wanted == parents).all()):
        reads = None
    if len(wanted) == len(source):
        return Group(chain, source, everything, reads)
    if any(x.requires_grad for x in gaussian_tensors(source).values()):  # a part would hold a graph of its own
        return Group(chain, source, everything, parents)
    return Group(chain, without_unused_handles(source.subset(wanted)), everything, reads)


def chain_at(chain: Sequence[Effect], t: float) -> ChainNow:
    """The two sweeps over one chain."""
    clock, seen = t, []
    for effect in reversed(chain):
        seen.append(clock)
        if isinstance(effect, Warp):
            clock = warped(effect.clock, clock)
    similarity, opacity = IDENTITY, 1.0
    for effect, time in zip(chain, reversed(seen), strict=True):
        if isinstance(effect, Place):
            center = None if effect.center is None else effect.center(time)
            similarity = similarity.then(placed(effect.placement, time, center))
        elif isinstance(effect, Opacity):
            opacity *= factor_at(effect, time)
    return ChainNow(clock, similarity, opacity)


def factor_at(effect: Opacity, t: float) -> float:
    times, factors = effect.times, effect.factors
    if effect.step:
        return 1.0 if times[0] <= t <= times[-1] else 0.0
    k = bisect.bisect_right(times, t) - 1
    if k < 0 or k == len(times) - 1:
        return float(factors[max(k, 0)])
    u = (t - times[k]) / (times[k + 1] - times[k])
    return (1 - u) * factors[k] + u * factors[k + 1]


def faded_logits(logits: Tensor, factors: Tensor) -> Tensor:
    """Logits of factor * sigmoid(logit), in logarithms; a factor of 1 leaves them to the bit."""
    log_p = factors.log().clamp_min(LOWEST_LOG_OPACITY) + torch.nn.functional.logsigmoid(logits)
    log_rest = torch.log(-torch.expm1(log_p.clamp(max=-1e-7)))
    return torch.where(factors == 1, logits, log_p - log_rest)


def recoloured(sh: Tensor, changes: Sequence[Colour]) -> Tensor:
    for change in changes:
        sh = linear_colours(sh, change.matrix, change.offset)
        if change.lut is not None:
            sh = looked_up(sh, change.lut, change.lut_amount)
    return sh
