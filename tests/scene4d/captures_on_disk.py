"""Captures written to disk for the readers' tests, from the formats' published descriptions alone.

A `Truth` is one camera as plain numbers: OpenCV world-to-camera rotation, centre, focal lengths, principal point.
Nothing here uses the readers' conversions.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from scene4d.captures import Capture, CaptureWarning, open_capture

WIDTH, HEIGHT = 64, 48
WORLD = np.array([[0.0, 0.0, 0.0], [0.4, -0.3, 0.2], [-0.5, 0.2, -0.4], [0.1, 0.45, 0.5], [-0.2, -0.4, 0.3]])  # [P, 3]


@dataclass(frozen=True)
class Truth:
    rotation: np.ndarray  # [3, 3] world to camera
    center: np.ndarray  # [3] of the camera, world
    fx: float = 70.0
    fy: float = 70.0
    cx: float = 31.0
    cy: float = 25.5

    @property
    def world_to_cam(self) -> np.ndarray:
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = self.rotation, -self.rotation @ self.center
        return pose

    @property
    def cam_to_world_opengl(self) -> np.ndarray:
        """[4, 4] with columns right, up, backward, centre: what OpenGL-style files hold."""
        right, down, forward = self.rotation
        pose = np.eye(4)
        pose[:3] = np.stack([right, -down, -forward, self.center], axis=1)
        return pose

    @property
    def K(self) -> np.ndarray:
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1.0]])

    def local(self, points: np.ndarray = WORLD) -> np.ndarray:
        """Points in the camera, [P, 3]."""
        return (points - self.center) @ self.rotation.T


def make_truth(seed: int, **lens: float) -> Truth:
    """A camera about 3 units from the origin that looks near it, rolled by some degrees."""
    rng = np.random.default_rng(seed)
    roll = Rotation.from_euler("zxy", rng.uniform(-0.3, 0.3, 3) + (0, 0, 2.0 * seed))
    rotation = roll.as_matrix()
    center = -rotation.T @ (np.array([0.0, 0.0, 3.0]) + rng.uniform(-0.2, 0.2, 3))
    return Truth(rotation, center, **lens)


def pinhole(K: np.ndarray, pose: np.ndarray, points: np.ndarray = WORLD) -> np.ndarray:
    """Pixels [P, 2] by K and world_to_cam: how the renderers use what a reader returns."""
    seen = (points @ pose[:3, :3].T + pose[:3, 3]) @ K.T
    return seen[:, :2] / seen[:, 2:]


def plain_image(path: Path, value: int = 128, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((size[1], size[0], 3), value, np.uint8))


def dots(centers: np.ndarray, width: int, height: int, sigma: float = 1.5) -> np.ndarray:
    """uint8 [H, W, 3]: a white Gaussian dot at each of the pixel positions (pixel centres at +0.5)."""
    y, x = np.mgrid[:height, :width] + 0.5
    image = sum(np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * sigma**2)) for u, v in centers)
    return np.repeat((255 * np.clip(image, 0, 1)).round().astype(np.uint8)[..., None], 3, -1)


def dot_centroids(image: np.ndarray, near: np.ndarray, radius: int = 6) -> np.ndarray:
    """The centroid of brightness within a window around each position, [P, 2]."""
    found = []
    for u, v in near:
        left, top = int(round(u)) - radius, int(round(v)) - radius
        patch = image[top : top + 2 * radius, left : left + 2 * radius, 0].astype(float)
        ys, xs = np.mgrid[: patch.shape[0], : patch.shape[1]] + 0.5
        found.append([left + (patch * xs).sum() / patch.sum(), top + (patch * ys).sum() / patch.sum()])
    return np.array(found)


def counting_frame(index: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A picture that spells its number in 16 vertical bars, readable after lossy coding."""
    bits = [(index >> k) & 1 for k in range(16)]
    return np.repeat(np.repeat(np.array(bits, np.uint8), width // 16)[None, :, None], height, 0).repeat(3, 2) * 200 + 20


def read_count(image: np.ndarray) -> int:
    """The number that `counting_frame` spelled."""
    bar = image.shape[1] // 16
    return sum(1 << k for k in range(16) if image[:, k * bar : (k + 1) * bar].mean() > 120)


def write_video(path: Path, frames: list[np.ndarray], fps: float = 30.0, **options: str) -> Path:
    """H.264 with B-frames and a key frame each 12 frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], "yuv420p"
        stream.options = {"g": "12", "bf": "2", "crf": "18", "preset": "ultrafast", **options}
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def counting_video(path: Path, count: int, fps: float = 30.0, width: int = WIDTH, height: int = HEIGHT) -> Path:
    return write_video(path, [counting_frame(i, width, height) for i in range(count)], fps)


def real_data(name: str) -> Path:
    """A folder of the real test data; skips the test, with the reason, where it is not there."""
    root = os.environ.get("SCENE4D_TEST_DATA")
    if not root or not (Path(root) / name).is_dir():
        pytest.skip(f"needs real data: set SCENE4D_TEST_DATA to a folder that holds {name}/")
    return Path(root) / name


def opened(root: Path, format: str = "auto", fps: float | None = None) -> Capture:
    """The capture, whatever it warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaptureWarning)
        return open_capture(root, format, fps)


def assert_projects(capture: Capture, camera: str, frame: int, expected: np.ndarray) -> None:
    """The view's K and pose see the world's points at the pixels that the format's own equations give."""
    view = capture.view(camera, frame)
    assert view.K is not None and view.world_to_cam is not None
    np.testing.assert_allclose(pinhole(view.K.numpy(), view.world_to_cam.numpy()), expected, atol=1e-6)
    depth = WORLD @ view.world_to_cam.numpy()[2, :3] + view.world_to_cam.numpy()[2, 3].item()
    assert (depth > 0).all()  # not behind: a wrong axis flip can give equal pixels


def assert_same(capture: Capture, camera: str, frame: int, truth: Truth) -> None:
    view = capture.view(camera, frame)
    assert view.K is not None and view.world_to_cam is not None
    np.testing.assert_allclose(view.world_to_cam.numpy(), truth.world_to_cam, atol=1e-6)
    np.testing.assert_allclose(view.K.numpy(), truth.K, atol=1e-6)
