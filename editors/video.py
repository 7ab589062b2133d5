"""What a video editor is given and what it gives back (docs/completion.md).

    editor = video_editor("classical")
    for frame in editor.edit(VideoEditRequest(clip_frames, count=48, fps=24.0)).frames: ...

A clip is a stream: frames are read once, in order, so that a long path needs no more memory than a short one. An editor
that works on windows or on the whole clip gathers them itself.

H W pixels, n points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

from torch import Tensor

from scene4d.cues import CueFrame

# name -> the module that has `make_editor`
VIDEO_EDITORS = {
    "classical": "editors.classical.editor",
}

# Where a pixel's colour comes from: `VideoFrame.origin` holds places in this list.
ORIGINS = ("observed", "propagated", "inpainted", "extrapolated", "rendered")
OBSERVED, PROPAGATED, INPAINTED, EXTRAPOLATED, RENDERED = range(5)

# (flat pixels [n] int64, points [n, 3] of the world at the frame's time, seconds of the scene) -> where the surfaces
# seen at these pixels carry the points at that time, [n, 3]
Carry = Callable[[Tensor, Tensor, float], Tensor]
# (pixels that are asked for [H, W] bool) -> colours [H, W, 3] of source pixels that show about the right surface, and
# how far they can be trusted [H, W], 0 = there are none
Nearly = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class ClipFrame:
    """One frame of the clip that is to be made. Raises ValueError on shapes that do not fit."""

    cue: CueFrame
    objects: Tensor  # [H, W] int32 what is seen: equal numbers are one thing in all frames; -1 = nothing
    carry: Carry | None = None  # None: nothing moves
    restyled: Tensor | None = None  # [H, W] bool: its look was edited; only the render shows it
    nearly: Nearly | None = None

    def __post_init__(self) -> None:
        shape = list(self.cue.roles.shape)
        for name in ("objects", "restyled"):
            value = getattr(self, name)
            if value is not None and list(value.shape) != shape:
                raise ValueError(f"{name} must have shape {shape}, got {list(value.shape)}")
        if self.restyled is not None and self.cue.rendered is None:
            raise ValueError("cue.rendered must be there where pixels are restyled, got None")


@dataclass(frozen=True, eq=False)
class VideoEditRequest:
    """A clip to complete. Raises ValueError: a number out of range."""

    frames: Iterable[ClipFrame]  # in order, read once
    count: int
    fps: float
    prompt: str = ""
    reference: Tensor | None = None  # [H, W, 3] a picture to go by
    seed: int = 0  # of editors that draw random numbers

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")
        if not 0 < self.fps < math.inf:
            raise ValueError(f"fps must be above 0, got {self.fps}")
        if self.reference is not None and (self.reference.ndim != 3 or self.reference.shape[-1] != 3):
            raise ValueError(f"reference must have shape [H, W, 3], got {list(self.reference.shape)}")


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """One finished frame."""

    image: Tensor  # [H, W, 3]
    origin: Tensor  # [H, W] uint8, see ORIGINS
    cue: CueFrame  # what it was made from


@dataclass(frozen=True, eq=False)
class VideoEditResult:
    """The finished clip, made while it is read."""

    frames: Iterator[VideoFrame]
    count: int
    fps: float


class VideoEditor(Protocol):
    """Anything with this method."""

    def edit(self, request: VideoEditRequest) -> VideoEditResult:
        """Raises ValueError: the request has what this editor cannot use, or lacks what it needs."""
        ...


def video_editor(name: str) -> VideoEditor:
    """The editor of a name, with its defaults. Raises ValueError: there is none."""
    if name not in VIDEO_EDITORS:
        raise ValueError(f"editor must be one of {', '.join(VIDEO_EDITORS)}, got {name!r}")
    return import_module(VIDEO_EDITORS[name]).make_editor()
