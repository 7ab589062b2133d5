"""How many target frames a second `scene4d.cues` makes, and what each costs.

    python scripts/bench_cues.py [--json FILE] [--only small large] [--frames N] [--workers W]

small: 216x135 pixels from 24 source views (floor: 10 frames/s on two cores). large: 854x480 from 100 (floor: 1).

The scene is the world `room` as splats (`scene4d.worlds.splats`); its block is moved, and the camera goes beside the
source's path. Source pictures, depth and instances are rendered from the splats. Timed is everything from the edited
scene to the finished cue frame: rendering the target, evidence, roles, colours, features, calibrated confidence,
filling. Frames a second are those of wall time; on a machine that does other things besides, CPU seconds a frame tell
more, and `frames_per_s_idle` is what they allow on `workers` free cores.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from renderers import Cameras
from scene4d.cues.calibration import Calibration, Stratum
from scene4d.cues.features import FEATURES
from scene4d.cues.frames import stream_cues
from scene4d.cues.rendered import SceneFrames, look_at_gaussians, scene_sources
from scene4d.cues.sources import Prepared, prepare
from scene4d.edits import EditedScene
from scene4d.edits.world_edits import stack_of_world
from scene4d.scene import Scene4D
from scene4d.worlds import Move, make_world, moving_rig, translation
from scene4d.worlds.rigs import arc_pose
from scene4d.worlds.splats import splats_of_world

CASES = {"small": (216, 135, 24, 10.0), "large": (854, 480, 100, 1.0)}  # size, source views, floor in frames/s
SPLAT_VIEWS, SPLAT_WIDTH = 6, 108  # of the scene: about 44,000 splats
BLOCK = 2


def make_scene() -> Scene4D:
    world = make_world("room")
    rig = moving_rig(world, SPLAT_VIEWS, SPLAT_WIDTH, SPLAT_WIDTH * 5 // 8)
    times = np.linspace(0.0, 1.0, SPLAT_VIEWS).tolist()
    return splats_of_world(world, [rig.at(k) for k in range(SPLAT_VIEWS)], times, np.linspace(0.0, 1.0, 13))


def make_sources(scene: Scene4D, width: int, height: int, count: int) -> Prepared:
    rig = moving_rig(make_world("room"), count, width, height)
    cameras, times = [rig.at(k) for k in range(count)], np.linspace(0.0, 1.0, count).tolist()
    looks = (look_at_gaussians(scene.at(t), c).image for c, t in zip(cameras, times, strict=True))
    images = [(x.clamp(0, 1) * 255).round().to(torch.uint8) for x in looks]
    return prepare(scene_sources(scene, images, cameras, times))


def some_calibration() -> Calibration:
    """As costly as a real one."""
    F = len(FEATURES)
    knots = np.linspace(-4, 4, 50)
    stratum = Stratum(
        "isotonic",
        10_000,
        mean=(0.0,) * F,
        scale=(1.0,) * F,
        coefficients=(0.1,) * F,
        knots_x=tuple(knots.tolist()),
        knots_y=tuple((1 / (1 + np.exp(-knots))).tolist()),
    )
    return Calibration({"static": stratum, "dynamic": stratum})


def measure(scene: Scene4D, name: str, frames: int, workers: int) -> dict:
    width, height, count, floor = CASES[name]
    prepared = make_sources(scene, width, height, count)
    world, rig = make_world("room"), moving_rig(make_world("room"), 1, width, height)
    edited = SceneFrames(EditedScene(scene, stack_of_world([Move(BLOCK, translation(0.35, 0.2, -0.2))])))
    poses = [arc_pose(world.stage, 24.0 * (2 * k / max(frames - 1, 1) - 1), 5.0, 0.05) for k in range(frames)]
    cameras = [Cameras(torch.from_numpy(p)[None], rig.K[None], width, height) for p in poses]
    times = np.linspace(0.0, 1.0, frames).tolist()
    stream = stream_cues(
        prepared, lambda k: edited.frame(cameras[k], times[k]), frames, None, some_calibration(), workers
    )
    ticks, shares = [time.perf_counter()], []
    cpu = time.process_time()
    for cue in stream:
        ticks.append(time.perf_counter())
        shares.append([float((cue.roles == role).float().mean()) for role in range(3)])
    cpu = (time.process_time() - cpu) / frames
    wall = (ticks[-1] - ticks[0]) / frames
    return {
        "case": name,
        "width": width,
        "height": height,
        "sources": count,
        "gaussians": len(scene),
        "frames": frames,
        "workers": workers,
        "frames_per_s": 1 / wall,
        "median_s": statistics.median(b - a for a, b in zip(ticks[1:], ticks[2:], strict=False))
        if frames > 2
        else wall,
        "cpu_s_per_frame": cpu,
        "frames_per_s_idle": workers / cpu,
        "floor": floor,
        "preserve_reveal_expand": np.mean(shares, 0).round(4).tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--frames", type=int, help="target frames of each case; default: 24 and 8")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.workers)
    scene, rows = make_scene(), []
    for name in args.only:
        row = measure(scene, name, args.frames or {"small": 24, "large": 8}[name], args.workers)
        rows.append(row)
        print(
            f"{name}: {row['width']}x{row['height']} from {row['sources']} views, {row['gaussians']} splats: "
            f"{row['frames_per_s']:.2f} frames/s ({row['cpu_s_per_frame']:.3f} CPU s a frame, so "
            f"{row['frames_per_s_idle']:.1f} on {args.workers} free cores; floor {row['floor']:g})",
            flush=True,
        )
    if args.json:
        machine = {"machine": platform.machine(), "processor": platform.processor(), "torch": torch.__version__}
        args.json.write_text(json.dumps({"machine": machine, "cases": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
