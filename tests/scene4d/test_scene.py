"""Scenes as data: subsets, joins, copies, hashes, and what is refused."""

import hashlib
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from renderers import Gaussians
from scene4d.rig import Rig
from scene4d.scene import Scene4D, static_scene
from scene4d.scene_tools import concat, scene_from_tensors, scene_hash, scene_tensors, without_unused_handles
from tests.scene4d.random_scenes import f64, random_rig, random_scene, with_tensor

TIMES = (0.1, 0.42, 0.9)
EXACT = {"atol": 0, "rtol": 0}
ROUNDING = {"atol": 1e-12, "rtol": 0}  # float64, a few dozen operations on numbers of size 1 to 10


def two_things(seed: int = 0) -> Scene4D:
    """Instances 0 and 2, with a tree each; nobody has instance 1."""
    rig = random_rig([3, 2, 4, 1], parents=[-1, 0, -1, 2], instances=[0, 0, 2, 2], seed=seed)
    return random_scene(11, rig=rig, seed=seed)


def assert_same_motion(scene: Scene4D, expected: Scene4D, rows: Tensor | slice) -> None:
    for t in TIMES:
        now, then = scene.at(t), expected.at(t)
        for name in ("means", "quats", "logit_opacities", "log_scales"):
            torch.testing.assert_close(getattr(now, name), getattr(then, name)[rows], **ROUNDING)


def test_subset_by_mask_and_by_indices_move_as_before() -> None:
    scene = random_scene(10)
    mask = torch.arange(10) % 3 == 1
    assert_same_motion(scene.subset(mask), scene, mask)
    ids = torch.tensor([9, 2, 2])
    assert_same_motion(scene.subset(ids), scene, ids)
    assert len(scene.subset(torch.zeros(10, dtype=torch.bool))) == 0


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (torch.ones(3, dtype=torch.bool), r"keep must have shape \[6\], got \[3\]"),
        (torch.tensor([0, 6]), "keep must be from 0 to 5, got 0 to 6"),
        (torch.tensor([-1]), "keep must be from 0 to 5, got -1 to -1"),
        (torch.tensor([0.5]), "keep must be a bool or integer vector"),
    ],
)
def test_wrong_subset_is_refused(keep: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random_scene(6).subset(keep)


def test_scene_without_its_unused_handles_moves_as_before() -> None:
    scene = two_things()
    part = scene.subset(scene.instances == 2)
    pruned = without_unused_handles(part)
    assert pruned.rig is not None and pruned.rig.instances.tolist() == [2, 2] and pruned.rig.parents.tolist() == [-1, 0]
    assert_same_motion(pruned, part, slice(None))


def test_parents_of_used_handles_are_kept() -> None:
    rig = random_rig([2, 2, 2, 2], parents=[-1, -1, 1, 2])
    scene = random_scene(5, rig=rig)
    last = replace(
        scene, handle_ids=torch.full_like(scene.instances, 3)[:, None], handle_logits=torch.zeros(5, 1).double()
    )
    pruned = without_unused_handles(last)
    assert pruned.rig is not None and pruned.rig.parents.tolist() == [-1, 0, 1]
    assert_same_motion(pruned, last, slice(None))


def test_scene_whose_handles_nobody_follows_loses_its_rig() -> None:
    scene = random_scene(5)
    assert scene.handle_ids is not None
    free = replace(scene, handle_ids=torch.full_like(scene.handle_ids, -1))
    pruned = without_unused_handles(free)
    assert pruned.rig is None
    assert_same_motion(pruned, free, slice(None))


def test_joined_scenes_move_as_before_and_their_instances_stay_apart() -> None:
    first, second, third = two_things(0), two_things(1), random_scene(4, seed=2)
    joined = concat([first, second, third])
    assert len(joined) == 26
    for scene, rows in ((first, slice(0, 11)), (second, slice(11, 22)), (third, slice(22, 26))):
        assert_same_motion(joined.subset(torch.arange(26)[rows]), scene, slice(None))
    assert [sorted(set(joined.instances[rows].tolist())) for rows in (slice(0, 11), slice(11, 22))] == [[0, 2], [3, 5]]
    assert bool((joined.labels[:11] == first.labels).all())


def test_joined_scenes_keep_their_instances_when_asked() -> None:
    joined = concat([two_things(0), two_things(1)], keep_instances=True)
    assert sorted(set(joined.instances.tolist())) == [0, 2]
    assert_same_motion(joined.subset(torch.arange(11, 22)), two_things(1), slice(None))


def test_parts_that_only_one_scene_has_change_nothing_in_the_other() -> None:
    whole = random_scene(6, M=4, degree=3)
    linear = random_scene(5, M=2, degree=1, seed=1)
    plain = static_scene(
        Gaussians(whole.means, whole.quats, whole.log_scales, whole.logit_opacities, sh=whole.sh[:, :1])
    )
    for order in ([whole, plain, linear], [plain, linear, whole]):
        joined, start = concat(order), 0
        for scene in order:
            rows = torch.arange(start, start + len(scene))
            assert_same_motion(joined.subset(rows), scene, slice(None))
            start += len(scene)
        assert joined.sh.shape == (17, 4, 3)
    assert bool((concat([whole, plain]).sh[6:, 1:] == 0).all())


def test_joining_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="scenes must hold at least one"):
        concat([])


