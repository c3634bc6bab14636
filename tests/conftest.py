"""What every test shares: one seed, and Hypothesis without a clock or a memory."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# Machines differ in speed and the first call of a pattern compiles it, so nothing has a deadline.
# The same examples at every run: a failure on one machine is a failure on all.
settings.register_profile("einheads", deadline=None, derandomize=True, database=None)
settings.load_profile("einheads")


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Seed torch before each test and leave its random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
