"""fit: what it computes, with which objectives and weights, and what it refuses to go on with."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from training_models import DIGITS, D, V, X, make, same, state
from training_runs import start, torch_sgd

import ppl_vae as pv
from ppl_vae import NonFiniteError, files, rng, training
from ppl_vae.data import binarise
from ppl_vae.likelihoods import Gaussian
from ppl_vae.posteriors import MultivariateNormal

pytestmark = pytest.mark.usefixtures("_nothing_leaks")


def test_the_elbo_of_digits_rises():
    """Independent pixels of the same digits score -27.1 nats; a VAE of 8 epochs is well above."""
    vae = make(hidden=(32,))
    x, v = DIGITS.train, DIGITS.valid
    history = pv.fit(vae, x, x_valid=v, epochs=8, batch_size=50, lr=1e-2)
    p = x.mean(0).clamp(0.01, 0.99)
    independent = float(dist.Bernoulli(p).log_prob(v).sum(1).mean())
    values = [epoch.valid_elbo for epoch in history]
    assert values[-1] > independent + 1
    assert values[-1] > values[0] + 1
    assert history[-1].train_elbo > history[0].train_elbo
    e = pv.evidence.importance(vae.program, v, num_samples=64)
    assert e.mean().value > values[-1]


def by_hand(vae, x, *, epochs, batch_size, lr, seed, objective):
    """The loop that the documentation promises, with Pyro's own optimiser."""
    losses = []
    vae.start_from(x, seed=seed)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": lr}), objective)
    for epoch in range(epochs):
        order = torch.randperm(len(x), generator=rng.generator(seed, "shuffle", epoch))
        with rng.seeded("cpu", seed, "epoch", epoch):
            losses.append([svi.step(x[index]) for index in order.split(batch_size)])
    return losses


@pytest.mark.parametrize("objective", [Trace_ELBO, TraceMeanField_ELBO, lambda: Trace_ELBO(num_particles=2)])
def test_fit_is_plain_svi(objective):
    x = X.double()
    one, two = make().double(), make().double()
    settings = {"epochs": 3, "batch_size": 25, "lr": 1e-2, "seed": 4}
    losses = by_hand(one, x, **settings, objective=objective())
    history = pv.fit(two, x, **settings, objective=objective())
    for mine, theirs in zip(losses, history, strict=True):
        assert theirs.train_elbo == pytest.approx(-sum(mine) / len(x), rel=1e-9)
    for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9, msg=name)


def test_the_first_loss_is_pyros_to_the_last_bit():
    vae = make()
    other = copy.deepcopy(vae)
    other.start_from(X, seed=2)
    order = torch.randperm(len(X), generator=rng.generator(2, "shuffle", 0))
    with rng.seeded("cpu", 2, "epoch", 0):
        loss = Trace_ELBO().loss(other.model, other.guide, X[order])
    history = pv.fit(vae, X, epochs=1, batch_size=len(X), seed=2)
    assert history[0].train_elbo == -loss / len(X)


