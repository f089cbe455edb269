"""MoME + HTL: driver actions from RGB, infrared and depth, or from whatever cameras there are.

Paper: Chen Cai, Jiaojiao Wang, Kim-Hui Yap and others, "Mixture-of-Modality-Experts with Holistic Token Learning for
Fine-Grained Multimodal Visual Analytics in Driver Action Recognition", 2026, arXiv 2604.05947. Only its abstract and a summary
were at hand, and there is no released code: what the experts are, what the gate reads and every form of HTL are settings, their
defaults our readings (ledger/mome.md). Read with this file experts.py and video_transformers.py (the experts), gating.py (the
gate) and guidance.py (HTL).

========================  ==========================================  ===============
in the summary            here                                        shape
========================  ==========================================  ===============
modality expert           ``experts[m]``, ``heads[m]``
class token               ``aux["features/m"]``                       (b, d)
spatio-temporal tokens    tokens of `Tokens`                          (b, t y x, d)
token attention           ``aux["attention/m"]``                      (b, t, y, x)
output-aware gating       ``weights["modality"]``                     (b, m)
expert's own prediction   ``unimodal[m]``                             (b, c)
self-guidance             `ClassTokenRefinement`, `self_guidance`
mutual guidance           `mutual_guidance`
========================  ==========================================  ===============

Absent means absent: an expert runs over the rows that have its camera, a learned vector stands in for it where the gate reads,
and its weight is exactly 0. A frame with a value that is not finite is lost: no layer reads it, and no token of it is attended
to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from affuse.parts.sequences import present_rows, spread, valid_steps
from affuse.parts.supervision import known_rows, nothing_to_learn
from affuse.systems.mome.config import MoMEConfig
from affuse.systems.mome.experts import Expert, FrameExpert, expert_named
from affuse.systems.mome.gating import (
    GateNetwork,
    PlainGate,
    confidence,
    entropy_of,
    gate_weights,
    hidden_at_random,
    imbalance_of,
    pooled_frames,
)
from affuse.systems.mome.guidance import (
    ClassTokenRefinement,
    agreement,
    mutual_guidance,
    reliability,
    self_guidance,
)
from affuse.systems.mome.tokens import Tokens
from affuse.types import AffuseError, Batch, Output, System, Task


class Clips(NamedTuple):
    """What one camera gave: finite frames (q, t, c, h, w), which are valid (q, t), and in which rows (b,)."""

    frames: Tensor
    valid: Tensor
    rows: Tensor


class Said(NamedTuple):
    """What one expert says: class token (q, d), logits (q, c), attention (q, n), its tokens."""

    class_token: Tensor
    logits: Tensor
    attention: Tensor
    tokens: Tokens


class MoME(System):
    """MoME + HTL (see the head of this file).

    Inputs: frames (b, t, c, h, w) of each camera, t at most `frames` of the settings, about zero mean and unit scale; a lost
    frame is NaN. `Output.weights` holds the gate as ``modality`` (b, m); `Output.unimodal` each expert's logits, NaN in rows
    that lack it; `Output.aux`: ``features`` (b, d), the weighed class tokens; ``features/NAME`` (b, d) and ``attention/NAME``
    (b, t, y, x), zero in rows that lack the camera, and what the loss needs: ``present`` and ``seen`` (b, m), which cameras
    there are and which the gate was told of, ``gate`` (b, m), the weights before `top_k`, and, with self-guidance,
    ``tokens/NAME`` (b, n, c), logits of each token.

    It answers over windows of a clip: attention needs the whole clip.

    Args:
        config: settings.
        task: what is predicted.

    Raises:
        AffuseError: a setting is impossible with this task or these experts, or an expert cannot be had.
    """

    Config: ClassVar[type] = MoMEConfig
    streaming: ClassVar[Literal["step", "window"]] = "window"
    config: MoMEConfig

    def __init__(self, config: MoMEConfig, task: Task) -> None:
        super().__init__()
        self.config, self.task, self.modalities = config, task, tuple(config.modalities)
        names = self.modalities
        made = {name: expert_named(config.expert_for(name), config.channels[name], config) for name in names}
        widths = {name: expert.width for name, expert in made.items()}
        self._check(set(widths.values()))
        self.experts = nn.ModuleDict(made)
        self.refine: nn.ModuleDict | None = None
        if config.self_guidance:
            self.refine = nn.ModuleDict({name: ClassTokenRefinement(widths[name], config.heads) for name in names})
        self.heads = nn.ModuleDict({name: _classifier(widths[name], task.outputs, config.dropout) for name in names})
        self.same_width = len(set(widths.values())) == 1
        self.fused_head: nn.Module | None = None
        if config.fuse == "class_tokens":
            total = widths[names[0]] if self.same_width else sum(widths.values())
            self.fused_head = _classifier(total, task.outputs, config.dropout)
        self.gate: nn.Module | None = None
        if config.gating == "plain":
            self.gate = PlainGate(len(names))
        elif config.gating == "input":
            cells = 2 * config.gate_grid**2
            self.gate = GateNetwork([cells * config.channels[name] for name in names], config.gate_width, False)
        elif config.gating == "output":
            read = {"class_tokens": None, "logits": task.outputs, "confidence": 3}[config.gate_reads]
            self.gate = GateNetwork([read or widths[name] for name in names], config.gate_width, read is None)

    def forward(self, batch: Batch) -> Output:
        clips = {name: found for name in self.modalities if (found := self._clips(batch, name)) is not None}
        nobody = torch.zeros(batch.size, dtype=torch.bool, device=batch.present.device)
        has = {name: clips[name].rows if name in clips else nobody for name in self.modalities}
        answered = torch.stack(list(has.values())).any(0)  # b
        if not answered.any():
            return self._no_answer(answered)
        said = {name: self._said(name, found) for name, found in clips.items()}
        present = torch.stack([has[name][answered] for name in self.modalities], 1)  # r m
        seen = present
        if self.training and self.config.gate_dropout and self.gate is not None:
            seen = hidden_at_random(present, self.config.gate_dropout)
        weights, soft = self._weights(clips, said, seen)
        outputs = self.task.outputs
        own = torch.stack([self._held(said, name, present, outputs) for name in self.modalities], 1)  # r m c
        tokens = [self._held(said, name, present, None) for name in self.modalities]
        if self.same_width:
            features = torch.einsum("rmd,rm->rd", torch.stack(tokens, 1), weights)
        else:
            features = torch.cat([weights[:, [column]] * found for column, found in enumerate(tokens)], 1)
        if self.fused_head is not None:
            logits = self.fused_head(features)
        elif self.config.fuse == "probabilities" and outputs > 1:
            mixture = torch.einsum("rmc,rm->rc", own.softmax(2), weights)
            logits = mixture.clamp_min(torch.finfo(mixture.dtype).tiny).log()
        else:
            logits = torch.einsum("rmc,rm->rc", own, weights)
        aux = {
            "features": spread(features, answered, 0.0),
            "present": torch.stack(list(has.values()), 1),
            "seen": spread(seen.to(soft.dtype), answered, 0.0) > 0,
            "gate": spread(soft, answered, 0.0),
        }
        unimodal: dict[str, Tensor] = {}
        for name, one in said.items():
            unimodal[name] = spread(one.logits, has[name], torch.nan)
            aux[f"features/{name}"] = spread(one.class_token, has[name], 0.0)
            aux[f"attention/{name}"] = spread(one.attention.detach().unflatten(1, one.tokens.grid), has[name], 0.0)
            if self.config.self_guidance:
                aux[f"tokens/{name}"] = spread(self.heads[name](one.tokens.tokens), has[name], torch.nan)
        decided = {"modality": spread(weights, answered, 0.0)}
        return Output(spread(logits, answered, torch.nan), answered, decided, unimodal, aux)

    def loss(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """The terms, each before its weight, and their ``total``, over the rows that were answered and have a target.

        ``fused`` and ``own``: cross-entropy of the fused answer and, averaged, of the experts' own; in a regression squared
        errors. ``self`` and ``mutual``: HTL. ``entropy`` and ``balance``: of the gate.

        Raises:
            AffuseError: the batch has no targets.
        """
        rows = known_rows(output, batch, self.task)
        if batch.target is None or not rows.any():
            return nothing_to_learn(self)
        config, target = self.config, batch.target
        present = output.aux["present"]  # b m
        terms = {"fused": self._error(output.logits[rows], target[rows])}
        total = terms["fused"]
        own, guided = [], []
        for column, name in enumerate(self.modalities):
            who = rows & present[:, column]
            if not who.any():
                continue
            own.append(self._error(output.unimodal[name][who], target[who]))
            if config.self_guidance:
                attention = output.aux[f"attention/{name}"][who].flatten(1)
                spoken, temperature = output.aux[f"tokens/{name}"][who], config.self_temperature
                guided.append(
                    self_guidance(output.unimodal[name][who], spoken, attention, config.self_over, temperature)
                )
        terms["own"] = torch.stack(own).mean()
        total = total + config.own_weight * terms["own"]
        if guided:
            terms["self"] = torch.stack(guided).mean()
            total = total + config.self_weight * terms["self"]
        if config.mutual_guidance and len(self.modalities) > 1:
            terms["mutual"] = self._mutual(output, target, rows)
            total = total + config.mutual_weight * terms["mutual"]
        if self.gate is not None and len(self.modalities) > 1:
            soft, seen = output.aux["gate"][rows].float(), output.aux["seen"][rows]
            terms["entropy"], terms["balance"] = entropy_of(soft, seen), imbalance_of(soft, seen)
            total = total + config.gate_entropy * terms["entropy"] + config.gate_balance * terms["balance"]
        return {**terms, "total": total}

    def pretrained_parts(self) -> Sequence[nn.Module]:
        """The backbones that started from published weights."""
        return [part for name in self.modalities for part in self._expert(name).backbone]

    def modality_parts(self) -> Mapping[str, Sequence[nn.Module]]:
        """Each camera's expert, the refinement of its class token, and its classifier."""
        refine = {} if self.refine is None else {name: [self.refine[name]] for name in self.modalities}
        return {name: [self.experts[name], *refine.get(name, []), self.heads[name]] for name in self.modalities}

    def spatial_layer(self, modality: str) -> nn.Module:
        """The module that gives the last map of each frame of a camera, (rows t, d, y, x).

        Raises:
            AffuseError: there is no such camera, or its expert has no maps of single frames.
        """
        if modality not in self.experts:
            raise AffuseError(f"MoME has no modality {modality!r}; it has {list(self.modalities)}")
        expert = self._expert(modality)
        if not isinstance(expert, FrameExpert):
            raise AffuseError(
                f"the expert of {modality!r}, a {expert.kind}, has no map of each frame: see its token attention instead"
            )
        return expert.maps

    def _said(self, name: str, clips: Clips) -> Said:
        """What the expert of a camera says of the rows that have it."""
        found: Tokens = self.experts[name](clips.frames, clips.valid)
        class_token, attention = found.class_token, found.attention
        if self.refine is not None:
            class_token, attention = self.refine[name](class_token, found.tokens, found.valid)
        elif attention is None:
            attention = agreement(class_token, found.tokens, found.valid)
        return Said(class_token, self.heads[name](class_token), attention, found)

    def _weights(
        self, clips: Mapping[str, Clips], said: Mapping[str, Said], present: Bool[Tensor, "r m"]
    ) -> tuple[Float[Tensor, "r m"], Float[Tensor, "r m"]]:
        """The gate's weights, and those before `top_k`."""
        config = self.config
        if self.gate is None:
            even = (present / present.sum(1, keepdim=True)).to(next(iter(said.values())).logits.dtype)
            return even, even
        if isinstance(self.gate, PlainGate):
            scores = self.gate(present)
        else:
            read = [self._read(name, clips, said, present) for name in self.modalities]
            scores = self.gate([found.detach() if config.gate_detached else found for found in read], present)
        soft = gate_weights(scores, present, None, config.gate_temperature)
        if config.top_k is None:
            return soft, soft
        return gate_weights(scores, present, config.top_k, config.gate_temperature), soft

    def _read(
        self, name: str, clips: Mapping[str, Clips], said: Mapping[str, Said], present: Bool[Tensor, "r m"]
    ) -> Float[Tensor, "r f"]:
        """What the gate reads of one camera or expert, zero where there is nothing."""
        assert isinstance(self.gate, GateNetwork)
        column = self.modalities.index(name)
        if name not in said:
            return torch.zeros_like(self.gate.absent[column]).expand(len(present), -1)
        if self.config.gating == "input":
            values = pooled_frames(clips[name].frames, clips[name].valid, self.config.gate_grid)
        elif self.config.gate_reads == "class_tokens":
            values = said[name].class_token
        elif self.config.gate_reads == "confidence":
            values = confidence(said[name].logits)
        else:
            logits = said[name].logits
            values = logits if self.task.outputs == 1 else logits.log_softmax(1)
        answered = torch.stack([found.rows for found in clips.values()]).any(0)
        return spread(values, clips[name].rows[answered], 0.0)

    def _held(
        self, said: Mapping[str, Said], name: str, present: Bool[Tensor, "r m"], outputs: int | None
    ) -> Float[Tensor, "r k"]:
        """Logits of an expert, or its class token, in all answered rows: zero where it says nothing."""
        if name not in said:
            width = self._expert(name).width if outputs is None else outputs
            return next(iter(said.values())).logits.new_zeros(len(present), width)
        values = said[name].class_token if outputs is None else said[name].logits
        return spread(values, present[:, self.modalities.index(name)], 0.0)

    def _mutual(self, output: Output, target: Tensor, rows: Bool[Tensor, " b"]) -> Tensor:
        config = self.config
        present = output.aux["present"][rows]  # r m
        some = output.logits
        logits, trust, tokens = [], [], []
        for name in self.modalities:
            one = output.unimodal.get(name)
            one = some.new_zeros(len(present), self.task.outputs) if one is None else one[rows].nan_to_num(0.0)
            logits.append(one)
            trust.append(reliability(one, target[rows], config.reliability))
            tokens.append(output.aux.get(f"features/{name}", output.aux["features"].detach())[rows])
        held = torch.stack(tokens, 1) if config.mutual_align == "cosine" else None
        return mutual_guidance(torch.stack(logits, 1), held, torch.stack(trust, 1), present, config.mutual_temperature)

    def _clips(self, batch: Batch, name: str) -> Clips | None:
        """The clips of the rows that have at least a frame of this camera; None where no row has.

        Raises:
            AffuseError: they are no frames of this camera's channels, or too many.
        """
        rows = present_rows(batch, name)
        if not rows.any():
            return None
        frames, channels = batch.inputs[name], self.config.channels[name]
        if frames.ndim != 5 or frames.shape[2] != channels or not frames.is_floating_point():
            raise AffuseError(
                f"modality {name!r}: expected float frames (b, t, {channels}, h, w), got {frames.dtype} "
                f"{tuple(frames.shape)}; set channels or mend the data"
            )
        if frames.shape[1] > self.config.frames:
            raise AffuseError(
                f"modality {name!r}: a clip of {frames.shape[1]} frames, but frames is {self.config.frames}: set it higher, "
                f"or sample fewer"
            )
        frames = frames if bool(rows.all()) else frames[rows]
        # Some value that is not finite makes the sum so; finite frames of unit scale cannot overflow it.
        valid = torch.isfinite(frames.flatten(2).sum(2))  # q t
        if name in batch.lengths:
            valid = valid & valid_steps(batch.lengths[name][rows], frames.shape[1])
        seen = self._expert(name).has_tokens(valid)  # q
        if not seen.all():
            rows = rows.clone()
            rows[rows.nonzero()[:, 0][~seen]] = False
            frames, valid = frames[seen], valid[seen]
            if not len(frames):
                return None
        if not valid.all():
            frames = frames.masked_fill(~valid[:, :, None, None, None], 0.0)
        return Clips(frames, valid, rows)

    def _error(self, logits: Float[Tensor, "q c"], target: Tensor) -> Tensor:
        if self.task.kind == "classification":
            return functional.cross_entropy(logits, target)
        return functional.mse_loss(logits[:, 0], target.to(logits.dtype))

    def _expert(self, name: str) -> Expert:
        expert = self.experts[name]
        assert isinstance(expert, Expert)
        return expert

    def _check(self, widths: set[int]) -> None:
        """Settings that go with the task or the experts only."""
        config = self.config
        if self.task.kind == "regression" and config.gating == "output" and config.gate_reads == "confidence":
            raise AffuseError(
                "gate_reads: confidence needs classes, and this is a regression: read class_tokens or logits"
            )
        if self.task.kind == "regression" and config.mutual_guidance and config.reliability == "confidence":
            raise AffuseError(
                "reliability: confidence needs classes, and this is a regression: set correctness or equal"
            )
        if len(widths) > 1 and config.mutual_guidance and config.mutual_align == "cosine":
            raise AffuseError(
                f"mutual_align: cosine needs experts of one width, these have {sorted(widths)}: set predictions"
            )

    def _no_answer(self, answered: Bool[Tensor, " b"]) -> Output:
        b, m = len(answered), len(self.modalities)
        some = next(self.parameters())
        nan = some.new_full((b, self.task.outputs), torch.nan).detach()
        return Output(nan, answered, {"modality": some.new_zeros(b, m)})


def _classifier(width: int, outputs: int, dropout: float) -> nn.Module:
    """From a class token to logits; tokens have the same way."""
    return nn.Sequential(nn.LayerNorm(width), nn.Dropout(dropout), nn.Linear(width, outputs))
