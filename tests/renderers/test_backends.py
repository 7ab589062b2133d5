"""The backends against each other: the torch definition by gradcheck, the C++ one against the definition."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from renderers import Cameras, Gaussians, RasterOptions, Rendering, build, gsplat_cuda, rasterize

ROOT = Path(__file__).resolve().parents[2]
MAPS = ("image", "alpha", "depth", "features")
WANT = ("median_depth", "top", "weight_sum")


def random_leaves(seed: int, n: int, sh: int, features: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Raw parameters of a cloud in front of `random_cameras`, every one a leaf that requires grad."""
    rng = np.random.default_rng(seed)
    leaves = {
        "means": rng.uniform([-2, -1.5, 2.5], [2, 1.5, 6], (n, 3)),
        "quats": rng.standard_normal((n, 4)),
        "log_scales": rng.normal(-1.8, 0.5, (n, 3)),
        "logit_opacities": rng.normal(0.0, 1.3, n),
        "background": rng.random(3),
        "world_to_cam": random_poses(rng),
    }
    leaves |= {"sh": 0.4 * rng.standard_normal((n, sh, 3))} if sh else {"colors": rng.random((n, 3))}
    if features:
        leaves["features"] = rng.standard_normal((n, features))
    return {k: torch.tensor(x, dtype=dtype).requires_grad_() for k, x in leaves.items()}


def random_poses(rng: np.random.Generator) -> np.ndarray:
    poses = np.tile(np.eye(4), (2, 1, 1))
    for pose in poses:
        a, b = rng.uniform(-0.2, 0.2, 2)
        yaw = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
        pitch = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
        pose[:3, :3], pose[:3, 3] = yaw @ pitch, rng.uniform(-0.2, 0.2, 3)
    return poses


def draw(leaves: dict[str, Tensor], backend: str, size: tuple[int, int] = (37, 29), **options: object) -> Rendering:
    width, height = size
    fields = {f.name for f in dataclasses.fields(Gaussians)}
    K = torch.tensor([[width * 1.1, 0, width / 2 + 1], [0, width, height / 2 - 2], [0, 0, 1]]).repeat(2, 1, 1)
    cameras = Cameras(leaves["world_to_cam"], K.to(leaves["means"].dtype), width, height)
    gaussians = Gaussians(**{k: x for k, x in leaves.items() if k in fields})
    extra = {"features": leaves.get("features"), "background": leaves["background"]}
    return rasterize(gaussians, cameras, want=WANT, options=RasterOptions(**options), backend=backend, **extra)  # type: ignore[arg-type]


