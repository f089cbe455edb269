"""The synthetic cabin: a stylised driver and seventeen actions before a colour, an infrared and a depth camera.

Every clip has a person, an action, a light and a motion of its own, all drawn from the seed, its split and its number. The
same scene goes to the three cameras. What real data cannot tell is known: how well each of them saw head, arms and things,
and which saw them best. No subject stands in two splits. Results on it are synthetic, and are called so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from affuse.data.splits import Splits
from affuse.data.synthetic.cabin_actions import ACTIONS, draw_motion
from affuse.data.synthetic.cabin_renderer import Subject, draw_subject, render
from affuse.data.synthetic.cabin_sensors import LIGHTS, CabinCameras, Seen, expose
from affuse.data.synthetic.plans import SPLITS, Plan, Split, check_world_seed, dealt, facts_of
from affuse.signals.camera_windows import CameraWindow
from affuse.signals.cameras import CameraSpec
from affuse.signals.depth import DepthSpec
from affuse.types import AffuseError, Sample, Task

CLASSES = tuple(ACTIONS)
CAMERAS = ("rgb", "infrared", "depth")
# Distances as inputs: against the driver's, by the scene's spread. No whole step of the camera becomes 0, which says none.
_MIDDLE_M, _SCALE_M = 0.9557, 0.35


@dataclass(frozen=True)
class Cabin:
    """The ``data`` section of a recipe for the synthetic cabin.

    Args:
        train_clips, validation_clips, test_clips: size of each split; actions and lights take equal shares.
        train_subjects, validation_subjects, test_subjects: people; none is in two splits.
        actions: names of `ACTIONS`, which are the classes.
        lights: names of `LIGHTS`.
        frames: of a clip, evenly spaced.
        seconds: length of a clip.
        size: side of the pictures, pixels.
        oversampling: times the size at which shapes are drawn.
        depth_channels: 1, the distance (0 where there is no answer), or 2, with a channel that is 1 where there is one.
        cameras: their limits.
        world_seed: draws the people and clips; by default the run's seed.
    """

    train_clips: int = 1200
    validation_clips: int = 240
    test_clips: int = 480
    train_subjects: int = 40
    validation_subjects: int = 10
    test_subjects: int = 20
    actions: tuple[str, ...] = CLASSES
    lights: tuple[str, ...] = tuple(LIGHTS)
    frames: int = 8
    seconds: float = 3.0
    size: int = 48
    oversampling: int = 2
    depth_channels: int = 1
    cameras: CabinCameras = field(default_factory=CabinCameras)
    world_seed: int | None = None

    def __post_init__(self) -> None:
        check_world_seed("cabin", self.world_seed)
        counts = [getattr(self, f"{split}_{what}") for split in SPLITS for what in ("clips", "subjects")]
        if min(*counts, self.frames, self.oversampling) < 1 or self.size < 8 or self.seconds <= 0:
            raise AffuseError(
                "cabin: clips, subjects, frames and oversampling must be at least 1, size at least 8, seconds positive"
            )
        if self.depth_channels not in (1, 2):
            raise AffuseError(f"cabin: depth_channels is 1 or 2, not {self.depth_channels}")
        for what, given, known in (("actions", self.actions, CLASSES), ("lights", self.lights, tuple(LIGHTS))):
            unknown = [name for name in given if name not in known]
            if unknown or not given:
                raise AffuseError(f"cabin: {what} {unknown} are unknown, or none is given; there are {list(known)}")
        if len(set(self.actions)) != len(self.actions) or len(self.actions) < 2:
            raise AffuseError("cabin: actions must be at least two, each named once")

    @property
    def times_us(self) -> Tensor:
        """Time of each frame within the clip (t,), the same for the three cameras."""
        return torch.from_numpy(np.round(np.arange(self.frames) * self.seconds * 1e6 / self.frames).astype(np.int64))

    @property
    def camera_window(self) -> CameraWindow:
        """What `predict` reads of a recording of cameras: windows as these clips."""
        form: Literal["metric", "metric_valid"] = "metric" if self.depth_channels == 1 else "metric_valid"
        middle, scale = 128 / 255, 64 / 255
        spec = CameraSpec(
            self.size,
            DepthSpec(form=form, mean_m=_MIDDLE_M, std_m=_SCALE_M),
            rgb_mean=middle,
            rgb_std=scale,
            infrared_mean=middle,
            infrared_std=scale,
        )
        return CameraWindow(spec, self.frames, round(self.seconds * 1e6 / self.frames))

    def splits(self, seed: int) -> Splits:
        """People of their own in every split; actions and lights in equal shares."""
        world = self.world_seed if self.world_seed is not None else seed
        sources = {split: CabinClips(self, split, world) for split in SPLITS}
        facts = facts_of("synthetic cabin", sources, world)
        task = Task("classification", self.actions)
        return Splits(task, sources["train"], sources["validation"], sources["test"], True, facts)


def plans(config: Cabin, split: Split, world: int) -> list[Plan]:
    """The clips of a split: actions and lights in equal shares, people at random."""
    clips = {name: getattr(config, f"{name}_clips") for name in SPLITS}
    people = {name: getattr(config, f"{name}_subjects") for name in SPLITS}
    return dealt(split, clips, people, config.actions, config.lights, world)


def subject_of(world: int, number: int) -> Subject:
    """The person of this number."""
    return draw_subject(np.random.default_rng((world, 100, number)))


def record(config: Cabin, plan: Plan) -> Seen:
    """Draw the clip's motion and let the three cameras see it."""
    rng = np.random.default_rng(plan.seed)
    subject = subject_of(plan.seed[0], plan.subject)
    speed = subject.speed * rng.uniform(0.9, 1.1)
    motion = draw_motion(plan.label, config.frames, rng, speed=speed, right_handed=subject.right_handed)
    lying = tuple(name for name in ("bottle", "phone", "newspaper") if rng.uniform() < 0.3)
    return expose(render(subject, motion, config.size, config.oversampling, lying), plan.light, config.cameras, rng)


