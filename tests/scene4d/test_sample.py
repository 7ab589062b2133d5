"""`scene4d sample`: the synthetic ones end to end; the real one with the wheel replaced by a small one."""

import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest

from scene4d import cli
from scene4d.captures import open_capture
from scene4d.commands.sample import Config
from scene4d.worlds import WORLDS, load_truth, treadmill


def test_every_world_has_a_sample() -> None:
    assert set(get_args(get_type_hints(Config)["name"])) == {*WORLDS, "treadmill"}


def test_sample_writes_a_capture_that_opens(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "arm"
    options = ["--frames", "4", "--width", "32", "--height", "24", "--lit", "--seed", "3", "--mask-noise", "1"]
    assert cli.main(["sample", "arm", "--out", str(out), *options]) == 0
    assert capsys.readouterr().out.endswith("wrote arm\n")
    capture = open_capture(out)
    assert len(capture.views) == 8 * 4 and capture.views[0].width == 32
    assert load_truth(out)[0].light is not None
    assert json.loads((out / "truth.json").read_text())["noise"]["seed"] == 3
    assert cli.main(["sample", "arm", "--out", str(out)]) == 2
    assert "already exists" in capsys.readouterr().err


def test_moving_rig_gives_one_camera(tmp_path: Path) -> None:
    options = ["--rig", "moving", "--frames", "3", "--width", "32", "--height", "24"]
    assert cli.main(["sample", "plane_sphere", "--out", str(tmp_path / "one"), *options]) == 0
    assert open_capture(tmp_path / "one").camera_names == ["cam00"]


@pytest.mark.parametrize("bad", [["--frames", "0"], ["--width", "100000"], ["--depth-noise", "-1"], ["--fps", "nan"]])
def test_values_out_of_range_are_usage_errors(bad: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["sample", "room", "--out", str(tmp_path / "x"), *bad]) == 2
    assert bad[0].strip("-").replace("-", "_") in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_package_index_out_of_reach_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # pip then finds nothing, at once
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert cli.main(["sample", "treadmill", "--out", str(tmp_path / "t")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "pip could not download pose2sim==0.10.49" in lines[0] and "--wheel" in lines[0]
    assert not list(tmp_path.iterdir())


def test_wheel_of_another_content_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    wheel = tmp_path / treadmill.WHEEL
    wheel.write_bytes(b"not the wheel")
    assert cli.main(["sample", "treadmill", "--out", str(tmp_path / "t"), "--wheel", str(wheel)]) == 2
    assert "sha256" in capsys.readouterr().err
    assert cli.main(["sample", "treadmill", "--out", str(tmp_path / "t"), "--wheel", str(tmp_path / "no")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


CAMERA = """<camera serial="{name}"><fov_video left="0" right="1087" top="0" bottom="1919"/>
  <transform x="{x}" y="{y}" z="{z}" {turn}/>
  <intrinsic focalLengthU="{fu}" focalLengthV="{fv}" centerPointU="{cu}" centerPointV="{cv}"
    radialDistortion1="{d[0]}" radialDistortion2="{d[1]}" tangentalDistortion1="{d[2]}" tangentalDistortion2="{d[3]}"/>
</camera>"""


def qualisys_text(cameras: list[dict]) -> str:
    """A calibration as Qualisys writes it, from OpenCV cameras (K, distortion, world_to_cam in metres)."""
    parts = []
    for camera in cameras:
        pose, K = np.array(camera["world_to_cam"]), np.array(camera["K"]) * 64
        center = -1000 * pose[:3, :3].T @ pose[:3, 3]
        R = np.diag([1.0, -1.0, -1.0]) @ pose[:3, :3]
        turn = " ".join(f'r{i + 1}{j + 1}="{R[i, j]!r}"' for i in range(3) for j in range(3)).replace("np.float64", "")
        lens = dict(zip(("fu", "fv", "cu", "cv"), (K[0, 0], K[1, 1], K[0, 2], K[1, 2]), strict=True))
        x, y, z = center
        turn = turn.replace("(", "").replace(")", "")
        parts.append(CAMERA.format(name=camera["name"], x=x, y=y, z=z, turn=turn, d=camera["distortion"], **lens))
    return f"<calibration><cameras>{''.join(parts)}</cameras></calibration>"


def test_calibration_becomes_opencv_cameras() -> None:
    # A Qualisys camera without rotation stands at (1, 2, 3) m and looks along -z with y up.
    turn = " ".join(f'r{i}{j}="{int(i == j)}"' for i in (1, 2, 3) for j in (1, 2, 3))
    lens = {"fu": 6400, "fv": 6464, "cu": 3200, "cv": 6720}
    text = CAMERA.format(name="cam09", x=1000, y=2000, z=3000, turn=turn, d=[0.1, 0.2, 0.3, 0.4], **lens)
    (camera,) = treadmill.read_calibration(f"<c>{text}</c>")
    assert camera["size"] == (1088, 1920) and camera["distortion"] == [0.1, 0.2, 0.3, 0.4]
    np.testing.assert_allclose(camera["K"], [[100, 0, 50], [0, 101, 105], [0, 0, 1]])
    up_left = camera["world_to_cam"] @ [0.5, 2.25, -1.0, 1.0]  # 4 m before the camera, half a metre left, a quarter up
    np.testing.assert_allclose(up_left, [-0.5, -0.25, 4.0, 1.0], atol=1e-12)


@pytest.fixture
def data() -> Path:
    root = os.environ.get("SCENE4D_TEST_DATA")
    folder = Path(root or "") / "treadmill"
    if not root or not folder.is_dir():
        pytest.skip("needs SCENE4D_TEST_DATA with treadmill/")
    return folder


def test_treadmill_is_written_from_its_wheel(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel is put together from the test data: its videos, and its calibration turned back."""
    known = json.loads((data / "cameras.json").read_text())["cameras"]
    back = [
        {"name": c["name"], "K": c["K_calibration"], "distortion": c["dist_k1k2p1p2"], "world_to_cam": c["w2c"]}
        for c in known
    ]
    wheel = tmp_path / treadmill.WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(treadmill.CALIBRATION, qualisys_text(back))
        archive.write(data / "LICENSE", treadmill.LICENSE)
        for c in known:
            archive.write(data / c["video"], treadmill.VIDEOS.format(name=c["name"]))
    monkeypatch.setattr(treadmill, "SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    out = tmp_path / "treadmill"
    assert cli.main(["sample", "treadmill", "--out", str(out), "--wheel", str(wheel)]) == 0
    assert (out / "LICENSE").read_text() == (data / "LICENSE").read_text()
    found = {c["name"]: c for c in json.loads((out / "cameras.json").read_text())["cameras"]}
    for c in known:
        mine = found[c["name"]]
        np.testing.assert_allclose(mine["world_to_cam"], c["w2c"], atol=1e-9)
        scale = c["video_from_calibration"]["scale"]
        corrected = np.array(c["K"])
        corrected[:2, 2] += scale * np.array(treadmill.CENTER_OFFSETS[c["name"]])
        np.testing.assert_allclose(mine["K"], corrected, atol=1e-9)
        assert mine["distortion"]["coefficients"] == pytest.approx(c["dist_k1k2p1p2"])
    capture = open_capture(out)
    assert len(capture.views) == 400 and capture.fps == 60 and len(capture.split("test")) == 4 * 12
    bars = capture.valid(capture.view("cam01", 50))
    assert bars is not None and 0.99 < bars.double().mean() < 1.0
    image = capture.image(capture.view("cam01", 50))
    full_rows = bars.all(-1)
    assert image[full_rows].mean((1, 2)).min() > 0.15  # no black row is left in the valid area,
    assert image.mean((1, 2)).min() < 0.05  # and there are some in the picture
