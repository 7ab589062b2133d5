"""`scene4d inspect`: look at a capture before a fit does; estimate cameras where there are none."""

from __future__ import annotations

import json as json_format
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from rich.console import Console

    from scene4d.captures import Capture
    from scene4d.captures.estimate import Estimate
    from scene4d.captures.inspection import Report


@dataclass(frozen=True)
class Config:
    """Look at a capture before a fit does: counts, sizes, synchronisation, exposure, blur, cameras, cost.

    Nothing in the capture is written to. Exit code 2 where it cannot be used as it is, with one line that says why.
    """

    capture: Annotated[Path, tyro.conf.Positional]
    """The capture: a folder, the file that describes it, or a video. Formats: docs/captures_formats.md."""

    format: str = "auto"
    """How to read it; auto looks for itself and says what else it might be."""

    fps: float | None = None
    """The frame rate, for captures that do not tell theirs."""

    frames: str | None = None
    """Only these frames: a:b:step, as in a Python slice."""

    sheet: Path | None = None
    """Write a contact sheet to this PNG: thumbnails, and the cameras from above and from the side."""

    json: bool = False
    """Print one JSON object instead of tables."""

    samples: int = 24
    """Frames of each camera to look at."""

    estimate_cameras: bool = False
    """Estimate cameras by structure from motion (needs pycolmap) and write a capture that has them to --out."""

    out: Path | None = None
    """The folder for --estimate-cameras: a new one, or the capture's own to add cameras.json to it."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        if self.estimate_cameras and self.out is None:
            raise ValueError("--estimate-cameras needs --out FOLDER for the capture with cameras")


def main(config: Config) -> int:
    from rich.console import Console  # not at the top: `scene4d --help` does without

    from scene4d.captures import CaptureWarning, open_capture

    # without a terminal, as wide as it takes: one line stays one line for whatever reads it
    console = Console(highlight=False, stderr=config.json, width=None if sys.stdout.isatty() else 200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaptureWarning)  # they are printed as notes
        # cameras are estimated from the pictures as captured: those that the folder may have are not believed
        format = "frames" if config.estimate_cameras else config.format
        capture = open_capture(config.capture, format, config.fps).subset(config.frames)
        if config.estimate_cameras and config.out is not None:
            capture = open_capture(_estimate(capture, config.out, console), "cameras-json", config.fps)
        report = _inspect(capture, config.samples, console)
    if config.json:
        sys.stdout.write(json_format.dumps(report.as_json(), indent=1) + "\n")
    else:
        show(report, console)
    if config.sheet is not None:
        from scene4d.captures.sheet import contact_sheet

        config.sheet.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(capture, report).save(config.sheet, format="PNG")
        console.print(f"contact sheet: {config.sheet}", markup=False)
    return 0


def _inspect(capture: Capture, samples: int, console: Console) -> Report:
    from rich.progress import Progress

    from scene4d.captures.inspection import inspect_capture

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("looking at pictures", total=None)
        return inspect_capture(capture, samples, lambda total: progress.update(task, total=total, advance=1))


def _estimate(capture: Capture, out: Path, console: Console) -> Path:
    from scene4d.captures.estimate import estimate_cameras

    with console.status("estimating cameras") as status:
        found = estimate_cameras(capture, out, say=lambda stage: status.update(f"estimating cameras: {stage}"))
    _show_estimate(found, console)
    return found.folder


def _show_estimate(found: Estimate, console: Console) -> None:
    error = found.reprojection
    pixels = f", reprojection {error.median:.2f} px median, {error.p95:.2f} px 95 %" if error else ""
    console.print(f"{found.registered} of {found.pictures} pictures have a pose, {found.points} points{pixels}")
    if found.missing:
        more = f" and {len(found.missing) - 6} more" if len(found.missing) > 6 else ""
        console.print(f"without a pose and left out: {', '.join(found.missing[:6])}{more}", markup=False)
    console.print(f"capture with cameras: {found.folder}", markup=False)


def show(report: Report, console: Console) -> None:
    """Tables of a report."""
    from rich.table import Table

    rate = f" at {report.fps:g} fps" if report.fps else ""
    console.print(f"{report.path}: {report.format}", style="bold", markup=False)
    splits = ", ".join(f"{count} {name}" for name, count in report.splits.items())
    length = f"{report.duration:.4g} s{rate}"
    console.print(f"{report.views} views ({splits}), {report.frames} frames, {length}, {report.units}")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("camera", "frames", "size", "fps", "stands", "also", "light", "jump", "sharp", "blurred", "moving"):
        left = name in ("camera", "size", "stands", "also")
        table.add_column(name, justify="left" if left else "right", no_wrap=name in ("camera", "size"))
    quality = {q.name: q for q in report.quality}
    for camera in report.cameras[:64]:
        q = quality.get(camera.name)
        stands = "-" if camera.static is None else "still" if camera.static else "moves"
        cells = [camera.name, str(camera.frames), f"{camera.width}x{camera.height}"]
        cells += [f"{camera.fps:g}" if camera.fps else "-", stands, " ".join(camera.layers) or "-"]
        if q is not None:
            moving = "-" if q.moving_area is None else f"{q.moving_area:.1%}"
            blurred = f"{len(q.blurred)}/{q.sampled}"
            cells += [f"{q.brightness:.2f}", f"{q.largest_jump:.2f} EV", f"{q.sharpness:.0f}", blurred, moving]
        table.add_row(*cells)
    console.print(table)
    _show_rig(report, console)
    fit = report.fit
    console.print(
        f"a fit at {fit.long_side} pixels: about {fit.memory_bytes / 2**30:.1f} GiB and "
        f"{fit.minutes_per_1000_steps:.1f} minutes per 1000 steps on one core (rough)"
    )
    for note in report.notes:
        console.print(f"note: {note}", style="dim", markup=False)
    for warning in report.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)


def _show_rig(report: Report, console: Console) -> None:
    rig = report.rig
    if rig is None:
        return
    kinds = [f"{n} {word}" for n, word in ((rig.still, "still"), (rig.moving, "moving")) if n]
    parts = [f"cameras: {' and '.join(kinds)}, span {rig.extent:.3g} {report.units}"]
    parts.append(f"widest angle {rig.widest_angle:.0f} degrees")
    if rig.path_length:
        parts.append(f"path {rig.path_length:.3g}")
    if rig.distance is not None:
        parts.append(f"look at a point {rig.distance:.3g} away")
    if rig.neighbour_angles:
        angles = rig.neighbour_angles.values()
        parts.append(f"neighbours {min(angles):.0f} to {max(angles):.0f} degrees apart")
    console.print(", ".join(parts))
    if report.points:
        text = f"{report.points} points"
        if report.reprojection is not None:
            r = report.reprojection
            text += f", seen {r.observations} times; reprojection {r.median:.2f} px median, {r.p95:.2f} px 95 %"
        console.print(text)
