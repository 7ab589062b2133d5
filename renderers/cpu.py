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
from renderers.checks import check_finite, check_values
from renderers.data import DEFAULT_MAX_ALPHA, Cameras, Gaussians, RasterOptions, Rendering, Screen

RAW = ("means", "quats", "log_scales", "logit_opacities", "sh", "colors", "world_to_cam")
MAX_ABSGRAD_FEATURES = (
    32  # absolute values do not add up over several passes (csrc/view.h: MAX_PASS less RGB and depth)
)
SCREEN = ("means2d", "rows", "features", "background")


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
    if options.absgrad and features is not None and features.shape[-1] > MAX_ABSGRAD_FEATURES:
        raise ValueError(
            f"absgrad takes at most {MAX_ABSGRAD_FEATURES} features with backend 'cpu', got {features.shape[-1]}"
        )
    for name in ("sh", "colors", "features"):  # the rest is checked where C++ reads it
        if (values := features if name == "features" else getattr(gaussians, name)) is not None:
            check_finite(values, name)
    raw = [getattr(gaussians, name) for name in RAW[:-1]]
    means2d, rows, radii, status = _Project.apply(*raw, cameras.world_to_cam, cameras, options)
    if status:
        _raise_bad_values(gaussians, features)
    if means2d.requires_grad:
        means2d.retain_grad()
    inputs = [means2d, rows, features, background]
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    outputs = _Composite.apply(*inputs, radii, cameras, want, options, keep)
    image, alpha, depth, feature_maps, median_depth, top_id, top_weight, weight_sum, status = outputs
    if status:
        _raise_bad_values(gaussians, features)
    screen = Screen(means2d, radii, weight_sum)
    return Rendering(image, alpha, depth, feature_maps, screen, median_depth, top_id, top_weight)


def _raise_bad_values(gaussians: Gaussians, features: Tensor | None) -> None:
    check_values(gaussians, features)
    raise ValueError("colors, sh or features must not overflow, got values whose sum is not finite")


class _Project(torch.autograd.Function):
    """Raw parameters and poses -> means2d [C, N, 2], rows [C, N, 8], radii [C, N, 2], status."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Any, ...]:
        *raw, cameras, options = args
        inputs = {n: x if x is None else x.contiguous() for n, x in zip(RAW, raw, strict=True)}
        means = raw[0]
        C, N = len(cameras), means.shape[0]
        means2d, rows = means.new_empty(C, N, 2), means.new_empty(C, N, library.ROW)
        radii = torch.empty(C, N, 2, dtype=torch.int32)
        ctx.setup = cameras, options
        call = _project_args(ctx, **inputs, means2d=means2d, rows=rows, radii=radii)
        status = library.function("project", means.dtype)(call)
        ctx.save_for_backward(*inputs.values(), rows, radii)
        ctx.mark_non_differentiable(radii)
        ctx.set_materialize_grads(False)
        return means2d, rows, radii, status

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_means2d: Tensor | None, v_rows: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        *inputs, rows, radii = ctx.saved_tensors
        tensors = dict(zip(RAW, inputs, strict=True))
        size = radii.shape[:2]
        v_means2d = rows.new_zeros(*size, 2) if v_means2d is None else v_means2d.contiguous()
        v_rows = torch.zeros_like(rows) if v_rows is None else v_rows.contiguous()
        result: dict[str, Tensor] = {
            f"v_{name}": torch.empty_like(x) if name != "world_to_cam" else torch.zeros_like(x)
            for (name, x), needed in zip(tensors.items(), ctx.needs_input_grad, strict=False)
            if needed
        }
        upstream = {"v_means2d": v_means2d, "v_rows": v_rows}
        call = _project_args(ctx, **tensors, rows=rows, radii=radii, **upstream, **result)
        library.function("project_backward", rows.dtype)(call)
        return (*(result.get(f"v_{name}") for name in RAW), None, None)


def _project_args(ctx: Any, **tensors: Tensor | None) -> ctypes.Structure:
    cameras, options = ctx.setup
    means, sh = tensors["means"], tensors["sh"]
    assert means is not None
    K = cameras.K.contiguous()
    args = library.fill(
        library.ProjectArgs(),
        N=means.shape[0],
        C=len(cameras),
        S=0 if sh is None else sh.shape[1],
        width=cameras.width,
        height=cameras.height,
        antialiased=int(options.antialiased),
        threads=options.threads or torch.get_num_threads(),
        near_plane=options.near,
        far_plane=options.far,
        eps2d=options.eps2d,
        K=K,
        **tensors,
    )
    args.keep_alive = K
    return args


class _View:
    """Owns what one camera's forward pass left in C++ for its backward pass."""

    def __init__(self, handle: int | None, dtype: torch.dtype):
        self.handle, self._free = handle, library.function("free", dtype)

    def __del__(self) -> None:
        if self.handle:
            self._free(self.handle)


