"""Clips with a sound and a picture: how both become inputs, the same for every data set of such clips.

A clip is files (or one file with both), a label and perhaps a segment. Files are decoded when a sample is asked for; what
can be seen without decoding (missing, zero length, a Git LFS pointer, a sound file without sound) is found before training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from affuse.data.see import is_lfs_pointer, read_image
from affuse.signals.audio import Audio, log_mel, read_audio
from affuse.signals.clips import resize
from affuse.signals.video import VIDEO_SUFFIXES, read_video
from affuse.types import AffuseError, Sample

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
MOVIE_SUFFIXES = (*VIDEO_SUFFIXES, ".flv")
_EMPTY_WAV_BYTES = 44  # the smallest header, and no sound behind it
_MAX_CANDIDATES = 1000  # frames held while a few of them are chosen
_MAX_CLIP_SECONDS = 60.0


@dataclass(frozen=True)
class SoundSpec:
    """How a sound becomes an input.

    Args:
        form: ``stft``: log(|X| + 1e-7) as an image (steps, 1, f, w); ``log_mel``: the same of mel bands, (steps, 1, bands,
            w); ``log_mel_sequence``: (t, bands), one vector a window.
        sample_rate_hz: the sound is resampled to it.
        seconds: length of what is read: a shorter sound is repeated, a longer one cut at its end.
        window: samples a window (n_fft); Hann-weighted, and centred on its time in ``stft``.
        hop: samples from one window to the next.
        bands: mel bands.
        steps: the image is cut into so many equal pieces in time, in order (t); the few columns left over are dropped.

    The defaults are those of OGM-GE (Peng et al., CVPR 2022) on CREMA-D: 3 s at 22050 Hz, an image of 257 x 188.
    """

    form: Literal["stft", "log_mel", "log_mel_sequence"] = "stft"
    sample_rate_hz: int = 22_050
    seconds: float = 3.0
    window: int = 512
    hop: int = 353
    bands: int = 64
    steps: int = 1

    def __post_init__(self) -> None:
        if min(self.sample_rate_hz, self.window, self.hop, self.bands, self.steps) < 1:
            raise AffuseError(f"sound: sample_rate_hz, window, hop, bands and steps must be positive: {self}")
        if not 0 < self.seconds <= _MAX_CLIP_SECONDS or self.samples <= self.window:
            raise AffuseError(
                f"sound: seconds must be longer than one window and at most {_MAX_CLIP_SECONDS:g}: {self.seconds:g}"
            )

    @property
    def samples(self) -> int:
        """Samples that are read."""
        return round(self.seconds * self.sample_rate_hz)


@dataclass(frozen=True)
class FrameSpec:
    """Which frames of a clip are taken, and how they become an input (t, 3, size, size).

    Args:
        fps: rate at which candidates are taken from a video; a folder of images holds candidates.
        count: frames a sample (t).
        pick: ``spread``: from the middle of `count` equal parts of the candidates; ``random``: in training, anywhere in each
            part; ``first``: the first ones, which is what the released code of OGM-GE does (it draws numbers and does not
            use them). Too few candidates are repeated.
        size: side, pixels; pictures are not cut, but squeezed to a square.
        mean, std: RGB in [0, 1] is normalised as (x - mean) / std; ImageNet's by default.
        augment: in training, a random crop of all frames alike, and a mirror image of half of the samples.
        min_crop: smallest share of the area that a crop keeps; its sides relate as 3:4 to 4:3.
    """

    fps: float = 1.0
    count: int = 1
    pick: Literal["spread", "random", "first"] = "spread"
    size: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    augment: bool = True
    min_crop: float = 0.08

    def __post_init__(self) -> None:
        if self.fps <= 0 or min(self.count, self.size) < 1 or min(self.std) <= 0:
            raise AffuseError(f"frames: fps, count, size and std must be positive: {self}")
        if not 0 < self.min_crop <= 1:
            raise AffuseError(f"frames: min_crop is a share above 0 and at most 1, not {self.min_crop}")


@dataclass(frozen=True)
class Clip:
    """One clip on disk.

    Args:
        name: its id.
        target: class index.
        sound: a sound file, or a video with sound; None: that sensor is not read.
        frames: a video, or a folder of images in the order of their names; None: that sensor is not read.
        segment_s: start and stop within the files, seconds; None: all of it.
        meta: label, subject and what else is known.
    """

    name: str
    target: int
    sound: Path | None
    frames: Path | None
    segment_s: tuple[float, float] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


class Clips:
    """Map-style source of samples with ``audio`` and ``video``, decoded when asked for."""

    def __init__(self, clips: Sequence[Clip], sound: SoundSpec, frames: FrameSpec, training: bool) -> None:
        self._clips = tuple(clips)
        self._sound = sound
        self._frames = frames
        self._training = training

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int, /) -> Sample:
        clip = self._clips[index]
        inputs: dict[str, Tensor] = {}
        if clip.sound is not None:
            audio = cut(read_audio(clip.sound, self._sound.sample_rate_hz), clip.segment_s, clip.sound)
            inputs["audio"] = sound_input(audio.samples, self._sound)
        if clip.frames is not None:
            images = chosen_frames(clip.frames, self._frames, self._training, clip.segment_s)
            inputs["video"] = frames_input(images, self._frames, self._training)
        return Sample(inputs, clip.target, {}, {"id": clip.name, **clip.meta})


def cut(audio: Audio, segment_s: tuple[float, float] | None, path: Path) -> Audio:
    """The part of a sound from start to stop, seconds on the recording's clock; `dropped` and `filled` stay those of all.

    Raises:
        AffuseError: nothing of the sound lies there.
    """
    if segment_s is None:
        if not len(audio.samples):
            raise AffuseError(f"{path}: its sound has no samples; copy it again")
        return audio
    first, last = (max(0, round((s - audio.start_us / 1e6) * audio.sample_rate_hz)) for s in segment_s)
    part = audio.samples[first:last]
    if not len(part):
        raise AffuseError(f"{path}: no sound from {segment_s[0]:g} to {segment_s[1]:g} s; check the annotation")
    return replace(audio, samples=part, start_us=max(audio.start_us, round(segment_s[0] * 1e6)))


def sound_input(samples: Float[Tensor, " n"], spec: SoundSpec) -> Tensor:
    """A sound as `SoundSpec` says: (steps, 1, f, w), or (t, bands). Silence is finite.

    Raises:
        AffuseError: no samples, or more steps than the image has columns.
    """
    if not len(samples):
        raise AffuseError("a sound of no samples has no spectrum; leave the clip out")
    repeats = -(-spec.samples // len(samples))
    samples = samples.repeat(repeats)[: spec.samples].clamp(-1, 1)
    if spec.form == "stft":
        # Centred windows, the ends mirrored: 1 + samples // hop of them.
        weight = torch.hann_window(spec.window)
        spectrum = torch.stft(samples, spec.window, spec.hop, window=weight, pad_mode="reflect", return_complex=True)
        image = torch.log(spectrum.abs() + 1e-7)  # f w
    else:
        bands = log_mel(samples, spec.sample_rate_hz, bands=spec.bands, window=spec.window, hop=spec.hop)  # w k
        if spec.form == "log_mel_sequence":
            return bands
        image = bands.T.contiguous()  # k w
    width = image.shape[1] // spec.steps
    if not width:
        raise AffuseError(f"sound: {spec.steps} steps of an image of {image.shape[1]} columns; take fewer steps")
    pieces = image[:, : width * spec.steps].reshape(image.shape[0], spec.steps, 1, width)
    return pieces.permute(1, 2, 0, 3).contiguous()  # t 1 f w


def chosen_frames(
    path: Path, spec: FrameSpec, training: bool, segment_s: tuple[float, float] | None = None
) -> UInt8[Tensor, "t 3 h w"]:
    """`spec.count` frames of a video or of a folder of images, 8-bit RGB.

    Raises:
        AffuseError: nothing there can be read, or the segment holds no frame.
    """
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise AffuseError(f"{path}: holds no image")
        images = [read_image(files[i]) for i in places(len(files), spec, training)]
    else:
        candidates = _candidates(path, spec.fps, segment_s)
        images = [candidates[i] for i in places(len(candidates), spec, training)]
    if len({image.shape for image in images}) > 1:
        raise AffuseError(f"{path}: frames differ in size: {sorted({image.shape[:2] for image in images})}")
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)  # t 3 h w


def places(available: int, spec: FrameSpec, training: bool) -> list[int]:
    """Which of the candidates are taken, in order; `random` draws from torch's global generator."""
    if spec.pick == "first":
        return [min(step, available - 1) for step in range(spec.count)]
    if spec.pick == "random" and training:
        within = torch.rand(spec.count).tolist()
    else:
        within = [0.5] * spec.count
    return [min(int((step + u) * available / spec.count), available - 1) for step, u in enumerate(within)]


