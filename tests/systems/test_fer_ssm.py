"""FER-SSM: what it promises beyond the contract of all systems (its table and equations: tests/fidelity)."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from affuse.explain import grad_cam
from affuse.parts.action_units import NAMES, average_face
from affuse.parts.class_balance import ClassBalance
from affuse.systems.fer_ssm import FERSSM, FERSSMConfig
from affuse.types import AffuseError, Batch, Output, Sample, Task

TASK = Task("classification", ("a", "b", "c"))
TINY: dict[str, Any] = {
    "encoder": "small",
    "d_model": 16,
    "d_state": 4,
    "heads": 2,
    "classifier": (12,),
    "dropout": 0.0,
    "block_dropout": 0.0,
}
CAUSAL: dict[str, Any] = {"causal": True, "attention_window": 3}


def made(task: Task = TASK, seed: int = 0, **changes: Any) -> FERSSM:
    torch.manual_seed(seed)
    return FERSSM(FERSSMConfig(**{**TINY, **changes}), task)


def points(frames: int, smile: float = 0.0) -> Tensor:
    """Landmarks of a schematic face in its crop; a smile lifts the corners of the mouth and parts them."""
    face = average_face()
    face[[48, 60]] += smile * torch.tensor([-0.1, -0.2])
    face[[54, 64]] += smile * torch.tensor([0.1, -0.2])
    return ((face - torch.tensor([0.0, 0.5])) * 0.6).expand(frames, -1, -1).clone()


def sample(seed: int, frames: int = 5, landmarks: bool = True, lost: tuple[int, ...] = ()) -> Sample:
    face = torch.randn(frames, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    face[list(lost)] = torch.nan
    inputs = {"face": face, "landmarks": points(frames)} if landmarks else {"face": face}
    return Sample(inputs, target=seed % 3)


def batch_of(*samples: Sample) -> Batch:
    return Batch.collate(samples, ("face", "landmarks"))


def step_through(model: FERSSM, batch: Batch) -> list[Output]:
    state, outputs = model.init_state(batch.size), []
    for t in range(batch.inputs["face"].shape[1]):
        output, state = model.step({name: value[:, t] for name, value in batch.inputs.items()}, state)
        outputs.append(output)
    return outputs


@pytest.mark.parametrize("causal", [False, True])
def test_what_stands_in_a_lost_frame_has_exactly_no_influence_and_trains_no_one(causal: bool) -> None:
    found = []
    for value in (torch.nan, 3.0):
        one = sample(1, lost=(0, 2))
        one.inputs["face"][[0, 2]] = value
        one.inputs["face"][[0, 2], 0, 3, 3] = torch.nan  # a frame that is partly NaN is lost as a whole
        one.inputs["landmarks"][[0, 2]] = torch.randn(2, 68, 2) if value == 3.0 else torch.nan
        model, batch = made(**(CAUSAL if causal else {}), au_reweight="pooling"), batch_of(one, sample(2))
        output = model.train()(batch)
        model.loss(output, batch)["total"].backward()
        found.append((output, {name: p.grad for name, p in model.named_parameters()}, model.state_dict()))
    (first, ours, statistics), (second, theirs, others) = found
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.weights["time"], second.weights["time"])
    assert first.weights["time"][0, [0, 2]].tolist() == [0.0, 0.0]
    for name, gradient in ours.items():
        assert gradient is not None and torch.isfinite(gradient).all() and torch.equal(gradient, theirs[name]), name
    assert all(torch.equal(value, others[name]) for name, value in statistics.items())  # batch normalisation's too


@torch.no_grad()
def test_the_backbone_sees_the_frames_in_which_there_is_a_face_alone() -> None:
    model, seen = made().eval(), []
    model.encoder.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].flatten(0, 1).shape[0]))
    model(batch_of(sample(1, lost=(0, 3)), sample(2, frames=4), sample(3, lost=(0, 1, 2, 3, 4))))
    assert seen == [3 + 4]


@torch.no_grad()
@pytest.mark.parametrize("causal", [False, True])
def test_a_clip_is_answered_alone_as_beside_a_longer_one(causal: bool) -> None:
    model = made(**(CAUSAL if causal else {})).eval()
    together = model(batch_of(sample(1, frames=3), sample(2, frames=7)))
    alone = model(batch_of(sample(1, frames=3)))
    torch.testing.assert_close(together.logits[0], alone.logits[0], atol=1e-5, rtol=1e-4)
    assert together.weights["time"][0, 3:].tolist() == [0.0] * 4
    torch.testing.assert_close(together.weights["time"].sum(1), torch.ones(2))


@torch.no_grad()
def test_a_clip_without_a_face_is_not_answered_and_disturbs_no_other() -> None:
    model = made().eval()
    output = model(batch_of(sample(1), sample(2, lost=(0, 1, 2, 3, 4))))
    assert output.answered.tolist() == [True, False]
    assert output.logits[1].isnan().all() and not output.weights["time"][1].any()
    torch.testing.assert_close(output.logits[0], model(batch_of(sample(1))).logits[0], atol=1e-5, rtol=1e-4)
    nobody = model(batch_of(sample(2, lost=(0, 1, 2, 3, 4))))
    assert not nobody.answered.any() and nobody.logits.isnan().all()
    only_landmarks = model(Batch.collate([Sample({"landmarks": points(5)})], ("face", "landmarks")))
    assert not only_landmarks.answered.any()


def test_a_batch_without_a_single_face_teaches_nothing() -> None:
    model, batch = made(), batch_of(sample(2, lost=(0, 1, 2, 3, 4)))
    total = model.loss(model(batch), batch)["total"]
    total.backward()
    assert float(total.detach()) == 0.0


@torch.no_grad()
def test_padding_says_nothing_on_the_way() -> None:
    model = made(**CAUSAL, steps_weight=1.0).eval()
    short, long = sample(1, frames=3), dataclasses.replace(sample(2, frames=7), target=None)
    alone, beside = batch_of(short), batch_of(short, long)
    steps = model(beside).aux["steps"][0]
    assert torch.isfinite(steps[:3]).all() and steps[3:].isnan().all()
    torch.testing.assert_close(model.loss(model(alone), alone), model.loss(model(beside), beside))


def test_landmarks_of_a_row_without_a_face_have_no_influence() -> None:
    model, one = made().eval(), sample(1, frames=4)
    other = Sample({"landmarks": points(8)}, target=0)
    torch.testing.assert_close(model(batch_of(one, other)).logits[0], model(batch_of(one)).logits[0])


def test_without_landmarks_the_mask_is_neutral_and_with_them_it_is_not() -> None:
    model, plain = made().eval(), made(modalities=("face",)).eval()
    bare = Batch.collate([sample(1, landmarks=False)], ("face",))
    expected = plain(bare).logits
    assert torch.equal(model(batch_of(sample(1, landmarks=False))).logits, expected)
    unknown = sample(1)
    unknown.inputs["landmarks"][:] = torch.nan
    assert torch.equal(model(batch_of(unknown)).logits, expected)
    with_them = model(batch_of(sample(1)))
    assert not torch.allclose(with_them.logits, expected, atol=1e-5)
    off = made(landmark_mask=False, landmark_attention=False).eval()
    assert torch.equal(off(batch_of(sample(1))).logits, off(batch_of(unknown)).logits)


@torch.no_grad()
def test_landmarks_of_some_rows_and_frames_change_those_alone() -> None:
    model = made().eval()
    some = sample(1)
    some.inputs["landmarks"][2:] = torch.nan
    # The longest faces have no landmarks, so that theirs are shorter than the batch.
    output = model(batch_of(some, sample(2, frames=8, landmarks=False)))
    assert torch.isfinite(output.logits).all()
    units = output.aux["action_units"]
    assert units.shape == (2, 8, len(NAMES))
    assert torch.isfinite(units[0, :2]).all() and units[0, 2:].isnan().all() and units[1].isnan().all()
    alone = model(batch_of(sample(2, frames=8, landmarks=False)))
    torch.testing.assert_close(output.logits[1], alone.logits[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_evidence_has_a_map_for_each_frame_and_zero_where_there_is_no_face() -> None:
    output = made().eval()(batch_of(sample(1, lost=(1,)), sample(2)))
    regions, attention = output.aux["regions"], output.aux["attention/face"]
    assert regions.shape == (2, 5, 8, 2, 2) and attention.shape == (2, 5, 2, 2)
    assert not regions[0, 1].any() and not attention[0, 1].any()
    assert (attention[0, 0] > 0).all() and regions[0, 0].any()
    assert output.aux["features"].shape == (2, 16)


@torch.no_grad()
def test_frames_weigh_alike_or_as_their_action_units_show_and_features_stay() -> None:
    one = sample(1, lost=(4,))
    one.inputs["landmarks"][1] = points(1, smile=1.0)[0]
    one.inputs["landmarks"][3] = torch.nan
    plain, weighed = (made(au_reweight=how).eval()(batch_of(one)) for how in ("none", "pooling"))
    torch.testing.assert_close(plain.weights["time"][0], torch.tensor([0.25, 0.25, 0.25, 0.25, 0.0]))
    share = weighed.weights["time"][0]
    assert share[1] > 1.5 * share[0] and share[4] == 0
    torch.testing.assert_close(share[3], share[0])  # unknown counts as at rest
    torch.testing.assert_close(share.sum(), torch.tensor(1.0))
    assert torch.equal(plain.aux["action_units"][0, :3], weighed.aux["action_units"][0, :3])
    assert not torch.allclose(plain.logits, weighed.logits)
    assert torch.equal(plain.aux["regions"], weighed.aux["regions"])


@given(
    st.integers(0, 1000),
    st.sampled_from([1, 2, 9]),
    st.sampled_from([None, 1.0, 2.5]),
    st.sampled_from(["none", "pooling"]),
    st.booleans(),
)
@settings(max_examples=8)
@torch.no_grad()
def test_forward_is_a_fold_of_step_also_over_frames_without_a_face(
    seed: int, window: int, memory: float | None, reweight: str, attention: bool
) -> None:
    changes = {"attention_window": window, "memory": memory, "au_reweight": reweight, "attention": attention}
    model = made(seed=seed, causal=True, **changes).eval()
    generator = torch.Generator().manual_seed(seed)
    face, marks = torch.randn(3, 6, 3, 16, 16, generator=generator), points(6).expand(3, -1, -1, -1).clone()
    marks[:, :, 48:] += 0.05 * torch.randn(3, 6, 20, 2, generator=generator)
    face[torch.rand(3, 6, generator=generator) < 0.4] = torch.nan
    marks[torch.rand(3, 6, generator=generator) < 0.4] = torch.nan
    batch = Batch({"face": face, "landmarks": marks}, torch.ones(3, 2, dtype=torch.bool))
    whole, steps = model(batch), step_through(model, batch)
    if whole.answered.any():
        torch.testing.assert_close(
            torch.stack([output.logits for output in steps], 1),
            whole.aux["steps"],
            atol=1e-5,
            rtol=1e-4,
            equal_nan=True,
        )
    torch.testing.assert_close(steps[-1].logits, whole.logits, atol=1e-5, rtol=1e-4, equal_nan=True)
    assert torch.equal(steps[-1].answered, whole.answered)
    torch.testing.assert_close(steps[-1].weights["time"][:, 0], whole.weights["time"][:, -1])


@torch.no_grad()
def test_a_causal_answer_depends_on_no_later_frame_and_that_of_the_paper_does() -> None:
    one = sample(1, frames=6)
    other = Sample({name: value.clone() for name, value in one.inputs.items()}, one.target)
    other.inputs["face"][4] += 1.0
    causal = made(**CAUSAL).eval()
    before, after = causal(batch_of(one)).aux["steps"][0], causal(batch_of(other)).aux["steps"][0]
    assert torch.equal(before[:4], after[:4])
    assert not torch.allclose(before[4:], after[4:])
    paper = made().eval()
    x, valid = torch.randn(1, 6, 16), torch.ones(1, 6, dtype=torch.bool)
    ahead = x.clone()
    ahead[:, 5] += 1.0
    assert paper.temporal.attention is not None
    assert not torch.allclose(paper.temporal.attention(x, valid)[:, 0], paper.temporal.attention(ahead, valid)[:, 0])
    assert "steps" not in paper(batch_of(one)).aux


@torch.no_grad()
def test_a_step_costs_the_same_and_keeps_as_much_however_many_came_before() -> None:
    model = made(**CAUSAL).eval()
    state, costs, sizes = model.init_state(1), [], []
    for _ in range(6):
        counter = FlopCounterMode(display=False)
        with counter:
            _, state = model.step({"face": torch.randn(1, 3, 16, 16), "landmarks": points(1)}, state)
        costs.append(counter.get_total_flops())
        held = [*(x for block in state.blocks for x in block), *state.attention, *state.pool]
        sizes.append([tuple(tensor.shape) for tensor in held])
    assert len(set(costs)) == 1 and costs[0] > 0
    assert all(size == sizes[0] for size in sizes)


@torch.no_grad()
def test_a_stream_answers_from_the_first_face_on_and_keeps_its_answer_while_there_is_none() -> None:
    model = made(**CAUSAL).eval()
    face = torch.randn(1, 3, 16, 16)
    state = model.init_state(1)
    nothing, state = model.step({"face": torch.full_like(face, torch.nan)}, state)
    assert not nothing.answered.any() and nothing.logits.isnan().all()
    first, state = model.step({"face": face}, state)
    assert first.answered.all() and first.weights["time"].tolist() == [[1.0]]
    lost, state = model.step({}, state)
    assert torch.equal(lost.logits, first.logits) and lost.weights["time"].tolist() == [[0.0]]
    fresh, _ = model.step({"face": face}, model.init_state(1))
    assert torch.equal(first.logits, fresh.logits)


def test_a_system_that_looks_ahead_does_not_step() -> None:
    with pytest.raises(AffuseError, match="windows of a clip"):
        made().init_state(1)


@torch.no_grad()
def test_a_memory_of_one_frame_answers_by_the_last_one() -> None:
    model = made(**CAUSAL, memory=1.0).eval()
    share = model(batch_of(sample(1, lost=(4,)), sample(2))).weights["time"]
    assert share.tolist() == [[0.0, 0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]]


def test_grad_cam_sees_the_refined_maps_also_where_frames_are_lost() -> None:
    for changes in ({}, CAUSAL):
        model = made(**changes)
        heat = grad_cam(model, batch_of(sample(1, lost=(1,)), sample(2), sample(3, lost=(0, 1, 2, 3, 4))), "face")
        assert heat.shape == (3, 5, 16, 16)
        assert not heat[0, 1].any() and not heat[2].any()
        assert heat[:2].amax((1, 2, 3)).tolist() == pytest.approx([1.0, 1.0])
    assert not grad_cam(made(), batch_of(sample(1, lost=(0, 1, 2, 3, 4))), "face").any()
    with pytest.raises(AffuseError, match="'landmarks'"):
        made().spatial_layer("landmarks")


def test_counts_of_the_classes_weigh_the_loss_and_travel_with_the_weights() -> None:
    batch = batch_of(*(sample(seed) for seed in range(3)))
    model = made().eval()
    output = model(batch)
    before = float(model.loss(output, batch)["total"].detach())
    model.know_classes(torch.tensor([1000, 1000, 3]))
    after = float(model.loss(output, batch)["total"].detach())
    assert before != pytest.approx(after)
    again = made(seed=5)
    again.load_state_dict(model.state_dict())
    assert again.class_counts.tolist() == [1000, 1000, 3]
    assert float(again.eval().loss(again(batch), batch)["total"].detach()) == pytest.approx(after, rel=1e-4)


def test_with_plain_settings_the_loss_is_cross_entropy_and_answers_on_the_way_may_join_it() -> None:
    batch = batch_of(sample(1, lost=(0,)), sample(2))
    plain = made(loss=ClassBalance(), **CAUSAL).eval()
    output = plain(batch)
    assert batch.target is not None
    expected = torch.nn.functional.cross_entropy(output.logits, batch.target)
    torch.testing.assert_close(plain.loss(output, batch)["total"], expected)
    on_the_way = made(loss=ClassBalance(), steps_weight=0.5, **CAUSAL).eval()
    terms = on_the_way.loss(output, batch)
    said = output.aux["steps"].flatten(0, 1)[1:]  # all but the frame without a face
    steps = torch.nn.functional.cross_entropy(said, batch.target.repeat_interleave(5)[1:])
    torch.testing.assert_close(terms["steps"], steps)
    torch.testing.assert_close(terms["total"], expected + 0.5 * steps)


def test_a_regression_has_values_and_a_squared_error() -> None:
    model = made(Task("regression", value_range=(-1.0, 1.0), units="valence")).eval()
    batch = dataclasses.replace(batch_of(sample(1), sample(2)), target=torch.tensor([0.5, -0.5]))
    output = model(batch)
    expected = (output.value - torch.tensor([0.5, -0.5])).square().mean()
    torch.testing.assert_close(model.loss(output, batch)["total"], expected)


def test_it_learns_what_only_the_order_of_frames_tells() -> None:
    generator = torch.Generator().manual_seed(0)

    def clip(kind: int) -> Sample:
        face = 0.3 * torch.randn(6, 3, 16, 16, generator=generator)
        face[:, :, 8:] += torch.linspace(-1, 1, 6)[:, None, None, None] * (1, -1, 0)[kind]
        return Sample({"face": face}, target=kind)

    held = Batch.collate([clip(i % 3) for i in range(24)], ("face",))
    model = made(modalities=("face",)).train()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(35):
        train = Batch.collate([clip(i % 3) for i in range(12)], ("face",))
        optimizer.zero_grad()
        model.loss(model(train), train)["total"].backward()
        optimizer.step()
    assert held.target is not None
    with torch.no_grad():
        said = model.eval()(held).logits.argmax(1)
    assert (said == held.target).float().mean() > 0.85


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"modalities": ("face", "audio")}, "modalities are face"),
        ({"heads": 3}, "heads must divide"),
        ({"memory": 4.0}, "set causal"),
        ({"steps_weight": 1.0}, "set causal"),
        ({"causal": True, "memory": 0.5}, "at least 1"),
        ({"regions": 5}, "eight regions"),
        ({"modalities": ("face",), "au_reweight": "pooling"}, "reads landmarks"),
        ({"d_state": 0}, "d_state"),
        ({"blocks": -1}, "blocks"),
        ({"dropout": 1.0}, "dropout"),
        ({"classifier": (0,)}, "classifier"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(AffuseError, match=said) as error:
        FERSSMConfig(**{**TINY, **changes})
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"face": torch.randn(2, 5, 1, 16, 16)}, "expected float frames"),
        ({"face": torch.zeros(2, 5, 3, 16, 16, dtype=torch.uint8)}, "expected float frames"),
        ({"face": torch.randn(2, 5, 3, 16, 16), "landmarks": torch.zeros(2, 5, 5, 2)}, "the points of each frame"),
        ({"face": torch.randn(2, 5, 3, 16, 16), "landmarks": torch.zeros(2, 6, 68, 2)}, "the points of each frame"),
    ],
)
def test_inputs_of_another_shape_are_named(inputs: dict[str, Tensor], said: str) -> None:
    batch = Batch(inputs, torch.ones(2, len(inputs), dtype=torch.bool))
    with pytest.raises(AffuseError, match=said):
        made()(batch)


def test_a_backbone_with_weights_of_its_own_is_a_pretrained_part(tmp_path: Path) -> None:
    model = made()
    assert list(model.pretrained_parts()) == []
    save_file(model.encoder.net.state_dict(), tmp_path / "backbone.safetensors")
    other = made(seed=1, encoder_weights=str(tmp_path / "backbone.safetensors"))
    assert list(other.pretrained_parts()) == [other.encoder]
    ours, theirs = other.encoder.state_dict(), model.encoder.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_it_trains_in_half_precision() -> None:
    model, batch = made(**CAUSAL, steps_weight=0.5).train(), batch_of(sample(1, lost=(1,)), sample(2, landmarks=False))
    with torch.autocast("cpu", torch.bfloat16):
        total = model.loss(model(batch), batch)["total"]
    total.backward()
    assert torch.isfinite(total.detach())
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
