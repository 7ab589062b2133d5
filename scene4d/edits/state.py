"""What a stack has made of a scene's rows: where each row comes from and what happens to it. The structure, not yet the
numbers at a time (`scene4d.edits.evaluating`).

N source rows, N' rows of the edited scene, C chains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from scene4d.edits.clocks import TimeMap
from scene4d.edits.colours import Lut
from scene4d.edits.placements import Placement
from scene4d.paths import CameraPath
from scene4d.scene import Scene4D


@dataclass(frozen=True, eq=False)
class Warp:
    """A clock."""

    clock: TimeMap


@dataclass(frozen=True, eq=False)
class Place:
    """A similarity. `center`: where the pivot is at a time [3], where it follows what is placed."""

    placement: Placement
    center: Callable[[float], np.ndarray] | None = None


@dataclass(frozen=True, eq=False)
class Opacity:
    """A factor over time through points; held outside. `step`: 1 from the first time to the last, else 0."""

    times: tuple[float, ...]
    factors: tuple[float, ...]
    step: bool = False


@dataclass(frozen=True, eq=False)
class Colour:
    """Colours M c + offset, then a table."""

    matrix: Tensor  # [3, 3] float64
    offset: tuple[float, float, float]
    lut: Lut | None = None
    lut_amount: float = 1.0


Effect = Warp | Place | Opacity | Colour


@dataclass(frozen=True, eq=False)
class State:
    """Rows after some edits. A chain is the effects that a row has gone through, first applied first."""

    sources: tuple[Scene4D, ...]  # the fitted scene, then inserted ones
    origins: Tensor  # [N'] int64 which source
    parents: Tensor  # [N'] int64 row of that source
    chains: Tensor  # [N'] int64 index into `effects`
    effects: tuple[tuple[Effect, ...], ...]  # [C]
    labels: Tensor  # [N'] int32
    instances: Tensor  # [N'] int32
    named: Mapping[str, Tensor] = field(default_factory=dict)  # name -> bool [N']
    paths: Mapping[str, CameraPath] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.parents.shape[0]

    @property
    def is_plain(self) -> bool:
        """Whether the rows are those of the fitted scene, untouched."""
        N = len(self.sources[0])
        if len(self) != N or any(self.effects):
            return False
        return bool((self.origins == 0).all()) and bool((self.parents == self._arange(N)).all())

    def _arange(self, count: int) -> Tensor:
        return torch.arange(count, device=self.parents.device)


def initial_state(scene: Scene4D) -> State:
    N, device = len(scene), scene.means.device
    zeros = torch.zeros(N, dtype=torch.int64, device=device)
    rows = torch.arange(N, device=device)
    return State((scene,), zeros, rows, zeros.clone(), ((),), scene.labels, scene.instances)


def picked(state: State, rows: Tensor) -> State:
    """The rows with the indices `rows` [n]; named selections go with them, chains that nobody has any more go."""
    per_row = {name: getattr(state, name)[rows] for name in ("origins", "parents", "labels", "instances")}
    chains, effects = _renumbered(state.chains[rows], state.effects)
    named = {name: mask[rows] for name, mask in state.named.items()}
    return replace(state, **per_row, chains=chains, effects=effects, named=named)


def joined(a: State, b: State) -> State:
    """The rows of `a`, then those of `b`, which has the same sources or more."""
    names = ("origins", "parents", "labels", "instances")
    per_row = {name: torch.cat([getattr(a, name), getattr(b, name)]) for name in names}
    chains = torch.cat([a.chains, b.chains + len(a.effects)])
    chains, effects = _renumbered(chains, a.effects + b.effects)
    none = torch.zeros(len(b), dtype=torch.bool, device=b.parents.device)
    named = {name: torch.cat([mask, b.named.get(name, none)]) for name, mask in a.named.items()}
    return replace(a, **per_row, sources=b.sources, chains=chains, effects=effects, named=named)


def affected(state: State, mask: Tensor, effect: Effect) -> State:
    """`effect` at the end of the chains of the rows in `mask` [N'] bool."""
    touched, place = state.chains[mask].unique(return_inverse=True)
    effects = list(state.effects)
    chains = state.chains.clone()
    chains[mask] = place + len(effects)
    effects += [(*state.effects[k], effect) for k in touched.tolist()]
    chains, kept = _renumbered(chains, tuple(effects))
    return replace(state, chains=chains, effects=kept)


def _renumbered(
    chains: Tensor, effects: tuple[tuple[Effect, ...], ...]
) -> tuple[Tensor, tuple[tuple[Effect, ...], ...]]:
    """Equal chains as one, unused ones dropped. Effects are equal if they are the same object."""
    used, place = chains.unique(return_inverse=True)
    numbers: dict[tuple[int, ...], int] = {}
    kept, new_id = [], []
    for k in used.tolist():
        key = tuple(id(effect) for effect in effects[k])
        if key not in numbers:
            numbers[key] = len(kept)
            kept.append(effects[k])
        new_id.append(numbers[key])
    table = torch.tensor(new_id, dtype=torch.int64, device=chains.device)
    return (table[place] if new_id else chains), tuple(kept)
