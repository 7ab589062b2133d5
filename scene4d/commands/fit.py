"""`scene4d fit`: a capture becomes a project."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from scene4d.errors import InputError
from scene4d.fitting.settings import PRESETS, FitSettings, with_changes

if TYPE_CHECKING:
    from rich.console import Console

    from scene4d.captures import Capture, View
    from scene4d.fitting.depth_maps import DepthSource
    from scene4d.fitting.fit import Fitted, Reports
    from scene4d.runs import Run

KIND, DEFAULT_PRESET, DEFAULT_KIND = "fit", "standard", "metric"
PLOTS = "tensorboard"
PATHS = ("capture", "depth_folder", "depth_model")  # options that a run stores relative to its project
# options that are not asked to be the same when a fit is resumed
FREE = ("out", "resume", "overwrite", "tensorboard")
MOST_UPS = 2  # "../../capture" is still said relative to the project; what lies farther off is named in full


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fit a scene to a capture: posed videos become moving Gaussians, in a project NAME.s4d (docs/fitting.md).

    Ctrl-C stops it after the step in flight; the same command with --resume goes on, also after a crash.
    """

    capture: Annotated[Path | None, tyro.conf.Positional] = None
    """The capture: a folder, or the file that describes it. Not needed with --resume."""
    out: Path
    """The project to make, NAME.s4d."""
    preset: Literal["draft", "standard", "high"] | None = None
    """draft: 320 px, 800 steps. standard (the default): 480 px, 6000 steps. high: 1080 px, 30000 steps."""
    steps: int | None = None
    """Optimisation steps. Default: the preset's, as for all options below."""
    max_gaussians: int | None = None
    """Most Gaussians that the scene may have."""
    long_side: int | None = None
    """Pixels of the longer side of the pictures that are fitted to; never larger than captured."""
    frames: str | None = None
    """Fit only these frames: a:b:step, as in a Python slice."""
    hold_out: str | None = None
    """Of these, leave out a:b:step, besides the capture's own test views, for `scene4d evaluate`."""
    cameras: str | None = None
    """Fit only to these cameras, as A,B,... The others count as held out."""
    depth_folder: Path | None = None
    """Take depth from files in it: a folder for each camera with a .npy or 16-bit .png for each frame, in order."""
    depth_kind: Literal["metric", "depth", "inverse"] | None = None
    """What they hold: metric (the default), z in scene units; depth or inverse depth whose scale is to be found."""
    depth_model: Path | None = None
    """Take depth from a network: the local folder of one saved by transformers (Depth Anything, DPT, ...)."""
    sh_degree: int | None = None
    """How finely colour depends on the direction of view: 0 (not at all) to 3."""
    handles: int | None = None
    """Most handles of the rig that carries what moves."""
    densification: Literal["mcmc", "default", "none"] | None = None
    """How Gaussians are added: mcmc (3DGS-MCMC, under the cap), default (as in 3DGS; needs gsplat), none."""
    exposure: bool = True
    """Fit a colour matrix to each camera."""
    seed: int | None = None
    """Of all chance. Same seed, machine and number of threads: same scene."""
    threads: int | None = None
    """Threads of the CPU. Default: as PyTorch chooses."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where a GPU and gsplat are there, else cpu."""
    checkpoint_steps: int | None = None
    """Steps between two checkpoints: at most so many are lost when the process is killed."""
    previews: bool = True
    """Write pictures, rendered beside captured, to runs/ID/previews/ while it runs."""
    tensorboard: bool = False
    """Also write files for TensorBoard to runs/ID/tensorboard/."""
    resume: bool = False
    """Go on with the last fit of the project, with the options that it was started with."""
    overwrite: bool = False
    """Replace the scene of a project that is there, or leave its unfinished fit; runs stay."""

    def __post_init__(self) -> None:
        if self.out.suffix != ".s4d":
            raise ValueError(f"out must end in .s4d, got {self.out}")
        if self.capture is None and not self.resume:
            raise ValueError("CAPTURE must be given; only --resume does without")
        if self.resume and self.overwrite:
            raise ValueError("--resume must not be given together with --overwrite")
        if self.threads is not None and not 1 <= self.threads <= 4096:
            raise ValueError(f"threads must be 1 to 4096, got {self.threads}")
        if self.depth_folder is not None and self.depth_model is not None:
            raise ValueError("--depth-folder must not be given together with --depth-model")
        if self.depth_kind is not None and self.depth_folder is None:
            raise ValueError("--depth-kind must be given together with --depth-folder")
        names = self.camera_names() or []
        if "" in names or len({*names}) < len(names):
            raise ValueError(f"cameras must be different names A,B,..., got {self.cameras!r}")
        self.settings()

    def settings(self) -> FitSettings:
        """Of the preset, with the options that were given."""
        changes = {f.name: getattr(self, f.name, None) for f in fields(FitSettings)}
        if not self.previews:
            changes["preview_steps"] = 0
        return with_changes(PRESETS[self.preset or DEFAULT_PRESET], **changes)

    def camera_names(self) -> list[str] | None:
        return None if self.cameras is None else [name.strip() for name in self.cameras.split(",")]

    def given(self) -> dict[str, Any]:
        """The options that differ from their defaults, but for those of FREE."""
        return {f.name: x for f in fields(self) if f.name not in FREE and (x := getattr(self, f.name)) != f.default}


