"""`scene4d doctor` against machines that are broken in known ways."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from renderers import Rendering, rasterize
from scene4d import cli, diagnosis, known_image

NINE = ["torch", "gsplat", "nerfstudio", "diffusers", "pytorch3d", "open3d", "tyro", "viser", "RAFT"]


def fake_package(folder: Path, name: str, version: str, source: str = "") -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(source)
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def report(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = cli.main(["doctor", "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_json_has_the_documented_keys_and_every_fault_has_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    _, found = report(capsys)
    assert set(found) == {
        "ok", "version", "machine", "core", "cpu", "tools", "backends", "packages", "torchvision", "weights",
    }  # fmt: skip
    assert [package["name"] for package in found["packages"]] == NINE
    assert [backend["name"] for backend in found["backends"]] == ["torch", "cpu", "gsplat"]
    assert found["core"]["torch"] == torch.__version__
    findings = found["tools"] + found["backends"] + found["packages"]
    assert all(set(finding) == {"name", "available", "detail", "why", "fix", "used_for"} for finding in findings)
    assert [finding["name"] for finding in findings if not finding["available"] and not finding["why"]] == []
    assert [finding["name"] for finding in findings if not finding["available"] and not finding["fix"]] == []


def test_default_path_works_here_and_the_exit_code_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = report(capsys)
    assert code == 0 and found["ok"] is True
    assert {"variant", "path", "features", "threads"} <= set(found["cpu"])


def test_tables_tell_the_same_as_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    _, found = report(capsys)
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert [name for name in NINE if name not in shown] == []
    assert found["cpu"]["variant"] in shown and found["core"]["torch"] in shown
    assert "The default path works" in shown


@pytest.mark.parametrize("factor", [0.9, float("nan")])
def test_backend_that_draws_the_known_image_wrongly_gives_exit_code_1(
    factor: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(*args: Any, **options: Any) -> Rendering:
        rendering = rasterize(*args, **options | {"backend": "torch"})
        rendering.image.mul_(factor)
        return rendering

    monkeypatch.setattr(known_image, "rasterize", wrong)
    code, found = report(capsys)
    assert code == 1 and found["ok"] is False
    assert "known image" in found["backends"][1]["why"]


def test_backend_that_raises_gives_exit_code_1_and_its_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: Any, **options: Any) -> Rendering:
        raise RuntimeError("no library for this processor")

    monkeypatch.setattr(known_image, "rasterize", broken)
    assert cli.main(["doctor"]) == 1
    assert "no library for this processor" in capsys.readouterr().out.replace("\n", " ")


def test_known_image_is_what_the_definition_draws() -> None:
    # depth is a quotient by alpha = 1 - T, which float32 holds to 6e-8: at alpha = 1/255 that is 3e-5 of depth 2
    assert known_image.largest_error("torch", "cpu") < 3e-5


def test_broken_torchvision_is_found_and_spoils_diffusers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_package(tmp_path, "torchvision", "0.28.0", "raise RuntimeError('operator torchvision::nms does not exist')")
    fake_package(tmp_path, "diffusers", "0.42.1")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    torchvision = diagnosis.examine_torchvision()
    assert torchvision is not None and not torchvision.available
    assert "torchvision::nms does not exist" in torchvision.why and "uninstall" in torchvision.fix
    diffusers = {found.name: found for found in diagnosis.examine_packages(torchvision)}["diffusers"]
    assert not diffusers.available and "torchvision" in diffusers.why


def test_torchvision_that_imports_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_package(tmp_path, "torchvision", "0.28.0")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    torchvision = diagnosis.examine_torchvision()
    assert torchvision is not None and torchvision.available


@pytest.mark.parametrize(("version", "available"), [("0.2.7", False), ("1.1.0", True), ("1.2.0", False)])
def test_viser_outside_its_range_is_not_available(
    version: str, available: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_package(tmp_path, "viser", version)
    monkeypatch.syspath_prepend(tmp_path)
    viser = {found.name: found for found in diagnosis.examine_packages(None)}["viser"]
    assert viser.available is available and viser.detail == version
    assert available or ">=1.1,<1.2" in viser.why


def test_missing_system_library_of_an_installed_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_package(tmp_path, "open3d", "0.20.0")
    monkeypatch.syspath_prepend(tmp_path)
    package = diagnosis.Package("open3d", "", "", libraries=("libc.so.6", "libno-such-thing.so.1"))
    found = diagnosis.examine_package(package)
    assert not found.available and "libno-such-thing.so.1" in found.why and "libc" not in found.why


def test_compiler_is_the_one_named_by_cxx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "my-c++"
    compiler.write_text("#!/bin/sh\necho my compiler 7.0\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert diagnosis.examine_compiler().detail == f"{compiler}: my compiler 7.0"
    compiler.write_text("#!/bin/sh\nexit 3\n")
    assert "code 3" in diagnosis.examine_compiler().why
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in diagnosis.examine_compiler().why
