"""MCO-E Net's trunk as the released code computes it (variant ``as_released``), in our own words.

Where it differs from the paper, and from trunk.py:

- Only the first and the last frame of a clip are read, each by an encoder of its own for each sensor: four encoders, each of
  which ends in a linear layer (ResNet's classifier) of 1000 numbers.
- The 2000 numbers of a sensor are cut into 500 tokens of width 4. The sequence that Mamba scans is thus no sequence of frames.
- MJOS concatenates all that is projected from both sensors, Delta and C included, always RGB first; one matrix without bias
  serves both sensors.
- Each direction has a convolution of its own; SiLU follows it and gates the output; the directions are averaged; the
  backward scan takes the forward scan's bias of Delta; the input is added to the output.
- MCIB has one attention for both sensors; alpha weighs the answer about events; half the sum of both inputs is added.
- All tokens become one vector, so that the attention in router and experts sees a single token.

An absent sensor is answered for as in the paper's trunk: by learned constants, and a gate forced to the one that is there.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from affuse.ops.selective_scan import selective_scan
from affuse.parts.encoders import ImageEncoder, grid_pool
from affuse.parts.experts import Attention
from affuse.systems.mco_e.config import MCOEConfig
from affuse.systems.mco_e.fusion import Rows, Values, lone_weight, placed
from affuse.types import AffuseError

WIDTH = 4  # of a token
INNER = 8
STATES = 16
CONV = 4
PROJECTED = 1 + 2 * STATES  # Delta (rank 1), B and C
NAMES = ("rgb", "event")


class ReleasedTrunk(nn.Module):
    """From clips to one fused vector.

    Raises:
        AffuseError: the configuration asks for one modality, or for a number of outputs that does not make whole tokens.
    """

    def __init__(self, config: MCOEConfig) -> None:
        super().__init__()
        if config.modalities != NAMES:
            raise AffuseError("variant as_released reads both rgb and event: set modalities to both")
        if 2 * config.released_outputs % WIDTH:
            raise AffuseError(f"released_outputs must be even, to make tokens of {WIDTH}: {config.released_outputs}")
        self.frames = {"first": 0, "last": -1}
        self.encoders = nn.ModuleDict()
        self.classifier = nn.ModuleDict()
        for name in NAMES:
            for frame in self.frames:
                key = f"{name}_{frame}"
                encoder = ImageEncoder(config.encoder, config.channels(name), config.pretrained, config.encoder_weights)
                self.encoders[key] = encoder
                self.classifier[key] = nn.Linear(encoder.width, config.released_outputs)
        self.mamba = ReleasedMamba()
        self.mcib = ReleasedMCIB()
        self.fuse = nn.Sequential(
            nn.Linear(2 * config.released_outputs, config.released_width), nn.GELU(), nn.Dropout(config.dropout)
        )

    def modality_parts(self, name: str) -> list[nn.Module]:
        keys = [f"{name}_{frame}" for frame in self.frames]
        return [part[key] for part in (self.encoders, self.classifier) for key in keys]

    def spatial_layer(self, modality: str) -> nn.Module:
        """The last map of the last frame's encoder."""
        return self.encoders[f"{modality}_last"].last_map()  # type: ignore[operator]

    def forward(self, clips: dict[str, Tensor], rows: Rows) -> tuple[Float[Tensor, "b 1 d"], Float[Tensor, "b t"]]:
        tokens = {}
        for name, value in clips.items():
            seen = []
            for frame, index in self.frames.items():
                maps = self.encoders[f"{name}_{frame}"](value[:, index, None])  # r 1 d y x
                seen.append(self.classifier[f"{name}_{frame}"](grid_pool(maps, 1)).squeeze(1))  # r outputs
            tokens[name] = torch.cat(seen, 1).unflatten(1, (-1, WIDTH))  # r t 4
        scanned = self.mamba(tokens, rows)
        tokens = {name: value + scanned[name] for name, value in tokens.items()}
        fused, weight = self.mcib(tokens, rows)
        return self.fuse(fused.flatten(1)).unsqueeze(1), weight


