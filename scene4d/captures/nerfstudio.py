"""nerfstudio's transforms.json, with an optional `time` a frame.

Poses are camera-to-world in OpenGL axes (x right, y up, z backward). Masks are black where pixels are to be ignored:
they become the "valid" layer, not the mask of an object. Depth is in millimetres unless `depth_unit_scale_factor` says
otherwise. `applied_transform` is already in the poses and in the points of `ply_file_path`, and stays there.
Source: docs.nerf.studio/quickstart/data_conventions.html.
"""

from __future__ import annotations

from pathlib import Path

from scene4d.captures.assembly import ONE_SECOND, Entry, Notes, Timing, from_entries, ranked_times
from scene4d.captures.capture import Capture
from scene4d.captures.checks import frames_per_second, inside, inverse, number, objects, read_object, rigid
from scene4d.captures.frames import IMAGE_SUFFIXES, image_header, natural_key, require_files
from scene4d.captures.lens_files import named_lens
from scene4d.captures.point_files import read_points
from scene4d.errors import InputError

FILE = "transforms.json"
SPLIT_KEYS = {"train_filenames": "train", "val_filenames": "val", "test_filenames": "test"}
FILE_KEYS = {"mask_path": "valid", "depth_file_path": "depth"}


def detect(root: Path) -> str | None:
    return FILE if (root / FILE).is_file() else None


def read(root: Path) -> Capture:
    """A capture from transforms.json. Raises InputError."""
    data = read_object(root / FILE)
    notes = Notes()
    frames = objects(data.get("frames"), f"{FILE}: frames")
    paths = [_image_path(root, f, i) for i, f in enumerate(frames)]
    require_files(paths, "image")
    fps = None if data.get("fps") is None else frames_per_second(data["fps"], f"{FILE}: fps")
    times = _times(frames, paths, fps, notes)
    splits = _splits(root, data)
    size = image_header(paths[0])
    entries = []
    for i, frame in enumerate(frames):
        where = f"{FILE}: frame {i}"
        files: dict[str, Path | None] = {"image": paths[i]}
        for key, layer in FILE_KEYS.items():
            if frame.get(key) is not None:
                files[layer] = inside(root, frame[key], f"{where}: {key}")
        lens = named_lens({**data, **frame}, size, where)
        c2w = rigid(frame.get("transform_matrix"), f"{where}: transform_matrix")
        c2w[:, 1:3] *= -1.0  # OpenGL to OpenCV: y down, z forward
        camera = str(frame.get("camera_id", "camera"))
        split = splits.get(paths[i], "train")
        entries.append(Entry(camera, times[i], files, lens, inverse(c2w), where, split))
    depth_scale = number(data.get("depth_unit_scale_factor", 1e-3), f"{FILE}: depth_unit_scale_factor", 1e-9, 1e9)
    views, tracks = from_entries(entries, Timing(fps=fps, depth_scale=depth_scale), FILE, notes)
    points = None
    if data.get("ply_file_path"):
        points = read_points(inside(root, data["ply_file_path"], f"{FILE}: ply_file_path"))
    return Capture(
        root=root, format="nerfstudio", views=views, tracks=tracks, fps=fps, points=points, notes=tuple(notes.lines)
    )


def _image_path(root: Path, frame: dict, i: int) -> Path:
    path = inside(root, frame.get("file_path"), f"{FILE}: frame {i}: file_path")
    if not path.is_file() and path.suffix.lower() not in IMAGE_SUFFIXES:  # instant-ngp leaves the suffix out
        for suffix in IMAGE_SUFFIXES:
            if path.with_name(path.name + suffix).is_file():
                return path.with_name(path.name + suffix)
    return path


def _times(frames: list[dict], paths: list[Path], fps: float | None, notes: Notes) -> list[float]:
    timed = [f.get("time") is not None for f in frames]
    if any(timed):
        if not all(timed):
            raise InputError(f"{FILE}: frame {timed.index(False)} has no time, others have; give all or none")
        if fps is None:
            notes.add(f"{FILE}: times without a frame rate are taken as seconds: {ONE_SECOND}")
        return [number(f["time"], f"{FILE}: frame {i}: time") for i, f in enumerate(frames)]
    order = sorted(range(len(frames)), key=lambda i: natural_key(paths[i]))
    ranked = [i / 1.0 for i in range(len(frames))] if fps else ranked_times(len(frames), FILE, notes)
    times = [0.0] * len(frames)
    for rank, i in enumerate(order):
        times[i] = ranked[rank]
    return times


def _splits(root: Path, data: dict) -> dict[Path, str]:
    splits = {}
    for key, split in SPLIT_KEYS.items():
        names = data.get(key) or []
        if not isinstance(names, list):
            raise InputError(f"{FILE}: {key} must be a list of file names")
        for name in names:
            splits[inside(root, name, f"{FILE}: {key}")] = split
    return splits
