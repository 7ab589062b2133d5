"""The project folder `NAME.s4d` (docs/project.md).

    project.json    version, capture, units, clock, and the size and sha256 of every other file
    scene.ply       the scene (scene4d/files/scene_ply.py)
    cameras.json    the cameras of the capture
    edits.json      the stack of edits
    runs/           run folders (scene4d/runs.py)

Several files change as one. A save puts the new files beside the old ones (`scene.ply.next`), then the new description
(`project.json.next`): from then on the save has happened. Then it renames them all, the description last. Whoever
opens the folder after a kill finds either no new description and takes the old files, or one and finishes the renames.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scene4d.errors import InputError
from scene4d.files.atomic import (
    FolderLock,
    json_bytes,
    make_folder,
    parse_json,
    read_bytes,
    remove_temporaries,
    sync_folder,
    write_atomic,
)
from scene4d.files.project_cameras import ProjectCamera, cameras_json, parse_cameras
from scene4d.files.scene_ply import parse_scene, scene_bytes
from scene4d.scene import Scene4D

FORMAT, VERSION = "scene4d-project", 1
SUFFIX, INDEX, SCENE, CAMERAS, EDITS, RUNS = ".s4d", "project.json", "scene.ply", "cameras.json", "edits.json", "runs"
BLOBS = (SCENE, CAMERAS, EDITS)
NEXT = ".next"
MAX_INDEX_BYTES, MAX_BLOB_BYTES = 1 << 20, 1 << 40
MAX_TEXT, MAX_FIT_BYTES = 4096, 1 << 16
PLAIN = ("capture", "units", "fps", "canonical_time", "fit")  # fields that stand in project.json itself
# in `Project.fit`: longest side in pixels of the pictures (null = as captured), frames used and held out, as
# "first:end:step" (null = all, none)
FIT_KEYS = ("long_side", "frames", "hold_out")
# version -> what makes a description of the version after it from one of this version. The blobs' own layout may only
# change in ways that `parse_*` can tell from their content.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


@dataclass(frozen=True)
class Project:
    """What a project folder holds, besides its runs."""

    scene: Scene4D  # float32
    capture: str | None = None  # folder of the capture, absolute or relative to the project folder
    cameras: tuple[ProjectCamera, ...] = ()
    edits: tuple[dict[str, Any], ...] = ()  # the stack, first applied first; plain JSON objects
    units: str = "scene units"  # or "m"
    fps: float | None = None  # of the capture
    canonical_time: float = 0.0  # seconds; when scene.ply shows the scene to viewers that know no motion
    fit: dict[str, Any] | None = None  # what the scene was fitted to; plain JSON, FIT_KEYS among others

    def __post_init__(self) -> None:
        for name in ("units", "capture"):
            text = getattr(self, name)
            if text is not None and (not isinstance(text, str) or not text.isprintable() or len(text) > MAX_TEXT):
                raise ValueError(f"{name} must be a short printable text, got {str(text)[:40]!r}")
        if self.fps is not None and not (_is_number(self.fps) and self.fps > 0):
            raise ValueError(f"fps must be above 0, got {self.fps}")
        if not _is_number(self.canonical_time):
            raise ValueError(f"canonical_time must be finite, got {self.canonical_time}")
        if self.fit is not None:
            _check_fit(self.fit)


def save_project(path: Path, project: Project) -> None:
    """Write a project, or replace the content of one; runs stay. All of it or nothing, whenever the process is killed.

    Raises:
        InputError: the name does not end in .s4d, the folder holds something else, or it cannot be written.
        ValueError: the scene cannot be stored exactly.
    """
    _check_place(path)
    blobs = {
        SCENE: b"".join(scene_bytes(project.scene, project.units, project.fps, project.canonical_time)),
        CAMERAS: json_bytes(cameras_json(project.cameras)),
        EDITS: json_bytes({"format": "scene4d-edits", "version": 1, "edits": list(project.edits)}),
    }
    make_folder(path)
    with FolderLock(path, exclusive=True):
        _recover(path)
        _write(path, project, blobs)


def update_project(path: Path, **changes: Any) -> Project:
    """Change fields of a project, such as `scene=` or `edits=`; what did not change is not written again.

    Raises:
        InputError: the project cannot be opened or written.
        ValueError: a field must not be what it is told to be; the project stays as it was.
    """
    with FolderLock(path, exclusive=True):
        _recover(path)
        project = replace(_read(path), **changes)
        blobs: dict[str, bytes] = {}
        if {"scene", "units", "fps", "canonical_time"} & set(changes):
            blobs[SCENE] = b"".join(scene_bytes(project.scene, project.units, project.fps, project.canonical_time))
        if "cameras" in changes:
            blobs[CAMERAS] = json_bytes(cameras_json(project.cameras))
        if "edits" in changes:
            blobs[EDITS] = json_bytes({"format": "scene4d-edits", "version": 1, "edits": list(project.edits)})
        _write(path, project, blobs)
    return project


def load_project(path: Path) -> Project:
    """Read a project. Size and sha256 of every file are compared with what was written.

    Raises:
        InputError: a file is missing, truncated or changed, or of a newer version; the message names it.
    """
    if not path.is_dir():
        raise InputError(f"{path}: there is no such project folder")
    if (path / (INDEX + NEXT)).is_file():  # a save was killed, or is on its way
        with contextlib.suppress(PermissionError), FolderLock(path, exclusive=True):
            _recover(path)
    with FolderLock(path, exclusive=False):
        return _read(path)


def read_index(path: Path) -> dict[str, Any]:
    """The description of a project, brought to the present version. Raises InputError."""
    file = path / INDEX
    if not file.exists():
        hint = "; a fit that is not finished? `--resume` goes on with it" if (path / RUNS).is_dir() else ""
        raise InputError(f"{file}: is missing{hint}")
    return _parse_index(read_bytes(file, MAX_INDEX_BYTES), file)


def blob_sizes(path: Path) -> dict[str, int]:
    """Bytes of each file of a project."""
    return {name: blob["bytes"] for name, blob in read_index(path)["blobs"].items()}


# -- reading -----------------------------------------------------------------------------------------------------------


def _read(path: Path) -> Project:
    index = read_index(path)
    file = path / INDEX
    data = {name: _read_blob(path / name, index["blobs"].get(name), file) for name in BLOBS}
    edits = parse_json(data[EDITS], path / EDITS).get("edits")
    if not isinstance(edits, list) or not all(isinstance(edit, dict) for edit in edits):
        raise InputError(f"{path / EDITS}: must hold a list of edits")
    cameras = parse_cameras(parse_json(data[CAMERAS], path / CAMERAS), path / CAMERAS)
    scene = parse_scene(data[SCENE], path / SCENE)
    plain = {name: index[name] for name in PLAIN if name in index}
    try:
        return Project(scene, cameras=cameras, edits=tuple(edits), **plain)
    except (ValueError, TypeError) as e:
        raise InputError(f"{file}: {e}") from e


def _parse_index(data: bytes, file: Path) -> dict[str, Any]:
    index = parse_json(data, file)
    if index.get("format") != FORMAT:
        raise InputError(f"{file}: format must be {FORMAT!r}, got {str(index.get('format'))[:40]!r}")
    version = index.get("version")
    if version == VERSION and index.pop("sha256", None) != _hash_index(index):
        raise InputError(f"{file}: was changed or is damaged: its sha256 is not the one that it holds")
    if type(version) is not int or (version != VERSION and version < min(MIGRATIONS, default=VERSION)):
        raise InputError(f"{file}: version {str(version)[:20]!r} is none that scene4d reads")
    if version > VERSION:
        raise InputError(f"{file}: version {version} is newer than {VERSION}; update scene4d")
    for old in range(version, VERSION):
        index = MIGRATIONS[old](index)
    blobs = index.get("blobs")
    if not isinstance(blobs, dict) or not all(_is_blob(blob) for blob in blobs.values()):
        raise InputError(f"{file}: blobs must give bytes and sha256 of each file")
    return index


def _hash_index(index: dict[str, Any]) -> str:
    """sha256 of a description's content, however it is laid out."""
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def _is_blob(blob: Any) -> bool:
    return isinstance(blob, dict) and type(blob.get("bytes")) is int and isinstance(blob.get("sha256"), str)


