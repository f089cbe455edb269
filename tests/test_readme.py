"""What the README says to type exists: verbs, options, recipes with their settings, make targets, links."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from affuse import cli
from affuse.doctor import doctor
from affuse.recipe import load_recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
LINES = [
    line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if shlex.split(line, comments=True)
]
COMMANDS = [shlex.split(line, comments=True) for line in LINES]
AFFUSE = [words[1:] for words in COMMANDS if words[0] == "affuse"]


def parsed(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    plain, settings = cli._settings_apart(words)
    try:
        return cli._parser().parse_args(plain), settings
    except SystemExit:
        pytest.fail(f"the command line does not know: affuse {shlex.join(words)}")


def test_the_readme_shows_both_commands_first() -> None:
    assert [words[:2] for words in COMMANDS[:2]] == [["make", "demo"], ["make", "test"]]


def test_every_command_is_one_that_the_project_has() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in COMMANDS:
        assert words[0] in ("make", "affuse")
        assert words[0] != "make" or words[1] in targets


def test_every_verb_is_shown() -> None:
    assert {"fit", "evaluate", "predict", "doctor", "events", "features", "data", "energy"} <= {
        words[0] for words in AFFUSE
    }


@pytest.mark.parametrize("words", AFFUSE, ids=shlex.join)
def test_a_shown_command_is_understood(words: list[str]) -> None:
    arguments, settings = parsed(words)
    if arguments.verb == "fit" and arguments.recipe:
        load_recipe(ROOT / arguments.recipe, settings)  # the recipe exists and has these settings
    elif arguments.verb == "doctor" and arguments.data:
        with_findings = doctor(
            arguments.data, ROOT / arguments.root
        )  # a data set that doctor does not know is an error
        assert with_findings["data"]["name"] == arguments.data
    else:
        assert not settings


def test_a_command_that_does_not_exist_would_be_noticed() -> None:
    for wrong in (["explode", "x"], ["doctor", "--dta", "see"], ["evaluate"]):
        with pytest.raises(pytest.fail.Exception):
            parsed(wrong)


def test_links_and_paths_lead_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)", README) if "://" not in target]
    targets += re.findall(r"`([\w/.-]+/[\w/.-]*|[\w-]+\.(?:txt|md|toml))`", README)
    assert targets
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert not missing
    escaping = [target for target in targets if not (ROOT / target).resolve().is_relative_to(ROOT.resolve())]
    assert not escaping
