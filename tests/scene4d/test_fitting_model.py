"""The parameters of a fit: what belongs together stays together, and a checkpoint holds all of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scene4d.checkpoints import load_checkpoint, save_checkpoint
from scene4d.fitting.model import Model, gather, keep_near_knots, make_model, model_from_state, model_state, set_rates
from scene4d.fitting.settings import PRESETS, FitSettings, with_changes
from scene4d.scene import Scene4D
from scene4d.scene_tools import scene_tensors
from tests.scene4d.random_scenes import random_scene

CPU = torch.device("cpu")
SETTINGS = FitSettings()


def start_scene(n: int = 12) -> Scene4D:
    """Rigged, without what a fit does not change (polynomials and windows)."""
    scene = random_scene(n).to(dtype=torch.float32)
    return replace(scene, residuals=None, t_ref=None, t_on=None, t_off=None, log_softness=None)


def take_steps(model: Model, steps: int) -> None:
    """Steps of all optimisers down a loss that uses every parameter."""
    for k in range(steps):
        gaussians = model.scene().at(0.2 + 0.1 * k)
        assert gaussians.sh is not None
        loss = gaussians.means.square().mean() + gaussians.quats[:, 1].mean() + gaussians.log_scales.square().mean()
        loss = loss + gaussians.logit_opacities.square().mean() + gaussians.sh.square().mean()
        loss = loss + (model.exposure * torch.arange(12.0).reshape(3, 4)).square().mean()
        loss.backward()
        keep_near_knots(model, 0.2 + 0.1 * k)
        for optimizer in model.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def tensors_of(model: Model) -> dict[str, Tensor]:
    return {**scene_tensors(model.scene()), "exposure": model.exposure}


def test_a_model_starts_as_the_scene_and_does_not_share_its_memory() -> None:
    scene = start_scene()
    before = {name: x.clone() for name, x in scene_tensors(scene).items()}
    model = make_model(scene, 2, 3.0, SETTINGS, CPU)
    for name, x in scene_tensors(model.scene()).items():
        assert torch.equal(x, before[name]), name
    assert model.exposure.shape == (2, 3, 4)
    image = torch.rand(5, 3)
    torch.testing.assert_close(image @ model.exposure[1, :, :3].T + model.exposure[1, :, 3], image)
    take_steps(model, 2)
    for name, x in scene_tensors(scene).items():
        assert torch.equal(x, before[name]), name


def test_every_parameter_and_knot_learns_and_ids_do_not() -> None:
    model = make_model(start_scene(), 2, 3.0, SETTINGS, CPU)
    before = {name: x.detach().clone() for name, x in tensors_of(model).items()}
    take_steps(model, 2)
    after = tensors_of(model)
    learn = {*model.params, "rig.knot_quats", "rig.knot_translations", "exposure"}
    assert {name for name, x in after.items() if not torch.equal(x.detach(), before[name])} == learn
    fixed = make_model(start_scene(), 2, 3.0, with_changes(SETTINGS, exposure=False), CPU)
    take_steps(fixed, 2)
    torch.testing.assert_close(fixed.exposure.detach(), torch.eye(3, 4).repeat(2, 1, 1))


def test_a_finished_scene_stands_alone_and_has_unit_quaternions() -> None:
    model = make_model(start_scene(), 2, 3.0, SETTINGS, CPU)
    done = model.finished()
    done.validate()
    assert not any(x.requires_grad for x in scene_tensors(done).values())
    torch.testing.assert_close(done.quats.norm(dim=1), torch.ones(len(done)))
    torch.testing.assert_close(done.at(0.4).means, model.scene().at(0.4).means.detach())
    copy = {name: x.clone() for name, x in scene_tensors(done).items()}
    take_steps(model, 1)
    assert all(torch.equal(x, copy[name]) for name, x in scene_tensors(done).items())


def test_gathered_gaussians_bring_their_values_ids_and_moments() -> None:
    model = make_model(start_scene(), 2, 3.0, SETTINGS, CPU)
    take_steps(model, 3)
    old = {name: x.detach().clone() for name, x in model.params.items()}
    ids = {name: x.clone() for name, x in model.ids.items()}
    moments = {
        name: {k: v.clone() for k, v in model.optimizers[name].state[x].items()} for name, x in model.params.items()
    }
    rows = torch.tensor([3, 3, 0, 11, 7])
    fresh = torch.tensor([False, True, False, False, True])
    gather(model, rows, fresh)
    assert len(model) == 5
    for name, x in model.params.items():
        assert torch.equal(x.detach(), old[name][rows]) and x.requires_grad and x.is_leaf, name
        state = model.optimizers[name].state
        assert set(state) == {x}, name
        for key in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(state[x][key][~fresh], moments[name][key][rows][~fresh]), (name, key)
            assert not bool(state[x][key][fresh].any()), (name, key)
        assert torch.equal(state[x]["step"], moments[name]["step"])
    for name, x in model.ids.items():
        assert torch.equal(x, ids[name][rows]), name


def test_after_gathering_a_kept_gaussian_learns_as_if_nothing_had_happened() -> None:
    """Each Gaussian's loss is its own here, so the others that leave do not matter."""
    models = [make_model(start_scene(), 1, 3.0, SETTINGS, CPU) for _ in range(2)]
    rows = torch.tensor([8, 2, 5])
    for step in range(6):
        if step == 3:
            gather(models[1], rows, torch.zeros(3, dtype=torch.bool))
        for model in models:
            sum((x - 0.3).square().sum() for x in model.params.values()).backward()  # type: ignore[union-attr]
            for name in model.params:
                model.optimizers[name].step()
                model.optimizers[name].zero_grad()
    for name, x in models[1].params.items():
        torch.testing.assert_close(x, models[0].params[name][rows], msg=name)


