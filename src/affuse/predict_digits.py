"""predict over one digit that was seen by an event camera, or spoken, or both: for a run on event-audio digits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from affuse import runs
from affuse.data.digits import EventAudioDigits
from affuse.predict import describe
from affuse.types import AffuseError, Batch


@torch.no_grad()
def answer_digit(
    run: runs.Run, files: Mapping[str, str | Path], errors: Literal["raise", "drop"] = "raise"
) -> dict[str, Any]:
    """Answer one digit.

    Args:
        run: the trained system, of event-audio digits.
        files: a recording of events under ``event``, a sound file under ``audio``; what is left out is absent.
        errors: of bad events, as `affuse.signals.events.read_events` has it.

    Returns:
        ``status`` (``ok`` or ``no answer``), and where ok ``label``, ``probabilities`` by class and ``weights``, otherwise
        ``reason``; and ``present``, the modalities that the files gave.

    Raises:
        AffuseError: a file cannot be read, is of a modality that this run has not, or what the sound is standardised by is
            gone.
    """
    data = run.recipe.data
    if not isinstance(data, EventAudioDigits):
        raise AffuseError(f"{run.path}: a run on {run.recipe.data_name!r} answers no event-audio digits")
    system = run.system
    for name, path in files.items():
        if name not in system.modalities:
            raise AffuseError(f"{name}={path}: this run reads {', '.join(system.modalities)}")
        if not Path(path).is_file():
            raise AffuseError(f"{name}={path}: no such file")
    sample = data.recording({name: Path(path) for name, path in files.items()}, run.recipe.training.seed, errors)
    present = list(sample.inputs)
    output = system(Batch.collate([sample], system.modalities))
    if not output.answered[0] or not bool(output.logits[0].isfinite().all()):
        return {"status": "no answer", "reason": "nothing was recorded in what was given", "present": present}
    weights = {name: values[0] for name, values in output.weights.items()}
    return {"status": "ok", **describe(system, output.logits[0].softmax(-1), weights), "present": present}
