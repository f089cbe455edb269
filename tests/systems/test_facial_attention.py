"""Facial attention of FER-SSM: its stages, its masks, its cost, and that it looks where landmarks say."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from affuse.parts.action_units import MIRROR, average_face
from affuse.systems.fer_ssm.facial_attention import (
    REGIONS,
    ChannelAttention,
    FacialAttention,
    LandmarkAttention,
    MultiScaleSpatialAttention,
    RegionAttention,
    landmark_mask,
)
from affuse.types import AffuseError

OFF = {"regions": 0, "channel": False, "scales": (), "landmark_attention": False, "enhancer": False}


def aligned(count: int = 1, *, x: float = 0.0, y: float = -0.25, size: float = 0.6) -> Tensor:
    """Landmarks of average faces in their crop, (count, 68, 2); x and y are where the middle of the eyes lies."""
    return (size * average_face() + torch.tensor([x, y])).expand(count, -1, -1).clone()


@pytest.mark.parametrize("side", [3, 7, 20])
def test_each_mask_is_largest_at_its_own_region(side: int) -> None:
    face = aligned()
    mask = landmark_mask(face, side, side)
    assert mask.shape == (1, 8, side, side) and mask.max() <= 1
    middles = {"left brow": [19], "right brow": [24], "left eye": [36, 39], "right eye": [42, 45], "nose": [30]}
    middles |= {"mouth": [48, 54], "left cheek": [2, 41, 31], "right cheek": [14, 46, 35]}
    for region, name in enumerate(REGIONS):
        x, y = face[0, middles[name]].mean(0).tolist()
        column, row = (min(int((value + 1) / 2 * side), side - 1) for value in (x, y))
        assert mask[0, region, row, column] > 0.6, name
        if side == 20:  # fine enough that no cell holds two regions
            assert mask[0, :, row, column].argmax() == region, name
            assert mask[0, region, 0, 0] < 0.01


def test_the_masks_of_a_mirrored_face_are_mirrored_and_left_and_right_change_places() -> None:
    face = aligned() + 0.05 * torch.randn(1, 68, 2, generator=torch.Generator().manual_seed(0))
    mirrored = face[:, list(MIRROR)] * torch.tensor([-1.0, 1.0])
    other_side = [1, 0, 3, 2, 4, 5, 7, 6]
    expected = landmark_mask(face, 6, 9)[:, other_side].flip(3)
    torch.testing.assert_close(landmark_mask(mirrored, 6, 9), expected)


def test_a_mask_is_neutral_in_the_frames_whose_landmarks_are_unknown_alone() -> None:
    faces = aligned(3)
    faces[1, 8, 1] = torch.nan
    mask = landmark_mask(faces, 7, 7)
    assert (mask[1] == 1).all()
    torch.testing.assert_close(mask[[0, 2]], landmark_mask(aligned(2), 7, 7))


def test_no_mask_is_the_same_as_a_neutral_one() -> None:
    torch.manual_seed(0)
    attention, maps = FacialAttention(6), torch.randn(3, 6, 5, 4)
    unknown = torch.full((3, 68, 2), torch.nan)
    for without, neutral in zip(attention(maps), attention(maps, landmark_mask(unknown, 5, 4)), strict=True):
        torch.testing.assert_close(without, neutral)


def test_every_frame_is_attended_to_on_its_own() -> None:
    torch.manual_seed(0)
    attention, maps = FacialAttention(6), torch.randn(3, 6, 5, 4)
    mask = landmark_mask(aligned(3), 5, 4)
    together = attention(maps, mask)
    alone = attention(maps[1:2], mask[1:2])
    for all_frames, one in zip(together, alone, strict=True):
        torch.testing.assert_close(all_frames[1:2], one)


@pytest.mark.parametrize(
    "on",
    [{"regions": 8}, {"channel": True}, {"scales": (5,)}, {"landmark_attention": True}, {"enhancer": True}],
    ids=lambda on: next(iter(on)),
)
def test_each_stage_is_a_switch_of_its_own(on: dict[str, object]) -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 6, 5, 4)
    nothing = FacialAttention(6, **OFF)(maps)
    assert not list(FacialAttention(6, **OFF).parameters())
    assert torch.equal(nothing.maps, maps) and (nothing.spatial == 1).all() and nothing.regions.shape == (2, 0, 5, 4)
    stage = FacialAttention(6, **{**OFF, **on})
    found = stage(maps)
    assert not torch.allclose(found.maps, maps)
    # Only stages over places have a factor of places.
    assert (found.spatial == 1).all() == (on.keys() <= {"channel", "enhancer"})
    found.maps.square().sum().backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for n, p in stage.named_parameters() if "scale_logits" not in n
    )


def test_the_spatial_factor_is_what_each_place_was_multiplied_by() -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 6, 5, 4)
    found = FacialAttention(6, channel=False, enhancer=False)(maps, landmark_mask(aligned(2), 5, 4))
    torch.testing.assert_close(found.maps, maps * found.spatial[:, None])


def test_channel_attention_is_that_of_cbam() -> None:
    torch.manual_seed(0)
    maps, stage = torch.randn(2, 32, 5, 4), ChannelAttention(32, reduction=8)
    first, second = stage.mlp[0].weight, stage.mlp[2].weight  # (4, 32), (32, 4)
    assert first.shape == (4, 32)
    of = lambda pooled: functional.relu(pooled @ first.T) @ second.T  # noqa: E731
    expected = torch.sigmoid(of(maps.flatten(2).mean(2)) + of(maps.flatten(2).max(2).values))
    torch.testing.assert_close(stage(maps), expected)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_region_says_nothing_outside_its_mask_and_stresses_nothing_where_no_region_is(activation: str) -> None:
    torch.manual_seed(0)
    maps, mask = torch.randn(1, 6, 4, 4), torch.zeros(1, 8, 4, 4)
    mask[0, 3, :2], mask[0, 5, 2] = 1.0, 0.5
    stressed, regions = RegionAttention(6, 8, activation)(maps, mask)
    assert ((regions > 0) == (mask > 0)).all() and regions.max() < 1
    assert (stressed[0, 3] == 0).all() and (stressed[0, :3] > 0).all() and stressed.max() < 1
    assert regions[0, 5].max() < 0.5


def test_softmax_regions_share_each_place_and_sigmoid_regions_do_not() -> None:
    torch.manual_seed(0)
    maps = torch.randn(1, 6, 4, 4)
    shared, own = RegionAttention(6, 8, "softmax"), RegionAttention(6, 8, "sigmoid")
    assert shared(maps)[1].sum(1).max() <= 1
    nn.init.constant_(own.maps.bias, 5.0)
    assert own(maps)[1].sum(1).max() > 1


@pytest.mark.parametrize("size", [3, 5, 7])
def test_a_scale_of_the_spatial_attention_sees_as_far_as_its_kernel(size: int) -> None:
    torch.manual_seed(0)
    stage, maps = MultiScaleSpatialAttention((size,)), torch.randn(1, 4, 15, 15)
    changed = maps.clone()
    changed[:, :, 7, 7] += 3
    felt = (stage(changed) != stage(maps))[0].nonzero()
    assert felt.min() == 7 - size // 2 and felt.max() == 7 + size // 2


def test_several_scales_are_not_one_convolution() -> None:
    torch.manual_seed(0)
    stage, maps = MultiScaleSpatialAttention((3, 7)), torch.randn(1, 4, 9, 9)
    torch.testing.assert_close(
        stage(maps),
        sum(
            0.5 * torch.sigmoid(convolution(torch.stack([maps.mean(1), maps.amax(1)], 1)))[:, 0]
            for convolution in stage.convolutions
        ),
    )


def test_landmark_attention_stresses_nothing_off_the_face() -> None:
    torch.manual_seed(0)
    maps = torch.randn(1, 4, 20, 20)
    mask = landmark_mask(aligned(y=0.0, x=-0.6, size=0.25), 20, 20)  # a small face in the left half
    stressed = LandmarkAttention()(maps, mask)
    assert stressed[:, :, 12:].max() < 1e-3 < stressed[:, :, :10].max()


def flops(n: int, c: int, rows: int, **settings: object) -> int:
    attention = FacialAttention(c, **settings)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        attention(torch.randn(n, c, rows, 7), torch.rand(n, 8, rows, 7))
    return counter.get_total_flops()


def test_cost_grows_linearly_with_frames_places_and_channels() -> None:
    """The paper's O(B T (C H'W' + k^2 H'W')); the channel MLP's C^2 / r, once a frame, is what it leaves out."""
    assert flops(6, 32, 7) == 3 * flops(2, 32, 7)
    assert flops(1, 32, 21) - flops(1, 32, 14) == flops(1, 32, 14) - flops(1, 32, 7)
    one, two, three = (flops(1, 32 * factor, 7, channel=False) for factor in (1, 2, 3))
    assert three - two == two - one
    only_spatial = flops(1, 32, 7, **{**OFF, "scales": (3, 5, 7)})
    fusing = 2 * 3 * 49  # the mean over scales
    assert only_spatial == 2 * 2 * (9 + 25 + 49) * 49 + fusing


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FacialAttention(6, scales=(3, 4)), "odd kernel sizes"),
        (lambda: FacialAttention(6, reduction=0), "at least 1"),
        (lambda: FacialAttention(6, 4)(torch.randn(1, 6, 3, 3), torch.ones(1, 8, 3, 3)), "regions: 8"),
        (lambda: landmark_mask(aligned(), 3, 3, regions=5), "regions: 8"),
    ],
)
def test_impossible_settings_are_named(call: object, message: str) -> None:
    with pytest.raises(AffuseError, match=message):
        call()  # type: ignore[operator]


def marked_faces(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Maps (n, 2, 12, 12) of noise, landmarks, and the sign of a mark in the mouth.

    A mark is a positive or a negative cell: one in the mouth, which is the answer, and seven of random sign off the face. The
    face is small and lies anywhere, so that only landmarks tell which mark is the mouth's.
    """
    generator = torch.Generator().manual_seed(seed)
    side, maps = 12, torch.empty(count, 2, 12, 12).normal_(0, 0.2, generator=generator)
    where = torch.rand(count, 2, generator=generator) * torch.tensor([0.6, 0.4]) - torch.tensor([0.3, 0.45])
    landmarks = 0.4 * average_face() + where[:, None]
    face = landmark_mask(landmarks, side, side).amax(1) > 0.05
    answer = torch.randint(0, 2, (count,), generator=generator)
    for frame in range(count):
        off = (~face[frame]).nonzero()
        off = off[torch.randperm(len(off), generator=generator)[:7]]
        signs = torch.randint(0, 2, (len(off),), generator=generator)
        maps[frame, signs, off[:, 0], off[:, 1]] += 3
        x, y = ((landmarks[frame, 60:].mean(0) + 1) / 2 * side).long().tolist()
        maps[frame, answer[frame], y, x] += 3
    return maps, landmarks, answer


