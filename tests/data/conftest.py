"""The builder of feature files, for the tests in this folder."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def feature_files() -> ModuleType:
    spec = importlib.util.spec_from_file_location("feature_files", Path(__file__).with_name("feature_files.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
