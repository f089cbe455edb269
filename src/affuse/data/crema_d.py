"""CREMA-D: acted emotional speech, sound and face (Cao et al., IEEE Transactions on Affective Computing 5(4), 2014).

A folder holds the data set as its repository has it, pre-extracted frames, or both::

    AudioWAV/1001_IEO_ANG_HI.wav
    VideoFlash/1001_IEO_ANG_HI.flv           or .mp4
    Image-01-FPS/1001_IEO_ANG_HI/00000.jpg   frames at one a second, as OGM-GE's preprocessing writes them
    train.csv, test.csv                      "clip,EMOTION" without a header: the published split, 6698 and 744 clips

The name is ACTOR_SENTENCE_EMOTION_LEVEL. The label is the emotion that was acted, as in the name, not what people voted.

**All 91 actors stand in both parts of the published split**, which has no validation part either: results in its tables were
selected on test data. Here validation is cut out of the training part; ``speaker_disjoint`` parts the actors instead.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from affuse.data.sound_and_frames import MOVIE_SUFFIXES, Clip, Clips, FrameSpec, SoundSpec, usable
from affuse.data.splits import Splits
from affuse.types import AffuseError, Task

# The class order of the published split's users.
EMOTIONS = {"NEU": "neutral", "HAP": "happy", "SAD": "sad", "FEA": "fear", "DIS": "disgust", "ANG": "anger"}
CODES = tuple(EMOTIONS)
CLASSES = tuple(EMOTIONS.values())
SENTENCES = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")
LEVELS = ("LO", "MD", "HI", "XX")
ACTORS = range(1001, 1092)
PARTS = ("train", "validation", "test")
_SOUND_FOLDER = "AudioWAV"
_VIDEO_FOLDERS = ("VideoFlash", "VideoMP4", "Video")
_IMAGE_FOLDER = "Image-01-FPS"
_MAX_ROWS = 100_000
_MISNAMED = {
    "1040_ITH_SAD_X": "1040_ITH_SAD_XX"
}  # a sound of the data set as it is given out; its video has the right name


@dataclass(frozen=True)
class CremaDName:
    """The four fields of a clip's name."""

    actor: int
    sentence: str
    emotion: str
    level: str

    @classmethod
    def parse(cls, name: str) -> CremaDName:
        """From a clip's name, without a suffix.

        Raises:
            AffuseError: it does not follow the grammar.
        """
        fields = name.split("_")
        if len(fields) != 4:
            raise AffuseError(
                f"{name[:60]!r} is no CREMA-D name: expected ACTOR_SENTENCE_EMOTION_LEVEL, such as 1001_IEO_ANG_HI"
            )
        actor, sentence, emotion, level = fields
        if not (actor.isascii() and actor.isdecimal() and len(actor) == 4 and int(actor) in ACTORS):
            raise AffuseError(f"{name[:60]!r} is no CREMA-D name: actor {actor[:20]!r} is not 1001 to 1091")
        for what, value, values in (
            ("sentence", sentence, SENTENCES),
            ("emotion", emotion, CODES),
            ("level", level, LEVELS),
        ):
            if value not in values:
                raise AffuseError(
                    f"{name[:60]!r} is no CREMA-D name: {what} {value[:20]!r} is none of {', '.join(values)}"
                )
        return cls(int(actor), sentence, emotion, level)


