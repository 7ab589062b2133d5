"""Moving and adding Gaussians: the picture stays, the cap holds, ids stay with their Gaussians."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from renderers import Cameras, rasterize
from scene4d.fitting.densify import DEAD, GROWTH, add_noise, relocate, scale_ratio, split_values
from scene4d.fitting.model import Model, make_model
from scene4d.fitting.settings import FitSettings
from scene4d.scene import Scene4D

WIDTH, HEIGHT = 64, 48


def model_of(opacities: Tensor, means: Tensor | None = None, scale: float = 0.2) -> Model:
    """Round Gaussians; each one's colour, label and instance tell its number."""
    n = len(opacities)
    number = torch.arange(n, dtype=torch.int32)
    sh = torch.zeros(n, 1, 3)
    sh[:, 0, 0] = number / 10
    quats = torch.nn.functional.normalize(torch.randn(n, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    scene = Scene4D(
        means=torch.tensor([0.0, 0.0, 4.0]).repeat(n, 1) if means is None else means,
        quats=quats,
        log_scales=torch.full((n, 3), math.log(scale)),
        logit_opacities=torch.logit(opacities),
        sh=sh,
        labels=100 + number,
        instances=number + 1,
    )
    return make_model(scene, 1, 1.0, FitSettings(), torch.device("cpu"))


def spread(n: int) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return (torch.rand(n, 3, generator=g) - 0.5) * torch.tensor([4.0, 3.0, 1.0]) + torch.tensor([0.0, 0.0, 5.0])


def picture(model: Model) -> Tensor:
    K = torch.tensor([[50.0, 0, WIDTH / 2], [0, 50.0, HEIGHT / 2], [0, 0, 1]])
    camera = Cameras(torch.eye(4)[None], K[None], WIDTH, HEIGHT)
    rendering = rasterize(model.scene().at(0.0), camera)
    return torch.cat([rendering.image[0], rendering.alpha[0, ..., None]], -1).detach()


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbers(model: Model) -> Tensor:
    """Which Gaussian each one descends from, by its colour."""
    return (model.params["sh"].detach()[:, 0, 0] * 10).round().int()


@pytest.mark.parametrize("opacity", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("copies", [1, 3])
def test_equal_copies_in_one_place_look_like_the_one_that_they_were(opacity: float, copies: int) -> None:
    model = model_of(torch.tensor([opacity]))
    before = picture(model)
    assert float(before[..., 3].max()) > 0.9 * opacity
    rows, counts = torch.zeros(1 + copies, dtype=torch.int64), torch.tensor([copies])
    logits, log_scales = split_values(model, rows, counts)
    split = model_of(torch.full((1 + copies,), 0.5))
    with torch.no_grad():
        split.params["logit_opacities"][:] = logits
        split.params["log_scales"][:] = log_scales
        split.params["sh"][:] = 0
    after = picture(split)
    # equation 9 keeps opacity at the centre and the integral along an axis, not each value on the flanks;
    # and each of the copies ends where its contribution is below 1 / 255
    assert float((after - before).abs().max()) < 0.1 * opacity + (copies - 1) / 255
    assert float(after[..., 3].sum() / before[..., 3].sum()) == pytest.approx(1.0, abs=0.12)
    plain = model_of(torch.full((1 + copies,), opacity))
    with torch.no_grad():
        plain.params["sh"][:] = 0
    worse = picture(plain)  # what copying without the equation would do
    assert float((worse - before).abs().max()) > 2 * float((after - before).abs().max())


def test_opacity_and_scale_of_copies_follow_equation_9_term_by_term() -> None:
    model = model_of(torch.tensor([0.7, 0.2]))
    copies = torch.tensor([2, 0])
    logits, log_scales = split_values(model, torch.tensor([0, 0, 0, 1]), copies)
    share = 1 - 0.3 ** (1 / 3)
    torch.testing.assert_close(logits.sigmoid(), torch.tensor([share, share, share, 0.2]), atol=1e-6, rtol=0)
    total = sum(
        math.comb(i - 1, j) * (-1) ** j * share ** (j + 1) / math.sqrt(j + 1) for i in range(1, 4) for j in range(i)
    )
    expected = torch.tensor([0.2 * 0.7 / total] * 3 + [0.2])
    torch.testing.assert_close(log_scales.exp()[:, 0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("opacity", [0.006, 0.3, 0.999])
def test_scale_ratio_keeps_the_integral_along_a_line(opacity: float) -> None:
    """Along a line through the centre, 1 - (1 - share exp(-x^2/2 s^2))^k has the integral of opacity exp(-x^2/2)."""
    k = 5
    share = torch.tensor([1 - (1 - opacity) ** (1 / k)])
    ratio = float(scale_ratio(torch.tensor([opacity]), share, torch.tensor([k])))
    x = torch.linspace(-10, 10, 20001).double()
    one = opacity * torch.exp(-x.square() / 2)
    many = 1 - (1 - float(share) * torch.exp(-x.square() / (2 * ratio**2))).pow(k)
    assert float(many.sum() / one.sum()) == pytest.approx(1.0, abs=2e-3)


def test_the_picture_stays_when_gaussians_are_added() -> None:
    model = model_of(torch.full((40,), 0.8), spread(40))
    before = picture(model)
    dead, added = relocate(model, 1000, torch.ones(40), random())
    assert (dead, added) == (0, 4)  # a tenth
    after = picture(model)
    assert float((after - before).abs().mean()) < 0.01
    assert float((after - before).square().mean().sqrt()) < 0.03


def test_growth_ends_at_the_cap() -> None:
    model = model_of(torch.full((50,), 0.8), spread(50))
    sizes = []
    for k in range(8):
        relocate(model, 71, torch.ones(len(model)), random(k))
        sizes.append(len(model))
    assert sizes[0] == int(50 * GROWTH) and sizes == sorted(sizes)
    assert sizes[-1] == max(sizes) == 71


def test_a_model_over_the_cap_does_not_grow() -> None:
    model = model_of(torch.full((50,), 0.8), spread(50))
    assert relocate(model, 20, torch.ones(50), random()) == (0, 0)
    assert len(model) == 50


def test_dead_gaussians_go_to_where_they_are_needed() -> None:
    opacities = torch.full((30,), 0.7)
    opacities[[4, 9, 22]] = DEAD / 2
    model, places = model_of(opacities, spread(30)), spread(30)
    need = torch.zeros(30)
    need[17] = 1.0
    assert relocate(model, 30, need, random()) == (3, 0)
    assert len(model) == 30
    assert numbers(model)[[4, 9, 22, 17]].tolist() == [17] * 4
    torch.testing.assert_close(model.params["means"].detach()[[4, 9, 22]], places[17].expand(3, 3))
    others = torch.ones(30, dtype=torch.bool)
    others[[4, 9, 17, 22]] = False
    assert torch.equal(numbers(model)[others], torch.arange(30, dtype=torch.int32)[others])
    torch.testing.assert_close(model.params["logit_opacities"].detach()[others].sigmoid(), opacities[others])
    four = 1 - 0.3 ** (1 / 4)
    torch.testing.assert_close(
        model.params["logit_opacities"].detach()[[4, 9, 17, 22]].sigmoid(), torch.full((4,), four), atol=1e-6, rtol=0
    )


def test_added_gaussians_are_where_they_are_needed() -> None:
    model, need = model_of(torch.full((30,), 0.7), spread(30)), torch.zeros(30)
    need[17] = 1.0
    assert relocate(model, 100, need, random()) == (0, 3)
    assert numbers(model)[30:].tolist() == [17] * 3
    torch.testing.assert_close(model.params["means"].detach()[30:], spread(30)[17].expand(3, 3))


def test_chance_falls_in_proportion_to_need_and_opacity() -> None:
    counts = torch.zeros(3)
    for seed in range(40):
        opacities = torch.cat([torch.tensor([0.8, 0.4, 0.8]), torch.full((60,), 0.001)])
        model = model_of(opacities, spread(63))
        need = torch.ones(63)
        need[2] = 3.0
        relocate(model, 63, need, random(seed))
        counts += torch.bincount(numbers(model)[3:], minlength=3)[:3]
    share = counts / counts.sum()
    torch.testing.assert_close(share, torch.tensor([0.8, 0.4, 2.4]) / 3.6, atol=0.03, rtol=0)  # of 2400 draws


def test_ids_stay_with_their_gaussians() -> None:
    opacities = torch.rand(60, generator=random(3)) * 0.9 + 0.05
    opacities[::7] = 0.001
    model = model_of(opacities, spread(60))
    for k in range(4):
        relocate(model, 80, torch.rand(len(model), generator=random(k)), random(k))
    assert len(model) == 80
    assert torch.equal(model.ids["labels"], 100 + numbers(model))
    assert torch.equal(model.ids["instances"], 1 + numbers(model))


def test_the_same_chance_gives_the_same_gaussians() -> None:
    models = [model_of(torch.full((50,), 0.8), spread(50)) for _ in range(2)]
    for model in models:
        relocate(model, 60, torch.arange(50.0), random(5))
    for name, x in models[0].params.items():
        assert torch.equal(x, models[1].params[name]), name


def test_without_anything_alive_nothing_happens() -> None:
    model = model_of(torch.full((5,), 0.001))
    assert relocate(model, 10, torch.ones(5), random()) == (0, 0)


def test_noise_shakes_faint_gaussians_along_their_own_shape_only() -> None:
    opacities = torch.cat([torch.full((400,), 1e-4), torch.full((400,), 0.5)])
    model = model_of(opacities)
    with torch.no_grad():  # long along their x axis, which is the world's z
        model.params["log_scales"][:] = torch.tensor([0.0, -3.0, -3.0])
        model.params["quats"][:] = torch.tensor([math.sqrt(0.5), 0.0, math.sqrt(0.5), 0.0])
    before = model.params["means"].detach().clone()
    add_noise(model, 0.1, random())
    moved = model.params["means"].detach() - before
    assert bool((moved[400:] == 0).all())
    deviation = moved[:400].std(0)
    # covariance times noise: 1 along z, exp(-6) across; the gate of a faint one is 1 / (1 + exp(-0.49))
    assert float(deviation[2]) == pytest.approx(0.1 / (1 + math.exp(-0.49)), rel=0.15)
    assert float(deviation[:2].max()) < 0.01 * float(deviation[2])
