"""Scenes put together, taken apart, named by a hash and turned into named tensors.

N Gaussians, J handles, L knots, M handle slots per Gaussian.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from scene4d.rig import PER_KNOT, Rig
from scene4d.scene import Scene4D, gaussian_tensors

RIG_PREFIX = "rig."


def scene_tensors(scene: Scene4D) -> dict[str, Tensor]:
    """All tensors by name, always in the same order: the fields of `Scene4D`, then "rig." and the fields of `Rig`."""
    rig = scene.rig
    handles = {} if rig is None else {RIG_PREFIX + field.name: getattr(rig, field.name) for field in fields(rig)}
    return gaussian_tensors(scene) | handles


def scene_from_tensors(tensors: Mapping[str, Tensor]) -> Scene4D:
    """The inverse of `scene_tensors`. Raises ValueError on unknown or missing names, and as `Scene4D`."""
    known = {field.name for field in fields(Scene4D)} - {"rig"}
    handles = {RIG_PREFIX + field.name for field in fields(Rig)}
    if unknown := sorted(set(tensors) - known - handles):
        raise ValueError(f"tensors must have names of Scene4D or Rig, got {', '.join(unknown)}")
    given = handles & set(tensors)
    required = {field.name for field in fields(Scene4D)[:7]} | (handles if given else set())
    if missing := sorted(required - set(tensors)):
        raise ValueError(f"tensors must hold {', '.join(missing)}, got none")
    rig = Rig(**{name.removeprefix(RIG_PREFIX): tensors[name] for name in handles}) if given else None
    return Scene4D(rig=rig, **{name: x for name, x in tensors.items() if name in known})


def scene_hash(scene: Scene4D) -> str:
    """sha256 of name, dtype, shape and bytes of every tensor in the order of `scene_tensors`, as hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in scene_tensors(scene).items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def without_unused_handles(scene: Scene4D) -> Scene4D:
    """The scene without the handles that neither a Gaussian nor, through its parents, a kept handle follows."""
    if scene.rig is None or scene.handle_ids is None:
        return scene
    rig, ids = scene.rig, scene.handle_ids.long()
    used = torch.zeros(len(rig), dtype=torch.bool, device=ids.device)
    used[ids[ids >= 0]] = True
    parents = rig.parents.long()
    while bool((up := parents[used & (parents >= 0)]).numel()) and not bool(used[up].all()):
        used[up] = True
    if bool(used.all()):
        return scene
    new_id = torch.where(used, used.cumsum(0) - 1, -1).int()
    if not bool(used.any()):
        return replace(scene, rig=None, handle_ids=None, handle_logits=None)
    return replace(scene, rig=_rig_subset(rig, used, new_id), handle_ids=_remap(scene.handle_ids, new_id))


def concat(scenes: Sequence[Scene4D], keep_instances: bool = False) -> Scene4D:
    """All Gaussians and handles of `scenes` in one scene, in their order.

    Instances stay apart: the ids of each scene are raised above those of the scenes before it, 0 included, unless
    `keep_instances`. Labels stay. A part that only some scenes have is filled with what changes nothing.
    """
    if not scenes:
        raise ValueError("scenes must hold at least one scene, got none")
    offsets = [0]
    for scene in scenes:
        offsets.append(offsets[-1] + (0 if keep_instances else scene.instance_count))
    scenes = [_raise_instances(scene, offset) for scene, offset in zip(scenes, offsets, strict=False)]
    rigs = [scene.rig for scene in scenes if scene.rig is not None]
    handle_offset, parts = 0, []
    for tensors, scene in zip(_aligned(scenes), scenes, strict=True):
        if "handle_ids" in tensors:
            ids = tensors["handle_ids"]
            tensors["handle_ids"] = torch.where(ids >= 0, ids + handle_offset, ids)
        handle_offset += 0 if scene.rig is None else len(scene.rig)
        parts.append(tensors)
    joined = {name: torch.cat([tensors[name] for tensors in parts]) for name in parts[0]}
    return Scene4D(rig=_join_rigs(rigs) if rigs else None, **joined)


def _raise_instances(scene: Scene4D, offset: int) -> Scene4D:
    rig = scene.rig and replace(scene.rig, instances=scene.rig.instances + offset)
    return replace(scene, rig=rig, instances=scene.instances + offset)


def _aligned(scenes: Sequence[Scene4D]) -> list[dict[str, Tensor]]:
    """Tensors per Gaussian of every scene with the same names and widths."""
    given = [gaussian_tensors(scene) for scene in scenes]
    names = [field.name for field in fields(Scene4D) if any(field.name in tensors for tensors in given)]
    fill = {"handle_ids": -1, "t_on": -torch.inf, "t_off": torch.inf}
    aligned: list[dict[str, Tensor]] = [{} for _ in scenes]
    for name in names:
        example = next(tensors[name] for tensors in given if name in tensors)
        width = max(tensors[name].shape[1] for tensors in given if name in tensors) if example.ndim > 1 else 0
        for tensors, scene, out in zip(given, scenes, aligned, strict=True):
            value = fill.get(name, 0)
            x = tensors[name] if name in tensors else example.new_full((len(scene), *example.shape[1:]), value)
            missing = width - x.shape[1] if example.ndim > 1 else 0
            out[name] = pad(x, (0, 0) * (x.ndim - 2) + (0, missing), value=value) if missing else x
    return aligned


def _join_rigs(rigs: Sequence[Rig]) -> Rig:
    offset, parents = 0, []
    for rig in rigs:
        parents.append(torch.where(rig.parents >= 0, rig.parents + offset, rig.parents))
        offset += len(rig)
    names = [field.name for field in fields(Rig) if field.name != "parents"]
    return Rig(parents=torch.cat(parents), **{name: torch.cat([getattr(rig, name) for rig in rigs]) for name in names})


def _rig_subset(rig: Rig, used: Tensor, new_id: Tensor) -> Rig:
    knots = used.repeat_interleave(rig.knot_counts)
    picked = {field.name: getattr(rig, field.name)[knots if field.name in PER_KNOT else used] for field in fields(rig)}
    picked["parents"] = _remap(rig.parents[used], new_id)
    return Rig(**picked)


def _remap(ids: Tensor, new_id: Tensor) -> Tensor:
    return torch.where(ids >= 0, new_id[ids.clamp_min(0).long()], ids)
