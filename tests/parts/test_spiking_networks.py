"""Every spiking network: spikes are 0 or 1, steps add up to the sequence, state is nobody's secret, gradients arrive."""

import copy

import pytest
import torch
from torch import Tensor, nn

from affuse import AffuseError
from affuse.parts.spiking import (
    Neuron,
    SpikingConvNet,
    SpikingMLP,
    SpikingRecurrentNet,
    SpikingResNet18,
    ThresholdBatchNorm,
)

NETWORKS = {
    "convolutions": (lambda neuron: SpikingConvNet(2, (12, 10), 6, neuron, (4, 8)), (2, 12, 10)),
    "convolutions, mean": (lambda neuron: SpikingConvNet(2, 9, 6, neuron, (4, 8), pooling="average"), (2, 9, 9)),
    "recurrent": (lambda neuron: SpikingRecurrentNet(7, 6, neuron, (10, 8)), (7,)),
    "plain": (lambda neuron: SpikingMLP(7, 6, neuron, (10,)), (7,)),
    "resnet": (lambda neuron: SpikingResNet18(2, 6, neuron, base=4), (2, 12, 10)),
    "resnet, large images": (lambda neuron: SpikingResNet18(2, 6, neuron, base=4, stem="7x7"), (2, 24, 20)),
}


@pytest.fixture(params=NETWORKS)
def named(request: pytest.FixtureRequest) -> str:
    return request.param


def build(named: str, kind: str = "lif") -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[named][0](Neuron(kind=kind)).double()


