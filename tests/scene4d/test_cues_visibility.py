"""Look-ups of source views against slow loops, closed forms and rays."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from renderers import Cameras
from scene4d.cues import evidence as evidence_module
from scene4d.cues.evidence import gather_evidence
from scene4d.cues.geometry import bends, completed, dilate, edges, flying, inverse_depth, largest, mended, slopes
from scene4d.cues.sources import SourceViews, VisibilityOptions, prepare
from scene4d.cues.target import TargetFrame, stay, surface_normals, surface_points
from scene4d.cues.visibility import BEHIND, Points, extents, look
from tests.scene4d.cue_worlds import BLOCK, captured

W, H, F = 48, 36, 40.0


def camera(x: float = 0.0, turn: float = 0.0, width: int = W, height: int = H, focal: float = F) -> Cameras:
    """At (x, 0, 0), looking along +z, turned about the vertical by `turn` radians."""
    c, s = math.cos(turn), math.sin(turn)
    pose = torch.tensor([[c, 0, -s, 0], [0, 1, 0, 0], [s, 0, c, 0], [0, 0, 0, 1.0]], dtype=torch.float64)
    pose[:3, 3] = pose[:3, :3] @ torch.tensor([-x, 0.0, 0.0], dtype=torch.float64)
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64)
    return Cameras(pose[None], K[None], width, height)


def plane_depth(cam: Cameras, normal: tuple[float, float, float], offset: float) -> torch.Tensor:
    """z of the plane normal . x = offset at every pixel's centre."""
    v, u = torch.meshgrid(torch.arange(cam.height) + 0.5, torch.arange(cam.width) + 0.5, indexing="ij")
    rays = (
        torch.stack([u, v, torch.ones_like(u)], -1).double()
        @ torch.linalg.inv(cam.K[0]).T
        @ cam.world_to_cam[0, :3, :3]
    )
    n = torch.tensor(normal, dtype=torch.float64)
    return ((offset - cam.centers[0] @ n) / (rays @ n)).float()


def views_of(cams: list[Cameras], depths: list[torch.Tensor], ids: list[torch.Tensor] | None = None) -> SourceViews:
    ids = ids or [torch.zeros(d.shape, dtype=torch.int16) for d in depths]
    g = torch.Generator().manual_seed(0)
    return SourceViews(
        images=torch.randint(0, 256, (len(cams), *depths[0].shape, 3), generator=g, dtype=torch.uint8),
        depth=torch.stack(depths),
        instances=torch.stack(ids).to(torch.int16),
        world_to_cam=torch.cat([c.world_to_cam for c in cams]).float(),
        K=torch.cat([c.K for c in cams]).float(),
        times=torch.arange(len(cams), dtype=torch.float64),
    )


def frame_of(cam: Cameras, depth: torch.Tensor, ids: torch.Tensor | None = None) -> TargetFrame:
    none = torch.zeros(depth.shape, dtype=torch.bool)
    return TargetFrame(
        camera=cam,
        time=0.0,
        depth=depth,
        alpha=(depth > 0).float(),
        instances=torch.zeros(depth.shape, dtype=torch.int16) if ids is None else ids.to(torch.int16),
        moving=none,
        back_map=stay,
        source_times=torch.zeros(depth.shape),
    )


def points_of(xyz: torch.Tensor, instance: int = 0) -> Points:
    n = len(xyz)
    return Points(
        xyz.T[None].float().contiguous(),
        torch.zeros(1, 3, 1),
        torch.zeros(1, 3, n),
        torch.full((n,), instance, dtype=torch.int16),
        torch.zeros(n),
        torch.zeros(n),
        torch.full((n,), 1 / F),
    )


