"""EMOE: what it promises beside the contract of every system."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from affuse.parts.utterances import RowNorm
from affuse.systems.emoe import EMOE, EMOEConfig
from affuse.types import AffuseError, Batch, Sample, Task

SENTIMENT = Task("regression", value_range=(-3.0, 3.0))
SIGN = Task("classification", ("negative", "positive"))


def made(task: Task = SENTIMENT, **changes: Any) -> EMOE:
    torch.manual_seed(0)
    small = {"widths": {"text": 6, "audio": 3, "video": 4}, "d_model": 16, "heads": 2, "layers": 1, "router_width": 16}
    return EMOE(EMOEConfig(**{**small, **changes}), task)


def samples(n: int = 8, **widths: int) -> list[Sample]:
    generator = torch.Generator().manual_seed(3)
    return [
        Sample(
            {
                name: torch.randn(2 + (row + k) % 4, d, generator=generator)
                for k, (name, d) in enumerate(widths.items())
            },
            target=row / 2 - 1.75,
        )
        for row in range(n)
    ]


def usual(n: int = 8) -> Batch:
    return Batch.collate(samples(n, text=6, audio=3, video=4), ("text", "audio", "video"))


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_router_is_small_at_the_shapes_of_mosi() -> None:
    emoe = EMOE(EMOEConfig(), SENTIMENT)
    assert emoe.trunk.router is not None
    assert parameters(emoe.trunk.router) < 1_000_000
    assert parameters(emoe) < 20_000_000


def test_the_released_router_has_the_released_size() -> None:
    with torch.device("meta"):
        emoe = EMOE(EMOEConfig(variant="as_released"), SENTIMENT)
    router: Any = emoe.trunk.router
    assert router.hidden.in_features == 39_650
    assert parameters(router) == pytest.approx(197e6, rel=0.01)


@pytest.mark.parametrize("widths", [{"pulse": 2}, {"depth": 3, "skin": 1}, {"a": 2, "b": 3, "c": 1, "d": 4}])
def test_it_takes_any_number_and_names_of_modalities_of_any_length(widths: dict[str, int]) -> None:
    emoe = made(modalities=tuple(widths), widths=widths, kernel=5).eval()
    batch = Batch.collate(samples(5, **widths), tuple(widths))
    output = emoe(batch)
    assert output.weights["modality"].shape == (5, len(widths))
    assert torch.allclose(output.weights["modality"].sum(1), torch.ones(5), atol=1e-6)
    assert set(output.unimodal) == set(widths)
    assert torch.isfinite(emoe.loss(output, batch)["total"])
    single = Batch.collate([Sample({name: torch.randn(1, d) for name, d in widths.items()})], tuple(widths))
    assert torch.isfinite(emoe(single).logits).all()  # one step


def test_it_learns_eight_samples_by_heart() -> None:
    emoe = made(embed_dropout=0.0, head_dropout=0.0).train()
    batch = usual()
    optimizer = torch.optim.Adam(emoe.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        emoe.loss(emoe(batch), batch)["total"].backward()
        optimizer.step()
    with torch.no_grad():
        output = emoe(batch)
    assert batch.target is not None
    assert (output.value - batch.target).abs().mean() < 0.15
    for logits in output.unimodal.values():
        assert (logits[:, 0] - batch.target).abs().mean() < 0.3


def test_padding_and_company_change_no_answer() -> None:
    emoe = made().eval()
    several = samples(6, text=6, audio=3, video=4)
    together = emoe(Batch.collate(several, emoe.modalities))
    for row, sample in enumerate(several):
        alone = emoe(Batch.collate([sample], emoe.modalities))
        assert torch.allclose(alone.logits[0], together.logits[row], atol=1e-5)
        for name, logits in alone.unimodal.items():
            assert torch.allclose(logits[0], together.unimodal[name][row], atol=1e-5)


def test_a_lone_modality_has_all_the_weight_and_the_others_share_what_an_absent_one_leaves() -> None:
    emoe = made().eval()
    batch = usual()
    lone = emoe(batch.without("audio", "video")).weights["modality"]
    assert torch.equal(lone, torch.tensor([[1.0, 0, 0]]).expand(8, 3))
    two = emoe(batch.without("audio")).weights["modality"]
    assert not two[:, 1].any()
    assert torch.allclose(two.sum(1), torch.ones(8), atol=1e-6)
    assert (two[:, [0, 2]] > 0).all()
    assert not emoe(batch.without("audio")).unimodal.keys() & {"audio"}


def test_a_sequence_without_a_step_is_an_absent_modality() -> None:
    emoe = made().eval()
    sample = samples(1, text=6, audio=3, video=4)[0]
    empty = Sample({**sample.inputs, "audio": torch.zeros(0, 3)})
    lacking = Sample({name: x for name, x in sample.inputs.items() if name != "audio"})
    both = Batch.collate([empty, sample], emoe.modalities)
    wanted = emoe(Batch.collate([lacking, sample], emoe.modalities)).logits[0]
    assert torch.allclose(emoe(both).logits[0], wanted, atol=1e-6)
    assert torch.allclose(emoe(Batch.collate([empty], emoe.modalities)).logits[0], wanted, atol=1e-6)  # alone too


def test_without_a_router_present_modalities_weigh_alike() -> None:
    emoe = made(mome=False).eval()
    batch = usual()
    assert torch.allclose(emoe(batch).weights["modality"], torch.full((8, 3), 1 / 3))
    assert torch.allclose(emoe(batch.without("text")).weights["modality"], torch.tensor([[0, 0.5, 0.5]]).expand(8, 3))
    assert emoe.trunk.router is None
    assert {"entropy", "similarity"}.isdisjoint(emoe.loss(emoe(batch), batch))


@pytest.mark.parametrize(
    ("switch", "gone"),
    [({"ud": False}, "ud"), ({"router_entropy": False}, "entropy"), ({"similarity": False}, "similarity")],
)
def test_a_loss_that_is_switched_off_is_gone(switch: dict[str, bool], gone: str) -> None:
    batch = usual()
    whole, less = made().eval(), made(**switch).eval()
    assert gone in whole.loss(whole(batch), batch)
    assert gone not in less.loss(less(batch), batch)


@pytest.mark.parametrize(
    "change", [{"similarity_measure": "cosine"}, {"importance": "inverse"}, {"importance_eps": 3.0}]
)
def test_what_the_similarity_compares_is_a_setting(change: dict[str, Any]) -> None:
    batch = usual()
    plain, other = made().eval(), made(**change).eval()
    first, second = plain.loss(plain(batch), batch), other.loss(other(batch), batch)
    assert first["similarity"] != second["similarity"]
    assert first["multi"] == second["multi"]


@pytest.mark.parametrize("change", [{"input_dropout": {"text": 0.5}}, {"attention_dropout": {"video": 0.5}},
                                    {"embed_dropout": 0.5}, {"residual_dropout": 0.5}, {"head_dropout": 0.5}])  # fmt: skip
def test_dropouts_act_in_training_alone(change: dict[str, Any]) -> None:
    none = {"embed_dropout": 0.0, "head_dropout": 0.0}
    batch = usual()
    plain, dropping = made(**none), made(**{**none, **change})
    assert torch.equal(plain.eval()(batch).logits, dropping.eval()(batch).logits)
    assert not torch.allclose(plain.train()(batch).logits, dropping.train()(batch).logits, atol=1e-5)


def test_a_single_row_trains_the_router_by_its_running_statistics() -> None:
    norm = RowNorm(3).train()
    norm.running_mean.fill_(1.0)
    norm.running_var.fill_(4.0)
    assert torch.allclose(norm(torch.full((1, 3), 5.0)), torch.full((1, 3), 2.0), atol=1e-4)
    assert norm.running_mean.tolist() == [1.0] * 3
    emoe, one = made().train(), usual(1)
    emoe.loss(emoe(one), one)["total"].backward()


def test_rows_without_a_target_are_not_learned_from() -> None:
    emoe = made().eval()
    known = samples(4, text=6, audio=3, video=4)
    batch = Batch.collate([*known, Sample(known[0].inputs, target=float("nan"))], emoe.modalities)
    fewer = Batch.collate(known, emoe.modalities)
    assert torch.allclose(emoe.loss(emoe(batch), batch)["total"], emoe.loss(emoe(fewer), fewer)["total"], atol=1e-6)
    assert not emoe.importance(emoe(batch), batch)[4].any()
    with pytest.raises(AffuseError, match="no targets"):
        emoe.loss(emoe(batch), Batch(batch.inputs, batch.present, batch.lengths))


def test_a_class_below_zero_is_not_known_and_a_value_below_zero_is() -> None:
    emoe = made(SIGN).eval()
    several = [
        Sample(s.inputs, target=t) for s, t in zip(samples(3, text=6, audio=3, video=4), (1, -1, 0), strict=True)
    ]
    batch = Batch.collate(several, emoe.modalities)
    assert emoe.importance(emoe(batch), batch).sum(1).tolist() == pytest.approx([1, 0, 1])
    value = made().eval()
    with pytest.raises(AffuseError, match="give floats"):
        value.importance(value(batch), batch)
    values = dataclasses.replace(batch, target=torch.tensor([1.0, -1.0, 0.0]))
    assert value.importance(value(values), values).sum(1).tolist() == pytest.approx([1, 1, 1])


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("bert")
    transformers.BertConfig(
        vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16,
    ).save_pretrained(path)  # fmt: skip
    return path


@pytest.mark.parametrize("variant", ["as_paper", "as_released"])
def test_text_comes_as_token_ids_through_a_text_encoder(bert: Path, variant: str) -> None:
    lengths = {"text": 9, "audio": 9, "video": 9}
    emoe = made(text_encoder=str(bert), pretrained=False, widths={"audio": 3, "video": 4}, variant=variant,
                released_lengths=lengths)  # fmt: skip
    several = [
        Sample(
            {**s.inputs, "text": torch.randint(1, 40, (4 + row,))} if row else {"audio": s.inputs["audio"]}, target=0.5
        )
        for row, s in enumerate(samples(4, audio=3, video=4))
    ]
    batch = Batch.collate(several, emoe.modalities)
    loss = emoe.loss(emoe(batch), batch)["total"]
    loss.backward()
    assert torch.isfinite(loss)
    assert emoe.text is not None
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in emoe.text.parameters())
    emoe.eval()
    if variant == "as_paper":
        alone = emoe(Batch.collate(several[1:2], emoe.modalities))
        assert torch.allclose(alone.logits[0], emoe(batch).logits[1], atol=1e-5)
    frozen = made(text_encoder=str(bert), pretrained=False, finetune_text=False, widths={"audio": 3, "video": 4})
    assert frozen.text is not None
    assert not any(p.requires_grad for p in frozen.text.parameters())


def test_released_variant_says_where_its_fixed_lengths_are_too_short() -> None:
    emoe = made(variant="as_released", released_lengths={"text": 5, "audio": 5, "video": 4}, kernel=2)
    with pytest.raises(AffuseError, match=r"'video': 5 steps.*released_lengths"):
        emoe(usual())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modalities": ()}, "at least one name"),
        ({"modalities": ("text", "text")}, "each once"),
        ({"modalities": ("text", "pulse")}, "widths has no pulse"),
        ({"heads": 3}, "heads must divide"),
        ({"layers": 0}, "layers must be at least 1"),
        ({"kernels": {"sound": 3}}, r"kernels names \['sound'\]"),
        ({"head_dropout": 1.0}, "head_dropout"),
        ({"attention_dropout": {"text": -1.0}}, "attention_dropout"),
        ({"temperature": 0.0}, "temperature"),
        ({"alpha": -0.1}, "not negative"),
        ({"widths": {"text": 0, "audio": 3, "video": 4}}, "widths must be at least 1"),
        ({"modalities": ("audio",), "text_encoder": "bert-base-uncased"}, "text_encoder reads the modality text"),
        ({"variant": "as_released", "released_lengths": {"text": 5}}, "released_lengths has no audio, video"),
        (
            {"variant": "as_released", "released_lengths": {"text": 5, "audio": 5, "video": 2}},
            "shorter than its kernel",
        ),
    ],
)
def test_impossible_settings_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(AffuseError, match=message):
        made(**change)


def test_a_wrong_width_is_named() -> None:
    with pytest.raises(AffuseError, match=r"'text'.*7"):
        made(widths={"text": 7, "audio": 3, "video": 4})(usual())
