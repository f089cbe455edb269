"""SEE: single-eye expressions by an RGB and an event camera (Zhang et al., "In the Blink of an Eye", SIGGRAPH 2023).

On disk: ``root/{event,frame}/LABEL/SEQUENCE/00000.jpg ...`` and ``root/emotion.json``::

    {"labels": [seven names, in index order],
     "database": {SEQUENCE: {"subset": "training" | "testing",
                             "annotations": {"label": NAME, "segment": [start, end beyond the last]}}}}

A sequence is named ``seq_subject_sex_age_degree_lighting_emotion_length_take``. The event side is stored as images of the
events of each 33 ms. Access is on application at dluticcd.com.

The official split repeats subjects: 89 of the 111 stand in its test part. `split="subject_disjoint"` does not.
The official protocol crops at random in time, in the test too, which is therefore repeated 20 times and averaged.
"""

from __future__ import annotations

import json
import math
import os
import random
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from affuse.data.splits import Splits
from affuse.signals.clips import ClipSpec, normalise_events, rgb_clip
from affuse.types import AffuseError, Sample, Task

# The released pipeline's size and its mean and standard deviation over the training images in [0, 1].
SEE_CLIP = ClipSpec(
    frames=4,
    stride=4,
    fps=30.0,
    size=100,
    event_form="accumulated",
    event_channels=3,
    event_window_us=33_333,
    rgb_mean=0.22616537,
    rgb_std=0.118931554,
    event_mean=0.504413,
    event_std=0.06928615,
)
LFS_HEAD = b"version https://git-lfs.github.com/spec/"
_MAX_ANNOTATION_BYTES = 64 * 2**20
_MAX_SEGMENT = 100_000  # frames: the longest real sequence has 131


@dataclass(frozen=True)
class SequenceName:
    """The nine fields of a sequence's name."""

    sequence: str
    subject: str
    sex: str
    age: int
    degree: str
    lighting: str
    emotion: str
    length: int
    take: str

    @staticmethod
    def parse(name: str) -> SequenceName:
        """Read a name such as ``1_001_man_24_Master_normal_angry_45_take000``.

        Raises:
            AffuseError: not nine fields, age or length not a number, or a path separator in it.
        """
        fields = name.split("_")
        if len(fields) != 9 or not all(fields) or any(c in name for c in "/\\\0"):
            raise AffuseError(f"sequence name {name[:80]!r}: expected nine fields, seq_subject_..._length_take")
        if not (fields[3].isascii() and fields[3].isdigit() and fields[7].isascii() and fields[7].isdigit()):
            raise AffuseError(f"sequence name {name[:80]!r}: age (field 4) and length (field 8) must be numbers")
        sequence, subject, sex, age, degree, lighting, emotion, length, take = fields
        return SequenceName(sequence, subject, sex, int(age), degree, lighting, emotion, int(length), take)


@dataclass(frozen=True)
class Recording:
    """One usable recording: its name, label and the numbers of the frames that both cameras have."""

    name: str
    fields: SequenceName
    label: str
    target: int
    subset: Literal["training", "testing"]
    frames: tuple[int, ...]


@dataclass(frozen=True)
class Annotations:
    """What ``emotion.json`` says. `synthetic` is true where a simulated world wrote the folder."""

    labels: tuple[str, ...]
    database: Mapping[str, Mapping[str, Any]]
    synthetic: bool = False


