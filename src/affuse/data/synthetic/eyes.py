"""The synthetic eye world: one eye that makes SEE's seven expressions before an RGB and an event camera.

Every recording has a person, an expression, a light, and motion of its own, all drawn from the seed, its split and its
number. The same moving scene goes to both cameras. What real data cannot tell is known: the light, the onset, and how
much of the signal each sensor kept. No subject stands in two splits. A recording is rendered when it is first read.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from affuse.data.splits import Splits
from affuse.data.synthetic.eye_motion import EXPRESSIONS, Motion, draw_motion
from affuse.data.synthetic.eye_renderer import Subject, draw_subject, render
from affuse.data.synthetic.plans import SPLITS, Plan, Split, check_world_seed, dealt, facts_of, new_folder
from affuse.data.synthetic.rgb_sensor import LIGHTS, FrameCamera, illumination, signal_kept, srgb
from affuse.ops.events import accumulated_image
from affuse.signals.clips import ClipSpec, event_clip, rgb_clip
from affuse.signals.events import Events, simulate_events
from affuse.types import AffuseError, Sample, Task

CLASSES = tuple(EXPRESSIONS)
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)  # ITU-R BT.709


@dataclass(frozen=True)
class Eyes:
    """The ``data`` section of a recipe for the synthetic eye world.

    Args:
        train_sequences, validation_sequences, test_sequences: recordings; expressions and lights take equal shares.
        train_subjects, validation_subjects, test_subjects: people; none is in two splits.
        size: side of the picture, pixels.
        length: frames of a recording.
        lights: names of `LIGHTS`.
        clip: how recordings become inputs; its fps is the camera's.
        test_crops: clips of each test recording, evenly spaced.
        oversampling: times that the scene is drawn a frame, for the event camera and for motion blur.
        intensity: range of the strength of an expression.
        blink_probability: share of recordings with a blink.
        head_motion: of the head's sway, half image widths.
        threshold, threshold_mismatch: contrast threshold of the event camera, natural log units.
        leak_rate_hz: leak noise of the event camera.
        dark_level: dark current of the event camera, as intensity. Where normal light is 500 lux, 0.0002 is the 0.1 lux down to
            which the DVS sees (Lichtsteiner, Posch, Delbrück, IEEE Journal of Solid-State Circuits 2008).
        camera: the frame camera.
        world_seed: draws the people and recordings; by default the run's seed.
        processes: with more than one, a split is rendered as a whole at its first use, by that many processes.
    """

    train_sequences: int = 560
    validation_sequences: int = 140
    test_sequences: int = 280
    train_subjects: int = 40
    validation_subjects: int = 10
    test_subjects: int = 20
    size: int = 48
    length: int = 32
    lights: tuple[str, ...] = tuple(LIGHTS)
    clip: ClipSpec = field(default_factory=lambda: ClipSpec(size=48))
    test_crops: int = 1
    oversampling: int = 2
    intensity: tuple[float, float] = (0.55, 1.0)
    blink_probability: float = 0.5
    head_motion: float = 0.006
    threshold: float = 0.25
    threshold_mismatch: float = 0.03
    leak_rate_hz: float = 0.1
    dark_level: float = 0.0002
    camera: FrameCamera = field(default_factory=FrameCamera)
    world_seed: int | None = None
    processes: int = 1

    def __post_init__(self) -> None:
        check_world_seed("eyes", self.world_seed)
        counts = [getattr(self, f"{split}_{what}") for split in SPLITS for what in ("sequences", "subjects")]
        if min(*counts, self.size, self.oversampling, self.test_crops, self.processes) < 1:
            raise AffuseError(
                "eyes: sequences, subjects, size, oversampling, test_crops and processes must be at least 1"
            )
        unknown = [light for light in self.lights if light not in LIGHTS]
        if unknown or not self.lights:
            raise AffuseError(f"eyes: lights {unknown} are unknown, or none is given; there are {list(LIGHTS)}")
        if self.last_start < self.first_start:
            raise AffuseError(
                f"eyes: a clip of {self.clip.span} frames and the events before it do not fit into {self.length} frames; "
                "raise length or lower clip.frames or clip.stride"
            )
        if not 0 <= self.intensity[0] <= self.intensity[1] <= 1:
            raise AffuseError(f"eyes: intensity {list(self.intensity)} must rise within [0, 1]")

    @property
    def first_start(self) -> int:
        """First frame that has a whole event window behind it."""
        return int(np.ceil(self.clip.window_us * self.clip.fps / 1e6 - 1e-3))

    @property
    def last_start(self) -> int:
        return self.length - self.clip.span

    def splits(self, seed: int) -> Splits:
        """Train (random crops in time), validation (the middle crop) and test (evenly spaced crops)."""
        world = self.world_seed if self.world_seed is not None else seed
        sources = {split: EyeClips(self, split, world) for split in SPLITS}
        facts = {**facts_of("synthetic eye world", sources, world), "test_crops": self.test_crops}
        task = Task("classification", CLASSES)
        return Splits(task, sources["train"], sources["validation"], sources["test"], True, facts, self.clip)


@dataclass(frozen=True)
class Recording:
    """What both cameras recorded, and the truth.

    Args:
        frames: (t, h, w, 3), 8-bit.
        times_us: (t,).
        events: over the whole recording.
        truth: ``light``, ``onset_us`` (None in a neutral recording), and ``rgb_kept``, ``event_kept``, each in [0, 1]: the
            share of the clean, normally lit picture's variance that the frames explain, and of the events that motion made.
    """

    frames: NDArray[np.uint8]
    times_us: NDArray[np.int64]
    events: Events
    truth: dict[str, Any]


def plans(config: Eyes, split: Split, world: int) -> list[Plan]:
    """The recordings of a split: expressions and lights in equal shares, people at random."""
    sequences = {name: getattr(config, f"{name}_sequences") for name in SPLITS}
    people = {name: getattr(config, f"{name}_subjects") for name in SPLITS}
    return dealt(split, sequences, people, CLASSES, config.lights, world)


def subject_of(world: int, number: int) -> Subject:
    """The person of this number."""
    return draw_subject(np.random.default_rng((world, 100, number)))


def record(config: Eyes, plan: Plan) -> Recording:
    """Draw the recording's motion and let both cameras see it."""
    rng = np.random.default_rng(plan.seed)
    steps = config.length * config.oversampling
    times_s = np.arange(steps) / (config.clip.fps * config.oversampling)
    motion = draw_motion(
        plan.label,
        times_s,
        rng,
        intensity=config.intensity,
        blink_probability=config.blink_probability,
        head_motion=config.head_motion,
    )
    return expose(config, subject_of(plan.seed[0], plan.subject), motion, plan.light, rng)


