"""Programs with the same densities by hand: one latent to several, discrete, constrained, masked, with a factor."""

import math

import pyro
import pyro.distributions as dist
import torch
import torch.distributions as td
from pyro import poutine

N, S = 7, 5
GENERATOR = torch.Generator().manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def counts(*shape):
    return torch.randint(0, 9, shape, generator=GENERATOR).double()


W1, W2, W3 = randn(2, 3), randn(3, 2, 3), randn(4, 3)
X1, X3, X23 = randn(N), randn(N, 3), randn(N, 2, 3)
MASK = torch.rand(N, 3, generator=GENERATOR) < 0.6
ROWS = torch.tensor([True, False, True, True, False, True, True])


def normal(value, loc, scale=1.0, event=0):
    return td.Independent(td.Normal(loc, torch.as_tensor(scale, dtype=torch.float64)), event).log_prob(value)


# ---- the programs, and the same densities by hand --------------------------------------------------------


class OneLatent:
    x = X1

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_tensor(0.3), 1.5))
            pyro.sample("x", dist.Normal(2 * z, 0.7), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 0.6))

    def joint(self, z, x):
        return normal(z["z"], torch.tensor(0.3, dtype=torch.float64), 1.5) + normal(x, 2 * z["z"], 0.7)

    def proposal(self, z, x):
        return normal(z["z"], x / 2, 0.6)


class PlateWithoutDim(OneLatent):
    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_tensor(0.3), 1.5))
            pyro.sample("x", dist.Normal(2 * z, 0.7), obs=x)

    def guide(self, x):
        with pyro.plate("another name", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.6))


class Deterministic(OneLatent):
    def model(self, x):
        pyro.deterministic("outside", x.mean())
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_tensor(0.3), 1.5))
            mean = pyro.deterministic("mean", 2 * z)
            pyro.sample("x", dist.Normal(mean, 0.7), obs=x)


class SeveralSites:
    """Scalar, vector and matrix events; two latent and three observed sites."""

    x = {"scalar": X1, "matrix": X23, "counts": counts(N, 3)}  # noqa: RUF012

    def model(self, x):
        with pyro.plate("data", len(x["scalar"]), dim=-1):
            a = pyro.sample("a", dist.Normal(x["scalar"].new_zeros(()), 1.0))
            z = pyro.sample("z", dist.Normal(a.unsqueeze(-1), x["scalar"].new_ones(3)).to_event(1))
            pyro.sample("scalar", dist.Normal(a, 0.5), obs=x["scalar"])
            pyro.sample("counts", dist.Poisson(z.exp()).to_event(1), obs=x["counts"])
            mean = torch.einsum("...i,ijk->...jk", z, W2)
            pyro.sample("matrix", dist.Normal(mean, 0.9).to_event(2), obs=x["matrix"])

    def guide(self, x):
        with pyro.plate("data", len(x["scalar"]), dim=-1):
            z = pyro.sample("z", dist.Normal(x["matrix"].mean(-2), 0.4).to_event(1))
            pyro.sample("a", dist.Normal(z.sum(-1), 0.8))

    def joint(self, z, x):
        a, z = z["a"], z["z"]
        return (
            normal(a, torch.zeros(()).double())
            + normal(z, a[..., None].expand(*a.shape, 3), 1.0, 1)
            + normal(x["scalar"], a, 0.5)
            + td.Poisson(z.exp()).log_prob(x["counts"]).sum(-1)
            + normal(x["matrix"], torch.einsum("sni,ijk->snjk", z, W2), 0.9, 2)
        )

    def proposal(self, z, x):
        return normal(z["z"], x["matrix"].mean(-2), 0.4, 1) + normal(z["a"], z["z"].sum(-1), 0.8)


class Discrete:
    x = X3

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            b = pyro.sample("b", dist.Bernoulli(x.new_tensor(0.3)))
            k = pyro.sample("k", dist.Categorical(x.new_tensor([0.1, 0.2, 0.3, 0.4])))
            pyro.sample("x", dist.Normal(W3[k] + b.unsqueeze(-1), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            b = pyro.sample("b", dist.Bernoulli(torch.sigmoid(x[:, 0])))
            pyro.sample("k", dist.Categorical(logits=x @ W3.T + b.unsqueeze(-1)))

    def joint(self, z, x):
        b, k = z["b"], z["k"]
        return (
            td.Bernoulli(torch.tensor(0.3, dtype=torch.float64)).log_prob(b)
            + td.Categorical(torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)).log_prob(k)
            + normal(x, W3[k] + b[..., None], 1.0, 1)
        )

    def proposal(self, z, x):
        log_k = td.Categorical(logits=x @ W3.T + z["b"][..., None]).log_prob(z["k"])
        return td.Bernoulli(torch.sigmoid(x[:, 0])).log_prob(z["b"]) + log_k


class Constrained:
    """Gamma (guide: LogNormal), Beta, Dirichlet."""

    x = {"counts": counts(N, 3), "flips": (randn(N, 4) > 0).double()}  # noqa: RUF012

    def model(self, x):
        one = x["counts"].new_ones(())
        with pyro.plate("data", len(x["counts"]), dim=-1):
            rate = pyro.sample("rate", dist.Gamma(2 * one, one))
            share = pyro.sample("share", dist.Dirichlet(one.new_tensor([1.0, 2.0, 3.0])))
            p = pyro.sample("p", dist.Beta(2 * one, 3 * one))
            pyro.sample("counts", dist.Poisson(rate.unsqueeze(-1) * share).to_event(1), obs=x["counts"])
            flips = dist.Bernoulli(p.unsqueeze(-1).expand(*p.shape, 4)).to_event(1)
            pyro.sample("flips", flips, obs=x["flips"])

    def guide(self, x):
        with pyro.plate("data", len(x["counts"]), dim=-1):
            pyro.sample("rate", dist.LogNormal((1 + x["counts"].sum(-1)).log(), 0.5))
            pyro.sample("share", dist.Dirichlet(1 + x["counts"]))
            pyro.sample("p", dist.Beta(2 + x["flips"].sum(-1), 7 - x["flips"].sum(-1)))

    def joint(self, z, x):
        one = torch.ones(()).double()
        return (
            td.Gamma(2 * one, one).log_prob(z["rate"])
            + td.Dirichlet(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)).log_prob(z["share"])
            + td.Beta(2 * one, 3 * one).log_prob(z["p"])
            + td.Poisson(z["rate"][..., None] * z["share"]).log_prob(x["counts"]).sum(-1)
            + td.Bernoulli(z["p"][..., None]).log_prob(x["flips"]).sum(-1)
        )

    def proposal(self, z, x):
        return (
            td.LogNormal((1 + x["counts"].sum(-1)).log(), 0.5).log_prob(z["rate"])
            + td.Dirichlet(1 + x["counts"]).log_prob(z["share"])
            + td.Beta(2 + x["flips"].sum(-1), 7 - x["flips"].sum(-1)).log_prob(z["p"])
        )


