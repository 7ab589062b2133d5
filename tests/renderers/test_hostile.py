"""Extreme input draws the right picture: never a crash, a NaN or a leak. (Wrong input: test_input_errors.py.)

Tolerances: float64 1e-9, float32 1e-5, relative to the norm: rounding times the terms of a sum, as the two sides of
each comparison do the same arithmetic up to order.
"""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from renderers import Gaussians, RasterOptions, Rendering, rasterize
from tests.renderers.scenes import (
    BACKENDS,
    DEFAULTS,
    Scene,
    assert_near,
    collect,
    gradients,
    loss,
    maps,
    pinhole,
    random_scene,
    render,
)

ROOT = Path(__file__).parents[2]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
EXTRAS = ("top", "median_depth", "weight_sum")
both = pytest.mark.parametrize("backend", BACKENDS)
precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


# --- Extreme values ------------------------------------------------------------------------------


def drawn(scene: Scene, backend: str, options: RasterOptions = DEFAULTS) -> tuple[Rendering, dict[str, Tensor]]:
    """The rendering and all gradients; fails where any of them is not finite."""
    leaves = scene.with_leaves()
    rendering = render(leaves, backend, options, want=EXTRAS)
    loss(rendering).backward()
    found = collect(leaves, rendering)
    values = dict(maps(rendering)) | {"means2d": rendering.screen.means2d, "median": rendering.median_depth}
    values |= {"top": rendering.top_weight, "sum": rendering.screen.weight_sum}
    values |= {f"gradient of {name}": x for name, x in found.items()}
    assert [name for name, x in values.items() if x is None or not torch.isfinite(x).all()] == []
    assert (rendering.screen.radii >= 0).all()
    return rendering, found


def picture(rendering: Rendering) -> dict[str, Tensor]:
    return {name: x.detach() for name, x in maps(rendering)}


def third_changed(sh_degree: int | None, C: int = 1, **values: object) -> Scene:
    """Six Gaussians in view; the third gets `values`."""
    scene = random_scene(3, 6, C=C, sh_degree=sh_degree)
    changed = {name: x.clone() for name, x in scene.tensors().items() if name in values}
    for name, x in changed.items():
        x[2] = torch.as_tensor(values[name], dtype=x.dtype)
    return scene.with_tensors(**changed)


INVISIBLE = {
    "behind the camera": {"means": [0.1, 0, -2]},
    "on the camera plane": {"means": [1.0, 0.5, 0]},
    "at the camera centre": {"means": [0.0, 0, 0]},
    "just before the near plane": {"means": [0.0, 0, 0.00999]},
    "beside the image": {"means": [1e30, 0, 3]},
    "above the image": {"means": [0, -1e30, 3]},
    "beyond far": {"means": [0, 0, 1e30]},
    "far behind": {"means": [0, 0, -1e30]},
    "far in all directions": {"means": [-1e30, 1e30, 1e30]},
    "1e6 pixels off": {"means": [125_000.0, 0, 3]},
    "transparent": {"logit_opacities": -100.0},
    "more transparent": {"logit_opacities": -1e30},
    "under 1/255": {"logit_opacities": -5.6},
}


@both
@precisions
@pytest.mark.parametrize("sh_degree", [None, 2])
@pytest.mark.parametrize("case", INVISIBLE)
def test_gaussian_that_cannot_be_seen_changes_nothing_and_gets_no_gradient(
    backend: str, dtype: torch.dtype, sh_degree: int | None, case: str
) -> None:
    scene = third_changed(sh_degree, **INVISIBLE[case]).to(dtype)
    others = torch.tensor([0, 1, 3, 4, 5])
    (with_it, found), (without, expected) = drawn(scene, backend), drawn(scene.pick(others), backend)
    assert_near(picture(with_it), picture(without), TOLERANCE[dtype])
    assert not with_it.screen.radii[0, 2].any()
    for name, gradient in found.items():
        rows = gradient[0] if name == "means2d" else gradient
        if name not in ("background", "world_to_cam"):
            assert not rows[2].any(), name
            found[name] = rows[others][None] if name == "means2d" else rows[others]
    assert_near(found, expected, TOLERANCE[dtype])