@dataclass(frozen=True)
class CremaD:
    """The ``data`` section of a recipe for CREMA-D.

    Args:
        root: folder of the data set.
        annotations: folder of ``train.csv`` and ``test.csv``; `root` by default.
        split: ``published``: the two csv files, validation being cut out of the first by emotion and seed;
            ``speaker_disjoint``: actors drawn by the seed; every clip that has a file takes part, no csv is read.
        validation_fraction: share of the training clips (``published``), or of the actors, that is validation.
        test_fraction: share of the actors that is test (``speaker_disjoint``).
        modalities: those that are read.
        sound: how the sound becomes an input.
        frames: how frames become an input.
        prefer_images: read the frames of ``Image-01-FPS`` where that folder is, instead of the videos.
        max_bad_fraction: more unusable clips than this share stop the run.
    """

    root: str
    annotations: str | None = None
    split: Literal["published", "speaker_disjoint"] = "published"
    validation_fraction: float = 0.1
    test_fraction: float = 0.2
    modalities: tuple[Literal["audio", "video"], ...] = ("audio", "video")
    sound: SoundSpec = SoundSpec()
    frames: FrameSpec = FrameSpec()
    prefer_images: bool = True
    max_bad_fraction: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction < 1 or not 0 < self.test_fraction < 1:
            raise AffuseError("CremaD: validation_fraction and test_fraction are shares between 0 and 1")
        if self.validation_fraction + self.test_fraction >= 1:
            raise AffuseError("CremaD: validation_fraction and test_fraction leave nothing to train on")
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise AffuseError(f"CremaD: modalities are at least one, each once, not {list(self.modalities)}")

    def splits(self, seed: int) -> Splits:
        """Train, validation and test.

        Raises:
            AffuseError: folders, csv files or too many clips are missing or damaged, or a part would be empty.
        """
        root = Path(self.root)
        if not root.is_dir():
            raise AffuseError(f"{root}: no such folder; set data.root to the folder of CREMA-D")
        sounds, pictures = self.find_files(root)
        if self.split == "published":
            names = read_published(Path(self.annotations) if self.annotations is not None else root)
            train, validation = _by_emotion(names["train"], self.validation_fraction, seed)
            parts = {"train": train, "validation": validation, "test": names["test"]}
            rule = f"published csv files, {self.validation_fraction:g} of train for validation by emotion, seed {seed}"
        else:
            parts = self._by_actor(sorted({*sounds, *pictures}), seed)
            rule = f"actors disjoint, drawn by seed {seed}"
        clips = {
            part: [self._clip(name, root, sounds, pictures) for name in members] for part, members in parts.items()
        }
        good, bad = usable([c for part in PARTS for c in clips[part]], root, self.max_bad_fraction, "crema_d")
        kept = {clip.name for clip in good}
        clips = {part: [clip for clip in group if clip.name in kept] for part, group in clips.items()}
        empty = [part for part, group in clips.items() if not group]
        if empty:
            raise AffuseError(f"{root}: {len(kept)} clips are too few for three splits: {empty} would be empty")
        sources = {p: Clips(group, self.sound, self.frames, training=p == "train") for p, group in clips.items()}
        speakers = {part: {clip.meta["subject"] for clip in group} for part, group in clips.items()}
        facts = {
            "name": "CREMA-D",
            "split": rule,
            "counts": {part: len(group) for part, group in clips.items()},
            "speakers": {part: len(members) for part, members in speakers.items()},
            "subjects_shared": sorted(
                speakers["train"] & speakers["test"]
                | speakers["train"] & speakers["validation"]
                | speakers["validation"] & speakers["test"]
            ),
            "note": "the published protocol has no validation part and selected on test; here validation selects",
            "bad": len(bad),
            "bad_names": bad[:20],
        }
        task = Task("classification", CLASSES)
        return Splits(task, sources["train"], sources["validation"], sources["test"], False, facts)

    def find_files(self, root: Path) -> tuple[dict[str, Path], dict[str, Path]]:
        """Sound file, and video or folder of frames, of each clip; empty for a sensor that is not read.

        Raises:
            AffuseError: a modality has no folder, or a file's name is outside the grammar.
        """
        sounds: dict[str, Path] = {}
        pictures: dict[str, Path] = {}
        if "audio" in self.modalities:
            sounds = _named(root / _SOUND_FOLDER, (".wav",))
            if not sounds:
                raise AffuseError(
                    f"{root}: no sound in {_SOUND_FOLDER}; copy it, or leave audio out of data.modalities"
                )
        if "video" in self.modalities:
            for folder in _VIDEO_FOLDERS:
                pictures = {**_named(root / folder, MOVIE_SUFFIXES), **pictures}
            images = _named(root / _IMAGE_FOLDER, None)
            pictures = {**pictures, **images} if self.prefer_images else {**images, **pictures}
            if not pictures:
                raise AffuseError(
                    f"{root}: no video in VideoFlash, no frames in {_IMAGE_FOLDER}; copy one of them, or leave video out of "
                    "data.modalities"
                )
        return sounds, pictures

    def _clip(self, name: str, root: Path, sounds: Mapping[str, Path], pictures: Mapping[str, Path]) -> Clip:
        fields = CremaDName.parse(name)
        # A file that was not found keeps the name that it should have: the reader then says that it is missing.
        sound = sounds.get(name, root / _SOUND_FOLDER / f"{name}.wav") if "audio" in self.modalities else None
        video = pictures.get(name, root / _VIDEO_FOLDERS[0] / f"{name}.flv") if "video" in self.modalities else None
        meta = {"subject": str(fields.actor), "label": EMOTIONS[fields.emotion], "level": fields.level}
        return Clip(name, CODES.index(fields.emotion), sound, video, meta=meta)

    def _by_actor(self, names: Sequence[str], seed: int) -> dict[str, list[str]]:
        actors = sorted({CremaDName.parse(name).actor for name in names})
        if len(actors) < 3:
            raise AffuseError(f"{self.root}: {len(actors)} actors are too few for three splits")
        order = [actors[i] for i in np.random.default_rng(seed).permutation(len(actors))]
        n_test = max(1, round(len(order) * self.test_fraction))
        n_validation = max(1, round(len(order) * self.validation_fraction))
        tests, validations = set(order[:n_test]), set(order[n_test : n_test + n_validation])
        parts: dict[str, list[str]] = {part: [] for part in PARTS}
        for name in names:
            actor = CremaDName.parse(name).actor
            parts["test" if actor in tests else "validation" if actor in validations else "train"].append(name)
        return parts


