"""MCO-E Net's equations once more, in NumPy and float64, sample by sample, with the modules' own weights.

Two are held elsewhere in the same way, and not repeated: Algorithm 1 in both directions with interacting B and C, and the
plain interaction block (tests/systems/test_mco_e.py, "follows equations"). Here stand one direction, the rows of Table 3,
the settings that add to the paper, an absent partner, Eq. 14-19, the tokens of section 3.2, and the released variant.

All weights are drawn anew, for at their first values A and D of both sensors are equal.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from affuse.parts.experts import HeterogeneousExperts
from affuse.systems.mco_e import MCOEConfig
from affuse.systems.mco_e.fusion import MCIB
from affuse.systems.mco_e.mjos import JointMamba
from affuse.systems.mco_e.released import ReleasedMamba, ReleasedMCIB, ReleasedTrunk
from affuse.systems.mco_e.trunk import PaperTrunk

Array = NDArray[np.float64]
Tokens = dict[str, Array]  # (t, d) by modality; one that is absent is left out
PARTNER = {"rgb": "event", "event": "rgb"}
TINY: dict[str, Any] = {"d_model": 6, "d_state": 3, "d_conv": 3, "heads": 2}
PRESENT = {"rgb": [True, True, False], "event": [True, False, True]}


def drawn(module: nn.Module) -> tuple[Any, dict[str, Array]]:
    """The module in float64 with new weights (but in encoders), and these weights by name."""
    module = module.double().eval()
    generator = torch.Generator().manual_seed(3)
    for name, parameter in module.named_parameters():
        if not name.startswith("encoders."):
            parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module, {name: value.detach().numpy() for name, value in module.state_dict().items()}


def samples(width: int, present: dict[str, list[bool]] | None = None, t: int = 5) -> list[Tokens]:
    random = np.random.default_rng(0)
    present = present or {"rgb": [True] * 2, "event": [True] * 2}
    b = len(present["rgb"])
    return [{name: random.standard_normal((t, width)) for name in present if present[name][i]} for i in range(b)]


def packed(batch: list[Tokens]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """As the modules hold them: the rows that have a modality, and which they are."""
    rows = {name: torch.tensor([name in sample for sample in batch]) for name in PARTNER}
    values = {n: torch.from_numpy(np.stack([s[n] for s in batch if n in s])) for n in PARTNER if rows[n].any()}
    return values, rows


def linear(w: dict[str, Array], name: str, x: Array) -> Array:
    y = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def gelu(x: Array) -> Array:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def layer_norm(w: dict[str, Array], name: str, x: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def causal_convolution(w: dict[str, Array], name: str, x: Array) -> Array:
    """One filter a channel over this and the earlier steps."""
    kernel = w[f"{name}.weight"][:, 0]  # d k
    y = np.tile(w[f"{name}.bias"], (len(x), 1))
    for t in range(len(x)):
        for back in range(kernel.shape[1]):
            if t - back >= 0:
                y[t] += kernel[:, -1 - back] * x[t - back]
    return y


def scan(x: Array, delta: Array, A: Array, B: Array, C: Array, D: Array, backward: bool) -> Array:
    """Eq. 1-4 after discretisation: A by zero-order hold, B by Euler."""
    y, h = np.zeros_like(x), np.zeros_like(A)
    for t in reversed(range(len(x))) if backward else range(len(x)):
        for channel in range(len(D)):
            step = delta[t, channel]
            h[channel] = np.exp(step * A[channel]) * h[channel] + step * B[t] * x[t, channel]
            y[t, channel] = h[channel] @ C[t] + D[channel] * x[t, channel]
    return y


def coefficient(w: dict[str, Array], s: str, k: str, name: str, x: Tokens, share: str) -> Array:
    """A (as log(-A)), B, C or D of a modality before M; B and C of an absent one are its stand-ins at every step."""
    held = "shared" if k in share else name
    if k in "AD":
        return w[f"{s}.{'A_log' if k == 'A' else 'D'}.{held}"]
    if name in x:
        return linear(w, f"{s}.{k}.{held}", x[name])
    length = len(next(iter(x.values())))
    return np.tile(w.get(f"{s}.absent.{k}_{name}", np.array(np.nan)), (length, 1))


def algorithm_1(w: dict[str, Array], sample: Tokens, config: MCOEConfig) -> Tokens:
    x, z = {}, {}
    for name, tokens in sample.items():
        both = linear(w, f"into.{name}", layer_norm(w, f"norm.{name}", tokens) if config.pre_norm else tokens)
        main, z[name] = np.split(both, 2, axis=1)
        x[name] = causal_convolution(w, f"conv.{name}", main)
        if config.activation == "silu":
            x[name], z[name] = silu(x[name]), silu(z[name])
    total = {name: np.zeros_like(value) for name, value in x.items()}
    for direction in ("forward",) if config.causal else ("forward", "backward"):
        s = f"scans.scan_{direction}"
        for name in x:
            value = {}
            for k in "ABCD":
                own, partner = (coefficient(w, s, k, who, x, config.share) for who in (name, PARTNER[name]))
                if config.exchange:
                    value[k] = partner
                elif k in config.interact:
                    value[k] = linear(w, f"{s}.mix.{k}_{name}", np.concatenate([own, partner], -1)) + own  # Eq. 5
                else:
                    value[k] = own
            delta = np.log(1 + np.exp(linear(w, f"{s}.delta.{name}", x[name])))
            A = -np.exp(value["A"])
            total[name] += scan(x[name], delta, A, value["B"], value["C"], value["D"], direction == "backward")
    found = {name: linear(w, f"out.{name}", z[name] * total[name]) for name in x}
    return {name: found[name] + sample[name] for name in x} if config.mamba_residual else found


def attention(w: dict[str, Array], name: str, query: Array, memory: Array, heads: int, causal: bool = False) -> Array:
    """Eq. 6-8."""
    q, k, v = (linear(w, f"{name}.{part}", x) for part, x in (("query", query), ("key", memory), ("value", memory)))
    found = []
    for columns in np.split(np.arange(q.shape[1]), heads):
        scores = q[:, columns] @ k[:, columns].T / math.sqrt(len(columns))
        if causal:
            scores[np.triu_indices(len(scores), 1)] = -np.inf
        found.append(softmax(scores) @ v[:, columns])
    return linear(w, f"{name}.out", np.concatenate(found, 1))


def check_by_row(found: dict[str, torch.Tensor], expected: list[Tokens]) -> None:
    for name in PARTNER:
        rows = [sample[name] for sample in expected if name in sample]
        np.testing.assert_allclose(found[name].detach().numpy(), np.stack(rows), rtol=1e-9, atol=1e-9)


ROWS_OF_TABLE_3 = [
    *({"interact": "", "share": k} for k in "ABCD"),
    *({"interact": pair} for pair in ("AB", "AC", "AD", "BD", "CD")),
    {"interact": "", "exchange": True},
]


@pytest.mark.parametrize("row", ROWS_OF_TABLE_3, ids=str)
def test_rows_of_table_3_share_mix_or_exchange_the_coefficients_they_name(row: dict[str, Any]) -> None:
    config = MCOEConfig(**{**TINY, **row})
    mamba, w = drawn(JointMamba(config))
    batch = samples(6)
    check_by_row(mamba(*packed(batch)), [algorithm_1(w, sample, config) for sample in batch])


@pytest.mark.parametrize(
    "setting", [{"causal": True}, {"pre_norm": True}, {"activation": "silu"}, {"mamba_residual": True}]
)
def test_one_direction_and_the_additions_do_what_they_say(setting: dict[str, Any]) -> None:
    config = MCOEConfig(**{**TINY, **setting})
    mamba, w = drawn(JointMamba(config))
    batch = samples(6)
    check_by_row(mamba(*packed(batch)), [algorithm_1(w, sample, config) for sample in batch])


@pytest.mark.parametrize("row", [{}, {"interact": "", "exchange": True}], ids=str)
def test_learned_vectors_stand_in_for_an_absent_partner_in_the_scan(row: dict[str, Any]) -> None:
    config = MCOEConfig(**{**TINY, **row})
    mamba, w = drawn(JointMamba(config))
    batch = samples(6, PRESENT)
    check_by_row(mamba(*packed(batch)), [algorithm_1(w, sample, config) for sample in batch])


@pytest.mark.parametrize(("causal", "scale", "residual"), [(False, 1.0, 0.0), (True, 0.3, 0.0), (False, 1.0, 0.5)])
def test_interaction_block_with_its_additions_and_without_a_partner(
    causal: bool, scale: float, residual: float
) -> None:
    block, w = drawn(MCIB(6, 2, scale, causal, residual))
    batch = samples(6, PRESENT)
    fused, alpha = (value.detach().numpy() for value in block(*packed(batch)))
    for row, y in enumerate(batch):
        whole = {name: y.get(name, np.tile(w[f"absent_query.{name}"], (5, 1))) for name in PARTNER}
        asked = {name: attention(w, f"attention.{name}", whole[PARTNER[name]], y[name], 2, causal) for name in y}
        gate = sigmoid(scale * (whole["rgb"] * whole["event"]).sum(1))
        gate = gate if len(y) == 2 else np.full(5, float("rgb" in y))  # forced to the modality that is there
        nothing = np.zeros((5, 6))
        H = gate[:, None] * asked.get("rgb", nothing) + (1 - gate)[:, None] * asked.get("event", nothing)
        H = H + residual * sum(y.values())
        np.testing.assert_allclose(alpha[row], gate, rtol=1e-9)
        np.testing.assert_allclose(fused[row], H, rtol=1e-9, atol=1e-9)


def attended(w: dict[str, Array], name: str, H: Array, heads: int) -> Array:
    return layer_norm(w, f"{name}.norm", attention(w, f"{name}.attention", H, H, heads) + H)


def focal(w: dict[str, Array], name: str, H: Array) -> Array:
    """Eq. 18: a convolution over the token and its two neighbours, then one over the token alone; mean over tokens."""
    kernel, bias = w[f"{name}.local.weight"], w[f"{name}.local.bias"]  # out in 3
    padded = np.pad(H, ((1, 1), (0, 0)))
    local = np.stack([sum(kernel[:, :, j] @ padded[t + j] for j in range(3)) + bias for t in range(len(H))])
    return (gelu(local) @ w[f"{name}.out.weight"][:, :, 0].T + w[f"{name}.out.bias"]).mean(0)


def deep(w: dict[str, Array], name: str, H: Array, layers: int) -> Array:
    """Eq. 16, and the released code's residual where it has a factor."""
    for layer in range(layers):
        block = linear(w, f"{name}.blocks.{layer}.2", linear(w, f"{name}.blocks.{layer}.0", H))
        H = block + w.get(f"{name}.residual", np.zeros(())) * H
    return linear(w, f"{name}.out", H).mean(0)


