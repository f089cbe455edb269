"""The type `Events`: what it accepts, and how it is cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affuse import AffuseError
from affuse.ops.events import voxel_grid
from affuse.signals.events import Events, describe


def events_of(t, x=None, y=None, p=None, width=8, height=6, **more) -> Events:
    n = len(t)
    x, y = (np.array([0] * n if column is None else column, dtype=np.int64) for column in (x, y))
    return Events(
        np.array(t, dtype=np.int64), x, y, np.array([1] * n if p is None else p, dtype=np.int64), width, height, **more
    )


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"t": [3, 2]}, "backwards"),
        ({"t": [1], "x": [8]}, "sensor"),
        ({"t": [1], "x": [-1]}, "sensor"),
        ({"t": [1], "y": [6]}, "sensor"),
        ({"t": [1], "p": [0]}, "polarity"),
        ({"t": [1], "x": [1, 2]}, "one length"),
        ({"t": [], "width": 0}, "none"),
    ],
)
def test_unsound_events_are_refused(wrong, words):
    with pytest.raises(AffuseError, match=words):
        events_of(**wrong)


def test_coordinates_are_checked_before_they_are_narrowed():
    with pytest.raises(AffuseError, match="sensor"):
        events_of([1], x=[2**32])  # as int32 this would be a harmless 0


@settings(max_examples=100)
@given(st.lists(st.integers(0, 50), max_size=40), st.integers(-5, 55), st.integers(0, 30), st.integers(0, 30))
def test_neighbouring_slices_share_no_event_and_lose_none(times, start, first, second):
    events = events_of(sorted(times))
    middle, stop = start + first, start + first + second
    left, right, both = (
        events.slice_time(start, middle),
        events.slice_time(middle, stop),
        events.slice_time(start, stop),
    )
    np.testing.assert_array_equal(np.concatenate([left.t_us, right.t_us]), both.t_us)
    assert both.t_us.tolist() == [t for t in sorted(times) if start <= t < stop]


def test_a_slice_keeps_what_is_known_of_the_recording():
    events = events_of([1, 2, 3], dropped=4, source="somewhere", size_inferred=True)
    part = events.slice_time(2, 3)
    assert (part.width, part.height, part.dropped, part.source, part.size_inferred) == (8, 6, 4, "somewhere", True)


def test_a_crop_moves_the_origin():
    part = events_of([1, 2, 3, 4], x=[0, 2, 4, 5], y=[1, 3, 3, 3]).crop(2, 3, 3, 2)
    assert (part.t_us.tolist(), part.x.tolist(), part.y.tolist()) == ([2, 3], [0, 2], [0, 0])
    assert (part.width, part.height) == (3, 2)


def test_a_crop_beyond_the_sensor_is_an_error():
    with pytest.raises(AffuseError, match="crop"):
        events_of([1]).crop(6, 0, 3, 2)


def test_tensors_are_copies_that_the_ops_take():
    events = events_of([1, 2], x=[3, 4], y=[5, 0], p=[1, -1])
    tensors = events.tensors()
    grid = voxel_grid(*tensors, bins=1, height=6, width=8, t_start_us=0, t_stop_us=3)
    assert grid[0, 5, 3] == 1
    assert grid[0, 0, 4] == -1
    for tensor in tensors:
        tensor.zero_()
    assert events.t_us.tolist() == [1, 2]


def test_describe_counts_what_is_there():
    facts = describe(events_of([10, 20, 1_000_010], p=[1, -1, -1], dropped=2, source="text"))
    assert facts == {
        "format": "text",
        "events": 3,
        "positive": 1,
        "negative": 2,
        "start_us": 10,
        "duration_s": 1.0,
        "width": 8,
        "height": 6,
        "size_inferred": False,
        "rate_hz": 3.0,
        "dropped": 2,
    }


def test_no_events_have_no_duration_and_no_rate():
    facts = describe(events_of([]))
    assert (facts["events"], facts["duration_s"], facts["rate_hz"]) == (0, 0.0, 0.0)