class Covariates:
    """A library size and a label, neither of them observed."""

    x = {  # noqa: RUF012
        "counts": counts(N, 3),
        "size": torch.linspace(0.5, 2.0, N).double(),
        "label": torch.arange(N) % 2,
    }

    def model(self, x):
        with pyro.plate("data", len(x["counts"]), dim=-1):
            z = pyro.sample("z", dist.Normal(x["size"].new_zeros(2), 1.0).to_event(1))
            rate = x["size"].unsqueeze(-1) * (z @ W1 + x["label"].unsqueeze(-1)).exp()
            pyro.sample("counts", dist.Poisson(rate).to_event(1), obs=x["counts"])

    def guide(self, x):
        with pyro.plate("data", len(x["counts"]), dim=-1):
            loc = torch.stack([x["size"], x["label"].double()], -1)
            pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))

    def joint(self, z, x):
        z = z["z"]
        rate = x["size"][:, None] * (z @ W1 + x["label"][:, None]).exp()
        return normal(z, torch.zeros(2).double(), 1.0, 1) + td.Poisson(rate).log_prob(x["counts"]).sum(-1)

    def proposal(self, z, x):
        return normal(z["z"], torch.stack([x["size"], x["label"].double()], -1), 0.5, 1)


class MaskedElements:
    """``.mask`` inside the event: missing entries hold NaN."""

    x = {"x": torch.where(MASK, X3, math.nan), "seen": MASK}  # noqa: RUF012

    def model(self, x):
        with pyro.plate("data", len(x["x"]), dim=-1):
            z = pyro.sample("z", dist.Normal(x["x"].new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ W1, 1.0).mask(x["seen"]).to_event(1), obs=x["x"])

    def guide(self, x):
        with pyro.plate("data", len(x["x"]), dim=-1):
            loc = torch.where(x["seen"], x["x"], 0.0)[:, :2]
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    def joint(self, z, x):
        each = normal(x["x"].nan_to_num(), z["z"] @ W1)
        return normal(z["z"], torch.zeros(2).double(), 1.0, 1) + (each * x["seen"]).sum(-1)

    def proposal(self, z, x):
        return normal(z["z"], torch.where(x["seen"], x["x"], 0.0)[:, :2], 1.0, 1)


class MaskedData(OneLatent):
    """``poutine.mask``: whole data count or do not."""

    x = {"x": X1, "seen": ROWS}  # noqa: RUF012

    def model(self, x):
        with pyro.plate("data", len(x["x"]), dim=-1):
            z = pyro.sample("z", dist.Normal(X1.new_tensor(0.3), 1.5))
            with poutine.mask(mask=x["seen"]):
                pyro.sample("x", dist.Normal(2 * z, 0.7), obs=x["x"])

    def guide(self, x):
        super().guide(x["x"])

    def joint(self, z, x):
        return (
            normal(z["z"], torch.tensor(0.3, dtype=torch.float64), 1.5)
            + normal(x["x"], 2 * z["z"], 0.7) * x["seen"]
        )

    def proposal(self, z, x):
        return super().proposal(z, x["x"])


class Factored(OneLatent):
    """``pyro.factor`` in the model: an unnormalised joint."""

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_tensor(0.3), 1.5))
            pyro.sample("x", dist.Normal(2 * z, 0.7), obs=x)
            pyro.factor("f", -(x**2))

    def joint(self, z, x):
        return super().joint(z, x) - x**2


CASES = {
    case.__name__: case()
    for case in (
        OneLatent, PlateWithoutDim, Deterministic, SeveralSites, Discrete, Constrained, Covariates,
        MaskedElements, MaskedData, Factored,
    )
}  # fmt: skip


def split_model(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample(
            "left", dist.Normal(z.unsqueeze(-1) + 100, x.new_full((3,), 0.1)).to_event(1), obs=x[:, :3]
        )
        pyro.sample(
            "right", dist.Normal(z.unsqueeze(-1) - 100, x.new_full((2,), 0.1)).to_event(1), obs=x[:, 3:]
        )


def split_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x[:, 0] - 100, 1.0))