def frames_input(images: UInt8[Tensor, "t 3 h w"], spec: FrameSpec, training: bool) -> Float[Tensor, "t 3 s s"]:
    """Frames resized and normalised; cropped and mirrored first where it is for training."""
    pixels = images.float() / 255
    if training and spec.augment:
        top, left, height, width = _crop(pixels.shape[-2], pixels.shape[-1], spec.min_crop)
        pixels = pixels[..., top : top + height, left : left + width]
        if torch.rand(()) < 0.5:
            pixels = pixels.flip(-1)
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    return (resize(pixels, spec.size) - mean) / std


def fault(path: Path) -> str | None:
    """What is wrong with a file or a folder of images, as far as it shows without decoding; None: nothing."""
    try:
        if path.is_dir():
            files = [p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
            faults = (fault(file) for file in sorted(files))
            return next((f"{f} among its images" for f in faults if f), None) if files else "no image in the folder"
        size = path.stat().st_size
        if size == 0:
            return "zero length"
        if size < 1024 and is_lfs_pointer(path):
            return "a Git LFS pointer"
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if path.suffix.lower() == ".wav" and size <= _EMPTY_WAV_BYTES:
        return "a header without sound"
    return None


def usable(clips: Sequence[Clip], root: Path, max_bad_fraction: float, name: str) -> tuple[list[Clip], list[str]]:
    """The clips without a `fault`, and ``FILE: fault`` of the others.

    Args:
        clips: all of them.
        root: their folder, for the error.
        max_bad_fraction: more bad clips than this share stop the run.
        name: of the data set, as `doctor` knows it.

    Raises:
        AffuseError: too many bad clips, or nothing else.
    """
    good: list[Clip] = []
    bad: list[str] = []
    for clip in clips:
        files = dict.fromkeys(path for path in (clip.sound, clip.frames) if path is not None)
        faults = [f"{_below(path, root)}: {what}" for path in files if (what := fault(path))]
        bad += faults[:1]
        good += [] if faults else [clip]
    if bad and (len(bad) > max_bad_fraction * len(clips) or not good):
        pull = "run 'git lfs pull' where the data came from" if "Git LFS" in bad[0] else "mend them"
        raise AffuseError(
            f"{root}: {len(bad)} of {len(clips)} clips cannot be used (first: {bad[0]}); {pull}, see "
            f"'affuse doctor --data {name}', or raise max_bad_fraction"
        )
    return good, bad


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _candidates(path: Path, fps: float, segment_s: tuple[float, float] | None) -> list[np.ndarray]:
    """The first frame at or after each tick of `fps` within the segment; none twice, so a gap in time has none."""
    start_us, stop_us = (0.0, float("inf")) if segment_s is None else (1e6 * s for s in segment_s)
    found: list[np.ndarray] = []
    tick = 0
    with read_video(path) as reader:
        for frame in reader:
            if frame.time_us >= stop_us or len(found) == _MAX_CANDIDATES:
                break
            # Half a millisecond of slack: a rate such as 29.97 rounds its times.
            passed = (frame.time_us + 500 - start_us) * fps / 1e6
            if passed >= tick:
                found.append(frame.image)
                tick = int(passed) + 1
    if not found:
        raise AffuseError(f"{path}: no frame in the segment {segment_s}; check the annotation")
    return found


def _crop(height: int, width: int, min_area: float) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop: its area uniform, its shape log-uniform."""
    low, high = np.log(3 / 4), np.log(4 / 3)
    for _ in range(10):
        area, shape, y, x = torch.rand(4).tolist()
        area = height * width * (min_area + area * (1 - min_area))
        shape = float(np.exp(low + shape * (high - low)))
        w, h = round((area * shape) ** 0.5), round((area / shape) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            return int(y * (height - h + 1)), int(x * (width - w + 1)), h, w
    side = min(height, width)  # a picture too long and thin for any of these: its middle
    return (height - side) // 2, (width - side) // 2, side, side
