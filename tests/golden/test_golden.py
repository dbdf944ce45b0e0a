"""The numbers are those that were recorded, to round-off: see `golden_numbers` for the tolerances and for recording."""

import math

import golden_numbers as golden
import pytest

RECORDED = golden.read(golden.FILE)
KEYS = [
    pytest.param(key, marks=[pytest.mark.slow] if key.endswith("/compiled") else [])
    for key in golden.labels()
]


@pytest.mark.parametrize("key", KEYS)
def test_numbers_are_those_recorded(key):
    group = golden.GROUPS[key.rsplit("/", 1)[0]]
    lines = golden.differences(golden.compute(key), RECORDED[key], group.kind)
    assert not lines, "\n".join(lines)


def test_every_group_is_recorded_and_every_record_is_of_a_group():
    assert sorted(RECORDED) == sorted(golden.labels())


def test_the_file_is_small():
    assert golden.FILE.stat().st_size < 200_000


def test_numbers_are_read_as_they_were_written(tmp_path):
    values = [0.1, 0.1, -0.0, 0.0, math.inf, 5e-324, 1e22, -3, 7, 7]
    numbers = {"a/plain": {"x": values}, "a/compiled": {"x": values, "y": [math.nan]}}
    golden.write(tmp_path / "numbers.json", numbers)
    found = golden.read(tmp_path / "numbers.json")
    assert '"="' in (tmp_path / "numbers.json").read_text()
    for key, entries in numbers.items():
        assert not golden.differences(found[key], entries)


@pytest.mark.parametrize("kind", golden.TOLERANCES)
def test_a_difference_is_seen(kind):
    relative, absolute = golden.TOLERANCES[kind]
    recorded = {"x": [2.0, 3], f"x{golden.DIGEST}": [5]}
    within = {"x": [2.0 + relative, 3], f"x{golden.DIGEST}": [6]}
    assert not golden.differences(within, recorded, kind)
    assert len(golden.differences(within, recorded)) == 2
    for values in ([2.0 + 3 * relative + absolute, 3], [2.0, 4], [2.0, 3.0], [math.nan, 3], [2.0]):
        assert golden.differences({**recorded, "x": values}, recorded, kind)
    assert golden.differences({"x": [2.0, 3]}, {"y": [2.0, 3]}, kind)
    one_bit = {"x": [math.nextafter(2.0, 3.0), 3]}
    assert "1 units" in golden.differences(one_bit, {"x": [2.0, 3]})[0]


def test_the_command_line_writes_compares_and_tells(tmp_path, capsys):
    path, only = tmp_path / "numbers.json", "mixture: enumeration"
    assert golden.main(["--out", str(path), "--only", only]) == 0
    assert golden.main(["--compare", str(path), "--only", only]) == 0
    assert "in 1 groups: 0 differences" in capsys.readouterr().out
    changed = golden.read(path)
    changed[f"{only}/plain"]["log_evidence"][0] += 1e-12
    golden.write(path, changed)
    assert golden.main(["--compare", str(path), "--only", only]) == 1
    assert "log_evidence: 1 of 3 differ" in capsys.readouterr().out
