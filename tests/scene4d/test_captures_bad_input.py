"""Broken, hostile and half-copied captures: one clear line each, soon, and nothing outside of the folder is opened."""

from __future__ import annotations

import json
import struct
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from scene4d.captures import CaptureWarning, open_capture
from scene4d.captures.inspection import inspect_capture
from scene4d.cli import main
from scene4d.errors import InputError
from tests.scene4d.captures_on_disk import HEIGHT, WIDTH, counting_video, make_truth, plain_image


def fails(path: Path, *words: str, inspect: bool = False) -> None:
    """Opening (or inspecting) raises one line that holds the words, within two seconds."""
    start = time.perf_counter()
    with warnings.catch_warnings(), pytest.raises(InputError) as error:
        warnings.simplefilter("ignore", CaptureWarning)
        capture = open_capture(path)
        if inspect:
            inspect_capture(capture, samples=4)
    message = str(error.value)
    assert "\n" not in message and len(message) < 600
    for word in words:
        assert word in message, message
    assert time.perf_counter() - start < 2.0


def ours(root: Path) -> dict:
    truth = make_truth(0)
    for i in range(4):
        plain_image(root / f"images/{i}.png", 40)
    camera = {"name": "a", "images": "images", "fps": 30, "width": WIDTH, "height": HEIGHT, "frames": 4,
              "K": truth.K.tolist(), "world_to_cam": truth.world_to_cam.tolist()}  # fmt: skip
    return {"cameras": [camera]}


def write(root: Path, data: object) -> Path:
    (root / "cameras.json").write_text(json.dumps(data))
    return root


def scaled_pose() -> list:
    pose = make_truth(0).world_to_cam
    pose[:3, :3] *= 1.5
    return pose.tolist()


def mirrored_pose() -> list:
    pose = make_truth(0).world_to_cam
    pose[0] *= -1
    return pose.tolist()


NAN_POSE = np.where(np.eye(4) > 0, np.nan, 0.0).tolist()

CAMERA_FAULTS: list[tuple[dict, tuple[str, ...]]] = [
    ({"world_to_cam": NAN_POSE}, ("camera a", "NaN")),
    ({"world_to_cam": scaled_pose()}, ("camera a", "not rigid")),
    ({"world_to_cam": mirrored_pose()}, ("camera a", "mirrors")),
    ({"world_to_cam": [[1, 0], [0, 1]]}, ("camera a", "shape")),
    ({"world_to_cam": [[1e308] * 4] * 4}, ("camera a", "1e+308")),
    ({"world_to_cam": "diag"}, ("camera a", "world_to_cam")),
    ({"world_to_cam": [np.eye(4).tolist()] * 3}, ("4 images but 3 poses",)),
    ({"K": [[-70, 0, 32], [0, 70, 24], [0, 0, 1]]}, ("camera a", "focal length fx must be positive")),
    ({"K": [[70, 0, 9000], [0, 70, 24], [0, 0, 1]]}, ("camera a", "principal point cx = 9000", "far outside")),
    ({"K": [[70, 0, 32], [0, 70, 24], [0, 1, 1]]}, ("camera a", "K must be")),
    ({"K": [[1e308, 0, 32], [0, 70, 24], [0, 0, 1]]}, ("camera a", "1e+308")),
    ({"width": 10**400}, ("camera a", "width")),
    ({"width": 1920, "height": 1080}, ("not the same shape",)),
    ({"width": -5}, ("camera a", "width")),
    ({"frames": 10**12}, ("camera a", "frames")),
    ({"frames": 9}, ("9 frames are promised, 4 found",)),
    ({"fps": 0}, ("camera a", "fps")),
    ({"fps": float("nan")}, ("camera a", "fps")),
    ({"distortion": {"model": "opencv", "coefficients": [1, 2, 3]}}, ("camera a", "coefficients, got 3")),
    ({"distortion": {"model": "kb9", "coefficients": [1]}}, ("camera a", "'kb9'", "known: pinhole, opencv")),
    ({"images": "nowhere"}, ("nowhere", "is missing")),
    ({"images": "../../etc"}, ("'../../etc'", "outside of the capture's folder")),
    ({"images": "/etc"}, ("'/etc'", "outside of the capture's folder")),
    ({"images": "a\0b"}, ("file name",)),
    ({"images": ["images/0.png", "images/1.png", "images/2.png", "images/7.png"]}, ("7.png", "is missing")),
    ({"images": 5}, ("file name",)),
    ({"masks": "images/../.."}, ("outside of the capture's folder",)),
    ({"name": ""}, ("name",)),
]


