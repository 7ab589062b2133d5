"""What must not change the picture or its gradients, and what must change them in a known way.

EXACT is the tolerance where two ways to the same float64 number differ only in the order of some operations, relative
to the norm: 1e-15 rounding times the 1e2 to 1e4 terms of a sum, times the amplification of steep Gaussians.
"""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from renderers import RasterOptions, Rendering, cpu_library
from tests.renderers.scenes import (
    BACKENDS,
    Scene,
    assert_near,
    collect,
    gradients,
    loss,
    maps,
    pinhole,
    random_gaussians,
    random_scene,
    render,
    small_motion,
)

EXACT = 1e-10
EXTRAS = ("top", "median_depth", "weight_sum")
few = settings(deadline=None, derandomize=True, max_examples=5)
seeds = st.integers(0, 10**6)
both = pytest.mark.parametrize("backend", BACKENDS)


def picture(rendering: Rendering) -> dict[str, torch.Tensor]:
    """All maps, the extras too."""
    extras = [(n, x) for n in ("median_depth", "top_weight") if (x := getattr(rendering, n)) is not None]
    return {name: x.detach() for name, x in [*maps(rendering), *extras]}


# --- The scene ----------------------------------------------------------------------------------------------------


@both
@few
@given(seed=seeds)
def test_order_of_gaussians_does_not_matter(backend: str, seed: int) -> None:
    scene = random_scene(seed, C=2, sh_degree=2)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    before, after = render(scene, backend, want=EXTRAS), render(scene.pick(order), backend, want=EXTRAS)
    assert_near(picture(after), picture(before), EXACT)
    assert before.screen.weight_sum is not None and after.screen.weight_sum is not None
    assert before.top_id is not None and after.top_id is not None
    torch.testing.assert_close(after.screen.weight_sum, before.screen.weight_sum[:, order], rtol=EXACT, atol=EXACT)
    assert torch.equal(after.screen.radii, before.screen.radii[:, order])
    named = torch.cat([order, torch.tensor([-1])])[after.top_id.long()]  # -1 picks the appended -1
    assert torch.equal(named, before.top_id.long())
    expected = gradients(scene, backend)
    expected |= {n: expected[n][order] for n in scene.tensors() if n not in ("world_to_cam", "background")}
    assert_near(gradients(scene.pick(order), backend), expected | {"means2d": expected["means2d"][:, order]}, EXACT)


@both
@few
@given(seed=seeds)
def test_moving_the_world_and_the_cameras_together_changes_nothing(backend: str, seed: int) -> None:
    scene, rng = random_scene(seed, C=2), np.random.default_rng(seed)
    motion = small_motion(rng, angle=2.0, shift=5.0)
    R = Rotation.from_matrix(motion[:3, :3].numpy())
    quats = (R * Rotation.from_quat(scene.gaussians.quats.numpy(), scalar_first=True)).as_quat(scalar_first=True)
    moved = scene.with_tensors(
        means=scene.gaussians.means @ motion[:3, :3].mT + motion[:3, 3],
        quats=torch.from_numpy(quats),
        world_to_cam=scene.cameras.world_to_cam @ torch.linalg.inv(motion),
    )
    assert_near(picture(render(moved, backend, want=EXTRAS)), picture(render(scene, backend, want=EXTRAS)), 1e-9)
    before, after = gradients(scene, backend), gradients(moved, backend)
    turned = {"means": before["means"] @ motion[:3, :3].mT}  # a covector turns like a vector
    same = ("log_scales", "logit_opacities", "colors", "features", "background", "means2d")
    assert_near({n: after[n] for n in (*same, "means")}, {n: before[n] for n in same} | turned, 1e-9)


@both
@pytest.mark.parametrize("factor", [-1.0, 1e-3, 7.0, -20.0])
def test_length_and_sign_of_a_quaternion_do_not_matter(backend: str, factor: float) -> None:
    scene = random_scene(5)
    scaled = scene.with_tensors(quats=scene.gaussians.quats * factor)
    assert_near(picture(render(scaled, backend)), picture(render(scene, backend)), EXACT)
    before = gradients(scene, backend)
    assert_near(gradients(scaled, backend), before | {"quats": before["quats"] / factor}, EXACT)
    radial = (before["quats"] * scene.gaussians.quats).sum(-1)
    assert radial.abs().max() < EXACT * before["quats"].norm()  # length has no gradient


# --- Batches, channels, memory layout -----------------------------------------------------------------------------


