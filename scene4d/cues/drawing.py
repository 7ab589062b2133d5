"""Cue frames as pictures to look at: roles and confidence in colours, an overview with a legend, reliability diagrams.

Drawn with OpenCV alone. All pictures are uint8 [H, W, 3] RGB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from scene4d.cues.calibration import Labels
from scene4d.cues.frames import CueFrame
from scene4d.cues.reliability import calibration_bins, sparsification
from scene4d.files.images import to_integers

ROLE_COLORS = np.array([[86, 168, 98], [236, 146, 52], [84, 110, 214]], np.uint8)  # preserve, reveal, expand
ASSET_COLOR = np.array([196, 84, 186], np.uint8)
LEGEND = (("preserve", ROLE_COLORS[0]), ("reveal", ROLE_COLORS[1]), ("expand", ROLE_COLORS[2]), ("asset", ASSET_COLOR))
BAR = 20  # pixels of the line of text above a panel
WIDE = 1600  # pixels: four panels in a row are at most so wide, else two and two
INK, PAPER, GRID = (235, 235, 235), (24, 24, 28), (70, 70, 76)
LINES = {"raw": (226, 120, 80), "calibrated": (110, 190, 250), "oracle": (140, 140, 140)}
SIDE, MARGIN = 300, 42  # of a diagram


def role_picture(cue: CueFrame) -> np.ndarray:
    """Roles in colours, assets in theirs."""
    colors = ROLE_COLORS[cue.roles.cpu().numpy()]
    return np.where(cue.asset.cpu().numpy()[..., None], ASSET_COLOR, colors)


def confidence_picture(cue: CueFrame) -> np.ndarray:
    """Viridis from 0 (dark blue) to 1 (yellow); black where nothing is observed."""
    shown = cv2.applyColorMap(to_integers(cue.confidence.cpu().numpy(), 255), cv2.COLORMAP_VIRIDIS)[..., ::-1]
    return np.where((cue.observed | cue.asset).cpu().numpy()[..., None], shown, 0).astype(np.uint8)


def cue_picture(cue: CueFrame) -> np.ndarray:
    return to_integers(cue.image.cpu().numpy(), 255)


def render_picture(cue: CueFrame) -> np.ndarray:
    """The edited scene; gray where the target geometry came without a picture."""
    if cue.rendered is None:
        return np.full((*cue.roles.shape, 3), 128, np.uint8)
    return to_integers(cue.rendered.cpu().numpy(), 255)


PICTURES = {"render": render_picture, "cue": cue_picture, "roles": role_picture, "confidence": confidence_picture}


def overview(cue: CueFrame) -> np.ndarray:
    """Render, cue, roles with a legend, confidence: side by side, or two and two where that would be too wide."""
    panels = [_titled(draw(cue), name, legend=name == "roles") for name, draw in PICTURES.items()]
    width = panels[0].shape[1]
    if 4 * width <= WIDE:
        return np.concatenate(panels, 1)
    return np.concatenate([np.concatenate(panels[:2], 1), np.concatenate(panels[2:], 1)], 0)


def _titled(picture: np.ndarray, title: str, legend: bool) -> np.ndarray:
    bar = np.full((BAR, picture.shape[1], 3), PAPER, np.uint8)
    if not legend:
        _write(bar, title, 4, 14)
        return np.concatenate([bar, picture], 0)
    x, step = 4, picture.shape[1] // len(LEGEND)
    for name, color in LEGEND:
        cv2.rectangle(bar, (x, 5), (x + 9, 14), tuple(int(c) for c in color), -1)
        _write(bar, name, x + 12, 14, 0.32)
        x += step
    return np.concatenate([bar, picture], 0)


def _write(picture: np.ndarray, text: str, x: int, y: int, size: float = 0.38) -> None:
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, INK, 1, cv2.LINE_AA)


# -- diagrams ----------------------------------------------------------------------------------------------------------


def reliability_picture(labels: Labels, confidence: np.ndarray) -> np.ndarray:
    """Raw and calibrated confidence [m] against labels: reliability diagrams of equal mass and of equal width, and
    sparsification curves."""
    methods = {"raw": labels.raw.astype(np.float64), "calibrated": confidence}
    panels = [_reliability(methods, labels.right, equal) for equal in ("mass", "width")]
    panels.append(_sparsification(methods, labels.error))
    return np.concatenate(panels, 1)


def _axes(title: str, x: str, y: str) -> np.ndarray:
    picture = np.full((SIDE + 2 * MARGIN, SIDE + 2 * MARGIN, 3), PAPER, np.uint8)
    for k in range(6):
        at = MARGIN + round(SIDE * k / 5)
        cv2.line(picture, (MARGIN, at), (MARGIN + SIDE, at), GRID, 1)
        cv2.line(picture, (at, MARGIN), (at, MARGIN + SIDE), GRID, 1)
        _write(picture, f"{1 - k / 5:.1f}", 12, at + 4, 0.34)
        _write(picture, f"{k / 5:.1f}", at - 8, MARGIN + SIDE + 14, 0.34)
    _write(picture, title, MARGIN, 16, 0.44)
    _write(picture, f"{y} over {x}", MARGIN, MARGIN + SIDE + 32, 0.36)
    return picture


def _curve(picture: np.ndarray, x: Sequence[float], y: Sequence[float], color: tuple[int, int, int]) -> None:
    points = [(MARGIN + SIDE * a, MARGIN + SIDE * (1 - min(b, 1.0))) for a, b in zip(x, y, strict=True)]
    line = np.round(np.array(points)).astype(np.int32).reshape(-1, 1, 2)
    cv2.polylines(picture, [line], False, color, 2, cv2.LINE_AA)
    if len(points) <= 20:
        for a, b in line[:, 0]:
            cv2.circle(picture, (int(a), int(b)), 3, color, -1, cv2.LINE_AA)


def _key(picture: np.ndarray, names: Sequence[str], notes: Mapping[str, str]) -> None:
    for k, name in enumerate(names):
        x, y = MARGIN + 8, MARGIN + 14 + 15 * k
        cv2.line(picture, (x, y - 4), (x + 14, y - 4), LINES[name], 2)
        _write(picture, f"{name} {notes[name]}", x + 20, y, 0.36)


def _reliability(methods: Mapping[str, np.ndarray], right: np.ndarray, equal: str) -> np.ndarray:
    picture = _axes(f"15 bins of equal {equal}", "mean confidence", "share that is right")
    cv2.line(picture, (MARGIN, MARGIN + SIDE), (MARGIN + SIDE, MARGIN), LINES["oracle"], 1, cv2.LINE_AA)
    notes = {}
    for name, p in methods.items():
        mean_p, mean_y, share = calibration_bins(p, right, equal)
        _curve(picture, mean_p.tolist(), mean_y.tolist(), LINES[name])
        notes[name] = f"ECE {(np.abs(mean_p - mean_y) * share).sum():.4f}"
    _key(picture, list(methods), notes)
    return picture


def _sparsification(methods: Mapping[str, np.ndarray], error: np.ndarray) -> np.ndarray:
    picture = _axes("error of what is left", "share removed", "mean error")
    notes, names = {"oracle": ""}, ["oracle", *methods]
    for name, p in {"oracle": -error.astype(np.float64), **methods}.items():
        found = sparsification(p, error)
        if found["curve"]:
            x = np.arange(len(found["curve"])) / len(found["curve"])
            _curve(picture, x.tolist(), found["curve"], LINES[name])
        notes[name] = "" if name == "oracle" else f"AUSE {found['ause']:.3f}"
    _key(picture, names, notes)
    return picture
