"""The editor `classical` on a wall whose colours are known in closed form, before a camera that shifts along it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from editors.classical.editor import ClassicalEditor, ClassicalOptions
from editors.video import (
    EXTRAPOLATED,
    INPAINTED,
    OBSERVED,
    PROPAGATED,
    RENDERED,
    VIDEO_EDITORS,
    ClipFrame,
    VideoEditRequest,
    VideoFrame,
    video_editor,
)
from scene4d.cues import EXPAND, REVEAL
from tests.editors.plane_clips import F, H, W, Z, clip_of, wall_colors, wall_frame, wall_points

STEP = 2 * Z / F  # the camera's shift from frame to frame: two pixels


def in_square(X: Tensor, Y: Tensor) -> Tensor:
    return (X.abs() < 0.35) & (Y.abs() < 0.35)


def walk(count: int, reveal=in_square, back: bool = False) -> list[ClipFrame]:
    """Each frame has noise of its own, as pictures have."""
    places = [k if not back or k < count / 2 else count - 1 - k for k in range(count)]
    return [noisy(wall_frame((place - 3) * STEP, k / 10, reveal), k) for k, place in enumerate(places)]


def noisy(frame: ClipFrame, seed: int) -> ClipFrame:
    noise = 0.03 * torch.randn(H, W, 3, generator=torch.Generator().manual_seed(seed))
    image = torch.where(frame.cue.observed[..., None], frame.cue.image + noise, 0.5)
    return replace(frame, cue=replace(frame.cue, image=image))


def finished(frames: list[ClipFrame], options: ClassicalOptions | None = None) -> list[VideoFrame]:
    return list(ClassicalEditor(options).edit(clip_of(frames)).frames)


def change_along_the_wall(frames: list[Tensor], roles: list[Tensor], pixels: int = 2) -> float:
    """Mean change of Reveal pixels between frames along the true motion, which is `pixels` to the left a frame."""
    found = []
    for a, b, role_a, role_b in zip(frames, frames[1:], roles, roles[1:], strict=False):
        both = (role_b[:, : W - pixels] == REVEAL) & (role_a[:, pixels:] == REVEAL)
        found.append((b[:, : W - pixels] - a[:, pixels:]).abs().mean(-1)[both])
    return float(torch.cat(found).mean())


def painted_each(frame: ClipFrame) -> Tensor:
    """What OpenCV alone makes of one frame."""
    eight = (frame.cue.image.numpy() * 255 + 0.5).astype(np.uint8)
    hole = (~frame.cue.observed).numpy().astype(np.uint8)
    return torch.from_numpy(cv2.inpaint(eight, hole, 4, cv2.INPAINT_TELEA)).float() / 255


def test_sure_observed_pixels_are_those_of_the_cue_to_the_bit() -> None:
    frames = [replace_render(frame, torch.zeros(H, W, 3)) for frame in walk(4)]
    for frame, done in zip(frames, finished(frames), strict=True):
        kept = frame.cue.observed
        assert torch.equal(done.image[kept], frame.cue.image[kept])
        assert (done.origin[kept] == OBSERVED).all()


def replace_render(frame: ClipFrame, rendered: Tensor) -> ClipFrame:
    return replace(frame, cue=replace(frame.cue, rendered=rendered))


def test_unsure_observed_pixels_fade_to_the_render() -> None:
    """At a quarter of the confidence that counts as sure: a quarter of the cue."""
    frame = wall_frame(0.0, 0.0, confidence=0.1, rendered=torch.full((H, W, 3), 0.3))
    options = ClassicalOptions(sure=0.4, blend=False)
    done = finished([frame], options)[0]
    torch.testing.assert_close(done.image, 0.25 * frame.cue.image + 0.75 * 0.3)


def test_unsure_observed_pixels_stay_where_there_is_no_render() -> None:
    frame = wall_frame(0.0, 0.0, confidence=0.01)
    assert torch.equal(finished([frame])[0].image, frame.cue.image)


def test_hole_that_another_frame_observed_takes_its_colours() -> None:
    """The hole is there in one frame only; the wall's true colours are two or more frames away."""
    frames = [wall_frame(k * STEP, k / 10, in_square if k == 2 else lambda X, Y: X > 9) for k in range(5)]
    done = finished(frames)[2]
    hole = frames[2].cue.roles == REVEAL
    truth = wall_colors(*wall_points(2 * STEP))
    assert (done.origin[hole] == PROPAGATED).all()
    torch.testing.assert_close(done.image[hole], truth[hole], atol=1e-3, rtol=0)


