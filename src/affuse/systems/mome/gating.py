"""The gate: whose word counts how much, sample by sample.

``r`` rows, ``m`` modalities. `present` (r, m) says which experts have something to say; the others weigh exactly 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional


class GateNetwork(nn.Module):
    """From what is read of each expert or camera to a score for each; a learned vector stands in for an absent one.

    Args:
        widths: numbers that are read, by modality.
        hidden: units of the hidden layer; 0: none.
        normalise: whether what is read is normalised first: class tokens have a scale of their own.
    """

    def __init__(self, widths: Sequence[int], hidden: int, normalise: bool) -> None:
        super().__init__()
        self.absent = nn.ParameterList(0.02 * torch.randn(width) for width in widths)
        self.norms = nn.ModuleList(nn.LayerNorm(width) if normalise else nn.Identity() for width in widths)
        total, m = sum(widths), len(widths)
        self.score: nn.Module = nn.Linear(total, m)
        if hidden:
            self.score = nn.Sequential(nn.Linear(total, hidden), nn.ReLU(), nn.Linear(hidden, m))

    def forward(self, read: Sequence[Float[Tensor, "r _"]], present: Bool[Tensor, "r m"]) -> Float[Tensor, "r m"]:
        """Scores; what stands in `read` where it is absent must be finite and is not used."""
        held = [
            torch.where(present[:, column, None], norm(values), absent)
            for column, (values, norm, absent) in enumerate(zip(read, self.norms, self.absent, strict=True))
        ]
        return self.score(torch.cat(held, 1))


class PlainGate(nn.Module):
    """Scores that are learned but read nothing: the same for all samples.

    Args:
        m: number of modalities.
    """

    def __init__(self, m: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(m))

    def forward(self, present: Bool[Tensor, "r m"]) -> Float[Tensor, "r m"]:
        return self.scores.expand(len(present), -1)


def gate_weights(
    scores: Float[Tensor, "r m"], present: Bool[Tensor, "r m"], top_k: int | None = None, temperature: float = 1.0
) -> Float[Tensor, "r m"]:
    """softmax(scores / temperature) over the present ones, or over the `top_k` largest of them; rows sum to 1."""
    scores = (scores / temperature).masked_fill(~present, -torch.inf)
    if top_k is not None and top_k < scores.shape[1]:
        chosen = torch.zeros_like(present).scatter(1, scores.topk(top_k, 1).indices, True)
        scores = scores.masked_fill(~chosen, -torch.inf)
    return scores.softmax(1)


def hidden_at_random(present: Bool[Tensor, "r m"], probability: float) -> Bool[Tensor, "r m"]:
    """Which of the present ones are left when each is lost with a probability; a row that would have none keeps all."""
    kept = present & (torch.rand(present.shape, device=present.device) >= probability)
    return torch.where(kept.any(1, keepdim=True), kept, present)


def confidence(logits: Float[Tensor, "r c"]) -> Float[Tensor, "r 3"]:
    """Largest probability, its margin to the next one, and entropy over log c."""
    log_p = logits.log_softmax(1)
    first, second = log_p.exp().topk(2, 1).values.unbind(1)
    entropy = -(log_p.exp() * log_p).sum(1) / torch.log(torch.tensor(float(logits.shape[1])))
    return torch.stack([first, first - second, entropy], 1)


def pooled_frames(clips: Float[Tensor, "r t c h w"], valid: Bool[Tensor, "r t"], grid: int) -> Float[Tensor, "r f"]:
    """Mean and standard deviation over the valid frames of each cell of a grid: f = 2 c grid grid. No frame is learned."""
    cells = functional.adaptive_avg_pool2d(clips.flatten(0, 1), grid).unflatten(0, valid.shape).flatten(2)  # r t k
    share = (valid / valid.sum(1, keepdim=True)).to(cells.dtype)  # r t
    mean = torch.einsum("rtk,rt->rk", cells, share)
    variance = torch.einsum("rtk,rt->rk", (cells - mean[:, None]).square(), share)
    return torch.cat([mean, (variance + 1e-6).sqrt()], 1)


def entropy_of(weights: Float[Tensor, "r m"], present: Bool[Tensor, "r m"]) -> Float[Tensor, ""]:
    """Mean entropy of the weights, over that of even ones; rows with one modality have none to give."""
    several = present.sum(1) > 1
    if not several.any():
        return 0.0 * weights.sum()
    weights, count = weights[several], present[several].sum(1)
    # A weight of 0 has no part: the inner maximum keeps its gradient from becoming infinite.
    entropy = -(weights * weights.clamp_min(torch.finfo(weights.dtype).tiny).log()).sum(1)
    return (entropy / count.log()).mean()


def imbalance_of(weights: Float[Tensor, "r m"], present: Bool[Tensor, "r m"]) -> Float[Tensor, ""]:
    """How uneven the load is: squared differences between the mean weights and those of even ones, times m."""
    even = present / present.sum(1, keepdim=True)  # r m
    return weights.shape[1] * (weights.mean(0) - even.mean(0)).square().sum()
