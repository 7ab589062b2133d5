"""Figures of `scene4d.cues` against the truth of worlds: roles, colours and confidence, six edits of the room.

    python scripts/cue_figures.py [--json FILE] [--geometry exact noisy fitted] [--project room.s4d --capture room]
    python scripts/cue_figures.py --pictures docs/images

exact, noisy: 216x135 pixels, 12 source views of one moving camera, geometry of the rays, or with 1 % of slowly varying
noise and 3x3 edge bleed on all depths and 1 cm of track jitter. fitted: a project of the capture that
`scene4d sample room --out room` wrote (`scene4d fit room --out room.s4d --steps 1500 --max-gaussians 10000`): source
views are its fitted ones, depth, instances and motion those of the fit. Edits without a counterpart in a stack (insert)
are left out there.

A row an edit: intersection over union of Preserve and Expand, recall of Reveal, Preserve off the band that is none,
PSNR of the cue where it is observed and where its confidence is at least 0.8, calibration error (15 bins of equal mass)
and AUSE, raw and calibrated. Roles and colours are those of `scene4d.worlds.roles` and of the traced edited world.

H W pixels, m pixels in a list.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from renderers import Cameras
from scene4d.captures import open_capture
from scene4d.cues.calibration import Calibration
from scene4d.cues.drawing import overview, reliability_picture
from scene4d.cues.exact import Faults, WorldGeometry, world_frame, world_sources
from scene4d.cues.frames import CueFrame, make_cue
from scene4d.cues.leave_one_out import calibrate, held_out, leave_one_out, predicted
from scene4d.cues.project import SessionOptions, open_session
from scene4d.cues.reliability import assess
from scene4d.cues.rendered import SceneFrames
from scene4d.cues.roles import EXPAND, PRESERVE, REVEAL
from scene4d.cues.sources import Prepared, prepare
from scene4d.cues.target import TargetFrame
from scene4d.edits import EditedScene
from scene4d.edits.world_edits import stack_of_world
from scene4d.files.images import write_png
from scene4d.files.project import load_project
from scene4d.worlds import (
    Duplicate,
    Edit,
    Insert,
    Move,
    Remove,
    Retime,
    Sphere,
    Texture,
    TimeWarp,
    Truth,
    World,
    WorldObject,
    edited,
    load_truth,
    make_world,
    moving_rig,
    trace,
    translation,
)
from scene4d.worlds.library import still
from scene4d.worlds.rigs import arc_pose
from scene4d.worlds.roles import TrueRoles, true_roles

WIDTH, HEIGHT, FRAMES = 216, 135, 12
BLOCK = 2
BALL = WorldObject("ball", 9, Sphere((0.3, 0.3, 0.3)), Texture(), still(0.0, 0.2, 0.4))
EDITS: dict[str, tuple[Edit, ...]] = {
    "camera": (),
    "move": (Move(BLOCK, translation(0.35, 0.2, -0.2)),),
    "remove": (Remove(BLOCK),),
    "insert": (Insert((BALL,)),),
    "duplicate": (Duplicate(BLOCK, translation(0.5, 0.5, 0.3), 7),),
    "retime": (Retime(BLOCK, TimeWarp((0.0, 1.0), (0.9, 0.1))),),
}


@dataclass(frozen=True, eq=False)
class Case:
    """Source views of a world, and geometry of its edits."""

    world: World
    cameras: Sequence[Cameras]  # [S] of the source views
    times: Sequence[float]  # [S]
    targets: Sequence[tuple[Cameras, float]]  # cameras and times at which edits are looked at
    prepared: Prepared
    source_frame: Callable[[int], TargetFrame]
    target_frame: Callable[[str, World, Cameras, float, Truth], TargetFrame]
    edits: tuple[str, ...] = tuple(EDITS)


def rays_case(faults: Faults) -> Case:
    world = make_world("room")
    rig = moving_rig(world, FRAMES, WIDTH, HEIGHT)
    cameras, times = [rig.at(k) for k in range(FRAMES)], [k / (FRAMES - 1) for k in range(FRAMES)]
    plain = WorldGeometry(world, world, faults)

    def target(name: str, after: World, camera: Cameras, time: float, truth: Truth) -> TargetFrame:
        assets = frozenset({"ball"} if name == "insert" else ())
        return world_frame(WorldGeometry(world, after, faults, assets), camera, time, 1000 + round(100 * time), truth)

    return Case(
        world,
        cameras,
        times,
        list(zip(cameras, times, strict=True)),
        prepare(world_sources(world, cameras, times, faults)),
        lambda s: world_frame(plain, cameras[s], times[s], key=s),
        target,
    )


def fitted_case(project_path: Path, capture_path: Path) -> Case:
    project = load_project(project_path)
    session = open_session(project, project_path, SessionOptions(capture=capture_path, edits=False))
    views, world = session.prepared.views, load_truth(capture_path)[0]
    cameras, times = [views.camera(s) for s in range(len(views))], views.times.tolist()
    capture = open_capture(capture_path)
    held = [v for v in capture.views if v.camera in ("cam02", "cam04")][:: max(1, len(capture.frames) // 6)]
    targets = [(capture.cameras([v], torch.float64), v.time) for v in held]
    scenes = {
        name: SceneFrames(EditedScene(project.scene, stack_of_world(edits)))
        for name, edits in EDITS.items()
        if name != "insert"
    }
    return Case(
        world,
        cameras,
        times,
        targets,
        session.prepared,
        lambda s: session.before.frame(cameras[s], times[s]),
        lambda name, after, camera, time, truth: scenes[name].frame(camera, time),
        tuple(scenes),
    )


def seen_from(case: Case, name: str, camera: Cameras, k: int) -> Cameras:
    """The target's camera: the source's own, or for the edit `camera` one beside its path."""
    if name != "camera":
        return camera
    share = k / max(len(case.targets) - 1, 1)
    side = 1 - 2 * share
    c, s = np.cos(np.radians(-14.0 * side)), np.sin(np.radians(-14.0 * side))  # looks aside, too
    turn = np.array([[c, 0, -s, 0], [0, 1, 0, 0], [s, 0, c, 0], [0, 0, 0, 1.0]])
    pose = turn @ arc_pose(case.world.stage, 40.0 * side, 5.0, 0.05)
    return Cameras(torch.from_numpy(pose)[None], camera.K.double(), camera.width, camera.height)


def frames_of(case: Case, name: str, calibration: Calibration) -> Iterator[tuple[CueFrame, TrueRoles, Truth]]:
    assets = {"ball"} if name == "insert" else set()
    after = edited(case.world, EDITS[name])
    for k, (own, time) in enumerate(case.targets):
        camera = seen_from(case, name, own, k)
        truth = trace(after, camera, time, 2)
        roles = true_roles(case.world, after, camera, time, case.cameras, case.times, assets)
        cue = make_cue(case.prepared, case.target_frame(name, after, camera, time, truth), None, calibration)
        yield cue, roles, truth


def score(frames: Sequence[tuple[CueFrame, TrueRoles, Truth]]) -> dict[str, Any]:
    def ratio(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> float | None:
        under = sum(int(b.sum()) for _, b in pairs)
        return sum(int(a.sum()) for a, _ in pairs) / under if under else None

    def overlap(role: int) -> float | None:
        both = [((c.roles == role) & ~t.asset, (t.roles == role) & ~t.asset) for c, t, _ in frames]
        return ratio([(a & b, a | b) for a, b in both])

    wanted = [(c, (t.roles == REVEAL) & ~t.asset) for c, t, _ in frames]
    off = [(c, ~t.band & ~t.asset & (t.roles != PRESERVE)) for c, t, _ in frames]
    seen = [c.observed for c, _, _ in frames]
    c, raw, e = (
        np.concatenate([x[m].double().numpy() for x, m in zip(parts, seen, strict=True)])
        for parts in (
            [c.confidence for c, _, _ in frames],
            [c.raw_confidence for c, _, _ in frames],
            [c.image - truth.images[0] for c, _, truth in frames],
        )
    )
    error = np.abs(e).mean(1)
    right = (error <= 0.06).astype(float)
    return {
        "preserve_iou": overlap(PRESERVE),
        "expand_iou": overlap(EXPAND),
        "reveal_recall": ratio([((c.roles == REVEAL) & m, m) for c, m in wanted]),
        "reveal_share": float(np.mean([m.float().mean() for _, m in wanted])),
        "false_preserve": ratio([((c.roles == PRESERVE) & m, m) for c, m in off]),
        "psnr": float(-10 * np.log10(np.square(e).mean())),
        "psnr_confident": float(-10 * np.log10(np.square(e[c >= 0.8]).mean())) if (c >= 0.8).any() else None,
        "confident_share": float((c >= 0.8).mean()),
        "raw": assess(raw, right, error),
        "calibrated": assess(c, right, error),
    }


def cell(value: float | None, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if value is not None else "-"


def line(name: str, found: dict[str, Any]) -> str:
    names = ("preserve_iou", "expand_iou", "reveal_recall", "false_preserve")
    parts = [
        f"{name:<10}",
        *(cell(found[n], 4) for n in names),
        cell(found["psnr"], 1),
        cell(found["psnr_confident"], 1),
    ]
    parts += [cell(found[kind]["ece"], 4) for kind in ("raw", "calibrated")]
    parts += [cell(found[kind]["ause"]) for kind in ("raw", "calibrated")]
    return " | ".join(parts)


def measure(case: Case, pictures: Path | None) -> dict[str, Any]:
    labels = leave_one_out(case.prepared, case.source_frame)
    calibration = calibrate(labels)
    report = {"calibration": dict(calibration.report), "uncalibrated": list(calibration.uncalibrated)}
    print("edit | P IoU | E IoU | R recall | false P | PSNR | c >= .8 | ECE raw | ECE | AUSE raw | AUSE", flush=True)
    for name in case.edits:
        frames = list(frames_of(case, name, calibration))
        report[name] = score(frames)
        print(line(name, report[name]), flush=True)
        if pictures is not None:
            write_png(pictures / f"cues_{name}.png", np.ascontiguousarray(overview(frames[-3][0])))
    if pictures is not None:
        kept = labels.subset(held_out(labels))
        picture = reliability_picture(kept, predicted(calibration, kept))
        write_png(pictures / "cues_reliability.png", np.ascontiguousarray(picture))
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--geometry", nargs="+", choices=("exact", "noisy", "fitted"), default=["exact", "noisy"])
    parser.add_argument("--project", type=Path, help="for fitted: the project")
    parser.add_argument("--capture", type=Path, help="for fitted: the world's capture, with its truth")
    parser.add_argument("--pictures", type=Path, help="write overviews and a reliability diagram of the last geometry")
    args = parser.parse_args()
    if "fitted" in args.geometry and (args.project is None or args.capture is None):
        parser.error("--geometry fitted needs --project and --capture")
    if args.pictures is not None:
        args.pictures.mkdir(parents=True, exist_ok=True)
    found = {}
    for kind in args.geometry:
        print(f"-- {kind}")
        noisy = Faults(depth=0.01, bleed=True, track=0.01)
        case = (
            fitted_case(args.project, args.capture)
            if kind == "fitted"
            else rays_case(noisy if kind == "noisy" else Faults())
        )
        found[kind] = measure(case, args.pictures if kind == args.geometry[-1] else None)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
