"""The house rules that a machine can check: import arrows, homes of heavy libraries, sizes, absolute imports."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("renderers", "scene4d", "editors", "viewer")  # each may import itself and those to its left
HOMES = {  # the only places in the packages that import a heavy library
    "gsplat": ("renderers/gsplat_cuda.py", "scene4d/fitting/"),
    "pycolmap": ("scene4d/captures/",),
    "transformers": ("scene4d/models.py",),
    "open3d": ("scene4d/files/meshes.py",),
    "diffusers": ("editors/backbones/",),
    "viser": ("viewer/",),
}
MAX_FILE_LINES, MAX_BODY_LINES, MAX_PARAMETERS = 400, 60, 8
CPP = {".h", ".hpp", ".c", ".cc", ".cpp"}
SOURCES = sorted(
    path
    for folder in (*PACKAGES, "scripts", "tests")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".sh", *CPP}
)
PYTHON = [path for path in SOURCES if path.suffix == ".py"]


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Dotted names that are imported, also by `import_module("literal")`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func) and node.args:
            if isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
                yield node.args[0].value


def import_faults(place: str, tree: ast.AST) -> list[str]:
    """What the file at `place` (path from the root) imports against the rules."""
    package = place.split("/")[0]
    may_import = {*PACKAGES[: PACKAGES.index(package) + 1]} if package in PACKAGES else {*PACKAGES, "scripts", "tests"}
    faults = []
    for module in imported_modules(tree):
        top = module.split(".")[0]
        if module.startswith("."):
            faults.append(f"{place}: relative import of {module}")
        if top in {*PACKAGES, "scripts", "tests"} - may_import:
            faults.append(f"{place}: imports {module}")
        if package in PACKAGES and top in HOMES and not place.startswith(HOMES[top]):
            faults.append(f"{place}: imports {module}, whose home is {' or '.join(HOMES[top])}")
    return faults


def size_faults(place: str, tree: ast.AST) -> list[str]:
    faults = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
        if lines > MAX_BODY_LINES:
            faults.append(f"{place}: {node.name} has a body of {lines} lines")
        arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        count = sum(argument.arg not in ("self", "cls") for argument in arguments)
        if count > MAX_PARAMETERS:
            faults.append(f"{place}: {node.name} has {count} parameters")
    return faults


def parsed(paths: list[Path]) -> list[tuple[str, ast.AST]]:
    return [(path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())) for path in paths]


def test_imports_point_one_way_are_absolute_and_heavy_ones_stay_at_home() -> None:
    assert [fault for place, tree in parsed(PYTHON) for fault in import_faults(place, tree)] == []


def test_functions_are_short_and_take_few_parameters() -> None:
    assert [fault for place, tree in parsed(PYTHON) for fault in size_faults(place, tree)] == []


def test_files_are_short() -> None:
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in SOURCES}
    assert {place: length for place, length in lengths.items() if length > MAX_FILE_LINES} == {}


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("renderers/a.py", "import scene4d"),
        ("renderers/a.py", "def f():\n    from editors.b import c"),
        ("scene4d/a.py", "import_module('viewer.app')"),
        ("scene4d/a.py", "from scripts import demo"),
        ("editors/a.py", "from . import b"),
        ("scene4d/a.py", "import open3d.visualization"),
    ],
)
def test_import_check_sees_what_is_forbidden(place: str, source: str) -> None:
    assert len(import_faults(place, ast.parse(source))) == 1


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("editors/a.py", "import renderers.data, scene4d, editors.b"),
        ("viewer/a.py", "import viser"),
        ("tests/a.py", "import scripts.demo, viewer, gsplat"),
    ],
)
def test_import_check_lets_pass_what_is_allowed(place: str, source: str) -> None:
    assert import_faults(place, ast.parse(source)) == []


def test_size_check_sees_a_long_body_and_many_parameters() -> None:
    long = "def f():\n" + "    x = 1\n" * (MAX_BODY_LINES + 1)
    wide = f"def g({', '.join(f'a{i}' for i in range(MAX_PARAMETERS + 1))}): ..."
    assert len(size_faults("a.py", ast.parse(long + wide))) == 2


@pytest.mark.parametrize("package", PACKAGES)
def test_package_name_resolves_inside_the_checkout(package: str) -> None:
    found = importlib.import_module(package).__file__
    assert found is not None and Path(found).parent == ROOT / package
