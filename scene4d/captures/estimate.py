"""Cameras for bare videos and frames, by structure from motion (COLMAP through pycolmap, in a child process).

One camera is taken to move: all its frames are matched in sequence and each gets a pose. Several cameras are taken to
stand still: their pictures of one instant are matched and each camera gets one pose. Masked pixels, widened by a few,
give no features: what moves would bend the cameras. The scale of the result is arbitrary.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from scene4d.captures.capture import Capture, View
from scene4d.captures.checks import CaptureWarning
from scene4d.captures.colmap import read as read_colmap
from scene4d.captures.frames import ImageFiles
from scene4d.captures.lens import Lens
from scene4d.captures.rig import Reprojection, measure_reprojection
from scene4d.captures.video import VideoFile
from scene4d.errors import InputError

CHILD = Path(__file__).with_name("colmap_child.py")
FEATURES = 4096  # a picture; 60 DAVIS frames take two minutes on one core
MASK_MARGIN = 9  # pixels around a mask whose features see its edge
SEED = 0


@dataclass(frozen=True)
class Estimate:
    """What structure from motion gave. Lengths have no unit."""

    folder: Path
    registered: int
    pictures: int
    points: int
    reprojection: Reprojection | None
    missing: list[str]


def estimate_cameras(
    capture: Capture,
    out: Path,
    threads: int | None = None,
    features: int = FEATURES,
    say: Callable[[str], None] = lambda stage: None,
) -> Estimate:
    """Estimates cameras and writes a capture of our own format to `out`: pictures, masks, cameras.json, points.ply.

    The pictures must be as captured: open the capture with format="frames". Raises InputError without pycolmap, with a
    full `out`, or where too little is found.
    """
    if importlib.util.find_spec("pycolmap") is None:
        raise InputError("--estimate-cameras needs pycolmap; run: pip install 'scene4d[geometry]'")
    in_place = out.resolve() == capture.root.resolve()
    if not in_place and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already; give a new folder, or the capture's own to add cameras.json to it")
    if in_place and (out / "cameras.json").exists():
        raise InputError(f"{out / 'cameras.json'}: exists already; give another folder")
    if any(track.lenses for track in capture.tracks.values()):
        raise ValueError("the capture must be opened with format='frames': its pictures must not be rectified")
    moving = len(capture.camera_names) == 1
    views = list(capture.views) if moving else capture.at(capture.frames[0])
    if len(views) < 2:
        raise InputError(f"{capture.root}: structure from motion needs at least 2 pictures, got {len(views)}")
    with tempfile.TemporaryDirectory(prefix="scene4d-cameras-") as folder:
        work = Path(folder)
        say(f"writing {len(views)} pictures")
        names = _write_pictures(capture, views, work)
        say(f"matching {len(views)} pictures")
        found = _run_child(work, names, moving, (threads or torch.get_num_threads(), features))
        solved = _open_solved(work, Path(found["model"]))
        reprojection = measure_reprojection(solved)
        pairs = _matched_views(solved, dict(zip(names, views, strict=True)))
        say("writing the capture")
        _write_capture(capture, out, pairs, solved, moving)
    posed = {ours.key for ours, _ in pairs}
    missing = [f"{v.camera} frame {v.frame}" for v in views if v.key not in posed]
    return Estimate(out, len(pairs), len(views), int(found["points"]), reprojection, missing)


def _write_pictures(capture: Capture, views: list[View], work: Path) -> list[str]:
    """Pictures and their masks as COLMAP wants them (NAME.png beside, black = no features here)."""
    names = []
    for view in views:
        name = f"{view.camera}/{view.frame:06d}.png"
        path = work / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_png(path, capture.image_u8(view).numpy()[..., ::-1])
        mask = capture.mask(view)
        if capture.has("mask"):
            kernel = np.ones((2 * MASK_MARGIN + 1,) * 2, np.uint8)
            moving = np.zeros((view.height, view.width), np.uint8) if mask is None else mask.numpy().astype(np.uint8)
            (work / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
            _write_png(work / "masks" / f"{name}.png", 255 * (1 - cv2.dilate(moving, kernel)))
        names.append(name)
    return names


def _write_png(path: Path, image: np.ndarray) -> None:
    path.write_bytes(cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes())


def _run_child(work: Path, names: list[str], moving: bool, effort: tuple[int, int]) -> dict:
    """`effort` is the threads and the features a picture."""
    (work / "out").mkdir()
    masks = work / "masks"
    job = {
        "database": str(work / "database.db"),
        "images": str(work / "images"),
        "masks": str(masks) if masks.is_dir() else None,
        "names": names,
        "out": str(work / "out"),
        "shared_camera": moving,
        "sequential": moving and len(names) > 30,
        "threads": effort[0],
        "features": effort[1],
        "seed": SEED,
    }
    (work / "job.json").write_text(json.dumps(job), encoding="utf-8")
    # -P: the script's folder must not be searched for modules
    command = [sys.executable, "-P", str(CHILD), str(work / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    try:
        found = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError) as e:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"structure from motion ended with code {done.returncode}: {last[:200]}") from e
    if "error" in found:
        raise InputError(
            f"structure from motion failed: {str(found['error'])[:200]}; give masks of what moves, sharper frames, "
            "or more overlap between them"
        )
    return found


def _open_solved(work: Path, model: Path) -> Capture:
    shutil.copytree(model, work / "solved" / "sparse" / "0")
    os.rename(work / "images", work / "solved" / "images")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaptureWarning)  # COLMAP knows no times; ours are kept
        return read_colmap(work / "solved")


def _matched_views(solved: Capture, by_name: dict[str, View]) -> list[tuple[View, View]]:
    """The views that got a pose, each with the solved one."""
    found = {}
    for view in solved.views:
        source = solved.tracks[view.camera].layers["image"]
        path = source.paths[view.item] if isinstance(source, ImageFiles) else None
        if path is not None:
            found[path.relative_to(solved.root / "images").as_posix()] = view
    return [(ours, found[name]) for name, ours in by_name.items() if name in found]


def _write_capture(capture: Capture, out: Path, pairs: list[tuple[View, View]], solved: Capture, moving: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    data: dict = {
        "format": "scene4d-capture",
        "version": 1,
        "convention": "OpenCV axes (x right, y down, z forward), world_to_cam, pixel centres at +0.5",
        "units": "scene units",
    }
    if capture.fps is not None:
        data["fps"] = capture.fps
    if solved.points is not None:
        _write_points(out / "points.ply", solved)
        data["points"] = "points.ply"
    if moving:
        first = pairs[0][1]
        data["camera"] = _lens_keys(solved.tracks[first.camera].lens(first.item))
        data["frames"] = [_frame(capture, out, ours, posed) for ours, posed in pairs]
    else:
        data["cameras"] = [_still_camera(capture, out, ours.camera, posed, solved) for ours, posed in pairs]
    temporary = out / "cameras.json.tmp"
    temporary.write_text(json.dumps(data, indent=1), encoding="utf-8")
    os.replace(temporary, out / "cameras.json")


def _frame(capture: Capture, out: Path, ours: View, posed: View) -> dict:
    frame = {"file": _place(capture, "image", ours, out, "images"), "time": ours.time}
    if capture.mask(ours) is not None:
        frame["mask"] = _place(capture, "mask", ours, out, "masks")
    return {**frame, "world_to_cam": _rows(posed)}


def _still_camera(capture: Capture, out: Path, camera: str, posed: View, solved: Capture) -> dict:
    lens = solved.tracks[posed.camera].lens(posed.item)
    spec = {"name": camera, **_lens_keys(lens), "world_to_cam": _rows(posed)}
    for layer, key in (("image", "images"), ("mask", "masks")):
        source = capture.tracks[camera].layers.get(layer)
        if isinstance(source, VideoFile):
            spec["video" if layer == "image" else key] = _copy(source.path, out, "", capture.root)
            spec["fps"] = source.fps
        elif source is not None:
            folder = f"{key}/{camera}"
            spec[key] = [_copy(path, out, folder, capture.root) for path in source.paths if path is not None]
    return spec


def _lens_keys(lens: Lens | None) -> dict:
    assert lens is not None  # COLMAP images have cameras
    coefficients = list(lens.params)
    keys: dict = {"width": lens.width, "height": lens.height, "K": lens.K.tolist()}
    return {**keys, "distortion": {"model": lens.model, "coefficients": coefficients}} if coefficients else keys


def _rows(view: View) -> list[list[float]]:
    assert view.world_to_cam is not None
    return view.world_to_cam.tolist()


def _place(capture: Capture, layer: str, view: View, out: Path, folder: str) -> str:
    """A picture of the new capture: the file itself where there is one, else the video's frame as PNG."""
    source = capture.tracks[view.camera].layers[layer]
    if isinstance(source, ImageFiles):
        path = source.paths[view.item]
        assert path is not None
        return _copy(path, out, folder, capture.root)
    (out / folder).mkdir(parents=True, exist_ok=True)
    name = f"{folder}/{view.frame:06d}.png"
    image = capture.image_u8(view).numpy()[..., ::-1] if layer == "image" else capture.mask(view)
    assert image is not None
    _write_png(out / name, image if isinstance(image, np.ndarray) else image.numpy().astype(np.uint8) * 255)
    return name


def _copy(path: Path, out: Path, folder: str, root: Path) -> str:
    """The name of a file in the new capture; copied, unless the capture gets its cameras in place."""
    if out.resolve() == root.resolve():
        return path.relative_to(root).as_posix()
    target = out / folder / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copyfile(path, target)
    return target.relative_to(out).as_posix()


def _write_points(path: Path, solved: Capture) -> None:
    assert solved.points is not None
    points = solved.points
    rgb = torch.full_like(points.xyz, 0.5) if points.rgb is None else points.rgb
    table = np.empty(len(points), [("xyz", "<f4", 3), ("rgb", "u1", 3)])
    table["xyz"], table["rgb"] = points.xyz.numpy(), (rgb * 255).round().to(torch.uint8).numpy()
    fields = [f"property float {n}" for n in "xyz"] + [f"property uchar {n}" for n in ("red", "green", "blue")]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}", *fields, "end_header\n"]
    path.write_bytes("\n".join(header).encode() + table.tobytes())
