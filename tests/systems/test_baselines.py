"""The baselines: each by its defining equation, and each learns."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from affuse.parts.sequences import sinusoidal_positions
from affuse.parts.utterances import resampled
from affuse.systems import SYSTEMS
from affuse.systems.baselines.ef_lstm import EFLSTM, EFLSTMConfig
from affuse.systems.baselines.lmf import low_rank_fusion
from affuse.systems.baselines.mag_bert import MAGBERT, AdaptationGate
from affuse.systems.baselines.mfn import MFN, DeltaMemory, MFNConfig
from affuse.systems.baselines.misa import central_moment_discrepancy, difference
from affuse.systems.baselines.self_mm import Centres, moved_label
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
    "mfn": {
        "hidden": HIDDEN,
        "memory": 8,
        "gates": (8, 8),
        "output": 16,
        "align": "resample",
        "attention_dropout": 0.0,
        "gate_dropouts": (0.0, 0.0),
    },
    "mult": {
        "width": 8,
        "heads": 2,
        "layers": 1,
        "own_layers": 1,
        "attention_dropout": 0.0,
        "embed_dropout": 0.0,
        "text_dropout": 0.0,
        "output_dropout": 0.0,
    },
    "misa": {"hidden": 16, "dropout": 0.0},
    "self_mm": {"hidden": HIDDEN, "alone": HIDDEN, "fusion": 16, "dropout": 0.0, "warmup_steps": 5},
    "mag_bert": {"text_width": 16, "layers": 1, "dropout": 0.0, "align": "resample"},
    "unimodal": {"hidden": 16, "dropout": 0.0},
}
NAMES = [
    name
    for name, system in SYSTEMS.items()
    if ".baselines." in system.__module__ and ".expressions." not in system.__module__
]


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
    system, batch = made(name, task), Batch.collate(samples(task))
    assert batch.target is not None
    optimiser = torch.optim.Adam(system.parameters(), 0.003 if name == "misa" else 0.01)
    for _ in range(20):
        for _ in range(10):
            optimiser.zero_grad()
            system.train().loss(system(batch), batch)["total"].backward()
            optimiser.step()
        output = system.eval()(batch)
        if task.kind == "regression":
            learned = bool((output.value - batch.target).abs().mean() < 0.3)
        else:
            learned = torch.equal(output.logits.argmax(1), batch.target)
        if learned:
            return
    pytest.fail("it did not learn")


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


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("lf_dnn", {"widths": {"text": 6}}, "widths.audio"),
        ("tfn", {"modalities": ("text", "text")}, "different names"),
        ("mult", {"modalities": ("text",)}, "at least 2"),
        ("mult", {"width": 7}, "do not divide"),
        ("misa", {"hidden": 7}, "even"),
        ("unimodal", {"modality": "smell"}, "widths.smell"),
    ],
)
def test_impossible_settings_are_refused(name: str, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(AffuseError, match=said):
        made(name, **wrong)


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


# MFN: a gated memory of what changed


def test_memory_keeps_and_writes_by_its_gates() -> None:
    torch.manual_seed(0)
    delta = DeltaMemory(6, MFNConfig(memory=3, attention=4, proposal=4, gates=(4, 4))).eval()
    change, memory = torch.randn(2, 6), torch.randn(2, 3)
    attended = change * torch.softmax(delta.attend(change), 1)
    keep, write = torch.sigmoid(delta.keep(attended)), torch.sigmoid(delta.write(attended))
    expected = keep * memory + write * torch.tanh(delta.propose(attended))
    assert torch.allclose(delta(change, memory), expected)


def test_fused_memory_is_its_equations_step_by_step() -> None:
    system = made("mfn").eval()
    assert isinstance(system, MFN)
    names = ("text", "audio", "video")
    sample = samples(n=1, steps=dict.fromkeys(names, 3))[0]
    states = {name: (torch.zeros(1, HIDDEN[name]), torch.zeros(1, HIDDEN[name])) for name in names}
    memory = torch.zeros(1, 8)
    for t in range(3):
        before = [states[name][1] for name in names]
        states = {name: system.lstms[name](sample.inputs[name][t : t + 1], states[name]) for name in names}
        memory = system.delta(torch.cat([*before, *(states[name][1] for name in names)], 1), memory)
    expected = system.head(torch.cat([*(states[name][0] for name in names), memory], 1))
    assert torch.allclose(system(Batch.collate([sample])).logits, expected, atol=1e-6)


# MulT: the target asks, the source answers


def test_crossmodal_attention_has_queries_of_the_target_and_values_of_the_source() -> None:
    system = made("mult", heads=1).eval()
    assert set(system.crossmodal) == {f"{a}_{b}" for a in WIDTHS for b in WIDTHS if a != b}  # type: ignore[arg-type]
    pair = system.crossmodal["text_audio"]  # type: ignore[index]
    text, audio = torch.randn(1, 4, 8), torch.randn(1, 6, 8)
    found = pair(text, torch.ones(1, 4, dtype=torch.bool), audio, torch.ones(1, 6, dtype=torch.bool))
    layer = pair.layers[0]
    x, y = (math.sqrt(8) * z + sinusoidal_positions(z.shape[1], 8) for z in (text, audio))
    query = layer.attention.query(layer.attention_norm(x))  # 1 4 8
    key, value = (part(layer.attention_norm(y)) for part in (layer.attention.key, layer.attention.value))  # 1 6 8
    x = x + layer.attention.out(torch.softmax(query @ key.mT / math.sqrt(8), 2) @ value)
    x = x + layer.feed(layer.feed_norm(x))
    assert torch.allclose(found, pair.norm(x), atol=1e-5)


def test_a_target_without_a_source_still_answers_from_itself() -> None:
    system = made("mult").eval()
    one, other = (system(Batch.collate([s]).without("audio", "video")).logits for s in samples(n=2))
    assert not torch.allclose(one, other)


# MISA: apart and together


def test_difference_is_small_only_where_columns_are_orthogonal() -> None:
    # Rows of unit length, columns with mean 0: what the loss makes of any matrix, so that it leaves these as they are.
    one = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    apart = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    assert difference(one, apart) == 0
    assert difference(one, -one) == 4.0**2 / 4  # a single cell of the product is not 0
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(7, 3, generator=generator), torch.randn(7, 3, generator=generator)
    centred = [x - x.mean(0) for x in (a, b)]
    unit = [x / x.norm(dim=1, keepdim=True) for x in centred]
    assert torch.allclose(difference(a, b), (unit[0].T @ unit[1]).square().mean())


def test_central_moment_discrepancy_compares_mean_and_moments() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(50, 3, generator=generator), torch.rand(40, 3, generator=generator) ** 2
    expected = (a.mean(0) - b.mean(0)).norm() + sum(
        (((a - a.mean(0)) ** k).mean(0) - ((b - b.mean(0)) ** k).mean(0)).norm() for k in range(2, 6)
    )
    assert torch.allclose(central_moment_discrepancy(a, b), torch.as_tensor(expected))
    assert central_moment_discrepancy(a, a[torch.randperm(50, generator=generator)]) < 1e-5
    assert torch.allclose(central_moment_discrepancy(a, a + 0.25), torch.tensor(0.25 * math.sqrt(3)), atol=1e-5)


def test_misa_adds_its_losses_by_their_weights_and_has_a_gradient_of_one_row() -> None:
    system = made("misa", difference_weight=0.5, similarity_weight=0.25, reconstruction_weight=2.0)
    batch = Batch.collate(samples(n=1))
    terms = system.loss(system(batch), batch)
    weighed = 0.5 * terms["difference"] + 0.25 * terms["similarity"] + 2 * terms["reconstruction"]
    assert torch.allclose(terms["total"], terms["l1"] + weighed)
    terms["total"].backward()
    assert all(torch.isfinite(p.grad).all() for p in system.parameters() if p.grad is not None)


# Self-MM: labels of each modality


@settings(max_examples=60)
@given(st.floats(-3, 3), st.floats(0.1, 4) | st.floats(-0.9, -0.1), st.floats(-0.9, 4))
def test_moved_label_is_the_mean_of_ratio_and_difference(label: float, alpha_m: float, alpha_s: float) -> None:
    tensors = (torch.full((1, 1), value, dtype=torch.float64) for value in (label, alpha_m, alpha_s))
    expected = (label * alpha_s / alpha_m + label + alpha_s - alpha_m) / 2
    assert math.isclose(float(moved_label(*tensors)), expected, rel_tol=1e-6, abs_tol=1e-9)


def test_a_modality_that_says_what_the_fusion_says_keeps_the_human_label() -> None:
    label, alpha = torch.tensor([[1.5], [-2.0]]), torch.tensor([[0.7], [-0.4]])
    assert torch.equal(moved_label(label, alpha, alpha), label)
    assert torch.equal(moved_label(label, torch.zeros(2, 1), alpha), label)


def test_centres_are_the_means_of_the_sides_and_follow_slowly() -> None:
    centres = Centres(1, 2, momentum=0.9)
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0], [9.0, 9.0]])
    side = torch.tensor([[2.0], [0.5], [-1.0], [0.0]])  # the last one is on no side
    assert (centres.relative_distance(features) == 0).all()
    centres.update(features, side)
    assert torch.equal(centres.positive, torch.tensor([[2.0, 0.0]]))
    assert torch.equal(centres.negative, torch.tensor([[0.0, 5.0]]))
    centres.update(features + 1, side)
    assert torch.allclose(centres.positive, torch.tensor([[2.1, 0.1]]))
    alpha = centres.relative_distance(torch.tensor([[2.0, 0.5], [0.0, 4.0]]))
    assert alpha[0] > 0 > alpha[1]


@pytest.mark.parametrize("task", [FEELING, CLASSES], ids=lambda task: task.kind)
def test_labels_move_only_after_the_warm_up_and_only_by_training(task: Task) -> None:
    system = made("self_mm", task, warmup_steps=2).train()
    batch = Batch.collate(samples(task))
    terms = [system.loss(system(batch), batch) for _ in range(4)]
    assert [bool(t["unimodal"] == 0) for t in terms] == [True, True, False, False]
    before = {name: value.clone() for name, value in system.state_dict().items()}
    assert before["steps"] == 4
    assert before["alone_centres.audio.known"].all()
    system.eval().loss(system(batch), batch)
    assert all(torch.equal(value, before[name]) for name, value in system.state_dict().items())


# MAG-BERT: a bounded shift


@settings(max_examples=30)
@given(st.floats(0.05, 3), st.floats(0.01, 100), st.integers(0, 99))
def test_the_shift_of_a_word_is_at_most_beta_of_its_length(beta: float, loudness: float, seed: int) -> None:
    torch.manual_seed(seed)
    gate = AdaptationGate(6, {"audio": 3, "video": 4}, beta, 0.0)
    words = torch.randn(2, 5, 6)
    others = {"audio": loudness * torch.randn(2, 5, 3), "video": loudness * torch.randn(2, 5, 4)}
    there = {"audio": torch.tensor([True, True]), "video": torch.tensor([True, False])}
    shift = gate.shift(words, others, there)
    assert (shift.norm(dim=2) <= beta * words.norm(dim=2) * (1 + 1e-5)).all()
    # Where the bound does not bite, the shift is H itself.
    h = torch.relu(gate.gates["audio"](torch.cat([words, others["audio"]], 2))) * gate.maps["audio"](others["audio"])
    free = h[1].norm(dim=1) < beta * words[1].norm(dim=1)
    assert torch.allclose(shift[1][free], h[1][free], atol=1e-4)


def test_words_alone_are_not_shifted() -> None:
    gate = AdaptationGate(6, {"audio": 3}, 1.0, 0.0)
    torch.nn.init.normal_(gate.bias)
    words = torch.randn(2, 5, 6)
    shift = gate.shift(words, {"audio": torch.zeros(2, 5, 3)}, {"audio": torch.tensor([True, False])})
    assert shift[0].any()
    assert not shift[1].any()


# Text as token ids


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny BERT in a folder."""
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertModel(config).save_pretrained(path)
    return str(path)


