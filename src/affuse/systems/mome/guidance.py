"""Holistic token learning (HTL): class tokens and spatio-temporal tokens that teach one another.

The summary of the paper names self-guidance (inside an expert) and mutual guidance (between experts) and gives no equation; the
forms below are our readings (ledger/mome.md).
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional


class ClassTokenRefinement(nn.Module):
    """The class token asks its expert's tokens by attention, and what they answer is added to it.

    Args:
        width: of the tokens (d).
        heads: heads; a divisor of the width, else one head.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads if width % heads == 0 else 1
        self.class_norm, self.token_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)  # softmax cannot see a bias of the key
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(
        self, class_token: Float[Tensor, "r d"], tokens: Float[Tensor, "r n d"], valid: Bool[Tensor, "r n"]
    ) -> tuple[Float[Tensor, "r d"], Float[Tensor, "r n"]]:
        """The refined class token, and its attention: mean over heads, 0 at tokens that are not valid, rows sum to 1."""
        asked = self.token_norm(tokens)
        query = self.query(self.class_norm(class_token)).unflatten(1, (self.heads, -1))  # r heads d/heads
        key, value = (
            layer(asked).unflatten(2, (self.heads, -1)) for layer in (self.key, self.value)
        )  # r n heads d/heads
        scores = torch.einsum("rhd,rnhd->rhn", query, key) / query.shape[2] ** 0.5
        share = scores.masked_fill(~valid[:, None], -torch.inf).softmax(2)  # r heads n
        answer = torch.einsum("rhn,rnhd->rhd", share, value).flatten(1)
        return class_token + self.out(answer), share.mean(1)


def agreement(class_token: Float[Tensor, "r d"], tokens: Float[Tensor, "r n d"], valid: Bool[Tensor, "r n"]) -> Tensor:
    """Where an expert tells no attention: softmax over the valid tokens of their cosine with the class token, over 0.1."""
    cosine = functional.cosine_similarity(class_token[:, None], tokens, 2)  # r n
    return (cosine / 0.1).masked_fill(~valid, -torch.inf).softmax(1)


def divergence(
    teacher: Float[Tensor, "*rows c"], student: Float[Tensor, "*rows c"], temperature: float
) -> Float[Tensor, "*rows"]:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)); of a regression (c = 1) the squared difference.

    T^2 keeps the size of the gradient, as in distillation (Hinton et al., 2015). The teacher gets no gradient.
    """
    teacher = teacher.detach()
    if teacher.shape[-1] == 1:
        return (teacher - student).square().squeeze(-1)
    log_teacher, log_student = (teacher / temperature).log_softmax(-1), (student / temperature).log_softmax(-1)
    return temperature**2 * (log_teacher.exp() * (log_teacher - log_student)).sum(-1)


def self_guidance(
    class_logits: Float[Tensor, "r c"],
    token_logits: Float[Tensor, "r n c"],
    attention: Float[Tensor, "r n"],
    over: Literal["attention", "all"],
    temperature: float,
) -> Float[Tensor, ""]:
    """How far the tokens, each classified alone, are from what the class token says: it guides them. Mean over rows.

    Args:
        class_logits: of the class token; the teacher, without a gradient.
        token_logits: of each token, by the same classifier.
        attention: of the class token to them, 0 where a token is not valid; without a gradient.
        over: whether a token counts as it is attended to, or each valid one alike.
        temperature: of both predictions.
    """
    share = attention.detach()
    if over == "all":
        share = (share > 0).to(share.dtype)
        share = share / share.sum(1, keepdim=True)
    apart = divergence(class_logits[:, None].expand_as(token_logits), token_logits, temperature)  # r n
    return (share * apart).sum(1).mean()


@torch.no_grad()
def reliability(
    logits: Float[Tensor, "r c"], target: Tensor, how: Literal["correctness", "confidence", "equal"]
) -> Float[Tensor, " r"]:
    """How far an expert's word counts, in [0, 1].

    ``correctness``: the probability of the true class; in a regression exp(-|error|). ``confidence``: the largest probability.
    """
    if how == "equal":
        return logits.new_ones(len(logits))
    if logits.shape[1] == 1:
        return torch.exp(-(logits[:, 0] - target.to(logits.dtype)).abs())
    probabilities = logits.softmax(1)
    return probabilities.amax(1) if how == "confidence" else probabilities.gather(1, target[:, None]).squeeze(1)


def mutual_guidance(
    logits: Float[Tensor, "r m c"],
    class_tokens: Float[Tensor, "r m d"] | None,
    trust: Float[Tensor, "r m"],
    present: Bool[Tensor, "r m"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Each expert learns from each other one, as far as that one is reliable; mean over all ordered pairs that are there.

    Args:
        logits: of the experts, finite.
        class_tokens: aligned by 1 - cosine instead of the predictions, where given.
        trust: reliability of each as a teacher.
        present: which experts a row has.
        temperature: of the predictions.
    """
    m = present.shape[1]
    pairs = present[:, :, None] & present[:, None, :] & ~torch.eye(m, dtype=torch.bool, device=present.device)  # r a b
    if not pairs.any():
        return 0.0 * logits.sum()
    row, teacher, student = pairs.nonzero(as_tuple=True)
    if class_tokens is None:
        apart = divergence(logits[row, teacher], logits[row, student], temperature)
    else:
        taught = class_tokens[row, teacher].detach()
        apart = 1 - functional.cosine_similarity(taught, class_tokens[row, student], 1)
    return (trust[row, teacher] * apart).mean()
