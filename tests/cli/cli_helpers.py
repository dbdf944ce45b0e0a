"""What the tests of the command line share."""

import hashlib
import math
from pathlib import Path

TINY = ["--latent-dim", "2", "--hidden", "8", "--epochs", "2", "--batch-size", "500", "--threads", "1"]

OWN = '''
    """A user's own classes, in a file outside of the package."""
    import torch
    import pyro.distributions as dist
    from torch.distributions import constraints
    import pyro
    from ppl_vae import InputError, Program
    from ppl_vae.evidence import Widened, importance
    from ppl_vae.likelihoods import Likelihood
    from ppl_vae.posteriors import Posterior
    from ppl_vae.priors import Prior
    from ppl_vae.validation import ExactModel


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


    class Twice:
        def __init__(self, scale: float = 2.0):
            self.widened = Widened(scale)

        def bind(self, program, x, seed, index):
            return self.widened.bind(program, x, seed, index)


    class Unbound:
        def bind(self, program, x, seed, index):
            return None


    def coin(num_data=20, seed=0):
        x = (torch.arange(num_data) % 2).double()

        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
                pyro.sample("x", dist.Bernoulli(logits=z), obs=x)

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(0.4 * (2 * x - 1), 1.0))

        half = torch.full((num_data,), 0.5, dtype=torch.float64)
        return ExactModel("coin", Program(model, guide), x, half.log())


    ready, THREE = coin(4), 3


    def fewer(program, x, seed):
        return importance(program, x, 32, seed=seed, progress=False)


    def refuses(program, x, seed):
        raise InputError("program", "another", "this one")


    def returns_a_number(*anything, **options):
        return 3


    def one_too_few(program, x):
        return 3


    class Picky:
        def __init__(self, late: bool = True):
            if not late:
                raise KeyError("of my own")

        def bind(self, program, x, seed, index):
            raise ZeroDivisionError("in my bind")


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


def interrupted_then_resumed(call, line, out, monkeypatch, kinds=("evidence", "validation")):
    """Stop a command after its first checkpoint of ``kinds``, as Ctrl-C would, resume it, stop it after the next, ...

    Returns how often it was stopped.
    """
    from ppl_vae.checkpoint import Checkpoint

    write = Checkpoint.write
    stops = 0

    def stop(self, *arguments):
        write(self, *arguments)
        if self.kind in kinds:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "due", lambda self: True)
    resume = []
    while True:
        monkeypatch.setattr(Checkpoint, "write", stop)
        result = call(*line, "--out", out, *resume)
        if result.status == 0:
            return stops
        assert result.status == 130, result.err
        assert "--resume" in result.err
        stops += 1
        assert stops < 50, "it does not get on"
        resume = ["--resume"]


def as_json(mean):
    """A mean as the summaries have it: null where there is no number."""
    lost = {
        name for name, value in vars(mean).items() if isinstance(value, float) and not math.isfinite(value)
    }
    return {name: None if name in lost else value for name, value in vars(mean).items()}
