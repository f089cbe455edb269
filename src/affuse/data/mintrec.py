"""MIntRec: twenty intents in scenes of a television series (Zhang et al., "MIntRec: A New Dataset for Multimodal Intent
Recognition", ACM MM 2022).

A folder holds ``train.tsv``, ``dev.tsv`` and ``test.tsv`` (season, episode, clip, text, label under a header),
``audio_data/audio_feats.pkl`` (key -> (n, 768), wav2vec 2.0) and ``video_data/video_feats.pkl`` (key -> (n, 1, 256), regions of
Faster R-CNN); a key is ``season_episode_clip``. Sizes 1334/445/445. Text becomes the ids of a transformers tokenizer.

Clips that are longer than the maximum are cut to their first steps. (The released loader returns the single row behind the
maximum in their place; with its maxima no clip of the released features is that long.)

A clip without features lacks that modality, and is counted. The files say who speaks nowhere: nothing is known of subjects in
several splits, but episodes in several splits are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from affuse.data.numpy_pickle import load_numpy_pickle
from affuse.data.splits import Splits
from affuse.data.stored_array import StoredArray
from affuse.data.stored_sequences import StoredSample, StoredSequence, StoredSequences, absent_of, find_file
from affuse.types import AffuseError, Task

CLASSES = (
    "Complain",
    "Praise",
    "Apologise",
    "Thank",
    "Criticize",
    "Agree",
    "Taunt",
    "Flaunt",
    "Joke",
    "Oppose",
    "Comfort",
    "Care",
    "Inform",
    "Advise",
    "Arrange",
    "Introduce",
    "Leave",
    "Prevent",
    "Greet",
    "Ask for help",
)
MODALITIES = ("text", "audio", "video")
PARTS = {"train": "train", "validation": "dev", "test": "test"}
FEATURES = {"audio": "audio_data/audio_feats.pkl", "video": "video_data/video_feats.pkl"}
_HEADER = ["season", "episode", "clip", "text", "label"]
_MAX_TSV_BYTES = 64 * 2**20


@dataclass(frozen=True)
class MIntRec:
    """The ``data`` section of a recipe for MIntRec.

    Args:
        root: folder of the tsv files.
        modalities: which are read; the annotations alone suffice for ``["text"]``.
        text: ``ids``: the tokens of the raw text, for a system with a text encoder; ``features``: from `text_features`.
        tokenizer: a transformers name or a local folder (the paper: bert-base-uncased).
        text_features: a pickle below `root`: key -> (n, d).
        max_text, max_audio, max_video: steps that are kept, from the first.
    """

    root: str
    modalities: tuple[str, ...] = MODALITIES
    text: Literal["ids", "features"] = "ids"
    tokenizer: str = "bert-base-uncased"
    text_features: str = "text_data/text_feats.pkl"
    max_text: int = 30
    max_audio: int = 480
    max_video: int = 230

    def __post_init__(self) -> None:
        if not self.modalities or not set(self.modalities) <= set(MODALITIES):
            raise AffuseError(f"MIntRec: modalities are of {list(MODALITIES)}, not {list(self.modalities)}")
        if min(self.max_text, self.max_audio, self.max_video) < 1:
            raise AffuseError("MIntRec: max_text, max_audio and max_video must be positive")

    def splits(self, seed: int) -> Splits:
        """The three parts as given; the same for every seed.

        Raises:
            AffuseError: a file is missing, damaged, malicious, or not of this layout; no tokenizer.
        """
        root = Path(self.root)
        rows = {split: read_annotations(find_file(root, [f"{part}.tsv"], "MIntRec")) for split, part in PARTS.items()}
        tables = {
            name: self._features(root, name) for name in self.modalities if name != "text" or self.text == "features"
        }
        encode = load_tokenizer(self.tokenizer, self.max_text) if self._reads_ids else None
        cut = dict.fromkeys(self.modalities, 0)
        samples: dict[str, list[StoredSample]] = {}
        for split, part in rows.items():
            ids = encode([row.text for row in part]) if encode else []
            samples[split] = [self._sample(row, tables, ids[i] if ids else None, cut) for i, row in enumerate(part)]
        episodes = {split: {row.key.rpartition("_")[0] for row in part} for split, part in rows.items()}
        shared = (episodes["train"] | episodes["validation"]) & episodes["test"]
        facts = {
            "name": "MIntRec",
            "split": "as given (train, dev, test)",
            "counts": {split: len(part) for split, part in samples.items()},
            "text": f"ids of {Path(self.tokenizer).name}" if self._reads_ids else self.text,
            "absent": absent_of(samples, self.modalities),
            "cut_to_the_maximum": {name: count for name, count in cut.items() if count},
            "subjects": "unknown",
            "subjects_shared": [],
            "test_episodes_seen_before": f"{len(shared)} of {len(episodes['test'])}",
        }
        sources = {split: StoredSequences(part) for split, part in samples.items()}
        task = Task("classification", CLASSES)
        return Splits(task, sources["train"], sources["validation"], sources["test"], False, facts)

    @property
    def _reads_ids(self) -> bool:
        return "text" in self.modalities and self.text == "ids"

    def _features(self, root: Path, name: str) -> tuple[Path, dict[str, Any]]:
        file = self.text_features if name == "text" else FEATURES[name]
        path = find_file(root, [file], f"MIntRec's {name} features")
        table = load_numpy_pickle(path)
        if not isinstance(table, dict):
            raise AffuseError(f"{path}: holds a {type(table).__name__}, expected a dict from clip to array")
        return path, table

    def _sample(
        self, row: Annotation, tables: dict[str, tuple[Path, dict[str, Any]]], ids: Tensor | None, cut: dict[str, int]
    ) -> StoredSample:
        inputs: dict[str, StoredSequence | Tensor] = {}
        for name in self.modalities:
            if name not in tables:
                if ids is not None:
                    inputs[name] = ids
                continue
            path, table = tables[name]
            array = table.get(row.key)
            if array is None:
                continue
            squeezed = _two_axes(array)
            if squeezed is None:
                found = f"{array.dtype} {array.shape}" if isinstance(array, StoredArray) else type(array).__name__
                raise AffuseError(f"{path}: {row.key!r} is no array (n, d) or (n, 1, d) of numbers, but {found}")
            most = getattr(self, f"max_{name}")
            cut[name] += len(squeezed) > most
            inputs[name] = StoredSequence(squeezed, 0, min(len(squeezed), most))
        meta = {"id": row.key, "episode": row.key.rpartition("_")[0], "label": CLASSES[row.label], "text": row.text}
        return StoredSample(inputs, row.label, meta)


@dataclass(frozen=True)
class Annotation:
    """A row of a tsv file."""

    key: str
    text: str
    label: int


def read_annotations(path: Path) -> list[Annotation]:
    """The rows of ``train.tsv``, ``dev.tsv`` or ``test.tsv``.

    Raises:
        AffuseError: not such a file, an unknown label, or a clip that is listed twice.
    """
    try:
        if path.stat().st_size > _MAX_TSV_BYTES:
            raise AffuseError(f"{path}: {path.stat().st_size} bytes; MIntRec's are below 100,000")
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise AffuseError(f"{path}: not a text file; copy it again") from None
    except OSError as error:
        raise AffuseError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not lines or lines[0].split("\t") != _HEADER:
        raise AffuseError(f"{path}: its first line is not {' TAB '.join(_HEADER)}")
    found: dict[str, Annotation] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) != 5 or fields[4] not in CLASSES:
            raise AffuseError(f"{path}, line {number}: expected five columns, the last a label, got {line[:80]!r}")
        key = "_".join(fields[:3])
        if key in found:
            raise AffuseError(f"{path}, line {number}: clip {key!r} is listed twice")
        found[key] = Annotation(key, fields[3], CLASSES.index(fields[4]))
    if not found:
        raise AffuseError(f"{path}: lists no clip")
    return list(found.values())


def load_tokenizer(name: str, max_length: int) -> Callable[[Sequence[str]], list[Int[Tensor, " t"]]]:
    """A function from texts to their ids, special tokens included, at most `max_length` each.

    Args:
        name: a transformers name, or a local folder.

    Raises:
        AffuseError: transformers is not installed, or has no such tokenizer.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise AffuseError("text as ids needs transformers: pip install 'affuse[text]'") from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # transformers raises OSError, ValueError and the hub's own errors alike
        said = " ".join(str(error).split())[:160]
        raise AffuseError(f"no tokenizer {name!r} ({said}); give a local folder or go online once") from None

    def encode(texts: Sequence[str]) -> list[Int[Tensor, " t"]]:
        ids = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
        return [torch.tensor(row, dtype=torch.int64) for row in ids]

    return encode


def _two_axes(array: Any) -> StoredArray | None:
    """(n, 1, d) as (n, d), unread; None if it is neither."""
    if not isinstance(array, StoredArray) or array.dtype.kind not in "fiu":
        return None
    if array.ndim == 3 and array.shape[1] == 1:
        return array.without_axis(1)
    return array if array.ndim == 2 else None
