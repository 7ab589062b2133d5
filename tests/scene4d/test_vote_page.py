"""The page for votes is blind, whole and in order; its answers come back through the key."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from scene4d.cli import main as scene4d
from scene4d.errors import InputError
from scene4d.metrics.vote_files import QUESTIONS, load_key, load_votes, metrics_of
from scene4d.metrics.vote_page import questions_of
from scene4d.metrics.vote_script import PAGE
from tests.scene4d.benchmark_on_disk import H, T, W, save, write_benchmark

METHODS = {"zebra": 60, "quokka": 120, "ibex": 200}  # brightness of their frames
ITEMS = tuple(f"scene{k}.remove.small" for k in range(4))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("vote")
    bench = write_benchmark(tmp_path / "bench", ITEMS)
    for method, level in METHODS.items():
        for item in ITEMS:
            save(tmp_path / method / item, np.full((T, H, W, 3), level, np.uint8))
    args = ["vote", "build", "--benchmark", str(bench), "--out", str(tmp_path / "page.html"), "--pairs", "10"]
    assert scene4d([*args, "--results", *(str(tmp_path / m) for m in METHODS)]) == 0
    return tmp_path / "page.html"


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def level(jpeg: str) -> float:
    return float(cv2.imdecode(np.frombuffer(base64.b64decode(jpeg), np.uint8), cv2.IMREAD_COLOR).mean())


def test_page_names_no_method_and_no_item_and_needs_no_network(built: Path) -> None:
    text = built.read_text()
    assert not any(name in text for name in (*METHODS, *ITEMS, "scene0", str(built.parent)))
    assert "http" not in text.replace("http-equiv", "") and "default-src 'none'" in text
    assert text.count("</script>") == 2  # that of an instruction is no end of the data


def test_key_says_what_stands_where(built: Path) -> None:
    key, data = load_key(built.with_suffix(".key.json")), data_of(built)
    assert key["page"] == data["page"] and set(key["pairs"]) == {p["id"] for p in data["pairs"]}
    for pair in data["pairs"]:
        for side in ("left", "right"):
            assert level(pair[side][0]) == pytest.approx(METHODS[key["pairs"][pair["id"]][side]], abs=2)
            assert len(pair[side]) == len(pair["source"]) == len(pair["roles"]) == T
        assert pair["instruction"] == "Remove </script> the thing."


def test_methods_meet_equally_often_on_both_sides_and_no_pair_twice(built: Path) -> None:
    pairs = load_key(built.with_suffix(".key.json"))["pairs"].values()
    met = [tuple(sorted((p["left"], p["right"]))) for p in pairs]
    assert len(met) == 10 and {met.count(m) for m in set(met)} == {3, 4} and len(set(met)) == 3
    assert len({(*m, p["item"]) for m, p in zip(met, pairs, strict=True)}) == 10
    flipped = sum(p["left"] > p["right"] for p in pairs)
    assert 0 < flipped < 10


def test_another_seed_is_another_page_and_the_same_seed_the_same(built: Path) -> None:
    pages, tmp_path = [], built.parent
    for seed in ("0", "1"):
        out = tmp_path / f"again{seed}.html"
        args = ["vote", "build", "--benchmark", str(tmp_path / "bench"), "--out", str(out), "--pairs", "10"]
        results = [str(tmp_path / m) for m in METHODS]
        assert scene4d([*args, "--seed", seed, "--results", *results]) == 0
        pages.append(out.read_bytes())
    assert pages[0] == built.read_bytes() and pages[1] != pages[0]


def test_roles_come_as_they_are_and_regions_that_are_not_there_are_not_asked_about(built: Path) -> None:
    pair = data_of(built)["pairs"][0]
    image = cv2.imdecode(np.frombuffer(base64.b64decode(pair["roles"][0]), np.uint8), cv2.IMREAD_UNCHANGED)
    assert image.shape == (H, W) and sorted(set(image.flatten().tolist())) == [0, 1, 2]
    assert pair["questions"] == list(QUESTIONS)
    assert questions_of(torch.zeros(2, 50, 50, dtype=torch.uint8)) == ["kept", "instruction", "consistency", "overall"]
    assert questions_of(torch.full((2, 50, 50), 3, dtype=torch.uint8)) == ["instruction", "consistency", "overall"]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node, to run the page's script")
def test_script_of_the_page_collects_answers_in_order_and_counts_open_ones() -> None:
    parts = [re.search(rf"function {name}\(.*?\n}}\n", PAGE, re.DOTALL) for name in ("result", "missing")]
    pairs = [{"id": "p1", "questions": ["kept", "overall"]}, {"id": "p2", "questions": ["overall"]}]
    answers = {"p1": {"overall": "left"}, "p2": {"overall": "tie"}}
    script = "".join(p[0] for p in parts if p) + (
        'const data = { format: "f", version: 1, page: "x" };'
        f"const pairs = {json.dumps(pairs)}, answers = {json.dumps(answers)};"
        'console.log(JSON.stringify([result(pairs, answers, "me"), missing(pairs, answers)]));'
    )
    done = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True)
    found, left = json.loads(done.stdout)
    assert left == 1 and found["voter"] == "me" and found["kind"] == "person" and found["page"] == "x"
    assert found["answers"] == [
        {"pair": "p1", "question": "overall", "answer": "left"},
        {"pair": "p2", "question": "overall", "answer": "tie"},
    ]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node, to parse the page's script")
def test_script_of_the_page_is_whole(tmp_path: Path) -> None:
    script = re.findall(r"<script>(.*?)</script>", PAGE, re.DOTALL)
    assert len(script) == 1
    (tmp_path / "page.js").write_text(script[0])
    assert subprocess.run(["node", "--check", str(tmp_path / "page.js")], capture_output=True).returncode == 0


# -- answers -----------------------------------------------------------------------------------------------------------


def answer(page: Path, name: str, prefers: str, kind: str = "person") -> Path:
    """Answers of a voter who always takes `prefers` where it is shown, and else finds no difference."""
    key = json.loads(page.with_suffix(".key.json").read_text())
    answers = []
    for pair, facts in key["pairs"].items():
        side = next((s for s in ("left", "right") if facts[s] == prefers), "tie")
        answers += [{"pair": pair, "question": q, "answer": side} for q in facts["questions"]]
    votes = {
        "format": "scene4d-votes",
        "version": 1,
        "page": key["page"],
        "voter": name,
        "kind": kind,
        "answers": answers,
    }
    path = page.with_name(f"{name}.json")
    path.write_text(json.dumps(votes))
    return path


def reported(page: Path, votes: list[Path], capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    capsys.readouterr()
    args = [
        "vote",
        "report",
        "--key",
        str(page.with_suffix(".key.json")),
        "--votes",
        *map(str, votes),
        "--json",
        *options,
    ]
    assert scene4d(args) == 0
    return json.loads(capsys.readouterr().out)


def test_preferred_method_wins_wherever_it_stood(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = reported(built, [answer(built, "ann", "quokka"), answer(built, "bob", "quokka")], capsys)
    rows = {(r["first"], r["second"]): r for r in facts["wins"]["overall"]}
    assert rows["ibex", "quokka"]["share"] == 0.0 and rows["quokka", "zebra"]["share"] == 1.0
    assert rows["ibex", "zebra"]["share"] == 0.5 and rows["ibex", "zebra"]["wins"] == 0
    assert facts["krippendorff_alpha"] == 1.0 and facts["voters"]["ann"]["with_most_others"]["same"] == 1.0
    assert facts["votes"] == 2 * 10 * len(QUESTIONS)


def test_judge_is_compared_with_people_and_counted_nowhere(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people = [answer(built, "ann", "quokka"), answer(built, "bob", "quokka")]
    judge = answer(built, "model", "zebra", "judge")
    alone, both = reported(built, people, capsys), reported(built, [*people, judge], capsys)
    assert alone["wins"] == both["wins"] and alone["votes"] == both["votes"]
    assert both["voters"]["model"]["kind"] == "judge" and both["voters"]["model"]["with_most_others"]["same"] < 0.5


def test_metrics_that_agree_with_the_votes_get_the_weights_and_evaluate_takes_them(
    built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Votes go for quokka, whose frames are nearest to the truth: PSNR explains them."""
    tmp_path = built.parent
    results = [str(tmp_path / m) for m in METHODS]
    args = ["evaluate", "--benchmark", str(tmp_path / "bench"), "--results", *results]
    assert scene4d([*args, "--out", str(tmp_path)]) == 0
    votes = [answer(built, name, "quokka") for name in ("ann", "bob", "cat", "dan")]
    facts = reported(
        built, votes, capsys, "--scores", str(tmp_path / "region_scores.json"), "--out", str(tmp_path / "said")
    )
    found = facts["metrics"]["kept"]
    assert found["agreement"]["preserve.psnr"]["accuracy"] == 1.0 and found["weights"]["preserve.psnr"]["weight"] > 0
    assert set(found["weights"]) <= set(metrics_of("kept"))
    weights = tmp_path / "said" / "weights.json"
    assert min(json.loads(weights.read_text())["weights"].values()) >= 0
    assert scene4d([*args, "--metric-weights", str(weights)]) == 0
    assert str(weights) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"page": "other"}, "of which no key was given"),
        ({"kind": "robot"}, "kind must be person or judge"),
        ({"answers": [{"pair": "p999", "question": "overall", "answer": "left"}]}, "of a pair of the key"),
        ({"answers": [{"pair": "p001", "question": "taste", "answer": "left"}]}, "a known question"),
        ({"answers": [{"pair": "p001", "question": "overall", "answer": "both"}]}, "left, tie or right"),
        ({"answers": [{"pair": "p001", "question": "overall", "answer": "tie"}] * 2}, "p001 overall twice"),
        ({"answers": "all"}, "answers must be a list"),
        ({"version": 2}, "version 1"),
    ],
)
def test_damaged_answers_get_one_clear_line(
    built: Path, capsys: pytest.CaptureFixture[str], change: dict, message: str
) -> None:
    path = answer(built, "ann", "quokka")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    capsys.readouterr()
    assert scene4d(["vote", "report", "--key", str(built.with_suffix(".key.json")), "--votes", str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_two_files_of_one_voter_and_a_page_of_one_method_are_refused(
    built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path = built.parent
    path = answer(built, "ann", "quokka")
    again = path.with_name("again.json")
    again.write_text(path.read_text())
    key = str(built.with_suffix(".key.json"))
    assert scene4d(["vote", "report", "--key", key, "--votes", str(path), str(again)]) == 2
    assert "given already" in capsys.readouterr().err
    args = ["vote", "build", "--benchmark", str(tmp_path / "bench"), "--out", str(tmp_path / "x.html")]
    assert scene4d([*args, "--results", str(tmp_path / "zebra")]) == 2
    assert "two folders or more" in capsys.readouterr().err
    with pytest.raises(InputError, match="pairs must say item"):
        path.write_text(json.dumps({"format": "scene4d-vote-key", "version": 1, "pairs": {"p1": {}}}))
        load_key(path)
    assert load_votes(again, [load_key(built.with_suffix(".key.json"))])[1:] == ("ann", "person")
