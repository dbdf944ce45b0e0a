"""fit: what it computes, what it repeats to the last bit, what survives a kill, and what it refuses."""

import contextlib
import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, EnergyDistance, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.distributions import constraints

import ppl_vae as pv
from ppl_vae import History, InputError, NonFiniteError, checkpoint, files, rng, training
from ppl_vae.data import binarise, load_digits
from ppl_vae.likelihoods import Bernoulli, Gaussian
from ppl_vae.posteriors import MeanFieldNormal, MultivariateNormal
from ppl_vae.priors import StandardNormal, VampPrior
from ppl_vae.training.run import Run

D = 64
DIGITS = load_digits()
X, V = DIGITS.train[:60], DIGITS.valid[:30]
GREY = load_digits(dynamic=True).train[:60]


def make(prior=StandardNormal, likelihood=None, posterior=MeanFieldNormal, **options):
    arguments = (2,) if prior is StandardNormal else (2, 3)
    return pv.VAE(
        prior(*arguments), likelihood or Bernoulli(D), posterior(2), **({"hidden": (6,), "seed": 1} | options)
    )


def normalised():
    def encoder(*_):
        return nn.Sequential(nn.Linear(D, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))

    return make(encoder=encoder)


def handwritten():
    """A program of plain functions: networks by `pyro.module`, and two `pyro.param`."""
    with rng.seeded("cpu", 0, "test"):
        decoder, encoder = nn.Linear(2, D), nn.Linear(D, 2)

    def model(x):
        pyro.module("decoder", decoder)
        temperature = pyro.param("temperature", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z) * temperature).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        scale = pyro.param("scale", lambda: 0.5 + torch.rand(2), constraint=constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(encoder(x), scale).to_event(1))

    return pv.Program(model, guide)


def program_of(target):
    return target if isinstance(target, pv.Program) else target.program


def state(target):
    """Every parameter (and buffer) of a VAE or a program."""
    if isinstance(target, pv.Program):
        with rng.seeded("cpu", 0, "test"):
            return {name: value.detach().clone() for name, value in target.parameters(X).items()}
    return {name: value.clone() for name, value in target.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(autouse=True)
def _nothing_leaks():
    torch.manual_seed(11)
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before), "the global random state moved"
    assert not list(pyro.get_param_store().keys()), "Pyro's global store was written to"


# ---- what fit computes --------------------------------------------------------------------------------------


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