@pytest.mark.parametrize(("change", "words"), CAMERA_FAULTS, ids=[f"{i}" for i in range(len(CAMERA_FAULTS))])
def test_a_fault_in_a_camera_is_one_clear_line(tmp_path: Path, change: dict, words: tuple[str, ...]) -> None:
    data = ours(tmp_path)
    data["cameras"][0] |= change
    fails(write(tmp_path, data), *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, ("nested too deeply",)),
        ('{"cameras": [{"K": ' + "9" * 5000 + "}]}", ("cameras.json",)),
        ("{", ("not valid JSON",)),
        ("\xff\xfe", ("not valid JSON",)),
        ('{"cameras": []}', ("non-empty list",)),
        ('{"cameras": [3]}', ("list of objects",)),
        ('{"cameras": [{}], "version": 99}', ("version 99", "update scene4d")),
        ('{"frames": [{"file": "x.png"}]}', ("camera",)),
    ],
)
def test_a_broken_cameras_json_is_one_clear_line(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    (tmp_path / "cameras.json").write_text(text, encoding="latin-1")
    fails(tmp_path, *words)


def test_empty_and_missing_folders(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", "the folder is empty")
    fails(tmp_path / "none", "no such file or folder")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/readme.txt").write_text("hello")
    fails(tmp_path / "other", "holds no known capture", "transforms.json")
    fails(tmp_path / "other/readme.txt", "not a file that describes a capture")


def test_links_are_followed_but_names_are_not_allowed_out(tmp_path: Path) -> None:
    """A folder of links to big data elsewhere is the user's own doing; a name in a file is not."""
    data = ours(tmp_path / "real")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/images").symlink_to(tmp_path / "real/images")
    assert len(open_capture(write(tmp_path / "linked", data))) == 4


def test_mixed_sizes_and_a_truncated_picture_are_found_before_a_fit(tmp_path: Path) -> None:
    data = ours(tmp_path)
    plain_image(tmp_path / "images/2.png", 40, (WIDTH, HEIGHT + 2))
    fails(write(tmp_path, data), "2.png", "mixed sizes", inspect=True)
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    encoded = cv2.imencode(".png", noise)[1].tobytes()
    (tmp_path / "images/2.png").write_bytes(encoded[: len(encoded) // 2])
    with pytest.raises(InputError, match=r"2.png"):
        inspect_capture(open_capture(tmp_path), samples=4)


def test_a_missing_frame_between_others_is_named(tmp_path: Path) -> None:
    for i in range(3):
        plain_image(tmp_path / f"images/{i}.png")
    pose = make_truth(0).cam_to_world_opengl.tolist()
    frames = [{"file_path": f"images/{i}.png", "transform_matrix": pose, "time": i / 3} for i in range(4)]
    (tmp_path / "transforms.json").write_text(json.dumps({"fl_x": 70, "frames": frames}))
    fails(tmp_path, "images/3.png", "the image is missing")


def test_an_image_that_promises_a_gigapixel_is_refused_unread(tmp_path: Path) -> None:
    data = ours(tmp_path)
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    import zlib

    chunk = b"IHDR" + header
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "images/0.png").write_bytes(png + b"\0" * 64)
    fails(write(tmp_path, data), "0.png")


def colmap_image(rest: bytes, qw: float = 1.0, tx: float = 0.0) -> bytes:
    """images.bin with one image whose name and points are `rest`."""
    return struct.pack("<Q", 1) + struct.pack("<i7di", 1, qw, 0, 0, 0, tx, 0, 0, 1) + rest


def write_colmap(root: Path, **files: bytes) -> Path:
    folder = root / "sparse/0"
    folder.mkdir(parents=True)
    good = {
        "cameras": struct.pack("<QiiQQ4d", 1, 1, 1, WIDTH, HEIGHT, 70.0, 70.0, 32.0, 24.0),
        "images": struct.pack("<Q", 1) + struct.pack("<i7di", 1, 1, 0, 0, 0, 0, 0, 0, 1) + b"a.png\0" + b"\0" * 8,
        "points3D": struct.pack("<Q", 0),
    }
    for name, data in (good | files).items():
        (folder / f"{name}.bin").write_bytes(data)
    return root


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"images": struct.pack("<Q", 2**62)}, ("images.bin", "promises", "truncated")),
        ({"cameras": struct.pack("<Q", 2**64 - 1) + b"\0" * 200}, ("cameras.bin", "promises")),
        ({"points3D": struct.pack("<Q", 10**9) + b"\0" * 400}, ("points3D.bin", "promises")),
        ({"cameras": struct.pack("<QiiQQ4d", 1, 1, 99, 64, 48, 1, 1, 1, 1)}, ("camera 1", "model 99 is not supported")),
        ({"cameras": struct.pack("<QiiQQ4d", 1, 1, 1, 2**60, 48, 1, 1, 1, 1)}, ("camera 1", "width")),
        ({"cameras": struct.pack("<QiiQQ4d", 1, 2, 1, 64, 48, 70, 70, 32, 24)}, ("names camera 1",)),
        ({"images": colmap_image(b"a\0" + b"\0" * 8, qw=9.0)},
         ("quaternion",)),
        ({"images": colmap_image(b"a" * 80)}, ("no end",)),
        ({"images": colmap_image(b"a\0" + b"\0" * 8, tx=float("nan"))},
         ("NaN",)),
        ({"images": colmap_image(b"../../a.png\0" + b"\0" * 8)},
         ("outside of the capture's folder",)),
    ],
)  # fmt: skip
def test_a_hostile_colmap_model_is_one_clear_line(tmp_path: Path, files: dict, words: tuple[str, ...]) -> None:
    fails(write_colmap(tmp_path, **files), *words)


