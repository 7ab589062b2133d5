"""`scene4d segment`: masks of some frames become instances of a project's scene."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from scene4d.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scene4d.captures import Capture, View
    from scene4d.edits.segmenting import MaskedView
    from scene4d.files.project import Project

DEFAULT_LONG_SIDE = 480
MAX_VIEWS = 48  # that are taken if --frames does not choose


@dataclass(frozen=True)
class Config:
    """Give the scene of a project NAME.s4d the instances that masks of some frames show (docs/editing.md).

    Every Gaussian takes the id that most of what the views show of it lies in; what no view shows takes that of its
    neighbours. Handles that would serve two instances are split. The scene looks and moves as before.
    """

    project: Annotated[Path, tyro.conf.Positional]
    """The project folder, NAME.s4d."""
    masks: Path | None = None
    """Masks as pictures whose values are ids (0 = background): FOLDER/CAMERA/FRAME.png, with the frame's number.
    Default: the capture's own."""
    capture: Path | None = None
    """The capture, if it is not where the project says."""
    frames: str | None = None
    """Frames to take masks of: a:b:step. Default: all that have one, evenly thinned to 48 views."""
    cameras: str | None = None
    """Only of these cameras, as A,B,..."""
    long_side: int | None = None
    """Pixels of the longer side at which masks are lifted. Default: that of the fit, else 480."""
    check: bool = True
    """Render the ids afterwards and compare them with the masks."""

    def __post_init__(self) -> None:
        if self.long_side is not None and not 1 <= self.long_side <= 16384:
            raise ValueError(f"long_side must be 1 to 16384, got {self.long_side}")


def main(config: Config) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from scene4d.edits.loading import load_edited
    from scene4d.edits.segmenting import mask_agreement, segment
    from scene4d.files.project import load_project, update_project

    project = load_project(config.project)
    capture = _capture(config, project)
    views = _views(config, capture)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("lifting masks", total=len(views))
        masked = _masked(config, capture, views)
        found = segment(project.scene, masked, progress=lambda done: bar.update(task, completed=done))
    try:
        load_edited(_replaced(project, found.scene), config.project)
    except InputError as e:
        raise InputError(f"the edits do not fit the new instances ({e}); take them back first") from e
    update_project(config.project, scene=found.scene)
    agreement = mask_agreement(found.scene, _masked(config, capture, views)) if config.check else {}
    sys.stdout.write("".join(f"{line}\n" for line in _lines(config, found, agreement, len(views))))
    return 0


def _replaced(project: Project, scene: Any) -> Project:
    from dataclasses import replace

    return replace(project, scene=scene)


def _lines(config: Config, found: Any, agreement: dict[int, float], views: int) -> list[str]:
    before, after = found.handles
    lines = [f"{config.project}: {len(found.ids)} ids from {views} masks; {found.unseen:,} Gaussians are hidden in all"]
    for k in found.ids:
        name = "background" if k == 0 else f"instance {k}"
        known = f", IoU with the masks {agreement[k]:.3f}" if k in agreement else ""
        lines.append(f"  {name}: {found.counts[k]:,} Gaussians{known}")
    return [*lines, f"handles: {before} before, {after} now" if before else "no handles"]


# -- masks -------------------------------------------------------------------------------------------------------------


def _capture(config: Config, project: Project) -> Capture:
    import warnings

    from scene4d.captures import CaptureWarning, open_capture

    path = config.capture
    if path is None:
        if project.capture is None:
            raise InputError(f"{config.project}: has no capture; give one with --capture FOLDER")
        path = config.project / project.capture
        if not path.exists():
            raise InputError(f"{path}: the capture of {config.project} is not there; give it with --capture FOLDER")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaptureWarning)  # `scene4d inspect` tells them
        capture = open_capture(path)
        if capture.fps is None and project.fps is not None:
            capture = open_capture(path, fps=project.fps)
    names = None if config.cameras is None else config.cameras.split(",")
    side = config.long_side or (project.fit or {}).get("long_side") or DEFAULT_LONG_SIDE
    if type(side) is not int or side < 1:
        raise InputError(f"project.json: long_side must be a whole number of pixels, got {str(side)[:40]}")
    return capture.subset(config.frames, names).resized(side)


def _views(config: Config, capture: Capture) -> list[View]:
    """The views that have a mask; without --frames at most MAX_VIEWS, evenly chosen."""
    if config.masks is not None and not config.masks.is_dir():
        raise InputError(f"{config.masks}: there is no such folder of masks")
    views = [view for view in capture.views if _file(config, view) is not None or _has_own(config, capture, view)]
    if not views:
        where = config.masks if config.masks is not None else capture.root
        hint = "CAMERA/FRAME.png" if config.masks is not None else "masks; give some with --masks FOLDER"
        raise InputError(f"{where}: has no {hint}")
    if config.frames is None and len(views) > MAX_VIEWS:
        step = len(views) / MAX_VIEWS
        views = [views[int(k * step)] for k in range(MAX_VIEWS)]
    return views


def _has_own(config: Config, capture: Capture, view: View) -> bool:
    return config.masks is None and "mask" in capture.tracks[view.camera].layers


def _file(config: Config, view: View) -> Path | None:
    """The mask picture of a view: its frame's number, with any zeros before it."""
    if config.masks is None:
        return None
    folder = config.masks / view.camera
    found = [p for p in sorted(folder.glob("*.png")) if p.stem.isdecimal() and int(p.stem) == view.frame]
    return found[0] if found else None


def _masked(config: Config, capture: Capture, views: list[View]) -> Iterator[MaskedView]:
    from scene4d.edits.segmenting import MaskedView

    for view in views:
        file = _file(config, view)
        ids = capture.labels(view) if file is None else _read_ids(file, view)
        if ids is not None:
            yield MaskedView(capture.cameras([view]), view.time, ids)


def _read_ids(file: Path, view: View) -> Any:
    import cv2
    import numpy as np
    import torch

    picture = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.ndim != 2:
        raise InputError(f"{file}: must be a picture of one channel whose values are ids")
    shown = cv2.resize(picture, (view.width, view.height), interpolation=cv2.INTER_NEAREST_EXACT)
    return torch.from_numpy(shown.astype(np.int32))
