"""Learning-rate schedules: their values, and what is refused."""

import itertools

import pytest

from ppl_vae import InputError
from ppl_vae.schedules import SCHEDULES, burda, constant, cosine, schedule


def test_burda_at_full_length():
    runs = [
        (factor, len(list(group))) for factor, group in itertools.groupby(burda(e, 3280) for e in range(3280))
    ]
    assert [length for _, length in runs] == [3**i for i in range(8)]
    assert [factor for factor, _ in runs] == pytest.approx([10 ** (-i / 7) for i in range(8)])


@pytest.mark.parametrize("epochs", [1, 2, 7, 100, 6560, 10_000])
@pytest.mark.parametrize("name", SCHEDULES)
def test_factors_lie_in_0_1_and_never_rise(name, epochs):
    factors = [SCHEDULES[name](epoch, epochs) for epoch in range(epochs)]
    assert all(0 < factor <= 1 for factor in factors)
    assert all(later <= earlier for earlier, later in itertools.pairwise(factors))


def test_burda_passes_through_its_stages_in_proportion():
    factors = [burda(epoch, 6560) for epoch in range(6560)]
    assert [len(list(group)) for _, group in itertools.groupby(factors)] == [2 * 3**i for i in range(8)]
    assert burda(99, 100) == pytest.approx(0.1)


def test_cosine():
    assert cosine(0, 10) == 1
    assert cosine(5, 10) == pytest.approx(0.5)
    assert cosine(10, 10) == pytest.approx(0)


def test_constant():
    assert {constant(epoch, 50) for epoch in range(50)} == {1.0}


def test_by_name_or_by_function():
    for name, function in SCHEDULES.items():
        assert schedule(name) is function

    def own(epoch, epochs):
        return 0.5

    assert schedule(own) is own


@pytest.mark.parametrize("given", ["linear", "", None, 3, 0.1])
def test_anything_else_is_refused(given):
    with pytest.raises(InputError, match="'constant', 'cosine', 'burda'") as caught:
        schedule(given)
    assert caught.value.argument == "lr_schedule"
