"""`scene4d cues`: what the source pictures have seen of every pixel of an edited scene along a path."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from scene4d.commands.render_clip import Clip
    from scene4d.cues.calibration import Calibration, Labels
    from scene4d.cues.project import Session, SessionOptions

PICTURES = ("render", "cue", "roles", "confidence")  # of scene4d.cues.drawing, which imports torch
FORMATS = ("mp4", "png", "npz")
UNSURE = 0.03  # calibration error from which the line is a warning


@dataclass(frozen=True)
class Config:
    """Say for every pixel of an edited scene along a path what was observed of it (docs/cues.md).

    Each pixel is Preserve (observed and still valid), Reveal (inside what the cameras covered, but not seen) or Expand
    (outside of it), with the colour that the source pictures show and a calibrated confidence in it. --out gets
    overview.mp4, cues.json, calibration.json and what --save and --format ask for.
    """

    project: Annotated[Path, tyro.conf.Positional]
    """The project folder, NAME.s4d."""
    out: Path
    """The folder to write."""
    camera_path: Path | None = None
    """A camera path: ours or nerfstudio's JSON, or edits:NAME, one kept beside the edits."""
    capture_camera: str | None = None
    """A camera of the capture, or A:B:0.5 for the view halfway between two."""
    times: str | None = None
    """Seconds of the scene, first:last. Default: the path's own, else the range of the capture."""
    fps: float | None = None
    """Frames a second. Default: the project's; for a capture camera without --times, its own frames."""
    speed: float = 1.0
    """Seconds of the scene in a second of the clip."""
    width: int | None = None
    """Pixels. Default: the path's or camera's. The vertical field of view stays."""
    height: int | None = None
    """Pixels."""
    long_side: int | None = None
    """Pixels of the longer side, instead of width and height."""
    save: str = "cue,roles,confidence"
    """Any of render,cue,roles,confidence, or none; overview.mp4 is always written."""
    format: str = "mp4"
    """Any of mp4,png,npz; npz holds all numbers of a frame."""
    capture: Path | None = None
    """The capture, if it is not where the project says."""
    source_side: int | None = None
    """Pixels of the longer side of the source pictures. Default: that of the fit."""
    max_sources: int = 100
    """Source views that are used at most, evenly chosen."""
    source_depth: Literal["scene", "capture"] = "scene"
    """Depth of the source views: of the fitted scene, or as the capture has it."""
    calibration: Path | None = None
    """A calibration.json of an earlier run. Default: made from the capture for this path."""
    assets: Literal["preserve", "reveal"] = "preserve"
    """Role of inserted assets: kept as they are, or painted again so that they blend in."""
    margin: float = 0.0
    """Pixels by which the observed extent reaches beyond the source pictures."""
    temporal: bool = True
    """Filter roles along the clip."""
    exposure: bool = True
    """Fit gains of the source pictures to each other."""
    edits: bool = True
    """The scene with its edits; --no-edits: as it was fitted."""
    workers: int = 2
    """Frames that are worked on together."""
    overwrite: bool = False
    """Replace a folder that this command has written."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.saved if name not in PICTURES] if self.save != "none" else []
        if unknown:
            raise ValueError(f"save must be some of {','.join(PICTURES)}, or none, got {self.save!r}")
        if not self.formats or any(name not in FORMATS for name in self.formats):
            raise ValueError(f"format must be some of {','.join(FORMATS)}, got {self.format!r}")
        for name, least in (("max_sources", 2), ("workers", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.source_side is not None and not 1 <= self.source_side <= 16384:
            raise ValueError(f"source_side must be 1 to 16384, got {self.source_side}")
        if not math.isfinite(self.margin):
            raise ValueError(f"margin must be finite, got {self.margin}")
        self.render_config()

    @property
    def saved(self) -> tuple[str, ...]:
        return () if self.save == "none" else tuple(dict.fromkeys(self.save.split(",")))

    @property
    def formats(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.format.split(",")))

    def render_config(self) -> Any:
        """The same frames as `scene4d render` would choose. Raises ValueError as its options do."""
        from scene4d.commands import render

        names = ("camera_path", "capture_camera", "times", "fps", "speed", "width", "height", "long_side", "edits")
        return render.Config(self.project, self.out, **{name: getattr(self, name) for name in names})


def main(config: Config) -> int:
    from rich.console import Console  # not at the top: `scene4d cues --help` does without torch
    from rich.progress import Progress

    from scene4d.commands.render_clip import make_clip
    from scene4d.cues.calibration import load_calibration
    from scene4d.cues.project import open_session
    from scene4d.cues.writing import CueWriter, check_out
    from scene4d.files.project import load_project

    check_out(config.out, config.overwrite)
    given = None if config.calibration is None else load_calibration(config.calibration)
    project = load_project(config.project)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading the source views", total=None)
        session = open_session(project, config.project, session_options(config))
        clip = make_clip(config.render_config(), project, session.after.edited.paths)
        progress.remove_task(task)
        calibration, labels = (given, None) if given is not None else _calibrate(session, clip, progress)
        task = progress.add_task("cues", total=len(clip.times))
        with CueWriter(config.out, config.saved, config.formats, clip.fps) as writer:
            for cue in session.stream(clip.cameras, clip.times, calibration, config.workers):
                writer.add(cue)
                progress.advance(task)
            _write_calibration(writer.folder, calibration, labels)
            writer.finish(_facts(config, session, calibration, project.units))
    _tell(console, config, session, calibration, writer.frames)
    return 0


def session_options(config: Config) -> SessionOptions:
    from scene4d.cues.frames import CueOptions
    from scene4d.cues.project import SessionOptions
    from scene4d.cues.roles import RoleOptions

    return SessionOptions(
        capture=config.capture,
        long_side=config.source_side,
        most_sources=config.max_sources,
        source_depth=config.source_depth,
        edits=config.edits,
        exposure=config.exposure,
        cues=CueOptions(RoleOptions(margin=config.margin, assets=config.assets), temporal=config.temporal),
    )


def _calibrate(session: Session, clip: Clip, progress: Progress) -> tuple[Calibration, Labels]:
    task = progress.add_task("calibrating", total=None)
    found = session.calibrate(
        clip.cameras, clip.times, lambda done, total: progress.update(task, completed=done, total=total)
    )
    progress.remove_task(task)
    return found


def _write_calibration(folder: Path, calibration: Calibration, labels: Labels | None) -> None:
    import numpy as np

    from scene4d.cues.calibration import save_calibration
    from scene4d.cues.drawing import reliability_picture
    from scene4d.cues.leave_one_out import held_out, predicted
    from scene4d.files.images import write_png

    save_calibration(folder / "calibration.json", calibration)
    if labels is not None:
        kept = labels.subset(held_out(labels))
        if len(kept.raw):
            picture = reliability_picture(kept, predicted(calibration, kept))
            write_png(folder / "reliability.png", np.ascontiguousarray(picture))


def _facts(config: Config, session: Session, calibration: Calibration, units: str) -> dict[str, Any]:
    views = session.prepared.views
    gains = session.prepared.gains.tolist()
    return {
        "project": config.project.name,
        "units": units,
        "sources": [
            {"camera": name, "frame": frame, "time": float(time), "gain": gain}
            for (name, frame), time, gain in zip(views.names, views.times, gains, strict=True)
        ],
        "hashes": session.hashes,
        "uncalibrated": list(calibration.uncalibrated),
        "calibration": dict(calibration.report),
    }


def _tell(
    console: Console, config: Config, session: Session, calibration: Calibration, frames: list[dict[str, Any]]
) -> None:
    size = f"{len(frames)} frame{'s' * (len(frames) != 1)} of {frames[0]['width']}x{frames[0]['height']}"
    console.print(f"{config.out}: cues of {size} from {len(session.prepared)} source views", markup=False)
    mean = {name: sum(f["shares"][name] for f in frames) / len(frames) for name in frames[0]["shares"]}
    console.print(", ".join(f"{name} {share:.1%}" for name, share in mean.items()), markup=False)
    if calibration.uncalibrated:
        strata = " and ".join(calibration.uncalibrated)
        console.print(f"uncalibrated: {strata} pixels had too few labels; their confidence is a fixed curve")
    held = calibration.report.get("held_out")
    if held:
        raw, after = held["all"]["raw"], held["all"]["calibrated"]
        line = f"calibration error {after['ece']:.3f} (raw {raw['ece']:.3f}) on {calibration.report['held_out_views']}"
        warning = "; more than 0.03: read the confidences with care" if after["ece"] > UNSURE else ""
        console.print(f"{line} source views that it was not made from{warning}", markup=False)
