"""Features in the project's own format, to train on, and other data sets written in it.

The format is that of `affuse.data.feature_folder`. To train on features of one's own clips, write the task, the splits and the
targets into the manifest.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from affuse.data.feature_folder import MANIFEST, PARTS, must_be_free, read_features, write_features
from affuse.data.splits import Splits
from affuse.data.stored_sequences import StoredSample, StoredSequences, absent_of, subjects_of
from affuse.types import AffuseError, Task

CONVERTIBLE = ("mmsa", "mult_glove", "mintrec", "mosi_utterances", "mmmo_youtube")


@dataclass(frozen=True)
class Features:
    """The ``data`` section of a recipe for a folder in this format.

    Args:
        root: the folder with ``manifest.json`` and ``features.safetensors``.
    """

    root: str

    def splits(self, seed: int) -> Splits:
        """The splits of the manifest; the same for every seed. Samples without a split are left out, and counted, and so are
        those without a target in train and validation.

        Raises:
            AffuseError: files are missing, damaged, or do not fit together; no task or no sample in a split.
        """
        manifest, samples = read_features(self.root)
        task = _task(manifest.get("task"), Path(self.root) / MANIFEST)
        if task is None:
            raise AffuseError(
                f"{Path(self.root) / MANIFEST}: names no task; write it, the splits and the targets there"
            )
        for sample in samples:
            _check_target(sample, task, Path(self.root) / MANIFEST)
        if task.kind == "regression":  # a whole number would be taken for a class
            samples = [replace(s, target=None if s.target is None else float(s.target)) for s in samples]
        given = {split: [s for s in samples if s.meta["split"] == split] for split in PARTS}
        parts = {split: [s for s in part if split == "test" or s.target is not None] for split, part in given.items()}
        empty = [split for split, part in parts.items() if not part]
        if empty:
            named = " or ".join(map(repr, empty))
            raise AffuseError(f"{Path(self.root) / MANIFEST}: no sample with a target has the split {named}")
        modalities = tuple(dict.fromkeys(name for sample in samples for name in sample.inputs))
        facts = {
            **manifest.get("facts", {}),
            "name": str(manifest.get("name", "features")),
            "counts": {split: len(part) for split, part in parts.items()},
            "without_split": sum(sample.meta["split"] is None for sample in samples),
            "without_target": sum(len(given[split]) - len(parts[split]) for split in PARTS),
            "absent": absent_of(parts, modalities),
            **subjects_of(parts),
        }
        facts.setdefault("split", "as the manifest says")
        sources = {split: StoredSequences(part) for split, part in parts.items()}
        synthetic = bool(manifest.get("synthetic", False))
        return Splits(task, sources["train"], sources["validation"], sources["test"], synthetic, facts)


def convert(
    name: str, root: str | Path, out: str | Path, settings: Mapping[str, Any] | None = None, seed: int = 0
) -> Path:
    """Write a data set of the field in the project's own format.

    Args:
        name: one of `CONVERTIBLE`.
        root: its folder.
        out: the folder that is made; it may exist, but not hold features already.
        settings: other fields of the data set's configuration, such as ``{"dataset": "mosei", "alignment": "unaligned"}``.
        seed: draws what the data set draws (which text is taken away, and the mixed split of MMMO and YouTube).

    Returns:
        `out`.

    Raises:
        AffuseError: the data set or a setting is unknown, its files are missing or damaged, or `out` is taken.
    """
    from affuse.data import DATASETS  # this module is one of them

    if name not in CONVERTIBLE:
        raise AffuseError(f"cannot convert {name!r}; choose one of {list(CONVERTIBLE)}")
    kind: Any = DATASETS[name]
    out = Path(out)
    must_be_free(out)
    config = _configured(kind, Path(root), settings or {})
    splits = config.splits(seed)
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    samples = ((split, source[i]) for split, source in parts.items() for i in range(len(source)))
    chosen = {key: value for key, value in dataclasses.asdict(config).items() if key != "root"}
    facts = {**splits.facts, "converted_from": {"data": name, "seed": seed, **chosen}}
    return write_features(out, samples, splits.task, str(splits.facts.get("name", name)), facts, splits.synthetic)


def _task(held: Any, path: Path) -> Task | None:
    if held is None:
        return None
    try:
        bounds = held.get("value_range")
        low_high = None if bounds is None else (float(bounds[0]), float(bounds[1]))
        task = Task(held["kind"], tuple(map(str, held.get("classes", ()))), low_high, str(held.get("units", "")))
    except (AttributeError, KeyError, TypeError, ValueError, IndexError):
        task = None
    if task is None or task.kind not in ("classification", "regression"):
        raise AffuseError(f"{path}: 'task' is {str(held)[:80]!r}; it needs kind, and classes or value_range")
    return task


def _check_target(sample: StoredSample, task: Task, path: Path) -> None:
    target = sample.target
    if (
        task.kind == "classification"
        and target is not None
        and not (type(target) is int and 0 <= target < task.outputs)
    ):
        raise AffuseError(
            f"{path}: the target of {sample.meta['id']!r} is {target}, not the index of one of {task.outputs}"
        )


def _configured(kind: Any, root: Path, settings: Mapping[str, Any]) -> Any:
    """A data set's configuration from settings of any origin: text from a command line becomes what the field is."""
    fields = [field.name for field in dataclasses.fields(kind) if field.name != "root"]
    for name in settings:
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, 1)
            raise AffuseError(
                f"{kind.__name__} has no setting {name!r}; {f'did you mean {near[0]!r}?' if near else fields}"
            )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, None)
    try:
        return kind(**parser.parse_object({"root": str(root), **settings}).as_dict())
    except ArgumentError as error:
        raise AffuseError(f"{kind.__name__}: {' '.join(str(error).split())[:200]}") from None