@both
def test_a_batch_of_cameras_equals_single_cameras(backend: str) -> None:
    scene = random_scene(6, C=4, sh_degree=3)
    assert scene.background is not None
    batch = render(scene, backend, want=EXTRAS)
    total: dict[str, torch.Tensor] = {}
    leaves = scene.with_leaves()
    rendering = render(leaves, backend)
    (rendering.image.square().sum() + rendering.depth.sum()).backward()
    for c in range(4):
        cameras = replace(
            scene.cameras, world_to_cam=scene.cameras.world_to_cam[c : c + 1], K=scene.cameras.K[c : c + 1]
        )
        single = replace(scene, cameras=cameras, background=scene.background[c : c + 1])
        got = render(single, backend, want=EXTRAS)
        for name, x in picture(got).items():
            assert torch.equal(x[0], getattr(batch, name)[c]), name
        assert got.screen.weight_sum is not None and batch.screen.weight_sum is not None
        assert torch.equal(got.screen.weight_sum[0], batch.screen.weight_sum[c])
        single = single.with_leaves()
        alone = render(single, backend)
        (alone.image.square().sum() + alone.depth.sum()).backward()
        for name, gradient in collect(single, alone).items():
            per_camera = name in ("world_to_cam", "background", "means2d")
            known = total.get(name)
            total[name] = (
                gradient if known is None else torch.cat([known, gradient]) if per_camera else known + gradient
            )
    assert_near(collect(leaves, rendering), total, EXACT)


@both
@pytest.mark.parametrize("F", [0, 1, 3, 5, 16, 33, 40, 80])
def test_many_channels_equal_separate_passes(backend: str, F: int) -> None:
    scene = random_scene(7, F=F, C=2)
    leaves = scene.with_leaves()
    together = render(leaves, backend)
    assert together.features is not None and together.features.shape == (2, 17, 24, F) and scene.features is not None
    upstream = torch.from_numpy(np.random.default_rng(F).normal(size=together.features.shape))
    (together.features * upstream).sum().backward()
    without = render(replace(scene, features=None), backend)
    assert without.features is None
    assert_near(
        {"image": together.image.detach(), "alpha": together.alpha.detach(), "depth": together.depth.detach()},
        {"image": without.image, "alpha": without.alpha, "depth": without.depth},
        EXACT,
    )
    total = {n: torch.zeros_like(x) for n, x in scene.tensors().items() if n not in ("features", "background")}
    for f in range(0, F, 7):
        part = replace(scene, features=scene.features[:, f : f + 7]).with_leaves()
        got = render(part, backend)
        assert got.features is not None and part.features is not None
        (got.features * upstream[..., f : f + 7]).sum().backward()
        assert part.features.grad is not None and leaves.features is not None and leaves.features.grad is not None
        pairs = {"map": (together.features[..., f : f + 7], got.features),
                 "gradient": (leaves.features.grad[:, f : f + 7], part.features.grad)}  # fmt: skip
        assert_near(
            {n: a.detach() for n, (a, _) in pairs.items()}, {n: b.detach() for n, (_, b) in pairs.items()}, EXACT
        )
        for name, tensor in part.tensors().items():
            if name in total and tensor.grad is not None:
                total[name] += tensor.grad
    if F:
        got = collect(leaves, together)
        assert_near({n: got[n] for n in total}, total, EXACT)


@both
def test_features_of_each_camera_equal_shared_ones_where_they_are_the_same(backend: str) -> None:
    scene = random_scene(8, C=3)
    assert scene.features is not None
    own = replace(scene, features=torch.stack([scene.features, 2 * scene.features, -scene.features])).with_leaves()
    shared, rendering = render(scene, backend).features, render(own, backend)
    got = rendering.features
    assert got is not None and shared is not None and own.features is not None
    torch.testing.assert_close(got, torch.stack([shared[0], 2 * shared[1], -shared[2]]), rtol=EXACT, atol=EXACT)
    loss(rendering).backward()
    common = gradients(scene, backend)["features"]
    assert own.features.grad is not None
    torch.testing.assert_close(own.features.grad.sum(0), common, rtol=EXACT, atol=EXACT)


def scattered(x: torch.Tensor) -> torch.Tensor:
    """The same values with gaps between them in memory and the axes stored in reverse order."""
    axes = tuple(reversed(range(x.ndim)))
    spread = torch.full((*(2 * n for n in reversed(x.shape)),), torch.nan, dtype=x.dtype)
    view = spread[tuple(slice(None, None, 2) for _ in axes)].permute(axes)
    return view.copy_(x)


@both
def test_memory_layout_does_not_matter(backend: str) -> None:
    scene = random_scene(9, C=2, sh_degree=3)
    loose = scene.with_tensors(**{name: scattered(x) for name, x in scene.tensors().items()})
    loose = replace(loose, cameras=replace(loose.cameras, K=scene.cameras.K[:1].expand(2, 3, 3)))
    assert not any(x.is_contiguous() for n, x in loose.tensors().items())
    rendering, reference = render(loose, backend, want=EXTRAS), render(scene, backend, want=EXTRAS)
    assert all(torch.equal(x, getattr(reference, name)) for name, x in picture(rendering).items())
    leaves = loose.with_tensors(**{name: x.requires_grad_() for name, x in loose.tensors().items()})
    rendering = render(leaves, backend)
    loss(rendering).backward()
    assert_near(collect(leaves, rendering), gradients(scene, backend), EXACT)


