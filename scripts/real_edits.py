"""Edit real captures, and look at it: cues, completion and calibration of fitted projects, as sheets and figures.

    python scripts/real_edits.py --treadmill treadmill.s4d --parkour parkour.s4d --out real_edits

Each case is edited in a copy of the project. It gets an overview video (render, cue, roles, result), three frames of it
as a sheet, and a row of figures. The projects are what docs/fitting.md tells how to make.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import tyro
from PIL import Image

from scene4d.captures import open_capture
from scene4d.cli import main as scene4d
from scene4d.errors import EXIT_BAD_INPUT, InputError
from scene4d.files.project import RUNS, load_project
from scene4d.path_files import save_path
from scene4d.paths import arc, resized

PERSON = "!background"
FROM, TO = "cam01", "cam02"  # of treadmill, 47 degrees apart
ALONG = "along"  # the view that goes from one to the other
# name -> project, edit, view
CASES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "treadmill_remove": ("treadmill", ("remove", "--select", PERSON), FROM),
    "treadmill_move": ("treadmill", ("move", "--select", PERSON, "--by", "0.5", "0", "0"), FROM),
    "treadmill_freeze": ("treadmill", ("retime", "--select", PERSON, "--freeze", "0.7"), ALONG),
    "treadmill_between": ("treadmill", (), ALONG),
    "parkour_remove": ("parkour", ("remove", "--select", PERSON), "camera"),
}
ROWS = 3  # frames of a sheet


@dataclass(frozen=True)
class Config:
    """Make the overviews, sheets and figures of edits of real captures."""

    out: Path = Path("real_edits")
    """Folder to write to."""
    treadmill: Path | None = None
    """The fitted project of `scene4d sample treadmill`; without it its cases are left out."""
    parkour: Path | None = None
    """The fitted project of parkour (DAVIS 2016)."""
    long_side: int = 320
    """Of target and source pictures, in pixels."""
    sources: int = 48
    """Source views at most."""
    fps: float = 6.0
    """Target frames a second of the scene."""


def main(config: Config) -> list[dict[str, Any]]:
    """One row a case. Raises InputError: a command failed."""
    config.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, (project, edit, view) in CASES.items():
        if (path := getattr(config, project)) is not None:
            rows.append(measure(name, path, edit, view, config))
            print(json.dumps(rows[-1]))
    (config.out / "real_edits.json").write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def measure(name: str, project: Path, edit: tuple[str, ...], view: str, config: Config) -> dict[str, Any]:
    copy, capture = config.out / f"{name}.s4d", capture_of(project)
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns(RUNS))
    if edit:
        command("edit", copy, *edit)
    shown = ("--capture-camera", view) if view != ALONG else ("--camera-path", path_between(capture, config.out))
    given = ("--capture", capture, *shown, "--long-side", config.long_side, "--fps", config.fps)
    given = (*given, "--source-side", config.long_side, "--max-sources", config.sources)
    cues, overview = config.out / f"{name}_cues", config.out / f"{name}.mp4"
    for old in (cues, overview, config.out / f"{name}_result.mp4"):
        shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink(missing_ok=True)
    command("cues", copy, *given, "--save", "none", "--out", cues)
    command("video", copy, *given, "--out", config.out / f"{name}_result.mp4", "--overview", overview)
    sheet(overview, config.out / f"{name}.jpg")
    told = json.loads((cues / "cues.json").read_text())
    held_out = told["calibration"]["held_out"]["all"]
    origins = json.loads(max((copy / RUNS).glob("video-*/metrics.json")).read_text())["shares"]
    return {
        "case": name,
        "roles": {role: round(share, 3) for role, share in told["shares"].items()},
        "ece": {kind: round(held_out[kind]["ece"], 4) for kind in ("raw", "calibrated")},
        "origins": {origin: round(share, 3) for origin, share in origins.items()},
    }


def capture_of(project: Path) -> Path:
    """Raises InputError: the project does not name its capture."""
    capture = load_project(project).capture
    if capture is None:
        raise InputError(f"{project}: does not say what it was fitted to")
    return (project / capture).resolve()


def path_between(capture: Path, out: Path) -> Path:
    """From one camera to the other in as many seconds as the capture lasts."""
    opened = open_capture(capture)
    first, last = (next(v for v in opened.views if v.camera == name) for name in (FROM, TO))
    a, b = opened.cameras([first]), opened.cameras([last])
    path = out / f"{ALONG}.json"
    save_path(path, arc(a, resized(b, a.width, a.height), max(v.time for v in opened.views)))
    return path


def sheet(video: Path, out: Path) -> None:
    """The first, the middle and the last frame, below each other."""
    with av.open(str(video)) as clip:
        frames = [frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]
    picked = [frames[round(k * (len(frames) - 1) / (ROWS - 1))] for k in range(ROWS)]
    Image.fromarray(np.concatenate(picked)).save(out, quality=80)


def command(*words: object) -> None:
    """Run one command of scene4d in this process. Raises InputError: it failed, and has said why."""
    if scene4d([str(word) for word in words]) != 0:
        raise InputError(f"`scene4d {' '.join(map(str, words))}` failed")


if __name__ == "__main__":
    try:
        main(tyro.cli(Config))
    except InputError as error:
        print(f"real_edits: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
