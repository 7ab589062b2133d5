"""Scores of results on a benchmark: of every item, and their means over items, kinds of edits and magnitudes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scene4d.metrics.benchmark_items import Benchmark, Item, load_clip, result_items
from scene4d.metrics.perceptual import LpipsWeights
from scene4d.metrics.region_types import METRICS, Score
from scene4d.metrics.regions import region_scores

FORMAT, VERSION = "scene4d-region-scores", 1
RESAMPLES, INTERVAL = 1000, (2.5, 97.5)  # of the bootstrap over scenes; percentiles


def score_results(
    benchmark: Benchmark,
    results: Path,
    weights: LpipsWeights | None,
    no_weights: str = "no LPIPS weights",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Scores of one folder of results, as JSON: `items`, `missing` and `summary`. Raises InputError."""
    there, missing = result_items(benchmark, results)
    items: dict[str, Any] = {}
    for k, item in enumerate(there):
        scores = region_scores(load_clip(item, results), weights, no_weights)
        items[item.name] = {**_facts(item), "scores": {name: s.as_json() for name, s in scores.items()}}
        if progress:
            progress(k + 1, len(there))
    return {"items": items, "missing": missing, "summary": summary(items)}


def _facts(item: Item) -> dict[str, str]:
    return {name: getattr(item, name) for name in ("scene", "kind", "magnitude", "origin")}


def summary(items: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Means over items: of all, by origin, by kind, by magnitude, by kind and magnitude."""
    strata: dict[str, list[Mapping[str, Any]]] = {"all": list(items.values())}
    for item in items.values():
        for name in (item["origin"], item["kind"], item["magnitude"], f"{item['kind']}.{item['magnitude']}"):
            strata.setdefault(name, []).append(item)
    return {name: _means(members) for name, members in strata.items()}


def _means(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = dict.fromkeys(name for item in items for name in item["scores"])
    return {name: _mean([(item["scene"], item["scores"].get(name)) for item in items]) for name in names}


def _mean(scores: Iterable[tuple[str, Mapping[str, Any] | None]]) -> dict[str, Any]:
    """Mean over the items that have a value, with its bootstrap interval over scenes; why the others have none."""
    values: dict[str, list[float]] = {}
    reasons: dict[str, int] = {}
    for scene, score in scores:
        if score is None:
            continue
        if "value" in score:
            values.setdefault(scene, []).append(float(score["value"]))
        else:
            reasons[score["skipped"]] = reasons.get(score["skipped"], 0) + 1
    if not values:
        return {"skipped": max(reasons, key=lambda r: reasons[r]), "items": 0, "reasons": reasons}
    count = sum(map(len, values.values()))
    mean = sum(map(sum, values.values())) / count
    return {"value": mean, "items": count, "interval": scene_interval(values), "reasons": reasons}


def scene_interval(values: Mapping[str, Sequence[float]]) -> list[float] | None:
    """95 % interval of the mean when whole scenes are drawn again; None for a single scene, which tells nothing."""
    if len(values) < 2:
        return None
    sums = np.array([sum(v) for v in values.values()])
    counts = np.array([len(v) for v in values.values()])
    drawn = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    return [float(v) for v in np.percentile(means, INTERVAL)]


def composite(scores: Mapping[str, Mapping[str, Any]], weights: Mapping[str, float]) -> Score:
    """Weighted mean of the goodness of an item's metrics, in steps; those without a value do not count.

    Raises ValueError: a weight is negative or of no known metric.
    """
    for name, weight in weights.items():
        if name not in METRICS or weight < 0:
            raise ValueError(f"weights must be of known metrics and not negative, got {name}: {weight}")
    parts = [(w, METRICS[n].goodness(scores[n]["value"])) for n, w in weights.items() if "value" in scores.get(n, {})]
    total = sum(w for w, _ in parts)
    if not total:
        return Score(None, skipped="none of the weighted metrics has a value")
    return Score(sum(w * g for w, g in parts) / total, len(parts))
