"""What the pictures of a camera say: exposure, blur, motion, borders, and how motion in two cameras lines up.

Everything is measured on small copies (`LOOK_SIDE` pixels); frames are read in order, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np

from scene4d.captures.capture import Capture, View

LOOK_SIDE = 320  # pixels of the long side
EXPOSURE_JUMP = 0.15  # stops between frames of a camera that stands still; a cloud takes seconds for that
EXPOSURE_JUMP_MOVING = 0.5  # a moving camera's mean brightness changes with what it sees
BLUR_RATIO = 0.5  # of the camera's median sharpness
MOVING = 0.1  # max-channel difference from the temporal median, dilated 5x5: the moving region of the yardsticks
RUN = 96  # consecutive frames in which motion is compared between cameras


@dataclass(frozen=True)
class CameraQuality:
    """Measurements of one camera over sampled frames."""

    name: str
    sampled: int
    brightness: float  # mean luma in [0, 1]
    exposure_jumps: list[int]  # frames at which the exposure differs from the sample before
    largest_jump: float  # stops
    sharpness: float  # median variance of the Laplacian of luma in 8-bit units
    blurred: list[int]  # frames of less than BLUR_RATIO of it
    moving_area: float | None  # mean fraction of the picture; None: the camera moves and has no masks
    border: tuple[int, int, int, int]  # black rows and columns: top, bottom, left, right, in captured pixels
    motion: np.ndarray = field(repr=False)  # [n] mean absolute change between consecutive frames


def choose_frames(views: list[View], samples: int, run: int) -> tuple[list[int], range]:
    """Positions in `views` that are evenly spaced with both ends, and a run of consecutive ones in the middle."""
    n = len(views)
    even = sorted({round(i) for i in np.linspace(0, n - 1, min(samples, n))})
    start = max(0, (n - run) // 2)
    return even, range(start, min(n, start + run))


def measure_camera(
    capture: Capture, name: str, samples: int, run: int, tick: Callable[[], None] = lambda: None
) -> CameraQuality:
    """Reads a camera's sampled frames once, in order. `tick` is called for each."""
    small = capture.resized(LOOK_SIDE)
    views = [v for v in small.views if v.camera == name]
    even, together = choose_frames(views, samples, run)
    kept: dict[int, np.ndarray] = {}
    motion, before = [], None
    for i in sorted({*even, *together}):
        image = small.image_u8(views[i]).numpy()
        if i in together:
            luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
            if before is not None:
                motion.append(float(np.abs(luma - before).mean()))
            before = luma
        if i in even:
            kept[i] = image
        tick()
    images = [kept[i] for i in even]
    still = capture.has_cameras and capture.is_static(name)
    frames = [views[i].frame for i in even]
    jumps, largest = _exposure(images, still)
    sharp = np.array([cv2.Laplacian(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var() for x in images])
    median = float(np.median(sharp))
    first = next(v for v in capture.views if v.camera == name)
    layers = capture.tracks[name].layers  # "valid" leaves borders out already
    return CameraQuality(
        name=name,
        sampled=len(images),
        brightness=float(np.mean([x.mean() for x in images]) / 255.0),
        exposure_jumps=[frames[i + 1] for i in jumps],
        largest_jump=largest,
        sharpness=median,
        blurred=[f for f, s in zip(frames, sharp, strict=True) if s < BLUR_RATIO * median],
        moving_area=_moving_area(small, [views[i] for i in even], images, still),
        border=(0, 0, 0, 0) if "valid" in layers else _border(images, first.height / images[0].shape[0]),
        motion=np.array(motion),
    )


def _exposure(images: list[np.ndarray], still: bool) -> tuple[list[int], float]:
    """Indices after which exposure jumps, and the largest change in stops."""
    changes = []
    for a, b in zip(images[:-1], images[1:], strict=True):
        x, y = (cv2.cvtColor(i, cv2.COLOR_RGB2GRAY).astype(np.float32) for i in (a, b))
        if still:  # the median pixel does not move; clipped ones tell nothing
            good = (x > 20) & (x < 235) & (y > 2) & (y < 253)
            ratio = float(np.median(y[good] / x[good])) if good.sum() > 100 else 1.0
        else:
            ratio = float((y.mean() + 1.0) / (x.mean() + 1.0))
        changes.append(abs(np.log2(ratio)) * 2.2)  # sRGB values to light: about the 2.2nd power
    limit = EXPOSURE_JUMP if still else EXPOSURE_JUMP_MOVING
    return [i for i, c in enumerate(changes) if c > limit], float(max(changes, default=0.0))


def _moving_area(small: Capture, views: list[View], images: list[np.ndarray], still: bool) -> float | None:
    """By change where the camera stands still, else by masks."""
    if not still or len(images) < 3:
        masks = [m.float().mean().item() for v in views if (m := small.mask(v)) is not None]
        return float(np.mean(masks)) if masks else None
    stack = np.stack(images)
    middle = np.median(stack, axis=0)
    areas = []
    for image in stack:
        changed = np.abs(image - middle).max(-1) > MOVING * 255
        areas.append(cv2.dilate(changed.astype(np.uint8), np.ones((5, 5), np.uint8)).mean())
    return float(np.mean(areas))


def _border(images: list[np.ndarray], scale: float) -> tuple[int, int, int, int]:
    """Rows and columns at the edges that are black in every picture: a letterbox."""
    brightest = np.max([x.max(-1) for x in images], axis=0)
    if brightest.max() < 64:
        return (0, 0, 0, 0)  # a dark picture has no border
    rows, cols = np.percentile(brightest, 98, axis=1) < 24, np.percentile(brightest, 98, axis=0) < 24
    top, bottom = (int(np.argmin(edge)) for edge in (rows, rows[::-1]))
    left, right = (int(np.argmin(edge)) for edge in (cols, cols[::-1]))
    return round(top * scale), round(bottom * scale), round(left * scale), round(right * scale)


def motion_lag(a: np.ndarray, b: np.ndarray, most: int) -> tuple[int, float, float]:
    """By how many frames `b` is late against `a`: lag, correlation at it, correlation at 0.

    Speeds of the same motion seen from two sides rise and fall together; trends are taken out with a running mean.
    """
    n = min(len(a), len(b))
    a, b = (_detrended(x[:n]) for x in (a, b))
    scores = {}
    for lag in range(-most, most + 1):
        x, y = (a[: n - lag], b[lag:]) if lag >= 0 else (a[-lag:], b[: n + lag])
        scale = np.linalg.norm(x) * np.linalg.norm(y)
        scores[lag] = float(x @ y / scale) if scale > 1e-9 else 0.0
    best = max(scores, key=lambda lag: (scores[lag], -abs(lag)))
    return best, scores[best], scores[0]


def _detrended(x: np.ndarray) -> np.ndarray:
    width = max(3, len(x) // 4) | 1
    padded = np.pad(x, width // 2, mode="edge")
    return x - np.convolve(padded, np.ones(width) / width, mode="valid")
