"""The synthetic face world: stylised faces that make DFEW's seven expressions, as rare as they are in DFEW.

A clip has a person, an expression with onset, apex and offset, a length, and one main disturbance: the head turned, a hand,
mask, microphone or text before the face, motion blur, darkness, or the back of the head. All is drawn from the seed, its
split and its number. Real data cannot tell what is known here: action units and landmarks of each frame, when the expression
peaks, and which frames are disturbed. No subject stands in two splits. A frame is drawn when it is first read.

The share of each class is that of DFEW's first fold (Jiang et al., "DFEW: A Large-Scale Database for Recognizing Dynamic
Facial Expressions in the Wild", ACM MM 2020). Results on this world are synthetic, and are called so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from affuse.data.face_augmentation import FaceAugmentation, augmented
from affuse.data.splits import Splits
from affuse.data.synthetic.face_camera import CONDITIONS, Condition, Take, draw_take, film
from affuse.data.synthetic.face_motion import ACTION_UNITS, EXPRESSIONS, Motion, draw_motion
from affuse.data.synthetic.face_people import Person, draw_person
from affuse.data.synthetic.face_renderer import render
from affuse.data.synthetic.plans import SPLITS, Split, check_world_seed, facts_of
from affuse.signals.face_input import FaceInput, face_inputs
from affuse.types import AffuseError, Sample, Task

CLASSES = tuple(EXPRESSIONS)
DFEW_TRAIN = (1956, 1515, 2135, 1738, 1175, 116, 721)  # clips a class of fold 1, in the order of CLASSES
DFEW_TEST = (489, 379, 534, 435, 294, 29, 181)


@dataclass(frozen=True)
class Faces:
    """The ``data`` section of a recipe for the synthetic face world.

    Args:
        train_clips, validation_clips, test_clips: size of each split before `least_test_per_class`.
        train_subjects, validation_subjects, test_subjects: people; none is in two splits.
        shares: how often each class comes: as in ``dfew``, or ``equal``.
        least_test_per_class: validation and test have at least so many clips of each class: with DFEW's own 29 of the rarest
            one, a single clip moves its recall by 3.4 points.
        conditions: names of `CONDITIONS`.
        clean_share: share of clips without a disturbance, where ``clean`` is one of the conditions; the others share the rest.
        intensity: range of the strength of an expression.
        speech_probability: share of clips in which the person talks.
        fps: frames a second.
        lengths: shortest and longest clip, frames.
        input: how a clip becomes inputs; ``input.size`` is the side of the pictures.
        augment: what training does to the faces; None: nothing.
        oversampling: times the size at which shapes are drawn.
        world_seed: draws the people and clips; by default the run's seed.
    """

    train_clips: int = 1400
    validation_clips: int = 350
    test_clips: int = 700
    train_subjects: int = 140
    validation_subjects: int = 40
    test_subjects: int = 70
    shares: Literal["dfew", "equal"] = "dfew"
    least_test_per_class: int = 30
    conditions: tuple[str, ...] = CONDITIONS
    clean_share: float = 0.4
    intensity: tuple[float, float] = (0.4, 1.0)
    speech_probability: float = 0.4
    fps: float = 12.5
    lengths: tuple[int, int] = (10, 64)
    input: FaceInput = field(default_factory=lambda: FaceInput(size=48))
    augment: FaceAugmentation | None = FaceAugmentation()
    oversampling: int = 2
    world_seed: int | None = None

    def __post_init__(self) -> None:
        check_world_seed("faces", self.world_seed)
        counts = [getattr(self, f"{split}_{what}") for split in SPLITS for what in ("clips", "subjects")]
        if min(*counts, self.oversampling) < 1 or self.least_test_per_class < 0 or self.fps <= 0:
            raise AffuseError(
                "faces: clips, subjects and oversampling must be at least 1, least_test_per_class at least 0, fps positive"
            )
        if min(counts[::2]) < len(CLASSES):
            raise AffuseError(f"faces: a split needs at least {len(CLASSES)} clips, one of each class")
        unknown = [name for name in self.conditions if name not in CONDITIONS]
        if unknown or not self.conditions or len(set(self.conditions)) != len(self.conditions):
            raise AffuseError(
                f"faces: conditions {list(self.conditions)} must each be named once, out of {list(CONDITIONS)}"
            )
        if not 0 <= self.intensity[0] <= self.intensity[1] <= 1:
            raise AffuseError(f"faces: intensity {list(self.intensity)} must rise within [0, 1]")
        if not 2 <= self.lengths[0] <= self.lengths[1] <= 4096:
            raise AffuseError(f"faces: lengths {list(self.lengths)} must rise from at least 2 to at most 4096 frames")
        if not (0 <= self.clean_share <= 1 and 0 <= self.speech_probability <= 1):
            raise AffuseError("faces: clean_share and speech_probability are shares, between 0 and 1")
        if self.input.pipeline is not None:
            raise AffuseError("faces: the pictures are aligned faces already: leave input.pipeline out")

    def splits(self, seed: int) -> Splits:
        """People of their own in every split; classes as rare as in DFEW."""
        world = self.world_seed if self.world_seed is not None else seed
        sources = {split: FaceWorldClips(self, split, world) for split in SPLITS}
        facts = {
            **facts_of("synthetic faces", sources, world),
            "class_shares": "as in DFEW's fold 1" if self.shares == "dfew" else "equal",
            "least_test_per_class": self.least_test_per_class,
            "class_counts": {split: dict(zip(CLASSES, class_counts(self, split), strict=True)) for split in SPLITS},
        }
        task = Task("classification", CLASSES)
        return Splits(task, sources["train"], sources["validation"], sources["test"], True, facts)


@dataclass(frozen=True)
class Plan:
    """What a clip shows; `number` and `subject` count over the whole world."""

    split: Split
    number: int
    subject: int
    expression: str
    condition: Condition
    frames: int
    seed: tuple[int, ...]

    @property
    def id(self) -> str:
        return f"{self.split}_{self.number:05d}"


@dataclass(frozen=True)
class Scene:
    """A clip before the camera: who, what moves at every frame of it, and how it is filmed."""

    person: Person
    motion: Motion
    take: Take


def class_counts(config: Faces, split: Split) -> list[int]:
    """Clips of each class, in the order of `CLASSES`: the split's size dealt out by largest remainders."""
    total = getattr(config, f"{split}_clips")
    shares = np.array(DFEW_TRAIN if split == "train" else DFEW_TEST, np.float64)
    if config.shares == "equal":
        shares = np.ones(len(CLASSES))
    wanted = total * shares / shares.sum()
    counts = np.floor(wanted).astype(int)
    for index in np.argsort(counts - wanted, kind="stable")[: total - counts.sum()]:
        counts[index] += 1
    return np.maximum(counts, 1 if split == "train" else max(1, config.least_test_per_class)).tolist()


