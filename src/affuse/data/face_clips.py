"""The one source of samples over clips of faces on disk: DFEW, lists, plain folders and videos of actors are made of it.

A clip is a video, a folder of numbered pictures, or one picture. Where the recipe's ``input`` names a pipeline, faces are
searched in it, or read from what `affuse data prepare` has kept; otherwise its pictures are faces already, and only the frames
that are looked at are decoded. A frame without a face is NaN, and a clip without any lacks the modality ``face``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from affuse.data.clip_index import ClipFile, clip_fault
from affuse.data.face_augmentation import FaceAugmentation, augmented
from affuse.data.face_cache import FaceCache
from affuse.data.splits import Splits, check_bad
from affuse.signals.face import read_faces
from affuse.signals.face_input import FaceInput, face_inputs
from affuse.signals.timed_frames import open_frames
from affuse.types import AffuseError, Sample, Task

PARTS = ("train", "validation", "test")
MAX_FRAMES = 5_000  # of a clip; DFEW's longest has 847
NO_CLOCK_FPS = 25.0  # only the order of the frames is used then


@dataclass(frozen=True)
class ChosenFrames:
    """The frames of a clip that a sample shows: pictures RGB (k, s, s, 3), found (k,), landmarks (k, 68, 2), times (k,)."""

    images: NDArray[np.uint8]
    found: NDArray[np.bool_]
    landmarks: NDArray[np.float32] | None
    times_us: NDArray[np.int64] | None


class FaceClips:
    """Map-style source of samples: ``face`` (t, 3, size, size), and ``landmarks`` (t, 68, 2) where they are wanted and known.

    In training, what is random (frames of a segment, augmentation) comes from torch's global generator.

    Args:
        clips: each with a path.
        spec: how a clip becomes an input.
        augment: what training does to it; None: nothing.
        training: whether it is for training.
        cache: prepared faces; a clip that is not among them is searched for faces.
    """

    def __init__(
        self,
        clips: Sequence[ClipFile],
        spec: FaceInput,
        augment: FaceAugmentation | None = None,
        training: bool = False,
        cache: FaceCache | None = None,
    ) -> None:
        self.clips = tuple(clips)
        self._spec = spec
        self._augment = augment
        self._training = training
        self._cache = cache
        self._times: dict[Path, NDArray[np.int64]] = {}  # of videos: how many frames there are shows only at the end

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def targets(self) -> list[int]:
        """The class index of each clip, without decoding any."""
        return [clip.target for clip in self.clips]

    def __getitem__(self, index: int, /) -> Sample:
        clip = self.clips[index]
        shown = self._chosen(clip)
        images, landmarks = shown.images, shown.landmarks
        if self._training and self._augment is not None:
            images, landmarks = augmented(images, landmarks, self._augment)
        inputs = face_inputs(images, shown.found, landmarks, self._spec)
        times = {} if shown.times_us is None else dict.fromkeys(inputs, torch.from_numpy(shown.times_us))
        return Sample(inputs, clip.target, times, {"id": clip.name, "file": str(clip.path), **clip.meta})

    def _chosen(self, clip: ClipFile) -> ChosenFrames:
        assert clip.path is not None
        if self._spec.pipeline is None:
            return self._pictures(clip.path, clip.fps)
        kept = None if self._cache is None else self._cache.load(clip.path)
        if kept is not None:
            places = self._places(len(kept.found))
            try:
                images = kept.images(places)
            except ValueError as error:
                raise AffuseError(f"{clip.path}: its prepared faces: {error}; prepare it again") from None
            points = None if kept.landmarks is None else kept.landmarks[places]
            times: NDArray[np.int64] | None = kept.times_us[places]
            found = kept.found[places]
        else:
            faces = read_faces(clip.path, self._spec.pipeline, max_frames=MAX_FRAMES, fps=clip.fps or NO_CLOCK_FPS)
            places = self._places(len(faces.found))
            images, found, times = faces.images[places], faces.found[places], faces.times_us[places]
            points = None if faces.landmarks is None else faces.landmarks[places]
        clockless = clip.fps is None and clip.path.is_dir()
        return ChosenFrames(images, found, points, None if clockless else times)

    def _pictures(self, path: Path, fps: float | None) -> ChosenFrames:
        """Of pictures that are faces already: only those that are looked at are decoded."""
        source = open_frames(path, gray=False, fps=fps or NO_CLOCK_FPS)
        if path.is_dir():
            # A gap in the numbers is a frame in which no face was found: it is not in the clip.
            frames = [frame for frame in source.frames(0) if frame.load is not None]
            times = np.array([frame.time_us for frame in frames], np.int64)
            places = self._places(len(frames))
            loaded = {int(i): load() for i in np.unique(places) if (load := frames[i].load) is not None}
        else:
            times = self._times.get(path, np.empty(0, np.int64))
            if not len(times):
                times = self._times[path] = np.array([frame.time_us for frame in source.frames(0)], np.int64)
            if not len(times):
                raise AffuseError(f"{path}: no frame can be decoded; copy it again, or leave the clip out")
            places = self._places(len(times))
            wanted, last = set(places.tolist()), int(places.max())
            loaded = {}
            for index, frame in enumerate(source.frames(0)):
                if index in wanted:
                    loaded[index] = None if frame.load is None else frame.load()
                if index >= last:
                    break
        images, found = _side_by_side([loaded.get(int(place)) for place in places], self._spec.size)
        return ChosenFrames(images, found, None, None if fps is None and path.is_dir() else times[places])

    def _places(self, available: int) -> NDArray[np.int64]:
        if not self._training:
            return self._spec.chosen(available)
        generator = np.random.default_rng(int(torch.randint(2**62, ())))
        return self._spec.chosen(available, training=True, rng=generator)


def _side_by_side(pictures: Sequence[NDArray[Any] | None], size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Pictures as one array (k, s, s, 3) and which are there; squares of one size keep it, others are squeezed to `size`."""
    shapes = {picture.shape for picture in pictures if picture is not None}
    height, width = next(iter(shapes))[:2] if len(shapes) == 1 else (0, 1)
    side = height if height == width else size
    images = np.zeros((len(pictures), side, side, 3), np.uint8)
    for row, picture in enumerate(pictures):
        if picture is not None:
            alike = picture.shape[:2] == (side, side)
            images[row] = picture if alike else cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    return images, np.array([picture is not None for picture in pictures])


