"""CMU-MOSI and CMU-MOSEI as the feature files of MMSA (Yu et al., ACL 2020; Mao et al., ACL 2022 demo), one number of sentiment
from -3 to 3 an utterance.

``MOSI/Processed/aligned_50.pkl`` and its kin hold, for each of ``train``, ``valid`` and ``test``::

    text (n, 50, 768)         what BERT says of each token          text_bert (n, 3, 50)   ids, mask, segments
    audio (n, t, a)           COVAREP                               vision (n, t, v)       FACET
    id                        "video$_$clip"                        regression_labels (n,)
    audio_lengths, vision_lengths   where unaligned                 raw_text, annotations

Aligned files have 50 steps of each; all modalities of a sample end where the mask of its text ends. In unaligned files each has
a length of its own. Sizes: MOSI 1284/229/686 with a = 5 and v = 20, MOSEI 16326/1871/4659 with a = 74 and v = 35.

Arrays stay in the file (`StoredArray`), for MOSEI's take up to 13 GB. -inf in audio, the logarithm of silence, becomes 0 and is
counted, for which the audio is read through once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from affuse.data.numpy_pickle import load_numpy_pickle
from affuse.data.splits import Splits
from affuse.data.stored_array import StoredArray
from affuse.data.stored_sequences import (
    StoredSample,
    StoredSequence,
    StoredSequences,
    absent_of,
    find_file,
    subjects_of,
    used_steps,
)
from affuse.types import AffuseError, Task

MODALITIES = ("text", "audio", "video")
PARTS = {"train": "train", "validation": "valid", "test": "test"}
TASK = Task("regression", value_range=(-3.0, 3.0), units="sentiment")
SIZES = {"mosi": (1284, 229, 686), "mosei": (16326, 1871, 4659)}
# As MMSA's page lists them.
SHA256 = {
    ("mosi", "aligned"): "d3994fd25681f9c7ad6e9c6596a6fe9b4beb85ff7d478ba978b124139002e5f9",
    ("mosi", "unaligned"): "78e0f8b5ef8ff71558e7307848fc1fa929ecb078203f565ab22b9daab2e02524",
    ("mosei", "aligned"): "45eccfb748a87c80ecab9bfac29582e7b1466bf6605ff29d3b338a75120bf791",
    ("mosei", "unaligned"): "ad8b23d50557045e7d47959ce6c5b955d8d983f2979c7d9b7b9226f6dd6fec1f",
}


@dataclass(frozen=True)
class MMSA:
    """The ``data`` section of a recipe for MOSI or MOSEI in MMSA's files.

    Args:
        root: MMSA's data folder (with ``MOSI/Processed``), or the folder of the file itself.
        dataset: which of the two.
        alignment: which file: all modalities at the words' steps, or each at its own.
        text: ``features``: BERT's vectors as stored; ``ids``: the ids of the tokens, for a system with a text encoder.
        feature_text, feature_audio, feature_video: another pickle of the same schema, below `root`, from which this modality is
            taken (MMSA's feature_T, feature_A and feature_V).
    """

    root: str
    dataset: Literal["mosi", "mosei"] = "mosi"
    alignment: Literal["aligned", "unaligned"] = "aligned"
    text: Literal["features", "ids"] = "features"
    feature_text: str | None = None
    feature_audio: str | None = None
    feature_video: str | None = None

    @property
    def path(self) -> Path:
        """The file.

        Raises:
            AffuseError: there is none.
        """
        name, folder = f"{self.alignment}_50.pkl", self.dataset.upper()
        places = [f"{folder}/Processed/{name}", f"Processed/{name}", name]
        return find_file(self.root, places, f"MMSA's {folder} features")

    def splits(self, seed: int) -> Splits:
        """The three parts of the file; the same for every seed.

        Raises:
            AffuseError: a file is missing, damaged, malicious, or not of this schema.
        """
        paths = {"": self.path}
        for name in MODALITIES:
            own = getattr(self, f"feature_{name}")
            paths[name] = Path(self.root) / own if own else paths[""]
        loaded = {path: load_numpy_pickle(path) for path in dict.fromkeys(paths.values())}
        strange: dict[str, int] = {}
        beyond: dict[str, int] = {}
        samples: dict[str, list[StoredSample]] = {}
        for split, key in PARTS.items():
            parts = {name: Part(path, loaded[path], key) for name, path in paths.items()}
            samples[split] = self._samples(parts, strange, beyond)
        facts = {
            "name": f"CMU-{self.dataset.upper()} in MMSA's features, {self.alignment}",
            "split": "as given (train, valid, test)",
            "counts": {split: len(part) for split, part in samples.items()},
            "text": self.text,
            "not_finite_made_0": {name: count for name, count in strange.items() if count},
            "steps_beyond_the_text": {name: count for name, count in beyond.items() if count},
            "absent": absent_of(samples, MODALITIES),
            **subjects_of(samples),
        }
        sources = {split: StoredSequences(part) for split, part in samples.items()}
        return Splits(TASK, sources["train"], sources["validation"], sources["test"], False, facts)

    def _samples(
        self, parts: Mapping[str, Part], strange: dict[str, int], beyond: dict[str, int]
    ) -> list[StoredSample]:
        main = parts[""]
        ids = main.texts("id")
        labels = main.numbers("regression_labels", len(ids))
        raw = main.texts("raw_text", len(ids)) if "raw_text" in main.held else [""] * len(ids)
        text, spans = self._text(parts["text"], len(ids))
        sequences = {"text": (text, spans)}
        for name in ("audio", "video"):
            part, key = parts[name], "vision" if name == "video" else name
            array = part.array(key, 3, len(ids))
            if name == "audio" or (self.alignment == "unaligned" and f"{key}_lengths" not in part.held):
                used, count = used_steps(array)
                strange[name] = strange.get(name, 0) + count
            if self.alignment == "aligned":
                if array.shape[1] != text.shape[-1 if self.text == "ids" else 1]:
                    raise AffuseError(
                        f"{part.place}: {key} has {array.shape[1]} steps, text another number: this file is not aligned"
                    )
                own = spans
                if name == "audio":
                    # Anything behind the end of the text would mean that the file pads in another way than is known here.
                    beyond[name] = beyond.get(name, 0) + int((used[:, 1] > spans[:, 1]).sum())
            elif f"{key}_lengths" in part.held:
                stops = part.numbers(f"{key}_lengths", len(ids)).astype(np.int64)
                if len(stops) and not (stops.min() >= 0 and stops.max() <= array.shape[1]):
                    raise AffuseError(f"{part.place}: {key}_lengths go beyond the {array.shape[1]} steps of {key}")
                own = np.stack([np.zeros_like(stops), stops], axis=1)
            else:
                own = used
            sequences[name] = array, own
        return [
            StoredSample(
                {
                    name: _Tokens(array, int(span[i, 0]), int(span[i, 1]), i)
                    if array is text and self.text == "ids"
                    else StoredSequence(array, int(span[i, 0]), int(span[i, 1]), i)
                    for name, (array, span) in sequences.items()
                },
                float(labels[i]),
                {"id": ids[i], "subject": ids[i].split("$_$")[0], "text": raw[i]},
            )
            for i in range(len(ids))
        ]

    def _text(self, part: Part, n: int) -> tuple[StoredArray, NDArray[np.int64]]:
        """The array of the text and where each row ends, [0, stop) (n, 2)."""
        stops = np.zeros(n, np.int64)
        if "text_bert" in part.held:
            tokens = part.array("text_bert", 3, n)
            if tokens.shape[1] != 3:
                raise AffuseError(f"{part.place}: text_bert is {tokens.shape}, expected (n, 3, t)")
            for first, block in tokens.blocks():
                if not np.isin(block[:, 1], (0, 1)).all():
                    raise AffuseError(f"{part.place}: the mask in text_bert (its second row) is not of 0 and 1")
                stops[first : first + len(block)] = block[:, 1].sum(axis=1)
            spans = np.stack([np.zeros_like(stops), stops], axis=1)
            if self.text == "ids":
                return tokens, spans
        elif self.text == "ids":
            raise AffuseError(f"{part.place}: has no text_bert, so no ids: set data.text to features")
        text = part.array("text", 3, n)
        if "text_bert" not in part.held:
            spans, _ = used_steps(text)
        elif n and text.shape[1] < int(stops.max()):
            raise AffuseError(f"{part.place}: text has {text.shape[1]} steps, its mask more")
        return text, spans


class _Tokens(StoredSequence):
    """The ids of a row of text_bert (3, t), which MMSA's files hold as numbers of any kind."""

    def read(self) -> Any:
        import torch

        return torch.from_numpy(self.array[self.row or 0][0, self.start : self.stop].astype(np.int64))


@dataclass(frozen=True)
class Part:
    """One part of a feature file, whose schema is checked as it is read.

    Args:
        path: the file.
        document: what it holds.
        key: ``train``, ``valid`` or ``test``.
    """

    path: Path
    document: Any
    key: str

    @property
    def place(self) -> str:
        return f"{self.path}, {self.key!r}"

    @property
    def held(self) -> Mapping[str, Any]:
        part = self.document.get(self.key) if isinstance(self.document, dict) else None
        if not isinstance(part, dict):
            raise AffuseError(f"{self.path}: has no part {self.key!r}; expected a dict of train, valid and test")
        return part

    def array(self, name: str, axes: int, n: int | None = None) -> StoredArray:
        """An array of numbers with so many axes and, where given, so many rows."""
        array = self.held.get(name)
        if not isinstance(array, StoredArray) or array.dtype.kind not in "fiub" or array.ndim != axes:
            found = f"{array.dtype} {array.shape}" if isinstance(array, StoredArray) else type(array).__name__
            raise AffuseError(f"{self.place}: {name!r} is no array of numbers with {axes} axes, but {found}")
        if n is not None and len(array) != n:
            raise AffuseError(f"{self.place}: {name!r} has {len(array)} rows, 'id' {n}")
        return array

    def numbers(self, name: str, n: int) -> NDArray[np.float64]:
        """One finite number a row, from an array or a list."""
        found = self.held.get(name)
        try:
            values = found.read() if isinstance(found, StoredArray) else np.asarray(found, dtype=np.float64)
            values = values.astype(np.float64).reshape(-1)
        except (TypeError, ValueError):
            raise AffuseError(f"{self.place}: {name!r} is not a list of numbers") from None
        if len(values) != n or not np.isfinite(values).all():
            raise AffuseError(f"{self.place}: {name!r} is not one finite number for each of {n} rows")
        return values

    def texts(self, name: str, n: int | None = None) -> list[str]:
        """One text a row, from a list or an array of text."""
        found = self.held.get(name)
        values = found.read() if isinstance(found, StoredArray) else found
        if isinstance(values, np.ndarray):
            values = values.reshape(-1).tolist()
        values = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values or ()]
        if not values or not all(isinstance(value, str) for value in values) or (n is not None and len(values) != n):
            raise AffuseError(f"{self.place}: {name!r} is not a list of {'texts' if n is None else f'{n} texts'}")
        return values