def read_published(folder: Path) -> dict[str, list[str]]:
    """Clip names of ``train.csv`` and ``test.csv``, in the order of the files.

    Raises:
        AffuseError: a file is missing or no such csv, a name is outside the grammar, an emotion differs from the name's, or a
            clip is listed twice.
    """
    parts: dict[str, list[str]] = {}
    seen: dict[str, str] = {}
    for part in ("train", "test"):
        path = folder / f"{part}.csv"
        parts[part] = []
        try:
            # Files of this split carry a byte order mark.
            with path.open(encoding="utf-8-sig", newline="") as file:
                for number, row in enumerate(csv.reader(file, strict=True), start=1):
                    if not row:
                        continue
                    where = f"{path}, line {number}"
                    if number > _MAX_ROWS:
                        raise AffuseError(f"{path}: more than {_MAX_ROWS} rows; CREMA-D has 7442 clips")
                    if len(row) != 2:
                        raise AffuseError(f"{where}: expected 'clip,EMOTION', got {','.join(row)[:60]!r}")
                    name, emotion = (cell.strip() for cell in row)
                    try:
                        parsed = CremaDName.parse(name)
                    except AffuseError as error:
                        raise AffuseError(f"{where}: {error}") from None
                    if emotion != parsed.emotion:
                        raise AffuseError(f"{where}: {name} is labelled {emotion[:20]!r}, but its name says otherwise")
                    if name in seen:
                        raise AffuseError(f"{where}: {name} is listed before, in {seen[name]}")
                    seen[name] = where
                    parts[part].append(name)
        except FileNotFoundError:
            raise AffuseError(
                f"{path}: no such file; set data.annotations to the folder of train.csv and test.csv, or take the split "
                "speaker_disjoint"
            ) from None
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise AffuseError(f"{path}: not a csv file ({str(error)[:80]}); copy it again") from None
        if not parts[part]:
            raise AffuseError(f"{path}: lists no clip")
    return parts


def _by_emotion(names: Sequence[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """The rest, and a share of each emotion, drawn by the seed; both in the order of `names`."""
    generator = np.random.default_rng(seed)
    drawn: set[str] = set()
    for code in CODES:
        group = [name for name in names if CremaDName.parse(name).emotion == code]
        count = round(len(group) * share)
        drawn |= {group[i] for i in generator.permutation(len(group))[:count]}
    return [name for name in names if name not in drawn], [name for name in names if name in drawn]


def _named(folder: Path, suffixes: tuple[str, ...] | None) -> dict[str, Path]:
    """Files with one of the suffixes (None: folders) by clip name; empty where there is no such folder."""
    if not folder.is_dir():
        return {}
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() if suffixes is None else path.suffix.lower() in suffixes:
            name = path.name if suffixes is None else path.stem
            name = _MISNAMED.get(name, name)
            try:
                CremaDName.parse(name)
            except AffuseError as error:
                raise AffuseError(f"{path}: {error}; move it elsewhere") from None
            found[name] = path
    return found
