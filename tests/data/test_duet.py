"""The synthetic duet world: sound is easy and sometimes ambiguous, sight is hard and always tells, a known lag later."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affuse.data.synthetic.duet import DOMINANT, WEAK, Duet, Duets
from affuse.data.synthetic.plans import SPLITS
from affuse.types import AffuseError, Batch

SMALL = Duet(
    train_samples=90,
    validation_samples=30,
    test_samples=300,
    train_subjects=5,
    validation_subjects=2,
    test_subjects=4,
)


def sources(config: Duet, seed: int) -> dict[str, Duets]:
    splits = config.splits(seed)
    found = {split: getattr(splits, split) for split in SPLITS}
    assert all(isinstance(source, Duets) for source in found.values())
    return found


def bursts(config: Duet, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """By modality, projections (n, c) on the patterns of the classes, mean over the steps of the true burst; targets, clear."""
    source = sources(config, seed)["test"]
    projections: dict[str, list[np.ndarray]] = {DOMINANT: [], WEAK: []}
    samples = [source[index] for index in range(len(source))]
    for sample in samples:
        for name, found in projections.items():
            start = sample.meta["truth"]["onset"] + (config.lag if name == WEAK else 0)
            window = sample.inputs[name].numpy()[start : start + config.burst]
            found.append((window @ source.world.patterns[name].T).mean(0))
    clear = np.array([not sample.meta["truth"]["ambiguous"] for sample in samples])
    return (
        {name: np.stack(found) for name, found in projections.items()},
        np.array([sample.target for sample in samples]),
        clear,
    )


def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    first, again, other = (sources(SMALL, seed)["train"][7] for seed in (0, 0, 1))
    for name in (DOMINANT, WEAK):
        assert torch.equal(first.inputs[name], again.inputs[name])
        assert not torch.equal(first.inputs[name], other.inputs[name])


def test_a_world_seed_holds_against_the_seed_of_the_training() -> None:
    config = Duet(world_seed=4, train_samples=2)
    first, again = (sources(config, seed)["train"][1] for seed in (0, 1))
    assert torch.equal(first.inputs[WEAK], again.inputs[WEAK])


def test_no_subject_stands_in_two_splits() -> None:
    people = [{source[i].meta["subject"] for i in range(len(source))} for source in sources(SMALL, 0).values()]
    assert [len(p) for p in people] == [5, 2, 4]
    assert not people[0] & people[1] and not people[0] & people[2] and not people[1] & people[2]


@settings(max_examples=25)
@given(
    steps=st.integers(4, 9),
    burst=st.integers(1, 3),
    lag=st.integers(-6, 6),
    index=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_both_bursts_lie_within_the_sequence_at_any_lag_that_is_allowed(
    steps: int, burst: int, lag: int, index: int, seed: int
) -> None:
    shape = {"steps": steps, "burst": burst, "lag": lag, "train_samples": 4}
    if burst + abs(lag) > steps:
        with pytest.raises(AffuseError, match="must fit"):
            Duet(**shape)
        return
    sample = sources(Duet(**shape), seed)["train"][index]
    truth = sample.meta["truth"]
    for start in (truth["onset"], truth["onset"] + truth["lag"]):
        assert 0 <= start <= steps - burst
    assert {len(sequence) for sequence in sample.inputs.values()} == {steps}


@pytest.mark.parametrize("lag", [-4, 0, 3])
def test_sight_follows_sound_by_the_lag(lag: int) -> None:
    """Energy by step, each sample moved to its own onset, peaks at 0 in audio and at the lag in visual."""
    config = Duet(lag=lag, burst=1, audio_strength=8.0, visual_strength=8.0, test_samples=60)
    source = sources(config, 2)["test"]
    for name, expected in ((DOMINANT, 0), (WEAK, lag)):
        places = []
        for index in range(len(source)):
            sample = source[index]
            projected = sample.inputs[name].numpy() @ source.world.patterns[name].T
            places.append(int(np.square(projected).sum(-1).argmax()) - sample.meta["truth"]["onset"])
        assert np.median(places) == expected
        assert np.mean(np.array(places) == expected) > 0.9


def test_sound_tells_the_clear_samples_and_leaves_two_classes_in_the_others() -> None:
    projections, target, clear = bursts(SMALL, 0)
    right = projections[DOMINANT].argmax(-1) == target
    assert right[clear].mean() > 0.95
    assert 0.25 < right[~clear].mean() < 0.75
    best_two = np.argsort(projections[DOMINANT][~clear], -1)[:, -2:]
    assert (best_two == target[~clear, None]).any(-1).mean() > 0.9
    assert abs((~clear).mean() - SMALL.ambiguous) < 0.08


def test_sight_tells_every_sample_but_only_by_its_size() -> None:
    """Without its sign the projection names the class; with it, the mean over samples of a class is about nothing."""
    projections, target, clear = bursts(SMALL, 0)
    sized = np.abs(projections[WEAK]).argmax(-1) == target
    assert sized[clear].mean() > 0.9 and sized[~clear].mean() > 0.9
    signed = projections[WEAK].argmax(-1) == target
    assert signed.mean() < 0.7
    own = projections[WEAK][np.arange(len(target)), target]
    assert abs(own.mean()) < 0.2 * np.abs(own).mean()
    heard = projections[DOMINANT][np.arange(len(target)), target][clear]
    assert heard.mean() > 0.8 * SMALL.audio_strength


def test_the_truth_names_the_informative_modality_where_only_one_tells() -> None:
    source = sources(SMALL, 1)["test"]
    for index in range(len(source)):
        meta = source[index].meta
        truth = meta["truth"]
        assert ("informative" in truth) == truth["ambiguous"]
        assert meta["condition"] == ("audio ambiguous" if truth["ambiguous"] else "audio clear")
        if truth["ambiguous"]:
            assert truth["informative"] == WEAK
            assert truth["confused_with"] != source[index].target


def test_samples_make_a_batch_with_clocks_and_every_class() -> None:
    splits = SMALL.splits(3)
    assert splits.synthetic
    assert splits.task.outputs == SMALL.classes
    samples = [splits.train[index] for index in range(2 * SMALL.classes)]
    batch = Batch.collate(samples)
    assert batch.modalities == (DOMINANT, WEAK)
    assert batch.inputs[DOMINANT].shape == (len(samples), SMALL.steps, SMALL.audio_width)
    assert batch.inputs[WEAK].shape == (len(samples), SMALL.steps, SMALL.visual_width)
    assert torch.equal(batch.times_us[DOMINANT], batch.times_us[WEAK])
    assert batch.times_us[DOMINANT][0, 1] == 100_000
    assert batch.target is not None
    assert sorted(batch.target.tolist()) == sorted([*range(SMALL.classes)] * 2)


def test_a_sample_beyond_the_end_is_an_index_error() -> None:
    source = sources(SMALL, 0)["train"]
    for index in (-1, len(source)):
        with pytest.raises(IndexError):
            source[index]


@pytest.mark.parametrize(
    "wrong",
    [
        {"classes": 1},
        {"classes": 20},
        {"burst": 0},
        {"lag": 12},
        {"audio_strength": 0.0},
        {"subject_shift": -1.0},
        {"ambiguous": 1.5},
        {"test_subjects": 0},
    ],
)
def test_impossible_worlds_are_errors(wrong: dict) -> None:
    with pytest.raises(AffuseError, match="duet"):
        Duet(**wrong)
