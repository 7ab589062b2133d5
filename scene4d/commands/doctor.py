"""`scene4d doctor`: what works on this machine, what does not, and how to fix it."""

from __future__ import annotations

import json as json_format
import os
import sys
from dataclasses import asdict, dataclass
from typing import Any

from scene4d import __version__, diagnosis
from scene4d.weights import weights_dirs


@dataclass(frozen=True)
class Config:
    """Say what works on this machine, what does not, and how to fix it.

    Exit code 0 if the default path works (backend cpu renders a known image), else 1.
    """

    json: bool = False
    """Print one JSON object instead of tables."""


def main(config: Config) -> int:
    report = examine()
    if config.json:
        sys.stdout.write(json_format.dumps(report, indent=2) + "\n")
    else:
        show(report)
    return 0 if report["ok"] else 1


def examine() -> dict[str, Any]:
    """Everything that doctor tells, as JSON can hold it."""
    library, cpu = diagnosis.examine_cpu_library()
    gpu = diagnosis.examine_gpu()
    backends = diagnosis.examine_backends(gpu)
    torchvision = diagnosis.examine_torchvision()
    return {
        "ok": all(backend.available for backend in backends if backend.name == "cpu"),
        "version": __version__,
        "machine": diagnosis.describe_machine(),
        "core": {name: diagnosis.installed_version(name) for name in diagnosis.CORE},
        "cpu": cpu,
        "tools": [asdict(finding) for finding in (library, diagnosis.examine_compiler(), gpu)],
        "backends": [asdict(finding) for finding in backends],
        "packages": [asdict(finding) for finding in diagnosis.examine_packages(torchvision)],
        "torchvision": torchvision and asdict(torchvision),
        "weights": [{"path": str(folder), "exists": folder.is_dir()} for folder in weights_dirs()],
    }


def show(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    machine, cpu = report["machine"], report["cpu"]
    console.print(f"[bold]scene4d {report['version']}[/bold] on Python {machine['python']}, {machine['system']}")
    console.print(f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GiB", markup=False)
    if cpu:
        features = " ".join(cpu["features"]) if isinstance(cpu["features"], list) else cpu["features"]
        console.print(f"C++ variant {cpu['variant']}, {cpu['threads']} threads; CPU features: {features}", markup=False)
    core = [f"{name} {found or '[red]missing[/red]'}" for name, found in report["core"].items()]
    console.print("Core: " + ", ".join(core))
    console.print(table("Tools", report["tools"]))
    console.print(table("Backends of renderers.rasterize", report["backends"]))
    packages = [found | {"used_for": found["used_for"] or "nothing in this version"} for found in report["packages"]]
    console.print(table("Packages", packages + [report["torchvision"]] * bool(report["torchvision"])))
    source = "SCENE4D_WEIGHTS" if os.environ.get("SCENE4D_WEIGHTS") else "the default; SCENE4D_WEIGHTS overrides"
    for folder in report["weights"]:
        state = "exists" if folder["exists"] else "does not exist yet"
        console.print(f"Weights are looked for in {escape(folder['path'])} ({state}; {source})")
    if report["ok"]:
        console.print("[green]The default path works:[/green] backend cpu renders a known image correctly.")
    else:
        console.print("[red]The default path does not work:[/red] see backend cpu above.")


def table(title: str, findings: list[dict[str, Any]]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    rows = Table(title=title, title_justify="left", show_header=False)
    for _ in range(3):
        rows.add_column(overflow="fold")  # a path that is cut short helps nobody
    for found in findings:
        state = "[green]yes[/green]" if found["available"] else "[yellow]no[/yellow]"
        used_for = f"used for: {found['used_for']}" if found["used_for"] else ""
        fix = f"fix: {found['fix']}" if found["fix"] else ""
        notes = [part for part in (found["detail"], found["why"], used_for, fix) if part]
        rows.add_row(found["name"], state, escape("\n".join(notes)))
    return rows
