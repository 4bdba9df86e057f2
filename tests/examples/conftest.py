"""Bundles run on one thread here; other tests compare bits."""

import pytest


@pytest.fixture(autouse=True)
def threads_again(threads: None) -> None:
    """As many as before, after each test."""
