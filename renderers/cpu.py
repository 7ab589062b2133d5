"""The C++ backend: autograd around projection and blending. float32 and float64, CPU tensors.

Two autograd functions, so that `screen.means2d` is a tensor of the graph between them and keeps its gradient.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from renderers import cpu_library as library
from renderers.checks import check_values
from renderers.data import Cameras, Gaussians, RasterOptions, Rendering, Screen

DEFAULT_MAX_ALPHA = 0.999


def render(
    gaussians: Gaussians,
    cameras: Cameras,
    features: Tensor | None,
    background: Tensor | None,
    want: frozenset[str],
    options: RasterOptions,
) -> Rendering:
    if gaussians.means.device.type != "cpu":
        raise ValueError(f"means must be on the CPU for backend 'cpu', got {gaussians.means.device}")
    if cameras.K.requires_grad and torch.is_grad_enabled():
        raise ValueError("K must not require grad with backend 'cpu': use backend 'torch'")
    g = gaussians
    raw = [g.means, g.quats, g.log_scales, g.logit_opacities, g.sh, cameras.world_to_cam]
    means2d, whitening, depths, opacities, rgb, radii, status = _Project.apply(*raw, cameras, options)
    if status.item():
        _raise_bad_values(gaussians, features)
    if means2d.requires_grad:
        means2d.retain_grad()
    colors = rgb if g.colors is None else g.colors
    inputs = [means2d, whitening, depths, opacities, colors, features, background]
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    outputs = _Composite.apply(*inputs, radii, cameras, want, options, keep)
    image, alpha, depth, feature_maps, median_depth, top_id, top_weight, weight_sum, ok = outputs
    if not ok:
        _raise_bad_values(gaussians, features)
    screen = Screen(means2d, radii, weight_sum)
    return Rendering(image, alpha, depth, feature_maps, screen, median_depth, top_id, top_weight)


def _raise_bad_values(gaussians: Gaussians, features: Tensor | None) -> None:
    check_values(gaussians, features)
    raise ValueError("colors, sh or features must not overflow, got values whose sum is not finite")


def _threads(options: RasterOptions) -> int:
    return options.threads or torch.get_num_threads()


def _project_args(tensors: dict[str, Tensor | None], cameras: Cameras, options: RasterOptions) -> ctypes.Structure:
    sh = tensors["sh"]
    return library.fill(
        library.ProjectArgs(),
        N=tensors["means"].shape[0],  # type: ignore[union-attr]
        C=len(cameras),
        S=0 if sh is None else sh.shape[1],
        width=cameras.width,
        height=cameras.height,
        antialiased=int(options.antialiased),
        threads=_threads(options),
        near_plane=options.near,
        far_plane=options.far,
        eps2d=options.eps2d,
        **tensors,
    )


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor | None, ...]:
        *raw, cameras, options = args
        names = ("means", "quats", "log_scales", "logit_opacities", "sh", "world_to_cam")
        inputs = {n: x if x is None else x.contiguous() for n, x in zip(names, raw, strict=True)}
        inputs["K"] = cameras.K.contiguous()
        means = inputs["means"]
        C, N = len(cameras), means.shape[0]
        outputs = {
            "means2d": means.new_empty(C, N, 2),
            "whitening": means.new_empty(C, N, 3),
            "depths": means.new_empty(C, N),
            "opacities": means.new_empty(C, N),
            "rgb": None if inputs["sh"] is None else means.new_empty(C, N, 3),
            "radii": means.new_empty(C, N, 2, dtype=torch.int32),
        }
        call = _project_args({**inputs, **outputs}, cameras, options)
        status = library.function("project", means.dtype)(call)
        ctx.save_for_backward(*inputs.values(), outputs["rgb"], outputs["radii"])
        ctx.setup = cameras, options
        status = torch.tensor(status)
        ctx.mark_non_differentiable(outputs["radii"], status)
        ctx.set_materialize_grads(False)
        return (*outputs.values(), status)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, rgb, radii = ctx.saved_tensors
        names = ("means", "quats", "log_scales", "logit_opacities", "sh", "world_to_cam")
        tensors = dict(zip((*names, "K"), inputs, strict=True))
        cameras, options = ctx.setup
        C, N = radii.shape[:2]
        sizes = {"means2d": (C, N, 2), "whitening": (C, N, 3), "depths": (C, N), "opacities": (C, N), "rgb": (C, N, 3)}
        upstream = {
            f"v_{name}": tensors["means"].new_zeros(size) if grad is None else grad.contiguous()
            for (name, size), grad in zip(sizes.items(), grads[:5], strict=True)
        }
        wanted = [n for n, need in zip(names, ctx.needs_input_grad, strict=False) if need]
        result = {f"v_{n}": torch.zeros_like(tensors[n], memory_format=torch.contiguous_format) for n in wanted}
        call = _project_args({**tensors, "rgb": rgb, "radii": radii, **upstream, **result}, cameras, options)
        library.function("project_backward", tensors["means"].dtype)(call)
        return (*(result.get(f"v_{n}") for n in names), None, None)


class _View:
    """Owns what one camera's forward pass left in C++ for its backward pass."""

    def __init__(self, handle: int | None, dtype: torch.dtype):
        self.handle, self._free = handle, library.function("free", dtype)

    def __del__(self) -> None:
        if self.handle:
            self._free(self.handle)


