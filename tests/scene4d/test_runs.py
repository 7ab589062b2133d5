"""Run folders and checkpoints: what a killed, cancelled, resumed or damaged run leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scene4d import checkpoints, cli
from scene4d.errors import EXIT_CANCELLED, InputError
from scene4d.files.atomic import FolderLock, last_line_end, write_atomic, write_json
from scene4d.runs import Cancelled, Journal, Run, RunWarning, create_run, list_runs, read_journal, resume_run

ROOT = Path(__file__).parents[2]


def equal(a: Any, b: Any) -> bool:
    """Equal nests, tensors bit by bit, with the same types."""
    if isinstance(a, Tensor):
        same = isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape
        return same and a.contiguous().numpy().tobytes() == b.contiguous().numpy().tobytes()
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


# -- atomic writes


def test_failed_write_leaves_the_old_content_and_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, b"old")

    def parts() -> Any:
        yield b"new"
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"a\.json: cannot be written: No space left"):
        write_atomic(path, parts())
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_json_without_a_word_for_it_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"psnr": 30.0})
    with pytest.raises(ValueError):
        write_json(path, {"psnr": float("nan")})
    assert json.loads(path.read_text()) == {"psnr": 30.0}


def test_second_lock_on_a_folder_is_refused_until_the_first_is_released(tmp_path: Path) -> None:
    with FolderLock(tmp_path, exclusive=True), pytest.raises(InputError, match="another process is using it"):
        FolderLock(tmp_path, exclusive=True, wait=False)
    FolderLock(tmp_path, exclusive=True, wait=False).release()


# -- journal

records = st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.floats(allow_nan=False, allow_infinity=False)
                                   | st.text(max_size=5), max_size=3), min_size=1, max_size=8)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(records=records, cut=st.integers(min_value=0, max_value=200))
def test_journal_cut_anywhere_keeps_every_whole_line_and_goes_on(
    records: list[dict], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("journal") / "log.jsonl"
    journal = Journal(path)
    for record in records:
        journal.add(record)
    journal.close()
    data = path.read_bytes()[: -cut or None]
    path.write_bytes(data)
    whole = data.count(b"\n")
    assert read_journal(path) == records[:whole]
    journal = Journal(path)
    journal.add({"more": 1})
    journal.close()
    assert read_journal(path) == [*records[:whole], {"more": 1}]


def test_broken_line_in_the_middle_of_a_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 0}\n{"st\n{"step": 2}\n')
    with pytest.raises(InputError, match=r"log\.jsonl: line 2"):
        read_journal(tmp_path / "log.jsonl")


def test_end_of_the_last_line_is_found_beyond_one_block(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"first\n" + b"x" * 200_000)
    assert last_line_end(path) == 6


def test_numbers_that_json_lacks_are_logged_as_null_and_tensors_as_numbers(tmp_path: Path) -> None:
    with create_run(tmp_path, "fit", {}) as run:
        run.log(0, {"loss": float("nan"), "psnr": torch.tensor(float("inf")), "lr": np.float64(0.5)})  # pyright: ignore
        (record,) = read_journal(run.folder / "log.jsonl")
    assert (record["loss"], record["psnr"], record["lr"]) == (None, None, 0.5)


# -- checkpoints

shapes = st.lists(st.integers(0, 3), max_size=3)
dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
tensors = st.builds(lambda shape, dtype: torch.randint(0, 2, shape).to(dtype), shapes, dtypes)
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4) | tensors
keys = st.text(max_size=4) | st.integers(0, 9) | st.just("$tensor") | st.just("a/b")
nests = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


def bits(value: Any) -> Any:
    """For types that numpy does not know."""
    if isinstance(value, Tensor):
        return [str(value.dtype), list(value.shape), value.reshape(-1).view(torch.uint8)]
    if isinstance(value, dict):
        return {key: bits(v) for key, v in value.items()}
    return type(value)(bits(v) for v in value) if isinstance(value, list | tuple) else value


@settings(max_examples=80, deadline=None)
@given(state=nests)
def test_any_nest_comes_back_from_a_checkpoint_bit_by_bit(state: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = checkpoints.save_checkpoint(tmp_path_factory.mktemp("nest"), 7, state)
    found = checkpoints.load_checkpoint(path)
    assert found.step == 7 and equal(bits(state), bits(found.state))


def train(steps: int, run: Run | None = None, stop: int | None = None) -> Tensor:
    """A small optimisation that depends on every kind of random number; checkpoints every 10 steps."""
    torch.manual_seed(0)
    np.random.seed(0)
    generators = {"data": np.random.default_rng(5), "noise": torch.Generator().manual_seed(3)}
    x = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.Adam([x], lr=0.1)
    first = 0
    found = run.load_checkpoint(generators) if run else None
    if found:
        x.data.copy_(found.state["x"])
        optimizer.load_state_dict(found.state["optimizer"])
        first = found.step
    for step in range(first, steps) if run is None else run.steps(first, steps):
        noise = torch.rand(4) + torch.rand(4, generator=generators["noise"]) + float(generators["data"].random())
        noise = noise + np.random.rand()
        loss = ((x - noise) ** 2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if run:
            run.log(step, {"loss": float(loss.detach()), "psnr": 20.0 + step})
            if (step + 1) % 10 == 0:
                run.save_checkpoint(step + 1, {"x": x, "optimizer": optimizer.state_dict()}, generators)
        if step == stop:
            break
    return x.detach().clone()


def test_resumed_run_ends_bit_identical_to_an_uninterrupted_one_and_its_journal_has_each_step_once(
    tmp_path: Path,
) -> None:
    straight = train(50)
    with create_run(tmp_path, "fit", {}) as run:
        train(50, run, stop=33)
    with resume_run(tmp_path, "fit") as run:
        resumed = train(50, run)
        steps = [record["step"] for record in read_journal(run.folder / "log.jsonl")]
    assert equal(straight, resumed) and steps == list(range(50))


def test_tensors_whose_paths_read_the_same_stay_apart(tmp_path: Path) -> None:
    state = {"a/b": torch.zeros(1), "a": {"b": torch.ones(1)}, 0: {"'0'": torch.ones(2)}, "0": torch.zeros(2)}
    assert equal(checkpoints.load_checkpoint(checkpoints.save_checkpoint(tmp_path, 1, state)).state, state)


def test_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        checkpoints.save_checkpoint(tmp_path, step, {"x": torch.zeros(3)})
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "step_000000030.safetensors",
        "step_000000040.safetensors",
    ]
    checkpoints.save_checkpoint(tmp_path, 35, {})  # after going back: step 40 is no longer ahead
    assert [int(path.stem[5:]) for path in sorted(tmp_path.iterdir())] == [30, 35]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "missing header"])
def test_damaged_checkpoint_gives_way_to_the_one_before_with_a_warning(tmp_path: Path, damage: str) -> None:
    with create_run(tmp_path, "fit", {}) as run:
        for step in (10, 20):
            run.save_checkpoint(step, {"x": torch.full((100,), float(step))})
            run.log(step - 1, {})
        path = run.folder / "checkpoints" / "step_000000020.safetensors"
        data = bytearray(path.read_bytes())
        data[-7] ^= 1
        path.write_bytes(
            {"truncated": data[:-100], "flipped": data, "empty": b"", "missing header": b"\0" * 20}[damage]
        )
        with pytest.warns(RunWarning, match=r"step_000000020.*going back to step 10"):
            found = run.load_checkpoint()
        assert found is not None and found.step == 10 and (found.state["x"] == 10).all()
        assert [record["step"] for record in read_journal(run.folder / "log.jsonl")] == [9]
        (run.folder / "checkpoints" / "step_000000010.safetensors").write_bytes(b"x")
        with pytest.raises(InputError, match=r"step_000000020\.safetensors.*no older checkpoint is whole"):
            run.load_checkpoint()


def test_every_flipped_bit_of_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    path = checkpoints.save_checkpoint(tmp_path, 1, {"x": torch.arange(3.0), "name": "a"})
    data = path.read_bytes()
    expected = checkpoints.load_checkpoint(path).state
    rng = np.random.default_rng(0)
    places = np.unique(np.r_[:600, rng.integers(0, len(data), 400), len(data) - 40 : len(data)])
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        try:
            found = checkpoints.load_checkpoint(path).state
        except InputError:
            continue
        assert equal(found, expected), place  # only padding of the header may change without notice


def test_checkpoint_of_a_newer_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "VERSION", 2)
    path = checkpoints.save_checkpoint(tmp_path, 1, {})
    monkeypatch.undo()
    with pytest.raises(InputError, match="version 2 is newer"):
        checkpoints.load_checkpoint(path)


def test_object_that_would_need_pickle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="state/a must be a plain value or a tensor, got PosixPath"):
        checkpoints.save_checkpoint(tmp_path, 1, {"a": tmp_path})


# -- runs


def test_run_in_use_cannot_be_resumed(tmp_path: Path) -> None:
    with create_run(tmp_path, "fit", {}), pytest.raises(InputError, match="another process"):
        resume_run(tmp_path, "fit")
    resume_run(tmp_path, "fit").close()


def test_latest_run_of_the_kind_is_resumed_and_other_options_are_named(tmp_path: Path) -> None:
    for kind, value in (("fit", 1), ("fit", 2), ("train", 3)):
        create_run(tmp_path, kind, {"steps": value, "size": (4, 5)}).close()
    with resume_run(tmp_path, "fit", {"size": (4, 5), "steps": 2}) as run:
        assert run.config["steps"] == 2
    with pytest.raises(InputError, match=r"other options \(steps\)"):
        resume_run(tmp_path, "fit", {"size": (4, 5), "steps": 7})
    with pytest.raises(InputError, match="holds no render"):
        resume_run(tmp_path, "render")
    assert len(list_runs(tmp_path)) == 3


def test_run_is_finished_when_its_metrics_are_written(tmp_path: Path) -> None:
    with create_run(tmp_path, "fit", {}) as run:
        assert not run.finished
        run.finish({"psnr": 31.5})
        assert run.finished and json.loads((run.folder / "metrics.json").read_text()) == {"psnr": 31.5}


def test_cancelled_run_tells_the_steps_done_and_the_command_line_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = []

    def command(_: Any) -> None:
        with create_run(tmp_path, "fit", {}) as run:
            for step in run.steps(0, 10):
                if step == 3:
                    os.kill(os.getpid(), signal.SIGINT)
                done.append(step)

    from scene4d.commands import doctor

    monkeypatch.setattr(doctor, "main", command)
    before = signal.getsignal(signal.SIGINT)
    assert cli.main(["doctor"]) == EXIT_CANCELLED
    assert done == [0, 1, 2, 3] and signal.getsignal(signal.SIGINT) is before
    assert "cancelled" in capsys.readouterr().err


def test_cancelled_in_the_last_step_is_cancelled_all_the_same(tmp_path: Path) -> None:
    with create_run(tmp_path, "fit", {}) as run, pytest.raises(Cancelled) as caught:
        for step in run.steps(1, 2):
            assert step == 1
            run.cancel()
    assert caught.value.step == 2


WRITER = """
import sys, torch
from pathlib import Path
from scene4d.runs import create_run, list_runs, resume_run
runs = Path(sys.argv[1])
run = resume_run(runs, "fit") if list_runs(runs) else create_run(runs, "fit", {})
with run:
    found = run.load_checkpoint()
    first = found.step if found else 0
    for step in run.steps(first, 10**9):
        run.log(step, {"loss": 1.0})
        run.save_checkpoint(step + 1, {"x": torch.full((20_000,), float(step + 1))})
        if step == first:
            print("going", flush=True)
"""


def test_killed_process_leaves_whole_checkpoints_and_a_journal_that_goes_on(tmp_path: Path) -> None:
    rng, last = np.random.default_rng(1), 0
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WRITER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert process.stdout is not None and process.stdout.readline() == b"going\n"
        time.sleep(rng.uniform(0.0, 0.2))
        process.kill()
        process.wait()
        process.stdout.close()
        with resume_run(tmp_path, "fit") as run:
            files = sorted((run.folder / "checkpoints").glob("step_*"))
            states = [checkpoints.load_checkpoint(path) for path in files]
            assert 1 <= len(states) <= 3  # 3: killed between the write and the removal of the oldest
            assert all((found.state["x"] == found.step).all() for found in states)
            found = run.load_checkpoint()
            assert found is not None and found.step > last
            last = found.step
            steps = [record["step"] for record in read_journal(run.folder / "log.jsonl")]
            assert steps == list(range(last))
            assert not list(run.folder.rglob("*.tmp"))