def _is_number(value: Any) -> bool:
    """Whether it is a finite number, and no integer that is too large for a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _check_fit(fit: Any) -> None:
    """Raise ValueError unless it is a JSON object that comes back from a file as it is."""
    try:
        text = json.dumps(fit, allow_nan=False)
        good = isinstance(fit, dict) and json.loads(text) == fit  # tuples and keys that are no texts come back changed
    except (TypeError, ValueError, RecursionError):
        good, text = False, ""
    if not good:
        raise ValueError(f"fit must be a plain JSON object, got a {type(fit).__name__} that JSON does not give back")
    if len(text) > MAX_FIT_BYTES:
        raise ValueError(f"fit must have at most {MAX_FIT_BYTES} bytes as JSON, got {len(text)}")


def _read_blob(path: Path, blob: dict[str, Any] | None, file: Path) -> bytes:
    if blob is None:
        raise InputError(f"{file}: has no entry for {path.name}")
    if not path.is_file():
        raise InputError(f"{path}: is missing")
    size, expected = path.stat().st_size, blob["bytes"]
    if size != expected:  # before anything is read
        fault = "truncated" if size < expected else "too long"
        raise InputError(f"{path}: is {fault}: {size} bytes, {file.name} says {expected}")
    data = read_bytes(path, MAX_BLOB_BYTES)
    if hashlib.sha256(data).hexdigest() != blob["sha256"]:
        raise InputError(f"{path}: was changed or is damaged: its sha256 is not the one in {file.name}")
    return data


# -- writing -----------------------------------------------------------------------------------------------------------


def _check_place(path: Path) -> None:
    if path.suffix != SUFFIX:
        raise InputError(f"{path}: the name of a project must end in {SUFFIX}")
    if not path.exists():
        return
    if not path.is_dir():
        raise InputError(f"{path}: exists and is no folder")
    known = {INDEX, RUNS, *BLOBS, *(name + NEXT for name in (INDEX, *BLOBS))}
    strange = sorted(p.name for p in path.iterdir() if p.name not in known and not p.name.startswith("."))
    if strange and not (path / INDEX).exists():
        raise InputError(f"{path}: is no project (it holds {strange[0]}); choose another name")


def _write(path: Path, project: Project, blobs: Mapping[str, bytes]) -> None:
    """Replace `blobs` and the description; the other blobs stay as the present description tells."""
    known = {} if len(blobs) == len(BLOBS) else dict(read_index(path)["blobs"])
    for name, data in blobs.items():
        known[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        write_atomic(path / (name + NEXT), data)
    index = {
        "format": FORMAT,
        "version": VERSION,
        **{name: getattr(project, name) for name in PLAIN},
        "blobs": known,
    }
    index["sha256"] = _hash_index(index)
    write_atomic(path / (INDEX + NEXT), json_bytes(index))  # from here on the save has happened
    _finish(path)


def _finish(path: Path) -> None:
    """Put the files of a save in place, the description last."""
    try:
        for name in BLOBS:
            with contextlib.suppress(FileNotFoundError):
                (path / (name + NEXT)).replace(path / name)
        sync_folder(path)
        (path / (INDEX + NEXT)).replace(path / INDEX)
        sync_folder(path)
    except OSError as e:
        raise InputError(f"{path}: cannot be written: {e.strerror or e}") from e


def _recover(path: Path) -> None:
    """Bring a folder in which a save was killed to the state before or after it. Only for a holder of its lock."""
    remove_temporaries(path)
    if (path / (INDEX + NEXT)).is_file():
        _finish(path)
    for name in BLOBS:  # of a save that was killed before it had happened
        with contextlib.suppress(OSError):
            (path / (name + NEXT)).unlink()
