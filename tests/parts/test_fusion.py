"""Fusions follow their formulas, and a silent modality is one that is left out."""

from typing import get_args

import pytest
import torch

from affuse.parts.fusion import FusionKind, fusion_of
from affuse.types import AffuseError

NAMES = ("a", "b", "c")
KINDS = get_args(FusionKind)


def spikes(*names: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    drawn = {name: (torch.rand(4, 2, 6, generator=generator) < 0.4).float() for name in NAMES}
    return {name: drawn[name] for name in names or NAMES}


def test_concatenation_and_sums_follow_their_formulas() -> None:
    h = spikes()
    concat = fusion_of("concat", NAMES, 6, 3)
    w, b = concat.classifier.weight, concat.classifier.bias
    logits, joint = concat(h)
    assert torch.allclose(logits, torch.cat([h["a"], h["b"], h["c"]], 2) @ w.T + b, atol=1e-5)
    assert torch.equal(joint, torch.cat([h["a"], h["b"], h["c"]], 2))
    assert torch.allclose(concat.alone(h["b"], "b"), h["b"] @ w[:, 6:12].T + b / 3, atol=1e-5)
    added = fusion_of("sum", NAMES, 6, 3)
    with torch.no_grad():
        added.share.copy_(torch.tensor([1.0, 2.0, 0.5]))
    joint = h["a"] + 2 * h["b"] + 0.5 * h["c"]
    assert torch.allclose(added(h)[0], added.classifier(joint), atol=1e-5)


def test_film_and_gate_follow_their_formulas() -> None:
    h = spikes()
    film = fusion_of("film", NAMES, 6, 3)
    gamma, beta = film.modulation(h["a"]).split(6, 2)
    assert torch.allclose(film(h)[0], film.classifier(gamma * (h["b"] + h["c"]) + beta), atol=1e-5)
    gated = fusion_of("gated", NAMES, 6, 3)
    first, second, third = (own(h[name]) for own, name in zip(gated.maps, NAMES, strict=True))
    assert torch.allclose(gated(h)[0], gated.classifier(torch.sigmoid(first) * (second + third)), atol=1e-5)


@pytest.mark.parametrize("kind", ["concat", "sum", "logit_sum"])
def test_unimodal_logits_of_linear_fusions_sum_to_the_fused_logits(kind: FusionKind) -> None:
    fusion, h = fusion_of(kind, NAMES, 6, 3), spikes()
    alone = sum(fusion.alone(h[name], name) for name in NAMES)
    assert torch.allclose(alone, fusion(h)[0], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_modality_left_out_is_a_silent_one(kind: FusionKind) -> None:
    fusion, h = fusion_of(kind, NAMES, 6, 3), spikes("a", "c")
    silent = {**h, "b": torch.zeros_like(h["a"])}
    for left_out, given in zip(fusion(h), fusion(silent), strict=True):
        assert torch.equal(left_out, given)
    assert fusion(h)[1].shape == (4, 2, fusion.joint_width)


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_the_mapping_does_not_matter_and_steps_do_not_mix(kind: FusionKind) -> None:
    fusion, h = fusion_of(kind, NAMES, 6, 3), spikes()
    backwards = dict(reversed(h.items()))
    assert torch.equal(fusion(h)[0], fusion(backwards)[0])
    one = fusion({name: held[2:3] for name, held in h.items()})[0]
    assert torch.allclose(one[0], fusion(h)[0][2], atol=1e-6)


@pytest.mark.parametrize("kind", ["film", "gated"])
def test_logits_alone_are_those_with_silent_partners(kind: FusionKind) -> None:
    fusion, h = fusion_of(kind, NAMES, 6, 3), spikes()
    for name in NAMES:
        assert torch.equal(fusion.alone(h[name], name), fusion({name: h[name]})[0])


def test_a_silent_first_modality_leaves_the_others_of_film_nearly_as_they_are() -> None:
    film = fusion_of("film", ("a", "b"), 64, 3)
    h = (torch.rand(3, 5, 64) < 0.5).float()
    _, joint = film({"b": h})
    assert (joint - h).abs().max() < 0.3  # the biases alone are left, at most 1 / 8 each


@pytest.mark.parametrize(
    ("kind", "names", "says"),
    [("concat", (), "at least one"), ("film", ("a",), "two modalities"), ("gated", ("a",), "two modalities")],
)
def test_impossible_fusions_are_one_clear_error(kind: FusionKind, names: tuple[str, ...], says: str) -> None:
    with pytest.raises(AffuseError, match=says):
        fusion_of(kind, names, 6, 3)


def test_strange_names_and_widths_are_one_clear_error() -> None:
    fusion = fusion_of("concat", NAMES, 6, 3)
    with pytest.raises(AffuseError, match="reads a, b, c"):
        fusion({"smell": torch.zeros(2, 1, 6)})
    with pytest.raises(AffuseError, match="width 6"):
        fusion.alone(torch.zeros(2, 1, 5), "a")
    with pytest.raises(AffuseError, match="nothing"):
        fusion({})
