"""Jobs of one run each, Ctrl-C at any moment of them, and what must be as before."""

import os
import random
import signal
import threading
import time

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.nn.module import _is_module_local_param_enabled
from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK
from torch import nn
from torch.distributions import Distribution, constraints

import ppl_vae as pv
from ppl_vae import rng
from ppl_vae.program import Program

X = torch.linspace(-2, 2, 16 * 3).reshape(16, 3)


@pytest.fixture(autouse=True)
def _own_handler():
    """A worker of pytest-xdist ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    pyro.clear_param_store()
    yield
    signal.signal(signal.SIGINT, before)
    pyro.clear_param_store()


def press():
    os.kill(os.getpid(), signal.SIGINT)


def pair(seed=0):
    with rng.seeded("cpu", seed, "test"):
        decoder, encoder = nn.Linear(2, 3), nn.Linear(3, 4)

    def model(x):
        pyro.module("decoder", decoder)
        scale = pyro.param("scale", torch.tensor(0.7), constraint=constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), scale).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x), dim=-1):
            loc, raw = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    return model, guide


def fit(epochs=2):
    history = pv.fit(
        Program(*pair()), X, x_valid=X, epochs=epochs, batch_size=4, progress=False, compile=False
    )
    return [epoch.valid_elbo for epoch in history]


def importance(num_samples=20):
    return pv.evidence.importance(Program(*pair()), X, num_samples, progress=False).log_evidence.tolist()


def annealed():
    e = pv.evidence.annealed(Program(*pair()), X[:4], num_chains=2, num_steps=6, progress=False)
    return e.log_evidence.tolist()


def draws():
    return Program(*pair()).log_weights(X, 5, seed=3).tolist()


def plain_svi():
    pyro.clear_param_store()
    with rng.seeded("cpu", 1, "plain"):
        loss = SVI(*pair(), pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(X)
    pyro.clear_param_store()
    return loss


def state():
    return (
        list(_PYRO_STACK),
        list(_DIM_ALLOCATOR._stack),
        _is_module_local_param_enabled(),
        pyro.distributions.is_validation_enabled(),
        pyro.infer.util.is_validation_enabled(),
        pyro.poutine.util.is_validation_enabled(),
        Distribution._validate_args,
        torch.is_grad_enabled(),
        signal.getsignal(signal.SIGINT),
    )


def interrupt(job, after, presses, chance):
    """Run a job with Ctrl-C after some seconds; whether it acted (it does so at the latest when the job is done)."""
    sent = threading.Event()

    def send():
        for _ in range(presses):
            press()
            time.sleep(chance.choice([0, 1e-5, 1e-4, 1e-3]))
        sent.set()

    def waited():
        while not sent.is_set():
            time.sleep(0.0005)
        time.sleep(0.0005)

    timer, acted, late = threading.Timer(after, send), [], []

    def quiet():
        signal.signal(signal.SIGINT, lambda *_: late.append(1))  # the others are not for the code below

    def run():
        timer.start()
        job()
        waited()
        quiet()

    def caught(action):
        def act():
            try:
                action()
            except KeyboardInterrupt:  # while this is handled another one may come: the next level catches it
                acted.append(1)
                quiet()

        return act

    for _ in range(presses):
        run = caught(run)
    run()
    waited()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return bool(acted or late)


def press_and_compare(times, presses):
    expected = fit(), importance(), plain_svi()
    jobs = [lambda: fit(3), lambda: importance(300), lambda: [draws() for _ in range(10)], annealed]
    lasts = []
    for job in jobs:
        start = time.monotonic()
        job()
        lasts.append(time.monotonic() - start)
    chance, before = random.Random(0), state()  # noqa: S311
    for i in range(times):
        which = chance.randrange(len(jobs))
        assert interrupt(jobs[which], chance.uniform(0, lasts[which]), presses, chance)
        assert state() == before
        assert plain_svi() == expected[2]
        if i % 10 == 9:
            assert (fit(), importance()) == expected[:2]
