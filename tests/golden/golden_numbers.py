"""Recorded numbers: what estimators, training and analysis give at fixed seeds, bit by bit.

    python tests/golden/golden_numbers.py --out FILE        computes all groups and writes them to FILE
    python tests/golden/golden_numbers.py --compare FILE    computes them again, prints a line for each difference

``--compare`` exits with 1 if any bit differs, or a group or a number is only on one side. ``--only TEXT`` takes the
groups whose name holds TEXT, such as ``"/plain"``. A FILE that ``--out`` wrote before is replaced.

The numbers are for changes that must not change any: moved files, new names, code written once instead of twice. After
a change that is meant to change numbers, look at what ``--compare tests/golden/numbers.json`` prints, see that it is
what was meant, and record again with ``--out tests/golden/numbers.json``. The same holds for another version of torch
that draws other random numbers.

On one machine two runs give the same bits, whatever PYTHONHASHSEED and the order of the groups are. Between machines
round-off differs, by which `TOLERANCES` allow the tests in `test_golden` to differ.

Everything runs on the CPU with one torch thread.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import golden_analysis as golden_analysis  # imported for their groups
import golden_estimators as golden_estimators
import golden_training as golden_training
import torch
from golden_groups import DIGEST, GROUPS

FILE = Path(__file__).with_name("numbers.json")

Number = int | float
Numbers = Mapping[str, Sequence[Number]]
"""The numbers of a group, by name, each flat."""

TOLERANCES: dict[str, tuple[float, float]] = {
    "float64": (1e-9, 1e-11),
    "float32": (1e-3, 1e-5),
    "float32 chains": (2e-2, 1e-3),
    "float32 training": (1e-4, 1e-5),
    "bfloat16": (1e-2, 1e-3),
}
"""For each kind of group, a relative and an absolute tolerance; a number may differ by their sum.

They were chosen by what the numbers differ between vector units, which stand for machines here: torch and MKL with
SSE4 (``ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2``) and with AVX2, against AVX-512. The largest
differences seen, relative to |number| + 0.01:

* float64, 6e-12: HMC with 5 leapfrog steps, which amplifies round-off along its chains. The tolerance is 170 times it.
* float32, 2e-5: an interval's end, where the effective sample size, and with it a quantile of Student's, is small.
* float32 chains, 4e-4: round-off along chains. A move that is accepted by a hair on one machine and not on the other
  would differ by more; of 72 moves and at this round-off that has a chance of about 1e-4. For float64 it is 1e-10.
* float32 training, 7e-7: three epochs of Adam, whose first steps have a length that small gradients do not shorten.
* bfloat16, 2e-5: factors and products are rounded to 8 bits, and one that lies between two of them may go either way,
  which moves a draw's log weight by about 2e-3 and the estimate by its share of that.

