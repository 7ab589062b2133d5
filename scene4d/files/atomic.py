"""Writing so that a process killed at any moment leaves the old content or the new, never something between.

A file is written under a temporary name in the same folder, synced, renamed over the old one, and the folder is synced.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scene4d.errors import InputError

TEMPORARY_SUFFIX = ".tmp"
MAX_JSON_BYTES = 1 << 28


def write_atomic(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Replace the content of `path`. `data` may come in parts.

    Raises:
        InputError: it cannot be written (disk full, read-only folder, ...); the old content stays.
    """
    parts = (data,) if isinstance(data, bytes) else data
    # hidden, so that no pattern of readers matches it; random, so that two writers do not share one
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("xb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as e:
        raise InputError(f"{path}: cannot be written: {e.strerror or e}") from e
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_json(path: Path, value: Any) -> None:
    """As `write_atomic`. Raises ValueError for NaN and infinity, TypeError for what JSON does not have."""
    write_atomic(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises InputError."""
    return parse_json(read_bytes(path, MAX_JSON_BYTES), path)


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    """The object in the content of `path`. Raises InputError."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path}: is no JSON: {str(e)[:80]}") from e
    if not isinstance(value, dict):
        raise InputError(f"{path}: must hold a JSON object")
    return value


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a file of at most `limit` bytes. Raises InputError."""
    if not path.is_file():
        raise InputError(f"{path}: is missing")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise InputError(f"{path}: is larger than {limit} bytes")
            return file.read(size)
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {e.strerror or e}") from e


def make_folder(path: Path) -> None:
    """As mkdir -p, synced. Raises InputError."""
    missing = [p for p in (path, *path.parents) if not p.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            sync_folder(folder.parent)
    except OSError as e:
        raise InputError(f"{path}: cannot be made: {e.strerror or e}") from e


def sync_folder(path: Path) -> None:
    """Make renames, new files and removals in it last through a loss of power."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as e:
        if e.errno != errno.EINVAL:  # some network file systems cannot, and need not
            raise
    finally:
        os.close(handle)


def remove_temporaries(folder: Path) -> None:
    """Remove what killed writers left. Only for a holder of the folder's lock."""
    for path in folder.glob(f".*{TEMPORARY_SUFFIX}") if folder.is_dir() else ():
        with contextlib.suppress(OSError):
            path.unlink()


def last_line_end(path: Path) -> int:
    """How many bytes of a file are whole lines."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0


class FolderLock:
    """An advisory lock on a folder, without a lock file: it goes when the process ends, however it ends."""

    def __init__(self, folder: Path, *, exclusive: bool, wait: bool = True) -> None:
        """Raises InputError: the folder is missing or, without `wait`, another holder has it."""
        try:
            self._handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as e:
            raise InputError(f"{folder}: cannot be opened as a folder: {e.strerror}") from e
        mode = (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB)
        try:
            fcntl.flock(self._handle, mode)
        except BlockingIOError as e:
            self.release()
            raise InputError(f"{folder}: another process is using it") from e
        except OSError as e:
            if e.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):  # file systems without locks
                self.release()
                raise

    def release(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
