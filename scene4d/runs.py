"""Run folders: the one home of configuration, journal, checkpoints, progress and cancelling of long work.

    runs/<id>/config.json                 what was asked for; written once
             log.jsonl                    one JSON object a line; a torn last line is dropped
             metrics.json                 the result; it exists when the run has ended
             checkpoints/step_*.safetensors  the last two (scene4d/checkpoints.py)

A fit, an edit loop, a training:

    with create_run(folder / "runs", "fit", config) as run:        # or resume_run(folder / "runs", "fit", config)
        found = run.load_checkpoint()                              # None: from the beginning
        for step in run.steps(found.step if found else 0, total):
            ...
            run.log(step, {"loss": loss, "psnr": psnr})
            if (step + 1) % 500 == 0:
                run.save_checkpoint(step + 1, state)
        run.finish(metrics)

`step` counts from 0; a checkpoint's step is the number of steps that are done. SIGINT and SIGTERM set a flag and
`steps` raises Cancelled, whose `step` is that number too; a second signal stops at once.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from scene4d import __version__, checkpoints
from scene4d.checkpoints import Checkpoint, Generators
from scene4d.errors import InputError
from scene4d.files.atomic import (
    FolderLock,
    last_line_end,
    make_folder,
    read_json,
    remove_temporaries,
    sync_folder,
    write_atomic,
    write_json,
)

if TYPE_CHECKING:
    from rich.progress import Progress

CONFIG, LOG, METRICS, CHECKPOINTS = "config.json", "log.jsonl", "metrics.json", "checkpoints"
MAX_LOG_BYTES = 1 << 30
Scalar = float | int | str | bool | None


class Cancelled(KeyboardInterrupt):
    """The user stopped the run. The command line turns it into exit code 130."""

    def __init__(self, step: int) -> None:
        self.step = step  # steps that are done
        super().__init__(f"cancelled after {step} steps")


class RunWarning(UserWarning):
    """Something in a run folder was broken, and the work goes on without it."""


# -- journal -----------------------------------------------------------------------------------------------------------


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The records of a log.jsonl; [] where there is none. A last line without its end is not read.

    Raises:
        InputError: a line before the last is no JSON object, or the file is larger than 1 GiB.
    """
    if not path.is_file():
        return []
    if path.stat().st_size > MAX_LOG_BYTES:
        raise InputError(f"{path}: is larger than {MAX_LOG_BYTES} bytes")
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last line end is empty or torn
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            records.append(record)
        elif number < len(lines):  # the last one may end within a sector that never reached the disk
            raise InputError(f"{path}: line {number} is no JSON object")
    return records


class Journal:
    """Appends to a log.jsonl. Each record is one write: a killed process loses at most the one in flight."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)
        self._file.truncate(last_line_end(path))  # a line that a killed process left torn would spoil the next one

    def add(self, record: Mapping[str, Scalar]) -> None:
        line = json.dumps({name: _strict(value) for name, value in record.items()}, allow_nan=False)
        self._file.write(line.encode() + b"\n")

    def close(self) -> None:
        self._file.close()


def _strict(value: Any) -> Scalar:
    """JSON has neither NaN nor infinity: they become null. Tensors and numpy numbers of one element become numbers."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# -- run folders -------------------------------------------------------------------------------------------------------


def create_run(runs: Path, kind: str, config: Mapping[str, Any], *, progress: bool = True) -> Run:
    """A new folder `<runs>/<kind>-<date>-<time>` in use by this process. `config` must be writable as JSON.

    Raises:
        InputError: the folder cannot be written.
    """
    make_folder(runs)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        folder = runs / (f"{kind}-{stamp}" if number == 1 else f"{kind}-{stamp}-{number}")
        try:
            folder.mkdir()
            break
        except FileExistsError:
            continue
        except OSError as e:
            raise InputError(f"{folder}: cannot be made: {e.strerror}") from e
    else:
        raise InputError(f"{runs}: too many runs of this second")
    sync_folder(runs)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(folder / CONFIG, {"kind": kind, "created": created, "version": __version__, "config": dict(config)})
    return Run(folder, progress=progress)


def list_runs(runs: Path, kind: str | None = None) -> list[Path]:
    """Folders of runs, oldest first. Those that were killed before their configuration was written are left out."""
    found = []
    for path in runs.glob(f"*/{CONFIG}") if runs.is_dir() else ():
        try:
            head = read_json(path)
        except InputError as e:
            warnings.warn(f"run left out: {e}", RunWarning, stacklevel=2)
            continue
        if kind is None or head.get("kind") == kind:
            found.append((str(head.get("created")), _natural(path.parent.name), path.parent))
    return [path for *_, path in sorted(found)]


def _natural(name: str) -> tuple[int, str]:
    return len(name), name  # "-2" to "-10" of one second in order


def resume_run(
    runs: Path, kind: str, config: Mapping[str, Any] | None = None, *, name: str | None = None, progress: bool = True
) -> Run:
    """The run `name`, or the latest of its kind, in use by this process.

    Raises:
        InputError: there is none, another process has it, or its configuration differs from `config` (if given).
    """
    if name is None:
        found = list_runs(runs, kind)
        if not found:
            raise InputError(f"{runs}: holds no {kind} to resume; start one without --resume")
        folder = found[-1]
    else:
        folder = runs / name
        if not (folder / CONFIG).is_file():
            raise InputError(f"{folder}: is no run; `--resume` takes the name of a folder in {runs}")
    run = Run(folder, progress=progress)
    # through JSON: a tuple equals the list that it was read back as
    asked = None if config is None else json.loads(json.dumps(dict(config)))
    if asked is not None and asked != run.config:
        run.close()
        names = sorted(name for name in {*asked, *run.config} if asked.get(name) != run.config.get(name))
        raise InputError(f"{folder}: was started with other options ({', '.join(names)}); resume with the same ones")
    return run


