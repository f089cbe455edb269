"""The baselines: each by its defining equation, and each learns."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from affuse.parts.utterances import resampled
from affuse.systems import SYSTEMS
from affuse.systems.baselines.ef_lstm import EFLSTM, EFLSTMConfig
from affuse.systems.baselines.lmf import low_rank_fusion
from affuse.systems.baselines.tfn import TFN, TFNConfig, tensor_fusion
from affuse.systems.baselines.unimodal import Unimodal, UnimodalConfig
from affuse.types import AffuseError, Batch, Sample, System, Task

WIDTHS = {"text": 6, "audio": 3, "video": 4}
HIDDEN = {"text": 12, "audio": 8, "video": 8}
FEELING = Task("regression", value_range=(-3.0, 3.0), units="sentiment")
CLASSES = Task("classification", ("calm", "tense", "away"))
SMALL: dict[str, dict[str, Any]] = {
    "ef_lstm": {"hidden": 16, "layers": 1, "dropout": 0.0, "align": "resample"},
    "lf_dnn": {"hidden": HIDDEN, "dropout": 0.0},
    "tfn": {"hidden": HIDDEN, "outputs": {}, "dropout": 0.0, "fusion_dropout": 0.0},
    "lmf": {"hidden": HIDDEN, "outputs": {}, "dropout": 0.0},
    "unimodal": {"hidden": 16, "dropout": 0.0},
}
NAMES = [name for name, system in SYSTEMS.items() if ".baselines." in system.__module__]


def made(name: str, task: Task = FEELING, **changes: Any) -> System:
    torch.manual_seed(0)
    cls = SYSTEMS[name]
    return cls(cls.Config(**{"widths": WIDTHS, **SMALL[name], **changes}), task)


def samples(task: Task = FEELING, n: int = 8, steps: dict[str, int] | None = None) -> list[Sample]:
    """Sequences of different lengths, as unaligned data has them, or of the lengths asked for."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for index in range(n):
        lengths = steps or {"text": 3 + index % 3, "audio": 6 + index % 2, "video": 5}
        inputs = {name: torch.randn(lengths[name], width, generator=generator) for name, width in WIDTHS.items()}
        target: int | float = index % 3 if task.kind == "classification" else 2.5 * math.cos(index)
        found.append(Sample(inputs, target))
    return found


def test_every_baseline_is_on_the_list() -> None:
    assert set(NAMES) == set(SMALL)


@pytest.mark.parametrize("task", [FEELING, CLASSES], ids=lambda task: task.kind)
@pytest.mark.parametrize("name", NAMES)
def test_it_learns_eight_samples_by_heart(name: str, task: Task) -> None:
    system, batch = made(name, task).train(), Batch.collate(samples(task))
    optimiser = torch.optim.Adam(system.parameters(), 0.01)
    for _ in range(120):
        optimiser.zero_grad()
        system.loss(system(batch), batch)["total"].backward()
        optimiser.step()
    output = system.eval()(batch)
    assert batch.target is not None
    if task.kind == "regression":
        assert (output.value - batch.target).abs().mean() < 0.3
    else:
        assert torch.equal(output.logits.argmax(1), batch.target)


@pytest.mark.parametrize("name", NAMES)
def test_padding_has_no_influence(name: str) -> None:
    system = made(name).eval()
    several = samples()
    together = system(Batch.collate(several))
    for row, sample in enumerate(several):
        assert torch.allclose(system(Batch.collate([sample])).logits[0], together.logits[row], atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "unimodal"])
def test_it_takes_any_number_and_names_of_modalities(name: str) -> None:
    widths = {"left": 3, "right": 2, "glove": 4, "heart": 1}
    system = made(name, CLASSES, modalities=tuple(widths), widths=widths)
    sample = Sample({modality: torch.randn(5, width) for modality, width in widths.items()}, 1)
    batch = Batch.collate([sample] * 3)
    assert torch.isfinite(system(batch).logits).all()
    assert torch.isfinite(system.loss(system(batch), batch)["total"])


@pytest.mark.parametrize("name", NAMES)
def test_rows_without_a_target_are_not_learned_from(name: str) -> None:
    system = made(name).eval()
    several = samples()
    batch = Batch.collate(several)
    assert batch.target is not None
    half = Batch(batch.inputs, batch.present, batch.lengths, target=batch.target.clone())
    half.target[4:] = math.nan  # type: ignore[index]
    first = Batch.collate(several[:4])
    alone = system.loss(system(first), first)
    beside = system.loss(system(half), half)
    key = "l1"
    assert torch.allclose(alone[key], beside[key], atol=1e-5)
    half.target[:] = math.nan  # type: ignore[index]
    assert system.loss(system(half), half)["total"] == 0
    with pytest.raises(AffuseError, match="no targets"):
        untold = Batch(batch.inputs, batch.present, batch.lengths)
        system.loss(system(untold), untold)


@pytest.mark.parametrize("name", NAMES)
def test_features_of_another_width_are_refused(name: str) -> None:
    with pytest.raises(AffuseError, match=r"'text': expected \(b, t, 6\)"):
        made(name)(Batch.collate([Sample({"text": torch.zeros(3, 5)})], ("text", "audio", "video")))