def torch_sgd(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


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


# ---- KL warm-up ---------------------------------------------------------------------------------------------


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


# ---- the same bits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [make, normalised, handwritten, lambda: make(VampPrior)])
def test_a_seed_is_a_run(target, tmp_path):
    def run(seed, name):
        made = target()
        history = pv.fit(made, X, x_valid=V, epochs=3, batch_size=25, seed=seed, history_path=tmp_path / name)
        return state(made), history, (tmp_path / name).read_bytes()

    first = run(0, "a")
    torch.rand(3)  # whatever happened before in the process
    second, third = run(0, "b"), run(1, "c")
    torch.manual_seed(11)
    assert same(first[0], second[0])
    assert first[1:] == second[1:]
    assert not same(first[0], third[0])
    assert first[1] != third[1]


CASES = {
    "plain": {},
    "validation": {"x_valid": V},
    "patience": {"x_valid": V, "patience": 1, "lr": 0.1, "epochs": 8},
    "patience and warm-up": {"x_valid": V, "patience": 2, "kl_warmup": 3, "lr": 0.05, "epochs": 8},
    "warm-up": {"kl_warmup": 4},
    "cosine": {"lr_schedule": "cosine"},
    "burda": {"lr_schedule": "burda"},
    "own schedule": {"lr_schedule": lambda epoch, epochs: 1 / (1 + epoch)},
    "dynamic binarisation": {"x_train": GREY, "transform": binarise},
    "clipping and momentum": {"clip_norm": 0.5, "optimiser": torch_sgd, "lr": 1e-3},
    "plain SGD": {"optimiser": lambda parameters, lr: torch.optim.SGD(parameters, lr), "lr": 1e-4},
    "AdamW": {"optimiser": lambda parameters, lr: torch.optim.AdamW(parameters, lr, amsgrad=True)},
    "Renyi": {"objective": lambda: RenyiELBO(num_particles=2, vectorize_particles=True)},
    "mean field": {"objective": TraceMeanField_ELBO},
    "batch normalisation": {"target": normalised, "x_valid": V},
    "pseudo-inputs": {"target": lambda: make(VampPrior, posterior=MultivariateNormal)},
    "handwritten": {"target": handwritten},
    "handwritten, everything": {
        "target": handwritten,
        "x_valid": V,
        "patience": 2,
        "kl_warmup": 2,
        "lr": 0.1,
        "lr_schedule": "cosine",
        "x_train": GREY,
        "transform": binarise,
    },
}


class Killed(BaseException):
    """Like KeyboardInterrupt, but nobody else's."""


def start(case, folder, **more):
    """`fit` of a case from scratch, as a new process would call it."""
    case = CASES[case] | more
    made = case.get("target", make)()
    settings = {"epochs": 5, "batch_size": 25, "lr": 1e-2, "seed": 3, "x_train": X} | {
        name: value for name, value in case.items() if name != "target"
    }
    if "objective" in settings:
        settings["objective"] = settings["objective"]()
    folder.mkdir(exist_ok=True)
    history = pv.fit(
        made,
        settings.pop("x_train"),
        **settings,
        checkpoint=folder / "state",
        history_path=folder / "history",
    )
    return made, history


def killing(monkeypatch, name, owner, call, error=Killed):
    """Make the given call of a function of the library raise instead."""
    original, calls = getattr(owner, name), []

    def run(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, run)


@pytest.fixture
def eager(monkeypatch):
    """A checkpoint after every epoch, however fast."""
    monkeypatch.setattr(checkpoint, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "MAX_SHARE", math.inf)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("draw", range(2))
def test_killed_and_resumed_is_never_killed(case, draw, tmp_path, monkeypatch, eager):
    made, history = start(case, tmp_path / "whole")
    steps = history[-1].step
    # Two kills at random steps: the first run's, then that of the run which resumed it.
    for kill in range(2):
        call = rng.derive(draw, case, kill) % steps + 1
        error = (Killed, KeyboardInterrupt)[kill]
        with monkeypatch.context() as patch, contextlib.suppress(Killed, KeyboardInterrupt):
            killing(patch, "advance", Run, call, error)
            start(case, tmp_path / "killed", resume=True)
    again, resumed = start(case, tmp_path / "killed", resume=True)
    assert resumed == history
    assert same(state(again), state(made))
    for name in ("history", "state"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # A finished run that is resumed once more does nothing, and ends with the same model.
    once_more, unchanged = start(case, tmp_path / "killed", resume=True)
    assert unchanged == history
    assert same(state(once_more), state(made))


@pytest.mark.parametrize("where", ["validation", "record", "history file", "checkpoint"])
def test_killed_between_the_steps(where, tmp_path, monkeypatch, eager):
    owner, name = {
        "validation": (training.loop, "_validate"),
        "record": (Run, "record"),
        "history file": (History, "jsonl"),
        "checkpoint": (files, "write_bytes"),
    }[where]
    made, history = start("patience and warm-up", tmp_path / "whole")
    for call in (2, 3):
        with monkeypatch.context() as patch:
            killing(patch, name, owner, call)
            with pytest.raises(Killed):
                start("patience and warm-up", tmp_path / "killed", resume=True)
    again, resumed = start("patience and warm-up", tmp_path / "killed", resume=True)
    assert resumed == history
    assert same(state(again), state(made))
    for file in ("history", "state"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_an_old_checkpoint_takes_the_history_file_back_with_it(tmp_path, monkeypatch):
    """Writing is throttled, so a kill may lose epochs that the history file has."""
    made, history = start("validation", tmp_path / "whole")
    monkeypatch.setattr(checkpoint, "MIN_SECONDS", 3600.0)
    with monkeypatch.context() as patch:
        killing(patch, "advance", Run, 11)
        with pytest.raises(Killed):
            start("validation", tmp_path / "killed")
    assert len(pv.History.load(tmp_path / "killed" / "history")) == 3
    assert len(files.read_tensors(tmp_path / "killed" / "state")[1]["state"]["epochs"]) == 1
    again, resumed = start("validation", tmp_path / "killed", resume=True)
    assert resumed == history == pv.History.load(tmp_path / "killed" / "history")
    assert same(state(again), state(made))


def test_more_epochs_continue_a_finished_run(tmp_path):
    short, _ = start("validation", tmp_path / "a", epochs=2)
    longer, history = start("validation", tmp_path / "a", epochs=5, resume=True)
    whole, expected = start("validation", tmp_path / "b", epochs=5)
    assert history == expected
    assert same(state(longer), state(whole))
    assert not same(state(short), state(whole))


def test_buffers_are_in_checkpoints(tmp_path):
    made, _ = start("batch normalisation", tmp_path)
    tensors, _ = files.read_tensors(tmp_path / "state")
    kept = {name.split("/")[-1]: value for name, value in tensors.items() if name.startswith("now/buffer/")}
    buffers = dict(made.named_buffers())
    assert kept.keys() == buffers.keys()
    assert {"encoder.1.running_mean", "encoder.1.num_batches_tracked"} <= kept.keys()
    assert all(torch.equal(kept[name], buffers[name]) for name in buffers)


def sgd_again(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"seed": 4}, "seed"),
        ({"batch_size": 24}, "batch_size"),
        ({"lr": 2e-2}, "lr"),
        ({"kl_warmup": 1}, "kl_warmup"),
        ({"clip_norm": 1.0}, "clip_norm"),
        ({"lr_schedule": "cosine"}, "lr_schedule"),
        ({"optimiser": sgd_again}, "optimiser"),
        ({"optimiser": lambda p, lr: torch.optim.Adam(p, lr, eps=1e-4, fused=True)}, "eps"),
        ({"objective": lambda: RenyiELBO(num_particles=2)}, "objective"),
        ({"objective": lambda: Trace_ELBO(num_particles=2)}, "num_particles"),
        ({"transform": binarise}, "transform"),
        ({"patience": 2}, "early stopping"),
        ({"x_train": X[:59]}, "data train"),
        ({"x_train": 1 - X}, "data train"),
        ({"x_valid": 1 - V}, "data valid"),
        ({"x_valid": None}, "data valid"),
        ({"target": lambda: make(hidden=(7,))}, "parameters"),
        ({"target": lambda: make(VampPrior)}, "parameters"),
        ({"target": lambda: make().double(), "x_train": X.double(), "x_valid": V.double()}, "data"),
        ({"target": handwritten}, "parameters"),
    ],
)
def test_another_run_is_refused_by_its_difference(change, word, tmp_path):
    start("validation", tmp_path, epochs=1)
    before = [(tmp_path / name).read_bytes() for name in ("state", "history")]
    with pytest.raises(InputError) as caught:
        start("validation", tmp_path, resume=True, **change)
    message = str(caught.value)
    assert str(tmp_path / "state") in message
    assert word in message
    assert "\n" not in message
    assert [(tmp_path / name).read_bytes() for name in ("state", "history")] == before