def truth_of(plan: Plan, seen: Seen) -> dict[str, Any]:
    """What real data cannot tell: ``light``, ``signal`` by camera (see `Seen`), ``informative``, the camera with the largest
    signal, and ``rgb_kept`` and ``rgb_lost``, the signal of the colour camera and what is missing to 1."""
    kept = seen.signal["rgb"]
    best = max(CAMERAS, key=lambda name: seen.signal[name])
    return {
        "light": plan.light,
        "informative": best,
        "signal": dict(seen.signal),
        "rgb_kept": kept,
        "rgb_lost": 1 - kept,
    }


class CabinClips:
    """Clips of a split: ``rgb`` (t, 3, s, s), ``infrared`` (t, 1, s, s) and ``depth`` (t, 1 or 2, s, s), each drawn at first
    use, always the same, and kept as the cameras recorded it (110 kB at the default size). `plans` says what is in it."""

    def __init__(self, config: Cabin, split: Split, world: int) -> None:
        self.config = config
        self.plans = plans(config, split, world)
        self._seen: dict[int, Seen] = {}

    def __len__(self) -> int:
        return len(self.plans)

    def __getitem__(self, index: int, /) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        plan, seen = self.plans[index], self.seen(index)
        meta = {"id": plan.id, "subject": plan.subject, "condition": plan.light, "truth": truth_of(plan, seen)}
        times = dict.fromkeys(CAMERAS, self.config.times_us)
        inputs = as_inputs(seen, self.config.depth_channels)
        return Sample(inputs, self.config.actions.index(plan.label), times, meta)

    def seen(self, index: int) -> Seen:
        """The recording of ``plans[index]``."""
        if index not in self._seen:
            self._seen[index] = record(self.config, self.plans[index])
        return self._seen[index]


def as_inputs(seen: Seen, depth_channels: int = 1) -> dict[str, Tensor]:
    """Recorded pictures as a system takes them: about zero mean and unit scale; depth 0 where there was no answer."""
    rgb = torch.from_numpy(seen.rgb).permute(0, 3, 1, 2).float().div_(64).sub_(2).contiguous()
    infrared = torch.from_numpy(seen.infrared)[:, None].float().div_(64).sub_(2)
    answered = torch.from_numpy(seen.depth > 0)[:, None].float()
    metres = torch.from_numpy(seen.depth.astype(np.float32))[:, None] / 1000
    depth = (metres - _MIDDLE_M) / _SCALE_M * answered
    if depth_channels == 2:
        depth = torch.cat([depth, answered], 1)
    return {"rgb": rgb, "infrared": infrared, "depth": depth}
