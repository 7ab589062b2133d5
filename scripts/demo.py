"""From a capture to a fitted scene and a video of it: `make demo`.

Runs the commands that a user would and prints each: a synthetic capture, a fit, its comparison with held-out views and
with the truth, and a clip that swings around the moving scene. What is there already is not made again.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from renderers import Cameras
from scene4d import cli
from scene4d.files.project import load_project
from scene4d.path_files import save_path
from scene4d.paths import CameraPath, between

SWING = 16  # key frames from one side to the other
SECONDS = 4.0  # of the clip, there and back


@dataclass(frozen=True)
class Config:
    """Fit a small synthetic world and render it along a new camera path."""

    out: Path = Path("demo")
    """Folder to write to."""
    world: Literal["room", "plane_sphere", "arm"] = "room"
    """What to capture."""
    frames: int = 12
    """Frames of the capture; every fourth is held out."""
    steps: int = 500
    """Steps of the fit."""
    max_gaussians: int = 10_000
    """Of the fitted scene."""
    width: int = 640
    """Pixels of the clip; the height follows from the capture's 4:3."""
    fps: int = 24
    """Of the clip."""


def main(config: Config) -> int:
    out, project = config.out, config.out / f"{config.world}.s4d"
    capture, path, clip = out / config.world, out / "path.json", out / "scene.mp4"
    out.mkdir(parents=True, exist_ok=True)
    size = ["--steps", config.steps, "--max-gaussians", config.max_gaussians]
    sample = ["sample", config.world, "--out", capture, "--frames", config.frames]
    fit = ["fit", capture, "--out", project, "--preset", "draft", *size]
    if project.exists() and not (project / "project.json").exists():
        fit = ["fit", capture, "--out", project, "--resume"]  # a fit that was interrupted
    check = ["evaluate", project, "--out", out / "evaluation"]
    render = ["render", project, "--camera-path", path, "--out", clip, "--fps", config.fps, "--width", config.width]
    for made, command in ((capture, sample), (project / "project.json", fit), (out / "evaluation", check)):
        if not made.exists() and (code := run(command)):
            return code
    if not clip.exists():
        save_path(path, swing(project))
        if code := run([*render, "--height", config.width * 3 // 4]):
            return code
    print(f"\n{clip}: the fitted scene, moving, along a path that no camera took")
    print(f"{out / 'evaluation' / 'sheet.png'}: held-out pictures, what the scene shows there, the difference, depth")
    return 0


def run(command: list) -> int:
    """One command of scene4d in this process, printed as a user would type it."""
    args = [str(part) for part in command]
    print(f"$ scene4d {shlex.join(args)}", flush=True)
    return cli.main(args)


def swing(project: Path) -> CameraPath:
    """From the capture's first camera to the one farthest from it and back, while the scene plays there and back."""
    cameras = load_project(project).cameras
    views = [Cameras(c.world_to_cam[:1], c.K[:1], c.width, c.height) for c in cameras]
    far = max(views, key=lambda view: float((view.centers - views[0].centers).norm()))
    shares = [*range(SWING + 1), *range(SWING - 1, -1, -1)]
    keys = [between(views[0], far, share / SWING) for share in shares]
    start, end = min(min(c.times) for c in cameras), max(max(c.times) for c in cameras)
    return CameraPath(
        times=torch.linspace(0, SECONDS, len(keys), dtype=torch.float64),
        world_to_cam=torch.cat([key.world_to_cam for key in keys]),
        K=torch.cat([key.K for key in keys]),
        width=views[0].width,
        height=views[0].height,
        scene_times=torch.tensor([start + (end - start) * share / SWING for share in shares], dtype=torch.float64),
        closed=True,
    )


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))