def test_a_model_goes_through_a_checkpoint_bit_for_bit_and_on_from_there(tmp_path: Path) -> None:
    model = make_model(start_scene(), 2, 3.0, SETTINGS, CPU)
    set_rates(model, SETTINGS, 0.3, 0.5)
    take_steps(model, 3)
    path = save_checkpoint(tmp_path, 3, model_state(model))
    again = model_from_state(load_checkpoint(path).state, SETTINGS, CPU)
    assert again.size == model.size
    for steps in (0, 2):
        take_steps(model, steps)
        take_steps(again, steps)
        for name, x in tensors_of(model).items():
            assert torch.equal(tensors_of(again)[name], x), (name, steps)
    for name, optimizer in model.optimizers.items():
        other = again.optimizers[name]
        assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"], name
        ours, theirs = (next(iter(o.state.values())) for o in (optimizer, other))
        assert ours["step"] == theirs["step"], name
        assert all(torch.equal(ours[key], theirs[key]) for key in ("exp_avg", "exp_avg_sq")), name


def test_a_state_is_not_changed_by_the_model_that_was_made_from_it() -> None:
    model = make_model(start_scene(), 1, 3.0, SETTINGS, CPU)
    take_steps(model, 1)
    state = model_state(model)
    kept = {name: x.clone() for name, x in state["params"].items()}
    knots = state["rig"]["knot_quats"].clone()
    take_steps(model_from_state(state, SETTINGS, CPU), 2)
    assert all(torch.equal(state["params"][name], x) for name, x in kept.items())
    assert torch.equal(state["rig"]["knot_quats"], knots)


def test_a_scene_without_a_rig_is_a_model_too() -> None:
    scene = start_scene()
    bare = replace(scene, rig=None, handle_ids=None, handle_logits=None)
    model = make_model(bare, 1, 1.0, SETTINGS, CPU)
    take_steps(model, 2)
    again = model_from_state(model_state(model), SETTINGS, CPU)
    assert again.rig is None and "knot_quats" not in again.optimizers
    assert torch.equal(again.scene().means, model.scene().means)
    assert model.finished().rig is None


def test_rates_of_lengths_are_in_units_of_the_scene_and_fall() -> None:
    small, large = (make_model(start_scene(), 1, size, SETTINGS, CPU) for size in (1.0, 10.0))
    for model in (small, large):
        set_rates(model, SETTINGS, 0.0, 1.0)
    rate = {name: o.param_groups[0]["lr"] for name, o in small.optimizers.items()}
    wide = {name: o.param_groups[0]["lr"] for name, o in large.optimizers.items()}
    longer = {name for name in rate if wide[name] == pytest.approx(10 * rate[name])}
    assert longer == {"means", "knot_translations"}
    assert rate["means"] == pytest.approx(SETTINGS.lr_means)
    set_rates(small, SETTINGS, 1.0, 1.0)
    last = {name: o.param_groups[0]["lr"] for name, o in small.optimizers.items()}
    assert all(last[name] < rate[name] for name in rate)
    assert last["means"] == pytest.approx(SETTINGS.lr_last * rate["means"])
    set_rates(small, SETTINGS, 1.0, 0.25)
    cautious = {name: o.param_groups[0]["lr"] for name, o in small.optimizers.items()}
    assert all(cautious[name] == pytest.approx(last[name] / 4) for name in rate)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("steps", 0, "must be between 1 and 1e+07, got 0"),
        ("slots", 5, "must be between 1 and 4, got 5"),
        ("sh_degree", -1, "must be between 0 and 3, got -1"),
        ("lr_means", -1e-3, "must not be negative, got -0.001"),
        ("weight_mask", float("nan"), "must not be negative, got nan"),
        ("long_side", 8, "must be at least 16, got 8"),
        ("densification", "magic", "must be one of mcmc, default, none, got 'magic'"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: object, rule: str) -> None:
    with pytest.raises(ValueError) as caught:
        with_changes(SETTINGS, **{name: value})
    assert str(caught.value) == f"{name} {rule}"


def test_presets_are_valid_and_changes_that_are_none_change_nothing() -> None:
    assert PRESETS["draft"].steps < PRESETS["standard"].steps < PRESETS["high"].steps
    assert with_changes(PRESETS["draft"], steps=None, seed=3) == with_changes(PRESETS["draft"], seed=3)
    assert with_changes(PRESETS["draft"], seed=3).seed == 3
    with pytest.raises(ValueError, match="quarter and half must not exceed 1 together"):
        with_changes(SETTINGS, quarter=0.6, half=0.6)
