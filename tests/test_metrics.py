"""Metrics agree with scikit-learn and SciPy, and say what they cannot know."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk
from torch import from_numpy
from torchmetrics.functional.classification import binary_calibration_error

from affuse import AffuseError, Task, metrics

CLASSES = ("happy", "sad", "angry", "neutral")
TASK = Task("classification", CLASSES)
SENTIMENT = Task("regression", value_range=(-3.0, 3.0), units="sentiment")
labels = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)
few_values = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=40)


def arrays(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.array(pairs, dtype=np.int64).T
    return np.ascontiguousarray(a), np.ascontiguousarray(b)


def record(i: int, target: int, prediction: int | None, **more: object) -> dict:
    probabilities = None
    if prediction is not None:
        probabilities = [0.1] * 4
        probabilities[prediction] = 0.7
    base = {
        "split": "test",
        "id": f"clip{i}",
        "crop": 0,
        "subject": f"s{i % 3}",
        "condition": "Low" if i % 2 else "Normal",
        "target": target,
        "prediction": prediction,
        "probabilities": probabilities,
        "answered": prediction is not None,
        "weights": {"modality": [0.4, 0.6], "expert": [0.0, 0.3, 0.7]},
    }
    return base | more


@given(labels)
def test_recalls_and_confusion_agree_with_sklearn(pairs: list[tuple[int, int]]) -> None:
    target, prediction = arrays(pairs)
    present = np.unique(target)
    # WAR is by name the support-weighted recall, and by value the accuracy.
    weighted = sk.recall_score(target, prediction, labels=present, average="weighted", zero_division=0)
    assert metrics.weighted_average_recall(target, prediction) == pytest.approx(weighted)
    assert metrics.weighted_average_recall(target, prediction) == pytest.approx(sk.accuracy_score(target, prediction))
    macro = sk.recall_score(target, prediction, labels=present, average="macro", zero_division=0)
    assert metrics.unweighted_average_recall(target, prediction) == pytest.approx(macro)
    each = sk.recall_score(target, prediction, labels=range(4), average=None, zero_division=np.nan)
    np.testing.assert_allclose(metrics.per_class_recall(target, prediction, 4), each)
    counts = metrics.confusion_matrix(target, prediction, 4)
    np.testing.assert_array_equal(counts[:, :4], sk.confusion_matrix(target, prediction, labels=range(4)))
    assert counts[:, 4].sum() == 0


@given(labels)
def test_macro_scores_agree_with_sklearn_over_the_classes_present(pairs: list[tuple[int, int]]) -> None:
    target, prediction = arrays(pairs)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(target, prediction, average="macro", zero_division=0)
    expected = {"macro_precision": precision, "macro_recall": recall, "macro_f1": f1}
    assert metrics.macro_scores(target, prediction, 4) == pytest.approx(expected)
    records = [record(i, t, p) for i, (t, p) in enumerate(pairs)]
    assert {name: metrics.scores(records, TASK)[name] for name in expected} == pytest.approx(expected)


def test_macro_recall_is_not_uar_where_a_class_is_answered_that_the_truth_does_not_hold() -> None:
    target, prediction = np.array([0, 0, 1]), np.array([0, 2, 1])
    assert metrics.unweighted_average_recall(target, prediction) == 0.75
    assert metrics.macro_scores(target, prediction, 4)["macro_recall"] == 0.5


def test_an_unanswered_sample_counts_as_wrong() -> None:
    target, prediction = np.array([0, 0, 1, 1]), np.array([0, -1, 1, 1])
    assert metrics.weighted_average_recall(target, prediction) == 0.75
    assert metrics.unweighted_average_recall(target, prediction) == 0.75
    assert metrics.confusion_matrix(target, prediction, 2).tolist() == [[1, 0, 1], [0, 2, 0]]


def test_a_class_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(AffuseError, match="2 classes"):
        metrics.confusion_matrix(np.array([0, 2]), np.array([0, 1]), 2)
    with pytest.raises(AffuseError, match="2 classes"):
        metrics.confusion_matrix(np.array([0, 1]), np.array([0, 7]), 2)


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1)), min_size=1, max_size=80))
@settings(max_examples=40)
def test_calibration_error_agrees_with_torchmetrics(pairs: list[tuple[int, int]]) -> None:
    # Kept off the edges of the bins, where float32 and float64 may differ.
    confidence = np.array([0.5 + 0.4999 * (p / 1000) + 3e-5 for p, _ in pairs])
    correct = np.array([c for _, c in pairs], dtype=np.int64)
    theirs = binary_calibration_error(from_numpy(confidence), from_numpy(correct), n_bins=10, norm="l1").item()
    assert metrics.expected_calibration_error(confidence, correct) == pytest.approx(theirs, abs=1e-4)


@given(labels)
def test_every_sample_is_in_one_reliability_bin(pairs: list[tuple[int, int]]) -> None:
    confidence = np.array([a / 3 for a, _ in pairs])
    correct = np.array([b % 2 for _, b in pairs], dtype=np.int64)
    table = metrics.reliability_bins(confidence, correct)
    assert sum(table["count"]) == len(pairs)
    total = sum(n * a for n, a in zip(table["count"], table["accuracy"], strict=True) if n)
    assert total == pytest.approx(correct.sum())


@given(few_values)
def test_spearman_agrees_with_scipy_also_with_ties(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs, dtype=np.float64).T.copy()
    np.testing.assert_allclose(metrics.ranks(a), stats.rankdata(a))
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert np.isnan(metrics.spearman(a, b))
    else:
        assert metrics.spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-9)


def test_interval_holds_the_value_and_is_the_same_for_the_same_seed() -> None:
    generator = np.random.default_rng(1)
    target = generator.integers(0, 4, 300)
    prediction = np.where(generator.random(300) < 0.7, target, generator.integers(0, 4, 300))
    crop = np.zeros(300, dtype=np.int64)
    result = metrics.bootstrap_classification(target, prediction, 4, np.arange(300), crop, seed=3)
    assert result == metrics.bootstrap_classification(target, prediction, 4, np.arange(300), crop, seed=3)
    assert result["war"] != metrics.bootstrap_classification(target, prediction, 4, np.arange(300), crop, seed=4)["war"]
    for entry in (result["war"], result["uar"], *result["per_class"]):
        assert entry["low"] < entry["value"] < entry["high"]
    assert sum(entry["support"] for entry in result["per_class"]) == 300
    # For independent samples the bootstrap is close to the normal approximation.
    half = 1.96 * np.sqrt(result["war"]["value"] * (1 - result["war"]["value"]) / 300)
    assert result["war"]["high"] - result["war"]["low"] == pytest.approx(2 * half, rel=0.15)


def test_interval_is_wider_where_samples_of_a_subject_stand_and_fall_together() -> None:
    subject = np.repeat(np.arange(20), 10)
    target = np.zeros(200, dtype=np.int64)
    prediction = (subject % 2).astype(np.int64)
    crop = np.zeros(200, dtype=np.int64)
    clustered = metrics.bootstrap_classification(target, prediction, 2, subject, crop)["war"]
    independent = metrics.bootstrap_classification(target, prediction, 2, np.arange(200), crop)["war"]
    assert clustered["high"] - clustered["low"] > 2 * (independent["high"] - independent["low"])


def test_one_cluster_has_no_interval() -> None:
    zeros = np.zeros(5, dtype=np.int64)
    war = metrics.bootstrap_classification(zeros, zeros, 2, zeros, zeros)["war"]
    assert war == {"value": 1.0, "low": None, "high": None}


@given(labels)
@settings(max_examples=20)
def test_metrics_are_averaged_over_crops(pairs: list[tuple[int, int]]) -> None:
    records = [record(i // 2, t, p, crop=i % 2) for i, (t, p) in enumerate(pairs)]
    result = metrics.summarise(records, TASK, ("rgb", "event"))
    by_crop = [arrays(pairs[k::2]) for k in range(min(2, len(pairs)))]
    war = np.mean([metrics.weighted_average_recall(*part) for part in by_crop])
    uar = np.mean([metrics.unweighted_average_recall(*part) for part in by_crop])
    assert result["war"]["value"] == pytest.approx(war)
    assert result["uar"]["value"] == pytest.approx(uar)
    assert result["crops"] == len(by_crop)
    assert result["samples"] == (len(pairs) + 1) // 2


def test_selection_sees_the_same_recalls_as_the_report() -> None:
    records = [record(i // 2, i % 4, (i * i) % 4, crop=i % 2) for i in range(21)] + [record(30, 1, None)]
    summary = metrics.summarise(records, TASK, ("rgb", "event"))
    assert metrics.scores(records, TASK) == {name: summary[name]["value"] for name in summary["rules"]}
    with pytest.raises(AffuseError, match="no sample has a target"):
        metrics.scores([record(0, 0, 0) | {"target": None}], TASK)


def test_summary_is_plain_json_and_says_all() -> None:
    records = [record(i, i % 4, (i % 4) if i % 5 else 0) for i in range(24)] + [
        record(24, 1, None),
        record(25, 2, None),
    ]
    result = metrics.summarise(records, TASK, ("rgb", "event"))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert (result["unanswered"], result["samples"], result["subjects"]) == (2, 26, 3)
    assert result["clustered_by"] == "subject"
    assert list(result["per_class"]) == list(CLASSES)
    assert set(result["per_condition"]) == {"Low", "Normal"}
    assert result["per_condition"]["Low"]["samples"] == 13
    assert result["expert_load"]["chosen"] == [0, 1, 1]
    assert result["expert_load"]["first"] == [0, 0, 1]
    assert result["modality_weight_by_condition"]["Low"] == pytest.approx({"rgb": 0.4, "event": 0.6})
    assert result["event_weight_vs_rgb_lost"] is None
    assert np.sum(result["confusion"]) == 26
    assert sum(result["calibration"]["bins"]["count"]) == 24


def test_event_weight_is_compared_with_the_rgb_signal_lost() -> None:
    records = [
        record(i, 0, 0, weights={"modality": [1 - i / 10, i / 10]}, truth={"rgb_kept": 1 - (i / 10) ** 2})
        for i in range(8)
    ]
    assert metrics.summarise(records, TASK, ("rgb", "event"))["event_weight_vs_rgb_lost"] == pytest.approx(1)
    assert metrics.summarise(records, TASK, ("event", "rgb"))["event_weight_vs_rgb_lost"] == pytest.approx(-1)
    assert metrics.summarise(records, TASK, ("rgb", "depth"))["event_weight_vs_rgb_lost"] is None


def test_without_subjects_recordings_are_resampled() -> None:
    records = [record(i, i % 4, 0, subject=None) for i in range(8)]
    result = metrics.summarise(records, TASK, ("rgb", "event"))
    assert result["clustered_by"] == "id"
    assert result["subjects"] == 0
    assert result["war"]["low"] < result["war"]["high"]


def test_nothing_gives_unknown_numbers_not_an_error() -> None:
    result = metrics.summarise([], TASK, ("rgb", "event"))
    assert result["war"] == {"value": None, "low": None, "high": None}
    assert result["calibration"]["ece"] is None
    json.dumps(result, allow_nan=False)


# Regression.

tenths = st.integers(-40, 40).map(lambda n: n / 10)
fifths = st.integers(-15, 15).map(lambda n: n / 5)
answers = st.lists(st.tuples(fifths, tenths), min_size=1, max_size=60)


def field_scores(target: np.ndarray, value: np.ndarray) -> dict[str, float]:
    """The field's definitions, restated with scikit-learn and numpy."""
    nan = float("nan")
    there = target != 0
    both = len(set(target)) > 1 and len(set(value)) > 1
    f1 = lambda a, b: sk.f1_score(a, b, average="weighted", zero_division=0)  # noqa: E731
    seven, five, three = (
        [np.round(np.clip(side, -limit, limit)) for side in (target, value)] for limit in (3.0, 2.0, 1.0)
    )
    return {
        "mae": np.mean(np.abs(value - target)),
        "corr": np.corrcoef(value, target)[0, 1] if both else nan,
        "acc2_has0": sk.accuracy_score(target >= 0, value >= 0),
        "f1_has0": f1(target >= 0, value >= 0),
        "acc2_non0": sk.accuracy_score(target[there] > 0, value[there] > 0) if there.any() else nan,
        "f1_non0": f1(target[there] > 0, value[there] > 0) if there.any() else nan,
        "acc3": np.mean(three[0] == three[1]),
        "acc5": np.mean(five[0] == five[1]),
        "acc7": np.mean(seven[0] == seven[1]),
    }


