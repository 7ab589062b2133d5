"""How well and how quickly `scene4d fit` fits: worlds whose truth is known, and real captures.

    python scripts/fit_figures.py --out figures --json figures.json
    python scripts/fit_figures.py --only plane_sphere arm --steps 500
    python scripts/fit_figures.py --only parkour --parkour FOLDER --lpips-weights lpips.npz

Each fit and each evaluation is a command of its own, in a process of its own, so that seconds and memory are those of
the fit alone. What lies in --out already is not made again, and a fit that was stopped is gone on with.

Worlds are as `scene4d sample` writes them: 160x120, 12 frames of which every fourth is held out, six cameras and two
that are held out. They are fitted with --steps and --max-gaussians, real captures with what the preset says.

"handles": what moves together has to be one piece. Each handle belongs to the part of the world whose surface is
nearest to it at the canonical time, and has to go where that part takes it.

J handles, T times.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from scene4d import motion
from scene4d.captures import open_capture
from scene4d.errors import InputError
from scene4d.evaluation_truth import WorldTruth, find_truth
from scene4d.files.project import Project, load_project
from scene4d.fitting.losses import rotate
from scene4d.worlds import Box, Capsule, Sphere, poses_at
from scene4d.worlds.capturing import instance_size

WORLDS = ("plane_sphere", "room", "arm")
ONE_CAMERA = ("room_moving", "room_moving_depth")  # without and with depth
REAL = ("treadmill", "parkour")
CASES = (*WORLDS, *ONE_CAMERA, *REAL)
GATE = 0.02  # of the instance's size: what a handle may be off its part
PARKOUR_HELD_OUT = "4::8"
TREADMILL_SIDE = 480  # pixels


@dataclass(frozen=True)
class Config:
    """Measure fits: PSNR of held-out views, tracks, depth, handles, seconds and memory."""

    only: tuple[str, ...] = ()
    """Cases to measure: plane_sphere, room, arm, room_moving, room_moving_depth, treadmill, parkour. Default: all that
    can be."""
    out: Path = Path("fit_figures")
    """Folder for captures and projects."""
    json: Path | None = None
    """Write the figures to this file."""
    preset: str = "standard"
    """Of all fits."""
    steps: int = 800
    """Of the fits of worlds."""
    max_gaussians: int = 10_000
    """Of the fits of worlds."""
    frames: int = 12
    """Of worlds; frames 3, 7, 11, ... are held out."""
    width: int = 160
    """Of the worlds' pictures, 4:3."""
    real_steps: int | None = None
    """Of the fits of real captures. Default: the preset's."""
    real_max_gaussians: int | None = None
    """Of the fits of real captures. Default: the preset's."""
    treadmill: Path | None = None
    """The folder that `scene4d sample treadmill` wrote. Default: it is written (a download of 51 MB)."""
    treadmill_hold_out: str | None = None
    """Frames of it that are held out, as a:b:step. Default: none."""
    parkour: Path | None = None
    """The parkour capture (DAVIS 2016 with cameras); without it the case is left out."""
    leave_one_out: bool = False
    """Also fit treadmill without each of its cameras in turn, and compare with that camera."""
    lpips_weights: Path | None = None
    """The .npz with LPIPS weights; without them LPIPS is left out."""

    def __post_init__(self) -> None:
        unknown = sorted({*self.only} - {*CASES})
        if unknown:
            raise ValueError(f"only must name some of {', '.join(CASES)}, got {unknown[0]!r}")


@dataclass(frozen=True)
class Case:
    """One fit."""

    name: str
    capture: Path
    options: tuple[str, ...]


