"""The CUDA backend: gsplat (>= 1.5.3), wrapped into our result type. float32, CUDA tensors.

Ye et al. 2024, "gsplat: An Open-Source Library for Gaussian Splatting".
"""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from renderers import torch_reference
from renderers.checks import check_values
from renderers.data import Cameras, Gaussians, RasterOptions, Rendering, Screen

INSTALL = "pip install 'scene4d[gpu]'"


def render(
    gaussians: Gaussians,
    cameras: Cameras,
    features: Tensor | None,
    background: Tensor | None,
    want: frozenset[str],
    options: RasterOptions,
) -> Rendering:
    gsplat = load()
    means = gaussians.means
    if means.device.type != "cuda" or means.dtype != torch.float32:
        raise ValueError(f"means must be float32 on a GPU for backend 'gsplat', got {means.dtype} on {means.device}")
    if cameras.K.requires_grad and torch.is_grad_enabled():
        raise ValueError("K must not require grad with backend 'gsplat': use backend 'torch'")
    max_alpha = installed_max_alpha()
    if options.max_alpha not in (None, max_alpha):
        raise ValueError(f"max_alpha must be {max_alpha} with the installed gsplat, got {options.max_alpha}")
    if len(gaussians) == 0:  # gsplat launches nothing for it; the definition returns the background
        return torch_reference.render(gaussians, cameras, features, background, want, options)
    check_values(gaussians, features)
    colors, sh_degree = _colors(gsplat, gaussians, cameras, features)
    if background is not None and features is not None:
        background = torch.cat([background, background.new_zeros(len(cameras), features.shape[-1])], -1)
    maps, alphas, meta = gsplat.rasterization(
        means,
        gaussians.quats,
        torch.exp(gaussians.log_scales),
        torch.sigmoid(gaussians.logit_opacities),
        colors,
        cameras.world_to_cam,
        cameras.K,
        cameras.width,
        cameras.height,
        near_plane=options.near,
        far_plane=options.far,
        eps2d=options.eps2d,
        sh_degree=sh_degree,
        packed=False,
        backgrounds=background,
        render_mode="RGB+ED",
        absgrad=options.absgrad,
        rasterize_mode="antialiased" if options.antialiased else "classic",
    )
    if meta["means2d"].requires_grad:
        meta["means2d"].retain_grad()
    extras = _extras(gsplat, meta, cameras, max_alpha, want) if want else {}
    return Rendering(
        image=maps[..., :3],
        alpha=alphas[..., 0],
        depth=maps[..., -1],
        features=None if features is None else maps[..., 3:-1],
        screen=Screen(meta["means2d"], meta["radii"].int(), extras.pop("weight_sum", None)),
        **extras,
    )


@cache
def load() -> ModuleType:
    """The gsplat module with its CUDA code loaded. Raises ImportError or RuntimeError saying what is missing."""
    if not torch.cuda.is_available():
        raise RuntimeError("backend 'gsplat' needs a CUDA GPU, and torch.cuda.is_available() is False here")
    if find_spec("gsplat") is None:
        raise ImportError(f"backend 'gsplat' needs gsplat: {INSTALL}")
    import gsplat

    try:
        compiled = import_module("gsplat.cuda._backend")._C  # compiles on first use
    except (ImportError, OSError, RuntimeError) as error:
        raise RuntimeError(f"gsplat could not build or load its CUDA code: {error}") from error
    if compiled is None:
        raise RuntimeError("gsplat found no CUDA toolkit to build its CUDA code with: install nvcc or a gsplat wheel")
    return gsplat


@cache
def installed_max_alpha() -> float:
    """The cap of one contribution that the installed gsplat was written with (0.999 in 1.5.3, 0.99 in 1.6)."""
    spec = find_spec("gsplat")
    if spec is None or spec.origin is None:
        raise ImportError(f"backend 'gsplat' needs gsplat: {INSTALL}")
    root = Path(spec.origin).parent / "cuda"
    sources = (  # 1.6 keeps it in a module, 1.5 in the kernel
        (root / "_constants.py", r"^MAX_ALPHA\s*(?::.*)?=\s*([0-9.]+)"),
        (root / "csrc" / "RasterizeToPixels3DGSFwd.cu", r"alpha = min\(([0-9.]+)f, opac"),
    )
    for path, pattern in sources:
        match = re.search(pattern, path.read_text(), re.MULTILINE) if path.exists() else None
        if match:
            return float(match.group(1))
    raise RuntimeError(f"cannot find the alpha cap of the gsplat in {root}: set RasterOptions.max_alpha to it")


