"""The editor `classical`: keep what was observed, carry it over where it is seen elsewhere, paint the rest once.

A clip is worked on in windows of frames. In a window, in this order:

1. Preserve comes from the cue; where its confidence is low it fades to the render. Inserted and restyled surfaces and
   Expand come from the render, where that shows something.
2. Holes take source pixels that show about the right surface, then what other frames of the window and kept frames have
   observed of it, the nearest in time first, then what was painted there before, the oldest first.
3. The frame with the largest hole is painted (editors/classical/inpainting.py), each object from itself; all other
   frames take what they can see of it. Until no frame has a hole.

So a place is painted once and keeps its look, forth and back in time. Frames whose painting may be needed again are
kept: the last frame of the window and those that painted most, at most `kept` of them.

H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from editors.classical.blending import joined
from editors.classical.inpainting import inpainted
from editors.classical.sheets import Sheet, points_of, seen_in, sheet_of
from editors.video import (
    EXTRAPOLATED,
    INPAINTED,
    OBSERVED,
    PROPAGATED,
    RENDERED,
    VideoEditRequest,
    VideoEditResult,
    VideoFrame,
)
from scene4d.cues import EXPAND, PRESERVE

FEW = 4  # an object of which less than a fourth is sure is painted from all that is shown of it


@dataclass(frozen=True)
class ClassicalOptions:
    """How completion works. Raises ValueError: a number out of range."""

    window: int = 12  # frames that are worked on together
    kept: int = 8  # frames before them that are looked up
    neighbours: int = 6  # frames that are asked for what they observed
    sure: float = 0.5  # confidence from which the cue stands alone; below, it fades to the render
    lent: float = 0.3  # confidence from which an observed pixel is lent to other frames and painted from
    blend: bool = True  # match the render to the cue along the seam

    def __post_init__(self) -> None:
        for name, least in (("window", 1), ("kept", 1), ("neighbours", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("sure", "lent"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}")


class ClassicalEditor:
    """Needs no weights, and gives the same for the same request: it draws no random numbers."""

    def __init__(self, options: ClassicalOptions | None = None) -> None:
        self.options = options or ClassicalOptions()

    def edit(self, request: VideoEditRequest) -> VideoEditResult:
        """Raises ValueError: there is a prompt or a reference, which it cannot follow."""
        for name, given in (("prompt", bool(request.prompt)), ("reference", request.reference is not None)):
            if given:
                raise ValueError(f"{name} must not be given to the editor classical, which only completes what is seen")
        return VideoEditResult(self._frames(request), request.count, request.fps)

    def _frames(self, request: VideoEditRequest) -> Iterator[VideoFrame]:
        source = iter(request.frames)
        before: list[Sheet] = []
        done = 0
        while window := [sheet_of(frame) for frame in islice(source, self.options.window)]:
            with torch.no_grad():
                complete(window, before, self.options)
                before = remembered(before, window, self.options.kept)
            for sheet in window:
                assert sheet.frame is not None
                yield VideoFrame(sheet.image, sheet.origin, sheet.frame.cue)
            done += len(window)
            window.clear()  # before the next is read
        if done != request.count:
            raise ValueError(f"frames must be {request.count} as count says, got {done}")


def make_editor() -> ClassicalEditor:
    return ClassicalEditor()


def complete(window: list[Sheet], before: list[Sheet], options: ClassicalOptions) -> None:
    """Paint all frames of a window; `before` are frames that are done."""
    for sheet in window:
        _start(sheet, options)
    points = [points_of(sheet) if bool(sheet.hole.any()) else None for sheet in window]
    _propagate(window, before, points, options)
    for sheet, xyz in zip(window, points, strict=True):
        for other in before:
            _reuse(sheet, xyz, other)
    while True:
        sizes = [int(sheet.hole.sum()) for sheet in window]
        if not any(sizes):
            return
        anchor = window[sizes.index(max(sizes))]
        _paint(anchor, options)
        for sheet, xyz in zip(window, points, strict=True):
            _reuse(sheet, xyz, anchor)


def remembered(before: list[Sheet], window: list[Sheet], most: int) -> list[Sheet]:
    """The frames to keep, oldest first: the last, and of the others those that painted most."""
    *others, last = [*before, *(sheet.kept() for sheet in window)]
    sizes = [int(sheet.painted.sum()) for sheet in others]
    best = sorted(range(len(others)), key=lambda k: (-sizes[k], -k))[: most - 1]
    return [*(others[k] for k in sorted(best) if sizes[k]), last]


# -- what is known at once ---------------------------------------------------------------------------------------------


def _start(sheet: Sheet, options: ClassicalOptions) -> None:
    """The frame's own colours: the cue, the render, and source pixels that nearly show the surface."""
    frame = sheet.frame
    assert frame is not None
    cue, render = frame.cue, frame.cue.rendered
    keep = cue.observed & (cue.roles == PRESERVE)
    image, origin = cue.image, torch.full(cue.roles.shape, OBSERVED, dtype=torch.uint8)
    shown = cue.asset
    if render is not None:
        share = (
            (cue.confidence / max(options.sure, 1e-6)).clamp(0, 1) if options.sure > 0 else torch.ones_like(cue.alpha)
        )
        mixed = share[..., None] * cue.image + (1 - share[..., None]) * render
        image = torch.where((keep & (share < 1))[..., None], mixed, image)
        origin[keep & (share < 0.5)] = RENDERED
        covered = (cue.alpha >= 0.5) & ~keep
        shown = shown | (covered & (cue.roles == EXPAND))
        if frame.restyled is not None:
            shown = shown | (covered & frame.restyled)
        image = torch.where(shown[..., None] & ~cue.asset[..., None], render, image)
    origin[shown] = RENDERED
    hole = ~(keep | shown)
    if frame.nearly is not None and bool((hole & (cue.alpha >= 0.5)).any()):
        colors, weight = frame.nearly(hole & (cue.alpha >= 0.5))
        found = hole & (weight > 0)
        image = torch.where(found[..., None], colors, image)
        origin[found] = PROPAGATED
        hole = hole & ~found
    sheet.image, sheet.origin, sheet.hole = image.clone(), origin, hole
    sheet.trust = torch.where(keep, cue.confidence, 0.0)
    if options.blend and render is not None:  # an inserted thing and a restyled one look as they were told to
        told = cue.asset if frame.restyled is None else cue.asset | frame.restyled
        sheet.image = joined(sheet.image, render, shown & ~told, keep, sheet.trust)