def told(i: int, target: float | None, value: float | None, **more: object) -> dict:
    answered = value is not None
    base = {"id": f"u{i}", "subject": f"v{i % 4}", "condition": None, "target": target, "value": value}
    return base | {"answered": answered, "weights": {"modality": [0.5, 0.3, 0.2]}} | more


@given(answers)
def test_regression_metrics_are_the_fields_to_the_last_digit(pairs: list[tuple[float, float]]) -> None:
    target, value = np.array(pairs).T.copy()
    expected = field_scores(target, value)
    for name, score in metrics.regression_scores(target, value).items():
        assert score == pytest.approx(expected[name], abs=1e-12, nan_ok=True), name
    records = [told(i, *pair) for i, pair in enumerate(pairs)]
    found = metrics.scores(records, SENTIMENT)
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_sevenths_round_half_to_even_after_clipping() -> None:
    target = np.array([2.0, 0.0, 3.0, -3.0, 1.0])
    assert metrics.regression_scores(target, np.array([2.5, 0.5, 9.0, -2.5, 1.5]))["acc7"] == 0.6


def test_zero_is_a_positive_truth_with_has0_and_none_with_non0() -> None:
    scores = metrics.regression_scores(np.array([0.0, 1.0, -1.0]), np.array([0.0, 0.0, -1.0]))
    assert scores["acc2_has0"] == 1
    assert scores["acc2_non0"] == 0.5


