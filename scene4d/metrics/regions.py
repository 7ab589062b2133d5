"""`region_scores`: everything that is measured of one edited clip, region by region (docs/benchmark.md).

Each score is a number or says why there is none: an empty region, no truth, no depth.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from scene4d.metrics.perceptual import LpipsWeights
from scene4d.metrics.region_borders import seam
from scene4d.metrics.region_control import camera_errors, object_errors
from scene4d.metrics.region_errors import drift, ghost, pooled_psnr, region_lpips, region_ssim
from scene4d.metrics.region_motion import revisit_error, temporal_error
from scene4d.metrics.region_types import FLOORS, METRICS, REGIONS, RegionClip, Score, skipped

NO_TRUTH = "the item has no truth"
STEADY = {"preserve": "flicker", "reveal": "stability", "expand": "stability", "asset": "stability"}


def region_scores(clip: RegionClip, weights: LpipsWeights | None, no_weights: str = "no LPIPS weights") -> dict:
    """Scores by name, all of METRICS, and NAME.floor for those that the truth itself does not pass without error.

    `no_weights` is the reason given for LPIPS without `weights`.
    """
    found: dict[str, Score] = {}
    for name in REGIONS:
        found.update(_errors(clip, name, weights, no_weights))
        found.update(_steadiness(clip, name))
    found["preserve.drift"] = _with_reference(clip, "preserve", lambda mask: drift(clip.output, _reference(clip), mask))
    for name in ("preserve", "reveal"):
        found[f"{name}.ghost"] = _ghost(clip, name)
    for name in ("reveal", "expand"):
        found[f"{name}.seam"] = _seam(clip, name)
    for name in ("preserve", "reveal", "expand"):
        found[f"{name}.revisit"] = revisit_error(clip.output, clip.revisits, clip.region(name))
    found.update(_control(clip))
    found.update(_whole(clip, weights, no_weights))
    return {name: found[name] for name in (*METRICS, *(f"{name}.floor" for name in FLOORS))}


def _reference(clip: RegionClip) -> torch.Tensor:
    assert clip.reference is not None
    return clip.reference


def _with_reference(clip: RegionClip, name: str, measure: Callable[[torch.Tensor], Score]) -> Score:
    """A score of a region against the truth; of Preserve also against a cue, where that is trusted."""
    mask = clip.region(name)
    if clip.reference is None:
        return skipped(NO_TRUTH)
    if not clip.exact:
        if name != "preserve" or clip.trusted is None:
            return skipped(NO_TRUTH)
        mask = mask & clip.trusted
    return measure(mask)


def _errors(clip: RegionClip, name: str, weights: LpipsWeights | None, no_weights: str) -> dict[str, Score]:
    def perceptual(mask: torch.Tensor) -> Score:
        if weights is None:
            return skipped(no_weights)
        return region_lpips(clip.output, _reference(clip), mask, weights)

    return {
        f"{name}.psnr": _with_reference(clip, name, lambda m: pooled_psnr(clip.output, _reference(clip), m)),
        f"{name}.ssim": _with_reference(clip, name, lambda m: region_ssim(clip.output, _reference(clip), m)),
        f"{name}.lpips": _with_reference(clip, name, perceptual),
    }


def _steadiness(clip: RegionClip, name: str) -> dict[str, Score]:
    key = f"{name}.{STEADY[name]}"
    if clip.flow is None or clip.visible is None:
        reason = skipped("the item has no motion of its surfaces")
        return {key: reason, f"{key}.floor": reason}
    mask = clip.region(name)
    found = {key: temporal_error(clip.output, clip.flow, clip.visible, mask)}
    if clip.reference is None or not clip.exact:
        return {**found, f"{key}.floor": skipped(NO_TRUTH)}
    return {**found, f"{key}.floor": temporal_error(clip.reference, clip.flow, clip.visible, mask)}


def _ghost(clip: RegionClip, name: str) -> Score:
    if clip.reference is None or not clip.exact:
        return skipped(NO_TRUTH)
    if clip.stale is None:
        return skipped("the item does not say what stood there before")
    return ghost(clip.output, clip.reference, clip.stale, clip.region(name))


def _seam(clip: RegionClip, name: str) -> Score:
    if clip.reference is None or not clip.exact:
        return skipped(NO_TRUTH)
    return seam(clip.output, clip.reference, clip.roles == REGIONS[name], clip.ids, clip.depth)


def _control(clip: RegionClip) -> dict[str, Score]:
    names = ("control.rotation", "control.translation", "control.object", "control.found")
    if clip.reference is None or not clip.exact:
        return dict.fromkeys(names, skipped(NO_TRUTH))
    if clip.depth is None or clip.K is None:
        camera = (skipped("the item has no depth or no camera"),) * 2
    else:
        still = torch.ones_like(clip.scored) if clip.ids is None else clip.ids == 0
        camera = camera_errors(clip.output, clip.reference, clip.depth, still, clip.K)
    if clip.ids is None:
        placed = (skipped("the item has no ids"),) * 2
    elif not clip.edited_ids:
        placed = (skipped("the edit places nothing"),) * 2
    else:
        placed = object_errors(clip.output, clip.reference, clip.ids, clip.edited_ids)
    return dict(zip(names, (*camera, *placed), strict=True))


def _whole(clip: RegionClip, weights: LpipsWeights | None, no_weights: str) -> dict[str, Score]:
    if clip.reference is None or not clip.exact:
        return dict.fromkeys(("whole.psnr", "whole.ssim", "whole.lpips"), skipped(NO_TRUTH))
    every = torch.ones_like(clip.scored)
    if weights is None:
        lpips = skipped(no_weights)
    else:
        lpips = region_lpips(clip.output, clip.reference, every, weights)
    return {
        "whole.psnr": pooled_psnr(clip.output, clip.reference, every),
        "whole.ssim": region_ssim(clip.output, clip.reference, every),
        "whole.lpips": lpips,
    }
