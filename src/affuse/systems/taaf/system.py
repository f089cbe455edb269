"""TAAF-SNN: emotions, events and digits from sound and sight with spiking networks, or from whatever sensors there are.

Paper: Jiangrong Shen, Yulin Xie, Qi Xu, Gang Pan, Huajin Tang and Badong Chen, "Spiking Neural Networks with Temporal
Attention-Guided Adaptive Fusion for imbalanced Multi-modal Learning", 2025, arXiv 2505.14535. Read it with this file
(sections 3.1 and 3.2: the whole), branch.py and alignment.py (section 3: branches, time alignment), attention.py (Eq. 5-7),
losses.py (Eq. 8, 9), affuse/parts/contribution.py (ratios and factors) and affuse/parts/fusion.py (Eq. 4); the neuron, Eq. 1-3,
is affuse/ops/lif.py.

====================  ====================================  =======================
in the paper          here                                  shape
====================  ====================================  =======================
h_m1, h_m2            features[m] of `Branch`               (t, b, d), 0 or 1
O_f, O_u              ``aux["steps"]``, ``aux["steps/u"]``  (b, t, c)
alpha_f, alpha_u      ``weights["time"]``, ``aux["time/u"]``  (b, t)
s_u, rho_u, k_u       `TAAF.ratios`, `TAAF.factors`         (m,)
alpha_u of k          ``suppression``                       a number
L_f, L_u, L           `TAAF.loss`: fused, u, total          a number
====================  ====================================  =======================

Deviations and readings are argued in the ledger. There is no released code.

Absent means absent: a branch runs over the rows that have its modality, an absent modality fires no spike, and its loss and
its ratio leave the row out. Potentials are handed in and out, so nothing passes from one batch to the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from affuse.parts.contribution import contribution_ratios, modality_scores, modulation_factors
from affuse.parts.fusion import fusion_of
from affuse.parts.sequences import present_rows, spread
from affuse.parts.spiking import Neuron
from affuse.parts.supervision import known_rows, nothing_to_learn
from affuse.systems.taaf.attention import TemporalAttention
from affuse.systems.taaf.branch import Branch, BranchState, cut, held_in
from affuse.systems.taaf.config import TAAFConfig
from affuse.systems.taaf.losses import attention_guided_loss, mean_scores
from affuse.types import AffuseError, Batch, Output, System, Task


class Stream(NamedTuple):
    """What a stream has behind it: each branch's state, the features so far (t, b, d), and which modalities were ever there."""

    branches: dict[str, BranchState]
    features: dict[str, Tensor]
    seen: frozenset[str]


