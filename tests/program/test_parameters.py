"""Parameters of a program: pyro.param, torch modules and PyroModules, before and after training."""

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from programs_by_hand import X3, N
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints
from torch.nn.functional import linear

import ppl_vae as pv
from ppl_vae import Program


def param_pair(start=0.0):
    """pyro.param and pyro.module under names that every call shares."""
    net = nn.Linear(1, 1)
    with torch.no_grad():
        net.weight.fill_(0.5)
        net.bias.fill_(start)

    def model(x):
        pyro.module("decoder", net)
        scale = pyro.param("scale", torch.tensor(1.0 + start), constraint=constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(net(z.unsqueeze(-1)).squeeze(-1), scale), obs=x)

    def guide(x):
        loc = pyro.param("loc", lambda: torch.tensor(start))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc + 0 * x, 1.0))

    def by_hand(z, x, loc, scale):
        scale = torch.as_tensor(scale)
        with torch.no_grad():
            mean = net(z[..., None])[..., 0]
        log_q = td.Normal(torch.as_tensor(loc), 1.0).log_prob(z)
        return td.Normal(0.0, 1.0).log_prob(z) + td.Normal(mean, scale).log_prob(x) - log_q

    return model, guide, net, by_hand


def train(model, guide, x, steps=20):
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(steps):
        svi.step(x)


def test_two_programs_with_the_same_names_share_nothing():
    x = torch.full((N,), 4.0)
    pairs = [param_pair(), param_pair()]
    programs = [Program(model, guide) for model, guide, *_ in pairs]
    other = programs[1].log_weights(x, 3)
    train(programs[0].model, programs[0].guide, x)
    assert torch.equal(programs[1].log_weights(x, 3), other)  # untouched by the training of the first
    assert not list(pyro.get_param_store().keys())
    trained = {name: value.detach().clone() for name, value in programs[0].params.items()}
    weights = programs[0].log_weights(x, 3)
    assert trained["scale"] != 1
    assert trained["loc"] != 0
    assert pairs[0][2].weight != 0.5
    train(programs[1].model, programs[1].guide, -x)
    assert torch.equal(programs[0].log_weights(x, 3), weights)
    assert {name: float(value.detach()) for name, value in programs[0].params.items()} == {
        name: float(value) for name, value in trained.items()
    }
    assert not list(pyro.get_param_store().keys())


@pytest.mark.parametrize("created", ["before training", "after training"])
@pytest.mark.parametrize("evaluated_before", [True, False])
def test_a_pair_trained_with_plain_svi_is_evaluated_as_trained(created, evaluated_before):
    x = torch.full((N,), 4.0)
    model, guide, _, by_hand = param_pair()
    program = Program(model, guide) if created == "before training" else None
    if program is not None and evaluated_before:
        program.log_weights(x, 2)  # first values, which must not outlive the training
    train(model, guide, x)
    program = program or Program(model, guide)
    store = pyro.get_param_store()
    names, values = list(store.keys()), [value.detach().clone() for value in store.values()]
    assert float(store["scale"].detach()) != 1
    z = program.sample_guide(x, 3)["z"].detach()
    ours = program.log_joint({"z": z}, x) - program.log_guide({"z": z}, x)
    expected = by_hand(z, x, store["loc"].detach(), store["scale"].detach())
    torch.testing.assert_close(ours, expected.double(), rtol=0, atol=1e-5)
    assert list(store.keys()) == names
    assert all(torch.equal(a, b) for a, b in zip(values, [v.detach() for v in store.values()], strict=True))


def test_what_the_program_trained_itself_counts_more_than_the_global_store():
    x = torch.full((N,), 4.0)
    model, guide, _, by_hand = param_pair()
    program = Program(model, guide)
    train(program.model, program.guide, x)
    pyro.param("scale", torch.tensor(77.0), constraint=constraints.positive)
    z = torch.randn(3, N)
    ours = program.log_joint({"z": z}, x) - program.log_guide({"z": z}, x)
    expected = by_hand(z, x, program.params["loc"].detach(), program.params["scale"].detach())
    torch.testing.assert_close(ours, expected.double(), rtol=0, atol=1e-5)


class TorchModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 3)

    def forward(self, x):
        pyro.module("net", self)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x)

    def scale(self):
        return 1.0


class TorchGuide(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 2)

    def forward(self, x):
        pyro.module("net", self)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))

    scale = TorchModel.scale


