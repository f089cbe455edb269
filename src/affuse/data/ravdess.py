"""RAVDESS: acted emotional speech (Livingstone and Russo, PLoS ONE 13(5), 2018), in the six emotions that CREMA-D has.

A folder holds, at any depth::

    03-01-05-02-01-01-12.flac   sound; also .wav; and 01-... or 02-... videos (.mp4) with the same grammar
    au_mfcc.npz                 ids, au (n, 35), mfcc (n, 259): one vector of action units and one of MFCCs a clip

The name is MODALITY-CHANNEL-EMOTION-INTENSITY-STATEMENT-REPETITION-ACTOR, two digits each: modality 01 sound and picture, 02
picture, 03 sound; channel 01 speech, 02 song; intensity 01 normal, 02 strong. Odd actors are male, even ones female.

Clips of one actor are alike, so actors are what is split: of the men and of the women, every `folds`-th one is in the test
part of a fold. Song, and the emotions calm (02) and surprised (08), are left out.

**Action units here are one vector a clip**: the mean over its frames, without a time axis. They are no video.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from affuse.data.sound_and_frames import (
    MOVIE_SUFFIXES,
    Clip,
    FrameSpec,
    chosen_frames,
    fault,
    frames_input,
    usable,
)
from affuse.data.splits import Splits
from affuse.signals.audio import log_mel, read_audio
from affuse.types import AffuseError, Sample, Task

CLASSES = ("neutral", "happy", "sad", "fear", "disgust", "anger")
EMOTIONS = {"01": 0, "03": 1, "04": 2, "05": 5, "06": 3, "07": 4}
ACTORS = 24
VECTORS = "au_mfcc.npz"
WIDTHS = {"au": 35, "mfcc": 259}
_LEFT_OUT = ("02", "08")
_SOUND_SUFFIXES = (".flac", ".wav")
_RATE_HZ, _WINDOW, _HOP = 16_000, 400, 160
_FLOOR = 1e-8  # of the power: recordings are as quiet as 16 bits allow
_MAX_ROWS = 100_000


@dataclass(frozen=True)
class RavdessName:
    """The seven fields of a file's name."""

    modality: str
    channel: str
    emotion: str
    intensity: str
    statement: str
    repetition: str
    actor: int

    @classmethod
    def parse(cls, stem: str) -> RavdessName:
        """From the name without its suffix.

        Raises:
            AffuseError: it does not follow the grammar.
        """
        fields = stem.split("-")
        if len(fields) != 7 or not all(len(f) == 2 and f.isascii() and f.isdecimal() for f in fields):
            raise AffuseError(
                f"{stem[:60]!r} is no RAVDESS name: expected seven numbers of two digits, such as 03-01-05-02-01-01-12"
            )
        allowed = (("01", "02", "03"), ("01", "02"), (*EMOTIONS, *_LEFT_OUT), ("01", "02"), ("01", "02"), ("01", "02"))
        for what, value, values in zip(cls.__annotations__, fields, allowed, strict=False):
            if value not in values:
                raise AffuseError(f"{stem!r} is no RAVDESS name: its {what} is {value}, not one of {list(values)}")
        if not 1 <= int(fields[6]) <= ACTORS:
            raise AffuseError(f"{stem!r} is no RAVDESS name: its actor is {fields[6]}, not 01 to {ACTORS}")
        modality, channel, emotion, intensity, statement, repetition, actor = fields
        return cls(modality, channel, emotion, intensity, statement, repetition, int(actor))

    @property
    def clip(self) -> str:
        """What all files of one clip share: the name without its modality."""
        fields = (self.channel, self.emotion, self.intensity, self.statement, self.repetition, f"{self.actor:02d}")
        return "-".join(fields)


