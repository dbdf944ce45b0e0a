"""Descriptions of data sets in files: the same data pass, others are refused by what differs."""

import json

import pytest

from ppl_vae.data import description, load_digits
from ppl_vae.errors import InputError

DIGITS = load_digits()


@pytest.fixture
def path(tmp_path):
    (tmp_path / "data.json").write_text(json.dumps(DIGITS.describe()))
    return tmp_path / "data.json"


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_same_data_pass(path):
    description.check_same(path, DIGITS, "--data digits")
    assert description.image_shape(path) == (8, 8)


def test_other_data_are_refused_by_what_differs(path):
    with pytest.raises(
        InputError, match=r"--data digits: expected the data that .*data.json describes \(seed 0\)"
    ):
        description.check_same(path, load_digits(seed=1), "--data digits")
    change(path, test_sha256="0" * 64)
    with pytest.raises(InputError, match="test_sha256"):
        description.check_same(path, DIGITS, "--data digits")


@pytest.mark.parametrize("content", ["", "[]", "3", "{"])
def test_what_is_no_description(path, content):
    path.write_text(content)
    for call in (lambda: description.image_shape(path), lambda: description.check_same(path, DIGITS, "x")):
        with pytest.raises(InputError, match=r"data\.json: expected a description of data"):
            call()


@pytest.mark.parametrize("shape", [[64], [8, 9], "8x8", [-8, -8], [8.0, 8.0]])
def test_an_image_shape_that_does_not_fit(path, shape):
    change(path, image_shape=shape)
    with pytest.raises(InputError, match=r"data\.json"):
        description.image_shape(path)


def test_no_image(path):
    change(path, image_shape=None)
    assert description.image_shape(path) is None


def test_a_data_set_says_what_likelihoods_suit_it():
    assert DIGITS.summary() == (0.0, 1.0, True, True)
    assert load_digits("counts").summary() == (0.0, 16, True, True)
    assert not load_digits("dequantised").summary().integers


def test_selected_data_say_which_they_are():
    x, about = DIGITS.select("test")
    assert x is DIGITS.test
    assert about["subset"] is about["subset_seed"] is None
    some, which = DIGITS.select("test", 7, 3)
    assert some.equal(DIGITS.subset("test", 7, 3)[0])
    assert (which["num_data"], which["subset"], which["subset_seed"]) == (7, 7, 3)
    assert which["sha256"] != about["sha256"]
    assert which["data"] == DIGITS.describe()
    assert DIGITS.select("test", 7)[1]["subset_seed"] == DIGITS.seed
    redrawn, about = load_digits(dynamic=True).select("train")
    assert sorted(redrawn.unique().tolist()) == [0.0, 1.0]
    assert about["subset"] is None
    with pytest.raises(InputError, match="n: expected at most the 250 data of test"):
        DIGITS.select("test", 251)
