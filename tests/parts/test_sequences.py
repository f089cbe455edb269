"""Masked sequences: padding has no say, and each part does what its formula says."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affuse.parts.sequences import (
    SequenceAttention,
    SequencePool,
    TemporalConvolution,
    TransformerEncoder,
    pooled,
    present_rows,
    sequences_of,
    sinusoidal_positions,
    spread,
    valid_steps,
)
from affuse.types import AffuseError, Batch, Sample


def padded(lengths: list[int], steps: int, width: int, padding: float) -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.randn(len(lengths), steps, width, generator=torch.Generator().manual_seed(0))
    mask = valid_steps(torch.tensor(lengths), steps)
    return values.masked_fill(~mask[:, :, None], padding), mask


def test_valid_steps_stand_at_the_beginning() -> None:
    assert valid_steps(torch.tensor([0, 2, 3]), 3).tolist() == [
        [False] * 3,
        [True, True, False],
        [True] * 3,
    ]


PARTS = {
    "convolution": lambda: TemporalConvolution(4, 4, 3),
    "even kernel": lambda: TemporalConvolution(4, 4, 4),
    "encoder": lambda: TransformerEncoder(4, 2, 2),
    "causal encoder": lambda: TransformerEncoder(4, 2, 2, causal=True),
}


@pytest.mark.parametrize("part", PARTS)
@settings(max_examples=10)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), extra=st.integers(0, 5))
def test_padding_and_its_amount_change_nothing(part: str, lengths: list[int], extra: int) -> None:
    torch.manual_seed(0)
    module = PARTS[part]().eval()
    steps = max(lengths) + extra
    values, mask = padded(lengths, steps, 4, 1e6)
    together = module(values, mask)
    for row, length in enumerate(lengths):
        alone = module(values[row : row + 1, :length], mask[row : row + 1, :length])
        assert torch.allclose(together[row, :length], alone[0], atol=1e-5)


@pytest.mark.parametrize("readout", ["last", "mean", "attention"])
def test_pools_read_only_own_steps(readout: str) -> None:
    torch.manual_seed(0)
    pool = SequencePool(4, readout)
    values, mask = padded([1, 3, 5], 7, 4, 1e6)
    together = pool(values, mask)
    for row, length in enumerate([1, 3, 5]):
        own = values[row, :length]
        expected = {"last": own[-1], "mean": own.mean(0)}.get(readout)
        if pool.score is not None:
            expected = (own @ pool.score.weight[0]).softmax(0) @ own
        assert torch.allclose(together[row], expected, atol=1e-6)


def test_the_last_own_step_is_found_where_padding_comes_first() -> None:
    values = torch.arange(4.0)[None, :, None]
    assert pooled(values, torch.tensor([[False, True, True, False]]), "last").item() == 2


def test_a_convolution_sees_its_kernel_and_no_more() -> None:
    torch.manual_seed(0)
    convolution = TemporalConvolution(2, 3, 5)
    values = torch.zeros(1, 9, 2, requires_grad=True)
    found = convolution(values, torch.ones(1, 9, dtype=torch.bool))
    assert found.shape == (1, 9, 3)
    found[0, 4].sum().backward()
    assert values.grad is not None
    assert values.grad[0].any(1).nonzero()[:, 0].tolist() == [2, 3, 4, 5, 6]


def test_a_causal_encoder_sees_no_later_step_and_another_does() -> None:
    for causal in (True, False):
        torch.manual_seed(0)
        encoder = TransformerEncoder(4, 2, 2, causal=causal).eval()
        values = torch.randn(1, 6, 4, requires_grad=True)
        encoder(values, torch.ones(1, 6, dtype=torch.bool))[0, 2, 0].backward()
        assert values.grad is not None
        assert values.grad[0].any(1).tolist() == [True] * 3 + [not causal] * 3


def test_attention_is_the_weighted_sum_of_values() -> None:
    torch.manual_seed(0)
    attention = SequenceAttention(4, 1)
    values, source = torch.randn(1, 2, 4), torch.randn(1, 3, 4)
    mask = torch.tensor([[True, True, False]])
    query, key, value = attention.query(values), attention.key(source), attention.value(source)
    weights = (query @ key.transpose(1, 2) / 2)[:, :, :2].softmax(2)
    assert torch.allclose(attention(values, source, mask), attention.out(weights @ value[:, :2]), atol=1e-6)


def test_with_a_source_an_encoder_asks_that_source_and_not_its_padding() -> None:
    torch.manual_seed(0)
    encoder = TransformerEncoder(4, 2, 2).eval()
    values, mask = padded([3, 2], 3, 4, 0.0)
    source, source_mask = padded([5, 2], 5, 4, 1e6)
    found = encoder(values, mask, source, source_mask)
    assert found.shape == values.shape
    assert not torch.allclose(found[0], encoder(values, mask)[0], atol=1e-3)
    alone = encoder(values[1:, :2], mask[1:, :2], source[1:, :2])
    assert torch.allclose(found[1, :2], alone[0], atol=1e-5)


@settings(max_examples=20)
@given(steps=st.integers(1, 50), width=st.integers(1, 9))
def test_positions_differ_and_follow_the_formula(steps: int, width: int) -> None:
    positions = sinusoidal_positions(steps, width)
    assert positions.shape == (steps, width)
    half = width // 2
    for t in range(steps):
        for channel in range(half):
            angle = (t + 1) / 10_000 ** (channel / max(half - 1, 1))
            assert positions[t, channel].item() == pytest.approx(math.sin(angle), abs=1e-4)
            assert positions[t, half + channel].item() == pytest.approx(math.cos(angle), abs=1e-4)
    if width >= 2:
        assert len({tuple(row) for row in positions.tolist()}) == steps


def batch() -> Batch:
    lengths = (2, None, 4, 0)
    return Batch.collate(
        [
            Sample({"text": torch.ones(3, 2)} | ({} if n is None else {"audio": torch.full((n, 5), 1.0 + n)}))
            for n in lengths
        ]
    )


def test_sequences_are_those_of_the_rows_that_have_them() -> None:
    values, mask, rows = sequences_of(batch(), "audio", 5)
    assert rows.tolist() == [True, False, True, False]
    assert torch.equal(present_rows(batch(), "audio"), rows)
    assert values.shape == (2, 4, 5)
    assert mask.sum(1).tolist() == [2, 4]
    assert torch.isfinite(values).all()
    back = spread(pooled(values, mask, "mean"), rows, -7.0)
    assert back[:, 0].tolist() == [3.0, -7.0, 5.0, -7.0]
    stand_in = torch.arange(5.0)
    assert torch.equal(spread(pooled(values, mask, "mean"), rows, stand_in)[1], stand_in)


def test_a_modality_that_nobody_has_gives_no_rows() -> None:
    for name in ("text", "video"):
        some = batch().without("text")
        values, mask, rows = sequences_of(some, name, 2)
        assert (values.shape, mask.shape, rows.any().item()) == ((0, 1, 2), (0, 1), False)


def test_a_wrong_width_or_kind_is_named() -> None:
    with pytest.raises(AffuseError, match=r"'audio'.*\(b, t, 3\).*\(4, 4, 5\)"):
        sequences_of(batch(), "audio", 3)
    with pytest.raises(AffuseError, match="token ids"):
        sequences_of(batch(), "audio", None)
    tokens = Batch({"text": torch.arange(3)[None]}, torch.ones(1, 1, dtype=torch.bool))
    assert sequences_of(tokens, "text", None)[0].tolist() == [[0, 1, 2]]
    with pytest.raises(AffuseError, match="token ids need a text encoder"):
        sequences_of(tokens, "text", 3)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(AffuseError, match="3 heads do not divide"):
        TransformerEncoder(8, 3, 1)
