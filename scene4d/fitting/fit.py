"""`fit_capture`: a capture becomes a scene, in a run folder. It can be cancelled, killed at any moment, and resumed.

A checkpoint is written when the first scene is made, then every `checkpoint_steps`, and at the end. All chance is drawn
from the seed and the number of the step, so however often a fit is stopped its scene is the same to the bit, with the
same number of threads.
"""

from __future__ import annotations

import hashlib
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scene4d.captures import Capture, View
from scene4d.captures.checks import chosen_frames
from scene4d.cli import is_out_of_memory
from scene4d.errors import InputError
from scene4d.evaluation import fitted_capture
from scene4d.fitting.depth_maps import DepthSource, take_depth_maps
from scene4d.fitting.footage import Footage, open_footage
from scene4d.fitting.model import make_model, model_from_state
from scene4d.fitting.previews import preview_views, training_psnr, write_preview
from scene4d.fitting.recovery import Work, recover
from scene4d.fitting.settings import FitSettings
from scene4d.fitting.start import prepare, start_scene
from scene4d.fitting.train import Fit
from scene4d.runs import Cancelled, Run, Scalar
from scene4d.scene import Scene4D
from scene4d.scene_tools import scene_hash

LOG_EVERY = 10  # steps
DEPTHS, START, STEPS, CHECKPOINTS, END = "depths", "start", "steps", "checkpoints", "end"  # phases
DEPTH_REPORT = "depth_maps.json"  # in the run's folder: how well each map agrees with sparse points
CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a fit has made."""

    scene: Scene4D  # on the CPU
    exposures: dict[str, Tensor]  # by camera that was fitted to, [3, 4] float64; empty without exposure
    metrics: dict[str, Any]  # for metrics.json


@dataclass(frozen=True)
class Reports:
    """What a caller gets to know while a fit runs."""

    phase: Callable[[str], AbstractContextManager[Any]] = nullcontext  # entered with a text for the time of its work
    scalars: Callable[[int, Mapping[str, Scalar]], None] = lambda step, scalars: None  # every tenth step
    event: Callable[[str], None] = lambda text: None  # a step failed, and what was done about it
    note: Callable[[str], None] = lambda text: None  # what was found in the input


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Rendering has threads of its own; torch's many small operations lose more by waiting than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_torch_thread()
def fit_capture(
    capture: Capture,
    settings: FitSettings,
    run: Run,
    *,
    frames: str | None = None,
    hold_out: str | None = None,
    device: torch.device = CPU,
    reports: Reports | None = None,
    depths: DepthSource | None = None,
) -> Fitted:
    """Fit a scene to a capture, or go on with a fit whose checkpoints the run holds.

    Args:
        capture: at its own size; pictures are made smaller as the settings say.
        settings: the same as before, where the run is resumed. Torch has one thread meanwhile.
        run: in use by this process (`with create_run(...) as run`). It gets checkpoints, log and previews; writing
            metrics.json is left to the caller, who first stores the scene.
        frames: those that are fitted to, as a:b:step; all if not given.
        hold_out: of these, those that are left out besides the capture's own test views.
        device: where to fit; "cuda" needs gsplat.
        reports: what to tell, and whom.
        depths: depth maps that are taken in place of the capture's own. A fit that is resumed needs the same.

    Raises:
        InputError: the capture cannot be fitted to; the message says why.
        Cancelled: `run` was cancelled; a checkpoint keeps all that was done.
        Diverged, MemoryError: also after what can be done about it.
    """
    reports = reports or Reports()
    footage = choose_footage(capture, settings, frames, hold_out, device)
    seconds: dict[str, float] = {}
    if depths is not None:
        with run.interruptible(), reports.phase("taking depth maps"), _clock(seconds, DEPTHS):
            reports.note(take_depth_maps(footage, depths, run.folder / DEPTH_REPORT))
    work = _resumed(footage, settings, run, reports) or _started(footage, settings, run, reports)
    for phase, spent in seconds.items():
        work.seconds[phase] = work.seconds.get(phase, 0.0) + spent
    take_steps(work, reports)
    with reports.phase("measuring"), _clock(work.seconds, END):
        scene, psnr = work.fit.model.finished(), training_psnr(work.fit)
    return Fitted(scene, _exposures(work.fit), _metrics(work, scene, psnr))


def choose_footage(
    capture: Capture, settings: FitSettings, frames: str | None, hold_out: str | None, device: torch.device = CPU
) -> Footage:
    """The views to fit to, at the fit's size. Raises InputError: there are none, of one frame only, or no cameras."""
    _check_names_frames("frames", frames, capture)
    part, trained = fitted_capture(capture, {"frames": frames, "hold_out": hold_out})
    _check_names_frames("hold_out", hold_out, part)
    if settings.long_side is not None:
        part = part.resized(settings.long_side)
    views = [v for v in part.views if v.key in trained]
    count = len({v.frame for v in views})
    if count < 2:
        chosen = f"frames {frames or 'all'}, held out {hold_out or 'none'} and the capture's own"
        raise InputError(f"{capture.root}: {count or 'no'} frame is left to fit to, two are needed ({chosen})")
    return open_footage(part, views, device)


