"""Depth maps from elsewhere: a folder of them, or a network's, brought to the scene's scale by its sparse points.

m points in a picture, H W pixels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from scene4d.captures import Capture, View
from scene4d.captures.frames import DEPTH_SUFFIXES, read_depth
from scene4d.captures.lens import Lens, rectify_nearest
from scene4d.errors import InputError
from scene4d.files.atomic import write_json
from scene4d.fitting.flows import sample
from scene4d.fitting.footage import Footage
from scene4d.fitting.hull import inside, project
from scene4d.fitting.monocular import instances_of_points, static_points
from scene4d.fitting.sparse import LEAST_POINTS
from scene4d.models import load_depth_model, predict_depth

KINDS = ("metric", "depth", "inverse")
GUESSES = 300  # pairs of points that a line is put through
TOLERANCE = 0.1  # relative: a point that is further off says no more than any other that is
REFUSED = 0.25  # median relative error from which on a map tells nothing
ROUNDS = 10  # of reweighting
SKY = 0.25  # of the smallest inverse depth of points: what a map says to be beyond that is put there

Reader = Callable[[View], Tensor]  # a view's map [H, W], 0 or not finite = none


@dataclass(frozen=True)
class DepthSource:
    """Where a fit takes depth maps from."""

    read: Reader
    kind: str  # one of KINDS


@dataclass(frozen=True)
class Alignment:
    """inverse depth = scale * q + shift, q the map's inverse depth."""

    scale: float
    shift: float
    residual: float  # median relative error of depth at the points; NaN where there are none
    points: int


def align(q: Tensor, z: Tensor) -> Alignment:
    """Scale and shift that bring inverse depths q [m] of unknown units to depths z [m] of points.

    Robust: the best of many lines through two points each (Fischler and Bolles 1981, with the cost cut off at
    `TOLERANCE`), then reweighted least squares with Geman and McClure's weights. Errors count relative to 1 / z.

    Raises:
        ValueError: fewer than `LEAST_POINTS` points, or z not positive.
        InputError: the map tells nothing about the points, or the contrary.
    """
    if q.shape != z.shape or q.ndim != 1 or len(q) < LEAST_POINTS:
        raise ValueError(f"q and z must have shape [m], m >= {LEAST_POINTS}, got {list(q.shape)} and {list(z.shape)}")
    if not bool((z > 0).all()):
        raise ValueError(f"z must be positive, got {float(z.min())}")
    x, y = q.double(), 1 / z.double()
    scale, shift = _best_line(x, y)
    for _ in range(ROUNDS):
        off = (scale * x + shift - y) / y
        spread = (1.5 * off.abs().median()).clamp(1e-6, TOLERANCE)
        weights = (1 + (off / spread).square()) ** -2 / y.square()
        total = weights.sum()
        mean_x, mean_y = (weights * x).sum() / total, (weights * y).sum() / total
        steep = (weights * (x - mean_x) * (y - mean_y)).sum() / (weights * (x - mean_x).square()).sum().clamp_min(1e-30)
        if float(steep) <= 0:
            break  # points at one depth: they do not tell scale from shift
        scale, shift = steep, mean_y - steep * mean_x
    residual = _residual(scale * x + shift, z)
    if residual > REFUSED:
        raise InputError(
            f"depths of sparse points are {residual:.0%} off whatever the map's scale and shift; is it of another kind?"
        )
    return Alignment(float(scale), float(shift), residual, len(q))


