"""What every test starts from, the examples of the docstrings too."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed():
    """Each test starts from the same random state and leaves the global one alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
