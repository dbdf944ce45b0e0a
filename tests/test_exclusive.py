"""One run at a time: sections, turns, Ctrl-C, and what is put back."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
from ppl_vae import exclusive, rng
from ppl_vae.errors import ProgramError
from ppl_vae.exclusive import Own, give_way
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


# ---- sections -----------------------------------------------------------------------------------------------------


def test_a_section_may_be_entered_again_and_keeps_other_threads_out():
    order = []
    inside = threading.Event()

    def other():
        inside.wait()
        with exclusive.exclusive():
            order.append("other")

    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(other)
        with exclusive.exclusive():
            inside.set()
            with exclusive.exclusive():
                time.sleep(0.02)
            time.sleep(0.02)
            order.append("first")
        done.result()
    assert order == ["first", "other"]


def test_give_way_gives_a_waiting_thread_its_turn_and_hides_what_is_the_runs_own():
    value = ["outside"]
    seen = []

    def other():
        with exclusive.exclusive():
            seen.append(value[0])
            value[0] = "changed by the other"

    with ThreadPoolExecutor(1) as threads:
        with Own(lambda: value[0], lambda new: value.__setitem__(0, new)):
            value[0] = "inside"
            done = threads.submit(other)
            while not exclusive._process.gate.locked():
                time.sleep(0.001)
            give_way()
            assert value[0] == "inside"
        done.result()
    assert seen == ["outside"]
    assert value[0] == "changed by the other"


def test_outside_a_section_nobody_has_to_give_way():
    with ThreadPoolExecutor(1) as threads, exclusive.exclusive():
        threads.submit(give_way).result()
    give_way()


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_what_pyro_keeps_is_put_back_exactly(error):
    before, store = state(), pyro.get_param_store()
    pyro.param("somebody's", torch.tensor(1.0))
    with contextlib.suppress(ValueError, KeyboardInterrupt), exclusive.exclusive():
        _PYRO_STACK.append(pyro.poutine.block_messenger.BlockMessenger())
        _DIM_ALLOCATOR.allocate("data", -2)
        pyro.enable_validation(not pyro.distributions.is_validation_enabled())
        pyro.settings.set(module_local_params=True)
        torch._C._set_grad_enabled(False)
        if error is not None:
            store.clear()  # as a PyroModule with parameters of its own leaves it when it is interrupted
            raise error
    assert state() == before
    assert list(store) == ["somebody's"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_process_does_not_wait_for_a_thread_that_it_has_not_got():
    ready, finish = threading.Event(), threading.Event()

    def hold():
        with exclusive.exclusive():
            ready.set()
            finish.wait()

    with ThreadPoolExecutor(1) as threads:
        threads.submit(hold)
        ready.wait()
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            with exclusive.exclusive():
                os.write(write, b"entered")
            os._exit(0)
        os.close(write)
        finish.set()
        assert os.read(read, 7) == b"entered"
        os.waitpid(child, 0)
        os.close(read)


# ---- Ctrl-C -------------------------------------------------------------------------------------------------------


def test_the_first_press_acts_at_the_end_of_the_section_and_a_second_one_at_once():
    steps = []

    def run(presses):
        with exclusive.exclusive():
            for _ in range(presses):
                press()
            steps.append(presses)

    for presses in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            run(presses)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert steps == [1]


def test_a_press_acts_where_a_run_gives_way():
    steps = []

    def run():
        with exclusive.exclusive():
            for step in range(3):
                if step == 1:
                    press()
                steps.append(step)
                give_way()

    with pytest.raises(KeyboardInterrupt):
        run()
    assert steps == [0, 1]


def test_a_press_ends_the_waiting_for_a_turn():
    ready, finish = threading.Event(), threading.Event()

    def hold():
        with exclusive.exclusive():
            ready.set()
            finish.wait()

    with ThreadPoolExecutor(1) as threads:
        threads.submit(hold)
        ready.wait()
        threading.Timer(0.05, press).start()
        with pytest.raises(KeyboardInterrupt), exclusive.exclusive():
            pass
        finish.set()
    with exclusive.exclusive():
        pass


def test_a_handler_of_the_users_own_is_asked_at_once():
    calls = []
    signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
    handler = signal.getsignal(signal.SIGINT)
    with exclusive.exclusive():
        press()
        assert calls == [signal.SIGINT]
        give_way()
    assert calls == [signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_handler_that_is_set_inside_stays():
    def mine(number, frame):
        pass

    with exclusive.exclusive():
        signal.signal(signal.SIGINT, mine)
    assert signal.getsignal(signal.SIGINT) is mine


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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a second press, in a __del__
@pytest.mark.parametrize(
    ("times", "presses"),
    [
        (30, 1),
        (10, 3),
        pytest.param(500, 1, marks=[pytest.mark.slow, pytest.mark.exhaustive]),
        pytest.param(200, 3, marks=[pytest.mark.slow, pytest.mark.exhaustive]),
    ],
)
def test_after_ctrl_c_everything_works_as_before(times, presses):
    """In a process of its own: a press that comes late must not end the tests."""
    call = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_exclusive as tests; "
    call += f"tests.press_and_compare({times}, {presses})"
    result = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, timeout=1200)
    assert result.returncode == 0, result.stderr[-3000:]


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


def test_an_interrupted_fit_is_resumed_to_the_same_bits(tmp_path):
    def run(epochs, resume=False):
        program = Program(*pair())
        pv.fit(
            program, X, epochs=epochs, batch_size=4, progress=False, compile=False,
            checkpoint=tmp_path / "checkpoint", resume=resume,
        )  # fmt: skip
        return [value.tolist() for value in program.parameters(X).values()]

    expected = run(8)
    (tmp_path / "checkpoint").unlink()
    threading.Timer(0.03, press).start()
    with contextlib.suppress(KeyboardInterrupt):
        run(8)
        time.sleep(0.05)
    assert run(8, resume=True) == expected


# ---- threads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [2, 4])
def test_threads_get_the_same_bits_as_alone(threads):
    jobs = [fit, importance, annealed, draws]
    expected = [job() for job in jobs]
    torch.manual_seed(5)
    before, users = state(), torch.get_rng_state()
    with ThreadPoolExecutor(threads) as pool:
        found = [pool.submit(jobs[i % len(jobs)]) for i in range(2 * len(jobs))]
        results = [future.result() for future in found]
    assert results == expected * 2
    assert state() == before
    assert torch.equal(torch.get_rng_state(), users)


def test_ctrl_c_in_one_thread_leaves_the_others_alone():
    expected = importance(200)
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(importance, 200) for _ in range(4)]
        threading.Timer(0.02, press).start()
        with pytest.raises(KeyboardInterrupt):
            fit(2000)
        assert [future.result() for future in found] == [expected] * 4
    assert plain_svi() == plain_svi()


def test_an_exception_in_the_users_model_leaves_pyro_as_it_was():
    _, guide = pair()
    expected = importance()

    def fails(x):
        with pyro.plate("data", len(x), dim=-1), pyro.poutine.scale(scale=1.0):
            pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            raise LookupError("mine")

    before = state()
    for run in (
        lambda: Program(fails, guide).check(X),
        lambda: Program(fails, guide).log_weights(X, 2, check=False),
        lambda: pv.fit(Program(fails, guide), X, epochs=1, progress=False),
        lambda: pv.evidence.importance(Program(fails, guide), X, 5, progress=False),
    ):
        with pytest.raises(ProgramError, match=r"LookupError.*mine"):
            run()
        assert state() == before
    assert importance() == expected
