"""`inspect_capture`: everything that can be known to be wrong with a capture before a fit wastes time on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from scene4d.captures.capture import Capture
from scene4d.captures.frames import ImageFiles, image_header
from scene4d.captures.quality import BLUR_RATIO, RUN, CameraQuality, measure_camera, motion_lag
from scene4d.captures.rig import Reprojection, Rig, measure_reprojection, measure_rig
from scene4d.captures.video import VideoFile
from scene4d.errors import InputError

SAMPLES = 24  # frames a camera that are looked at
LATE = 0.3  # by so much the correlation of motion must be better at another offset than at none
WIDE_GAP = 60.0  # degrees between neighbouring cameras: matching and visual hulls are poor beyond
# Cost of one training step of 50,000 Gaussians, forward and backward, one core of a desktop CPU: the rasterizer alone
# (32 ms at 320x240, growing with the pixels), times two for loss, motion, optimiser.
STEP_SECONDS, PER_MEGAPIXEL = 2 * 0.015, 2 * 0.22
FIT_SIDE, FIT_GAUSSIANS, FIT_BYTES = 480, 50_000, 600 << 20  # interpreter, torch and work buffers


@dataclass(frozen=True)
class CameraSummary:
    """One row of the table."""

    name: str
    frames: int
    width: int
    height: int
    fps: float | None
    static: bool | None
    layers: tuple[str, ...]


@dataclass(frozen=True)
class FitEstimate:
    """A rough expectation, within a factor of two or three."""

    long_side: int
    cache_bytes: int  # all frames at that size, 8 bits a channel
    memory_bytes: int
    minutes_per_1000_steps: float  # one core; half of it on two


@dataclass(frozen=True)
class Report:
    """What `scene4d inspect` prints."""

    path: str
    format: str
    views: int
    frames: int
    duration: float
    fps: float | None
    units: str
    points: int
    splits: dict[str, int]
    cameras: list[CameraSummary]
    quality: list[CameraQuality]
    rig: Rig | None
    reprojection: Reprojection | None
    fit: FitEstimate
    notes: list[str]  # how ambiguous things were read
    warnings: list[str]  # what is likely to harm a fit

    def as_json(self) -> dict[str, Any]:
        found = asdict(self)
        for camera in found["quality"]:
            camera["motion"] = [round(float(m), 4) for m in camera["motion"]]
        return found


def inspect_capture(
    capture: Capture, samples: int = SAMPLES, tick: Callable[[int], None] = lambda total: None
) -> Report:
    """Looks at files, pictures and poses. `tick(total)` is called after each picture.

    Raises InputError for what makes the capture unusable: missing or damaged pictures, mixed sizes.
    """
    check_files(capture)
    names = capture.camera_names
    pictured = [n for n in names if "image" in capture.tracks[n].layers]
    still = [n for n in pictured if capture.has_cameras and capture.is_static(n)]
    run = RUN if len(still) > 1 else 0
    total = sum(min(sum(v.camera == n for v in capture.views), samples + run) for n in pictured)
    quality = [measure_camera(capture, n, samples, run, lambda: tick(total)) for n in pictured]
    rig = measure_rig(capture) if capture.has_cameras else None
    reprojection = measure_reprojection(capture)
    summaries = [_summary(capture, name) for name in names]
    found = [
        *_sync_warnings([s for s in summaries if s.name in {v.camera for v in capture.split("train")}], quality),
        *_quality_warnings(quality),
        *_rig_warnings(capture, rig, reprojection),
    ]
    splits = {s: len(capture.split(s)) for s in dict.fromkeys(v.split for v in capture.views)}
    return Report(
        path=str(capture.root),
        format=capture.format,
        views=len(capture),
        frames=len(capture.frames),
        duration=capture.duration,
        fps=capture.fps,
        units=capture.units,
        points=0 if capture.points is None else len(capture.points),
        splits=splits,
        cameras=summaries,
        quality=quality,
        rig=rig,
        reprojection=reprojection,
        fit=estimate_fit(capture),
        notes=list(capture.notes),
        warnings=found,
    )


def check_files(capture: Capture) -> None:
    """InputError where a picture is missing, unreadable, or not of its camera's size. Reads headers only."""
    for name in capture.camera_names:
        track = capture.tracks[name]
        source = track.layers.get("image")
        if not isinstance(source, ImageFiles):
            continue
        first = None
        for item, path in enumerate(source.paths):
            if path is None:
                continue
            size = image_header(path)
            lens = track.lens(item)
            wanted = (lens.width, lens.height) if lens is not None else first or size
            if size != wanted:
                raise InputError(
                    f"{path}: is {size[0]}x{size[1]}, others of camera {name} {wanted[0]}x{wanted[1]}: mixed sizes; "
                    "resize the pictures or give each size a camera of its own"
                )
            first = size


def estimate_fit(capture: Capture, long_side: int = FIT_SIDE) -> FitEstimate:
    """Rough memory and time of a fit: frames in 8 bits, 50,000 Gaussians of 33 floats with gradient and two moments."""
    sizes = [(v.width, v.height) for v in capture.resized(long_side).views]
    cache = sum(3 * w * h for w, h in sizes)
    megapixels = float(np.mean([w * h for w, h in sizes])) / 1e6
    return FitEstimate(
        long_side=max(max(size) for size in sizes),
        cache_bytes=cache,
        memory_bytes=cache + FIT_BYTES + FIT_GAUSSIANS * 33 * 4 * 4,
        minutes_per_1000_steps=1000 * (STEP_SECONDS + PER_MEGAPIXEL * megapixels) / 60,
    )


