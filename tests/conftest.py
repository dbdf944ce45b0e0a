"""One torch thread: the tests are many small jobs, and threads would only wait for one another."""

import pyro
import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _clean_store():
    """What one file leaves in Pyro's global store is not for the next one."""
    pyro.clear_param_store()