def inputs(named: str, t: int = 5, b: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(t, b, *NETWORKS[named][1], dtype=torch.float64, generator=generator)


def trained(named: str, kind: str = "lif") -> nn.Module:
    """In evaluation mode, with running statistics that are not those of a fresh network."""
    net = build(named, kind)
    for module in net.modules():
        if isinstance(module, ThresholdBatchNorm):
            module.momentum = 0.6  # a few batches must do
    with torch.no_grad():
        for seed in range(5):
            net(inputs(named, seed=seed))
    return net.eval()


def flat(state: object) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else [tensor for part in state for tensor in flat(part)]


def test_features_are_spikes_of_the_width_promised(named):
    net = build(named)
    features, _ = net(inputs(named))
    assert features.shape == (5, 4, net.width)
    assert set(features.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("kind", ["lif", "relu"])
def test_single_steps_add_up_to_the_whole_sequence(named, kind):
    net, x = trained(named, kind), inputs(named, t=6, seed=99)
    whole, last = net(x)
    assert whole.any()
    for cuts in ([1] * 6, [2, 4]):
        state, parts = None, []
        for piece in x.split(cuts):
            features, state = net(piece, state)
            parts.append(features)
        torch.testing.assert_close(torch.cat(parts), whole)
        for a, b in zip(flat(state), flat(last), strict=True):
            torch.testing.assert_close(a, b)


def test_no_state_is_the_same_as_all_zeros_and_the_state_matters(named):
    net, x = trained(named), inputs(named)
    rested, state = net(x)

    def zeros(part):
        return torch.zeros_like(part) if isinstance(part, Tensor) else tuple(zeros(inner) for inner in part)

    assert torch.equal(net(x, zeros(state))[0], rested)
    assert any(not torch.equal(a, b) for a, b in zip(flat(net(x, state)[1]), flat(state), strict=True))


@pytest.mark.parametrize("training", [True, False])
def test_nothing_passes_from_one_call_to_the_next(named, training):
    """Fails if a module kept its potentials: the second call of a used network is compared with a fresh copy's first."""
    net = trained(named)
    fresh = copy.deepcopy(net).train(training)
    net.train(training)
    with torch.no_grad():
        before = {name: value.clone() for name, value in net.state_dict().items()}
        net(5 * inputs(named, seed=1))
        net.load_state_dict(before)  # running statistics are meant to be kept, potentials are not
        x = inputs(named, b=4, seed=2)
        assert torch.equal(net(x)[0], fresh(x)[0])
        smaller = inputs(named, b=3, seed=3)
        assert net(smaller)[0].shape[1] == 3
    kept = {name for module in net.modules() for name, value in vars(module).items() if isinstance(value, Tensor)}
    assert not kept


def test_a_state_that_was_handed_in_is_left_as_it_was(named):
    net, x = trained(named), inputs(named)
    _, state = net(x)
    copies = [tensor.clone() for tensor in flat(state)]
    net(x, state)
    assert all(torch.equal(a, b) for a, b in zip(flat(state), copies, strict=True))


def test_one_stream_does_not_feel_the_others(named):
    net, x = trained(named), inputs(named)
    other = x.clone()
    other[:, 1:] = 0.0
    torch.testing.assert_close(net(x)[0][:, 0], net(other)[0][:, 0])


@pytest.mark.parametrize("kind", ["lif", "relu"])
def test_gradients_reach_every_parameter_and_the_input(named, kind):
    net, x = build(named, kind), inputs(named, b=6).requires_grad_()
    features, _ = net(x)
    (features * torch.randn(features.shape, dtype=features.dtype)).sum().backward()
    silent = [name for name, parameter in net.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert silent == []
    assert x.grad.any() and x.grad.isfinite().all()


def test_the_twin_has_the_same_parameters_and_takes_their_values(named):
    spiking, twin = build(named), build(named, "relu")
    twin.load_state_dict(spiking.state_dict())
    assert {n: p.shape for n, p in spiking.named_parameters()} == {n: p.shape for n, p in twin.named_parameters()}
    features, _ = twin(inputs(named))
    assert len(features.unique()) > 2 and features.min() == 0


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("t", "b"), [(0, 4), (3, 0), (1, 1), (4, 1)])
def test_no_step_no_stream_and_a_single_one_are_answered(named, training, t, b):
    net, x = build(named).train(training), inputs(named, t, b).requires_grad_()
    features, state = net(x)
    assert features.shape == (t, b, net.width)
    features.sum().backward()
    again, _ = net(inputs(named, 2, b), state)
    assert again.shape == (2, b, net.width)


def test_no_step_leaves_the_state_as_it_was(named):
    net = trained(named)
    _, state = net(inputs(named))
    _, after = net(inputs(named, t=0), state)
    assert all(torch.equal(a, b) for a, b in zip(flat(after), flat(state), strict=True))


def test_silence_never_fires_in_a_fresh_network(named):
    features, _ = build(named).eval()(torch.zeros(6, 2, *NETWORKS[named][1], dtype=torch.float64))
    assert not features.any()


def test_weights_run_once_over_all_steps():
    net, calls = SpikingConvNet(2, 12, 6, Neuron(), (4, 8)), []
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    net(torch.rand(5, 3, 2, 12, 12))
    assert calls == [15, 15, 15]


def test_a_recurrent_layer_hears_its_own_spikes_one_step_later():
    net = SpikingRecurrentNet(2, 3, Neuron(), (4,)).eval()
    layer = net.layers[0]
    with torch.no_grad():
        layer.forwards.weights.weight.zero_()
        layer.recurrent.weight.copy_(2 * torch.eye(4).roll(1, 0))  # each neuron drives the next over its threshold
        _, (v, _) = layer(torch.zeros(0, 1, 2))
        spikes, _ = layer(torch.zeros(5, 1, 2), (v, torch.tensor([[1.0, 0, 0, 0]])))
    assert spikes[:, 0].argmax(1).tolist() == [1, 2, 3, 0, 1]
    assert spikes.sum((1, 2)).tolist() == [1.0] * 5


def test_an_input_of_another_shape_is_named():
    with pytest.raises(AffuseError, match=r"images \(c, h, w\) of \(2, 12, 12\), got \(2, 12, 11\)"):
        SpikingConvNet(2, 12, 6, None, (4,))(torch.zeros(1, 1, 2, 12, 11))
    with pytest.raises(AffuseError, match="vectors of 7 features, got 8"):
        SpikingMLP(7, 6)(torch.zeros(1, 1, 8))
    with pytest.raises(AffuseError, match="vectors of 7 features, got 8"):
        SpikingRecurrentNet(7, 6)(torch.zeros(1, 1, 8))
    with pytest.raises(AffuseError, match="images of 3 channels, got 1"):
        SpikingResNet18(3, 6, base=2)(torch.zeros(1, 1, 1, 8, 8))


def test_an_image_too_small_to_be_halved_is_refused():
    with pytest.raises(AffuseError, match="7 x 7 cannot be halved 3 times"):
        SpikingConvNet(2, 7, 6)


def test_resnet_18_has_the_convolutions_of_resnet_18():
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        theirs = timm.create_model("resnet18", pretrained=False, num_classes=0, in_chans=2)
        ours = SpikingResNet18(2, 128, stem="7x7")

    def shapes(net: nn.Module) -> list[tuple[int, ...]]:
        return sorted(tuple(m.weight.shape) + m.stride for m in net.modules() if isinstance(m, nn.Conv2d))

    assert shapes(ours) == shapes(theirs)
