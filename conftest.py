"""What every test starts from, the examples of the docstrings too."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed():
    """Each test starts from the same random state and leaves the global one alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def pytest_collection_modifyitems(items):
    """Forks of a young process measure memory well; in one that holds much, freeing hides it."""
    items.sort(key=lambda item: item.path.parts[-2:] != ("attack", "test_runner.py"))
