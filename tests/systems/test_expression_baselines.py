"""The baselines of dynamic expressions: each by what its paper says it is; lost frames; Grad-CAM; and each learns."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from affuse.explain import grad_cam
from affuse.parts.class_balance import ClassBalance, balanced_loss
from affuse.systems.baselines.expressions.face_baseline import ExpressionBaseline
from affuse.systems.baselines.expressions.former_dfer import FormerDFER, FormerDFERConfig
from affuse.systems.baselines.expressions.r2plus1d_18 import R2Plus1D18, R2Plus1D18Config
from affuse.systems.baselines.expressions.r3d_18 import R3D18, R3D18Config
from affuse.systems.baselines.expressions.resnet18_recurrent import ResNet18GRU, ResNet18LSTM, states_at_valid
from affuse.systems.baselines.expressions.video_resnet import (
    WIDTHS,
    VideoResNet,
    frames_at_steps,
    shares_of_slices,
)
from affuse.types import AffuseError, Batch, Sample, Task

EXPRESSIONS = Task("classification", ("happy", "sad", "neutral"))
SMALL: dict[type[ExpressionBaseline], dict[str, Any]] = {
    R2Plus1D18: {"widths": (6, 8, 10, 12), "frames": 4},
    R3D18: {"widths": (6, 8, 10, 12), "frames": 4},
    ResNet18LSTM: {"encoder": "small", "hidden": 12, "dropout": 0.0},
    ResNet18GRU: {"encoder": "small", "hidden": 12, "dropout": 0.0},
    FormerDFER: {
        "widths": (6, 8, 12, 16),
        "frames": 6,
        "grid": 2,
        "spatial_heads": 2,
        "spatial_hidden": 12,
        "temporal_heads": 2,
        "temporal_hidden": 12,
    },
}
EVERY = pytest.mark.parametrize("cls", SMALL, ids=lambda cls: cls.__name__)
OVER_TIME = pytest.mark.parametrize("cls", [R2Plus1D18, R3D18], ids=lambda cls: cls.__name__)
RECURRENT = pytest.mark.parametrize("cls", [ResNet18LSTM, ResNet18GRU], ids=lambda cls: cls.__name__)


def made(cls: type[ExpressionBaseline], task: Task = EXPRESSIONS, **changes: Any) -> ExpressionBaseline:
    torch.manual_seed(0)
    return cls(cls.Config(**{**SMALL[cls], **changes}), task)  # type: ignore[call-arg]


def clip(steps: int, lost: tuple[int, ...] = (), seed: int = 0) -> Tensor:
    frames = torch.randn(steps, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    frames[list(lost)] = torch.nan
    return frames


def answers(system: ExpressionBaseline, *clips: Tensor) -> Tensor:
    return system.eval()(Batch.collate([Sample({"face": frames}) for frames in clips])).logits


@pytest.mark.parametrize("name", ["r3d_18", "r2plus1d_18"])
def test_with_the_published_widths_it_is_torchvision_s_network(name: str) -> None:
    from torchvision.models import video

    theirs = getattr(video, name)(weights=None)
    theirs.fc = nn.Identity()
    factorised = name == "r2plus1d_18"
    with torch.device("meta"):
        ours = VideoResNet(WIDTHS, factorised, "2plus1" if factorised else "plain")
    ours.load_state_dict(theirs.state_dict(), assign=True)
    x = torch.randn(1, 3, 4, 24, 24)
    assert torch.allclose(ours.eval()(x).mean((2, 3, 4)), theirs.eval()(x), atol=1e-5)


@pytest.mark.parametrize(
    ("cls", "published"), [(R3D18, 8.32), (ResNet18LSTM, 7.78), (ResNet18GRU, 7.78), (R2Plus1D18, 42.36)]
)
def test_multiply_adds_of_16_frames_of_112_are_about_those_published(
    cls: type[ExpressionBaseline], published: float
) -> None:
    with torch.device("meta"):
        system = cls(cls.Config(), EXPRESSIONS).eval()  # type: ignore[call-arg]
        frames = torch.empty(1, 16, 3, 112, 112)
    with FlopCounterMode(display=False) as counter:
        if isinstance(system, ResNet18LSTM | ResNet18GRU):
            system.recurrent(system.encoder(frames).mean((3, 4)))
        else:
            system.body(frames.transpose(1, 2))  # type: ignore[operator]
    assert counter.get_total_flops() / 2e9 == pytest.approx(published, rel=0.05)


def test_former_dfer_has_the_published_18_million_parameters() -> None:
    with torch.device("meta"):
        system = FormerDFER(FormerDFERConfig(), EXPRESSIONS)
    assert sum(p.numel() for p in system.parameters()) / 1e6 == pytest.approx(18, abs=0.3)


@EVERY
def test_a_lost_frame_has_no_influence_whatever_else_it_holds(cls: type[ExpressionBaseline]) -> None:
    first, second = clip(4, lost=(2,)), clip(4)
    second[2, 0, 5, 5] = torch.nan
    system = made(cls)
    assert torch.isfinite(answers(system, first)).all()
    assert torch.equal(answers(system, first, clip(4, seed=1)), answers(system, second, clip(4, seed=1)))


@EVERY
def test_a_clip_answers_alone_as_beside_longer_ones_and_ones_without_a_face(cls: type[ExpressionBaseline]) -> None:
    clips, system = [clip(4, lost=(0, 1, 2, 3)), clip(4, lost=(1,)), clip(3, lost=(2,))], made(cls)
    found = answers(system, *clips)
    assert found.isnan().all(1).tolist() == [True, False, False]
    for row, frames in enumerate(clips):
        assert torch.allclose(found[row], answers(system, frames)[0], atol=1e-5, equal_nan=True)


@RECURRENT
@pytest.mark.parametrize("readout", ["last", "mean"])
def test_a_recurrent_network_reads_a_clip_as_if_lost_frames_were_not_in_it(
    cls: type[ExpressionBaseline], readout: str
) -> None:
    whole, system = clip(5, lost=(0, 3)), made(cls, readout=readout)
    assert torch.allclose(answers(system, whole), answers(system, whole[[1, 2, 4]]), atol=1e-6)


@OVER_TIME
def test_a_network_over_time_sees_the_nearest_face_in_place_of_a_lost_frame(cls: type[ExpressionBaseline]) -> None:
    whole, system = clip(4, lost=(0, 3)), made(cls)
    assert torch.allclose(answers(system, whole), answers(system, whole[[1, 1, 2, 2]]), atol=1e-6)


@settings(max_examples=50)
@given(st.lists(st.booleans(), min_size=1, max_size=9).filter(any), st.integers(0, 3), st.integers(1, 12))
def test_each_step_takes_the_nearest_valid_frame_of_its_place(valid: list[bool], padding: int, steps: int) -> None:
    n = len(valid)
    own = torch.tensor([[True] * n + [False] * padding])
    found = frames_at_steps(torch.tensor([valid + [False] * padding]), own, steps)[0].tolist()
    for step, frame in enumerate(found):
        place = int((step + 0.5) * n / steps)
        assert frame == min((t for t in range(n) if valid[t]), key=lambda t: (abs(t - place), t))
    if steps == n and all(valid):
        assert found == list(range(n))


@settings(max_examples=50)
@given(st.integers(1, 9), st.integers(0, 3), st.integers(1, 5))
def test_frames_share_the_slices_of_their_clip_so_that_means_agree(n: int, padding: int, slices: int) -> None:
    own = torch.tensor([[True] * n + [False] * padding])
    shares = shares_of_slices(own, slices)[0]
    held = torch.randn(slices, 2)
    assert torch.allclose(shares.sum(1), own[0].float())
    assert torch.allclose((shares @ held).sum(0) / n, held.mean(0), atol=1e-5)


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_states_are_those_of_a_loop_over_the_valid_steps_of_each_row(cell: type[nn.LSTM | nn.GRU]) -> None:
    torch.manual_seed(0)
    recurrent, values = cell(3, 4, batch_first=True), torch.randn(3, 5, 3)
    valid = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]], dtype=torch.bool)
    states = states_at_valid(recurrent, values, valid)
    for row in range(3):
        assert torch.allclose(states[row, valid[row]], recurrent(values[row : row + 1, valid[row]])[0][0], atol=1e-6)
    assert (states[~valid] == 0).all()


@EVERY
def test_grad_cam_shows_every_frame_that_was_read_and_no_lost_one(cls: type[ExpressionBaseline]) -> None:
    clips = [clip(4, lost=(1,)), clip(4, lost=(0, 1, 2, 3)), clip(3, seed=2)]
    batch = Batch.collate([Sample({"face": frames}) for frames in clips])
    system = made(cls)
    heat = grad_cam(system, batch, "face", target=0)
    assert heat.shape == (3, 4, 32, 32)
    assert (heat[1] == 0).all() and (heat[2, 3] == 0).all()
    assert heat.amax((1, 2, 3))[[0, 2]].tolist() == pytest.approx([1.0, 1.0])
    if cls not in (R2Plus1D18, R3D18):  # there a lost frame lies in a part of the clip that is read
        assert (heat[0, 1] == 0).all()
    with pytest.raises(AffuseError, match="sonar"):
        system.spatial_layer("sonar")


@pytest.mark.parametrize(("cls", "changes"), [(ResNet18GRU, {"readout": "mean"}), (FormerDFER, {})])
def test_weights_over_time_are_shared_among_the_frames_with_a_face(
    cls: type[ExpressionBaseline], changes: dict[str, Any]
) -> None:
    batch = Batch.collate([Sample({"face": clip(4, lost=(1,))}), Sample({"face": clip(4, lost=(0, 1, 2, 3))})])
    weights = made(cls, **changes).eval()(batch).weights["time"]
    assert weights.sum(1).tolist() == pytest.approx([1.0, 0.0])
    assert weights[0, 1] == 0 and (weights[0, [0, 2, 3]] > 0).all()


@EVERY
def test_the_loss_is_the_balanced_one_with_the_counts_it_was_told(cls: type[ExpressionBaseline]) -> None:
    settings_ = ClassBalance(loss="focal", weights="inverse")
    system = made(cls, loss=settings_).eval()
    counts = torch.tensor([90, 9, 1])
    system.know_classes(counts)
    batch = Batch.collate([Sample({"face": clip(4, seed=k)}, k) for k in range(3)])
    output = system(batch)
    expected = balanced_loss(output.logits, torch.arange(3), counts, settings_)
    assert torch.equal(system.loss(output, batch)["total"], expected)
    assert torch.equal(system.state_dict()["class_counts"], counts)


@EVERY
def test_rows_without_a_target_are_not_learned_from(cls: type[ExpressionBaseline]) -> None:
    system = made(cls).eval()
    batch = Batch.collate([Sample({"face": clip(4, seed=k)}, k % 3) for k in range(3)])
    assert batch.target is not None
    first = Batch.collate([Sample({"face": clip(4)}, 0)])
    half = replace(batch, target=torch.tensor([0, -1, -1]))
    expected = system.loss(system(first), first)["total"]
    assert torch.allclose(system.loss(system(half), half)["total"], expected, atol=1e-5)
    with pytest.raises(AffuseError, match="no targets"):
        system.loss(system(first), replace(first, target=None))


@EVERY
def test_a_single_clip_in_training_leaves_running_statistics_alone(cls: type[ExpressionBaseline]) -> None:
    system = made(cls).train()
    before = {key: value.clone() for key, value in system.named_buffers()}
    lost = Sample({"face": clip(4, lost=(0, 1, 2, 3))})
    system(Batch.collate([Sample({"face": clip(4)}), lost]))
    assert all(torch.equal(before[key], value) for key, value in system.named_buffers())
    assert all(module.training for module in system.modules())
    system(Batch.collate([Sample({"face": clip(4)}), Sample({"face": clip(4, seed=1)})]))
    assert not all(torch.equal(before[key], value) for key, value in system.named_buffers())


@EVERY
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_it_learns_six_clips_by_heart(cls: type[ExpressionBaseline], kind: str) -> None:
    task = EXPRESSIONS if kind == "classification" else Task("regression", units="valence")
    system = made(cls, task)
    batch = Batch.collate(
        [
            Sample({"face": clip(4, seed=k, lost=(k % 4,))}, k % 3 if kind == "classification" else k / 3 - 1)
            for k in range(6)
        ]
    )
    assert batch.target is not None
    optimiser = torch.optim.Adam(system.parameters(), 0.01)
    for _ in range(12):
        for _ in range(5):
            optimiser.zero_grad()
            system.train().loss(system(batch), batch)["total"].backward()
            optimiser.step()
        output = system(batch)
        if kind == "regression":
            learned = bool((output.value - batch.target).abs().mean() < 0.2)
        else:
            learned = torch.equal(output.logits.argmax(1), batch.target)
        if learned:
            return
    pytest.fail("it did not learn")


def test_former_dfer_tells_clips_apart_by_the_order_of_their_frames() -> None:
    system, frames = made(FormerDFER), clip(4)
    assert not torch.allclose(answers(system, frames), answers(system, frames.flip(0)), atol=1e-4)


def test_former_dfer_interpolates_its_positions_to_the_map_of_any_frame() -> None:
    system = made(FormerDFER)
    assert isinstance(system, FormerDFER)
    small = answers(system, torch.zeros(4, 3, 48, 48))  # a map of 3 x 3 where positions are learned at 2 x 2
    with torch.no_grad():
        system.places += 1.0
    assert torch.isfinite(small).all()
    assert not torch.allclose(answers(system, torch.zeros(4, 3, 48, 48)), small, atol=1e-4)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(AffuseError, match="frames is 6"):
        answers(made(FormerDFER), clip(7))
    with pytest.raises(AffuseError, match="heads"):
        made(FormerDFER, spatial_heads=5)
    with pytest.raises(AffuseError, match="at least 1"):
        FormerDFERConfig(temporal_layers=0)
    for wrong in (
        lambda: FormerDFER(FormerDFERConfig(pretrained=True, widths=(6, 8, 10, 12)), EXPRESSIONS),
        lambda: R2Plus1D18(R2Plus1D18Config(pretrained=True, widths=(6, 8, 10, 12)), EXPRESSIONS),
    ):
        with pytest.raises(AffuseError, match="set pretrained to false"):
            wrong()
    with pytest.raises(AffuseError, match="plain"):
        R3D18(R3D18Config(pretrained=True), EXPRESSIONS)
    with pytest.raises(AffuseError, match="'face'"):
        answers(made(R3D18), torch.randn(4, 1, 32, 32))