@pytest.mark.parametrize("name", NAMES)
def test_a_sequence_without_a_step_is_an_absent_modality_alone_and_beside_others(name: str) -> None:
    system = made(name).eval()
    sample = samples(n=1, steps={"text": 4, "audio": 4, "video": 4})[0]
    empty = Sample({**sample.inputs, "audio": torch.zeros(0, 3)}, sample.target)
    lacking = Sample({n: x for n, x in sample.inputs.items() if n != "audio"}, sample.target)
    one, two, both = (
        system(Batch.collate(rows, tuple(WIDTHS))).logits[0] for rows in ([empty], [lacking], [empty, sample])
    )
    assert torch.allclose(one, two, atol=1e-6, equal_nan=True) and torch.allclose(one, both, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("name", ["misa", "self_mm", "mag_bert"])
def test_a_text_encoder_came_trained_and_belongs_to_the_text(name: str, bert: str) -> None:
    system = made(name, text_encoder=bert)
    encoder = {id(p) for part in system.pretrained_parts() for p in part.parameters()}
    assert encoder and not made(name).pretrained_parts()
    if name != "mag_bert":
        own = {id(p) for part in system.modality_parts()["text"] for p in part.parameters()}
        assert encoder <= own
        with pytest.raises(AffuseError, match="text_encoder reads the modality text"):
            made(name, text_encoder=bert, modalities=("audio", "video"))


@pytest.mark.parametrize("name", ["misa", "self_mm", "mag_bert"])
def test_token_ids_are_read_by_a_text_encoder_that_learns(name: str, bert: str) -> None:
    system = made(name, text_encoder=bert)
    generator = torch.Generator().manual_seed(0)
    whole = [
        Sample({**s.inputs, "text": torch.randint(0, 30, (len(s.inputs["text"]),), generator=generator)}, s.target)
        for s in samples()
    ]
    lacking = [Sample({k: v for k, v in s.inputs.items() if k != lack}, s.target) for s in whole for lack in WIDTHS]
    batch = Batch.collate([*whole, *lacking], tuple(WIDTHS))
    terms = system.train().loss(system(batch), batch)
    terms["total"].backward()
    assert all(torch.isfinite(p.grad).all() for p in system.parameters() if p.grad is not None)
    learned = [name for name, p in system.named_parameters() if p.grad is not None and p.grad.any()]
    assert any("embeddings" in name for name in learned)
    together = system.eval()(batch).logits
    for row in (0, 8, 9, 10):
        sample = [*whole, *lacking][row]
        alone = system(Batch.collate([sample], tuple(WIDTHS)))
        assert torch.allclose(alone.logits[0], together[row], atol=1e-5)


def test_a_text_encoder_s_words_are_shifted_behind_its_embeddings(bert: str) -> None:
    system = made("mag_bert", text_encoder=bert, beta=0.0).eval()
    assert isinstance(system, MAGBERT)
    assert system.bert is not None
    tokens = torch.tensor([2, 5, 7, 3])
    batch = Batch.collate([Sample({"text": tokens, "audio": torch.randn(4, 3), "video": torch.randn(4, 4)})])
    model = system.bert.model
    model.embeddings.register_forward_hook(lambda module, inputs, words: system.gate.norm(words))
    mask = torch.ones(1, 4, dtype=torch.bool)
    expected = system.head(system.bert(tokens[None], mask)[:, 0])  # without a shift, only normalised
    model.embeddings._forward_hooks.clear()
    assert torch.allclose(system(batch).logits, expected, atol=1e-6)
    assert not model.embeddings._forward_hooks


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


@settings(max_examples=40)
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
