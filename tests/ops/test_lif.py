"""Spiking neurons: closed forms, the formulas of other libraries by hand, and equality of all forms."""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from affuse import AffuseError
from affuse.ops import lif as module
from affuse.ops import native
from affuse.ops.lif import FORMS, active_form, lif, lif_reference, lif_step, surrogate_slope

FAST = [form for form in FORMS if form != "reference"]
SURROGATES = ("triangle", "sigmoid", "arctan")


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    return available(request.param)


@pytest.fixture(params=FAST)
def fast(request: pytest.FixtureRequest) -> str:
    return available(request.param)


@pytest.fixture(params=["reference", "fused"])
def wide(request: pytest.FixtureRequest) -> str:
    """The forms that take float64."""
    return request.param


def available(form: str) -> str:
    if form == "native" and not module.native_is_built()[0]:
        pytest.skip("the native code is not built here")
    return form


def currents(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + 0.5


def run(inputs: Tensor, state: Tensor, dtype: torch.dtype, form: str, **keywords) -> list[Tensor]:
    """Spikes, last potential and the gradients of inputs and state, of a loss that weighs every output."""
    x, v = (tensor.detach().to(dtype).requires_grad_() for tensor in (inputs, state))
    spikes, last = lif(x, v, form=form, **keywords)
    weights = torch.randn(spikes.shape, generator=torch.Generator().manual_seed(9))
    more = torch.randn(last.shape, generator=torch.Generator().manual_seed(10))
    ((spikes * weights.to(dtype)).sum() + (last * more.to(dtype)).sum()).backward()
    assert x.grad is not None
    assert v.grad is not None
    return [spikes.detach(), last.detach(), x.grad, v.grad]


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("detach_reset", [False, True], ids=["through the reset", "reset detached"])
@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_fast_forms_fire_as_the_reference_and_agree_with_its_gradients_in_float64(fast, reset, detach_reset, surrogate):
    keywords = {"tau": 0.7, "reset": reset, "detach_reset": detach_reset, "surrogate": surrogate, "alpha": 1.7}
    inputs, state = currents(6, 3, 37), currents(3, 37, seed=1)
    spikes, last, grad_x, grad_v = run(inputs, state, torch.float32, fast, **keywords)
    plain = run(inputs, state, torch.float32, "reference", **keywords)
    assert torch.equal(spikes, plain[0])
    assert torch.equal(last, plain[1])
    truth = run(inputs, state, torch.float64, "reference", **keywords)
    assert torch.equal(truth[0].float(), plain[0])  # else gradients are of another trajectory
    torch.testing.assert_close(grad_x.double(), truth[2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad_v.double(), truth[3], rtol=1e-5, atol=1e-5)


@settings(max_examples=40)
@given(
    steps=st.integers(1, 40),
    neurons=st.integers(1, 70),
    tau=st.floats(0, 1, width=32),
    threshold=st.floats(-1, 2, width=32),
    reset=st.sampled_from(["hard", "soft"]),
    detach_reset=st.booleans(),
    surrogate=st.sampled_from(SURROGATES),
    seed=st.integers(0, 1000),
)
def test_fast_forms_agree_with_the_reference_for_any_setting(steps, neurons, tau, threshold, reset, seed, **keywords):
    keywords |= {"tau": tau, "threshold": threshold, "reset": reset}
    inputs, state = currents(steps, neurons, seed=seed), currents(neurons, seed=seed + 1)
    for fast in FAST:
        if fast == "native" and not module.native_is_built()[0]:
            continue
        ours, plain = (run(inputs, state, torch.float32, which, **keywords) for which in (fast, "reference"))
        assert torch.equal(ours[0], plain[0])
        assert torch.equal(ours[1], plain[1])
        for mine, theirs in zip(ours[2:], plain[2:], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * (1 + float(theirs.abs().max())))


def test_gradients_pass_gradcheck_where_nothing_fires(wide):
    """Where no neuron comes near the threshold, the loss is smooth and its gradient is that of the leak alone."""
    inputs = torch.rand(5, 4, dtype=torch.float64) * 0.1
    state = torch.rand(4, dtype=torch.float64) * 0.1

    def last_potential(x: Tensor, v: Tensor) -> Tensor:
        return lif(x, v, threshold=3.0, form=wide)[1]

    torch.autograd.gradcheck(last_potential, (inputs.requires_grad_(), state.requires_grad_()))


def test_constant_input_below_threshold_charges_geometrically(form):
    tau, current = 0.6, 0.3
    spikes, last = lif(torch.full((9, 2), current), tau=tau, form=form)
    assert not spikes.any()
    assert last == pytest.approx(current * (1 - tau**9) / (1 - tau))


def test_constant_input_above_threshold_fires_with_the_closed_form_period(form):
    tau, current, threshold = 0.5, 0.6, 1.0
    # u after k silent steps is current (1 - tau^k) / (1 - tau); it exceeds the threshold first at this k.
    period = math.ceil(math.log(1 - threshold * (1 - tau) / current) / math.log(tau))
    assert period == 3
    spikes, _ = lif(torch.full((12, 1), current), tau=tau, form=form)
    assert spikes.flatten().tolist() == [float((t + 1) % period == 0) for t in range(12)]


def test_hard_reset_forgets_and_soft_reset_keeps_what_was_over_the_threshold(form):
    inputs = torch.tensor([[2.75], [0.0]])
    assert lif(inputs[:1], reset="hard", form=form)[1].item() == 0
    assert lif(inputs[:1], reset="soft", form=form)[1].item() == 1.75
    assert lif(inputs, reset="hard", form=form)[0].flatten().tolist() == [1, 0]
    assert lif(inputs, tau=0.75, reset="soft", form=form)[0].flatten().tolist() == [1, 1]


def test_a_potential_just_at_the_threshold_is_silent(form):
    spikes, last = lif(torch.tensor([[1.0]]), form=form)
    assert (spikes.item(), last.item()) == (0, 1)


def test_surrogates_are_their_formulas():
    z = torch.linspace(-3, 3, 25, dtype=torch.float64)
    alpha = 1.5
    by_hand = {
        "triangle": [max(alpha - abs(v), 0) / alpha**2 for v in z.tolist()],
        "sigmoid": [alpha * (s := 1 / (1 + math.exp(-alpha * v))) * (1 - s) for v in z.tolist()],
        "arctan": [alpha / 2 / (1 + (math.pi / 2 * alpha * v) ** 2) for v in z.tolist()],
    }
    for surrogate in SURROGATES:
        slope = surrogate_slope(z, surrogate, alpha)
        assert slope.tolist() == pytest.approx(by_hand[surrogate], rel=1e-12)


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_surrogates_are_slopes_of_something_that_rises_by_one(surrogate):
    z = torch.linspace(-3000, 3000, 2_000_001, dtype=torch.float64)
    assert torch.trapezoid(surrogate_slope(z, surrogate, 2.0), z).item() == pytest.approx(1, abs=2e-4)


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_the_gradient_of_one_step_is_the_surrogate_at_its_distance(form, surrogate):
    x = torch.tensor([[-1.2, 0.4, 0.99, 1.3, 2.9]], requires_grad=True)
    lif(x, surrogate=surrogate, alpha=2.0, form=form)[0].sum().backward()
    slope = surrogate_slope(x.detach() - 1, surrogate, 2.0)
    torch.testing.assert_close(x.grad, slope)
    assert slope.max() > 0.2


@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_a_run_goes_on_from_its_last_state(form, reset):
    inputs = currents(17, 4, 5)
    keywords = {"tau": 0.8, "reset": reset, "form": form}
    whole, end = lif(inputs, **keywords)
    first, state = lif(inputs[:6], **keywords)
    second, last = lif(inputs[6:], state, **keywords)
    assert torch.equal(whole, torch.cat([first, second]))
    assert torch.equal(end, last)


@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_gradients_flow_from_chunk_to_chunk_through_the_state(form, reset):
    keywords = {"tau": 0.8, "reset": reset, "form": form, "surrogate": "arctan"}
    weights = torch.randn(12, 7, generator=torch.Generator().manual_seed(2))
    whole, parts = (currents(12, 7).requires_grad_() for _ in range(2))
    (lif(whole, **keywords)[0] * weights).sum().backward()
    first, state = lif(parts[:5], **keywords)
    second, _ = lif(parts[5:], state, **keywords)
    (torch.cat([first, second]) * weights).sum().backward()
    torch.testing.assert_close(whole.grad, parts.grad)


@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_a_run_equals_folding_step(form, reset):
    inputs, v = currents(11, 3, 8), currents(3, 8, seed=4)
    spikes, last = lif(inputs, v, tau=0.9, reset=reset, form=form)
    for t in range(11):
        s, v = lif_step(inputs[t], v, tau=0.9, reset=reset)
        assert torch.equal(s, spikes[t])
    assert torch.equal(v, last)


def test_spikingjelly_lif_node_is_this_with_tau_as_one_minus_its_inverse(wide):
    """spikingjelly: v += x - (v - v_reset) / tau where inputs do not decay; spike at v - threshold; ATan(alpha)."""
    tau = 4.0
    x = currents(8, 21).double().requires_grad_()
    v, spikes = torch.zeros(21, dtype=torch.float64), []
    for t in range(8):
        v = v - v / tau + x[t]
        z = v - 1.0
        slope = 1.0 / (1 + (math.pi / 2 * 2.0 * z.detach()) ** 2)
        spike = (z.detach() > 0).double() + slope * (z - z.detach())  # the value of a step, the slope of ATan(2)
        v = (1 - spike) * v
        spikes.append(spike)
    theirs = torch.stack(spikes)
    (theirs.cumsum(0).sum() + v.square().sum()).backward()
    y = x.detach().clone().requires_grad_()
    ours, last = lif(y, tau=1 - 1 / tau, surrogate="arctan", alpha=2.0, form=wide)
    (ours.cumsum(0).sum() + last.square().sum()).backward()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(y.grad, x.grad)


def test_snntorch_leaky_is_this_where_its_late_reset_is_given_its_leak_back(wide):
    """snntorch subtracts the threshold one step after the spike, when our reset has leaked already: u is tau theta more."""
    beta, theta = 0.75, 1.0
    x = currents(30, 40).double()
    mem, late, theirs = torch.zeros(40, dtype=torch.float64), torch.zeros(40, dtype=torch.float64), []
    for t in range(30):
        mem = beta * mem + x[t] + (1 - beta) * theta * late - theta * late
        late = (mem > theta).double()
        theirs.append(late)
    ours, _ = lif(x, tau=beta, threshold=theta, reset="soft", form=wide)
    assert torch.equal(ours, torch.stack(theirs))
    assert 0.1 < ours.mean() < 0.9


def test_inputs_of_any_strides_give_what_their_copies_give(form):
    base = currents(5, 6, 7, 8)
    for strided in (base.transpose(1, 3), base[:, ::2, :, 1::3], base.permute(3, 1, 0, 2), base.flip(2), base[::2]):
        state = currents(*strided.shape[1:][::-1], seed=3).permute(2, 1, 0)
        ours = run(strided, state, torch.float32, form, reset="soft")
        copied = run(strided.contiguous(), state.contiguous(), torch.float32, form, reset="soft")
        assert all(torch.equal(a, b) for a, b in zip(ours, copied, strict=True))


def test_a_gradient_of_any_strides_is_read_right(form):
    x = currents(4, 3, 5).requires_grad_()
    spikes, _ = lif(x, form=form)
    grad = currents(5, 3, 4, seed=1).permute(2, 1, 0)
    (strided,) = torch.autograd.grad(spikes, x, grad, retain_graph=True)
    (copied,) = torch.autograd.grad(spikes, x, grad.contiguous())
    assert torch.equal(strided, copied)
    (expanded,) = torch.autograd.grad(lif(x, form=form)[0].sum(), x)
    assert torch.isfinite(expanded).all()


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (0,), (4, 0, 2), (0, 0)])
def test_no_step_and_no_neuron_are_no_error(form, shape):
    state = torch.ones(shape[1:])
    spikes, last, grad_x, grad_v = run(torch.zeros(shape), state, torch.float32, form)
    assert spikes.shape == grad_x.shape == shape
    assert last.shape == grad_v.shape == shape[1:]
    if shape[0] == 0:
        assert torch.equal(last, state)


