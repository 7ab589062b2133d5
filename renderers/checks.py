"""Input checks of `rasterize`: every message names the argument, the rule and what was got."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from renderers.data import SH_COUNTS, WANTS, Cameras, Gaussians, RasterOptions

MAX_IMAGE_SIDE = 16384  # pixels; beyond it a tile index no longer fits the C++ backend's arithmetic
MAX_LOG_SCALE = 20.0  # exp(20) = 4.9e8 scene units: larger ones overflow float32 on screen
MIN_NEAR, MAX_FAR = 1e-6, 1e20  # depths whose inverse square float32 holds
MIN_EPS2D = 1e-4  # px^2: below it a flat Gaussian seen edge-on has gradients that float32 does not hold
MAX_THREADS = 1024
ROTATION_TOLERANCE = 1e-3  # of R R^T - 1: float32 poses from files pass, scaled or sheared ones do not


def check_inputs(
    gaussians: Gaussians,
    cameras: Cameras,
    features: Tensor | None,
    background: Tensor | None,
    want: Collection[str],
    options: RasterOptions,
) -> Tensor | None:
    """Raise ValueError on a wrong input; return the background as [C, 3] or None."""
    means = gaussians.means
    if not isinstance(means, Tensor) or means.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"means must be a float32 or float64 tensor, got {_what(means)}")
    N, C = _rows(means, "means"), _rows(cameras.world_to_cam, "world_to_cam")
    if C == 0:
        raise ValueError("world_to_cam must hold at least one camera, got shape [0, ...]")
    _check_gaussians(gaussians, N)
    if means.device.type not in ("cpu", "cuda"):
        raise ValueError(f"means must be on the CPU or a CUDA GPU, got {means.device}")
    _check_cameras(cameras, C, like=means)
    if features is not None:
        per_camera = isinstance(features, Tensor) and features.ndim == 3
        _check(features, "features", (C, N, None) if per_camera else (N, None), like=means)
    if background is not None:
        per_camera = isinstance(background, Tensor) and background.ndim == 2
        _check(background, "background", (C, 3) if per_camera else (3,), like=means)
        check_finite(background, "background")
        background = background.expand(C, 3)
    if not isinstance(want, Collection) or isinstance(want, str) or not all(w in WANTS for w in want):
        raise ValueError(f"want must be a collection of {', '.join(WANTS)}, got {want!r}")
    _check_options(options)
    return background


def check_finite(tensor: Tensor, name: str) -> None:
    """Raise ValueError if any element is NaN or infinite."""
    flat = tensor.detach()
    if not math.isfinite(flat.sum().item()) and not (finite := torch.isfinite(flat)).all():
        first = tuple(torch.nonzero(~finite)[0].tolist())
        raise ValueError(f"{name} must be finite, got {flat[first].item()} at {list(first)}")


def check_values(gaussians: Gaussians, features: Tensor | None) -> None:
    """Raise ValueError on a value that no backend can draw: not finite, or a scale that overflows."""
    names = ("means", "quats", "log_scales", "logit_opacities", "sh", "colors")
    given = {name: tensor for name in names if (tensor := getattr(gaussians, name)) is not None}
    if features is not None:
        given["features"] = features
    if len(gaussians) == 0:
        return
    largest = gaussians.log_scales.detach().max()
    sums = torch.stack([*(tensor.detach().sum() for tensor in given.values()), largest])
    if torch.isfinite(sums).all() and largest <= MAX_LOG_SCALE:  # on a GPU: one wait for all of them
        return
    for name, tensor in given.items():
        check_finite(tensor, name)
    if largest > MAX_LOG_SCALE:
        raise ValueError(f"log_scales must be at most {MAX_LOG_SCALE} (are they logarithms?), got {largest:.4g}")


def _check_gaussians(gaussians: Gaussians, N: int) -> None:
    like = gaussians.means
    _check(like, "means", (N, 3), like)
    _check(gaussians.quats, "quats", (N, 4), like)
    _check(gaussians.log_scales, "log_scales", (N, 3), like)
    _check(gaussians.logit_opacities, "logit_opacities", (N,), like)
    if (gaussians.sh is None) == (gaussians.colors is None):
        given = "neither" if gaussians.sh is None else "both"
        raise ValueError(f"exactly one of sh and colors must be given, got {given}")
    if gaussians.colors is not None:
        _check(gaussians.colors, "colors", (N, 3), like)
    if gaussians.sh is not None:
        _check(gaussians.sh, "sh", (N, None, 3), like)
        if gaussians.sh.shape[1] not in SH_COUNTS:
            raise ValueError(f"sh must have 1, 4, 9 or 16 coefficients, got {gaussians.sh.shape[1]}")


def _check_cameras(cameras: Cameras, C: int, like: Tensor) -> None:
    _check(cameras.world_to_cam, "world_to_cam", (C, 4, 4), like)
    _check(cameras.K, "K", (C, 3, 3), like)
    for name in ("width", "height"):
        size = getattr(cameras, name)
        if not isinstance(size, int) or not 1 <= size <= MAX_IMAGE_SIDE:
            raise ValueError(f"{name} must be an integer from 1 to {MAX_IMAGE_SIDE}, got {size!r}")
    check_finite(cameras.world_to_cam, "world_to_cam")
    check_finite(cameras.K, "K")
    pose, K = cameras.world_to_cam.detach().cpu().double(), cameras.K.detach().cpu().double()
    R = pose[:, :3, :3]
    error = (R @ R.mT - torch.eye(3, dtype=torch.float64)).abs().amax((1, 2))
    bottom = (pose[:, 3] - torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)).abs().amax(1)
    for c in range(C):
        if error[c] > ROTATION_TOLERANCE or bottom[c] > ROTATION_TOLERANCE or torch.det(R[c]) < 0:
            raise ValueError(
                f"world_to_cam must be rigid (R R^T = 1, det R = 1, last row 0 0 0 1), got {pose[c].tolist()}"
            )
        if not (K[c, 0, 0] > 0 and K[c, 1, 1] > 0):
            raise ValueError(f"K must have positive focal lengths, got {K[c].tolist()}")
        if K[c, 0, 1] != 0 or K[c, 1, 0] != 0 or K[c, 2].tolist() != [0.0, 0.0, 1.0]:
            raise ValueError(f"K must be a pinhole matrix without skew, got {K[c].tolist()}")


def _check_options(options: RasterOptions) -> None:
    if not MIN_NEAR <= options.near < options.far <= MAX_FAR:
        rule = f"{MIN_NEAR} <= near < far <= {MAX_FAR}"
        raise ValueError(f"near and far must satisfy {rule}, got {options.near} and {options.far}")
    if not MIN_EPS2D <= options.eps2d < math.inf:
        raise ValueError(f"eps2d must be finite and at least {MIN_EPS2D} px^2, got {options.eps2d}")
    if options.max_alpha is not None and not 0 < options.max_alpha <= 0.9999:
        raise ValueError(f"max_alpha must be in (0, 0.9999], got {options.max_alpha}")
    if options.threads is not None and not (isinstance(options.threads, int) and 1 <= options.threads <= MAX_THREADS):
        raise ValueError(f"threads must be an integer from 1 to {MAX_THREADS}, got {options.threads!r}")


def _rows(tensor: Tensor, name: str) -> int:
    if not isinstance(tensor, Tensor) or tensor.ndim == 0:
        raise ValueError(f"{name} must be a tensor with at least one axis, got {_what(tensor)}")
    return tensor.shape[0]


def _check(tensor: Tensor, name: str, shape: tuple[int | None, ...], like: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} must be a tensor, got {_what(tensor)}")
    fits = tensor.ndim == len(shape) and all(b is None or a == b for a, b in zip(tensor.shape, shape, strict=True))
    if not fits:
        rule = ", ".join("*" if n is None else str(n) for n in shape)
        raise ValueError(f"{name} must have shape [{rule}], got {list(tensor.shape)}")
    if tensor.dtype != like.dtype or tensor.device != like.device:
        raise ValueError(f"{name} must be {like.dtype} on {like.device} like means, got {_what(tensor)}")


def _what(value: Any) -> str:
    return f"{value.dtype} on {value.device}" if isinstance(value, Tensor) else type(value).__name__
