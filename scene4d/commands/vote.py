"""`scene4d vote`: a page on which people compare results, and what their votes say (docs/benchmark.md)."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from scene4d.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from scene4d.metrics.votes import Vote


@dataclass(frozen=True)
class Build:
    """Write the page: two results side by side, without names, and its key, which is not for voters."""

    benchmark: Path
    """A region benchmark."""

    results: tuple[Path, ...]
    """Folders of results, two or more: one a method."""

    out: Path
    """The page to write, NAME.html. The key goes beside it, NAME.key.json."""

    pairs: int = 40
    """How many pairs are shown."""

    seed: int = 0
    """Another seed draws other items and sides."""

    long_side: int = 480
    """Pictures are at most this large, in pixels."""

    frames: int = 48
    """Clips have at most so many frames."""

    def __post_init__(self) -> None:
        from scene4d.metrics.vote_page import PageOptions

        if len(self.results) < 2:
            raise ValueError(f"results must be two folders or more, got {len(self.results)}")
        PageOptions(self.pairs, self.seed, self.long_side, self.frames)


@dataclass(frozen=True)
class Report:
    """Say what votes say: wins, ties and losses; which metrics explain them; how far voters agree."""

    key: tuple[Path, ...]
    """Keys of the pages that were voted on."""

    votes: tuple[Path, ...]
    """Files of answers that voters saved; those of kind "judge" (a model) are only compared with people's."""

    scores: Path | None = None
    """region_scores.json of `scene4d evaluate --benchmark --results --out`. Without it metrics are left out."""

    out: Path | None = None
    """Write report.json and, with --scores, weights.json for `scene4d evaluate --metric-weights` to this folder."""

    json: bool = False
    """Print one JSON object instead of tables."""


@dataclass(frozen=True)
class Config:
    """Compare edited videos by eye: `vote build` writes the page, `vote report` reads the answers."""

    action: Annotated[
        Annotated[Build, tyro.conf.subcommand("build")] | Annotated[Report, tyro.conf.subcommand("report")],
        tyro.conf.arg(name=""),
    ]


def main(config: Config) -> int:
    return build(config.action) if isinstance(config.action, Build) else report(config.action)


def build(config: Build) -> int:
    from rich.console import Console

    from scene4d.files.atomic import write_atomic, write_json
    from scene4d.metrics.benchmark_items import load_benchmark
    from scene4d.metrics.vote_page import PageOptions, build_page, chosen_pairs

    benchmark = load_benchmark(config.benchmark)
    results = {folder.resolve().name: folder for folder in config.results}
    if len(results) < len(config.results):
        raise InputError(f"{config.results[0]}: folders of results must have different names")
    if config.out.suffix != ".html":
        raise InputError(f"{config.out}: must end in .html")
    options = PageOptions(config.pairs, config.seed, config.long_side, config.frames)
    pairs = chosen_pairs(benchmark, results, options)
    page, key = build_page(benchmark, results, pairs, options)
    write_json(config.out.with_suffix(".key.json"), key)
    write_atomic(config.out, page)
    questions = sum(len(pair["questions"]) for pair in key["pairs"].values())
    text = f"{config.out}: {len(pairs)} pairs, {questions} questions, {len(page) / 1e6:.1f} MB"
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    console.print(f"{text}; keep {config.out.with_suffix('.key.json')} to yourself", markup=False)
    return 0


def report(config: Report) -> int:
    from rich.console import Console

    from scene4d.files.atomic import make_folder, write_json
    from scene4d.metrics.vote_files import load_key, load_votes

    keys = [load_key(path) for path in config.key]
    votes, kinds = [], {}
    for path in config.votes:
        found, voter, kind = load_votes(path, keys)
        if voter in kinds:
            raise InputError(f"{path}: the votes of {voter!r} were given already; voters must have different names")
        kinds[voter] = kind
        votes += found
    facts = report_facts(votes, kinds, _goodness(config.scores))
    if config.out is not None:
        make_folder(config.out)
        write_json(config.out / "report.json", facts)
        if "weights" in (found := facts["metrics"].get("overall", {})):
            weights = {name: w["weight"] for name, w in found["weights"].items()}
            write_json(
                config.out / "weights.json", {"question": "overall", "votes": found["votes"], "weights": weights}
            )
    if config.json:
        sys.stdout.write(json.dumps(facts, indent=1, allow_nan=False) + "\n")
    else:
        show(facts, Console(highlight=False, width=None if sys.stdout.isatty() else 200))
    return 0


