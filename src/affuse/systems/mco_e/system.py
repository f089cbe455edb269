"""MCO-E Net: expressions of a single eye, from an RGB camera and an event camera.

Paper: Runduo Han et al., "Multi-modal Collaborative Optimization and Expansion Network for Event-assisted Single-eye
Expression Recognition", 2025. Read it with this file, trunk.py (section 3.2), mjos.py (3.3.1), fusion.py (3.3.2) and
parts/experts.py (3.4); released.py is the trunk of the released code.

====================  ================================  ==========================
in the paper          here                              shape
====================  ================================  ==========================
F, E                  tokens["rgb"], tokens["event"]    (r, t, d), r rows that have it
MJOS, Algorithm 1     `JointMamba`                      (r, t, d) -> (r, t, d)
y_RGB, y_Event        tokens, after `JointMamba`        (r, t, d)
MCIB, alpha, H        `MCIB`, aux["alpha"], fused       (b, t), (b, t, d)
HCE-MoE, H', G        `HeterogeneousExperts`, `Routing` (b, e)
====================  ================================  ==========================

The defaults follow the paper but for the small encoder; in the rows of Table 3 that mix A, M acts on log(-A). What the demo
adds (normalisation, SiLU, residual paths, a grid a frame, a scaled gate) are settings; the ledger argues each.

Absent means absent: an encoder runs over the rows that have its modality; learned constants stand in for an absent partner's
B, C and query; alpha is then forced to the modality that is there.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from affuse.parts.experts import HeterogeneousExperts, Routing, balance_loss
from affuse.parts.sequences import spread
from affuse.parts.supervision import known_rows, nothing_to_learn
from affuse.systems.mco_e.config import MCOEConfig
from affuse.systems.mco_e.released import ReleasedTrunk
from affuse.systems.mco_e.trunk import PaperTrunk
from affuse.types import AffuseError, Batch, Output, System, Task


class MCOENet(System):
    """MCO-E Net (see the head of this file).

    Inputs: ``rgb`` (b, t, c, h, w) and ``event`` (b, t, c, h, w), the same t. `Output.weights` holds ``modality`` (b, m), from
    alpha averaged over the tokens, and ``expert`` (b, e); `Output.aux` holds ``alpha`` (b, tokens), the weight of RGB in each
    token (rows without an answer are 0), and ``router_probabilities`` (b, e).

    It answers over windows of a clip: pooling, router and backward scan need the whole clip, also where `causal` keeps the
    tokens from looking ahead.

    Args:
        config: settings.
        task: what is predicted.

    Raises:
        AffuseError: a setting is impossible.
    """

    Config: ClassVar[type] = MCOEConfig
    streaming: ClassVar[Literal["step", "window"]] = "window"
    config: MCOEConfig

    def __init__(self, config: MCOEConfig, task: Task) -> None:
        super().__init__()
        self.config, self.task, self.modalities = config, task, tuple(config.modalities)
        self.trunk: nn.Module
        self.head: nn.Module
        released = config.variant == "as_released"
        if released:
            self.trunk, width = ReleasedTrunk(config), config.released_width
        else:
            self.trunk, width = PaperTrunk(config), config.d_model
        if config.head == "hce_moe":
            self.head = HeterogeneousExperts(
                width,
                task.outputs,
                config.expert_types,
                config.experts,
                config.top_k,
                config.heads,
                config.deep_layers,
                config.dropout,
                residual=0.3 if released else None,
                expert_heads=2 if released else None,
            )
        elif config.head == "linear":
            self.head = nn.Linear(width, task.outputs)
        else:
            wide = [nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(config.dropout)]
            self.head = nn.Sequential(*wide, nn.Linear(4 * width, task.outputs))

    def forward(self, batch: Batch) -> Output:
        has = torch.stack([batch.has(name) for name in self.modalities])  # m b
        answered = has.any(0)  # b
        *counts, total = torch.cat([has, answered[None]]).sum(1).tolist()  # rows with each modality, and with any
        if not total:
            return self._no_answer(answered)
        there = {name: (own, count) for name, own, count in zip(self.modalities, has, counts, strict=True) if count}
        clips = {name: self._clips(batch, name, own, count) for name, (own, count) in there.items()}
        rows = {name: own if total == batch.size else own[answered] for name, (own, _) in there.items()}
        fused, alpha = self.trunk(clips, rows)  # r t d, r t
        routing: Routing | None = None
        if isinstance(self.head, HeterogeneousExperts):
            logits, routing = self.head(fused)
        else:
            logits = self.head(fused.mean(1))

        share = alpha.mean(1)  # r
        by_name = {"rgb": share, "event": 1 - share}
        weights = {"modality": spread(torch.stack([by_name[name] for name in self.modalities], 1), answered, 0.0)}
        aux = {"alpha": spread(alpha, answered, 0.0)}
        if routing is not None:
            weights["expert"] = spread(routing.weights, answered, 0.0)
            aux["router_probabilities"] = spread(routing.probabilities, answered, 0.0)
        return Output(spread(logits, answered, torch.nan), answered, weights, aux=aux)

    def loss(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy, or the mean squared error of a regression, and the balance of the experts where it is weighted.

        Raises:
            AffuseError: the batch has no targets.
        """
        rows = known_rows(output, batch, self.task)
        terms: dict[str, Tensor] = {}
        if batch.target is None or not rows.any():
            return nothing_to_learn(self)
        if self.task.kind == "classification":
            terms["cross_entropy"] = functional.cross_entropy(output.logits[rows], batch.target[rows])
        else:
            terms["mse"] = functional.mse_loss(output.value[rows], batch.target[rows].to(output.logits.dtype))
        total = sum(terms.values(), torch.zeros((), device=output.logits.device))
        if self.config.balance_weight > 0 and "expert" in output.weights:
            routing = Routing(output.aux["router_probabilities"][rows], output.weights["expert"][rows])
            terms["balance"] = balance_loss(routing)
            total = total + self.config.balance_weight * terms["balance"]
        return {**terms, "total": total}

    def modality_parts(self) -> dict[str, list[nn.Module]]:
        """Each sensor's image encoder and its map to tokens."""
        return {name: self.trunk.modality_parts(name) for name in self.modalities}  # type: ignore[operator]

    def spatial_layer(self, modality: str) -> nn.Module:
        """The module whose output, ((rows * t), d, y, x), is the last map of features of a modality: for Grad-CAM.

        Raises:
            AffuseError: the system does not read this modality.
        """
        if modality not in self.modalities:
            raise AffuseError(f"this system reads {', '.join(self.modalities)}, not {modality!r}")
        return self.trunk.spatial_layer(modality)  # type: ignore[operator]

    def _clips(self, batch: Batch, name: str, has: Tensor, count: int) -> Tensor:
        """The clips (r, t, c, h, w) of the rows that have this modality, `count` of them."""
        clips = batch.inputs[name] if count == batch.size else batch.inputs[name][has]
        if name in batch.lengths:
            lengths = batch.lengths[name][has].unique()
            if len(lengths) > 1:
                raise AffuseError(
                    f"modality {name!r}: clips of one batch have different numbers of frames; make them equal"
                )
            clips = clips[:, : int(lengths)]  # those that lack it may have been longer
        if clips.ndim != 5 or clips.shape[2] != self.config.channels(name):
            raise AffuseError(
                f"modality {name!r}: expected (b, t, {self.config.channels(name)}, h, w), got "
                f"{tuple(batch.inputs[name].shape)}; set {name}_channels or mend the data"
            )
        return clips

    def _no_answer(self, answered: Tensor) -> Output:
        b, c = len(answered), self.task.outputs
        some = next(self.parameters())
        weights = {"modality": some.new_zeros(b, len(self.modalities))}
        if isinstance(self.head, HeterogeneousExperts):
            weights["expert"] = some.new_zeros(b, len(self.head.experts))
        return Output(some.new_full((b, c), torch.nan).detach(), answered, weights)