def test_clipping_bounds_the_gradient():
    def step(clip_norm):
        vae = make()
        vae.start_from(X)
        before = state(vae)
        pv.fit(vae, X, epochs=1, batch_size=len(X), lr=1.0, optimiser=torch_sgd, clip_norm=clip_norm)
        moved = torch.cat([(v - before[name]).flatten() for name, v in vae.named_parameters()])
        return moved.detach()

    free = step(None)
    assert free.norm() > 1
    clipped = step(0.5)
    assert float(clipped.norm()) == pytest.approx(0.5, rel=1e-3)
    torch.testing.assert_close(clipped / clipped.norm(), free / free.norm(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(step(1e6), free)


def test_each_epoch_goes_once_through_the_data_in_its_own_order():
    batches = []
    x = torch.arange(60.0)[:, None].repeat(1, 3)
    vae = make(likelihood=Gaussian(3))
    history = pv.fit(vae, x, epochs=3, batch_size=25, transform=lambda b, _: (batches.append(b), b)[1])
    assert [len(batch) for batch in batches] == [25] + 3 * [25, 25, 10]  # the first one is a check
    epochs = [torch.cat(batches[1 + 3 * i : 4 + 3 * i])[:, 0] for i in range(3)]
    assert all(torch.equal(epoch.sort().values, x[:, 0]) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 3
    assert [epoch.step for epoch in history] == [3, 6, 9]
    assert [epoch.epoch for epoch in history] == [1, 2, 3]
    plain = make(likelihood=Gaussian(3))
    assert (
        pv.fit(plain, x, epochs=3, batch_size=25) == history
    )  # a transform that does nothing changes nothing
    assert same(state(plain), state(vae))


def test_a_transform_draws_anew_in_every_epoch_and_for_every_seed():
    def run(seed):
        batches = []

        def recorded(x, generator):
            batches.append(binarise(x, generator))
            return batches[-1]

        pv.fit(make(), torch.full((40, D), 0.5), epochs=3, batch_size=20, transform=recorded, seed=seed)
        return torch.stack(batches)

    first = run(0)
    assert len(first.unique(dim=0)) == 1 + 3 * 2  # the check of the first batch, and six others
    assert torch.equal(run(0), first)
    assert len(torch.cat([first, run(1)]).unique(dim=0)) == 14


@pytest.mark.parametrize("batch_size", [1, 7, 59, 60, 61, 1000])
def test_any_batch_size(batch_size):
    history = pv.fit(make(), X, epochs=2, batch_size=batch_size)
    assert history[-1].step == 2 * math.ceil(60 / batch_size)
    assert math.isfinite(history[-1].train_elbo)


@pytest.mark.parametrize(
    "objective",
    [
        lambda: Trace_ELBO(num_particles=3),
        lambda: Trace_ELBO(num_particles=3, vectorize_particles=True),
        lambda: Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
        lambda: TraceMeanField_ELBO(),
        lambda: TraceMeanField_ELBO(num_particles=3, vectorize_particles=True),
        lambda: TraceGraph_ELBO(),
        lambda: RenyiELBO(num_particles=3),
        lambda: RenyiELBO(alpha=0.5, num_particles=3, vectorize_particles=True),
    ],
)
def test_every_objective_of_pyros_repeats_and_is_left_as_it_was(objective, capsys):
    """An ELBO that finds out the number of plates by itself draws for it: a second run would differ."""
    given = objective()
    before = dict(vars(given))
    one, two = make(posterior=MultivariateNormal), make(posterior=MultivariateNormal)
    history = pv.fit(one, X, epochs=2, objective=given)
    assert vars(given) == before
    assert pv.fit(two, X, epochs=2, objective=given) == history
    assert same(state(one), state(two))
    assert capsys.readouterr().out == ""


def test_learning_rates_are_those_of_the_schedule():
    for name, factors in {
        "constant": [1, 1, 1, 1],
        "cosine": [0.5 * (1 + math.cos(math.pi * e / 4)) for e in range(4)],
        "own": [1, 1 / 2, 1 / 3, 1 / 4],
    }.items():
        seen = []

        def factory(parameters, lr, seen=seen):
            optimiser = torch.optim.SGD(parameters, lr=lr)
            optimiser.register_step_pre_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
            return optimiser

        given = name if name != "own" else lambda epoch, epochs: 1 / (epoch + 1)
        history = pv.fit(make(), X, epochs=4, batch_size=60, lr=1e-4, lr_schedule=given, optimiser=factory)
        assert [epoch.lr for epoch in history] == pytest.approx([1e-4 * factor for factor in factors])
        assert seen == [epoch.lr for epoch in history]


def test_warm_up_weighs_the_kl_term_and_nothing_else():
    vae = make()
    start = copy.deepcopy(vae)
    start.start_from(X)
    history = pv.fit(vae, X, x_valid=V, epochs=6, batch_size=60, kl_warmup=3)
    assert [epoch.beta for epoch in history] == [0.25, 0.5, 0.75, 1, 1, 1]
    # The first step, by hand: the likelihood whole, a quarter of the rest.
    x = X[torch.randperm(60, generator=rng.generator(0, "shuffle", 0))]
    with rng.seeded("cpu", 0, "epoch", 0):
        z = pyro.sample("z", start.encode(x))
    log_lik = start.decode(z).log_prob(x)
    kl = start.encode(x).log_prob(z) - start.prior().log_prob(z)
    assert history[0].train_elbo == pytest.approx(float((log_lik - kl / 4).detach().mean()), rel=1e-5)


def test_validation_is_always_the_plain_elbo():
    vae = make()
    history = pv.fit(vae, X, x_valid=V, epochs=2, kl_warmup=8, seed=3)
    assert history[-1].beta < 0.5
    assert history[-1].valid_elbo == training.elbo(vae.program, V, seed=3)
    z = vae.program.sample_guide(V, 400)
    many = (vae.program.log_joint(z, V) - vae.program.log_guide(z, V)).detach()
    # One sample a datum against 400: 4 standard errors of 30 draws; the annealed one is further off than that.
    error = float(many.std(0).square().sum().sqrt()) / len(V)
    assert abs(history[-1].valid_elbo - float(many.mean())) < 4 * error


def test_evidence_never_sees_the_weight():
    vae = make()
    before = pv.evidence.importance(vae.program, V, num_samples=20)
    model, guide = vae.program.kl_weighted(0.1)
    trace = poutine.trace(guide).get_trace(V)
    poutine.trace(poutine.replay(model, trace=trace)).get_trace(V)
    torch.manual_seed(11)
    after = pv.evidence.importance(vae.program, V, num_samples=20)
    assert torch.equal(before.log_evidence, after.log_evidence)
    with pytest.raises(pv.ProgramError, match="scale"):
        pv.Program(model, guide).log_weights(V, 2)


class Breaks(Trace_ELBO):
    """Its loss is not a number from the given step on."""

    def __init__(self, step, value=math.nan):
        super().__init__()
        self._left, self._value = [step], value  # a list: `fit` works with a copy

    def loss_and_grads(self, *args, **kwargs):
        self._left[0] -= 1
        loss = super().loss_and_grads(*args, **kwargs)
        return self._value if self._left[0] <= 0 else loss


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_stops_the_run(value, tmp_path, eager):
    with pytest.raises(NonFiniteError) as caught:
        start("plain", tmp_path / "bad", objective=lambda: Breaks(8, value))
    assert "step 8 (epoch 3)" in str(caught.value)
    assert str(tmp_path / "bad" / "state") in str(caught.value)
    assert str(value) in str(caught.value)
    tensors, metadata = files.read_tensors(tmp_path / "bad" / "state")
    assert len(metadata["state"]["epochs"]) == 2
    good, _ = start("plain", tmp_path / "good", objective=lambda: Breaks(10**6), epochs=2)
    for name, parameter in good.named_parameters():
        assert torch.equal(tensors[f"now/param/vae.{name}"], parameter)
    with pytest.raises(NonFiniteError, match="last good checkpoint: none"):
        pv.fit(make(), X, objective=Breaks(1), epochs=1)


class Overflows(Trace_ELBO):
    """Its loss is fine, and the gradient of one step is not."""

    def __init__(self, step, parameter):
        super().__init__()
        self._left, self._parameter = [step], parameter

    def loss_and_grads(self, *args, **kwargs):
        self._left[0] -= 1
        loss = super().loss_and_grads(*args, **kwargs)
        if self._left[0] == 0:
            self._parameter.grad[0] = math.inf
        return loss


def test_parameters_that_are_no_numbers_never_reach_a_checkpoint(tmp_path, eager):
    """The last step of an epoch breaks the model; no loss has told it yet."""
    vae = make()
    with pytest.raises(NonFiniteError, match=r"encoder\.last\.weight.*step 6 \(epoch 2\)") as caught:
        pv.fit(
            vae, X, epochs=2, batch_size=25, objective=Overflows(6, vae.encoder.last.weight),
            checkpoint=tmp_path / "state", history_path=tmp_path / "history",
        )  # fmt: skip
    assert str(tmp_path / "state") in str(caught.value)
    tensors, metadata = files.read_tensors(tmp_path / "state")
    assert len(metadata["state"]["epochs"]) == 1
    assert all(torch.isfinite(value).all() for value in tensors.values())
    assert len(pv.History.load(tmp_path / "history")) == 1


def test_data_in_a_dict():
    """A program of more than one tensor: batches take the same rows of each."""

    def model(data):
        with pyro.plate("data", len(data["y"]), dim=-1):
            z = pyro.sample("z", dist.Normal(0, 1))
            pyro.sample("y", dist.Normal(z + data["u"], 1), obs=data["y"])

    def guide(data):
        w = pyro.param("w", torch.tensor(0.0))
        with pyro.plate("data", len(data["y"]), dim=-1):
            pyro.sample("z", dist.Normal(w * (data["y"] - data["u"]), 0.7))

    u = torch.arange(40.0)
    y = u + torch.randn(40, generator=rng.generator(0, "test"))
    program = pv.Program(model, guide)
    history = pv.fit(program, {"y": y, "u": u}, x_valid={"y": y, "u": u}, epochs=60, batch_size=7, lr=0.05)
    assert history[-1].valid_elbo > history[0].valid_elbo
    # The posterior of z is N((y - u) / 2, 1/2): the guide finds the factor, had the rows not been mixed up.
    assert float(program.params["w"].detach()) == pytest.approx(0.5, abs=0.15)
