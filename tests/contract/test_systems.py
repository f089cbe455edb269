"""What every system promises. A system that is not on the list below fails the suite."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from affuse.folding import folded
from affuse.parts.spiking import Neuron
from affuse.runs import save_weights
from affuse.systems import SYSTEMS
from affuse.systems.taaf import Encoder
from affuse.types import Batch, Sample, System, Task

CLASSES = ("calm", "tense", "away")


@dataclass(frozen=True)
class Case:
    """A small configuration, the shape of one sample by modality, and the switches that must change the answer.

    Where `shorter`, some sequences of a batch have fewer steps than the shape says.
    """

    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    switches: list[dict[str, Any]] = field(default_factory=list)
    task: Task = Task("classification", CLASSES)
    shorter: bool = False


WIDTHS = {"text": 6, "audio": 3, "video": 4}
HIDDEN = {"text": 8, "audio": 6, "video": 7}
ALIGNED = {"text": (5, 6), "audio": (5, 3), "video": (5, 4)}
UNALIGNED = {"text": (4, 6), "audio": (7, 3), "video": (5, 4)}
SENTIMENT = Task("regression", value_range=(-3.0, 3.0), units="sentiment")
TAAF_ENCODERS = {
    "event": Encoder("conv", channels=2, size=(8, 8), layers=(4,)),
    "audio": Encoder("mlp", features=5, layers=()),
}

FACE = {"face": (4, 3, 32, 32)}
RECURRENT: list[dict[str, Any]] = [{"hidden": 10}, {"layers": 2}, {"readout": "mean"}, {"encoder": "resnet10t"}]

CASES = {
    "mco_e": Case(
        {"d_model": 16, "d_state": 4, "heads": 2, "experts": 6, "top_k": 2, "dropout": 0.0},
        {"rgb": (3, 3, 32, 32), "event": (3, 3, 32, 32)},
        [
            {"tokens": "spatial"},
            {"frame_grid": 2},
            {"pre_norm": True},
            {"activation": "silu"},
            {"causal": True},
            {"layers": 2},
            {"mamba_residual": True},
            {"mcib_residual": 0.5},
            {"gate_scale": 0.5},
            {"mjos": False},
            {"mcib": False},
            {"mamba": False},
            {"interact": "B"},
            {"interact": "C"},
            {"interact": "AB"},
            {"interact": "AC"},
            {"interact": "AD"},
            {"interact": "BD"},
            {"interact": "CD"},
            {"interact": "", "share": "A"},
            {"interact": "", "share": "B"},
            {"interact": "", "share": "C"},
            {"interact": "", "share": "D"},
            {"interact": "", "exchange": True},
            {"head": "linear"},
            {"head": "mlp"},
            {"expert_types": ("deep",)},
            {"expert_types": ("deep", "attention")},
            {"expert_types": ("focal",)},
            {"experts": 5},
            {"top_k": 1},
            {"top_k": 3},
        ],
    ),
    "emoe": Case(
        {
            "widths": WIDTHS,
            "d_model": 16,
            "heads": 2,
            "layers": 2,
            "kernel": 3,
            "router_width": 12,
            "head_dropout": 0.0,
        },
        UNALIGNED,
        [
            {"kernel": 2},
            {"kernels": {"audio": 1}},
            {"layers": 1},
            {"heads": 4},
            {"causal": False},
            {"readout": "mean"},
            {"readout": "attention"},
            {"mome": False},
            {"router_width": 9},
            {"router_layers": 1},
            {"router_layers": 3},
            {"temperature": 1.0},
            {"fusion": "concat"},
            {"variant": "as_released", "released_lengths": {"text": 4, "audio": 8, "video": 6}},
        ],
        SENTIMENT,
        shorter=True,
    ),
    "taaf": Case(
        {
            "encoders": TAAF_ENCODERS,
            "width": 16,
            "neuron": Neuron(tau=0.9),  # nothing untrained stays silent
            "align_causal": True,
        },
        {"event": (4, 2, 8, 8), "audio": (4, 5)},
        [
            {"encoders": {**TAAF_ENCODERS, "audio": Encoder("recurrent", features=5, layers=(6,))}},
            {"encoders": {**TAAF_ENCODERS, "event": Encoder("conv", channels=2, size=(8, 8), layers=(3,))}},
            {"encoders": {n: dataclasses.replace(e, encoding="direct", steps=2) for n, e in TAAF_ENCODERS.items()}},
            {"width": 6},
            {"neuron": Neuron("relu")},
            {"neuron": Neuron(tau=0.5)},
            {"neuron": Neuron(tau=0.9, reset="soft")},
            {"fusion": "sum"},
            {"fusion": "logit_sum"},
            {"fusion": "film"},
            {"fusion": "gated"},
            {"steps": 3},
            {"attention": False},
            {"attend_on": "features"},
            {"attention_width": 5},
            {"read_out": "mean"},
        ],
    ),
    "mome": Case(
        {"width": 16, "heads": 2, "layers": 2, "frames": 4, "gate_width": 8, "dropout": 0.0, "gate_dropout": 0.0},
        {"rgb": (4, 3, 16, 16), "infrared": (4, 1, 16, 16), "depth": (4, 1, 16, 16)},
        [
            {"modalities": ("infrared", "rgb")},
            {"expert_of": {"depth": "resnet10t"}},
            {"width": 8},
            {"layers": 1},
            {"heads": 4},
            {"grid": 1},
            {"gating": "input"},
            {"gating": "input", "gate_grid": 1},
            {"gating": "plain"},
            {"gate_reads": "logits"},
            {"gate_reads": "confidence"},
            {"gate_width": 0},
            {"gate_temperature": 0.1},
            {"top_k": 1},
            {"top_k": 2},
            {"fuse": "probabilities"},
            {"fuse": "class_tokens"},
            {"self_guidance": False},
        ],
        shorter=True,
    ),
    "fer_ssm": Case(
        {
            "modalities": ("face",),
            "encoder": "small",
            "reduction": 4,
            "d_model": 16,
            "d_state": 4,
            "heads": 2,
            "classifier": (12,),
            "dropout": 0.0,
            "block_dropout": 0.0,
            "causal": True,
            "attention_window": 3,
        },
        FACE,
        [
            {"causal": False},
            {"encoder": "resnet10t"},
            {"channel_attention": False},
            {"reduction": 16},
            {"regions": 0},
            {"regions": 4},
            {"region_activation": "sigmoid"},
            {"spatial_scales": ()},
            {"spatial_scales": (3,)},
            {"landmark_attention": False},
            {"frame_grid": 2},
            {"enhancer": False},
            {"d_model": 8},
            {"blocks": 0},
            {"blocks": 1},
            {"d_state": 2},
            {"d_conv": 2},
            {"expand": 1},
            {"pre_norm": False},
            {"residual": False},
            {"attention": False},
            {"heads": 4},
            {"classifier": (10, 8)},
            {"attention_window": 1},
            {"memory": 1.5},
        ],
    ),
    "ef_lstm": Case(
        {"widths": WIDTHS, "hidden": 8, "layers": 2, "dropout": 0.0},
        ALIGNED,
        [{"hidden": 6}, {"layers": 1}, {"modalities": ("text", "audio")}],
    ),
    "lf_dnn": Case(
        {"widths": WIDTHS, "hidden": HIDDEN, "fusion": 12, "dropout": 0.0},
        UNALIGNED,
        [{"readings": {"text": "mean"}}, {"readings": {"text": "last"}}, {"hidden": {"text": 5}}, {"fusion": 7}],
    ),
    "tfn": Case(
        {
            "widths": WIDTHS,
            "hidden": HIDDEN,
            "outputs": {"text": 5},
            "fusion": 12,
            "dropout": 0.0,
            "fusion_dropout": 0.0,
        },
        UNALIGNED,
        [{"readings": {"audio": "lstm"}}, {"outputs": {"text": 3}}, {"fusion": 7}],
    ),
    "lmf": Case(
        {"widths": WIDTHS, "hidden": HIDDEN, "outputs": {"text": 5}, "dropout": 0.0},
        UNALIGNED,
        [{"readings": {"audio": "lstm"}}, {"outputs": {"text": 3}}, {"rank": 2}],
    ),
    "mfn": Case(
        {
            "widths": WIDTHS,
            "hidden": HIDDEN,
            "memory": 6,
            "attention": 5,
            "proposal": 5,
            "gates": (5, 4),
            "output": 7,
            "attention_dropout": 0.0,
            "gate_dropouts": (0.0, 0.0),
        },
        ALIGNED,
        [{"gates_see_memory": True}, {"memory": 4}, {"attention": 3}, {"modalities": ("text", "audio")}],
    ),
    "mult": Case(
        {
            "widths": WIDTHS,
            "width": 8,
            "heads": 2,
            "layers": 1,
            "own_layers": 1,
            "attention_dropout": 0.0,
            "embed_dropout": 0.0,
            "text_dropout": 0.0,
            "output_dropout": 0.0,
        },
        UNALIGNED,
        [{"layers": 2}, {"own_layers": 2}, {"heads": 4}, {"kernels": {"text": 3}}, {"own_layers": 2, "causal": True}],
    ),
    "misa": Case(
        {"widths": WIDTHS, "hidden": 8, "dropout": 0.0},
        UNALIGNED,
        [
            {"readings": {"text": "mean"}},
            {"readings": {"text": "last"}},
            {"readings": {"text": "first"}},
            {"hidden": 6},
        ],
    ),
    "self_mm": Case(
        {
            "widths": WIDTHS,
            "hidden": HIDDEN,
            "alone": HIDDEN,
            "fusion": 9,
            "dropout": 0.0,
            "warmup_steps": 0,
            "readings": {"audio": "mean"},
        },
        UNALIGNED,
        [{"readings": {"text": "first"}}, {"fusion": 7}, {"alone": {"text": 5}}],
    ),
    "mag_bert": Case(
        {"widths": WIDTHS, "text_width": 8, "heads": 2, "layers": 1, "dropout": 0.0},
        ALIGNED,
        [{"beta": 0.1}, {"pool": "last"}, {"pool": "mean"}, {"layers": 2}, {"text_width": 6}],
    ),
    "unimodal": Case(
        {"widths": WIDTHS, "hidden": 8, "fusion": 12, "dropout": 0.0},
        {"text": (5, 6)},
        [{"reading": "mean"}, {"reading": "last"}, {"hidden": 6}, {"fusion": 7}],
    ),
    "r2plus1d_18": Case(
        {"widths": (4, 6, 8, 10), "frames": 4}, FACE, [{"widths": (4, 6, 8, 9)}, {"frames": 8}], shorter=True
    ),
    "r3d_18": Case(
        {"widths": (4, 6, 8, 10), "frames": 4},
        FACE,
        [{"widths": (4, 6, 8, 9)}, {"frames": 8}, {"stem": "plain"}],
        shorter=True,
    ),
    "resnet18_lstm": Case({"encoder": "small", "hidden": 12, "dropout": 0.0}, FACE, RECURRENT, shorter=True),
    "resnet18_gru": Case({"encoder": "small", "hidden": 12, "dropout": 0.0}, FACE, RECURRENT, shorter=True),
    "former_dfer": Case(
        {
            "widths": (4, 6, 8, 12),
            "frames": 4,
            "grid": 2,
            "spatial_heads": 2,
            "spatial_hidden": 10,
            "temporal_heads": 2,
            "temporal_hidden": 10,
            "temporal_layers": 2,
        },
        FACE,
        [
            {"widths": (4, 6, 8, 10)},
            {"frames": 5},
            {"grid": 3},
            {"spatial_layers": 2},
            {"temporal_layers": 1},
            {"spatial_heads": 4},
            {"temporal_heads": 4},
            {"spatial_hidden": 9},
            {"temporal_hidden": 9},
        ],
    ),
}


def made(name: str, **changes: Any) -> System:
    torch.manual_seed(0)
    cls = SYSTEMS[name]
    return cls(cls.Config(**{**CASES[name].config, **changes}), CASES[name].task)


def samples(name: str, n: int = 6, absent: tuple[str | None, ...] = ()) -> list[Sample]:
    """Random samples; `absent` names what each of the first ones lacks."""
    generator = torch.Generator().manual_seed(1)
    case, lacks = CASES[name], [*absent, *[None] * n][:n]
    whole = case.task.kind == "classification"

    def inputs(index: int, lack: str | None) -> dict[str, torch.Tensor]:
        drawn = {m: torch.randn(shape, generator=generator) for m, shape in case.shapes.items() if m != lack}
        return {m: x[: max(1, len(x) - index % 3)] for m, x in drawn.items()} if case.shorter else drawn

    return [
        Sample(inputs(index, lack), target=index % len(CLASSES) if whole else 0.7 * index - 2.0)
        for index, lack in enumerate(lacks)
    ]


def batch_of(name: str, absent: tuple[str | None, ...] = ()) -> Batch:
    return Batch.collate(samples(name, absent=absent), tuple(CASES[name].shapes))


def mixed(name: str) -> Batch:
    """Two whole samples, and samples that lack each modality in turn."""
    return batch_of(name, (None, None, *CASES[name].shapes))


def gradients(system: System, batch: Batch) -> dict[str, torch.Tensor]:
    system.zero_grad(set_to_none=True)
    torch.manual_seed(2)
    system.loss(system(batch), batch)["total"].backward()
    return {name: p.grad.clone() for name, p in system.named_parameters() if p.grad is not None}


@pytest.fixture(params=sorted(CASES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_every_system_is_on_the_list() -> None:
    assert set(CASES) == set(SYSTEMS)


def test_configurations_are_frozen_dataclasses(name: str) -> None:
    config = SYSTEMS[name].Config
    assert dataclasses.is_dataclass(config)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().d_model = 1


@pytest.mark.parametrize("training", [False, True])
def test_nan_in_an_absent_modality_changes_neither_output_nor_gradient(name: str, training: bool) -> None:
    batch = mixed(name)
    filled = dict(batch.inputs)
    for column, modality in enumerate(batch.modalities):
        filled[modality] = filled[modality].clone()
        filled[modality][~batch.present[:, column]] = 7.0
    other = dataclasses.replace(batch, inputs=filled)
    system = made(name).train(training)
    torch.manual_seed(2)
    first = system(batch)
    torch.manual_seed(2)
    second = system(other)
    assert torch.equal(torch.isfinite(first.logits).all(1), batch.present.any(1))
    assert torch.equal(first.logits.nan_to_num(), second.logits.nan_to_num())
    for key, value in first.weights.items():
        assert torch.equal(value, second.weights[key])
    ours, theirs = gradients(system, batch), gradients(system, other)
    assert ours.keys() == theirs.keys()
    for parameter, gradient in ours.items():
        assert torch.isfinite(gradient).all(), parameter
        assert torch.equal(gradient, theirs[parameter]), parameter


def test_a_folded_system_says_the_same(name: str) -> None:
    system = made(name).eval()
    for module in system.modules():  # as after training: no normalisation is the identity
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    batch, faster = mixed(name), folded(system)
    with torch.no_grad():
        expected, found = system(batch), faster(batch)
    assert torch.equal(found.answered, expected.answered)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5, equal_nan=True)
    for key, value in expected.weights.items():
        torch.testing.assert_close(found.weights[key], value, rtol=1e-4, atol=1e-5)


def test_nothing_present_is_no_answer(name: str) -> None:
    batch = batch_of(name).without(*CASES[name].shapes)
    output = made(name).eval()(batch)
    assert not output.answered.any()
    assert output.logits.isnan().all()
    assert all((value == 0).all() for value in output.weights.values())


def test_an_unanswered_row_does_not_disturb_the_others(name: str) -> None:
    batch = batch_of(name)
    present = batch.present.clone()
    present[0] = False
    inputs = {key: value.clone() for key, value in batch.inputs.items()}
    for value in inputs.values():
        value[0] = torch.nan
    output = made(name).eval()(dataclasses.replace(batch, inputs=inputs, present=present))
    whole = made(name).eval()(batch)
    assert output.answered.tolist() == [False] + [True] * 5
    assert torch.allclose(output.logits[1:], whole.logits[1:], atol=1e-5)


def test_gradients_reach_every_parameter(name: str) -> None:
    config = CASES[name].config
    every = {"top_k": config["experts"]} if "experts" in config else {}  # every expert is used, so every parameter is
    system = made(name, **every)
    found = gradients(system.train(), mixed(name))
    missing = [key for key, parameter in system.named_parameters() if parameter.requires_grad and key not in found]
    assert not missing
    silent = [key for key, gradient in found.items() if not gradient.any()]
    # A bias that softmax cannot see (keys of attention) has an exactly zero gradient in theory; nothing else may.
    assert all("in_proj_bias" in key or ".key" in key for key in silent), silent


def test_saved_and_loaded_it_answers_the_same(name: str, tmp_path: Any) -> None:
    system = made(name).eval()
    save_weights(system, tmp_path / "weights.safetensors")
    torch.manual_seed(99)
    cls = SYSTEMS[name]
    other = cls(system.config, system.task).eval()
    assert not torch.equal(other(batch_of(name)).logits, system(batch_of(name)).logits)
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(other(batch_of(name)).logits, system(batch_of(name)).logits)


def test_a_sample_answers_alone_as_in_a_batch(name: str) -> None:
    system = made(name).eval()
    several = samples(name, absent=(None, None, *CASES[name].shapes))
    together = system(Batch.collate(several, tuple(CASES[name].shapes)))
    for row, sample in enumerate(several):
        alone = system(Batch.collate([sample], tuple(CASES[name].shapes)))
        assert torch.allclose(alone.logits[0], together.logits[row], atol=1e-5, equal_nan=True)
        for key, value in alone.weights.items():
            assert torch.allclose(value[0], together.weights[key][row], atol=1e-5)


def test_forward_equals_folding_step_where_it_streams(name: str) -> None:
    system = made(name).eval()
    batch = batch_of(name)
    if system.streaming == "window":
        with pytest.raises(Exception, match="windows of a clip"):
            system.init_state(batch.size)
        return
    state = system.init_state(batch.size)
    steps = next(iter(CASES[name].shapes.values()))[0]
    for t in range(steps):
        output, state = system.step({key: value[:, t] for key, value in batch.inputs.items()}, state)
    assert torch.allclose(output.logits, system(batch).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("system_name", "switch"),
    [(n, s) for n, case in CASES.items() for s in case.switches],
    ids=lambda value: str(value),
)
def test_every_switch_changes_the_answer(system_name: str, switch: dict[str, Any]) -> None:
    plain = made(system_name).eval()(batch_of(system_name))
    other = made(system_name, **switch).eval()(batch_of(system_name))
    assert torch.isfinite(other.logits).all()
    assert not torch.allclose(plain.logits, other.logits, atol=1e-4)
