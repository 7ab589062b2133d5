"""`scene4d video`: files, records, refusals. A world in splats that are its surfaces, filmed small."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from editors.scene_clips import RowPoses, carry_rows, scene_clip
from editors.video import OBSERVED, ORIGINS, VIDEO_EDITORS, ClipFrame
from renderers import Cameras
from scene4d.cli import main
from scene4d.cues.project import SessionOptions, open_session
from scene4d.edits import EditedScene
from scene4d.edits.world_edits import stack_of_world
from scene4d.errors import EXIT_BAD_INPUT, EXIT_CANCELLED
from scene4d.files.images import read_png
from scene4d.files.project import Project, load_project, save_project
from scene4d.files.project_cameras import ProjectCamera
from scene4d.runs import read_journal
from scene4d.worlds import CaptureOptions, Move, Remove, capture_world, make_world, moving_rig, poses_at, translation
from tests.editors.plane_clips import wall_frame
from tests.scene4d.world_scenes import world_scene

W, H, FRAMES = 48, 36, 3
BLOCK = 2  # moves and turns


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The room without its block."""
    folder = tmp_path_factory.mktemp("video")
    world = make_world("room")
    rig = moving_rig(world, FRAMES, W, H)
    capture_world(world, rig, folder / "room", CaptureOptions(frames=FRAMES, samples=1, tracks=1, points=0))
    times = tuple(k / (FRAMES - 1) for k in range(FRAMES))
    camera = ProjectCamera("cam00", W, H, times, rig.K[None], rig.world_to_cam[0])
    edits = tuple(stack_of_world([Remove(BLOCK)]).to_json())
    scene = world_scene(world, spacing=0.15, wall_spacing=0.3)
    save_project(folder / "room.s4d", Project(scene, "../room", (camera,), edits, "m", fps=2.0))
    return folder / "room.s4d"


@pytest.fixture(scope="module")
def clip(project: Path) -> Path:
    """What the command wrote."""
    out = project.parent / "clip"
    options = ["--capture-camera", "cam00", "--overview", str(project.parent / "overview.mp4"), "--workers", "1"]
    assert main(["video", str(project), *options, "--out", str(out)]) == 0
    return out


def test_folder_gets_frames_origins_and_an_index_that_agree(clip: Path) -> None:
    index = json.loads((clip / "video.json").read_text())
    assert index["origins"] == list(ORIGINS) and index["editor"] == "classical" and len(index["frames"]) == FRAMES
    for k, facts in enumerate(index["frames"]):
        picture, origin = (read_png(clip / name / f"{k:05d}.png") for name in ("frames", "origin"))
        assert picture.shape == (H, W, 3) and origin.shape == (H, W)
        shares = np.bincount(origin.ravel(), minlength=len(ORIGINS)) / origin.size
        assert facts["shares"] == pytest.approx(dict(zip(ORIGINS, shares, strict=True)))
    assert not list(clip.parent.glob(".*tmp"))


def test_observed_pixels_of_the_clip_are_those_of_its_cues(clip: Path, project: Path) -> None:
    session = open_session(load_project(project), project, SessionOptions())
    stored = load_project(project).cameras[0]
    index = json.loads((clip / "video.json").read_text())
    times = [facts["time"] for facts in index["frames"]]
    K = stored.K.expand(FRAMES, 3, 3)
    cues = [f.cue for f in scene_clip(session, Cameras(stored.world_to_cam, K, W, H), times, None, 1)]
    allowed = torch.tensor([ORIGINS.index(name) for name in ("observed", "rendered")])
    for k, cue in enumerate(cues):
        origin = torch.from_numpy(read_png(clip / "origin" / f"{k:05d}.png"))
        picture = torch.from_numpy(np.ascontiguousarray(read_png(clip / "frames" / f"{k:05d}.png"))) / 255.0
        assert cue.observed.float().mean() > 0.5
        # the command's camera went through a path: a pixel at the edge of a tolerance may fall to the other side
        assert (cue.observed & ~torch.isin(origin, allowed)).float().mean() < 0.002
        kept = cue.observed & (origin == OBSERVED)
        assert float((picture - cue.image).abs().amax(-1)[kept].median()) <= 0.5 / 255 + 1e-4