@given(st.lists(st.tuples(fifths, st.none() | tenths), min_size=1, max_size=40))
def test_an_unanswered_value_is_wrong_in_accuracies_and_left_out_of_errors(
    pairs: list[tuple[float, float | None]],
) -> None:
    target = np.array([t for t, _ in pairs])
    value = np.array([np.nan if v is None else v for _, v in pairs])
    found = metrics.regression_scores(target, value)
    answered = np.isfinite(value)
    if answered.any():
        alone = field_scores(target[answered], value[answered])
        assert found["mae"] == pytest.approx(alone["mae"])
        assert found["corr"] == pytest.approx(alone["corr"], abs=1e-12, nan_ok=True)
        share = answered.mean()
        for name in ("acc2_has0", "acc3", "acc5", "acc7"):
            assert found[name] == pytest.approx(share * alone[name]), name
        third = np.where(answered, value >= 0, 2).astype(int)
        truth = (target >= 0).astype(int)
        weighted = sk.f1_score(truth, third, labels=np.unique(truth), average="weighted", zero_division=0)
        assert found["f1_has0"] == pytest.approx(weighted)
    else:
        assert np.isnan(found["mae"]) and np.isnan(found["corr"]) and found["acc7"] == 0
    records = [told(i, *pair) for i, pair in enumerate(pairs)]
    assert metrics.summarise(records, SENTIMENT, ("text", "audio", "video"))["unanswered"] == (~answered).sum()