def face_splits(
    parts: Mapping[str, Sequence[ClipFile]],
    classes: tuple[str, ...],
    root: Path,
    spec: FaceInput,
    augment: FaceAugmentation | None,
    cache: str | None,
    max_bad_fraction: float,
    facts: Mapping[str, Any],
) -> Splits:
    """Train, validation and test out of clips that may be missing.

    Args:
        parts: the clips of each.
        classes: names of the classes, in index order.
        root: folder of the data set; a file SYNTHETIC in it says that a simulation wrote it.
        spec, augment: see `FaceClips`.
        cache: folder of prepared faces.
        max_bad_fraction: more clips that are missing or empty than this share stop the run.
        facts: what is to be said of the data besides counts and bad clips.

    Raises:
        AffuseError: too many clips are bad, a part would be empty, or nothing is prepared in `cache`.
    """
    prepared = None
    if cache is not None:
        if spec.pipeline is None:
            raise AffuseError(
                "data.cache holds faces found by a pipeline: set data.input.pipeline, or leave data.cache out"
            )
        prepared = FaceCache(Path(cache), root, spec.pipeline)
        prepared.require()
    good: dict[str, list[ClipFile]] = {}
    bad: list[str] = []
    for part in PARTS:
        wrong = {clip.name: clip_fault(clip.path) for clip in parts[part]}
        if prepared is not None:
            refused = prepared.refused()
            wrong |= {
                c.name: why
                for c in parts[part]
                if c.path is not None and (why := refused.get(prepared.name_of(c.path)))
            }
        good[part] = [clip for clip in parts[part] if wrong[clip.name] is None]
        bad += [f"{name}: {what}" for name, what in wrong.items() if what is not None]
    check_bad(root, bad, sum(map(len, parts.values())), max_bad_fraction, "copy them, see affuse doctor,")
    empty = [part for part in PARTS if not good[part]]
    if empty:
        raise AffuseError(f"{root}: no clip for {' and '.join(empty)}; check the lists and the shares that are drawn")
    sources = {part: FaceClips(good[part], spec, augment, part == "train", prepared) for part in PARTS}
    subjects = {part: {str(c.meta["subject"]) for c in good[part] if c.meta.get("subject")} for part in PARTS}
    said = {
        "counts": {part: len(clips) for part, clips in good.items()},
        "counts_by_class": {part: _by_class(good[part], classes) for part in PARTS},
        "subjects": {part: len(members) for part, members in subjects.items()},
        "subjects_shared": sorted(
            subjects["train"] & subjects["test"]
            | subjects["train"] & subjects["validation"]
            | subjects["validation"] & subjects["test"]
        ),
        "prepared": cache is not None,
        "bad": len(bad),
        "bad_names": bad[:20],
    }
    task = Task("classification", classes)
    synthetic = (root / "SYNTHETIC").exists()
    return Splits(task, sources["train"], sources["validation"], sources["test"], synthetic, {**said, **facts})


def _by_class(clips: Sequence[ClipFile], classes: Sequence[str]) -> dict[str, int]:
    counted = Counter(clip.target for clip in clips)
    return {name: counted[index] for index, name in enumerate(classes)}


def stratified(clips: Sequence[ClipFile], share: float, seed: int) -> tuple[list[ClipFile], list[ClipFile]]:
    """The rest, and a share of each class drawn by the seed, at least one where it has two; both in the order of `clips`."""
    generator = np.random.default_rng(seed)
    drawn: set[int] = set()
    for target in sorted({clip.target for clip in clips}):
        group = [index for index, clip in enumerate(clips) if clip.target == target]
        count = min(len(group) - 1, max(1, round(len(group) * share)))
        drawn |= {group[i] for i in generator.permutation(len(group))[:count].tolist()}
    return [c for i, c in enumerate(clips) if i not in drawn], [c for i, c in enumerate(clips) if i in drawn]


def by_subject(
    clips: Sequence[ClipFile], shares: Mapping[str, float], rest: str, seed: int
) -> dict[str, list[ClipFile]]:
    """Clips by part, all of a subject in the same one; subjects in an order drawn by the seed.

    Args:
        clips: each with ``subject`` in its meta.
        shares: of the subjects by part, at least one each.
        rest: the part of all other subjects.
        seed: draws the order.

    Raises:
        AffuseError: fewer subjects than parts.
    """
    subjects = sorted({str(clip.meta["subject"]) for clip in clips})
    if len(subjects) <= len(shares):
        raise AffuseError(f"{len(subjects)} subjects are too few for {len(shares) + 1} parts that share none")
    order = [subjects[i] for i in np.random.default_rng(seed).permutation(len(subjects))]
    part_of: dict[str, str] = dict.fromkeys(order, rest)
    for part, share in shares.items():
        count = max(1, round(len(subjects) * share))
        taken, order = order[:count], order[count:]
        part_of |= dict.fromkeys(taken, part)
    parts: dict[str, list[ClipFile]] = {part: [] for part in (*shares, rest)}
    for clip in clips:
        parts[part_of[str(clip.meta["subject"])]].append(clip)
    return parts
