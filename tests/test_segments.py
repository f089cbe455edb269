"""Segments say what the windows said, when they said it, and nothing where none did."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affuse import AffuseError
from affuse.metrics.segments import runs_of
from affuse.segments import (
    NO_ANSWER,
    Segment,
    Segmentation,
    average_windows,
    labels_at,
    moment_labels,
    running_median,
    segments,
    window_starts,
    without_short,
)


def one_hot(labels: list[int], classes: int = 3, sure: float = 1.0) -> np.ndarray:
    rows = np.full((len(labels), classes), (1 - sure) / (classes - 1))
    rows[np.arange(len(labels)), labels] = sure
    return rows


@st.composite
def recordings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = draw(st.integers(1, 12))
    start = np.array(draw(st.lists(st.integers(0, 400), min_size=n, max_size=n)), dtype=np.int64)
    span = np.array(draw(st.lists(st.integers(1, 90), min_size=n, max_size=n)), dtype=np.int64)
    rows = np.array(draw(st.lists(st.lists(st.integers(1, 9), min_size=3, max_size=3), min_size=n, max_size=n)), float)
    rows /= rows.sum(1, keepdims=True)
    silent = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    rows[silent] = np.nan
    return start, start + span, rows


@given(recordings(), st.integers(1, 60))
def test_a_moment_is_the_mean_of_the_windows_its_middle_lies_in(recording: tuple, step_us: int) -> None:
    start, stop, rows = recording
    moments, mean = average_windows(start, stop, rows, step_us)
    assert mean.shape == (len(moments), 3)
    for moment, found in zip(moments, mean, strict=True):
        middle = moment + step_us / 2
        inside = [r for a, b, r in zip(start, stop, rows, strict=True) if a <= middle < b and not np.isnan(r).any()]
        wanted = np.mean(inside, axis=0) if inside else np.full(3, np.nan)
        np.testing.assert_allclose(found, wanted)


@given(recordings(), st.integers(1, 60), st.integers(0, 200), st.integers(0, 200), st.sampled_from([0.0, 0.5, 1.0]))
def test_segments_tile_the_recording_and_neighbours_differ(
    recording: tuple, step_us: int, median_us: int, minimum_us: int, threshold: float
) -> None:
    start, stop, rows = recording
    found = segments(start, stop, rows, Segmentation(step_us, median_us, minimum_us, threshold))
    assert found[0].start_us == start.min() and found[-1].stop_us == stop.max()
    for one, other in pairwise(found):
        assert one.stop_us == other.start_us and one.label != other.label
    for segment in found:
        assert segment.start_us < segment.stop_us
        assert (segment.label == NO_ANSWER) == np.isnan(segment.confidence)


@given(recordings(), st.integers(0, 200), st.integers(0, 200))
def test_what_no_answered_window_covers_is_never_answered(recording: tuple, median_us: int, minimum_us: int) -> None:
    start, stop, rows = recording
    found = segments(start, stop, rows, Segmentation(1, median_us, minimum_us))
    times = np.arange(start.min(), stop.max())
    known = ~np.isnan(rows).any(1)
    covered = ((start[known, None] <= times) & (times < stop[known, None])).any(0)
    assert not ((labels_at(found, times) != NO_ANSWER) & ~covered).any()


@given(st.lists(st.integers(-1, 2), min_size=1, max_size=40), st.integers(1, 6))
def test_without_short_leaves_only_answers_that_last_or_stand_alone(labels: list[int], minimum: int) -> None:
    before = np.array(labels)
    rows = one_hot([max(label, 0) for label in labels], sure=0.8)
    after = without_short(before, rows, minimum)
    runs = runs_of(after)
    assert len(runs) == 1 or all(label == NO_ANSWER or end - begin >= minimum for label, begin, end in runs)
    assert (after[before == NO_ANSWER] == NO_ANSWER).all()
    assert (without_short(before, rows, 1) == before).all()


def test_a_short_answer_joins_the_neighbour_that_is_more_probable_there() -> None:
    rows = np.array([[0.8, 0.1, 0.1]] * 4 + [[0.3, 0.25, 0.45]] + [[0.1, 0.8, 0.1]] * 4)
    assert without_short(rows.argmax(1), rows, 2).tolist() == [0] * 5 + [1] * 4


def test_a_short_answer_between_silences_is_silenced() -> None:
    labels = np.array([NO_ANSWER] * 3 + [1] + [NO_ANSWER] * 3)
    rows = np.full((7, 3), np.nan)
    rows[3] = [0.1, 0.8, 0.1]
    assert (without_short(labels, rows, 2) == NO_ANSWER).all()


def test_overlapping_windows_change_class_where_the_later_ones_outweigh_the_earlier() -> None:
    start = np.arange(0, 8) * 500_000
    rows = np.concatenate([one_hot([0] * 4, sure=0.9), one_hot([1] * 4, sure=0.96)])
    found = segments(start, start + 1_000_000, rows)
    assert [(s.label, s.start_us, s.stop_us) for s in found] == [(0, 0, 2_000_000), (1, 2_000_000, 4_500_000)]
    assert found[1].confidence == pytest.approx((0.505 * 5 + 0.96 * 20) / 25)


def test_the_median_removes_one_odd_moment_and_keeps_a_true_change() -> None:
    labels = [0] * 6 + [2] + [0] * 6 + [1] * 6
    smooth = moment_labels(running_median(one_hot(labels, sure=0.9), 5), 0.0)
    assert smooth.tolist() == [0] * 13 + [1] * 6


@given(recordings(), st.integers(0, 9))
def test_a_median_leaves_probabilities_that_sum_to_one_and_the_unknown_unknown(recording: tuple, moments: int) -> None:
    _, _, rows = recording
    smooth = running_median(rows, moments)
    known = ~np.isnan(rows).any(1)
    np.testing.assert_allclose(smooth[known].sum(1), 1)
    assert np.isnan(smooth[~known]).all()


def test_below_the_threshold_there_is_no_answer() -> None:
    start = np.array([0, 100_000])
    rows = np.array([[0.9, 0.05, 0.05], [0.4, 0.3, 0.3]])
    found = segments(start, start + 100_000, rows, Segmentation(threshold=0.5))
    assert [s.label for s in found] == [0, NO_ANSWER]


def test_a_window_shorter_than_a_moment_still_speaks() -> None:
    found = segments(np.array([5]), np.array([45]), one_hot([1]), Segmentation(step_us=100_000))
    assert found == [Segment(5, 45, 1, 1.0)]


def test_nothing_gives_no_segments() -> None:
    none = np.zeros(0, dtype=np.int64)
    assert segments(none, none, np.zeros((0, 3))) == []


@given(st.integers(-1000, 1000), st.integers(0, 3000), st.integers(0, 500), st.integers(1, 400))
def test_windows_lie_within_the_recording_and_leave_less_than_a_hop(
    first: int, length: int, span: int, hop: int
) -> None:
    starts = window_starts(first, first + length, span, hop)
    assert (np.diff(starts) == hop).all()
    if span > length:
        assert not len(starts)
    else:
        assert starts[0] == first and 0 <= first + length - (starts[-1] + span) < hop


@pytest.mark.parametrize(
    "wrong",
    [{"step_us": 0}, {"median_us": -1}, {"minimum_us": -1}, {"threshold": 1.5}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_setting_out_of_its_range_is_named(wrong: dict) -> None:
    with pytest.raises(AffuseError, match=next(iter(wrong))):
        Segmentation(**wrong)


def test_windows_that_stop_before_they_start_are_an_error() -> None:
    with pytest.raises(AffuseError, match="stops before it starts"):
        segments(np.array([5]), np.array([5]), one_hot([0]))


def test_a_recording_of_too_many_moments_is_an_error_and_fills_no_memory() -> None:
    with pytest.raises(AffuseError, match="set a longer step_us"):
        segments(np.array([0, 10**15]), np.array([10, 10**15 + 10]), one_hot([0, 0]))


@settings(max_examples=20)
@given(recordings())
def test_the_order_of_the_windows_does_not_matter(recording: tuple) -> None:
    start, stop, rows = recording
    backwards = segments(start[::-1].copy(), stop[::-1].copy(), rows[::-1].copy())
    for one, other in zip(segments(start, stop, rows), backwards, strict=True):
        assert (one.start_us, one.stop_us, one.label) == (other.start_us, other.stop_us, other.label)