def _best_line(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(len(x))
    a, b = torch.randint(0, len(x), (2, GUESSES), generator=generator)
    apart = (x[a] - x[b]).abs() > 1e-9 * x.abs().max()
    a, b = a[apart], b[apart]
    scale = (y[a] - y[b]) / (x[a] - x[b])
    a, scale = a[scale > 0], scale[scale > 0]
    if not len(scale):
        raise InputError("the map falls where the inverse depth of sparse points rises; is it of another kind?")
    shift = y[a] - scale * x[a]
    cost = (((scale[:, None] * x + shift[:, None]) / y - 1).abs().clamp_max(TOLERANCE)).mean(1)
    best = cost.argmin()
    return scale[best], shift[best]


def _residual(inverse: Tensor, z: Tensor) -> float:
    return float(((1 / inverse.clamp_min(1e-12) - z) / z).abs().median())


def add_depth_maps(footage: Footage, read: Reader, kind: str) -> dict[tuple[str, int], Alignment]:
    """Fill `footage.depth_maps` for all its views, and tell how well each agrees with the sparse points.

    `kind`: "metric" maps hold z in scene units and are taken as they are; "depth" hold z, "inverse" inverse depth, up
    to scale and shift of inverse depth, which is found per view.

    Raises:
        ValueError: unknown kind.
        InputError: a map that contradicts the points, or a view with too few of them; metric maps most of which are
            far off the points.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    points = static_points(footage, {})
    owner = instances_of_points(footage, points)
    found = {}
    for view in footage.views:
        raw = read(view)
        good = raw.isfinite() & (raw > 0 if kind != "inverse" else torch.ones_like(raw, dtype=torch.bool))
        q = torch.where(good, raw if kind == "inverse" else 1 / raw.clamp_min(1e-12), 0.0)
        pixels, z = _visible_points(footage, view, points, owner)
        known = sample(good.float(), pixels, "nearest") > 0.5
        pixels, z = pixels[known], z[known]
        at = sample(q, pixels, "nearest")
        if kind == "metric":
            residual = _residual(at, z) if len(z) else float("nan")
            found[view.key] = Alignment(1.0, 0.0, residual, len(z))
            footage.depth_maps[view.key] = torch.where(good, raw, 0.0)
            continue
        place = f"{footage.capture.root}: camera {view.camera}, frame {view.frame}"
        if len(z) < LEAST_POINTS:
            raise InputError(f"{place}: {len(z)} sparse points do not tell a depth map's scale; {LEAST_POINTS} do")
        try:
            found[view.key] = align(at, z)
        except InputError as error:
            raise InputError(f"{place}: {error}") from error
        inverse = found[view.key].scale * q + found[view.key].shift
        farthest = SKY / float(z.quantile(0.98))
        footage.depth_maps[view.key] = torch.where(good, 1 / inverse.clamp_min(farthest), 0.0).float()
    if kind == "metric" and median_residual(found, LEAST_POINTS) > REFUSED:
        raise InputError(
            f"{footage.capture.root}: metric depth maps are {median_residual(found, LEAST_POINTS):.0%} off the sparse "
            "points; if they are in other units, kind depth finds their scale"
        )
    return found


def median_residual(found: dict[tuple[str, int], Alignment], least: int = 1) -> float:
    """Median over the views with at least `least` points; NaN where there are none."""
    known = [a.residual for a in found.values() if a.points >= least and math.isfinite(a.residual)]
    return median(known) if known else math.nan


def take_depth_maps(footage: Footage, source: DepthSource, report: Path) -> str:
    """`add_depth_maps` from a source, with each view's alignment written to the JSON file `report`; sums up in a line.

    Raises as `add_depth_maps`, and what the source raises.
    """
    found = add_depth_maps(footage, source.read, source.kind)
    views = []
    for (camera, frame), alignment in found.items():
        residual = alignment.residual if math.isfinite(alignment.residual) else None
        views.append({"camera": camera, "frame": frame, **asdict(alignment), "residual": residual})
    middle = median_residual(found)
    write_json(report, {"kind": source.kind, "views": views, "median": middle if math.isfinite(middle) else None})
    told = f"median error {middle:.1%} at sparse points" if math.isfinite(middle) else "no sparse points to compare"
    return f"depth maps of {len(found)} views: {told}"


def network_source(folder: Path, capture: Capture, device: torch.device | str = "cpu") -> DepthSource:
    """Maps that a network in a local folder (`scene4d.models`) makes of each picture.

    Its scale is never believed: networks that call their depth metric are off by a factor on other lenses.

    Raises InputError: there is no depth network, or transformers is not installed.
    """
    try:
        model = load_depth_model(folder, device)
    except ImportError as e:
        raise InputError(f"{folder}: {e}") from e

    def read(view: View) -> Tensor:
        return predict_depth(model, capture.image_u8(view))

    return DepthSource(read, "inverse" if model.inverse else "depth")


def _visible_points(footage: Footage, view: View, points: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels [m, 2] and z [m] of static points that no masked thing hides, or that are its own."""
    camera, ids = footage.capture.cameras([view]), footage.instances(view)
    uv, z = project(camera, points)
    good = inside(camera, uv, z)
    if ids is not None:
        there = sample(ids.float(), uv, "nearest").int()
        good &= (there == 0) | (there == owner)
    return uv[good], z[good]


def folder_reader(folder: Path, capture: Capture, unit: float = 1.0) -> Reader:
    """Maps in files, one for every frame of the capture in the order of their names, in a folder per camera.

    Files are .npy, or PNG of 16 bits, and what a capture's own depth maps may be; values times `unit`, so metric
    millimetres take 0.001. One camera's may lie in `folder` itself. Maps are of the pictures as captured: they are
    rectified with their camera's lens, as those are. They may have another size of the same shape; each pixel takes the
    nearest value.

    Raises InputError: folders that are missing or hold another number of files than the camera has frames; the reader,
    a file that is no map or has another shape than its picture.
    """
    files = {name: _files(folder, name, capture) for name in capture.camera_names}
    frames = {name: [v.frame for v in capture.views if v.camera == name] for name in files}

    def read(view: View) -> Tensor:
        path = files[view.camera][frames[view.camera].index(view.frame)]
        lens = capture.tracks[view.camera].lens(view.item) or Lens(view.width, view.height, 1.0, 1.0, 0.0, 0.0)
        values = _matched(read_depth(path, unit), lens, path)
        return torch.from_numpy(rectify_nearest(lens, values, (view.width, view.height)).copy())

    return read


def _matched(values: np.ndarray, lens: Lens, path: Path) -> np.ndarray:
    """At the lens's size; a rounding error of a pixel in the shape is let pass."""
    height, width = values.shape
    if abs(width * lens.height - height * lens.width) > 2 * max(width, height):
        raise InputError(f"{path}: is {width}x{height}, its picture {lens.width}x{lens.height}: another shape")
    if (width, height) == (lens.width, lens.height):
        return values
    return rectify_nearest(Lens(width, height, 1.0, 1.0, 0.0, 0.0), values, (lens.width, lens.height))


def _files(folder: Path, camera: str, capture: Capture) -> list[Path]:
    place = folder / camera
    if not place.is_dir() and len(capture.camera_names) == 1:
        place = folder
    if not place.is_dir():
        raise InputError(f"{place}: no such folder; depth maps of camera {camera} must lie there")
    found = [p for p in place.iterdir() if p.suffix.lower() in DEPTH_SUFFIXES]
    count = sum(v.camera == camera for v in capture.views)
    if len(found) != count:
        raise InputError(
            f"{place}: {len(found)} depth maps ({', '.join(DEPTH_SUFFIXES)}) for {count} frames of camera {camera}"
        )
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """So that frame2 comes before frame10."""
    parts = re.split(r"(\d+)", path.stem)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