# TFN: the outer product, with ones


def test_tensor_fusion_holds_every_product_of_every_choice_of_modalities() -> None:
    generator = torch.Generator().manual_seed(0)
    text, audio, video = (torch.randn(2, width, generator=generator) for width in (3, 2, 4))
    tensor = tensor_fusion([text, audio, video]).reshape(2, 4, 3, 5)
    assert torch.allclose(tensor[:, :3, :2, :4], torch.einsum("bi,bj,bk->bijk", text, audio, video))
    assert torch.allclose(tensor[:, :3, 2, :4], torch.einsum("bi,bk->bik", text, video))
    assert torch.allclose(tensor[:, :3, 2, 4], text)
    assert torch.allclose(tensor[:, 3, :2, 4], audio)
    assert torch.equal(tensor[:, 3, 2, 4], torch.ones(2))


def test_tensor_fusion_of_an_absent_modality_is_that_of_the_others() -> None:
    text, audio = torch.randn(2, 3), torch.randn(2, 2)
    with_zeros = tensor_fusion([text, audio, torch.zeros(2, 4)]).reshape(2, -1, 5)
    assert torch.equal(with_zeros[..., 4], tensor_fusion([text, audio]))
    assert not with_zeros[..., :4].any()


def test_tfn_of_a_regression_stays_within_the_task_s_range() -> None:
    system = TFN(TFNConfig(widths=WIDTHS), FEELING).eval()
    loud = [Sample({"text": 1e3 * torch.randn(4, 6), "audio": 1e3 * torch.randn(4, 3)}) for _ in range(9)]
    value = system(Batch.collate(loud, ("text", "audio", "video"))).value
    assert (value.abs() <= 3).all()


# LMF: TFN's linear map, factored


def test_low_rank_fusion_of_enough_terms_is_any_linear_map_of_the_outer_product() -> None:
    generator = torch.Generator().manual_seed(0)
    text, audio, video = (torch.randn(5, width, generator=generator) for width in (2, 1, 3))
    weight = torch.randn(3, 2, 4, 2, generator=generator)  # every cell of the tensor, to two classes
    full = tensor_fusion([text, audio, video]) @ weight.reshape(-1, 2)
    # A term for each cell of the first two: they choose the cell, and the third carries the weights.
    chosen = [(i, j) for i in range(3) for j in range(2)]
    first = torch.stack([torch.eye(3)[i, :, None].expand(3, 2) for i, _ in chosen])
    second = torch.stack([torch.eye(2)[j, :, None].expand(2, 2) for _, j in chosen])
    third = torch.stack([weight[i, j] for i, j in chosen])
    factored = low_rank_fusion([text, audio, video], [first, second, third], torch.ones(6))
    assert torch.allclose(factored, full, atol=1e-5)


# EF-LSTM: aligned sequences


def test_early_fusion_refuses_sequences_of_different_lengths_or_resamples_them() -> None:
    batch = Batch.collate(samples(steps={"text": 3, "audio": 6, "video": 3}))
    with pytest.raises(AffuseError, match="'audio' has 6 steps where another of the same sample has 3"):
        EFLSTM(EFLSTMConfig(widths=WIDTHS), FEELING)(batch)
    halved = [
        Sample({**s.inputs, "audio": s.inputs["audio"].reshape(3, 2, 3).mean(1)}, s.target)
        for s in samples(steps={"text": 3, "audio": 6, "video": 3})
    ]
    system = made("ef_lstm").eval()
    assert torch.allclose(system(batch).logits, system(Batch.collate(halved)).logits, atol=1e-6)


def test_early_fusion_reads_what_an_lstm_reads() -> None:
    system = made("ef_lstm").eval()
    assert isinstance(system, EFLSTM)
    sample = samples(n=1, steps={"text": 4, "audio": 4, "video": 4})[0]
    x = torch.cat([sample.inputs[name] for name in ("text", "audio", "video")], 1)
    states, _ = system.lstm(x[None])
    assert torch.allclose(system(Batch.collate([sample])).logits, system.head(states[:, -1]), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4))
def test_resampling_is_adaptive_average_pooling_of_each_row(sizes: list[tuple[int, int]]) -> None:
    own = torch.tensor([n for n, _ in sizes])
    wanted = torch.tensor([k for _, k in sizes])
    values = torch.randn(len(sizes), int(own.max()), 2, generator=torch.Generator().manual_seed(0))
    found = resampled(values, own, wanted, int(wanted.max()))
    for row, (n, k) in enumerate(sizes):
        expected: Tensor = torch.nn.functional.adaptive_avg_pool1d(values[row, :n].T, k).T
        assert torch.allclose(found[row, :k], expected, atol=1e-5)
        assert not found[row, k:].any()


# One modality alone


def test_one_modality_alone_is_blind_to_the_others() -> None:
    system = Unimodal(UnimodalConfig(modality="audio", widths=WIDTHS), FEELING).eval()
    batch = Batch.collate(samples())
    assert system.modalities == ("audio",)
    assert torch.equal(system(batch).logits, system(batch.without("text", "video")).logits)
    assert not system(batch.without("audio")).answered.any()