@dataclass
class Census:
    """What stands in a folder: usable sequences, and what was left out and why."""

    sequences: list[Recording] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    bad_frames: Counter[str] = field(default_factory=Counter)
    label_differs_from_name: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class SEE:
    """The ``data`` section of a recipe for SEE.

    Args:
        root: folder with ``event``, ``frame`` and ``emotion.json``.
        split: ``official``: the subsets of ``emotion.json``; ``subject_disjoint``: no subject in two splits.
        validation_fraction: share of the training subjects that are validation (SEE has no validation part).
        test_fraction: share of the subjects that are test in ``subject_disjoint``.
        test_crops: random temporal crops of each test sequence; SEE's protocol has 20.
        clip: frames and stride of a clip, size and normalisation; the released values by default.
        max_bad_fraction: more skipped sequences than this share stop the run.
    """

    root: str
    split: Literal["official", "subject_disjoint"] = "official"
    validation_fraction: float = 0.1
    test_fraction: float = 0.3
    test_crops: int = 20
    clip: ClipSpec = SEE_CLIP
    max_bad_fraction: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction < 1 or not 0 < self.test_fraction < 1:
            raise AffuseError("SEE: validation_fraction and test_fraction are shares between 0 and 1")
        if self.test_crops < 1:
            raise AffuseError(f"SEE: test_crops must be at least 1, not {self.test_crops}")
        if self.clip.event_form != "accumulated":
            raise AffuseError("SEE stores events as accumulated images: set clip.event_form to 'accumulated'")

    def splits(self, seed: int) -> Splits:
        """Train, validation and test; `seed` draws the subjects of a split that is not given, and the test crops.

        Raises:
            AffuseError: the folder or ``emotion.json`` is wrong, or too many sequences cannot be used.
        """
        root = Path(self.root)
        annotations = read_annotations(root)
        census = take_census(root, annotations)
        total = len(annotations.database)
        if len(census.skipped) > self.max_bad_fraction * total or not census.sequences:
            name, reason = next(iter(census.skipped.items()))
            raise AffuseError(
                f"{root}: {len(census.skipped)} of {total} sequences cannot be used (first: {name}: {reason}); "
                "run 'affuse doctor --data see' for all of them, or raise max_bad_fraction"
            )
        parts = self._part(census.sequences, seed)
        empty = [name for name, part in parts.items() if not part]
        if empty:
            raise AffuseError(f"{root}: split {self.split!r} leaves {empty} without a sequence")
        subjects = {name: {sequence.fields.subject for sequence in part} for name, part in parts.items()}
        shared = sorted(s for s, n in Counter(s for group in subjects.values() for s in group).items() if n > 1)
        facts = {
            "name": "SEE (synthetic world in its layout)" if annotations.synthetic else "SEE",
            "split": self.split,
            "counts": {name: len(part) for name, part in parts.items()},
            "subjects": {name: len(group) for name, group in subjects.items()},
            "subjects_shared": shared,
            "subjects_shared_count": len(shared),
            "test_crops": self.test_crops,
            "bad": len(census.skipped),
            "bad_names": [f"{name}: {reason}" for name, reason in list(census.skipped.items())[:20]],
            "bad_frames": dict(census.bad_frames),
            "label_differs_from_name": len(census.label_differs_from_name),
        }
        return Splits(
            task=Task("classification", annotations.labels),
            train=Clips(root, parts["train"], self.clip),
            validation=Clips(root, parts["validation"], self.clip, crops=1, seed=seed),
            test=Clips(root, parts["test"], self.clip, crops=self.test_crops, seed=seed),
            synthetic=annotations.synthetic,
            facts=facts,
            clip=self.clip,
        )

    def _part(self, sequences: Sequence[Recording], seed: int) -> dict[str, list[Recording]]:
        rest, test = list(sequences), []
        if self.split == "official":
            rest = [sequence for sequence in sequences if sequence.subset == "training"]
            test = [sequence for sequence in sequences if sequence.subset == "testing"]
        else:
            chosen = _draw_subjects(rest, self.test_fraction, random.Random(f"test {seed}"))
            test = [sequence for sequence in sequences if sequence.fields.subject in chosen]
            rest = [sequence for sequence in sequences if sequence.fields.subject not in chosen]
        chosen = _draw_subjects(rest, self.validation_fraction, random.Random(f"validation {seed}"))
        return {
            "train": [sequence for sequence in rest if sequence.fields.subject not in chosen],
            "validation": [sequence for sequence in rest if sequence.fields.subject in chosen],
            "test": test,
        }


class Clips:
    """Map-style source of samples with ``rgb`` and ``event``, each (t, 3, size, size).

    With `crops` None the crop of an item is drawn from torch's global generator at each access. With a number, item
    ``i * crops + j`` is crop j of sequence i, and depends on `seed`, the sequence's name and j alone.
    """

    def __init__(
        self, root: Path, sequences: Sequence[Recording], clip: ClipSpec, crops: int | None = None, seed: int = 0
    ) -> None:
        self._root = root
        self._sequences = tuple(sequences)
        self._clip = clip
        self._crops = crops
        self._seed = seed

    def __len__(self) -> int:
        return len(self._sequences) * (self._crops or 1)

    def __getitem__(self, index: int, /) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        row, crop = divmod(index % len(self), self._crops or 1)
        sequence = self._sequences[row]
        generator = None
        if self._crops is not None:
            key = zlib.crc32(f"{self._seed} {sequence.name} {crop}".encode())
            generator = torch.Generator().manual_seed(key)
        chosen = temporal_crop(len(sequence.frames), self._clip.frames, self._clip.stride, generator)
        numbers = [sequence.frames[i] for i in chosen]
        rgb, event = (
            _read_images([self._root / kind / sequence.label / sequence.name / f"{n:05d}.jpg" for n in numbers])
            for kind in ("frame", "event")
        )
        event_images = torch.from_numpy(event).permute(0, 3, 1, 2).float() / 255  # t 3 h w
        times_us = torch.tensor([round(n * 1e6 / self._clip.fps) for n in numbers])
        fields = sequence.fields
        meta = {
            "id": sequence.name,
            "crop": crop,
            "subject": fields.subject,
            "condition": fields.lighting,
            "label": sequence.label,
            "sex": fields.sex,
            "age": fields.age,
        }
        inputs = {"rgb": rgb_clip(rgb, self._clip), "event": normalise_events(event_images, self._clip)}
        return Sample(inputs, sequence.target, {"rgb": times_us, "event": times_us}, meta)


