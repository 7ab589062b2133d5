"""COLMAP models, text and binary, against quaternions, K and pose written in their published layouts."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tests.scene4d.captures_on_disk import (
    HEIGHT,
    WIDTH,
    WORLD,
    Truth,
    assert_same,
    make_truth,
    opened,
    pinhole,
    plain_image,
)

CAMERAS = [make_truth(seed) for seed in range(4)]


def colmap_quaternion(truth: Truth) -> list[float]:
    x, y, z, w = Rotation.from_matrix(truth.rotation).as_quat()
    return [w, x, y, z]


def write_colmap_text(root: Path, names: list[str], camera: str) -> None:
    model = root / "sparse/0"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text(f"# Camera list\n1 {camera}\n")
    lines = ["# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME"]
    for i, (name, truth) in enumerate(zip(names, CAMERAS, strict=False)):
        pose = [*colmap_quaternion(truth), *truth.world_to_cam[:3, 3]]
        seen = pinhole(truth.K, truth.world_to_cam) + (0.25, 0.0)
        points = " ".join(f"{u} {v} {100 + k}" for k, (u, v) in enumerate(seen)) if i % 2 == 0 else ""
        lines += [f"{i + 1} {' '.join(map(str, pose))} 1 {name}", points]
        plain_image(root / "images" / name, 70 + i)
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    rows = [f"{100 + k} {x} {y} {z} 255 128 0 0.5 1 {k}" for k, (x, y, z) in enumerate(WORLD)]
    (model / "points3D.txt").write_text("\n".join(rows) + "\n")


def test_colmap_text_with_observations(tmp_path: Path) -> None:
    from scene4d.captures.rig import measure_reprojection

    write_colmap_text(tmp_path, [f"f{i}.png" for i in (1, 2, 10, 11)], f"PINHOLE {WIDTH} {HEIGHT} 70 70 31 25.5")
    capture = opened(tmp_path)
    assert capture.format == "colmap" and capture.camera_names == ["camera"]
    for i, truth in enumerate(CAMERAS):  # f2 before f10: numbers, not letters
        assert_same(capture, "camera", i, truth)
    assert capture.points is not None and capture.points.rgb is not None
    np.testing.assert_allclose(capture.points.xyz.numpy(), WORLD, atol=1e-6)
    found = measure_reprojection(capture)
    assert found is not None and (found.views, found.observations, found.behind) == (2, 2 * len(WORLD), 0.0)
    assert found.median == pytest.approx(0.25, abs=1e-4)  # the observations were written a quarter of a pixel off


def test_colmap_folders_are_cameras_and_equal_names_are_instants(tmp_path: Path) -> None:
    names = ["a/0001.png", "a/0002.png", "b/0001.png", "b/0002.png"]
    write_colmap_text(tmp_path, names, f"SIMPLE_PINHOLE {WIDTH} {HEIGHT} 70 31 25.5")
    capture = opened(tmp_path)
    assert capture.camera_names == ["a", "b"] and capture.frames == [0, 1]
    assert_same(capture, "b", 1, CAMERAS[3])
    assert int(capture.image_u8(capture.view("b", 0))[0, 0, 0]) == 72


def write_colmap_binary(folder: Path, frames: bool = False) -> None:
    folder.mkdir(parents=True)
    camera = struct.pack("<QiiQQ4d", 1, 7, 1, WIDTH, HEIGHT, 70.0, 70.0, 31.0, 25.5)
    (folder / "cameras.bin").write_bytes(camera)
    images = struct.pack("<Q", len(CAMERAS))
    for i, truth in enumerate(CAMERAS):
        images += struct.pack("<i7di", i + 1, *colmap_quaternion(truth), *truth.world_to_cam[:3, 3], 7)
        images += f"frame_{i}.png".encode() + b"\0" + struct.pack("<Q", len(WORLD))
        for k, (u, v) in enumerate(pinhole(truth.K, truth.world_to_cam)):
            images += struct.pack("<ddq", u, v, 40 + k if k else -1)
    (folder / "images.bin").write_bytes(images)
    points = struct.pack("<Q", len(WORLD))
    for k, xyz in enumerate(WORLD):
        points += struct.pack("<Q3d3BdQ", 40 + k, *xyz, 10, 20, 30, 0.3, 2) + struct.pack("<4i", 1, k, 2, k)
    (folder / "points3D.bin").write_bytes(points)
    if frames:  # two images an instant, in COLMAP 3.12's layout
        data = struct.pack("<Q", 2)
        for f in range(2):
            data += struct.pack("<II7dI", 5 + f, 1, 1, 0, 0, 0, 0, 0, 0, 2)
            for sensor in (1, 2):
                data += struct.pack("<iIQ", 0, sensor, 2 * f + sensor)
        (folder / "frames.bin").write_bytes(data)


def test_colmap_binary_is_the_published_layout(tmp_path: Path) -> None:
    write_colmap_binary(tmp_path / "sparse")
    capture = opened(tmp_path)
    for i, truth in enumerate(CAMERAS):
        assert_same(capture, "camera", i, truth)
    assert capture.points is not None and capture.points.rgb is not None
    np.testing.assert_allclose(capture.points.xyz.numpy(), WORLD, atol=1e-6)
    np.testing.assert_allclose(capture.points.rgb[0].numpy() * 255, [10, 20, 30], atol=1e-4)
    seen = capture.observations["camera", 2]
    assert seen.points.tolist() == [1, 2, 3, 4]  # -1 = no point
    assert not capture.has("image")


def test_colmap_frames_are_the_time_axis(tmp_path: Path) -> None:
    write_colmap_binary(tmp_path / "sparse/0", frames=True)
    capture = opened(tmp_path)
    assert capture.frames == [0, 1] and len(capture.at(0)) == 2
