import os
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affuse import AffuseError, Batch
from affuse.data.ravdess import CLASSES, EMOTIONS, Ravdess, RavdessName, read_vectors, slices, voiced

REAL = Path(os.environ.get("AFFUSE_DATA", Path(__file__).parents[2] / "../shared/data")) / "ravdess"
PARTS = ("train", "validation", "test")
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="AFFUSE_DATA holds no ravdess folder")


def write_wav(path: Path, seconds: float = 0.4, hz: float = 300.0) -> None:
    """Silence, a tone, silence."""
    t = np.arange(round(seconds * 16_000)) / 16_000
    tone = np.sin(2 * np.pi * hz * t) * ((t > 0.1) & (t < seconds - 0.1))
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((12_000 * tone).astype("<i2").tobytes())


def write_ravdess(root: Path, actors: int = 12, without_vectors: tuple[str, ...] = ()) -> Path:
    """Two emotions of each actor, with vectors; and one clip of an emotion that is left out."""
    (root / "audio").mkdir(parents=True)
    ids = []
    for actor in range(1, actors + 1):
        for emotion in ("03", "05"):
            name = f"01-{emotion}-01-01-01-{actor:02d}"
            write_wav(root / "audio" / f"03-{name}.wav", hz=200.0 + 10 * actor)
            if name not in without_vectors:
                ids.append(f"01-{name}")
    write_wav(root / "audio" / "03-01-02-01-01-01-01.wav")
    random = np.random.default_rng(0)
    au, mfcc = (random.normal(3, 2, (len(ids), width)).astype(np.float32) for width in (35, 259))
    np.savez(root / "au_mfcc.npz", ids=np.array(ids), au=au, mfcc=mfcc)
    return root


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ravdess(tmp_path_factory.mktemp("made") / "ravdess")


@given(st.data())
def test_a_name_is_read_into_its_fields(data: st.DataObject) -> None:
    fields = [
        data.draw(st.sampled_from(values))
        for values in (("01", "02", "03"), ("01", "02"), tuple(EMOTIONS), ("01", "02"), ("01", "02"), ("01", "02"))
    ]
    actor = data.draw(st.integers(1, 24))
    name = RavdessName.parse("-".join([*fields, f"{actor:02d}"]))
    assert [name.modality, name.channel, name.emotion, name.intensity, name.statement, name.repetition] == fields
    assert name.actor == actor and name.clip == "-".join([*fields[1:], f"{actor:02d}"])


@pytest.mark.parametrize(
    ("stem", "named"),
    [
        ("03-01-05-01-01-01", "seven numbers"),
        ("03-01-5-01-01-01-01", "seven numbers"),
        ("03-01-09-01-01-01-01", "emotion is 09"),
        ("04-01-05-01-01-01-01", "modality is 04"),
        ("03-01-05-01-01-01-25", "actor is 25"),
        ("03-01-05-01-01-01-00", "actor is 00"),
    ],
)
def test_a_name_outside_the_grammar_is_an_error_that_names_the_field(stem: str, named: str) -> None:
    with pytest.raises(AffuseError, match=named):
        RavdessName.parse(stem)


def test_actors_stand_in_one_part_only_both_sexes_in_each_and_every_actor_is_test_once(small: Path) -> None:
    tested: list[int] = []
    for fold in range(3):
        splits = Ravdess(str(small), fold=fold, folds=3, validation_actors=2, audio="mfcc").splits(0)
        actors = {p: {getattr(splits, p)[i].meta["subject"] for i in range(len(getattr(splits, p)))} for p in PARTS}
        assert sum(map(len, actors.values())) == len(set.union(*actors.values())) == 12
        for members in actors.values():
            odd = sum(int(actor) % 2 for actor in members)
            assert 2 * odd == len(members)
        assert splits.facts["actors"] == {p: sorted(map(int, members)) for p, members in actors.items()}
        tested += splits.facts["actors"]["test"]
    assert sorted(tested) == list(range(1, 13))


def test_the_test_actors_are_the_folds_and_the_validation_actors_the_seeds(small: Path) -> None:
    first, again, other = (Ravdess(str(small), validation_actors=2, audio="mfcc").splits(s).facts for s in (0, 0, 3))
    assert first["actors"] == again["actors"]
    assert first["actors"]["test"] == other["actors"]["test"]
    assert first["actors"]["validation"] != other["actors"]["validation"]


