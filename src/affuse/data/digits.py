"""Event-audio digits: a digit seen by an event camera and spoken, from two data sets that know nothing of each other.

Event recordings of N-MNIST or MNIST-DVS are paired by label with recordings of the Free Spoken Digit Dataset or
N-TIDIGITS18, as Liu et al. (ICASSP 2022) built their event-audio digits; there is no official split. Each source is split
first and paired within each split afterwards, so that no event recording and no spoken recording stands in two splits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from affuse.data.digit_sounds import AudioForm, SoundEncoder, SoundFeatures, SpokenDigit
from affuse.data.fsdd import MAX_SECONDS, RATE_HZ, read_fsdd
from affuse.data.mnist_dvs import Movement, ScreenDigit, find_mnist_dvs, read_screen_digit, screen_images
from affuse.data.nmnist import CLASSES, NMNIST, SENSOR
from affuse.data.ntidigits import read_ntidigits
from affuse.data.splits import SampleSource, Splits
from affuse.signals.audio import read_audio
from affuse.signals.events import read_events
from affuse.types import AffuseError, Sample, Task

PARTS = ("train", "validation", "test")
Pair = tuple[int, int]


@dataclass(frozen=True)
class EventAudioDigits:
    """The ``data`` section of a recipe for event-audio digits: ``event`` (t, 2, size, size) and ``audio`` (t, d).

    Args:
        root: folder that holds the folders of both sources.
        event_source: ``nmnist`` or ``mnist_dvs``.
        audio_source: ``fsdd`` (sound) or ``ntidigits`` (spikes of a cochlea; needs ``audio_form: cochlea``).
        event_folder, audio_folder: below `root`, or anywhere as an absolute path; by default named as the source.
        steps: of both modalities (t). Each recording, however long, is cut into so many equal parts.
        size: side of the event images, pixels.
        scale: of the digits in MNIST-DVS: 4, 8 or 16.
        audio_form: ``log_mel``, ``stft`` or ``cochlea``.
        audio: bands, frames and training changes of the sound.
        audio_split: FSDD: ``take`` holds out takes of every speaker, ``speaker`` holds out speakers. N-TIDIGITS18 keeps its
            own test speakers, and validation speakers are drawn from the others, under both.
        holdout: share of each digit's event recordings, and of takes or speakers, that is test; the same share of the rest
            is validation.
        train_pairs, validation_pairs, test_pairs: pairs of a split, as many of each digit; None: as many as it takes for
            every recording of either source to be used.
        repair: in training, each time a sample is asked for, its event recording is drawn anew among those of its digit.
        augment: in training, move the events, as of N-MNIST: shift, rotation, scale and event dropout.
        augment_audio: in training, change the sound, as `audio` says.
        max_bad_fraction: more unreadable recordings than this share stop the run.
    """

    root: str
    event_source: Literal["nmnist", "mnist_dvs"] = "nmnist"
    audio_source: Literal["fsdd", "ntidigits"] = "fsdd"
    event_folder: str | None = None
    audio_folder: str | None = None
    steps: int = 5
    size: int = SENSOR
    scale: int = 4
    audio_form: AudioForm = "log_mel"
    audio: SoundFeatures = field(default_factory=SoundFeatures)
    audio_split: Literal["take", "speaker"] = "take"
    holdout: float = 0.1
    train_pairs: int | None = None
    validation_pairs: int | None = None
    test_pairs: int | None = None
    repair: bool = True
    augment: bool = True
    augment_audio: bool = True
    max_bad_fraction: float = 0.02

    def __post_init__(self) -> None:
        if min(self.steps, self.size) < 1:
            raise AffuseError(f"EventAudioDigits: steps and size must be positive: {self.steps}, {self.size}")
        if not 0 < self.holdout < 0.5:
            raise AffuseError(f"EventAudioDigits: holdout is a share between 0 and 0.5, not {self.holdout}")
        if self.scale not in (4, 8, 16):
            raise AffuseError(f"EventAudioDigits: MNIST-DVS has the scales 4, 8 and 16, not {self.scale}")
        if self.audio_source == "ntidigits" and self.audio_form != "cochlea":
            raise AffuseError(
                f"EventAudioDigits: ntidigits holds spikes; set audio_form: cochlea, not {self.audio_form}"
            )
        for name in PARTS:
            pairs = getattr(self, f"{name}_pairs")
            if pairs is not None and (pairs < len(CLASSES) or pairs % len(CLASSES)):
                raise AffuseError(f"EventAudioDigits: {name}_pairs is a multiple of 10, not {pairs}")

    def splits(self, seed: int) -> Splits:
        """Train, validation and test; split and pairing are drawn by `seed`.

        Raises:
            AffuseError: a source is missing or wrong, too many of its recordings are unreadable, or a split lacks a digit.
        """
        events = self._events(seed)
        spoken, bad = self._spoken()
        audio = split_spoken(spoken, self.audio_split, self.holdout, seed)
        encoder = self._fitted(audio["train"])
        generator = np.random.default_rng([seed, 1])
        made: dict[str, DigitPairs] = {}
        for name in PARTS:
            count = getattr(self, f"{name}_pairs")
            digits = [one.digit for one in audio[name]]
            pairs = pair_by_digit(digits, events[name].digits, count, generator, name)
            train = name == "train"
            made[name] = DigitPairs(
                audio[name],
                events[name],
                pairs,
                encoder,
                augment=train and self.augment_audio,
                repair=train and self.repair,
            )
        speakers = {name: {one.speaker for one in audio[name]} for name in PARTS}
        shared = sorted(
            {
                speaker
                for name in PARTS
                for speaker in speakers[name]
                if sum(speaker in s for s in speakers.values()) > 1
            }
        )
        event_bad = events["train"].bad
        facts = {
            "name": f"event-audio digits ({self.event_source} x {self.audio_source})",
            "split": self._rule(seed),
            "pairing": "by digit, of two unrelated sources, within each split",
            "counts": {name: len(made[name]) for name in PARTS},
            "event_recordings": {name: len(events[name].digits) for name in PARTS},
            "audio_recordings": {name: len(audio[name]) for name in PARTS},
            "speakers": {name: len(speakers[name]) for name in PARTS},
            "subjects_shared": shared,
            "bad": len(bad) + len(event_bad),
            "bad_names": [*bad, *event_bad][:20],
        }
        return Splits(
            Task("classification", CLASSES),
            made["train"],
            made["validation"],
            made["test"],
            synthetic=False,
            facts=facts,
        )

    def recording(self, files: Mapping[str, Path], seed: int, errors: Literal["raise", "drop"] = "raise") -> Sample:
        """A digit that is not of the data sets, for `predict`: ``event`` and ``audio`` as a split of `seed` has them.

        Where the sound is standardised by the training recordings, those are read for it.

        Args:
            files: a recording of events under ``event``, a sound file under ``audio``; either may be left out. Without
                events, or without a sample of sound, the modality is absent.
            seed: of the run, for it drew the training recordings.
            errors: of bad events, as `read_events` has it.

        Raises:
            AffuseError: a file cannot be read, the sensor is another one, or the training recordings are not there.
        """
        found: dict[str, Tensor] = {}
        if "event" in files:
            images = self._images(files["event"], errors)
            found |= {} if images is None else {"event": images}
        if "audio" in files:
            if self.audio_source == "ntidigits":
                raise AffuseError(
                    f"audio={files['audio']}: this run has heard spikes of a cochlea, no sound; give event=FILE alone"
                )
            sound = read_audio(files["audio"], RATE_HZ, MAX_SECONDS)
            if len(sound.samples):
                found["audio"] = self._encoder(seed).encode(sound)
        return Sample(found, meta={"id": " + ".join(Path(path).name for path in files.values())})

    def _images(self, path: Path, errors: Literal["raise", "drop"]) -> Tensor | None:
        """Count images (t, 2, h, w) of one recording; None of one without events."""
        if self.event_source == "mnist_dvs":
            screen = path.suffix.lower() == ".aedat"
            events = read_screen_digit(path) if screen else read_events(path, errors=errors)
            return screen_images(events, self.steps, self.size, None).log1p() if len(events) else None
        clips = NMNIST("", frames=self.steps, size=self.size).event_clips(read_events(path, errors=errors))
        return clips[0].inputs["event"] if clips else None

    def _encoder(self, seed: int) -> SoundEncoder:
        """What the sound of a run of `seed` went through."""
        if self.audio.standardise != "training" or self.audio_form == "cochlea":
            return self._fitted(())
        try:
            spoken, _ = self._spoken()
        except AffuseError as error:
            raise AffuseError(
                f"sound is standardised by the run's training recordings, which are needed here: {error}"
            ) from None
        return self._fitted(split_spoken(spoken, self.audio_split, self.holdout, seed)["train"])

    def _fitted(self, training: Sequence[SpokenDigit]) -> SoundEncoder:
        encoder = SoundEncoder(self.audio_form, self.audio, self.steps)
        encoder.fit(training)
        return encoder

    def _rule(self, seed: int) -> str:
        if self.audio_source == "ntidigits":
            sound = "the data set's own test speakers, validation speakers drawn from the others"
        elif self.audio_split == "take":
            sound = f"{self.holdout:g} of each speaker's takes held out, the same share of the rest for validation"
        else:
            sound = f"{self.holdout:g} of the speakers, at least one, held out, and as many for validation"
        return (
            f"events: {self.holdout:g} of each digit held out, the same share of the rest for validation; sound: {sound}; "
            f"paired afterwards within each split; seed {seed}"
        )

    def _spoken(self) -> tuple[tuple[SpokenDigit, ...], tuple[str, ...]]:
        folder = Path(self.root) / (self.audio_folder or self.audio_source)
        read = read_fsdd if self.audio_source == "fsdd" else read_ntidigits
        return read(folder, self.max_bad_fraction)

    def _events(self, seed: int) -> dict[str, _EventSource]:
        folder = Path(self.root) / (self.event_folder or self.event_source)
        if self.event_source == "mnist_dvs":
            found = find_mnist_dvs(folder, self.scale)
            parts = _split_by_digit(found, self.holdout, seed)
            move = Movement() if self.augment else None
            return {
                name: _Screen(parts[name], self.steps, self.size, move if name == "train" else None) for name in PARTS
            }
        settings: dict[str, Any] = {"holdout": self.holdout, "max_bad_fraction": self.max_bad_fraction}
        made = NMNIST(str(folder), frames=self.steps, size=self.size, augment=self.augment, **settings).splits(seed)
        # The same recordings at one frame and untouched, to know their digits without drawing random numbers.
        plain = NMNIST(str(folder), frames=1, augment=False, **settings).splits(seed)
        bad = tuple(str(name) for name in made.facts["bad_names"])
        return {name: _Saccades(getattr(made, name), getattr(plain, name), bad) for name in PARTS}


@runtime_checkable
class _EventSource(Protocol):
    digits: tuple[int, ...]
    names: tuple[str, ...]
    bad: tuple[str, ...]

    def images(self, index: int) -> Tensor:
        """Count images (t, 2, h, w) as log(1 + n)."""


class _Saccades:
    """A split of N-MNIST."""

    def __init__(self, source: SampleSource, plain: SampleSource, bad: tuple[str, ...]) -> None:
        samples = [plain[index] for index in range(len(plain))]
        self.digits = tuple(int(sample.target or 0) for sample in samples)
        self.names = tuple(str(sample.meta["id"]) for sample in samples)
        self.bad = bad
        self._source = source

    def images(self, index: int) -> Tensor:
        return self._source[index].inputs["event"]


class _Screen:
    """A split of MNIST-DVS, read from disk as it is asked for."""

    bad: tuple[str, ...] = ()

    def __init__(self, recordings: Sequence[ScreenDigit], steps: int, size: int, movement: Movement | None) -> None:
        self.digits = tuple(one.digit for one in recordings)
        self.names = tuple(one.name for one in recordings)
        self._recordings, self._steps, self._size, self._movement = tuple(recordings), steps, size, movement

    def images(self, index: int) -> Tensor:
        events = read_screen_digit(self._recordings[index].path)
        return screen_images(events, self._steps, self._size, self._movement).log1p()


class DigitPairs:
    """Map-style source of samples with ``event`` (t, 2, h, w) and ``audio`` (t, d)."""

    def __init__(
        self,
        spoken: Sequence[SpokenDigit],
        events: _EventSource,
        pairs: Sequence[Pair],
        encoder: SoundEncoder,
        augment: bool,
        repair: bool,
    ) -> None:
        self._spoken, self._events, self._pairs = tuple(spoken), events, tuple(pairs)
        self._encoder, self._augment, self._repair = encoder, augment, repair
        self._known: dict[int, Tensor] = {}
        self._of_digit = [[i for i, digit in enumerate(events.digits) if digit == known] for known in range(10)]

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int, /) -> Sample:
        heard, seen = self._pairs[index]
        one = self._spoken[heard]
        if self._repair:
            choice = self._of_digit[one.digit]
            seen = choice[int(torch.randint(len(choice), ()))]
        names = {"audio": one.name, "event": self._events.names[seen]}
        # The place comes first: of many pairs, the same two recordings may meet again, and an id is of one sample.
        meta = {
            "id": f"{index}: {names['audio']} + {names['event']}",
            "subject": one.speaker,
            "digit": one.digit,
            "label": CLASSES[one.digit],
            **names,
        }
        return Sample({"event": self._events.images(seen), "audio": self._audio(heard)}, one.digit, {}, meta)

    def _audio(self, heard: int) -> Float[Tensor, "t d"]:
        if self._augment:
            return self._encoder.encode(self._spoken[heard].sound, augment=True)
        if heard not in self._known:
            self._known[heard] = self._encoder.encode(self._spoken[heard].sound)
        return self._known[heard]


def split_spoken(
    spoken: Sequence[SpokenDigit], rule: Literal["take", "speaker"], holdout: float, seed: int
) -> dict[str, list[SpokenDigit]]:
    """Recordings by split. A data set's own test recordings stay so; then `rule` is ``speaker``.

    Under ``take``, what one speaker said at one take, all digits of it, stays together.

    Raises:
        AffuseError: too few takes or speakers for three splits.
    """
    generator = np.random.default_rng([seed, 0])
    own = any(one.official for one in spoken)
    by_take = rule == "take" and not own
    place: dict[tuple[str, int], str] = {}
    groups: dict[str, list[tuple[str, int]]] = {}
    for one in spoken:
        if one.official == "test":
            continue
        group = one.speaker if by_take else ""
        members = groups.setdefault(group, [])
        key = _key(one, by_take)
        if key not in members:
            members.append(key)
    for group in sorted(groups):
        members = sorted(groups[group])
        order = [members[i] for i in generator.permutation(len(members))]
        tests = 0 if own else max(1, round(len(order) * holdout))
        validations = max(1, round((len(order) - tests) * holdout))
        if len(order) <= tests + validations:
            what = f"speaker {group} has {len(order)} takes" if by_take else f"there are {len(order)} speakers"
            raise AffuseError(f"event-audio digits: {what}, too few for three splits; add recordings")
        place |= dict.fromkeys(order, "train") | dict.fromkeys(order[:tests], "test")
        place |= dict.fromkeys(order[tests : tests + validations], "validation")
    parts: dict[str, list[SpokenDigit]] = {name: [] for name in PARTS}
    for one in spoken:
        parts["test" if one.official == "test" else place[_key(one, by_take)]].append(one)
    return parts


def _key(one: SpokenDigit, by_take: bool) -> tuple[str, int]:
    return (one.speaker, one.take if by_take else 0)


def pair_by_digit(
    heard: Sequence[int], seen: Sequence[int], count: int | None, generator: np.random.Generator, split: str
) -> list[Pair]:
    """Pairs (index into `heard`, index into `seen`) of equal digits, in the order of the digits.

    Args:
        heard, seen: digit of each recording.
        count: pairs in all, a tenth of each digit; None: of each digit as many as the larger of the two has.
        generator: draws who meets whom.
        split: named in errors.

    Raises:
        AffuseError: one side lacks a digit.
    """
    pairs: list[Pair] = []
    for digit in range(10):
        sides = [[i for i, known in enumerate(side) if known == digit] for side in (heard, seen)]
        for name, side in zip(("spoken", "event"), sides, strict=True):
            if not side:
                raise AffuseError(
                    f"event-audio digits: no {name} recording of digit {digit} in the {split} split; add some"
                )
        audio, event = ([side[i] for i in generator.permutation(len(side))] for side in sides)
        of_digit = max(len(audio), len(event)) if count is None else count // 10
        pairs += [(audio[i % len(audio)], event[i % len(event)]) for i in range(of_digit)]
    return pairs


def _split_by_digit(recordings: Sequence[ScreenDigit], holdout: float, seed: int) -> dict[str, list[ScreenDigit]]:
    generator = np.random.default_rng(seed)
    parts: dict[str, list[ScreenDigit]] = {name: [] for name in PARTS}
    for digit in range(10):
        group = [one for one in recordings if one.digit == digit]
        order = [group[i] for i in generator.permutation(len(group))]
        tests = max(1, round(len(order) * holdout))
        validations = max(1, round((len(order) - tests) * holdout))
        parts["test"] += order[:tests]
        parts["validation"] += order[tests : tests + validations]
        parts["train"] += order[tests + validations :]
    return parts
