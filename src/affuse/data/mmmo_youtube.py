"""ICT-MMMO (Wöllmer et al., IEEE Intelligent Systems 28(3), 2013) and YouTube opinions (Morency et al., ICMI 2011), as the
word-aligned HDF5 files in circulation.

A folder holds ``{audio,video,y}_{train,valid,test}.h5`` and ``text_{train,valid,test}_emb.h5``, each with one array ``d1``:
(n, 20, 74), (n, 20, 36), (n, 20, 300), and labels: MMMO one value from 1 to 5, YouTube three columns, one of them 1.

**What is missing is missing**: a file that is not there (the words of the training part), or a sequence of zeros only (most
audio and video of YouTube), is an absent modality, never zeros. Rows of zeros at the start or the end of all sequences of a
sample alike are padding, and cut off; the sequences stay aligned.

Who speaks is not in the files: nothing is known of subjects in several splits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from affuse.data.splits import Splits
from affuse.data.stored_sequences import StoredSample, StoredSequences, absent_of, finite
from affuse.types import AffuseError, Task

MODALITIES = ("text", "audio", "video")
PARTS = ("train", "valid", "test")
TASKS = {
    "mmmo": Task("regression", value_range=(1.0, 5.0), units="sentiment"),
    # The files do not say which column is which sentiment.
    "youtube": Task("classification", ("first", "second", "third")),
}
_MAX_NUMBERS = 2**28


@dataclass(frozen=True)
class MMMOYouTube:
    """The ``data`` section of a recipe for MMMO or YouTube.

    Args:
        root: folder of the HDF5 files.
        dataset: which of the two it is.
        split: ``official``: the parts as they are; then no training sample has text. ``mixed``: of the samples that have text
            (the official validation and test parts) two fifths, drawn by the seed, join the training part, one fifth is
            validation and two fifths are test.
        text_missing_train: of the training and validation samples that have text, the share that loses it, drawn by the seed.
        text_missing_test: the same of the test samples. A larger share takes the text of the same samples, and more.
        standardise: audio and video by mean and standard deviation of the training part's steps.
    """

    root: str
    dataset: Literal["mmmo", "youtube"] = "mmmo"
    split: Literal["official", "mixed"] = "official"
    text_missing_train: float = 0.0
    text_missing_test: float = 0.0
    standardise: bool = True

    def __post_init__(self) -> None:
        for name in ("text_missing_train", "text_missing_test"):
            if not 0 <= getattr(self, name) <= 1:
                raise AffuseError(f"MMMOYouTube: {name} is a share from 0 to 1, not {getattr(self, name)}")

    def splits(self, seed: int) -> Splits:
        """Train, validation and test. Training samples without any modality are left out, and counted.

        Raises:
            AffuseError: files are missing, damaged, or do not fit together.
        """
        root = Path(self.root)
        task = TASKS[self.dataset]
        parts = {part: _part(root, part, task) for part in PARTS}
        rng = np.random.default_rng((seed, 20))
        train, validation, test = (parts[part] for part in PARTS)
        if self.split == "mixed":
            pool = validation + test
            worded = [pool[i] for i in rng.permutation(len(pool)) if "text" in pool[i].inputs]
            rest = [sample for sample in pool if "text" not in sample.inputs]
            two_fifths = round(0.4 * len(worded))
            if two_fifths < 1:
                raise AffuseError(f"{root}: {len(worded)} samples have text; split 'mixed' needs more")
            test, train = worded[:two_fifths], train + rest + worded[two_fifths : 2 * two_fifths]
            validation = worded[2 * two_fifths :]
        train = _lose_text(train, self.text_missing_train, rng)
        validation = _lose_text(validation, self.text_missing_train, rng)
        test = _lose_text(test, self.text_missing_test, rng)
        empty = sum(not sample.inputs for sample in train)
        samples = {"train": [s for s in train if s.inputs], "validation": validation, "test": test}
        if not samples["train"]:
            raise AffuseError(f"{root}: no training sample has any modality")
        if self.standardise:
            _standardise(samples)
        facts = {
            "name": {"mmmo": "ICT-MMMO", "youtube": "YouTube opinions"}[self.dataset],
            "split": f"{self.split}, seed {seed}" if self.split == "mixed" else "official",
            "counts": {name: len(part) for name, part in samples.items()},
            "absent": absent_of(samples, MODALITIES),
            "left_out": {"train samples without any modality": empty},
            "test_without_any_modality": sum(not sample.inputs for sample in test),
            "text_missing": {"train": self.text_missing_train, "test": self.text_missing_test},
            "subjects": "unknown",
            "subjects_shared": [],
        }
        sources = {name: StoredSequences(part) for name, part in samples.items()}
        return Splits(task, sources["train"], sources["validation"], sources["test"], False, facts)


def _part(root: Path, part: str, task: Task) -> list[StoredSample]:
    if not root.is_dir():
        raise AffuseError(f"{root}: no such folder; set data.root to the folder of the HDF5 files")
    labels = _array(root / f"y_{part}.h5", 1 if task.kind == "regression" else 2)
    arrays = {}
    for name in MODALITIES:
        path = root / (f"text_{part}_emb.h5" if name == "text" else f"{name}_{part}.h5")
        if name == "text" and not path.is_file():
            continue  # really missing: the words of the training part
        arrays[name] = finite(_array(path, 3))
        if len(arrays[name]) != len(labels):
            raise AffuseError(f"{path}: {len(arrays[name])} samples where y_{part}.h5 has {len(labels)}")
    lengths = {array.shape[1] for array in arrays.values()}
    if len(lengths) > 1:
        raise AffuseError(f"{root}: the arrays of part {part!r} differ in length: {sorted(lengths)}")
    samples = []
    for row in range(len(labels)):
        meta = {"id": f"{part}_{row}", "part": part}
        samples.append(StoredSample(_inputs(arrays, row), _target(labels[row], task, root, f"{part}_{row}"), meta))
    return samples


def _inputs(arrays: Mapping[str, NDArray[np.float32]], row: int) -> dict[str, Any]:
    """The modalities that hold anything, from the first to the last step at which any of them does."""
    known = {name: array[row] for name, array in arrays.items() if array[row].any()}
    if not known:
        return {}
    used = np.flatnonzero(np.any([steps.any(axis=1) for steps in known.values()], axis=0))
    return {name: torch.from_numpy(steps[used[0] : used[-1] + 1].copy()) for name, steps in known.items()}


def _target(label: Any, task: Task, root: Path, name: str) -> int | float:
    if task.kind == "regression":
        low, high = task.value_range or (0.0, 0.0)
        if not low <= float(label) <= high:
            raise AffuseError(f"{root}: the label of {name} is {float(label):g}, not from {low:g} to {high:g}")
        return float(label)
    if len(label) != len(task.classes) or sorted(label.tolist()) != [0.0] * (len(label) - 1) + [1.0]:
        raise AffuseError(
            f"{root}: the label of {name} is {label.tolist()[:5]}, not {len(task.classes)} columns with one 1"
        )
    return int(label.argmax())


def _lose_text(samples: list[StoredSample], share: float, rng: np.random.Generator) -> list[StoredSample]:
    """Text taken from the first `share` in a random order of those that have it; the order depends on the seed alone."""
    worded = [i for i, sample in enumerate(samples) if "text" in sample.inputs]
    order = rng.permutation(len(worded))
    lost = {worded[i] for i in order[: round(share * len(worded))]}
    return [
        StoredSample({n: t for n, t in s.inputs.items() if n != "text"}, s.target, s.meta) if i in lost else s
        for i, s in enumerate(samples)
    ]


def _standardise(samples: dict[str, list[StoredSample]]) -> None:
    for name in ("audio", "video"):
        steps = [s.inputs[name] for s in samples["train"] if name in s.inputs]
        if not steps:
            continue
        joined = torch.cat([s for s in steps if isinstance(s, torch.Tensor)])
        mean, std = joined.mean(dim=0), joined.std(dim=0, correction=0)
        std[std == 0] = 1.0
        for split, part in samples.items():
            samples[split] = [
                StoredSample({n: (t - mean) / std if n == name else t for n, t in s.inputs.items()}, s.target, s.meta)  # type: ignore[operator]
                for s in part
            ]


def _array(path: Path, axes: int) -> NDArray[Any]:
    if not path.is_file():
        raise AffuseError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            stored = file.get("d1")
            if not isinstance(stored, h5py.Dataset):
                raise AffuseError(f"{path}: has no array 'd1'")
            if stored.ndim != axes or stored.dtype.kind not in "fiu" or not 0 < stored.size <= _MAX_NUMBERS:
                raise AffuseError(f"{path}: 'd1' is {stored.dtype} {stored.shape}, expected numbers with {axes} axes")
            return np.asarray(stored[()])
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise AffuseError(f"{path}: not a readable HDF5 file ({str(error)[:100]}); copy it again") from None