def _lent(sheet: Sheet, options: ClassicalOptions) -> Tensor:
    return (sheet.origin == OBSERVED) & (sheet.trust >= options.lent)


# -- from other frames -------------------------------------------------------------------------------------------------


def _propagate(
    window: list[Sheet], before: list[Sheet], points: list[Tensor | None], options: ClassicalOptions
) -> None:
    """Holes of each frame from what other frames observed, the nearest in time first."""
    frames = [*before, *window]
    lent = [_lent(sheet, options) for sheet in frames]
    for k, (sheet, xyz) in enumerate(zip(window, points, strict=True)):
        own = len(before) + k
        others = sorted((i for i in range(len(frames)) if i != own), key=lambda i: (abs(i - own), i))
        for i in others[: options.neighbours]:
            _take(sheet, xyz, frames[i], lent[i], PROPAGATED)


def _reuse(sheet: Sheet, xyz: Tensor | None, other: Sheet) -> None:
    """What another frame has painted, or has taken from a frame that did."""
    if sheet is other:
        return
    for origin in (INPAINTED, EXTRAPOLATED):
        _take(sheet, xyz, other, ~other.hole & (other.origin == origin), origin)


def _take(sheet: Sheet, xyz: Tensor | None, other: Sheet, usable: Tensor, origin: int) -> None:
    if xyz is None:
        return
    pixels = sheet.hole.reshape(-1).nonzero()[:, 0]
    colors, seen = seen_in(sheet, xyz, pixels, other, usable)
    taken = pixels[seen]
    sheet.image.view(-1, 3)[taken] = colors[seen]
    sheet.origin.view(-1)[taken] = origin
    sheet.hole.view(-1)[taken] = False


# -- painting ----------------------------------------------------------------------------------------------------------


def _paint(sheet: Sheet, options: ClassicalOptions) -> None:
    """Fill what is left of one frame. Each object is painted from itself, where anything of it is known."""
    frame = sheet.frame
    assert frame is not None
    hole, image = sheet.hole, sheet.image
    known = ~hole & ((sheet.trust >= options.lent) | (sheet.origin != OBSERVED))
    for number in torch.unique(sheet.objects[hole]).tolist():
        own = sheet.objects == number
        near = _context(own & ~hole, known, ~hole)
        filled = inpainted(image.numpy(), near.numpy(), (hole & own).numpy())
        image = torch.where((hole & own)[..., None], torch.from_numpy(filled), image)
    outside = frame.cue.roles == EXPAND
    sheet.image = image
    sheet.origin = torch.where(hole, torch.where(outside, EXTRAPOLATED, INPAINTED).to(torch.uint8), sheet.origin)
    sheet.painted = hole.clone()
    sheet.hole = torch.zeros_like(hole)


def _context(own: Tensor, sure: Tensor, shown: Tensor) -> Tensor:
    """What an object's hole is painted from, [H, W]: the sure pixels of itself; with few of them all of itself; where
    nothing of it is shown, other things."""
    trusted = own & sure
    if int(trusted.sum()) * FEW > int(own.sum()):
        return trusted
    if bool(own.any()):
        return own
    return sure if bool(sure.any()) else shown