@pytest.mark.parametrize("size", [1e-38, 1e30, 3e38])
@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_extreme_inputs_stay_finite(form, size, reset, surrogate):
    inputs = torch.tensor([[size, -size], [-size, size]]) / 2
    ours = run(inputs, torch.zeros(2), torch.float32, form, reset=reset, surrogate=surrogate)
    plain = run(inputs, torch.zeros(2), torch.float32, "reference", reset=reset, surrogate=surrogate)
    assert all(torch.isfinite(x).all() for x in ours)
    assert torch.equal(ours[0], plain[0])


def test_a_nan_input_stays_in_its_own_neuron(form):
    inputs = currents(5, 40)
    spoiled = inputs.clone()
    spoiled[1, 3] = torch.nan
    spikes, last = lif(inputs, form=form)
    other, other_last = lif(spoiled, form=form)
    keep = torch.arange(40) != 3
    assert torch.equal(spikes[:, keep], other[:, keep])
    assert torch.equal(last[keep], other_last[keep])
    assert torch.isnan(other_last[3])


def test_half_precision_in_and_out_with_potentials_in_float32(form):
    inputs = currents(4, 9).bfloat16()
    spikes, last = lif(inputs, form=form)
    assert (spikes.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    whole, end = lif(inputs.float(), form=form)
    assert torch.equal(spikes.float(), whole)
    assert torch.equal(last, end)


def test_no_state_is_a_state_of_zeros(form):
    one, other = (currents(5, 3, 9).requires_grad_() for _ in range(2))
    without = lif(one, form=form)
    given = lif(other, torch.zeros(3, 9), form=form)
    assert all(torch.equal(a, b) for a, b in zip(without, given, strict=True))
    for spikes, last in (without, given):
        (spikes.cumsum(0).sum() + last.square().sum()).backward()
    assert torch.equal(one.grad, other.grad)
    assert one.grad.any()


def test_gradients_of_the_spikes_alone_and_of_the_state_alone_add_up(form):
    x, v = currents(5, 9).requires_grad_(), currents(9, seed=1).requires_grad_()
    spikes, last = lif(x, v, form=form)
    of_spikes = torch.autograd.grad(spikes.sum(), (x, v), retain_graph=True)
    of_last = torch.autograd.grad(last.sum(), (x, v), retain_graph=True)
    of_both = torch.autograd.grad(spikes.sum() + last.sum(), (x, v))
    for a, b, both in zip(of_spikes, of_last, of_both, strict=True):
        torch.testing.assert_close(a + b, both)


def test_a_state_of_another_shape_is_an_error():
    with pytest.raises(AffuseError, match="state of shape"):
        lif.__wrapped__(currents(2, 3), torch.zeros(1))  # without the checks of types that these tests add


def test_neither_inputs_nor_state_are_written_to(form):
    inputs, state = currents(4, 3, 9), currents(3, 9)
    before = inputs.clone(), state.clone()
    run(inputs, state, torch.float32, form)
    _, last = lif(inputs[:0], state, form=form)
    last += 1
    assert torch.equal(inputs, before[0])
    assert torch.equal(state, before[1])


def test_more_neurons_than_a_block_takes_agree_with_the_reference(fast):
    inputs, state = currents(3, 2 * module.BLOCK + 5), currents(2 * module.BLOCK + 5, seed=1)
    ours, plain = (run(inputs, state, torch.float32, which) for which in (fast, "reference"))
    assert torch.equal(ours[0], plain[0])
    torch.testing.assert_close(ours[2], plain[2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("vectors", ["plain", "avx2", "avx512"])
@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_native_code_of_every_vector_width_fires_as_the_reference(monkeypatch, vectors, reset):
    available("native")
    monkeypatch.setenv("AFFUSE_VECTORS", vectors)
    if native.instructions() != vectors:
        pytest.skip(f"this processor has no {vectors}")
    for neurons in (1, 3, 8, 31, 1024, 1040, 2500):
        inputs, state = currents(5, neurons, seed=neurons), currents(neurons, seed=1)
        for surrogate in SURROGATES:
            keywords = {"tau": 0.7, "reset": reset, "surrogate": surrogate, "alpha": 3.0}
            ours, plain = (run(inputs, state, torch.float32, form, **keywords) for form in ("native", "reference"))
            assert torch.equal(ours[0], plain[0])
            assert torch.equal(ours[1], plain[1])
            for mine, theirs in zip(ours[2:], plain[2:], strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("vectors", ["plain", "avx2", "avx512"])
@pytest.mark.parametrize("neurons", [600_000, 600_001], ids=["stored past the cache", "rows are not whole vectors"])
def test_what_is_larger_than_the_cache_is_right_too(monkeypatch, vectors, neurons):
    available("native")
    monkeypatch.setenv("AFFUSE_VECTORS", vectors)
    if native.instructions() != vectors:
        pytest.skip(f"this processor has no {vectors}")
    inputs, state = currents(4, neurons), currents(neurons, seed=1)
    ours, plain = (run(inputs, state, torch.float32, form) for form in ("native", "fused"))
    assert torch.equal(ours[0], plain[0])
    assert torch.equal(ours[1], plain[1])
    torch.testing.assert_close(ours[2], plain[2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("neurons", [300_001, 800_000])
def test_threads_change_nothing(neurons):
    available("native")
    inputs, state = currents(3, neurons), currents(neurons, seed=1)
    assert inputs.numel() > module.ENOUGH
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = run(inputs, state, torch.float32, "native")
        torch.set_num_threads(3)
        three = run(inputs, state, torch.float32, "native")
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


def test_thousands_of_steps_agree_with_the_reference(fast):
    inputs, state = currents(4000, 70, scale=0.4), torch.zeros(70)
    ours, plain = (run(inputs, state, torch.float32, which, tau=0.9) for which in (fast, "reference"))
    assert torch.equal(ours[0], plain[0])
    torch.testing.assert_close(ours[2], plain[2], rtol=1e-4, atol=1e-4)


def test_operators_pass_the_checks_of_pytorch_for_custom_operators(fast):
    inputs, state = currents(3, 2, 5).requires_grad_(), currents(2, 5).requires_grad_()
    settings = (0.5, 1.0, False, "triangle", 1.0, False, fast)
    torch.library.opcheck(torch.ops.affuse.lif.default, (inputs, state, *settings))
    torch.library.opcheck(torch.ops.affuse.lif.default, (inputs, None, *settings))


COMPILED = """
import torch
from affuse.ops.lif import FORMS, lif, native_is_built

class Layer(torch.nn.Module):
    def __init__(self, form):
        super().__init__()
        self.form = form
    def forward(self, x):
        return lif(2 * x, form=self.form)[0] + 1

x = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0))
for form in ["auto", "fused"] + ["native"] * native_is_built()[0]:
    layer = Layer(form)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    one, other = (x.clone().requires_grad_() for _ in range(2))
    assert torch.equal(compiled(one), layer(other))
    compiled(one).sum().backward()
    layer(other).sum().backward()
    torch.testing.assert_close(one.grad, other.grad)
    program = torch.export.export(layer, (x,))
    assert torch.equal(program.module()(x), layer(x))
    assert "affuse.lif" in str(program.graph)
print("passed")
"""


def test_compiled_and_exported_modules_pass_through():
    """In a process of its own: the checks of types in this one are what the compiler cannot read."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert done.stdout.strip() == "passed", done.stderr


def test_the_environment_chooses_the_form(monkeypatch):
    monkeypatch.delenv("AFFUSE_LIF", raising=False)
    assert active_form()[0] == ("native" if module.native_is_built()[0] else "fused")
    monkeypatch.setenv("AFFUSE_LIF", "reference")
    assert active_form() == ("reference", "AFFUSE_LIF=reference")
    inputs = currents(4, 3)
    assert torch.equal(lif(inputs)[0], lif_reference(inputs)[0])
    monkeypatch.setenv("AFFUSE_LIF", "fastest")
    with pytest.raises(AffuseError, match="fastest"):
        lif(inputs)


def test_a_form_that_is_not_built_is_an_error_and_not_another_form(monkeypatch):
    monkeypatch.setattr(module, "native_is_built", lambda: (False, "the native extension is not built"))
    monkeypatch.setenv("AFFUSE_LIF", "native")
    with pytest.raises(AffuseError, match="not built"):
        active_form()


def test_the_native_form_refuses_what_it_is_not_for():
    with pytest.raises(AffuseError, match="float64"):
        lif(currents(2, 3).double(), form=available("native"))


@pytest.mark.parametrize(
    ("reset", "surrogate", "alpha", "named"),
    [
        ("none", "triangle", 1.0, "reset"),
        ("hard", "gauss", 1.0, "surrogate"),
        ("soft", "arctan", 0.0, "alpha"),
        ("soft", "arctan", math.nan, "alpha"),
    ],
)
def test_settings_that_mean_nothing_are_errors_that_name_them(reset, surrogate, alpha, named):
    with pytest.raises(AffuseError, match=named):  # the check itself: types are enforced before it in these tests
        module._check(reset, surrogate, alpha)
