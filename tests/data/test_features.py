"""What is written in the project's own format comes back as it was."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from affuse import AffuseError
from affuse.data import DATASETS
from affuse.data.feature_folder import ARRAYS, MANIFEST, read_features, write_features
from affuse.data.features import CONVERTIBLE, Features, convert
from affuse.types import Batch, Sample, Task

CLASSES = Task("classification", ("a", "b"))
VALUES = Task("regression", value_range=(-3.0, 3.0), units="sentiment")
WIDTHS = {"text": (), "audio": (3,), "video": (2, 2)}


def draw_sample(rng: np.random.Generator, i: int, present: set[str], timed: bool, task: Task, target: bool) -> Sample:
    inputs, times = {}, {}
    for name in sorted(present):
        t = int(rng.integers(1, 5))
        if name == "text":
            inputs[name] = torch.from_numpy(rng.integers(-(2**40), 2**40, t))
        else:
            inputs[name] = torch.from_numpy(rng.standard_normal((t, *WIDTHS[name])).astype(np.float32))
        if timed:
            times[name] = torch.from_numpy(np.sort(rng.integers(0, 2**40, t)))
    value: int | float = int(rng.integers(2)) if task is CLASSES else float(rng.uniform(-3, 3))
    meta = {"id": f"clip é {i}", "note": f"n{i}", "number": i} | ({"subject": f"s{i % 4}"} if i % 3 else {})
    return Sample(inputs, value if target else None, times, meta)


SAMPLES = st.tuples(st.sets(st.sampled_from(sorted(WIDTHS))), st.booleans(), st.booleans())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    drawn=st.lists(SAMPLES, min_size=3, max_size=9),
    seed=st.integers(0, 10**6),
    task=st.sampled_from([CLASSES, VALUES]),
    synthetic=st.booleans(),
)
def test_a_round_trip_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, drawn: Any, seed: int, task: Task, synthetic: bool
) -> None:
    rng = np.random.default_rng(seed)
    parts = ("train", "validation", "test")
    samples = [(parts[i % 3], draw_sample(rng, i, *one[:2], task, one[2] or i % 3 < 2)) for i, one in enumerate(drawn)]
    out = write_features(tmp_path_factory.mktemp("f") / "new", samples, task, "drawn", {"k": [1]}, synthetic)
    splits = Features(str(out)).splits(0)
    assert splits.task == task and splits.synthetic == synthetic and splits.facts["k"] == [1]
    for name, source in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
        wanted = [sample for split, sample in samples if split == name]
        assert len(source) == len(wanted)
        for i, sample in enumerate(wanted):
            back = source[i]
            assert back.target == sample.target and type(back.target) is type(sample.target)
            assert back.meta == {**sample.meta, "split": name}
            for kept, given_ in ((back.inputs, sample.inputs), (back.times_us, sample.times_us)):
                assert kept.keys() == given_.keys()
                assert all(kept[k].dtype == given_[k].dtype and torch.equal(kept[k], given_[k]) for k in kept)


def hand_written(folder: Path, task: Task, rows: list[dict[str, Any]]) -> Path:
    """Features whose manifest somebody has gone on writing: split, target and subject of each sample."""
    samples = [(None, Sample({"x": torch.randn(3, 2)}, meta={"id": str(i)})) for i in range(len(rows))]
    write_features(folder, samples, task, "own")
    manifest = json.loads((folder / MANIFEST).read_text())
    for sample, row in zip(manifest["samples"], rows, strict=True):
        sample |= row
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def test_nothing_is_learnt_or_chosen_by_samples_without_a_target(tmp_path: Path) -> None:
    rows = [{"split": split, "target": target} for split in ("train", "validation", "test") for target in (1, None)]
    splits = Features(str(hand_written(tmp_path / "own", CLASSES, rows))).splits(0)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [1, 1, 2]
    assert splits.facts["without_target"] == 2
    assert Batch.collate([splits.test[0], splits.test[1]]).target.tolist() == [1, -1]  # type: ignore[union-attr]


def test_a_whole_number_is_a_value_where_values_are_asked_for(tmp_path: Path) -> None:
    rows = [{"split": split, "target": -1} for split in ("train", "validation", "test")]
    splits = Features(str(hand_written(tmp_path / "own", VALUES, rows))).splits(0)
    assert isinstance(splits.train[0].target, float)


def test_subjects_may_be_numbered_and_are_nothing_else(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"split": split, "target": 1, "subject": subject}
        for split, subject in (("train", 3), ("validation", "4"), ("test", 3))
    ]
    splits = Features(str(hand_written(tmp_path / "own", CLASSES, rows))).splits(0)
    assert splits.facts["subjects_shared"] == ["3"]
    rows[0]["subject"] = [3]
    with pytest.raises(AffuseError, match=r"sample 0: the subject is '\[3\]', not text"):
        Features(str(hand_written(tmp_path / "other", CLASSES, rows))).splits(0)


def equal(left: Any, right: Any) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.fixture
def roots(tmp_path: Path, feature_files: ModuleType, real_data: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    feature_files.write_mmsa(tmp_path / "mmsa", "mosei", "unaligned", (4, 2, 3))
    feature_files.write_mult(tmp_path / "mult")
    feature_files.write_mintrec(tmp_path / "mintrec")
    return {
        "mmsa": (tmp_path / "mmsa", {"dataset": "mosei", "alignment": "unaligned", "text": "ids"}),
        "mult_glove": (tmp_path / "mult", {}),
        "mintrec": (tmp_path / "mintrec", {"modalities": ["audio", "video"]}),
        "mosi_utterances": (real_data / "mosi", {"context": "1", "half": 1}),
        "mmmo_youtube": (real_data / "mmmo_youtube" / "youtube", {"dataset": "youtube", "split": "mixed"}),
    }


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_a_converted_data_set_is_the_data_set(tmp_path: Path, roots: Any, name: str) -> None:
    root, chosen = roots[name]
    out = convert(name, root, tmp_path / "out", chosen, seed=3)
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in chosen.items()}
    fields |= {"context": 1} if "context" in fields else {}  # given as text, as a command line does
    before = DATASETS[name](root=str(root), **fields).splits(3)  # type: ignore[call-arg]
    after = Features(str(out)).splits(0)
    assert after.task == before.task and after.facts["counts"] == before.facts["counts"]
    assert after.facts["absent"] == before.facts.get("absent", {"train": {}, "validation": {}, "test": {}})
    for left, right in ((before.train, after.train), (before.validation, after.validation), (before.test, after.test)):
        for i in range(0, len(left), 1 + len(left) // 40):
            assert equal(left[i].inputs, right[i].inputs) and left[i].target == right[i].target
            assert left[i].meta.items() <= right[i].meta.items()


def test_the_arrays_are_safetensors_and_the_manifest_names_what_is_absent(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    full, part = (draw_sample(rng, i, names, True, CLASSES, True) for i, names in enumerate([set(WIDTHS), {"audio"}]))
    out = write_features(tmp_path, [("train", full), (None, part, {"video": "no face"})], CLASSES, "two")
    arrays = load_file(out / ARRAYS)
    assert torch.equal(arrays["audio"], torch.cat([full.inputs["audio"], part.inputs["audio"]]))
    assert torch.equal(arrays["text.times_us"], full.times_us["text"])
    rows = json.loads((out / MANIFEST).read_text())["samples"]
    assert (
        rows[0]["absent"] == {} and rows[1]["absent"] == {"text": "", "video": "no face"} and rows[1]["split"] is None
    )
    _, samples = read_features(out)
    assert len(samples) == 2 and set(samples[1].inputs) == {"audio"}
    with pytest.raises(AffuseError, match="no sample with a target has the split 'validation' or 'test'"):
        Features(str(out)).splits(0)
    with pytest.raises(AffuseError, match="choose another folder"):
        write_features(out, [("train", full)], CLASSES, "again")


def test_features_without_a_task_wait_for_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples = [(None, draw_sample(rng, i, {"audio"}, False, VALUES, False)) for i in range(3)]
    out = write_features(tmp_path, samples, None, "clips of mine")
    with pytest.raises(AffuseError, match="names no task"):
        Features(str(out)).splits(0)
    manifest = json.loads((out / MANIFEST).read_text())
    manifest["task"] = {"kind": "classification", "classes": ["a", "b"]}
    for row, split in zip(manifest["samples"], ("train", "validation", "test"), strict=True):
        row |= {"split": split, "target": 1}
    (out / MANIFEST).write_text(json.dumps(manifest))
    splits = Features(str(out)).splits(0)
    assert splits.train[0].target == 1 and splits.facts["counts"] == {"train": 1, "validation": 1, "test": 1}


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ([Sample({}, 1, {}, {})], "no id"),
        ([Sample({}, 1, {}, {"id": "a"})] * 2, "no id of its own"),
        ([Sample({"x": torch.zeros(0, 3)}, 1, {}, {"id": "a"})], "no steps"),
        ([Sample({"x": torch.zeros(2, d)}, 1, {}, {"id": str(d)}) for d in (3, 4)], "others"),
        ([Sample({"x": torch.zeros(2).to(t)}, 1, {}, {"id": str(t)}) for t in (torch.int64, torch.float32)], "others"),
        ([Sample({"x": torch.zeros(2)}, 1, {"x": torch.zeros(3).long()}, {"id": "a"})], "number of times"),
        ([Sample({"x.times_us": torch.zeros(2)}, 1, {}, {"id": "a"})], "can be called"),
        ([Sample({"x": torch.zeros(2)}, float("nan"), {}, {"id": "a"})], "JSON"),
        ([Sample({"x": torch.zeros(2)}, 1, {}, {"id": "a", "o": object()})], "JSON"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, samples: list[Sample], words: str) -> None:
    with pytest.raises(AffuseError, match=words):
        write_features(tmp_path, [("train", sample) for sample in samples], CLASSES, "bad")
    assert list(tmp_path.iterdir()) == []


def test_settings_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    for name, chosen, words in (
        ("see", {}, "cannot convert 'see'"),
        ("mmsa", {"algnment": "aligned"}, "did you mean 'alignment'"),
        ("mmsa", {"alignment": "words"}, "alignment"),
        ("mosi_utterances", {"context": "two"}, "context"),
        ("mosi_utterances", {"context": -2}, "context"),
    ):
        with pytest.raises(AffuseError, match=words):
            convert(name, tmp_path / "none", tmp_path / "out", chosen)
    assert not (tmp_path / "out").exists()


def change(**values: Any) -> Any:
    return lambda manifest: manifest.update(values)


def sample(**values: Any) -> Any:
    return lambda manifest: manifest["samples"][0].update(values)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (change(format="other"), "not a manifest"),
        (change(version=2), "version 2"),
        (change(samples=[]), "no samples"),
        (change(samples=[1] * 3), "no id"),
        (change(task={"kind": "ranking"}), "task"),
        (change(task={"kind": "classification", "classes": ["a"]}), "at least two"),
        (change(task=[1]), "task"),
        (change(facts=[1]), "facts"),
        (sample(id=3), "no id"),
        (sample(id="clip é 1"), "twice"),
        (sample(split="dev"), "split"),
        (sample(target="1"), "target"),
        (sample(target=7), "index of one of 2"),
        (sample(target=0.5), "index of one of 2"),
        (sample(lengths={"audio": -1}), "lengths"),
        (sample(lengths={"audio": 10**30}), "lengths"),
        (sample(lengths={"audio": 10**9}, timed=[]), "more than"),
        (sample(lengths={"smell": 1}, timed=[]), "more than"),
        (sample(lengths={}, timed=[]), "steps"),
        (sample(timed=["smell"]), "timed"),
    ],
)
def test_a_manifest_that_lies_is_one_clear_line(tmp_path: Path, edit: Any, words: str) -> None:
    rng = np.random.default_rng(0)
    samples = [
        (s, draw_sample(rng, i, set(WIDTHS), True, CLASSES, True))
        for i, s in enumerate(("train", "validation", "test"))
    ]
    out = write_features(tmp_path, samples, CLASSES, "three")
    manifest = json.loads((out / MANIFEST).read_text())
    edit(manifest)
    (out / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(AffuseError, match=words) as caught:
        Features(str(out)).splits(0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (MANIFEST, b"", "not JSON"),
        (MANIFEST, b"[" * 100_000, "not JSON"),
        (MANIFEST, b"\xff\xfe", "not JSON"),
        (MANIFEST, b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (ARRAYS, b"", "safetensors"),
        (ARRAYS, b"\xff" * 40, "safetensors"),
        (ARRAYS, b"\x02\0\0\0\0\0\0\0{}", "more than"),
        (ARRAYS, b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_damaged_files_are_one_clear_line(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    rng = np.random.default_rng(0)
    out = write_features(tmp_path, [("train", draw_sample(rng, 0, {"audio"}, False, CLASSES, True))], CLASSES, "one")
    (out / name).write_bytes(content)
    with pytest.raises(AffuseError, match=words) as caught:
        Features(str(out)).splits(0)
    assert "\n" not in str(caught.value)


def test_a_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    out = write_features(tmp_path, [("train", draw_sample(rng, 0, {"audio"}, False, CLASSES, True))], CLASSES, "one")
    whole = (out / ARRAYS).read_bytes()
    for size in range(0, len(whole), 7):
        (out / ARRAYS).write_bytes(whole[:size])
        with pytest.raises(AffuseError):
            Features(str(out)).splits(0)
