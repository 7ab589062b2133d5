"""`scene4d evaluate`: how near a project's scene is to its capture, and to the truth where there is one."""

from __future__ import annotations

import json as json_format
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from scene4d.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from scene4d.captures import Capture
    from scene4d.edits import EditedScene
    from scene4d.evaluation import Evaluation
    from scene4d.evaluation_views import EvaluationOptions
    from scene4d.files.project import Project
    from scene4d.scene import Scene4D


@dataclass(frozen=True)
class Config:
    """Render the views of a capture from a project NAME.s4d and compare them with its pictures.

    PSNR, SSIM and LPIPS of the whole frame and of the region in which something moves, for fitted and held-out views
    apart; depth, optical flow and tracks where a synthetic capture has its truth beside it. See docs/evaluation.md.

    Or, with --benchmark and --results instead of a project: compare edited videos region by region with the truth. See
    docs/benchmark.md.
    """

    project: Annotated[Path | None, tyro.conf.Positional] = None
    """The project folder, NAME.s4d."""

    capture: Path | None = None
    """The capture, if it is not where the project says."""

    split: Literal["test", "train", "all"] = "all"
    """Which views: held out (test), fitted (train), or both."""

    long_side: int | None = None
    """Size of the pictures in pixels. Default: that of the fit, else the capture's own."""

    lpips_weights: Path | None = None
    """The .npz with LPIPS weights. Default: looked for where weights are looked for; without them LPIPS is left out."""

    out: Path | None = None
    """Write evaluation.json and sheet.png to this folder."""

    edits: bool = True
    """Compare the scene with its edits; --no-edits: as it was fitted."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where to render; cuda needs gsplat."""

    json: bool = False
    """Print one JSON object instead of a table."""

    benchmark: Path | None = None
    """A region benchmark (scripts/make_region_benchmark.py)."""

    results: tuple[Path, ...] = ()
    """Folders of results on the benchmark, one a method: RESULTS/ITEM/00000.png ..."""

    metric_weights: Path | None = None
    """weights.json of `scene4d vote report`, for the composite score of a benchmark. Default: equal weights."""

    def __post_init__(self) -> None:
        if (self.project is None) == (self.benchmark is None):
            raise ValueError("give either a project NAME.s4d, or --benchmark DIR --results DIR")
        if (self.benchmark is None) != (not self.results) or (self.metric_weights and self.benchmark is None):
            raise ValueError("--benchmark, --results and --metric-weights go together")
        if self.long_side is not None and self.long_side < 1:
            raise ValueError(f"long_side must be at least 1, got {self.long_side}")


def main(config: Config) -> int:
    if config.benchmark is not None:
        from scene4d.commands.evaluate_regions import Request, run

        weights = config.lpips_weights, config.metric_weights
        return run(Request(config.benchmark, config.results, *weights, config.out, config.json))
    assert config.project is not None
    return evaluate_project(config, config.project)


def evaluate_project(config: Config, folder: Path) -> int:
    from rich.console import Console  # not at the top: `scene4d evaluate --help` does without torch

    from scene4d.edits import load_edited
    from scene4d.evaluation import chosen_views, fitted_capture
    from scene4d.files.project import load_project

    console = Console(highlight=False, stderr=config.json, width=None if sys.stdout.isatty() else 200)
    project = load_project(folder)
    scene: Scene4D | EditedScene = load_edited(project, folder) if config.edits else project.scene
    scene = scene.to(config.device)
    capture, trained = fitted_capture(_open_capture(config, folder, project), project.fit)
    long_side = config.long_side or fitted_long_side(project)
    if long_side is not None:
        capture = capture.resized(long_side)
    views = chosen_views(capture, trained, config.split)
    if not views:
        raise InputError(f"{capture.root}: no view is left of split {config.split!r}")
    options = _options(config, project)
    if project.edits:
        console.print("with its edits" if config.edits else "as it was fitted: the edits are left out")
    evaluation = _evaluate(scene, capture, views, trained, options, console)
    sizes = sorted({(view.width, view.height) for view in views})
    head = {"project": str(folder), "capture": str(capture.root), "split": config.split, "sizes": sizes}
    facts = {**evaluation.as_json(), **head}
    if config.out is not None:
        _write(config.out, facts, scene, capture, evaluation, options)
        console.print(f"wrote {config.out}/evaluation.json and sheet.png", markup=False)
    if config.json:
        sys.stdout.write(json_format.dumps(facts, indent=1, allow_nan=False) + "\n")
    else:
        show(facts, console)
    return 0


def fitted_long_side(project: Project) -> int | None:
    """The size that a project was fitted at; None: the capture's own. Raises InputError."""
    side = (project.fit or {}).get("long_side")
    if side is not None and (type(side) is not int or side < 1):
        raise InputError(f"project.json: long_side must be a whole number of pixels, got {str(side)[:40]}")
    return side


def fitted_background(project: Project) -> Tensor | None:
    """The colour [3] that a project was fitted before; None: black. Raises InputError."""
    import torch

    color = (project.fit or {}).get("background")
    if color is None:
        return None
    if not isinstance(color, list) or len(color) != 3 or not all(type(c) in (int, float) for c in color):
        raise InputError(f"project.json: background must be three numbers, got {str(color)[:40]}")
    return torch.tensor(color, dtype=torch.float32)


