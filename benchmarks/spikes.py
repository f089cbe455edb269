"""Multi-step leaky integrate-and-fire, forward and backward: ours beside spikingjelly and snntorch, in turns.

    python benchmarks/spikes.py [--threads 1] [--rounds 15] [--out benchmarks/spikes.json]

spikingjelly's LIFNode in multi-step mode is the same neuron (tau 2, inputs not decayed, hard reset, arctan), and its spikes
and gradients are compared before timing. snntorch's Leaky resets one step later: its time is comparable, its spikes are
not. A copy of the input is the floor of a forward pass. Float32.
"""

import argparse
from pathlib import Path

import torch
from side_by_side import ratio, side_by_side, table, write
from torch import Tensor

from affuse.ops.lif import lif, native_is_built

HERE = Path(__file__).parent
SHAPES = [(4, 16, 64, 32, 32), (4, 1, 64, 32, 32), (4, 16, 512)]
OURS = {"tau": 0.5, "surrogate": "arctan", "alpha": 2.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=HERE / "spikes.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows: list[dict] = []
    for shape in SHAPES:
        inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 0.3
        grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        neurons = peers() | ours()
        check(neurons, inputs, grad)
        for mode in ("forward", "forward + backward"):
            ways = {name: way(neuron, mode, inputs, grad) for name, neuron in neurons.items()}
            if mode == "forward":
                ways["copy"] = inputs.clone
            times = side_by_side(ways, arguments.rounds)
            for name in times:
                spikingjelly, floor = ratio(times["spikingjelly"], times[name]), times.get("copy")
                row = {"shape": list(shape), "mode": mode, "way": name, "ms": 1e3 * times[name].median}
                row["spikingjelly over this"] = [spikingjelly.median, spikingjelly.low, spikingjelly.high]
                if floor is not None:
                    over = ratio(times[name], floor)
                    row["this over copy"] = [over.median, over.low, over.high]
                rows.append(row)
    write(arguments.out, rows)
    cells = [
        [
            str(r["shape"]),
            r["mode"],
            r["way"],
            f"{r['ms']:.3f}",
            told(r["spikingjelly over this"]),
            told(r["this over copy"]) if "this over copy" in r else "",
        ]
        for r in rows
    ]
    print(f"threads {arguments.threads}; medians over {arguments.rounds} rounds, ratios with quartiles")
    print(table(["t, b, ...", "mode", "way", "ms", "spikingjelly / this", "this / copy"], cells))


def told(values: list[float]) -> str:
    return "{:.2f} ({:.2f} to {:.2f})".format(*values)


def ours() -> dict:
    forms = ["reference", "fused"] + ["native"] * native_is_built()[0]
    return {f"affuse {form}": lambda x, form=form: lif(x, form=form, **OURS)[0] for form in forms}


def peers() -> dict:
    import snntorch
    from spikingjelly.activation_based import neuron, surrogate

    node = neuron.LIFNode(
        tau=2.0, decay_input=False, v_reset=0.0, surrogate_function=surrogate.ATan(alpha=2.0), step_mode="m"
    )
    leaky = snntorch.Leaky(beta=0.5, threshold=1.0, spike_grad=snntorch.surrogate.atan(alpha=2.0))

    def spikingjelly(x: Tensor) -> Tensor:
        node.reset()
        return node(x)

    def snn(x: Tensor) -> Tensor:
        mem, spikes = torch.zeros_like(x[0]), []
        for x_t in x:
            spike, mem = leaky(x_t, mem)
            spikes.append(spike)
        return torch.stack(spikes)

    return {"spikingjelly": spikingjelly, "snntorch (other reset)": snn}


def way(neuron, mode: str, inputs: Tensor, grad: Tensor):
    if mode == "forward":

        def forward() -> Tensor:
            with torch.no_grad():
                return neuron(inputs)

        return forward
    leaf = inputs.clone().requires_grad_()
    return lambda: torch.autograd.grad(neuron(leaf), leaf, grad)


def check(neurons: dict, inputs: Tensor, grad: Tensor) -> None:
    """Spikes equal to spikingjelly's, gradients to 1e-5, for every form of ours; else there is nothing to time."""
    found = {}
    for name, neuron in neurons.items():
        leaf = inputs.clone().requires_grad_()
        spikes = neuron(leaf)
        found[name] = spikes.detach(), torch.autograd.grad(spikes, leaf, grad)[0]
    for name in found:
        if name.startswith("affuse"):
            assert torch.equal(found[name][0], found["spikingjelly"][0]), f"{name}: other spikes"
            torch.testing.assert_close(found[name][1], found["spikingjelly"][1], rtol=1e-5, atol=1e-5)


if __name__ == "__main__":
    main()