def _slice(tensor: Tensor | None, c: int, shared_ndim: int) -> Tensor | None:
    """The rows of camera c of a tensor that may be shared by all cameras."""
    return tensor if tensor is None or tensor.ndim == shared_ndim else tensor[c]


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Any, ...]:
        *tensors, radii, cameras, want, options, keep = args
        names = ("means2d", "whitening", "depths", "opacities", "colors", "features", "background")
        inputs = {n: x if x is None else x.contiguous() for n, x in zip(names, tensors, strict=True)}
        means2d, features = inputs["means2d"], inputs["features"]
        C, N, H, W = *means2d.shape[:2], cameras.height, cameras.width
        new = means2d.new_empty
        top, median = "top" in want, "median_depth" in want
        outputs = {
            "image": new(C, H, W, 3),
            "alpha": new(C, H, W),
            "depth": new(C, H, W),
            "features_out": None if features is None else new(C, H, W, features.shape[-1]),
            "median_depth": new(C, H, W) if median else None,
            "top_id": new(C, H, W, dtype=torch.int32) if top else None,
            "top_weight": new(C, H, W) if top else None,
            "weight_sum": means2d.new_zeros(C, N) if "weight_sum" in want else None,
        }
        ctx.setup, ctx.views = (cameras, options), []
        ctx.counts = {"want_median": int(median), "want_top": int(top)}
        status = ctypes.c_int64(0)
        for c in range(C):
            call = _composite_args(ctx, c, {**inputs, "radii": radii, **outputs})
            handle = library.function("composite", means2d.dtype)(call, int(keep), status)
            if status.value == -1:
                raise MemoryError(f"rasterizing {N} Gaussians at {W}x{H} needs more memory than there is")
            ctx.views.append(_View(handle, means2d.dtype))
            if status.value:
                break
        ctx.save_for_backward(tensors[0], *list(inputs.values())[1:], outputs["depth"])
        ctx.mark_non_differentiable(*(outputs[n] for n in list(outputs)[4:] if outputs[n] is not None))
        ctx.set_materialize_grads(False)
        return (*outputs.values(), status.value == 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        means2d, *others, depth = ctx.saved_tensors
        names = ("means2d", "whitening", "depths", "opacities", "colors", "features", "background")
        inputs = dict(zip(names, (means2d, *others), strict=True))
        options = ctx.setup[1]
        upstream_names = ("v_image", "v_alpha", "v_depth", "v_features_out")
        upstream = {n: g if g is None else g.contiguous() for n, g in zip(upstream_names, grads[:4], strict=True)}
        result = {f"v_{n}": None if x is None else torch.zeros_like(x) for n, x in inputs.items()}
        result["v_abs"] = torch.zeros_like(means2d) if options.absgrad else None
        for c, view in enumerate(ctx.views):
            call = _composite_args(ctx, c, {**inputs, **upstream, **result, "depth": depth})
            library.function("composite_backward", means2d.dtype)(view.handle, call)
        if options.absgrad:
            means2d.absgrad = result["v_abs"]  # where gsplat puts it and its strategies look for it
        return (*(result[f"v_{n}"] for n in names), None, None, None, None, None)


# Number of axes of the tensors that may be given once for all cameras; all others always have a camera axis.
_SHARED_NDIM = {"colors": 2, "features": 2, "v_colors": 2, "v_features": 2}


def _composite_args(ctx: Any, c: int, tensors: dict[str, Tensor | None]) -> ctypes.Structure:
    cameras, options = ctx.setup
    means2d, features = tensors["means2d"], tensors["features"]
    assert means2d is not None
    return library.fill(
        library.CompositeArgs(),
        N=means2d.shape[1],
        F=0 if features is None else features.shape[-1],
        width=cameras.width,
        height=cameras.height,
        threads=_threads(options),
        absgrad=int(options.absgrad),
        max_alpha=DEFAULT_MAX_ALPHA if options.max_alpha is None else options.max_alpha,
        **ctx.counts,
        **{n: _slice(x, c, _SHARED_NDIM.get(n, 0)) for n, x in tensors.items()},
    )