def main(config: Config) -> int:
    from rich.console import Console  # not at the top: `scene4d fit --help` does without torch

    from scene4d.fitting.previews import check_plots

    if config.tensorboard:
        check_plots()
    console = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 200)
    run, capture, depths = _resumed_run(config) if config.resume else _new_run(config)
    with run:
        try:
            fitted = _fit(config, run, (capture, depths), console)
        except KeyboardInterrupt:
            console.print(f"`scene4d fit --out {config.out} --resume` goes on with it", markup=False)
            raise
        _save(config.out, run, capture, fitted)
        run.finish(fitted.metrics)
    _tell(config.out, capture.camera_names[0], fitted)
    return 0


def _fit(config: Config, run: Run, given: tuple[Capture, DepthSource | None], console: Console) -> Fitted:
    import torch

    from scene4d.fitting.fit import fit_capture

    options = run.config
    closers = []
    try:
        return fit_capture(
            _of_cameras(given[0], options.get("cameras")),
            FitSettings(**options["settings"]),
            run,
            frames=options["frames"],
            hold_out=options["hold_out"],
            device=torch.device(options["device"]),
            reports=_reports(config, run, console, closers),
            depths=given[1],
        )
    finally:
        for close in closers:
            close()


def _reports(config: Config, run: Run, console: Console, closers: list) -> Reports:
    from contextlib import nullcontext

    from scene4d.fitting.fit import Reports
    from scene4d.fitting.previews import open_plots

    def phase(text: str) -> Any:
        return console.status(text) if console.is_terminal else nullcontext()

    def event(text: str) -> None:
        console.print(text, markup=False, style="yellow")

    def note(text: str) -> None:
        console.print(text, markup=False)

    if not config.tensorboard:
        return Reports(phase=phase, event=event, note=note)
    plot, close = open_plots(run.folder / PLOTS)
    closers.append(close)
    return Reports(phase=phase, scalars=plot, event=event, note=note)


# -- runs --------------------------------------------------------------------------------------------------------------