def main(config: Config, console: Console | None = None) -> dict[str, Any]:
    """The figures as plain JSON. Raises InputError: a command failed."""
    console = console or Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    config.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in config.only or CASES:
        if name == "parkour" and config.parkour is None:
            if config.only:
                raise InputError("parkour: give its folder with --parkour FOLDER")
            console.print("parkour: left out, no --parkour FOLDER", markup=False)
            continue
        for case in cases_of(name, config):
            rows.append(measure(case, config))
            console.print(line(rows[-1]), markup=False)
    result = {"config": {name: plain(value) for name, value in vars(config).items()}, "rows": rows}
    console.print(table(rows))
    if config.json is not None:
        config.json.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    return result


def plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


# -- cases -------------------------------------------------------------------------------------------------------------


def cases_of(name: str, config: Config) -> list[Case]:
    """The fits of a case, with their captures made. Raises InputError."""
    if name in (*WORLDS, *ONE_CAMERA):
        options = ("--steps", str(config.steps), "--max-gaussians", str(config.max_gaussians))
        return [Case(name, world_capture(name, config), options)]
    options = ()
    if config.real_steps is not None:
        options += ("--steps", str(config.real_steps))
    if config.real_max_gaussians is not None:
        options += ("--max-gaussians", str(config.real_max_gaussians))
    if name == "parkour":
        assert config.parkour is not None
        return [Case(name, config.parkour, (*options, "--hold-out", PARKOUR_HELD_OUT))]
    folder = config.treadmill or config.out / "treadmill"
    if not folder.exists():
        command("sample", "treadmill", "--out", folder)
    options += ("--long-side", str(TREADMILL_SIDE))
    if config.treadmill_hold_out is not None:
        options += ("--hold-out", config.treadmill_hold_out)
    cases = [Case(name, folder, options)]
    if config.leave_one_out:
        cameras = open_capture(folder).camera_names
        for left in cameras:
            kept = ",".join(camera for camera in cameras if camera != left)
            cases.append(Case(f"{name}_without_{left}", folder, (*options, "--cameras", kept)))
    return cases


def world_capture(name: str, config: Config) -> Path:
    """The capture of a world; one of the room by a moving camera also without depth."""
    size = ("--frames", config.frames, "--width", config.width, "--height", config.width * 3 // 4)
    rig = ("--rig", "moving") if name in ONE_CAMERA else ()
    made = ONE_CAMERA[1] if name in ONE_CAMERA else name
    folder = config.out / f"{made}_{config.width}_{config.frames}"
    if not folder.exists():
        command("sample", "room" if rig else name, "--out", folder, *size, *rig)
    if name != ONE_CAMERA[0]:
        return folder
    return without_depth(folder, config.out / f"{name}_{config.width}_{config.frames}")


def without_depth(folder: Path, out: Path) -> Path:
    """A copy of a capture whose depth maps nobody knows of."""
    if out.exists():
        return out
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(folder, part, ignore=shutil.ignore_patterns("depth"))
    path = part / "cameras.json"
    description = json.loads(path.read_text())
    for camera in description["cameras"]:
        camera.pop("depth", None)
    path.write_text(json.dumps(description, indent=1) + "\n")
    part.rename(out)
    return out


# -- measuring ---------------------------------------------------------------------------------------------------------


def measure(case: Case, config: Config) -> dict[str, Any]:
    """One row. A fit that is there with the same options is taken as it is. Raises InputError: a command failed."""
    project = project_of(case, config)
    if not (project / "project.json").exists():
        given = ("--resume",) if project.exists() else (case.capture, "--preset", config.preset, *case.options)
        command("fit", "--out", project, *given)
    weights = () if config.lpips_weights is None else ("--lpips-weights", config.lpips_weights)
    found = json.loads(command("evaluate", project, "--json", "--out", project.with_suffix(".evaluation"), *weights))
    runs = sorted((project / "runs").glob("*/metrics.json"))
    facts = json.loads(runs[-1].read_text())
    row = {
        "case": case.name,
        "gaussians": facts["gaussians"],
        "handles": facts["handles"],
        "steps": facts["steps"],
        "seconds": facts["seconds"],
        "seconds_by_phase": facts["seconds_by_phase"],
        "peak_rss_mb": facts["peak_rss_mb"],
        "threads": facts["threads"],
        "device": facts["device"],
        "psnr_train": facts["psnr_train"],
    }
    return {**row, **scores(found), "handles_together": handles_together(load_project(project), case.capture)}


def project_of(case: Case, config: Config) -> Path:
    """Named by its options, so that others are another fit."""
    words = [case.name, config.preset, *(word.strip("-").replace(":", "_") for word in case.options if word)]
    if case.name in (*WORLDS, *ONE_CAMERA):
        words += [str(config.width), str(config.frames)]
    return config.out / ("-".join(words).replace(",", "_") + ".s4d")


def command(*args: Any) -> str:
    """What a command of scene4d prints. Raises InputError: it failed."""
    words = [str(arg) for arg in args]
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "scene4d.cli", *words], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise InputError(
            f"scene4d {' '.join(words)}: exit code {done.returncode} after {time.monotonic() - begin:.0f} s"
        )
    return done.stdout