def test_observed_pixels_that_are_not_sure_are_not_lent() -> None:
    frames = [wall_frame(k * STEP, k / 10, in_square if k == 1 else lambda X, Y: X > 9, confidence=0.1) for k in (0, 1)]
    done = finished(frames)[1]
    assert not (done.origin == PROPAGATED).any()


def test_painted_place_keeps_its_look_over_the_clip() -> None:
    """Painted once and carried: the change along the wall is that of resampling, OpenCV's frame by frame is not."""
    frames = walk(8)
    roles = [frame.cue.roles for frame in frames]
    ours = change_along_the_wall([done.image for done in finished(frames)], roles)
    alone = change_along_the_wall([painted_each(frame) for frame in frames], roles)
    assert ours < 1e-5  # shifts by whole pixels: what is carried over is the same number
    assert alone > 0.005


def test_painted_place_keeps_its_look_over_windows_and_when_it_comes_back() -> None:
    frames = walk(16, back=True)
    done = finished(frames, ClassicalOptions(window=3, kept=2))
    hole = frames[0].cue.roles == REVEAL
    torch.testing.assert_close(done[15].image[hole], done[0].image[hole], atol=1e-5, rtol=0)


def test_place_that_was_long_out_of_sight_looks_as_it_did() -> None:
    """The camera looks away for six frames, three windows, in which it paints less, and comes back."""

    def holes(X: Tensor, Y: Tensor) -> Tensor:
        return in_square(X, Y) | (((X - 5).abs() < 0.1) & (Y.abs() < 0.1))

    places = [0.0, STEP, *(5 + k * STEP for k in range(6)), STEP, 0.0]
    frames = [noisy(wall_frame(x, k / 10, holes), k) for k, x in enumerate(places)]
    hole = frames[0].cue.roles == REVEAL
    kept = finished(frames, ClassicalOptions(window=2, kept=3))
    torch.testing.assert_close(kept[9].image[hole], kept[0].image[hole], atol=1e-5, rtol=0)
    forgotten = finished(frames, ClassicalOptions(window=2, kept=1))
    assert (forgotten[9].image[hole] - forgotten[0].image[hole]).abs().mean() > 0.002


def test_of_frames_that_observed_a_place_the_nearest_in_time_is_asked_first() -> None:
    frames = [wall_frame(k * STEP, k / 10, in_square if k == 3 else lambda X, Y: X > 9) for k in range(4)]
    image = frames[2].cue.image + 0.05
    frames[2] = replace(frames[2], cue=replace(frames[2].cue, image=image))
    done = finished(frames)[3]
    hole = (frames[3].cue.roles == REVEAL)[:, : W - 2]
    torch.testing.assert_close(done.image[:, : W - 2][hole], image[:, 2:][hole], atol=1e-5, rtol=0)


def test_frame_with_the_largest_hole_is_painted_and_earlier_ones_take_from_it() -> None:
    """The square enters the picture: the first frames show a part of it, painted as the later ones have it whole."""
    frames = [wall_frame(-1.2 + 3 * k * STEP, k / 10, in_square) for k in range(5)]
    sizes = [int((frame.cue.roles == REVEAL).sum()) for frame in frames]
    assert 0 < sizes[0] < max(sizes) / 2
    done = finished(frames)
    whole = sizes.index(max(sizes))
    assert torch.equal(done[whole].image, finished([frames[whole]])[0].image)  # as if it were alone
    change = 6 * whole  # pixels
    first, best = done[0].image[:, change:], done[whole].image[:, : W - change]
    hole = (frames[0].cue.roles == REVEAL)[:, change:]
    assert hole.any()
    torch.testing.assert_close(first[hole], best[hole], atol=1e-5, rtol=0)


