"""Whether runs may be averaged: what each was trained with, but for what may differ between the parts of one score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

# What is drawn, and what only speed depends on.
_FREE = ("seed", "workers", "accelerator")


def protocol_of(run: Path, free: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a run as ``section.name``, without those that may differ, and its ``run.json``.

    Args:
        run: a folder that ``affuse fit`` wrote.
        free: names in the ``data`` section that may differ: where files lie, and which fold or split it is.

    Raises:
        OSError: a file is missing.
        ValueError, TypeError, AttributeError, yaml.YAMLError: a file is not what ``affuse fit`` writes.
    """
    info = json.loads((run / "run.json").read_text())
    sections = yaml.safe_load((run / "recipe.yaml").read_text())
    may_differ: Mapping[str, Sequence[str]] = {"data": free, "training": _FREE}
    settings = {
        f"{section}.{name}": value
        for section in ("system", "data", "training")
        for name, value in (sections.get(section) or {}).items()
        if name not in may_differ.get(section, ())
    }
    return settings, info


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The settings in which two runs differ, by name."""
    return [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
