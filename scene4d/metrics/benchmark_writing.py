"""Writing items, results and the list of a benchmark. A folder appears whole or not at all.

T frames, H W pixels.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scene4d.errors import InputError
from scene4d.files.atomic import TEMPORARY_SUFFIX, make_folder, sync_folder, write_atomic, write_json
from scene4d.files.images import write_png
from scene4d.metrics.benchmark_items import FORMAT, ITEM_FORMAT, VERSION, Item
from scene4d.metrics.region_borders import ignore_band
from scene4d.metrics.region_types import Frames, Revisit
from scene4d.path_files import save_path
from scene4d.paths import CameraPath


@dataclass(frozen=True, eq=False)
class ItemData:
    """The arrays of an item."""

    truth: Frames | None
    roles: Tensor  # [T, H, W] uint8
    ids: Tensor | None = None  # [T, H, W] integer of 8 bits
    depth: Tensor | None = None  # [T, H, W] float32
    flow: Tensor | None = None  # [T, H, W, 2]
    visible: Tensor | None = None  # [T, H, W] bool
    stale: Frames | None = None
    cue: Frames | None = None
    trusted: Tensor | None = None  # [T, H, W] bool
    revisits: tuple[Revisit, ...] = ()
    path: CameraPath | None = None  # one key frame a frame
    ignore: Tensor | None = None  # [T, H, W] bool, left out beside the band


def write_item(item: Item, data: ItemData, extra: Mapping[str, bytes] | None = None) -> None:
    """Write an item, and `extra` files by name, to its folder, which must not exist. Raises InputError, ValueError."""
    if item.folder.exists():
        raise InputError(f"{item.folder}: is there already")
    part = item.folder.with_name(f".{item.folder.name}{TEMPORARY_SUFFIX}")
    shutil.rmtree(part, ignore_errors=True)
    make_folder(part)
    ignore = ignore_band(data.roles, data.ids, data.depth, item.band)
    if data.ignore is not None:
        ignore |= data.ignore
    layers = {"truth": data.truth, "stale": data.stale, "cue": data.cue, "roles": data.roles, "ids": data.ids}
    masks = {"ignore": ignore, "trusted": data.trusted}
    layers |= {name: None if mask is None else mask.to(torch.uint8) * 255 for name, mask in masks.items()}
    for name, frames in layers.items():
        if frames is not None:
            write_frames(part / name, frames)
    arrays = {name: getattr(data, name) for name in ("depth", "flow", "visible")}
    if data.revisits:
        arrays["revisit_flow"] = torch.stack([r.flow for r in data.revisits])
        arrays["revisit_visible"] = torch.stack([r.visible for r in data.revisits])
    _write_arrays(part / "geometry.npz", {name: array for name, array in arrays.items() if array is not None})
    if data.path is not None:
        save_path(part / "camera_path.json", data.path)
    for name, content in (extra or {}).items():
        write_atomic(part / name, content)
    write_json(part / "item.json", _item_json(item, part))
    part.rename(item.folder)
    sync_folder(item.folder.parent)


def _item_json(item: Item, part: Path) -> dict:
    plain = {f.name: getattr(item, f.name) for f in fields(item) if f.name not in ("folder", "source")}
    lists = {name: list(plain[name]) for name in ("times", "edit", "edited_instances")}
    revisits = [list(pair) for pair in item.revisits]
    source = Path("../..") / item.source.relative_to(part.parents[1])
    head = {"format": ITEM_FORMAT, "version": VERSION}
    return {**head, **plain, **lists, "revisits": revisits, "source": source.as_posix()}


def _write_arrays(path: Path, arrays: Mapping[str, Tensor]) -> None:
    """Flows as float16: a step of 0.06 px at 100 px, far less nearer to 0."""
    if not arrays:
        return
    plain = {n: a.numpy().astype(np.float16) if n.endswith("flow") else a.numpy() for n, a in arrays.items()}
    try:
        np.savez_compressed(path, allow_pickle=False, **plain)
    except OSError as e:
        raise InputError(f"{path}: cannot be written: {e.strerror or e}") from e


def write_frames(folder: Path, frames: Tensor) -> None:
    """00000.png ...: uint8 or float [T, H, W, 3] in [0, 1], or whole numbers [T, H, W] below 256."""
    make_folder(folder)
    for t, frame in enumerate(frames):
        if frame.is_floating_point():
            frame = (frame.clamp(0, 1) * 255.0).round()
        write_png(folder / f"{t:05d}.png", frame.to(torch.uint8).numpy())


def write_results(results: Path, name: str, frames: Frames) -> None:
    """The frames of an item as an editor has to write them."""
    write_frames(results / name, frames)


def write_list(folder: Path, name: str, items: Sequence[str]) -> None:
    write_json(folder / "benchmark.json", {"format": FORMAT, "version": VERSION, "name": name, "items": list(items)})