def _colors(gsplat: Any, gaussians: Gaussians, cameras: Cameras, features: Tensor | None) -> tuple[Tensor, int | None]:
    """What gsplat blends, and the SH degree it has to evaluate first (None: nothing)."""
    C, N = len(cameras), len(gaussians)
    if gaussians.sh is not None:
        degree = {1: 0, 4: 1, 9: 2, 16: 3}[gaussians.sh.shape[1]]
        if features is None:
            return gaussians.sh, degree
        directions = gaussians.means[None] - cameras.centers[:, None]
        rgb = gsplat.spherical_harmonics(degree, directions, gaussians.sh.expand(C, *gaussians.sh.shape))
        rgb = torch.clamp_min(rgb + 0.5, 0.0)
    else:
        assert gaussians.colors is not None
        rgb = gaussians.colors
    if features is None:
        return rgb, None
    if rgb.ndim == features.ndim == 2:
        return torch.cat([rgb, features], -1), None
    return torch.cat([rgb.expand(C, N, 3), features.expand(C, N, -1)], -1), None


@torch.no_grad()
def _extras(gsplat: Any, meta: dict, cameras: Cameras, max_alpha: float, want: frozenset[str]) -> dict[str, Tensor]:
    C, H, W = len(cameras), cameras.height, cameras.width
    means2d, conics, opacities = meta["means2d"].detach(), meta["conics"].detach(), meta["opacities"].detach()
    ids, pixels, images = gsplat.rasterize_to_indices_in_range(
        0,
        1 << 30,
        torch.ones(C, H, W, device=means2d.device),
        means2d,
        conics,
        opacities,
        W,
        H,
        meta["tile_size"],
        meta["isect_offsets"],
        meta["flatten_ids"],
    )
    ids, pixels, images = ids.long(), pixels.long(), images.long()
    center = torch.stack([pixels % W, pixels // W], -1) + 0.5
    d = means2d[images, ids] - center
    A, B, D = conics[images, ids].unbind(-1)
    sigma = 0.5 * (A * d[:, 0] ** 2 + D * d[:, 1] ** 2) + B * d[:, 0] * d[:, 1]
    alpha = torch.clamp_max(opacities[images, ids] * torch.exp(-sigma), max_alpha)
    return extras_from_pairs(ids, images * (H * W) + pixels, alpha, meta["depths"].detach(), (C, H, W), want)


def extras_from_pairs(
    ids: Tensor,  # [P] Gaussian of each contributing (Gaussian, pixel) pair, front to back within a pixel
    pixels: Tensor,  # [P] flat pixel index over all images, ascending
    alpha: Tensor,  # [P]
    depths: Tensor,  # [C, N]
    size: tuple[int, int, int],  # C, H, W
    want: frozenset[str],
) -> dict[str, Tensor]:
    """median_depth, top_id, top_weight and weight_sum of `Rendering` from the list of all contributions."""
    C, H, W = size
    total, image = C * H * W, pixels // (H * W)
    # T in front of each pair: exclusive sum of ln(1 - alpha) from the start of its pixel; double, as it runs on
    inclusive = torch.cumsum(torch.log1p(-alpha.double()), 0)
    exclusive = torch.cat([inclusive.new_zeros(1), inclusive[:-1]]) if len(alpha) else inclusive
    counts = torch.bincount(pixels, minlength=total)
    first = torch.cumsum(counts, 0) - counts
    start = exclusive[first[pixels]]
    before, after = torch.exp(exclusive - start), torch.exp(inclusive - start)
    weights = (alpha * before).to(alpha.dtype)
    out: dict[str, Tensor] = {}
    if "weight_sum" in want:
        sums = torch.zeros(depths.numel(), dtype=alpha.dtype, device=alpha.device)
        out["weight_sum"] = sums.index_add_(0, image * depths.shape[1] + ids, weights).reshape(depths.shape)
    if "median_depth" in want:
        crossing = (before > 0.5) & (after <= 0.5)
        median = torch.zeros(total, dtype=depths.dtype, device=depths.device)
        median[pixels[crossing]] = depths[image[crossing], ids[crossing]]
        out["median_depth"] = median.reshape(size)
    if "top" in want:
        top = torch.zeros(total, dtype=weights.dtype, device=weights.device)
        top.scatter_reduce_(0, pixels, weights, "amax")
        rank = torch.arange(len(ids), device=ids.device)
        best = torch.full((total,), len(ids), device=ids.device)  # the first pair of that weight, as in the definition
        is_top = weights == top[pixels]
        best.scatter_reduce_(0, pixels[is_top], rank[is_top], "amin")
        top_id = torch.cat([ids, ids.new_full((1,), -1)])[best]
        out["top_id"], out["top_weight"] = top_id.int().reshape(size), top.reshape(size)
    return out
