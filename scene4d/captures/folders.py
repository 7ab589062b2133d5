"""Bare videos and folders of images, with masks where there are any and without cameras: DAVIS and phone clips.

Understood: a video; a folder of videos, one a camera; a folder of images; a folder with images/ (or rgb/, frames/) and
masks/, or with a folder a camera in each; DAVIS' JPEGImages/480p/NAME with Annotations/480p/NAME. A mask's pixel value
is the instance id, 0 the background; palette images are read by index.
"""

from __future__ import annotations

from pathlib import Path

from scene4d.captures.assembly import Notes, Shot, make_views, ranked_times
from scene4d.captures.capture import Capture
from scene4d.captures.checks import frame_times
from scene4d.captures.frames import CameraTrack, ImageFiles, Layer, list_images, natural_key
from scene4d.captures.video import VIDEO_SUFFIXES, scan_video
from scene4d.errors import InputError

IMAGE_FOLDERS = ("images", "rgb", "frames", "JPEGImages")
MASK_FOLDERS = ("masks", "mask", "Annotations")


def detect(root: Path) -> str | None:
    videos = _videos(root)
    if videos:
        return videos[0].name
    for folder in (root, *(root / name for name in IMAGE_FOLDERS)):
        if folder.is_dir() and (list_images(folder) or (folder != root and _camera_folders(folder))):
            return folder.name
    return "JPEGImages" if (root / "JPEGImages").is_dir() else None


def read(path: Path) -> Capture:
    """A capture without cameras. Raises InputError."""
    notes = Notes()
    videos = [path] if path.is_file() else _videos(path)
    if videos:
        tracks, shots, fps = _read_videos(videos, notes)
    else:
        tracks, shots, fps = _read_images(path, notes)
    views = make_views(shots, tracks, path.name)
    root = path if path.is_dir() else path.parent
    return Capture(root=root, format="frames", views=views, tracks=tracks, fps=fps, notes=tuple(notes.lines))


def _videos(root: Path) -> list[Path]:
    return sorted((p for p in root.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file()), key=natural_key)


def _read_videos(paths: list[Path], notes: Notes) -> tuple[dict[str, CameraTrack], list[Shot], float | None]:
    tracks, shots, rates = {}, [], set()
    for path in paths:
        video = scan_video(path)
        layers: dict[str, Layer] = {"image": video}
        masks = [path.parent / folder / path.stem for folder in MASK_FOLDERS]
        for folder in (m for m in masks if m.is_dir()):
            files = list_images(folder)
            if len(files) != len(video):
                raise InputError(f"{folder}: {len(files)} masks for the {len(video)} frames of {path.name}")
            layers["mask"] = ImageFiles(tuple(files))
        tracks[path.stem] = CameraTrack(path.stem, layers, ())
        rates.add(video.fps)
        shots += [Shot(path.stem, i, t, i, None) for i, t in enumerate(frame_times(len(video), video.fps))]
    if len(rates) > 1:
        notes.add(f"{paths[0].parent.name}: the videos have different frame rates")
    return tracks, shots, rates.pop() if len(rates) == 1 else None


def _read_images(root: Path, notes: Notes) -> tuple[dict[str, CameraTrack], list[Shot], float | None]:
    folder, masks = _find_images(root)
    cameras = {root.name or "camera": folder} if list_images(folder) else _camera_folders(folder)
    if not cameras:
        raise InputError(f"{root}: holds no video and no image")
    tracks, shots = {}, []
    for name, images in cameras.items():
        own_masks = masks if images == folder or masks is None else masks / images.name
        tracks[name] = _image_track(name, images, own_masks, notes)
        count = len(tracks[name].layers["image"])
        shots += [Shot(name, i, t, i, None) for i, t in enumerate(ranked_times(count, name, notes))]
    return tracks, shots, None


def _camera_folders(folder: Path) -> dict[str, Path]:
    """Folders of images in a folder: one a camera."""
    found = sorted((p for p in folder.iterdir() if p.is_dir()), key=natural_key)
    return {p.name: p for p in found if p.name not in MASK_FOLDERS and list_images(p)}


def _image_track(name: str, folder: Path, masks: Path | None, notes: Notes) -> CameraTrack:
    images = list_images(folder)
    layers: dict[str, Layer] = {"image": ImageFiles(tuple(images))}
    if masks is not None and masks.is_dir():
        by_stem = {p.stem: p for p in list_images(masks)}
        paths = tuple(by_stem.get(p.stem) for p in images)
        found = sum(p is not None for p in paths)
        if found:
            layers["mask"] = ImageFiles(paths)
        if found < len(images):
            notes.add(f"{masks}: {found} of {len(images)} images have a mask of the same name")
    return CameraTrack(name, layers, ())


def _find_images(root: Path) -> tuple[Path, Path | None]:
    """The folder of images and that of their masks."""
    if (root / "JPEGImages").is_dir() and not list_images(root / "JPEGImages"):
        found = sorted(p for p in (root / "JPEGImages").glob("*/*") if p.is_dir())
        if len(found) != 1:
            names = ", ".join(p.relative_to(root).as_posix() for p in found[:3]) or "none"
            raise InputError(f"{root}: holds {len(found)} sequences ({names}, ...); give the path of one of them")
        root = found[0]
    if list_images(root):
        parts = list(root.absolute().parts)
        if "JPEGImages" in parts:
            parts[len(parts) - 1 - parts[::-1].index("JPEGImages")] = "Annotations"
            annotations = Path(*parts)
            return root, annotations if annotations.is_dir() else None
        return root, None
    images = next((root / name for name in IMAGE_FOLDERS if (root / name).is_dir()), root)
    return images, next((root / name for name in MASK_FOLDERS if (root / name).is_dir()), None)