@both
@precisions
@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize(
    ("extreme", "plain"),
    [
        ({"quats": [0.0] * 4}, {"quats": [1.0, 0, 0, 0]}),
        ({"quats": [1e-30, 2e-30, 0, 0]}, {"quats": [1.0, 2, 0, 0]}),
        ({"quats": [0, 1e30, 2e30, 0]}, {"quats": [0.0, 1, 2, 0]}),
        ({"log_scales": [-50.0] * 3}, {"log_scales": [-25.0] * 3}),
        ({"log_scales": [-1000.0] * 3}, {"log_scales": [-25.0] * 3}),
        ({"logit_opacities": 100.0}, {"logit_opacities": 40.0}),
        ({"logit_opacities": 1e30}, {"logit_opacities": 40.0}),
    ],
    ids=str,
)
def test_extreme_parameter_draws_what_its_limit_draws(
    backend: str, dtype: torch.dtype, antialiased: bool, extreme: dict, plain: dict
) -> None:
    options = RasterOptions(antialiased=antialiased)
    got, _ = drawn(third_changed(None, **extreme).to(dtype), backend, options)
    expected, _ = drawn(third_changed(None, **plain).to(dtype), backend, options)
    assert_near(picture(got), picture(expected), TOLERANCE[dtype])


@both
@precisions
@pytest.mark.parametrize("options", [DEFAULTS, RasterOptions(antialiased=True), RasterOptions(eps2d=1e-4)], ids=str)
@pytest.mark.parametrize("mean", [[0.0, 0, 3], [0.0, 0, 0.02], [1.0, -0.5, 3], [125_000.0, 0, 3]], ids=str)
def test_gaussian_as_large_as_is_allowed_fills_the_image_with_its_opacity(
    backend: str, dtype: torch.dtype, options: RasterOptions, mean: list[float]
) -> None:
    one = random_scene(3, 1)
    scene = one.with_tensors(
        means=torch.tensor([mean], dtype=torch.float64),
        log_scales=torch.full((1, 3), 20.0, dtype=torch.float64),
        logit_opacities=torch.zeros(1, dtype=torch.float64),
    )
    got, _ = drawn(scene.to(dtype), backend, options)
    assert torch.allclose(got.alpha.double(), torch.tensor(0.5, dtype=torch.float64), atol=1e-5)


DEGENERATE = {
    "points": {"log_scales": [-50.0] * 3},
    "needles": {"log_scales": [1.0, -50, -50]},
    "discs": {"log_scales": [0.0, 0, -50]},
    "discs seen from the side": {"log_scales": [0.0, 0, -50], "quats": [1.0, 0, 1, 0]},
    "needles seen from the tip": {"log_scales": [0.0, -50, -50], "quats": [1.0, 0, 1, 0], "means": [0.0, 0, 3]},
    "needles of the largest size": {"log_scales": [-20.0, 20, -20], "quats": [1.0, 0, 0, 0], "means": [0.0, 0, 1]},
}


@both
@precisions
@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("eps2d", [1e-4, 0.3])
@pytest.mark.parametrize("case", DEGENERATE)
def test_flat_and_thin_gaussians_have_finite_values_and_gradients(
    backend: str, dtype: torch.dtype, antialiased: bool, eps2d: float, case: str
) -> None:
    drawn(
        third_changed(None, **DEGENERATE[case]).to(dtype), backend, RasterOptions(eps2d=eps2d, antialiased=antialiased)
    )


@both
@pytest.mark.parametrize("antialiased", [False, True])
def test_needle_of_300_by_a_tenth_of_a_pixel_is_as_sharp_in_float32(backend: str, antialiased: bool) -> None:
    """det(cov2d) as a difference of products would lose all digits here: ad and bc are 4e9 times their difference."""
    size = torch.tensor([300.0, 0.1, 0.1], dtype=torch.float64) * 3 / 320  # px -> scene units at depth 3
    slanted = torch.tensor([[math.cos(math.pi / 8), 0, 0, math.sin(math.pi / 8)]], dtype=torch.float64)
    tensors = (torch.tensor([[0.01, 0.02, 3]]).double(), slanted, size.log()[None], torch.tensor([3.0]).double())
    scene = Scene(Gaussians(*tensors, colors=torch.ones(1, 3).double()), pinhole(320, 240, 320.0))
    options = RasterOptions(antialiased=antialiased)
    single, double = (render(scene.to(dtype), backend, options).alpha.double() for dtype in TOLERANCE)
    assert (single - double).abs().max() < 1e-4 and (double > 0.1).sum() > 100


