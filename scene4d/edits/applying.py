"""What each operation does to a state, and the line that tells it. Numbers at a time: `scene4d.edits.evaluating`.

N' rows of the edited scene.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scene4d.edits.clocks import TimeMap
from scene4d.edits.colours import Lut, colour_matrix
from scene4d.edits.evaluating import Evaluator
from scene4d.edits.operations import (
    Duplicate,
    Fade,
    Insert,
    Operation,
    Recolour,
    Remove,
    Retime,
    Select,
    StorePath,
    Transform,
    Trim,
)
from scene4d.edits.placements import CENTER, Placement
from scene4d.edits.selecting import selected
from scene4d.edits.selections import Selection
from scene4d.edits.state import Colour, Opacity, Place, State, Warp, affected, joined, picked
from scene4d.scene import Scene4D

Assets = Mapping[str, Any]  # sha256 -> Scene4D or Lut
CENTER_ROWS = 512  # evenly chosen rows whose mean is the centre that a pivot follows


def applied(state: State, operation: Operation, assets: Assets) -> tuple[State, str]:
    """The state after an operation, and what it changed in words.

    Raises:
        ValueError: nothing is selected, an instance or a name is not there or is not new, an asset is missing.
    """
    return _APPLY[type(operation)](state, operation, assets)


def _chosen(state: State, select: Selection) -> Tensor:
    """bool [N']. Raises ValueError where nothing is selected."""
    mask = selected(state, select)
    if not bool(mask.any()):
        raise ValueError(f"select must choose something, got none of {len(state)} Gaussians")
    return mask


def _what(state: State, mask: Tensor) -> str:
    """The chosen rows in words."""
    count, of = int(mask.sum()), state.instances[mask].unique().tolist()
    names = ", ".join("the background" if k == 0 else str(k) for k in of[:6]) + (", ..." if len(of) > 6 else "")
    plain = "the background" if of == [0] else f"instance{'s' if len(of) > 1 else ''} {names}"
    return f"{count:,} Gaussian{'s' if count != 1 else ''} of {plain}"


def _transform(state: State, operation: Transform, assets: Assets) -> tuple[State, str]:
    mask = _chosen(state, operation.select)
    after = affected(state, mask, _place(state, mask, operation.placement))
    return after, f"placed {_what(state, mask)}: {told(operation.placement)}"


def _remove(state: State, operation: Remove, assets: Assets) -> tuple[State, str]:
    mask = _chosen(state, operation.select)
    return picked(state, (~mask).nonzero()[:, 0]), f"removed {_what(state, mask)}; {int((~mask).sum()):,} stay"


def _duplicate(state: State, operation: Duplicate, assets: Assets) -> tuple[State, str]:
    mask = _chosen(state, operation.select)
    _check_new(state, operation.instance)
    copy = picked(state, mask.nonzero()[:, 0])
    copy = replace(copy, instances=torch.full_like(copy.instances, operation.instance))
    if operation.placement.keys:
        everything = torch.ones(len(copy), dtype=torch.bool, device=mask.device)
        copy = affected(copy, everything, _place(copy, everything, operation.placement))
    how = f", {told(operation.placement)}" if operation.placement.keys else ""
    return joined(state, copy), f"copied {_what(state, mask)} as instance {operation.instance}{how}"


def _insert(state: State, operation: Insert, assets: Assets) -> tuple[State, str]:
    scene = assets.get(operation.asset)
    if not isinstance(scene, Scene4D):
        raise ValueError(f"asset must be a scene of the project, got {operation.asset[:12]}..., which is not there")
    _check_new(state, operation.instance)
    like = state.sources[0].means
    N, device = len(scene), like.device
    rows = torch.arange(N, device=device)
    new = replace(
        state,
        sources=(*state.sources, scene.to(like.device, like.dtype)),
        origins=torch.full_like(rows, len(state.sources)),
        parents=rows,
        chains=torch.zeros_like(rows),
        effects=((),),
        labels=_labels(scene, operation.label).to(device),
        instances=torch.full_like(rows, operation.instance).int(),
        named={},
    )
    everything = torch.ones(N, dtype=torch.bool, device=device)
    if operation.clock is not None:
        new = affected(new, everything, Warp(operation.clock))
    if operation.placement.keys:
        new = affected(new, everything, _place(new, everything, operation.placement))
    return joined(state, new), f"inserted {N:,} Gaussians of {operation.name} as instance {operation.instance}"


def _labels(scene: Scene4D, label: int | None) -> Tensor:
    return scene.labels if label is None else torch.full_like(scene.labels, label)


def _retime(state: State, operation: Retime, assets: Assets) -> tuple[State, str]:
    mask = _chosen(state, operation.select)
    return affected(state, mask, Warp(operation.clock)), f"retimed {_what(state, mask)}: {clock_told(operation.clock)}"


def _recolour(state: State, operation: Recolour, assets: Assets) -> tuple[State, str]:
    mask = _chosen(state, operation.select)
    lut = None if operation.lut is None else assets.get(operation.lut)
    if operation.lut is not None and not isinstance(lut, Lut):
        raise ValueError(f"lut must be a table of the project, got {operation.lut[:12]}..., which is not there")
    matrix = colour_matrix(operation.gain, operation.hue, operation.saturation)
    effect = Colour(matrix, operation.offset, lut, operation.lut_amount)
    return affected(state, mask, effect), f"recoloured {_what(state, mask)}"


def _fade(state: State, operation: Fade, assets: Assets) -> tuple[State, str]:
    mask = _chosen(state, operation.select)
    points = ", ".join(f"{f:g} at {t:g} s" for t, f in zip(operation.times, operation.factors, strict=True))
    return affected(state, mask, Opacity(operation.times, operation.factors)), f"faded {_what(state, mask)}: {points}"


def _trim(state: State, operation: Trim, assets: Assets) -> tuple[State, str]:
    mask = _chosen(state, operation.select)
    start = -np.inf if operation.start is None else operation.start
    end = np.inf if operation.end is None else operation.end
    effect = Opacity((start, end), (1.0, 1.0), step=True)
    return affected(state, mask, effect), f"shows {_what(state, mask)} from {start:g} to {end:g} s only"


def _select(state: State, operation: Select, assets: Assets) -> tuple[State, str]:
    mask = _chosen(state, operation.select)
    after = replace(state, named={**state.named, operation.name: mask})
    return after, f"{operation.name!r} is {_what(state, mask)}"


def _store_path(state: State, operation: StorePath, assets: Assets) -> tuple[State, str]:
    path = operation.camera_path()
    after = replace(state, paths={**state.paths, operation.name: path})
    return after, f"stored camera path {operation.name!r}: {len(path)} keys, {path.duration:g} s"


_APPLY: dict[type[Operation], Any] = {
    Transform: _transform,
    Remove: _remove,
    Duplicate: _duplicate,
    Insert: _insert,
    Retime: _retime,
    Recolour: _recolour,
    Fade: _fade,
    Trim: _trim,
    Select: _select,
    StorePath: _store_path,
}


def _check_new(state: State, instance: int) -> None:
    known = state.instances.unique().tolist()
    if instance in known:
        raise ValueError(f"instance must be new, got {instance}; the scene has {known[:12]}")


def _place(state: State, mask: Tensor, placement: Placement) -> Place:
    if not placement.needs_center:
        return Place(placement)
    rows = mask.nonzero()[:, 0]
    some = rows[torch.linspace(0, len(rows) - 1, min(len(rows), CENTER_ROWS), device=rows.device).long()]
    evaluator = Evaluator(picked(state, some))

    @lru_cache(maxsize=64)
    @torch.no_grad()
    def center(t: float) -> np.ndarray:
        return evaluator.at(t).means.double().mean(0).cpu().numpy()

    return Place(placement, center)


def told(placement: Placement) -> str:
    """A placement in words."""
    key = placement.keys[-1]
    parts = []
    if any(key.move):
        parts.append(f"moved by ({', '.join(f'{x:g}' for x in key.move)})")
    if any(key.turn[1:]):
        length = sum(x * x for x in key.turn) ** 0.5
        parts.append(f"turned by {np.degrees(2 * np.arccos(min(abs(key.turn[0]) / length, 1.0))):.4g} degrees")
    if key.scale != 1:
        parts.append(f"scaled by {key.scale:g}")
    about = " about its centre" if placement.pivot == CENTER and placement.needs_center else ""
    along = f", along {len(placement.keys)} keys" if len(placement.keys) > 1 else ""
    return (", ".join(parts) or "left where it is") + about + along


def clock_told(clock: TimeMap) -> str:
    """A clock in words."""
    if len(clock.times) == 1:
        return f"stands still at {clock.values[0]:g} s"
    points = ", ".join(f"{v:g} at {t:g}" for t, v in list(zip(clock.times, clock.values, strict=True))[:6])
    more = ", ..." if len(clock.times) > 6 else ""
    return f"{points}{more} s, {clock.ease}, outside {clock.outside}"