class TAAF(System):
    """TAAF-SNN (see the head of this file).

    Inputs: by modality what its encoder reads, images (b, t, c, h, w) or vectors (b, t, d), t = 1 for what does not change;
    samples of one batch have equally many. `Output.weights` holds ``time`` (b, t), the attention of the fused outputs or 1 / t,
    and ``modality`` (b, m), each modality's own score of the answered class over their sum; `Output.unimodal` the logits O_u
    (b, c), NaN in rows that lack u; `Output.aux` ``features`` (b, k), ``steps`` (b, t, c), and for each modality
    ``features/NAME``, ``steps/NAME`` and ``time/NAME``.

    It streams by `step`, where no part of it looks ahead: without time alignment, or with a causal one.

    Args:
        config: settings.
        task: a classification.

    Raises:
        AffuseError: a setting is impossible, or the task is a regression.
    """

    Config: ClassVar[type] = TAAFConfig
    streaming: ClassVar[Literal["step", "window"]] = "step"
    config: TAAFConfig
    epoch: Tensor
    held_scores: Tensor

    def __init__(self, config: TAAFConfig, task: Task) -> None:
        super().__init__()
        if task.kind != "classification":
            raise AffuseError(
                "taaf answers classifications only: its losses and ratios need classes; choose another system"
            )
        self.config, self.task, self.modalities = config, task, config.modalities
        self.branches = nn.ModuleDict({name: Branch(name, config) for name in self.modalities})
        self.fusion = fusion_of(config.fusion, self.modalities, config.width, task.outputs)
        on_outputs = config.attend_on == "outputs"
        inner = config.attention_width or task.outputs
        self.attention: nn.ModuleDict | None = None
        self.fused_attention: TemporalAttention | None = None
        if config.attention:
            width = task.outputs if on_outputs else config.width
            self.attention = nn.ModuleDict({name: TemporalAttention(width, inner) for name in self.modalities})
            self.fused_attention = TemporalAttention(task.outputs if on_outputs else self.fusion.joint_width, inner)
        # Buffers, so that a resumed run knows them.
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))
        self.register_buffer("held_scores", torch.full((len(self.modalities),), torch.nan))

    def forward(self, batch: Batch) -> Output:
        has = {name: present_rows(batch, name) for name in self.modalities}
        answered = torch.stack(list(has.values())).any(0)  # b
        if not answered.any():
            return self._no_answer(answered)
        features: dict[str, Tensor] = {}
        for name, rows in has.items():
            if rows.any():
                lengths = batch.lengths[name][rows] if name in batch.lengths else None
                found, _ = self.branches[name](cut(batch.inputs[name][rows], lengths, name))  # t r d
                features[name] = held_in(found, rows[answered])
        steps = {name: len(found) for name, found in features.items()}
        if len(set(steps.values())) > 1:
            raise AffuseError(f"modalities differ in their time steps, {steps}: set steps, to which they are resampled")
        return self._answer(features, {name: rows for name, rows in has.items() if name in features}, answered)

    def loss(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Eq. 10 and its terms, over the rows that were answered and have a target.

        ``fused`` (L_f) and one by name for each modality (L_u), by Eq. 9, the factors ``k/NAME``, and their ``total``.

        Raises:
            AffuseError: the batch has no targets.
        """
        rows = known_rows(output, batch, self.task)
        if batch.target is None or not rows.any():
            return nothing_to_learn(self)
        factors = self.factors(output, batch)
        terms = {"fused": self._agl(output.aux["steps"], output.weights["time"], batch.target, rows)}
        total = terms["fused"]
        for column, name in enumerate(self.modalities):
            own = rows & present_rows(batch, name)
            if not own.any():
                continue
            terms[name] = self._agl(output.aux[f"steps/{name}"], output.aux[f"time/{name}"], batch.target, own)
            terms[f"k/{name}"] = factors[column]
            if not (self._ended() and self.config.after_modulation == "fused_only"):
                total = total + self.config.beta * factors[column] * terms[name]  # Eq. 10
        return {**terms, "total": total}

    @torch.no_grad()
    def ratios(self, output: Output, batch: Batch) -> Float[Tensor, " m"]:
        """rho of section 3.2 over this batch; with more than two modalities against the mean of the others.

        Raises:
            AffuseError: the batch has no targets.
        """
        rows = known_rows(output, batch, self.task)
        scores = torch.zeros(len(rows), len(self.modalities), device=rows.device)  # b m
        there = torch.zeros_like(scores, dtype=torch.bool)
        for column, (name, logits) in enumerate((n, output.unimodal.get(n)) for n in self.modalities):
            own = rows & present_rows(batch, name)
            if logits is not None and batch.target is not None and own.any():
                scores[own, column] = modality_scores(logits[own], batch.target[own])
                there[:, column] = own
        return contribution_ratios(mean_scores(scores, there))

    @torch.no_grad()
    def factors(self, output: Output, batch: Batch) -> Float[Tensor, " m"]:
        """k of section 3.2, in the order of the modalities: 1 where nothing is, or is any longer, modulated."""
        config = self.config
        if config.modulation == "none" or self._ended():
            return torch.ones(len(self.modalities), device=output.answered.device)
        ratios = self.ratios(output, batch) if config.modulation == "batch" else contribution_ratios(self.held_scores)
        held = [config.suppressions.get(name, config.suppression) for name in self.modalities]
        return modulation_factors(ratios, torch.tensor(held, device=ratios.device, dtype=ratios.dtype))

    def lags(self) -> dict[str, float]:
        """By modality, the steps by which its time alignment moves it to an earlier time: 0 where there is none."""
        found = {}
        for name in self.modalities:
            alignment = self._branch(name).alignment
            found[name] = 0.0 if alignment is None else float(alignment.lag().detach())
        return found

    def lag(self, earlier: str, later: str) -> int:
        """Steps by which the time alignments bring `later` forward against `earlier`: the peak of their kernels' correlation.

        Kernels that spread, because evidence is welcome at every step, still agree on how far apart they lie.

        Raises:
            AffuseError: no such modality, or no time alignment.
        """
        kernels = []
        for name in (earlier, later):
            alignment = self._branch(name).alignment if name in self.modalities else None
            if alignment is None:
                raise AffuseError(f"no time alignment of {name!r} in this system of {list(self.modalities)}: set align")
            kernels.append(alignment.weights().detach())
        k = len(kernels[0])
        overlap = torch.nn.functional.conv1d(kernels[1][None, None], kernels[0][None, None], padding=k - 1)  # 1 1 2k-1
        return int(overlap.argmax()) - (k - 1)

    def twin(self) -> TAAF:
        """The non-spiking twin: the same layers and settings with rectified linear units, new weights."""
        return TAAF(replace(self.config, neuron=Neuron("relu")), self.task)

    def modality_parts(self) -> Mapping[str, Sequence[nn.Module]]:
        """The branch of each modality: its network and time alignment."""
        return {name: [self.branches[name]] for name in self.modalities}

    def begin_epoch(self, epoch: int) -> None:
        """The epoch by which the modulation ends."""
        self.epoch.fill_(epoch)

    def end_epoch(self, records: Sequence[Mapping[str, Any]]) -> None:
        """The scores of the unimodal answers to the selection split, by which ``modulation: epoch`` sets k (Algorithm 1)."""
        for column, name in enumerate(self.modalities):
            said = [
                record["unimodal"][name][record["target"]]
                for record in records
                if record.get("target") is not None and record["target"] >= 0 and record.get("unimodal", {}).get(name)
            ]
            self.held_scores[column] = sum(said) / len(said) if said else torch.nan

    def init_state(self, b: int) -> Stream:
        """The state before the first step of `b` streams.

        Raises:
            AffuseError: a part of this configuration looks ahead.
        """
        config = self.config
        steps = {encoder.steps for encoder in config.encoders.values()}
        ahead = None
        if config.align and not config.align_causal:
            ahead = "its time alignment looks ahead (align_causal)"
        elif config.steps is not None:
            ahead = "it resamples time (steps)"
        elif len(steps) > 1:
            ahead = "its modalities take different numbers of steps an input (steps of encoders)"
        if ahead is not None:
            raise AffuseError(f"this TAAF streams over windows of a clip, not step by step: {ahead}")
        silent = self.held_scores.new_zeros(0, b, config.width)
        return Stream(
            dict.fromkeys(self.modalities, BranchState()), dict.fromkeys(self.modalities, silent), frozenset()
        )

    def step(self, inputs_t: dict[str, Tensor], state: Stream) -> tuple[Output, Stream]:
        """One image or vector (b, ...) of each modality, and back the answer so far.

        A modality that is not given is silent: its network waits, and in its time alignment the step passes without a spike.
        """
        steps = next(iter(self.config.encoders.values())).steps
        branches, features = dict(state.branches), dict(state.features)
        b = next(iter(features.values())).shape[1]
        for name in self.modalities:
            if name in inputs_t:
                found, branches[name] = self.branches[name](inputs_t[name][:, None], branches[name])  # s b d
            else:
                found, branches[name] = self._branch(name).silent(steps, b, branches[name])
            features[name] = torch.cat([features[name], found])
            if self.config.window is not None:
                features[name] = features[name][-self.config.window :]
        seen = state.seen | {name for name in inputs_t if name in self.modalities}
        everyone = torch.ones(b, dtype=torch.bool, device=self.held_scores.device)
        following = Stream(branches, features, seen)
        if not seen:
            return self._no_answer(~everyone), following
        there = {name: features[name] for name in self.modalities if name in seen}
        return self._answer(there, dict.fromkeys(there, everyone), everyone), following

    def _answer(self, features: dict[str, Tensor], has: dict[str, Tensor], answered: Bool[Tensor, " b"]) -> Output:
        """From features (t, r, d) of the answered rows to the output of all rows."""
        logits_t, joint_t = self.fusion(features)  # t r c, t r k: Eq. 4
        steps, joint = logits_t.transpose(0, 1), joint_t.transpose(0, 1)  # r t c, r t k
        time = self._time(self.fused_attention, steps, joint)  # r t
        share = self._share(time)
        logits = torch.einsum("rtc,rt->rc", steps, share)
        weights = {"time": spread(time, answered, 0.0)}
        aux = {
            "features": spread(torch.einsum("rtk,rt->rk", joint, share), answered, 0.0),
            "steps": spread(steps, answered, torch.nan),
        }
        unimodal: dict[str, Tensor] = {}
        scores = torch.zeros(len(logits), len(self.modalities), device=logits.device)  # r m, float32 under autocast too
        chosen = logits.detach().argmax(1, keepdim=True)  # r 1
        for name, found in features.items():
            own = has[name][answered]  # r
            features_u = found[:, own]  # t q d
            steps_u = self.fusion.alone(features_u, name).transpose(0, 1)  # q t c, Eq. 4
            attention = None if self.attention is None else self.attention[name]
            time_u = self._time(attention, steps_u, features_u.transpose(0, 1))  # q t
            share_u = self._share(time_u)
            logits_u = torch.einsum("qtc,qt->qc", steps_u, share_u)
            unimodal[name] = spread(logits_u, has[name], torch.nan)
            aux[f"features/{name}"] = spread(features_u.mean(0), has[name], 0.0)
            aux[f"steps/{name}"] = spread(steps_u, has[name], torch.nan)
            aux[f"time/{name}"] = spread(time_u, has[name], 0.0)
            scores[own, self.modalities.index(name)] = (
                logits_u.detach().float().softmax(1).gather(1, chosen[own]).squeeze(1)
            )
        # Scores are above 0 but for those that underflow: then the modalities that are there count alike.
        scores = scores + torch.finfo(scores.dtype).tiny * torch.stack(
            [has[n][answered] if n in has else torch.zeros_like(answered[answered]) for n in self.modalities], 1
        )
        weights["modality"] = spread(scores / scores.sum(1, keepdim=True), answered, 0.0)
        return Output(spread(logits, answered, torch.nan), answered, weights, unimodal, aux)

    def _time(self, attention: nn.Module | None, outputs: Tensor, features: Tensor) -> Float[Tensor, "r t"]:
        """alpha of Eq. 7, or 1 / t."""
        if attention is None:
            return outputs.new_full(outputs.shape[:2], 1 / outputs.shape[1])
        return attention(outputs if self.config.attend_on == "outputs" else features)

    def _share(self, time: Float[Tensor, "r t"]) -> Float[Tensor, "r t"]:
        """What weighs the steps of an answer."""
        return time if self.config.read_out == "attention" else torch.full_like(time, 1 / time.shape[1])

    def _agl(self, steps: Tensor, time: Tensor, target: Tensor, rows: Tensor) -> Tensor:
        config = self.config
        return attention_guided_loss(steps[rows], target[rows], time[rows], config.lambda_mse, config.phi)

    def _ended(self) -> bool:
        end = self.config.modulation_end
        return end is not None and int(self.epoch) >= end

    def _branch(self, name: str) -> Branch:
        branch = self.branches[name]
        assert isinstance(branch, Branch)
        return branch

    def _no_answer(self, answered: Bool[Tensor, " b"]) -> Output:
        b = len(answered)
        some = next(self.parameters())
        weights = {
            "time": some.new_zeros(b, self.config.steps or 1),
            "modality": some.new_zeros(b, len(self.modalities)),
        }
        return Output(some.new_full((b, self.task.outputs), torch.nan).detach(), answered, weights)
