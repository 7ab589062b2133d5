"""The one entry point: checks the input, picks a backend, returns a `Rendering`."""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module

from torch import Tensor

from renderers.checks import check_inputs
from renderers.data import Cameras, Gaussians, RasterOptions, Rendering

BACKENDS = {
    "torch": "renderers.torch_reference",
    "cpu": "renderers.cpu",
    "gsplat": "renderers.gsplat_cuda",
}

_DEFAULTS = RasterOptions()


def rasterize(
    gaussians: Gaussians,
    cameras: Cameras,
    *,
    features: Tensor | None = None,  # [N, F] or [C, N, F]
    background: Tensor | None = None,  # [3] or [C, 3]
    want: Collection[str] = (),
    options: RasterOptions = _DEFAULTS,
    backend: str = "auto",
) -> Rendering:
    """Render Gaussians from a batch of cameras by alpha compositing in depth order (3D Gaussian splatting).

    A Gaussian contributes alpha = min(o exp(-d^T cov2d^-1 d / 2), max_alpha) to a pixel where that is at least 1/255.
    Contributions are blended front to back by the depth of the centres (ties: lower index first) until the
    transmittance T would fall to 1e-4. The Jacobian of the projection is taken at x/z and y/z clamped to the image plus
    15 % of its extent on each side (as in gsplat). Kerbl et al. 2023, eqs. 3-6; Zwicker et al. 2001 (EWA) for cov2d.

    Args:
        gaussians: raw parameters; all tensors of one floating dtype on one device.
        cameras: same dtype and device. `world_to_cam` may require grad; a gradient for `K` needs backend "torch".
        features: further channels, blended in the same pass (not divided by alpha, no background). [N, F], or
            [C, N, F] when they differ from camera to camera.
        background: colour behind everything; black if not given.
        want: any of "median_depth", "top" (top_id and top_weight), "weight_sum" (screen.weight_sum).
        options: see `RasterOptions`.
        backend: "torch" (the definition; slow), "cpu" (C++), "gsplat" (CUDA) or "auto" (by the tensors' device).

    Differentiable in every tensor of `gaussians`, `features`, `background` and `cameras.world_to_cam`.

    Raises:
        ValueError: a wrong shape, dtype, device or range, or a value that is not finite; the argument is named.
        RuntimeError: the chosen backend cannot run here (not built, no CUDA).
    """
    background = check_inputs(gaussians, cameras, features, background, want, options)
    if backend == "auto":
        backend = "gsplat" if gaussians.means.device.type == "cuda" else "cpu"
    if backend not in BACKENDS:
        raise ValueError(f"backend must be auto or one of {', '.join(BACKENDS)}, got {backend!r}")
    render = import_module(BACKENDS[backend]).render
    return render(gaussians, cameras, features, background, frozenset(want), options)
