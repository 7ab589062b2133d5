"""Reading a benchmark folder and the results of an editor on it (docs/benchmark.md).

DIR/benchmark.json        names of the items
DIR/sources/S/            a capture: pictures, cameras, depth, masks
DIR/items/NAME/           item.json, camera_path.json, geometry.npz, truth/, roles/, ignore/, ids/, stale/ and others
RESULTS/NAME/00000.png    what an editor made of it

T frames, H W pixels, R revisits.
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scene4d.errors import InputError
from scene4d.files.atomic import read_json
from scene4d.files.images import read_png
from scene4d.metrics.region_types import ASSET, RegionClip, Revisit
from scene4d.path_files import load_path

FORMAT, ITEM_FORMAT, VERSION = "scene4d-benchmark", "scene4d-benchmark-item", 1
KINDS = ("camera", "move", "remove", "insert", "duplicate", "retime")
MAGNITUDES = ("small", "medium", "large")
ORIGINS = ("world", "pseudo-removal", "pseudo-move")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
MAX_FRAMES, MAX_SIDE = 10_000, 16_384
MAX_GEOMETRY = 1 << 33  # bytes that geometry.npz may unpack to


@dataclass(frozen=True)
class Item:
    """One edit of one source, as item.json says. Raises ValueError."""

    folder: Path
    name: str
    scene: str  # items of one scene are not independent of each other
    kind: str
    magnitude: str
    origin: str
    instruction: str
    source: Path  # a capture folder
    frames: int
    width: int
    height: int
    fps: float
    times: tuple[float, ...]  # seconds of the scene, one a frame
    edit: tuple[dict[str, Any], ...]
    edited_instances: tuple[int, ...] = ()
    revisits: tuple[tuple[int, int], ...] = ()  # frame, and an earlier one at the same place: (earlier, later)
    band: int = 3

    def __post_init__(self) -> None:
        for name, allowed in (("kind", KINDS), ("magnitude", MAGNITUDES), ("origin", ORIGINS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("name", "scene"):
            if not isinstance(getattr(self, name), str) or not NAME.fullmatch(getattr(self, name)):
                raise ValueError(f"{name} must be letters, digits and ._-, got {str(getattr(self, name))[:40]!r}")
        for name, most in (("frames", MAX_FRAMES), ("width", MAX_SIDE), ("height", MAX_SIDE)):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise ValueError(f"{name} must be a whole number from 1 to {most}, got {str(value)[:40]}")
        if len(self.times) != self.frames:
            raise ValueError(f"times must be {self.frames} numbers, got {len(self.times)}")
        for pair in self.revisits:
            if not 0 <= pair[0] < pair[1] < self.frames:
                raise ValueError(f"revisits must be pairs of frames, the earlier first, got {list(pair)}")

    @property
    def size(self) -> tuple[int, int, int]:
        return self.frames, self.height, self.width


@dataclass(frozen=True)
class Benchmark:
    """A benchmark on disk."""

    folder: Path
    name: str
    items: tuple[Item, ...]


def load_benchmark(folder: Path) -> Benchmark:
    """Raises InputError: what is wrong, and where."""
    file = folder / "benchmark.json"
    data = read_json(file)
    if data.get("format") != FORMAT or data.get("version") != VERSION:
        raise InputError(f"{file}: must have format {FORMAT!r} and version {VERSION}")
    names = data.get("items")
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and NAME.fullmatch(n) for n in names):
        raise InputError(f"{file}: items must be a list of names of letters, digits and ._-")
    if len(set(names)) != len(names):
        raise InputError(f"{file}: items must not be named twice")
    return Benchmark(folder, str(data.get("name", folder.name)), tuple(load_item(folder, name) for name in names))


def load_item(benchmark: Path, name: str) -> Item:
    folder = benchmark / "items" / name
    file = folder / "item.json"
    data = read_json(file)
    if data.get("format") != ITEM_FORMAT or data.get("version") != VERSION:
        raise InputError(f"{file}: must have format {ITEM_FORMAT!r} and version {VERSION}")
    if data.get("name") != name:
        raise InputError(f"{file}: name must be that of its folder, got {str(data.get('name'))[:40]!r}")
    try:
        source = (folder / str(data["source"])).resolve()
        if not source.is_relative_to(benchmark.resolve()):
            raise ValueError(f"source must lie in the benchmark, got {data['source']!r}")
        edit = data["edit"]
        if not isinstance(edit, list) or not all(isinstance(e, dict) for e in edit):
            raise ValueError("edit must be a list of objects")
        return Item(
            folder=folder,
            source=source,
            fps=float(data["fps"]),
            times=tuple(float(t) for t in data["times"]),
            edit=tuple(edit),
            edited_instances=tuple(int(i) for i in data.get("edited_instances", ())),
            revisits=tuple((int(a), int(b)) for a, b in data.get("revisits", ())),
            **{k: data[k] for k in ("name", "scene", "kind", "magnitude", "origin", "instruction")},
            **{k: data[k] for k in ("frames", "width", "height", "band")},
        )
    except KeyError as e:
        raise InputError(f"{file}: {e} is missing") from e
    except (TypeError, ValueError, OSError) as e:
        raise InputError(f"{file}: {' '.join(str(e).split())[:160]}") from e


def load_clip(item: Item, results: Path) -> RegionClip:
    """The frames RESULTS/NAME/ of an item with everything that they are measured by. Raises InputError."""
    output = read_frames(results / item.name, item, 3)
    truth = _frames_of(item, "truth")
    cue = _frames_of(item, "cue") if truth is None else None
    trusted = _masks_of(item, "trusted") if cue is not None else None
    roles = read_frames(item.folder / "roles", item, 1)
    if int(roles.max()) > ASSET:
        raise InputError(f"{item.folder / 'roles'}: values must be 0 to {ASSET}, got {int(roles.max())}")
    ignore = _masks_of(item, "ignore")
    ids = read_frames(item.folder / "ids", item, 1) if (item.folder / "ids").is_dir() else None
    geometry = _geometry(item)
    revisits = [
        Revisit(a, b, geometry["revisit_flow"][k], geometry["revisit_visible"][k])
        for k, (a, b) in enumerate(item.revisits)
    ]
    return RegionClip(
        output=output,
        reference=cue if truth is None else truth,
        exact=truth is not None,
        trusted=trusted,
        roles=roles,
        scored=torch.ones(item.size, dtype=torch.bool) if ignore is None else ~ignore,
        ids=ids,
        depth=geometry.get("depth"),
        flow=geometry.get("flow"),
        visible=geometry.get("visible"),
        stale=_frames_of(item, "stale"),
        revisits=tuple(revisits),
        K=_intrinsics(item),
        edited_ids=item.edited_instances,
    )


def result_items(benchmark: Benchmark, results: Path) -> tuple[list[Item], list[str]]:
    """The items that a folder of results has, and the names of those that it lacks. Raises InputError: it has none."""
    if not results.is_dir():
        raise InputError(f"{results}: is no folder; results are one folder of PNG frames an item")
    there = [item for item in benchmark.items if (results / item.name).is_dir()]
    if not there:
        raise InputError(
            f"{results}: has no folder {benchmark.items[0].name} nor any other of {benchmark.folder}'s items"
        )
    names = {item.name for item in there}
    return there, [item.name for item in benchmark.items if item.name not in names]


def read_frames(folder: Path, item: Item, channels: int) -> Tensor:
    """uint8 [T, H, W, 3] or [T, H, W] of the PNG files 00000.png ... in a folder. Raises InputError."""
    paths = sorted(folder.glob("*.png"))
    wanted = [f"{t:05d}.png" for t in range(item.frames)]
    if [p.name for p in paths] != wanted:
        missing = [name for name in wanted if not (folder / name).is_file()]
        what = f"lacks {missing[0]}" if missing else f"has {len(paths)} PNG files"
        raise InputError(f"{folder}: {what}; {item.frames} frames are needed, 00000.png to {wanted[-1]}")
    shape = (item.height, item.width, 3) if channels == 3 else (item.height, item.width)
    frames = torch.empty((item.frames, *shape), dtype=torch.uint8)
    for t, path in enumerate(paths):
        image = read_png(path)
        if image.dtype != np.uint8 or (image.ndim == 3) != (channels == 3):
            raise InputError(f"{path}: must have 8 bits and {channels} channels, has {image.dtype} {list(image.shape)}")
        if image.shape != shape:
            size = f"{image.shape[1]}x{image.shape[0]}"
            raise InputError(f"{path}: is {size}, the item is {item.width}x{item.height}; frames are not resized here")
        frames[t] = torch.from_numpy(np.ascontiguousarray(image))
    return frames


def _frames_of(item: Item, name: str) -> Tensor | None:
    return read_frames(item.folder / name, item, 3) if (item.folder / name).is_dir() else None


def _masks_of(item: Item, name: str) -> Tensor | None:
    return read_frames(item.folder / name, item, 1) > 0 if (item.folder / name).is_dir() else None


def _intrinsics(item: Item) -> Tensor | None:
    file = item.folder / "camera_path.json"
    if not file.exists():
        return None
    path = load_path(file)
    if len(path) != item.frames or (path.width, path.height) != (item.width, item.height):
        raise InputError(f"{file}: must have {item.frames} key frames of {item.width}x{item.height}, one a frame")
    return path.K


def _geometry(item: Item) -> dict[str, Tensor]:
    """Arrays of geometry.npz, checked; flows as float32. Raises InputError."""
    file = item.folder / "geometry.npz"
    T, H, W = item.size
    R = len(item.revisits)
    known = {
        "depth": ((T, H, W), np.floating),
        "flow": ((T, H, W, 2), np.floating),
        "visible": ((T, H, W), np.bool_),
        "revisit_flow": ((R, H, W, 2), np.floating),
        "revisit_visible": ((R, H, W), np.bool_),
    }
    found: dict[str, Tensor] = {}
    if file.exists():
        for name, array in _arrays(file).items():
            if name not in known:
                continue
            shape, kind = known[name]
            if array.shape != shape or not np.issubdtype(array.dtype, kind):
                raise InputError(
                    f"{file}: {name} must be {kind.__name__} {list(shape)}, is {array.dtype} {array.shape}"
                )
            if kind is np.floating and not np.isfinite(array).all():
                raise InputError(f"{file}: {name} must be finite")
            found[name] = torch.from_numpy(array if kind is np.bool_ else array.astype(np.float32))
    lacking = {"flow", "visible"} - set(found) if {"flow", "visible"} & set(found) else set()
    lacking |= {"revisit_flow", "revisit_visible"} - set(found) if R else set()
    if lacking:
        raise InputError(f"{file}: lacks {', '.join(sorted(lacking))}")
    return found


def _arrays(file: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(file) as archive:  # before anything is unpacked
            if sum(entry.file_size for entry in archive.infolist()) > MAX_GEOMETRY:
                raise InputError(f"{file}: unpacks to more than {MAX_GEOMETRY} bytes")
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as e:
        if isinstance(e, InputError):
            raise
        raise InputError(f"{file}: is no readable .npz: {str(e)[:100]}") from e
