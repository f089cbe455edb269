"""What TAAF-SNN promises beyond the equations: spikes, no leaking state, alignment, silence, streams, clear errors."""

from typing import Any

import pytest
import torch

from affuse.parts.spiking import Neuron
from affuse.systems.taaf import TAAF, Encoder, TAAFConfig
from affuse.systems.taaf.alignment import TimeAlignment, resample
from affuse.systems.taaf.branch import BranchState
from affuse.types import AffuseError, Batch, Sample, Task

TASK = Task("classification", ("a", "b", "c"))
ENCODERS = {
    "event": Encoder("conv", channels=2, size=(8, 8), layers=(4,)),
    "audio": Encoder("recurrent", features=5, layers=(6,)),
}
SHAPES = {"event": (4, 2, 8, 8), "audio": (4, 5)}


def system(**changes: Any) -> TAAF:
    torch.manual_seed(0)
    return TAAF(TAAFConfig(**{"encoders": ENCODERS, "width": 8, "neuron": Neuron(tau=0.9), **changes}), TASK).eval()


def samples(n: int = 6, shapes: dict[str, tuple[int, ...]] | None = None, scale: float = 3.0) -> list[Sample]:
    generator = torch.Generator().manual_seed(1)
    shapes = shapes or SHAPES
    return [
        Sample({m: scale * torch.rand(shape, generator=generator) for m, shape in shapes.items()}, target=row % 3)
        for row in range(n)
    ]


def batch(**settings: Any) -> Batch:
    return Batch.collate(samples(**settings))


def test_features_are_spikes_exactly_zero_or_one() -> None:
    taaf = system().train()  # normalised by the batch, so that no untrained layer is silent
    for name, branch in taaf.branches.items():
        features, _ = branch(batch().inputs[name])
        assert features.shape == (4, 6, 8)
        assert set(features.unique().tolist()) == {0.0, 1.0}


def test_nothing_passes_from_one_batch_to_the_next() -> None:
    taaf, first, other = system(), batch(), batch(scale=5.0)
    alone = taaf(first).logits
    taaf(other)
    assert torch.equal(taaf(first).logits, alone)
    assert not torch.equal(taaf(other).logits, alone)


