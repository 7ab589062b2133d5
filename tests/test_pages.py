"""README and CONTRIBUTING name only what there is."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from scene4d.cli import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md")


def code_of(page: str) -> str:
    """What stands in code spans and code blocks."""
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", (ROOT / page).read_text(), re.DOTALL))


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_on_the_page_is_in_the_makefile(page: str) -> None:
    named = set(re.findall(r"\bmake ([a-z]+)", code_of(page)))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert named and named <= targets


@pytest.mark.parametrize("page", PAGES)
def test_every_command_on_the_page_exists(page: str) -> None:
    assert set(re.findall(r"\bscene4d ([a-z]+)", code_of(page))) <= set(COMMANDS)


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_extra_on_the_page_exists(page: str) -> None:
    code = code_of(page)
    paths = re.findall(r"\b((?:scripts|docs|tests|renderers|scene4d)/[\w./]+)", code)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    extras = {name for group in re.findall(r"\.\[([\w,]+)\]", code) for name in group.split(",")}
    assert extras <= set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def test_example_in_the_readme_renders_both_gaussians_and_gives_a_gradient() -> None:
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert example is not None
    names: dict[str, Any] = {}
    exec(compile(example[1], "README.md", "exec"), names)
    red, _, blue = names["rendering"].image[0, 60].detach().unbind(-1)
    assert int(red.argmax()) == pytest.approx(80, abs=1)  # f x / z + c of the first
    assert int(blue.argmax()) == pytest.approx(95, abs=1)  # and of the second
    assert (names["gaussians"].logit_opacities.grad > 0).all()


def test_constraints_pin_torch_and_everything_else_exactly() -> None:
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = [line for line in lines if line]
    assert "torch==2.13.0" in pins
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)] == []
