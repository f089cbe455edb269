"""What the records say of the decisions behind the answers: which sensor was believed, and whether it deserved it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from affuse.metrics.intervals import plain, spearman

Record = Mapping[str, Any]

EPSILON = 0.1  # of the importance, as EMOE was released; the paper says "a very small positive number"


def is_answered(record: Record) -> bool:
    """Whether a record holds an answer: a class, or the value of a regression."""
    said = record.get("prediction") if record.get("value") is None else record["value"]
    return said is not None and record.get("answered") is not False


def mean_weights(answered: Sequence[Record], modalities: Sequence[str]) -> dict[str, float]:
    """Mean weight of each modality; empty where the records have no such weights."""
    weights = _weights(answered, "modality")
    if weights.shape != (len(weights), len(modalities)) or not len(weights):
        return {}
    return {name: float(value) for name, value in zip(modalities, weights.mean(0), strict=True)}


def expert_load(answered: Sequence[Record]) -> dict[str, list[float]]:
    """By expert: mean_weight, chosen (share of samples with a weight above 0), first (share that weighs it most)."""
    weights = _weights(answered, "expert")
    if not weights.size:
        return {}
    first = np.bincount(weights.argmax(1), minlength=weights.shape[1]) / len(weights)
    chosen = (weights > 0).mean(0)
    return {"mean_weight": weights.mean(0).tolist(), "chosen": chosen.tolist(), "first": first.tolist()}


def event_weight_vs_rgb_lost(answered: Sequence[Record], modalities: Sequence[str]) -> float | None:
    """Rank correlation between the weight of the event camera and the part of the RGB signal that the light took."""
    if "event" not in modalities:
        return None
    told = [r for r in answered if (r.get("truth") or {}).get("rgb_kept") is not None and modality_weights(r)]
    weight = np.array([modality_weights(r)[list(modalities).index("event")] for r in told], dtype=np.float64)
    lost = np.array([1 - r["truth"]["rgb_kept"] for r in told], dtype=np.float64)
    return plain(spearman(weight, lost))


def router_on_informative(answered: Sequence[Record], modalities: Sequence[str]) -> dict[str, Any] | None:
    """Of the samples of which the truth names the ``informative`` modality, the share that weighs it most.

    Returns:
        value, samples; None where no record names one, or where there are no modality weights.
    """
    told = [r for r in answered if (r.get("truth") or {}).get("informative") in modalities and modality_weights(r)]
    if not told:
        return None
    hits = [modalities[int(np.argmax(modality_weights(r)))] == r["truth"]["informative"] for r in told]
    return {"value": float(np.mean(hits)), "samples": len(told)}


def modality_importance(record: Record, modalities: Sequence[str]) -> list[float] | None:
    """How well each modality alone would have answered a sample, in shares: i_m = 1 / (c_m + 0.1), divided by their sum.

    c_m is the squared error of the unimodal answer (EMOE equation 5); of a classification, of the probability that it gives
    to the true class. The paper takes the softmax of 1 / (c + eps); the released code divides by the sum, as is done here,
    because the softmax of large numbers only names the best one.

    Returns:
        In the order of `modalities`, 0 for one that is absent; None where fewer than two answered, or the truth is unknown.
    """
    unimodal = record.get("unimodal") or {}
    target = record.get("target")
    said = {name: unimodal[name] for name in modalities if unimodal.get(name) is not None}
    if target is None or len(said) < 2:
        return None
    errors = {
        name: (1 - answer[int(target)]) ** 2 if isinstance(answer, Sequence) else (answer - target) ** 2
        for name, answer in said.items()
    }
    inverse = {name: 1 / (error + EPSILON) for name, error in errors.items()}
    total = sum(inverse.values())
    return [inverse.get(name, 0.0) / total for name in modalities]


def weight_vs_importance(answered: Sequence[Record], modalities: Sequence[str]) -> dict[str, Any] | None:
    """Whether the weights follow the importance, sample by sample.

    Returns:
        ``correlation``: Spearman's, over all pairs of a sample and a modality that it has; ``agree``: share of samples whose
        largest weight is on the most important modality; ``importance``: mean by modality; ``samples``. None without
        unimodal answers, weights or truths.
    """
    pairs = [(modality_weights(r), modality_importance(r, modalities)) for r in answered]
    known = [(weight, importance) for weight, importance in pairs if weight and importance]
    if not known:
        return None
    weight, importance = (np.array(side, dtype=np.float64) for side in zip(*known, strict=True))
    there = importance > 0
    return {
        "correlation": plain(spearman(weight[there], importance[there])),
        "agree": float((weight.argmax(1) == importance.argmax(1)).mean()),
        "importance": dict(zip(modalities, importance.mean(0).tolist(), strict=True)),
        "samples": len(known),
    }


def modality_weights(record: Record) -> list[float]:
    """The modality weights of a record; empty where it has none."""
    return (record.get("weights") or {}).get("modality") or []


def _weights(records: Sequence[Record], kind: str) -> Float[np.ndarray, "n k"]:
    rows = [r["weights"][kind] for r in records if (r.get("weights") or {}).get(kind) is not None]
    return np.array(rows, dtype=np.float64).reshape(len(rows), -1 if rows else 0)