def _summary(capture: Capture, name: str) -> CameraSummary:
    views = [v for v in capture.views if v.camera == name]
    source = capture.tracks[name].layers.get("image")
    fps = source.fps if isinstance(source, VideoFile) else capture.fps
    static = capture.is_static(name) if capture.has_cameras else None
    layers = tuple(k for k in capture.tracks[name].layers if k != "image")
    return CameraSummary(name, len(views), views[0].width, views[0].height, fps, static, layers)


def _sync_warnings(cameras: list[CameraSummary], quality: list[CameraQuality]) -> list[str]:
    found = []
    counts = {c.name: c.frames for c in cameras}
    if len(set(counts.values())) > 1:
        few, many = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
        found.append(
            f"frame counts differ: {few} has {counts[few]}, {many} {counts[many]}; did all start and stop together?"
        )
    rates = {c.name: c.fps for c in cameras if c.fps}
    if rates and max(rates.values()) > 1.001 * min(rates.values()):
        slow, fast = min(rates, key=rates.__getitem__), max(rates, key=rates.__getitem__)
        found.append(f"frame rates differ: {slow} has {rates[slow]:g}, {fast} {rates[fast]:g}; resample the videos")
    moving = [q for q in quality if len(q.motion) >= 24]
    for camera in moving[1:]:
        lag, best, now = motion_lag(moving[0].motion, camera.motion, len(camera.motion) // 4)
        if abs(lag) >= 2 and best >= 0.4 and best - now >= LATE:
            word = "late" if lag > 0 else "early"
            found.append(
                f"{camera.name} looks about {abs(lag)} frames {word} against {moving[0].name} "
                f"(motion correlates {best:.2f} there, {now:.2f} as it is): check the synchronisation"
            )
    return found


def _quality_warnings(quality: list[CameraQuality]) -> list[str]:
    found = []
    for q in quality:
        if q.exposure_jumps:
            found.append(
                f"{q.name}: exposure jumps by up to {q.largest_jump:.2f} stops at frames {_listed(q.exposure_jumps)}; "
                "lock the exposure, or rely on per-camera exposure in the fit"
            )
        if q.blurred:
            found.append(
                f"{q.name}: {len(q.blurred)} of {q.sampled} frames have less than {BLUR_RATIO:g} of the usual "
                f"sharpness: {_listed(q.blurred)}"
            )
        if q.sharpness < 20:  # a defocused 320-pixel picture; sharp ones have hundreds
            found.append(f"{q.name}: its pictures are blurred or empty (sharpness {q.sharpness:.0f})")
        if any(q.border):
            top, bottom, left, right = q.border
            found.append(
                f"{q.name}: black borders of about {top}, {bottom}, {left}, {right} pixels (top, bottom, left, right); "
                "crop them and shift the principal point"
            )
        if q.moving_area is not None and q.moving_area > 0.6:
            found.append(f"{q.name}: {q.moving_area:.0%} of the picture moves: is the camera really standing still?")
    levels = [q.brightness for q in quality]
    if len(levels) > 1 and min(levels) > 0 and np.log2(max(levels) / min(levels)) > 0.5:
        found.append("cameras differ much in brightness; the fit needs an exposure for each")
    return found


def _rig_warnings(capture: Capture, rig: Rig | None, reprojection: Reprojection | None) -> list[str]:
    if rig is None:
        return ["no cameras: a fit needs them; estimate them with --estimate-cameras --out FOLDER"]
    found = [f"the camera leaps: {jump}; was the estimate broken there?" for jump in rig.jumps[:6]]
    if len(rig.jumps) > 6:
        found.append(f"the camera leaps at {len(rig.jumps) - 6} more places")
    if rig.extent == 0.0:
        found.append("all views are from one place: depth cannot be known from them")
    elif rig.distance is not None and rig.extent < 0.02 * rig.distance:
        found.append(
            f"the cameras span {rig.extent:.3g}, {rig.extent / rig.distance:.1%} of the distance to what they look at: "
            "depth will be poor"
        )
    for name, angle in rig.neighbour_angles.items():
        if angle > WIDE_GAP:
            found.append(f"{name}: its nearest camera is {angle:.0f} degrees away: too wide to match their pictures")
    if reprojection is not None and reprojection.median > 2.0:
        found.append(f"points reproject {reprojection.median:.1f} pixels off (median): the calibration does not fit")
    return [*found, *_principal_point_warnings(capture)]


def _principal_point_warnings(capture: Capture) -> list[str]:
    found = []
    for view in {v.camera: v for v in capture.views}.values():
        if view.K is None:
            continue
        across, down = float(view.K[0, 2]) / view.width, float(view.K[1, 2]) / view.height
        if not (0.25 < across < 0.75 and 0.25 < down < 0.75):
            found.append(f"{view.camera}: its principal point is far from the middle of the picture: a crop?")
    return found


def _listed(frames: list[int]) -> str:
    shown = ", ".join(map(str, frames[:8]))
    return shown + (f" and {len(frames) - 8} more" if len(frames) > 8 else "")
