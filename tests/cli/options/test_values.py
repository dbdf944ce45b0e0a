"""Options whose value is an object: short names, and options of a class."""

import pytest

from ppl_vae import evidence
from ppl_vae.cli.options import values
from ppl_vae.errors import UsageError


@pytest.mark.parametrize(
    ("line", "spelt"),
    [
        ("--draws sobol --seed 1", "--draws ppl_vae.evidence.Sobol --seed 1"),
        ("--draws=UntilStderr --draws.target 1", "--draws=ppl_vae.evidence.UntilStderr --draws.target 1"),
        ("--draws.help iid", "--draws.help ppl_vae.evidence.IID"),
        (
            "--proposal student-t --draws iid",
            "--proposal ppl_vae.evidence.StudentT --draws ppl_vae.evidence.IID",
        ),
        ("--proposal my_file.Mine", "--proposal my_file.Mine"),
        ("sobol --out widened", "sobol --out widened"),
    ],
)
def test_short_names(line, spelt):
    assert values.spell_out(line.split()) == spelt.split()


def test_an_option_of_no_class():
    with pytest.raises(
        UsageError,
        match=r"--draws\.scrambles: expected --draws CLASS before the options of the class, received none",
    ):
        values.spell_out(["--proposal", "widened", "--draws.scrambles", "4"])


def test_what_there_is_without_the_option_is_none():
    assert values.spec("draws", None) is None
    assert values.spec("draws", {"class_path": "ppl_vae.evidence.IID"}) is None
    assert values.spec("proposal", {"class_path": "ppl_vae.evidence.Guide"}) is None


def test_objects_are_made_and_belong_to_their_options():
    spec = values.spec("draws", {"class_path": "ppl_vae.evidence.Sobol", "init_args": {"scrambles": 4}})
    assert values.make("draws", spec) == evidence.Sobol(4)
    for kind in (evidence.IID, evidence.Sobol, evidence.UntilStderr):
        assert issubclass(kind, values.TYPES["draws"])
        assert not issubclass(kind, values.TYPES["proposal"])
    for kind in (evidence.Guide, evidence.Defensive, evidence.Widened, evidence.StudentT, evidence.Refitted):
        assert issubclass(kind, values.TYPES["proposal"])
        assert not issubclass(kind, values.TYPES["draws"])
