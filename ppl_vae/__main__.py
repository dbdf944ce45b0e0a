"""``python -m ppl_vae``: the command line."""

import os
import sys

from ppl_vae import distributed
from ppl_vae.cli import main

if __name__ == "__main__":
    status = main()
    if distributed.launched():
        # Threads of torch.distributed may outlive its groups, and abort a process that takes its time to end.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
