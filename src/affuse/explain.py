"""Grad-CAM, place by place: where in a frame the answer was read; and features in the plane.

Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, ICCV 2017, equations 1 and
2, but that a place weighs by its own gradient and not by the mean over its frame: HiResCAM (Draelos and Carin, Use HiResCAM
instead of Grad-CAM for faithful explanations of convolutional neural networks, 2020, arXiv 2011.08891). The two are the same
where a network averages its last map. Where it reads the map place by place (`frame_grid` above 1) or weighs places by
attention, the mean mixes places that speak for an answer with others that speak against it, and the heat stands at the
wrong moment: benchmarks/fer_heat.py measures it.

A system takes part by ``spatial_layer(modality)``: the module whose output, (rows x t, d, h', w') for the rows that have this
modality, is the last one with a spatial layout. A system that passes lost frames (NaN) and padding by gives the maps of the
others alone, in the same order.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from affuse.evaluation_mode import evaluating
from affuse.types import AffuseError, Batch, Output, Sample, System


def grad_cam(
    system: System,
    batch: Batch,
    modality: str,
    target: int | Int[Tensor, " b"] | None = None,
    by_place: bool = True,
) -> Float[Tensor, "b t h w"]:
    """Heat maps of one modality, in [0, 1]; the largest value of each sample is 1, so its frames can be compared.

    The system is read in evaluation mode and left as it was found: modes, gradients, buffers and hooks.

    Args:
        batch: its input of `modality` is (b, t, c, h, w).
        target: the class whose evidence is shown, for all or each; by default the one that the system answers. A
            regression has one output, which is shown.
        by_place: weigh each place by its own gradient (HiResCAM); False for the mean over its frame, equation 1 of Grad-CAM.

    Returns:
        Zero in rows where the modality is absent or nothing was answered, and where nothing speaks for the class.

    Raises:
        AffuseError: the system has no spatial layer, or the modality is not a sequence of images.
    """
    images = batch.inputs.get(modality)
    if images is None or images.dim() != 5:
        found = "absent" if images is None else f"of shape {tuple(images.shape)}"
        raise AffuseError(f"Grad-CAM needs images (b, t, c, h, w), but {modality!r} is {found} in this batch")
    layer = _spatial_layer(system, modality)
    b, t, _, h, w = images.shape
    heat = torch.zeros(b, t, h, w, device=images.device)
    rows = batch.has(modality)
    if not rows.any():
        return heat
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        # Frozen weights leave no graph; the map is then the leaf that the gradient is asked for.
        seen.append(output if output.requires_grad else output.detach().requires_grad_())
        # A copy goes on, so that an in-place activation behind the layer cannot change what is explained.
        return seen[-1].clone()

    with evaluating(system), torch.enable_grad():
        hook = layer.register_forward_hook(keep)
        try:
            output = system(batch)
        finally:
            hook.remove()
        there = _frames_there(batch, modality, rows)  # r t
        if len(seen) == 1 and len(seen[0]) == there.numel():
            there = torch.ones_like(there)
        if len(seen) != 1 or seen[0].dim() != 4 or len(seen[0]) != int(there.sum()):
            wanted, shapes = (there.numel(), "d", "h", "w"), [tuple(tensor.shape) for tensor in seen]
            name = f"{type(system).__name__}.spatial_layer({modality!r})"
            raise AffuseError(f"{name} must run once and give {wanted}, but gave {shapes}")
        score = _score(output, target)
        gradient = torch.autograd.grad(score, seen[0], allow_unused=True)[0] if score.requires_grad else None
    if gradient is None:
        return heat
    if not by_place:
        gradient = gradient.mean((2, 3), keepdim=True)
    small = (gradient * seen[0].detach()).sum(1, keepdim=True).relu()  # n 1 h' w'
    large = functional.interpolate(small, (h, w), mode="bilinear", align_corners=False)
    maps = torch.zeros(*there.shape, h, w, device=large.device)
    maps[there] = large[:, 0].float()
    largest = maps.amax((1, 2, 3), keepdim=True)
    heat[rows] = torch.where(largest > 0, maps / largest.clamp_min(torch.finfo(maps.dtype).tiny), 0).clamp(0, 1)
    return heat


def save_examples(system: System, samples: Sequence[Sample], path: Path) -> None:
    """Write examples for the report: inputs and heat maps of what was answered.

    The file is safetensors. ``{i}/{modality}/input`` (t, c, h, w), ``{i}/{modality}/heat`` (t, h, w) and, of a system whose
    output has ``aux["attention/NAME"]``, ``{i}/{modality}/attention`` (t, y, x) or (t,) are float16; a modality that is
    absent, or no sequence of images, or that the system has no spatial layer for, is left out. The metadata's ``examples`` is
    JSON: a list of id, subject, condition, target, prediction (None where not answered), probabilities and modality weights by
    name; of a regression, ``value`` instead of prediction and probabilities.

    Args:
        samples: which ones, chosen by the caller; none is fine.
    """
    tensors: dict[str, Tensor] = {}
    examples: list[dict[str, Any]] = []
    if samples:
        first = next(system.parameters(), None)
        batch = Batch.collate(samples, system.modalities).to(first.device if first is not None else "cpu")
        with evaluating(system), torch.no_grad():
            output = system(batch)
        examples = [_describe(system, output, row, sample) for row, sample in enumerate(samples)]
        for modality in system.modalities:
            images = batch.inputs[modality]
            if images.dim() != 5:
                continue
            try:
                heat = grad_cam(system, batch, modality)
            except AffuseError:
                # A system without a spatial layer still shows what it was given.
                heat = None
            for row in torch.nonzero(batch.has(modality)).flatten().tolist():
                tensors[f"{row}/{modality}/input"] = images[row].half().cpu().contiguous()
                if heat is not None:
                    tensors[f"{row}/{modality}/heat"] = heat[row].half().cpu().contiguous()
                attention = output.aux.get(f"attention/{modality}")
                if attention is not None and bool(output.answered[row]):
                    tensors[f"{row}/{modality}/attention"] = attention[row].half().cpu().contiguous()
    temporary = path.with_name(path.name + ".tmp")
    save_file(tensors, temporary, metadata={"examples": json.dumps(examples)})
    os.replace(temporary, path)


def project(features: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, "n 2"], str] | None:
    """Features in the plane, and the name of the method: t-SNE (van der Maaten and Hinton, JMLR 9, 2008), or PCA.

    t-SNE is scikit-learn's (``pip install affuse[explain]``), with perplexity 30 or a third of the samples, started from the
    principal components, and always the same; without scikit-learn, the first two principal components are drawn.

    Returns:
        None where there are fewer than five samples, or all are the same.
    """
    n = len(features)
    centred = features.astype(np.float64) - features.mean(0, dtype=np.float64) if n else features
    if n < 5 or not np.isfinite(centred).all() or np.abs(centred).max(initial=0) < 1e-9:
        return None
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        u, s, _ = np.linalg.svd(centred, full_matrices=False)
        flat = (u * s)[:, :2]
        return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1]))), "PCA"
    if features.shape[1] < 2:
        centred = np.pad(centred, ((0, 0), (0, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of samples that are few or alike
        points = TSNE(2, perplexity=min(30, (n - 1) / 3), init="pca", random_state=0).fit_transform(centred)
    return points.astype(np.float64), "t-SNE"


def _spatial_layer(system: System, modality: str) -> nn.Module:
    find = getattr(system, "spatial_layer", None)
    if find is None:
        raise AffuseError(f"{type(system).__name__} names no spatial layer, so Grad-CAM has nothing to look at")
    return find(modality)


def _frames_there(batch: Batch, modality: str, rows: Tensor) -> Bool[Tensor, "r t"]:
    """Of the rows that have the modality, the frames that are neither lost nor padding."""
    images = batch.inputs[modality][rows]
    there = images.flatten(2).isfinite().all(2)
    if modality in batch.lengths:
        there &= torch.arange(images.shape[1], device=images.device) < batch.lengths[modality][rows, None]
    return there


def _score(output: Output, target: int | Tensor | None) -> Tensor:
    """The sum of the target's logits over the answered rows: rows do not touch each other, so one gradient serves all."""
    logits = output.logits[output.answered]
    if target is None or logits.shape[1] == 1:
        return logits.amax(1).sum()
    if isinstance(target, Tensor):
        return logits.gather(1, target.to(logits.device)[output.answered, None]).sum()
    return logits[:, target].sum()


def _describe(system: System, output: Output, row: int, sample: Sample) -> dict[str, Any]:
    answered = bool(output.answered[row]) and bool(output.logits[row].isfinite().all())
    said: dict[str, Any]
    if output.logits.shape[1] == 1:
        said = {"value": output.logits[row, 0].item() if answered else None}
    else:
        probabilities = output.logits[row].softmax(-1)
        said = {
            "prediction": int(probabilities.argmax()) if answered else None,
            "probabilities": probabilities.tolist() if answered else None,
        }
    weights = output.weights.get("modality")
    return {
        **{name: _text(sample.meta.get(name)) for name in ("id", "subject", "condition")},
        "target": sample.target,
        **said,
        "weights": {} if weights is None else dict(zip(system.modalities, weights[row].tolist(), strict=True)),
    }


def _text(value: object) -> str | None:
    return None if value is None else str(value)
