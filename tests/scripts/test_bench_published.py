"""The published protocols on a small world, written in each data set's format from the format's description alone.

The project is either made of the world's truth (then poses, times and sizes fit, or its pictures do not), or shows
nothing but its background (then every score is known in closed form).
"""

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from torch import Tensor

from renderers import Cameras, Gaussians
from scene4d.errors import InputError
from scene4d.files.project import Project, save_project
from scene4d.metrics.covisible import covisible_ssim
from scene4d.metrics.images import ssim
from scene4d.metrics.perceptual import load_lpips
from scene4d.scene import static_scene
from scene4d.worlds import arc_rig, make_world, moving_rig, trace
from scripts import bench_published as bench
from tests.scene4d.captures_on_disk import real_data, write_video
from tests.scene4d.test_evaluate_truth import surface_scene

WIDTH, HEIGHT, TIMES = 64, 48, [0.0, 0.25, 0.5, 0.75, 1.0]
WORLD = make_world("plane_sphere")


def silent(_: str) -> None:
    pass


def photo(cameras: Cameras, time: float, scale: int = 1) -> np.ndarray:
    """uint8 [H, W, 3] RGB of the first camera, `scale` times as large."""
    K = cameras.K[:1] * torch.tensor([scale, scale, 1.0])[:, None]
    larger = Cameras(cameras.world_to_cam[:1], K.double(), cameras.width * scale, cameras.height * scale)
    return (trace(WORLD, larger, time).images[0] * 255).round().byte().numpy()


def one(cameras: Cameras, index: int) -> Cameras:
    return Cameras(cameras.world_to_cam[index : index + 1], cameras.K[index : index + 1], WIDTH, HEIGHT)


def save_rgb(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


def cam_to_world(cameras: Cameras) -> np.ndarray:
    return np.linalg.inv(cameras.world_to_cam[0].numpy())


def write_nerfies(root: Path, covisible: bool) -> None:
    """One camera that moves trains, one that stands validates; rgb/1x and rgb/2x, as both data sets have them."""
    ids: dict[str, list[str]] = {"train": [], "val": []}
    metadata = {}
    path = moving_rig(WORLD, len(TIMES), WIDTH, HEIGHT)
    for k, time in enumerate(TIMES):
        for number, (split, camera) in enumerate(
            (("train", path.at(k)), ("val", one(arc_rig(WORLD, WIDTH, HEIGHT).at(0), 2)))
        ):
            item = f"{number}_{k:05d}"
            ids[split].append(item)
            metadata[item] = {"warp_id": k, "appearance_id": k, "camera_id": number}
            pose, K = camera.world_to_cam[0].numpy(), 2 * camera.K[0].numpy()
            data = {
                "orientation": pose[:3, :3].tolist(),
                "position": (-pose[:3, :3].T @ pose[:3, 3]).tolist(),
                "focal_length": K[0, 0],
                "principal_point": [K[0, 2], K[1, 2]],
                "skew": 0.0,
                "pixel_aspect_ratio": 1.0,
                "radial_distortion": [0.0, 0.0, 0.0],
                "tangential_distortion": [0.0, 0.0],
                "image_size": [2 * WIDTH, 2 * HEIGHT],
            }
            (root / "camera").mkdir(parents=True, exist_ok=True)
            (root / f"camera/{item}.json").write_text(json.dumps(data))
            save_rgb(root / f"rgb/1x/{item}.png", photo(camera, time, 2))
            save_rgb(root / f"rgb/2x/{item}.png", photo(camera, time))
            if covisible and split == "val":
                mask = np.zeros((HEIGHT, WIDTH), np.uint8)
                mask[10:40, 5 + k : 50] = 255
                (root / "covisible/2x/val").mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(root / f"covisible/2x/val/{item}.png"), mask)
    (root / "metadata.json").write_text(json.dumps(metadata))
    everything = {"ids": ids["train"] + ids["val"], "train_ids": ids["train"], "val_ids": ids["val"]}
    (root / "dataset.json").write_text(json.dumps(everything))
    if covisible:
        (root / "extra.json").write_text(json.dumps({"factor": 1, "fps": 4.0}))
        (root / "splits").mkdir()
        for split, names in ids.items():
            (root / f"splits/{split}.json").write_text(json.dumps({"frame_names": names}))


def write_n3dv(root: Path) -> None:
    rows = []
    root.mkdir(parents=True)
    cameras = arc_rig(WORLD, WIDTH, HEIGHT).at(0)
    for c in range(3):
        right, down, forward, center = cam_to_world(one(cameras, c + 1))[:3].T
        focal = float(cameras.K[0, 0, 0])
        matrix = np.stack([down, right, -forward, center, [HEIGHT, WIDTH, focal]], 1)
        rows.append([*matrix.reshape(-1), 1.0, 9.0])
        frames = [photo(one(cameras, c + 1), time) for time in TIMES]
        write_video(root / f"cam{c:02d}.mp4", frames, 4.0, crf="1")
    np.save(root / "poses_bounds.npy", np.array(rows))


