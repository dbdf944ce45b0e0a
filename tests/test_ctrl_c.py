"""Ctrl-C: where it acts, and that everything works as before."""

import contextlib
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from exclusive_jobs import X, _own_handler, fit, importance, pair, plain_svi, press  # noqa: F401

import ppl_vae as pv
from ppl_vae import exclusive
from ppl_vae.exclusive import give_way
from ppl_vae.program import Program


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
    call = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import exclusive_jobs as jobs; "
    call += f"jobs.press_and_compare({times}, {presses})"
    result = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, timeout=1200)
    assert result.returncode == 0, result.stderr[-3000:]


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


def test_ctrl_c_in_one_thread_leaves_the_others_alone():
    expected = importance(200)
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(importance, 200) for _ in range(4)]
        threading.Timer(0.02, press).start()
        with pytest.raises(KeyboardInterrupt):
            fit(2000)
        assert [future.result() for future in found] == [expected] * 4
    assert plain_svi() == plain_svi()
