"""An edited scene: a fitted scene and its stack of edits. The fitted scene is never touched.

N rows of the fitted scene, N' of the edited one, T times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from renderers import Gaussians
from scene4d.edits.applying import applied
from scene4d.edits.colours import Lut
from scene4d.edits.evaluating import Evaluator
from scene4d.edits.operations import Operation
from scene4d.edits.stack import EditStack
from scene4d.edits.state import Colour, State, initial_state
from scene4d.paths import CameraPath
from scene4d.scene import Scene4D

if TYPE_CHECKING:
    from scene4d.motion import Time

NO_ASSETS: Mapping[str, Scene4D | Lut] = {}


@dataclass(frozen=True, eq=False)
class Provenance:
    """Where the rows of an edited scene come from, at scene time t.

    Row i is row `parents[i]` of the source as it was at `source_times[i]`, carried by x -> scale R x + translation from
    the world of the source to the edited world.
    """

    parents: Tensor  # [N'] int64 row of the fitted scene, -1 = of an inserted one
    source_times: Tensor  # [N'] float64 seconds
    rotations: Tensor  # [N', 3, 3]
    translations: Tensor  # [N', 3]
    scales: Tensor  # [N']
    appearance_changed: Tensor  # [N'] bool: recoloured, so the source's pixels do not show its colour


@dataclass(frozen=True, eq=False)
class EditedScene:
    """A scene after a stack of edits. N' and the order of the rows are the same at all times.

    Raises ValueError, which names the edit: it cannot be applied where it stands in the stack.
    """

    source: Scene4D
    stack: EditStack = EditStack()
    assets: Mapping[str, Scene4D | Lut] = field(default_factory=dict)  # by sha256: what edits insert or look up
    state: State = field(init=False, repr=False)
    report: tuple[str, ...] = field(init=False, repr=False)  # what each operation of the stack changed; "" = off

    def __post_init__(self) -> None:
        state, report = initial_state(self.source), [""] * len(self.stack.done)
        for k, operation in self.stack.active():
            state, report[k] = _apply(state, operation, k, self.assets)
        object.__setattr__(self, "state", state)
        object.__setattr__(self, "report", tuple(report))

    def then(self, operation: Operation, assets: Mapping[str, Scene4D | Lut] = NO_ASSETS) -> EditedScene:
        """With one more edit, and what it needs; what was undone is forgotten. Raises ValueError."""
        stack, known = self.stack.push(operation), {**self.assets, **assets}
        state, line = _apply(self.state, operation, len(self.stack.done), known)
        after = object.__new__(EditedScene)
        values = {"source": self.source, "stack": stack, "assets": known, "state": state}
        for name, value in {**values, "report": (*self.report, line)}.items():
            object.__setattr__(after, name, value)
        return after

    def with_stack(self, stack: EditStack) -> EditedScene:
        """After another stack, such as `stack.undo()`. Raises ValueError."""
        return EditedScene(self.source, stack, self.assets)

    def __len__(self) -> int:
        return len(self.state)

    @property
    def labels(self) -> Tensor:
        """[N'] int32."""
        return self.state.labels

    @property
    def instances(self) -> Tensor:
        """[N'] int32."""
        return self.state.instances

    @property
    def paths(self) -> Mapping[str, CameraPath]:
        """The camera paths that are kept beside the edits."""
        return self.state.paths

    @cached_property
    def is_plain(self) -> bool:
        """Whether the edits leave the fitted scene as it is."""
        return self.state.is_plain

    @cached_property
    def _evaluator(self) -> Evaluator:
        return Evaluator(self.state)

    def at(self, t: Time) -> Gaussians:
        """The edited scene at t seconds, differentiable to every parameter of its sources. See docs/editing.md.

        Where the edits change nothing these are the fitted scene's own tensors. Raises ValueError: t is not finite.
        """
        return self.source.at(_number(t)) if self.is_plain else self._evaluator.at(_number(t))

    def provenance(self, t: Time) -> Provenance:
        """Where each row comes from at t seconds."""
        state, like = self.state, self.source.means
        now = self._evaluator.chains_at(_number(t))
        table = [(c.source_time, c.similarity) for c in now]
        changed = [any(isinstance(e, Colour) for e in chain) for chain in state.effects]
        times = torch.tensor([time for time, _ in table], dtype=torch.float64, device=like.device)
        R = np.stack([s.rotation for _, s in table]) if table else np.zeros((0, 3, 3))
        T = np.stack([s.translation for _, s in table]) if table else np.zeros((0, 3))
        chains = state.chains
        return Provenance(
            parents=torch.where(state.origins == 0, state.parents, -1),
            source_times=times[chains],
            rotations=torch.as_tensor(R, dtype=like.dtype, device=like.device)[chains],
            translations=torch.as_tensor(T, dtype=like.dtype, device=like.device)[chains],
            scales=like.new_tensor([s.scale for _, s in table])[chains],
            appearance_changed=torch.tensor(changed, dtype=torch.bool, device=like.device)[chains],
        )

    def tracks(self, ids: Tensor | Sequence[int], times: Sequence[float] | Tensor) -> Tensor:
        """Centres of the rows `ids` [n] at `times` [T]: [T, n, 3]."""
        rows = torch.as_tensor(ids, device=self.labels.device, dtype=torch.int64)
        return torch.stack([self.at(t).means[rows] for t in times])

    def bake_scene(self, times: Sequence[float] | None = None) -> Scene4D:
        """A plain scene that shows the same: exact, or sampled at `times`, see `scene4d.edits.baking`."""
        from scene4d.edits.baking import bake_scene  # not at the top: it needs this module

        return bake_scene(self, times)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> EditedScene:
        """The same edits of a copy of the fitted scene on `device`, floating tensors in `dtype`."""
        return EditedScene(self.source.to(device, dtype), self.stack, self.assets)


def _apply(state: State, operation: Operation, k: int, assets: Mapping[str, Scene4D | Lut]) -> tuple[State, str]:
    try:
        return applied(state, operation, assets)
    except ValueError as e:
        raise ValueError(f"edit {k + 1} ({operation.kind}): {e}") from e


def _number(t: Time) -> float:
    """Raises ValueError unless t is one finite number."""
    if isinstance(t, torch.Tensor) and t.ndim:
        raise ValueError(f"t must be one number for an edited scene, got shape {list(t.shape)}")
    time = float(t)
    if not np.isfinite(time):
        raise ValueError(f"t must be finite, got {time}")
    return time
