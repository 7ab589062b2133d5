"""Exit codes and messages of the `scene4d` command, by a fake command; start-up by a fresh process."""

import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch

from scene4d import cli
from scene4d.errors import InputError

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Config:
    """A fake command."""

    count: int = 1
    """How many."""

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count must be >= 0, got {self.count}")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs `scene4d fake ARGS`, where the command does what `action` does."""

    def run(*args: str, action: Callable[[Config], int | None] = lambda config: None) -> int:
        module = ModuleType("fake_command")
        module.Config, module.main = Config, action  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "fake_command", module)
        monkeypatch.setitem(cli.COMMANDS, "fake", ("fake_command", "fakes"))
        return cli.main(["fake", *args])

    return run


def raising(error: BaseException) -> Callable[[Config], None]:
    def action(config: Config) -> None:
        raise error

    return action


def test_command_gets_its_options_and_its_result_is_the_exit_code(run: Callable[..., int]) -> None:
    assert run() == 0
    assert run("--count", "4", action=lambda config: config.count) == 4


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--cuont", "3"], ["scene4d fake: ", "--cuont", "--count", "scene4d fake --help"]),
        (["--count", "many"], ["scene4d fake: ", "--count", "many", "scene4d fake --help"]),
        (["--count", "-3"], ["scene4d fake: ", "count must be >= 0, got -3"]),
        (["stray"], ["scene4d fake: ", "stray"]),
    ],
)
def test_wrong_option_gives_one_line_and_exit_code_2(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], args: list[str], words: list[str]
) -> None:
    assert run(*args) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            InputError("scene.ply: has no vertices;\n  export it again"),
            2,
            "scene.ply: has no vertices; export it again",
        ),
        (KeyboardInterrupt(), 130, "cancelled"),
        (MemoryError("needs 12 GB"), 3, "out of memory: needs 12 GB"),
        (torch.OutOfMemoryError("CUDA out of memory."), 3, "out of memory: CUDA out of memory."),
    ],
)
def test_expected_failure_gives_one_line_and_its_exit_code(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], error: BaseException, code: int, message: str
) -> None:
    assert run(action=raising(error)) == code
    assert capsys.readouterr().err == f"scene4d fake: {message}\n"


def test_torch_running_out_of_host_memory_gives_exit_code_3(run: Callable[..., int]) -> None:
    assert run(action=lambda config: len(torch.empty(1 << 50))) == 3


@pytest.mark.parametrize("error", [ValueError("a bug"), RuntimeError("a bug"), KeyError("a bug")])
def test_bug_keeps_its_traceback(run: Callable[..., int], error: Exception) -> None:
    with pytest.raises(type(error), match="a bug"):
        run(action=raising(error))


def test_unknown_command_is_told_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["docter"]) == 2
    message = capsys.readouterr().err
    assert "'docter'" in message and "'doctor'" in message and message.count("\n") == 1
    assert cli.main(["zzz"]) == 2
    assert "did you mean" not in capsys.readouterr().err


def test_help_and_no_arguments_list_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for args in ([], ["--help"], ["-h"]):
        assert cli.main(args) == 0
        listed = {" ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
        assert [name for name, (_, summary) in cli.COMMANDS.items() if f"{name} {summary}" not in listed] == []


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_for_each_of_its_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code in (0, None)
    assert f"usage: scene4d {name}" in capsys.readouterr().out


def test_version_is_that_of_the_installed_package(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"scene4d {version('scene4d')}\n"


def test_help_takes_less_than_300_ms_of_cpu() -> None:
    def cpu_seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "scene4d.cli", "--help"], cwd=ROOT, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cpu_seconds() for _ in range(3)) < 0.3  # the least of three: the machine may be busy otherwise


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from scene4d.cli import main; main(['--help']); sys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert not {"torch", "numpy", "tyro", "rich", "renderers"} & set(done.stderr.split())