def test_overview_shows_four_panels_a_frame(clip: Path) -> None:
    with av.open(str(clip.parent / "overview.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert [frame.shape for frame in frames] == [(H + 20, 4 * W, 3)] * FRAMES


def test_run_is_recorded_with_what_was_asked_for_and_what_came_of_it(clip: Path, project: Path) -> None:
    (run,) = (project / "runs").glob("video-*")
    config = json.loads((run / "config.json").read_text())
    assert config["kind"] == "video" and config["config"]["capture_camera"] == "cam00"
    assert [record["step"] for record in read_journal(run / "log.jsonl")] == list(range(FRAMES))
    shares = json.loads((run / "metrics.json").read_text())["shares"]
    assert sum(shares.values()) == pytest.approx(1) and shares["observed"] > 0.5


def test_what_stands_there_is_replaced_only_when_told_and_only_if_it_is_ours(
    clip: Path, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    for out, words in ((clip, "--overwrite replaces it"), (tmp_path / "letters", "holds other things than a clip")):
        assert main(["video", str(project), "--capture-camera", "cam00", "--out", str(out)]) == EXIT_BAD_INPUT
        line = capsys.readouterr().err
        assert words in line and line.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "x.mp4"], "exactly one of --camera-path and --capture-camera"),
        (["--out", "x.mp4", "--capture-camera", "cam00", "--editor", "magic"], "magic"),
        (["--out", "x.mp4", "--capture-camera", "nobody"], "is no camera of the project"),
        (["--out", "x.mp4", "--capture-camera", "cam00", "--overview", "o.png"], "overview must end in .mp4"),
        (["--out", "x.mp4", "--capture-camera", "cam00", "--overview", "x.mp4"], "must be two files"),
        (["--out", "nowhere/x.mp4", "--capture-camera", "cam00"], "there is no folder"),
        (["--out", "x.mp4", "--capture-camera", "cam00", "--max-sources", "1"], "max_sources must be at least 2"),
        (["--out", "x.mp4", "--capture-camera", "cam00", "--calibration", "none.json"], "none.json"),
    ],
)
def test_bad_input_gives_one_line_and_leaves_nothing(
    options: list[str],
    words: str,
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = set(project.glob("runs/*"))
    assert main(["video", str(project), *options]) == EXIT_BAD_INPUT
    line = capsys.readouterr().err
    assert words in line and line.startswith("scene4d video: ") and line.count("\n") == 1
    assert not list(tmp_path.iterdir()) and set(project.glob("runs/*")) == runs


@pytest.mark.parametrize("name", ["x.mp4", "folder"])
def test_cancelled_command_leaves_nothing(
    name: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> Iterator[ClipFrame]:
        yield wall_frame(0.0, 0.0)
        raise KeyboardInterrupt

    monkeypatch.setattr("editors.scene_clips.scene_clip", stopped)
    options = ["--capture-camera", "cam00", "--out", str(tmp_path / name)]
    assert main(["video", str(project), *options]) == EXIT_CANCELLED
    assert not list(tmp_path.iterdir())


def test_editors_of_the_registry_are_those_of_the_command() -> None:
    from typing import get_args, get_type_hints

    from editors.commands.video import Config

    assert set(get_args(get_type_hints(Config)["editor"])) == set(VIDEO_EDITORS)


def test_surfaces_are_carried_as_the_world_moves_them_edits_included() -> None:
    """Points on the moved block: what carries them is the block's true motion after the edit."""
    world = make_world("room")
    scene = world_scene(world, spacing=0.3, wall_spacing=1.0)
    shift = translation(0.3, 0.1, 0.0)
    edited = EditedScene(scene, stack_of_world([Move(BLOCK, shift)]))
    rows = (edited.instances == BLOCK).nonzero()[:, 0]
    wall = (edited.instances == 0).nonzero()[:, 0][:5]
    poses = RowPoses(edited)
    now, later = 0.25, 0.75
    carry = carry_rows(poses, torch.cat([rows, wall, torch.tensor([-1])]).int(), now)
    k = next(i for i, o in enumerate(world.objects) if o.instance == BLOCK)
    T = [torch.tensor(shift).double() @ poses_at(world, t).T_world_obj[k] for t in (now, later)]
    assert (T[0] - T[1]).abs().max() > 0.05
    local = torch.cat(
        [torch.randn(len(rows), 3, generator=torch.Generator().manual_seed(0)), torch.ones(len(rows), 1)], 1
    )
    before, after = ((local.double() @ pose.T)[:, :3].float() for pose in T)
    still = torch.randn(6, 3)
    found = carry(torch.arange(len(rows) + 6), torch.cat([before, still]), later)
    torch.testing.assert_close(found[: len(rows)], after, atol=1e-4, rtol=0)
    assert torch.equal(found[len(rows) :], still)