@dataclass(frozen=True)
class Ravdess:
    """The ``data`` section of a recipe for RAVDESS.

    Args:
        root: folder of the files.
        fold: which fold is the test, from 0.
        folds: number of folds.
        validation_actors: of the other actors, so many are validation, drawn by the seed, half of them women.
        modalities: of ``audio``, ``action_units`` (1, 35) and ``video`` (t, 3, size, size), those that are read. A clip that
            lacks one of them lacks that modality.
        audio: ``log_mel``: (t, bands), a vector every 10 ms; ``slices``: the voiced part cut into `steps` equal pieces in
            time, of each the mean, the standard deviation and the mean absolute change of every band, (steps, 3 bands);
            ``mfcc``: the pooled vector of the npz file, (1, 259).
        steps: pieces of ``slices``.
        bands: mel bands.
        voiced_db: what lies before the first and behind the last window that is at most so far below the loudest one is
            silence, and cut off.
        max_seconds: what is kept of a voiced part, in ``log_mel``.
        standardise: audio and action units by mean and standard deviation of the training actors' clips.
        frames: how a video is read.
        max_bad_fraction: more clips with a bad file than this share stop the run.
    """

    root: str
    fold: int = 0
    folds: int = 5
    validation_actors: int = 4
    modalities: tuple[Literal["audio", "action_units", "video"], ...] = ("audio", "action_units")
    audio: Literal["log_mel", "slices", "mfcc"] = "slices"
    steps: int = 4
    bands: int = 64
    voiced_db: float = 30.0
    max_seconds: float = 4.0
    standardise: bool = True
    frames: FrameSpec = FrameSpec(fps=5.0, count=4, size=112)
    max_bad_fraction: float = 0.02

    def __post_init__(self) -> None:
        if not 2 <= self.folds <= ACTORS // 2 or not 0 <= self.fold < self.folds:
            raise AffuseError(
                f"Ravdess: folds from 2 to {ACTORS // 2}, and fold below it, not {self.folds} and {self.fold}"
            )
        if self.validation_actors < 2 or self.validation_actors % 2:
            raise AffuseError(f"Ravdess: validation_actors is even and at least 2, not {self.validation_actors}")
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise AffuseError(f"Ravdess: modalities are at least one, each once, not {list(self.modalities)}")
        if min(self.steps, self.bands) < 1 or min(self.voiced_db, self.max_seconds) <= 0:
            raise AffuseError("Ravdess: steps, bands, voiced_db and max_seconds must be positive")

    def splits(self, seed: int) -> Splits:
        """Train, validation and test. The test actors follow from `fold` alone, the validation actors from the seed.

        Raises:
            AffuseError: files are missing, damaged or wrongly named, or the actors are too few for the folds.
        """
        root = Path(self.root)
        clips, bad, left_out = self._clips(root)
        actors = {clip.name: int(clip.meta["subject"]) for clip in clips}
        parts = self._actors(sorted(set(actors.values())), seed)
        groups = {part: [c for c in clips if actors[c.name] in members] for part, members in parts.items()}
        empty = [part for part, group in groups.items() if not group]
        if empty:
            raise AffuseError(f"{root}: {len(clips)} clips are too few for {self.folds} folds: {empty} would be empty")
        vectors = self._vectors(root, clips, groups["train"])
        sources = {part: RavdessClips(group, vectors, self, training=part == "train") for part, group in groups.items()}
        facts = {
            "name": "RAVDESS speech, six emotions",
            "split": f"actors disjoint: fold {self.fold} of {self.folds} is test, validation actors drawn by seed {seed}",
            "counts": {part: len(group) for part, group in groups.items()},
            "actors": {part: sorted(members) for part, members in parts.items()},
            "subjects_shared": [],
            "absent": {
                name: sum(name not in source.present(i) for source in sources.values() for i in range(len(source)))
                for name in self.modalities
            },
            "left_out": left_out,
            "bad": len(bad),
            "bad_names": bad[:20],
        }
        task = Task("classification", CLASSES)
        return Splits(task, sources["train"], sources["validation"], sources["test"], False, facts)

    def _clips(self, root: Path) -> tuple[list[Clip], list[str], int]:
        files, left_out = find_files(root)
        if not files:
            raise AffuseError(
                f"{root}: no RAVDESS file (such as 03-01-05-02-01-01-12.flac); set data.root to its folder"
            )
        reads_sound = "audio" in self.modalities and self.audio != "mfcc"
        clips = []
        for name, (parsed, sound, video) in files.items():
            meta = {"subject": f"{parsed.actor:02d}", "label": CLASSES[EMOTIONS[parsed.emotion]]}
            meta |= {"intensity": "strong" if parsed.intensity == "02" else "normal"}
            picture = video if "video" in self.modalities else None
            clips.append(Clip(name, EMOTIONS[parsed.emotion], sound if reads_sound else None, picture, meta=meta))
        for name, path_of in (("audio", "sound"), ("video", "frames")):
            wanted = reads_sound if name == "audio" else name in self.modalities
            if wanted and not any(getattr(clip, path_of) for clip in clips):
                raise AffuseError(f"{root}: no clip has {name}; leave it out of data.modalities, or copy its files")
        good, bad = usable(clips, root, self.max_bad_fraction, "ravdess")
        return good, bad, left_out

    def _actors(self, actors: Sequence[int], seed: int) -> dict[str, set[int]]:
        generator = np.random.default_rng(seed)
        parts: dict[str, set[int]] = {"train": set(), "validation": set(), "test": set()}
        for sex in (1, 0):
            group = [actor for actor in actors if actor % 2 == sex]
            test = group[self.fold :: self.folds]
            rest = [actor for actor in group if actor not in test]
            drawn = generator.permutation(len(rest))[: self.validation_actors // 2]
            if not test or len(rest) <= self.validation_actors // 2:
                raise AffuseError(
                    f"{self.root}: {len(group)} {'men' if sex else 'women'} are too few for fold {self.fold} of {self.folds} "
                    f"and {self.validation_actors // 2} of them for validation; take fewer folds"
                )
            validation = {rest[i] for i in drawn}
            parts["test"] |= set(test)
            parts["validation"] |= validation
            parts["train"] |= set(rest) - validation
        return parts

    def _vectors(self, root: Path, clips: Sequence[Clip], train: Sequence[Clip]) -> dict[str, dict[str, Tensor]]:
        """Each modality but video as (t, d) by clip, standardised by the training clips."""
        found: dict[str, dict[str, Tensor]] = {}
        table = None
        if "action_units" in self.modalities or ("audio" in self.modalities and self.audio == "mfcc"):
            table = read_vectors(root / VECTORS)
        if "audio" in self.modalities:
            if self.audio == "mfcc" and table is not None:
                found["audio"] = {c.name: table["mfcc"][c.name] for c in clips if c.name in table["mfcc"]}
            else:
                found["audio"] = {c.name: self._sound(c.sound) for c in clips if c.sound is not None}
        if "action_units" in self.modalities and table is not None:
            found["action_units"] = {c.name: table["au"][c.name] for c in clips if c.name in table["au"]}
        for name, rows in found.items():
            known = [rows[clip.name] for clip in train if clip.name in rows]
            if not known:
                raise AffuseError(f"{root}: no training clip has {name}; leave it out of data.modalities")
            if self.standardise:
                # A step of `slices` is standardised by its own place in the clip; of `log_mel` all steps alike.
                axis = (0, 1) if self.audio == "slices" or name == "action_units" else (0,)
                flat = torch.stack(known) if len(axis) == 2 else torch.cat(known)
                mean = flat.mean(0)
                std = flat.std(0, correction=0)
                # An action unit that hardly ever moves must not become a spike of a hundred standard deviations.
                std = torch.where(std < 1e-6, torch.ones(()), std)
                found[name] = {clip: ((row - mean) / std).clamp(-5, 5) for clip, row in rows.items()}
        return found

    def _sound(self, path: Path) -> Tensor:
        windows = voiced(_log_mel(path, self.bands), self.voiced_db)
        if self.audio == "slices":
            return slices(windows, self.steps)
        return windows[: round(self.max_seconds * _RATE_HZ / _HOP)]


class RavdessClips:
    """Map-style source: ``audio`` (t, d) and ``action_units`` (1, 35) from memory, ``video`` decoded when asked for."""

    def __init__(
        self, clips: Sequence[Clip], vectors: dict[str, dict[str, Tensor]], config: Ravdess, training: bool
    ) -> None:
        self._clips = tuple(clips)
        self._vectors = vectors
        self._config = config
        self._training = training

    def __len__(self) -> int:
        return len(self._clips)

    def present(self, index: int) -> set[str]:
        """The modalities of one sample, without reading it."""
        clip = self._clips[index]
        return {n for n, rows in self._vectors.items() if clip.name in rows} | ({"video"} if clip.frames else set())

    def __getitem__(self, index: int, /) -> Sample:
        clip = self._clips[index]
        inputs: dict[str, Tensor] = {}
        for name in self._config.modalities:
            if name == "video" and clip.frames is not None:
                images = chosen_frames(clip.frames, self._config.frames, self._training)
                inputs[name] = frames_input(images, self._config.frames, self._training)
            elif clip.name in self._vectors.get(name, {}):
                inputs[name] = self._vectors[name][clip.name]
        return Sample(inputs, clip.target, {}, {"id": clip.name, **clip.meta})


def find_files(root: Path) -> tuple[dict[str, tuple[RavdessName, Path | None, Path | None]], int]:
    """Sound and video of each clip in the six emotions, by the clip's name; and how many files were left out.

    Raises:
        AffuseError: no such folder, a name outside the grammar, or the same sound or video twice.
    """
    if not root.is_dir():
        raise AffuseError(f"{root}: no such folder; set data.root to the folder of the RAVDESS files")
    found: dict[str, tuple[RavdessName, Path | None, Path | None]] = {}
    left_out = 0
    for path in sorted(root.rglob("*")):
        suffix = path.suffix.lower()
        if suffix not in _SOUND_SUFFIXES and suffix not in MOVIE_SUFFIXES:
            continue
        try:
            name = RavdessName.parse(path.stem)
        except AffuseError as error:
            raise AffuseError(f"{path}: {error}") from None
        if name.emotion in _LEFT_OUT or name.channel == "02":
            left_out += 1
            continue
        _, sound, video = found.get(name.clip, (name, None, None))
        if suffix in _SOUND_SUFFIXES:
            if sound is not None:
                raise AffuseError(f"{path}: the sound of clip {name.clip} is also in {sound}; keep one")
            sound = path
        elif video is None or name.modality == "01":  # 02 is the same picture without sound
            video = path
        found[name.clip] = (name, sound, video)
    return found, left_out


def read_vectors(path: Path) -> dict[str, dict[str, Float[Tensor, "1 d"]]]:
    """``au`` (1, 35) and ``mfcc`` (1, 259) of each clip of the npz file, by the clip's name (without its modality).

    Raises:
        AffuseError: missing, damaged, or not such a file.
    """
    what = fault(path)
    if what:
        raise AffuseError(f"{path}: {what}; it holds ids, au and mfcc; copy it, or leave out what needs it")
    try:
        # Opened here: numpy leaves a file open that proves to be no archive.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays: dict[str, NDArray[np.generic]] = {}
            for key in ("ids", *WIDTHS):
                with file.zip.open(f"{key}.npy") as member:
                    shape = _npy_shape(member)
                if len(shape) != (1 if key == "ids" else 2) or np.prod(shape) > _MAX_ROWS * 300:
                    raise ValueError(f"{key} has the shape {shape}")
                arrays[key] = file[key]
    except Exception as error:  # zip, zlib and header parsing each have errors of their own
        raise AffuseError(f"{path}: no npz file of ids, au and mfcc ({str(error)[:80]}); copy it again") from None
    ids = [str(name) for name in arrays.pop("ids")]
    names = [RavdessName.parse(name).clip for name in ids]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise AffuseError(f"{path}: the clip {repeated[0]} is listed twice")
    tables = {}
    for key, rows in arrays.items():
        if rows.shape != (len(ids), WIDTHS[key]) or rows.dtype.kind != "f" or not np.isfinite(rows).all():
            raise AffuseError(
                f"{path}: {key} is {rows.shape} of {rows.dtype}; expected {(len(ids), WIDTHS[key])} finite numbers"
            )
        tensor = torch.from_numpy(rows.astype(np.float32))
        tables[key] = {name: tensor[i : i + 1] for i, name in enumerate(names)}
    return tables


def voiced(windows: Float[Tensor, "t k"], below_db: float) -> Float[Tensor, "s k"]:
    """What lies between the first and the last window whose power is at most `below_db` below the loudest; at least one."""
    power = windows.logsumexp(1)  # t
    loud = (power >= power.max() - below_db / 10 * np.log(10)).nonzero()
    return windows[int(loud[0]) : int(loud[-1]) + 1]


def slices(windows: Float[Tensor, "t k"], steps: int) -> Float[Tensor, "s d"]:
    """Equal pieces in time: of each the mean, standard deviation and mean absolute change of every band, (steps, 3 k)."""
    edges = torch.linspace(0, len(windows), steps + 1).long().tolist()
    rows = []
    for start, stop in itertools.pairwise(edges):
        piece = windows[min(start, len(windows) - 1) : max(stop, start + 1)]
        change = piece.diff(dim=0).abs().mean(0) if len(piece) > 1 else torch.zeros(piece.shape[1])
        rows.append(torch.cat([piece.mean(0), piece.std(0, correction=0), change]))
    return torch.stack(rows)


@functools.lru_cache(maxsize=4096)  # five folds and several seeds of one process read the same files
def _log_mel(path: Path, bands: int) -> Float[Tensor, "t k"]:
    sound = read_audio(path, _RATE_HZ, max_seconds=60.0)
    windows = log_mel(
        sound.samples, _RATE_HZ, bands=bands, window=_WINDOW, hop=_HOP, low_hz=50.0, high_hz=7600.0, floor=_FLOOR
    )
    if not len(windows):
        raise AffuseError(f"{path}: a sound of {len(sound.samples)} samples is too short; leave the clip out")
    return windows


def _npy_shape(file: object) -> tuple[int, ...]:
    version = np.lib.format.read_magic(file)  # type: ignore[arg-type]
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return tuple(read(file)[0])  # type: ignore[arg-type]