def report_facts(
    votes: list[Vote], kinds: dict[str, str], goodness: dict[tuple[str, str], dict[str, float]] | None
) -> dict[str, Any]:
    """The report as JSON. Votes of judges are counted nowhere but in their agreement with people."""
    from scene4d.metrics.vote_files import QUESTIONS, metrics_of
    from scene4d.metrics.votes import explain, krippendorff, win_table, with_others

    persons = [voter for voter, kind in kinds.items() if kind == "person"]
    counted = [v for v in votes if v.voter in persons]
    if not counted:
        raise InputError("votes: no person has answered anything")
    by_question = {name: [v for v in counted if v.question == name] for name in QUESTIONS}
    by_question = {name: found for name, found in by_question.items() if found}
    metrics: dict[str, Any] = {}
    if goodness is not None:
        metrics = {name: explain(found, goodness, metrics_of(name)) for name, found in by_question.items()}
    voters = {v: {"kind": kinds[v], "with_most_others": with_others(votes, v, persons)} for v in kinds}
    return {
        "format": "scene4d-vote-report",
        "version": 1,
        "votes": len(counted),
        "wins": {name: win_table(found) for name, found in by_question.items()},
        "left": sum(v.outcome == 1 for v in counted) / max(1, sum(v.outcome != 0 for v in counted)),
        "krippendorff_alpha": krippendorff(counted),
        "voters": voters,
        "metrics": metrics,
    }


def _goodness(path: Path | None) -> dict[tuple[str, str], dict[str, float]] | None:
    """Steps of every metric of every method and item. Raises InputError."""
    from scene4d.files.atomic import read_json
    from scene4d.metrics.benchmark_scores import FORMAT, VERSION
    from scene4d.metrics.region_types import METRICS

    if path is None:
        return None
    data = read_json(path)
    if data.get("format") != FORMAT or data.get("version") != VERSION:
        raise InputError(f"{path}: must have format {FORMAT!r} and version {VERSION}")
    found = {}
    try:
        for method, scored in data["methods"].items():
            for item, facts in scored["items"].items():
                values = {n: s["value"] for n, s in facts["scores"].items() if n in METRICS and "value" in s}
                found[method, item] = {name: METRICS[name].goodness(float(value)) for name, value in values.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise InputError(f"{path}: is damaged: {str(e)[:80]}") from e
    return found


# -- tables ------------------------------------------------------------------------------------------------------------


def show(facts: dict[str, Any], console: Console) -> None:
    from rich.table import Table

    table = Table("question", "first", "second", box=None, pad_edge=False, header_style="dim")
    for name in ("wins", "ties", "losses", "share", "95 %"):
        table.add_column(name, justify="right")
    for question, rows in facts["wins"].items():
        for r in rows:
            counts = (str(r[name]) for name in ("wins", "ties", "losses"))
            table.add_row(question, r["first"], r["second"], *counts, f"{r['share']:.2f}", _range(r["interval"]))
    console.print(table)
    alpha = facts["krippendorff_alpha"]
    agreement = "nothing was answered twice" if alpha is None else f"Krippendorff's alpha {alpha:.2f}"
    console.print(f"{facts['votes']} votes; {agreement}; the left won {facts['left']:.0%} of those that are no ties")
    for voter, found in facts["voters"].items():
        others = found["with_most_others"]
        text = "alone" if others is None else f"{others['same']:.0%} of {others['answers']} as most others"
        console.print(f"{found['kind']} {voter}: {text}", markup=False)
    for question, found in facts["metrics"].items():
        _show_metrics(question, found, console)


def _show_metrics(question: str, found: dict[str, Any], console: Console) -> None:
    from rich.table import Table

    if "skipped" in found:
        console.print(f"{question}: no weights: {found['skipped']}", style="dim", markup=False)
        return
    table = Table(f"{question}: {found['votes']} votes", box=None, pad_edge=False, header_style="dim")
    for name in ("weight", "95 %", "accuracy", "95 % ", "tau", "95 %  "):
        table.add_column(name, justify="right")
    for name, judged in found["agreement"].items():
        weight = found["weights"].get(name)
        cells = ("", "") if weight is None else (f"{weight['weight']:.3f}", _range(weight["interval"]))
        order = "-" if judged["tau"] is None else f"{judged['tau']:.2f}"
        intervals = _range(judged["accuracy_interval"]), _range(judged["tau_interval"])
        table.add_row(name, *cells, f"{judged['accuracy']:.2f}", intervals[0], order, intervals[1])
    console.print(table)


def _range(interval: list[float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"
