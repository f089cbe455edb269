"""Which systems each balancing method takes, and that the others are refused with what they lack."""

from typing import Any

import pytest
import torch

from affuse import AffuseError, Batch, Sample, System, Task
from affuse.balance import METHODS, balancing
from affuse.balance.base import Balance
from affuse.parts.spiking import Neuron
from affuse.systems import SYSTEMS
from affuse.systems.taaf import Encoder

TASK = Task("classification", ("calm", "tense", "away"))
WIDTHS = {"text": 6, "audio": 3, "video": 4}
HIDDEN = {"hidden": {"text": 8, "audio": 6, "video": 7}}
SMALL: dict[str, dict[str, Any]] = {
    "mco_e": {"encoder": "small", "d_model": 16, "d_state": 4, "heads": 2, "experts": 4},
    "emoe": {"widths": WIDTHS, "d_model": 16, "heads": 2, "layers": 1, "router_width": 8},
    "taaf": {
        "encoders": {name: Encoder("mlp", features=width, layers=()) for name, width in WIDTHS.items()},
        "width": 16,
        "neuron": Neuron(tau=0.9),  # nothing untrained stays silent
    },
    "ef_lstm": {"widths": WIDTHS, "hidden": 8, "layers": 1},
    "lf_dnn": {"widths": WIDTHS, **HIDDEN, "fusion": 8},
    "tfn": {"widths": WIDTHS, **HIDDEN, "outputs": {}, "fusion": 8},
    "lmf": {"widths": WIDTHS, **HIDDEN, "outputs": {}},
    "mfn": {"widths": WIDTHS, **HIDDEN, "memory": 8, "gates": (8, 8), "output": 8},
    "mult": {"widths": WIDTHS, "width": 8, "heads": 2, "layers": 1, "own_layers": 1},
    "misa": {"widths": WIDTHS, "hidden": 8},
    "self_mm": {"widths": WIDTHS, **HIDDEN, "alone": HIDDEN["hidden"], "fusion": 8},
    "mag_bert": {"widths": WIDTHS, "text_width": 8, "layers": 1},
    "unimodal": {"widths": WIDTHS, "hidden": 8, "fusion": 8},
    "mome": {"modalities": ("rgb", "infrared"), "width": 16, "heads": 2, "layers": 1, "gate_width": 8},
    "r2plus1d_18": {"widths": (4, 6, 8, 10), "frames": 4},
    "r3d_18": {"widths": (4, 6, 8, 10), "frames": 4},
    "resnet18_lstm": {"encoder": "small", "hidden": 8},
    "resnet18_gru": {"encoder": "small", "hidden": 8},
    "former_dfer": {
        "widths": (4, 6, 8, 12),
        "grid": 2,
        "spatial_heads": 2,
        "temporal_heads": 2,
        "temporal_layers": 1,
    },
    "fer_ssm": {
        "modalities": ("face",),
        "encoder": "small",
        "d_model": 16,
        "d_state": 4,
        "heads": 2,
        "classifier": (8,),
    },
}
# OGM-GE asks for logits of each modality alone and modules of its own, PMR for features of each alone, AGM for the modules.
TAKES: dict[str, set[str]] = {
    "mco_e": {"agm"},
    "emoe": {"ogm_ge", "pmr", "agm"},
    "taaf": {"ogm_ge", "pmr", "agm"},
    "ef_lstm": set(),
    "lf_dnn": {"pmr", "agm"},
    "tfn": {"pmr", "agm"},
    "lmf": {"pmr", "agm"},
    "mfn": {"pmr", "agm"},
    "mult": {"agm"},
    "misa": {"pmr", "agm"},
    "self_mm": {"ogm_ge", "pmr", "agm"},
    "mag_bert": {"agm"},
    "unimodal": set(),
    "mome": {"ogm_ge", "pmr", "agm"},
    "fer_ssm": set(),
    "r2plus1d_18": set(),
    "r3d_18": set(),
    "resnet18_lstm": set(),
    "resnet18_gru": set(),
    "former_dfer": set(),
}
LACKS = {"ogm_ge": "Output.unimodal", "pmr": "aux features/NAME", "agm": "modality_parts"}
OURS = set(SYSTEMS)  # before any test adds one
HAVE_PARTS = sorted(name for name, methods in TAKES.items() if "agm" in methods)


