"""The energy of a run for a reader: one table for the terminal and for the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

UNITS = (("pJ", 1.0), ("nJ", 1e3), ("µJ", 1e6), ("mJ", 1e9), ("J", 1e12))


def section(energy: Mapping[str, Any]) -> dict[str, Any]:
    """What ``energy.json`` says as words and cells: ``title``, ``summary``, ``columns``, ``rows`` and ``notes``.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: this is no such file.
    """
    network, twin, constants = energy["network"], energy["twin"], energy["constants"]
    unit, scale = _unit(max(float(part["total"]["energy_pj"]) for part in (network, twin) if part))
    beside = {layer["name"]: layer for layer in twin["layers"]} if twin else {}
    columns = ["Layer", "Kind", "Times run", "Input rate", "MAC", "AC", unit]
    columns += ["Twin MAC", f"Twin {unit}"] if twin else []
    rows = []
    for layer in network["layers"]:
        rate = f"{100 * layer['input_rate']:.1f} %"
        row = [layer["name"], layer["kind"] + (", first" if layer["first"] else ""), _number(layer["steps"]), rate]
        row += [_number(layer["mac"]), _number(layer["ac"]), f"{layer['energy_pj'] / scale:.3g}"]
        rows.append(row + (_twin_cells(beside.pop(layer["name"], None), scale) if twin else []))
    rows += [[layer["name"], "", "", "", "", "", "", *_twin_cells(layer, scale)] for layer in beside.values()]
    included = bool(energy["neuron_updates_included"])
    updates = [_updates(network, scale), _updates(twin, scale) if twin else ("", "")]
    name = "Neuron updates" + ("" if included else " (not in the sum)")
    rows.append([name, "MAC", "", "", updates[0][0], "", updates[0][1], *(updates[1] if twin else ())])
    total = network["total"]
    counted = [_number(_macs(network, included)), _number(total["ac"]), f"{total['energy_pj'] / scale:.3g}"]
    last = ["Sum", "", "", "", *counted]
    last += [_number(_macs(twin, included)), f"{twin['total']['energy_pj'] / scale:.3g}"] if twin else []
    rows.append(last)
    return {
        "title": "Energy, estimated",
        "summary": _summary(energy),
        "columns": columns,
        "rows": rows,
        "notes": [
            f"{constants['mac_pj']:g} pJ a multiply-accumulate (MAC), {constants['ac_pj']:g} pJ an accumulate (AC): "
            f"{constants['source']}.",
            *energy["notes"],
            *_left_out(network),
        ],
    }


def table(energy: Mapping[str, Any]) -> Table:
    """The same for the terminal."""
    said = section(energy)
    made = Table(
        title=f"{said['title']}: {said['summary']}",
        title_justify="left",
        caption=" ".join(said["notes"]),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for name in said["columns"]:
        # A name is folded, not cut: the ends of two layers' names are what differs.
        made.add_column(name, justify="left" if name in ("Layer", "Kind") else "right", overflow="fold")
    for number, row in enumerate(said["rows"], 1):
        made.add_row(*[Text(cell) for cell in row], end_section=number == len(said["rows"]) - 2)
    return made


def _summary(energy: Mapping[str, Any]) -> str:
    own = float(energy["network"]["total"]["energy_pj"])
    world = " of a synthetic world" if energy["synthetic"] else ""
    where = f"a sample, mean over {energy['samples']} {energy['split']} samples{world}"
    if not energy["twin"]:
        return f"{_joules(own)} {where}; this system has no non-spiking twin"
    total = energy["twin"]["total"]
    twin, single = float(total["energy_pj"]), float(total["single_step_pj"])
    share = f", {100 * own / twin:.1f} % of it" if twin else ""
    once = f" ({_joules(single)} if it ran at one step only)" if single < twin else ""
    return f"{_joules(own)} {where}; its non-spiking twin {_joules(twin)}{once}{share}"


def _left_out(network: Mapping[str, Any]) -> list[str]:
    said = []
    if network["uncounted"]:
        said.append(f"Weights of another kind, not counted: {', '.join(network['uncounted'])}.")
    if network["not_run"]:
        names = ", ".join(network["not_run"])
        said.append(f"Layers never called, or whose weights are used without calling them, not counted: {names}.")
    return said


def _twin_cells(layer: Mapping[str, Any] | None, scale: float) -> list[str]:
    return ["", ""] if layer is None else [_number(layer["mac"]), f"{layer['energy_pj'] / scale:.3g}"]


def _updates(part: Mapping[str, Any], scale: float) -> tuple[str, str]:
    total = part["total"]
    return _number(total["neuron_updates"]), f"{total['neuron_updates_pj'] / scale:.3g}"


def _macs(part: Mapping[str, Any], included: bool) -> float:
    return float(part["total"]["mac"] + (part["total"]["neuron_updates"] if included else 0))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) or value >= 100 else f"{value:,.2f}"


def _unit(pj: float) -> tuple[str, float]:
    """The largest unit in which this is at least 1."""
    return next((unit for unit in reversed(UNITS) if pj >= unit[1]), UNITS[0])


def _joules(pj: float) -> str:
    unit, scale = _unit(pj)
    return f"{pj / scale:.3g} {unit}"
