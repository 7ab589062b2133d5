"""What a fit shows while it runs: pictures of the same few views, rendered beside captured, and plots.

H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from renderers import RasterOptions, rasterize
from scene4d.captures import View
from scene4d.errors import InputError
from scene4d.evaluation_views import spread
from scene4d.files.atomic import make_folder
from scene4d.files.images import to_integers, write_png
from scene4d.fitting.footage import Footage
from scene4d.fitting.train import Fit
from scene4d.metrics.images import psnr
from scene4d.runs import Scalar

FOLDER = "previews"
MOST_VIEWS = 4
MEASURED_VIEWS = 64  # of the final PSNR
GAP = 4  # pixels between pictures


def preview_views(footage: Footage) -> list[View]:
    """Views of different cameras and times: of the n-th camera shown, the n-th part of its frames."""
    names = spread(footage.camera_names, MOST_VIEWS)
    if len(names) < MOST_VIEWS:
        return spread(footage.views, MOST_VIEWS)
    views = [footage.of_camera(name) for name in names]
    return [own[(k * (len(own) - 1)) // (len(names) - 1)] for k, own in enumerate(views)]


def write_preview(fit: Fit, views: Sequence[View], folder: Path) -> Path:
    """A PNG named by the steps that are done: a row for each view, rendered on the left, captured on the right.

    Raises:
        InputError: it cannot be written.
    """
    rows = [torch.cat([picture, torch.ones(len(picture), GAP, 3), truth], 1) for picture, truth, _ in _seen(fit, views)]
    width = max(row.shape[1] for row in rows)
    sheet = torch.ones(sum(len(row) + GAP for row in rows) - GAP, width, 3)
    top = 0
    for row in rows:
        sheet[top : top + len(row), : row.shape[1]] = row
        top += len(row) + GAP
    path = folder / FOLDER / f"step_{fit.step:06d}.png"
    make_folder(path.parent)
    write_png(path, to_integers(sheet.numpy(), 255))
    return path


def training_psnr(fit: Fit) -> float | None:
    """Mean PSNR in dB over training views at the fit's size, with exposure; of more than 64, 64 evenly chosen ones."""
    scores = [float(psnr(*seen)) for seen in _seen(fit, spread(fit.footage.views, MEASURED_VIEWS))]
    known = [score for score in scores if np.isfinite(score)]
    return float(np.mean(known)) if known else None


@torch.no_grad()
def _seen(fit: Fit, views: Sequence[View]) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Each view rendered as its camera shows it, as it was captured [H, W, 3], and where that counts [H, W], on CPU."""
    scene, options = fit.model.scene(), RasterOptions(threads=fit.settings.threads)
    for view in views:
        shot = fit.footage.shot(view)
        rendering = rasterize(scene.at(view.time), shot.camera, options=options)
        picture = fit.exposed(rendering, view.camera).clamp(0, 1)
        mask = None if shot.weights is None else shot.weights.cpu() > 0
        yield picture.cpu(), shot.image.cpu(), mask


# -- plots -------------------------------------------------------------------------------------------------------------

Plot = Callable[[int, Mapping[str, Scalar]], None]


def check_plots() -> None:
    """Raises InputError: tensorboard is not installed."""
    if find_spec("tensorboard") is None:
        raise InputError("--tensorboard needs tensorboard: pip install 'scene4d[plots]'")


def open_plots(folder: Path) -> tuple[Plot, Callable[[], None]]:
    """A function that adds the numbers of a step to TensorBoard's files in `folder`, and one that closes them.

    The steps that a killed run had made beyond its last checkpoint are told twice, with the same numbers.
    """
    check_plots()
    from torch.utils.tensorboard import SummaryWriter  # imported here: an extra

    writer = SummaryWriter(str(folder))

    def add(step: int, scalars: Mapping[str, Scalar]) -> None:
        for name, value in scalars.items():
            if isinstance(value, int | float):
                writer.add_scalar(name, value, step)

    return add, writer.close
