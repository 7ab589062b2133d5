"""How near a scene is to a capture: `evaluate` renders views, compares them, and sums up by group and camera.

Groups: "train" are views that were fitted; "held_out" the others, of which "held_out_times" are frames that were not
fitted of cameras that were, and "held_out_cameras" those of cameras none of whose frames was fitted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scene4d.captures import Capture, View
from scene4d.captures.checks import chosen_frames
from scene4d.errors import InputError
from scene4d.evaluation_tracks import compare_tracks
from scene4d.evaluation_truth import WorldTruth, compare_depth, compare_flow, find_truth
from scene4d.evaluation_views import (
    EvaluationOptions,
    RegionScore,
    camera_median,
    moving_region,
    render_view,
    score_region,
    spread,
)
from scene4d.scene import Scene4D

if TYPE_CHECKING:
    from scene4d.edits import EditedScene


FORMAT, VERSION = "scene4d-evaluation", 1
GROUPS = {
    "train": ("train",),
    "held_out": ("held_out_times", "held_out_cameras"),
    "held_out_times": ("held_out_times",),
    "held_out_cameras": ("held_out_cameras",),
}
SPLITS = ("train", "test", "all")
METRICS = ("psnr", "ssim", "lpips")
_DEFAULTS = EvaluationOptions()
Key = tuple[str, int]  # View.key


@dataclass(frozen=True)
class ViewScore:
    camera: str
    frame: int
    group: str  # "train", "held_out_times" or "held_out_cameras"
    full: RegionScore  # valid pixels
    moving: RegionScore | None  # those of them where something moves; None: not known


@dataclass(frozen=True)
class Evaluation:
    """What was measured. `as_json` sums it up."""

    views: tuple[ViewScore, ...]
    truth: dict[str, Any] | None  # against a world's truth, see `scene4d.evaluation_truth`
    reasons: dict[str, Any]  # why something was not measured: "lpips", "truth", and "moving" by camera

    def as_json(self) -> dict[str, Any]:
        """Plain JSON without NaN (docs/evaluation.md)."""
        groups = {}
        for name, members in GROUPS.items():
            scores = [score for score in self.views if score.group in members]
            if scores:
                cameras = dict.fromkeys(score.camera for score in scores)
                each = {c: sum_up([s for s in scores if s.camera == c], self.reasons) for c in cameras}
                groups[name] = {**sum_up(scores, self.reasons), "cameras": each}
        return {
            "format": FORMAT,
            "version": VERSION,
            "groups": groups,
            "truth": self.truth,
            "reasons": self.reasons,
            "views": [_view_json(score) for score in self.views],
        }


def evaluate(
    scene: Scene4D | EditedScene,
    capture: Capture,
    views: Sequence[View],
    *,
    trained: Collection[Key] | None = None,
    options: EvaluationOptions = _DEFAULTS,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Render views of a capture and compare them with its pictures.

    Args:
        scene: in the capture's world and time.
        capture: at the size to evaluate at. Its other frames are read too: the region in which something moves is
            where a frame differs from its camera's temporal median.
        views: of `capture`. Any number: one is held at a time.
        trained: keys of the views that the scene was fitted to; those of the split "train" if not given.
        options: see `EvaluationOptions`.
        progress: called with (done, total) after each view.

    Raises:
        ValueError: there are no views.
        InputError: views have no cameras, a picture cannot be read, or the truth beside the capture is damaged.
    """
    if not views:
        raise ValueError("views must not be empty")
    known = frozenset(v.key for v in capture.split("train")) if trained is None else frozenset(trained)
    fitted = {name for name, _ in known}
    reasons: dict[str, Any] = {"moving": {}}
    if options.lpips is None:
        reasons["lpips"] = options.lpips_reason
    order = {view.key: i for i, view in enumerate(views)}
    scores: dict[int, ViewScore] = {}
    camera, median = "", None
    for done, view in enumerate(sorted(views, key=lambda v: (v.camera, v.frame)), start=1):
        if view.camera != camera:  # one median is held at a time
            camera, median = view.camera, camera_median(capture, view.camera, (view.width, view.height))
        group = "train" if view.key in known else "held_out_times" if camera in fitted else "held_out_cameras"
        scores[order[view.key]] = _score(scene, capture, view, median, options, group, reasons)
        if progress:
            progress(done, len(views))
    truth, reason = None, "not asked for"
    if options.truth:
        world, reason = find_truth(capture), "the capture has no truth.json"
        truth = None if world is None else compare_with_truth(scene, capture, views, known, world, options)
    if truth is None:
        reasons["truth"] = reason
    return Evaluation(tuple(scores[i] for i in range(len(views))), truth, reasons)


