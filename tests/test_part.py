"""A part remembers the call that made it, and can be made again from plain JSON."""

import inspect
import json

import pytest
import torch

from ppl_vae._part import Part
from ppl_vae.config import rebuild
from ppl_vae.errors import InputError
from ppl_vae.likelihoods import Binomial, Gaussian
from ppl_vae.priors import MixtureOfGaussians, Prior


class Mine(Part):
    def __init__(self, sizes, rate=0.5, *, name="a", act=torch.tanh, **more):
        super().__init__()
        self.sizes = sizes
        self.more = more
        if isinstance(sizes, list):
            sizes.append(99)


class Varied(Part):
    def __init__(self, *sizes):
        super().__init__()


class FromBefore(Mine):
    """Inherits its constructor."""


def test_config_is_plain_json_with_the_defaults():
    config = Binomial(torch.Size([2, 3]), 7).config()
    assert config == {
        "class_path": "ppl_vae.likelihoods.binomial.Binomial",
        "init_args": {"shape": [2, 3], "total_count": 7},
    }
    assert json.loads(json.dumps(config)) == config
    assert Gaussian(4).config()["init_args"] == {"shape": 4, "scale": 1.0, "min_scale": 1e-3}
    assert MixtureOfGaussians(2, seed=3).config()["init_args"] == {"dim": 2, "components": 10, "seed": 3}


@pytest.mark.parametrize("kind", [Mine, FromBefore])
def test_positional_keyword_and_extra_arguments(kind):
    made = kind((1, 2), 0.1, name="b", extra={"k": [1, None]})
    assert made.config()["init_args"] == {
        "sizes": [1, 2],
        "rate": 0.1,
        "name": "b",
        "extra": {"k": [1, None]},
    }
    again = rebuild(json.loads(json.dumps(made.config())))
    assert type(again) is kind
    assert again.more == {"extra": {"k": [1, None]}}


def test_arguments_are_kept_as_they_came():
    sizes = [1, 2]
    made = Mine(sizes)
    sizes.append(100)
    assert made.config()["init_args"]["sizes"] == [1, 2]


def test_a_default_that_is_not_plain_is_left_to_the_constructor():
    assert "act" not in Mine((1,)).config()["init_args"]


def test_signature_is_the_constructors():
    assert str(inspect.signature(Gaussian)) == str(inspect.signature(Gaussian.__init__)).replace(
        "self, ", ""
    ).replace(" -> 'None'", "")
    with pytest.raises(TypeError, match="total_count"):
        Binomial(3)


def test_an_abstract_part_is_not_made():
    with pytest.raises(TypeError, match="abstract"):
        Prior(2)


@pytest.mark.parametrize(
    "make", [lambda: Mine((1,), act=torch.relu), lambda: Mine(torch.zeros(2)), lambda: Varied(1)]
)
def test_arguments_that_cannot_be_saved(make):
    with pytest.raises(InputError) as caught:
        make().config()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        None,
        {},
        {"class_path": "ppl_vae.priors.StandardNormal"},
        {"class_path": 3, "init_args": {}},
        {"class_path": "StandardNormal", "init_args": {}},
        {"class_path": "no_such_module.Prior", "init_args": {}},
        {"class_path": "ppl_vae.priors.NoSuch", "init_args": {}},
        {"class_path": "ppl_vae.errors.describe", "init_args": {}},
        {"class_path": "builtins.dict", "init_args": {}},
        {"class_path": "ppl_vae.priors.StandardNormal", "init_args": {}},
        {"class_path": "ppl_vae.priors.StandardNormal", "init_args": {"dim": 2, "size": 3}},
        {"class_path": "ppl_vae.priors.StandardNormal", "init_args": 3},
        {"class_path": "ppl_vae.priors.StandardNormal", "init_args": {"dim": 0}},
    ],
)
def test_a_bad_config_is_refused(config):
    with pytest.raises(InputError) as caught:
        rebuild(config, "model.json")
    assert caught.value.argument.split(":")[0] == "model.json"
    assert "\n" not in str(caught.value)
