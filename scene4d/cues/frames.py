"""Cue frames: roles, appearance, confidence and provenance of target frames, one by one or as a stream.

H W pixels, F features.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import cv2
import torch
from torch import Tensor

from renderers import Cameras
from scene4d.cues.appearance import FILL_REACH, fill, sample_cue
from scene4d.cues.calibration import Calibration
from scene4d.cues.evidence import Evidence, gather_evidence
from scene4d.cues.features import feature_maps, raw_confidence
from scene4d.cues.geometry import inverse_depth, mended
from scene4d.cues.roles import PRESERVE, RoleFilter, RoleOptions, Roles, decide_roles, inside_extent
from scene4d.cues.sources import Prepared
from scene4d.cues.target import TargetFrame, surface_points

PERCENTILE = 0.98  # of inverse depth, that counts as 1
NONE = -1  # provenance of pixels without a cue


@dataclass(frozen=True)
class CueOptions:
    """How cues are made."""

    roles: RoleOptions = field(default_factory=RoleOptions)
    fill_reach: int = FILL_REACH  # pixels
    keep_features: bool = False
    temporal: bool = True  # filter roles along the stream


@dataclass(frozen=True, eq=False)
class CueFrame:
    """What an editor is given for one frame."""

    time: float  # seconds of the edited scene
    camera: Cameras
    image: Tensor  # [H, W, 3] the cue: source colours where `observed`, assets as rendered, filled near them, else gray
    observed: Tensor  # [H, W] bool: the colour comes from source pixels, and stands
    roles: Tensor  # [H, W] uint8: 0 Preserve, 1 Reveal, 2 Expand
    soft_roles: Tensor  # [H, W, 3] of the same three, sum 1
    asset: Tensor  # [H, W] bool: inserted; a stratum of its own, whatever its role
    confidence: Tensor  # [H, W] probability that the cue is right (within 0.06); 0 where nothing is observed
    raw_confidence: Tensor  # [H, W] before calibration
    provenance: Tensor  # [H, W] int32 source view that contributed most, -1 = none
    votes: Tensor  # [H, W] int32 source views that see the surface
    depth: Tensor  # [H, W] median z of the target, 0 = none
    inverse_depth: Tensor  # [H, W] 1/z over its 98th percentile in the frame, 0 = none
    alpha: Tensor  # [H, W]
    moving: Tensor  # [H, W] bool: of something that moves, the stratum `dynamic` of the calibration
    rendered: Tensor | None  # [H, W, 3] the edited scene, where the target geometry has it
    features: Tensor | None = None  # [H, W, F] if kept


@dataclass(frozen=True, eq=False)
class Draft:
    """A frame before roles are filtered in time."""

    frame: TargetFrame
    evidence: Evidence
    roles: Roles
    xyz: Tensor  # [H W, 3]
    cue: Tensor  # [H W, 3] where there is any evidence
    confidence: Tensor  # [H W]
    features: Tensor  # [H W, F]


def make_cue(
    prepared: Prepared,
    frame: TargetFrame,
    options: CueOptions | None = None,
    calibration: Calibration | None = None,
    rows: Tensor | None = None,  # [n] source views that may be used; None = all
) -> CueFrame:
    """The cue of one frame."""
    options = options or CueOptions()
    return finish(draft_cue(prepared, frame, options, calibration, rows), options, None)


@torch.no_grad()
def draft_cue(
    prepared: Prepared,
    frame: TargetFrame,
    options: CueOptions,
    calibration: Calibration | None = None,
    rows: Tensor | None = None,
) -> Draft:
    """Everything that does not depend on other frames."""
    rows = torch.arange(len(prepared), device=frame.depth.device) if rows is None else rows
    if prepared.options.mend:
        frame = replace(frame, depth=mended(frame.depth, frame.instances))
    evidence = gather_evidence(prepared, frame, rows)
    xyz = surface_points(frame)
    roles = decide_roles(frame, evidence, inside_extent(frame, evidence, xyz, options.roles), options.roles)
    wanted = ((roles.hard == PRESERVE) & ~roles.asset).reshape(-1) & (evidence.count > 0)
    cue, spread = sample_cue(prepared, evidence, wanted)
    features = feature_maps(frame, evidence, cue, spread, wanted)
    raw = raw_confidence(evidence)
    confidence = raw
    if calibration is not None:
        places = wanted.nonzero()[:, 0]
        confidence = torch.zeros_like(raw)
        moving = frame.moving.reshape(-1)[places]
        confidence[places] = calibration.confidence(features[places], raw[places], moving).to(raw)
    return Draft(frame, evidence, roles, xyz, cue, confidence, features)


@torch.no_grad()
def finish(draft: Draft, options: CueOptions, role_filter: RoleFilter | None) -> CueFrame:
    """The cue frame of a draft, its roles filtered if a filter is given."""
    frame, evidence, asset = draft.frame, draft.evidence, draft.roles.asset
    shape = frame.depth.shape
    hard = draft.roles.hard
    if role_filter is not None:
        hard = role_filter(frame, hard, draft.xyz)
    observed = (hard == PRESERVE) & ~asset & (evidence.count > 0).reshape(shape)
    image, known = draft.cue.reshape(*shape, 3), observed
    if frame.image is not None:
        image = torch.where(asset[..., None], frame.image.to(image), image)
        known = known | asset
    inverse = inverse_depth(frame.depth * frame.covered)
    shown = inverse[inverse > 0]
    largest = torch.quantile(shown[:: max(1, len(shown) // 10_000)], PERCENTILE) if len(shown) else 1.0
    keep = options.keep_features
    certain = torch.where(asset, 1.0, torch.where(observed, draft.confidence.reshape(shape), 0.0))
    return CueFrame(
        time=frame.time,
        camera=frame.camera,
        image=fill(image, known, options.fill_reach),
        observed=observed,
        roles=hard,
        soft_roles=draft.roles.soft,
        asset=asset,
        confidence=certain,
        raw_confidence=torch.where(observed, raw_confidence(evidence).reshape(shape), 0.0),
        provenance=torch.where(observed, evidence.view[0].reshape(shape), NONE),
        votes=evidence.count.reshape(shape),
        depth=frame.depth,
        inverse_depth=inverse / largest,
        alpha=frame.alpha,
        moving=frame.moving,
        rendered=frame.image,
        features=draft.features.reshape(*shape, -1) if keep else None,
    )


def stream_cues(
    prepared: Prepared,
    target: Callable[[int], TargetFrame],
    count: int,
    options: CueOptions | None = None,
    calibration: Calibration | None = None,
    workers: int = 2,
) -> Iterator[CueFrame]:
    """Cue frames 0 to count - 1 of a clip, in order; `target(k)` gives the geometry of frame k and is called from
    threads.

    At most `workers` + 1 frames are held besides the one that is yielded, however long the clip is. Each thread works
    on a frame of its own with one thread of torch and OpenCV; the numbers of threads are restored at the end.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    options = options or CueOptions()
    role_filter = RoleFilter() if options.temporal else None
    before = torch.get_num_threads(), cv2.getNumThreads()
    pending: deque[Future[Draft]] = deque()

    def work(k: int) -> Draft:
        with torch.no_grad():
            return draft_cue(prepared, target(k), options, calibration)

    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        following = 0
        while following < count or pending:
            while following < count and len(pending) <= workers:
                pending.append(pool.submit(work, following))
                following += 1
            yield finish(pending.popleft().result(), options, role_filter)
    finally:
        for future in pending:
            future.cancel()
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def to(frame: CueFrame, device: str) -> CueFrame:
    """The frame with its tensors on a device."""
    moved = {name: x.to(device) for name, x in vars(frame).items() if isinstance(x, Tensor)}
    return replace(frame, **moved)