def _new_run(config: Config) -> tuple[Run, Capture, DepthSource | None]:
    """A run for a capture that can be fitted to. Nothing is written where it cannot."""
    from scene4d.files.project import RUNS
    from scene4d.fitting.fit import choose_footage, fingerprint
    from scene4d.runs import create_run

    assert config.capture is not None
    _check_out(config)
    capture, settings, cameras = _open(config.capture), config.settings(), config.camera_names()
    views = choose_footage(_of_cameras(capture, cameras), settings, config.frames, config.hold_out).views
    device = _device(config.device)
    threads = settings.threads or os.cpu_count() or 1  # a fit that is resumed elsewhere takes as many
    options = {
        "capture": _reference(config.capture, config.out),
        "preset": config.preset or DEFAULT_PRESET,
        "frames": config.frames,
        "hold_out": config.hold_out,
        "cameras": cameras,
        "depth_folder": config.depth_folder and _reference(config.depth_folder, config.out),
        "depth_kind": config.depth_kind or DEFAULT_KIND if config.depth_folder else None,
        "depth_model": config.depth_model and _reference(config.depth_model, config.out),
        "device": device,
        "views": fingerprint(views),
        "settings": asdict(with_changes(settings, threads=threads)),
    }
    depths = _depths(options, config.out, capture, views)
    return create_run(config.out / RUNS, KIND, options), capture, depths


def _resumed_run(config: Config) -> tuple[Run, Capture, DepthSource | None]:
    """The last fit of the project, with its capture."""
    from scene4d.files.project import RUNS
    from scene4d.fitting.fit import choose_footage, fingerprint
    from scene4d.runs import resume_run

    run = resume_run(config.out / RUNS, KIND)
    try:
        if run.finished:
            raise InputError(f"{run.folder}: is finished; fit anew with --overwrite, or to another --out")
        options = run.config
        try:
            settings = FitSettings(**options["settings"])
            path = config.out / options["capture"]
            choice = options["frames"], options["hold_out"]
            known, device = options["views"], options["device"]
        except (KeyError, TypeError, ValueError) as e:
            raise InputError(
                f"{run.folder}/config.json: cannot be gone on with ({e}); fit anew with --overwrite"
            ) from e
        _compare(config, run)
        _device(device)
        capture = _open(path)
        views = choose_footage(_of_cameras(capture, options.get("cameras")), settings, *choice).views
        if fingerprint(views) != known:
            raise InputError(f"{path}: has changed since the fit was started; fit anew with --overwrite")
        depths = _depths(options, config.out, capture, views)
    except BaseException:
        run.close()
        raise
    return run, capture, depths


def _compare(config: Config, run: Run) -> None:
    """Raises InputError: options were given that are not those that the run was started with."""
    settings, given = run.config["settings"], config.given()
    had = {**run.config, **settings, "previews": settings["preview_steps"] > 0}
    for name in PATHS:
        had[name] = None if had.get(name) is None else (config.out / had[name]).resolve()
        if name in given:
            given[name] = given[name].resolve()
    if "cameras" in given:
        given["cameras"] = config.camera_names()
    if given.get("device") == "auto":
        del given["device"]
    other = sorted(name for name, value in given.items() if had.get(name) != value)
    if other:
        words = ", ".join(f"{name} {had.get(name)}, now {given[name]}" for name in other)
        raise InputError(
            f"{run.folder}: was started with other options ({words}); --resume takes those, without any given"
        )


def _check_out(config: Config) -> None:
    """Refuse at once what saving would refuse after all the work, and what would be lost unasked."""
    from scene4d.files.project import INDEX, RUNS
    from scene4d.runs import list_runs

    out = config.out
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out}: exists and is no folder; choose another name")
    if not (out / INDEX).exists():
        strange = sorted(p.name for p in out.iterdir() if p.name != RUNS and not p.name.startswith("."))
        if strange:
            raise InputError(f"{out}: is no project (it holds {strange[0]}); choose another name")
    if config.overwrite:
        return
    if (out / INDEX).exists():
        raise InputError(f"{out}: already exists; choose another name, or replace its scene with --overwrite")
    if list_runs(out / RUNS, KIND):
        raise InputError(
            f"{out}: holds a fit that is not finished; go on with --resume, or start anew with --overwrite"
        )


