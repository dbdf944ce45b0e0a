"""What the tests of the command line share."""

import hashlib
from pathlib import Path

TINY = ["--latent-dim", "2", "--hidden", "8", "--epochs", "2", "--batch-size", "500", "--threads", "1"]

OWN = '''
    """A user's own classes, in a file outside of the package."""
    import torch
    import pyro.distributions as dist
    from torch.distributions import constraints
    from ppl_vae.likelihoods import Likelihood
    from ppl_vae.posteriors import Posterior
    from ppl_vae.priors import Prior


    class WidePrior(Prior):
        def __init__(self, dim, width: float = 2.0):
            super().__init__(dim)
            self.width = width
            self.loc = torch.nn.Parameter(0.01 * torch.randn(dim))  # from the global generator: still seeded

        def forward(self):
            return dist.Normal(self.loc, self.width * torch.ones_like(self.loc)).to_event(1)


    class Geometric(Likelihood):
        base_measure = "counting"

        def __init__(self, shape, offset: int = 0):
            super().__init__(shape)
            self.param_shapes = {"logits": self.shape}

        def forward(self, params):
            return dist.Geometric(logits=params["logits"]).to_event(len(self.shape))

        @property
        def support(self):
            return constraints.nonnegative_integer


    class Laplace(Posterior):
        def __init__(self, dim, floor: float = 0.01):
            super().__init__(dim)
            self.floor = floor
            self.param_shapes = {"loc": torch.Size([dim]), "raw": torch.Size([dim])}

        def forward(self, params):
            scale = self.floor + torch.nn.functional.softplus(params["raw"])
            return dist.Laplace(params["loc"], scale).to_event(1)


    class Broken(Prior):
        def __init__(self, dim, late: bool = False):
            super().__init__(dim)
            if not late:
                raise KeyError("of my own")
            self.zeros = torch.nn.Parameter(torch.zeros(dim))

        def forward(self):
            raise ZeroDivisionError("in my forward")


    class NoPrior:
        pass


    def function(dim: int) -> Prior:
        return WidePrior(dim)
'''


def snapshot(folder):
    """Every file's content and every folder, but for Python's own caches."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else None
        for path in sorted(Path(folder).rglob("*"))
        if "__pycache__" not in path.parts
    }
