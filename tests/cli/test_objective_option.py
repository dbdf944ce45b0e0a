"""Objectives on the command line: each with its own defaults; options without a class are those of Trace_ELBO."""

import pytest

from ppl_vae import objectives
from ppl_vae.cli.commands import train
from ppl_vae.cli.options import model


def chosen(*options):
    settings = train.parse_options(["--data", "digits", *options])
    model.resolve(settings)
    return settings["objective"]["class_path"].rpartition(".")[2], model.objective(settings)


@pytest.mark.parametrize("name", objectives.NAMES)
def test_an_objective_by_its_name_has_its_own_defaults(name):
    found, made = chosen("--objective", name)
    assert found == name
    assert vars(made) == vars(getattr(objectives, name)())


def test_its_options_follow():
    _, made = chosen("--objective", "IWAE", "--objective.num_particles", "50", "--objective.alpha", "0.1")
    assert (made.num_particles, made.alpha, made.vectorize_particles) == (50, 0.1, True)


@pytest.mark.parametrize(
    "options", [(), ("--objective.num_particles", "5"), ("--objective.num_particles=5",)]
)
def test_the_default_takes_options_without_being_named(options):
    found, made = chosen(*options)
    assert found == "Trace_ELBO"
    assert made.num_particles == (5 if options else 1)
