"""Transcripts with and without times."""

from pathlib import Path

import pytest

from affuse.signals.transcripts import Cue, read_transcript
from affuse.types import AffuseError

SRT = "1\n00:00:01,500 --> 00:00:02,000\nI <i>really</i>\nlike it\n\n2\n01:00:00,000 --> 01:00:01,250\nNo.\n"
VTT = "WEBVTT\n\nNOTE by hand\n\n00:01.500 --> 00:02.000 align:start\nI really like it\n"


def test_subrip_and_webvtt_keep_their_times(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_text(SRT)
    (tmp_path / "a.vtt").write_text(VTT)
    first, second = read_transcript(tmp_path / "a.srt")
    assert first == Cue("I really like it", 1_500_000, 2_000_000)
    assert second == Cue("No.", 3_600_000_000, 3_601_250_000)
    assert read_transcript(tmp_path / "a.vtt") == [first]


@pytest.mark.parametrize("name", ["a.srt", "a.vtt"])
def test_cues_without_a_blank_line_between_them_are_cues_of_their_own(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(
        "1\n00:00:01,000 --> 00:00:02,000\nHow old\nare you?\n2\n00:00:02,000 --> 00:00:03,000\n42\n"
        "3\n00:00:03,000 --> 00:00:04,000\n4\n00:00:04,000 --> 00:00:05,000\nGood.\n"
    )
    cues = read_transcript(tmp_path / name)
    assert [(cue.text, cue.start_us) for cue in cues] == [
        ("How old are you?", 1_000_000),
        ("42", 2_000_000),
        ("Good.", 4_000_000),
    ]


def test_where_cues_are_not_counted_a_number_before_the_next_one_is_spoken(tmp_path: Path) -> None:
    (tmp_path / "a.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\n42\n00:02.000 --> 00:03.000\nGood.\n")
    assert [cue.text for cue in read_transcript(tmp_path / "a.vtt")] == ["42", "Good."]


def test_plain_text_is_one_cue_without_times(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffso\n good  ")
    assert read_transcript(tmp_path / "a.txt") == [Cue("so good")]
    (tmp_path / "b.txt").write_text(" \n")
    assert read_transcript(tmp_path / "b.txt") == []


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.doc", b"x", "one of"),
        ("a.txt", b"\xff\xfe\xfa", "UTF-8"),
        ("a.srt", b"1\n00:00:xx --> 00:00:02,000\nhello\n", "line 2"),
        ("a.srt", b"1\n00:00:05,000 --> 00:00:02,000\nhello\n", "ends before"),
        ("a.srt", b"1\n00:00:01,000 --> 00:00:02,000\nhello\n2\n00:00:xx --> 00:00:03,000\nyou\n", "line 5"),
        ("a.srt", b"just words\n", "no cue"),
    ],
)
def test_what_is_no_transcript_is_one_clear_error(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AffuseError, match=says):
        read_transcript(tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AffuseError, match=r"gone\.srt"):
        read_transcript(tmp_path / "gone.srt")