@both
def test_expanded_and_strided_upstream_gradients_count_like_plain_ones(backend: str) -> None:
    found = []
    for plain in (True, False):
        scene = random_scene(10, C=2).with_leaves()
        rendering = render(scene, backend)
        for _, x in maps(rendering):
            mask = torch.zeros_like(x)
            mask[:, ::2] = 1  # the gradient of x[:, ::2].sum() is an expanded 1 inside zeros
            (x * mask).sum().backward(retain_graph=True) if plain else x[:, ::2].sum().backward(retain_graph=True)
        spread = [torch.ones(()).double().expand(x.shape) for _, x in maps(rendering)]
        sent = [x.contiguous() for x in spread] if plain else spread
        torch.autograd.backward([x for _, x in maps(rendering)], sent)
        found.append(collect(scene, rendering))
    assert_near(found[1], found[0], EXACT)


# --- Image size, crops, threads -----------------------------------------------------------------------------------

SIZES = [(1, 1), (1, 7), (33, 17), (31, 16), (65, 1), (32, 32), (64, 33)]


@both
@pytest.mark.parametrize("size", SIZES)
def test_a_crop_by_the_principal_point_holds_the_pixels_of_the_whole(backend: str, size: tuple[int, int]) -> None:
    """Points with eps2d = 4 px^2: their shape does not depend on J, whose slope stops at the edge of each crop."""
    rng = np.random.default_rng(0)
    gaussians = random_gaussians(rng, 60, sizes=(1e-9, 1e-8))
    whole, options = Scene(gaussians, pinhole(97, 71, 97.0)), RasterOptions(eps2d=4.0)
    expected = render(whole, backend, options).image[0]
    width, height = size
    for x, y in ((0, 0), (97 - width, 71 - height), (13, 29)):
        K = whole.cameras.K.clone()
        K[0, 0, 2] -= x
        K[0, 1, 2] -= y
        cut = replace(whole, cameras=replace(whole.cameras, K=K, width=width, height=height))
        got = render(cut, backend, options).image[0]
        torch.testing.assert_close(got, expected[y : y + height, x : x + width], rtol=0, atol=EXACT)