def expose(config: Eyes, subject: Subject, motion: Motion, light_name: str, rng: np.random.Generator) -> Recording:
    """Both cameras' view of a motion that is given at `oversampling` times a frame."""
    light = LIGHTS[light_name]
    normal = illumination(LIGHTS["normal"], config.size, np.random.default_rng(int(rng.integers(2**31))))
    lit = normal if light_name == "normal" else illumination(light, config.size, rng)
    reflectance = render(subject, motion, config.size, pupil=light.pupil)  # steps h w 3
    steps_us = np.round(np.arange(len(reflectance)) * 1e6 / (config.clip.fps * config.oversampling)).astype(np.int64)
    every = slice(None, None, config.oversampling)
    sharp = reflectance[every]
    seen = _blurred(reflectance, config.oversampling) if light.long_exposure else sharp
    frames = config.camera.record(seen * lit[..., None], rng)
    clean = srgb(np.minimum(sharp * normal[..., None], 1))

    scene = (reflectance @ _LUMINANCE) * lit  # steps h w
    seed = int(rng.integers(2**31))
    sensor: dict[str, Any] = {
        "threshold": config.threshold,
        "threshold_mismatch": config.threshold_mismatch,
        "dark_level": config.dark_level,
        "seed": seed,
    }
    signal = simulate_events(scene, steps_us, leak_rate_hz=0.0, shot_noise_rate_hz=0.0, **sensor)
    # Noise comes on top of the signal; the same sensor before the still scene gives it apart, so that it can be counted.
    still = np.repeat(scene.mean(0, keepdims=True), 2, 0)
    ends = steps_us[[0, -1]]
    noise = simulate_events(
        still, ends, leak_rate_hz=config.leak_rate_hz, shot_noise_rate_hz=light.event_noise_hz, **sensor
    )
    total = len(signal) + len(noise)
    truth = {
        "light": light_name,
        "rgb_kept": signal_kept(frames, clean),
        "event_kept": len(signal) / total if total else 0.0,
        "onset_us": None if motion.onset_s is None else round(motion.onset_s * 1e6),
    }
    return Recording(frames, steps_us[every], _merged(signal, noise), truth)


def _blurred(reflectance: NDArray[np.float32], window: int) -> NDArray[np.float32]:
    """Mean of each frame's time and those since the frame before; the first frame has none before."""
    mean = reflectance[::window].copy()
    for back in range(1, window):
        mean[1:] += reflectance[window - back :: window][: len(mean) - 1]
        mean[0] += reflectance[0]
    return mean / np.float32(window)


def _merged(one: Events, two: Events) -> Events:
    t_us, x, y, p = (np.concatenate([getattr(one, name), getattr(two, name)]) for name in ("t_us", "x", "y", "p"))
    order = np.argsort(t_us, kind="stable")
    return Events(t_us[order], x[order], y[order], p[order], width=one.width, height=one.height)


