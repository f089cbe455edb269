"""A recipe is what its file and the words of the command line say, no more and no less."""

from pathlib import Path

import pytest

from affuse import AffuseError
from affuse.recipe import load_recipe

RECIPES = Path(__file__).parents[1] / "recipes"
SEE, DFEW = RECIPES / "mco_e" / "see.yaml", RECIPES / "fer_ssm" / "dfew.yaml"
ROOTS = [
    "2024",
    "2024-01-02",
    "on",
    "null",
    "~",
    "1e3",
    "0x10",
    "a: b",
    "/data #1",
    "[x]",
    "12:30:00",
    "no",
    ".nan",
    "*",
]


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("form", ["two words", "one word"])
def test_text_is_taken_as_it_stands(root: str, form: str, tmp_path: Path) -> None:
    words = ["--data.root", root] if form == "two words" else [f"--data.root={root}"]
    recipe = load_recipe(SEE, words)
    assert recipe.data.root == root  # type: ignore[attr-defined]
    # The recipe of a run gives it again.
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "recipe.yaml").data == recipe.data


def test_text_that_may_be_left_out_is_left_out_by_null() -> None:
    folder = ["--data.root", "x", "--data.cache"]
    for word in ROOTS:
        cache = load_recipe(DFEW, [*folder, word]).data.cache  # type: ignore[attr-defined]
        assert cache == (None if word in ("null", "~") else word)


def test_quotes_around_text_are_taken_off() -> None:
    assert load_recipe(SEE, ["--data.root", "'2024'"]).data.root == "2024"  # type: ignore[attr-defined]
    assert load_recipe(SEE, ["--data.root", '"a b"']).data.root == "a b"  # type: ignore[attr-defined]
    assert load_recipe(SEE, ["--data.root", "'tis"]).data.root == "'tis"  # type: ignore[attr-defined]


def test_what_is_no_text_is_yaml() -> None:
    words = [
        "--training.epochs",
        "3",
        "--training.encoder_lr",
        "null",
        "--data.clip.size",
        "24",
        "--system.pretrained",
        "no",
    ]
    recipe = load_recipe(SEE, ["--data.root", "x", *words])
    assert (recipe.training.epochs, recipe.training.encoder_lr) == (3, None)
    assert recipe.data.clip.size == 24 and recipe.system.pretrained is False  # type: ignore[attr-defined]
    with pytest.raises(AffuseError, match="epochs"):
        load_recipe(SEE, ["--data.root", "x", "--training.epochs", "on"])


def test_a_setting_may_stand_before_the_name_that_it_belongs_to(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("system: {name: mco_e}\ndata: {name: eyes}\n")
    found = load_recipe(recipe, ["--data.root", "2024", "--data.name", "nmnist"])
    assert found.data_name == "nmnist" and found.data.root == "2024"  # type: ignore[attr-defined]


def test_text_within_a_setting_is_taken_as_it_stands() -> None:
    words = ["--data.root", "x", "--data.cameras.infrared_white", "1", "--data.annotations", "2024"]
    recipe = load_recipe(RECIPES / "mome" / "drive_and_act.yaml", words)
    assert recipe.data.annotations == "2024"  # type: ignore[attr-defined]
    assert recipe.data.cameras.infrared_white == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("words", [["--data.root.deep", "1"], ["--nothing.at.all", "1"], ["--system.widths.on", "x"]])
def test_a_setting_that_is_nowhere_is_an_error(words: list[str]) -> None:
    with pytest.raises(AffuseError):
        load_recipe(SEE, words)