def temporal_crop(length: int, frames: int, stride: int, generator: torch.Generator | None = None) -> list[int]:
    """Positions of a clip's frames in a sequence: every `stride`-th from a random start of 0 to `stride`, both included,
    then a random run of `frames` of those; a sequence that is too short is repeated from its beginning.

    Of these starts, those that leave room for the clip are drawn where there are any. With the published 4 frames at stride
    4 that changes nothing in SEE; 2 at stride 12 would else repeat a frame in sequences of fewer than 25.
    """

    def draw(stop: int) -> int:
        return int(torch.randint(stop, (), generator=generator))

    if length < 1:
        raise AffuseError("a sequence without frames has no clip")
    room = length - 1 - (frames - 1) * stride  # the last start that a whole clip fits behind
    latest = min(stride, room) if room >= 0 else min(stride, length - 1)
    kept = list(range(draw(latest + 1), length, stride))
    start = draw(max(1, len(kept) - frames + 1))
    run = kept[start : start + frames]
    return [run[i % len(run)] for i in range(frames)]


def read_annotations(root: Path) -> Annotations:
    """Read and check ``emotion.json``.

    Raises:
        AffuseError: a half of the layout is missing, or the file is not what the module's head says.
    """
    if not root.is_dir():
        raise AffuseError(f"{root}: no such folder; set data.root to the folder with event/, frame/ and emotion.json")
    for kind in ("event", "frame"):
        if not (root / kind).is_dir():
            raise AffuseError(f"{root}: the folder {kind}/ is missing; SEE has event/, frame/ and emotion.json")
    path = root / "emotion.json"
    if not path.is_file():
        raise AffuseError(f"{path}: no such file; SEE has event/, frame/ and emotion.json")
    if path.stat().st_size > _MAX_ANNOTATION_BYTES:
        raise AffuseError(f"{path}: larger than {_MAX_ANNOTATION_BYTES} bytes, which no annotation file of SEE is")
    content = path.read_bytes()
    if content.startswith(LFS_HEAD):
        raise AffuseError(f"{path}: a Git LFS pointer, not the file; run 'git lfs pull' where the data came from")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise AffuseError(f"{path}: not valid JSON ({str(error)[:120]}); copy the file again") from None
    if not isinstance(document, dict):
        raise AffuseError(f"{path}: expected an object with 'labels' and 'database'")
    labels, database = document.get("labels"), document.get("database")
    if not isinstance(labels, list) or not _are_class_names(labels):
        raise AffuseError(f"{path}: 'labels' must list the names of the classes, each once")
    if not isinstance(database, dict) or not database:
        raise AffuseError(f"{path}: 'database' must hold at least one sequence")
    for name, entry in database.items():
        _check_entry(path, name, entry, labels)
    return Annotations(tuple(labels), database, bool(document.get("synthetic", False)))


def _are_class_names(labels: list[Any]) -> bool:
    """At least two different names that are safe as names of folders."""
    names = [label for label in labels if isinstance(label, str) and label and not set(label) & set("/\\\0.")]
    return len(labels) >= 2 and len(set(names)) == len(labels)


def _check_entry(path: Path, name: str, entry: Any, labels: Sequence[str]) -> None:
    where = f"{path}: sequence {name[:80]!r}"
    if not isinstance(entry, dict) or not isinstance(entry.get("annotations"), dict):
        raise AffuseError(f"{where}: expected 'subset' and 'annotations'")
    if entry.get("subset") not in ("training", "testing"):
        raise AffuseError(f"{where}: subset must be 'training' or 'testing', not {str(entry.get('subset'))[:40]!r}")
    label, segment = entry["annotations"].get("label"), entry["annotations"].get("segment")
    if label not in labels:
        raise AffuseError(f"{where}: label {str(label)[:40]!r} is not one of {list(labels)}")
    whole = isinstance(segment, list) and len(segment) == 2 and all(type(value) is int for value in segment)
    if not whole or (segment[1] != 0 and not 0 <= segment[0] < segment[1] <= _MAX_SEGMENT):
        raise AffuseError(f"{where}: segment must be [first frame, end], not {str(segment)[:60]}")


