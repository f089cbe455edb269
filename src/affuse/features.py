"""features: raw clips into sequences of text, sound and face features, each with its own times.

What cannot be extracted from a clip is absent, with the reason, and never zero: a clip without a sound stream has no audio,
frames without a face are steps that video does not have, and without a transcript there is no text.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from affuse.data.feature_folder import write_features
from affuse.parts.text import TextEncoder
from affuse.signals import landmarks
from affuse.signals.audio import Audio, frame_times_us, log_mel, read_audio
from affuse.signals.transcripts import SUFFIXES, Cue, read_transcript
from affuse.signals.video import VIDEO_SUFFIXES, read_video
from affuse.types import AffuseError, Sample

SAMPLE_RATE_HZ = 16_000
WINDOW, HOP = 400, 160  # 25 and 10 ms


@dataclass(frozen=True)
class Extraction:
    """What is extracted.

    Args:
        audio: ``log_mel``: `mel_bands` bands every 10 ms; ``egemaps``: the 25 low-level descriptors of eGeMAPS (pitch, jitter,
            shimmer, harmonics, formants, loudness, MFCC) every 10 ms, through openSMILE (extra ``audio``; its licence allows
            research only).
        mel_bands: of ``log_mel``.
        text_encoder: a model of transformers by name or folder, whose last layer gives a vector a token; None: words are kept
            as they are, and the modality text is absent.
        fps: most frames a second in which a face is searched.
        transcripts: folder of transcripts named as the clips; None: beside them.
    """

    audio: Literal["log_mel", "egemaps"] = "log_mel"
    mel_bands: int = 40
    text_encoder: str | None = None
    fps: float = 15.0
    transcripts: Path | None = None

    def __post_init__(self) -> None:
        if not 0 < self.fps < float("inf") or self.mel_bands < 1:
            raise AffuseError(f"fps and mel_bands must be positive, got {self.fps} and {self.mel_bands}")


@dataclass(frozen=True)
class Extracted:
    """A clip's features, and for each modality that it lacks the reason."""

    sample: Sample
    absent: dict[str, str] = field(default_factory=dict)


def extract(clip: str | Path, extraction: Extraction | None = None) -> Extracted:
    """Features of one clip.

    Returns:
        ``text`` (t, d), ``audio`` (t, 40 or 25) and ``video`` (t, 136): 68 landmarks of the face, x and y, with the middle of
        the eyes at 0, the eyes level and 1 apart. Times are those of the clip's first frame on; a token has the start of its
        cue. No library that can be had offline measures action units, so there are none.

    Raises:
        AffuseError: the clip or its transcript is broken, the folder of transcripts is missing, an extra that the settings
            ask for is missing, or nothing at all can be extracted.
    """
    extraction = extraction or Extraction()
    clip = Path(clip)
    if clip.suffix.lower() not in VIDEO_SUFFIXES:
        raise AffuseError(f"{clip}: expected a video ({', '.join(VIDEO_SUFFIXES)})")
    if not clip.is_file():
        raise AffuseError(f"{clip}: no such file")
    inputs: dict[str, Tensor] = {}
    times_us: dict[str, Tensor] = {}
    absent: dict[str, str] = {}
    meta: dict[str, Any] = {"id": clip.stem}
    cues = _cues(clip, extraction)
    if cues:
        meta["text"] = " ".join(cue.text for cue in cues)
    makers: dict[str, Callable[[], tuple[Tensor, Tensor | None] | str]] = {
        "text": lambda: _text(cues, extraction.text_encoder),
        "audio": lambda: _audio(clip, extraction),
        "video": lambda: _video(clip, extraction.fps),
    }
    for name, make in makers.items():
        made = make()
        if isinstance(made, str):
            absent[name] = made
            continue
        inputs[name], times = made
        if times is not None:
            times_us[name] = times
    if not inputs:
        reasons = "; ".join(f"{name}: {why}" for name, why in absent.items())
        raise AffuseError(f"{clip}: nothing can be extracted ({reasons})")
    return Extracted(Sample(inputs, None, times_us, meta), absent)


def extract_all(clips: Sequence[Path], out: Path, extraction: Extraction | None = None) -> Iterator[str]:
    """Features of several clips into a folder of the project's own format; a line of what was found for each.

    Raises:
        AffuseError: as `extract`, or two clips share a name, or `out` is taken. Nothing is then left in `out`.
    """
    names = [clip.stem for clip in clips]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise AffuseError(f"two clips are called {doubled[0]!r}, which is to be their id: rename one of them")
    lines: list[str] = []

    def each() -> Iterator[tuple[None, Sample, dict[str, str]]]:
        for clip in clips:
            found = extract(clip, extraction)
            shapes = [f"{name} {tuple(values.shape)}" for name, values in found.sample.inputs.items()]
            lacks = [f"no {name}: {why}" for name, why in found.absent.items()]
            lines.append(f"{clip.name}: {', '.join(shapes)}" + "".join(f"; {line}" for line in lacks))
            yield None, found.sample, found.absent

    settings = dataclasses.asdict(extraction or Extraction())
    facts = {"made_by": "affuse features", **{key: value for key, value in settings.items() if key != "transcripts"}}
    write_features(out, each(), None, "own clips", facts)
    yield from lines


