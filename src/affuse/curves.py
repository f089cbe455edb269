"""Columns of ``history.jsonl``: how modalities and time steps shared the work on the selection split, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from affuse.metrics.summary import scores
from affuse.parts.contribution import ratios, scored_rows
from affuse.types import Batch, Output, Task


class ValidationCurves:
    """Gathers what one epoch's answers say of each modality alone and of each time step; for any system.

    Columns, as far as the system gives ``Output.unimodal``, ``weights["time"]`` and a loss of several terms:

    * ``fused``: the term ``fused`` of the loss, which is of the fused answer alone; like the total, a mean over batches;
    * ``unimodal/NAME/war`` (of a regression ``unimodal/NAME/mae``) and ``unimodal/NAME/loss`` (mean cross-entropy, or mean
      absolute error): of what the modality alone answered, over the samples with a target that have it;
    * ``ratio/NAME``: contribution ratio, the mean softmax at the label over the mean of the other modalities' (OGM-GE);
      classifications with several modalities only;
    * ``time/STEP``: mean weight of each time step, numbered from 0, over the answered samples.

    Args:
        task: what is predicted.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.losses: dict[str, list[Tensor]] = {}
        self.contributions: dict[str, list[Tensor]] = {}
        self.time: list[Tensor] = []
        self.fused: list[Tensor] = []

    @torch.no_grad()
    def add(self, output: Output, batch: Batch, terms: Mapping[str, Tensor] | None = None) -> None:
        """Take an answered batch into account, and the terms of the system's loss where there is one."""
        fused = (terms or {}).get("fused")
        if fused is not None and bool(fused.isfinite()):
            self.fused.append(fused.float().cpu())
        weights = output.weights.get("time")
        if weights is not None:
            self.time.append(weights[output.answered].float().cpu())  # r t
        if batch.target is None:
            return
        classes = self.task.kind == "classification"
        known = batch.target >= 0 if classes else batch.target.isfinite()
        for name, logits in output.unimodal.items():
            rows = output.answered & known & batch.has(name) & logits.isfinite().all(1)
            if not rows.any():
                continue
            target = batch.target[rows]
            if classes:
                losses = functional.cross_entropy(logits[rows].float(), target, reduction="none")
                self.contributions.setdefault(name, []).append(scored_rows(logits, batch.target, rows).cpu())
            else:
                losses = (logits[rows, 0].float() - target).abs()
            self.losses.setdefault(name, []).append(losses.cpu())

    def columns(self, records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """The columns; `records` are those of the same batches (`affuse.evaluate.as_records`)."""
        found: dict[str, float] = {"fused": float(torch.stack(self.fused).mean())} if self.fused else {}
        main = "war" if self.task.kind == "classification" else "mae"
        for name, losses in self.losses.items():
            found[f"unimodal/{name}/{main}"] = scores(self._alone(records, name), self.task)[main]
            found[f"unimodal/{name}/loss"] = float(torch.cat(losses).mean())
        if len(self.contributions) > 1:
            means = {name: float(torch.cat(values).mean()) for name, values in self.contributions.items()}
            found |= {f"ratio/{name}": ratio for name, ratio in ratios(means).items()}
        steps = max((weights.shape[1] for weights in self.time), default=0)
        if steps:
            # Clips of one batch may be longer than those of another: a step that a clip lacks has no weight in it.
            time = torch.cat([functional.pad(weights, (0, steps - weights.shape[1])) for weights in self.time])
            found |= {f"time/{step}": float(mean) for step, mean in enumerate(time.mean(0))} if len(time) else {}
        return found

    def _alone(self, records: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
        """The records as if only this modality had answered."""
        found = []
        for record in records:
            said = (record.get("unimodal") or {}).get(name)
            if said is not None:
                alone = {"value": said} if self.task.kind == "regression" else {"prediction": int(np.argmax(said))}
                found.append({**record, **alone, "answered": True})
        return found
