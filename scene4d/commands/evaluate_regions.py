"""`scene4d evaluate --benchmark DIR --results A B`: results of editors on a region benchmark (docs/benchmark.md)."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scene4d.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from scene4d.metrics.benchmark_items import Benchmark

HEADLINES = ("preserve.psnr", "preserve.flicker", "reveal.psnr", "reveal.ghost", "expand.psnr", "control.object")


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    benchmark: Path
    results: tuple[Path, ...]
    lpips_weights: Path | None
    metric_weights: Path | None
    out: Path | None
    as_json: bool


def run(request: Request) -> int:
    from rich.console import Console

    from scene4d.files.atomic import make_folder, write_json
    from scene4d.metrics.benchmark_items import load_benchmark
    from scene4d.metrics.benchmark_scores import FORMAT, VERSION

    console = Console(highlight=False, stderr=request.as_json, width=None if sys.stdout.isatty() else 200)
    benchmark = load_benchmark(request.benchmark)
    methods = _names(request.results)
    weights, source = _metric_weights(request.metric_weights)
    scored = {name: _score(request, benchmark, folder, console) for name, folder in methods.items()}
    for found in scored.values():
        _add_composite(found, weights)
    head = {"format": FORMAT, "version": VERSION, "benchmark": benchmark.name, "composite_weights": source}
    facts = {**head, "methods": scored}
    if request.out is not None:
        make_folder(request.out)
        write_json(request.out / "region_scores.json", facts)
        console.print(f"wrote {request.out}/region_scores.json", markup=False)
    if request.as_json:
        sys.stdout.write(json.dumps(facts, indent=1, allow_nan=False) + "\n")
    else:
        show(facts, console)
    return 0


def _names(folders: Sequence[Path]) -> dict[str, Path]:
    """Names of methods: those of their folders."""
    names = {folder.resolve().name: folder for folder in folders}
    if len(names) < len(folders):
        raise InputError(
            f"{folders[0]}: folders of results must have different names, they are the names of the methods"
        )
    return names


def _score(request: Request, benchmark: Benchmark, folder: Path, console: Console) -> dict[str, Any]:
    from rich.progress import Progress

    from scene4d.metrics.benchmark_scores import score_results
    from scene4d.metrics.perceptual import load_lpips
    from scene4d.weights import MissingWeightsError

    weights, reason = None, ""
    try:
        weights = load_lpips(request.lpips_weights)
    except MissingWeightsError as e:
        if request.lpips_weights is not None:
            raise
        reason = str(e)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(folder.name, total=len(benchmark.items))
        return score_results(
            benchmark, folder, weights, reason, lambda done, total: bar.update(task, completed=done, total=total)
        )


def _metric_weights(path: Path | None) -> tuple[dict[str, float], str]:
    """Weights of the composite and where they come from; equal ones where no votes gave any. Raises InputError."""
    from scene4d.files.atomic import read_json
    from scene4d.metrics.region_types import METRICS

    if path is None:
        parts = [name for name in METRICS if not name.startswith("whole.")]
        return dict.fromkeys(parts, 1.0), "equal (no votes given)"
    found = read_json(path).get("weights")
    if not isinstance(found, dict) or not found:
        raise InputError(f"{path}: must hold weights, as `scene4d vote report --out` writes them")
    for name, weight in found.items():
        if name not in METRICS or type(weight) not in (int, float) or not 0 <= weight < float("inf"):
            raise InputError(
                f"{path}: weights must be of known metrics and not negative, got {name}: {str(weight)[:20]}"
            )
    return {name: float(weight) for name, weight in found.items()}, str(path)


def _add_composite(found: dict[str, Any], weights: dict[str, float]) -> None:
    from scene4d.metrics.benchmark_scores import composite, summary

    for item in found["items"].values():
        item["scores"]["composite"] = composite(item["scores"], weights).as_json()
    found["summary"] = summary(found["items"])


# -- tables ------------------------------------------------------------------------------------------------------------


def show(facts: dict[str, Any], console: Console) -> None:
    """All metrics of all methods, then a few of them by edit."""
    from rich.table import Table

    from scene4d.metrics.region_types import METRICS

    methods = facts["methods"]
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(facts["benchmark"])
    for name in methods:
        table.add_column(name, justify="right")
    table.add_column("items", justify="right")
    table.add_column("", style="dim")
    names = [n for n in next(iter(methods.values()))["summary"]["all"] if n != "composite"]
    for name in (*names, "composite"):
        means = [m["summary"]["all"][name] for m in methods.values()]
        items = "/".join(str(mean["items"]) for mean in means)
        table.add_row(name, *(_cell(mean) for mean in means), items, _meaning(name, facts, METRICS))
    console.print(table)
    for name, found in methods.items():
        if found["missing"]:
            text = f"{name} lacks {len(found['missing'])} items: {', '.join(found['missing'][:3])} ..."
            console.print(text, style="bold", markup=False)
        _show_strata(name, found["summary"], console)
    reasons = {
        r for m in methods.values() for n, v in m["summary"]["all"].items() if not v["items"] for r in [v["skipped"]]
    }
    for reason in sorted(reasons):
        console.print(f"-: {reason}", style="dim", markup=False)


def _meaning(name: str, facts: dict[str, Any], metrics: dict[str, Any]) -> str:
    if name == "composite":
        return f"weights: {facts['composite_weights']}"
    if name.endswith(".floor"):
        return "the same of the truth itself"
    metric = metrics[name]
    better = {1: "more is better", -1: "less is better", 0: "1 is best"}[metric.better]
    return f"{metric.unit} ({better})" if metric.unit else better


def _show_strata(method: str, summary: dict[str, Any], console: Console) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(method)
    for name in HEADLINES:
        table.add_column(name, justify="right")
    for stratum in sorted(name for name in summary if "." in name):
        table.add_row(stratum, *(_cell(summary[stratum][name]) for name in HEADLINES))
    console.print(table)


def _cell(mean: dict[str, Any]) -> str:
    return f"{mean['value']:.3f}" if "value" in mean else "-"
