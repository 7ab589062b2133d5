"""Run a published protocol on your own copy of its data set, and show the published scores beside the result.

    python scripts/bench_published.py DIR --protocol dycheck --fit
    python scripts/bench_published.py DIR/apple --protocol dycheck --scene-project apple.s4d

DIR is one scene, or a folder of scenes. With --fit, every scene is fitted through `scene4d fit` (a fitted project that
lies in --work is taken as it is). Scores are means over the test views of a scene, then over scenes.

A published score stands here only with the paper or the thread that it was read in. Protocols differ in details that
papers do not tell (which pictures, which scenes, which LPIPS), so a small difference means nothing.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Tensor

from scene4d.captures import Capture, CaptureWarning, View, open_capture
from scene4d.errors import InputError
from scene4d.evaluation_views import EvaluationOptions, render_view
from scene4d.files.project import Project, load_project
from scene4d.metrics.covisible import covisible_ssim
from scene4d.metrics.images import psnr, ssim
from scene4d.metrics.perceptual import LpipsWeights, load_lpips, lpips
from scene4d.scene import Scene4D
from scene4d.weights import MissingWeightsError

METRICS = ("psnr", "ssim", "lpips")


@dataclass(frozen=True)
class Published:
    """A score as a paper gives it."""

    method: str
    psnr: float
    setting: str
    source: str


@dataclass(frozen=True)
class Protocol:
    """Which views are compared, at which size, and how."""

    format: str  # of `open_capture`
    scenes: tuple[str, ...]  # that the published means are over; names may have something before and after
    size: int  # of the pictures: the k of rgb/{k}x, or the longest side in pixels
    scaled: bool  # which of both
    covisible: bool  # masked metrics of DyCheck
    background: float  # grey level behind the scene
    frames: str | None
    split: str
    text: str
    published: tuple[Published, ...]


ROTOR = "4D-Rotor Gaussian Splatting, arXiv 2402.03307"
EFFICIENT = "its table 3, as told in raven38/EfficientDynamic3DGaussian issue 10"
PROTOCOLS = {
    "dycheck": Protocol(
        "nerfies",
        ("apple", "block", "paper-windmill", "space-out", "spin", "teddy", "wheel"),
        size=2,
        scaled=True,
        covisible=True,
        background=0.0,
        frames=None,
        split="val",
        text="held-out cameras, co-visible pixels only; 7 scenes at 2x, or 5 (without space-out and wheel) at 1x",
        published=(
            Published("MoSca", 19.32, "7 scenes, 2x", "MoSca, arXiv 2405.17421"),
            Published("Shape of Motion", 17.32, "7 scenes, 2x", "as compared in MoSca, arXiv 2405.17421"),
            Published("Shape of Motion", 16.72, "5 scenes, 1x", "Shape of Motion, arXiv 2407.13764"),
        ),
    ),
    "n3dv": Protocol(
        "n3dv",
        ("coffee_martini", "cook_spinach", "cut_roasted_beef", "flame_salmon", "flame_steak", "sear_steak"),
        size=1352,
        scaled=False,
        covisible=False,
        background=0.0,
        frames="0:300",
        split="test",
        text="camera 0 held out, 300 frames, 1352x1014",
        published=(
            Published("FreeTimeGS", 33.19, "6 scenes", "FreeTimeGS, arXiv 2506.05348"),
            Published("Spacetime Gaussians", 32.05, "6 scenes", "Spacetime Gaussians, arXiv 2312.16812"),
            Published("4DGS (native 4D)", 32.01, "6 scenes", "4D Gaussian Splatting, arXiv 2310.10642"),
            Published("4D-Rotor", 31.62, "6 scenes", ROTOR),
        ),
    ),
    "dnerf": Protocol(
        "dnerf",
        ("bouncingballs", "hellwarrior", "hook", "jumpingjacks", "lego", "mutant", "standup", "trex"),
        size=800,
        scaled=False,
        covisible=False,
        background=1.0,
        frames=None,
        split="test",
        text="the test split on white, 800x800 (--size 400: as some papers do)",
        published=(
            Published("SC-GS", 43.31, "400x400", "SC-GS, arXiv 2312.14937"),
            Published("Deformable 3D Gaussians", 39.31, "as published", "Deformable 3D Gaussians, arXiv 2309.13101"),
            Published("4D-Rotor", 34.26, "as published", ROTOR),
        ),
    ),
    "hypernerf": Protocol(
        "nerfies",
        ("broom", "3dprinter", "chicken", "peel-banana"),
        size=2,
        scaled=True,
        covisible=False,
        background=0.0,
        frames=None,
        split="val",
        text="validation views at 2x: the right camera of the vrig scenes, every fourth frame of the interp scenes",
        published=(
            Published("Efficient Dynamic 3DGS", 28.3, "vrig-chicken", EFFICIENT),
            Published("Efficient Dynamic 3DGS", 22.1, "vrig broom2", EFFICIENT),
        ),
    ),
}


@dataclass(frozen=True)
class Config:
    """Run a published protocol on your own copy of its data set, beside the published scores."""

    data: Annotated[Path, tyro.conf.Positional]
    """A scene of the data set, or a folder of scenes."""
    protocol: Literal["dycheck", "n3dv", "dnerf", "hypernerf"]
    """Which one."""
    scene_project: Path | None = None
    """The fitted project NAME.s4d of the one scene."""
    fit: bool = False
    """Fit every scene with `scene4d fit`."""
    work: Path = Path("bench_published")
    """Folder for fitted projects, and for copies of scenes (links) at another scale."""
    preset: str = "standard"
    """Of the fit."""
    size: int | None = None
    """The k of rgb/{k}x (dycheck, hypernerf) or the longest side in pixels (n3dv, dnerf). Default: the protocol's."""
    lpips_weights: Path | None = None
    """The .npz with LPIPS weights; without them LPIPS is left out."""
    json: Path | None = None
    """Write the result to this file."""

    def __post_init__(self) -> None:
        if self.fit == (self.scene_project is not None):
            raise ValueError("give either --fit or --scene-project X.s4d")
        if self.size is not None and self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")


