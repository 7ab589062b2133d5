"""Our own format, DAVIS, bare videos; and that undone distortion reaches the pixels."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from scene4d.errors import InputError
from tests.scene4d.captures_on_disk import (
    HEIGHT,
    WIDTH,
    assert_same,
    counting_video,
    dot_centroids,
    dots,
    make_truth,
    opened,
    pinhole,
    plain_image,
    read_count,
)

CAMERAS = [make_truth(seed) for seed in range(4)]


def write_ours(root: Path, **extra: object) -> dict:
    cameras = []
    for i, truth in enumerate(CAMERAS[:2]):
        counting_video(root / f"c{i}.mp4", 6)
        cameras.append({"name": f"c{i}", "video": f"c{i}.mp4", "width": WIDTH, "height": HEIGHT, "fps": 30,
                        "frames": 6, "K": truth.K.tolist(), "world_to_cam": truth.world_to_cam.tolist()})  # fmt: skip
    data = {"format": "scene4d-capture", "version": 1, "units": "m", "cameras": cameras, **extra}
    (root / "cameras.json").write_text(json.dumps(data))
    return data


def test_our_format_gives_back_its_numbers(tmp_path: Path) -> None:
    write_ours(tmp_path, split={"test_cameras": ["c1"], "test_frames": [3]}, near_far=[0.5, 8])
    capture = opened(tmp_path)
    for i in range(2):
        assert_same(capture, f"c{i}", 4, CAMERAS[i])
    assert (capture.units, capture.near_far, capture.fps) == ("m", (0.5, 8.0), 30.0)
    assert {v.key for v in capture.split("test")} == {*(("c1", i) for i in range(6)), ("c0", 3)}
    assert read_count(capture.image_u8(capture.view("c0", 4)).numpy()) == 4


def test_our_older_spellings_mean_the_same(tmp_path: Path) -> None:
    data = write_ours(tmp_path)
    for camera in data["cameras"]:
        camera["w2c"] = camera.pop("world_to_cam")
        camera["dist_k1k2p1p2"] = [0.0, 0.0, 0.0, 0.0]
    (tmp_path / "cameras.json").write_text(json.dumps(data))
    assert_same(opened(tmp_path), "c1", 0, CAMERAS[1])


def test_our_format_with_image_folders_masks_depth_and_a_moving_camera(tmp_path: Path) -> None:
    for i in range(3):
        plain_image(tmp_path / f"images/{i}.png", 10 + i)
        (tmp_path / "masks").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"masks/{i}.png"), np.full((HEIGHT, WIDTH), 3 * i, np.uint8))
        (tmp_path / "depth").mkdir(exist_ok=True)
        np.save(tmp_path / f"depth/{i}.npy", np.full((HEIGHT, WIDTH), 1.0 + i, np.float32))
    camera = {"name": "a", "images": "images", "masks": "masks", "depth": "depth", "width": WIDTH, "height": HEIGHT,
              "times": [0.0, 0.5, 2.0], "first_frame": 4, "K": CAMERAS[0].K.tolist(),
              "world_to_cam": [t.world_to_cam.tolist() for t in CAMERAS[:3]]}  # fmt: skip
    (tmp_path / "cameras.json").write_text(json.dumps({"cameras": [camera]}))
    capture = opened(tmp_path)
    assert capture.frames == [4, 5, 6] and [v.time for v in capture.views] == [0.0, 0.5, 2.0]
    for i in range(3):
        assert_same(capture, "a", 4 + i, CAMERAS[i])
    last = capture.view("a", 6)
    labels, depth, mask = capture.labels(last), capture.depth(last), capture.mask(last, label=6)
    assert labels is not None and depth is not None and mask is not None
    assert labels.unique().tolist() == [6] and depth.unique().tolist() == [3.0] and mask.all()
    assert not capture.is_static("a")


def test_davis_pairs_images_with_palette_masks_by_index(tmp_path: Path) -> None:
    root = tmp_path / "DAVIS"
    for i in range(2):
        plain_image(root / f"JPEGImages/480p/dog/{i:05d}.jpg", 90)
        mask = Image.fromarray(np.full((HEIGHT, WIDTH), i + 1, np.uint8), mode="P")
        mask.putpalette([0, 0, 0, 255, 255, 255, 0, 0, 0] + [7] * 759)  # index 2 looks black
        (root / "Annotations/480p/dog").mkdir(parents=True, exist_ok=True)
        mask.save(root / f"Annotations/480p/dog/{i:05d}.png")
    for path in (root, root / "JPEGImages/480p/dog"):
        capture = opened(path)
        labels = [capture.labels(v) for v in capture.views]
        assert [x.unique().tolist() for x in labels if x is not None] == [[1], [2]]
        assert not capture.has_cameras and capture.duration == 1.0


def test_a_bare_video_has_times_but_no_cameras(tmp_path: Path) -> None:
    capture = opened(counting_video(tmp_path / "clip.mp4", 7, fps=25.0))
    assert (capture.fps, capture.views[5].time) == (25.0, pytest.approx(0.2))
    with pytest.raises(ValueError, match="estimate-cameras"):
        capture.cameras(capture.views)


def test_a_distorted_capture_shows_points_where_its_k_and_pose_say(tmp_path: Path) -> None:
    """Dots drawn with OpenCV's projection, distortion included, are found at K world_to_cam X in the image read."""
    size, truth = (320, 240), make_truth(1, fx=350.0, fy=355.0, cx=155.0, cy=124.0)
    distortion = np.array([-0.2, 0.08, 0.002, -0.001, 0.0])
    local = truth.local()
    seen = cv2.projectPoints(local, np.zeros(3), np.zeros(3), truth.K, distortion)[0][:, 0]
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/0.png"), dots(seen, *size, sigma=2.0))
    camera = {"name": "a", "images": "images", "fps": 1, "K": truth.K.tolist(), "width": 320, "height": 240,
              "distortion": {"model": "opencv", "coefficients": distortion.tolist()},
              "world_to_cam": truth.world_to_cam.tolist()}  # fmt: skip
    (tmp_path / "cameras.json").write_text(json.dumps({"cameras": [camera]}))
    capture = opened(tmp_path)
    for long_side in (320, 200):
        small = capture.resized(long_side)
        view = small.views[0]
        assert view.K is not None and view.world_to_cam is not None
        expected = pinhole(view.K.numpy(), view.world_to_cam.numpy())
        image = (255 * small.image(view)).numpy()
        assert np.abs(dot_centroids(image, expected, radius=7) - expected).max() < 0.06  # pixels
    assert np.abs(pinhole(truth.K, truth.world_to_cam) - seen).max() > 0.5  # the distortion does something
    assert torch.equal(capture.views[0].world_to_cam, capture.resized(100).views[0].world_to_cam)