def test_every_prefix_of_a_colmap_model_is_refused_or_read(tmp_path: Path) -> None:
    """No length at which a copy can stop makes the reader crash or read past the end."""
    from scene4d.captures.colmap_files import read_model

    folder = write_colmap(tmp_path) / "sparse/0"
    for name in ("cameras.bin", "images.bin"):
        whole = (folder / name).read_bytes()
        for length in range(len(whole)):
            (folder / name).write_bytes(whole[:length])
            with pytest.raises(InputError):
                read_model(folder)
        (folder / name).write_bytes(whole)
    assert len(read_model(folder).images) == 1


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable, tuple]:
            return (Path.touch, (tmp_path / "boom",))

    np.save(tmp_path / "poses_bounds.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    counting_video(tmp_path / "cam00.mp4", 2)
    fails(tmp_path, "poses_bounds.npy")
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("shape", [(10**12, 17), (2**40, 2**20)])
def test_an_array_that_promises_more_than_its_file_holds_is_refused(tmp_path: Path, shape: tuple[int, int]) -> None:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + b"\0" * 200
    (tmp_path / "poses_bounds.npy").write_bytes(data)
    fails(tmp_path, "poses_bounds.npy")


def test_rows_and_videos_that_do_not_pair_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "poses_bounds.npy", np.ones((3, 17)))
    counting_video(tmp_path / "cam00.mp4", 2)
    fails(tmp_path, "3 poses", "1 videos")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("element vertex 999999999\nproperty float x\nproperty float y\nproperty float z\n", ("promises 999999999",)),
        ("element vertex -1\nproperty float x\n", ("vertex",)),
        ("element vertex 1\nproperty list uchar int x\n", ("unsupported vertex property",)),
        ("element vertex 1\nproperty float a\n", ("no x, y, z",)),
        ("element face 1\nproperty float x\n", ("first element",)),
    ],
)
def test_a_hostile_point_file_is_one_clear_line(tmp_path: Path, header: str, words: tuple[str, ...]) -> None:
    (tmp_path / "p.ply").write_bytes(
        f"ply\nformat binary_little_endian 1.0\n{header}end_header\n".encode() + b"\0" * 12
    )
    fails(write(tmp_path, ours(tmp_path) | {"points": "p.ply"}), "p.ply", *words)


def test_the_command_ends_with_code_2_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ours(tmp_path)
    data["cameras"][0]["world_to_cam"] = NAN_POSE
    assert main(["inspect", str(write(tmp_path, data))]) == 2
    streams = capsys.readouterr()
    assert streams.out == "" and streams.err.count("\n") == 1 and "NaN" in streams.err
    assert main(["inspect", str(tmp_path), "--format", "nerfstodio"]) == 2
    assert "nerfstodio" in capsys.readouterr().err


