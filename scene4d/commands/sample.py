"""`scene4d sample`: writes a sample capture, synthetic with its truth, or the real one."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from scene4d.errors import InputError


@dataclass(frozen=True)
class Config:
    """Write a sample capture.

    Either a synthetic world with its exact truth, or `treadmill`: four real videos, a download of 51 MB.
    """

    name: Annotated[Literal["plane_sphere", "room", "arm", "crowd", "treadmill"], tyro.conf.Positional]
    """Which one. The options after --wheel are for synthetic worlds only."""
    out: Path
    """The capture folder to write. It must not exist."""
    wheel: Path | None = None
    """For treadmill: the wheel, if you have downloaded it already."""
    rig: Literal["arc", "moving"] = "arc"
    """Six training cameras on an arc and two held-out ones between them, or one moving camera."""
    frames: int = 12
    """Number of frames; 3, 7, 11, ... are held out."""
    fps: float | None = None
    """Frames a second. Default: the frames span the second for which the world was designed."""
    width: int = 160
    """Image width in pixels."""
    height: int = 120
    """Image height in pixels."""
    lit: bool = False
    """Shade with a fixed light, so that colours change as things turn."""
    points: int = 2000
    """Sparse points on what does not move; 0 for none."""
    depth_noise: float = 0.0
    """Relative standard deviation of smooth errors in the depth maps."""
    pose_noise_degrees: float = 0.0
    """Standard deviation of the turn of each camera, in degrees."""
    pose_noise_shift: float = 0.0
    """Standard deviation of the shift of each camera, in metres."""
    mask_noise: float = 0.0
    """Standard deviation of errors of mask borders, in pixels."""
    seed: int = 0
    """Seed of all noise and of the choice of points and tracks."""

    def __post_init__(self) -> None:
        for field, most in (("frames", 100_000), ("width", 8192), ("height", 8192)):
            if not 1 <= getattr(self, field) <= most:
                raise ValueError(f"{field} must be between 1 and {most}, got {getattr(self, field)}")
        for field in ("points", "depth_noise", "pose_noise_degrees", "pose_noise_shift", "mask_noise", "seed"):
            if not 0 <= getattr(self, field) < float("inf"):
                raise ValueError(f"{field} must not be negative, got {getattr(self, field)}")
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise ValueError(f"fps must be positive, got {self.fps}")


def main(config: Config) -> None:
    if config.out.exists():
        raise InputError(f"{config.out}: already exists; remove it or choose another folder")
    if config.name == "treadmill":
        from scene4d.worlds.treadmill import write_treadmill

        write_treadmill(config.out, config.wheel)
    else:
        write_world(config)
    sys.stdout.write(f"{config.out}: wrote {config.name}\n")


def write_world(config: Config) -> None:
    import torch
    from rich.progress import Progress

    from scene4d.worlds import CaptureOptions, Noise, arc_rig, capture_world, make_world, moving_rig

    torch.set_num_threads(1)  # tracing is many small operations: threads wait for each other more than they help
    world = make_world(config.name, config.lit)
    if config.rig == "arc":
        rig = arc_rig(world, config.width, config.height)
    else:
        rig = moving_rig(world, config.frames, config.width, config.height)
    noise = Noise(
        config.depth_noise, config.pose_noise_degrees, config.pose_noise_shift, config.mask_noise, config.seed
    )
    options = CaptureOptions(config.frames, config.fps, points=config.points, noise=noise)
    with Progress(transient=True) as bar:
        task = bar.add_task(config.name, total=config.frames)
        capture_world(world, rig, config.out, options, lambda done, _: bar.update(task, completed=done))
