import itertools
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affuse import AffuseError
from affuse.data.drive_and_act_chunks import (
    CLASSES,
    Chunk,
    ChunkKey,
    pair_views,
    read_chunks,
    shared_participants,
    span,
)

SHARED = Path(os.environ.get("AFFUSE_DATA", Path(__file__).parents[2] / "../shared/data"))
REAL = SHARED / "annotations" / "drive_and_act" / "midlevel.chunks_90.split_0.train.csv"
needs_real = pytest.mark.skipif(not REAL.is_file(), reason="AFFUSE_DATA holds no annotations of Drive&Act")


def chunk(number: int, label: str = "drinking", start: int = 0, participant: int = 1, run: str = "run1") -> Chunk:
    return Chunk(ChunkKey(participant, run, number, 0), "kinect_color", start, start + 10, label)


@needs_real
def test_the_real_annotations_parse_completely_and_invent_nothing() -> None:
    chunks = read_chunks(REAL)
    assert len(chunks) == 6642 and len({c.key for c in chunks}) == 6642
    assert {c.label for c in chunks} == set(CLASSES) and len(CLASSES) == 34
    assert {c.key.participant for c in chunks} == {1, 2, 3, 4, 6, 7, 8, 9, 10, 12}
    assert len({c.key.recording for c in chunks}) == 19 and {c.suffix for c in chunks} == {"kinect_color"}
    assert "vp8/run1d_2018-05-23-14-54-38" in {c.key.recording for c in chunks}  # a run letter beyond b
    labels = Counter(c.label for c in chunks)
    assert labels["sitting_still"] == 1810 and labels["looking_or_moving_around (e.g. searching)"] == 74


@needs_real
def test_chunks_of_the_real_annotations_meet_at_the_frame_end() -> None:
    """What the default of frame_end rests on: read inclusively, most chunks would share a frame with the next one."""
    chunks = read_chunks(REAL)
    following = [(a, b) for a, b in itertools.pairwise(chunks) if a.key.recording == b.key.recording]
    inside = [b.frame_start - a.frame_end for a, b in following if a.key.annotation == b.key.annotation]
    assert len(inside) == 4494 and set(inside) == {0}
    assert max(c.frame_end - c.frame_start for c in chunks) == 50  # three seconds at about 15 frames a second


def test_the_classes_are_in_alphabetical_order_and_keep_the_odd_name() -> None:
    assert list(CLASSES) == sorted(set(CLASSES))
    assert CLASSES[11] == "looking_or_moving_around (e.g. searching)"


def test_columns_are_found_by_name_and_objects_become_labels(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "chunk_id,participant_id,file_id,annotation_id,frame_start,frame_end,activity,object,location\r\n"
        "3,5,vp5/run2_x.ids_1,7,10,55,reaching_for,bottle,center_console\r\n"
    )
    for label, said in (
        ("activity", "reaching_for"),
        ("object", "bottle"),
        ("all", "reaching_for bottle center_console"),
    ):
        (row,) = read_chunks(tmp_path / "a.csv", "objectlevel", label)  # type: ignore[arg-type]
        assert row == Chunk(ChunkKey(5, "run2_x", 7, 3), "ids_1", 10, 55, said)
    with pytest.raises(AffuseError, match="midlevel has activities only"):
        read_chunks(tmp_path / "a.csv", "midlevel", "object")


def test_views_are_paired_by_name_and_not_by_position() -> None:
    rgb = [chunk(1, start=10), chunk(2, start=20), chunk(3, start=30)]
    depth = [chunk(3, start=7), chunk(1, start=5)]
    pairing = pair_views({"rgb": rgb, "depth": depth})
    starts = [{name: row.frame_start for name, row in paired.rows.items()} for paired in pairing.chunks]
    assert starts == [{"rgb": 10, "depth": 5}, {"rgb": 20}, {"rgb": 30, "depth": 7}]
    assert pairing.lacking == {"rgb": 0, "depth": 1}


def test_runs_of_one_name_and_different_people_are_not_paired() -> None:
    pairing = pair_views({"rgb": [chunk(1, participant=1)], "depth": [chunk(1, participant=2)]})
    assert [list(paired.rows) for paired in pairing.chunks] == [["rgb"], ["depth"]]
    assert pairing.lacking == {"rgb": 1, "depth": 1}


def test_a_view_that_calls_a_chunk_otherwise_is_not_believed() -> None:
    pairing = pair_views({"rgb": [chunk(1, "drinking")], "depth": [chunk(1, "eating")]})
    (paired,) = pairing.chunks
    assert paired.label == "drinking" and list(paired.rows) == ["rgb"]
    assert pairing.conflicts == {"rgb": (), "depth": (paired.key,)} and pairing.lacking["depth"] == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sets(st.integers(0, 12)), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_every_row_of_every_view_stands_in_exactly_one_pair(views: list[set[int]], random: object) -> None:
    rows = {f"view{i}": [chunk(n, start=100 * i + n) for n in sorted(numbers)] for i, numbers in enumerate(views)}
    for group in rows.values():
        random.shuffle(group)  # type: ignore[attr-defined]
    pairing = pair_views(rows)
    assert [paired.key.annotation for paired in pairing.chunks] == sorted(set().union(*views))
    back = {name: {c.rows[name] for c in pairing.chunks if name in c.rows} for name in rows}
    assert back == {name: set(group) for name, group in rows.items()}


def test_participants_in_two_parts_are_named() -> None:
    one, two = (
        pair_views({"rgb": [chunk(1, participant=3)]}).chunks,
        pair_views({"rgb": [chunk(1, participant=4)]}).chunks,
    )
    assert shared_participants({"train": one, "test": two}) == []
    assert shared_participants({"train": [*one, *two], "validation": two, "test": one}) == ["vp3", "vp4"]


@given(st.integers(0, 100), st.integers(0, 100))
def test_an_inclusive_end_adds_one_frame_and_no_span_is_empty(start: int, length: int) -> None:
    row = Chunk(ChunkKey(1, "run1", 1, 0), "kinect_color", start, start + length, "drinking")
    exclusive, inclusive = span(row, "exclusive"), span(row, "inclusive")
    assert exclusive == (start, start + max(length, 1)) and inclusive == (start, start + length + 1)