def main(config: Config, say: Callable[[str], None] = print) -> dict[str, Any]:
    """The result as plain JSON. Raises InputError."""
    protocol = PROTOCOLS[config.protocol]
    protocol = replace(protocol, size=config.size or protocol.size)
    folders = find_scenes(config.data, protocol)
    if config.scene_project is not None and len(folders) > 1:
        raise InputError(f"{config.data}: holds {len(folders)} scenes; --scene-project is for one")
    weights, reason = find_weights(config.lpips_weights)
    scenes = {}
    for name, folder in folders.items():
        capture = open_scene(folder, protocol, config.work)
        path = config.scene_project or config.work / f"{name}_{config.protocol}_{protocol.size}.s4d"
        if config.fit and not path.exists():
            fit_scene(capture, path, config.preset)
        scenes[name] = score_scene(load_project(path), capture, protocol, weights)
        say(row(name, scenes[name]))
    result = {
        "protocol": config.protocol,
        "text": protocol.text,
        "size": protocol.size,
        "scenes": scenes,
        "mean": mean_scores(list(scenes.values())),
        "complete": all(any(wanted in name for name in scenes) for wanted in protocol.scenes),
        "lpips": reason,
        "published": [vars(score) for score in protocol.published],
    }
    show(result, say)
    if config.json is not None:
        config.json.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    return result


# -- the data set ------------------------------------------------------------------------------------------------------


def find_scenes(data: Path, protocol: Protocol) -> dict[str, Path]:
    """Scenes by name: the folder itself, or those in it that are in the protocol's format."""
    if not data.is_dir():
        raise InputError(f"{data}: there is no such folder")
    detect = {"nerfies": "dataset.json", "n3dv": "poses_bounds.npy", "dnerf": "transforms_train.json"}[protocol.format]
    if (data / detect).is_file():
        return {data.resolve().name: data}
    found = {p.name: p for p in sorted(data.iterdir()) if (p / detect).is_file()}
    if not found:
        raise InputError(f"{data}: neither it nor a folder in it has a {detect}")
    return found


def open_scene(folder: Path, protocol: Protocol, work: Path) -> Capture:
    """The scene's capture with the protocol's pictures and frames. Raises InputError."""
    if protocol.scaled:
        folder = at_scale(folder, protocol.size, work)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaptureWarning)
        capture = open_capture(folder, protocol.format)
    if not protocol.scaled:
        capture = capture.resized(protocol.size)
    return capture if protocol.frames is None else capture.subset(protocol.frames)


def at_scale(folder: Path, scale: int, work: Path) -> Path:
    """A folder of links to a Nerfies scene whose extra.json asks for rgb/{scale}x; the data set is not written to."""
    if not (folder / "rgb" / f"{scale}x").is_dir():
        raise InputError(f"{folder}/rgb/{scale}x: there is no such folder; choose another --size")
    extra = folder / "extra.json"
    known = json.loads(extra.read_text()) if extra.is_file() else {}
    if known.get("factor") == scale:
        return folder
    copy = work / f"{folder.resolve().name}_{scale}x"
    copy.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name != extra.name and not (copy / path.name).exists():
            (copy / path.name).symlink_to(path.resolve())
    (copy / extra.name).write_text(json.dumps({**known, "factor": scale}))
    return copy


