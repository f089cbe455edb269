"""The arrows between folders run one way, recipes load, and nothing unpickles."""

import ast
import dataclasses
from pathlib import Path

import pytest
import yaml

from affuse.data import DATASETS
from affuse.recipe import load_recipe, resolve
from affuse.systems import SYSTEMS
from affuse.types import AffuseError

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "affuse"
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))

# What each folder may import, beside itself and the outside world.
MAY_IMPORT = {
    "torchvision_schemas": set(),
    "types": set(),
    "ops": {"types"},
    "parts": {"types", "ops"},
    "systems": {"types", "ops", "parts"},
    "signals": {"types", "ops"},
    "data": {"types", "ops", "signals"},
}


def rooms(path: Path) -> str:
    inside = path.relative_to(SOURCE)
    return inside.parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("affuse"):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("affuse.")}
    return found


def test_imports_point_one_way() -> None:
    wrong = []
    for path in SOURCE.rglob("*.py"):
        room = rooms(path)
        if room in MAY_IMPORT:
            wrong += [f"{path.relative_to(SOURCE)} -> {other}" for other in imported(path) - MAY_IMPORT[room] - {room}]
        elif room != "cli" and "cli" in imported(path):
            wrong.append(f"{path.relative_to(SOURCE)} -> cli")
    assert not wrong


def test_systems_never_import_one_another() -> None:
    for path in (SOURCE / "systems").rglob("*.py"):
        if path.name == "__init__.py":
            continue
        inside = path.relative_to(SOURCE).with_suffix("").parts
        # A system is a file or a folder; each file of baselines is a system of its own.
        own = ".".join(["affuse", *inside[: 3 if inside[1] == "baselines" else 2]])
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("affuse.systems"):
                assert f"{node.module}.".startswith(f"{own}."), f"{path.name} imports {node.module}"


def test_every_system_has_a_ledger_and_published_tables() -> None:
    for name, system in SYSTEMS.items():
        if system.__module__.startswith("affuse.systems.baselines."):
            # What others are compared with: one ledger for all of them, and no tables of their own.
            assert f"## {name}\n" in (ROOT / "ledger" / "baselines.md").read_text(), name
            continue
        assert (ROOT / "ledger" / f"{name}.md").is_file()
        assert (ROOT / "papers" / f"{name}.yaml").is_file()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_recipes_load_and_are_complete(path: Path) -> None:
    data = DATASETS[yaml.safe_load(path.read_text())["data"]["name"]]
    rooted = "root" in {field.name for field in dataclasses.fields(data)}
    recipe = load_recipe(path, ["--data.root", "somewhere"] if rooted else [])
    again = resolve(yaml.safe_load(recipe.to_yaml()), "written")
    assert again.system == recipe.system
    assert again.data == recipe.data
    assert again.training == recipe.training


def test_there_are_recipes() -> None:
    assert {path.stem for path in RECIPES} >= {"eyes", "see", "nmnist"}


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("--system.d_modle 3", "d_model"),
        ("--training.epoch 3", "epochs"),
        ("--dta.root x", "data"),
        ("--data.lenght 3", "length"),
    ],
)
def test_an_unknown_key_is_an_error_that_names_the_nearest(override: str, nearest: str) -> None:
    with pytest.raises(AffuseError, match=nearest):
        load_recipe(ROOT / "recipes" / "mco_e" / "eyes.yaml", override.split())


def test_a_value_of_the_wrong_type_is_an_error() -> None:
    with pytest.raises(AffuseError, match="epochs"):
        load_recipe(ROOT / "recipes" / "mco_e" / "eyes.yaml", ["--training.epochs", "many"])


def test_nothing_unpickles() -> None:
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not {"pickle", "dill", "joblib", "cloudpickle"} & set(names), path