def _cues(clip: Path, extraction: Extraction) -> list[Cue] | None:
    folder = extraction.transcripts if extraction.transcripts is not None else clip.parent
    if not folder.is_dir():
        raise AffuseError(f"{folder}: no such folder of transcripts; leave it out where they stand beside the clips")
    found = [path for suffix in SUFFIXES if (path := folder / f"{clip.stem}{suffix}").is_file()]
    return read_transcript(found[0]) if found else None


def _text(cues: list[Cue] | None, encoder: str | None) -> tuple[Tensor, Tensor | None] | str:
    if cues is None:
        return f"no transcript; put one beside the clip ({', '.join(SUFFIXES)})"
    if not cues:
        return "the transcript is empty"
    if encoder is None:
        return "no text encoder was asked for; the words are kept"
    tokenizer, model = _text_encoder(encoder)
    whole = tokenizer(" ".join(cue.text for cue in cues), return_offsets_mapping=True, return_special_tokens_mask=True)
    special = np.array(whole["special_tokens_mask"], dtype=bool)
    if special.all():
        return "the transcript holds no word that the text encoder knows"
    tokens = torch.tensor([whole["input_ids"]])
    with torch.no_grad():
        vectors = model(tokens, torch.ones_like(tokens, dtype=torch.bool))[0]
    if any(cue.start_us is None for cue in cues):
        return vectors, None
    # Each token belongs to the cue that its first letter stands in; a special one to its neighbour.
    ends = np.cumsum([len(cue.text) + 1 for cue in cues])
    owner = np.searchsorted(ends, [start for start, _ in whole["offset_mapping"]], side="right")
    words = np.flatnonzero(~special)
    owner[special] = owner[words[np.abs(np.flatnonzero(special)[:, None] - words).argmin(1)]]
    return vectors, torch.tensor([cues[number].start_us for number in owner], dtype=torch.int64)


@functools.lru_cache(maxsize=1)
def _text_encoder(name: str) -> tuple[Any, TextEncoder]:
    model = TextEncoder(name, pretrained=True, finetune=False)  # names the extra where it is missing
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise AffuseError(
            f"text encoder {name!r}: it has no tokeniser ({' '.join(str(error).split())[:150]})"
        ) from None
    return tokenizer, model.eval()


def _audio(clip: Path, extraction: Extraction) -> tuple[Tensor, Tensor] | str:
    try:
        audio = read_audio(clip, SAMPLE_RATE_HZ)
    except AffuseError as error:
        if "holds no sound" in str(error):
            return "the clip holds no sound"
        raise
    if len(audio.samples) < WINDOW:
        return f"the sound lasts {audio.duration_us / 1e6:.3f} s, less than one window"
    if extraction.audio == "egemaps":
        return _egemaps(audio)
    features = log_mel(audio.samples, SAMPLE_RATE_HZ, bands=extraction.mel_bands, window=WINDOW, hop=HOP)
    return features, frame_times_us(len(audio.samples), SAMPLE_RATE_HZ, WINDOW, HOP, audio.start_us)


def _egemaps(audio: Audio) -> tuple[Tensor, Tensor] | str:
    smile = _smile()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Segment too short")
        table = smile.process_signal(audio.samples.numpy(), audio.sample_rate_hz)
    values = np.asarray(table.to_numpy(), dtype=np.float32)
    starts = table.index.get_level_values("start").total_seconds().to_numpy()
    known = np.isfinite(values).all(1)
    if not known.any():
        return "openSMILE found nothing in so short a sound"
    times = torch.from_numpy(np.round(starts[known] * 1e6).astype(np.int64)) + audio.start_us
    return torch.from_numpy(values[known]), times


@functools.lru_cache(maxsize=1)
def _smile() -> Any:
    try:
        import opensmile
    except ImportError:
        raise AffuseError("audio 'egemaps' needs openSMILE: pip install 'affuse[audio]' (for research only)") from None
    return opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.LowLevelDescriptors)


def _video(clip: Path, fps: float) -> tuple[Tensor, Tensor] | str:
    usable, why = landmarks.available()
    if not usable:
        return why
    faces, times, frames = [], [], 0
    previous: np.ndarray | None = None
    due_us = 0.0
    with read_video(clip) as reader:
        for time_us, image in reader:
            if time_us < due_us:
                continue
            due_us = max(due_us + 1e6 / fps, time_us)
            frames += 1
            found = landmarks.find_landmarks(image, previous)
            previous = found if found is not None else previous
            if found is not None:
                faces.append(landmarks.normalised(found).reshape(-1))
                times.append(time_us)
    if not faces:
        return f"no face in any of {frames} frames"
    return torch.from_numpy(np.stack(faces)), torch.tensor(times, dtype=torch.int64)
