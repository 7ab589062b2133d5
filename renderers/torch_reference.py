"""The definition of `rasterize` in plain torch: readable, float64 capable, differentiable to every input, slow.

Every other backend is compared with this one. N Gaussians, V of them in front of the camera, P pixels of a tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from renderers.checks import check_values
from renderers.data import (
    ALPHA_THRESHOLD,
    DEFAULT_MAX_ALPHA,
    TRANSMITTANCE_STOP,
    Cameras,
    Gaussians,
    RasterOptions,
    Rendering,
    Screen,
)
from renderers.spherical_harmonics import sh_basis

TILE = 16  # pixels; only bounds the memory of the dense [P, V] matrices
FRUSTUM_MARGIN = 0.3  # of tan(fov/2): how far outside the image the Jacobian's x/z may go (3DGS, gsplat)


@dataclass(frozen=True)
class Projected:
    """The drawn Gaussians of one camera, nearest first."""

    ids: Tensor  # [V] int64 index into the N
    means2d: Tensor  # [V, 2] pixels
    whitening: Tensor  # [V, 3] (u, s, v): sigma = ((u (dx + s dy))^2 + (v dy)^2) / 2
    depths: Tensor  # [V]
    opacities: Tensor  # [V]
    radii: Tensor  # [V, 2] int32


def render(
    gaussians: Gaussians,
    cameras: Cameras,
    features: Tensor | None,
    background: Tensor | None,
    want: frozenset[str],
    options: RasterOptions,
) -> Rendering:
    check_values(gaussians, features)
    C, N = len(cameras), len(gaussians)
    means2d = _project_means(gaussians.means, cameras, options)  # [C, N, 2], the tensor that keeps .grad
    absgrad = None
    if means2d.requires_grad:
        means2d.retain_grad()
        if options.absgrad:
            absgrad = torch.zeros_like(means2d)
            means2d.absgrad = absgrad  # type: ignore[attr-defined]  # where gsplat puts it
    radii = torch.zeros(C, N, 2, dtype=torch.int32, device=means2d.device)
    pictures = []
    for c in range(C):
        projected = _project(gaussians, cameras, c, means2d[c], options)
        radii[c, projected.ids] = projected.radii
        channels = _channels(gaussians, cameras, c, features, projected)
        pictures.append(_composite(projected, channels, cameras, options, None if absgrad is None else absgrad[c], N))
    return _assemble(pictures, Screen(means2d, radii, None), background, want, features is not None)


def rotation_matrices(quats: Tensor) -> Tensor:
    """Rotation matrices [N, 3, 3] of quaternions [N, 4] wxyz of any length; zero gives the identity."""
    largest = quats.detach().abs().amax(-1, keepdim=True).clamp_min(1e-30)
    w, x, y, z = torch.nn.functional.normalize(quats / largest, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).reshape(*quats.shape[:-1], 3, 3)


def _in_front(depths: Tensor, options: RasterOptions) -> Tensor:
    return (depths >= options.near) & (depths <= options.far)


def _project_means(means: Tensor, cameras: Cameras, options: RasterOptions) -> Tensor:
    R, t = cameras.world_to_cam[:, :3, :3], cameras.world_to_cam[:, :3, 3]
    p = means @ R.mT + t[:, None]  # [C, N, 3]
    seen = _in_front(p[..., 2], options)
    z = torch.where(seen, p[..., 2], 1.0)[..., None]
    focal, center = cameras.K.diagonal(dim1=1, dim2=2)[:, None, :2], cameras.K[:, None, :2, 2]
    return torch.where(seen[..., None], focal * (p[..., :2] / z) + center, 0.0)


def _project(gaussians: Gaussians, cameras: Cameras, c: int, means2d: Tensor, options: RasterOptions) -> Projected:
    """EWA projection (Zwicker et al. 2001, eq. 31) of the Gaussians in front of camera c, sorted by depth."""
    R, t, K = cameras.world_to_cam[c, :3, :3], cameras.world_to_cam[c, :3, 3], cameras.K[c]
    depths = gaussians.means @ R[2] + t[2]
    ids = torch.nonzero(_in_front(depths.detach(), options))[:, 0]
    ids = ids[torch.argsort(depths.detach()[ids], stable=True)]
    p = gaussians.means[ids] @ R.T + t
    z = p[:, 2]
    slope = p[:, :2] / z[:, None]
    focal, center = K.diagonal()[:2], K[:2, 2]
    size = torch.tensor([cameras.width, cameras.height], dtype=K.dtype, device=K.device)
    margin = FRUSTUM_MARGIN * 0.5 * size / focal
    slope = torch.maximum(torch.minimum(slope, (size - center) / focal + margin), -(center / focal + margin))
    fz = focal / z[:, None]
    zero = torch.zeros_like(z)
    J = torch.stack([fz[:, 0], zero, -fz[:, 0] * slope[:, 0], zero, fz[:, 1], -fz[:, 1] * slope[:, 1]], -1)
    M = rotation_matrices(gaussians.quats[ids]) * torch.exp(gaussians.log_scales[ids])[:, None, :]
    V = J.reshape(-1, 2, 3) @ R @ M  # cov2d = V V^T + eps2d
    size_px = V.detach().abs().amax((1, 2)).clamp_min(1)  # keeps the squares of huge splats finite; cancels out
    V, eps2d = V / size_px[:, None, None], options.eps2d / size_px**2
    xx, xy, yy = (V[:, 0] ** 2).sum(-1), (V[:, 0] * V[:, 1]).sum(-1), (V[:, 1] ** 2).sum(-1)
    cross = torch.linalg.norm(torch.linalg.cross(V[:, 0], V[:, 1]), dim=-1)  # cross^2 = det(V V^T), no cancellation
    det = cross**2 + eps2d * (xx + yy) + eps2d**2
    xx, yy = xx + eps2d, yy + eps2d
    opacities = torch.sigmoid(gaussians.logit_opacities[ids])
    if options.antialiased:
        opacities = opacities * (cross * torch.rsqrt(det))
    whitening = torch.stack([torch.sqrt(yy) * torch.rsqrt(det) / size_px, -xy / yy, torch.rsqrt(yy) / size_px], -1)
    cut = 2 * torch.log(opacities.detach().clamp_min(1e-30) / ALPHA_THRESHOLD)  # alpha >= 1/255 inside sigma <= cut/2
    half = torch.sqrt(cut.clamp_min(0)[:, None] * torch.stack([xx, yy], -1).detach()) * size_px[:, None]
    where = means2d[ids].detach()
    drawn = (cut >= 0) & (where + half > 0).all(-1) & (where - half < size).all(-1)
    keep = torch.nonzero(drawn)[:, 0]
    radii = torch.ceil(half[keep]).clamp(1, 1e9).int()
    return Projected(ids[keep], means2d[ids[keep]], whitening[keep], z[keep], opacities[keep], radii)


def _channels(gaussians: Gaussians, cameras: Cameras, c: int, features: Tensor | None, projected: Projected) -> Tensor:
    """RGB, depth and features of the drawn Gaussians, [V, 4 + F]."""
    ids = projected.ids
    if gaussians.sh is not None:
        directions = torch.nn.functional.normalize(gaussians.means[ids] - cameras.centers[c], dim=-1)
        basis = sh_basis(directions, gaussians.sh.shape[1])
        rgb = torch.relu((basis[..., None] * gaussians.sh[ids]).sum(1) + 0.5)
    else:
        assert gaussians.colors is not None
        rgb = gaussians.colors[ids]
    channels = [rgb, projected.depths[:, None]]
    if features is not None:
        channels.append((features[c] if features.ndim == 3 else features)[ids])
    return torch.cat(channels, -1)


def _composite(
    projected: Projected,
    channels: Tensor,
    cameras: Cameras,
    options: RasterOptions,
    absgrad: Tensor | None,
    N: int,
) -> dict[str, Tensor]:
    """Blend tile by tile; returns maps [H, W, ...] and the weight sums [N]. Backward fills absgrad [N, 2]."""
    max_alpha = DEFAULT_MAX_ALPHA if options.max_alpha is None else options.max_alpha
    H, W, device = cameras.height, cameras.width, channels.device
    weight_sum = channels.new_zeros(N)
    bands = []
    for y0 in range(0, H, TILE):
        tiles = []
        for x0 in range(0, W, TILE):
            y, x = torch.meshgrid(
                torch.arange(y0, min(y0 + TILE, H), device=device),
                torch.arange(x0, min(x0 + TILE, W), device=device),
                indexing="ij",
            )
            tile, touched, sums = _composite_tile(projected, channels, x, y, max_alpha, absgrad)
            weight_sum.index_add_(0, touched, sums)
            tiles.append(tile)
        bands.append({k: torch.cat([tile[k] for tile in tiles], 1) for k in tiles[0]})
    maps = {k: torch.cat([band[k] for band in bands], 0) for k in bands[0]}
    return {**maps, "weight_sum": weight_sum}


def _composite_tile(
    projected: Projected, channels: Tensor, x: Tensor, y: Tensor, max_alpha: float, absgrad: Tensor | None
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    shape, dtype = x.shape, channels.dtype
    center = projected.means2d.detach()
    low, high = center - projected.radii - 1, center + projected.radii + 1
    touch = (high[:, 0] > x[0, 0]) & (low[:, 0] < x[0, -1] + 1) & (high[:, 1] > y[0, 0]) & (low[:, 1] < y[-1, 0] + 1)
    k = torch.nonzero(touch)[:, 0]
    means2d = projected.means2d[k].expand(x.numel(), -1, -1)  # [P, V, 2]
    if absgrad is not None:

        def add_absolute(v: Tensor) -> None:
            absgrad.index_add_(0, projected.ids[k], v.abs().sum(0))

        means2d.register_hook(add_absolute)
    dx = (x.reshape(-1, 1) + 0.5).to(dtype) - means2d[..., 0]
    dy = (y.reshape(-1, 1) + 0.5).to(dtype) - means2d[..., 1]
    u, s, v = projected.whitening[k].unbind(-1)
    sigma = 0.5 * ((u * (dx + s * dy)) ** 2 + (v * dy) ** 2)
    alpha = torch.clamp_max(projected.opacities[k] * torch.exp(-sigma), max_alpha)
    alpha = torch.where(alpha >= ALPHA_THRESHOLD, alpha, 0.0)
    used = torch.cumprod(1 - alpha, 1) > TRANSMITTANCE_STOP
    alpha = torch.where(used, alpha, 0.0)
    after = torch.cumprod(1 - alpha, 1)  # T behind each Gaussian
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], 1)
    weights = alpha * before
    with torch.no_grad():
        crossing = (before > 0.5) & (after <= 0.5)
        median_depth = (crossing * projected.depths[k]).sum(1)
        padded = torch.cat([weights.new_zeros(len(weights), 1), weights], 1)  # column 0 = none, wins when all are 0
        top_weight, top = padded.max(1)
        top_id = torch.cat([k.new_full((1,), -1), projected.ids[k]])[top].int()
    T_final = after[:, -1] if len(k) else after.new_ones(len(after))
    tile = {
        "channels": (weights @ channels[k]).reshape(*shape, -1),
        "transmittance": T_final.reshape(shape),
        "median_depth": median_depth.reshape(shape),
        "top_weight": top_weight.reshape(shape),
        "top_id": top_id.reshape(shape),
    }
    return tile, projected.ids[k], weights.detach().sum(0)


def _assemble(
    pictures: list[dict[str, Tensor]],
    screen: Screen,
    background: Tensor | None,
    want: frozenset[str],
    has_features: bool,
) -> Rendering:
    stacked = {k: torch.stack([picture[k] for picture in pictures]) for k in pictures[0]}
    channels, T = stacked["channels"], stacked["transmittance"]
    image = channels[..., :3]
    if background is not None:
        image = image + T[..., None] * background[:, None, None]
    alpha = 1 - T
    depth = channels[..., 3] / torch.where(alpha > 0, alpha, 1.0)
    return Rendering(
        image=image,
        alpha=alpha,
        depth=depth,
        features=channels[..., 4:] if has_features else None,
        screen=Screen(screen.means2d, screen.radii, stacked["weight_sum"] if "weight_sum" in want else None),
        median_depth=stacked["median_depth"] if "median_depth" in want else None,
        top_id=stacked["top_id"] if "top" in want else None,
        top_weight=stacked["top_weight"] if "top" in want else None,
    )
