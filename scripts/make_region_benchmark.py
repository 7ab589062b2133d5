"""Make a benchmark that tells regions apart, and what simple editors make of it (docs/benchmark.md).

    python scripts/make_region_benchmark.py bench                           90 items from five synthetic worlds
    python scripts/make_region_benchmark.py bench --footage CLIP            and items from a real clip (see below)
    python scripts/make_region_benchmark.py bench --baselines results       and the results of the baselines
    scene4d evaluate --benchmark bench --results results/copy_render results/style

Real clips need no truth: a foreign thing that is pasted over the clip is removed again, and the clip's own thing, if it
has masks, is put aside and moved back. --foreign names a second clip with masks to cut the foreign thing out of;
without it the thing is a ray-traced box.

What lies in the folder already is not made again: a run that was stopped goes on.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from editors.classical.benchmark import cue_classical
from scene4d.benchmarks.baselines import BASELINES as SIMPLE
from scene4d.benchmarks.cue_baseline import cue_inpaint
from scene4d.benchmarks.footage import clip_flow, cut_out, load_footage, traced_cutout
from scene4d.benchmarks.footage_items import move_item, removal_item
from scene4d.benchmarks.world_edits import asked_of, make_scenes
from scene4d.benchmarks.world_items import Size, write_world_item
from scene4d.errors import EXIT_BAD_INPUT, InputError
from scene4d.files.atomic import make_folder
from scene4d.metrics.benchmark_items import KINDS, MAGNITUDES, load_benchmark
from scene4d.metrics.benchmark_writing import write_list, write_results

BASELINES = {**SIMPLE, "cue_inpaint": cue_inpaint, "cue_classical": cue_classical}
SCENES = ("plane_sphere", "room", "room_lit", "arm", "crowd")


@dataclass(frozen=True)
class Config:
    """Write a region benchmark to a folder."""

    out: Annotated[Path, tyro.conf.Positional]
    """The benchmark's folder; what it has is kept, the rest is added."""
    scenes: tuple[str, ...] = SCENES
    """Synthetic worlds. `--scenes none` makes items of real clips only."""
    kinds: tuple[str, ...] = KINDS
    """Edits of worlds: camera, move, remove, insert, duplicate, retime."""
    magnitudes: tuple[str, ...] = MAGNITUDES
    """small, medium, large."""
    width: int = 160
    """Of the worlds' pictures."""
    height: int = 120
    """Of the worlds' pictures."""
    frames: int = 12
    """Of the worlds' clips."""
    seed: int = 0
    """Another seed gives other textures and another crowd."""
    footage: tuple[Path, ...] = ()
    """Captures of real scenes."""
    foreign: Path | None = None
    """A capture with masks that the pasted thing is cut out of."""
    camera: str | None = None
    """Which camera of the real captures. Default: the first."""
    footage_frames: str = "0:48:2"
    """Which frames of the real captures, as a:b:step."""
    long_side: int = 432
    """Size of the real clips in pixels."""
    baselines: Path | None = None
    """Write the results of the baselines to folders in here."""
    only_baselines: tuple[str, ...] = tuple(BASELINES)
    """Which baselines: copy_source, copy_render, style, cue_inpaint, cue_classical."""

    def __post_init__(self) -> None:
        choices = {
            "scenes": (*SCENES, "none"),
            "kinds": KINDS,
            "magnitudes": MAGNITUDES,
            "only_baselines": tuple(BASELINES),
        }
        for name, allowed in choices.items():
            unknown = [value for value in getattr(self, name) if value not in allowed]
            if unknown:
                raise ValueError(f"{name} must name some of {', '.join(allowed)}, got {unknown[0]!r}")
        if self.long_side < 64:
            raise ValueError(f"long_side must be at least 64, got {self.long_side}")
        Size(self.width, self.height, self.frames)


def main(config: Config, console: Console | None = None) -> list[str]:
    """Names of all items of the benchmark. Raises InputError."""
    console = console or Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    make_folder(config.out / "items")
    make_folder(config.out / "sources")
    names = list(_world_items(config, console))
    for path in config.footage:
        names += _footage_items(config, path, console)
    earlier = sorted(
        p.parent.name for p in (config.out / "items").glob("*/item.json") if not p.parent.name.startswith(".")
    )
    names = [*dict.fromkeys([*names, *earlier])]
    write_list(config.out, config.out.resolve().name, names)
    console.print(f"{config.out}: {len(names)} items", markup=False)
    if config.baselines is not None:
        _write_baselines(config, config.baselines, console)
    return names


def _world_items(config: Config, console: Console) -> list[str]:
    size = Size(config.width, config.height, config.frames)
    names = []
    for scene in make_scenes(config.seed):
        for kind in config.kinds if scene.name in config.scenes else ():
            for magnitude in config.magnitudes:
                start = time.perf_counter()
                asked = asked_of(scene, kind, MAGNITUDES.index(magnitude))
                names.append(write_world_item(config.out, scene, asked, size))
                console.print(f"{names[-1]}  {time.perf_counter() - start:.1f} s", markup=False)
    return names


def _footage_items(config: Config, path: Path, console: Console) -> list[str]:
    footage = load_footage(path, config.camera, config.footage_frames, config.long_side)
    if config.foreign is None:
        foreign = traced_cutout(len(footage.frames))
    else:
        foreign = cut_out(load_footage(config.foreign, None, config.footage_frames, config.long_side))
    motion = clip_flow(footage.frames)
    names = []
    for magnitude in config.magnitudes:
        level = MAGNITUDES.index(magnitude)
        names.append(removal_item(config.out, footage, foreign, level, motion))
        if footage.masks is not None:
            names.append(move_item(config.out, footage, level, motion))
    if footage.masks is None:
        console.print(f"{path}: has no masks, so nothing of it is moved", markup=False)
    console.print(f"{path}: {', '.join(names)}", markup=False)
    return names


def _write_baselines(config: Config, out: Path, console: Console) -> None:
    for name in config.only_baselines:
        for item in load_benchmark(config.out).items:
            if (out / name / item.name / f"{item.frames - 1:05d}.png").is_file():
                continue
            try:
                frames = BASELINES[name](item)
            except InputError as e:  # not every baseline can do every item; evaluate says which are missing
                console.print(f"{name}: left out: {e}", markup=False)
                continue
            write_results(out / name, item.name, frames)
        console.print(f"{out / name}: written", markup=False)


if __name__ == "__main__":
    try:
        main(tyro.cli(Config))
    except InputError as error:
        print(f"make_region_benchmark: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
