import dataclasses
import hashlib
import json

import pytest
import torch

from ppl_vae.data import Dataset, binarise, load
from ppl_vae.data.dataset import random_split
from ppl_vae.errors import InputError


def make(**changes):
    x = torch.arange(60.0).reshape(20, 3)
    options = {
        "name": "toy",
        "view": "plain",
        "values": "real",
        "train": x,
        "valid": x[:5],
        "test": x[:10],
        "labels": {"test": torch.arange(10)},
    }
    return Dataset(**(options | changes))


def test_subset_draws_distinct_data_with_their_labels():
    x, labels = make().subset("test", 10, seed=3)
    assert labels.sort().values.tolist() == list(range(10))
    assert torch.equal(x, make().test[labels])
    assert labels.tolist() != list(range(10))


def test_subset_is_not_the_first_n():
    sorted_data = torch.arange(1000.0).reshape(1000, 1)
    x, labels = make(train=sorted_data, valid=None, test=sorted_data, labels={}).subset("test", 100, 0)
    assert labels is None
    assert x.max() > 900


def test_subset_is_set_by_its_seed_and_defaults_to_the_data_sets():
    data = make(seed=4)
    assert torch.equal(data.subset("train", 8)[0], data.subset("train", 8, seed=4)[0])
    assert not torch.equal(data.subset("train", 8, seed=4)[0], data.subset("train", 8, seed=5)[0])


def test_subset_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    make().subset("train", 8, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_subset_of_resampled_training_data_is_what_a_model_sees():
    grey = torch.full((50, 4), 0.5)
    data = make(values="binary", train=grey, valid=None, test=grey.round(), labels={}, resample=binarise)
    assert set(data.subset("train", 50, seed=0)[0].unique().tolist()) == {0.0, 1.0}
    assert torch.equal(data.train, grey)


@pytest.mark.parametrize(
    ("split", "n", "word"),
    [("tset", 3, "split"), ("test", 11, "at most the 10"), ("test", 0, "n:"), ("test", 2.0, "n:")],
)
def test_subset_refuses(split, n, word):
    with pytest.raises(InputError, match=word):
        make().subset(split, n, seed=0)


def test_subset_refuses_a_split_that_is_not_there():
    with pytest.raises(InputError, match="split"):
        make(valid=None).subset("valid", 1, seed=0)


def test_describe_is_json_and_identifies_the_test_data():
    data = make(details={"test_seed": 7})
    facts = json.loads(json.dumps(data.describe()))
    assert facts == data.describe()
    assert facts["sizes"] == {"train": 20, "valid": 5, "test": 10}
    assert facts["test_seed"] == 7
    assert facts["test_sha256"] == hashlib.sha256(data.test.numpy().tobytes()).hexdigest()
    other = data.test.clone()
    other[3, 1] += 1
    assert make(test=other).describe()["test_sha256"] != facts["test_sha256"]


@pytest.mark.parametrize(
    "changes",
    [
        {"values": "colours"},
        {"train": torch.zeros(20, 3, dtype=torch.float64)},
        {"test": torch.zeros(20, 4)},
        {"test": None},
        {"train": torch.zeros(0, 3)},
        {"train": torch.zeros(20)},
        {"labels": {"test": torch.arange(9)}},
        {"labels": {"test": torch.zeros(10)}},
        {"labels": {"tests": torch.arange(10)}},
        {"valid": None, "labels": {"valid": torch.arange(5)}},
        {"image_shape": (2, 2)},
        {"image_shape": (3,)},
        {"seed": -1},
    ],
)
def test_parts_that_do_not_fit_are_refused(changes):
    with pytest.raises(InputError) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)


def test_is_frozen_and_prints_in_one_line():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().seed = 1
    assert "20/5/10" in repr(make())


def test_random_split_covers_and_is_disjoint():
    parts = random_split(100, (70, 20, 10), seed=0)
    assert [len(part) for part in parts] == [70, 20, 10]
    assert torch.cat(parts).sort().values.tolist() == list(range(100))
    assert not torch.equal(parts[0], random_split(100, (70, 20, 10), seed=1)[0])


def test_load_by_name():
    assert load("digits", view="counts").describe() == load("digits", view="counts").describe()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("cifar", {}, ("data", "'digits'", "'mnist'", "'array'")),
        ("digits", {"colour": 1}, ("colour", "view", "seed")),
        ("array", {}, ("path",)),
        ("digits", {"view": "grey"}, ("view", "'counts'")),
        ("digits", {"seed": -1}, ("seed",)),
        ("digits", {"flat": "yes"}, ("flat",)),
        ("digits", {"view": "counts", "dynamic": True}, ("dynamic", "binary")),
    ],
)
def test_load_refuses(name, options, words):
    with pytest.raises(InputError) as caught:
        load(name, **options)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_levels_of_dequantised_integers():
    assert load("digits", view="dequantised").levels == 17
    assert load("digits", view="counts").levels is None