def plans(config: Faces, split: Split, world: int) -> list[Plan]:
    """The clips of a split, in an order that says nothing; conditions are dealt out within each class."""
    before = SPLITS[: SPLITS.index(split)]
    first = sum(sum(class_counts(config, name)) for name in before)
    first_subject = sum(getattr(config, f"{name}_subjects") for name in before)
    subjects = getattr(config, f"{split}_subjects")
    rng = np.random.default_rng((world, SPLITS.index(split)))
    shown = [
        (name, condition)
        for name, count in zip(CLASSES, class_counts(config, split), strict=True)
        for condition in _conditions(config, count, rng)
    ]
    shortest, longest = config.lengths
    drawn = np.exp(rng.normal(np.log(30), 0.5, len(shown)))  # as skewed as DFEW's: most are short, some long
    people = first_subject + rng.integers(0, subjects, len(shown))
    return [
        Plan(
            split,
            first + place,
            int(people[place]),
            expression,
            condition,
            int(np.clip(round(float(drawn[place])), shortest, longest)),
            (world, 1 + SPLITS.index(split), place),
        )
        for place, (expression, condition) in enumerate(shown[which] for which in rng.permutation(len(shown)).tolist())
    ]


def _conditions(config: Faces, count: int, rng: np.random.Generator) -> list[Condition]:
    """So many conditions: the clean ones by their share, the others in equal parts."""
    others = [name for name in CONDITIONS if name in config.conditions and name != "clean"]
    none: Condition = "clean"
    if not others:
        return [none] * count
    clean = round(config.clean_share * count) if "clean" in config.conditions else 0
    start = int(rng.integers(len(others)))
    return [none] * clean + [others[(start + i) % len(others)] for i in range(count - clean)]


def person_of(world: int, number: int) -> Person:
    """The person of this number."""
    return draw_person(np.random.default_rng((world, 100, number)))


def scene_of(config: Faces, plan: Plan) -> Scene:
    """The clip's motion, and how it is filmed; nothing is drawn yet."""
    rng = np.random.default_rng(plan.seed)
    person = person_of(plan.seed[0], plan.subject)
    take = draw_take(plan.condition, plan.frames, rng, plan.seed)
    low, high = (min(1.0, person.strength * value) for value in config.intensity)
    motion = draw_motion(
        plan.expression,
        np.arange(plan.frames) / config.fps,
        rng,
        intensity=(low, high),
        speech_probability=config.speech_probability,
        turned=take.disturbed & (plan.condition == "turned"),
    )
    return Scene(person, motion, take)


