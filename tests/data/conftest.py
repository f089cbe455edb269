"""The builders of feature files and of clips of faces, for the tests in this folder."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def feature_files() -> ModuleType:
    return _beside("feature_files")


@pytest.fixture(scope="session")
def face_files() -> ModuleType:
    return _beside("face_files")


def _beside(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
