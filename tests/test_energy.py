"""Operations are counted as a loop over spikes counts them, and energy is what the constants make of the counts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from affuse import cli, report, runs
from affuse.data.splits import Splits
from affuse.energy.count import convolution_accumulates, count, is_binary, touched_outputs
from affuse.energy.estimate import Constants, estimate
from affuse.energy.estimate import energy as energy_of
from affuse.energy.tables import section
from affuse.parts.spiking import Neuron, SpikingConvNet, SpikingRecurrentNet
from affuse.systems.taaf import TAAF
from affuse.systems.taaf.config import Encoder, TAAFConfig
from affuse.types import AffuseError, Batch, Output, Sample, System, Task

TASK = Task("classification", ("one", "two"))


def accumulates_by_loop(convolution: nn.Conv1d | nn.Conv2d | nn.Conv3d, spikes: Tensor) -> int:
    """Each spike alone through the convolution with weights of one: the outputs that are not zero are those it touches."""
    ones = type(convolution)(
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size,
        convolution.stride,
        convolution.padding,
        convolution.dilation,
        convolution.groups,
        bias=False,
        padding_mode=convolution.padding_mode,
    )
    nn.init.ones_(ones.weight)
    total = 0
    for place in spikes.nonzero():
        alone = torch.zeros_like(spikes)
        alone[tuple(place)] = 1
        total += int(ones(alone).sum())  # each tap that meets the spike adds one
    return total


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Conv1d | nn.Conv2d | nn.Conv3d, Tensor]:
    dimensions = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 2]))
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    numbers = st.integers(1, 3)
    kernel = tuple(draw(numbers) for _ in range(dimensions))
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(dimensions))
    mode = draw(st.sampled_from(["zeros", "circular", "reflect", "replicate"]))
    padding: str | tuple[int, ...] = draw(
        st.sampled_from(["same", "valid", tuple(draw(st.integers(0, 2)) for _ in range(dimensions))])
    )
    stride = (1,) * dimensions if padding == "same" else tuple(draw(numbers) for _ in range(dimensions))
    made = kind(2 * groups, 3 * groups, kernel, stride, padding, dilation, groups, padding_mode=mode)
    size = [draw(st.integers(5, 7)) for _ in range(dimensions)]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    return made, (torch.rand(2, 2 * groups, *size, generator=generator) < 0.05).float()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # PyTorch's, about its speed
@settings(max_examples=40)
@given(convolutions())
def test_accumulates_of_a_convolution_are_those_of_a_loop_over_its_spikes(
    drawn: tuple[nn.Conv1d | nn.Conv2d | nn.Conv3d, Tensor],
) -> None:
    convolution, spikes = drawn
    size = tuple(convolution(spikes).shape[2:])
    assert convolution_accumulates(convolution, spikes, size) == accumulates_by_loop(convolution, spikes)


def test_a_spike_at_a_border_touches_fewer_outputs() -> None:
    assert touched_outputs(5, 5, kernel=3, stride=1, dilation=1, before=1).tolist() == [2, 3, 3, 3, 2]
    assert touched_outputs(5, 3, kernel=3, stride=2, dilation=1, before=1).tolist() == [1, 2, 1, 2, 1]
    assert touched_outputs(5, 2, kernel=2, stride=3, dilation=1, before=0).tolist() == [1, 1, 0, 1, 1]


def test_only_zero_and_one_are_spikes() -> None:
    assert is_binary(torch.tensor([0.0, 1.0, 1.0]))
    for wrong in (0.5, -1.0, 2.0, torch.nan):
        assert not is_binary(torch.tensor([0.0, 1.0, wrong]))


@dataclass(frozen=True)
class TwoBranchConfig:
    spiking: bool = True


class Step(nn.Module):
    """Spikes where a sum exceeds a threshold; a slope, so that autograd sees through."""

    def forward(self, x: Tensor) -> Tensor:
        return x - (x - (x > 0.5).float()).detach()


class TwoBranches(System):
    """Pictures through two convolutions and a vector through a linear map with a recurrent one, fused by a linear map."""

    Config: ClassVar[type] = TwoBranchConfig
    modalities = ("picture", "vector")

    def __init__(self, config: TwoBranchConfig, task: Task) -> None:
        super().__init__()
        self.config, self.task = config, task
        self.first = nn.Conv2d(1, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)
        self.second = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2, bias=False)
        self.spike = Step() if config.spiking else nn.ReLU(inplace=True)
        self.read, self.back = nn.Linear(3, 5), nn.Linear(5, 5, bias=False)
        self.fuse = nn.Linear(4 * 3 * 3 + 5, task.outputs)
        self.seen: dict[str, Tensor] = {}

    def forward(self, batch: Batch) -> Output:
        picture, vector = batch.has("picture"), batch.has("vector")
        features = torch.zeros(batch.size, 4 * 3 * 3 + 5)
        if picture.any():
            x = batch.inputs["picture"][picture]  # r t c h w
            r, t = x.shape[:2]
            early = self.spike(self.norm(self.first(x.flatten(0, 1))))
            late = self.spike(self.second(early))
            self.seen["second"] = early.detach()
            filled = features.clone()
            filled[picture, : 4 * 3 * 3] = late.flatten(1).reshape(r, t, -1)[:, -1]
            features = filled
        if vector.any():
            x = batch.inputs["vector"][vector]  # r t d
            hidden = torch.zeros(len(x), 5)
            before = []
            for step in range(x.shape[1]):
                before.append(hidden.detach())
                hidden = self.spike(self.read(x[:, step]) + self.back(hidden))
            self.seen["back"] = torch.cat(before)
            filled = features.clone()
            filled[vector, 4 * 3 * 3 :] = hidden
            features = filled
        self.seen["fuse"] = features.detach()
        return Output(self.fuse(features), batch.present.any(1))

    def loss(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        return {"total": output.logits.sum()}

    def twin(self) -> "TwoBranches":
        return TwoBranches(TwoBranchConfig(spiking=False), self.task)


def samples(n: int = 6, t: int = 3) -> list[Sample]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for number in range(n):
        inputs = {
            "picture": torch.randn(t, 1, 6, 6, generator=generator),
            "vector": torch.randn(t, 3, generator=generator),
        }
        made.append(Sample(inputs, number % 2))
    return made


def system(seed: int = 0) -> TwoBranches:
    torch.manual_seed(seed)
    made = TwoBranches(TwoBranchConfig(), TASK)
    made.first.weight.data.mul_(4)
    made.second.weight.data.abs_()
    made.read.weight.data.mul_(4)
    return made


def batch_of(given: Sequence[Sample]) -> Batch:
    return Batch.collate(given, ("picture", "vector"))


def test_every_layer_of_a_small_network_is_counted_by_hand() -> None:
    network = system()
    counts = count(network, [batch_of(samples())])
    layers = {layer.name: layer for layer in counts.layers}
    assert counts.samples == 6 and not counts.uncounted and not counts.not_run
    assert list(layers) == ["first", "second", "read", "back", "fuse"]
    assert {name: layer.kind for name, layer in layers.items()} == {
        "first": "MAC",
        "second": "AC",
        "read": "MAC",
        "back": "AC",
        "fuse": "AC",
    }
    assert {name: layer.rows for name, layer in layers.items()} == {
        "first": 18,
        "second": 18,
        "read": 18,
        "back": 18,
        "fuse": 6,
    }
    assert {name: layer.dense for name, layer in layers.items()} == {
        "first": 18 * (2 * 6 * 6) * (1 * 3 * 3),
        "second": 18 * (4 * 3 * 3) * (1 * 3 * 3),
        "read": 18 * 3 * 5,
        "back": 18 * 5 * 5,
        "fuse": 6 * (36 + 5) * 2,
    }
    spikes = network.seen
    assert all(spikes[name].sum() > 0 for name in ("second", "back", "fuse"))
    assert layers["second"].synaptic == accumulates_by_loop(network.second, spikes["second"])
    assert layers["back"].synaptic == sum(5 for _ in spikes["back"].nonzero())
    assert layers["fuse"].synaptic == sum(2 for _ in spikes["fuse"].nonzero())
    assert layers["second"].nonzero == int(spikes["second"].sum()) and layers["second"].inputs == 18 * 2 * 36


def test_counting_in_batches_is_counting_at_once() -> None:
    network, given = system(), samples()
    whole = count(network, [batch_of(given)])
    assert count(network, [batch_of(given[:4]), batch_of(given[4:])]) == whole


def test_rows_without_a_modality_are_not_counted() -> None:
    network, given = system(), samples()
    partly = [Sample({"vector": sample.inputs["vector"]}) if i < 4 else sample for i, sample in enumerate(given)]
    layers = {layer.name: layer for layer in count(network, [batch_of(partly)]).layers}
    assert (layers["first"].rows, layers["second"].rows, layers["read"].rows) == (6, 6, 18)
    alone = {layer.name: layer for layer in count(network, [batch_of(given[4:])]).layers}
    assert layers["second"] == alone["second"]
    nobody = count(network, [batch_of(given).without("picture")])
    assert nobody.not_run == ["first", "second"]


def test_a_first_layer_multiplies_even_spikes_and_silence() -> None:
    network = system()
    for value in (0.0, 1.0):
        given = [Sample({name: torch.full_like(x, value) for name, x in s.inputs.items()}) for s in samples()]
        kinds = {layer.name: (layer.kind, layer.binary) for layer in count(network, [batch_of(given)]).layers}
        assert kinds["first"] == ("MAC", True)
    assert kinds["read"] == ("MAC", True)


def test_a_recurrent_layer_of_a_single_step_is_no_first_layer() -> None:
    layers = {layer.name: layer for layer in count(system(), [batch_of(samples(t=1))]).layers}
    assert (layers["back"].kind, layers["back"].synaptic, layers["back"].first) == ("AC", 0, False)


def test_one_value_between_zero_and_one_makes_a_layer_multiply() -> None:
    network = system()
    network.spike = nn.Sigmoid()
    kinds = {layer.name: layer.kind for layer in count(network, [batch_of(samples())]).layers}
    assert set(kinds.values()) == {"MAC"}


def test_the_answer_and_the_system_are_left_as_they_were() -> None:
    network = system().train()
    network.second.weight.requires_grad_(False)
    asked = [parameter.requires_grad for parameter in network.parameters()]
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    count(network, [batch_of(samples())])
    assert network.training and [parameter.requires_grad for parameter in network.parameters()] == asked
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_a_part_that_is_frozen_in_evaluation_mode_stays_so() -> None:
    network = system().train()
    network.second.eval()
    modes = {name: module.training for name, module in network.named_modules()}
    assert set(modes.values()) == {True, False}
    count(network, [batch_of(samples())])
    assert {name: module.training for name, module in network.named_modules()} == modes
    with pytest.raises(KeyError, match="gone"):
        count(network, map({}.__getitem__, ["gone"]))
    assert {name: module.training for name, module in network.named_modules()} == modes


def test_weights_that_are_not_counted_are_named() -> None:
    network = system()
    network.norm = nn.Sequential(nn.Flatten(2), nn.LSTM(36, 36, batch_first=True))
    network.norm.append(TakeFirst())
    assert count(network, [batch_of(samples())]).uncounted == ["norm.1"]


class TakeFirst(nn.Module):
    def forward(self, x: tuple[Tensor, object]) -> Tensor:
        return x[0].unflatten(2, (6, 6))


@dataclass(frozen=True)
class SpikingConfig:
    neuron: Neuron = Neuron()


class SpikingPair(System):
    """Event pictures and vectors through the spiking networks that systems are made of."""

    Config: ClassVar[type] = SpikingConfig
    modalities = ("picture", "vector")

    def __init__(self, config: SpikingConfig, task: Task) -> None:
        super().__init__()
        self.config, self.task = config, task
        self.look = SpikingConvNet(1, 8, 10, config.neuron, channels_by_layer=(3, 4))
        self.hear = SpikingRecurrentNet(3, 6, config.neuron, layers=(5,))
        self.fuse = nn.Linear(16, task.outputs)

    def forward(self, batch: Batch) -> Output:
        seen, _ = self.look(batch.inputs["picture"].transpose(0, 1))
        heard, _ = self.hear(batch.inputs["vector"].transpose(0, 1))
        logits = self.fuse(torch.cat([seen, heard], 2))  # t b c
        return Output(logits.mean(0), batch.present.any(1))

    def loss(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        return {"total": output.logits.sum()}

    def twin(self) -> "SpikingPair":
        return SpikingPair(SpikingConfig(Neuron("relu")), self.task)


def event_samples(n: int = 5, t: int = 4) -> list[Sample]:
    generator = torch.Generator().manual_seed(2)
    made = []
    for number in range(n):
        picture = (torch.rand(t, 1, 8, 8, generator=generator) < 0.4).float() * 3
        made.append(Sample({"picture": picture, "vector": 3 * torch.randn(t, 3, generator=generator)}, number % 2))
    return made


def spiking_pair() -> SpikingPair:
    torch.manual_seed(3)
    return SpikingPair(SpikingConfig(), TASK)


def test_networks_of_spiking_parts_accumulate_behind_their_first_layers() -> None:
    network = spiking_pair()
    seen: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(
                lambda module, args, output, name=name: seen.update(
                    {name: torch.cat([seen[name], args[0].detach()]) if name in seen else args[0].detach()}
                )
            )
    counts = count(network, [batch_of(event_samples())])
    assert not counts.uncounted and not counts.not_run
    firsts = [layer.name for layer in counts.layers if layer.kind == "MAC"]
    assert len(firsts) == 2 and firsts[0].startswith("look") and firsts[1].startswith("hear")
    fired = 0
    for layer in counts.layers:
        module = network.get_submodule(layer.name)
        if layer.kind == "MAC":
            continue
        assert set(seen[layer.name].unique().tolist()) <= {0.0, 1.0}
        if isinstance(module, nn.Conv2d):
            assert layer.synaptic == accumulates_by_loop(module, seen[layer.name])
        else:
            assert isinstance(module, nn.Linear)
            assert layer.synaptic == int(seen[layer.name].sum()) * module.out_features
        assert layer.synaptic <= layer.dense
        fired += layer.synaptic
    assert fired > 0
    # 4 x 4 and 2 x 2 neurons behind the halvings, then each network's layers of neurons, at 4 steps of 5 samples
    assert sum(layer.updates for layer in counts.neurons) == 5 * 4 * (3 * 16 + 4 * 4 + 10 + 5 + 6)
    assert all((layer.streams, layer.rows) == (5, 20) for layer in counts.neurons)


def test_the_twin_has_the_same_shapes_multiplies_everywhere_and_has_no_potentials() -> None:
    network, batches = spiking_pair(), [batch_of(event_samples())]
    own, twin = count(network, batches), count(network.twin(), batches)
    assert [(layer.name, layer.dense) for layer in own.layers] == [(layer.name, layer.dense) for layer in twin.layers]
    estimated = estimate(twin, Constants(), neuron_updates=True, spiking=False)
    assert {layer["kind"] for layer in estimated["layers"]} == {"MAC"}
    total = estimated["total"]
    assert total["ac"] == total["neuron_updates"] == 0
    assert total["mac"] == total["dense_mac"] == sum(layer.dense for layer in own.layers) / 5
    assert total["energy_pj"] == pytest.approx(4.6 * total["mac"])
    assert total["single_step_pj"] == pytest.approx(total["energy_pj"] / 4)


def test_energy_is_counts_times_constants() -> None:
    counts = count(system(), [batch_of(samples())])
    layers = {layer.name: layer for layer in counts.layers}
    found = estimate(counts, Constants(2.0, 0.5), neuron_updates=False)
    for entry in found["layers"]:
        layer = layers[entry["name"]]
        expected = layer.synaptic * 0.5 if layer.kind == "AC" else layer.dense * 2.0
        assert entry["energy_pj"] == pytest.approx(expected / 6)
        assert (entry["mac"] == 0) == (layer.kind == "AC") and (entry["ac"] == 0) == (layer.kind == "MAC")
        assert entry["input_rate"] == layer.nonzero / layer.inputs
        assert entry["dense_mac"] == layer.dense / 6
    assert found["total"]["energy_pj"] == pytest.approx(sum(entry["energy_pj"] for entry in found["layers"]))


def test_neuron_updates_are_listed_and_only_summed_where_asked() -> None:
    counts = count(spiking_pair(), [batch_of(event_samples())])
    without, included = (estimate(counts, Constants(), updates)["total"] for updates in (False, True))
    assert without["neuron_updates"] == included["neuron_updates"] > 0
    assert without["neuron_updates_pj"] == pytest.approx(4.6 * without["neuron_updates"])
    assert included["energy_pj"] == pytest.approx(without["energy_pj"] + without["neuron_updates_pj"])


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_a_constant_that_is_no_energy_is_refused(wrong: float) -> None:
    with pytest.raises(AffuseError, match="--ac-pj"):
        Constants(ac_pj=wrong)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of the small system, as load_run would find it, with a report."""
    path = tmp_path / "run"
    path.mkdir()
    (path / "report.html").write_text("old")
    splits = Splits(TASK, [], [], event_samples(), True, {"name": "noise"})  # type: ignore[arg-type]
    recipe = SimpleNamespace(
        system_name="spiking_pair",
        training=SimpleNamespace(seed=0, batch_size=2),
        data=SimpleNamespace(splits=lambda seed: splits),
    )
    loaded = SimpleNamespace(path=path, recipe=recipe, info={}, system=spiking_pair())
    monkeypatch.setattr(runs, "load_run", lambda path, overrides=(): loaded)
    return path


