"""Cues of a project: source views from its capture, target frames from its edited scene, calibration on its capture.

    session = open_session(project, folder, SessionOptions(long_side=480))
    calibration = session.calibrate(cameras, times)
    for cue in session.stream(cameras, times, calibration): ...

S source views, T frames of a clip.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from renderers import Cameras
from scene4d.captures import Capture, CaptureWarning, View, open_capture
from scene4d.cues.calibration import Calibration, Labels
from scene4d.cues.exposure import with_gains
from scene4d.cues.features import FEATURES
from scene4d.cues.frames import CueFrame, CueOptions, draft_cue, stream_cues
from scene4d.cues.leave_one_out import calibrate, leave_one_out, nearest_baselines, weighed
from scene4d.cues.rendered import SceneFrames, scene_sources
from scene4d.cues.sources import Prepared, SourceViews, VisibilityOptions, prepare
from scene4d.cues.target import TargetFrame
from scene4d.edits import EditedScene, load_edited
from scene4d.errors import InputError
from scene4d.evaluation import fitted_capture
from scene4d.evaluation_views import spread
from scene4d.files.project import Project
from scene4d.scene_tools import scene_hash

MOST_SOURCES = 100
PROBES = 6  # target frames that tell where the path goes
LABELLED = 32  # source views that are predicted for the calibration, at most
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SessionOptions:
    """What the cues of a project are made from."""

    capture: Path | None = None  # where the capture is, if not where the project says
    long_side: int | None = None  # pixels of the source pictures. None: those of the fit
    most_sources: int = MOST_SOURCES
    source_depth: str = "scene"  # or "capture": measured depth where the capture has it
    edits: bool = True
    exposure: bool = True  # fit gains of the source pictures
    visibility: VisibilityOptions = field(default_factory=VisibilityOptions)
    cues: CueOptions = field(default_factory=CueOptions)

    def __post_init__(self) -> None:
        if self.source_depth not in ("scene", "capture"):
            raise ValueError(f"source_depth must be scene or capture, got {self.source_depth!r}")
        if self.most_sources < 2:
            raise ValueError(f"most_sources must be at least 2, got {self.most_sources}")


@dataclass(frozen=True, eq=False)
class Session:
    """Prepared source views and the scene before and after the edits."""

    prepared: Prepared
    before: SceneFrames
    after: SceneFrames
    options: SessionOptions
    hashes: dict[str, str]

    def target(self, cameras: Cameras, times: Sequence[float]) -> Callable[[int], TargetFrame]:
        """Frame k of a clip of the edited scene."""
        return lambda k: self.after.frame(_one(cameras, k), times[k])

    def stream(
        self, cameras: Cameras, times: Sequence[float], calibration: Calibration | None, workers: int = 2
    ) -> Iterator[CueFrame]:
        """The cue frames of a clip, see `stream_cues`."""
        target = self.target(cameras, times)
        return stream_cues(self.prepared, target, len(times), self.options.cues, calibration, workers)

    def labels(self, cameras: Cameras, times: Sequence[float], progress: Progress | None = None) -> Labels:
        """Leave-one-out labels that suit a clip: as far from other views, and at such angles, as its frames are."""
        target = self.target(cameras, times)
        probes = [target(k) for k in spread(range(len(times)), PROBES)]
        views = self.prepared.views

        def predicted_view(s: int) -> TargetFrame:
            return self.before.frame(views.camera(s), float(views.times[s]))

        chosen = spread(range(len(views)), LABELLED)
        baselines = nearest_baselines(self.prepared, probes)
        labels = leave_one_out(self.prepared, predicted_view, baselines, self.options.cues, chosen, progress)
        return weighed(labels, self._angles(probes))

    def calibrate(
        self, cameras: Cameras, times: Sequence[float], progress: Progress | None = None
    ) -> tuple[Calibration, Labels]:
        """A calibration for a clip, and the labels that it was made from and assessed on."""
        labels = self.labels(cameras, times, progress)
        return calibrate(labels, self.hashes), labels

    def _angles(self, probes: Sequence[TargetFrame]) -> np.ndarray:
        """Degrees between the lines of sight of target pixels and of their best views."""
        options = replace(self.options.cues, keep_features=True)
        found = [draft_cue(self.prepared, probe, options) for probe in probes]
        column = FEATURES.index("angle")
        return np.concatenate([d.features[d.evidence.count > 0, column].cpu().numpy() for d in found])


def open_session(project: Project, folder: Path, options: SessionOptions | None = None) -> Session:
    """The source views of a project and its scene before and after its edits.

    Raises InputError: the capture or an edit's file is not there, or the capture has no pictures or cameras.
    """
    options = options or SessionOptions()
    capture, views = source_views(project, folder, options)
    sources = read_sources(project, capture, views, options)
    prepared = prepare(sources, options.visibility)
    if options.exposure and len(prepared) > 1:
        prepared = with_gains(prepared)
    background = fitted_background(project)
    edited = load_edited(project, folder) if options.edits else EditedScene(project.scene)
    hashes = {"scene": scene_hash(project.scene), "sources": sources_hash(sources)}
    before = SceneFrames(project.scene, background)
    return Session(prepared, before, SceneFrames(edited, background), options, hashes)


def source_views(project: Project, folder: Path, options: SessionOptions) -> tuple[Capture, list[View]]:
    """The capture at the size of the pictures, and those of its views that count as observed: fitted ones, at most
    `most_sources`, evenly chosen. Raises InputError."""
    capture, trained = fitted_capture(_open(project, folder, options.capture), project.fit)
    side = options.long_side or (project.fit or {}).get("long_side")
    capture = capture if side is None else capture.resized(int(side))
    views = [v for v in capture.views if v.key in trained]
    if not views:
        raise InputError(f"{capture.root}: none of its views was fitted, so nothing counts as observed")
    return capture, spread(views, options.most_sources)


def read_sources(project: Project, capture: Capture, views: Sequence[View], options: SessionOptions) -> SourceViews:
    """Pictures of the views with depth and instances from the fitted scene, or depth from the capture."""
    cameras = [capture.cameras([v]) for v in views]
    images = [capture.image_u8(v) for v in views]
    names = tuple(v.key for v in views)
    valid = [capture.valid(v) for v in views]
    sources = scene_sources(project.scene, images, cameras, [v.time for v in views], names, valid)
    if options.source_depth == "capture":
        depth = sources.depth.clone()
        for s, view in enumerate(views):
            measured = capture.depth(view)
            if measured is None:
                raise InputError(
                    f"{capture.root}: camera {view.camera} has no depth; --source-depth scene does without"
                )
            depth[s, : view.height, : view.width] = measured
        sources = replace(sources, depth=depth)
    return sources


def sources_hash(sources: SourceViews) -> str:
    """sha256 of pictures, cameras and times."""
    sha = hashlib.sha256()
    for tensor in (sources.images, sources.world_to_cam, sources.K, sources.times):
        sha.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    return sha.hexdigest()


def fitted_background(project: Project) -> Tensor | None:
    """The colour [3] that a project was fitted before; None: black."""
    color = (project.fit or {}).get("background")
    return torch.tensor(color, dtype=torch.float32) if isinstance(color, list) and len(color) == 3 else None


def _open(project: Project, folder: Path, path: Path | None) -> Capture:
    if path is None:
        if project.capture is None:
            raise InputError(f"{folder}: has no capture, so nothing counts as observed; give one with --capture FOLDER")
        path = folder / project.capture  # an absolute one stands for itself
        if not path.exists():
            raise InputError(f"{path}: the capture of {folder} is not there; give it with --capture FOLDER")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaptureWarning)  # `scene4d inspect` tells them
        capture = open_capture(path)
        return open_capture(path, fps=project.fps) if capture.fps is None and project.fps else capture


def _one(cameras: Cameras, k: int) -> Cameras:
    return Cameras(cameras.world_to_cam[k : k + 1], cameras.K[k : k + 1], cameras.width, cameras.height)
