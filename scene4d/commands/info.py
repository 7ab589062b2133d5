"""`scene4d info`: what a project holds, and whether its files are whole."""

from __future__ import annotations

import json as json_format
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from scene4d.files.project import Project
    from scene4d.scene import Scene4D


@dataclass(frozen=True)
class Config:
    """Say what a project NAME.s4d holds: counts, time range, handles, instances, cameras, what it was fitted to, runs.

    Every file is compared with its sha256. Exit code 2 where one is missing or damaged, with one line that names it.
    """

    project: Annotated[Path, tyro.conf.Positional]
    """The project folder, NAME.s4d."""

    json: bool = False
    """Print one JSON object instead of a table."""


def main(config: Config) -> int:
    from scene4d.files.project import load_project  # not at the top: `scene4d info --help` does without torch

    facts = describe(config.project, load_project(config.project))
    if config.json:
        sys.stdout.write(json_format.dumps(facts, indent=1) + "\n")
    else:
        show(facts)
    return 0


def describe(path: Path, project: Project) -> dict[str, Any]:
    """What `info` tells of a project that has just been loaded, as JSON can hold it."""
    from scene4d.files.project import RUNS, blob_sizes
    from scene4d.runs import METRICS, list_runs
    from scene4d.scene_tools import scene_hash

    scene, rig = project.scene, project.scene.rig
    return {
        "project": str(path),
        "scene_hash": scene_hash(scene),
        "gaussians": len(scene),
        "sh_degree": round(scene.sh.shape[1] ** 0.5) - 1,
        "residual_coefficients": 0 if scene.residuals is None else scene.residuals.shape[1],
        "windows": scene.t_on is not None,
        "handles": 0 if rig is None else len(rig),
        "knots": 0 if rig is None else len(rig.knot_times),
        "moving": 0 if scene.handle_ids is None else int((scene.handle_ids >= 0).any(1).sum()),
        "instances": len(scene.instances.unique()),
        "labels": len(scene.labels.unique()),
        "time_range": _time_range(scene),
        "canonical_time": project.canonical_time,
        "fps": project.fps,
        "units": project.units,
        "capture": project.capture,
        "fit": project.fit,
        "cameras": len(project.cameras),
        "cameras_with_exposure": sum(camera.exposure is not None for camera in project.cameras),
        "edits": len(project.edits),
        **_edited(path, project),
        "bytes": blob_sizes(path),
        "sha256_ok": True,  # else it had not been loaded
        "runs": [{"name": run.name, "finished": (run / METRICS).is_file()} for run in list_runs(path / RUNS)],
    }


def _edited(path: Path, project: Project) -> dict[str, Any]:
    """What the edits make of the scene, or why they do not fit it."""
    from scene4d.edits import load_edited
    from scene4d.errors import InputError

    if not project.edits:
        return {}
    try:
        edited = load_edited(project, path)
    except InputError as e:
        return {"edits_changed": None, "edits_problem": str(e)}
    ids = edited.instances.unique().tolist()
    changed = [line for line in edited.report if line]
    return {"edits_changed": changed, "edited_gaussians": len(edited), "edited_instances": ids}


def _time_range(scene: Scene4D) -> tuple[float, float] | None:
    """Seconds from the first knot to the last; without knots, of the edges of windows. None: there are neither."""
    import torch

    edges = [x for x in (scene.t_on, scene.t_off) if x is not None]
    times = scene.rig.knot_times if scene.rig is not None and len(scene.rig) else torch.cat([torch.zeros(0), *edges])
    times = times[times.isfinite()]
    return (float(times.min()), float(times.max())) if times.numel() else None


def show(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column()
    degree, residual = facts["sh_degree"], facts["residual_coefficients"]
    time = facts["time_range"]
    sizes = [f"{name} {count / 1e6:.2f} MB" for name, count in facts["bytes"].items()]
    unfinished = sum(not run["finished"] for run in facts["runs"])
    rows = {
        "Gaussians": f"{facts['gaussians']:,}, SH degree {degree}, residual of degree {residual}",
        "on handles": f"{facts['moving']:,}",
        "handles": f"{facts['handles']} with {facts['knots']} knots",
        "instances": f"{facts['instances']}, {facts['labels']} labels",
        "time": f"{time[0]:.4g} to {time[1]:.4g} s" if time else ("no end" if residual else "nothing changes"),
        "canonical at": f"{facts['canonical_time']:.4g} s",
        "frame rate": f"{facts['fps']:g} fps" if facts["fps"] else "unknown",
        "units": facts["units"],
        "capture": facts["capture"] or "none",
        **_fit_rows(facts["fit"]),
        "cameras": f"{facts['cameras']}, {facts['cameras_with_exposure'] or 'none'} with an exposure of its own",
        **_edit_rows(facts),
        "runs": f"{len(facts['runs'])}, {unfinished} not finished",
        "size": ", ".join(sizes),
        "sha256": "all files are as they were written",
    }
    for name, text in rows.items():
        table.add_row(name, Text(text))  # not as markup: a path may hold brackets
    console.print(facts["project"], style="bold", markup=False)
    console.print(table)


def _edit_rows(facts: dict[str, Any]) -> dict[str, str]:
    count = facts["edits"]
    if not count:
        return {"edits": "0"}
    if facts["edits_changed"] is None:
        return {"edits": f"{count}, which do not fit: {facts['edits_problem']}"}
    ids = ", ".join(map(str, facts["edited_instances"][:12])) + (", ..." if len(facts["edited_instances"]) > 12 else "")
    rows = {"edits": f"{count}: {facts['edited_gaussians']:,} Gaussians of instances {ids} after them"}
    return rows | {f"  {k}": line for k, line in enumerate(facts["edits_changed"], start=1)}


def _fit_rows(fit: dict[str, Any] | None) -> dict[str, str]:
    """What the scene was fitted to. The file may hold any JSON there; written as JSON it has no control characters."""
    from scene4d.files.project import FIT_KEYS

    if fit is None:
        return {"fitted to": "unknown"}
    values = {name: json_format.dumps(value).strip('"')[:60] for name, value in fit.items() if value is not None}
    side, frames, held = (values.get(name) for name in FIT_KEYS)
    return {
        "fitted to": f"pictures {f'of long side {side} px' if side else 'as captured'}, frames {frames or 'all'}",
        "held out": f"frames {held}" if held else "no frames",
    }