def draw_frames(
    scene: Scene, frames: NDArray[np.int64], size: int, oversampling: int = 2
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Pictures (k, s, s, 3) of these frames (k,) of a scene, and their landmarks (k, 68, 2), NaN where no face is seen."""
    motion = scene.motion
    part = Motion(
        {unit: level[frames] for unit, level in motion.units.items()},
        motion.gaze[frames],
        motion.pose[frames],
        motion.shift[frames],
        motion.onset_s,
        motion.apex_s,
        motion.offset_s,
    )
    view = render(scene.person, part, size, oversampling=oversampling, averted=averted(scene)[frames])
    return film(scene.person, view, scene.take, frames), view.landmarks


def averted(scene: Scene) -> NDArray[np.bool_]:
    """Frames (t,) in which no face is seen, but the back of the head."""
    return scene.take.disturbed & (scene.take.condition == "averted")


def truth_of(scene: Scene, frames: NDArray[np.int64]) -> dict[str, Any]:
    """What real data cannot tell of these frames (k,): ``onset_us``, ``apex_us`` and ``offset_us`` within the clip (None
    where the face stays neutral; they may lie outside of it), ``action_units`` (intensities (k,) by number), ``disturbed``
    (k,), and ``occluder``."""
    times = {"onset_us": scene.motion.onset_s, "apex_us": scene.motion.apex_s, "offset_us": scene.motion.offset_s}
    return {
        **{name: None if at is None else round(at * 1e6) for name, at in times.items()},
        "action_units": {str(unit): scene.motion.units[unit][frames].round(3).tolist() for unit in ACTION_UNITS},
        "disturbed": scene.take.disturbed[frames].tolist(),
        "occluder": scene.take.occluder,
    }


class FaceWorldClips:
    """Clips of a split: ``face`` (t, 3, s, s) and, where the input wants them, ``landmarks`` (t, 68, 2). `plans` says what is
    in it. A frame is drawn at first use, always the same, and kept as the camera recorded it (7 kB at 48 x 48); of a training
    clip all frames.

    Training takes other frames of a clip each time and augments them, from torch's global generator.
    """

    def __init__(self, config: Faces, split: Split, world: int) -> None:
        self.config = config
        self.split = split
        self.plans = plans(config, split, world)
        self._scenes: dict[int, Scene] = {}
        self._drawn: dict[int, dict[int, tuple[NDArray[np.uint8], NDArray[np.float32]]]] = {}

    def __len__(self) -> int:
        return len(self.plans)

    @property
    def targets(self) -> list[int]:
        """The class of each clip, without drawing any."""
        return [CLASSES.index(plan.expression) for plan in self.plans]

    def __getitem__(self, index: int, /) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        plan, spec = self.plans[index], self.config.input
        training = self.split == "train"
        rng = np.random.default_rng(int(torch.randint(2**31, ()))) if training else None
        frames = spec.chosen(plan.frames, training=training, rng=rng)
        scene = self.scene(index)
        images, landmarks = self._frames(index, frames)
        points: NDArray[np.float32] | None = landmarks if spec.landmarks else None
        if training and self.config.augment is not None:
            images, points = augmented(images, points, self.config.augment)
        inputs = face_inputs(images, ~averted(scene)[frames], points, spec)
        times_us = torch.from_numpy(np.round(frames * 1e6 / self.config.fps).astype(np.int64))
        meta = {
            "id": plan.id,
            "subject": plan.subject,
            "condition": plan.condition,
            "truth": truth_of(scene, frames),
        }
        return Sample(inputs, CLASSES.index(plan.expression), dict.fromkeys(inputs, times_us), meta)

    def scene(self, index: int) -> Scene:
        """What ``plans[index]`` shows, before the camera."""
        if index not in self._scenes:
            self._scenes[index] = scene_of(self.config, self.plans[index])
        return self._scenes[index]

    def _frames(self, index: int, frames: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        drawn = self._drawn.setdefault(index, {})
        if missing := sorted(set(frames.tolist()) - drawn.keys()):
            # Training comes back for the others, and a clip is drawn faster than its parts.
            if self.split == "train":
                missing = list(range(self.plans[index].frames))
            spec = self.config
            images, landmarks = draw_frames(self.scene(index), np.array(missing), spec.input.size, spec.oversampling)
            drawn |= {frame: (images[i], landmarks[i]) for i, frame in enumerate(missing)}
        kept = [drawn[frame] for frame in frames.tolist()]
        return np.stack([image for image, _ in kept]), np.stack([points for _, points in kept])
