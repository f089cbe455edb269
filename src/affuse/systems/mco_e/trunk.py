"""MCO-E Net's trunk by the paper: encoders and MCO-Mamba (sections 3.2 and 3.3)."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from affuse.parts.encoders import ImageEncoder, grid_pool
from affuse.systems.mco_e.config import MCOEConfig
from affuse.systems.mco_e.fusion import MCIB, Rows, added
from affuse.systems.mco_e.mjos import JointMamba
from affuse.types import AffuseError


class PaperTrunk(nn.Module):
    """Encoders, MCO-Mamba (MJOS and MCIB): from clips to the fused tokens H, by the paper."""

    def __init__(self, config: MCOEConfig) -> None:
        super().__init__()
        self.config = config
        names = config.modalities
        self.encoders = nn.ModuleDict(
            {
                name: ImageEncoder(config.encoder, config.channels(name), config.pretrained, config.encoder_weights)
                for name in names
            }
        )
        cells = config.frame_grid**2 if config.tokens == "frame" else 1
        self.project = nn.ModuleDict(
            {name: nn.Linear(self._encoder(name).width * cells, config.d_model) for name in names}
        )
        self.mamba = nn.ModuleList(JointMamba(config) for _ in range(config.layers if config.mamba else 0))
        both = len(names) == 2 and config.mcib
        settings = (config.d_model, config.heads, config.gate_scale, config.causal, config.mcib_residual)
        self.mcib = MCIB(*settings) if both else None

    def _encoder(self, name: str) -> Any:
        return self.encoders[name]

    def modality_parts(self, name: str) -> list[nn.Module]:
        return [self.encoders[name], self.project[name]]

    def spatial_layer(self, modality: str) -> nn.Module:
        return self._encoder(modality).last_map()

    def tokens(self, name: str, clips: Float[Tensor, "r f c h w"]) -> Float[Tensor, "r t d"]:
        """F or E: a token a frame, or one a position of each frame, frame after frame."""
        maps = self._encoder(name)(clips)  # r f d y x
        if self.config.tokens == "frame":
            return self.project[name](grid_pool(maps, self.config.frame_grid))
        return self.project[name](maps.permute(0, 1, 3, 4, 2).flatten(1, 3))

    def forward(self, clips: dict[str, Tensor], rows: Rows) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b t"]]:
        tokens = {name: self.tokens(name, value) for name, value in clips.items()}
        if len({value.shape[1] for value in tokens.values()}) > 1:
            shapes = {name: tuple(value.shape[1:]) for name, value in clips.items()}
            raise AffuseError(f"the modalities of a clip must have the same frames and sizes; got {shapes}")
        for layer in self.mamba:
            tokens = layer(tokens, rows)
        return self.mcib(tokens, rows) if self.mcib is not None else added(tokens, rows)
