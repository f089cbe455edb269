"""Transcripts: what was said and, where the file knows it, when. Plain text, SubRip (.srt) and WebVTT (.vtt)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from affuse.types import AffuseError

SUFFIXES = (".srt", ".vtt", ".txt")
MAX_BYTES = 16 * 2**20
_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{3})"
_CUE = re.compile(rf"^\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?$")
_TAG = re.compile(r"<[^>]*>|\{\\[^}]*\}")


@dataclass(frozen=True)
class Cue:
    """A piece of speech; its times in microseconds are None where the file has none."""

    text: str
    start_us: int | None = None
    stop_us: int | None = None


def read_transcript(path: str | Path) -> list[Cue]:
    """The cues of a transcript in order; a plain text is one cue without times.

    In the other kinds a line with ``-->`` is the times of a cue, whether or not a blank line stands before it.

    Raises:
        AffuseError: no such file, of another kind, too large, not UTF-8, or a cue whose times are broken.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise AffuseError(f"{path}: a transcript is one of {', '.join(SUFFIXES)}")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise AffuseError(f"{path}: larger than {MAX_BYTES // 2**20} MB, which is no transcript of a clip")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise AffuseError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise AffuseError(f"{path}: not UTF-8 text; save it as UTF-8") from None
    if path.suffix.lower() == ".txt":
        words = " ".join(text.split())
        return [Cue(words)] if words else []
    return _timed(path, text.splitlines())


def _timed(path: Path, lines: list[str]) -> list[Cue]:
    cues: list[Cue] = []
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if "-->" not in line:
            continue  # a counter, a header, a note
        found = _CUE.match(line)
        if not found:
            raise AffuseError(f"{path}, line {number}: expected 'hh:mm:ss,mmm --> hh:mm:ss,mmm', got {line[:60]!r}")
        start_us, stop_us = _microseconds(found.groups()[:4]), _microseconds(found.groups()[4:])
        if stop_us < start_us:
            raise AffuseError(f"{path}, line {number}: the cue ends before it starts: {line[:60]!r}")
        counted = number > 1 and lines[number - 2].strip().isdecimal()
        spoken = []
        while number < len(lines) and lines[number].strip() and "-->" not in lines[number]:
            spoken.append(_TAG.sub("", lines[number]))
            number += 1
        follows = number < len(lines) and "-->" in lines[number]  # with no blank line in between
        if follows and counted and spoken and spoken[-1].strip().isdecimal():
            spoken.pop()  # the counter of the next cue
        words = " ".join(" ".join(spoken).split())
        if words:
            cues.append(Cue(words, start_us, stop_us))
    if any(line.strip() for line in lines) and not cues:
        raise AffuseError(f"{path}: holds no cue; a cue is 'hh:mm:ss,mmm --> hh:mm:ss,mmm' and lines of text")
    return cues


def _microseconds(parts: tuple[str | None, ...]) -> int:
    hours, minutes, seconds, thousandths = (int(part or 0) for part in parts)
    return ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + thousandths * 1_000
