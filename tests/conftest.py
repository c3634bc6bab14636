"""What every test shares: one seed, and Hypothesis without a clock or a memory."""

import os

import pytest
import torch
from hypothesis import settings

# Machines differ in speed and the first call of a pattern compiles it, so nothing has a deadline.
# The same examples at every run: a failure on one machine is a failure on all.
settings.register_profile("einheads", deadline=None, derandomize=True, database=None)
settings.load_profile("einheads")

# Which steps are chosen depends on the CPU; what the pages print was chosen for this kind. The
# commands that tests start are told as well.
os.environ["EINHEADS_CPU"] = "avx512"
os.environ.pop("EINHEADS_RATES", None)

# Tests multiply small tensors, for which threads would only wait for each other.
torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    """Warnings are errors, except one that torch gives about itself."""
    # The first use of forward-mode derivatives imports a module that still uses torch.jit.script.
    ignored = "ignore:`torch.jit.script` is deprecated:DeprecationWarning"
    config.addinivalue_line("filterwarnings", ignored)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Give every test the same random numbers, whichever tests ran before it."""
    torch.manual_seed(0)