class _Composite(torch.autograd.Function):
    """means2d, rows, features, background -> the maps of `Rendering`, the weight sums, status."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Any, ...]:
        *tensors, radii, cameras, want, options, keep = args
        inputs = {n: x if x is None else x.contiguous() for n, x in zip(SCREEN, tensors, strict=True)}
        means2d, features = tensors[0], inputs["features"]
        new, size = means2d.new_empty, (len(cameras), cameras.height, cameras.width)
        outputs = {
            "image": new(*size, 3),
            "alpha": new(*size),
            "depth": new(*size),
            "features_out": None if features is None else new(*size, features.shape[-1]),
            "median_depth": new(*size) if "median_depth" in want else None,
            "top_id": new(*size, dtype=torch.int32) if "top" in want else None,
            "top_weight": new(*size) if "top" in want else None,
            "weight_sum": means2d.new_zeros(radii.shape[:2]) if "weight_sum" in want else None,
        }
        ctx.setup, ctx.views, ctx.want = (cameras, options), [], want
        status = ctypes.c_int64(0)
        for c in range(len(cameras)):
            call = _composite_args(ctx, c, {**inputs, "radii": radii, **outputs})
            handle = library.function("composite", means2d.dtype)(call, int(keep), status)
            ctx.views.append(_View(handle, means2d.dtype))
            if status.value == -1:
                raise MemoryError(f"not enough memory to rasterize {radii.shape[1]} Gaussians at {size[2]}x{size[1]}")
            if status.value:
                break
        ctx.save_for_backward(*inputs.values(), outputs["depth"])
        ctx.mark_non_differentiable(*(x for x in list(outputs.values())[4:] if x is not None))
        ctx.set_materialize_grads(False)
        return (*outputs.values(), status.value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, depth = ctx.saved_tensors
        tensors = dict(zip(SCREEN, inputs, strict=True))
        means2d = inputs[0]
        upstream_names = ("v_image", "v_alpha", "v_depth", "v_features_out")
        upstream = {n: g if g is None else g.contiguous() for n, g in zip(upstream_names, grads[:4], strict=True)}
        needed = (True, True, *ctx.needs_input_grad[2:4])  # the backward pass always writes the first two
        result = {
            f"v_{n}": torch.zeros_like(x) if need else None
            for (n, x), need in zip(tensors.items(), needed, strict=True)
        }
        if ctx.setup[1].absgrad:
            result["v_abs"] = torch.zeros_like(means2d)
        for c, view in enumerate(ctx.views):
            call = _composite_args(ctx, c, {**tensors, **upstream, **result, "depth": depth})
            library.function("composite_backward", means2d.dtype)(view.handle, call)
        if "v_abs" in result:
            means2d.absgrad = result["v_abs"]  # where gsplat puts it and its strategies look for it
        return (*(result.get(f"v_{n}") for n in SCREEN), None, None, None, None, None)


def _composite_args(ctx: Any, c: int, tensors: dict[str, Tensor | None]) -> ctypes.Structure:
    cameras, options = ctx.setup
    means2d, features = tensors["means2d"], tensors["features"]
    assert means2d is not None

    def of_camera(name: str, x: Tensor | None) -> Tensor | None:
        shared = name in ("features", "v_features") and x is not None and x.ndim == 2
        return x if x is None or shared else x[c]

    return library.fill(
        library.CompositeArgs(),
        N=means2d.shape[1],
        F=0 if features is None else features.shape[-1],
        width=cameras.width,
        height=cameras.height,
        threads=options.threads or torch.get_num_threads(),
        absgrad=int(options.absgrad),
        want_median=int("median_depth" in ctx.want),
        want_top=int("top" in ctx.want),
        max_alpha=DEFAULT_MAX_ALPHA if options.max_alpha is None else options.max_alpha,
        **{name: of_camera(name, x) for name, x in tensors.items()},
    )
