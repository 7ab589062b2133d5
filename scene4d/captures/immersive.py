"""Google's Immersive Light Field Video (DeepView): models.json with fisheye cameras, camera_XXXX.mp4.

`orientation` is an axis-angle vector whose rotation takes world to camera (OpenCV axes), `position` the camera's
centre. A ray at angle theta falls at radius focal_length theta (1 + k1 theta^2 + k2 theta^4): the fisheye model of
OpenCV with two coefficients. Source: augmentedperception/deepview_video_dataset README.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from scene4d.captures.assembly import Notes, Shot, make_views, matched_lens
from scene4d.captures.capture import Capture
from scene4d.captures.checks import array, frame_times, image_size, inside, number, objects, read_json
from scene4d.captures.frames import CameraTrack, layer_size
from scene4d.captures.lens import Lens, checked_lens
from scene4d.captures.video import scan_video
from scene4d.errors import InputError

FILE = "models.json"


def detect(root: Path) -> str | None:
    return FILE if (root / FILE).is_file() else None


def read(root: Path) -> Capture:
    """A capture from models.json. Cameras are matched by name; some published scenes lack a few. Raises InputError."""
    notes = Notes()
    tracks, shots, missing, rates = {}, [], [], set()
    for model in objects(read_json(root / FILE), FILE):
        name = str(model.get("name"))
        lens, pose = fisheye_camera(model, f"{FILE}: camera {name}")
        path = inside(root, f"{name}.mp4", FILE)
        if not path.is_file():
            missing.append(name)
            continue
        if name in tracks:
            raise InputError(f"{FILE}: camera {name} is listed twice")
        video = scan_video(path)
        rates.add(video.fps)
        tracks[name] = CameraTrack(name, {"image": video}, (matched_lens(lens, layer_size(video), FILE, notes),))
        shots += [Shot(name, i, t, i, pose) for i, t in enumerate(frame_times(len(video), video.fps))]
    if not tracks:
        raise InputError(f"{root}: none of the videos that {FILE} names is there ({', '.join(missing[:3])}, ...)")
    if missing:
        notes.add(f"{root.name}: {len(missing)} cameras have no video and are left out: {', '.join(missing[:6])}")
    fps = rates.pop() if len(rates) == 1 else None
    views = make_views(shots, tracks, FILE)
    return Capture(root=root, format="immersive", views=views, tracks=tracks, fps=fps, notes=tuple(notes.lines))


def fisheye_camera(model: dict, where: str) -> tuple[Lens, np.ndarray]:
    """The lens and the world-to-camera pose of one object of models.json."""
    kind = model.get("projection_type", "fisheye")
    if kind not in ("fisheye", "perspective"):
        raise InputError(f"{where}: projection_type must be fisheye or perspective, got {str(kind)[:40]!r}")
    width, height = image_size(model.get("width"), model.get("height"), where)
    focal = number(model.get("focal_length"), f"{where}: focal_length")
    aspect = number(model.get("pixel_aspect_ratio", 1.0), f"{where}: pixel_aspect_ratio", 1e-3, 1e3)
    cx, cy = array(model.get("principal_point"), (2,), f"{where}: principal_point").tolist()
    k1, k2, k3 = array(model.get("radial_distortion", [0, 0, 0]), (3,), f"{where}: radial_distortion").tolist()
    if kind == "fisheye":
        lens = Lens(width, height, focal, focal * aspect, cx, cy, "fisheye", (k1, k2, k3, 0.0))
    else:
        lens = Lens(width, height, focal, focal * aspect, cx, cy, "opencv", (k1, k2, 0.0, 0.0, k3))
    pose = np.eye(4)
    pose[:3, :3] = cv2.Rodrigues(array(model.get("orientation"), (3,), f"{where}: orientation"))[0]
    pose[:3, 3] = -pose[:3, :3] @ array(model.get("position"), (3,), f"{where}: position")
    return checked_lens(lens, where), pose
