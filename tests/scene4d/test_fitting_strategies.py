"""gsplat's densification on our model: what grows, what travels with it, and how it goes on from a checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from renderers import Cameras, Gaussians, Rendering, Screen, rasterize
from scene4d.checkpoints import load_checkpoint, save_checkpoint
from scene4d.fitting.model import Model, keep_near_knots, make_model, model_from_state, model_state
from scene4d.fitting.settings import FitSettings
from scene4d.fitting.strategies import GROW_GRADIENT, DefaultDensification
from scene4d.rig import Rig
from scene4d.scene import Scene4D

pytest.importorskip("gsplat", reason="needs gsplat: pip install 'scene4d[gpu]'")

CPU = torch.device("cpu")
WIDTH, HEIGHT = 96, 72
SIZE = 2.0
# colours stand still, so that they tell which Gaussian a copy comes from
SETTINGS = FitSettings(lr_means=4e-3, lr_log_scales=2e-2, lr_quats=4e-3, lr_logit_opacities=5e-2, lr_sh=0.0)


def cameras() -> Cameras:
    """Three around (0, 0, 4), which is 4 away."""
    poses = torch.eye(4).repeat(3, 1, 1)
    for c, angle in enumerate((-0.25, 0.0, 0.25)):
        poses[c, 0, 0] = poses[c, 2, 2] = math.cos(angle)
        poses[c, 0, 2], poses[c, 2, 0] = math.sin(angle), -math.sin(angle)
        poses[c, :3, 3] = -poses[c, :3, :3] @ torch.tensor([0.0, 0.0, 4.0]) + torch.tensor([0.0, 0.0, 4.0])
    K = torch.tensor([[90.0, 0, 48], [0, 90.0, 36], [0, 0, 1]]).repeat(3, 1, 1)
    return Cameras(poses, K, WIDTH, HEIGHT)


def pictures() -> Tensor:
    """A red half (x < 0) and a blue one of 30 x 24 small Gaussians in all, with gaps that take many to show."""
    y, x = torch.meshgrid(torch.linspace(-1.1, 1.1, 24), torch.linspace(-1.5, 1.5, 30), indexing="ij")
    means = torch.stack([x, y, 4 + 0.2 * torch.sin(3 * x)], -1).reshape(-1, 3)
    means = means[(torch.sin(7 * means[:, 0]) * torch.sin(6 * means[:, 1])) > -0.2]
    n = len(means)
    colors = torch.where(means[:, :1] < 0, torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.9]))
    shape = torch.full((n, 3), math.log(0.05))
    return rasterize(
        Gaussians(means, torch.eye(4)[:1].expand(n, 4), shape, torch.full((n,), 3.0), colors=colors), cameras()
    ).image


def start(n: int = 60) -> Model:
    """Red Gaussians are instance 1, blue ones 2; labels and handles tell the same."""
    g = torch.Generator().manual_seed(0)
    means = torch.rand(n, 3, generator=g) * torch.tensor([3.0, 2.2, 0.6]) + torch.tensor([-1.5, -1.1, 3.7])
    instances = torch.where(means[:, 0] < 0, 1, 2).int()
    sh = torch.where((instances == 1)[:, None], torch.tensor([1.4, -1.4, -1.4]), torch.tensor([-1.4, -1.4, 1.4]))
    two = torch.ones(2, dtype=torch.int32)
    rig = Rig(
        centers=torch.tensor([[-0.7, 0, 4.0], [0.7, 0, 4.0]]),
        parents=-two,
        instances=torch.tensor([1, 2], dtype=torch.int32),
        interpolations=0 * two,
        knot_counts=two,
        knot_times=torch.zeros(2),
        knot_quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(2, 1),
        knot_translations=torch.zeros(2, 3),
    )
    scene = Scene4D(
        means=means,
        quats=torch.randn(n, 4, generator=g),
        log_scales=torch.full((n, 3), math.log(0.1)),
        logit_opacities=torch.zeros(n),
        sh=sh[:, None].contiguous(),
        labels=10 * instances,
        instances=instances,
        rig=rig,
        handle_ids=torch.stack([instances - 1, torch.full_like(instances, -1)], 1),
        handle_logits=torch.zeros(n, 2),
    )
    return make_model(scene, 3, SIZE, SETTINGS, CPU)


def fit(model: Model, growth: DefaultDensification, steps: range, cap: int, every: int = 25) -> list[float]:
    """PSNR of each step."""
    truth, views, scores = pictures(), cameras(), []
    for step in steps:
        c = step % 3
        one = Cameras(views.world_to_cam[c : c + 1], views.K[c : c + 1], WIDTH, HEIGHT)
        rendering = rasterize(model.scene().at(0.0), one)
        growth.before_backward(rendering)
        loss = (rendering.image[0] - truth[c]).square().mean()
        loss.backward()
        keep_near_knots(model, 0.0)
        scores.append(-10 * math.log10(float(loss.detach())))
        for optimizer in model.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        growth.after_backward(model)
        if (step + 1) % every == 0 and step < 220:
            growth.refine(model, cap, torch.Generator().manual_seed(step))
    return scores


def seen(gradients: Tensor, drawn: Tensor | None = None) -> Rendering:
    """A rendering [1 camera] whose backward left these gradients [N, 2] in pixels; `drawn` [N] in the picture."""
    n = len(gradients)
    means2d = torch.zeros(1, n, 2, requires_grad=True)
    radii = torch.ones(1, n, 2, dtype=torch.int32)
    if drawn is not None:
        radii[0, ~drawn] = 0
    blank = torch.zeros(1, HEIGHT, WIDTH)
    rendering = Rendering(blank[..., None].expand(-1, -1, -1, 3), blank, blank, None, Screen(means2d, radii, None))
    (means2d * gradients).sum().backward()
    return rendering


def gradient(times: float) -> float:
    """Of a mean along x in pixels: this many times the threshold of growth."""
    return times * GROW_GRADIENT / (WIDTH / 2)


def test_a_fit_grows_gets_better_and_ids_stay_with_their_gaussians() -> None:
    model, growth = start(), DefaultDensification(SIZE)
    scores = fit(model, growth, range(160), cap=10_000)
    assert len(model) > 2 * 60
    alone = start()
    few = fit(alone, DefaultDensification(SIZE), range(160), cap=60, every=1000)
    assert len(alone) == 60
    assert sum(scores[-10:]) / 10 > sum(few[-10:]) / 10 + 2.0
    red = model.params["sh"][:, 0, 0] > 0
    assert 0 < int(red.sum()) < len(model)
    torch.testing.assert_close(model.ids["instances"], torch.where(red, 1, 2).int())
    torch.testing.assert_close(model.ids["labels"], torch.where(red, 10, 20).int())
    torch.testing.assert_close(model.ids["handle_ids"][:, 0], torch.where(red, 0, 1).int())
    assert {len(x) for x in (*model.params.values(), *model.ids.values())} == {len(model)}


def test_growth_stops_at_the_cap() -> None:
    model, growth = start(), DefaultDensification(SIZE)
    sizes = []
    for first in range(0, 200, 25):
        fit(model, growth, range(first, first + 25), cap=85)
        sizes.append(len(model))
    assert max(sizes) == 85


@pytest.mark.parametrize("cap", [2, 4])
def test_a_model_at_or_over_the_cap_does_not_grow(cap: int) -> None:
    model, growth = start(4), DefaultDensification(SIZE)
    growth.before_backward(seen(torch.full((4, 2), gradient(5.0))))
    growth.after_backward(model)
    assert not growth.refine(model, cap, torch.Generator())
    assert len(model) == 4


def test_where_there_is_no_room_for_all_the_largest_gradients_grow() -> None:
    model, growth = start(10), DefaultDensification(size=100.0)  # all are small and doubled where they are
    wanted = torch.tensor([2.0, 9, 3, 8, 4, 7, 0.5, 6, 0.5, 5])
    gradients = torch.stack([wanted * gradient(1.0), torch.zeros(10)], 1)
    growth.before_backward(seen(gradients))
    growth.after_backward(model)
    old = model.params["means"].detach().clone()
    assert growth.refine(model, 13, torch.Generator())
    assert len(model) == 13
    doubled = model.params["means"].detach()[10:]
    assert {int((old - x).norm(dim=1).argmin()) for x in doubled} == {1, 3, 5}
    torch.testing.assert_close(doubled, old[[1, 3, 5]])


@pytest.mark.parametrize(("times", "grows"), [(1.2, True), (0.8, False)])
def test_gradients_are_averaged_over_the_views_in_which_a_gaussian_is_drawn(times: float, grows: bool) -> None:
    model, growth = start(4), DefaultDensification(size=100.0)
    gradients = torch.zeros(4, 2)
    gradients[2, 0] = gradient(times)
    for k in range(5):  # Gaussian 2 is there in one view of five
        drawn = torch.tensor([True, True, k == 3, True])
        rendering = seen(gradients * drawn[:, None], drawn)
        growth.before_backward(rendering)
        growth.after_backward(model)
    assert growth.refine(model, 100, torch.Generator()) is grows
    assert len(model) == (5 if grows else 4)


def test_large_gaussians_are_split_into_smaller_ones_that_have_no_moments() -> None:
    model, growth = start(3), DefaultDensification(size=1.0)  # 0.1 is large in a scene of size 1
    for name in ("means", "log_scales"):
        model.optimizers[name].state[model.params[name]] = {
            "step": torch.tensor(1.0),
            "exp_avg": torch.ones_like(model.params[name]),
            "exp_avg_sq": torch.ones_like(model.params[name]),
        }
    gradients = torch.tensor([[0.0, 0.0], [gradient(2.0), 0.0], [0.0, 0.0]])
    growth.before_backward(seen(gradients))
    growth.after_backward(model)
    assert growth.refine(model, 100, torch.Generator())
    scales = model.params["log_scales"].detach().exp()
    assert sorted(scales[:, 0].tolist()) == pytest.approx([0.1 / 1.6, 0.1 / 1.6, 0.1, 0.1])
    fresh = scales[:, 0] < 0.09
    state = model.optimizers["means"].state[model.params["means"]]
    assert bool((state["exp_avg"][fresh] == 0).all()) and bool((state["exp_avg"][~fresh] == 1).all())


def test_transparent_gaussians_are_removed() -> None:
    model, growth = start(6), DefaultDensification(SIZE)
    with torch.no_grad():
        model.params["logit_opacities"][[1, 4]] = -6.0  # opacity 0.0025
    kept = model.params["means"].detach()[[0, 2, 3, 5]]
    growth.before_backward(seen(torch.zeros(6, 2)))
    growth.after_backward(model)
    assert growth.refine(model, 100, torch.Generator())
    torch.testing.assert_close(model.params["means"].detach(), kept)


def test_a_gaussian_outside_its_window_is_not_counted() -> None:
    model, growth = start(2), DefaultDensification(SIZE)
    whole = torch.full((2,), torch.inf)
    scene = replace(model.scene(), t_on=torch.tensor([-1.0, 0.5]), t_off=whole, log_softness=torch.full((2,), -6.0))
    for t in (0.0, 1.0):
        rendering = rasterize(scene.at(t), cameras())
        growth.before_backward(rendering)
        rendering.image.sum().backward()
        growth.after_backward(model)
    counts = growth.state()["count"]
    assert counts is not None and counts.tolist() == [6.0, 3.0]  # three cameras


def test_a_checkpoint_between_refinements_leads_to_the_same_gaussians(tmp_path: Path) -> None:
    whole, growth = start(), DefaultDensification(SIZE)
    fit(whole, growth, range(40), cap=200, every=30)
    save_checkpoint(tmp_path, 40, {"model": model_state(whole), "growth": growth.state()})
    fit(whole, growth, range(40, 70), cap=200, every=30)
    torch.manual_seed(7)  # the state of the global random numbers must not matter
    state = load_checkpoint(tmp_path / "step_000000040.safetensors").state
    resumed, again = model_from_state(state["model"], SETTINGS, CPU), DefaultDensification(SIZE)
    again.restore(state["growth"], CPU)
    before = torch.get_rng_state()
    fit(resumed, again, range(40, 70), cap=200, every=30)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(resumed) == len(whole) > 60
    for name, value in whole.params.items():
        assert torch.equal(resumed.params[name], value), name


def test_without_a_measurement_nothing_changes() -> None:
    model = start(5)
    assert not DefaultDensification(SIZE).refine(model, 100, torch.Generator())
    assert len(model) == 5


def test_size_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r"^size must be positive, got 0\.0$"):
        DefaultDensification(0.0)
