"""Finished frames as pictures to look at. All are uint8 [H, W, 3] RGB."""

from __future__ import annotations

import cv2
import numpy as np

from editors.video import ORIGINS, VideoFrame
from scene4d.cues.drawing import LEGEND, cue_picture, render_picture, role_picture
from scene4d.files.images import to_integers

# of ORIGINS, in order
ORIGIN_COLORS = np.array([[86, 168, 98], [92, 196, 214], [236, 146, 52], [84, 110, 214], [196, 84, 186]], np.uint8)
BAR = 20  # pixels of the line of text above a panel
WIDE = 1600  # pixels: four panels in a row are at most so wide, else two and two
INK, PAPER = (235, 235, 235), (24, 24, 28)


def result_picture(frame: VideoFrame) -> np.ndarray:
    return to_integers(frame.image.cpu().numpy(), 255)


def origin_picture(frame: VideoFrame) -> np.ndarray:
    """Where colours come from, in colours."""
    return ORIGIN_COLORS[frame.origin.cpu().numpy()]


def overview(frame: VideoFrame) -> np.ndarray:
    """Render, cue, roles with a legend, result: side by side, or two and two where that would be too wide."""
    panels = [
        _titled(render_picture(frame.cue), ("render", None)),
        _titled(cue_picture(frame.cue), ("cue", None)),
        _titled(role_picture(frame.cue), *LEGEND),
        _titled(result_picture(frame), ("result", None)),
    ]
    return side_by_side(panels)


def side_by_side(panels: list[np.ndarray]) -> np.ndarray:
    """Four panels of one size."""
    if 4 * panels[0].shape[1] <= WIDE:
        return np.concatenate(panels, 1)
    return np.concatenate([np.concatenate(panels[:2], 1), np.concatenate(panels[2:], 1)], 0)


def origin_legend() -> tuple[tuple[str, np.ndarray], ...]:
    return tuple(zip(ORIGINS, ORIGIN_COLORS, strict=True))


def _titled(picture: np.ndarray, *names: tuple[str, np.ndarray | None]) -> np.ndarray:
    bar = np.full((BAR, picture.shape[1], 3), PAPER, np.uint8)
    step = picture.shape[1] // len(names)
    for k, (name, color) in enumerate(names):
        x = 4 + k * step
        if color is not None:
            cv2.rectangle(bar, (x, 5), (x + 9, 14), tuple(int(c) for c in color), -1)
            x += 12
        room = max((step - (x - k * step)) // 6, 1) if len(names) > 1 else len(name)
        cv2.putText(bar, name[:room], (x, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.36, INK, 1, cv2.LINE_AA)
    return np.concatenate([bar, picture], 0)