@pytest.mark.parametrize(("top_k", "residual"), [(1, None), (2, None), (2, 0.3), (5, None)])
def test_router_experts_and_their_sum_follow_equations_14_to_19(top_k: int, residual: float | None) -> None:
    head, w = drawn(HeterogeneousExperts(8, 3, ("focal", "attention", "deep"), 5, top_k, 4, 2, 0.5, residual, 2))
    random = np.random.default_rng(1)
    clips = random.standard_normal((6, 4, 8))
    logits, routing = head(torch.from_numpy(clips))
    for row, H in enumerate(clips):
        scores = linear(
            w, "router.mlp.2", gelu(linear(w, "router.mlp.0", attended(w, "router.context", H, 4)))
        )  # Eq. 14
        probability = softmax(scores.mean(0))
        chosen = np.argsort(-probability)[:top_k]  # Eq. 15
        weight = probability[chosen] / probability[chosen].sum()
        answer = np.zeros(3)
        for m, h in zip(chosen, weight, strict=True):
            name = f"experts.{m}"
            if m % 3 == 0:
                expert = focal(w, name, H)
            elif m % 3 == 1:
                expert = linear(w, f"{name}.out", attended(w, f"{name}.context", H, 2)).mean(0)  # Eq. 17
            else:
                expert = deep(w, name, H, 2)
            answer += h * expert  # Eq. 19
        np.testing.assert_allclose(routing.probabilities[row].detach().numpy(), probability, rtol=1e-9)
        np.testing.assert_allclose(logits[row].detach().numpy(), answer, rtol=1e-9, atol=1e-9)
        assert set(routing.weights[row].nonzero().flatten().tolist()) == set(chosen.tolist())


