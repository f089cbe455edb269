"""A ledger names only what exists, and leaves out no setting.

In a ledger, a name in backticks with a suffix of code is a file, ``FILE::NAME`` a definition in it. Files are looked up in the
system's own folder, in ``src/affuse``, in ``tests`` and in the repository. Under a heading ``### NAME.yaml``, a table with the
columns setting and value says what that recipe of the system amounts to.
"""

import ast
import dataclasses
import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from affuse.recipe import Recipe, load_recipe
from affuse.systems import SYSTEMS
from affuse.types import AffuseError

ROOT = Path(__file__).parents[2]
LEDGERS = sorted((ROOT / "ledger").glob("*.md"))
RECIPES = sorted((ROOT / "recipes").glob("*/*.yaml"))
FILE = re.compile(r"[\w./-]+\.(?:py|yaml|md|toml)")
TICKED = re.compile(r"`([^`\n]+)`")


def ticked(ledger: Path) -> list[str]:
    return TICKED.findall(ledger.read_text())


def found(ledger: Path, name: str) -> Path | None:
    """The file that a ledger means by a name, or nothing."""
    roots = (ROOT / "src/affuse/systems" / ledger.stem, ROOT / "src/affuse", ROOT / "tests", ROOT)
    return next((root / name for root in roots if (root / name).is_file()), None)


@cache
def definitions(path: Path) -> frozenset[str]:
    """Functions, classes and constants of a Python file, and the methods and fields of its classes as Class.name."""

    def names(body: list[ast.stmt]) -> set[str]:
        held: set[str] = set()
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                held.add(node.name)
            if isinstance(node, ast.ClassDef):
                held |= {f"{node.name}.{inner}" for inner in names(node.body)}
            targets = (
                node.targets
                if isinstance(node, ast.Assign)
                else [node.target]
                if isinstance(node, ast.AnnAssign)
                else []
            )
            held |= {target.id for target in targets if isinstance(target, ast.Name)}
        return held

    return frozenset(names(ast.parse(path.read_text()).body))


def claims(ledger: Path) -> list[tuple[int, str]]:
    """Line and last cell of each row of the tables whose last column is headed ``test``."""
    rows, inside = [], False
    lines = ledger.read_text().splitlines()
    for number, (line, after) in enumerate(pairwise([*lines, ""]), 1):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif re.fullmatch(r"\|[\s|:-]+\|", after):
            inside = cells[-1] == "test"
        elif inside and not re.fullmatch(r"[\s|:-]+", line):
            rows.append((number, cells[-1]))
    return rows


def speaks_of(ledger: Path) -> list[str]:
    """The systems of a ledger: the one of its name, or all baselines."""
    baselines = [name for name, system in SYSTEMS.items() if ".baselines." in system.__module__]
    return baselines if ledger.stem == "baselines" else [ledger.stem]


def settings_of(ledger: Path) -> set[str]:
    return {field.name for name in speaks_of(ledger) for field in dataclasses.fields(SYSTEMS[name].Config)}


@pytest.fixture(params=LEDGERS, ids=lambda path: path.stem)
def ledger(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_every_system_has_a_ledger_and_every_ledger_a_system() -> None:
    assert {name for path in LEDGERS for name in speaks_of(path)} == set(SYSTEMS)


def test_every_file_that_it_names_exists(ledger: Path) -> None:
    named = {text.partition("::")[0] for text in ticked(ledger)}
    files = {name for name in named if FILE.fullmatch(name)} | {
        text.split("::")[0] for text in ticked(ledger) if "::" in text
    }
    assert files
    assert {name for name in files if found(ledger, name) is None} == set()


def test_every_definition_and_test_that_it_names_exists(ledger: Path) -> None:
    named = [text.split("::") for text in ticked(ledger) if "::" in text]
    assert named
    wrong = set()
    for file, definition in named:
        path = found(ledger, file)
        if path is None or definition not in definitions(path):
            wrong.add(f"{file}::{definition}")
    assert wrong == set()


def test_every_claim_is_held_by_a_test(ledger: Path) -> None:
    rows = claims(ledger)
    assert rows
    held = re.compile(r"`[\w./]*test_\w+\.py::test_\w+`")
    assert [f"{ledger.name}:{number}: {cell}" for number, cell in rows if not held.search(cell)] == []


def test_every_setting_of_the_system_is_spoken_of(ledger: Path) -> None:
    words = set(re.findall(r"\w+", " ".join(ticked(ledger))))
    assert settings_of(ledger) - words == set()


def test_it_speaks_of_no_setting_that_the_system_has_not(ledger: Path) -> None:
    """A setting and its value are written as ``name: value``."""
    fields = settings_of(ledger)
    sections = {"data", "training", "system"}
    set_here = {match[1] for text in ticked(ledger) if (match := re.fullmatch(r"(\w+): \S.*", text))}
    assert set_here - fields - sections == set()


def flat(settings: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings by their names with dots; the names of system and data set are left out."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            found |= flat(value, f"{before}{key}.")
        elif key != "name":
            found[before + key] = value
    return found


def loaded(path: Path) -> Recipe:
    try:
        return load_recipe(path)
    except AffuseError:
        return load_recipe(path, ["--data.root", "nowhere"])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_it_says_of_a_recipe_is_so_and_is_all_that_the_recipe_sets(recipe: Path) -> None:
    text = (ROOT / "ledger" / f"{recipe.parent.name}.md").read_text()
    sections = text.split(f"\n### {recipe.name}\n")
    assert len(sections) == 2, f"ledger/{recipe.parent.name}.md has no section {recipe.name}"
    section = re.split(r"\n#+ ", sections[1])[0]
    said = {key: yaml.safe_load(value) for key, value in re.findall(r"^\| `([\w.]+)` \| ([^|]+?) \|", section, re.M)}
    resolved = flat(yaml.safe_load(loaded(recipe).to_yaml()))
    assert {key: resolved.get(key) for key in said} == said
    assert set(flat(yaml.safe_load(recipe.read_text()))) - set(said) == set()
