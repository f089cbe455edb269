"""The rows that TAAF-SNN is compared with in each of its tables: what changes in a recipe of recipes/taaf."""

import json
from pathlib import Path
from typing import Any

import yaml

# Plain joint training: no loss on a modality alone, no attention; what is left is temporal efficient training.
JOINT = ["--system.beta", "0", "--system.attention", "false", "--system.modulation", "none"]
BALANCED = {
    "TAAF-SNN": [],
    "joint": JOINT,
    "OGM-GE": [*JOINT, "--training.balance", "ogm_ge"],
    "PMR": [*JOINT, "--training.balance", "pmr"],
    "AGM": [*JOINT, "--training.balance", "agm"],
}


def alone(source: Path) -> dict[str, list[str]]:
    """Each modality trained alone."""
    encoders = yaml.safe_load(source.read_text())["system"]["encoders"]
    return {
        f"{name} alone": [*JOINT, "--system.encoders", json.dumps({name: encoder})]
        for name, encoder in encoders.items()
    }


def figures(run: Path) -> dict[str, Any]:
    """WAR, UAR and their sample counts of the answer and of each modality's own."""
    metrics = json.loads((run / "metrics.json").read_text())

    def shares(entry: dict[str, Any]) -> dict[str, Any]:
        return {"war": entry["war"]["value"], "uar": entry["uar"]["value"], "samples": entry["samples"]}

    return {**shares(metrics), "unimodal": {name: shares(entry) for name, entry in metrics.get("unimodal", {}).items()}}
