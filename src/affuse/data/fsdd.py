"""Free Spoken Digit Dataset (Jackson et al., 2016): ``DIGIT_SPEAKER_TAKE.wav``, 8 kHz, mono; a folder of them."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from affuse.data.digit_sounds import SpokenDigit
from affuse.data.splits import check_bad
from affuse.signals.audio import read_audio
from affuse.types import AffuseError

RATE_HZ = 8_000
MAX_SECONDS = 30.0  # the longest recording of the set has about 2.3 s
_NAME = re.compile(r"([0-9])_([A-Za-z]+)_([0-9]{1,4})\.wav")


@functools.lru_cache(maxsize=2)  # several seeds of one process read the same thousands of files
def read_fsdd(root: Path, max_bad_fraction: float = 0.02) -> tuple[tuple[SpokenDigit, ...], tuple[str, ...]]:
    """The recordings of a folder in order of their names, and what is wrong with those that cannot be read.

    Files of another name are not looked at. ``recordings`` below `root` is looked into where it exists, as the set's own
    repository has it.

    Raises:
        AffuseError: no such folder, no recording in it, or more unreadable ones than `max_bad_fraction` of them.
    """
    if not root.is_dir():
        raise AffuseError(f"{root}: no such folder; it should hold FSDD's recordings, DIGIT_SPEAKER_TAKE.wav")
    folder = root / "recordings" if (root / "recordings").is_dir() else root
    found: list[SpokenDigit] = []
    bad: list[str] = []
    for path in sorted(folder.iterdir()):
        name = _NAME.fullmatch(path.name)
        if name is None:
            continue
        try:
            sound = read_audio(path, RATE_HZ, MAX_SECONDS)
        except AffuseError as error:
            bad.append(str(error))
            continue
        found.append(SpokenDigit(path.stem, name[2], int(name[1]), sound, int(name[3])))
    if not found and not bad:
        raise AffuseError(f"{folder}: holds no recording named DIGIT_SPEAKER_TAKE.wav, such as 7_jackson_12.wav")
    check_bad(folder, bad, len(found) + len(bad), max_bad_fraction)
    return tuple(found), tuple(bad)
