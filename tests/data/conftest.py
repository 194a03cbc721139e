"""Data sets for the tests of `vdu_jax.data`."""

import archives as writers
import pytest

from vdu_jax.data import load


@pytest.fixture(scope="session")
def archives():
    """Writers of small files in the official formats."""
    return writers


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """The digits, prepared once for all tests; not to be modified."""
    return load("digits", tmp_path_factory.mktemp("data"))