def test_backends_agree_on_long_needles_at_all_angles() -> None:
    """Where a tile is skipped, or a row of it, it must hold no pixel of the splat: thin slanted ones show it."""
    scene = random_scene(6, 150, (97, 71))
    shapes = torch.tensor([1.0, -6.0, -6.0], dtype=torch.float64).expand(150, 3)  # 80 px long, under 0.1 px wide
    scene = scene.with_tensors(log_scales=shapes, logit_opacities=scene.gaussians.logit_opacities - 2)
    for options in (DEFAULTS, RasterOptions(eps2d=0.01)):
        assert_near(picture(render(scene, "cpu", options)), picture(render(scene, "torch", options)), 1e-9)
        single = render(scene.to(torch.float32), "cpu", options).image - render(scene, "torch", options).image
        assert (single.abs() > 1e-3).double().mean() < 1e-3  # pixels of a ridge that falls by e in 0.1 px


ZOO = {
    "lateral": st.sampled_from([0, 1e-30, -1e-30, 0.3, -0.7, 3, 1e6, -1e6, 1e30, -1e30]),
    "depth": st.sampled_from([0, 1e-30, -1, 0.01, 0.0100001, 0.02, 1, 3, 5, 1e3, 1e6, 9e9, 1e30]),
    "quat": st.sampled_from([0, 1, -1, 0.5, 1e-30, 1e30, 1e-20, 1e19]),
    "logit": st.sampled_from([-1e30, -100, -20, -5.54, 0, 2, 5, 10, 100, 1e30]),
}


@st.composite
def extreme_scenes(draw: st.DrawFn, largest: float) -> Scene:
    """One to three Gaussians in a 7x5 image, of any mixture of extremes and plain values."""
    N = draw(st.integers(1, 3))
    scale = st.sampled_from([-1000, -50, -20, -10, -3, -1, 0, 3, *(x for x in (8, 12, 16, 20) if x <= largest)])
    rows = [[draw(ZOO["lateral"]), draw(ZOO["lateral"]), draw(ZOO["depth"])] for _ in range(N)]
    # The gradient of a quaternion is that of its direction over its length: beside sizes of 5e8 it must not be 1e-30.
    quat = ZOO["quat"] if largest <= 3 else st.sampled_from([0, 1, -1, 0.5, 1e-3, 1e3])
    tensors = {
        "means": rows,
        "quats": [[draw(quat) for _ in range(4)] for _ in range(N)],
        "log_scales": [[draw(scale) for _ in range(3)] for _ in range(N)],
        "logit_opacities": [draw(ZOO["logit"]) for _ in range(N)],
    }
    scene = random_scene(draw(st.integers(0, 9)), N, (7, 5), sh_degree=draw(st.sampled_from([None, 1])))
    return scene.with_tensors(**{name: torch.tensor(x, dtype=torch.float64) for name, x in tensors.items()})


@both
@settings(deadline=None, derandomize=True, max_examples=40)
@given(scene=extreme_scenes(largest=3), antialiased=st.booleans(), eps2d=st.sampled_from([0.3, 1e6]))
def test_any_mixture_of_extremes_is_finite_and_float32_draws_the_same(
    backend: str, scene: Scene, antialiased: bool, eps2d: float
) -> None:
    options = RasterOptions(antialiased=antialiased, eps2d=eps2d)
    for dtype in TOLERANCE:
        drawn(scene.to(dtype), backend, options)
    torch_image, image = (render(scene, b, options).image for b in ("torch", backend))
    torch.testing.assert_close(image, torch_image, rtol=1e-9, atol=1e-9)


@both
@settings(deadline=None, derandomize=True, max_examples=40)
@given(scene=extreme_scenes(largest=20), antialiased=st.booleans(), eps2d=st.sampled_from([1e-4, 0.3]))
def test_any_mixture_of_all_allowed_sizes_and_degenerate_shapes_is_finite(
    backend: str, scene: Scene, antialiased: bool, eps2d: float
) -> None:
    for dtype in TOLERANCE:
        drawn(scene.to(dtype), backend, RasterOptions(antialiased=antialiased, eps2d=eps2d))


@both
@precisions
@pytest.mark.parametrize(
    ("mean", "options"),
    [([0.0, 0, 1e30], RasterOptions(far=math.inf)), ([0.0, 0, 1e-30], RasterOptions(near=1e-35))],
    ids=["far", "near"],
)
def test_depths_at_the_end_of_the_range_are_an_error_or_finite(
    backend: str, dtype: torch.dtype, mean: list[float], options: RasterOptions
) -> None:
    try:
        drawn(third_changed(2, C=2, means=mean).to(dtype), backend, options)
    except ValueError as error:
        assert "near" in str(error) or "far" in str(error)


# --- Extreme sizes --------------------------------------------------------------------------------------------------


