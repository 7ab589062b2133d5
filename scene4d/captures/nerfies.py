"""Nerfies, HyperNeRF and DyCheck: camera/ID.json, metadata.json, dataset.json, rgb/{k}x/ID.png.

`orientation` is world-to-camera in OpenCV axes, `position` the camera's centre; intrinsics are those of the 1x images.
Poses and points.npy stay in the file's own units; `scene.json`'s near and far, which are in normalised units, are
divided by its scale. For DyCheck the file's units are metres. Skew and distortion are rectified away.
Sources: google/nerfies README and nerfies/camera.py; KAIR-BAIR/dycheck docs/DATASETS.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scene4d.captures.assembly import ONE_SECOND, Entry, Notes, Timing, from_entries
from scene4d.captures.capture import Capture
from scene4d.captures.checks import array, frames_per_second, image_size, inside, integer, number, read_npy, read_object
from scene4d.captures.frames import image_header
from scene4d.captures.lens import Lens, checked_lens
from scene4d.captures.point_files import read_points
from scene4d.errors import InputError

FILE = "dataset.json"
MILLIMETRES_FROM = 100.0  # a median depth beyond is millimetres: DyCheck's page says so, its loaders use metres


def detect(root: Path) -> str | None:
    return FILE if (root / FILE).is_file() and (root / "camera").is_dir() else None


def read(root: Path) -> Capture:
    """A capture from a Nerfies folder; without rgb/ it has cameras only. Raises InputError."""
    notes = Notes()
    dataset = read_object(root / FILE)
    metadata = read_object(root / "metadata.json") if (root / "metadata.json").is_file() else {}
    extra = read_object(root / "extra.json") if (root / "extra.json").is_file() else {}
    ids = _ids(dataset.get("ids"), "ids")
    splits = _splits(root, dataset, ids, notes)
    scale = _scale(root, extra, notes)
    entries = [
        _entry(root, item, metadata.get(item, {}), splits.get(item, "unused"), scale, i) for i, item in enumerate(ids)
    ]
    fps = None if extra.get("fps") is None else frames_per_second(extra["fps"], "extra.json: fps")
    last = max((e.time for e in entries), default=0.0)
    if fps is None:
        notes.add(f"{root.name}: no extra.json with fps: time ids are 0 to {last:g}: {ONE_SECOND}")
    frame_of = {e.time: int(e.time) for e in entries}
    timing = Timing(fps or max(1.0, last), depth_scale=_depth_scale(entries), frame_of=frame_of)
    views, tracks = from_entries(entries, timing, root.name, notes)
    return Capture(
        root=root,
        format="nerfies",
        views=views,
        tracks=tracks,
        fps=fps,
        points=read_points(root / "points.npy") if (root / "points.npy").is_file() else None,
        units="m" if (root / "depth").is_dir() or "factor" in extra else "scene units",
        near_far=_near_far(root),
        notes=tuple(notes.lines),
    )


def _ids(value: object, key: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(v, str | int) for v in value):
        raise InputError(f"{FILE}: {key} must be a list of item names")
    return [str(v) for v in value]


def _splits(root: Path, dataset: dict, ids: list[str], notes: Notes) -> dict[str, str]:
    """The split of each item: DyCheck's splits/, else train_ids and val_ids, else every 4th (HyperNeRF's interp)."""
    splits = {}
    for split in ("train", "val"):
        path = root / "splits" / f"{split}.json"
        if path.is_file():
            splits |= dict.fromkeys(_ids(read_object(path).get("frame_names"), f"{path.name}: frame_names"), split)
    if splits:
        return splits
    train, val = _ids(dataset.get("train_ids", []), "train_ids"), _ids(dataset.get("val_ids", []), "val_ids")
    if val:
        return dict.fromkeys(train, "train") | dict.fromkeys(val, "val")
    notes.add(f"{root.name}: no validation ids: items 0, 4, 8, ... train and 2, 6, 10, ... validate (HyperNeRF interp)")
    return dict.fromkeys(ids[::4], "train") | dict.fromkeys(ids[2::4], "val")


def _scale(root: Path, extra: dict, notes: Notes) -> int | None:
    """The k of rgb/{k}x: the one that extra.json evaluates at, else the finest that exists; None without images."""
    folders = [p.name[:-1] for p in (root / "rgb").glob("*x") if p.is_dir()] if (root / "rgb").is_dir() else []
    found = sorted(int(name) for name in folders if name.isdecimal() and 0 < len(name) < 4)
    if not found:
        notes.add(f"{root.name}: no rgb/1x, 2x, ...: cameras only")
        return None
    factor = extra.get("factor")
    if factor is not None and integer(factor, "extra.json: factor", 1, 999) in found:
        return int(factor)
    return found[0]


def _entry(root: Path, item: str, meta: dict, split: str, scale: int | None, index: int) -> Entry:
    path = inside(root, f"camera/{item}.json", FILE)
    if not path.is_file():
        raise InputError(f"{path}: the camera of item {item!r} is missing; copy it, or take the item out of {FILE}")
    lens, pose = read_camera(path)
    files: dict[str, Path | None] = {}
    if scale is not None:
        files["image"] = inside(root, f"rgb/{scale}x/{item}.png", FILE)
        for layer, name in (
            ("depth", f"depth/{scale}x/{item}.npy"),
            ("covisible", f"covisible/{scale}x/val/{item}.png"),
        ):
            extra = inside(root, name, FILE)
            files[layer] = extra if extra.is_file() else None
        if files["image"].is_file():
            lens = _at_size(lens, image_header(files["image"]), scale, str(path.name))
    meta = meta if isinstance(meta, dict) else {}
    time = integer(meta.get("time_id", meta.get("warp_id", index)), f"metadata.json: {item}: time")
    camera = str(meta.get("camera_id", 0))
    return Entry(camera, float(time), files, lens, pose, path.name, split)


def _at_size(lens: Lens, size: tuple[int, int], scale: int, where: str) -> Lens:
    """HyperNeRF's images are not always image_size / k: what is on disk holds."""
    if abs(size[0] * scale - lens.width) > scale or abs(size[1] * scale - lens.height) > scale:
        raise InputError(
            f"{where}: image_size {lens.width}x{lens.height} does not give {size[0]}x{size[1]} at {scale}x: "
            "the images were cropped or resized"
        )
    return lens.scaled_to(*size)


