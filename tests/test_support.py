import math

import pytest
import torch
from torch.distributions import constraints

from ppl_vae.data import check_support, suggest
from ppl_vae.errors import InputError
from ppl_vae.likelihoods import summary

BITS = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
COUNTS = torch.tensor([[0.0, 3.0], [16.0, 1.0]])
GREY = torch.tensor([[0.0, 1.0], [1.0, 0.25]])
REAL = torch.tensor([[0.0, -1.5], [1.0, 0.25]])


@pytest.mark.parametrize(
    ("x", "families"),
    [
        (BITS, ["Bernoulli"]),
        (BITS.bool(), ["Bernoulli"]),
        (COUNTS, ["Binomial(total_count=16)"]),
        (COUNTS.to(torch.uint8), ["Binomial(total_count=16)"]),
        (GREY, ["Gaussian"]),
        (REAL, ["Gaussian"]),
        (-COUNTS, ["Gaussian"]),
        (REAL * math.nan, []),
        (REAL / 0, []),
    ],
)
def test_suggest(x, families):
    assert suggest(x)[:1] == families  # a family of more general use may follow


@pytest.mark.parametrize(
    ("x", "support"),
    [
        (BITS, constraints.boolean),
        (BITS.bool(), constraints.boolean),
        (COUNTS, constraints.integer_interval(0, 16)),
        (COUNTS, constraints.integer_interval(torch.tensor(0), torch.tensor([16, 3]))),
        (COUNTS, constraints.nonnegative_integer),
        (GREY, constraints.unit_interval),
        (REAL, constraints.real),
        (REAL, constraints.independent(constraints.real, 1)),
    ],
)
def test_data_on_the_support_pass(x, support):
    check_support(x, support, "Likelihood")


@pytest.mark.parametrize(
    ("x", "support", "words"),
    [
        (
            GREY,
            constraints.boolean,
            ("0 or 1", "0.25 at datum 1, element 1", "all values in [0, 1]", "binarise"),
        ),
        (COUNTS, constraints.boolean, ("3 at datum 0, element 1", "Binomial(total_count=16)", "would fit")),
        (COUNTS, constraints.integer_interval(0, 10), ("integers from 0 to 10", "16 at datum 1, element 0")),
        (
            COUNTS,
            constraints.integer_interval(torch.tensor(0), torch.tensor([16, 2])),
            ("3 at datum 0, element 1", "bounds between 2 and 16"),
        ),
        (REAL, constraints.nonnegative_integer, ("integers from 0", "-1.5 at datum 0", "Gaussian would fit")),
        (REAL, constraints.unit_interval, ("from 0 to 1", "-1.5")),
        (REAL, constraints.positive, ("0 at datum 0",)),
        (-COUNTS, constraints.nonnegative_integer, ("-3", "[-16, 0]", "integers")),
        (torch.tensor([[0.0], [math.nan]]), constraints.real, ("nan at datum 1", "no likelihood")),
        (torch.tensor([[0.0], [math.inf]]), constraints.real, ("inf at datum 1", "no likelihood")),
        (GREY.reshape(2, 1, 2), constraints.boolean, ("datum 1, element (0, 1)",)),
        (GREY[:, 1], constraints.boolean, ("0.25 at datum 1 (",)),
    ],
)
def test_data_off_the_support_are_refused_in_words(x, support, words):
    with pytest.raises(InputError) as caught:
        check_support(x, support, "MyLikelihood", "x_train")
    message = str(caught.value)
    assert message.startswith("x_train: expected values on the support of MyLikelihood (")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_the_first_bad_datum_is_found_in_any_chunk(monkeypatch):
    monkeypatch.setattr(summary, "CHUNK", 7)
    x = torch.zeros(100, 3)
    x[61, 2] = x[80, 0] = 0.43
    with pytest.raises(InputError, match=r"0\.43 at datum 61, element 2 \(all values in \[0, 0\.43\]"):
        check_support(x, constraints.boolean, "Bernoulli")
    assert suggest(x) == ["Gaussian"]
    assert suggest(x.ceil() * 5)[0] == "Binomial(total_count=5)"


@pytest.mark.parametrize(
    "x", [[[0.0]], torch.zeros(0, 2), torch.tensor(1.0), torch.zeros(2, 2, dtype=torch.cfloat)]
)
def test_what_is_no_data_is_refused(x):
    with pytest.raises(InputError):
        check_support(x, constraints.real, "Gaussian")


def test_a_constraint_on_vectors_is_refused():
    with pytest.raises(InputError, match="event dimension"):
        check_support(torch.ones(3, 1), constraints.simplex, "Dirichlet")