def take_census(root: Path, annotations: Annotations) -> Census:
    """Find the usable sequences of a folder.

    As in the released loader, a sequence without one of its folders or with segment end 0 is skipped, and a frame that does
    not exist is left out; here each is counted, as are empty files and Git LFS pointers.
    """
    census = Census()
    for name, entry in annotations.database.items():
        label = entry["annotations"]["label"]
        start, stop = entry["annotations"]["segment"]
        try:
            fields = SequenceName.parse(name)
        except AffuseError:
            census.skipped[name] = "the name has not the nine fields of SEE"
            continue
        folders = {kind: root / kind / label / name for kind in ("event", "frame")}
        missing = [f"{kind}/{label}/{name}" for kind, folder in folders.items() if not folder.is_dir()]
        if missing:
            census.skipped[name] = "no folder " + " and ".join(missing)
            continue
        if stop == 0:
            census.skipped[name] = "the segment ends at 0"
            continue
        sound = {kind: _sound_frames(folder, start, stop, census.bad_frames) for kind, folder in folders.items()}
        frames = tuple(sorted(sound["event"] & sound["frame"]))
        census.bad_frames["in one camera only"] += len(sound["event"] ^ sound["frame"])
        if not frames:
            census.skipped[name] = "no frame that both cameras have"
            continue
        if fields.emotion.lower() != label.lower():
            census.label_differs_from_name.append(name)
        target = annotations.labels.index(label)
        census.sequences.append(Recording(name, fields, label, target, entry["subset"], frames))
    census.bad_frames = +census.bad_frames
    return census


def _sound_frames(folder: Path, start: int, stop: int, bad: Counter[str]) -> set[int]:
    wanted = {f"{number:05d}.jpg": number for number in range(start, stop)}
    sound: set[int] = set()
    found = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            number = wanted.get(entry.name)
            if number is None:
                continue
            found += 1
            try:
                size = entry.stat().st_size
            except OSError:  # a link to nothing, as git-annex leaves it
                bad["missing"] += 1
                continue
            if size == 0:
                bad["zero length"] += 1
            elif size < 1024 and is_lfs_pointer(Path(entry.path)):
                bad["Git LFS pointer"] += 1
            else:
                sound.add(number)
    bad["missing"] += len(wanted) - found
    return sound


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is the stub that Git LFS leaves where the content was not fetched."""
    with path.open("rb") as file:
        return file.read(len(LFS_HEAD)) == LFS_HEAD


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image file as RGB (h, w, 3).

    Raises:
        AffuseError: missing, empty, a Git LFS pointer, or not an image.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AffuseError(f"{path}: cannot be read ({error.strerror}); run 'affuse doctor --data see'") from None
    if content.startswith(LFS_HEAD):
        raise AffuseError(f"{path}: a Git LFS pointer, not an image; run 'git lfs pull' where the data came from")
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    except cv2.error:  # its header claims a size that OpenCV refuses
        image = None
    if image is None:
        raise AffuseError(f"{path}: not a readable image ({len(content)} bytes); run 'affuse doctor --data see'")
    return np.ascontiguousarray(image[..., ::-1], dtype=np.uint8)


def _read_images(paths: Sequence[Path]) -> NDArray[np.uint8]:
    known = {path: read_image(path) for path in dict.fromkeys(paths)}  # a short sequence repeats its frames
    sizes = {image.shape for image in known.values()}
    if len(sizes) > 1:
        raise AffuseError(f"{paths[0].parent}: frames of one sequence differ in size: {sorted(sizes)}")
    return np.stack([known[path] for path in paths])


def _draw_subjects(sequences: Sequence[Recording], fraction: float, generator: random.Random) -> set[str]:
    subjects = sorted({sequence.fields.subject for sequence in sequences})
    if len(subjects) < 2:
        raise AffuseError(f"SEE: a split by subject needs at least two subjects, found {subjects}")
    count = min(len(subjects) - 1, max(1, math.floor(fraction * len(subjects) + 0.5)))
    return set(generator.sample(subjects, count))
