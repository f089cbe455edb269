"""The synthetic talk world: one modality tells, and neither energy nor length says which."""

import numpy as np
import pytest
import torch

from affuse.data.synthetic.talk import CHANNELS, MEANINGLESS, STRONGEST, Talk
from affuse.types import AffuseError

SMALL = Talk(
    train_utterances=60,
    validation_utterances=30,
    test_utterances=90,
    train_speakers=4,
    validation_speakers=2,
    test_speakers=3,
)


def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    first, again, other = (SMALL.splits(seed).train[7] for seed in (0, 0, 1))
    for name in CHANNELS:
        assert torch.equal(first.inputs[name], again.inputs[name])
    assert first.target == again.target != other.target


def test_no_speaker_stands_in_two_splits() -> None:
    splits = SMALL.splits(0)
    people = [
        {source[i].meta["subject"] for i in range(len(source))}
        for source in (splits.train, splits.validation, splits.test)
    ]
    assert [len(p) for p in people] == [4, 2, 3]
    assert not people[0] & people[1] and not people[0] & people[2] and not people[1] & people[2]


def test_lengths_widths_clocks_and_truth_are_as_declared() -> None:
    splits = SMALL.splits(3)
    assert splits.synthetic
    assert splits.task.value_range == (-3.0, 3.0)
    for index in range(len(splits.train)):
        sample = splits.train[index]
        assert sample.meta["truth"]["informative"] == tuple(CHANNELS)[index % 3]
        assert sample.meta["truth"]["sentiment"] == sample.target
        assert SMALL.weakest <= abs(sample.target or 0) <= STRONGEST
        for name, channel in CHANNELS.items():
            steps, width = sample.inputs[name].shape
            assert width == channel.width and channel.steps[0] <= steps <= channel.steps[1]
            assert sample.times_us[name][1] == round(1e6 / channel.rate_hz)


def test_only_the_telling_modality_knows_the_sentiment() -> None:
    """The projection on the direction of sentiment follows it where the modality tells, and not where it does not."""
    splits = SMALL.splits(5)
    source = splits.test
    for name in CHANNELS:
        direction = source.world.directions[name][0]  # type: ignore[attr-defined]
        telling: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        for index in range(len(source)):
            sample = source[index]
            height = float((sample.inputs[name].numpy() @ direction).mean())
            telling[sample.meta["truth"]["informative"] == name].append((float(sample.target or 0), height))
        told = np.corrcoef(np.array(telling[True]).T)[0, 1]
        silent = np.corrcoef(np.array(telling[False]).T)[0, 1]
        assert told > 0.7
        assert abs(silent) < 0.35


def test_energy_does_not_say_which_modality_tells() -> None:
    source = Talk(test_utterances=900).splits(2).test
    for name in CHANNELS:
        energy: dict[bool, list[float]] = {True: [], False: []}
        for index in range(len(source)):
            sample = source[index]
            energy[sample.meta["truth"]["informative"] == name].append(float(sample.inputs[name].square().mean()))
        spread = np.std(energy[False])
        assert abs(np.mean(energy[True]) - np.mean(energy[False])) < 0.25 * spread


def test_directions_are_orthonormal() -> None:
    world = SMALL.splits(0).train.world  # type: ignore[attr-defined]
    for directions in world.directions.values():
        assert np.allclose(directions @ directions.T, np.eye(1 + MEANINGLESS))


def test_classes_are_the_sign_of_the_sentiment() -> None:
    source = Talk(task="classification", test_utterances=30).splits(0).test
    for index in range(len(source)):
        sample = source[index]
        assert sample.target == int(sample.meta["truth"]["sentiment"] > 0)


@pytest.mark.parametrize("wrong", [{"weakest": 3.0}, {"strength": 0.0}, {"test_speakers": 0}])
def test_impossible_worlds_are_errors(wrong: dict) -> None:
    with pytest.raises(AffuseError, match="talk"):
        Talk(**wrong)