def scores(found: dict[str, Any]) -> dict[str, Any]:
    """The figures of an evaluation that this table has; None for what was not measured."""
    groups, truth = found["groups"], found["truth"]
    row: dict[str, Any] = {}
    for group in ("held_out_times", "held_out_cameras"):
        full, moving = (pick(groups, group, region) or {} for region in ("full", "moving"))
        row[group] = {metric: full.get(metric) for metric in ("psnr", "ssim", "lpips")}
        row[group] |= {f"moving_{metric}": moving.get(metric) for metric in ("psnr", "psnr_pooled", "ssim", "lpips")}
    row["track_error"] = pick(truth, "tracks", "moving_objects", "median_relative")
    row["tracks_lost"] = pick(truth, "tracks", "moving_objects", "lost")
    row["depth_error"] = pick(truth, "depth", "all", "median_relative")
    row["depth_error_moving"] = pick(truth, "depth", "moving_objects", "median_relative")
    return row


def pick(value: Any, *names: str) -> Any:
    """value[name][name]..., None where one is missing."""
    for name in names:
        value = None if value is None else value.get(name)
    return value


# -- handles -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def handles_together(project: Project, capture: Path) -> dict[str, Any] | None:
    """How far handles are from where their parts of the world take them; None without truth or handles.

    Per handle: the median over the captured times of the distance, relative to its instance's size.
    """
    scene, truth = project.scene, find_truth(open_capture(capture))
    if truth is None or scene.rig is None or not len(scene.rig):
        return None
    home = project.canonical_time
    start = handle_places(project, home)
    parts = nearest_parts(truth, home, start, scene.rig.instances)
    times = [float(t) for t in truth.arrays["times"]]
    before = poses_at(truth.world, home).T_world_rest
    rest = torch.linalg.solve(before[parts], torch.nn.functional.pad(start, (0, 1), value=1.0)[..., None])
    off = []
    for t in times:
        true = (poses_at(truth.world, t).T_world_rest[parts] @ rest)[:, :3, 0]
        off.append((handle_places(project, t) - true).norm(dim=1))
    sizes = torch.tensor([instance_size(truth.world, i) for i in scene.rig.instances.tolist()], dtype=torch.float64)
    errors = torch.stack(off).median(0).values / sizes
    names = [obj.name for obj in truth.world.objects]
    each = {names[k]: float(errors[parts == k].median()) for k in sorted({*parts.tolist()})}
    return {
        "median": float(errors.median()),
        "worst_tenth": float(errors.quantile(0.9)),
        "within_gate": float((errors <= GATE).double().mean()),
        "parts": each,
        "passed": bool(errors.median() <= GATE),
    }


def handle_places(project: Project, t: float) -> Tensor:
    """Where the fitted rig has carried the handles' centres at t: [J, 3] float64."""
    rig = project.scene.rig
    assert rig is not None
    quats, moved = motion.handle_poses(rig, t)
    return (rotate(quats, rig.centers) + moved).double()