def test_inverse_depth_of_a_plane_does_not_bend_however_grazing() -> None:
    for normal in ((0.0, 0.0, 1.0), (0.9, 0.1, 0.4), (0.0, 0.97, 0.25)):
        depth = plane_depth(camera(), normal, 2.0 * normal[2] + 1.0)
        seen = depth.where(depth > 0, torch.zeros(()))
        inner = bends(inverse_depth(seen))[(seen > 0)]
        inner = inner[inner.isfinite()]
        assert float(inner.quantile(0.9)) < 1e-3


def test_step_is_an_edge_on_both_sides_and_nowhere_else() -> None:
    depth = torch.full((H, W), 2.0)
    depth[:, 20:] = 3.0
    found = edges(inverse_depth(depth))
    assert found[:, 19:21].all() and found.sum() == 2 * H


def test_depth_between_two_sides_flies_and_is_mended_by_its_own_instance() -> None:
    depth = torch.full((H, W), 2.0)
    depth[:, 20:] = 3.0
    blurred = depth.clone()
    blurred[:, 19], blurred[:, 20] = 7 / 3, 8 / 3  # the mean over three pixels
    ids = (depth < 2.5).int()
    assert flying(blurred, edges(inverse_depth(blurred)))[:, 19:21].all()
    assert not flying(depth, edges(inverse_depth(depth))).any()
    assert torch.equal(mended(blurred, ids), depth)
    lone = depth.clone()
    lone[:, 19] = 2.7  # nearer to the far side in depth, of the near side by its instance
    assert (mended(lone, ids)[:, 19] == 2.0).all() and (mended(lone, torch.zeros(H, W))[:, 19] == 3.0).all()


def test_largest_of_a_neighbourhood_is_that_of_pooling() -> None:
    maps = torch.randn(2, 20, 30, generator=torch.Generator().manual_seed(0))
    for radius in (1, 3):
        pooled = torch.nn.functional.max_pool2d(maps[:, None], 2 * radius + 1, 1, radius)[:, 0]
        assert torch.equal(largest(maps, radius), pooled)
        assert torch.equal(
            dilate(maps > 2, radius),
            torch.nn.functional.max_pool2d((maps > 2)[:, None].float(), 2 * radius + 1, 1, radius)[:, 0] > 0,
        )


def test_slope_is_the_range_of_the_nine_pixels_over_depth() -> None:
    depth = plane_depth(camera(), (0.5, 0.0, 1.0), 2.0)
    found = slopes(depth, edges(inverse_depth(depth)))
    patch = depth[9:12, 19:22]
    assert float(found[10, 20]) == pytest.approx(float((patch.max() - patch.min()) / depth[10, 20]), rel=1e-5)


def test_hole_is_completed_from_the_farther_side() -> None:
    depth = torch.full((H, W), 2.0)
    depth[:, 30:] = 5.0
    depth[:, 25:30] = 0.0
    assert (completed(depth, 10)[:, 28:30] == 5.0).all() and (completed(depth, 0) == depth).all()


def test_normals_of_a_plane_are_its_own_up_to_its_outline() -> None:
    n = torch.nn.functional.normalize(torch.tensor([0.5, 0.2, 1.0]), dim=0)
    depth = plane_depth(camera(), tuple(n.tolist()), 2.0)
    depth[:, 30:] = 9.0
    frame = frame_of(camera(), depth)
    normals = surface_normals(frame, surface_points(frame)).reshape(H, W, 3)[:, :30]
    assert float((normals @ -n).min()) > 0.9999