def test_regression_intervals_hold_their_values_and_follow_the_clusters() -> None:
    generator = np.random.default_rng(0)
    target = generator.normal(size=400).clip(-3, 3)
    value = target + generator.normal(size=400) * 0.8
    crop = np.zeros(400, dtype=np.int64)
    apart = metrics.bootstrap_regression(target, value, np.arange(400), crop, seed=3)
    assert apart == metrics.bootstrap_regression(target, value, np.arange(400), crop, seed=3)
    assert {name: entry["value"] for name, entry in apart.items()} == metrics.regression_scores(target, value)
    for name, entry in apart.items():
        assert entry["low"] < entry["value"] < entry["high"], name
    # Of independent samples the interval of a mean is close to the normal approximation.
    half = 1.96 * np.abs(value - target).std() / 20
    assert apart["mae"]["high"] - apart["mae"]["low"] == pytest.approx(2 * half, rel=0.15)
    video = np.repeat(np.arange(20), 20)
    together = metrics.bootstrap_regression(target, target + (video % 2), video, crop)["mae"]
    by_sample = metrics.bootstrap_regression(target, target + (video % 2), np.arange(400), crop)["mae"]
    assert together["high"] - together["low"] > 2 * (by_sample["high"] - by_sample["low"])
    one = metrics.bootstrap_regression(target, value, np.zeros(400, dtype=np.int64), crop)["corr"]
    assert (one["low"], one["high"]) == (None, None)


