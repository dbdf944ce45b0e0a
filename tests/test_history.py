"""History: a sequence of epochs that goes to JSON lines and back."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppl_vae import History, InputError
from ppl_vae.history import Epoch

numbers = st.floats(allow_nan=False)
epochs = st.builds(
    Epoch,
    epoch=st.integers(1, 10**6),
    step=st.integers(1, 10**9),
    train_elbo=numbers,
    valid_elbo=st.none() | numbers,
    lr=numbers,
    beta=numbers,
)
RECORD = Epoch(1, 10, -3.5, None, 1e-3, 1.0)


@given(st.lists(epochs, max_size=4))
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


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="missing"):
        History.load(tmp_path / "missing")
