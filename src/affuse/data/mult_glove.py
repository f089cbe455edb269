"""CMU-MOSI and CMU-MOSEI with GloVe words, as the files of MulT (Tsai et al., "Multimodal Transformer for Unaligned Multimodal
Language Sequences", ACL 2019).

``mosi_data.pkl`` (aligned to the words), ``mosi_data_noalign.pkl``, ``mosei_senti_data.pkl`` and
``mosei_senti_data_noalign.pkl`` hold, for each of ``train``, ``valid`` and ``test``: ``text`` (n, 50, 300), ``audio``
(n, t, a), ``vision`` (n, t, v), ``labels`` (n, 1, 1), and ``id``: one row a sample that begins with the video.

The files tell no lengths: rows of zeros at both ends are padding. Aligned sequences are cut where all three are zero, unaligned
ones each by itself; a sequence of zeros only is absent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from affuse.data.mmsa import MODALITIES, PARTS, TASK, Part
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
from affuse.types import AffuseError

_NUMBER = re.compile(r"(\[\d+\]|\$?_\$?\d+)$")  # of an utterance, behind the name of its video
_STEMS = {"mosi": "mosi_data", "mosei": "mosei_senti_data"}


@dataclass(frozen=True)
class MulTGloVe:
    """The ``data`` section of a recipe for MulT's files.

    Args:
        root: their folder.
        dataset: which of the two.
        alignment: which file.
    """

    root: str
    dataset: Literal["mosi", "mosei"] = "mosi"
    alignment: Literal["aligned", "unaligned"] = "aligned"

    @property
    def path(self) -> Path:
        """The file.

        Raises:
            AffuseError: there is none.
        """
        name = _STEMS[self.dataset] + ("" if self.alignment == "aligned" else "_noalign") + ".pkl"
        return find_file(self.root, [name, f"data/{name}"], f"MulT's {self.dataset.upper()} features")

    def splits(self, seed: int) -> Splits:
        """The three parts of the file; the same for every seed.

        Raises:
            AffuseError: the file is missing, damaged, malicious, or not of this schema.
        """
        path = self.path
        document = load_numpy_pickle(path)
        strange = dict.fromkeys(MODALITIES, 0)
        samples = {split: self._samples(Part(path, document, key), strange) for split, key in PARTS.items()}
        facts = {
            "name": f"CMU-{self.dataset.upper()} in MulT's features with GloVe words, {self.alignment}",
            "split": "as given (train, valid, test)",
            "counts": {split: len(part) for split, part in samples.items()},
            "not_finite_made_0": {name: count for name, count in strange.items() if count},
            "absent": absent_of(samples, MODALITIES),
            **subjects_of(samples),
        }
        sources = {split: StoredSequences(part) for split, part in samples.items()}
        return Splits(TASK, sources["train"], sources["validation"], sources["test"], False, facts)

    def _samples(self, part: Part, strange: dict[str, int]) -> list[StoredSample]:
        arrays = {name: part.array("vision" if name == "video" else name, 3) for name in MODALITIES}
        n = len(arrays["text"])
        labels = part.numbers("labels", n)
        names = _ids(part, n)
        spans = {}
        for name, array in arrays.items():
            part.array("vision" if name == "video" else name, 3, n)
            spans[name], count = used_steps(array)
            strange[name] += count
        if self.alignment == "aligned":
            if len({array.shape[1] for array in arrays.values()}) > 1:
                raise AffuseError(f"{part.place}: the modalities differ in length: this file is not aligned")
            starts = np.min([np.where(s[:, 1] > 0, s[:, 0], 2**40) for s in spans.values()], axis=0)
            stops = np.max([s[:, 1] for s in spans.values()], axis=0)
            joint = np.stack([np.minimum(starts, stops), stops], axis=1)
            spans = {name: np.where(own[:, 1:] > 0, joint, 0) for name, own in spans.items()}
        return [
            StoredSample(
                {
                    name: StoredSequence(a, int(spans[name][i, 0]), int(spans[name][i, 1]), i)
                    for name, a in arrays.items()
                },
                float(labels[i]),
                names[i],
            )
            for i in range(n)
        ]


def _ids(part: Part, n: int) -> list[dict[str, Any]]:
    """``id`` and ``subject`` of each sample; a sample of a file that names none has its place as its id."""
    found = part.held.get("id")
    rows = (
        found.read() if isinstance(found, StoredArray) else np.asarray(found if found is not None else [], dtype=object)
    )
    if not len(rows):
        return [{"id": f"{part.key}/{i}"} for i in range(n)]
    if len(rows) != n:
        raise AffuseError(f"{part.place}: 'id' has {len(rows)} rows, 'text' {n}")
    named = []
    for row in rows.reshape(n, -1).tolist():
        words = [word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word) for word in row]
        # A single word is "video[3]", "video$_$3" or "video_3"; of several the first is the video, the others begin and end.
        subject = words[0] if len(words) > 1 else _NUMBER.sub("", words[0])
        named.append({"id": "_".join(words), "subject": subject})
    return named