def test_joining_keeps_the_way_to_the_parameters() -> None:
    scene = random_scene(3)
    means = scene.means.clone().requires_grad_()
    concat([replace(scene, means=means), scene]).at(0.3).means.sum().backward()
    assert means.grad is not None and bool((means.grad != 0).any())


def test_copy_in_another_dtype_moves_the_same() -> None:
    scene = random_scene(20)
    single = scene.to(dtype=torch.float32)
    assert single.means.dtype == single.at(0.4).means.dtype == torch.float32
    assert single.rig is not None and single.rig.knot_quats.dtype == torch.float32
    assert single.rig.parents.dtype == single.instances.dtype == torch.int32
    # float32 rounds to 6e-8, amplified by blends whose real parts partly cancel
    torch.testing.assert_close(single.at(0.4).means.double(), scene.at(0.4).means, atol=1e-4, rtol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_copy_on_cuda_moves_the_same() -> None:
    scene = random_scene(20)
    on_cuda = scene.to("cuda")
    for t in TIMES:
        torch.testing.assert_close(on_cuda.at(t).means.cpu(), scene.at(t).means, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(on_cuda.velocity(t).cpu(), scene.velocity(t), atol=1e-9, rtol=1e-9)


def test_named_tensors_make_the_same_scene_again() -> None:
    for scene in (random_scene(), random_scene(2).subset(torch.tensor([], dtype=torch.int64))):
        again = scene_from_tensors(scene_tensors(scene))
        assert scene_hash(again) == scene_hash(scene)
    with pytest.raises(ValueError, match="tensors must have names of Scene4D or Rig, got speed"):
        scene_from_tensors({**scene_tensors(random_scene()), "speed": torch.zeros(1)})
    missing = {name: x for name, x in scene_tensors(random_scene()).items() if name not in ("quats", "rig.parents")}
    with pytest.raises(ValueError, match="tensors must hold quats, rig.parents"):
        scene_from_tensors(missing)


def test_hash_changes_with_every_tensor_and_with_nothing_else() -> None:
    scene = random_scene()
    original = scene_hash(scene)
    assert scene_hash(scene_from_tensors({n: x.clone() for n, x in scene_tensors(scene).items()})) == original
    seen = {original}
    for name, tensor in scene_tensors(scene).items():
        if tensor.is_floating_point():
            changed = tensor.clone()
            changed.view(-1)[-1] += 1e-6
            seen.add(scene_hash(with_tensor(scene, name, changed)))
    seen.add(scene_hash(replace(scene, labels=scene.labels + 1)))
    assert len(seen) == 2 + sum(x.is_floating_point() for x in scene_tensors(scene).values())


def test_hash_is_the_same_for_the_same_numbers_in_memory_of_any_order() -> None:
    scene = random_scene()
    assert scene_hash(replace(scene, means=scene.means.T.contiguous().T)) == scene_hash(scene)


def test_hash_is_sha256_of_headers_and_little_endian_bytes_in_the_order_of_the_fields() -> None:
    ramp = torch.arange(8, dtype=torch.float32)
    scene = static_scene(
        Gaussians(ramp[:6].view(2, 3), ramp.view(2, 4), ramp[2:].view(2, 3), ramp[:2], sh=ramp[1:7].view(2, 1, 3))
    )
    reals = {"means": (0, 6), "quats": (0, 8), "log_scales": (2, 8), "logit_opacities": (0, 2), "sh": (1, 7)}
    shapes = {"means": [2, 3], "quats": [2, 4], "log_scales": [2, 3], "logit_opacities": [2], "sh": [2, 1, 3]}
    digest = hashlib.sha256()
    for name, (first, end) in reals.items():
        digest.update(f"{name} torch.float32 {shapes[name]}\n".encode())
        digest.update(struct.pack(f"<{end - first}f", *range(first, end)))
    for name in ("labels", "instances"):
        digest.update(f"{name} torch.int32 [2]\n".encode() + struct.pack("<2i", 0, 0))
    assert scene_hash(scene) == digest.hexdigest()


def set_entry(name: str, index: tuple[int, ...], value: float) -> Callable[[Scene4D], Scene4D]:
    def change(scene: Scene4D) -> Scene4D:
        tensor = scene_tensors(scene)[name].clone()
        tensor[index] = value
        return with_tensor(scene, name, tensor)

    return change


def set_field(name: str, value: Any) -> Callable[[Scene4D], Scene4D]:
    return lambda scene: with_tensor(scene, name, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_field("means", torch.zeros(11, 3).half()), "means must be a float32 or float64 tensor"),
        (set_field("means", None), "means must be a float32 or float64 tensor"),
        (set_field("means", torch.zeros(11, 2).double()), r"means must have shape \[11, 3\], got \[11, 2\]"),
        (set_field("quats", torch.zeros(11, 3).double()), r"quats must have shape \[11, 4\], got \[11, 3\]"),
        (set_field("log_scales", None), "log_scales must be a tensor, got NoneType"),
        (set_field("sh", torch.zeros(11, 5, 3).double()), "sh must have 1, 4, 9 or 16 coefficients, got 5"),
        (set_field("labels", torch.zeros(11).long()), "labels must be torch.int32"),
        (set_field("t_ref", None), "residuals, t_ref must be given together, got no t_ref"),
        (set_field("rig", None), "rig, handle_ids, handle_logits must be given together, got no rig"),
        (set_field("residuals", torch.zeros(11, 2, 3).double()), "residuals must be of degree 0, 1 or 3, got 2"),
        (set_field("handle_logits", torch.zeros(11, 3).double()), r"handle_logits must have shape \[11, 4\]"),
        (set_field("t_on", torch.zeros(11)), "t_on must be torch.float64"),
        (set_entry("handle_ids", (4, 1), 4), r"handle_ids must be -1 or one of the 4 handles, got 4 at \[4, 1\]"),
        (set_entry("handle_ids", (4, 1), -2), r"handle_ids must be -1 or one of the 4 handles, got -2 at \[4, 1\]"),
        (set_entry("handle_ids", (0, 2), 2), "handle_ids must be handles of the Gaussian's own instance, got 2"),
        (set_entry("instances", (3,), -1), r"instances must not be negative, got -1 at \[3\]"),
        (set_entry("labels", (3,), -7), r"labels must not be negative, got -7 at \[3\]"),
        (set_entry("rig.parents", (1,), 1), r"parents must be -1 or an earlier handle .* got 1 at \[1\]"),
        (set_entry("rig.parents", (0,), 1), r"parents must be -1 or an earlier handle .* got 1 at \[0\]"),
        (set_entry("rig.parents", (1,), -2), r"parents must be -1 or an earlier handle .* got -2 at \[1\]"),
        (set_entry("rig.parents", (2,), 1), r"parents must be handles of the same instance, got 1 at \[2\]"),
        (set_entry("rig.instances", (0,), -1), "parents must be handles of the same instance"),
        (set_entry("rig.interpolations", (3,), 2), r"interpolations must be 0 or 1, got 2 at \[3\]"),
        (set_entry("rig.knot_counts", (3,), 0), r"knot_counts must be at least 1, got 0 at \[3\]"),
        (set_entry("rig.knot_counts", (0,), 4), r"knot_counts must add up to the 10 knots, got \[4, 2, 4, 1\]"),
        (set_field("rig.knot_quats", torch.zeros(10, 3).double()), r"knot_quats must have shape \[10, 4\]"),
        (set_field("rig.centers", torch.zeros(4, 2).double()), r"centers must have shape \[4, 3\]"),
        (set_field("rig.centers", torch.zeros(4, 3)), "knot_times must be torch.float32"),
        (set_field("rig.knot_times", 3.0), "knot_times must be a tensor, got float"),
    ],
)
def test_scene_that_does_not_fit_together_cannot_be_made(change: Callable[[Scene4D], Scene4D], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        change(two_things())


def test_rig_of_another_dtype_is_refused() -> None:
    single = two_things().to(dtype=torch.float32)
    with pytest.raises(ValueError, match="rig must be torch.float64 on cpu like means, got torch.float32"):
        replace(two_things(), rig=single.rig)


def test_ids_that_were_good_are_checked_again_after_they_were_written_to() -> None:
    scene = two_things()
    replace(scene, means=scene.means + 1)
    assert scene.handle_ids is not None
    scene.handle_ids[0, 0] = 77
    with pytest.raises(ValueError, match="handle_ids must be -1 or one of the 4 handles, got 77"):
        replace(scene, means=scene.means + 1)


nan, inf = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_entry("means", (2, 1), nan), r"means must be finite, got nan at \[2, 1\]"),
        (set_entry("quats", (2, 1), inf), "quats must be finite, got inf"),
        (set_entry("sh", (0, 1, 2), -inf), "sh must be finite, got -inf"),
        (set_entry("handle_logits", (0, 1), -inf), "handle_logits must be finite"),
        (set_entry("residuals", (0, 1, 0), nan), "residuals must be finite"),
        (set_entry("t_ref", (5,), inf), "t_ref must be finite"),
        (set_entry("log_scales", (5, 0), 21.0), "log_scales must be at most 20.0 .* got 21.0"),
        (set_entry("log_softness", (5,), 21.0), "log_softness must be from -20.0 to 20.0, got 21.0"),
        (set_entry("log_softness", (5,), nan), "log_softness must be from -20.0 to 20.0, got nan"),
        (set_entry("t_on", (5,), inf), "t_on must be a time or -inf, got inf"),
        (set_entry("t_on", (5,), nan), "t_on must be a time or -inf, got nan"),
        (set_entry("t_off", (5,), -inf), "t_off must be a time or inf, got -inf"),
        (set_entry("t_off", (5,), -50.0), "t_off must not be before t_on, got -50.0"),
        (set_entry("rig.knot_times", (2,), 0.0), r"knot_times must increase within a handle, got 0.0 at \[2\]"),
        (set_entry("rig.knot_times", (9,), nan), "knot_times must be finite"),
        (set_entry("rig.knot_quats", (9, 3), nan), "knot_quats must be finite"),
        (set_entry("rig.knot_translations", (9, 2), inf), "knot_translations must be finite"),
        (set_entry("rig.centers", (0, 2), inf), "centers must be finite"),
    ],
)
def test_bad_value_is_refused_by_validate(change: Callable[[Scene4D], Scene4D], message: str) -> None:
    scene = change(two_things())
    with pytest.raises(ValueError, match=message):
        scene.validate()


def test_good_scenes_are_valid_with_infinite_windows_and_knots_that_start_over_at_each_handle() -> None:
    scene = two_things()
    scene.validate()
    assert scene.rig is not None and bool((scene.rig.knot_times.diff() < 0).any())
    endless = replace(scene, t_on=torch.full((11,), -inf).double(), t_off=torch.full((11,), inf).double())
    endless.validate()
    static_scene(Gaussians(scene.means, scene.quats, scene.log_scales, scene.logit_opacities, sh=scene.sh)).validate()


def test_scene_without_gaussians_is_a_scene() -> None:
    empty = two_things().subset(torch.zeros(11, dtype=torch.bool))
    empty.validate()
    assert len(empty.at(0.3)) == 0 and empty.velocity(0.3).shape == (0, 3)
    assert len(concat([empty, two_things()])) == 11
    assert without_unused_handles(empty).rig is None


def test_single_rig_field_wrongly_typed_is_named() -> None:
    rig = random_rig([2])
    with pytest.raises(ValueError, match="parents must be a tensor, got list"):
        replace(rig, parents=[-1])
    assert isinstance(rig, Rig) and len(rig) == 1
    assert f64([1.0]).dtype == torch.float64
