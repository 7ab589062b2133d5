"""`open_capture`: finds a capture's format by looking, says so where several match, and reads it."""

from __future__ import annotations

import warnings
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from scene4d.captures.assembly import ONE_SECOND
from scene4d.captures.capture import Capture
from scene4d.captures.checks import CaptureWarning, frames_per_second
from scene4d.captures.video import VIDEO_SUFFIXES
from scene4d.errors import InputError

# A reader module has detect(root) -> the file or folder that gives the format away, or None, and read(path) -> Capture.
# Where several match, the first is taken: it says more about the capture than those after it.
FORMATS = {
    "cameras-json": "scene4d.captures.cameras_json",
    "dnerf": "scene4d.captures.dnerf",
    "nerfstudio": "scene4d.captures.nerfstudio",
    "nerfies": "scene4d.captures.nerfies",
    "immersive": "scene4d.captures.immersive",
    "n3dv": "scene4d.captures.n3dv",
    "colmap": "scene4d.captures.colmap",
    "frames": "scene4d.captures.folders",
}


def open_capture(path: Path | str, format: str = "auto", fps: float | None = None) -> Capture:
    """A capture on disk: a folder, the file that describes it, or a video.

    Args:
        path: the capture. Nothing in it is ever written to.
        format: one of `FORMATS`, or "auto" to find it by looking.
        fps: the frame rate, for captures that do not tell theirs or tell it wrongly: times become frame / fps.

    Raises:
        InputError: what is wrong with the capture, where, why, and what to do.
    """
    path = Path(path)
    if "\0" in str(path) or not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if format != "auto" and format not in FORMATS:
        raise InputError(f"format must be auto or one of {', '.join(FORMATS)}, got {format!r}")
    ambiguity: list[str] = []
    try:
        if format == "auto":
            format, ambiguity = find_format(path)
        root = path if path.is_dir() or format == "frames" else path.parent
        capture = import_module(FORMATS[format]).read(root)
    except OSError as e:  # no permission, a link to itself, a disk that went away
        raise InputError(f"{e.filename or path}: cannot be read: {e.strerror or e}") from e
    notes = [*ambiguity, *capture.notes]
    if fps is not None:
        rate = frames_per_second(fps, "fps")
        views = tuple(replace(v, time=v.frame / rate) for v in capture.views)
        capture = replace(capture, views=views, fps=rate)
        notes = [note for note in notes if not note.endswith(ONE_SECOND)]
    for note in notes:
        warnings.warn(note, CaptureWarning, stacklevel=2)
    return replace(capture, notes=tuple(notes))


def find_format(path: Path) -> tuple[str, list[str]]:
    """The format that a path holds, and a note where other formats match too."""
    if path.is_file():
        return _format_of_file(path), []
    if not any(path.iterdir()):
        raise InputError(f"{path}: the folder is empty")
    found = {name: import_module(module).detect(path) for name, module in FORMATS.items()}
    matches = {name: what for name, what in found.items() if what}
    if not matches:
        raise InputError(
            f"{path}: holds no known capture: no cameras.json, transforms.json, transforms_train.json, "
            "dataset.json with camera/, models.json, poses_bounds.npy, sparse/, video, image (docs/captures_formats.md)"
        )
    first, *others = matches
    others = [name for name in others if name != "frames"]  # pictures lie in every capture
    if not others:
        return first, []
    rest = ", ".join(f"{name} ({matches[name]})" for name in others)
    return first, [
        f"{path}: read as {first} ({matches[first]}); it also looks like {rest}; choose with --format {others[0]} "
        f"(format={others[0]!r})"
    ]


def _format_of_file(path: Path) -> str:
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return "frames"
    for name, module in FORMATS.items():
        if name != "frames" and import_module(module).detect(path.parent) == path.name:
            return name
    raise InputError(f"{path}: is not a file that describes a capture; give the capture's folder")