def test_the_shapes_are_those_of_the_settings(small: Path) -> None:
    for audio, shape in (("slices", (3, 24)), ("mfcc", (1, 259))):
        config = Ravdess(str(small), validation_actors=2, audio=audio, steps=3, bands=8)  # type: ignore[arg-type]
        splits = config.splits(0)
        sample = splits.train[0]
        assert sample.inputs["audio"].shape == shape and sample.inputs["action_units"].shape == (1, 35)
        assert CLASSES[int(sample.target or 0)] == sample.meta["label"]
        assert len(splits.train) + len(splits.validation) + len(splits.test) == 24 and splits.facts["left_out"] == 1
    sequence = Ravdess(str(small), validation_actors=2, audio="log_mel", bands=8).splits(0).train[0].inputs["audio"]
    assert sequence.ndim == 2 and sequence.shape[1] == 8
    assert 15 <= len(sequence) <= 24  # the 0.2 s of tone in 10 ms steps, not the silence around it


def test_vectors_are_standardised_by_the_training_actors_alone(small: Path) -> None:
    splits = Ravdess(str(small), validation_actors=2, audio="mfcc").splits(0)
    for name in ("audio", "action_units"):
        train = torch.cat([splits.train[i].inputs[name] for i in range(len(splits.train))])
        test = torch.cat([splits.test[i].inputs[name] for i in range(len(splits.test))])
        assert train.mean(0).abs().max() < 1e-4 and (train.std(0, correction=0) - 1).abs().max() < 1e-3
        assert test.mean(0).abs().max() > 0.1  # its own mean is not used


def test_a_clip_without_a_vector_lacks_that_modality_alone(tmp_path: Path) -> None:
    root = write_ravdess(tmp_path / "r", without_vectors=("01-03-01-01-01-02",))
    splits = Ravdess(str(root), validation_actors=2).splits(0)
    samples = [getattr(splits, p)[i] for p in PARTS for i in range(len(getattr(splits, p)))]
    lacking = [sample for sample in samples if "action_units" not in sample.inputs]
    assert [sample.meta["id"] for sample in lacking] == ["01-03-01-01-01-02"] and "audio" in lacking[0].inputs
    assert splits.facts["absent"] == {"audio": 0, "action_units": 1}
    assert Batch.collate(samples, ["audio", "action_units"]).present.sum(0).tolist() == [24, 23]


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**31))
def test_slices_and_voiced_parts_of_any_length_are_finite(length: int, steps: int, seed: int) -> None:
    windows = torch.randn(length, 4, generator=torch.Generator().manual_seed(seed)) * 5
    part = voiced(windows, 30.0)
    assert 1 <= len(part) <= length
    table = slices(part, steps)
    assert table.shape == (steps, 12) and bool(table.isfinite().all())


def test_slices_of_a_known_sequence() -> None:
    table = slices(torch.tensor([[0.0], [2.0], [5.0], [5.0]]), 2)
    assert table.tolist() == [[1.0, 1.0, 2.0], [5.0, 0.0, 0.0]]


def test_an_empty_sound_is_counted_named_and_stops_the_run_where_too_many(tmp_path: Path) -> None:
    root = write_ravdess(tmp_path / "r")
    (root / "audio" / "03-01-05-01-01-01-07.wav").write_bytes(b"")
    with pytest.raises(AffuseError, match=r"1 of 24 clips.*03-01-05-01-01-01-07\.wav: zero length"):
        Ravdess(str(root), validation_actors=2).splits(0)
    facts = Ravdess(str(root), validation_actors=2, max_bad_fraction=0.1).splits(0).facts
    assert facts["bad"] == 1 and sum(facts["counts"].values()) == 23


@needs_real
def test_the_real_vectors_and_names_fit_together() -> None:
    table = read_vectors(REAL / "au_mfcc.npz")
    assert len(table["au"]) == 1200
    splits = Ravdess(str(REAL), audio="mfcc").splits(0)
    assert (
        splits.facts["counts"]["test"] + splits.facts["counts"]["train"] + splits.facts["counts"]["validation"] == 872
    )
    assert splits.facts["absent"] == {"audio": 0, "action_units": 0} and splits.facts["bad"] == 0
    assert [len(splits.facts["actors"][p]) for p in PARTS] == [12, 4, 4]
    assert {splits.test[i].target for i in range(len(splits.test))} == set(range(6))
