"""Readers against the formats' published projection equations, evaluated from the numbers in the files."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from scene4d.captures import CaptureWarning, open_capture
from tests.scene4d.captures_on_disk import (
    HEIGHT,
    WIDTH,
    WORLD,
    Truth,
    assert_projects,
    assert_same,
    counting_video,
    make_truth,
    opened,
    plain_image,
    read_count,
)

CAMERAS = [make_truth(seed) for seed in range(4)]


def opengl_pixels(c2w: np.ndarray, focal: tuple[float, float], center: tuple[float, float]) -> np.ndarray:
    """nerfstudio's and Blender's: the camera looks along -z, y is up, image rows go down."""
    local = (WORLD - c2w[:3, 3]) @ c2w[:3, :3]
    return np.stack(
        [center[0] - focal[0] * local[:, 0] / local[:, 2], center[1] + focal[1] * local[:, 1] / local[:, 2]], -1
    )


# -- nerfstudio and D-NeRF -------------------------------------------------------------------------------------------


def write_nerfstudio(root: Path, timed: bool, **top: object) -> dict:
    frames = []
    for i, truth in enumerate(CAMERAS):
        plain_image(root / f"images/frame_{i}.png", 50 + i)
        frame: dict = {"file_path": f"images/frame_{i}.png", "transform_matrix": truth.cam_to_world_opengl.tolist()}
        if timed:
            frame |= {"time": (i // 2) / 3, "camera_id": "left" if i % 2 == 0 else "right"}
        frames.append(frame)
    data = {"camera_model": "OPENCV", "fl_x": 70.0, "fl_y": 72.0, "cx": 31.0, "cy": 25.5, "w": WIDTH, "h": HEIGHT}
    data |= {"frames": frames[::-1], **top}  # the order in the file means nothing
    (root / "transforms.json").write_text(json.dumps(data))
    return data


def test_nerfstudio_projects_by_its_own_opengl_equations(tmp_path: Path) -> None:
    data = write_nerfstudio(tmp_path, timed=False)
    capture = opened(tmp_path)
    assert capture.format == "nerfstudio"
    for frame in data["frames"]:
        i = int(frame["file_path"][-5])
        c2w = np.array(frame["transform_matrix"])
        assert_projects(capture, "camera", i, opengl_pixels(c2w, (70.0, 72.0), (31.0, 25.5)))
        assert int(capture.image_u8(capture.view("camera", i))[0, 0, 0]) == 50 + i


def test_nerfstudio_times_make_frames_and_camera_ids_make_cameras(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path, timed=True)
    capture = opened(tmp_path)
    assert capture.frames == [0, 1] and sorted(capture.camera_names) == ["left", "right"]
    assert [v.time for v in capture.at(1)] == pytest.approx([1 / 3, 1 / 3])
    assert_same(capture, "right", 1, Truth(CAMERAS[3].rotation, CAMERAS[3].center, 70.0, 72.0))
    assert opened(tmp_path, fps=10.0).at(1)[0].time == pytest.approx(0.1)


def test_nerfstudio_mask_depth_points_and_splits(tmp_path: Path) -> None:
    data = write_nerfstudio(tmp_path, timed=False, test_filenames=["images/frame_2.png"], ply_file_path="sparse.ply")
    ignore = np.full((HEIGHT, WIDTH), 255, np.uint8)
    ignore[:10] = 0
    millimetres = np.full((HEIGHT, WIDTH), 2500, np.uint16)
    millimetres[0, 0] = 0
    for frame in data["frames"]:
        frame["mask_path"], frame["depth_file_path"] = "mask.png", "depth.png"
    cv2.imwrite(str(tmp_path / "mask.png"), ignore)
    cv2.imwrite(str(tmp_path / "depth.png"), millimetres)
    (tmp_path / "transforms.json").write_text(json.dumps(data))
    vertices = "".join(f"{x} {y} {z} 255 128 0\n" for x, y, z in WORLD)
    properties = "".join(f"property float {n}\n" for n in "xyz") + "".join(
        f"property uchar {n}\n" for n in ("red", "green", "blue")
    )
    header = f"ply\nformat ascii 1.0\nelement vertex {len(WORLD)}\n{properties}end_header\n"
    (tmp_path / "sparse.ply").write_text(header + vertices)
    capture = opened(tmp_path)
    view = capture.view("camera", 0)
    depth, valid = capture.depth(view), capture.valid(view)
    assert depth is not None and valid is not None and capture.points is not None and capture.points.rgb is not None
    assert depth[20, 20] == 2.5 and depth[0, 0] == 0.0
    assert not valid[:10].any() and valid[10:].all() and capture.mask(view) is None
    np.testing.assert_allclose(capture.points.xyz.numpy(), WORLD, atol=1e-6)
    np.testing.assert_allclose(capture.points.rgb[0].numpy(), [1.0, 128 / 255, 0.0], atol=1e-6)
    assert [v.frame for v in capture.split("test")] == [2] and len(capture.split("train")) == 3


def test_nerfstudio_camera_angle_and_image_size_stand_in_for_intrinsics(tmp_path: Path) -> None:
    data = write_nerfstudio(tmp_path, timed=False)
    for key in ("fl_x", "fl_y", "cx", "cy", "w", "h"):
        del data[key]
    data["camera_angle_x"] = 2 * np.arctan(0.5 * WIDTH / 90.0)
    (tmp_path / "transforms.json").write_text(json.dumps(data))
    expected = Truth(CAMERAS[0].rotation, CAMERAS[0].center, 90.0, 90.0, WIDTH / 2, HEIGHT / 2)
    assert_same(opened(tmp_path), "camera", 0, expected)


def test_dnerf_puts_transparent_pixels_on_white_and_reads_times_and_splits(tmp_path: Path) -> None:
    angle = 0.8
    focal = 0.5 * WIDTH / np.tan(0.5 * angle)
    picture = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    picture[10:20, 10:20] = (30, 60, 90, 255)  # BGRA
    for split, cameras in (("train", CAMERAS[:3]), ("test", CAMERAS[3:])):
        frames = []
        for i, truth in enumerate(cameras):
            (tmp_path / split).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / f"{split}/r_{i:03d}.png"), picture)
            time = i / 2 if split == "train" else 0.5
            frame = {"file_path": f"./{split}/r_{i:03d}", "rotation": 0.1, "time": time}
            frames.append({**frame, "transform_matrix": truth.cam_to_world_opengl.tolist()})
        data = {"camera_angle_x": angle, "frames": frames}
        (tmp_path / f"transforms_{split}.json").write_text(json.dumps(data))
    capture = opened(tmp_path)
    assert capture.format == "dnerf" and capture.frames == [0, 1, 2] and capture.duration == 1.0
    for i, truth in enumerate(CAMERAS[:3]):
        expected = opengl_pixels(truth.cam_to_world_opengl, (focal, focal), (WIDTH / 2, HEIGHT / 2))
        assert_projects(capture, "train", i, expected)
    (test,) = capture.split("test")
    assert (test.frame, test.time) == (1, 0.5)
    image, mask = capture.image_u8(test), capture.mask(test)
    assert mask is not None
    assert image[0, 0].tolist() == [255, 255, 255] and image[15, 15].tolist() == [90, 60, 30]
    assert mask[10:20, 10:20].all() and mask.sum() == 100


# -- Nerfies, HyperNeRF, DyCheck -------------------------------------------------------------------------------------


def nerfies_pixels(camera: dict) -> np.ndarray:
    """google/nerfies Camera.project, without distortion."""
    local = (np.array(camera["orientation"]) @ (WORLD - camera["position"]).T).T
    x, y = local[:, 0] / local[:, 2], local[:, 1] / local[:, 2]
    u = camera["focal_length"] * x + camera["skew"] * y + camera["principal_point"][0]
    v = camera["focal_length"] * camera["pixel_aspect_ratio"] * y + camera["principal_point"][1]
    return np.stack([u, v], -1)


def write_nerfies(root: Path, tangential_key: str, scale: int = 1) -> list[dict]:
    written = []
    (root / "camera").mkdir(parents=True)
    for i, truth in enumerate(CAMERAS):
        camera = {
            "orientation": truth.rotation.tolist(),
            "position": truth.center.tolist(),
            "focal_length": 70.0 * scale,
            "principal_point": [31.0 * scale, 25.5 * scale],
            "skew": 0.0,
            "pixel_aspect_ratio": 1.02,
            "radial_distortion": [0.0, 0.0, 0.0],
            tangential_key: [0.0, 0.0],
            "image_size": [WIDTH * scale, HEIGHT * scale],
        }
        (root / f"camera/item_{i}.json").write_text(json.dumps(camera))
        plain_image(root / f"rgb/{scale}x/item_{i}.png", 60 + i)
        written.append(camera)
    ids = [f"item_{i}" for i in range(len(CAMERAS))]
    dataset = {"count": len(ids), "ids": ids, "train_ids": ids[:3], "val_ids": ids[3:]}
    (root / "dataset.json").write_text(json.dumps(dataset))
    metadata = {id: {"warp_id": i // 2, "appearance_id": i, "camera_id": i % 2} for i, id in enumerate(ids)}
    (root / "metadata.json").write_text(json.dumps(metadata))
    (root / "scene.json").write_text(json.dumps({"scale": 0.5, "center": [1, 2, 3], "near": 0.25, "far": 2.0}))
    return written


@pytest.mark.parametrize("key", ["tangential", "tangential_distortion"])
def test_nerfies_projects_by_its_own_equations_in_world_units(tmp_path: Path, key: str) -> None:
    written = write_nerfies(tmp_path, key)
    capture = opened(tmp_path)
    assert capture.format == "nerfies" and capture.frames == [0, 1] and capture.camera_names == ["0", "1"]
    for i, camera in enumerate(written):
        assert_projects(capture, str(i % 2), i // 2, nerfies_pixels(camera))
    assert [v.split for v in capture.views] == ["train", "train", "train", "val"]
    assert capture.near_far == (0.5, 4.0)  # normalised units divided by the scale


@pytest.mark.parametrize("key", ["tangential", "tangential_distortion"])
def test_nerfies_lens_bends_and_skews_as_its_project_does(tmp_path: Path, key: str) -> None:
    from scene4d.captures.lens import to_pixels
    from scene4d.captures.nerfies import read_camera

    camera = write_nerfies(tmp_path, key)[0]
    camera |= {"skew": 1.5, "radial_distortion": [0.1, -0.2, 0.05], key: [0.002, -0.003]}
    (tmp_path / "camera.json").write_text(json.dumps(camera))
    lens, pose = read_camera(tmp_path / "camera.json")
    local = WORLD @ pose[:3, :3].T + pose[:3, 3]
    x, y = local[:, 0] / local[:, 2], local[:, 1] / local[:, 2]
    (k1, k2, k3), (t0, t1) = camera["radial_distortion"], camera[key]
    r2 = x**2 + y**2
    bend = 1 + r2 * (k1 + r2 * (k2 + k3 * r2))
    xd = x * bend + 2 * t0 * x * y + t1 * (r2 + 2 * x**2)
    yd = y * bend + 2 * t1 * x * y + t0 * (r2 + 2 * y**2)
    expected = np.stack([70 * xd + 1.5 * yd + 31.0, 70 * 1.02 * yd + 25.5], -1)
    np.testing.assert_allclose(to_pixels(lens, local[:, :2] / local[:, 2:]), expected, atol=1e-6)


def test_dycheck_scale_folder_depth_unit_covisibility_and_rate(tmp_path: Path) -> None:
    written = write_nerfies(tmp_path, "tangential_distortion", scale=2)
    (tmp_path / "extra.json").write_text(json.dumps({"factor": 2, "fps": 15.0}))
    for folder in ("splits", "depth/2x", "covisible/2x/val"):
        (tmp_path / folder).mkdir(parents=True)
    for split, ids in (("train", ["item_0", "item_2"]), ("val", ["item_1", "item_3"])):
        (tmp_path / f"splits/{split}.json").write_text(json.dumps({"frame_names": ids, "time_ids": [0, 1]}))
    np.save(tmp_path / "depth/2x/item_0.npy", np.full((HEIGHT, WIDTH, 1), 1500.0, np.float32))
    seen = np.zeros((HEIGHT, WIDTH), np.uint8)
    seen[:, :30] = 255
    cv2.imwrite(str(tmp_path / "covisible/2x/val/item_1.png"), seen)
    capture = opened(tmp_path)
    view, other = capture.view("0", 0), capture.view("1", 0)
    assert (view.width, view.height) == (WIDTH, HEIGHT)
    assert_projects(capture, "0", 0, nerfies_pixels(written[0]) / 2)  # intrinsics are those of the 1x images
    depth, covisible = capture.depth(view), capture.covisible(other)
    assert depth is not None and covisible is not None and capture.depth(other) is None
    assert depth.unique().tolist() == [1.5]  # millimetres
    assert covisible[:, :30].all() and not covisible[:, 30:].any()
    assert capture.view("0", 1).time == pytest.approx(1 / 15) and other.split == "val" and view.split == "train"


def test_hypernerf_interp_takes_every_fourth_item(tmp_path: Path) -> None:
    write_nerfies(tmp_path, "tangential")
    dataset = json.loads((tmp_path / "dataset.json").read_text()) | {"val_ids": []}
    (tmp_path / "dataset.json").write_text(json.dumps(dataset))
    (tmp_path / "metadata.json").write_text(json.dumps({f"item_{i}": {"warp_id": i} for i in range(4)}))
    assert [v.split for v in opened(tmp_path).views] == ["train", "unused", "val", "unused"]


# -- LLFF / Neural 3D Video, Immersive -------------------------------------------------------------------------------


def write_n3dv(root: Path, names: tuple[str, ...] = ("cam00", "cam01", "cam02", "cam04")) -> None:
    rows = []
    for truth in CAMERAS[: len(names)]:
        right, down, forward = truth.rotation
        matrix = np.stack([down, right, -forward, truth.center, [HEIGHT, WIDTH, 70.0]], 1)  # LLFF: down, right, back
        rows.append([*matrix.reshape(-1), 0.5, 9.0])
    root.mkdir(exist_ok=True)
    np.save(root / "poses_bounds.npy", np.array(rows))
    for name in names:
        counting_video(root / f"{name}.mp4", 5)


def test_n3dv_rows_are_llffs_down_right_backward_and_go_with_sorted_videos(tmp_path: Path) -> None:
    write_n3dv(tmp_path)
    capture = opened(tmp_path)
    assert capture.format == "n3dv" and capture.camera_names == ["cam00", "cam01", "cam02", "cam04"]
    for name, truth in zip(capture.camera_names, CAMERAS, strict=True):
        assert_same(capture, name, 3, Truth(truth.rotation, truth.center, 70.0, 70.0, WIDTH / 2, HEIGHT / 2))
    assert {v.camera for v in capture.split("test")} == {"cam00"} and capture.near_far == (0.5, 9.0)
    assert read_count(capture.image_u8(capture.view("cam04", 3)).numpy()) == 3
    assert capture.view("cam01", 3).time == pytest.approx(0.1)


def test_n3dv_reads_folders_of_extracted_frames_at_half_size(tmp_path: Path) -> None:
    write_n3dv(tmp_path, ("cam00", "cam01"))
    for name in ("cam00", "cam01"):
        (tmp_path / f"{name}.mp4").unlink()
        for i in range(3):
            plain_image(tmp_path / f"{name}/images/{i:04d}.png", 10 * i, (WIDTH // 2, HEIGHT // 2))
    capture = opened(tmp_path)
    truth = CAMERAS[1]
    assert_same(capture, "cam01", 2, Truth(truth.rotation, truth.center, 35.0, 35.0, WIDTH / 4, HEIGHT / 4))
    assert capture.duration == 1.0


def test_n3dv_leaves_out_the_unsynchronised_camera_of_coffee_martini(tmp_path: Path) -> None:
    write_n3dv(tmp_path / "coffee_martini", ("cam00", "cam12", "cam13"))
    with pytest.warns(CaptureWarning, match="cam13 is not synchronised"):
        capture = open_capture(tmp_path / "coffee_martini")
    assert capture.camera_names == ["cam00", "cam12"]


def test_immersive_projects_the_worked_example_of_its_readme(tmp_path: Path) -> None:
    """The page gives a camera and a point and says where it falls: [1377.85525, 1017.61440]."""
    from scene4d.captures.immersive import fisheye_camera
    from scene4d.captures.lens import to_pixels

    view = {
        "name": "camera_0001",
        "position": [0.003311238794086777, 0.000126384684934784, 0.42421246053630285],
        "orientation": [-0.03295944563072383, 0.02964606619481096, -0.03337751007195316],
        "focal_length": 1111.3638715594666,
        "pixel_aspect_ratio": 1.0,
        "principal_point": [1284.7296468363463, 925.4651609728676],
        "height": 1920.0,
        "width": 2560.0,
        "radial_distortion": [0.0970525284520715, -0.01708587111009977, 0.0],
        "projection_type": "fisheye",
    }
    lens, pose = fisheye_camera(view, "example")
    local = pose[:3, :3] @ [0.5, 0.5, 10.0] + pose[:3, 3]
    np.testing.assert_allclose(to_pixels(lens, local[:2] / local[2]), [1377.85525, 1017.61440], atol=1e-5)


def test_immersive_goes_by_name_and_tolerates_missing_cameras(tmp_path: Path) -> None:
    models = []
    for i, truth in enumerate(CAMERAS[:3]):
        vector = Rotation.from_matrix(truth.rotation).as_rotvec().tolist()
        models.append({"name": f"camera_{9 - i:04d}", "position": truth.center.tolist(), "orientation": vector,
                       "focal_length": 40.0, "principal_point": [31.0, 25.5], "width": float(WIDTH),
                       "height": float(HEIGHT), "radial_distortion": [0.0, 0.0, 0.0]})  # fmt: skip
    (tmp_path / "models.json").write_text(json.dumps(models))
    for i in (0, 2):
        counting_video(tmp_path / f"camera_{9 - i:04d}.mp4", 3)
    with pytest.warns(CaptureWarning, match="1 cameras have no video"):
        capture = open_capture(tmp_path)
    assert capture.camera_names == ["camera_0009", "camera_0007"]
    for i, name in ((0, "camera_0009"), (2, "camera_0007")):
        view = capture.view(name, 1)
        assert view.world_to_cam is not None
        np.testing.assert_allclose(view.world_to_cam.numpy(), CAMERAS[i].world_to_cam, atol=1e-6)