def test_pairs_agree_with_a_walk_over_points_and_views() -> None:
    """Grazing planes, exact depth: every point in the picture is seen, with the residual of bilinear 1/z."""
    cams = [camera(0.0), camera(0.4, 0.1), camera(-0.3, -0.15, focal=30.0)]
    views = views_of(cams, [plane_depth(c, (0.3, 0.5, 1.0), 2.0) for c in cams])
    prepared = prepare(views)
    g = torch.Generator().manual_seed(1)
    xy = torch.rand(200, 2, generator=g, dtype=torch.float64) * 3 - 1.5
    xyz = torch.cat([xy, (2.0 - xy @ torch.tensor([0.3, 0.5], dtype=torch.float64))[:, None]], 1)
    pairs = look(prepared, torch.arange(3), points_of(xyz))
    for s, cam in enumerate(cams):
        for i, x in enumerate(xyz):
            p = cam.world_to_cam[0, :3, :3] @ x + cam.world_to_cam[0, :3, 3]
            u, v, z = (cam.K[0] @ p / p[2])[0], (cam.K[0] @ p / p[2])[1], p[2]
            inside = bool(z > 0 and 0 < u < W and 0 < v < H)
            assert bool(pairs.visible[s, i]) == inside
            if inside:
                assert float(pairs.u[s, i]) == pytest.approx(float(u), abs=1e-3)
                border = min(u, W - u, v, H - v)
                assert float(pairs.extent[s, i]) == pytest.approx(float(border), abs=1e-3)
                if border > 1:
                    assert float(pairs.ratio[s, i]) == pytest.approx(1.0, abs=1e-5)
                distance = (x - cam.centers[0]).norm()
                cosine = (x @ (x - cam.centers[0])) / x.norm() / distance
                assert float(pairs.cosine[s, i]) == pytest.approx(float(cosine), abs=1e-5)
                resolution = cam.K[0, 0, 0] / z * x.norm() / F
                assert float(pairs.resolution[s, i]) == pytest.approx(float(resolution), rel=1e-4)


def test_slope_term_saves_what_a_fixed_tolerance_loses_on_a_grazing_floor() -> None:
    cams = [camera(0.0), camera(0.2)]
    depth = [plane_depth(c, (0.0, 1.0, 0.02), 0.5) for c in cams]
    depth = [torch.where((d > 0) & (d < 20), d, 0.0) for d in depth]
    frame = frame_of(cams[0], depth[0])
    noisy = [d * (1 + 0.03 * torch.sin(torch.arange(W) / 5.0)) for d in depth]
    counts = []
    for kappa in (0.0, 0.75):
        prepared = prepare(views_of(cams[1:], noisy[1:]), VisibilityOptions(slope_factor=kappa))
        counts.append(int(gather_evidence(prepared, frame, torch.arange(1)).count.sum()))
    assert counts[1] > 1.1 * counts[0] > 0


def test_other_instance_behind_and_outside_are_not_seen() -> None:
    cam = camera()
    views = views_of([cam], [torch.full((H, W), 2.0)])
    prepared = prepare(views)
    row = torch.arange(1)
    xyz = torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, 2.2], [0.0, 0.0, 1.9], [9.0, 0.0, 2.0], [0.0, 0.0, -2.0]])
    assert look(prepared, row, points_of(xyz)).visible[0].tolist() == [True, False, False, False, False]
    assert not look(prepared, row, points_of(xyz, instance=1)).visible.any()
    assert extents(prepared, row, xyz.T.contiguous())[4] == BEHIND


def test_surface_that_looks_away_is_not_seen_though_its_depth_agrees() -> None:
    prepared = prepare(views_of([camera()], [torch.full((H, W), 2.0)]))
    points = points_of(torch.tensor([[0.0, 0.0, 2.0]]))
    towards = replace(points, normals=torch.tensor([0.0, 0.0, -1.0]).reshape(1, 3, 1))
    assert look(prepared, torch.arange(1), towards).visible.all()
    assert not look(prepared, torch.arange(1), replace(towards, normals=-towards.normals)).visible.any()


def test_point_beside_an_occluder_counts_as_hidden() -> None:
    depth = torch.full((H, W), 3.0)
    depth[:, :20] = 1.5
    prepared = prepare(views_of([camera()], [depth]))
    u = torch.tensor([20.2, 20.3, 21.0])  # the outline lies at 20: up to 20.25 more than a quarter is of the occluder
    xyz = torch.stack([(u - W / 2) / F * 3.0, torch.zeros(3), torch.full((3,), 3.0)], 1)
    assert look(prepared, torch.arange(1), points_of(xyz)).visible[0].tolist() == [False, True, True]