class PyroModel(PyroModule):
    """A PyroModule with a PyroParam, a plain torch child and a ``pyro.param`` statement of its own."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 3)
        self.sd = PyroParam(torch.tensor(0.5), constraint=constraints.positive)

    def forward(self, x):
        extra = pyro.param("extra", torch.tensor(2.0), constraint=constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), self.sd * extra).to_event(1), obs=x)


class PyroGuide(PyroModule):
    """Its parameter is called as the model's is: two parameters all the same."""

    def __init__(self):
        super().__init__()
        self.net = PyroModule[nn.Linear](3, 2)
        self.sd = PyroParam(torch.tensor(0.8), constraint=constraints.positive)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.net(x), self.sd).to_event(1))


def module_by_hand(model, guide, z, x, sd=1.0, guide_sd=1.0):
    with torch.no_grad():
        # Not model.net(z): a PyroModule that runs by itself puts its parameters into the global store.
        log_x = td.Normal(linear(z, model.net.weight, model.net.bias), sd).log_prob(x).sum(-1)
        log_q = td.Normal(linear(x, guide.net.weight, guide.net.bias), guide_sd).log_prob(z).sum(-1)
        return td.Normal(0.0, 1.0).log_prob(z).sum(-1) + log_x - log_q


@pytest.mark.parametrize("kind", ["torch", "pyro"])
def test_modules_as_model_and_guide(kind):
    model, guide = (TorchModel(), TorchGuide()) if kind == "torch" else (PyroModel(), PyroGuide())
    x = X3.float()
    program = Program(model, guide)

    def check():
        z = program.sample_guide(x, 3)["z"].detach()
        sd, guide_sd = 1.0, 1.0
        if kind == "pyro":
            extra = program.params["extra"].detach() if "extra" in program.params else 2.0
            sd, guide_sd = model.sd.detach() * extra, guide.sd.detach()
        expected = module_by_hand(model, guide, z, x, sd, guide_sd).double()
        ours = program.log_joint({"z": z}, x) - program.log_guide({"z": z}, x)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
        assert program.log_weights(x, 3).shape == (3, N)

    check()
    # Every parameter of the two is trained, though names are shared, and nothing else is.
    leaves = program.parameters(x)
    modules = [p for part in (model, guide) for p in part.parameters()]
    assert {id(p) for p in modules} <= {id(p) for p in leaves.values()}
    assert len(leaves) == len(modules) + (kind == "pyro")
    before = [p.detach().clone() for p in leaves.values()]
    train(program.model, program.guide, x, steps=2)
    assert all(not torch.equal(a, b) for a, b in zip(before, leaves.values(), strict=True))
    assert not list(pyro.get_param_store().keys())
    check()


def test_a_pyro_module_trained_with_plain_svi_is_evaluated_as_trained():
    model, x = PyroModel(), X3.float()

    def guide(x):
        loc = pyro.param("loc", torch.zeros(2))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc.expand(len(x), 2), 1.0).to_event(1))

    program = Program(model, guide)
    program.log_weights(x, 1)
    train(model, guide, x)
    store = pyro.get_param_store()
    z = torch.randn(3, N, 2)
    with torch.no_grad():
        sd = store["sd"] * store["extra"]
        expected = td.Normal(model.net(z), sd).log_prob(x).sum(-1) + td.Normal(0.0, 1.0).log_prob(z).sum(-1)
        log_q = td.Normal(store["loc"], 1.0).log_prob(z).sum(-1)
    assert abs(float(sd) - 1.0) > 0.01
    torch.testing.assert_close(program.log_joint({"z": z}, x), expected.double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(program.log_guide({"z": z}, x), log_q.double(), rtol=0, atol=1e-4)


def test_a_pyro_module_that_ran_by_itself_is_trained_all_the_same():
    """That puts its parameters into the global store, where Pyro strips them of what SVI finds them by."""
    model, guide, x = PyroModel(), PyroGuide(), X3.float()
    guide.net(x)
    model.net(torch.zeros(2))
    program = Program(model, guide)
    leaves = program.parameters(x)
    assert len(leaves) == 7
    before = [p.detach().clone() for p in leaves.values()]
    train(program.model, program.guide, x, steps=1)
    assert all(not torch.equal(a, b) for a, b in zip(before, leaves.values(), strict=True))


def test_networks_are_evaluated_in_evaluation_mode():
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Gaussian(3),
        pv.posteriors.MeanFieldNormal(2),
        encoder=nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.9)),
        decoder=nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)),
    )
    x = X3.float()
    vae.train()
    training = [module.training for module in vae.modules()]
    weights = vae.program.log_weights(x, 4)
    assert [module.training for module in vae.modules()] == training
    vae.eval()
    assert torch.equal(vae.program.log_weights(x, 4), weights)
    assert int(vae.decoder[1].num_batches_tracked) == 0
