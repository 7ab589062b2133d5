"""COLMAP: a sparse model (sparse/0, text or binary) beside its images.

Images in one folder are one moving camera in the order of their names; images in several folders are one camera a
folder, and equal file names are one instant. `frames.bin` (COLMAP >= 3.12), where it groups several images, is the
time axis.
Poses are world-to-camera in OpenCV axes, pixel centres at +0.5: nothing to convert.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from scene4d.captures.assembly import ONE_SECOND, Entry, Notes, Timing, from_entries
from scene4d.captures.capture import Capture, Observations, Points, View
from scene4d.captures.checks import inside
from scene4d.captures.colmap_files import ColmapImage, ColmapModel, read_model
from scene4d.captures.frames import CameraTrack, natural_key
from scene4d.captures.lens import rectify_points
from scene4d.captures.point_files import make_points, read_points
from scene4d.errors import InputError

MODEL_FOLDERS = ("sparse/0", "sparse", "colmap/sparse/0", "colmap/sparse", "sparse_", ".")
IMAGE_FOLDERS = ("images", "input", "rgb", ".")
MASK_FOLDERS = ("masks", "mask")


def detect(root: Path) -> str | None:
    for folder in MODEL_FOLDERS:
        if any((root / folder / f"images.{kind}").is_file() for kind in ("bin", "txt")):
            return folder if folder != "." else "images.txt"
    return None


def read(root: Path) -> Capture:
    """A capture from a COLMAP model; without the images it has cameras only. Raises InputError."""
    folder = detect(root)
    if folder is None:
        raise InputError(f"{root}: no images.bin or images.txt in {', '.join(MODEL_FOLDERS)}")
    notes = Notes()
    model = read_model(root / folder if folder != "images.txt" else root)
    if not model.images:
        raise InputError(f"{root / folder}: the model has no registered images")
    _note_other_models(root, notes)
    image_folder = _image_folder(root, model.images)
    if image_folder is None:
        notes.add(f"{root.name}: none of the images is in {', '.join(IMAGE_FOLDERS[:-1])}: cameras only")
    grouping = _grouping(model)
    times = sorted({time for _, time in grouping.values()})
    notes.add(f"{root.name}: COLMAP knows no times, {len(times)} frames are taken in order: {ONE_SECOND}")
    entries = []
    for image in model.images:
        camera, time = grouping[image.id]
        files = {} if image_folder is None else _files(root, image_folder, image.name)
        lens = model.cameras[image.camera]
        entries.append(Entry(camera, float(time), files, lens, image.world_to_cam, f"COLMAP image {image.name}"))
    timing = Timing(fps=float(max(1, len(times) - 1)))
    views, tracks = from_entries(entries, timing, root.name, notes)
    points, rows = _points(root, model)
    by_place = {(camera, times.index(time)): id for id, (camera, time) in grouping.items()}
    observations = _observations(model, views, tracks, by_place, rows) if points is not None else {}
    return Capture(
        root=root,
        format="colmap",
        views=views,
        tracks=tracks,
        points=points,
        observations=observations,
        notes=tuple(notes.lines),
    )


def _note_other_models(root: Path, notes: Notes) -> None:
    others = (
        sorted(p.name for p in (root / "sparse").glob("[1-9]*") if p.is_dir()) if (root / "sparse/0").is_dir() else []
    )
    if others:
        notes.add(f"{root.name}: COLMAP left several models; sparse/0 is read, not {', '.join(others)}")


def _grouping(model: ColmapModel) -> dict[int, tuple[str, int]]:
    """The camera and the time rank of each image id."""
    shared = Counter(model.frames.get(image.id) for image in model.images)
    if model.frames and all(i.id in model.frames for i in model.images) and max(shared.values()) > 1:
        return {i.id: (_folder(i, f"camera_{i.camera}"), model.frames[i.id]) for i in model.images}
    stems = sorted({PurePosixPath(i.name).name for i in model.images}, key=natural_key)
    rank = {stem: k for k, stem in enumerate(stems)}
    return {i.id: (_folder(i, "camera"), rank[PurePosixPath(i.name).name]) for i in model.images}


def _folder(image: ColmapImage, default: str) -> str:
    parent = PurePosixPath(image.name).parent.as_posix()
    return default if parent == "." else parent


def _image_folder(root: Path, images: list[ColmapImage]) -> Path | None:
    for folder in IMAGE_FOLDERS:
        if inside(root / folder, images[0].name, "COLMAP image").is_file():
            return root / folder
    present = [f for f in IMAGE_FOLDERS[:-1] if (root / f).is_dir()]
    return root / present[0] if present else None


def _files(root: Path, folder: Path, name: str) -> dict[str, Path | None]:
    image = inside(folder, name, "COLMAP image")
    files: dict[str, Path | None] = {"image": image, "mask": None}
    for masks in MASK_FOLDERS:
        # COLMAP appends .png to the whole name; most people replace the suffix
        for mask in (root / masks / f"{name}.png", (root / masks / name).with_suffix(".png")):
            if files["mask"] is None and mask.is_file():
                files["mask"] = mask
    return files


def _points(root: Path, model: ColmapModel) -> tuple[Points | None, dict[int, int]]:
    """Points and the row of each point id. Where the model has no colours, points3d.ply lends those of equal points."""
    with np.errstate(invalid="ignore"):
        good = np.isfinite(model.xyz).all(-1)
    points = make_points(model.xyz[good], model.rgb[good], "COLMAP points")
    rows = {int(id): row for row, id in enumerate(model.point_ids[good])}
    ply = root / "points3d.ply"
    if points is not None and points.rgb is None and ply.is_file():
        other = read_points(ply)
        if other is not None and len(other) == len(points) and torch.allclose(other.xyz, points.xyz, atol=1e-3):
            points = other
    return points, rows


def _observations(
    model: ColmapModel,
    views: tuple[View, ...],
    tracks: dict[str, CameraTrack],
    by_place: dict[tuple[str, int], int],
    rows: dict[int, int],
) -> dict[tuple[str, int], Observations]:
    images = {image.id: image for image in model.images}
    found = {}
    for view in views:
        image, lens = images.get(by_place.get(view.key, -1)), tracks[view.camera].lens(view.item)
        if image is None or not len(image.points) or lens is None:
            continue
        kept = np.array([i for i, p in enumerate(image.points) if int(p) in rows], np.int64)
        if not len(kept):
            continue
        seen = model.cameras[image.camera]
        pixels = image.pixels[kept] * (lens.width / seen.width, lens.height / seen.height)
        flat = torch.from_numpy(rectify_points(lens, pixels).astype(np.float32))
        found[view.key] = Observations(torch.tensor([rows[int(image.points[i])] for i in kept]), flat)
    return found