def test_the_accuracies_of_a_scale_from_minus_three_to_three_are_given_on_that_scale_only() -> None:
    records = [told(i, i / 10, i / 9) for i in range(9)]
    of = lambda *scale: set(metrics.scores(records, Task("regression", value_range=scale)))  # noqa: E731
    assert of(-3.0, 3.0) == {"mae", "corr", "acc2_has0", "f1_has0", "acc2_non0", "f1_non0", "acc3", "acc5", "acc7"}
    assert of(-1.0, 1.0) == {"mae", "corr", "acc2_has0", "f1_has0", "acc2_non0", "f1_non0"}
    assert of(1.0, 5.0) == {"mae", "corr"}


def test_summary_of_a_regression_is_plain_json_and_says_all() -> None:
    names = ("text", "audio", "video")
    alone = [{"text": i / 5 - 2, "audio": 0.0, "video": None if i % 2 else 1.0} for i in range(20)]
    records = [
        told(i, i / 5 - 2, i / 6 - 2, condition="loud" if i % 3 else "quiet", unimodal=alone[i]) for i in range(20)
    ]
    result = metrics.summarise([*records, told(20, 1.0, None), told(21, None, 0.4)], SENTIMENT, names)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert (result["kind"], result["units"], result["value_range"]) == ("regression", "sentiment", [-3.0, 3.0])
    assert (result["unanswered"], result["without_target"], result["predictions"]) == (1, 1, 22)
    assert set(result["rules"]) <= set(result)
    assert set(result["per_condition"]["loud"]) == {"samples", *result["rules"]}
    assert result["per_condition"]["quiet"]["samples"] == 7
    assert {name: part["samples"] for name, part in result["unimodal"].items()} == {
        "text": 20,
        "audio": 20,
        "video": 10,
    }
    assert result["unimodal"]["text"]["mae"]["value"] == pytest.approx(0)
    assert result["unimodal"]["audio"]["corr"]["value"] is None
    assert result["unimodal"]["video"]["mae"]["value"] == pytest.approx(
        np.mean([abs(i / 5 - 3) for i in range(0, 20, 2)])
    )


def test_importance_is_the_normalised_inverse_of_the_squared_error_of_each_modality_alone() -> None:
    names = ("text", "audio", "video")
    importance = metrics.modality_importance(
        told(0, 1.0, 1.0, unimodal={"text": 1.0, "audio": 2.0, "video": None}), names
    )
    assert importance == pytest.approx([10 / (10 + 1 / 1.1), (1 / 1.1) / (10 + 1 / 1.1), 0])
    # Of a classification the error is the probability that the true class was denied.
    said = {"text": [0.0, 1.0], "audio": [0.5, 0.5], "video": [1.0, 0.0]}
    shares = metrics.modality_importance({"target": 1, "unimodal": said}, names)
    inverse = np.array([1 / 0.1, 1 / 0.35, 1 / 1.1])
    assert shares == pytest.approx(inverse / inverse.sum())
    assert metrics.modality_importance(told(0, 1.0, 1.0, unimodal={"text": 1.0}), names) is None
    assert metrics.modality_importance(told(0, None, 1.0, unimodal={"text": 1.0, "audio": 1.0}), names) is None


def test_weights_are_compared_with_the_importance_and_with_the_informative_modality() -> None:
    names = ("text", "audio")
    records = [
        told(
            i,
            0.0,
            0.0,
            unimodal={"text": 0.1 * i, "audio": 1.0},
            weights={"modality": [1 - i / 12, i / 12]},
            truth={"informative": "text" if i < 8 else "audio"},
        )
        for i in range(10)
    ]
    result = metrics.summarise(records, SENTIMENT, names)
    assert result["weight_vs_importance"]["agree"] == pytest.approx(0.7)
    assert result["weight_vs_importance"]["samples"] == 10
    assert result["weight_vs_importance"]["correlation"] > 0.8
    assert result["router_on_informative"] == {"value": 0.9, "samples": 10}
    plain = [told(i, 0.0, 0.0) for i in range(3)]
    result = metrics.summarise(plain, SENTIMENT, ("text", "audio", "video"))
    assert result["weight_vs_importance"] is None and result["router_on_informative"] is None