def test_fill_moves_with_its_surface() -> None:
    """The camera stands; the wall slides to the left by two pixels a frame, and the hole and its fill with it."""
    frames = []
    for k in range(4):

        def carry(pixels: Tensor, points: Tensor, seconds: float, now: float = k / 10) -> Tensor:
            return points - points.new_tensor([10 * STEP * (seconds - now), 0, 0])

        slid = noisy(wall_frame(k * STEP, k / 10, in_square), k)  # what the wall looks like from where it does not move
        still = wall_frame(0.0, k / 10)
        cue = replace(slid.cue, camera=still.cue.camera)
        frames.append(replace(slid, cue=cue, carry=carry))
    roles = [frame.cue.roles for frame in frames]
    assert change_along_the_wall([done.image for done in finished(frames)], roles) < 1e-5
    standing = [replace(frame, carry=None) for frame in frames]
    assert change_along_the_wall([done.image for done in finished(standing)], roles) > 0.005


def test_fill_of_another_object_or_depth_is_not_taken() -> None:
    """Two frames of one view: the second one's hole shows another object, then another depth."""
    first = wall_frame(0.0, 0.0)
    hole = wall_frame(0.0, 0.1, in_square)
    other = replace(hole, objects=(hole.cue.roles == REVEAL).int())
    nearer = torch.where(hole.cue.roles == REVEAL, 0.8 * Z, Z)
    moved = replace(hole, cue=replace(hole.cue, depth=nearer))
    for second, expected in ((hole, True), (other, False), (moved, False)):
        done = finished([first, second])[1]
        assert bool((done.origin == PROPAGATED).any()) == expected


@pytest.mark.parametrize("dark_confidence", [0.9, 0.1])
def test_object_is_painted_from_itself_though_another_is_surer(dark_confidence: float) -> None:
    """Left of the hole's middle everything is dark, right of it bright, and each side knows its object."""
    X, _ = wall_points(0.0)
    frame = wall_frame(0.0, 0.0, in_square, objects=(X > 0).int())
    unsure = torch.where(X > 0, 0.9, dark_confidence) * frame.cue.observed
    frame = replace(frame, cue=replace(frame.cue, confidence=unsure))
    shown = torch.where((X > 0)[..., None], 0.9, 0.1) * torch.ones(3)
    frame = replace(frame, cue=replace(frame.cue, image=shown))
    done = finished([frame])[0]
    torch.testing.assert_close(done.image, shown.float(), atol=1e-3, rtol=0)


def test_expand_takes_the_render_where_there_is_one_and_is_extrapolated_elsewhere() -> None:
    def beyond(X: Tensor, Y: Tensor) -> Tensor:
        return X > 0.5

    render = wall_colors(*wall_points(0.0))
    with_render = finished([wall_frame(0.0, 0.0, expand=beyond, rendered=render)])[0]
    outside = with_render.cue.roles == EXPAND
    assert (with_render.origin[outside] == RENDERED).all()
    torch.testing.assert_close(with_render.image[outside], render[outside])
    without = finished([wall_frame(0.0, 0.0, expand=beyond)])[0]
    assert (without.origin[outside] == EXTRAPOLATED).all()
    edge = without.image[:, int(torch.where(outside[0])[0][0])]
    truth = render[:, int(torch.where(outside[0])[0][0])]
    assert (edge - truth).abs().mean() < 0.05


def test_extrapolated_place_keeps_its_look_too() -> None:
    frames = [wall_frame(k * STEP, k / 10, expand=lambda X, Y: X > 0.7) for k in range(5)]
    done = finished(frames)
    a, b = done[3].image[:, 2:], done[4].image[:, : W - 2]
    both = (frames[3].cue.roles == EXPAND)[:, 2:]
    assert both.any()
    torch.testing.assert_close(a[both], b[both], atol=1e-5, rtol=0)


def test_render_darker_than_the_cue_is_matched_along_the_seam() -> None:
    def beyond(X: Tensor, Y: Tensor) -> Tensor:
        return X > 0.5

    render = wall_colors(*wall_points(0.0)) - 0.08
    frame = wall_frame(0.0, 0.0, expand=beyond, rendered=render)
    outside = frame.cue.roles == EXPAND
    column = int(torch.where(outside[0])[0][0])
    truth = wall_colors(*wall_points(0.0))[:, column]
    matched, plain = (finished([frame], ClassicalOptions(blend=on))[0].image[:, column] for on in (True, False))
    assert (plain - truth).abs().mean() > 0.07
    assert (matched - truth).abs().mean() < 0.03