def _check_names_frames(name: str, chosen: str | None, capture: Capture) -> None:
    frames = capture.frames
    if chosen is not None and not {*chosen_frames(chosen, frames[-1], name)} & {*frames}:
        raise InputError(
            f"{capture.root}: {name} {chosen!r} names none of its {len(frames)} frames, {frames[0]} to {frames[-1]}"
        )


def fingerprint(views: Sequence[View]) -> str:
    """What tells one choice of views from another: 16 hexadecimal digits of names, times, sizes and cameras."""
    digest = hashlib.sha256()
    for v in views:
        matrices = [None if x is None else x.tolist() for x in (v.K, v.world_to_cam)]
        digest.update(repr((v.camera, v.frame, v.time, v.width, v.height, matrices)).encode())
    return digest.hexdigest()[:16]


# -- phases ------------------------------------------------------------------------------------------------------------


def _started(footage: Footage, settings: FitSettings, run: Run, reports: Reports) -> Work:
    """The first scene, and the checkpoint of step 0."""
    seconds: dict[str, float] = {}
    times = [v.time for v in footage.capture.views]
    span = min(times), max(times)
    gap = 1 / footage.capture.fps if footage.capture.fps else (span[1] - span[0]) / (len(footage.capture.frames) - 1)
    try:
        with run.interruptible(), reports.phase("making the first scene"), _clock(seconds, START):
            start = start_scene(footage, settings, span, gap)
            cameras = len(footage.capture.camera_names)
            model = make_model(start.scene, cameras, start.size, settings, footage.device)
    except (MemoryError, RuntimeError) as e:
        if not is_out_of_memory(e):
            raise
        raise MemoryError("for the first scene; fit with a smaller --long-side or --max-gaussians") from e
    work = Work(Fit(footage, settings, model, start.graph, origin=start.origin), run, seconds)
    work.save()
    if settings.preview_steps:
        write_preview(work.fit, preview_views(footage), run.folder)
    return work


def _resumed(footage: Footage, settings: FitSettings, run: Run, reports: Reports) -> Work | None:
    """The fit as the last checkpoint has it; None where there is none."""
    found = run.load_checkpoint()
    if found is None:
        return None
    state = found.state["fit"]
    if len(state["model"]["exposure"]) != len(footage.capture.camera_names):
        raise InputError(f"{footage.capture.root}: has other cameras than when the fit was started")
    with run.interruptible(), reports.phase("going back to the last checkpoint"):
        prepare(footage)  # the first scene's work, which no checkpoint holds
        work = Work(Fit(footage, settings, model_from_state(state["model"], settings, footage.device), None), run, {})
        work.restore(found)
    return work


def take_steps(work: Work, reports: Reports) -> None:
    """All steps that are left. Raises as `fit_capture`."""
    total = work.fit.settings.steps
    views = preview_views(work.fit.footage)
    while work.fit.step < total:
        try:
            with closing(work.run.steps(work.fit.step, total)) as steps:
                for _ in steps:
                    _take_step(work, views, reports)
        except Cancelled:
            if work.fit.is_finite():
                work.save()
            raise
        except (ArithmeticError, MemoryError, RuntimeError, ValueError) as e:
            error = e
        else:
            continue
        reports.event(recover(work, error))


def _take_step(work: Work, views: Sequence[View], reports: Reports) -> None:
    fit, settings = work.fit, work.fit.settings
    with _clock(work.seconds, STEPS):
        scalars = fit.advance()
        done = fit.step
        if done % LOG_EVERY == 0 or done == settings.steps:
            work.run.log(done - 1, scalars)
            reports.scalars(done - 1, scalars)
        if settings.preview_steps and (done % settings.preview_steps == 0 or done == settings.steps):
            write_preview(fit, views, work.run.folder)
    if done % settings.checkpoint_steps == 0 or done == settings.steps:
        with _clock(work.seconds, CHECKPOINTS):
            work.save()


@contextmanager
def _clock(seconds: dict[str, float], phase: str) -> Iterator[None]:
    begin = time.monotonic()
    yield
    seconds[phase] = seconds.get(phase, 0.0) + time.monotonic() - begin


# -- results -----------------------------------------------------------------------------------------------------------


def _exposures(fit: Fit) -> dict[str, Tensor]:
    """Of the cameras that were fitted to: of the others nothing is known."""
    if not fit.settings.exposure:
        return {}
    names = fit.footage.capture.camera_names
    matrices = fit.exposures().detach().cpu().double()
    return {name: matrices[names.index(name)] for name in fit.footage.camera_names}


def _metrics(work: Work, scene: Scene4D, psnr: float | None) -> dict[str, Any]:
    fit = work.fit
    found = {
        "psnr_train": psnr,
        "steps": fit.step,
        "gaussians": len(scene),
        "handles": 0 if scene.rig is None else len(scene.rig),
        "views": len(fit.footage.views),
        "rollbacks": fit.rollbacks,
        "memory_reductions": work.shrinks,
        "seconds": round(sum(work.seconds.values()), 3),
        "seconds_by_phase": {name: round(value, 3) for name, value in work.seconds.items()},
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),  # Linux counts in KiB
        "device": str(fit.footage.device),
        "threads": work.fit.settings.threads,
        "scene_hash": scene_hash(scene),
    }
    if fit.footage.device.type == "cuda":
        found["peak_gpu_mb"] = round(torch.cuda.max_memory_allocated(fit.footage.device) / 2**20, 1)
    return found
