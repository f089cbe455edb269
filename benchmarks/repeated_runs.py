"""Train the rows of a table several times each (seeds or folds), and keep every result in a JSON file, to go on later."""

import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from affuse.fit import fit
from affuse.recipe import load_recipe, resolve


def repeated_runs(
    source: Path,
    rows: Mapping[str, Sequence[str]],
    times: Mapping[str, Sequence[str]],
    out: Path,
    figures: Callable[[Path], dict[str, Any]],
    fixed: Sequence[str] = (),
    only: Sequence[str] = (),
    systems: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """One result for each row of the table and each of its times.

    Args:
        source: the recipe.
        rows: what each row changes in it, as on the command line.
        times: what each repetition changes: a seed, or a fold. The rows of one repetition see the same data.
        out: JSON of the results; those it holds for the same recipe and changes are not measured again.
        figures: from a run folder to what is kept of it.
        fixed: what all change, but is no part of the protocol: where the data lies.
        only: names of the rows to measure now; all where it is empty.
        systems: the ``system`` section of the rows that are of another system than the recipe's.
    """
    settings = yaml.safe_load(source.read_text())
    before = json.loads(out.read_text()) if out.exists() else {}
    results: list[dict[str, Any]] = before["results"] if before.get("recipe") == settings else []
    for time, repeat in times.items():
        splits = None
        for name, changes in rows.items():
            system = (systems or {}).get(name)
            known = any(
                (found["time"], found["row"], found["changes"], found.get("system")) == (time, name, [*changes], system)
                for found in results
            )
            if known or (only and name not in only):
                continue
            recipe = load_recipe(source, [*fixed, *repeat, *changes])
            if system is not None:
                other = {**recipe.settings, "system": dict(system)}
                recipe = resolve(other, f"{source}, row {name!r}")
            own_data = any(change.startswith("--data.") for change in changes)
            if own_data:
                data = recipe.data.splits(recipe.training.seed)
            else:
                splits = data = splits or recipe.data.splits(recipe.training.seed)
            with tempfile.TemporaryDirectory() as folder:
                run = fit(recipe, Path(folder) / "run", progress=False, splits=data, with_report=False)
                own_system = {} if system is None else {"system": dict(system)}
                found = {"time": time, "row": name, "changes": [*changes], **own_system, **figures(run)}
            results = [r for r in results if (r["time"], r["row"]) != (time, name)] + [found]
            print(json.dumps(found), flush=True)
            out.write_text(json.dumps({"synthetic": data.synthetic, "recipe": settings, "results": results}) + "\n")
    return results


def described(values: Sequence[float], digits: int = 1) -> str:
    """Mean and standard deviation."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}"
