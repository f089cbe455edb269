"""energy: what the operations of a run's system would cost on its own test data, beside its non-spiking twin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Subset

from affuse import evaluate, report, runs
from affuse.data.splits import SampleSource
from affuse.energy.count import Counts, count
from affuse.types import AffuseError, System

ENERGY = "energy.json"
BATCH = 16  # samples at once: all steps of a layer are held together
HOROWITZ = (
    "45 nm CMOS, 32-bit floating point: multiply 3.7 pJ, add 0.9 pJ (M. Horowitz, Computing's energy problem (and what we can "
    "do about it), ISSCC 2014)"
)
NOTES = (
    "An estimate of arithmetic alone: memory traffic, control and leakage are left out, and may cost more than the arithmetic.",
    "Batch normalisation and biases are folded into weights and thresholds at inference, and cost nothing here; nor do other "
    "normalisations, pooling and activations.",
    "What a system answers beside the fused answer, such as each modality's own, is counted where it runs layers for it.",
    "A layer accumulates (AC) where all it saw was exactly 0 or 1: one accumulate for each output that a spike touches.",
    "The first layer of each branch multiplies and accumulates (MAC), whatever its input.",
    "An update of a neuron's potential is one multiply-accumulate a neuron and step.",
)


@dataclass(frozen=True)
class Constants:
    """Energy of one operation, in picojoules.

    Args:
        mac_pj: a multiply-accumulate.
        ac_pj: an accumulate.

    Raises:
        AffuseError: a constant that is no energy.
    """

    mac_pj: float = 4.6
    ac_pj: float = 0.9

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value > 0):
                raise AffuseError(f"--{name.replace('_', '-')}: an energy in picojoules is above 0, got {value:g}")

    @property
    def source(self) -> str:
        """Where the numbers come from."""
        return HOROWITZ if self == Constants() else "given by the user"


def energy(
    path: str | Path,
    split: str = "test",
    samples: int | None = None,
    constants: Constants = Constants(),
    neuron_updates: bool = False,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Count the operations of a run's system on real samples, write ``energy.json``, and the report again if there is one.

    Args:
        path: the run folder.
        split: ``train``, ``validation`` or ``test``.
        samples: how many, evenly spaced over the split; by default all.
        constants: energy of each operation.
        neuron_updates: whether the totals include updates of neurons' potentials; they are listed in any case.
        overrides: such as ``--data.root DIR``.

    Returns:
        What the file holds: ``network`` and, where the system has one, ``twin`` as of `estimate`, and the settings.

    Raises:
        AffuseError: the run or the data cannot be read, the data asks something else than the run answers, there are no
            samples, or a setting makes no sense.
    """
    if samples is not None and samples < 1:
        raise AffuseError(f"--samples is a number from 1 up, got {samples}")
    run = runs.load_run(path, overrides)
    splits = run.recipe.data.splits(run.recipe.training.seed)
    if splits.task != run.system.task:
        raise AffuseError(
            f"{path}: the data asks another task than this run answers: give data with the task of the run"
        )
    sources: dict[str, SampleSource] = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    if split not in sources:
        raise AffuseError(f"--split {split!r} is unknown: use {', '.join(sources)}")
    source = sources[split]
    if not len(source):
        raise AffuseError(f"{path}: the split {split!r} has no samples to count on; choose another with --split")
    chosen = min(samples or len(source), len(source))
    some: Any = Subset(source, [i * len(source) // chosen for i in range(chosen)])  # type: ignore[arg-type]
    batch_size = min(BATCH, run.recipe.training.batch_size)

    def run_over(system: System, spiking: bool) -> dict[str, Any]:
        counts = count(system, evaluate.batches(some, system, batch_size))
        return estimate(counts, constants, neuron_updates, spiking)

    network = run_over(run.system, True)
    twin = twin_of(run.system)
    result = {
        "system": run.recipe.system_name,
        "split": split,
        "samples": chosen,
        "synthetic": splits.synthetic,
        "constants": {**asdict(constants), "source": constants.source},
        "neuron_updates_included": neuron_updates,
        "notes": list(NOTES),
        "network": network,
        "twin": None if twin is None else run_over(twin, False),
    }
    runs.write_json(run.path / ENERGY, result)
    if (run.path / "report.html").is_file():
        report.write_report(run.path)
    return result


def twin_of(system: System) -> System | None:
    """The same network of non-spiking neurons, where the system can make it; its counts depend on shapes alone."""
    make = getattr(system, "twin", None)
    return None if make is None else make()


def estimate(counts: Counts, constants: Constants, neuron_updates: bool, spiking: bool = True) -> dict[str, Any]:
    """Energy from counts, as plain JSON values, all per sample.

    Args:
        counts: of the network.
        constants: energy of each operation.
        neuron_updates: whether the total includes them.
        spiking: false for the non-spiking twin, all of whose layers multiply: a unit of it that gives 0 or 1 does so by
            accident.

    Returns:
        ``layers``: of each its name, kind, ``steps`` (how often it ran), ``input_rate`` (share of its inputs that were not 0;
        of an AC layer the firing rate), ``mac``, ``ac``, ``dense_mac`` (the ordinary form) and ``energy_pj``. ``neurons``: of
        each layer of them its name, ``steps``, ``firing_rate``, ``updates`` and ``energy_pj``. ``total``: the sums, with
        ``single_step_pj``, the energy if each layer that ran at all steps ran only at one: what a non-spiking network
        needs of a picture that stands still. ``uncounted`` and ``not_run`` as in `Counts`.
    """
    n = counts.samples
    layers: list[dict[str, Any]] = []
    single_pj = 0.0
    steps_of = {neurons.rows: neurons.rows / neurons.streams for neurons in counts.neurons if neurons.streams}
    for layer in counts.layers:
        accumulates = spiking and layer.kind == "AC"
        mac, ac = (0, layer.synaptic) if accumulates else (layer.dense, 0)
        pj = (mac * constants.mac_pj + ac * constants.ac_pj) / n
        single_pj += pj / steps_of.get(layer.rows, 1)
        layers.append(
            {
                "name": layer.name,
                "kind": "AC" if accumulates else "MAC",
                "first": layer.first,
                "steps": layer.rows / n,
                "input_rate": layer.nonzero / layer.inputs if layer.inputs else 0.0,
                "mac": mac / n,
                "ac": ac / n,
                "dense_mac": layer.dense / n,
                "energy_pj": pj,
            }
        )
    neurons: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "steps": entry.rows / n,
            "firing_rate": entry.spikes / entry.outputs if entry.outputs else 0.0,
            "updates": entry.updates / n,
            "energy_pj": entry.updates * constants.mac_pj / n,
        }
        for entry in counts.neurons
    ]
    total: dict[str, float] = {
        key: sum(entry[key] for entry in layers) for key in ("mac", "ac", "dense_mac", "energy_pj")
    }
    updates_pj = sum(entry["energy_pj"] for entry in neurons)
    if neuron_updates:
        total["energy_pj"] += updates_pj
    total |= {
        "neuron_updates": sum(entry["updates"] for entry in neurons),
        "neuron_updates_pj": updates_pj,
        "single_step_pj": single_pj,
    }
    return {
        "layers": layers,
        "neurons": neurons,
        "total": total,
        "uncounted": counts.uncounted,
        "not_run": counts.not_run,
    }