def nerfstudio(root: Path) -> tuple[str, object]:
    plain_image(root / "images/0.png")
    pose = make_truth(0).cam_to_world_opengl.tolist()
    frame = {"file_path": "images/0.png", "transform_matrix": pose, "time": 0.5, "camera_id": 3}
    data = {"fl_x": 70.0, "cx": 32.0, "w": WIDTH, "h": HEIGHT, "camera_model": "OPENCV", "k1": 0.01, "fps": 30,
            "frames": [frame], "train_filenames": ["images/0.png"], "depth_unit_scale_factor": 0.001}  # fmt: skip
    return "transforms.json", data


def dnerf(root: Path) -> tuple[str, object]:
    plain_image(root / "train/r_0.png")
    pose = make_truth(0).cam_to_world_opengl.tolist()
    frames = [{"file_path": "./train/r_0", "time": 0.0, "transform_matrix": pose}]
    return "transforms_train.json", {"camera_angle_x": 0.7, "frames": frames}


def immersive(root: Path) -> tuple[str, object]:
    counting_video(root / "camera_0001.mp4", 2)
    return "models.json", [{"name": "camera_0001", "position": [0.0, 0, -3], "orientation": [0.1, 0, 0],
                            "focal_length": 40.0, "pixel_aspect_ratio": 1.0, "principal_point": [32.0, 24],
                            "width": 64.0, "height": 48.0, "radial_distortion": [0.01, 0, 0],
                            "projection_type": "fisheye"}]  # fmt: skip


def nerfies(root: Path) -> tuple[str, object]:
    """The camera file is damaged; the others, written here, are good."""
    plain_image(root / "rgb/1x/0.png")
    (root / "camera").mkdir(exist_ok=True)
    (root / "dataset.json").write_text(json.dumps({"ids": ["0"], "train_ids": ["0"], "val_ids": ["0"]}))
    camera = {"orientation": np.eye(3).tolist(), "position": [0.0, 0, -3], "focal_length": 70.0, "skew": 0.0,
              "principal_point": [32.0, 24], "pixel_aspect_ratio": 1.0, "radial_distortion": [0.01, 0, 0],
              "tangential_distortion": [0.0, 0.001], "image_size": [WIDTH, HEIGHT]}  # fmt: skip
    return "camera/0.json", camera


def nerfies_lists(root: Path) -> tuple[str, object]:
    name, camera = nerfies(root)
    (root / name).write_text(json.dumps(camera))
    (root / "metadata.json").write_text(json.dumps({"0": {"warp_id": 0, "camera_id": 0}}))
    return "dataset.json", {"ids": ["0"], "train_ids": ["0"], "val_ids": ["0"]}


def moving(root: Path) -> tuple[str, object]:
    plain_image(root / "images/0.png")
    pose = make_truth(0).world_to_cam.tolist()
    frames = [{"file": "images/0.png", "time": 0.0, "w2c": pose}]
    camera = {"model": "SIMPLE_RADIAL", "w": WIDTH, "h": HEIGHT, "f": 70.0, "cx": 32.0, "cy": 24.0, "k1": 0.01}
    return "cameras.json", {"camera": camera, "frames": frames, "fps": 30, "depth_scale": 1.0}


def several(root: Path) -> tuple[str, object]:
    extra = {"split": {"test_cameras": ["a"], "test_frames": [1]}, "near_far": [0.1, 5], "units": "m", "version": 1}
    return "cameras.json", ours(root) | extra


ODD = [None, -1, 1e308, "x", [], {}, True, [[]], float("nan"), 10**30, "../x", [None], {"a": 1}, "", [[1, 2], [3]], 0]


@pytest.mark.parametrize("form", [nerfstudio, dnerf, immersive, nerfies, nerfies_lists, moving, several])
def test_random_damage_never_gives_anything_but_an_input_error(
    tmp_path: Path, form: Callable[[Path], tuple[str, object]]
) -> None:
    """Files with one value, anywhere in the tree, replaced by something odd."""
    rng = np.random.default_rng(0)
    name, base = form(tmp_path)
    refused = 0
    for _ in range(300):
        node = data = json.loads(json.dumps(base))
        while True:  # walk to a random place
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            key = keys[rng.integers(len(keys))]
            if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.2:
                break
            node = node[key]
        node[key] = ODD[rng.integers(len(ODD))]
        (tmp_path / name).write_text(json.dumps(data))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CaptureWarning)
                open_capture(tmp_path)
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 100