def test_an_existing_checkpoint_is_not_overwritten(tmp_path):
    start("plain", tmp_path, epochs=1)
    before = [(tmp_path / name).read_bytes() for name in ("state", "history")]
    with pytest.raises(InputError, match="exists") as caught:
        start("plain", tmp_path, epochs=1)
    assert caught.value.argument == "checkpoint"
    assert [(tmp_path / name).read_bytes() for name in ("state", "history")] == before


@pytest.mark.parametrize("content", [b"", b"text", "vae"])
def test_a_file_that_is_no_checkpoint_is_refused(content, tmp_path):
    if content == "vae":
        pv.save(make(), tmp_path / "state")
    else:
        (tmp_path / "state").write_bytes(content)
    before = (tmp_path / "state").read_bytes()
    with pytest.raises(InputError, match="state"):
        start("plain", tmp_path, resume=True)
    assert (tmp_path / "state").read_bytes() == before


# ---- numbers that are none ----------------------------------------------------------------------------------


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


# ---- early stopping -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [make, normalised, handwritten])
def test_early_stopping_leaves_the_best_epoch(target):
    made = target()
    history = pv.fit(made, X, x_valid=V, epochs=200, batch_size=20, lr=0.05, patience=3, seed=1)
    values = [epoch.valid_elbo for epoch in history]
    assert len(history) < 200
    assert history.best_epoch == 1 + max(range(len(values)), key=values.__getitem__)
    assert len(history) == history.best_epoch + 3
    assert training.elbo(program_of(made), V, seed=1) == max(values)


def test_patience_waits_for_the_end_of_warm_up():
    history = pv.fit(make(), X, x_valid=V, epochs=40, batch_size=20, lr=0.2, patience=1, kl_warmup=6)
    assert len(history) > 6


def test_without_patience_the_last_epoch_stays():
    vae = make()
    history = pv.fit(vae, X, x_valid=V, epochs=6, lr=0.2)
    assert history.best_epoch is None
    assert training.elbo(vae.program, V) == history[-1].valid_elbo


