"""predict over a folder of features: what a run says of each sample of it, one record a sample.

The folder is in the project's own format (`affuse.data.feature_folder`), as ``affuse features`` and ``affuse data convert``
write it. Targets and splits in it are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from affuse import runs
from affuse.data.feature_folder import read_features
from affuse.data.stored_sequences import StoredSequences
from affuse.predict import describe
from affuse.types import AffuseError, Batch, Output, System

SAMPLES_AT_ONCE = 64  # so that a large folder does not fill the memory


def answer_features(run: runs.Run, folder: str | Path) -> Iterator[dict[str, Any]]:
    """Answer each sample of a folder, lazily and in its order.

    Args:
        run: the trained system; it reads those modalities of the folder that it knows, and others are left out.
        folder: with ``manifest.json`` and ``features.safetensors``.

    Yields:
        ``id``, ``status`` (``ok`` or ``no answer``), and where ok ``label`` and ``probabilities`` by class, or ``value`` and
        ``units`` of a regression, and ``weights``; where not ok, ``reason``.

    Raises:
        AffuseError: the folder cannot be read, or holds none of the run's modalities or other features under their names.
    """
    folder = Path(folder)
    _, stored = read_features(folder)
    system = run.system
    there = list(dict.fromkeys(name for sample in stored for name in sample.inputs))
    if not set(there) & set(system.modalities):
        raise AffuseError(f"{folder}: holds {', '.join(there) or 'nothing'}; this run reads {_reads(system)}")
    source = StoredSequences(stored)
    for start in range(0, len(source), SAMPLES_AT_ONCE):
        samples = [source[index] for index in range(start, min(start + SAMPLES_AT_ONCE, len(source)))]
        known = [replace(s, inputs={n: x for n, x in s.inputs.items() if n in system.modalities}) for s in samples]
        try:
            yield from _records(system, Batch.collate(known, system.modalities))
        except AffuseError as error:
            raise AffuseError(f"{folder}: {error}") from None


@torch.no_grad()
def _records(system: System, batch: Batch) -> list[dict[str, Any]]:
    output: Output = system(batch)
    said = output.logits if system.task.kind == "regression" else output.logits.softmax(-1)  # b c
    found: list[dict[str, Any]] = []
    for row, meta in enumerate(batch.meta):
        about = {"id": meta["id"]}
        if output.answered[row] and bool(output.logits[row].isfinite().all()):
            weights = {name: values[row] for name, values in output.weights.items()}
            found.append({**about, "status": "ok", **describe(system, said[row], weights)})
        else:
            reason = f"the sample has nothing of what this run reads: {_reads(system)}"
            found.append({**about, "status": "no answer", "reason": reason})
    return found


def _reads(system: System) -> str:
    return ", ".join(system.modalities)
