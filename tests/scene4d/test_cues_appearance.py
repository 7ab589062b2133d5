"""Colours of cues, exposure, filling, roles' cleaning and the stream: closed forms, round trips, slow loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from scene4d.cues.appearance import GRAY, fill, sample_cue, sample_view
from scene4d.cues.evidence import gather_evidence
from scene4d.cues.exposure import fit_gains, with_gains
from scene4d.cues.frames import CueOptions, make_cue, stream_cues
from scene4d.cues.roles import EXPAND, PRESERVE, REVEAL, RoleFilter, RoleOptions
from scene4d.cues.sources import prepare
from scene4d.cues.target import TargetFrame, surface_points
from tests.scene4d.cue_worlds import captured
from tests.scene4d.test_cues_visibility import H, W, camera, frame_of, views_of

SMALL = (96, 60)


def flat_views(*colors: tuple[int, int, int]):
    """Views of one wall from one place, each in one colour."""
    views = views_of([camera()] * len(colors), [torch.full((H, W), 2.0)] * len(colors))
    images = torch.tensor(colors, dtype=torch.uint8)[:, None, None].expand(-1, H, W, 3).contiguous()
    return replace(views, images=images)


def test_sampling_at_pixel_centres_gives_the_pixels() -> None:
    prepared = prepare(views_of([camera()], [torch.full((H, W), 2.0)]))
    v, u = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    found = sample_view(prepared, 0, u.reshape(-1), v.reshape(-1), torch.ones(H * W))
    picture = prepared.views.images[0].float().reshape(-1, 3) / 255
    torch.testing.assert_close(found, picture, rtol=0, atol=1e-5)


def test_target_of_a_quarter_of_the_resolution_sees_averages_and_not_single_pixels() -> None:
    views = views_of([camera()], [torch.full((H, W), 2.0)])
    board = ((torch.arange(H)[:, None] + torch.arange(W)) % 2 * 255).to(torch.uint8)  # the finest checks there are
    prepared = prepare(replace(views, images=board[None, ..., None].expand(1, H, W, 3).contiguous()))
    v, u = torch.meshgrid(torch.arange(6, H - 6, 4.0), torch.arange(6, W - 6, 4.0), indexing="ij")
    u, v = u.reshape(-1) + 0.5, v.reshape(-1) + 0.5
    coarse = sample_view(prepared, 0, u, v, torch.full((len(u),), 4.0))
    fine = sample_view(prepared, 0, u, v, torch.ones(len(u)))
    assert float((coarse - 0.5).abs().max()) < 0.02 and float((fine - 0.5).abs().min()) > 0.4


def test_averaged_copies_keep_places_also_of_odd_sizes() -> None:
    """A ramp sampled from any copy of the picture is the ramp."""
    views = views_of([camera(width=51, height=37)], [torch.full((37, 51), 2.0)])
    ramp = (torch.arange(51) * 5).to(torch.uint8)[None, None, :, None].expand(1, 37, 51, 3).contiguous()
    prepared = prepare(replace(views, images=ramp))
    u = torch.linspace(16.0, 34.0, 40)
    for resolution in (1.0, 2.5, 4.0):
        found = sample_view(prepared, 0, u, torch.full((40,), 18.0), torch.full((40,), resolution))
        torch.testing.assert_close(
            found[:, 0] * 255, (u - 0.5) * 5, rtol=0, atol=1.2
        )  # torch's cubic (a = -0.75) is off ramps by 5 % of a pixel


def test_best_view_gives_most_of_the_colour_and_the_provenance() -> None:
    cams = [camera(0.1), camera(1.2, -0.5), camera(-1.5, 0.6)]
    views = views_of(cams, [torch.zeros(H, W)] * 3)
    from tests.scene4d.test_cues_visibility import plane_depth

    depth = torch.stack([plane_depth(c, (0.0, 0.0, 1.0), 2.0) for c in cams])
    colors = torch.tensor([[200, 0, 0], [0, 200, 0], [0, 0, 200]], dtype=torch.uint8)
    views = replace(views, depth=depth, images=colors[:, None, None].expand(3, H, W, 3).contiguous())
    cue = make_cue(prepare(views), frame_of(camera(), torch.full((H, W), 2.0)))
    middle = cue.image[H // 2, W // 2] * 255
    assert int(cue.provenance[H // 2, W // 2]) == 0 and int(cue.votes[H // 2, W // 2]) >= 2
    assert float(middle[0]) > 100 and middle.argmax() == 0


def test_weighted_mean_over_views_is_that_of_a_loop_over_pixels() -> None:
    room = captured(False, *SMALL)
    found = gather_evidence(room.prepared, room.frame(4), torch.tensor([0, 3, 5, 7, 9]))
    wanted = found.count > 0
    color, spread = sample_cue(room.prepared, found, wanted)
    for i in range(0, len(wanted), 613):
        if not wanted[i]:
            assert color[i].sum() == 0
            continue
        total, samples = 0.0, []
        for k in range(3):
            s = int(found.view[k, i])
            if s >= 0:
                one = sample_view(
                    room.prepared, s, *(getattr(found, n)[k, i : i + 1] for n in ("u", "v", "resolution"))
                )
                samples.append((float(found.weight[k, i]), one[0]))
                total += float(found.weight[k, i])
        mean = sum(w * c for w, c in samples) / total
        torch.testing.assert_close(color[i], torch.as_tensor(mean), rtol=1e-4, atol=1e-4)
        variance = sum(w * (c - mean) ** 2 for w, c in samples) / total
        assert float(spread[i]) == pytest.approx(float(torch.as_tensor(variance).mean().sqrt()), abs=1e-3)


def test_known_gains_are_found_and_taken_out_of_the_colours() -> None:
    room = captured(False, *SMALL)
    views = room.prepared.views.subset(torch.arange(0, 12, 2))
    gains = torch.tensor(
        [[1.2, 1.0, 0.9], [0.9, 1.05, 1.0], [1.0, 0.8, 1.1], [1.1, 1.0, 1.0], [0.8, 1.0, 1.0], [1, 1, 1]]
    )
    gains = gains / gains.log().mean(0).exp()
    spoiled = (views.images.float() * gains[:, None, None]).round().clamp(0, 255).to(torch.uint8)
    found = fit_gains(prepare(replace(views, images=spoiled)))
    np.testing.assert_allclose(found.numpy(), gains.numpy(), rtol=0.02)
    frame = room.frame(5)
    plain = make_cue(prepare(views), frame)
    even = make_cue(with_gains(prepare(replace(views, images=spoiled))), frame)
    uneven = make_cue(prepare(replace(views, images=spoiled)), frame)
    both = plain.observed & even.observed
    errors = [float((cue.image - plain.image)[both].abs().mean()) for cue in (even, uneven)]
    assert errors[0] < 0.006 < 0.015 < errors[1]


def test_views_that_share_nothing_keep_their_exposure() -> None:
    views = views_of([camera(), camera(50.0)], [torch.full((H, W), 2.0)] * 2)
    assert torch.equal(fit_gains(prepare(views)), torch.ones(2, 3))


def test_fill_keeps_what_is_known_continues_it_and_is_gray_beyond() -> None:
    image = torch.zeros(40, 60, 3)
    image[:, :20] = torch.tensor([0.8, 0.2, 0.1])
    known = torch.zeros(40, 60, dtype=torch.bool)
    known[:, :20] = True
    filled = fill(image, known, 8)
    assert torch.equal(filled[known], image[known])
    torch.testing.assert_close(filled[:, 20:28], image[:, :8], rtol=0, atol=1e-5)
    assert (filled[:, 28:] == GRAY).all()
    assert (fill(image, torch.zeros_like(known), 8) == GRAY).all()


def one_wall(hole: tuple[slice, slice] | None = None, **changes) -> tuple:
    depth = torch.full((H, W), 2.0)
    prepared = prepare(views_of([camera()], [depth]), None)
    seen = depth.clone()
    if hole is not None:
        seen[hole] = 4.0  # what the source shows there is not the target's surface
        prepared = prepare(views_of([camera()], [seen]))
    return prepared, replace(frame_of(camera(), depth), **changes)


def test_small_island_of_reveal_stays_where_nothing_nearly_shows_the_surface() -> None:
    """In doubt R: three pixels that no view shows are not made P by their neighbours."""
    prepared, frame = one_wall((slice(10, 11), slice(10, 13)))
    roles = make_cue(prepared, frame).roles
    assert (roles[10, 10:13] == REVEAL).all() and (roles != PRESERVE).sum() < 16


def test_small_island_of_preserve_goes_to_its_neighbours() -> None:
    depth = torch.full((H, W), 2.0)
    source = torch.full((H, W), 4.0)
    source[20:23, 20:23] = 2.0
    frame = frame_of(camera(), depth)
    kept = make_cue(prepare(views_of([camera()], [source])), frame, CueOptions(RoleOptions(small=0, erode=False)))
    assert 0 < (kept.roles == PRESERVE).sum() < 16
    merged = make_cue(prepare(views_of([camera()], [source])), frame)
    assert not (merged.roles == PRESERVE).any() and not merged.observed.any()


def test_changed_surface_is_reveal_though_it_was_seen_and_hull_and_margin_bound_the_extent() -> None:
    changed = torch.zeros(H, W, dtype=torch.bool)
    changed[5:25, 5:25] = True
    prepared, frame = one_wall(changed=changed)
    cue = make_cue(prepared, frame)
    assert (cue.roles[changed] == REVEAL).all() and (cue.votes[changed] == 1).all()
    assert (cue.confidence[changed] == 0).all() and (cue.provenance[changed] == -1).all()
    box = ((-9.0, -9.0, 0.0), (9.0, 9.0, 1.0))  # the wall stands behind it
    hull = make_cue(prepared, frame, CueOptions(RoleOptions(hull=box)))
    assert (hull.roles[changed] == EXPAND).all() and (hull.roles[~changed] == PRESERVE).all()
    tight = make_cue(prepared, frame, CueOptions(RoleOptions(margin=-15.0)))
    assert (tight.roles[changed] == EXPAND).sum() > (cue.roles[changed] == EXPAND).sum() == 0


def test_assets_may_be_asked_to_be_painted_again() -> None:
    asset = torch.zeros(H, W, dtype=torch.bool)
    asset[5:25, 5:25] = True
    prepared, frame = one_wall(asset=asset, image=torch.rand(H, W, 3))
    assert (make_cue(prepared, frame).roles[asset] == PRESERVE).all()
    again = make_cue(prepared, frame, CueOptions(RoleOptions(assets="reveal")))
    assert (again.roles[asset] == REVEAL).all() and (again.soft_roles[asset][:, 1] == 1).all()
    with pytest.raises(ValueError, match="assets must be preserve or reveal, got 'x'"):
        RoleOptions(assets="x")


def test_filter_takes_back_preserve_only_where_both_frames_before_deny_it() -> None:
    frame = frame_of(camera(), torch.full((H, W), 2.0))
    xyz = surface_points(frame)
    p, r = torch.zeros(H, W, dtype=torch.uint8), torch.ones(H, W, dtype=torch.uint8)
    for before, expected in (((r, r), REVEAL), ((p, r), PRESERVE), ((r, p), PRESERVE), ((p, p), PRESERVE)):
        role_filter = RoleFilter()
        for roles in before:
            role_filter(frame, roles, xyz)
        assert (role_filter(frame, p, xyz) == expected).all()
    role_filter = RoleFilter()
    for roles in (p, p):
        role_filter(frame, roles, xyz)
    assert (role_filter(frame, r, xyz) == REVEAL).all()  # never makes P
    aside = frame_of(camera(100.0), torch.full((H, W), 2.0))
    role_filter = RoleFilter()
    for _ in range(2):
        role_filter(aside, r, surface_points(aside))
    assert (role_filter(frame, p, xyz) == PRESERVE).all()  # they do not show it


def test_stream_gives_the_frames_of_single_calls_in_order_and_holds_few() -> None:
    room = captured(False, *SMALL)
    alive: list[int] = []
    most = 0

    def target(k: int) -> TargetFrame:
        alive.append(k)
        return room.frame(k % 12)

    options = CueOptions(temporal=False)
    before = torch.get_num_threads()
    for k, cue in enumerate(stream_cues(room.prepared, target, 9, options, workers=2)):
        most = max(most, len(alive) - k)
        single = make_cue(room.prepared, room.frame(k % 12), options)
        assert torch.equal(cue.roles, single.roles) and torch.equal(cue.image, single.image)
        assert cue.time == single.time
    assert k == 8 and most <= 4 and torch.get_num_threads() == before


def test_stream_passes_errors_on_and_may_be_left_early() -> None:
    room = captured(False, *SMALL)

    def broken(k: int) -> TargetFrame:
        if k == 1:
            raise RuntimeError("no geometry")
        return room.frame(k)

    stream = stream_cues(room.prepared, broken, 5)
    next(stream)
    with pytest.raises(RuntimeError, match="no geometry"):
        next(stream)
    stream = stream_cues(room.prepared, room.frame, 5)
    next(stream)
    stream.close()
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        next(stream_cues(room.prepared, room.frame, 5, workers=0))