@both
@precisions
@pytest.mark.parametrize("F", [0, 2])
def test_no_gaussians_draw_the_background_and_its_gradient_is_the_image(
    backend: str, dtype: torch.dtype, F: int
) -> None:
    scene = random_scene(4, 5, C=2, F=F, sh_degree=1).pick(torch.arange(0)).to(dtype)
    got, found = drawn(scene, backend)
    assert scene.background is not None and got.features is not None and got.features.shape == (2, 17, 24, F)
    assert torch.equal(got.image.detach(), scene.background[:, None, None].expand(2, 17, 24, 3))
    assert not got.alpha.any() and not got.depth.any() and not found["world_to_cam"].any()
    assert got.screen.means2d.shape == (2, 0, 2) and got.screen.radii.shape == (2, 0, 2)
    leaves = scene.with_leaves()
    render(leaves, backend).image.sum().backward()
    assert leaves.background is not None and leaves.background.grad is not None
    assert torch.equal(leaves.background.grad, torch.full((2, 3), 17.0 * 24, dtype=dtype))


@pytest.mark.parametrize("size", [(8192, 8), (8, 8192), (16384, 1)])
def test_backends_agree_on_very_long_images(size: tuple[int, int]) -> None:
    scene = random_scene(5, 8, size)
    assert_near(picture(render(scene, "cpu")), picture(render(scene, "torch")), 1e-9)
    assert_near(gradients(scene, "cpu"), gradients(scene, "torch"), 1e-9)


def test_points_at_the_corners_of_an_8k_image_appear_there_and_nowhere_else() -> None:
    """Points thinner than a pixel: alpha = o exp(-d^2 / 0.6), so that the 3x3 pixels about each hold all of it."""
    width, height, depth, o = 8192, 4608, 2.0, 0.02  # o exp(-4 / 0.6) is under 1/255, o exp(-2 / 0.6) too
    pixels = torch.tensor([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1], [4000, 2001]])
    xy = (pixels + 0.5 - torch.tensor([width / 2, height / 2])) * depth / width
    N = len(pixels)
    gaussians = Gaussians(
        torch.cat([xy, torch.full((N, 1), depth)], 1),
        torch.tensor([[1.0, 0, 0, 0]]).expand(N, 4),
        torch.full((N, 3), -30.0),
        torch.full((N,), math.log(o / (1 - o))),
        colors=torch.rand(N, 3, generator=torch.Generator().manual_seed(0)).requires_grad_(),
    )
    scene = Scene(gaussians, pinhole(width, height, float(width))).to(torch.float32)
    alpha = (rendering := rasterize(scene.gaussians, scene.cameras, backend="cpu")).alpha[0]
    rendering.image.sum().backward()
    neighbour = o * math.exp(-1 / 0.6)  # 0.0038: just under 1/255 as well
    assert neighbour < 1 / 255
    assert sorted(torch.nonzero(alpha).tolist()) == sorted(pixels.flip(1).tolist())
    # float32 places a centre to 5e-4 px: exp(-(5e-4)^2 / 0.6) = 1 - 4e-7
    torch.testing.assert_close(alpha[alpha > 0], torch.full((N,), o), rtol=1e-5, atol=0)
    assert gaussians.colors is not None and gaussians.colors.grad is not None
    torch.testing.assert_close(gaussians.colors.grad, torch.full((N, 3), o), rtol=1e-5, atol=0)


# --- Memory -------------------------------------------------------------------------------------------------------

LEAK_SCRIPT = """
from pathlib import Path
import torch
from renderers.cpu_library import load
from tests.renderers.scenes import random_scene, render
torch.set_num_threads(1)

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4

def calls(count):
    for _ in range(count):
        render(plain, "cpu")
        with torch.no_grad():
            render(leaves, "cpu")
        render(leaves, "cpu")
        render(leaves, "cpu").image.sum().backward()

plain = random_scene(0, 3, (4, 3), F=1).to(torch.float32)
leaves = plain.with_leaves()
calls(250)
before = resident()
calls(2500)
print(resident() - before, load().s4_live_views())
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc/self/statm (Linux) to see the memory")
def test_10_000_calls_with_and_without_autograd_leave_no_memory_behind() -> None:
    """1024 KiB of growth would be 105 bytes a call, less than the smallest thing that could leak: a view of one tile.

    After 1,000 calls to warm up, allocators and caches are filled; flat is what was measured, within 40 KiB.
    """
    done = subprocess.run([sys.executable, "-c", LEAK_SCRIPT], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    grown, views = map(int, done.stdout.split())
    assert views == 0 and grown < 1024