@pytest.mark.parametrize("size", SIZES)
def test_backends_agree_at_any_image_size(size: tuple[int, int]) -> None:
    scene = random_scene(12, 60, size, C=2, sh_degree=1)
    assert_near(picture(render(scene, "cpu")), picture(render(scene, "torch")), 1e-9)
    assert_near(gradients(scene, "cpu"), gradients(scene, "torch"), 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_thread_count_changes_no_bit(dtype: torch.dtype) -> None:
    scene = random_scene(13, 1500, (97, 71), C=2, F=5, sh_degree=3).to(dtype)
    found = []
    for threads in (1, 2, 3, 5):
        options, leaves = RasterOptions(threads=threads, absgrad=True), scene.with_leaves()
        rendering = render(leaves, "cpu", options, want=EXTRAS)
        loss(rendering).backward()
        screen = rendering.screen
        assert rendering.top_id is not None and screen.weight_sum is not None
        values = {
            "id": rendering.top_id,
            "sum": screen.weight_sum,
            "radii": screen.radii,
            "xy": screen.means2d.detach(),
        }
        found.append(picture(rendering) | values | {f"d {n}": x for n, x in collect(leaves, rendering).items()})
    assert len(found[0]) == 10 + 10
    for other in found[1:]:
        assert [name for name, x in found[0].items() if not torch.equal(x, other[name])] == []


def test_auto_is_the_cpu_backend_for_cpu_tensors() -> None:
    scene = random_scene(14)
    assert torch.equal(render(scene, "auto").image, render(scene, "cpu").image)


@both
def test_float32_differs_from_float64_in_fewer_than_one_pixel_in_10_000(backend: str) -> None:
    """Rounding gives 1e-6 of the range of 1; only a pixel that stops at T = 1e-4 or drops a 1/255 is farther off."""
    off = pixels = 0
    for seed in range(2):
        rng = np.random.default_rng(seed)
        single = Scene(random_gaussians(rng, 1500, sizes=(0.01, 0.1)), pinhole(320, 240, 320.0)).to(torch.float32)
        exact = render(single.to(torch.float64), "torch").image
        difference = (render(single, backend).image.double() - exact).abs().amax(-1)
        off, pixels = off + int((difference > 1e-4).sum()), pixels + difference.numel()
        assert (exact > 0).float().mean() > 0.9 and difference.max() < 1e-2  # 1/255 of a contribution and its shadow
    assert pixels >= 2 * 76_800 and off / pixels < 1e-4


# --- Gradients ----------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("antialiased", [False, True])
def test_means2d_gradient_is_what_moving_all_splats_does(backend: str, axis: int, antialiased: bool) -> None:
    """The principal point moves every splat alike; its shape stays (no centre lies where J depends on the edge)."""
    scene, options = random_scene(15, size=(24, 24)), RasterOptions(antialiased=antialiased)
    step, moved = 1e-6, []  # px; central differences are good to step^2 and 1e-16 / step
    for sign in (-1, 1):
        K = scene.cameras.K.clone()
        K[:, axis, 2] += sign * step
        moved.append(loss(render(replace(scene, cameras=replace(scene.cameras, K=K)), backend, options)).item())
    got = gradients(scene, backend, options)["means2d"][..., axis].sum().item()
    assert abs(got) > 0.1 and got == pytest.approx((moved[1] - moved[0]) / (2 * step), rel=1e-6)


@both
@pytest.mark.parametrize("antialiased", [False, True])
def test_absgrad_is_the_sum_of_the_absolute_gradients_of_the_pixels(backend: str, antialiased: bool) -> None:
    options = RasterOptions(absgrad=True, antialiased=antialiased)
    scene = random_scene(16, 12, (5, 4), C=2, F=2)
    got = gradients(scene, backend, options)
    leaves = scene.with_leaves()
    rendering = render(leaves, backend, options)
    rng = np.random.default_rng(0)
    weighted = [
        (x * torch.from_numpy(rng.normal(size=x.shape))).reshape(2, 4, 5, -1).sum(-1) for _, x in maps(rendering)
    ]
    expected = torch.zeros_like(got["means2d"])
    for pixel in torch.stack(weighted).sum(0).flatten():  # the terms of `loss`, one pixel at a time
        (gradient,) = torch.autograd.grad(pixel, rendering.screen.means2d, retain_graph=True)
        expected += gradient.abs()
    assert_near({"absgrad": got["absgrad"]}, {"absgrad": expected}, EXACT)
    assert (got["absgrad"] >= got["means2d"].abs() - EXACT).all() and got["absgrad"].max() > 0


@both
def test_absgrad_of_a_single_pixel_is_the_absolute_gradient(backend: str) -> None:
    scene = random_scene(17, 30, (1, 1))
    scene = replace(scene, cameras=replace(scene.cameras, K=pinhole(1, 1, 0.5).K))
    got = gradients(scene, backend, RasterOptions(absgrad=True))
    assert_near({"absgrad": got["absgrad"]}, {"absgrad": got["means2d"].abs()}, EXACT)
    assert got["absgrad"].max() > 1e-3
    assert "absgrad" not in gradients(scene, backend)


@both
def test_gradients_of_two_calls_add_up(backend: str) -> None:
    scene = random_scene(18).with_leaves()
    for _ in range(2):
        loss(render(scene, backend)).backward()
    single = gradients(scene, backend)
    assert_near({n: x.grad for n, x in scene.tensors().items() if x.grad is not None},
                {n: 2 * single[n] for n in scene.tensors()}, EXACT)  # fmt: skip


@both
def test_second_backward_through_a_kept_graph_adds_the_same_again(backend: str) -> None:
    scene = random_scene(19).with_leaves()
    rendering = render(scene, backend)
    value = loss(rendering)
    value.backward(retain_graph=True)
    value.backward()
    single = gradients(scene, backend)
    assert_near(collect(scene, rendering), {n: 2 * x for n, x in single.items()}, EXACT)


@both
@pytest.mark.parametrize(
    "name",
    ["means", "quats", "log_scales", "logit_opacities", "sh", "features", "background", "world_to_cam"],
)
def test_gradient_to_one_input_alone_equals_that_beside_the_others(backend: str, name: str) -> None:
    scene = random_scene(20, C=2, sh_degree=2)
    alone = scene.with_tensors(**{name: scene.tensors()[name].clone().requires_grad_()})
    rendering = render(alone, backend)
    loss(rendering).backward()
    got = alone.tensors()[name].grad
    assert got is not None
    assert_near({name: got}, {name: gradients(scene, backend)[name]}, EXACT)


@both
def test_without_gradients_no_graph_and_no_view_is_kept(backend: str) -> None:
    gc.collect()
    before = cpu_library.load().s4_live_views()
    with torch.no_grad():
        renderings = [render(random_scene(21).with_leaves(), backend, want=EXTRAS)]
    renderings.append(render(random_scene(21), backend, want=EXTRAS))
    assert cpu_library.load().s4_live_views() == before
    for rendering in renderings:
        assert not any(x.requires_grad for x in (*picture(rendering).values(), rendering.screen.means2d))
