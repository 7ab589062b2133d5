"""What pairwise votes say: wins, ties and losses, weights of metrics that explain them, agreement of voters.

A vote compares two methods on one item: +1 the first is better, -1 the second, 0 a tie. Votes on items of one scene are
not independent; intervals draw whole scenes again, cross-validation leaves whole scenes out.

n votes, d metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.stats import kendalltau

RESAMPLES, INTERVAL = 1000, (2.5, 97.5)  # of bootstraps; percentiles
WEIGHT_RESAMPLES = 100
RIDGE = 0.01  # of the mean loss: keeps weights finite where metrics separate all votes
LARGEST = 10.0  # steps: a metric that differs by more is no more convincing
MIN_VOTES, MIN_SCENES = 20, 3  # below, no weights are fitted


@dataclass(frozen=True)
class Vote:
    """One answer of one voter."""

    pair: str
    item: str
    scene: str
    question: str
    voter: str
    first: str  # methods
    second: str
    outcome: int  # +1, 0, -1


def win_table(votes: Sequence[Vote]) -> list[dict[str, Any]]:
    """For each two methods: wins, ties and losses of the first, and the share of wins (ties count half) with its
    bootstrap interval over scenes."""
    pairs = sorted({tuple(sorted((v.first, v.second))) for v in votes})
    rows = []
    for first, second in pairs:
        outcomes, scenes = [], []
        for vote in votes:
            if {vote.first, vote.second} == {first, second}:
                outcomes.append(vote.outcome if vote.first == first else -vote.outcome)
                scenes.append(vote.scene)
        found = np.array(outcomes)
        counts = {name: int((found == value).sum()) for name, value in (("wins", 1), ("ties", 0), ("losses", -1))}
        interval = bootstrap(lambda rows, found=found: float((1 + found[rows].mean()) / 2), scenes)
        rows.append(
            {"first": first, "second": second, **counts, "share": float((1 + found.mean()) / 2), "interval": interval}
        )
    return rows


def bootstrap(
    statistic: Callable[[np.ndarray], float], scenes: Sequence[str], resamples: int = RESAMPLES
) -> list[float] | None:
    """95 % interval of a statistic of row numbers when whole scenes are drawn again; None for one scene.

    Draws for which the statistic is NaN do not count.
    """
    groups = scene_rows(scenes)
    if len(groups) < 2:
        return None
    random = np.random.default_rng(0)
    values = []
    for _ in range(resamples):
        drawn = random.integers(0, len(groups), len(groups))
        values.append(statistic(np.concatenate([groups[k] for k in drawn])))
    kept = np.array(values)[np.isfinite(values)]
    return [float(v) for v in np.percentile(kept, INTERVAL)] if len(kept) else None


def scene_rows(scenes: Sequence[str]) -> list[np.ndarray]:
    """Row numbers of each scene."""
    names = np.array(scenes)
    return [np.flatnonzero(names == name) for name in sorted(set(scenes))]


# -- weights of metrics ------------------------------------------------------------------------------------------------


def fit_weights(
    differences: np.ndarray,  # [n, d] goodness of the first less that of the second
    outcomes: np.ndarray,  # [n] +1, 0, -1
) -> np.ndarray:
    """Weights [d], none negative, of the Bradley-Terry model P(first wins) = sigmoid(differences @ weights).

    Bradley and Terry 1952, with a linear score of the metrics; a tie is half a win and half a loss. Logistic regression
    without a constant, so that exchanging the two changes nothing, with a small ridge.
    """
    target = (1.0 + outcomes) / 2.0

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        score = differences @ weights
        value = np.logaddexp(0.0, score) - target * score
        slope = differences.T @ (_sigmoid(score) - target) / len(target)
        return float(value.mean() + 0.5 * RIDGE * weights @ weights), slope + RIDGE * weights

    start = np.full(differences.shape[1], 0.1)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * len(start))
    return found.x


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def left_out_scores(differences: np.ndarray, outcomes: np.ndarray, scenes: Sequence[str]) -> np.ndarray:
    """Scores [n] of votes by weights that were fitted to the votes of all other scenes."""
    scores = np.zeros(len(outcomes))
    for rows in scene_rows(scenes):
        others = np.setdiff1d(np.arange(len(outcomes)), rows)
        scores[rows] = differences[rows] @ fit_weights(differences[others], outcomes[others])
    return scores


def accuracy(scores: np.ndarray, outcomes: np.ndarray) -> float:
    """Share of the votes that are no ties whose winner has the higher score; equal scores count half. NaN: all tie."""
    decided = outcomes != 0
    if not decided.any():
        return float("nan")
    return float(((1.0 + np.sign(scores[decided]) * outcomes[decided]) / 2.0).mean())


def tau(scores: np.ndarray, outcomes: np.ndarray, pairs: Sequence[str]) -> float:
    """Kendall's tau-b between scores and mean votes of the pairs. NaN where one of them is constant."""
    names, rows = np.unique(np.array(pairs), return_inverse=True)
    if len(names) < 2:
        return float("nan")
    counts = np.bincount(rows)
    a, b = np.bincount(rows, scores) / counts, np.bincount(rows, outcomes) / counts
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.asarray(kendalltau(a, b))[0])