def _open_capture(config: Config, folder: Path, project: Project) -> Capture:
    from scene4d.captures import CaptureWarning, open_capture

    path = config.capture
    if path is None:
        if project.capture is None:
            raise InputError(f"{folder}: has no capture; give one with --capture FOLDER")
        path = folder / project.capture  # an absolute one stands for itself
        if not path.exists():
            raise InputError(f"{path}: the capture of {folder} is not there; give it with --capture FOLDER")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaptureWarning)  # `scene4d inspect` tells them
        fps = project.fps
        capture = open_capture(path)
        return open_capture(path, fps=fps) if capture.fps is None and fps is not None else capture


def _options(config: Config, project: Project) -> EvaluationOptions:
    from scene4d.evaluation_views import EvaluationOptions
    from scene4d.metrics.perceptual import load_lpips
    from scene4d.weights import MissingWeightsError

    weights, reason = None, "no weights"
    try:
        weights = load_lpips(config.lpips_weights).to(config.device)
    except MissingWeightsError as e:
        if config.lpips_weights is not None:
            raise
        reason = str(e)
    return EvaluationOptions(
        background=fitted_background(project),
        exposures={c.name: c.exposure for c in project.cameras if c.exposure is not None},
        lpips=weights,
        lpips_reason=reason,
    )


def _evaluate(
    scene: Scene4D | EditedScene,
    capture: Capture,
    views: list,
    trained: frozenset,
    options: EvaluationOptions,
    console: Console,
) -> Evaluation:
    from rich.progress import Progress

    from scene4d.evaluation import evaluate

    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("rendering views", total=len(views))
        return evaluate(
            scene,
            capture,
            views,
            trained=trained,
            options=options,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _write(
    out: Path,
    facts: dict[str, Any],
    scene: Scene4D | EditedScene,
    capture: Capture,
    evaluation: Evaluation,
    options: EvaluationOptions,
) -> None:
    from scene4d.evaluation_sheet import evaluation_sheet
    from scene4d.files.atomic import make_folder, write_json

    make_folder(out)
    write_json(out / "evaluation.json", facts)
    try:
        evaluation_sheet(scene, capture, evaluation, options).save(out / "sheet.png")
    except OSError as e:
        raise InputError(f"{out / 'sheet.png'}: cannot be written: {e.strerror or e}") from e


# -- tables ------------------------------------------------------------------------------------------------------------


def show(facts: dict[str, Any], console: Console) -> None:
    """Tables of an evaluation."""
    from rich.table import Table

    sizes = ", ".join(f"{width}x{height}" for width, height in facts["sizes"])
    console.print(f"{facts['project']}  against  {facts['capture']}  at {sizes}", style="bold", markup=False)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("views")
    for name in ("", "PSNR", "SSIM", "LPIPS", "moving PSNR", "SSIM", "LPIPS", "pooled PSNR"):
        table.add_column(name, justify="right")
    for group, found in facts["groups"].items():
        _add_row(table, group.replace("_", " "), found, "bold")
        if group in ("train", "held_out_times", "held_out_cameras"):
            for camera, part in found["cameras"].items():
                _add_row(table, f"  {camera}", part, "")
    console.print(table)
    reasons = {k: v for g in facts["groups"].values() for k, v in g["null"].items()}
    for name, why in reasons.items():
        if not name.endswith("lpips") or name == "full.lpips":
            console.print(f"no {name.removeprefix('full.')}: {why}", style="dim", markup=False)
    if facts["truth"] is not None:
        _show_truth(facts["truth"], console)


def _add_row(table: Any, name: str, part: dict[str, Any], style: str) -> None:
    full, moving = part["full"], part["moving"] or {}
    cells = [_cell(full["psnr"], 2), _cell(full["ssim"], 4), _cell(full["lpips"], 4)]
    cells += [_cell(moving.get("psnr"), 2), _cell(moving.get("ssim"), 4), _cell(moving.get("lpips"), 4)]
    table.add_row(name, str(part["views"]), *cells, _cell(moving.get("psnr_pooled"), 2), style=style)


def _show_truth(truth: dict[str, Any], console: Console) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(f"truth of {truth['world']}")
    for name in ("depth", "flow px", "track", "of its size", "lost"):
        table.add_column(name, justify="right")
    depth, flow, tracks = truth["depth"], truth["flow"], truth["tracks"]
    rows = [(part.replace("_", " "), *(m.get(part) or {} for m in (depth, flow, tracks))) for part in PARTS]
    for instance in tracks["instances"]:
        each = (m.get("instances", {}).get(instance) or {} for m in (depth, flow, tracks))
        rows.append((f"  instance {instance}", *each))
    for name, d, f, t in rows:
        cells = [_cell(d.get("median_relative"), 2, True), _cell(f.get("mean"), 3), _cell(t.get("median"), 4)]
        table.add_row(name, *cells, _cell(t.get("median_relative"), 2, True), _cell(t.get("lost"), 1, True))
    console.print(table)
    console.print(
        f"depth: median relative error; flow: mean endpoint error; track: median distance ({truth['units']})",
        style="dim",
        markup=False,
    )


PARTS = ("all", "background", "moving_objects", "static_objects")


def _cell(value: float | None, digits: int, percent: bool = False) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}%}" if percent else f"{value:.{digits}f}"
