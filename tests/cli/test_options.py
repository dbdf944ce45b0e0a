"""Options that are arguments of functions: types, defaults and texts come from there."""

import pytest

from ppl_vae.cli.options import parser
from ppl_vae.cli.options.results import trust_needed
from ppl_vae.data import LOADERS
from ppl_vae.training.loop import fit


def test_types_defaults_and_texts_are_the_functions():
    made = parser.make_parser("train", "Train.", "")
    parser.add_from(made, fit, ("batch_size", "clip_norm", "lr_schedule"), {"lr_schedule": (str, "a word")})
    assert parser.parse(made, []) == {"batch_size": 128, "clip_norm": None, "lr_schedule": "constant"}
    assert parser.parse(made, ["--batch-size", "7"])["batch_size"] == 7
    text = " ".join(made.format_help().split())
    assert "data a step; the last batch of an epoch may be smaller (type: int, default: 128)" in text
    assert "a word" in text


@pytest.mark.parametrize("name", LOADERS)
def test_every_argument_of_a_loader_is_explained(name):
    for argument, known in parser.documented(LOADERS[name]).items():
        assert known.text, argument
        assert "see above" not in known.text


def test_whose_classes_a_model_needs():
    roles = ("likelihood", "posterior", "network", "encoder", "decoder")
    parts = dict.fromkeys(roles) | {"prior": {"class_path": "mine.Wide"}}
    parts["network"] = {"class_path": "ppl_vae.networks.MLP"}
    assert trust_needed(parts) == " --trust mine"
    assert trust_needed(parts | {"encoder": {"class_path": "mine.Net"}}) == " --trust mine"
    assert (
        trust_needed(parts | {"encoder": {"class_path": "other.nets.Net"}}) == " --trust mine --trust other"
    )