def fit_scene(capture: Capture, path: Path, preset: str) -> None:
    """`scene4d fit` of the capture at the size it has. Raises InputError: it failed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    long_side = max(max(view.width, view.height) for view in capture.views)
    command = [sys.executable, "-m", "scene4d.cli", "fit", str(capture.root), "--out", str(path)]
    command += ["--preset", preset, "--long-side", str(long_side)]
    if len(open_frames(capture)) > len(capture.frames):
        command += ["--frames", f"{capture.frames[0]}:{capture.frames[-1] + 1}"]
    if subprocess.run(command).returncode:
        raise InputError(f"{capture.root}: {' '.join(command[2:])} failed")


def open_frames(capture: Capture) -> list[int]:
    """All frames of the capture on disk, of which `capture` may have been given only some."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaptureWarning)
        return open_capture(capture.root, capture.format).frames


def find_weights(path: Path | None) -> tuple[LpipsWeights | None, str]:
    """LPIPS weights, or None and why there are none."""
    try:
        return load_lpips(path), "AlexNet, version 0.1"
    except MissingWeightsError as e:
        if path is not None:
            raise
        return None, str(e)


# -- scores ------------------------------------------------------------------------------------------------------------


def score_scene(project: Project, capture: Capture, protocol: Protocol, weights: LpipsWeights | None) -> dict[str, Any]:
    """Means over the test views of a scene. Raises InputError: it has none."""
    views = capture.split(protocol.split)
    if not views:
        raise InputError(f"{capture.root}: has no views of the split {protocol.split!r}")
    exposures = {c.name: c.exposure for c in project.cameras if c.exposure is not None}
    options = EvaluationOptions(background=torch.full((3,), protocol.background), exposures=exposures, lpips=weights)
    return mean_scores([score_view(project.scene, capture, view, protocol, options) for view in views])


@torch.no_grad()
def score_view(
    scene: Scene4D, capture: Capture, view: View, protocol: Protocol, options: EvaluationOptions
) -> dict[str, Any]:
    image = render_view(scene, capture, view, options)["rgb"].cpu()
    truth = capture.image(view)
    mask = capture.covisible(view) if protocol.covisible else None
    if protocol.covisible and mask is None:
        raise InputError(
            f"{capture.root}: has no covisible mask of item {view.camera}, {view.frame}; DyCheck gives them"
        )
    if mask is None:
        similarity = ssim(image, truth, padding="zeros")  # the code of 3DGS and its kin
    else:
        similarity = covisible_ssim(image, truth, mask)
    distance = torch.nan if options.lpips is None else float(masked_lpips(image, truth, mask, options.lpips))
    return {"psnr": float(psnr(image, truth, mask)), "ssim": float(similarity), "lpips": distance, "views": 1}


def masked_lpips(image: Tensor, truth: Tensor, mask: Tensor | None, weights: LpipsWeights) -> Tensor:
    """DyCheck's mLPIPS: both pictures black outside of the mask, the map averaged inside."""
    if mask is None:
        return lpips(image, truth, weights)
    return lpips(image * mask[..., None], truth * mask[..., None], weights, mask)


def mean_scores(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of each metric over those that have it; None where none has."""
    found: dict[str, Any] = {"views": sum(score["views"] for score in scores)}
    for metric in METRICS:
        values = [score[metric] for score in scores if score[metric] is not None and math.isfinite(score[metric])]
        found[metric] = sum(values) / len(values) if values else None
    return found


def row(name: str, scores: dict[str, Any]) -> str:
    cells = [f"{metric} {'-' if scores[metric] is None else format(scores[metric], '.4f')}" for metric in METRICS]
    return f"{name:<24} {scores['views']:>5} views   {'   '.join(cells)}"


def show(result: dict[str, Any], say: Callable[[str], None]) -> None:
    """The mean, and the published scores with their sources."""
    say(row("mean", result["mean"]))
    say(f"{result['protocol']}: {result['text']}")
    if not result["complete"]:
        say("not all scenes of the protocol are here: the mean is not comparable with the published ones")
    if result["mean"]["lpips"] is None:
        say(f"no LPIPS: {result['lpips']}")
    for score in result["published"]:
        say(f"published: {score['method']:<24} psnr {score['psnr']:.2f}   {score['setting']} ({score['source']})")


if __name__ == "__main__":
    try:
        main(tyro.cli(Config))
    except InputError as error:
        sys.exit(f"bench_published: {error}")