def trained(masked: bool) -> tuple[float, Tensor]:
    """Accuracy on new faces, and the share of each region in what is stressed."""
    torch.manual_seed(0)
    attention = RegionAttention(8, 8, "sigmoid")
    stem, head = nn.Conv2d(2, 8, 1), nn.Linear(8, 2)
    maps, landmarks, answer = marked_faces(256, 0)
    mask = landmark_mask(landmarks, 12, 12) if masked else None
    layers = nn.ModuleList([stem, attention, head])
    optimiser = torch.optim.Adam(layers.parameters(), lr=0.03)
    read = lambda maps, mask: _read(stem, attention, head, maps, mask)  # noqa: E731
    for _ in range(60):
        optimiser.zero_grad()
        functional.cross_entropy(read(maps, mask)[0], answer).backward()
        optimiser.step()
    maps, landmarks, answer = marked_faces(128, 1)
    with torch.no_grad():
        logits, regions = read(maps, landmark_mask(landmarks, 12, 12) if masked else None)
    strength = regions.sum((2, 3)).mean(0)
    return (logits.argmax(1) == answer).float().mean().item(), strength / strength.sum()


def _read(
    stem: nn.Module, attention: nn.Module, head: nn.Module, maps: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    found = functional.relu(stem(maps))
    stressed, regions = attention(found, mask)
    return head((found * stressed[:, None]).sum((2, 3)) / 10), regions


def test_with_a_landmark_mask_region_attention_learns_which_region_tells_and_without_one_it_cannot() -> None:
    accuracy, share = trained(masked=True)
    blind, _ = trained(masked=False)
    assert accuracy > 0.95 and blind < 0.8
    assert REGIONS[int(share.argmax())] == "mouth" and share.max() > 0.5
