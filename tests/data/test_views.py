import math

import pytest
import torch

from ppl_vae.data import binarise, dequantise, load_digits, moments, standardise, threshold
from ppl_vae.errors import InputError


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.statistical
def test_binarised_means_match_the_greys():
    # 21 means of 20,000 draws: each within 4.5 standard errors, so a fresh seed fails once in 7,000 runs.
    p = torch.linspace(0, 1, 21)
    n = 20_000
    draws = binarise(p.expand(n, 21), stream())
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    error = (draws.mean(0) - p).abs()
    assert (error <= 4.5 * (p * (1 - p) / n).sqrt() + 1e-7).all()


def test_binarise_is_a_function_of_its_generator():
    x = torch.rand(50, 8, generator=stream(9))
    assert torch.equal(binarise(x, stream(1)), binarise(x, stream(1)))
    assert not torch.equal(binarise(x, stream(1)), binarise(x, stream(2)))
    assert binarise(x, stream()).dtype == torch.float32


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, 255.0])
def test_binarise_refuses_what_is_no_probability(value):
    with pytest.raises(InputError, match="probabilities"):
        binarise(torch.tensor([[0.5, value]]), stream())


def test_threshold():
    assert threshold(torch.tensor([0.0, 0.5, 0.6])).tolist() == [0, 0, 1]
    assert threshold(torch.tensor([0.0, 0.5, 0.6]), level=0.1).tolist() == [0, 1, 1]


@pytest.mark.parametrize("levels", [17, 256])
def test_dequantised_integers_stay_in_their_bins(levels):
    x = torch.arange(levels).repeat(2000, 1)
    y = dequantise(x, levels, stream())
    assert y.dtype == torch.float32
    assert y.min() >= 0
    assert y.max() < 1
    u = y.double() * levels - x
    assert u.min() > -1e-4
    assert u.max() < 1 + 1e-4
    # 2,000 * levels uniform draws: the mean is within 4.5 standard errors (fails once in 150,000 seeds).
    assert abs(u.mean() - 0.5) < 4.5 * math.sqrt(1 / 12 / u.numel())


def test_dequantisation_jacobian():
    # A uniform density of y is 1, so the documented conversion must give log2(levels) bits a dimension: the
    # entropy of uniform integers.
    levels, dims = 16, 5
    log_density = 0.0
    assert -log_density / (dims * math.log(2)) + math.log2(levels) == 4.0
    # The map's own Jacobian, by autodiff: d(levels * y)/dy, a factor a dimension.
    y = torch.rand(dims, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: levels * v, y)
    assert torch.isclose(torch.logdet(jacobian), torch.tensor(dims * math.log(levels), dtype=torch.float64))


@pytest.mark.parametrize(
    "x", [torch.tensor([0.5]), torch.tensor([-1.0]), torch.tensor([16]), torch.tensor([math.nan])]
)
def test_dequantise_refuses_other_numbers(x):
    with pytest.raises(InputError, match="integers from 0 to 15"):
        dequantise(x, 16, stream())


def test_standardised_training_data_have_mean_0_and_std_1():
    x = torch.randn(500, 2, 3, generator=stream()) * 7 + 1000
    x[:, 0, 0] = 3.1
    mean, std = moments(x)
    y = standardise(x, mean, std)
    assert torch.allclose(y.mean(0), torch.zeros(2, 3), atol=1e-3)
    expected = torch.ones(2, 3)
    expected[0, 0] = 0
    assert torch.allclose(y.std(0, correction=0), expected, atol=1e-4)
    assert std[0, 0] == 1


@pytest.mark.parametrize("flat", [True, False])
def test_digits_counts_are_sklearns(flat):
    from sklearn.datasets import load_digits as reference

    images, classes = reference(return_X_y=True)
    data = load_digits(view="counts", flat=flat)
    x = torch.cat([data.train, data.valid, data.test]).reshape(-1, 64)
    labels = torch.cat([data.train_labels, data.valid_labels, data.test_labels])
    ours = sorted(map(tuple, torch.cat([x, labels[:, None]], 1).tolist()))
    theirs = sorted((*image, label) for image, label in zip(images.tolist(), classes.tolist(), strict=True))
    assert ours == theirs
    assert set(x.unique().tolist()) == set(range(17))
    assert data.total_count == 16
    assert data.sizes == {"train": 1297, "valid": 250, "test": 250}
    assert data.shape == ((64,) if flat else (1, 8, 8))
    assert data.image_shape == (8, 8)


def test_digits_follow_their_seed():
    first, again, other = (load_digits(seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.train, again.train)
    assert first.describe() == again.describe()
    assert first.describe()["test_sha256"] != other.describe()["test_sha256"]


def test_digits_dynamic_changes_the_training_data_only():
    static, dynamic = load_digits(), load_digits(dynamic=True)
    assert static.resample is None
    assert dynamic.resample is binarise
    assert torch.equal(static.valid, dynamic.valid)
    assert torch.equal(static.test, dynamic.test)
    assert dynamic.train.max() == 1
    assert len(dynamic.train.unique()) == 17
    assert torch.equal(dynamic.train * 16, load_digits(view="counts").train)
    assert set(static.train.unique().tolist()) == {0.0, 1.0}


@pytest.mark.statistical
def test_digits_binarisation_is_fair():
    # One sum of 16,000 bits of known probabilities, within 4.5 standard errors (fails once in 150,000 seeds).
    p = load_digits(view="counts").test / 16
    bits = load_digits().test
    assert abs((bits - p).sum()) < 4.5 * (p * (1 - p)).sum().sqrt()
    assert ((bits == 1) | (p < 1)).all()
    assert ((bits == 0) | (p > 0)).all()


def test_digits_dequantised_hold_the_counts():
    y, x = load_digits(view="dequantised"), load_digits(view="counts")
    assert y.values == "real"
    assert torch.allclose(y.test * 17 - 0.5, x.test, atol=0.5 + 1e-4)
    assert y.test.unique().numel() > 10_000