def made(name: str) -> System:
    torch.manual_seed(0)
    return SYSTEMS[name](SYSTEMS[name].Config(**SMALL[name]), TASK)


def batch_for(system: System) -> Batch:
    generator = torch.Generator().manual_seed(1)
    shapes: dict[str, tuple[int, ...]] = {"rgb": (3, 3, 32, 32), "event": (3, 3, 32, 32), "infrared": (3, 1, 32, 32)}
    shapes["face"] = (3, 3, 32, 32)
    shapes |= {name: (5, width) for name, width in WIDTHS.items()}
    samples = [
        Sample({name: torch.randn(shapes[name], generator=generator) for name in system.modalities}, target=index % 3)
        for index in range(6)
    ]
    return Batch.collate(samples, system.modalities)


def method(name: str) -> Balance:
    return balancing(METHODS[name]())


def test_every_system_and_method_is_on_the_list() -> None:
    assert set(TAKES) == set(SMALL) == OURS
    assert set().union(*TAKES.values()) == set(LACKS) == set(METHODS)


@pytest.mark.parametrize(("system_name", "name"), [(s, m) for s, methods in TAKES.items() for m in sorted(methods)])
def test_a_method_takes_a_system_and_gives_it_finite_gradients(system_name: str, name: str) -> None:
    system, balance = made(system_name).train(), method(name)
    batch = batch_for(system)
    balance.check(system, batch)
    output = system(batch)
    terms = system.loss(output, batch)
    extra = balance.loss(system, output, batch)
    sum(extra.values(), terms["total"]).backward()
    for own, parameters in balance.parameters_of(system).items():
        found = [balance.modulated(p.grad, own) for p in parameters if p.grad is not None]
        assert found
        assert all(gradient.isfinite().all() for gradient in found)
    assert balance.parameters_of(system) or "parts" not in balance.needs
    assert set(balance.coefficients) == (set() if name == "pmr" else set(system.modalities))


@pytest.mark.parametrize(
    ("system_name", "name"), [(s, m) for s, methods in TAKES.items() for m in METHODS if m not in methods]
)
def test_the_others_are_refused_with_what_they_lack(system_name: str, name: str) -> None:
    system, balance = made(system_name), method(name)
    with pytest.raises(AffuseError, match=f"{balance.title} cannot train {type(system).__name__}") as error:
        balance.check(system, batch_for(system))
    said = str(error.value)
    assert len(said.splitlines()) == 1
    assert (LACKS[name] if len(system.modalities) > 1 else "reads one modality") in said
    assert "leave balance out" in said


@pytest.mark.parametrize("name", HAVE_PARTS)
def test_the_modules_of_a_modality_learn_from_it_and_from_no_other(name: str) -> None:
    system = made(name).train()
    batch = batch_for(system)
    own = method("agm").parameters_of(system)
    assert set(own) == set(system.modalities)
    for present in system.modalities:
        system.zero_grad(set_to_none=True)
        alone = batch.without(*(other for other in system.modalities if other != present))
        system.loss(system(alone), alone)["total"].backward()
        learns = {which: any(p.grad is not None and bool(p.grad.any()) for p in own[which]) for which in own}
        assert learns == {which: which == present for which in own}


@pytest.mark.parametrize("name", [name for name, methods in TAKES.items() if "pmr" in methods])
def test_features_of_a_modality_come_from_it_alone(name: str) -> None:
    system = made(name).eval()
    batch = batch_for(system)
    whole = system(batch).aux
    for present in system.modalities:
        alone = system(batch.without(*(other for other in system.modalities if other != present))).aux
        assert whole[f"features/{present}"].shape[0] == batch.size
        assert torch.allclose(alone[f"features/{present}"], whole[f"features/{present}"], atol=1e-5)
        lost = system(batch.without(present)).aux.get(f"features/{present}")
        assert lost is None or not lost.any()