Whole numbers (samples that a target error needed, steps until convergence, ranks, verdicts) have to be equal: in
float64 they come from comparisons that round-off decides with a chance of 1e-9 or so.
"""


def labels(level: str | None = None) -> list[str]:
    """The names of all groups with their levels, or of those at one level."""
    found = [f"{name}/{at}" for name, group in GROUPS.items() for at in group.levels]
    return [key for key in found if level is None or key.endswith(f"/{level}")]


def compute(key: str) -> Numbers:
    """The numbers of a group at a level, ``"name/level"``."""
    name, level = key.rsplit("/", 1)
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*runs folded")
        return {label: flat(value) for label, value in GROUPS[name].compute(level).items()}


def flat(value: Any) -> list[Number]:
    """The numbers of a tensor, of a sequence or of one number; truth values are 0 and 1."""
    if isinstance(value, torch.Tensor):
        value = value.detach().flatten().tolist()
    values = value if isinstance(value, list) else [value]
    return [int(v) if isinstance(v, int) else float(v) for v in values]


# ---- the file ------------------------------------------------------------------------------------------------------


def packed(values: Sequence[Number]) -> str:
    """Numbers as text without loss: floats by the shortest digits; ``3*1`` for three times the same one in a row."""
    words: list[tuple[str, int]] = []
    for value in values:
        word = repr(value)
        if words and words[-1][0] == word:
            words[-1] = (word, words[-1][1] + 1)
        else:
            words.append((word, 1))
    return " ".join(word if count == 1 else f"{count}*{word}" for word, count in words)


def unpacked(text: str) -> list[Number]:
    """What `packed` made text."""
    values: list[Number] = []
    for word in text.split():
        count, star, number = word.partition("*")
        number = number if star else count
        value = int(number) if number.lstrip("-").isdigit() else float(number)
        values += [value] * (int(count) if star else 1)
    return values


def write(path: Path, found: Mapping[str, Numbers]) -> None:
    """Write groups to a file, a line for each of their entries; ``=`` for what is as at the level "plain"."""
    content = {
        key: {name: packed(values) for name, values in numbers.items()} for key, numbers in found.items()
    }
    for key, group in content.items():
        plain = content.get(_plain(key), {}) if key != _plain(key) else {}
        group |= {name: "=" for name, text in group.items() if plain.get(name) == text}
    path.write_text(json.dumps(content, indent=0, sort_keys=True) + "\n")


def read(path: Path) -> dict[str, Numbers]:
    """Read what `write` wrote."""
    content = json.loads(path.read_text())
    return {
        key: {
            name: unpacked(content[_plain(key)][name] if text == "=" else text)
            for name, text in group.items()
        }
        for key, group in content.items()
    }


def _plain(key: str) -> str:
    return f"{key.rsplit('/', 1)[0]}/plain"


def count(found: Mapping[str, Numbers]) -> str:
    """How many numbers there are, in words."""
    total = sum(len(values) for numbers in found.values() for values in numbers.values())
    return f"{total} numbers in {len(found)} groups"


# ---- comparing -----------------------------------------------------------------------------------------------------


def _ordered(value: Number) -> int:
    """An integer that grows by one from a float64 to the next larger one."""
    bits = int(struct.unpack("<q", struct.pack("<d", value))[0])
    return bits if bits >= 0 else -(bits & 0x7FFF_FFFF_FFFF_FFFF)


def same(a: Number, b: Number) -> bool:
    """Whether two numbers are of one type and have the same bits; any NaN is equal to any other."""
    if type(a) is not type(b):
        return False
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return struct.pack("<d", a) == struct.pack("<d", b) if isinstance(a, float) else a == b


def close(a: Number, b: Number, kind: str) -> bool:
    """Whether a number is the recorded one ``b``, to the tolerance of a kind; whole numbers have to be equal."""
    if same(a, b):
        return True
    relative, absolute = TOLERANCES[kind]
    return isinstance(a, float) and isinstance(b, float) and abs(a - b) <= relative * abs(b) + absolute


def differences(found: Numbers, recorded: Numbers, kind: str | None = None) -> list[str]:
    """A line for each entry of a group that differs: in any bit, or by more than the tolerance of ``kind``.

    Digests are for bits alone: with a tolerance they are left out.
    """
    lines = []
    for name in sorted({*found, *recorded}):
        ours, theirs = found.get(name), recorded.get(name)
        if kind is not None and name.endswith(DIGEST):
            continue
        if ours is None or theirs is None:
            lines.append(f"{name}: only {'recorded' if ours is None else 'computed'}")
        elif len(ours) != len(theirs):
            lines.append(f"{name}: {len(ours)} numbers, {len(theirs)} were recorded")
        else:
            pairs = list(zip(ours, theirs, strict=True))
            apart = [(a, b) for a, b in pairs if not (same(a, b) if kind is None else close(a, b, kind))]
            if apart:
                lines.append(f"{name}: {len(apart)} of {len(ours)} differ, {_largest(apart)}")
    return lines


def _largest(pairs: Sequence[tuple[Number, Number]]) -> str:
    """The largest differences of pairs, in words."""
    finite = [(a, b) for a, b in pairs if math.isfinite(a) and math.isfinite(b)]
    if len(finite) < len(pairs):
        a, b = next(pair for pair in pairs if pair not in finite)
        return f"{a} and not {b}"
    largest = max(abs(a - b) for a, b in finite)
    ulps = max(abs(_ordered(a) - _ordered(b)) for a, b in finite)
    a, b = max(finite, key=lambda pair: abs(pair[0] - pair[1]))
    return f"by up to {largest:.3g} ({a} and not {b}), {ulps} units in the last place"


# ---- the command line ----------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Record or compare; returns the exit status."""
    parser = argparse.ArgumentParser(description="Record numbers of ppl_vae, or compare with recorded ones.")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--out", type=Path, help="a file to write")
    action.add_argument("--compare", type=Path, help="a file to compare with")
    parser.add_argument("--only", default="", help="the groups whose name/level holds this text")
    parser.add_argument("--times", action="store_true", help="print the seconds that each group takes")
    asked = parser.parse_args(argv)
    recorded = {} if asked.compare is None else read(asked.compare)
    recorded = {key: numbers for key, numbers in recorded.items() if asked.only in key}
    found = {}
    for key in (key for key in labels() if asked.only in key):
        start = time.perf_counter()
        found[key] = compute(key)
        if asked.times:
            print(f"{time.perf_counter() - start:8.2f} s  {key}")
    if asked.out is not None:
        write(asked.out, found)
        print(f"wrote {count(found)} to {asked.out}")
        return 0
    lines = []
    for key in sorted({*found, *recorded}):
        if key in found and key in recorded:
            lines += [f"{key}: {line}" for line in differences(found[key], recorded[key])]
        else:
            lines.append(f"{key}: only {'computed' if key in found else 'recorded'}")
    print("\n".join([*lines, f"compared {count(found)}: {len(lines)} differences"]))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