def explain(
    votes: Sequence[Vote],
    goodness: Mapping[tuple[str, str], Mapping[str, float]],  # (method, item) -> metric -> steps, more is better
    metrics: Sequence[str],
) -> dict[str, Any]:
    """Weights of the metrics and how well they, equal weights, and each metric alone explain the votes.

    A metric that is not there for both methods says nothing of a vote. `skipped` is the reason if nothing can be said.
    """
    known = [v for v in votes if (v.first, v.item) in goodness and (v.second, v.item) in goodness]
    decided, scenes = sum(v.outcome != 0 for v in known), [v.scene for v in known]
    if decided < MIN_VOTES or len(set(scenes)) < MIN_SCENES:
        found = f"{decided} votes that are no ties in {len(set(scenes))} scenes have scores"
        return {"skipped": f"{found}; {MIN_VOTES} in {MIN_SCENES} are needed"}
    table, used = _differences(known, goodness, metrics)
    if not used:
        return {"skipped": "no metric differs between the methods"}
    outcomes, pairs = np.array([v.outcome for v in known]), [v.pair for v in known]
    weights = fit_weights(table, outcomes)
    draws = _weight_draws(table, outcomes, scenes)
    fitted = {}
    for k, name in enumerate(used):
        interval = [float(x) for x in np.percentile(draws[:, k], INTERVAL)]
        fitted[name] = {"weight": float(weights[k]), "interval": interval}
    scores = {"fitted, scene left out": left_out_scores(table, outcomes, scenes), "equal weights": table.sum(1)}
    scores |= {name: table[:, k] for k, name in enumerate(used)}
    judged = {name: _judged(s, outcomes, pairs, scenes) for name, s in scores.items()}
    return {"votes": len(known), "scenes": len(set(scenes)), "weights": fitted, "agreement": judged}


def _differences(
    votes: Sequence[Vote], goodness: Mapping[tuple[str, str], Mapping[str, float]], metrics: Sequence[str]
) -> tuple[np.ndarray, list[str]]:
    table = np.zeros((len(votes), len(metrics)))
    for row, vote in enumerate(votes):
        a, b = goodness[vote.first, vote.item], goodness[vote.second, vote.item]
        for k, name in enumerate(metrics):
            if name in a and name in b:
                table[row, k] = np.clip(a[name] - b[name], -LARGEST, LARGEST)
    used = np.flatnonzero((table != 0).any(0))
    return table[:, used], [metrics[int(k)] for k in used]


def _weight_draws(table: np.ndarray, outcomes: np.ndarray, scenes: Sequence[str]) -> np.ndarray:
    """Weights [draws, d] of resampled scenes."""
    groups, random = scene_rows(scenes), np.random.default_rng(0)
    draws = []
    for _ in range(WEIGHT_RESAMPLES):
        rows = np.concatenate([groups[k] for k in random.integers(0, len(groups), len(groups))])
        draws.append(fit_weights(table[rows], outcomes[rows]))
    return np.array(draws)


def _judged(scores: np.ndarray, outcomes: np.ndarray, pairs: Sequence[str], scenes: Sequence[str]) -> dict[str, Any]:
    names = np.array(pairs)

    def tau_of(rows: np.ndarray) -> float:
        return tau(scores[rows], outcomes[rows], names[rows].tolist())

    ordered = tau(scores, outcomes, pairs)
    return {
        "accuracy": accuracy(scores, outcomes),
        "accuracy_interval": bootstrap(lambda rows: accuracy(scores[rows], outcomes[rows]), scenes),
        "tau": ordered if np.isfinite(ordered) else None,
        "tau_interval": bootstrap(tau_of, scenes, RESAMPLES // 4),
    }


# -- agreement of voters -----------------------------------------------------------------------------------------------


def with_others(votes: Sequence[Vote], voter: str, persons: Sequence[str]) -> dict[str, Any] | None:
    """How often a voter's answers are those of most other persons; None where nobody else answered the same."""
    others: dict[tuple[str, str], list[int]] = {}
    for vote in votes:
        if vote.voter in persons and vote.voter != voter:
            others.setdefault((vote.pair, vote.question), []).append(vote.outcome)
    same = count = 0
    for vote in votes:
        answers = others.get((vote.pair, vote.question))
        if vote.voter == voter and answers:
            same += vote.outcome == _most(answers)
            count += 1
    return {"same": same / count, "answers": count} if count else None


def _most(answers: Sequence[int]) -> int:
    """The commonest answer; of several that are equally common the side that more lean to."""
    counts = np.bincount(np.array(answers) + 1, minlength=3)
    common = np.flatnonzero(counts == counts.max()) - 1
    return int(common[0]) if len(common) == 1 else int(np.sign(sum(answers)))


def krippendorff(votes: Sequence[Vote]) -> float | None:
    """Krippendorff's alpha for names (win, tie, loss): 1 all agree, 0 as by chance. None: nothing was answered twice,
    or all answers are equal."""
    units: dict[tuple[str, str], list[int]] = {}
    for vote in votes:
        units.setdefault((vote.pair, vote.question), []).append(vote.outcome + 1)
    together = np.zeros((3, 3))
    for answers in units.values():
        if len(answers) < 2:
            continue
        counts = np.bincount(answers, minlength=3).astype(float)
        together += (np.outer(counts, counts) - np.diag(counts)) / (len(answers) - 1)
    total, each = together.sum(), together.sum(0)
    if total == 0:
        return None
    expected = (total**2 - (each**2).sum()) / (total - 1)
    return float(1.0 - (total - np.trace(together)) / expected) if expected > 0 else None
