"""Segment metrics against their definitions, written out plainly, and against cases worked by hand."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affuse import AffuseError
from affuse.metrics.segments import (
    OVERLAPS,
    RULES,
    edit_score,
    frame_accuracy,
    label_segments,
    levenshtein,
    segment_counts,
    segment_scores,
    segmental_f1,
)

LABELS = st.lists(st.integers(-1, 3), max_size=30).map(lambda labels: np.array(labels, dtype=np.int64))
WORDS = st.lists(st.integers(0, 3), max_size=9)


def of(text: str) -> np.ndarray:
    """aabb. is 0 0 1 1 -1."""
    return np.array([-1 if letter == "." else ord(letter) - ord("a") for letter in text], dtype=np.int64)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(0, 30))
    lists = st.lists(st.integers(-1, 3), min_size=n, max_size=n)
    return np.array(draw(lists), dtype=np.int64), np.array(draw(lists), dtype=np.int64)


@given(WORDS, WORDS)
def test_levenshtein_is_its_recursion(a: list[int], b: list[int]) -> None:
    @cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    assert levenshtein(np.array(a, dtype=np.int64), np.array(b, dtype=np.int64)) == distance(len(a), len(b))


@given(LABELS)
def test_segments_give_the_labels_back(labels: np.ndarray) -> None:
    again = np.full_like(labels, -1)
    for label, begin, end in label_segments(labels):
        again[begin:end] = label
    assert (again == labels).all()


@given(LABELS)
def test_a_right_answer_scores_one_everywhere(labels: np.ndarray) -> None:
    assert edit_score(labels, labels) == 1
    assert all(segmental_f1(labels, labels, overlap) == 1 for overlap in (*OVERLAPS, 1.0))
    if (labels >= 0).any():
        assert frame_accuracy(labels, labels) == 1


@given(pairs())
def test_scores_are_shares_and_a_stricter_overlap_never_scores_higher(pair: tuple) -> None:
    target, prediction = pair
    scores = [segmental_f1(target, prediction, overlap) for overlap in (0.05, *OVERLAPS, 1.0)]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in (*scores, edit_score(target, prediction)))


@given(pairs())
def test_every_segment_is_counted_once(pair: tuple) -> None:
    target, prediction = pair
    hits, extra, missed = segment_counts(target, prediction, 0.25)
    assert hits + extra == len(label_segments(prediction)) and hits + missed == len(label_segments(target))


@given(pairs(), st.sampled_from([0.3, 0.5, 0.6]))
def test_hits_are_the_intersections_over_unions_of_sets_of_frames(pair: tuple, overlap: float) -> None:
    target, prediction = pair
    frames = lambda labels: [(label, set(range(a, b))) for label, a, b in label_segments(labels)]  # noqa: E731
    used: set[int] = set()
    for label, own in frames(prediction):
        shares = [
            (len(own & true) / len(own | true), -i) for i, (name, true) in enumerate(frames(target)) if name == label
        ]
        share, which = max(shares, default=(0.0, 0))
        if share >= overlap and -which not in used:
            used.add(-which)
    assert segment_counts(target, prediction, overlap)[0] == len(used)


def test_cases_worked_by_hand() -> None:
    # One long action cut in three: the middle is wrong, of the two right parts only one may count.
    truth, said = of("aaaaaaaaaabbbbb"), of("aaaacaaaaabbbbb")
    assert frame_accuracy(truth, said) == pytest.approx(14 / 15)
    assert edit_score(truth, said) == pytest.approx(1 - 2 / 4)  # a c a b against a b
    assert segment_counts(truth, said, 0.5) == (2, 2, 0)  # a of 5 shares exactly half, b is whole
    assert segmental_f1(truth, said, 0.5) == pytest.approx(2 * 2 / (2 * 2 + 2))
    assert segment_counts(truth, said, 0.51) == (1, 3, 1)


def test_the_order_of_actions_counts_in_the_edit_score_and_their_length_does_not() -> None:
    assert edit_score(of("aabbcc"), of("abcccc")) == 1
    assert edit_score(of("aabb"), of("bbaa")) == 0


def test_an_unanswered_frame_is_wrong_and_an_unannotated_one_is_not_measured() -> None:
    assert frame_accuracy(of("aabb.."), of("a.bbcc")) == pytest.approx(3 / 4)
    assert np.isnan(frame_accuracy(of(".."), of("aa")))
    assert segment_counts(of("aa"), of(".."), 0.1) == (0, 0, 1)


def test_the_background_is_no_segment() -> None:
    truth, said = of("zzaazz"), of("zzzaaz")
    assert segment_counts(truth, said, 0.25, background=(25,)) == (1, 0, 0)
    assert edit_score(truth, of("zzzzzz"), background=(25,)) == 0


def test_the_scores_of_recordings_are_their_means() -> None:
    found = segment_scores([(of("aabb"), of("aabb")), (of("aabb."), of("bb.aa"))])
    assert found["frame_accuracy"] == pytest.approx(0.5)
    assert (found["recordings"], found["frames"], found["unanswered"]) == (2, 8, 1)
    assert set(RULES) < set(found)
    assert np.isnan(segment_scores([])["edit"])


def test_a_truth_and_an_answer_of_other_lengths_are_an_error() -> None:
    with pytest.raises(AffuseError, match="one clock"):
        segment_scores([(of("aab"), of("aa"))])


@pytest.mark.parametrize("overlap", [0.0, 1.1])
def test_an_overlap_that_is_no_share_is_an_error(overlap: float) -> None:
    with pytest.raises(AffuseError, match="overlap"):
        segmental_f1(of("a"), of("a"), overlap)