def test_a_validation_elbo_that_is_no_number_is_never_the_best(monkeypatch):
    values = iter([math.nan, -3.0, math.nan, -5.0, -4.0])
    monkeypatch.setattr(training.loop, "_validate", lambda *_: next(values))
    history = pv.fit(make(), X, x_valid=V, epochs=5, patience=5)
    assert history.best_epoch == 2


# ---- arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"target": nn.Linear(2, 2)}, "target"),
        ({"target": None}, "target"),
        ({"x_train": X.tolist()}, "x_train"),
        ({"x_train": X[:0]}, "x_train"),
        ({"x_train": X[:, :3]}, "x_train"),
        ({"x_train": GREY}, "x_train"),
        ({"x_train": {"a": X, "b": V}}, "x_train"),
        ({"x_valid": V[:, :3]}, "x_valid"),
        ({"x_valid": V.tolist()}, "x_valid"),
        ({"x_valid": V * 0.5}, "x_valid"),
        ({"objective": "Trace_ELBO"}, "objective"),
        ({"objective": Trace_ELBO}, "objective"),
        ({"objective": EnergyDistance()}, "objective"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": 1.0}, "epochs"),
        ({"epochs": True}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": "all"}, "batch_size"),
        ({"lr": 0.0}, "lr"),
        ({"lr": math.nan}, "lr"),
        ({"lr": "fast"}, "lr"),
        ({"lr_schedule": "linear"}, "lr_schedule"),
        ({"lr_schedule": None}, "lr_schedule"),
        ({"optimiser": "adam"}, "optimiser"),
        ({"optimiser": None}, "optimiser"),
        ({"clip_norm": 0}, "clip_norm"),
        ({"clip_norm": -1.0}, "clip_norm"),
        ({"kl_warmup": -1}, "kl_warmup"),
        ({"kl_warmup": 1.5}, "kl_warmup"),
        ({"kl_warmup": True}, "kl_warmup"),
        ({"patience": 2}, "x_valid"),
        ({"patience": 0, "x_valid": V}, "patience"),
        ({"transform": "binarise"}, "transform"),
        ({"x_train": {"x": X}, "transform": binarise}, "transform"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.0}, "seed"),
        ({"device": "nowhere"}, "device"),
    ],
)
def test_bad_arguments(options, argument, tmp_path):
    vae = make()
    before = state(vae)
    options = {"target": vae, "x_train": X, "epochs": 1} | options
    files_given = {"checkpoint": tmp_path / "state", "history_path": tmp_path / "history"}
    with pytest.raises(InputError) as caught:
        pv.fit(options.pop("target"), options.pop("x_train"), **options, **files_given)
    assert caught.value.argument == argument
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert same(state(vae), before)


def test_a_program_without_parameters_cannot_be_trained():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0, 1))
            pyro.sample("x", dist.Normal(z, 1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 1))

    with pytest.raises(InputError, match="trainable parameter"):
        pv.fit(pv.Program(model, guide), torch.randn(5, generator=rng.generator(0, "test")), epochs=1)


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


def test_the_optimisers_own_factory():
    made = []

    def factory(parameters, lr):
        made.append((len(parameters), lr))
        return torch.optim.SGD(parameters, lr=lr)

    vae = make()
    pv.fit(vae, X, epochs=1, lr=1e-4, optimiser=factory)
    assert made == [(len(list(vae.parameters())), 1e-4)]
    again = make()
    again.decoder.requires_grad_(False)
    before = state(again.decoder)
    again.started.fill_(True)
    pv.fit(again, X, epochs=1, lr=1e-4, optimiser=factory)
    assert same(state(again.decoder), before)  # frozen parameters are neither handed over nor moved


@pytest.mark.parametrize("objective", [pyro.infer.JitTrace_ELBO(), pyro.infer.ReweightedWakeSleep()])
def test_objectives_that_svi_cannot_step_are_refused_by_name(objective):
    with pytest.raises(InputError, match=rf"objective.*{type(objective).__name__}"):
        pv.fit(make(), X, objective=objective, epochs=1)


def test_a_loaded_model_trains_in_training_mode_and_is_left_as_it_was(tmp_path):
    vae = normalised().eval()
    before = {name: value.clone() for name, value in vae.named_buffers()}
    pv.fit(vae, X, epochs=1, batch_size=20)
    running = [name for name in before if "running_mean" in name]
    assert running
    assert all(not torch.equal(before[name], dict(vae.named_buffers())[name]) for name in running)
    assert not any(module.training for module in vae.modules())
