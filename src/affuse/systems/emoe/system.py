"""EMOE: sentiment, emotion and intent from text, audio and video, or from whatever sequences there are.

Paper: Yiyang Fang, Wenke Huang, Guancheng Wan, Kehua Su and Mang Ye, "EMOE: Modality-Specific Enhanced Dynamic Emotion
Experts", CVPR 2025. Read it with this file (sections 3.2 to 3.4: fusion, heads, the whole loss), trunk.py (3.2, Eq. 1) and
losses.py (Eq. 5-8, 10, 11); released.py is the trunk of the released code.

=====================  =====================================  ==========================
in the paper           here                                   shape
=====================  =====================================  ==========================
U_m                    ``batch.inputs[m]``                    (b, t, d), t and d of each m
X_m, f_m, f'_m         x, low, high in `PaperTrunk`           (r, t, d), ..., (r, d)
W, w_m                 ``weights["modality"]``                (b, m)
f_c                    ``aux["features"]``                    (b, d), or (b, m d)
z_multi, y^            ``logits``                             (b, c)
z_m, y~_m, y^_m        ``unimodal[m]``                        (b, c)
I                      `EMOE.importance`                      (b, m)
=====================  =====================================  ==========================

Deviations and readings, argued in the ledger: f is averaged over time before the router; the encoder E_m is a ReLU and a linear
map; a classification has cross-entropy where the paper writes |y - y^| and (y - y^)^2; I and z_uni get no gradient; with logits
z_uni is the weighted sum under both fusions, for logits side by side have no partner.

Absent means absent: a modality's layers run over the rows that have it; a learned vector stands in for it before the router;
its weight is exactly 0, the other weights are a softmax among themselves, and it has no part in any loss.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from affuse.parts.sequences import present_rows, sequences_of, spread
from affuse.parts.supervision import known_rows, nothing_to_learn
from affuse.parts.text import TextEncoder
from affuse.systems.emoe.config import EMOEConfig
from affuse.systems.emoe.losses import combined, distillation, importance, negative_entropy, similarity
from affuse.systems.emoe.released import ReleasedTrunk
from affuse.systems.emoe.trunk import Found, PaperTrunk, Sequences
from affuse.types import Batch, Output, System, Task


class PredictionHead(nn.Module):
    """Prediction head: the features with what two linear maps add to them, then one linear map to the answer."""

    def __init__(self, width: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.add = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, width))
        self.out = nn.Linear(width, outputs)

    def forward(self, features: Float[Tensor, "r d"]) -> tuple[Float[Tensor, "r c"], Float[Tensor, "r d"]]:
        """The logits and what they were mapped from."""
        projected = features + self.add(features)
        return self.out(projected), projected


class EMOE(System):
    """EMOE (see the head of this file).

    Inputs: a sequence (b, t, d) a modality, each of its own length and width; ``text`` as token ids (b, t) where there is a
    `text_encoder`. `Output.weights` holds ``modality`` (b, m); `Output.unimodal` the logits of each modality's own head, NaN in
    rows that lack it; `Output.aux` the fused ``features`` f_c (b, d), zero where there is no answer, f'_m as ``features/NAME``
    (b, d), and, where distillation compares features, what the heads made of them.

    It answers over windows of a clip: each transformer needs the whole sequence, and so does the router.

    Args:
        config: settings.
        task: what is predicted.

    Raises:
        AffuseError: a setting is impossible, or the text encoder cannot be had.
    """

    Config: ClassVar[type] = EMOEConfig
    streaming: ClassVar[Literal["step", "window"]] = "window"
    config: EMOEConfig

    def __init__(self, config: EMOEConfig, task: Task) -> None:
        super().__init__()
        self.config, self.task, self.modalities = config, task, tuple(config.modalities)
        self.text: TextEncoder | None = None
        self.widths = dict(config.widths)
        if config.text_encoder is not None:
            self.text = TextEncoder(config.text_encoder, config.pretrained, config.finetune_text)
            self.widths["text"] = self.text.width
        self.trunk: PaperTrunk | ReleasedTrunk
        self.trunk = ReleasedTrunk(config, self.widths) if config.released else PaperTrunk(config, self.widths)
        fused = config.d_model * (len(self.modalities) if config.fusion == "concat" else 1)
        self.head = PredictionHead(fused, task.outputs, config.head_dropout)
        self.unimodal = nn.ModuleDict(
            {name: PredictionHead(config.d_model, task.outputs, config.head_dropout) for name in self.modalities}
        )
        # The released code multiplies the concatenation by 3, which the paper does not.
        self.factor = float(len(self.modalities)) if config.released else 1.0

    def forward(self, batch: Batch) -> Output:
        has = {name: present_rows(batch, name) for name in self.modalities}
        answered = torch.stack(list(has.values())).any(0)  # b
        if not answered.any():
            return self._no_answer(answered)
        sequences = {name: self._sequences(batch, name, answered) for name in self.modalities if has[name].any()}
        present = torch.stack([has[name][answered] for name in self.modalities], 1)  # r m
        found: Found = self.trunk(sequences, present)
        nothing = found.weights.new_zeros(len(present), self.config.d_model)
        held = [
            spread(found.features[name], present[:, column], 0.0) if name in found.features else nothing
            for column, name in enumerate(self.modalities)
        ]
        high = torch.stack(held, 1)  # r m d, zero where absent
        fused = combined(high, found.weights, self.config.fusion, self.factor)  # Eq. 2, 3: r d
        logits, projected = self.head(fused)
        aux = {"features": spread(fused, answered, 0.0)}
        aux |= {f"features/{name}": spread(held[column], answered, 0.0) for column, name in enumerate(self.modalities)}
        unimodal: dict[str, Tensor] = {}
        for name, features in found.features.items():
            own, own_projected = self.unimodal[name](features)
            unimodal[name] = spread(own, has[name], torch.nan)
            if self.config.distils_features:
                aux[f"projected_{name}"] = spread(own_projected, has[name], 0.0)
        if self.config.distils_features:
            aux["projected"] = spread(projected, answered, 0.0)
        weights = {"modality": spread(found.weights, answered, 0.0)}
        return Output(spread(logits, answered, torch.nan), answered, weights, unimodal, aux)

    def loss(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Eq. 12 and its terms, over the rows that were answered and have a target.

        ``multi`` (Eq. 4), ``uni`` (Eq. 9), ``entropy`` (Eq. 7), ``similarity`` (Eq. 6), ``ud`` (Eq. 11), as far as they are
        set, each before its weight, and their ``total``.

        Raises:
            AffuseError: the batch has no targets.
        """
        rows = known_rows(output, batch, self.task)
        if not rows.any():
            return nothing_to_learn(self)
        config = self.config
        has = {name: present_rows(batch, name) for name in output.unimodal}
        terms = {"multi": self._errors(output.logits, batch, rows, absolute=True).mean()}  # Eq. 4
        own = [
            self._errors(output.unimodal[name], batch, rows & who, absolute=True).mean()
            for name, who in has.items()
            if (rows & who).any()
        ]
        terms["uni"] = torch.stack(own).mean()  # Eq. 9
        total = terms["multi"] + terms["uni"]
        present = self._present(batch)[rows]  # r m
        weights = output.weights["modality"][rows].float()  # r m
        if config.mome and config.router_entropy:
            terms["entropy"] = negative_entropy(weights, present)
            total = total + config.lambda1 * terms["entropy"]  # Eq. 8, 12
        if config.mome and config.similarity:
            terms["similarity"] = similarity(weights, self.importance(output, batch)[rows], config.similarity_measure)
            if config.released:
                terms["similarity"] = terms["similarity"] / len(self.modalities)
            total = total + config.lambda1 * config.alpha * terms["similarity"]  # Eq. 8, 12
        if config.ud:
            terms["ud"] = self._distillation(output, rows, weights)
            total = total + config.lambda2 * terms["ud"]  # Eq. 12
        return {**terms, "total": total}

    def pretrained_parts(self) -> list[nn.Module]:
        """The text encoder, where there is one."""
        return [] if self.text is None else [self.text]

    def modality_parts(self) -> dict[str, list[nn.Module]]:
        """Each modality's layers up to f'_m; its own head, which only looks on, is not among them."""
        parts = {name: self.trunk.modality_parts(name) for name in self.modalities}
        return {
            name: [*own, self.text] if name == "text" and self.text is not None else own for name, own in parts.items()
        }

    @torch.no_grad()
    def importance(self, output: Output, batch: Batch) -> Float[Tensor, "b m"]:
        """I of Eq. 5: how well each modality alone answered each row; zero in rows without answer or target.

        c_m is the squared error of a regression; in a classification it is the cross-entropy.

        Raises:
            AffuseError: the batch has no targets.
        """
        rows = known_rows(output, batch, self.task)
        present = self._present(batch)
        errors = torch.zeros(present.shape, device=present.device)  # b m
        for column, name in enumerate(self.modalities):
            who = rows & present[:, column]
            if who.any():
                errors[who, column] = self._errors(output.unimodal[name], batch, who, absolute=False).float()
        released = self.config.released or self.config.importance == "inverse"
        eps = self.config.importance_eps or (0.1 if released else 1e-8)
        found = importance(errors[rows], present[rows], "inverse" if released else "softmax", eps)
        return spread(found, rows, 0.0)

    def _distillation(self, output: Output, rows: Tensor, weights: Float[Tensor, "r m"]) -> Tensor:
        """Eq. 10 and 11."""
        zero = output.logits.new_zeros(1)

        def side_by_side(own: dict[str, Tensor]) -> Tensor:
            width = next(iter(own.values())).shape[1]
            held = [own[name][rows] if name in own else zero.expand(len(weights), width) for name in self.modalities]
            return torch.stack(held, 1).nan_to_num(0.0).detach()  # r m k; what is absent has the weight 0

        if self.config.distils_features:
            own = {name: output.aux[f"projected_{name}"] for name in output.unimodal}
            uni = combined(side_by_side(own), weights, self.config.fusion)
            return distillation(output.aux["projected"][rows], uni, "features")
        uni = combined(side_by_side(output.unimodal), weights, "sum")  # Eq. 10
        return distillation(
            output.logits[rows], uni, "value" if self.task.kind == "regression" else "classes"
        )  # Eq. 11

    def _errors(self, logits: Tensor, batch: Batch, rows: Tensor, absolute: bool) -> Float[Tensor, " r"]:
        """Of each row: |y - y^| (Eq. 4, 9) or (y - y^)^2 (Eq. 5); in a classification the cross-entropy for both."""
        assert batch.target is not None
        if self.task.kind == "classification":
            return functional.cross_entropy(logits[rows], batch.target[rows], reduction="none")
        difference = logits[rows, 0] - batch.target[rows].to(logits.dtype)
        return difference.abs() if absolute else difference.square()

    def _present(self, batch: Batch) -> Bool[Tensor, "b m"]:
        return torch.stack([present_rows(batch, name) for name in self.modalities], 1)

    def _sequences(self, batch: Batch, name: str, answered: Tensor) -> Sequences:
        tokens = self.text is not None and name == "text"
        values, mask, rows = sequences_of(batch, name, None if tokens else self.widths[name])
        if self.text is not None and tokens:
            values = self.text(values, mask)
        return Sequences(values, mask, rows[answered])

    def _no_answer(self, answered: Tensor) -> Output:
        b = len(answered)
        some = next(self.parameters())
        weights = {"modality": some.new_zeros(b, len(self.modalities))}
        return Output(some.new_full((b, self.task.outputs), torch.nan).detach(), answered, weights)
