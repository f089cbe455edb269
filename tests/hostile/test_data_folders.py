"""Data folders that are broken, incomplete or malicious give one clear line each."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from affuse import AffuseError
from affuse.data.nmnist import NMNIST
from affuse.data.see import SEE, SequenceName, read_annotations, read_image
from affuse.doctor import check_see

LABELS = ["angry", "happiness"]
FIRST = "1_001_man_24_Master_normal_angry_20_take000"


@pytest.fixture
def see(tmp_path: Path) -> Path:
    image = np.full((8, 8, 3), 90, np.uint8)
    database = {}
    for subject in (1, 2, 3, 4):
        name = f"{subject}_{subject:03d}_man_24_Master_normal_angry_20_take000"
        subset = "testing" if subject == 4 else "training"
        database[name] = {"subset": subset, "annotations": {"label": "angry", "segment": [0, 20]}}
        for kind in ("event", "frame"):
            folder = tmp_path / "see" / kind / "angry" / name
            folder.mkdir(parents=True)
            for number in range(20):
                cv2.imwrite(str(folder / f"{number:05d}.jpg"), image)
    (tmp_path / "see" / "emotion.json").write_text(json.dumps({"labels": LABELS, "database": database}))
    return tmp_path / "see"


def one_line(call: Callable[[], Any], *words: str) -> None:
    with pytest.raises(AffuseError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    assert not [word for word in words if word not in message], message


def changed(root: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    document = json.loads((root / "emotion.json").read_text())
    change(document)
    (root / "emotion.json").write_text(json.dumps(document))
    return root


@pytest.mark.parametrize("half", ["event", "frame", "emotion.json"])
def test_a_missing_half_is_named(see: Path, half: str) -> None:
    (see / half).rename(see / "elsewhere")
    one_line(lambda: SEE(str(see)).splits(0), half, str(see))
    assert [finding.severity for finding in check_see(see)] == ["error"]


def test_an_empty_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    one_line(lambda: SEE(str(tmp_path)).splits(0), "event/")
    one_line(lambda: SEE(str(tmp_path / "nothing")).splits(0), "no such folder")
    one_line(lambda: NMNIST(str(tmp_path)).splits(0), "labels.txt")
    one_line(lambda: NMNIST(str(tmp_path / "nothing")).splits(0), "no such folder")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"labels": ["a"], "database": {}}',
        b'{"labels": ["a", "a"], "database": {"x": {}}}',
        b'{"labels": ["a", {}], "database": {"x": {}}}',
        b'{"labels": ["a", "../../b"], "database": {"x": {}}}',
        b'{"labels": ["a", "b"], "database": {"x": 3}}',
        b'{"labels": ["a", "b"], "database": []}',
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 999\n",
    ],
)
def test_a_broken_annotation_file_is_one_clear_line(see: Path, content: bytes) -> None:
    (see / "emotion.json").write_bytes(content)
    one_line(lambda: SEE(str(see)).splits(0), "emotion.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("label", "joy"),
        ("label", None),
        ("label", ["angry"]),
        ("segment", [0]),
        ("segment", [5, 3]),
        ("segment", [-1, 3]),
        ("segment", [0, 10**12]),
        ("segment", [0.5, 3]),
        ("segment", "all"),
        ("segment", [True, 3]),
    ],
)
def test_a_wrong_label_or_segment_names_the_sequence(see: Path, field: str, value: Any) -> None:
    changed(see, lambda document: document["database"][FIRST]["annotations"].update({field: value}))
    one_line(lambda: SEE(str(see)).splits(0), FIRST, field)


def test_a_wrong_subset_names_the_sequence(see: Path) -> None:
    changed(see, lambda document: document["database"][FIRST].update(subset="train"))
    one_line(lambda: SEE(str(see)).splits(0), FIRST, "subset")


def test_a_sequence_name_cannot_leave_the_folder(see: Path) -> None:
    entry = {"subset": "training", "annotations": {"label": "angry", "segment": [0, 20]}}
    changed(see, lambda document: document["database"].update({"../../1_001_man_24_a_b_c_20_t": entry}))
    one_line(lambda: SEE(str(see)).splits(0), "1 of 5 sequences", "name")
    facts = SEE(str(see), max_bad_fraction=0.5).splits(0).facts
    assert facts["bad"] == 1


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "zero length"), (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer")]
)
def test_empty_and_pointer_images_are_left_out_and_counted(see: Path, content: bytes, reason: str) -> None:
    (see / "event" / "angry" / FIRST / "00004.jpg").write_bytes(content)
    facts = SEE(str(see)).splits(0).facts
    assert facts["bad_frames"] == {reason: 1, "in one camera only": 1}
    for path in (see / "event" / "angry" / FIRST).iterdir():
        path.write_bytes(content)
    one_line(lambda: SEE(str(see)).splits(0), "1 of 4 sequences", FIRST)


@pytest.mark.parametrize("content", [b"no image" * 500, b"\xff\xd8\xff" + b"\0" * 3000, b""])
def test_an_image_that_does_not_decode_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "00001.jpg"
    path.write_bytes(content)
    one_line(lambda: read_image(path), str(path))
    one_line(lambda: read_image(tmp_path / "00002.jpg"), "00002.jpg")


def test_frames_of_different_size_in_one_sequence_are_named(see: Path) -> None:
    for number in range(0, 20, 2):
        path = see / "frame" / "angry" / "4_004_man_24_Master_normal_angry_20_take000" / f"{number:05d}.jpg"
        cv2.imwrite(str(path), np.zeros((9, 9, 3), np.uint8))
    source = SEE(str(see), clip=SEE("").clip.__class__(**{**vars(SEE("").clip), "stride": 1})).splits(0).test
    one_line(lambda: source[0], "differ in size")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("", ("lists no recording",)),
        ("1\tseven\n", ("line 1", "seven")),
        ("1 7\n", ("line 1",)),
        ("../1\t7\n", ("line 1",)),
        ("1\t7\n1\t7\n", ("line 2", "twice")),
        ("1\t7\n2\t3\n", ("2 of 2", "no file 1.bs2")),
    ],
)
def test_wrong_labels_of_nmnist_are_one_clear_line(tmp_path: Path, labels: str, words: tuple[str, ...]) -> None:
    (tmp_path / "labels.txt").write_text(labels)
    one_line(lambda: NMNIST(str(tmp_path)).splits(0), *words)


@given(st.text(max_size=120))
def test_any_text_is_a_sequence_name_or_a_clear_error(text: str) -> None:
    try:
        name = SequenceName.parse(text)
    except AffuseError:
        return
    assert "/" not in text and name.age >= 0 and name.length >= 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(labels=JSON | st.just(LABELS), entry=JSON, annotations=JSON)
def test_any_annotation_file_is_read_or_refused_in_one_line(
    see: Path, labels: Any, entry: Any, annotations: Any
) -> None:
    if isinstance(entry, dict):
        entry = {**entry, "subset": "training", "annotations": annotations}
    (see / "emotion.json").write_text(json.dumps({"labels": labels, "database": {FIRST: entry}}))
    try:
        read_annotations(see)
    except AffuseError as error:
        assert len(str(error)) < 600 and str(see) in str(error)