def test_folders_of_images_in_a_folder_are_cameras_with_masks_of_their_own(tmp_path: Path) -> None:
    for name, count in (("left", 3), ("right", 2)):
        for i in range(count):
            plain_image(tmp_path / f"images/{name}/{i}.png", 10)
        (tmp_path / f"masks/{name}").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / f"masks/{name}/1.png"), np.full((HEIGHT, WIDTH), 5, np.uint8))
    capture = opened(tmp_path)
    assert capture.format == "frames" and capture.camera_names == ["left", "right"] and len(capture) == 5
    mask = capture.labels(capture.view("right", 1))
    assert mask is not None and mask.unique().tolist() == [5] and capture.mask(capture.view("left", 0)) is None


def test_what_moves_gives_no_features_and_a_failed_estimate_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """COLMAP's masks are black where features are not wanted: on the object and a margin around it."""
    import importlib.util
    import subprocess

    from scene4d.captures.estimate import MASK_MARGIN, estimate_cameras

    for i in range(2):
        plain_image(tmp_path / f"in/images/{i}.png", 10)
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[20:30, 20:40] = 255
        (tmp_path / "in/masks").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"in/masks/{i}.png"), mask)
    seen = []

    def instead(command: list[str], **options: object) -> subprocess.CompletedProcess:
        job = json.loads(Path(command[-1]).read_text())
        seen.extend(cv2.imread(str(Path(job["masks"]) / f"{name}.png"), cv2.IMREAD_GRAYSCALE) for name in job["names"])
        return subprocess.CompletedProcess(command, 0, 'log\n{"error": "no two frames\\nmatch"}\n', "")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(subprocess, "run", instead)
    with pytest.raises(InputError, match="structure from motion failed: no two frames"):
        estimate_cameras(opened(tmp_path / "in", "frames"), tmp_path / "out")
    assert not (tmp_path / "out").exists() and len(seen) == 2
    black = np.argwhere(seen[0] == 0)
    assert black.min(0).tolist() == [20 - MASK_MARGIN, 20 - MASK_MARGIN] and seen[0].max() == 255
    assert black.max(0).tolist() == [29 + MASK_MARGIN, 39 + MASK_MARGIN]
