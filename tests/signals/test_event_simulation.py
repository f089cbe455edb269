"""The simulated event camera keeps to its model."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affuse import AffuseError
from affuse.signals.events import linear_luminance, simulate_events

IDEAL = {"threshold_mismatch": 0.0, "refractory_us": 0, "leak_rate_hz": 0.0, "shot_noise_rate_hz": 0.0}
DARK = 0.01


def of_log(log_intensity: np.ndarray) -> np.ndarray:
    """Frames whose log(intensity + dark level) is this."""
    return np.exp(log_intensity) - DARK


def moving_texture(frames: int = 12, size: int = 16) -> np.ndarray:
    """A texture that shifts by a pixel a frame, (t, h, w), in log units around -2."""
    texture = np.random.default_rng(5).normal(-2, 0.5, (size, size + frames))
    return np.stack([texture[:, i : i + size] for i in range(frames)])


@settings(max_examples=50)
@given(st.floats(0.05, 2.5), st.floats(0.1, 0.4), st.integers(2, 6), st.booleans())
def test_a_ramp_gives_one_event_for_every_threshold_it_climbs(change, threshold, frames, down):
    crossings = change / threshold
    if abs(crossings - round(crossings)) < 1e-3:
        return
    log = np.linspace(0, -change if down else change, frames)[:, None, None] * np.ones((1, 2, 3)) - 2
    events = simulate_events(of_log(log), np.arange(frames) * 10_000, threshold=threshold, **IDEAL)
    assert len(events) == 6 * int(crossings)
    assert set(events.p.tolist()) <= {-1 if down else 1}


def test_crossings_within_a_frame_interval_get_interpolated_times():
    log = np.array([-2.0, -1.0])[:, None, None]
    events = simulate_events(of_log(log), [5_000_000, 5_010_000], threshold=0.3, **IDEAL)
    assert events.t_us.tolist() == [5_003_000, 5_006_000, 5_009_000]


def test_the_reference_is_carried_over_frames():
    log = np.linspace(-2, -1, 11)[:, None, None]  # a tenth of a log unit a frame, below the threshold of 0.3
    events = simulate_events(of_log(log), np.arange(11) * 1000, threshold=0.3, **IDEAL)
    assert np.abs(events.t_us - [3000, 6000, 9000]).max() <= 1


def test_a_still_scene_without_noise_gives_no_event():
    frames = np.tile(np.random.default_rng(0).random((1, 8, 8)), (5, 1, 1))
    assert len(simulate_events(frames, np.arange(5) * 33_333, **{**IDEAL, "threshold_mismatch": 0.03})) == 0


def test_negating_the_contrast_flips_every_polarity():
    log = moving_texture()
    times = np.arange(len(log)) * 10_000
    up, down = (simulate_events(of_log(sign * (log + 2) - 2), times, **IDEAL) for sign in (1, -1))
    assert len(up) > 500
    assert np.abs(up.t_us - down.t_us).max() <= 1

    def polarity_sum(events):
        image = np.zeros((16, 16))
        np.add.at(image, (events.y, events.x), events.p)
        return image

    np.testing.assert_array_equal(polarity_sum(up), -polarity_sum(down))


def test_shot_noise_has_its_rate_and_is_stronger_in_the_dark():
    frames = np.zeros((3, 40, 40))
    frames[:, :, 20:] = 1
    settings_ = {**IDEAL, "shot_noise_rate_hz": 5.0}
    events = simulate_events(frames, [0, 1_000_000, 2_000_000], **settings_)
    dark, bright = int((events.x < 20).sum()), int((events.x >= 20).sum())
    assert abs(dark - 8000) < 4 * 8000**0.5  # 800 pixels, 5 Hz, 2 s
    assert abs(bright - 2000) < 4 * 2000**0.5
    assert abs(events.p.astype(int).sum()) < 4 * 10_000**0.5


def test_leak_sends_positive_events_at_its_rate_spread_over_time():
    frames = np.full((21, 30, 30), 0.5)
    events = simulate_events(frames, np.arange(21) * 100_000, **{**IDEAL, "leak_rate_hz": 2.0})
    assert abs(len(events) - 900 * 2 * 2) < 900 * 2 * 2 * 0.1
    assert set(events.p.tolist()) == {1}
    tenths = np.bincount(events.t_us // 200_000, minlength=10)
    assert tenths[:10].min() > 200


@pytest.mark.parametrize("refractory_us", [1000, 7000, 25_000])
def test_no_pixel_sends_two_events_within_its_refractory_time(refractory_us):
    log = moving_texture()
    times = np.arange(len(log)) * 10_000
    events = simulate_events(of_log(log), times, **{**IDEAL, "refractory_us": refractory_us})
    assert len(events) > 100
    for pixel in range(256):
        of_pixel = events.t_us[events.y * 16 + events.x == pixel]
        assert (np.diff(of_pixel) >= refractory_us).all()


def test_the_reference_after_the_refractory_time_is_the_signal_then():
    log = np.array([-2.0, -1.0])[:, None, None]  # 1e-4 a microsecond: 0.3 takes 3000 us, then 1000 us dead
    events = simulate_events(of_log(log), [0, 10_000], **{**IDEAL, "refractory_us": 1000}, threshold=0.3)
    assert events.t_us.tolist() == [3000, 7000]


def test_thresholds_differ_by_pixel_where_there_is_mismatch():
    log = np.linspace(-3, 0, 5)[:, None, None] * np.ones((1, 20, 20))
    events = simulate_events(of_log(log), np.arange(5) * 10_000, **{**IDEAL, "threshold_mismatch": 0.03})
    counts = np.bincount(events.y * 20 + events.x, minlength=400)
    assert counts.std() > 1
    assert abs(counts.mean() - 15) < 1


def test_the_same_seed_gives_the_same_events_and_another_seed_others():
    frames, times = of_log(moving_texture()), np.arange(12) * 10_000
    one, same, other = (simulate_events(frames, times, seed=seed) for seed in (3, 3, 4))
    for name in ("t_us", "x", "y", "p"):
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
    assert len(one) != len(other) or (one.t_us != other.t_us).any()


def test_arrays_tensors_and_iterators_give_the_same_events_in_order_of_time():
    frames, times = of_log(moving_texture()), np.arange(12) * 10_000
    whole = simulate_events(frames, times)
    for form in (torch.from_numpy(frames), iter(frames)):
        other = simulate_events(form, iter(times.tolist()))
        np.testing.assert_array_equal(whole.t_us, other.t_us)
        np.testing.assert_array_equal(whole.x, other.x)
    assert (np.diff(whole.t_us) >= 0).all()
    assert (whole.width, whole.height) == (16, 16)


@pytest.mark.parametrize(
    ("frames", "times", "words"),
    [
        (np.zeros((2, 4, 4)), [0], "more frames"),
        (np.zeros((2, 4, 4)), [0, 1, 2], "more times"),
        (np.zeros((2, 4, 4)), [5, 5], "does not rise"),
        (np.zeros((2, 4, 4)), [0.0, 0.033], "does not rise .* microseconds"),
        (np.zeros((2, 4, 4)), torch.tensor([0.1, 0.9]), "does not rise .* microseconds"),
        (np.zeros((2, 4, 4)), [0.0, np.nan], "microseconds"),
        (np.zeros((2, 4, 4)), [0, np.inf], "microseconds"),
        (np.zeros((2, 4, 4)), [0, "soon"], "microseconds"),
        (np.zeros((2, 4, 4), np.uint8), [0, 1], "float"),
        (np.zeros((2, 4, 4, 3)), [0, 1], "shape"),
        (np.full((2, 4, 4), np.nan), [0, 1], "not finite"),
        (np.full((2, 4, 4), -1.0), [0, 1], "negative"),
        (np.zeros((0, 4, 4)), [], "no frame"),
        ([np.zeros((4, 4)), np.zeros((4, 5))], [0, 1], "size"),
    ],
)
def test_bad_video_is_a_clear_error(frames, times, words):
    with pytest.raises(AffuseError, match=words):
        simulate_events(frames, times)


def test_a_threshold_that_is_not_positive_is_an_error():
    with pytest.raises(AffuseError, match="positive"):
        simulate_events(np.zeros((2, 4, 4)), [0, 1], threshold=0.0)


def test_linear_luminance_undoes_the_srgb_curve():
    grey = np.array([0, 10, 128, 255], np.uint8)[None, :, None].repeat(3, axis=2)
    np.testing.assert_allclose(linear_luminance(grey)[0], [0, 0.003035, 0.215861, 1], atol=1e-5)
    green = np.array([[[0, 255, 0]]], np.uint8)
    np.testing.assert_allclose(linear_luminance(green), [[0.7152]], atol=1e-5)