class Run:
    """A run folder that this process holds: no other can have it until `close`, or the end of the process.

    As a context manager it also takes SIGINT and SIGTERM for cancelling and shows a progress bar on a terminal.
    """

    def __init__(self, folder: Path, *, progress: bool = True) -> None:
        self.folder = folder
        self._lock = FolderLock(folder, exclusive=True, wait=False)
        try:
            remove_temporaries(folder)
            head = read_json(folder / CONFIG)
            if not isinstance(head.get("config"), dict) or not isinstance(head.get("kind"), str):
                raise InputError(f"{folder / CONFIG}: has no kind and config")
            self.kind: str = head["kind"]
            self.config: dict[str, Any] = head["config"]
            self._seconds_before = _last_time(read_journal(folder / LOG))
            self._journal = Journal(folder / LOG)
        except BaseException:
            self._lock.release()
            raise
        self._started = time.monotonic()
        self._show = progress and sys.stderr.isatty()
        self._bar: Progress | None = None
        self._psnr = ""
        self._cancelled = False
        self._at_once = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Run:
        if threading.current_thread() is threading.main_thread():  # Python lets only this one take signals
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()
        self.close()

    def close(self) -> None:
        self._journal.close()
        self._lock.release()

    @property
    def finished(self) -> bool:
        return (self.folder / METRICS).is_file()

    # -- cancelling

    def cancel(self) -> None:
        """Ask for the end, from any thread: the next step raises Cancelled."""
        self._cancelled = True

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """For long work that has no steps and leaves nothing half done: a signal ends it at once."""
        if self._cancelled:
            raise KeyboardInterrupt
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._cancelled or self._at_once:
            raise KeyboardInterrupt  # asked twice: do not wait for the step
        self._cancelled = True

    # -- steps

    def steps(self, first: int, total: int) -> Generator[int, None, None]:
        """first, first + 1, ..., total - 1, with a progress bar (PSNR and time left) on a terminal.

        Raises:
            Cancelled: before the next step, after `cancel` or a signal.
        """
        with self._progress_bar() as bar:
            task = bar.add_task(self.kind, total=total, completed=first, psnr="")
            for step in range(first, total):
                if self._cancelled:
                    raise Cancelled(step)
                yield step
                bar.update(task, completed=step + 1, psnr=self._psnr)
        if self._cancelled:
            raise Cancelled(total)

    def _progress_bar(self) -> Progress:
        from rich.console import Console  # not at the top: most who read run folders draw nothing
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[psnr]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not self._show,
        )

    def log(self, step: int, scalars: Mapping[str, Scalar]) -> None:
        """Append a record of `step` to log.jsonl, with the seconds that the run has taken. NaN and infinity: null."""
        seconds = self._seconds_before + time.monotonic() - self._started
        self._journal.add({"step": step, "time": round(seconds, 3), **scalars})
        psnr = _strict(scalars.get("psnr"))
        if isinstance(psnr, int | float):
            self._psnr = f"{psnr:.2f} dB"

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Write metrics.json, which marks the run as ended. Raises ValueError for NaN and infinity."""
        write_json(self.folder / METRICS, dict(metrics))

    # -- checkpoints

    def save_checkpoint(self, step: int, state: Any, generators: Generators | None = None) -> Path:
        """Write what `load_checkpoint` gives back: see `checkpoints.save_checkpoint`."""
        return checkpoints.save_checkpoint(self.folder / CHECKPOINTS, step, state, generators)

    def load_checkpoint(self, generators: Generators | None = None) -> Checkpoint | None:
        """The latest checkpoint that is whole, or None. Sets the state of torch's and numpy's random numbers and of
        `generators`, and drops the journal's records of steps that will be made again.

        Warns:
            RunWarning: a later one is broken.

        Raises:
            InputError: there are some, and all are broken.
        """
        folder = self.folder / CHECKPOINTS
        remove_temporaries(folder)
        found, broken = checkpoints.load_latest(folder)
        for complaint in broken if found else ():
            warnings.warn(f"{complaint}; going back to step {found.step if found else 0}", RunWarning, stacklevel=2)
        if broken and not found:
            raise InputError(f"{broken[0]}; no older checkpoint is whole: start again without --resume")
        self._rewind(found.step if found else 0)
        if found is not None:
            checkpoints.restore_random_state(found.random, generators)
        return found

    def _rewind(self, step: int) -> None:
        records = read_journal(self.folder / LOG)
        kept = [r for r in records if not isinstance(r.get("step"), int) or r["step"] < step]
        self._seconds_before, self._started = _last_time(kept), time.monotonic()
        if len(kept) == len(records):
            return
        self._journal.close()
        write_atomic(self.folder / LOG, b"".join(json.dumps(record).encode() + b"\n" for record in kept))
        self._journal = Journal(self.folder / LOG)


def _last_time(records: list[dict[str, Any]]) -> float:
    times = [r["time"] for r in records if isinstance(r.get("time"), int | float)]
    return float(times[-1]) if times else 0.0