class EyeClips:
    """Clips of a split. Each has ``rgb`` (t, 3, s, s) and ``event`` (t, c, s, s); a recording is rendered at first use and
    kept, with the event images that were asked for in half precision. `plans` says what is in it, without rendering.
    """

    def __init__(self, config: Eyes, split: Split, world: int) -> None:
        self.config = config
        self.split = split
        self.plans = plans(config, split, world)
        self.crops = config.test_crops if split == "test" else 1
        self._recordings: dict[int, Recording] = {}
        self._event_images: dict[tuple[int, int], Tensor] = {}

    def __len__(self) -> int:
        return len(self.plans) * self.crops

    def __getitem__(self, index: int, /) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        row, crop = divmod(index % len(self), self.crops)
        plan, recording = self.plans[row], self.recording(row)
        chosen = self._start(crop) + np.arange(self.config.clip.frames) * self.config.clip.stride
        times_us = torch.from_numpy(recording.times_us[chosen])
        inputs = {
            "rgb": rgb_clip(recording.frames[chosen], self.config.clip),
            "event": torch.stack([self._event_image(row, int(frame)) for frame in chosen]).float(),
        }
        meta = {
            "id": plan.id,
            "crop": crop,
            "subject": plan.subject,
            "condition": plan.light,
            "truth": recording.truth,
        }
        return Sample(inputs, CLASSES.index(plan.label), {"rgb": times_us, "event": times_us}, meta)

    def recording(self, row: int) -> Recording:
        """The recording of ``plans[row]``."""
        if row not in self._recordings and self.config.processes > 1:
            self._recordings = dict(enumerate(_rendered(self.config, self.plans)))
        if row not in self._recordings:
            self._recordings[row] = record(self.config, self.plans[row])
        return self._recordings[row]

    def _start(self, crop: int) -> int:
        first, last = self.config.first_start, self.config.last_start
        if self.split == "train":
            return int(torch.randint(first, last + 1, ()))
        return first + round((crop + 0.5) * (last - first) / self.crops)

    def _event_image(self, row: int, frame: int) -> Tensor:
        if (row, frame) not in self._event_images:
            recording = self.recording(row)
            image = event_clip(recording.events, recording.times_us[frame : frame + 1], self.config.clip)[0]
            self._event_images[row, frame] = image.half()  # whole counts and shares of them: half precision holds them
        return self._event_images[row, frame]


def _rendered(config: Eyes, planned: list[Plan]) -> list[Recording]:
    """All recordings, rendered by `processes` fresh processes (a fork of one that runs PyTorch's threads is not safe)."""
    what = f"rendering {len(planned)} synthetic recordings ({planned[0].split})"
    with ProcessPoolExecutor(config.processes, multiprocessing.get_context("spawn")) as pool:
        found = pool.map(partial(record, config), planned, chunksize=8)
        return list(track(found, what, len(planned), console=Console(stderr=True), transient=True))


def write_see(config: Eyes, root: str | Path, seed: int) -> None:
    """Write the world in SEE's layout, as `affuse.data.see` describes it, and ``truth.json`` by sequence beside it.

    Train and validation become the subset ``training``. Event images are those of the events of the 33 ms before each
    frame. ``emotion.json`` has ``"synthetic": true`` beside what SEE's has.

    Raises:
        AffuseError: `root` exists and is not an empty folder, or cannot be written.
    """
    root = new_folder(root, "eye world")
    database: dict[str, Any] = {}
    truth: dict[str, Any] = {}
    try:
        for name, plan, recording in _named_recordings(config, seed):
            for kind, images in (("frame", recording.frames), ("event", _accumulated(recording, config.clip.fps))):
                folder = root / kind / plan.label / name
                folder.mkdir(parents=True)
                for number, image in enumerate(images):
                    # OpenCV writes blue first.
                    _, content = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
                    (folder / f"{number:05d}.jpg").write_bytes(content.tobytes())
            subset = "testing" if plan.split == "test" else "training"
            segment = [0, config.length]
            database[name] = {"subset": subset, "annotations": {"label": plan.label, "segment": segment}}
            truth[name] = recording.truth
        annotations = {"labels": list(CLASSES), "synthetic": True, "database": database}
        (root / "emotion.json").write_text(json.dumps(annotations))
        (root / "truth.json").write_text(json.dumps(truth, indent=1))
    except OSError as error:
        raise AffuseError(f"{root}: cannot write the eye world ({error.strerror}); choose another folder") from None


def _named_recordings(config: Eyes, seed: int) -> Iterator[tuple[str, Plan, Recording]]:
    world = config.world_seed if config.world_seed is not None else seed
    takes: dict[tuple[int, str, str], int] = {}
    for split in SPLITS:
        for plan in plans(config, split, world):
            rng = np.random.default_rng((world, 200, plan.subject))
            person = (
                f"{('man', 'woman')[rng.integers(2)]}_{rng.integers(18, 61)}_{('Bachelor', 'Master')[rng.integers(2)]}"
            )
            key = (plan.subject, plan.light, plan.label)
            take = takes[key] = takes.get(key, -1) + 1
            name = f"{plan.number + 1}_{plan.subject + 1:03d}_{person}_{plan.light}_{plan.label}"
            yield f"{name}_{config.length}_take{take:03d}", plan, record(config, plan)


def _accumulated(recording: Recording, fps: float) -> NDArray[np.uint8]:
    images = []
    for time in recording.times_us.tolist():
        part = recording.events.slice_time(time - round(1e6 / fps), time)
        image = accumulated_image(*part.tensors(), height=part.height, width=part.width)  # 3 h w
        images.append((image * 255).round().byte().permute(1, 2, 0).numpy())
    return np.stack(images)
