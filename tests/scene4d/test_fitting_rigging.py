"""Rigs made from tracks: exact where the motion is rigid, and never across instances."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from scene4d.fitting.rigging import (
    Rigging,
    farthest_points,
    follow,
    handle_share,
    knot_schedule,
    make_rigging,
    moves,
    path_distance,
    signatures,
)
from scene4d.fitting.tracking import PointTracks
from scene4d.scene import Scene4D

FRAMES = 9
TIMES = [k / 8 for k in range(FRAMES)]
ORIGIN = 3


def turn(degrees: float) -> Tensor:
    axis = torch.tensor([0.3, -0.5, 0.8]).double()
    return torch.from_numpy(
        Rotation.from_rotvec(math.radians(degrees) * (axis / axis.norm()).numpy()).as_matrix()
    ).float()


def rigid_paths(points: Tensor, degrees: float = 20.0, shift: float = 0.1) -> Tensor:
    """Points [n, 3] at frame ORIGIN, turned about their middle and shifted more with every frame, [T, n, 3]."""
    middle = points.mean(0)
    steps = [k - ORIGIN for k in range(FRAMES)]
    return torch.stack(
        [(points - middle) @ turn(degrees * k).T + middle + shift * k * torch.tensor([1.0, 0.5, 0]) for k in steps]
    )


def cloud(n: int, seed: int, at: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Tensor:
    return 0.4 * torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)) + torch.tensor(at)


def as_tracks(xyz: Tensor, instances: Tensor | None = None) -> PointTracks:
    owner = torch.ones(xyz.shape[1], dtype=torch.int32) if instances is None else instances
    return PointTracks(tuple(range(FRAMES)), xyz, torch.ones(xyz.shape[:2]), owner, ORIGIN)


def three_things() -> PointTracks:
    """Instance 1 turns, 2 slides, 3 stands still; their tracks start at one place."""
    parts = [
        rigid_paths(cloud(120, 1)),
        rigid_paths(cloud(80, 2), degrees=0.0, shift=-0.2),
        cloud(60, 3).expand(FRAMES, 60, 3),
    ]
    owner = torch.cat([torch.full((p.shape[1],), k + 1, dtype=torch.int32) for k, p in enumerate(parts)])
    return as_tracks(torch.cat(parts, 1), owner)


def scene_of(rigging: Rigging, tracks: PointTracks) -> Scene4D:
    n = len(tracks.instances)
    return Scene4D(
        means=tracks.xyz[tracks.origin],
        quats=torch.eye(4)[:1].repeat(n, 1),
        log_scales=torch.zeros(n, 3),
        logit_opacities=torch.zeros(n),
        sh=torch.zeros(n, 1, 3),
        labels=torch.zeros(n, dtype=torch.int32),
        instances=tracks.instances,
        rig=rigging.rig,
        handle_ids=rigging.slots,
        handle_logits=rigging.logits,
    )


def made(tracks: PointTracks, knots: Tensor | None = None, handles: int = 12, slots: int = 4) -> Rigging:
    rigging = make_rigging(tracks, TIMES, torch.tensor(TIMES) if knots is None else knots, (handles, slots), 0.01)
    assert rigging is not None
    return rigging


def test_a_scene_on_the_rig_follows_a_rigid_motion_exactly() -> None:
    tracks = as_tracks(rigid_paths(cloud(150, 0)))
    rigging = made(tracks)
    assert rigging.origin_time == TIMES[ORIGIN]
    scene = scene_of(rigging, tracks)
    spread = float(tracks.xyz[0].std())
    for k, time in enumerate(TIMES):  # Procrustes' pull to the identity costs some thousandths
        error = (scene.at(time).means - tracks.xyz[k]).norm(dim=1)
        assert float(error.max()) < 0.01 * spread, k
    turned = Rotation.from_quat(scene.at(TIMES[-1]).quats.detach()[:, [1, 2, 3, 0]].double().numpy())
    off = turned.inv() * Rotation.from_matrix(turn(20.0 * (FRAMES - 1 - ORIGIN)).double().numpy())
    assert math.degrees(off.magnitude().max()) < 0.5


def test_handles_rest_at_the_frame_of_origin() -> None:
    tracks = three_things()
    rigging = made(tracks)
    scene = scene_of(rigging, tracks)
    torch.testing.assert_close(scene.at(TIMES[ORIGIN]).means, tracks.xyz[ORIGIN], atol=1e-5, rtol=0)
    torch.testing.assert_close(rigging.tracks.xyz[ORIGIN], rigging.rig.centers, atol=1e-5, rtol=0)


def test_between_frames_a_steady_motion_goes_on_steadily() -> None:
    """Knots that do not fall on frames, and times that do not fall on knots."""
    tracks = as_tracks(rigid_paths(cloud(150, 0), degrees=0.0))
    scene = scene_of(made(tracks, knot_schedule(0.0, 1.0, 0.3)), tracks)
    for time in (0.1, 0.45, 0.93):
        expected = tracks.xyz[ORIGIN] + 0.1 * (8 * time - ORIGIN) * torch.tensor([1.0, 0.5, 0])
        torch.testing.assert_close(scene.at(time).means, expected, atol=5e-3, rtol=0)


def test_points_follow_only_handles_of_their_own_instance_and_what_stands_still_follows_none() -> None:
    tracks = three_things()
    rigging = made(tracks)
    assert set(rigging.rig.instances.tolist()) == {1, 2}
    used = rigging.slots >= 0
    owner = torch.where(used, rigging.rig.instances[rigging.slots.clamp_min(0).long()], 0)
    assert bool((owner[used] == tracks.instances[:, None].expand_as(owner)[used]).all())
    assert bool(used[tracks.instances < 3].all()) and not bool(used[tracks.instances == 3].any())
    scene = scene_of(rigging, tracks)
    error = (scene.at(TIMES[-1]).means - tracks.xyz[-1]).norm(dim=1)
    assert float(error.max()) < 0.01  # although all three start in one place


def test_where_nothing_moves_there_is_no_rig() -> None:
    still = as_tracks(cloud(50, 4).expand(FRAMES, 50, 3))
    assert make_rigging(still, TIMES, torch.tensor(TIMES), (12, 4), 0.01) is None
    assert make_rigging(three_things(), TIMES, torch.tensor(TIMES), (0, 4), 0.01) is None  # no handles wanted
    assert moves(three_things(), 0.01) == {1: True, 2: True, 3: False}
    assert moves(three_things(), 100.0) == {1: False, 2: False, 3: False}


def test_a_path_at_another_time_makes_neighbours_strangers() -> None:
    """Two points in one place at first that part later are not near each other."""
    a, b = torch.zeros(1, 6), torch.tensor([[0.0, 0, 0, 3, 4, 0]])
    assert float(path_distance(a, b)) == 5.0
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(5, 9, generator=g), torch.randn(4, 9, generator=g)
    slow = [[max(float((p[k : k + 3] - q[k : k + 3]).norm()) for k in (0, 3, 6)) for q in y] for p in x]
    torch.testing.assert_close(path_distance(x, y), torch.tensor(slow), atol=1e-5, rtol=0)


def test_farthest_points_cover_a_line_evenly_and_repeat() -> None:
    line = torch.linspace(0, 1, 101)[:, None] * torch.tensor([1.0, 0, 0])
    chosen = farthest_points(line, 5)
    assert sorted(chosen.tolist()) == [0, 25, 50, 75, 100]
    assert int(chosen[0]) == 50  # the middle first
    assert torch.equal(chosen, farthest_points(line, 5))
    assert sorted(farthest_points(line[:3], 9).tolist()) == [0, 1, 2]  # no more than there are


def test_farthest_points_spread_over_motions_too() -> None:
    """Two heaps in one place, of which one goes away: both get a point."""
    g = torch.Generator().manual_seed(5)
    start = 0.01 * torch.randn(40, 3, generator=g)
    later = start + torch.where(torch.arange(40) < 20, 0.0, 1.0)[:, None]
    assert len({int(i) // 20 for i in farthest_points(torch.cat([start, later], 1), 2)}) == 2


def test_weights_fall_with_distance_and_slots_hold_the_nearest() -> None:
    paths = torch.tensor([[0.1, 0.0, 0.0]])
    handles = torch.tensor([[1.0, 0, 0], [0.0, 0, 0], [3.0, 0, 0], [0.5, 0, 0]])
    one = torch.ones(1, dtype=torch.int32)
    slots, logits = follow(paths, one, handles, torch.ones(4, dtype=torch.int32), 3)
    assert slots.tolist() == [[1, 3, 0]]
    assert bool((logits.diff() < 0).all())
    few, _ = follow(paths, one, handles, torch.tensor([2, 1, 2, 2], dtype=torch.int32), 3)
    assert few.tolist() == [[1, -1, -1]]


def test_larger_instances_get_more_handles_but_each_gets_some() -> None:
    tracks = as_tracks(torch.zeros(FRAMES, 500, 3), torch.cat([torch.full((499,), 1), torch.full((1,), 2)]).int())
    share = handle_share(tracks, [1, 2], 40)
    assert share[1] > 30 and share[2] == 4
    assert 36 <= sum(handle_share(three_things(), [1, 2, 3], 40).values()) <= 44


def test_handles_far_from_what_was_seen_are_trusted_less() -> None:
    tracks = three_things()
    seen = tracks.seen.clone()
    seen[6:, tracks.instances == 1] = 0
    rigging = made(PointTracks(tracks.frames, tracks.xyz, seen, tracks.instances, ORIGIN))
    first = rigging.rig.instances == 1
    trust = rigging.tracks.trust
    assert float(trust[6:, first].max()) < 1e-6
    assert float(trust[:6, first].min()) > 0.99 and float(trust[:, ~first].min()) > 0.99


def test_signatures_hold_first_and_last_frame() -> None:
    tracks = as_tracks(rigid_paths(cloud(7, 6)))
    paths = signatures(tracks)
    torch.testing.assert_close(paths[:, :3], tracks.xyz[0])
    torch.testing.assert_close(paths[:, -3:], tracks.xyz[-1])


@pytest.mark.parametrize(
    ("span", "spacing", "expected"),
    [((0.0, 1.0), 0.25, [0, 0.25, 0.5, 0.75, 1]), ((2.0, 3.0), 9.0, [2, 3]), ((1.5, 1.5), 0.1, [1.5])],
)
def test_knots_span_the_capture_evenly(span: tuple[float, float], spacing: float, expected: list[float]) -> None:
    assert knot_schedule(*span, spacing).tolist() == pytest.approx(expected)