def read_camera(path: Path) -> tuple[Lens, np.ndarray]:
    """The lens and the world-to-camera pose of a camera/ID.json."""
    data, where = read_object(path), path.name
    size = array(data.get("image_size"), (2,), f"{where}: image_size")
    width, height = image_size(float(size[0]), float(size[1]), where)
    focal = number(data.get("focal_length"), f"{where}: focal_length")
    aspect = number(data.get("pixel_aspect_ratio", 1.0), f"{where}: pixel_aspect_ratio", 1e-3, 1e3)
    cx, cy = array(data.get("principal_point"), (2,), f"{where}: principal_point").tolist()
    skew = number(data.get("skew", 0.0), f"{where}: skew")
    k1, k2, k3 = array(data.get("radial_distortion", [0, 0, 0]), (3,), f"{where}: radial_distortion").tolist()
    tangential = data.get("tangential_distortion", data.get("tangential", [0, 0]))  # both spellings are out there
    p1, p2 = array(tangential, (2,), f"{where}: tangential_distortion").tolist()
    params = (k1, k2, p1, p2, k3)
    model = "opencv" if any(params) else "pinhole"
    lens = Lens(width, height, focal, focal * aspect, cx, cy, model, params if any(params) else (), skew)
    pose = np.eye(4)
    pose[:3, :3] = array(data.get("orientation"), (3, 3), f"{where}: orientation")
    pose[:3, 3] = -pose[:3, :3] @ array(data.get("position"), (3,), f"{where}: position")
    return checked_lens(lens, where), pose


def _depth_scale(entries: list[Entry]) -> float:
    """1e-3 where depth files are in millimetres. A few files are looked at."""
    paths = [p for e in entries if (p := e.files.get("depth")) is not None]
    medians = []
    for path in paths[:: max(1, len(paths) // 3)][:3]:
        depth = read_npy(path)
        if (depth > 0).any():
            medians.append(float(np.median(depth[depth > 0])))
    return 1e-3 if medians and np.median(medians) > MILLIMETRES_FROM else 1.0


def _near_far(root: Path) -> tuple[float, float] | None:
    path = root / "scene.json"
    if not path.is_file():
        return None
    scene = read_object(path)
    scale = number(scene.get("scale"), "scene.json: scale", 1e-9, 1e9)
    near, far = (number(scene.get(k), f"scene.json: {k}", 0.0) / scale for k in ("near", "far"))
    return near, far
