import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affuse import AffuseError
from affuse.ops.lif import lif_reference
from affuse.signals.cochlea import Cochlea, CochleaSpikes, gammatone

RATE = 8000


def tone(hz: float, seconds: float = 0.3, level: float = 0.5) -> torch.Tensor:
    return level * torch.sin(2 * torch.pi * hz * torch.arange(round(seconds * RATE)) / RATE)


@pytest.mark.parametrize("length", [0, 1, 5000])
def test_silence_gives_no_spike(length: int) -> None:
    spikes = Cochlea().spikes(torch.zeros(length), RATE)
    assert len(spikes) == 0
    assert spikes.binned(4).shape == (4, 64) and not spikes.binned(4).any()


def test_nothing_fires_before_the_sound() -> None:
    click = torch.zeros(4000)
    click[2000] = 1.0
    spikes = Cochlea().spikes(click, RATE)
    assert len(spikes) and int(spikes.t_us.min()) >= 250_000


def test_a_tone_fires_most_where_its_frequency_is() -> None:
    places = [int(Cochlea().spikes(tone(hz), RATE).binned(1)[0].argmax()) for hz in (200.0, 500.0, 1200.0, 3000.0)]
    assert places == sorted(set(places))
    filtered = Cochlea(channels=20, low_hz=100.0, high_hz=3000.0).filter(tone(100.0, 1.0), RATE)
    assert int(filtered.square().sum(1).argmax()) == 0
    assert 0.45 < float(filtered[0, 4000:].max()) < 0.55  # gain 1 at a channel's own frequency


def test_louder_sound_gives_more_spikes_and_the_same_ones_each_time() -> None:
    counts = [len(Cochlea().spikes(tone(600.0, level=level), RATE)) for level in (0.001, 0.01, 0.1, 1.0)]
    assert counts == sorted(counts) and counts[0] < counts[1] < counts[3]
    first, again = (Cochlea().spikes(tone(600.0), RATE) for _ in range(2))
    assert torch.equal(first.t_us, again.t_us) and torch.equal(first.channel, again.channel)


def test_filters_are_of_gain_one_at_frequencies_that_rise() -> None:
    gains = torch.fft.rfft(gammatone(16, 100.0, 3500.0, RATE), RATE).abs()  # k f, 1 Hz apart
    peaks = gains.argmax(1)
    assert bool((peaks[1:] > peaks[:-1]).all()) and abs(int(peaks[0]) - 100) < 10 and abs(int(peaks[-1]) - 3500) < 60
    torch.testing.assert_close(gains.amax(1), torch.ones(16), atol=0.05, rtol=0)


def test_neurons_are_the_ones_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = Cochlea(channels=8).spikes(tone(700.0, 0.1), RATE)
    monkeypatch.setattr("affuse.signals.cochlea.lif", lif_reference)
    slow = Cochlea(channels=8).spikes(tone(700.0, 0.1), RATE)
    assert torch.equal(fast.t_us, slow.t_us) and torch.equal(fast.channel, slow.channel)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 4)), max_size=50), st.integers(1, 9))
def test_binning_keeps_every_spike_and_its_window(events: list[tuple[int, int]], steps: int) -> None:
    events = sorted(events)
    t = torch.tensor([event[0] for event in events], dtype=torch.int64)
    channel = torch.tensor([event[1] for event in events], dtype=torch.int64)
    counts = CochleaSpikes(t, channel, 5, 1000).binned(steps)
    expected = torch.zeros(steps, 5)
    for t_us, place in events:
        expected[min(t_us * steps // 1000, steps - 1), place] += 1
    assert torch.equal(counts, expected)


@pytest.mark.parametrize(
    ("t", "channel", "message"),
    [([5, 3], [0, 0], "backwards"), ([0, 2000], [0, 0], "leave"), ([1], [9], "outside")],
)
def test_unsound_spikes_are_refused(t: list[int], channel: list[int], message: str) -> None:
    with pytest.raises(AffuseError, match=message):
        CochleaSpikes(torch.tensor(t), torch.tensor(channel), 4, 1000)


def test_impossible_channels_are_refused() -> None:
    with pytest.raises(AffuseError, match="impossible at 8000 Hz"):
        Cochlea(high_hz=5000.0).spikes(tone(300.0), RATE)
    with pytest.raises(AffuseError, match="positive exponent"):
        Cochlea(gain=0.0)
