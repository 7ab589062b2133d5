"""The contact sheet of an evaluation: captured picture, rendered picture, their difference and the depth, view by view.

H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from scene4d.captures import Capture, View
from scene4d.evaluation import Evaluation, ViewScore
from scene4d.evaluation_views import EvaluationOptions, render_view, spread
from scene4d.scene import Scene4D

if TYPE_CHECKING:
    from scene4d.edits import EditedScene

COLUMNS = ("captured", "rendered", "difference x 4", "depth")
ERROR_GAIN = 4.0  # a difference of 0.25 has the last colour
ROWS = 6  # views shown at most
CELL = 400  # pixels, the longest side of a picture
MARGIN, LINE = 12, 20
PAPER, INK = (255, 255, 255), (30, 30, 30)
DEPTH_QUANTILES = (0.02, 0.98)  # of a view's depth: nearer and farther ones get the end colours


def evaluation_sheet(
    scene: Scene4D | EditedScene, capture: Capture, evaluation: Evaluation, options: EvaluationOptions, rows: int = ROWS
) -> Image.Image:
    """An RGB picture with a row for each of some of the evaluated views, every group among them.

    Raises ValueError: nothing was evaluated.
    """
    scores = chosen_scores(evaluation.views, rows)
    if not scores:
        raise ValueError("evaluation must hold views, it holds none")
    strips = [_strip(scene, capture, score, options) for score in scores]
    width = max(strip.width for strip in strips) + 2 * MARGIN
    sheet = Image.new("RGB", (width, sum(s.height for s in strips) + 2 * MARGIN + LINE), PAPER)
    draw = ImageDraw.Draw(sheet)
    left = MARGIN
    for name in COLUMNS:
        draw.text((left, MARGIN), name, INK, ImageFont.load_default(15))
        left += (width - 2 * MARGIN) // len(COLUMNS)
    top = MARGIN + LINE
    for strip in strips:
        sheet.paste(strip, (MARGIN, top))
        top += strip.height
    return sheet


def chosen_scores(scores: Sequence[ViewScore], most: int) -> list[ViewScore]:
    """Evenly chosen views, equally many of each group, held-out ones first."""
    ordered = sorted(scores, key=lambda s: (s.camera, s.frame))  # spread over cameras and, within each, over frames
    groups = [[s for s in ordered if s.group == g] for g in ("held_out_cameras", "held_out_times", "train")]
    groups = [group for group in groups if group]
    share = max(1, most // max(1, len(groups)))
    return [score for group in groups for score in spread(group, share)][:most]


def _strip(scene: Scene4D | EditedScene, capture: Capture, score: ViewScore, options: EvaluationOptions) -> Image.Image:
    view = capture.view(score.camera, score.frame)
    shown = render_view(scene, capture, view, options, ("rgb", "depth"))
    image, picture = shown["rgb"].cpu(), capture.image(view)
    difference = (image - picture).abs().mean(-1) * ERROR_GAIN
    valid = capture.valid(view)
    if valid is not None:
        difference = difference * valid
    cells = [
        _rgb(picture),
        _rgb(image),
        colored(difference.clamp(0.0, 1.0).numpy(), cv2.COLORMAP_INFERNO),
        depth_picture(shown["depth"].cpu()),
    ]
    width, height = _cell_size(view)
    strip = Image.new("RGB", (len(cells) * (width + 6), height + LINE + 6), PAPER)
    for i, cell in enumerate(cells):
        strip.paste(Image.fromarray(cell).resize((width, height), Image.Resampling.BILINEAR), (i * (width + 6), LINE))
    group = score.group.replace("_", " ")
    text = f"{score.camera}  frame {score.frame}  {group}  PSNR {score.full.psnr:.2f}"
    if score.moving is not None and score.moving.pixels:
        text += f"  moving {score.moving.psnr:.2f}"
    ImageDraw.Draw(strip).text((0, 3), text, INK, ImageFont.load_default(13))
    return strip


def _cell_size(view: View) -> tuple[int, int]:
    scale = CELL / max(view.width, view.height)
    return max(1, round(view.width * scale)), max(1, round(view.height * scale))


def _rgb(image: Tensor) -> np.ndarray:
    return (image * 255.0).round().clamp(0, 255).byte().numpy()


def colored(values: np.ndarray, colormap: int) -> np.ndarray:
    """uint8 [H, W, 3] of values [H, W] in [0, 1]."""
    return cv2.cvtColor(cv2.applyColorMap((values * 255.0).round().astype(np.uint8), colormap), cv2.COLOR_BGR2RGB)


def depth_picture(depth: Tensor) -> np.ndarray:
    """uint8 [H, W, 3]: near is warm, far is cold, nothing is black; evenly in 1 / depth."""
    z = depth.numpy().astype(np.float64)
    there = z > 0
    if not there.any():
        return np.zeros((*z.shape, 3), np.uint8)
    inverse = np.where(there, 1.0 / np.where(there, z, 1.0), 0.0)
    low, high = np.quantile(inverse[there], DEPTH_QUANTILES)
    picture = colored(np.clip((inverse - low) / max(high - low, 1e-12), 0.0, 1.0), cv2.COLORMAP_TURBO)
    picture[~there] = 0
    return picture