def fitted_capture(capture: Capture, fit: Mapping[str, Any] | None) -> tuple[Capture, frozenset[Key]]:
    """The part of a capture that a project was fitted to, and the keys of the views that it was fitted on.

    `fit` is `Project.fit`: "frames" and "hold_out" choose frames as a:b:step; "cameras" names those that were fitted
    to, null = all. Of the others no view counts as fitted. Raises InputError.
    """
    facts = fit or {}
    if facts.get("frames"):
        capture = capture.subset(str(facts["frames"]))
    held: set[int] = set()
    if facts.get("hold_out"):
        held = set(chosen_frames(str(facts["hold_out"]), capture.frames[-1], "hold_out"))
    names = facts.get("cameras")
    if names is not None and (not isinstance(names, list) or not {*map(str, names)} <= {*capture.camera_names}):
        had = ", ".join(capture.camera_names)
        raise InputError(f"project.json: cameras must be some of the capture's ({had}), got {str(names)[:80]}")
    chosen = capture.camera_names if names is None else names
    return capture, frozenset(v.key for v in capture.split("train") if v.frame not in held and v.camera in chosen)


def chosen_views(capture: Capture, trained: Collection[Key], split: str) -> list[View]:
    """The views of a split: "train", "test" (all others that have a split) or "all". Raises ValueError."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    kept = [v for v in capture.views if v.split in ("train", "val", "test")]
    return [v for v in kept if split == "all" or (v.key in trained) == (split == "train")]


def compare_with_truth(
    scene: Scene4D | EditedScene,
    capture: Capture,
    views: Sequence[View],
    trained: Collection[tuple[str, int]],
    truth: WorldTruth,
    options: EvaluationOptions,
) -> dict[str, Any]:
    """Depth and flow of some of the views, and all tracks, as JSON can hold it (docs/evaluation.md)."""
    shown = spread(views, options.truth_views)
    return {
        "world": truth.world.name,
        "units": capture.units,
        "moving_instances": truth.moving,
        "depth": compare_depth(scene, capture, shown, truth, options),
        "flow": compare_flow(scene, capture, shown, truth, options),
        "tracks": compare_tracks(scene, capture, trained, truth, options),
    }


@torch.no_grad()
def _score(
    scene: Scene4D | EditedScene,
    capture: Capture,
    view: View,
    median: Tensor | None,
    options: EvaluationOptions,
    group: str,
    reasons: dict[str, Any],
) -> ViewScore:
    image = render_view(scene, capture, view, options)["rgb"]
    picture = capture.image(view).to(image)
    valid = capture.valid(view)
    valid = None if valid is None else valid.to(image.device)
    region = moving_region(capture, view, median)
    full = score_region(image, picture, valid, options)
    if isinstance(region, str):
        reasons["moving"][view.camera] = region
        return ViewScore(view.camera, view.frame, group, full, None)
    region = region.to(image.device)
    moving = score_region(image, picture, region if valid is None else region & valid, options)
    return ViewScore(view.camera, view.frame, group, full, moving)


# -- summing up --------------------------------------------------------------------------------------------------------


def sum_up(scores: Sequence[ViewScore], reasons: Mapping[str, Any]) -> dict[str, Any]:
    """Means over views of both regions, and why a number is missing."""
    missing: dict[str, str] = {}
    regions: dict[str, Any] = {
        "full": _sum_up_region([s.full for s in scores], "full", reasons, missing),
        "moving": _sum_up_region([s.moving for s in scores if s.moving is not None], "moving", reasons, missing),
    }
    if all(s.moving is None for s in scores):
        regions["moving"] = None
        why = {reasons["moving"].get(s.camera, "not known") for s in scores}
        missing = {k: v for k, v in missing.items() if not k.startswith("moving.")}
        missing["moving"] = "; ".join(sorted(why))
    return {"views": len(scores), **regions, "null": missing}


def _sum_up_region(
    scores: Sequence[RegionScore], region: str, reasons: Mapping[str, Any], missing: dict[str, str]
) -> dict[str, Any]:
    """Mean over the views in which the region is not empty; `psnr_pooled` is that of all their pixels together."""
    seen = [score for score in scores if score.pixels]
    found: dict[str, Any] = {"views": len(seen)}
    for metric in METRICS:
        values = [value for score in seen if not math.isnan(value := getattr(score, metric))]
        found[metric] = finite(sum(values) / len(values)) if values else None
        if found[metric] is None:
            why = "the pictures are too small" if seen else "the region is empty in all views"
            why = "a rendered picture equals the captured one" if values else why
            missing[f"{region}.{metric}"] = reasons.get(metric, why)
    pixels, error = sum(s.pixels for s in seen), sum(s.squared_error for s in seen)
    found["psnr_pooled"] = -10.0 * math.log10(error / pixels) if error > 0 else None
    if found["psnr_pooled"] is None:
        why = "all rendered pictures equal the captured ones" if seen else "the region is empty in all views"
        missing[f"{region}.psnr_pooled"] = why
    return found


def finite(value: float) -> float | None:
    """What JSON can hold."""
    return value if math.isfinite(value) else None


def _view_json(score: ViewScore) -> dict[str, Any]:
    regions = {"full": score.full, "moving": score.moving}
    return {
        "camera": score.camera,
        "frame": score.frame,
        "group": score.group,
        **{name: None if region is None else _region_json(region) for name, region in regions.items()},
    }


def _region_json(score: RegionScore) -> dict[str, Any]:
    return {"pixels": score.pixels, **{metric: finite(getattr(score, metric)) for metric in METRICS}}