def test_the_order_of_a_batch_does_not_matter() -> None:
    taaf, rows = system(), samples()
    forwards, backwards = taaf(Batch.collate(rows)), taaf(Batch.collate(rows[::-1]))
    assert torch.allclose(forwards.logits, backwards.logits.flip(0), atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("fusion", ["concat", "gated"])
def test_silence_and_an_empty_event_slice_give_finite_answers_losses_and_gradients(training: bool, fusion: str) -> None:
    taaf = system(fusion=fusion).train(training)
    silent = batch(scale=0.0)
    output = taaf(silent)
    loss = taaf.loss(output, silent)
    loss["total"].backward()
    assert output.answered.all()
    assert torch.isfinite(output.logits).all()
    assert all(torch.isfinite(term) for term in loss.values())
    assert all(torch.isfinite(p.grad).all() for p in taaf.parameters() if p.grad is not None)
    for weights in output.weights.values():
        assert torch.allclose(weights.sum(1), torch.ones(6), atol=1e-5)


def test_a_recording_without_a_step_is_absent() -> None:
    taaf, rows = system(), samples()
    empty = Sample({"event": torch.zeros(0, 2, 8, 8), "audio": rows[0].inputs["audio"]}, target=0)
    without = Sample({"audio": rows[0].inputs["audio"]}, target=0)
    for company in ([], rows[1:3]):
        given = taaf(Batch.collate([empty, *company], tuple(SHAPES)))
        lacking = taaf(Batch.collate([without, *company], tuple(SHAPES)))
        assert torch.allclose(given.logits, lacking.logits, atol=1e-6)
        assert given.weights["modality"][0].tolist() == [0.0, 1.0]


def test_alignment_starts_as_the_identity_on_spikes() -> None:
    torch.manual_seed(0)
    spikes = (torch.rand(9, 3, 4) < 0.3).float()
    for causal in (False, True):
        alignment = TimeAlignment(4, 5, causal, Neuron())
        aligned, _ = alignment(spikes)
        assert (aligned - spikes).abs().mean() < 0.02
        assert alignment.lag() == 0
        assert alignment.weights().sum().item() == pytest.approx(1.0, abs=1e-6)


def test_alignment_moves_spikes_by_its_offset_and_says_so() -> None:
    taaf = system(align_kernel=5)
    alignment = taaf.branches["audio"].alignment  # type: ignore[union-attr]
    with torch.no_grad():
        alignment.logits.copy_(torch.tensor([0.0, 0.0, 0.0, 0.0, 10.0]))  # two steps later becomes now
    spikes = torch.zeros(6, 1, 8)
    spikes[3] = 1
    aligned, _ = alignment(spikes)
    assert aligned[:, 0, 0].tolist() == [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    lags = taaf.lags()
    assert lags == {"event": 0.0, "audio": 2.0}


def test_the_lag_of_two_modalities_is_the_distance_of_their_kernels_however_they_spread() -> None:
    taaf = system(align_kernel=9)
    spread = torch.tensor([0.0, 1.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    with torch.no_grad():
        taaf._branch("event").alignment.logits.copy_(spread)
        taaf._branch("audio").alignment.logits.copy_(spread.roll(3))
    assert taaf.lag("event", "audio") == 3
    assert taaf.lag("audio", "event") == -3
    with pytest.raises(AffuseError, match="no time alignment of 'smell'"):
        taaf.lag("event", "smell")


def test_alignment_learns_a_known_lag() -> None:
    torch.manual_seed(0)
    early = (torch.rand(12, 32, 4) < 0.3).float()
    late = torch.cat([torch.zeros(2, 32, 4), early[:-2]])
    alignment = TimeAlignment(4, 7, False, Neuron())
    optimizer = torch.optim.Adam(alignment.parameters(), 1e-2)
    for _ in range(120):
        loss = (alignment(late)[0] - early).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert alignment.lag() == 2
    assert (alignment(late)[0][:-2] - early[:-2]).abs().mean() < 0.1


def test_a_causal_alignment_sees_no_later_step_and_a_centred_one_does() -> None:
    spikes = (torch.rand(6, 2, 4) < 0.5).float()
    other = spikes.clone()
    other[4:] = 1 - other[4:]
    for causal in (True, False):
        alignment = TimeAlignment(4, 3, causal, Neuron("relu"))
        same = torch.equal(alignment(spikes)[0][:4], alignment(other)[0][:4])
        assert same == causal


def test_resampling_keeps_what_does_not_change_and_is_the_identity_for_as_many_steps() -> None:
    steps = torch.rand(3, 2, 5)
    assert resample(steps, 3) is steps
    assert torch.allclose(resample(torch.full((4, 2, 5), 0.7), 3), torch.full((3, 2, 5), 0.7))
    ramp = torch.arange(4.0).view(4, 1, 1)
    assert torch.allclose(resample(ramp, 2).flatten(), torch.tensor([0.5, 2.5]))


def test_modalities_of_different_steps_are_resampled_and_refused_without() -> None:
    shapes = {"event": (4, 2, 8, 8), "audio": (3, 5)}
    assert system(steps=3)(batch(shapes=shapes)).weights["time"].shape == (6, 3)
    with pytest.raises(AffuseError, match="set steps"):
        system()(batch(shapes=shapes))


def test_a_still_picture_is_shown_at_every_step() -> None:
    shapes = {"event": (4, 2, 8, 8), "audio": (1, 5)}
    encoders = {**ENCODERS, "audio": Encoder("mlp", features=5, layers=(), encoding="direct", steps=4)}
    still = batch(shapes=shapes)
    repeated = Batch.collate(
        [Sample({**s.inputs, "audio": s.inputs["audio"].expand(4, 5)}) for s in samples(shapes=shapes)]
    )
    native = {**encoders, "audio": Encoder("mlp", features=5, layers=())}
    shown, given = system(encoders=encoders)(still), system(encoders=native)(repeated)
    assert torch.allclose(shown.logits, given.logits, atol=1e-5)


@pytest.mark.parametrize("encoding", ["rate", "latency"])
def test_spike_encodings_answer_the_same_each_time_they_are_asked(encoding: Any) -> None:
    encoders = {"audio": Encoder("mlp", features=5, layers=(), encoding=encoding, steps=4)}
    taaf, given = system(encoders=encoders), batch(shapes={"audio": (1, 5)}, scale=1.0)
    assert torch.equal(taaf(given).logits, taaf(given).logits)


@pytest.mark.parametrize("changes", [{"align": False}, {"align_causal": True, "align_kernel": 2}, {"fusion": "sum"}])
def test_a_stream_ends_as_the_whole_clip(changes: dict[str, Any]) -> None:
    taaf, whole = system(**{"align_causal": True, **changes}), batch()
    state = taaf.init_state(6)
    for t in range(4):
        output, state = taaf.step({name: value[:, t] for name, value in whole.inputs.items()}, state)
        assert output.weights["time"].shape == (6, t + 1)
    assert torch.allclose(output.logits, taaf(whole).logits, atol=1e-5)


def test_a_stream_without_a_sensor_ends_as_a_clip_without_it_and_a_window_forgets() -> None:
    taaf, whole = system(align=False), batch()
    state = taaf.init_state(6)
    output, state = taaf.step({}, state)
    assert not output.answered.any()
    state = taaf.init_state(6)
    for t in range(4):
        output, state = taaf.step({"audio": whole.inputs["audio"][:, t]}, state)
    assert torch.allclose(output.logits, taaf(whole.without("event")).logits, atol=1e-5)
    short = system(align=False, window=2)
    state = short.init_state(6)
    for t in range(4):
        output, state = short.step({"audio": whole.inputs["audio"][:, t]}, state)
    assert output.weights["time"].shape == (6, 2)


def test_time_passes_for_a_sensor_that_is_silent_for_a_while() -> None:
    taaf = system(align_kernel=2, align_causal=True)
    alignment = taaf.branches["event"].alignment  # type: ignore[union-attr]
    with torch.no_grad():
        alignment.logits.copy_(torch.tensor([10.0, 0.0]))  # all that was one step before becomes now
    branch = taaf.branches["event"]
    spikes, state = torch.zeros(1, 1, 8), BranchState()
    aligned, held = alignment(spikes + 1, state.alignment)  # type: ignore[operator]
    assert not aligned.any()
    first, state = branch.silent(1, 1, BranchState(None, held))  # type: ignore[operator]
    second, state = branch.silent(1, 1, state)  # type: ignore[operator]
    assert first.all() and not second.any()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"align_causal": True, "steps": 4},
        {
            "align": False,
            "encoders": {**ENCODERS, "audio": Encoder("mlp", features=5, encoding="direct", steps=4)},
        },
    ],
)
def test_what_looks_ahead_does_not_stream(changes: dict[str, Any]) -> None:
    with pytest.raises(AffuseError, match="windows of a clip"):
        system(**changes).init_state(1)


def test_the_twin_has_the_same_layers_and_no_spikes() -> None:
    taaf = system()
    twin = taaf.twin()
    assert twin.config.neuron == Neuron("relu")
    assert {n: p.shape for n, p in twin.named_parameters()} == {n: p.shape for n, p in taaf.named_parameters()}
    features, _ = twin.eval().branches["audio"](batch().inputs["audio"])
    assert not set(features.unique().tolist()) <= {0.0, 1.0}


def test_modality_weights_are_the_scores_of_the_answered_class_in_proportion() -> None:
    output = system()(batch())
    chosen = output.logits.argmax(1, keepdim=True)
    scores = torch.cat([output.unimodal[name].softmax(1).gather(1, chosen) for name in SHAPES], 1)
    assert torch.allclose(output.weights["modality"], scores / scores.sum(1, keepdim=True), atol=1e-6)


def test_three_modalities_and_one_are_configurations() -> None:
    vectors = {name: Encoder("mlp", features=5, layers=(4,)) for name in ("x", "y", "z")}
    for names in (("x",), ("x", "y", "z")):
        taaf = system(encoders={name: vectors[name] for name in names})
        given = batch(shapes=dict.fromkeys(names, (4, 5)))
        loss = taaf.loss(taaf(given), given)
        assert {key for key in loss if key.startswith("k/")} == {f"k/{name}" for name in names}
        assert torch.isfinite(loss["total"])
        assert set(taaf.modality_parts()) == set(names)


def test_a_spiking_resnet_is_a_branch() -> None:
    encoders = {"visual": Encoder("resnet18", channels=3, layers=(4,), encoding="direct", steps=2)}
    taaf = system(encoders=encoders)
    output = taaf(batch(n=2, shapes={"visual": (1, 3, 32, 32)}))
    assert output.weights["time"].shape == (2, 2)


def test_it_learns_a_small_task() -> None:
    torch.manual_seed(0)
    encoders = {name: Encoder("mlp", features=6, layers=(16,)) for name in ("x", "y")}
    taaf = TAAF(TAAFConfig(encoders=encoders, width=16), TASK)
    target = torch.arange(48) % 3
    values = torch.randn(48, 4, 6) + 3 * torch.nn.functional.one_hot(target, 6)[:, None]
    given = Batch.collate(
        [Sample({"x": v, "y": v.flip(1)}, target=int(c)) for v, c in zip(values, target, strict=True)]
    )
    optimizer = torch.optim.Adam(taaf.parameters(), 1e-2)
    for _ in range(25):
        loss = taaf.loss(taaf(given), given)["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (taaf.eval()(given).logits.argmax(1) == target).float().mean() > 0.9


def test_a_regression_is_one_clear_error() -> None:
    with pytest.raises(AffuseError, match="classifications only"):
        TAAF(TAAFConfig(), Task("regression"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"encoders": {}}, "at least one modality"),
        ({"encoders": {"fused": Encoder()}}, "none of fused"),
        ({"suppressions": {"smell": 1.0}}, "smell"),
        ({"encoders": {"x": Encoder()}, "fusion": "film"}, "use concat"),
        ({"align_kernel": 4}, "odd"),
        ({"align": False, "steps": 3}, "set align"),
        ({"lambda_mse": 1.5}, "lambda_mse"),
        ({"window": 0}, "window"),
        ({"modulation_end": -1}, "modulation_end"),
        ({"beta": -1.0}, "not negative"),
    ],
)
def test_impossible_settings_are_one_clear_error(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(AffuseError, match=says):
        system(**changes)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"steps": 3}, "take direct"),
        ({"features": 0}, "at least 1"),
        ({"kind": "resnet18", "layers": (4, 8)}, "first stage"),
    ],
)
def test_impossible_encoders_are_one_clear_error(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(AffuseError, match=says):
        Encoder(**settings)


def test_inputs_of_another_shape_are_one_clear_error() -> None:
    with pytest.raises(AffuseError, match="modality 'audio'"):
        system()(batch(shapes={**SHAPES, "audio": (4, 6)}))
    rows = samples()
    uneven = [Sample({name: value[: 4 - row] for name, value in rows[row].inputs.items()}) for row in range(2)]
    with pytest.raises(AffuseError, match="3 to 4 time steps"):
        system()(Batch.collate(uneven))
