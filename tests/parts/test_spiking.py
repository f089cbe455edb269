"""Layers of spiking neurons: closed forms, other libraries' neurons, and the normalisation before them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affuse import AffuseError
from affuse.ops.spike_encoding import direct
from affuse.parts.spiking import Neuron, Neurons, SpikingLayer, ThresholdBatchNorm
from affuse.parts.spiking.neurons import currents


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 1.2 * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.4


@given(current=st.floats(0.01, 5), tau=st.floats(0, 0.95))
@settings(max_examples=60)
def test_a_constant_current_is_answered_as_equations_1_to_3_say_in_closed_form(current, tau):
    """From rest u_n = I (1 - tau^n) / (1 - tau), so the neuron fires every n-th step, n the first with u_n > 1, or never."""
    potentials = [current * (1 - tau**n) / (1 - tau) for n in range(1, 31)]
    if any(abs(u - 1) < 1e-9 for u in potentials):
        return  # at the threshold itself rounding decides
    period = next((n for n, u in enumerate(potentials, 1) if u > 1), None)
    expected = [float(period is not None and t % period == 0) for t in range(1, 31)]
    spikes, v = Neurons(Neuron(tau=tau))(torch.full((30, 1), current, dtype=torch.float64))
    assert spikes[:, 0].tolist() == expected
    since = 30 if period is None else 30 % period
    assert v.item() == pytest.approx(potentials[since - 1] if since else 0.0, abs=1e-12)


def test_a_potential_at_the_threshold_is_silent():
    spikes, v = Neurons(Neuron())(torch.tensor([[1.0, 1.0001]]))
    assert spikes.tolist() == [[0.0, 1.0]]
    assert v.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("detach_reset", [False, True])
def test_spikes_and_gradients_are_those_of_spikingjellys_lif_node(detach_reset):
    reason = "spikingjelly is not installed (extra bench)"
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron", reason=reason)
    surrogate = pytest.importorskip("spikingjelly.activation_based.surrogate", reason=reason)
    node = neuron.LIFNode(
        tau=2.0, decay_input=False, surrogate_function=surrogate.ATan(2.0), detach_reset=detach_reset, step_mode="m"
    )
    x = noise(12, 3, 7).requires_grad_()
    theirs = node(x)
    y = x.detach().clone().requires_grad_()
    ours, last = Neurons(Neuron(surrogate="arctan", alpha=2.0, detach_reset=detach_reset))(y)
    assert torch.equal(ours, theirs)
    torch.testing.assert_close(last, node.v)
    theirs.cumsum(0).square().sum().backward()
    ours.cumsum(0).square().sum().backward()
    torch.testing.assert_close(y.grad, x.grad)


def test_spikes_and_gradients_are_those_of_snntorchs_leaky_where_it_resets_at_once_to_zero():
    snntorch = pytest.importorskip("snntorch", reason="snntorch is not installed (extra dev)")
    leaky = snntorch.Leaky(
        beta=0.5,
        threshold=1.0,
        reset_mechanism="zero",
        reset_delay=False,
        spike_grad=snntorch.surrogate.atan(alpha=2.0),
    )
    x = noise(12, 3, 7).requires_grad_()
    mem, spikes = torch.zeros(3, 7, dtype=torch.float64), []
    for step in x:
        spike, mem = leaky(step, mem)
        spikes.append(spike)
    theirs = torch.stack(spikes)
    y = x.detach().clone().requires_grad_()
    ours, last = Neurons(Neuron(surrogate="arctan", alpha=2.0))(y)
    assert 0.1 < ours.mean() < 0.9
    assert torch.equal(ours, theirs)
    torch.testing.assert_close(last, mem)
    theirs.cumsum(0).square().sum().backward()
    ours.cumsum(0).square().sum().backward()
    torch.testing.assert_close(y.grad, x.grad)


def test_the_twin_is_a_rectifier_with_an_empty_state():
    x = noise(4, 3, 5)
    y, state = Neurons(Neuron(kind="relu"))(x)
    assert torch.equal(y, x.clamp(min=0))
    assert state.shape == (3, 0)


@pytest.mark.parametrize("shape", [(5, 6, 3), (4, 3, 3, 2, 2)])
def test_threshold_norm_gives_currents_the_deviation_share_times_threshold(shape):
    norm = ThresholdBatchNorm(3, threshold=0.7, share=1 / math.sqrt(2)).double()
    y = norm(5 * noise(*shape) + 3).transpose(0, 2).flatten(1)  # d (b t ...)
    torch.testing.assert_close(y.mean(1), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(y.std(1, correction=0), torch.full((3,), 0.7 / math.sqrt(2)).double(), rtol=1e-5, atol=0)


def test_threshold_norm_is_batch_norm_over_batch_and_time_where_the_threshold_is_one():
    ours, theirs = ThresholdBatchNorm(3).double(), torch.nn.BatchNorm2d(3).double()
    for seed in range(3):
        x = noise(4, 5, 3, 2, 2, seed=seed)
        torch.testing.assert_close(ours(x), theirs(x.flatten(0, 1)).unflatten(0, (4, 5)))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x.flatten(0, 1)).unflatten(0, (4, 5)))


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 1, 3), (0, 4, 3), (4, 0, 3)])
def test_one_stream_or_none_in_training_takes_running_statistics_and_leaves_them_alone(shape):
    norm = ThresholdBatchNorm(3, 0.5)
    norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    before = norm.running_mean.clone(), norm.running_var.clone()
    y = norm(torch.full(shape, 4.0))
    torch.testing.assert_close(y, (0.5 * (4 - before[0])).expand(shape), rtol=1e-4, atol=1e-5)
    assert torch.equal(norm.running_mean, before[0]) and torch.equal(norm.running_var, before[1])


@pytest.mark.parametrize("training", [True, False])
def test_a_standing_picture_is_weighted_once_with_equal_values_and_gradients(training):
    layer = SpikingLayer(torch.nn.Conv2d(2, 4, 3, bias=False), 4, Neuron()).double().train(training)
    rows = []
    layer.weights.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    picture = noise(3, 2, 6, 6)
    results = []
    for x in (direct(picture, 5), direct(picture, 5).contiguous()):
        layer.zero_grad()
        y = currents(x, layer.weights, layer.norm)
        y.square().sum().backward()
        results.append((y, layer.weights.weight.grad.clone()))
    assert rows == [3, 15]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"kind": "izhikevich"}, "kind 'izhikevich'"),
        ({"reset": "none"}, "reset 'none'"),
        ({"surrogate": "square"}, "surrogate 'square'"),
        ({"tau": 2.0}, "tau is the share"),
        ({"threshold": 0.0}, "threshold must be positive"),
        ({"alpha": -1.0}, "alpha must be positive"),
    ],
)
def test_a_setting_that_no_neuron_has_is_named(settings, named):
    with pytest.raises(AffuseError, match=named):
        # Object creation as a recipe reader does it, past the shape checker of these tests.
        neuron = object.__new__(Neuron)
        for name, value in {**{f: getattr(Neuron(), f) for f in Neuron.__dataclass_fields__}, **settings}.items():
            object.__setattr__(neuron, name, value)
        neuron.__post_init__()
