"""How samples are made, as values: what they refuse, and that they are what `importance` takes."""

import pytest

import ppl_vae as pv
from ppl_vae import InputError
from ppl_vae.evidence import IID, Sobol, UntilStderr
from ppl_vae.evidence.importance_sampling.draws import check_draws


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sobol(1), "scrambles: expected at least 2, since their spread gives the error, received 1"),
        (lambda: Sobol(2.5), "scrambles: expected a positive integer, received 2.5"),
        (lambda: UntilStderr(0.0), "target: expected a positive, finite number, received 0.0"),
        (lambda: UntilStderr("small"), "target: expected a positive, finite number"),
        (lambda: UntilStderr(0.1, most=0), "most: expected a positive integer, received 0"),
        (lambda: UntilStderr(0.1, pilot=True), "pilot: expected a positive integer, received True"),
        (lambda: check_draws("iid"), "draws: expected IID(), Sobol() or UntilStderr(target), received 'iid'"),
        (lambda: check_draws(IID), "draws: expected IID()"),
        (lambda: check_draws(None), "draws: expected IID()"),
    ],
)
def test_bad_values_are_refused_in_one_line(make, message):
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("draws", [IID(), Sobol(), UntilStderr(0.05)])
def test_values_are_equal_by_what_they_say_and_named_by_their_repr(draws):
    assert check_draws(draws) is draws
    assert eval(repr(draws)) == draws  # noqa: S307


def test_independent_draws_are_the_default():
    exact = pv.validation.MODELS["linear-gaussian-2"](num_data=3, seed=0)
    said = pv.evidence.importance(exact.program, exact.x, 50, draws=IID(), progress=False)
    assert said.log_evidence.equal(
        pv.evidence.importance(exact.program, exact.x, 50, progress=False).log_evidence
    )
