"""`Capture`: sizes, subsets, cameras, formats found by looking, and the real test data."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from scene4d.captures import CaptureWarning, open_capture
from scene4d.captures.rig import measure_rig
from scene4d.errors import InputError
from tests.scene4d.captures_on_disk import (
    HEIGHT,
    WIDTH,
    WORLD,
    counting_video,
    dot_centroids,
    dots,
    make_truth,
    opened,
    pinhole,
    plain_image,
    real_data,
)


def write_ours(root: Path, cameras: int = 2, frames: int = 6, **extra: object) -> Path:
    specs = []
    for i in range(cameras):
        counting_video(root / f"c{i}.mp4", frames)
        truth = make_truth(i)
        specs.append({"name": f"c{i}", "video": f"c{i}.mp4", "K": truth.K.tolist(),
                      "world_to_cam": truth.world_to_cam.tolist(), **extra})  # fmt: skip
    (root / "cameras.json").write_text(json.dumps({"units": "m", "cameras": specs}))
    return root


# -- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("long_side", [160, 97, 50])
def test_a_resized_picture_and_its_k_show_a_point_at_the_same_place(tmp_path: Path, long_side: int) -> None:
    """Dots of a 320x240 picture, shrunk, lie where the scaled K projects them: no half-pixel shift, in either axis."""
    truth = make_truth(2, fx=300.0, fy=300.0, cx=160.0, cy=121.0)
    apart = WORLD[[0, 2, 3]]
    centers = pinhole(truth.K, truth.world_to_cam, apart)
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/0.png"), dots(centers, 320, 240, sigma=6.0))
    camera = {"name": "a", "images": "images", "fps": 1, "K": truth.K.tolist(),
              "world_to_cam": truth.world_to_cam.tolist()}  # fmt: skip
    (tmp_path / "cameras.json").write_text(json.dumps({"cameras": [camera]}))
    small = opened(tmp_path).resized(long_side)
    (view,) = small.views
    assert (view.width, view.height) == (long_side, round(long_side * 0.75))
    assert view.K is not None and view.world_to_cam is not None
    expected = pinhole(view.K.numpy(), view.world_to_cam.numpy(), apart)
    found = dot_centroids((255 * small.image(view)).numpy(), expected, radius=max(3, long_side // 20))
    assert np.abs(found - expected).max() < 0.1  # 8 bits and the window; half a pixel would show as 0.25 and more


def test_resizing_twice_is_resizing_once_and_never_enlarges(tmp_path: Path) -> None:
    capture = opened(write_ours(tmp_path))
    twice, once = capture.resized(48).resized(32).views[0], capture.resized(32).views[0]
    assert twice.K is not None and once.K is not None
    torch.testing.assert_close(twice.K, once.K)
    assert capture.resized(1000).views[0].width == WIDTH
    with pytest.raises(ValueError, match="long_side must be at least 1"):
        capture.resized(0)


def test_masks_and_depth_are_resized_without_new_values_or_half_pixel_shifts(tmp_path: Path) -> None:
    plain_image(tmp_path / "images/0.png", 10, (90, 60))
    labels = np.zeros((60, 90), np.uint8)
    labels[:, 46:] = 200  # the middle one of three columns that become one
    depth = np.where(labels > 0, 5.0, 1.0).astype(np.float32)
    for folder in ("masks", "depth"):
        (tmp_path / folder).mkdir()
    cv2.imwrite(str(tmp_path / "masks/0.png"), labels)
    np.save(tmp_path / "depth/0.npy", depth)
    camera = {"name": "a", "images": "images", "masks": "masks", "depth": "depth", "fps": 1,
              "K": [[90, 0, 45], [0, 90, 30], [0, 0, 1]], "world_to_cam": np.eye(4).tolist()}  # fmt: skip
    (tmp_path / "cameras.json").write_text(json.dumps({"cameras": [camera]}))
    small = opened(tmp_path).resized(30)
    found, z, mask = small.labels(small.views[0]), small.depth(small.views[0]), small.mask(small.views[0])
    assert found is not None and z is not None and mask is not None
    assert found.unique().tolist() == [0, 200] and z.unique().tolist() == [1.0, 5.0]
    assert mask.dtype == torch.bool and mask[:, 15:].all() and not mask[:, :15].any()


def test_masks_and_depth_of_a_lens_that_bends_are_rectified_without_new_values(tmp_path: Path) -> None:
    plain_image(tmp_path / "images/0.png", 10, (90, 60))
    labels = np.where(np.add.outer(np.arange(60), np.arange(90)) % 30 < 15, 3, 200).astype(np.uint8)
    for folder in ("masks", "depth"):
        (tmp_path / folder).mkdir()
    cv2.imwrite(str(tmp_path / "masks/0.png"), labels)
    np.save(tmp_path / "depth/0.npy", labels.astype(np.float32))
    camera = {"name": "a", "images": "images", "masks": "masks", "depth": "depth", "fps": 1,
              "distortion": {"model": "opencv", "coefficients": [-0.3, 0.1, 0, 0]},
              "K": [[90, 0, 45], [0, 90, 30], [0, 0, 1]], "world_to_cam": np.eye(4).tolist()}  # fmt: skip
    (tmp_path / "cameras.json").write_text(json.dumps({"cameras": [camera]}))
    capture = opened(tmp_path)
    found, z = capture.labels(capture.views[0]), capture.depth(capture.views[0])
    assert found is not None and z is not None
    assert found.unique().tolist() == [3, 200] and torch.equal(found.float(), z)
    assert not np.array_equal(found.numpy(), labels)


def test_images_are_floats_of_the_bytes(tmp_path: Path) -> None:
    capture = opened(write_ours(tmp_path))
    view = capture.views[0]
    image, raw = capture.image(view), capture.image_u8(view)
    assert image.dtype == torch.float32 and image.shape == (HEIGHT, WIDTH, 3)
    assert torch.equal(image, raw.float() / 255)
    raw.zero_()
    assert capture.image_u8(view).any()  # the cache is not the caller's to write to
    assert capture.images(capture.at(1)).shape == (2, HEIGHT, WIDTH, 3)


# -- choosing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2:5", [2, 3, 4]), ("::2", [0, 2, 4]), ("-2:", [4, 5]), ("3", [3]), ("-1", [5]), ("1:-1:3", [1, 4])],
)
def test_frames_are_chosen_like_a_slice(tmp_path: Path, text: str, expected: list[int]) -> None:
    capture = opened(write_ours(tmp_path))
    assert capture.subset(text).frames == expected
    assert capture.subset("::2").subset("2:").frames == [2, 4]  # indices keep their meaning


def test_subsets_by_camera_and_split(tmp_path: Path) -> None:
    capture = opened(write_ours(tmp_path))
    assert capture.subset(cameras=["c1"]).camera_names == ["c1"]
    for arguments in ({"cameras": ["nope"]}, {"frames": "9:"}, {"frames": "a:b"}, {"split": "val"}):
        with pytest.raises(InputError):
            capture.subset(**arguments)


def test_cameras_are_those_of_the_views_and_need_one_size(tmp_path: Path) -> None:
    capture = opened(write_ours(tmp_path))
    cameras = capture.cameras(capture.at(0), torch.float64)
    assert (cameras.width, cameras.height, len(cameras)) == (WIDTH, HEIGHT, 2)
    np.testing.assert_allclose(cameras.centers[1].numpy(), make_truth(1).center, atol=1e-9)
    other = capture.resized(20).views[0]
    with pytest.raises(ValueError, match="one size"):
        capture.cameras([capture.views[0], other])
    with pytest.raises(ValueError, match="must not be empty"):
        capture.cameras([])


# -- formats found by looking ----------------------------------------------------------------------------------------


def test_an_ambiguous_folder_says_what_was_taken_and_how_to_take_the_other(tmp_path: Path) -> None:
    write_ours(tmp_path)
    (tmp_path / "transforms.json").write_text("{}")
    with pytest.warns(CaptureWarning, match="read as cameras-json .* looks like nerfstudio .* --format nerfstudio"):
        capture = open_capture(tmp_path)
    assert capture.format == "cameras-json" and "--format nerfstudio" in capture.notes[0]
    assert opened(tmp_path / "cameras.json").format == "cameras-json"
    with pytest.raises(InputError, match=r"transforms.json: frames"):
        open_capture(tmp_path / "transforms.json")


def test_missing_frame_rate_is_warned_of_once_and_a_given_one_settles_it(tmp_path: Path) -> None:
    for i in range(5):
        plain_image(tmp_path / f"{i}.png")
    with pytest.warns(CaptureWarning, match="last 1 s") as caught:
        capture = open_capture(tmp_path)
    assert len(caught) == 1 and capture.duration == 1.0 and capture.fps is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        timed = open_capture(tmp_path, fps=10.0)
    assert timed.duration == pytest.approx(0.4) and timed.notes == ()


def test_a_shrunk_copy_of_the_images_keeps_its_intrinsics_by_rescaling(tmp_path: Path) -> None:
    truth = make_truth(0)
    plain_image(tmp_path / "images/0.png", 5, (WIDTH // 2, HEIGHT // 2))
    camera = {"name": "a", "images": "images", "fps": 1, "width": WIDTH, "height": HEIGHT, "K": truth.K.tolist(),
              "world_to_cam": truth.world_to_cam.tolist()}  # fmt: skip
    (tmp_path / "cameras.json").write_text(json.dumps({"cameras": [camera]}))
    with pytest.warns(CaptureWarning, match="intrinsics are rescaled"):
        capture = open_capture(tmp_path)
    assert capture.views[0].K is not None
    np.testing.assert_allclose(capture.views[0].K.numpy()[:2], truth.K[:2] / 2)


# -- real data -------------------------------------------------------------------------------------------------------


def test_treadmill_has_four_cameras_that_stand_still(tmp_path: Path) -> None:
    root = real_data("treadmill")
    capture = opened(root)
    assert (len(capture), capture.fps, capture.units, capture.notes) == (400, 60.0, "m", ())
    assert capture.duration == pytest.approx(99 / 60)
    rig = measure_rig(capture)
    assert (rig.still, rig.moving) == (4, 0)
    assert rig.neighbour_angles["cam01"] == pytest.approx(47, abs=1)  # as the data's own description says
    given = json.loads((root / "cameras.json").read_text())["cameras"]
    for spec in given:
        view = capture.view(spec["name"], 50)
        assert view.world_to_cam is not None and (view.width, view.height) == (spec["width"], spec["height"])
        np.testing.assert_allclose(view.world_to_cam.numpy(), spec["w2c"], atol=1e-6)
    small = capture.resized(480)
    assert small.image_u8(small.view("cam03", 20)).shape == (480, 272, 3)


def test_treadmill_rectification_is_opencvs(tmp_path: Path) -> None:
    """The first frame, undistorted by cv2.undistort to the same K, differs by less than a level in the mean."""
    root = real_data("treadmill")
    capture = opened(root)
    spec = json.loads((root / "cameras.json").read_text())["cameras"][2]
    view = capture.view("cam03", 0)
    raw = capture.store._raw(capture.tracks["cam03"], "image", 0)
    assert raw is not None and view.K is not None
    shift = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # OpenCV's pixel centres are whole numbers
    expected = cv2.undistort(
        raw, np.array(spec["K"]) - shift, np.array(spec["dist_k1k2p1p2"]), None, view.K.numpy() - shift
    )
    found = capture.image_u8(view).numpy()
    shifted = np.abs(found[:, 1:].astype(int) - expected[:, :-1]).mean()
    assert np.abs(found.astype(int) - expected).mean() < 1.0 < shifted


def test_parkour_colmap_model_and_cameras_json_agree() -> None:
    root = real_data("parkour")
    ours, colmap = opened(root, "cameras-json"), opened(root, "colmap")
    assert len(ours) == len(colmap) == 60 and colmap.points is not None and len(colmap.points) == 4884
    a, b = ours.cameras(ours.views, torch.float64), colmap.cameras(colmap.views, torch.float64)
    torch.testing.assert_close(a.world_to_cam, b.world_to_cam, atol=1e-6, rtol=0)
    torch.testing.assert_close(a.K, b.K, atol=1e-6, rtol=0)
    mask = ours.mask(ours.views[30])
    assert mask is not None and 0.01 < mask.float().mean() < 0.2
    assert torch.equal(ours.image_u8(ours.views[7]), colmap.image_u8(colmap.views[7]))


def test_parkours_broken_end_is_found() -> None:
    """The given structure from motion leaps by a hundred times its step at the last three frames."""
    jumps = measure_rig(opened(real_data("parkour"))).jumps
    assert {"camera: frame 56 to 57", "camera: frame 57 to 58", "camera: frame 58 to 59"} <= set(jumps)


def test_davis_dog_has_masks_and_no_cameras() -> None:
    capture = opened(real_data("davis_dog"))
    assert len(capture) == 60 and not capture.has_cameras and capture.has("mask")
    labels = capture.labels(capture.views[10])
    assert labels is not None and labels.unique().tolist() == [0, 255]


def test_dycheck_cameras_are_those_of_its_files() -> None:
    root = real_data("dycheck_cameras")
    capture = opened(root)
    assert len(capture) == 696 and capture.fps == 30.0 and capture.units == "m" and not capture.has("image")
    assert (len(capture.split("train")), len(capture.split("val"))) == (277, 419)
    assert capture.is_static("1") and capture.is_static("2") and not capture.is_static("0")
    for camera, frame in (("0", 0), ("0", 200), ("1", 30), ("2", 150)):
        given = json.loads((root / f"camera/{camera}_{frame:05d}.json").read_text())
        point = np.array([[0.1, -0.2, -1.5]])
        x, y, z = np.array(given["orientation"]) @ (point[0] - given["position"])
        expected = given["focal_length"] * np.array([x, y]) / z + given["principal_point"]
        view = capture.view(camera, frame)
        assert view.K is not None and view.world_to_cam is not None
        np.testing.assert_allclose(pinhole(view.K.numpy(), view.world_to_cam.numpy(), point)[0], expected, atol=1e-6)
    with pytest.raises(InputError, match="cameras only"):
        capture.image(capture.views[0])


def test_the_estimate_of_cameras_for_parkour(tmp_path: Path) -> None:
    """Eight frames: each gets a pose, points reproject within a pixel, and the focal length is near that of all 60."""
    pytest.importorskip("scene4d.captures.estimate")
    import importlib.util

    if importlib.util.find_spec("pycolmap") is None:
        pytest.skip("needs pycolmap: pip install 'scene4d[geometry]'")
    from scene4d.captures.estimate import estimate_cameras

    source = real_data("parkour")
    for folder in ("images", "masks"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        for path in sorted((source / folder).iterdir())[:32:4]:
            shutil.copyfile(path, tmp_path / "in" / folder / path.name)
    found = estimate_cameras(opened(tmp_path / "in", "frames"), tmp_path / "out", threads=1, features=1500)
    assert (found.registered, found.pictures, found.missing) == (8, 8, [])
    assert found.reprojection is not None and found.reprojection.median < 1.0
    capture = opened(tmp_path / "out")
    assert capture.format == "cameras-json" and capture.has("mask") and measure_rig(capture).jumps == []
    assert capture.views[0].K is not None and capture.views[0].K[0, 0] == pytest.approx(438, rel=0.1)
    with pytest.raises(InputError, match="exists already"):
        estimate_cameras(opened(tmp_path / "in", "frames"), tmp_path / "out")


def test_a_missing_pycolmap_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    from scene4d.captures.estimate import estimate_cameras

    plain_image(tmp_path / "in/0.png")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'scene4d\[geometry\]'"):
        estimate_cameras(opened(tmp_path / "in"), tmp_path / "out")
