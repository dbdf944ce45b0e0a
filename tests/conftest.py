"""One torch thread: the tests are many small jobs, and threads would only wait for one another."""

import torch

torch.set_num_threads(1)