class ReleasedMamba(nn.Module):
    """Both sensors, both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.ModuleDict({name: nn.Linear(WIDTH, 2 * INNER, bias=False) for name in NAMES})
        self.scans = nn.ModuleDict({"scan_forward": ReleasedScan(), "scan_backward": ReleasedScan()})
        self.step_bias = nn.ParameterDict({name: nn.Parameter(_step_bias()) for name in NAMES})  # of both directions
        self.out = nn.ModuleDict({name: nn.Linear(INNER, WIDTH, bias=False) for name in NAMES})

    def forward(self, tokens: Values, rows: Rows) -> dict[str, Tensor]:
        x, z = {}, {}
        for name, value in tokens.items():
            x[name], z[name] = self.into[name](value).chunk(2, 2)  # r t inner
        onward = self.scans["scan_forward"](x, rows, self.step_bias)
        flipped = {name: value.flip(1) for name, value in x.items()}
        back = self.scans["scan_backward"](flipped, rows, self.step_bias)
        return {
            name: self.out[name](functional.silu(z[name]) * (onward[name] + back[name].flip(1)) / 2) for name in tokens
        }


class ReleasedScan(nn.Module):
    """One direction, over sequences that already run in it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.ModuleDict({name: nn.Conv1d(INNER, INNER, CONV, groups=INNER) for name in NAMES})
        self.project = nn.ModuleDict({name: nn.Linear(INNER, PROJECTED, bias=False) for name in NAMES})
        self.joint = nn.ModuleDict({k: nn.Linear(2 * PROJECTED, STATES, bias=False) for k in "BC"})
        self.step = nn.ParameterDict({name: nn.Parameter(torch.empty(INNER, 1).uniform_(-1, 1)) for name in NAMES})
        # The released code gives both sensors one tensor for A, which moving to a GPU then parts; here they are two.
        self.A_log = nn.ParameterDict(
            {name: nn.Parameter(torch.arange(1.0, STATES + 1).log().repeat(INNER, 1)) for name in NAMES}
        )
        self.D = nn.ParameterDict({name: nn.Parameter(torch.ones(INNER)) for name in NAMES})
        self.absent = nn.ParameterDict({name: nn.Parameter(0.1 * torch.randn(PROJECTED)) for name in NAMES})

    def forward(self, x: Values, rows: Rows, step_bias: nn.ParameterDict) -> dict[str, Tensor]:
        b = len(next(iter(rows.values())))
        length = next(iter(x.values())).shape[1]
        main, projected, whole = {}, {}, {}
        for name, stand_in in self.absent.items():
            if name not in x:
                whole[name] = stand_in.expand(b, length, -1)
                continue
            padded = functional.pad(x[name].transpose(1, 2), (CONV - 1, 0))
            main[name] = functional.silu(self.conv[name](padded)).transpose(1, 2)  # r t inner
            projected[name] = self.project[name](main[name])  # r t 33
            whole[name] = placed(projected[name], rows[name], stand_in)
        both = torch.cat([whole[name] for name in NAMES], 2)  # b t 66
        outputs = {}
        for name, value in main.items():
            step, B, C = projected[name].split([1, STATES, STATES], 2)
            B, C = B + self.joint["B"](both)[rows[name]], C + self.joint["C"](both)[rows[name]]
            delta = functional.softplus(step @ self.step[name].T + step_bias[name])
            outputs[name], _ = selective_scan(value, delta, -torch.exp(self.A_log[name]), B, C, self.D[name])
        return outputs


class ReleasedMCIB(nn.Module):
    """One attention for both questions, and a gate without parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in NAMES})
        self.attention = Attention(WIDTH, 2)
        self.absent_query = nn.ParameterDict({name: nn.Parameter(0.1 * torch.randn(WIDTH)) for name in NAMES})

    def forward(self, tokens: Values, rows: Rows) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b t"]]:
        """Fused tokens, and the weight of RGB in each: 1 - alpha."""
        b = len(next(iter(rows.values())))
        length = next(iter(tokens.values())).shape[1]
        own = {name: self.project[name](value) for name, value in tokens.items()}
        whole, kept = {}, []
        for name, stand_in in self.absent_query.items():
            whole[name] = stand_in.expand(b, length, -1) if name not in own else placed(own[name], rows[name], stand_in)
            if name in own:
                kept.append(placed(own[name], rows[name], torch.zeros_like(stand_in)))
        weight = lone_weight(rows, 1 - torch.sigmoid((whole["rgb"] * whole["event"]).sum(2)))  # b t
        fused = torch.stack(kept).sum(0) / 2
        for name, share in (("rgb", weight), ("event", 1 - weight)):
            if name in own:
                query = whole["event" if name == "rgb" else "rgb"][rows[name]]
                answer = self.attention(query, own[name])
                fused = fused + share[:, :, None] * placed(answer, rows[name], answer.new_zeros(WIDTH))
        return fused, weight


def _step_bias() -> Tensor:
    """Steps log-uniform in [0.001, 0.1], at least 0.0001, through the inverse of softplus."""
    steps = torch.exp(torch.empty(INNER).uniform_(math.log(1e-3), math.log(1e-1))).clamp(min=1e-4)
    return steps + torch.log(-torch.expm1(-steps))
