"""One run at a time: sections, turns, threads, and what is put back."""

import contextlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pyro
import pyro.distributions as dist
import pytest
import torch
from exclusive_jobs import X, _own_handler, annealed, draws, fit, importance, pair, state  # noqa: F401
from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK

import ppl_vae as pv
from ppl_vae import exclusive
from ppl_vae.errors import ProgramError
from ppl_vae.exclusive import Own, give_way
from ppl_vae.program import Program


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
