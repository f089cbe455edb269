"""Experts from transformers: TimeSformer, VideoMAE and ViViT, by name, from a folder, or made from settings.

Bertasius et al., Is Space-Time Attention All You Need for Video Understanding?, ICML 2021; Tong et al., VideoMAE, NeurIPS 2022;
Arnab et al., ViViT: A Video Vision Transformer, ICCV 2021. None of them knows a mask, so the tokens of lost frames are taken
out behind the embedding of patches and positions: the layers see the others alone, and these keep their own positions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from affuse.parts.text import trouble
from affuse.systems.mome.config import VIDEO_TRANSFORMERS, MoMEConfig
from affuse.systems.mome.tokens import Tokens
from affuse.types import AffuseError


def is_folder_or_hub_name(name: str) -> bool:
    """Whether a name is one of a folder, or OWNER/MODEL on the hub, rather than a backbone's."""
    return "/" in name or Path(name).is_dir()


class VideoTransformerExpert(nn.Module):
    """A video transformer of transformers without its classifier; it needs the extra ``text``, which brings transformers.

    Its class token is its own, or the mean of its tokens where it has none, as VideoMAE. A tube of several frames is there only
    where all of them are. A clip with fewer frames than it was made for has the first ones.

    Args:
        name: ``timesformer``, ``videomae`` or ``vivit``, made from settings; or a model's folder or name on the hub, with
            ``config.json`` and, if pretrained, weights in safetensors.
        channels: channels of a frame. Published weights of other channels are adapted: summed over channels for one, else
            repeated and scaled, so that equal channels give the same answer.
        config: settings.

    Raises:
        AffuseError: transformers is not installed; there is no such model, or it is of another kind; it takes fewer frames.
    """

    def __init__(self, name: str, channels: int, config: MoMEConfig) -> None:
        super().__init__()
        try:
            from transformers import AutoConfig, AutoModel
        except ImportError as error:
            raise AffuseError(f"the expert {name!r} needs transformers ({error}): pip install 'affuse[text]'") from None
        try:
            if name in VIDEO_TRANSFORMERS:
                self.model: Any = AutoModel.from_config(_made(AutoConfig, name, channels, config))
            else:
                found = AutoConfig.from_pretrained(name)
                if found.model_type not in VIDEO_TRANSFORMERS:
                    raise AffuseError(
                        f"expert {name!r} is a {found.model_type}; give one of {', '.join(VIDEO_TRANSFORMERS)}"
                    )
                if config.pretrained:
                    self.model = AutoModel.from_pretrained(name, use_safetensors=True)
                    _adapt(self.model.embeddings.patch_embeddings, channels)
                else:
                    found.num_channels = channels
                    self.model = AutoModel.from_config(found)
        except (OSError, ValueError) as error:
            raise AffuseError(f"expert {name!r}: {trouble(error)}") from None
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None  # it has no part in the tokens
        own = self.model.config
        self.kind: str = own.model_type
        self.pretrained = config.pretrained and name not in VIDEO_TRANSFORMERS
        self.width: int = own.hidden_size
        self.frames: int = own.num_frames
        self.size = _sides(own.image_size)
        tube = own.tubelet_size if self.kind != "timesformer" else 1
        patch = tube[1:] if isinstance(tube, list | tuple) else _sides(own.patch_size)
        self.tube: int = tube[0] if isinstance(tube, list | tuple) else tube
        self.grid = (self.frames // self.tube, self.size[0] // patch[0], self.size[1] // patch[1])
        if config.frames > self.frames:
            raise AffuseError(
                f"expert {name!r} takes {self.frames} frames, fewer than frames: {config.frames}; set frames"
            )

    @property
    def backbone(self) -> list[nn.Module]:
        """What starts from published weights."""
        return [self] if self.pretrained else []

    def has_tokens(self, valid: Bool[Tensor, "r t"]) -> Bool[Tensor, " r"]:
        """Which clips have at least one whole tube of frames."""
        return self._steps(valid).any(1)

    def forward(self, clips: Float[Tensor, "r t c h w"], valid: Bool[Tensor, "r t"]) -> Tokens:
        """Tokens of clips; what stands in frames that are not valid must be finite and has no part in any valid token.

        Raises:
            AffuseError: the frames have another size than the model's.
        """
        if tuple(clips.shape[3:]) != self.size:
            raise AffuseError(
                f"frames of {tuple(clips.shape[3:])} pixels, but this {self.kind} reads {self.size}: set the data's size"
            )
        steps = self._steps(valid)  # r t'
        clips = functional.pad(clips, (0, 0, 0, 0, 0, 0, 0, self.frames - clips.shape[1]))
        t, y, x = self.grid
        tokens = clips.new_zeros(len(clips), t, y * x, self.width)
        class_token = clips.new_zeros(len(clips), self.width)
        # Rows with as many steps go through together: their tokens are one rectangle.
        counts = steps.sum(1)
        for count in counts.unique().tolist():
            rows = counts == count
            kept = steps[rows].nonzero()[:, 1].reshape(-1, count)  # q s
            first, found = self._through(clips[rows], kept)
            place = torch.arange(len(kept), device=kept.device)[:, None]
            held = found.new_zeros(len(kept), t, y * x, self.width)
            held[place, kept] = found
            tokens[rows] = held.to(tokens.dtype)
            class_token[rows] = first.to(tokens.dtype)
        return Tokens(class_token, tokens.flatten(1, 2), steps.repeat_interleave(y * x, 1), self.grid)

    def _steps(self, valid: Bool[Tensor, "r t"]) -> Bool[Tensor, "r s"]:
        """Which steps of the grid are there: a tube is where all of its frames are."""
        padded = functional.pad(valid, (0, self.frames - valid.shape[1]), value=False)
        return padded[:, : self.grid[0] * self.tube].unflatten(1, (-1, self.tube)).all(2)

    def _through(self, clips: Tensor, kept: Tensor) -> tuple[Float[Tensor, "q d"], Float[Tensor, "q s p d"]]:
        """Class token and tokens of the kept steps (q, s), time first."""
        own, steps = self.model.config, kept.shape[1]
        spatial_first = self.kind == "timesformer"  # its tokens are ordered by place, then by time
        classes = 0 if self.kind == "videomae" else 1
        total, cells = self.grid[0], self.grid[1] * self.grid[2]

        def keep(_module: nn.Module, _inputs: Any, embedded: Tensor) -> Tensor:
            if steps == total:
                return embedded
            shape = (cells, total) if spatial_first else (total, cells)
            body = embedded[:, classes:].unflatten(1, shape)  # q p t d, or q t p d
            row = torch.arange(len(kept), device=kept.device)[:, None]
            chosen = body.transpose(1, 2)[row, kept].transpose(1, 2) if spatial_first else body[row, kept]
            return torch.cat([embedded[:, :classes], chosen.flatten(1, 2)], 1)

        hook = self.model.embeddings.register_forward_hook(keep)
        frames = own.num_frames
        try:
            if spatial_first:
                own.num_frames = steps  # its layers take from here how many frames they see
            hidden = self.model(pixel_values=clips).last_hidden_state
        finally:
            own.num_frames = frames
            hook.remove()
        body = hidden[:, classes:].unflatten(1, (cells, steps) if spatial_first else (steps, cells))
        found = body.transpose(1, 2) if spatial_first else body
        return hidden[:, 0] if classes else found.mean((1, 2)), found


def _sides(size: int | list[int] | tuple[int, ...]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _made(auto: Any, name: str, channels: int, config: MoMEConfig) -> Any:
    """The configuration of a model with these settings."""
    if config.size % config.patch:
        raise AffuseError(f"patch must divide size for an expert {name!r}; got {config.patch} and {config.size}")
    settings: dict[str, Any] = {
        "image_size": config.size,
        "num_channels": channels,
        "num_frames": config.frames,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": 4 * config.width,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": 0.0,
    }
    if name != "timesformer" and config.frames % 2:
        raise AffuseError(f"frames must be even for an expert {name!r}, whose tubes are 2 frames; got {config.frames}")
    if name == "vivit":
        settings["tubelet_size"] = [2, config.patch, config.patch]
    else:
        settings["patch_size"] = config.patch
    return auto.for_model(name, **settings)


def _adapt(patches: Any, channels: int) -> None:
    """Bring published weights of a patch embedding to another number of channels."""
    old = patches.projection
    if old.in_channels == channels:
        return
    kind = type(old)
    new = kind(channels, old.out_channels, old.kernel_size, old.stride, bias=old.bias is not None)
    with torch.no_grad():
        order = torch.arange(channels) % old.in_channels
        weight = (
            old.weight.sum(1, keepdim=True) if channels == 1 else old.weight[:, order] * (old.in_channels / channels)
        )
        new.weight.copy_(weight)
        if old.bias is not None:
            new.bias.copy_(old.bias)
    patches.projection = new
    patches.num_channels = channels
