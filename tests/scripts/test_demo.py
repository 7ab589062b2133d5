"""The demo's scene is what it claims to be, and its files hold what was rendered."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from scripts import demo


@pytest.fixture(scope="module")
def surfaces() -> list[demo.Surface]:
    return demo.build_surfaces()


def test_scene_has_a_modest_number_of_gaussians(surfaces: list[demo.Surface]) -> None:
    assert 20_000 <= sum(len(surface.points) for surface in surfaces) <= 50_000


def test_motion_repeats_after_one_period_and_not_before(surfaces: list[demo.Surface]) -> None:
    start, end, half = (demo.gaussians_at(surfaces, phase)[0].means for phase in (0.0, 1.0, 0.45))
    torch.testing.assert_close(start, end, atol=1e-5, rtol=0)
    moved = (start - half).norm(dim=1) > 0.05
    ground = len(surfaces[0].points)
    assert not moved[:ground].any() and moved[ground:].float().mean() > 0.9


def test_poses_are_rigid() -> None:
    for pose in demo.poses_at(0.37):
        torch.testing.assert_close(pose.rotation @ pose.rotation.T, torch.eye(3))
        torch.testing.assert_close(torch.linalg.det(pose.rotation), torch.tensor(1.0))


def test_no_object_sinks_into_the_ground(surfaces: list[demo.Surface]) -> None:
    ground = len(surfaces[0].points)
    for phase in np.linspace(0, 1, 24):
        assert demo.gaussians_at(surfaces, float(phase))[0].means[ground:, 1].min() > -1e-5


def test_splats_lie_flat_on_their_surfaces(surfaces: list[demo.Surface]) -> None:
    normals = torch.cat([surface.normals for surface in surfaces])
    turned = Rotation.from_quat(demo.facing(normals).numpy(), scalar_first=True).apply([0.0, 0.0, 1.0])
    np.testing.assert_allclose(turned, normals.numpy(), atol=1e-5)  # float32
    np.testing.assert_allclose(normals.norm(dim=1).numpy(), 1, atol=1e-5)


@pytest.mark.parametrize("phase", [0.0, 0.3])
def test_camera_sees_its_target_in_the_middle_and_the_sky_above(phase: float) -> None:
    cameras = demo.camera_at(phase, 64, 36)
    T_cam_world, K = cameras.world_to_cam[0], cameras.K[0]
    pixels = []
    for y in (0.8, 1.8):  # the target, and a point above it
        seen = K @ (T_cam_world @ torch.tensor([0.0, y, 0.0, 1.0]))[:3]
        pixels.append(seen[:2] / seen[2])
    torch.testing.assert_close(pixels[0], torch.tensor([32.0, 18.0]), atol=1e-4, rtol=0)
    assert pixels[1][1] < pixels[0][1]
    torch.testing.assert_close(torch.linalg.det(T_cam_world[:3, :3]), torch.tensor(1.0))


def test_video_and_contact_sheet_show_the_rendered_frames(
    tmp_path: Path, surfaces: list[demo.Surface], capsys: pytest.CaptureFixture[str]
) -> None:
    config = demo.Config(out=tmp_path / "a folder", frames=3, width=160, height=90)
    demo.main(config)
    video, sheet = config.out / "scene.mp4", config.out / "contact_sheet.png"
    assert str(video) in (printed := capsys.readouterr().out) and str(sheet) in printed
    with av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    rendered = [demo.over_sky(demo.render_frame(surfaces, index / 3, config)[0]) for index in range(3)]
    assert len(frames) == 3
    for frame, image in zip(frames, rendered, strict=True):
        error = (frame.astype(float) - image).std()  # coding at crf 16 and halved chroma; other frames differ by > 25
        assert error < 12
    shown = cv2.imread(str(sheet))
    assert shown is not None and shown.shape == (28 + 3 * 45, 4 * 80, 3)


def test_odd_image_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="width and height must be even and at least 2, got 161x90"):
        demo.Config(width=161, height=90)