def nearest_parts(truth: WorldTruth, t: float, places: Tensor, instances: Tensor) -> Tensor:
    """For each place [J, 3] the object of the handle's instance whose surface is nearest: indices [J].

    Raises InputError: an instance that the world does not have.
    """
    T_rest_world = torch.linalg.inv(poses_at(truth.world, t).T_world_rest)
    table = torch.full((len(places), len(truth.world.objects)), torch.inf, dtype=torch.float64)
    for k, obj in enumerate(truth.world.objects):
        rows = instances == obj.instance
        local = places[rows] @ T_rest_world[k, :3, :3].T + T_rest_world[k, :3, 3]
        table[rows, k] = surface_distance(obj.shape, local)
    if not bool(table.isfinite().any(1).all()):
        raise InputError("handles: some are of an instance that the world does not have")
    return table.argmin(1)


def surface_distance(shape: Any, points: Tensor) -> Tensor:
    """Distance [n] of points [n, 3] in the rest frame from a shape's surface; of ellipsoids along the radius."""
    if isinstance(shape, Capsule):
        axis = torch.zeros_like(points)
        axis[:, 2] = points[:, 2].clamp(-shape.half_length, shape.half_length)
        return ((points - axis).norm(dim=1) - shape.radius).abs()
    if isinstance(shape, Sphere):
        length = points.norm(dim=1)
        return (length - length / (points / points.new_tensor(shape.radii)).norm(dim=1).clamp_min(1e-12)).abs()
    half = points.new_tensor(shape.half if isinstance(shape, Box) else (*shape.half, 0.0))
    beyond = points.abs() - half
    return (beyond.clamp_min(0).norm(dim=1) + beyond.amax(1).clamp_max(0)).abs()


# -- tables ------------------------------------------------------------------------------------------------------------

COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "times PSNR": lambda row: number(pick(row, "held_out_times", "psnr"), ".2f"),
    "moving": lambda row: number(pick(row, "held_out_times", "moving_psnr"), ".2f"),
    "SSIM": lambda row: number(pick(row, "held_out_times", "ssim"), ".4f"),
    "LPIPS": lambda row: number(pick(row, "held_out_times", "lpips"), ".4f"),
    "cameras PSNR": lambda row: number(pick(row, "held_out_cameras", "psnr"), ".2f"),
    "cam. moving": lambda row: number(pick(row, "held_out_cameras", "moving_psnr"), ".2f"),
    "cam. SSIM": lambda row: number(pick(row, "held_out_cameras", "ssim"), ".4f"),
    "cam. LPIPS": lambda row: number(pick(row, "held_out_cameras", "lpips"), ".4f"),
    "track": lambda row: number(row["track_error"], ".2%"),
    "depth": lambda row: number(row["depth_error"], ".2%"),
    "handles": lambda row: number(pick(row, "handles_together", "median"), ".2%"),
    "s": lambda row: number(row["seconds"], ".0f"),
    "peak MB": lambda row: number(row["peak_rss_mb"], ".0f"),
}


def number(value: float | None, format: str) -> str:
    return "-" if value is None else f"{value:{format}}"


def line(row: dict[str, Any]) -> str:
    return f"{row['case']}: " + ", ".join(f"{name} {cell(row)}" for name, cell in COLUMNS.items())


def table(rows: Sequence[dict[str, Any]]) -> Table:
    found = Table(box=None, pad_edge=False, header_style="dim")
    found.add_column("fit")
    for name in COLUMNS:
        found.add_column(name, justify="right")
    for row in rows:
        found.add_row(row["case"], *(cell(row) for cell in COLUMNS.values()))
    return found


if __name__ == "__main__":
    try:
        main(tyro.cli(Config))
    except InputError as error:
        sys.exit(f"fit_figures: {error}")
