"""Cue frames on disk (docs/cues.md).

out/overview.mp4            render | cue | roles | confidence
out/cue.mp4, roles.mp4 ...  what was asked for, as videos
out/cue/00000.png ...       as pictures
out/data/00000.npz ...      as numbers: all of a frame
out/calibration.json        what made the confidences
out/cues.json               report: cameras, times, shares of the roles, source views, hashes
out/reliability.png         diagrams of the calibration, on views that it was not made from
"""

from __future__ import annotations

import contextlib
import io
import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from scene4d.cues.drawing import PICTURES, overview
from scene4d.cues.frames import CueFrame
from scene4d.cues.roles import NAMES
from scene4d.errors import InputError
from scene4d.files.atomic import TEMPORARY_SUFFIX, make_folder, sync_folder, write_atomic, write_json
from scene4d.files.images import png_bytes
from scene4d.files.video import VideoWriter

INDEX, FORMAT, VERSION = "cues.json", "scene4d-cues", 1
KINDS = ("mp4", "png", "npz")
SAVED = tuple(PICTURES)


def check_out(out: Path, overwrite: bool) -> None:
    """Raise InputError where `out` stands in the way. Only a folder with a cues.json of ours is ever replaced."""
    if not out.parent.is_dir():
        raise InputError(f"{out}: there is no folder {out.parent}")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise InputError(f"{out}: is there already and is a file")
    try:
        ours = json.loads((out / INDEX).read_text()).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:
        raise InputError(f"{out}: holds other things than cues; choose another folder")
    if not overwrite:
        raise InputError(f"{out}: is there already; --overwrite replaces it")


class CueWriter:
    """Writes the frames of a clip; owns open encoders and a temporary folder that gets its name by `finish`.

    Used with `with`; leaving it without `finish` removes what there is.
    """

    def __init__(self, out: Path, saved: tuple[str, ...], kinds: tuple[str, ...], fps: float) -> None:
        self.out, self.saved, self.kinds, self.fps = out, saved, kinds, fps
        self.frames: list[dict[str, Any]] = []
        self._videos: dict[str, VideoWriter] = {}
        self.folder = out.with_name(f".{out.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
        make_folder(self.folder)

    def add(self, cue: CueFrame) -> None:
        """The next frame. Raises InputError: the disk is full."""
        k = len(self.frames)
        self._show("overview", overview(cue))
        for name in self.saved:
            picture = PICTURES[name](cue)
            if "mp4" in self.kinds:
                self._show(name, picture)
            if "png" in self.kinds:
                make_folder(self.folder / name)
                write_atomic(self.folder / name / f"{k:05d}.png", png_bytes(picture))
        if "npz" in self.kinds:
            make_folder(self.folder / "data")
            write_atomic(self.folder / "data" / f"{k:05d}.npz", npz_bytes(cue))
        self.frames.append(frame_facts(cue))

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Close everything, write cues.json with `facts` and give the folder its name. Raises InputError."""
        for video in self._videos.values():
            video.close()
        shares = {name: float(np.mean([f["shares"][name] for f in self.frames])) for name in (*NAMES, "asset")}
        index = {"format": FORMAT, "version": VERSION, "fps": self.fps, "shares": shares, **facts}
        write_json(self.folder / INDEX, index | {"frames": self.frames})
        old = self.folder.with_name(self.folder.name.replace(TEMPORARY_SUFFIX, f".old{TEMPORARY_SUFFIX}"))
        try:
            if self.out.exists():
                self.out.rename(old)
            self.folder.rename(self.out)
            sync_folder(self.out.parent)
        except OSError as e:
            raise InputError(f"{self.out}: cannot be written: {e.strerror or e}") from e
        shutil.rmtree(old, ignore_errors=True)

    def _show(self, name: str, picture: np.ndarray) -> None:
        if name not in self._videos:
            height, width = picture.shape[:2]
            self._videos[name] = VideoWriter(self.folder / f"{name}.mp4", width, height, self.fps)
        self._videos[name].add(picture)

    def __enter__(self) -> CueWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for video in self._videos.values():
            video.discard()
        with contextlib.suppress(OSError):
            shutil.rmtree(self.folder)


def frame_facts(cue: CueFrame) -> dict[str, Any]:
    """Time, camera and shares of the roles; assets count as a stratum of their own."""
    asset = cue.asset
    shares = {name: float(((cue.roles == k) & ~asset).float().mean()) for k, name in enumerate(NAMES)}
    observed = cue.confidence[cue.observed]
    return {
        "time": cue.time,
        "world_to_cam": cue.camera.world_to_cam[0].tolist(),
        "K": cue.camera.K[0].tolist(),
        "width": cue.camera.width,
        "height": cue.camera.height,
        "shares": {**shares, "asset": float(asset.float().mean())},
        "mean_confidence": float(observed.mean()) if observed.numel() else None,
    }


def npz_bytes(cue: CueFrame) -> bytes:
    """All of a frame as a compressed npz; docs/cues.md lists the arrays."""
    arrays = {
        "image": (cue.image.cpu().numpy().clip(0, 1) * 255 + 0.5).astype(np.uint8),
        "observed": cue.observed.cpu().numpy(),
        "roles": cue.roles.cpu().numpy(),
        "soft_roles": cue.soft_roles.cpu().numpy(),  # float32: half of it would no longer sum to 1
        "asset": cue.asset.cpu().numpy(),
        "confidence": cue.confidence.cpu().numpy().astype(np.float32),
        "provenance": cue.provenance.cpu().numpy().astype(np.int32),
        "votes": cue.votes.cpu().numpy().astype(np.int32),
        "depth": cue.depth.cpu().numpy().astype(np.float32),
        "inverse_depth": cue.inverse_depth.cpu().numpy().astype(np.float32),
        "alpha": cue.alpha.cpu().numpy().astype(np.float32),
        "moving": cue.moving.cpu().numpy(),
        "time": np.float64(cue.time),
        "world_to_cam": cue.camera.world_to_cam[0].double().cpu().numpy(),
        "K": cue.camera.K[0].double().cpu().numpy(),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()
