"""Text encoders: token ids in, a vector a token out. Any encoder of transformers, by its name or from a folder."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from affuse.types import AffuseError


class TextEncoder(nn.Module):
    """A text encoder of transformers, without its pooling head.

    It needs the extra ``text``. With `pretrained` its weights are fetched by transformers at first use, from safetensors
    files only; without, only its configuration is read and the weights are random, as for a run that holds its own.

    Args:
        name: a model's name on the Hugging Face hub, such as ``bert-base-uncased``, or a local folder with ``config.json``
            and, for pretrained weights, ``model.safetensors``.
        pretrained: whether to take the published weights.
        finetune: whether it learns; if not, it is also kept from dropping units out.

    Raises:
        AffuseError: transformers is not installed, or there is no such model or weights.
    """

    def __init__(self, name: str, pretrained: bool = True, finetune: bool = True) -> None:
        super().__init__()
        try:
            from transformers import AutoConfig, AutoModel
        except ImportError as error:
            raise AffuseError(
                f"the text encoder {name!r} needs transformers ({error}): pip install 'affuse[text]'"
            ) from None
        try:
            if pretrained:
                self.model: Any = AutoModel.from_pretrained(name, use_safetensors=True)
            else:
                self.model = AutoModel.from_config(AutoConfig.from_pretrained(name))
        except (OSError, ValueError) as error:
            raise AffuseError(f"text_encoder {name!r}: {trouble(error)}") from None
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None  # it has no part in the vectors of the tokens
        self.finetune = finetune
        self.model.requires_grad_(finetune)
        self.train()

    @property
    def width(self) -> int:
        """Features of a token (d)."""
        return self.model.config.hidden_size

    def train(self, mode: bool = True) -> TextEncoder:
        """As any module; one that does not learn stays in evaluation mode."""
        super().train(mode)
        if not self.finetune:
            self.model.eval()
        return self

    def forward(self, tokens: Int[Tensor, "r t"], mask: Bool[Tensor, "r t"]) -> Float[Tensor, "r t d"]:
        """The last layer's vectors; what stands at padded steps means nothing.

        Args:
            tokens: ids of this encoder's own tokeniser, its special tokens included.
            mask: which steps are a row's own.

        Raises:
            AffuseError: an id is not in the vocabulary, or there are more tokens than the encoder has positions for.
        """
        if not len(tokens):
            return torch.zeros(*tokens.shape, self.width, device=tokens.device)
        known, longest = self.model.config.vocab_size, getattr(self.model.config, "max_position_embeddings", None)
        ids = tokens.masked_fill(~mask, 0)
        if int(ids.min()) < 0 or int(ids.max()) >= known:
            raise AffuseError(
                f"token ids go from {int(ids.min())} to {int(ids.max())}, the text encoder knows 0 to {known - 1}: "
                f"tokenise the text for this encoder"
            )
        if longest is not None and tokens.shape[1] > longest:
            raise AffuseError(
                f"{tokens.shape[1]} tokens in a row, the text encoder has {longest} positions: cut the text shorter"
            )
        with contextlib.nullcontext() if self.finetune else torch.no_grad():
            return self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state


def trouble(error: Exception) -> str:
    """What transformers said as it did not load a model, and the remedy."""
    said = " ".join(str(error).split())
    if "torchaudio" in said:  # transformers imports it wherever it is installed
        remedy = "torchaudio does not fit this torch: pip uninstall torchaudio, or install the one made for it"
    else:
        remedy = "give a model's name on the hub, or a folder with config.json and model.safetensors"
    return f"{said[:200]}; {remedy}"