def _open(path: Path) -> Capture:
    from scene4d.captures import CaptureWarning, open_capture

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaptureWarning)  # `scene4d inspect` tells them
        return open_capture(path)


def _of_cameras(capture: Capture, names: list[str] | None) -> Capture:
    """The views of these cameras. Raises InputError: there is no such camera, or the capture holds it out."""
    if names is None:
        return capture
    part = capture.subset(cameras=names)
    idle = [name for name in names if not any(v.camera == name for v in part.split("train"))]
    if idle:
        raise InputError(f"{capture.root}: camera {idle[0]} has no training view, the capture holds it out")
    return part


def _depths(options: dict[str, Any], out: Path, capture: Capture, views: Sequence[View]) -> DepthSource | None:
    """Where depth maps of the views come from, if they were asked for. Raises InputError: it is not there."""
    from scene4d.fitting.depth_maps import DepthSource, folder_reader, network_source

    place = options.get("depth_folder") or options.get("depth_model")
    if place is None:
        return None
    folder = Path(os.path.normpath(out.resolve() / place))  # `out` need not exist yet
    if options.get("depth_model"):
        return network_source(folder, capture, options["device"])
    fitted = capture.subset(cameras={v.camera for v in views})
    return DepthSource(folder_reader(folder, fitted), options["depth_kind"])


def _device(name: str) -> str:
    """ "cpu" or "cuda". Raises InputError: cuda was asked for and is not there."""
    from importlib.util import find_spec

    import torch

    there = torch.cuda.is_available() and find_spec("gsplat") is not None
    if name == "cuda" and not there:
        raise InputError("--device cuda needs a CUDA GPU and the package gsplat; `scene4d doctor` tells more")
    return "cuda" if there and name != "cpu" else "cpu"


def _reference(capture: Path, out: Path) -> str:
    """How the project names its capture: relative to itself where that is near, so that both can be moved together."""
    full = capture.resolve()
    relative = Path(os.path.relpath(full, out.resolve()))
    return str(full if relative.parts[: MOST_UPS + 1] == ("..",) * (MOST_UPS + 1) else relative)


# -- results -----------------------------------------------------------------------------------------------------------


def _save(out: Path, run: Run, capture: Capture, fitted: Fitted) -> None:
    from dataclasses import replace

    from scene4d.files.project import Project, save_project
    from scene4d.files.project_cameras import capture_cameras

    options, settings = run.config, run.config["settings"]
    part = capture.subset(options["frames"])
    times = [view.time for view in part.views]
    cameras = tuple(replace(c, exposure=fitted.exposures.get(c.name)) for c in capture_cameras(part))
    project = Project(
        scene=fitted.scene,
        capture=options["capture"],
        cameras=cameras,
        units=capture.units,
        fps=capture.fps,
        canonical_time=(min(times) + max(times)) / 2,
        fit={
            "long_side": settings["long_side"],
            "frames": options["frames"],
            "hold_out": options["hold_out"],
            "cameras": options.get("cameras"),
            "preset": options["preset"],
            "seed": settings["seed"],
            "steps": settings["steps"],
            "psnr_train": fitted.metrics["psnr_train"],
            "run": run.folder.name,
        },
    )
    save_project(out, project)


def _tell(out: Path, camera: str, fitted: Fitted) -> None:
    facts = fitted.metrics
    psnr = (
        "" if facts["psnr_train"] is None else f", {facts['psnr_train']:.2f} dB on the pictures that it was fitted to"
    )
    minutes, seconds = divmod(round(facts["seconds"]), 60)
    sys.stdout.write(
        f"{out}: {facts['gaussians']:,} Gaussians on {facts['handles']} handles{psnr}, {minutes} min {seconds} s\n"
        f"next: `scene4d evaluate {out}`, `scene4d render {out} --capture-camera {camera} --out {out.stem}.mp4`\n"
    )