def write_dnerf(root: Path) -> None:
    path = moving_rig(WORLD, len(TIMES), WIDTH, HEIGHT)
    angle = 2 * math.atan(0.5 * WIDTH / float(path.K[0, 0]))
    for split, chosen in (("train", [0, 1, 2, 3, 4]), ("test", [1, 3])):
        frames = []
        for i, k in enumerate(chosen):
            camera = path.at(k)
            pose = cam_to_world(camera) @ np.diag([1.0, -1.0, -1.0, 1.0])
            save_rgb(root / f"{split}/r_{i:03d}.png", photo(camera, TIMES[k]))
            frames.append({"file_path": f"./{split}/r_{i:03d}", "time": TIMES[k], "transform_matrix": pose.tolist()})
        (root / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": angle, "frames": frames}))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    write_nerfies(root / "dycheck/spin", covisible=True)
    write_nerfies(root / "hypernerf/vrig-chicken", covisible=False)
    write_n3dv(root / "n3dv/flame_steak")
    write_dnerf(root / "dnerf/hook")
    scene = surface_scene(WORLD, TIMES, 0.03)
    save_project(root / "true.s4d", Project(scene, units="m"))
    away = torch.tensor([[0.0, -50.0, 0.0]])  # behind all cameras
    empty = Gaussians(away, torch.ones(1, 4), torch.full((1, 3), -4.0), torch.zeros(1), torch.zeros(1, 1, 3))
    save_project(root / "empty.s4d", Project(static_scene(empty)))
    return root


def run(sets: Path, protocol: Any, scene: str, project: str, work: Path, **options: Any) -> dict[str, Any]:
    config = bench.Config(sets / protocol / scene, protocol, scene_project=sets / project, work=work, **options)
    return bench.main(config, silent)


CASES = [("dycheck", "spin"), ("hypernerf", "vrig-chicken"), ("n3dv", "flame_steak"), ("dnerf", "hook")]


@pytest.mark.parametrize(("protocol", "scene"), CASES)
def test_scene_made_of_the_truth_scores_high_on_every_protocol(
    sets: Path, tmp_path: Path, protocol: Any, scene: str
) -> None:
    """A wrong axis, time, size or split would show another picture."""
    result = run(sets, protocol, scene, "true.s4d", tmp_path / "work")
    assert result["mean"]["psnr"] > 24 and result["mean"]["ssim"] > 0.75
    assert result["mean"]["views"] == (2 if protocol == "dnerf" else 5)
    assert result["complete"] is False and result["published"]


@pytest.mark.parametrize(("protocol", "scene"), CASES)
def test_background_is_that_of_the_protocol_and_masks_are_used_where_it_has_them(
    sets: Path, tmp_path: Path, protocol: Any, scene: str
) -> None:
    """Black pictures, white ones for D-NeRF: the score is that of the pictures, in the mask."""
    result = run(sets, protocol, scene, "empty.s4d", tmp_path / "work")
    folder = sets / protocol / scene
    files = sorted(folder.glob("rgb/2x/1_*.png")) or sorted(folder.glob("test/*.png"))
    if protocol == "n3dv":
        video = cv2.VideoCapture(str(folder / "cam00.mp4"))
        pictures = [video.read()[1] for _ in TIMES]
        video.release()
    else:
        pictures = [cv2.imread(str(path)) for path in files]
    scores = []
    for k, picture in enumerate(pictures):
        error = np.asarray(picture) / 255.0 - (protocol == "dnerf")
        if protocol == "dycheck":
            error = error[10:40, 5 + k : 50]
        scores.append(-10 * math.log10((error**2).mean()))
    # the video's colours go through another decoder
    assert result["mean"]["psnr"] == pytest.approx(np.mean(scores), abs=0.05 if protocol == "n3dv" else 1e-3)


def test_data_set_is_not_written_to_and_another_scale_can_be_asked_for(sets: Path, tmp_path: Path) -> None:
    folder = sets / "hypernerf/vrig-chicken"
    before = sorted(str(p) for p in folder.rglob("*"))
    half = run(sets, "hypernerf", "vrig-chicken", "true.s4d", tmp_path / "work")
    full = run(sets, "hypernerf", "vrig-chicken", "true.s4d", tmp_path / "work", size=1)
    assert sorted(str(p) for p in folder.rglob("*")) == before
    capture = bench.open_scene(folder, bench.PROTOCOLS["hypernerf"], tmp_path / "work")
    assert (capture.views[0].width, capture.views[0].height) == (WIDTH, HEIGHT)
    assert full["size"] == 1 and half["size"] == 2 and full["mean"]["psnr"] != half["mean"]["psnr"]
    with pytest.raises(InputError, match="rgb/4x: there is no such folder"):
        run(sets, "hypernerf", "vrig-chicken", "true.s4d", tmp_path / "work", size=4)


def test_fit_goes_through_the_command_and_finished_projects_are_kept(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fake(command: list[str]) -> subprocess.CompletedProcess:
        calls.append(command)
        out = Path(command[command.index("--out") + 1])
        save_project(out, Project(surface_scene(WORLD, TIMES, 0.06)))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(bench.subprocess, "run", fake)
    config = bench.Config(sets / "dnerf", "dnerf", fit=True, work=tmp_path / "work", json=tmp_path / "result.json")
    lines: list[str] = []
    bench.main(config, lines.append)
    bench.main(config, silent)
    assert len(calls) == 1
    command = calls[0]
    assert command[1:5] == ["-m", "scene4d.cli", "fit", str(sets / "dnerf/hook")]
    assert command[command.index("--preset") + 1] == "standard" and command[command.index("--long-side") + 1] == "64"
    assert "--frames" not in command
    written = json.loads((tmp_path / "result.json").read_text())
    assert list(written["scenes"]) == ["hook"] and written["mean"]["psnr"] > 15
    assert any("43.31" in line and "SC-GS" in line for line in lines)
    assert any("not comparable" in line for line in lines)


def test_fit_that_fails_ends_the_bench(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.subprocess, "run", lambda command: subprocess.CompletedProcess(command, 3))
    with pytest.raises(InputError, match="fit .* failed"):
        bench.main(bench.Config(sets / "dnerf", "dnerf", fit=True, work=tmp_path / "work"), silent)


def test_folder_without_scenes_and_two_scenes_for_one_project_are_refused(sets: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither it nor a folder in it has a poses_bounds.npy"):
        bench.main(bench.Config(sets / "dnerf", "n3dv", scene_project=sets / "true.s4d"), silent)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "transforms_train.json").write_text("{}")
    with pytest.raises(InputError, match="holds 2 scenes"):
        bench.main(bench.Config(tmp_path, "dnerf", scene_project=sets / "true.s4d"), silent)
    with pytest.raises(ValueError, match="either --fit or --scene-project"):
        bench.Config(tmp_path, "dnerf")


def test_every_published_score_names_its_source() -> None:
    for protocol in bench.PROTOCOLS.values():
        assert protocol.published
        assert all("arXiv" in score.source or "issue" in score.source for score in protocol.published)


# -- metrics -----------------------------------------------------------------------------------------------------------


def random_pair(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(20, 24, 3, generator=generator, dtype=torch.float64)
    return image, (image + 0.2 * torch.randn(20, 24, 3, generator=generator, dtype=torch.float64)).clamp(0, 1)


def test_covisible_ssim_with_a_full_mask_is_ssim() -> None:
    image, truth = random_pair(0)
    full = torch.ones(20, 24, dtype=torch.bool)
    torch.testing.assert_close(covisible_ssim(image, truth, full), ssim(image, truth))


def test_covisible_ssim_is_the_partial_convolution_of_its_page() -> None:
    image, truth = random_pair(1)
    mask = np.zeros((20, 24))
    mask[3:9, 2:12] = 1  # windows in the lower right see no pixel
    kernel = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    kernel /= kernel.sum()

    def blur(values: np.ndarray) -> np.ndarray:
        known = mask
        for f in (kernel[None], kernel[:, None]):
            total = convolve2d(values * known, f, mode="valid")
            count = convolve2d(known, np.ones_like(f), mode="valid")
            values = np.where(count > 0.5, total * 11 / np.maximum(count, 1), 0)
            known = (count > 0.5).astype(float)
        return values

    scores = []
    for x, y in zip(image.numpy().transpose(2, 0, 1), truth.numpy().transpose(2, 0, 1), strict=True):
        mx, my = blur(x), blur(y)
        vx, vy = np.maximum(blur(x * x) - mx**2, 0), np.maximum(blur(y * y) - my**2, 0)
        cov = blur(x * y) - mx * my
        cov = np.sign(cov) * np.minimum(np.sqrt(vx * vy), np.abs(cov))
        scores.append((2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    assert float(covisible_ssim(image, truth, torch.from_numpy(mask > 0))) == pytest.approx(np.mean(scores), abs=1e-9)


def test_pixels_outside_of_the_mask_do_not_reach_a_masked_score() -> None:
    weights = load_lpips(real_data("lpips") / "lpips_alex_v0.1.npz")
    image, truth = (x.float().repeat(2, 2, 1) for x in random_pair(2))
    mask = torch.zeros(40, 48, dtype=torch.bool)
    mask[5:30, 5:40] = True
    other = torch.where(mask[..., None], image, torch.rand_like(image))
    for score in (covisible_ssim, lambda x, y, m: bench.masked_lpips(x, y, m, weights)):
        torch.testing.assert_close(score(other, truth, mask), score(image, truth, mask), atol=1e-6, rtol=0)
        torch.testing.assert_close(score(truth, other, mask), score(truth, image, mask), atol=1e-6, rtol=0)
        assert abs(float(score(truth, truth, mask)) - float(score(image, truth, mask))) > 1e-3
