"""The C++ library behind ctypes: which variant this CPU runs, its argument structs (csrc/*api.h), its functions."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from renderers import build

REQUIRED_FLAGS = {  # of /proc/cpuinfo; the psABI levels
    "x86-64-v3": {"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe", "abm"},
    "x86-64-v2": {"sse4_2", "ssse3", "popcnt", "cx16"},
    "arm64": set[str](),
}
ROW = 8  # numbers per Gaussian and camera between projection and blending: enum Row of csrc/api.h
REAL_SUFFIX = {torch.float32: "f32", torch.float64: "f64"}


def _struct(name: str, doubles: str, integers: str, pointers: str, order: tuple[str, ...]) -> type[ctypes.Structure]:
    kinds = {"d": (doubles, ctypes.c_double), "i": (integers, ctypes.c_int64), "p": (pointers, ctypes.c_void_p)}
    fields = [(field, kinds[kind][1]) for kind in order for field in kinds[kind][0].split()]
    return type(name, (ctypes.Structure,), {"_fields_": fields})


ProjectArgs = _struct(
    "ProjectArgs",
    "near_plane far_plane eps2d",
    "N C S width height antialiased threads",
    "means quats log_scales logit_opacities sh colors world_to_cam K "
    "means2d rows radii "
    "v_means2d v_rows "
    "v_means v_quats v_log_scales v_logit_opacities v_sh v_colors v_world_to_cam",
    ("i", "d", "p"),
)
CompositeArgs = _struct(
    "CompositeArgs",
    "max_alpha",
    "N F width height threads absgrad want_median want_top",
    "means2d rows features radii background "
    "image alpha depth features_out median_depth top_weight weight_sum top_id "
    "v_image v_alpha v_depth v_features_out "
    "v_means2d v_rows v_features v_background v_abs",
    ("i", "d", "p"),
)
MotionArgs = _struct(
    "MotionArgs",
    "t",
    "N J M P threads",
    "times means quats logit_opacities dual_quats slot_logits slots coefficients t_ref t_on t_off log_softness "
    "out_means out_quats out_logits "
    "v_out_means v_out_quats v_out_logits "
    "v_means v_quats v_logit_opacities v_dual_quats v_slot_logits v_coefficients v_t_ref v_t_on v_t_off v_log_softness",
    ("i", "d", "p"),
)
PoseArgs = _struct(
    "PoseArgs",
    "t",
    "J threads",
    "times parents interpolations knot_counts first_knots centers knot_times knot_quats knot_translations "
    "dual_quats v_dual_quats "
    "v_times v_centers v_knot_times v_knot_quats v_knot_translations",
    ("i", "d", "p"),
)
PhotometricArgs = _struct(
    "PhotometricArgs",
    "ssim_weight loss scale",
    "width height threads",
    "image truth weights v_image",
    ("i", "d", "p"),
)


def cpu_flags() -> set[str]:
    """Feature flags of this CPU as Linux names them; empty where there is no /proc/cpuinfo."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((set(line.split(":")[1].split()) for line in lines if line.startswith(("flags", "Features"))), set())


def choose_variant() -> str:
    """The best variant that this CPU runs; SCENE4D_CPU_VARIANT overrides. Raises RuntimeError if there is none."""
    known, flags = build.variants(), cpu_flags()
    chosen = os.environ.get("SCENE4D_CPU_VARIANT")
    if chosen is not None and chosen not in known:
        raise RuntimeError(f"SCENE4D_CPU_VARIANT must be one of {', '.join(known)}, got {chosen!r}")
    for name in [chosen] if chosen else known:
        if REQUIRED_FLAGS[name] <= flags:
            return name
    missing = REQUIRED_FLAGS[chosen or list(known)[-1]] - flags
    raise RuntimeError(f"the cpu backend needs CPU features that this one lacks: {', '.join(sorted(missing))}")


@cache
def load() -> ctypes.CDLL:
    """The library, loaded once. Raises RuntimeError saying how to build it if it is not there."""
    path = build.library_path(choose_variant())
    if not path.exists():
        raise RuntimeError(f"the cpu backend is not built for these sources: run `python {build.__file__}`")
    library = ctypes.CDLL(str(path))
    library.s4_live_views.restype = ctypes.c_int64
    for suffix in REAL_SUFFIX.values():
        _declare(library, suffix)
    return library


def _declare(library: ctypes.CDLL, suffix: str) -> None:
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    signatures = {
        "project": (size, [ctypes.POINTER(ProjectArgs)]),
        "project_backward": (None, [ctypes.POINTER(ProjectArgs)]),
        "composite": (pointer, [ctypes.POINTER(CompositeArgs), size, ctypes.POINTER(size)]),
        "composite_backward": (None, [pointer, ctypes.POINTER(CompositeArgs)]),
        "free": (None, [pointer]),
        "move": (size, [ctypes.POINTER(MotionArgs)]),
        "move_backward": (size, [ctypes.POINTER(MotionArgs)]),
        "pose": (size, [ctypes.POINTER(PoseArgs)]),
        "pose_backward": (size, [ctypes.POINTER(PoseArgs)]),
        "photometric": (size, [ctypes.POINTER(PhotometricArgs)]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, f"s4_{name}_{suffix}")
        function.restype, function.argtypes = result, arguments


def function(name: str, dtype: torch.dtype) -> Callable[..., Any]:
    """The exported function `s4_<name>` for float32 or float64."""
    return getattr(load(), f"s4_{name}_{REAL_SUFFIX[dtype]}")


def fill(args: ctypes.Structure, **values: Tensor | float | None) -> ctypes.Structure:
    """Set fields; a tensor gives its address and must stay alive and contiguous during the call."""
    for name, value in values.items():
        setattr(args, name, value.data_ptr() if isinstance(value, Tensor) else value)
    return args


def describe() -> dict[str, str | int | list[str]]:
    """What runs here: variant, path of the library, CPU features that matter, threads. Raises RuntimeError if none."""
    variant = choose_variant()
    load()
    relevant = set().union(*REQUIRED_FLAGS.values()) | {"avx512f", "asimd"}
    return {
        "variant": variant,
        "path": str(build.library_path(variant)),
        "machine": platform.machine(),
        "features": sorted(cpu_flags() & relevant),
        "threads": torch.get_num_threads(),
    }
