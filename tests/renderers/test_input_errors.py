"""Wrong input is a ValueError at the entry that names the argument; no backend meets it."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from renderers import RasterOptions
from tests.renderers.scenes import BACKENDS, Scene, random_scene, render

ROOT = Path(__file__).parents[2]
NAMES = ("means", "quats", "log_scales", "logit_opacities", "sh", "features", "background", "world_to_cam")
both = pytest.mark.parametrize("backend", BACKENDS)


def small_scene() -> Scene:
    return random_scene(0, 4, C=2, sh_degree=1)


def with_camera(scene: Scene, **changed: object) -> Scene:
    return replace(scene, cameras=replace(scene.cameras, **changed))


def edited(tensor: Tensor, index: tuple[int, ...], value: float) -> Tensor:
    copy = tensor.clone()
    copy[index] = value
    return copy


@both
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_value_that_is_not_finite_is_an_error_even_where_nothing_is_drawn(
    backend: str, name: str, value: float
) -> None:
    scene = small_scene()
    for means in (scene.gaussians.means, -scene.gaussians.means):  # in view, and all behind the first camera
        scene = scene.with_tensors(means=means)
        x = scene.tensors()[name]
        broken = scene.with_tensors(**{name: edited(x, tuple(n - 1 for n in x.shape), value)})
        with pytest.raises(ValueError, match=rf"\b{name} must be finite"):
            render(broken, backend)


@both
@pytest.mark.parametrize("name", NAMES)
def test_wrong_shape_is_an_error(backend: str, name: str) -> None:
    scene = small_scene()
    x = scene.tensors()[name]
    wrong = [x[None, None], x[:, :-1] if x.ndim > 1 else x[:, None], x.flatten()[0]]
    wrong += [x[:-1], torch.cat([x, x[:1]])] if name != "means" else []  # for means, N itself would change
    for tensor in wrong:
        if name == "features" and tensor.shape == (4, 2):
            continue  # any number of channels is right
        with pytest.raises(
            ValueError, match=rf"\b{name} must|\bK must" if name == "world_to_cam" else rf"\b{name} must"
        ):
            render(scene.with_tensors(**{name: tensor}), backend)


@both
@pytest.mark.parametrize("name", NAMES)
def test_wrong_dtype_device_or_type_is_an_error(backend: str, name: str) -> None:
    scene = small_scene()
    x = scene.tensors()[name]
    named = "quats must" if name == "means" else f"{name} must"  # the others are compared with means
    for tensor in (x.float(), x.to("meta")):
        with pytest.raises(ValueError, match=named):
            render(scene.with_tensors(**{name: tensor}), backend)
    for other in (x.long(), x.half(), x.tolist(), x.numpy()):
        with pytest.raises(ValueError, match=rf"\b{name} must"):
            render(scene.with_tensors(**{name: other}), backend)


@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
def test_tensors_without_data_are_an_error(backend: str) -> None:
    scene = small_scene()
    scene = scene.with_tensors(**{name: x.to("meta") for name, x in scene.tensors().items()})
    with pytest.raises(ValueError, match="meta"):
        render(with_camera(scene, K=scene.cameras.K.to("meta")), backend)


@both
def test_number_of_sh_coefficients_and_exactly_one_colour_are_checked(backend: str) -> None:
    scene = small_scene()
    with pytest.raises(ValueError, match="sh must"):
        render(scene.with_tensors(sh=torch.ones(4, 5, 3, dtype=torch.float64)), backend)
    with pytest.raises(ValueError, match="exactly one of sh and colors"):
        render(scene.with_tensors(colors=torch.ones(4, 3, dtype=torch.float64)), backend)
    with pytest.raises(ValueError, match="exactly one of sh and colors"):
        render(replace(scene, gaussians=replace(scene.gaussians, sh=None)), backend)
    flat = replace(scene, gaussians=replace(scene.gaussians, sh=None, colors=torch.ones(4, 2, dtype=torch.float64)))
    with pytest.raises(ValueError, match="colors must"):
        render(flat, backend)


def cameras_gone_wrong() -> dict[str, tuple[str, dict]]:
    K, pose = small_scene().cameras.K, small_scene().cameras.world_to_cam
    scaled, sheared, mirrored = pose.clone(), pose.clone(), pose.clone()
    scaled[1, :3, :3] *= 1.01
    sheared[1, 0, 1] += 0.02
    mirrored[1, :3, 0] *= -1
    return {
        "no cameras": ("world_to_cam", {"world_to_cam": pose[:0], "K": K[:0]}),
        "fewer K than poses": ("K", {"K": K[:1]}),
        "3x4 pose": ("world_to_cam", {"world_to_cam": pose[:, :3]}),
        "scaled pose": ("world_to_cam", {"world_to_cam": scaled}),
        "sheared pose": ("world_to_cam", {"world_to_cam": sheared}),
        "mirrored pose": ("world_to_cam", {"world_to_cam": mirrored}),
        "zero pose": ("world_to_cam", {"world_to_cam": torch.zeros_like(pose)}),
        "last row": ("world_to_cam", {"world_to_cam": edited(pose, (1, 3, 0), 0.1)}),
        "K nan": ("K", {"K": edited(K, (1, 0, 2), math.nan)}),
        "zero focal": ("K", {"K": edited(K, (1, 0, 0), 0.0)}),
        "negative focal": ("K", {"K": edited(K, (0, 1, 1), -20.0)}),
        "skew": ("K", {"K": edited(K, (1, 0, 1), 0.1)}),
        "skew below": ("K", {"K": edited(K, (1, 1, 0), 0.1)}),
        "K last row": ("K", {"K": edited(K, (1, 2, 2), 2.0)}),
        "K float32": ("K", {"K": K.float()}),
        "K list": ("K", {"K": K.tolist()}),
    } | {f"{n} {v!r}": (n, {n: v}) for n in ("width", "height") for v in (0, -3, 2.0, "8", None, 100_000)}


@both
@pytest.mark.parametrize("case", cameras_gone_wrong())
def test_wrong_camera_is_an_error(backend: str, case: str) -> None:
    name, changed = cameras_gone_wrong()[case]
    with pytest.raises(ValueError, match=rf"\b{name} must"):
        render(with_camera(small_scene(), **changed), backend)


def test_gradient_for_intrinsics_is_an_error_on_cpu_and_no_zero() -> None:
    scene = small_scene()
    with pytest.raises(ValueError, match=r"\bK must"):
        render(with_camera(scene, K=scene.cameras.K.clone().requires_grad_()), "cpu")


@both
@pytest.mark.parametrize(
    ("name", "value"),
    [("near", 0.0), ("near", -1.0), ("near", math.nan), ("near", 1e11), ("far", 0.001), ("far", math.nan)]
    + [("eps2d", value) for value in (-0.1, 0.0, math.nan, math.inf)]
    + [("max_alpha", value) for value in (0.0, -0.5, 1.0, math.nan)]
    + [("threads", value) for value in (0, -2, 1.5)],
)  # fmt: skip
def test_option_out_of_range_is_an_error(backend: str, name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"\b{name}\b.* must"):
        render(small_scene(), backend, RasterOptions(**{name: value}))


@both
@pytest.mark.parametrize("want", ["top", "x", ["depth"], ["top", "normals"], ["normals", 3]])
def test_unknown_want_is_an_error(backend: str, want: object) -> None:
    with pytest.raises(ValueError, match="want must"):
        render(small_scene(), backend, want=want)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["", "cuda", "Torch", "renderers.cpu", None])
def test_unknown_backend_is_an_error(backend: str) -> None:
    with pytest.raises(ValueError, match="backend must"):
        render(small_scene(), backend)


@pytest.mark.parametrize("threads", [10**6, 2**31])
def test_any_thread_count_renders_or_is_an_error(threads: int) -> None:
    """In a process of its own: OpenMP ends the process when it cannot start its threads."""
    script = f"""
from tests.renderers.scenes import RasterOptions, random_scene, render
try:
    render(random_scene(0, 4), "cpu", RasterOptions(threads={threads}))
except ValueError as error:
    assert "threads" in str(error), error
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-300:]}"