def backward(out: Rendering, leaves: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Gradients of a random linear function of all maps."""
    rng = np.random.default_rng(seed)
    maps = [m for name in MAPS if (m := getattr(out, name)) is not None]
    torch.autograd.backward(maps, [torch.tensor(rng.standard_normal(m.shape)).to(m) for m in maps])
    gradients = {k: x.grad for k, x in leaves.items() if x.grad is not None}
    means2d = out.screen.means2d
    assert means2d.grad is not None
    return gradients | {"means2d": means2d.grad, "absgrad": getattr(means2d, "absgrad", means2d.grad)}


def error(x: Tensor, truth: Tensor) -> float:
    """L2 distance relative to the norm of the truth."""
    x, truth = x.detach().double(), truth.detach().double()
    return float((x - truth).norm() / truth.norm().clamp_min(1e-12))


@pytest.mark.parametrize(
    ("sh", "features", "options"),
    [(0, 2, {}), (9, 0, {"antialiased": True}), (4, 1, {"eps2d": 0.1, "max_alpha": 0.5}), (16, 0, {})],
)
def test_the_definition_passes_gradcheck_to_every_input(sh: int, features: int, options: dict) -> None:
    leaves = random_leaves(3, 5, sh, features)
    names = list(leaves)

    def maps(*values: Tensor) -> tuple[Tensor, ...]:
        out = draw(dict(zip(names, values, strict=True)), "torch", (6, 5), **options)
        return tuple(m for name in MAPS if (m := getattr(out, name)) is not None)

    assert torch.autograd.gradcheck(maps, tuple(leaves.values()), eps=1e-6, atol=1e-6, rtol=1e-4)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 60),
    sh=st.sampled_from([0, 1, 4, 9, 16]),
    features=st.sampled_from([0, 1, 5, 12, 32, 40]),
    antialiased=st.booleans(),
    eps2d=st.sampled_from([0.05, 0.3]),
)
def test_cpu_in_double_is_the_definition_in_values_and_gradients(
    seed: int, n: int, sh: int, features: int, antialiased: bool, eps2d: float
) -> None:
    # both compute in double, so that a contribution within 1e-15 of a threshold would be needed to part them
    options = {"antialiased": antialiased, "eps2d": eps2d, "absgrad": features <= 32}
    truth_leaves, leaves = random_leaves(seed, n, sh, features), random_leaves(seed, n, sh, features)
    truth, out = draw(truth_leaves, "torch", **options), draw(leaves, "cpu", **options)
    assert torch.equal(out.screen.radii, truth.screen.radii)
    assert torch.equal(out.top_id, truth.top_id)  # type: ignore[arg-type]
    # 1e-9 of the norm: rounding of a few hundred operations, and far below what one flipped threshold (1/255) would do
    for name in (*MAPS, "median_depth", "top_weight"):
        if (value := getattr(truth, name)) is not None:
            assert error(getattr(out, name), value) < 1e-9, name
    assert error(out.screen.weight_sum, truth.screen.weight_sum) < 1e-9  # type: ignore[arg-type]
    if not truth.screen.radii.any():
        return
    expected, gradients = backward(truth, truth_leaves), backward(out, leaves)
    for name, value in expected.items():
        assert error(gradients[name], value) < 1e-9, name


def test_depth_ties_are_broken_by_index() -> None:
    leaves = random_leaves(5, 40, 0, 3)
    with torch.no_grad():
        leaves["means"][:, 2] = 4.0
        leaves["world_to_cam"][:, :3, :3] = torch.eye(3, dtype=torch.float64)
    other = {k: x.detach().clone().requires_grad_() for k, x in leaves.items()}
    truth, out = draw(leaves, "torch"), draw(other, "cpu")
    assert error(out.image, truth.image) < 1e-12
    expected, gradients = backward(truth, leaves), backward(out, other)
    assert all(error(gradients[k], expected[k]) < 1e-9 for k in expected)


def test_saturated_pixels_have_the_gradients_of_the_definition() -> None:
    # 300 opaque Gaussians over 37x29 pixels: over half of the pixels come near the stop threshold or reach it
    truth_leaves = random_leaves(8, 300, 4, 2)
    with torch.no_grad():
        truth_leaves["logit_opacities"] += 3.0
    leaves = {k: x.detach().clone().requires_grad_() for k, x in truth_leaves.items()}
    truth, out = draw(truth_leaves, "torch"), draw(leaves, "cpu")
    assert (truth.alpha > 0.99).double().mean() > 0.5
    assert (truth.alpha > 0.999).double().mean() > 0.2
    expected, gradients = backward(truth, truth_leaves), backward(out, leaves)
    assert all(error(gradients[k], expected[k]) < 1e-9 for k in expected)


def test_float32_differs_in_few_pixels_and_little_in_gradients() -> None:
    off, pixels = 0, 0
    for seed in range(2):
        leaves, single = random_leaves(seed, 800, 9, 0), random_leaves(seed, 800, 9, 0, torch.float32)
        truth, out = draw(leaves, "cpu", (200, 150)), draw(single, "cpu", (200, 150))
        off += int(((out.image.double() - truth.image).abs().amax(-1) > 1e-4).sum())
        pixels += truth.alpha.numel()
        expected, gradients = backward(truth, leaves), backward(out, single)
        # 3e-4: one pixel on the other side of a threshold, relative to the gradient of 800 Gaussians
        assert all(error(gradients[k], expected[k]) < 3e-4 for k in expected)
    assert pixels >= 76_800
    assert off / pixels < 1e-4


@pytest.mark.parametrize("variant", list(build.variants()))
def test_every_variant_gives_the_same_picture(variant: str, tmp_path: Path) -> None:
    script = (
        "import sys, torch; from tests.renderers.test_backends import *\n"
        "leaves = random_leaves(1, 200, 16, 7, torch.float32); out = draw(leaves, 'cpu')\n"
        "torch.save([out.image.detach(), *backward(out, leaves).values()], sys.argv[1])"
    )
    environment = {**os.environ, "SCENE4D_CPU_VARIANT": variant}
    command = [sys.executable, "-c", script, str(tmp_path / "out.pt")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    if "CPU features that this one lacks" in done.stderr:
        pytest.skip(f"this CPU does not run {variant}")
    assert done.returncode == 0, done.stderr
    leaves = random_leaves(1, 200, 16, 7, torch.float64)
    out = draw(leaves, "torch")
    expected = [out.image.detach(), *backward(out, leaves).values()]
    for value, truth in zip(torch.load(tmp_path / "out.pt", weights_only=True), expected, strict=True):
        assert error(value, truth) < 1e-4  # float32 rounding


def test_gsplat_says_that_it_needs_a_gpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(RuntimeError, match="needs a CUDA GPU"):
        draw(random_leaves(0, 3, 0, 0, torch.float32), "gsplat")


def test_the_alpha_cap_is_read_from_the_installed_gsplat() -> None:
    import gsplat

    known = {"1.5.3": 0.999}
    if gsplat.__version__ not in known:
        pytest.skip(f"cap of gsplat {gsplat.__version__} not recorded here")
    assert gsplat_cuda.installed_max_alpha() == known[gsplat.__version__]


def test_extras_from_contribution_pairs_are_those_of_the_definition() -> None:
    # what the CUDA backend computes from gsplat's list of pairs, fed with a list made by a slow loop
    leaves = random_leaves(4, 25, 0, 0)
    truth = draw(leaves, "torch")
    C, H, W = truth.alpha.shape
    ids, pixels, alphas, depths = [], [], [], torch.zeros(C, 25, dtype=torch.float64)
    for c in range(C):
        pose = leaves["world_to_cam"][c].detach()
        depths[c] = leaves["means"].detach() @ pose[2, :3] + pose[2, 3]
        # one Gaussian at a time gives its alpha in every pixel
        maps = torch.zeros(25, H, W, dtype=torch.float64)
        for i in range(25):
            one = {k: x.detach()[i : i + 1] if k in ("means", "quats", "log_scales", "logit_opacities", "colors") else x
                   for k, x in leaves.items()}  # fmt: skip
            maps[i] = draw(one, "torch").alpha[c].detach()
        for flat in range(H * W):
            T = 1.0
            for i in torch.argsort(depths[c]).tolist():
                a = maps[i].flatten()[flat].item()
                if a > 0 and T * (1 - a) > 1e-4:
                    ids.append(i), pixels.append(c * H * W + flat), alphas.append(a)
                    T *= 1 - a
                elif a > 0:
                    break
    found = gsplat_cuda.extras_from_pairs(
        torch.tensor(ids), torch.tensor(pixels), torch.tensor(alphas, dtype=torch.float64), depths, (C, H, W),
        frozenset(WANT),
    )  # fmt: skip
    assert torch.equal(found["top_id"], truth.top_id)  # type: ignore[arg-type]
    for name in ("top_weight", "median_depth"):
        assert torch.allclose(found[name], getattr(truth, name).detach(), atol=1e-12)
    assert torch.allclose(found["weight_sum"], truth.screen.weight_sum, atol=1e-10)  # type: ignore[arg-type]
