"""What votes say, on simulated votes whose weights and preferences are known, and on closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from scene4d.metrics.votes import (
    Vote,
    accuracy,
    bootstrap,
    explain,
    fit_weights,
    krippendorff,
    left_out_scores,
    tau,
    win_table,
    with_others,
)

METRICS = ["preserve.psnr", "reveal.ghost", "expand.seam", "control.object"]


def vote(
    outcome: int, pair: str = "p", voter: str = "v", scene: str = "s", first: str = "a", second: str = "b"
) -> Vote:
    return Vote(pair, f"item-{pair}", scene, "overall", voter, first, second, outcome)


def simulated(weights: list[float], count: int, seed: int = 0, ties: float = 0.0) -> tuple[list[Vote], dict]:
    """Votes drawn from a Bradley-Terry model on random goodness of ten scenes; every item has two methods."""
    random = np.random.default_rng(seed)
    votes, goodness = [], {}
    for k in range(count):
        pair = f"p{k}"
        values = random.normal(0, 1.5, (2, len(weights)))
        for method, row in zip("ab", values, strict=True):
            goodness[method, f"item-{pair}"] = dict(zip(METRICS, row.tolist(), strict=True))
        chance = 1 / (1 + math.exp(-float((values[0] - values[1]) @ weights)))
        outcome = 0 if random.random() < ties else (1 if random.random() < chance else -1)
        votes.append(vote(outcome, pair, scene=f"scene{k % 10}"))
    return votes, goodness


def test_known_weights_are_found_and_one_that_does_not_matter_is_zero() -> None:
    true = [1.2, 0.6, 0.0, 0.3]
    found = explain(*simulated(true, 1200), METRICS)
    weights = {name: found["weights"][name] for name in METRICS}
    for name, value in zip(METRICS, true, strict=True):
        assert weights[name]["weight"] == pytest.approx(value, abs=0.2)
        assert weights[name]["interval"][0] - 0.1 <= value <= weights[name]["interval"][1] + 0.15
    judged = found["agreement"]
    assert judged["fitted, scene left out"]["accuracy"] > judged["equal weights"]["accuracy"]
    assert judged["fitted, scene left out"]["accuracy"] > judged["preserve.psnr"]["accuracy"]
    assert abs(judged["expand.seam"]["tau"]) < 0.08 < 0.3 < judged["preserve.psnr"]["tau"]


def test_weights_are_never_negative_also_where_votes_go_against_a_metric() -> None:
    found = explain(*simulated([1.0, -0.8, 0.4, 0.0], 500), METRICS)
    assert found["weights"]["reveal.ghost"]["weight"] == pytest.approx(0.0, abs=1e-6)
    assert min(w["weight"] for w in found["weights"].values()) >= 0


def test_single_metric_has_the_weight_of_its_closed_form() -> None:
    """Differences of 1 step, won three times of four: sigmoid(w) = 3/4, but for the small ridge."""
    outcomes = np.array([1, 1, 1, -1] * 50)
    weight = float(fit_weights(np.ones((200, 1)), outcomes)[0])
    assert 0.25 * (0.75 - 1 / (1 + math.exp(-weight))) == pytest.approx(0.25 * 0.01 * weight, abs=1e-5)
    assert weight == pytest.approx(math.log(3), abs=0.06)
    tied = np.array([1, 0] * 100)  # a win and a tie are three halves of two
    assert float(fit_weights(np.ones((200, 1)), tied)[0]) == pytest.approx(weight, abs=1e-4)


def test_exchanging_first_and_second_changes_nothing() -> None:
    random = np.random.default_rng(1)
    table, outcomes = random.normal(size=(80, 3)), random.integers(-1, 2, 80)
    flip = random.choice([-1, 1], 80)
    assert np.allclose(fit_weights(table, outcomes), fit_weights(table * flip[:, None], outcomes * flip), atol=1e-4)


def test_cross_validation_never_sees_the_scene_that_it_judges() -> None:
    """A metric that gives away the outcome in one scene only is worth nothing there, as no other scene knows it."""
    random = np.random.default_rng(2)
    scenes = np.repeat(["x", "y", "z"], 40)
    outcomes = random.choice([-1, 1], 120)
    table = np.zeros((120, 1))
    table[scenes == "x", 0] = outcomes[scenes == "x"]
    scores = left_out_scores(table, outcomes, scenes.tolist())
    assert accuracy(scores[scenes == "x"], outcomes[scenes == "x"]) < 1.0 or np.allclose(scores, 0, atol=0.2)
    assert fit_weights(table, outcomes)[0] > 1.0  # with its own votes the metric looks convincing
    others = fit_weights(table[scenes != "x"], outcomes[scenes != "x"])
    assert np.allclose(scores[scenes == "x"], table[scenes == "x"] @ others)


def test_too_few_votes_or_scenes_give_a_reason_and_no_weights() -> None:
    votes, goodness = simulated([1, 1, 1, 1], 19)
    assert "19 votes" in explain(votes, goodness, METRICS)["skipped"]
    votes, goodness = simulated([1, 1, 1, 1], 60)
    same = [Vote(v.pair, v.item, "one", v.question, v.voter, v.first, v.second, v.outcome) for v in votes]
    assert "1 scenes" in explain(same, goodness, METRICS)["skipped"]
    assert "differs" in explain(votes, {key: {} for key in goodness}, METRICS)["skipped"]


def test_metric_that_one_method_lacks_says_nothing_of_the_vote() -> None:
    votes, goodness = simulated([1.0, 0.5, 0.2, 0.1], 100)
    for key in goodness:
        if key[0] == "a":
            del goodness[key]["control.object"]
    assert "control.object" not in explain(votes, goodness, METRICS)["weights"]


def test_wins_ties_and_losses_are_counted_for_the_first_name_on_whichever_side_it_stood() -> None:
    votes = [vote(1), vote(0), vote(-1), vote(-1, first="b", second="a"), vote(1, first="b", second="c", scene="t")]
    rows = {(r["first"], r["second"]): r for r in win_table(votes)}
    row = rows["a", "b"]
    assert (row["wins"], row["ties"], row["losses"], row["share"]) == (2, 1, 1, 0.625)
    assert rows["b", "c"]["wins"] == 1 and rows["b", "c"]["interval"] is None  # one scene tells no spread


def test_interval_of_wins_covers_the_true_share_and_is_wider_for_votes_of_few_scenes() -> None:
    random = np.random.default_rng(3)
    outcomes = np.where(random.random(400) < 0.7, 1, -1)
    many = [vote(int(o), scene=f"s{k % 40}") for k, o in enumerate(outcomes)]
    low, high = win_table(many)[0]["interval"]
    assert low < 0.7 < high and high - low == pytest.approx(2 * 1.96 * math.sqrt(0.21 / 400), rel=0.4)
    # all votes of a scene alike: 40 votes of a scene are no more than one
    alike = [vote(int(outcomes[k // 40]), scene=f"s{k // 40}") for k in range(400)]
    low, high = win_table(alike)[0]["interval"]
    assert high - low > 0.3


def test_bootstrap_draws_whole_scenes() -> None:
    values = np.array([0.0, 0.0, 0.0, 1.0])
    low, high = bootstrap(lambda rows: float(values[rows].mean()), ["x", "x", "x", "y"]) or (None, None)
    assert (low, high) == (0.0, 1.0)


def test_accuracy_leaves_ties_out_and_counts_equal_scores_half() -> None:
    scores, outcomes = np.array([2.0, -1.0, 0.0, 5.0, 3.0]), np.array([1, 1, 1, 0, -1])
    assert accuracy(scores, outcomes) == pytest.approx((1 + 0 + 0.5 + 0) / 4)
    assert math.isnan(accuracy(scores, outcomes * 0))


def test_tau_is_of_the_mean_votes_of_pairs_and_nan_where_all_is_equal() -> None:
    scores = np.array([1.0, 1.0, 2.0, 3.0])
    outcomes = np.array([-1, 1, 1, 0])  # of pairs a a b c: means 0, 1, 0
    assert tau(scores, outcomes, ["a", "a", "b", "c"]) == pytest.approx(0.0)  # one pair up, one down, one tied
    assert tau(scores, np.array([-1, -1, 0, 1]), ["a", "a", "b", "c"]) == pytest.approx(1.0)
    assert math.isnan(tau(scores * 0, outcomes, ["a", "a", "b", "c"]))


def test_judge_agrees_as_often_as_it_says_what_most_persons_say() -> None:
    votes = []
    for k, answers in enumerate(((1, 1, -1), (0, 0, 1), (-1, -1, -1), (1, 0, -1))):
        votes += [vote(o, f"p{k}", voter=f"person{n}") for n, o in enumerate(answers)]
        votes.append(vote(1, f"p{k}", voter="judge"))
    persons = ["person0", "person1", "person2"]
    found = with_others(votes, "judge", persons)
    assert found == {"same": 1 / 4, "answers": 4}  # most say: 1, 0, -1; of 1, 0, -1 nothing, a tie
    assert with_others(votes, "person0", persons)["answers"] == 4
    assert with_others([vote(1)], "v", ["v"]) is None


def test_alpha_is_one_for_agreement_zero_for_chance_and_that_of_a_worked_example() -> None:
    same = [vote(o, f"p{k}", voter=v) for k, o in enumerate((1, -1, 0, 1, -1)) for v in "xy"]
    assert krippendorff(same) == pytest.approx(1.0)
    random = np.random.default_rng(4)
    chance = [vote(int(random.integers(-1, 2)), f"p{k}", voter=v) for k in range(2000) for v in "xy"]
    assert krippendorff(chance) == pytest.approx(0.0, abs=0.05)
    # Krippendorff 2011, section A: ten items, two observers, names 0 and 1: alpha = 0.095
    first, second = (0, 1, 0, 0, 0, 0, 0, 0, 1, 0), (1, 1, 1, 0, 0, 1, 0, 0, 0, 0)
    example = [vote(o, f"p{k}", voter=v) for v, row in (("x", first), ("y", second)) for k, o in enumerate(row)]
    assert krippendorff(example) == pytest.approx(0.095, abs=5e-4)
    assert krippendorff([vote(1)]) is None
