"""One torch thread: the tests are many small jobs, and threads would only wait for one another."""

import signal

import pyro
import pytest
import torch

torch.set_num_threads(1)

# Started by nohup or in the background of a script, the tests would ignore these signals, and so would the commands
# that they start and stop.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="module", autouse=True)
def _clean_store():
    """What one file leaves in Pyro's global store is not for the next one."""
    pyro.clear_param_store()
