"""Encodings of numbers as spikes: what happens at 0, at 1 and between, and that silence stays silent."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from affuse import AffuseError
from affuse.ops.spike_encoding import direct, latency, rate

LEVELS = st.floats(0, 1, width=32)
STEPS = st.integers(1, 40)


def fraction(level: float) -> torch.Tensor:
    return torch.tensor([level], dtype=torch.float32)


def test_direct_encoding_is_the_picture_at_every_step_without_a_copy():
    picture = torch.rand(3, 4, 5)
    steps = direct(picture, 6)
    assert steps.shape == (6, 3, 4, 5)
    assert all(torch.equal(step, picture) for step in steps)
    assert steps.data_ptr() == picture.data_ptr() and steps.stride(0) == 0


@given(LEVELS, STEPS)
def test_regular_rate_has_the_floor_of_its_share_and_even_distances(level, steps):
    spikes = rate(fraction(level), steps, regular=True)[:, 0]
    assert set(spikes.tolist()) <= {0.0, 1.0}
    for t in range(1, steps + 1):
        assert spikes[:t].sum() == math.floor(t * fraction(level).double().item())


@pytest.mark.parametrize("regular", [False, True])
def test_rate_never_fires_at_zero_and_always_at_one(regular):
    ends = torch.tensor([0.0, 1.0])
    spikes = rate(ends, 500, torch.Generator().manual_seed(0), regular=regular)
    assert spikes.sum(0).tolist() == [0, 500]


def test_rate_by_chance_has_its_share_and_is_what_its_generator_says():
    x = torch.full((10_000,), 0.3)
    spikes = rate(x, 5, torch.Generator().manual_seed(1))
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    assert spikes.mean().item() == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 50_000))
    assert torch.equal(spikes, rate(x, 5, torch.Generator().manual_seed(1)))
    assert not torch.equal(spikes, rate(x, 5, torch.Generator().manual_seed(2)))


@given(LEVELS, LEVELS, STEPS)
def test_latency_gives_one_spike_and_the_stronger_is_never_later(one, other, steps):
    weak, strong = sorted((one, other))
    spikes = latency(torch.tensor([weak, strong], dtype=torch.float32), steps)
    assert spikes.sum(0).tolist() == [float(weak > 0), float(strong > 0)]
    if weak > 0:
        first = spikes.argmax(0)
        assert first[1] <= first[0]


def test_latency_cuts_the_range_into_equal_parts():
    x = torch.tensor([1.0, 0.76, 0.75, 0.5, 0.25, 1e-30, 0.0])
    spikes = latency(x, 4)
    assert spikes.argmax(0)[:6].tolist() == [0, 0, 1, 2, 3, 3]
    assert spikes[:, 6].sum() == 0


@pytest.mark.parametrize("encode", [rate, latency])
def test_silence_gives_no_spike(encode):
    spikes = encode(torch.zeros(2, 8), 7)
    assert spikes.shape == (7, 2, 8)
    assert not spikes.any()


@pytest.mark.parametrize("encode", [direct, rate, latency])
def test_an_empty_slice_is_encoded_as_an_empty_one(encode):
    assert encode(torch.zeros(0, 8), 3).shape == (3, 0, 8)


@pytest.mark.parametrize("encode", [direct, rate, latency])
def test_no_step_at_all_is_refused(encode):
    with pytest.raises(AffuseError, match="at least one time step, got 0"):
        encode(torch.zeros(2), 0)


@pytest.mark.parametrize("encode", [rate, latency])
@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_numbers_outside_of_zero_to_one_are_refused_with_the_remedy(encode, value):
    with pytest.raises(AffuseError, match="from 0 to 1; scale"):
        encode(torch.tensor([0.5, value]), 3)