def test_restyled_surfaces_are_shown_as_rendered() -> None:
    render = torch.full((H, W, 3), 0.25)
    X, Y = wall_points(0.0)
    frame = replace(wall_frame(0.0, 0.0, in_square, rendered=render), restyled=in_square(X, Y))
    done = finished([frame], ClassicalOptions(blend=False))[0]
    assert (done.image[in_square(X, Y)] == 0.25).all()
    assert (done.origin[in_square(X, Y)] == RENDERED).all()


def test_frame_of_which_nothing_is_known_is_gray() -> None:
    done = finished([wall_frame(0.0, 0.0, expand=lambda X, Y: X > -9)])[0]
    assert (done.image == 0.5).all() and (done.origin == EXTRAPOLATED).all()


def test_same_request_gives_the_same_clip_to_the_bit() -> None:
    a, b = (finished(walk(7), ClassicalOptions(window=3)) for _ in range(2))
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x.image, y.image) and torch.equal(x.origin, y.origin)


def test_long_clip_is_read_in_windows_and_holds_no_more_than_a_short_one() -> None:
    alive: weakref.WeakSet[ClipFrame] = weakref.WeakSet()
    most = read = 0

    def stream() -> Iterator[ClipFrame]:
        nonlocal most, read
        for k in range(24):
            frame = wall_frame((k % 6) * STEP, k / 10, in_square)
            alive.add(frame)
            read += 1
            most = max(most, len(alive))
            yield frame
            del frame

    result = ClassicalEditor(ClassicalOptions(window=4, kept=3)).edit(VideoEditRequest(stream(), 24, 10.0))
    first = next(result.frames)
    assert read == 4 and (first.origin != PROPAGATED).any()
    del first
    assert sum(1 for _ in result.frames) == 23
    assert most <= 4 + 1  # a window and what is being read


def test_prompt_and_reference_are_refused_and_so_is_a_clip_of_another_length() -> None:
    editor = video_editor("classical")
    with pytest.raises(ValueError, match="prompt must not be given"):
        editor.edit(VideoEditRequest([], 1, 10.0, prompt="make it night"))
    with pytest.raises(ValueError, match="reference must not be given"):
        editor.edit(VideoEditRequest([], 1, 10.0, reference=torch.zeros(2, 2, 3)))
    with pytest.raises(ValueError, match="frames must be 3 as count says, got 2"):
        list(editor.edit(VideoEditRequest(walk(2), 3, 10.0)).frames)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"fps": 0.0}, "fps must be above 0, got 0.0"),
        ({"fps": float("nan")}, "fps must be above 0, got nan"),
        ({"reference": torch.zeros(3, 4)}, r"reference must have shape \[H, W, 3\], got \[3, 4\]"),
    ],
)
def test_requests_with_numbers_out_of_range_are_refused(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        VideoEditRequest(**({"frames": [], "count": 1, "fps": 1.0} | change))


@pytest.mark.parametrize("name", ["window", "kept", "neighbours", "sure", "lent"])
def test_options_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        ClassicalOptions(**{name: -1})


def test_clip_frames_whose_parts_do_not_fit_are_refused() -> None:
    frame = wall_frame(0.0, 0.0)
    with pytest.raises(ValueError, match=r"objects must have shape \[30, 40\], got \[2, 2\]"):
        replace(frame, objects=torch.zeros(2, 2))
    with pytest.raises(ValueError, match="cue.rendered must be there"):
        replace(frame, restyled=torch.ones(H, W, dtype=torch.bool))


def test_registry_names_editors_that_can_be_made_and_refuses_others() -> None:
    assert all(hasattr(video_editor(name), "edit") for name in VIDEO_EDITORS)
    with pytest.raises(ValueError, match="editor must be one of classical, got 'magic'"):
        video_editor("magic")


def test_hole_inside_the_extent_is_inpainted_not_extrapolated() -> None:
    done = finished(walk(1))[0]
    assert set(done.origin[done.cue.roles == REVEAL].tolist()) == {INPAINTED}
