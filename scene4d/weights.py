"""Where model weights are looked for. Nothing here downloads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from scene4d.errors import InputError


class MissingWeightsError(InputError):
    """Weights are in none of the folders that are looked in. Names the files, the folders and what to do."""

    def __init__(self, name: str, files: Sequence[str], searched: Sequence[Path], advice: str) -> None:
        self.name = name
        self.files = tuple(files)
        folders = ", ".join(str(folder) for folder in searched)
        super().__init__(f"weights of {name} not found: {', '.join(files)} in none of {folders}; {advice}")


def weights_dirs() -> list[Path]:
    """Folders to look in, first match wins; they need not exist.

    `SCENE4D_WEIGHTS` holds one folder or several, separated as in PATH. Unset or empty: `scene4d/weights` under
    `XDG_CACHE_HOME` (~/.cache by default).
    """
    named = [Path(part).expanduser() for part in os.environ.get("SCENE4D_WEIGHTS", "").split(os.pathsep) if part]
    if named:
        return named
    # A relative XDG_CACHE_HOME is to be ignored (XDG base directory specification).
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return [(cache if cache.is_absolute() else Path.home() / ".cache") / "scene4d" / "weights"]


def find_weights(name: str, files: Sequence[str], advice: str) -> Path:
    """The first folder `<weights dir>/<name>` that holds all of `files`.

    Raises:
        MissingWeightsError: there is none. `advice` says what the user can do about it.
    """
    searched = [folder / name for folder in weights_dirs()]
    for folder in searched:
        if all((folder / file).is_file() for file in files):
            return folder
    raise MissingWeightsError(name, files, searched, advice)