def test_the_verb_writes_energy_and_the_report_shows_it_beside_the_twin(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["energy", str(run), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads((run / "energy.json").read_text())
    assert (said["samples"], said["split"], said["constants"]["mac_pj"]) == (5, "test", 4.6)
    assert "Horowitz" in said["constants"]["source"] and said["synthetic"] is True
    assert said["network"]["total"]["energy_pj"] < said["twin"]["total"]["energy_pj"]
    page = (run / "report.html").read_text()
    assert "Energy, estimated" in page and "Horowitz" in page and "memory traffic" in page and "Twin MAC" in page
    assert "of a synthetic world" in page
    for layer in said["network"]["layers"]:
        assert layer["name"] in page
    assert cli.main(["energy", str(run), "--mac-pj", "3", "--samples", "2"]) == 0
    shown = capsys.readouterr().out
    assert "given by the user" in " ".join(shown.split()) and str(run / "energy.json") in shown
    assert json.loads((run / "energy.json").read_text())["samples"] == 2


def test_samples_are_evenly_spaced_and_at_most_all(run: Path) -> None:
    everything = energy_of(run, samples=99)
    assert everything["samples"] == 5
    two = energy_of(run, samples=2)
    network, given = spiking_pair(), event_samples()
    counts = count(network, [batch_of([given[0], given[2]])])
    assert two["network"] == estimate(counts, Constants(), False)


@pytest.mark.parametrize(
    ("words", "said"), [(["--samples", "0"], "--samples"), (["--split", "train"], "--split"), (["--mac-pj", "0"], "0")]
)
def test_what_cannot_be_counted_is_refused_and_nothing_is_written(
    run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["energy", str(run), *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("affuse: ") and said in line
    assert not (run / "energy.json").exists()


def test_a_system_without_a_twin_stands_alone(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(SpikingPair, "twin")
    found = energy_of(run)
    assert found["twin"] is None
    said = section(found)
    assert "no non-spiking twin" in said["summary"] and not [name for name in said["columns"] if "Twin" in name]
    assert {len(row) for row in said["rows"]} == {len(said["columns"])}


def test_every_row_of_the_table_has_all_columns_and_the_sum_is_the_sum(run: Path) -> None:
    for included in (False, True):
        found = energy_of(run, neuron_updates=included)
        said = section(found)
        assert {len(row) for row in said["rows"]} == {len(said["columns"])}
        assert len(said["rows"]) == len(found["network"]["layers"]) + 2
        total = found["network"]["total"]
        macs = total["mac"] + (total["neuron_updates"] if included else 0)
        assert float(said["rows"][-1][4].replace(",", "")) == pytest.approx(macs, abs=0.5)


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"network": 3, "twin": null, "constants": {}}'])
def test_a_broken_energy_file_is_named(run: Path, content: str) -> None:
    (run / "energy.json").write_text(content)
    with pytest.raises(AffuseError, match=r"energy\.json"):
        report.write_report(run)


def test_taaf_accumulates_behind_its_first_layers_and_needs_less_than_its_twin() -> None:
    torch.manual_seed(0)
    encoders = {
        "picture": Encoder("conv", channels=1, size=(8, 8), layers=(3, 4)),
        "vector": Encoder("recurrent", features=3, layers=(5,)),
    }
    network = TAAF(TAAFConfig(encoders, width=6, align=False), TASK)
    batches = [batch_of(event_samples())]
    counts = count(network, batches)
    kinds = {layer.name: layer.kind for layer in counts.layers}
    multiplied = [name for name, kind in kinds.items() if kind == "MAC" and "attention" not in name]
    assert len(multiplied) == 2 and {name.split(".")[1] for name in multiplied} == {"picture", "vector"}
    assert kinds["fusion.classifier"] == "AC" and counts.layers[-1].kind == "MAC"  # attention reads logits
    own = estimate(counts, Constants(), True)["total"]["energy_pj"]
    twin = estimate(count(network.twin(), batches), Constants(), True, spiking=False)["total"]["energy_pj"]
    assert 0 < own < twin
    aligned = TAAF(TAAFConfig(encoders, width=6), TASK)
    assert [name.split(".")[-1] for name in count(aligned, batches).uncounted] == ["alignment", "alignment"]
