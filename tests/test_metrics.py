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

from affuse import AffuseError, metrics

CLASSES = ("happy", "sad", "angry", "neutral")
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
@settings(deadline=None, max_examples=40)
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
    result = metrics.bootstrap_recalls(target, prediction, 4, np.arange(300), crop, seed=3)
    assert result == metrics.bootstrap_recalls(target, prediction, 4, np.arange(300), crop, seed=3)
    assert result["war"] != metrics.bootstrap_recalls(target, prediction, 4, np.arange(300), crop, seed=4)["war"]
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
    clustered = metrics.bootstrap_recalls(target, prediction, 2, subject, crop)["war"]
    independent = metrics.bootstrap_recalls(target, prediction, 2, np.arange(200), crop)["war"]
    assert clustered["high"] - clustered["low"] > 2 * (independent["high"] - independent["low"])


def test_one_cluster_has_no_interval() -> None:
    zeros = np.zeros(5, dtype=np.int64)
    war = metrics.bootstrap_recalls(zeros, zeros, 2, zeros, zeros)["war"]
    assert war == {"value": 1.0, "low": None, "high": None}


@given(labels)
@settings(deadline=None, max_examples=20)
def test_metrics_are_averaged_over_crops(pairs: list[tuple[int, int]]) -> None:
    records = [record(i // 2, t, p, crop=i % 2) for i, (t, p) in enumerate(pairs)]
    result = metrics.summarise(records, CLASSES, ("rgb", "event"))
    by_crop = [arrays(pairs[k::2]) for k in range(min(2, len(pairs)))]
    war = np.mean([metrics.weighted_average_recall(*part) for part in by_crop])
    uar = np.mean([metrics.unweighted_average_recall(*part) for part in by_crop])
    assert result["war"]["value"] == pytest.approx(war)
    assert result["uar"]["value"] == pytest.approx(uar)
    assert result["crops"] == len(by_crop)
    assert result["samples"] == (len(pairs) + 1) // 2


def test_selection_sees_the_same_recalls_as_the_report() -> None:
    records = [record(i // 2, i % 4, (i * i) % 4, crop=i % 2) for i in range(21)] + [record(30, 1, None)]
    summary = metrics.summarise(records, CLASSES, ("rgb", "event"))
    assert metrics.recalls(records, 4) == {name: summary[name]["value"] for name in ("war", "uar")}
    with pytest.raises(AffuseError, match="no sample has a target"):
        metrics.recalls([record(0, 0, 0) | {"target": None}], 4)


def test_summary_is_plain_json_and_says_all() -> None:
    records = [record(i, i % 4, (i % 4) if i % 5 else 0) for i in range(24)] + [
        record(24, 1, None),
        record(25, 2, None),
    ]
    result = metrics.summarise(records, CLASSES, ("rgb", "event"))
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
    assert metrics.summarise(records, CLASSES, ("rgb", "event"))["event_weight_vs_rgb_lost"] == pytest.approx(1)
    assert metrics.summarise(records, CLASSES, ("event", "rgb"))["event_weight_vs_rgb_lost"] == pytest.approx(-1)
    assert metrics.summarise(records, CLASSES, ("rgb", "depth"))["event_weight_vs_rgb_lost"] is None


def test_without_subjects_recordings_are_resampled() -> None:
    records = [record(i, i % 4, 0, subject=None) for i in range(8)]
    result = metrics.summarise(records, CLASSES, ("rgb", "event"))
    assert result["clustered_by"] == "id"
    assert result["subjects"] == 0
    assert result["war"]["low"] < result["war"]["high"]


def test_nothing_gives_unknown_numbers_not_an_error() -> None:
    result = metrics.summarise([], CLASSES, ("rgb", "event"))
    assert result["war"] == {"value": None, "low": None, "high": None}
    assert result["calibration"]["ece"] is None
    json.dumps(result, allow_nan=False)