def test_extent_is_the_deepest_of_the_views_and_directions_are_judged_at_infinity() -> None:
    prepared = prepare(views_of([camera(), camera(5.0)], [torch.full((H, W), 2.0)] * 2))
    xyz = torch.tensor([[0.0, 0.0, 2.0], [5.0, 0.0, 2.0], [2.5, 0.0, 2.0]]).T.contiguous()
    rows = torch.arange(2)
    assert extents(prepared, rows, xyz)[:2].tolist() == pytest.approx([H / 2, H / 2], abs=1e-4)
    assert float(extents(prepared, rows, xyz)[2]) < 0
    ahead = torch.tensor([[0.0], [0.0], [1.0]])
    assert float(extents(prepared, rows, ahead, far=True)) == pytest.approx(H / 2, abs=1e-4)
    assert float(extents(prepared, rows, -ahead, far=True)) == BEHIND


def test_pixel_without_surface_is_inside_by_what_lies_behind_it() -> None:
    cam = camera()
    prepared = prepare(views_of([cam], [torch.full((H, W), 2.0)]))
    depth = torch.full((H, W), 2.0)
    depth[10:14, 10:14] = 0.0
    found = gather_evidence(prepared, frame_of(cam, depth), torch.arange(1))
    hole = (depth == 0).reshape(-1)
    assert (found.extent[hole] > 0).all() and (found.count[hole] == 0).all()
    away = gather_evidence(prepared, frame_of(camera(turn=math.pi), torch.zeros(H, W)), torch.arange(1))
    assert (away.extent == BEHIND).all()


def test_coarse_choice_of_views_gives_the_same_observed_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    room = captured(False, 96, 60)
    frame, rows = room.frame(3), torch.tensor([0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11])
    every = gather_evidence(room.prepared, frame, rows)
    monkeypatch.setattr(evidence_module, "ALL_VIEWS", 4)
    monkeypatch.setattr(evidence_module, "CLOSE_VIEWS", 3)
    some = gather_evidence(room.prepared, frame, rows)
    assert torch.equal(some.count > 0, every.count > 0)  # roles do not depend on the short cut
    assert torch.equal(some.extent > 0, every.extent > 0)
    assert float((some.count - every.count).abs().float().mean()) < 1.0  # of up to 11 views: counts are estimated
    assert float((some.weight[0] / every.weight[0].clamp(min=1e-9)).median()) > 0.99


def test_moving_thing_is_looked_up_where_it_was() -> None:
    room = captured(False, 96, 60)
    frame = room.frame(8)
    mine = ((frame.instances == BLOCK) & frame.covered).reshape(-1)
    others = torch.tensor([s for s in range(12) if s != 8])
    found = gather_evidence(room.prepared, frame, others)
    assert (found.count[mine] > 0).float().mean() > 0.85
    stuck = replace(frame, back_map=stay)
    assert gather_evidence(room.prepared, stuck, others[:4]).count[mine].float().mean() < 0.5


def test_shapes_that_do_not_fit_are_refused() -> None:
    views = views_of([camera()], [torch.full((H, W), 2.0)])
    with pytest.raises(ValueError, match=r"K must have shape \[1, 3, 3\], got \[2, 3, 3\]"):
        replace(views, K=views.K.repeat(2, 1, 1))
    with pytest.raises(ValueError, match="images must be uint8, got torch.float32"):
        replace(views, images=views.images.float())
    with pytest.raises(ValueError, match=r"alpha must have shape \[36, 48\]"):
        replace(frame_of(camera(), torch.ones(H, W)), alpha=torch.ones(2, 2))
    with pytest.raises(ValueError, match="tolerance must be between 0 and 1, got 0"):
        VisibilityOptions(tolerance=0)
