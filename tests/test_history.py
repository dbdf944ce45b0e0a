"""History: a sequence of epochs that goes to JSON lines and back."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppl_vae import History, InputError
from ppl_vae.history import Epoch

numbers = st.floats(allow_nan=False)
parts = st.tuples(
    st.integers(1, 10**9), numbers, st.none() | numbers, st.floats(0, 1e300), st.floats(0, 1)
)  # steps of an epoch, training and validation ELBO, lr, beta
RECORD = Epoch(1, 10, -3.5, None, 1e-3, 1.0)


def follow(found):
    """Epochs that follow one another."""
    steps = np.cumsum([steps for steps, *_ in found])
    return [
        Epoch(n, int(step), *rest) for n, (step, (_, *rest)) in enumerate(zip(steps, found, strict=True), 1)
    ]


@given(st.lists(parts, max_size=4).map(follow))
def test_json_lines_hold_every_bit(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("history") / "history.jsonl"
    History(tuple(records)).save(path)
    assert History.load(path) == History(tuple(records))
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [record.epoch for record in records]


def test_lines_can_be_appended(tmp_path):
    path = tmp_path / "history.jsonl"
    one, two = History((RECORD,)), History((RECORD, Epoch(2, 20, -3.0, -4.0, 1e-3, 1.0)))
    one.save(path)
    with path.open("a", encoding="utf-8") as log:
        log.write(History(two[1:]).jsonl())
    assert History.load(path) == two


def test_not_a_number_survives(tmp_path):
    History((Epoch(1, 1, math.nan, -math.inf, 1.0, 1.0),)).save(tmp_path / "h")
    record = History.load(tmp_path / "h")[0]
    assert math.isnan(record.train_elbo)
    assert record.valid_elbo == -math.inf


def test_a_history_is_a_sequence():
    history = History((RECORD, RECORD))
    assert len(history) == 2
    assert history[-1] is RECORD
    assert list(history) == [RECORD, RECORD]
    assert RECORD in history
    assert history.best_epoch is None


@pytest.mark.parametrize(
    "content", ["{", "[1]", "5", '{"epoch": 1}', '{"other": 1}', "\x00", b"\xff\xfe\x00"]
)
def test_another_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "history.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        History.load(path)
    assert caught.value.argument == str(path)
    assert "\n" not in str(caught.value)


BEFORE = {"epoch": 1, "step": 10, "train_elbo": -3.5, "valid_elbo": None, "lr": 1e-3, "beta": 1.0}
AFTER = BEFORE | {"epoch": 2, "step": 20}


@pytest.mark.parametrize(
    ("records", "named"),
    [
        ([BEFORE, BEFORE], "epoch 2: epoch"),
        ([AFTER], "epoch 1: epoch"),
        ([BEFORE, AFTER | {"epoch": 3}], "epoch 2: epoch"),
        ([BEFORE, AFTER | {"step": 10}], "epoch 2: step"),
        ([BEFORE, AFTER | {"step": 15.5}], "step"),
        ([BEFORE | {"step": 0}], "step"),
        ([BEFORE | {"train_elbo": "low"}], "train_elbo"),
        ([BEFORE | {"train_elbo": True}], "train_elbo"),
        ([BEFORE | {"train_elbo": None}], "train_elbo"),
        ([BEFORE | {"valid_elbo": []}], "valid_elbo"),
        ([BEFORE | {"lr": -1.0}], "lr"),
        ([BEFORE | {"lr": math.nan}], "lr"),
        ([BEFORE | {"beta": 1.5}], "beta"),
        ([BEFORE | {"gamma": 1}], "gamma"),
        ([{name: value for name, value in BEFORE.items() if name != "lr"}], "lr"),
        ([[1, 2]], "metadata"),
        ([3], "metadata"),
    ],
)
def test_epochs_that_do_not_follow(records, named, tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(InputError, match=named) as caught:
        History.load(path)
    assert caught.value.argument == str(path)


def test_a_file_that_tells_another_story_is_not_continued(tmp_path):
    """The line that a kill cut short, and epochs after the checkpoint, are no other story."""
    path = tmp_path / "history.jsonl"
    whole = History(tuple(Epoch(**record) for record in (BEFORE, AFTER)))
    whole.check_begins(path)  # no such file yet
    lines = whole.jsonl().splitlines(keepends=True)
    for content in ("", lines[0], lines[0] + lines[1][:30], whole.jsonl(), whole.jsonl() + lines[1]):
        path.write_text(content)
        whole.check_begins(path)
    for content in (lines[1], lines[0].replace("-3.5", "-3.4"), lines[0] * 2, "no JSON\n"):
        path.write_text(content)
        with pytest.raises(InputError, match="as its checkpoint has it") as caught:
            whole.check_begins(path)
        assert caught.value.argument == str(path)
        assert str(caught.value).isprintable()


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="missing"):
        History.load(tmp_path / "missing")
