"""Masks of some frames as instances of the whole scene.

Each view is rendered once with a feature channel for each id; the backward pass with the masks as upstream gradient
gives every Gaussian its blending weight in the pixels of each id (`scene4d.edits.lifting`). Over the views these votes
are summed and the id with the most wins. Gaussians that no view shows well take the id of neighbours with like paths,
layer by layer; what no neighbour reaches is background.
Handles that serve several instances are split, so that each can be edited by itself: the scene looks and moves as
before.

N Gaussians, K ids, J handles, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from renderers import Cameras
from scene4d.channels import MAX_FEATURES, render_channels
from scene4d.edits.lifting import footprint, label_votes, of_neighbours
from scene4d.rig import PER_KNOT, Rig
from scene4d.scene import Scene4D

BACKGROUND_WEIGHT = 3 / 7  # of its votes: a thing wins with 0.3 of the weight, as in `selections.Masks`
SHOWN = 0.2  # share of what a Gaussian would show alone, from which it is known by its votes
PATH_TIMES = 3  # at which paths are compared


@dataclass(frozen=True, eq=False)
class MaskedView:
    """Ids of a picture's pixels."""

    cameras: Cameras  # one
    time: float
    ids: Tensor  # [H, W] int32, 0 = background, negative = unknown


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What `segment` found."""

    scene: Scene4D
    ids: tuple[int, ...]  # of the masks
    counts: dict[int, int]  # Gaussians of each id
    unseen: int  # Gaussians that no view shows well
    handles: tuple[int, int]  # before and after


@torch.no_grad()
def segment(
    scene: Scene4D, views: Iterable[MaskedView], backend: str = "auto", progress: Callable[[int], None] | None = None
) -> Segmentation:
    """The scene with the instances that the masks show.

    Raises ValueError: there are no views, or the masks hold nothing but unknown.
    """
    votes: dict[int, Tensor] = {}
    visible = torch.zeros_like(scene.logit_opacities)
    times = []
    for done, view in enumerate(views, start=1):
        found, shown = _view_votes(scene, view, backend)
        for instance, weight in found.items():
            votes[instance] = votes[instance] + weight if instance in votes else weight
        visible = torch.maximum(visible, shown)
        times.append(view.time)
        if progress:
            progress(done)
    if not votes:
        raise ValueError("views must hold at least one mask, got none")
    ids = sorted(votes)
    table = torch.stack([votes[k] * (BACKGROUND_WEIGHT if k == 0 else 1.0) for k in ids], 1)  # [N, K]
    seen = visible >= SHOWN
    paths = torch.cat([scene.at(t).means for t in np.linspace(min(times), max(times), PATH_TIMES).tolist()], 1)
    numbers = torch.tensor(ids, dtype=torch.int32, device=table.device)
    instances = of_neighbours(paths, seen, numbers[table.argmax(1)])
    after = split_handles(scene, instances)
    counts = {k: int((instances == k).sum()) for k in ids}
    handles = tuple(0 if s.rig is None else len(s.rig) for s in (scene, after))
    return Segmentation(after, tuple(ids), counts, int((~seen).sum()), handles)  # type: ignore[arg-type]


def _view_votes(scene: Scene4D, view: MaskedView, backend: str) -> tuple[dict[int, Tensor], Tensor]:
    """Blending weights [N] of each id that the picture shows, and how much of each Gaussian it shows [N]."""
    like = scene.means
    cameras = Cameras(
        view.cameras.world_to_cam.to(like), view.cameras.K.to(like), view.cameras.width, view.cameras.height
    )
    ids = view.ids.to(like.device)
    known = [k for k in ids.unique().tolist() if k >= 0]
    found, gaussians = {}, scene.at(view.time)
    for start in range(0, len(known), MAX_FEATURES):
        part = known[start : start + MAX_FEATURES]
        places = torch.full_like(ids, -1)
        for column, k in enumerate(part):
            places[ids == k] = column
        weights = label_votes(gaussians, cameras, places, len(part), backend)
        found |= {k: weights[:, column] for column, k in enumerate(part)}
    total = sum(found.values(), torch.zeros_like(gaussians.logit_opacities))
    return found, total / footprint(gaussians, cameras)


def split_handles(scene: Scene4D, instances: Tensor) -> Scene4D:
    """The scene with other instances [N] int32, in which every handle serves one: those that served several are copied
    with all that they follow, those that serve none are dropped. The scene looks and moves as before."""
    if scene.rig is None or scene.handle_ids is None:
        return replace(scene, instances=instances)
    rig, slots = scene.rig, scene.handle_ids.long()
    known = instances.unique()
    place = torch.searchsorted(known, instances)  # [N] column of each row's instance
    used = torch.zeros(len(rig), len(known), dtype=torch.bool, device=slots.device)
    rows, _ = (slots >= 0).nonzero(as_tuple=True)
    used[slots[slots >= 0], place[rows]] = True
    for j in range(len(rig) - 1, -1, -1):  # parents stand before their children
        if int(rig.parents[j]) >= 0:
            used[int(rig.parents[j])] |= used[j]
    old, column = used.nonzero(as_tuple=True)  # by handle, then instance: parents stay first
    if not len(old):
        return replace(scene, instances=instances, rig=None, handle_ids=None, handle_logits=None)
    new_id = torch.full(used.shape, -1, dtype=torch.int64, device=slots.device)
    new_id[old, column] = torch.arange(len(old), device=slots.device)
    ids = torch.where(slots >= 0, new_id[slots.clamp_min(0), place[:, None]], -1)
    return replace(scene, instances=instances, rig=_picked_rig(rig, old, column, new_id, known), handle_ids=ids.int())


def _picked_rig(rig: Rig, old: Tensor, column: Tensor, new_id: Tensor, known: Tensor) -> Rig:
    counts = rig.knot_counts.long()[old]
    within = torch.arange(int(counts.sum()), device=old.device) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    knots = rig.first_knots[old].repeat_interleave(counts) + within
    taken = {f.name: getattr(rig, f.name)[knots if f.name in PER_KNOT else old] for f in fields(rig)}
    parents = rig.parents.long()[old]
    taken["parents"] = torch.where(parents >= 0, new_id[parents.clamp_min(0), column], -1).int()
    taken["instances"] = known[column].int()
    return Rig(**taken)


@torch.no_grad()
def mask_agreement(scene: Scene4D, views: Iterable[MaskedView], backend: str = "auto") -> dict[int, float]:
    """Intersection over union of the rendered ids and the masks', over all pixels of the views that are known."""
    both: dict[int, int] = {}
    either: dict[int, int] = {}
    for view in views:
        shown = render_channels(scene, view.cameras, view.time, ("id",), backend=backend)["id"][0].cpu()
        ids = view.ids.cpu()
        known = ids >= 0
        for k in ids[known].unique().tolist():
            a, b = (shown == k) & known, (ids == k) & known
            both[k] = both.get(k, 0) + int((a & b).sum())
            either[k] = either.get(k, 0) + int((a | b).sum())
    return {k: both[k] / max(either[k], 1) for k in sorted(either)}
