"""Which frames of a clip are looked at."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affuse import AffuseError
from affuse.signals.frame_sampling import segments, uniform


@given(available=st.integers(1, 900), frames=st.integers(1, 40), seed=st.integers(0, 3), training=st.booleans())
def test_uniform_takes_one_frame_of_each_equal_part_in_order(
    available: int, frames: int, seed: int, training: bool
) -> None:
    indices = uniform(available, frames, training=training, rng=np.random.default_rng(seed))
    assert indices.dtype == np.int64 and len(indices) == frames
    part = np.arange(frames) * available / frames
    assert (indices >= np.floor(part)).all() and (indices <= part + available / frames).all()
    assert (np.diff(indices) >= 0).all() and indices[-1] < available


def test_uniform_gives_a_clip_of_just_so_many_frames_as_it_is() -> None:
    assert uniform(16, 16).tolist() == list(range(16))
    assert uniform(8, 4).tolist() == [1, 3, 5, 7]


def test_a_short_clip_is_filled_up_as_asked() -> None:
    assert uniform(3, 6).tolist() == [0, 0, 1, 1, 2, 2]
    assert uniform(3, 6, short="repeat_first").tolist() == [0, 0, 0, 0, 1, 2]
    assert uniform(3, 6, short="repeat_last").tolist() == [0, 1, 2, 2, 2, 2]


def test_segments_are_former_dfers_eight_pairs_from_the_middles() -> None:
    # 70 frames, the median of DFEW: 69 places for a pair, 8.625 a segment.
    starts = [int(8.625 * (segment + 0.5)) for segment in range(8)]
    assert segments(70, 16).tolist() == [index for start in starts for index in (start, start + 1)]


def test_segments_of_a_short_clip() -> None:
    assert segments(6, 16).tolist() == [0, 1] * 8
    assert segments(6, 16, short="repeat_last").tolist() == [0, 1, 1, 2, 2, 3, 3, 4, *[4, 5] * 4]
    assert segments(1, 4).tolist() == [0, 0, 0, 0]
    assert segments(5, 8, short="spread").tolist() == [0, 1, 1, 2, 2, 3, 3, 4]


@given(available=st.integers(17, 900), seed=st.integers(0, 5))
def test_training_runs_are_consecutive_and_stay_in_their_segment(available: int, seed: int) -> None:
    runs = segments(available, 16, training=True, rng=np.random.default_rng(seed)).reshape(8, 2)
    assert (runs[:, 1] == runs[:, 0] + 1).all() and runs[-1, 1] < available
    length = (available - 1) / 8
    assert (np.abs(runs[:, 0] - (np.arange(8) + 0.5) * length) <= length / 2 + 1).all()


def test_training_draws_anew_and_by_the_generator_only() -> None:
    first, again, other = (segments(200, 16, training=True, rng=np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()


def test_what_cannot_be_sampled_is_an_error() -> None:
    with pytest.raises(AffuseError, match="at least one frame"):
        uniform(0, 16)
    with pytest.raises(AffuseError, match="multiple of consecutive"):
        segments(20, 15)
    with pytest.raises(AffuseError, match="give rng"):
        uniform(20, 16, training=True)