def test_a_token_is_a_frame_or_a_position_of_a_frame() -> None:
    clips = torch.randn(2, 3, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for setting, tokens in (({"frame_grid": 1}, 3), ({"frame_grid": 2}, 3), ({"tokens": "spatial"}, 3 * 4)):
        trunk, w = drawn(PaperTrunk(MCOEConfig(**{**TINY, **setting})))
        maps = trunk.encoders["event"](clips).detach().numpy()  # 2 3 64 2 2
        seen = np.empty((2, tokens, w["project.event.weight"].shape[1]))
        for row in range(2):
            for frame in range(3):
                if setting == {"frame_grid": 1}:
                    seen[row, frame] = maps[row, frame].mean((1, 2))
                elif setting == {"frame_grid": 2}:
                    seen[row, frame] = maps[row, frame].reshape(-1)  # a 2 x 2 map on a 2 x 2 grid: every cell as it is
                else:
                    for y in range(2):
                        for x in range(2):
                            seen[row, 4 * frame + 2 * y + x] = maps[row, frame, :, y, x]
        found = trunk.tokens("event", clips).detach().numpy()
        np.testing.assert_allclose(found, linear(w, "project.event", seen), rtol=1e-9, atol=1e-9)


def released_mamba(w: dict[str, Array], sample: Tokens) -> Tokens:
    x, z = {}, {}
    for name, tokens in sample.items():
        x[name], z[name] = np.split(linear(w, f"into.{name}", tokens), 2, axis=1)
    total = {name: np.zeros_like(value) for name, value in x.items()}
    for direction in ("forward", "backward"):
        s, turn = f"scans.scan_{direction}", -1 if direction == "backward" else 1
        u = {name: silu(causal_convolution(w, f"{s}.conv.{name}", value[::turn])) for name, value in x.items()}
        projected = {name: linear(w, f"{s}.project.{name}", value) for name, value in u.items()}
        pair = [projected.get(n, np.tile(w[f"{s}.absent.{n}"], (len(next(iter(x.values()))), 1))) for n in PARTNER]
        all_of_both = np.concatenate(pair, 1)  # Delta, B and C of both, RGB first, for both sensors alike
        for name in x:
            B = projected[name][:, 1:17] + linear(w, f"{s}.joint.B", all_of_both)
            C = projected[name][:, 17:] + linear(w, f"{s}.joint.C", all_of_both)
            raw = projected[name][:, :1] * w[f"{s}.step.{name}"][:, 0] + w[f"step_bias.{name}"]  # one bias, both ways
            delta, A = np.log(1 + np.exp(raw)), -np.exp(w[f"{s}.A_log.{name}"])
            total[name] += scan(u[name], delta, A, B, C, w[f"{s}.D.{name}"], False)[::turn] / 2
    return {name: linear(w, f"out.{name}", silu(z[name]) * total[name]) for name in x}


def released_mcib(w: dict[str, Array], sample: Tokens) -> tuple[Array, Array]:
    """The fused tokens, and the weight of the answer about RGB."""
    own = {name: linear(w, f"project.{name}", value) for name, value in sample.items()}
    whole = {name: own.get(name, np.tile(w[f"absent_query.{name}"], (5, 1))) for name in PARTNER}
    about = {name: attention(w, "attention", whole[PARTNER[name]], own[name], 2) for name in own}
    alpha = sigmoid((whole["rgb"] * whole["event"]).sum(1))
    alpha = alpha if len(own) == 2 else np.full(5, float("event" in own))
    nothing = np.zeros((5, 4))
    fused = alpha[:, None] * about.get("event", nothing) + (1 - alpha)[:, None] * about.get("rgb", nothing)
    return fused + sum(own.values()) / 2, 1 - alpha


def test_released_scan_has_the_quirks_of_the_released_code() -> None:
    mamba, w = drawn(ReleasedMamba())
    batch = samples(4, PRESENT)
    check_by_row(mamba(*packed(batch)), [released_mamba(w, sample) for sample in batch])


def test_released_interaction_weighs_the_answer_about_events_by_alpha() -> None:
    block, w = drawn(ReleasedMCIB())
    batch = samples(4, PRESENT)
    fused, weight = (value.detach().numpy() for value in block(*packed(batch)))
    for row, sample in enumerate(batch):
        H, rgb_weight = released_mcib(w, sample)
        np.testing.assert_allclose(fused[row], H, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(weight[row], rgb_weight, rtol=1e-9)


def test_released_trunk_cuts_two_frames_of_numbers_into_tokens_of_four() -> None:
    config = MCOEConfig(variant="as_released", released_outputs=10, released_width=7)
    trunk, w = drawn(ReleasedTrunk(config))
    generator = torch.Generator().manual_seed(0)
    clips = {n: torch.randn(1, 4, 3, 16, 16, dtype=torch.float64, generator=generator) for n in PARTNER}
    tokens = {}
    for name, clip in clips.items():
        numbers = []
        for frame, image in (("first", clip[:, :1]), ("last", clip[:, 3:])):
            maps = trunk.encoders[f"{name}_{frame}"](image).detach().numpy()
            numbers.append(linear(w, f"classifier.{name}_{frame}", maps[0, 0].mean((1, 2))))
        tokens[name] = np.concatenate(numbers).reshape(5, 4)
    inner = {
        part: {k.removeprefix(f"{part}."): v for k, v in w.items() if k.startswith(f"{part}.")}
        for part in ("mamba", "mcib")
    }
    scanned = released_mamba(inner["mamba"], tokens)
    H, _ = released_mcib(inner["mcib"], {name: tokens[name] + scanned[name] for name in tokens})
    fused, _ = trunk(clips, {name: torch.ones(1, dtype=torch.bool) for name in clips})
    np.testing.assert_allclose(
        fused[0, 0].detach().numpy(), gelu(linear(w, "fuse.0", H.reshape(-1))), rtol=1e-9, atol=1e-9
    )
