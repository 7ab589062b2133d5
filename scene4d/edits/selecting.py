"""Which rows of a state a selection chooses.

N' rows of the edited scene, T times, V views, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from renderers.spherical_harmonics import C0
from scene4d.edits.evaluating import Evaluator
from scene4d.edits.lifting import KNOWN, VISIBLE, lifted, mask_tensor, of_neighbours, shape_mask, view_cameras
from scene4d.edits.selections import (
    All,
    Box,
    Flood,
    Grow,
    Instance,
    Intersect,
    Invert,
    Label,
    Masks,
    Moving,
    Named,
    Rows,
    Screen,
    Selection,
    Shrink,
    Sphere,
    Subtract,
    Union,
)
from scene4d.edits.state import Place, State, Warp

MOTION_TIMES = 17  # at which motion is looked at
PATH_FRAMES = 3  # times of masks at which neighbours are near: things that pass each other are apart at others
MOTION_SHARE = 0.01  # of the scene's size, beyond which something moves
SPACING_FACTOR = 3.0  # median distances of nearest neighbours that a flood jumps over


@torch.no_grad()
def selected(state: State, select: Selection) -> Tensor:
    """The rows that a selection chooses in a state: bool [N'].

    Raises:
        ValueError: an instance, a label, a row or a name is not there.
    """
    return _SELECT[type(select)](state, select)


def _at(state: State, t: float) -> Tensor:
    """Centres [N', 3] at t."""
    return Evaluator(state).at(t).means


def _all(state: State, select: All) -> Tensor:
    return torch.ones(len(state), dtype=torch.bool, device=state.parents.device)


def _ids(name: str) -> Callable[[State, Any], Tensor]:
    def choose(state: State, select: Instance | Label) -> Tensor:
        values = getattr(state, f"{name}s")
        known = values.unique().tolist()
        missing = [k for k in select.ids if k not in known]
        if missing:
            shown = f"{known[:12]}".rstrip("]") + (", ...]" if len(known) > 12 else "]")
            raise ValueError(f"{name} must be one of {shown}, got {missing[0]}")
        return torch.isin(values, torch.tensor(select.ids, dtype=values.dtype, device=values.device))

    return choose


def _moving(state: State, select: Moving) -> Tensor:
    paths = motion_paths(state)
    distance = scene_size(paths[0]) * MOTION_SHARE if select.distance is None else select.distance
    return (paths - paths[0]).norm(dim=-1).amax(0) > distance


def _box(state: State, select: Box) -> Tensor:
    means = _at(state, select.time)
    return ((means >= means.new_tensor(select.low)) & (means <= means.new_tensor(select.high))).all(1)


def _sphere(state: State, select: Sphere) -> Tensor:
    means = _at(state, select.time)
    return (means - means.new_tensor(select.center)).norm(dim=1) <= select.radius


def _rows(state: State, select: Rows) -> Tensor:
    mask = torch.zeros(len(state), dtype=torch.bool, device=state.parents.device)
    for first, count in select.runs:
        if first + count > len(state):
            raise ValueError(f"rows must be below {len(state)}, got {first} to {first + count - 1}")
        mask[first : first + count] = True
    return mask


def _screen(state: State, select: Screen) -> Tensor:
    gaussians = Evaluator(state).at(select.view.time)
    mask = shape_mask(select)
    cameras = view_cameras(select.view, gaussians.means)
    if not select.through:
        found = lifted([gaussians], [cameras], [mask])
        return (found.share > 0.5) & (found.visible >= VISIBLE)
    local = gaussians.means @ cameras.world_to_cam[0, :3, :3].T + cameras.world_to_cam[0, :3, 3]
    seen = local @ cameras.K[0].T
    pixels = seen[:, :2] / seen[:, 2:].clamp_min(1e-9)
    H, W = mask.shape
    column, row = pixels.clamp(-1, max(H, W) + 1).floor().long().unbind(-1)
    inside = (local[:, 2] > 0) & (column >= 0) & (column < W) & (row >= 0) & (row < H)
    return inside & mask.to(inside.device)[row.clamp(0, H - 1), column.clamp(0, W - 1)]


def _masks(state: State, select: Masks) -> Tensor:
    evaluator = Evaluator(state)
    frames = [evaluator.at(mask.view.time) for mask in select.masks]
    cameras = [view_cameras(mask.view, frames[0].means) for mask in select.masks]
    found = lifted(frames, cameras, [mask_tensor(mask) for mask in select.masks])
    places = torch.cat([frame.means for frame in frames[:PATH_FRAMES]], 1)
    return of_neighbours(places, found.visible >= KNOWN, (found.share > select.share).int()) > 0


def _flood(state: State, select: Flood) -> Tensor:
    """Breadth first over the graph of near neighbours that look and move alike."""
    seed = selected(state, select.seed)
    if not len(state):
        return seed
    now = Evaluator(state).at(select.time)
    points = now.means.double().cpu().numpy()
    count = min(select.neighbours + 1, len(points))
    distances, near = KDTree(points).query(points, k=count)
    distances, near = distances.reshape(len(points), -1), near.reshape(len(points), -1)
    reach = select.distance
    if reach is None:
        reach = SPACING_FACTOR * float(np.median(distances[:, min(1, count - 1)]))
    assert now.sh is not None
    colors = (C0 * now.sh[:, 0] + 0.5).double().cpu().numpy()
    alike = (distances <= reach) & (np.abs(colors[near] - colors[:, None]).max(-1) <= select.color)
    paths = motion_paths(state)
    limit = MOTION_SHARE * scene_size(paths[0]) if select.motion is None else select.motion
    for frame in paths.double().cpu().numpy():
        apart = np.linalg.norm(frame[near] - frame[:, None], axis=-1)
        alike &= np.abs(apart - distances) <= limit
    reached, edge = seed.cpu().numpy().copy(), seed.cpu().numpy()
    while edge.any():
        fresh = np.zeros_like(reached)
        fresh[near[edge][alike[edge]]] = True
        edge = fresh & ~reached
        reached |= edge
    return torch.from_numpy(reached).to(seed.device)


def _grow(state: State, select: Grow) -> Tensor:
    return _grown(state, selected(state, select.of), select.distance, select.time)


def _shrink(state: State, select: Shrink) -> Tensor:
    return ~_grown(state, ~selected(state, select.of), select.distance, select.time)


def _grown(state: State, mask: Tensor, distance: float, time: float) -> Tensor:
    if not bool(mask.any()) or bool(mask.all()):
        return mask
    points = _at(state, time).double().cpu().numpy()
    chosen = mask.cpu().numpy()
    away, _ = KDTree(points[chosen]).query(points[~chosen], distance_upper_bound=np.nextafter(distance, np.inf))
    grown = chosen.copy()
    grown[~chosen] = away <= distance
    return torch.from_numpy(grown).to(mask.device)


def _union(state: State, select: Union) -> Tensor:
    return reduce(torch.logical_or, [selected(state, part) for part in select.of])


def _intersect(state: State, select: Intersect) -> Tensor:
    return reduce(torch.logical_and, [selected(state, part) for part in select.of])


def _subtract(state: State, select: Subtract) -> Tensor:
    first, *others = (selected(state, part) for part in select.of)
    return reduce(lambda mask, other: mask & ~other, others, first)


def _invert(state: State, select: Invert) -> Tensor:
    return ~selected(state, select.of)


def _named(state: State, select: Named) -> Tensor:
    if select.name not in state.named:
        known = ", ".join(state.named) or "none is named"
        raise ValueError(f"name must be one of the named selections ({known}), got {select.name!r}")
    return state.named[select.name]


_SELECT: dict[type[Selection], Callable[[State, Any], Tensor]] = {
    All: _all,
    Instance: _ids("instance"),
    Label: _ids("label"),
    Moving: _moving,
    Box: _box,
    Sphere: _sphere,
    Rows: _rows,
    Screen: _screen,
    Masks: _masks,
    Flood: _flood,
    Grow: _grow,
    Shrink: _shrink,
    Union: _union,
    Intersect: _intersect,
    Subtract: _subtract,
    Invert: _invert,
    Named: _named,
}


# -- motion ------------------------------------------------------------------------------------------------------------


def motion_paths(state: State) -> Tensor:
    """Centres [T, N', 3] at MOTION_TIMES even times over the scene's range."""
    first, last = time_range(state)
    evaluator = Evaluator(state)
    count = MOTION_TIMES if last > first else 1
    return torch.stack([evaluator.at(t).means for t in np.linspace(first, last, count).tolist()])


def time_range(state: State) -> tuple[float, float]:
    """Seconds from the first knot, edge of a window, reference time or key of an edit to the last; 0 to 1 if none."""
    times: list[float] = []
    for scene in state.sources:
        tensors = [scene.t_on, scene.t_off, None if scene.rig is None else scene.rig.knot_times]
        if scene.residuals is not None and scene.residuals.shape[1]:
            tensors.append(scene.t_ref)
        for tensor in tensors:
            if tensor is not None and bool(tensor.isfinite().any()):
                finite = tensor[tensor.isfinite()]
                times += [float(finite.min()), float(finite.max())]
    for chain in state.effects:
        for effect in chain:
            if isinstance(effect, Place):
                times += [key.time for key in effect.placement.keys] if len(effect.placement.keys) > 1 else []
            elif isinstance(effect, Warp):
                times += effect.clock.times if len(effect.clock.times) > 1 else ()
    return (min(times), max(times)) if times and max(times) > min(times) else (0.0, 1.0)


def scene_size(points: Tensor) -> float:
    """Diagonal of the box that holds the middle 98 % of points [N', 3] along each axis."""
    if not len(points):
        return 0.0
    values = points.double().cpu().numpy()
    low, high = np.quantile(values, [0.01, 0.99], axis=0)
    return float(np.linalg.norm(high - low))
