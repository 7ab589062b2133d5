"""Our own simplest format: `cameras.json` beside videos or folders of images (docs/captures_formats.md).

Two layouts: {"cameras": [...]}, one object a camera with a video or image folder and one pose or one a frame; and
{"camera": {...}, "frames": [...]}, one moving camera with a file and a pose a frame. Matrices are world-to-camera in
OpenCV axes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from scene4d.captures.assembly import ONE_SECOND, Entry, Notes, Shot, Timing, from_entries, make_views, matched_lens
from scene4d.captures.capture import Capture
from scene4d.captures.checks import (
    array,
    chosen_frames,
    frame_times,
    frames_per_second,
    inside,
    integer,
    number,
    objects,
    read_object,
)
from scene4d.captures.frames import (
    IMAGE_SUFFIXES,
    CameraTrack,
    ImageFiles,
    Layer,
    layer_size,
    list_images,
    natural_key,
    require_files,
)
from scene4d.captures.lens import MODELS, Lens, checked_lens
from scene4d.captures.lens_files import named_lens
from scene4d.captures.point_files import read_points
from scene4d.captures.video import VIDEO_SUFFIXES, scan_video
from scene4d.errors import InputError

FILE = "cameras.json"
VERSION = 1
LENS_KEYS = ("K", "distortion", "f", "fx", "fy", "cx", "cy", "k1")  # that a frame may give for itself
LAYERS = {"masks": "mask", "depths": "depth", "valid": "valid"}  # keys of a camera and the layer they give


def detect(root: Path) -> str | None:
    path = root / FILE
    if not path.is_file():
        return None
    try:
        found = read_object(path)
    except InputError:
        return FILE  # a broken one is ours to complain about
    return FILE if isinstance(found.get("cameras"), list) or "frames" in found else None


def read(root: Path) -> Capture:
    """A capture from `cameras.json`. Raises InputError."""
    data = read_object(root / FILE)
    notes = Notes()
    if "version" in data and integer(data["version"], f"{FILE}: version", 1) > VERSION:
        raise InputError(f"{FILE}: version {data['version']} is newer than {VERSION}; update scene4d")
    fps = None if data.get("fps") is None else frames_per_second(data["fps"], f"{FILE}: fps")
    if isinstance(data.get("cameras"), list):
        views, tracks, fps = _read_cameras(root, data, fps, notes)
    else:
        views, tracks = _read_frames(root, data, fps, notes)
    near_far = None
    if data.get("near_far") is not None:
        near, far = array(data["near_far"], (2,), f"{FILE}: near_far")
        near_far = (float(near), float(far))
    points = None
    if data.get("points"):
        points = read_points(inside(root, data["points"], f"{FILE}: points"))
    elif (root / "points3d.ply").is_file():
        points = read_points(root / "points3d.ply")
    return Capture(
        root=root,
        format="cameras-json",
        views=views,
        tracks=tracks,
        fps=fps,
        points=points,
        units=_units(data),
        near_far=near_far,
        notes=tuple(notes.lines),
    )


def _units(data: dict) -> str:
    units = data.get("units")
    if units is None:  # files from before the key said it in words
        return "m" if "metre" in str(data.get("convention", "")) else "scene units"
    if not isinstance(units, str) or len(units) > 40:
        raise InputError(f'{FILE}: units must be a short text such as "m", got {str(units)[:40]!r}')
    return units


# -- one object a camera ---------------------------------------------------------------------------------------------


def _read_cameras(root: Path, data: dict, fps: float | None, notes: Notes) -> tuple[tuple, dict, float | None]:
    tracks: dict[str, CameraTrack] = {}
    shots: list[Shot] = []
    rates = set()
    for i, spec in enumerate(objects(data["cameras"], f"{FILE}: cameras")):
        name = spec.get("name", f"cam{i:02d}")
        if not isinstance(name, str) or not name or name in tracks:
            raise InputError(f"{FILE}: camera {i}: its name must be a text that no other camera has, got {name!r}")
        where = f"{FILE}: camera {name}"
        image, rate = _pictures(root, spec, spec.get("fps", fps), where, notes)
        track = _camera_track(root, data, spec, image, where, notes)
        tracks[name] = track
        rates.add(rate)
        shots += _camera_shots(spec, track, rate, where, notes)
    rate = rates.pop() if len(rates) == 1 else fps
    if rates and fps is None:
        notes.add(f"{FILE}: cameras have different frame rates; each keeps its own times")
    return make_views(_held_out(data.get("split"), shots), tracks, FILE), tracks, rate


def _pictures(root: Path, spec: dict, fps: object, where: str, notes: Notes) -> tuple[Layer, float | None]:
    """The images of a camera and their rate."""
    declared = None if fps is None else frames_per_second(fps, f"{where}: fps")
    source = spec.get("video", spec.get("images"))
    if source is None:
        raise InputError(f'{where}: has neither "video" nor "images"')
    layer = _layer(root, source, f"{where}: images")
    if isinstance(layer, ImageFiles):
        return layer, declared
    if declared and layer.fps and abs(declared / layer.fps - 1) > 0.01:
        notes.add(f"{where}: fps is {declared:g}, its video says {layer.fps:g}; the first is used")
    return layer, declared or layer.fps


def _layer(root: Path, source: object, where: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> Layer:
    """A video, the images of a folder, those that match a pattern, or a list of them."""
    if isinstance(source, list):
        paths = [inside(root, name, where) for name in source]
        require_files(paths, where.rsplit(": ", 1)[-1])
        return ImageFiles(tuple(paths))
    path = inside(root, source, where)
    if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir():
        return scan_video(path)
    if "*" in path.name:
        found = sorted((p for p in path.parent.glob(path.name) if p.suffix.lower() in suffixes), key=natural_key)
    elif not path.is_dir():
        raise InputError(f"{where}: {path} is missing; it must be a video or a folder of images")
    else:
        found = list_images(path) if suffixes is IMAGE_SUFFIXES else _listed(path, suffixes)
    if not found:
        raise InputError(f"{where}: {path} holds no images")
    return ImageFiles(tuple(found))


def _listed(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return sorted((p for p in folder.iterdir() if p.suffix.lower() in suffixes), key=natural_key)


def _camera_track(root: Path, data: dict, spec: dict, image: Layer, where: str, notes: Notes) -> CameraTrack:
    promised = spec.get("frames")
    if promised is not None and len(image) != integer(promised, f"{where}: frames", 1):
        raise InputError(f"{where}: {promised} frames are promised, {len(image)} found; frames are missing or added")
    layers: dict[str, Layer] = {"image": image}
    for key, layer in LAYERS.items():
        source = spec.get(key, spec.get(layer))
        if source is None:
            continue
        suffixes = (".npy", ".png", ".tif", ".tiff") if layer == "depth" else IMAGE_SUFFIXES
        found = _layer(root, source, f"{where}: {key}", suffixes)
        if len(found) != len(image):
            raise InputError(f"{where}: {len(image)} images but {len(found)} {key}; each image needs its own")
        if layer == "depth" and isinstance(found, ImageFiles):
            scale = number(spec.get("depth_scale", data.get("depth_scale", 1.0)), f"{where}: depth_scale", 1e-9, 1e9)
            found = ImageFiles(found.paths, scale)
        layers[layer] = found
    lens = matched_lens(_camera_lens(spec, layer_size(image), where), layer_size(image), where, notes)
    return CameraTrack(spec.get("name", ""), layers, (lens,))


def _camera_lens(spec: dict, size: tuple[int, int], where: str) -> Lens:
    if spec.get("K") is None:
        return named_lens(spec, size, where)
    K = array(spec["K"], (3, 3), f"{where}: K")
    if np.abs(K[[1, 2, 2, 2], [0, 0, 1, 2]] - (0, 0, 0, 1)).max() > 1e-9:
        raise InputError(f"{where}: K must be [[fx, s, cx], [0, fy, cy], [0, 0, 1]], got {K.tolist()}")
    width = integer(spec.get("width", size[0]), f"{where}: width", 1)
    height = integer(spec.get("height", size[1]), f"{where}: height", 1)
    model, params = _distortion(spec, where)
    (fx, skew, cx), (_, fy, cy), _ = K.tolist()
    lens = Lens(width, height, fx, fy, cx, cy, model, params, skew)
    return checked_lens(lens, where)


def _distortion(spec: dict, where: str) -> tuple[str, tuple[float, ...]]:
    found = spec.get("distortion", spec.get("dist_k1k2p1p2"))
    model = "opencv"
    if isinstance(found, dict):
        model, found = found.get("model", "opencv"), found.get("coefficients", [])
    if found is None or model in ("none", "pinhole"):
        return "pinhole", ()
    if model not in MODELS:
        raise InputError(f"{where}: unknown distortion model {str(model)[:40]!r}; known: {', '.join(MODELS)}")
    values = array(found, (-1,), f"{where}: distortion").tolist()
    if not any(values):
        return "pinhole", ()
    return model, tuple(values)


def _camera_shots(spec: dict, track: CameraTrack, fps: float | None, where: str, notes: Notes) -> list[Shot]:
    count = len(track.layers["image"])
    matrices = spec.get("world_to_cam", spec.get("w2c"))
    if matrices is None:
        raise InputError(f"{where}: has no world_to_cam")
    first_row = matrices[0] if isinstance(matrices, list) and matrices else None
    moving = isinstance(first_row, list) and bool(first_row) and isinstance(first_row[0], list)
    if moving and len(matrices) != count:
        raise InputError(
            f"{where}: {count} images but {len(matrices)} poses; each image needs one, or give one for all"
        )
    poses = [np.asarray(array(m, (-1, 4), f"{where}: world_to_cam")) for m in (matrices if moving else [matrices])]
    first = integer(spec.get("first_frame", 0), f"{where}: first_frame")
    if spec.get("times") is not None:
        times = array(spec["times"], (count,), f"{where}: times").tolist()
    else:
        if fps is None:
            notes.add(f"{FILE}: no frame rate: {ONE_SECOND}")
        times = frame_times(first + count, fps)[first:]
    split = str(spec.get("split", "train"))
    return [Shot(track.name, first + i, times[i], i, poses[i] if moving else poses[0], split) for i in range(count)]


def _held_out(split: object, shots: list[Shot]) -> list[Shot]:
    """Shots, with those of "split": {"test_cameras": [...], "test_frames": [...]} put aside."""
    if split is None:
        return shots
    if not isinstance(split, dict):
        raise InputError(f"{FILE}: split must be an object with test_cameras and test_frames")
    frames = split.get("test_frames") or []
    if isinstance(frames, str):
        frames = chosen_frames(frames, max(s.frame for s in shots), f"{FILE}: split: test_frames")
    cameras = split.get("test_cameras") or []
    if not isinstance(frames, list | range) or not isinstance(cameras, list):
        raise InputError(f"{FILE}: split: test_cameras and test_frames must be lists")
    known = {s.camera for s in shots}
    unknown = [c for c in cameras if not isinstance(c, str) or c not in known]
    if unknown:
        raise InputError(f"{FILE}: split: test camera {str(unknown[0])[:40]!r} is not one of the cameras")
    out_cameras, out_frames = set(cameras), {integer(f, f"{FILE}: split: test_frames") for f in frames}
    return [replace(s, split="test") if s.camera in out_cameras or s.frame in out_frames else s for s in shots]


# -- one object a frame ----------------------------------------------------------------------------------------------


def _read_frames(root: Path, data: dict, fps: float | None, notes: Notes) -> tuple[tuple, dict]:
    listed = objects(data["frames"], f"{FILE}: frames")
    camera = data.get("camera")
    if not isinstance(camera, dict):
        raise InputError(f'{FILE}: "frames" needs "camera", an object with the intrinsics')
    timed = [f.get("time") is not None for f in listed]
    if not all(timed):
        if any(timed):
            raise InputError(f"{FILE}: frame {timed.index(False)} has no time, others have; give all or none")
        times = [float(i) for i in range(len(listed))] if fps else frame_times(len(listed), None)
    else:
        times = [number(f["time"], f"{FILE}: frame {i}: time") for i, f in enumerate(listed)]
    if fps is None:
        notes.add(f"{FILE}: times without a frame rate are taken as seconds: {ONE_SECOND}")
    entries, size = [], None
    for i, spec in enumerate(listed):
        where = f"{FILE}: frame {i}"
        files = {"image": inside(root, spec.get("file"), f"{where}: file")}
        for layer in ("mask", "depth", "valid"):
            if spec.get(layer) is not None:
                files[layer] = inside(root, spec[layer], f"{where}: {layer}")
        if size is None:
            require_files([files["image"]], "image")
            size = layer_size(ImageFiles((files["image"],)))
        own = {
            **camera,
            **{k: v for k, v in spec.items() if k in ("K", "distortion", "f", "fx", "fy", "cx", "cy", "k1")},
        }
        pose = array(spec.get("world_to_cam", spec.get("w2c")), (-1, 4), f"{where}: world_to_cam")
        split = str(spec.get("split", "train"))
        name = str(spec.get("camera", "camera"))
        entries.append(Entry(name, times[i], files, _camera_lens(own, size, where), pose, where, split))
    scale = number(data.get("depth_scale", 1.0), f"{FILE}: depth_scale", 1e-9, 1e9)
    return from_entries(entries, Timing(fps=fps, seconds=all(timed), depth_scale=scale), FILE, notes)
