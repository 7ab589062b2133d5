"""Files of a vote: the key that says which side was which method, and the answers of voters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scene4d.errors import InputError
from scene4d.files.atomic import read_json
from scene4d.metrics.region_types import METRICS
from scene4d.metrics.votes import Vote

KEY_FORMAT, VOTES_FORMAT, VERSION = "scene4d-vote-key", "scene4d-votes", 1
ANSWERS = ("left", "tie", "right")
KINDS = ("person", "judge")


@dataclass(frozen=True)
class Question:
    """What a voter is asked."""

    text: str
    regions: tuple[int, ...]  # roles that must be there for it to be asked; () = always asked
    metrics: tuple[str, ...]  # beginnings of the names of metrics that may explain the answers


QUESTIONS = {
    "kept": Question("Where nothing should change: which keeps the source better?", (0,), ("preserve.",)),
    "fill": Question("Where something new shows: which fill is more natural?", (1, 2), ("reveal.", "expand.")),
    "border": Question(
        "Between old and new: which border is steadier and less visible?",
        (1, 2),
        ("reveal.seam", "expand.seam", "reveal.stability", "expand.stability"),
    ),
    "instruction": Question("Which follows the instruction better?", (), ("",)),
    "consistency": Question("Which is more consistent over time and as a scene?", (), ("",)),
    "overall": Question("Which is better overall?", (), ("",)),
}


def metrics_of(question: str) -> list[str]:
    """Names of METRICS that may explain the answers to a question, without those of the whole frame."""
    starts = QUESTIONS[question].metrics
    return [name for name in METRICS if name.startswith(starts) and not name.startswith("whole.")]


def load_key(path: Path) -> dict[str, Any]:
    """Raises InputError."""
    key = _load(path, KEY_FORMAT)
    pairs = key.get("pairs")
    wanted = ("item", "scene", "left", "right")
    whole = isinstance(pairs, dict) and all(
        isinstance(p, dict) and all(isinstance(p.get(name), str) for name in wanted) for p in pairs.values()
    )
    if not whole:
        raise InputError(f"{path}: pairs must say item, scene, left and right of each")
    return key


def load_votes(path: Path, keys: Sequence[dict[str, Any]]) -> tuple[list[Vote], str, str]:
    """Votes of one voter, the voter's name and whether it is a person or a judge. Raises InputError."""
    data = _load(path, VOTES_FORMAT)
    key = next((k for k in keys if k.get("page") == data.get("page")), None)
    if key is None:
        raise InputError(f"{path}: is of page {str(data.get('page'))[:20]!r}, of which no key was given")
    voter, kind, answers = str(data.get("voter") or path.stem), data.get("kind", "person"), data.get("answers")
    if kind not in KINDS:
        raise InputError(f"{path}: kind must be person or judge, got {str(kind)[:20]!r}")
    if not isinstance(answers, list):
        raise InputError(f"{path}: answers must be a list")
    votes, seen = [], set()
    for answer in answers:
        vote = _vote(path, key, voter, answer)
        if (vote.pair, vote.question) in seen:
            raise InputError(f"{path}: answers {vote.pair} {vote.question} twice")
        seen.add((vote.pair, vote.question))
        votes.append(vote)
    return votes, voter, kind


def _vote(path: Path, key: dict[str, Any], voter: str, answer: Any) -> Vote:
    fields = answer if isinstance(answer, dict) else {}
    pair, question, side = (fields.get(name) for name in ("pair", "question", "answer"))
    if pair not in key["pairs"] or question not in QUESTIONS or side not in ANSWERS:
        what = f"{str(pair)[:20]} {str(question)[:20]} {str(side)[:20]}"
        raise InputError(
            f"{path}: an answer must be of a pair of the key, a known question, left, tie or right: {what}"
        )
    facts = key["pairs"][pair]
    return Vote(
        pair=f"{key['page']}.{pair}",
        item=facts["item"],
        scene=facts["scene"],
        question=question,
        voter=voter,
        first=facts["left"],
        second=facts["right"],
        outcome=1 - ANSWERS.index(side),
    )


def _load(path: Path, form: str) -> dict[str, Any]:
    data = read_json(path)
    if data.get("format") != form or data.get("version") != VERSION:
        raise InputError(f"{path}: must have format {form!r} and version {VERSION}")
    return data
