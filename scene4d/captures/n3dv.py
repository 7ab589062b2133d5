"""Neural 3D Video (DyNeRF): poses_bounds.npy beside camXX.mp4, or beside folders of extracted frames.

Rows of poses_bounds.npy are LLFF's: a 3x5 matrix [R | t | (height, width, focal)], row-major, whose rotation columns
are down, right, backward in the world, then near and far depth. One focal length, principal point in the middle. Rows
are in the order of the sorted video names. cam00 is the published test view.
Sources: facebookresearch/Neural_3D_Video README; Fyusion/LLFF README.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scene4d.captures.assembly import ONE_SECOND, Notes, Shot, make_views, matched_lens
from scene4d.captures.capture import Capture
from scene4d.captures.checks import array, frame_times, image_size, read_npy
from scene4d.captures.frames import CameraTrack, ImageFiles, Layer, layer_size, list_images, natural_key
from scene4d.captures.lens import Lens, checked_lens
from scene4d.captures.video import VIDEO_SUFFIXES, scan_video
from scene4d.errors import InputError

FILE = "poses_bounds.npy"
TEST_CAMERA = "cam00"
UNSYNCHRONISED = ("coffee_martini", "cam13")  # K-Planes, MixVoxels and 4DGaussians leave it out too


def detect(root: Path) -> str | None:
    return FILE if (root / FILE).is_file() else None


def read(root: Path) -> Capture:
    """A capture from poses_bounds.npy. Raises InputError."""
    notes = Notes()
    rows = array(read_npy(root / FILE), (-1, 17), FILE)
    sources = _sources(root)
    if len(sources) != len(rows):
        raise InputError(
            f"{root}: {FILE} has {len(rows)} poses, there are {len(sources)} videos or frame folders "
            f"({', '.join(list(sources)[:4])}, ...); rows go with videos in the order of their names"
        )
    tracks, shots = {}, []
    rates = set()
    for row, (name, source) in zip(rows, sources.items(), strict=True):
        if (root.name, name) == UNSYNCHRONISED:
            notes.add(f"{root.name}: {name} is not synchronised with the others and is left out")
            continue
        lens, pose = llff_camera(row, f"{FILE}: {name}")
        layer: Layer = scan_video(source) if source.is_file() else ImageFiles(tuple(list_images(source)))
        rates.add(layer.fps)
        tracks[name] = CameraTrack(name, {"image": layer}, (_matched(lens, layer, name, notes),))
        split = "test" if name == TEST_CAMERA and len(rows) > 1 else "train"
        times = frame_times(len(layer), layer.fps)
        shots += [Shot(name, i, t, i, pose, split) for i, t in enumerate(times)]
    fps = rates.pop() if len(rates) == 1 else None
    if fps is None:
        notes.add(f"{root.name}: no common frame rate: {ONE_SECOND}")
    near_far = (float(rows[:, 15].min()), float(rows[:, 16].max()))
    return Capture(
        root=root,
        format="n3dv",
        views=make_views(shots, tracks, FILE),
        tracks=tracks,
        fps=fps,
        near_far=near_far,
        notes=tuple(notes.lines),
    )


def _matched(lens: Lens, layer: Layer, name: str, notes: Notes) -> Lens:
    size = layer_size(layer)
    if size == (lens.width // 2, lens.height // 2):
        return lens.scaled_to(*size)  # frames extracted at half size are customary, and need no remark
    return matched_lens(lens, size, f"{FILE}: {name}", notes)


def llff_camera(row: np.ndarray, where: str) -> tuple[Lens, np.ndarray]:
    """The lens and the world-to-camera pose of one row."""
    matrix = row[:15].reshape(3, 5)
    down, right, backward, center = matrix[:, :4].T
    height, width, focal = matrix[:, 4].tolist()
    width, height = image_size(width, height, where)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, down, -backward])
    pose[:3, 3] = -pose[:3, :3] @ center
    return checked_lens(Lens(width, height, focal, focal, width / 2, height / 2), where), pose


def _sources(root: Path) -> dict[str, Path]:
    """Videos by name, else the frame folders that common extraction scripts leave."""
    videos = sorted((p for p in root.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES), key=natural_key)
    if videos:
        return {p.stem: p for p in videos}
    for parent in (root / "frames", root):
        if not parent.is_dir():
            continue
        found = {}
        for folder in sorted((p for p in parent.iterdir() if p.is_dir()), key=natural_key):
            inner = folder / "images" if (folder / "images").is_dir() else folder
            if list_images(inner):
                found[folder.name] = inner
        if found:
            return found
    raise InputError(f"{root}: {FILE} has no videos and no folders of frames beside it")
