"""`scene4d video`: an edited scene along a path as a finished video, made by a video editor."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from rich.console import Console

    from editors.writing import ClipWriter
    from scene4d.commands.render_clip import Clip
    from scene4d.cues import Calibration
    from scene4d.cues.project import Session, SessionOptions


@dataclass(frozen=True)
class Config:
    """Finish the video of an edited scene along a path (docs/completion.md).

    What the source pictures have seen is kept, the rest is made by a video editor. `classical` needs no weights: it
    carries observed pixels over from other frames, paints what none shows, and keeps what it has painted.

    --out FILE.mp4 or FILE.mov is the video; a folder gets frames/, origin/ (where each pixel comes from) and
    video.json. The project's runs/ gets a record. Nothing bears the final name before all of it is done.
    """

    project: Annotated[Path, tyro.conf.Positional]
    """The project folder, NAME.s4d."""
    out: Path
    """A video (.mp4, or .mov for ProRes), or a folder for frames."""
    editor: Literal["classical"] = "classical"
    """The video editor."""
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
    overview: Path | None = None
    """A second video (.mp4): render, cue, roles and result side by side."""
    capture: Path | None = None
    """The capture, if it is not where the project says."""
    source_side: int | None = None
    """Pixels of the longer side of the source pictures. Default: that of the fit."""
    max_sources: int = 100
    """Source views that are used at most, evenly chosen."""
    source_depth: Literal["scene", "capture"] = "scene"
    """Depth of the source views: of the fitted scene, or as the capture has it."""
    calibration: Path | None = None
    """A calibration.json of `scene4d cues`. Default: made from the capture for this path."""
    margin: float = 0.0
    """Pixels by which the observed extent reaches beyond the source pictures."""
    exposure: bool = True
    """Fit gains of the source pictures to each other."""
    edits: bool = True
    """The scene with its edits; --no-edits: as it was fitted."""
    workers: int = 2
    """Frames whose cues are worked on together."""
    overwrite: bool = False
    """Replace a video, or a folder that this command has written."""

    def __post_init__(self) -> None:
        self.cues_config()
        if self.overview is not None and self.overview.suffix.lower() != ".mp4":
            raise ValueError(f"overview must end in .mp4, got {self.overview.name}")
        if self.overview is not None and self.overview == self.out:
            raise ValueError("overview and out must be two files")

    def cues_config(self) -> Any:
        """The same frames and source views as `scene4d cues` would choose. Raises ValueError as its options do."""
        from scene4d.commands import cues

        path = ("camera_path", "capture_camera", "times", "fps", "speed", "width", "height", "long_side")
        sources = ("capture", "source_side", "max_sources", "source_depth", "margin", "exposure", "edits", "workers")
        return cues.Config(self.project, self.out, **{name: getattr(self, name) for name in (*path, *sources)})


def main(config: Config) -> int:
    from rich.console import Console  # not at the top: `scene4d video --help` does without torch

    from editors.scene_clips import scene_clip
    from editors.video import VideoEditRequest, video_editor
    from editors.writing import ClipWriter, check_place
    from scene4d.runs import create_run

    check_place(config.out, config.overwrite)
    if config.overview is not None:
        check_place(config.overview, config.overwrite)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    session, clip, calibration = _prepare(config, console)
    count = len(clip.times)
    frames = scene_clip(session, clip.cameras, clip.times, calibration, config.workers)
    request = VideoEditRequest(frames, count, clip.fps)
    with (
        create_run(config.project / "runs", "video", _plain(config)) as run,
        ClipWriter(config.out, config.overview, clip.fps) as writer,
    ):
        result = iter(video_editor(config.editor).edit(request).frames)
        for step in run.steps(0, count):
            writer.add(next(result))
            run.log(step, writer.frames[-1]["shares"])
        if next(result, None) is not None:
            raise AssertionError("the editor made more frames than were asked for")
        writer.finish({"project": config.project.name, "editor": config.editor})
        run.finish({"frames": count, "shares": mean_shares(writer)})
    _tell(console, config, clip, session, writer)
    return 0


def session_options(config: Config) -> SessionOptions:
    from scene4d.commands.cues import session_options as of_cues

    return of_cues(config.cues_config())


def _prepare(config: Config, console: Console) -> tuple[Session, Clip, Calibration]:
    """Source views, frames and calibration."""
    from rich.progress import Progress

    from scene4d.commands.render_clip import make_clip
    from scene4d.cues.calibration import load_calibration
    from scene4d.cues.project import open_session
    from scene4d.files.project import load_project

    given = None if config.calibration is None else load_calibration(config.calibration)
    project = load_project(config.project)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading the source views", total=None)
        session = open_session(project, config.project, session_options(config))
        clip = make_clip(config.cues_config().render_config(), project, session.after.edited.paths)
        progress.remove_task(task)
        if given is not None:
            return session, clip, given
        task = progress.add_task("calibrating", total=None)

        def advance(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        return session, clip, session.calibrate(clip.cameras, clip.times, advance)[0]


def mean_shares(writer: ClipWriter) -> dict[str, float]:
    """Of each origin, over the clip."""
    shares = [frame["shares"] for frame in writer.frames]
    return {name: sum(s[name] for s in shares) / len(shares) for name in shares[0]}


def _plain(config: Config) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}


def _tell(console: Console, config: Config, clip: Clip, session: Session, writer: ClipWriter) -> None:
    count, c = len(clip.times), clip.cameras
    size = f"{count} frame{'s' * (count != 1)} of {c.width}x{c.height}"
    console.print(
        f"{config.out}: {size} at {clip.fps:g} fps by {config.editor}, from {len(session.prepared)} source views",
        markup=False,
    )
    console.print(", ".join(f"{name} {share:.1%}" for name, share in mean_shares(writer).items()), markup=False)
    if config.overview is not None:
        console.print(f"{config.overview}: render, cue, roles, result", markup=False)
