"""Files with flipped bits, cut short or with bytes put in: each is read, or is refused in one line that names it.

For each kind of file that the package reads, a good file is damaged at random with a fixed seed. What is read in spite
of the damage is no fault of a file without a digest (a CSV with another digit is a CSV); where there is a digest, no
damage goes unseen.
"""

import numpy as np
import pytest
import torch
from file_kinds import KINDS, SIGNED, refusal

from ppl_vae import files

TIMES = 90  # damaged copies of each file


def damaged(content, generator):
    """A copy with one to three bits flipped, bytes cut off, or bytes put in; never the same as ``content``."""
    found = bytearray(content)
    kind = generator.integers(4)
    place = int(generator.integers(len(content)))
    if kind == 0:
        del found[place:]
    elif kind == 1:
        found[place:place] = generator.integers(0, 256, int(generator.integers(1, 9)), np.uint8).tobytes()
    else:
        for bit in generator.choice(8 * len(content), int(generator.integers(1, 4)), replace=False):
            found[bit // 8] ^= 1 << (bit % 8)
    return bytes(found)


@pytest.mark.parametrize("name", KINDS)
def test_every_damaged_file_is_read_or_refused_in_one_line_that_names_it(name, tmp_path):
    write, read = KINDS[name]
    path = tmp_path / name
    write(path)
    assert refusal(read, path) is None
    good, generator = path.read_bytes(), np.random.default_rng(sorted(KINDS).index(name))
    refused = 0
    for _ in range(TIMES):
        path.write_bytes(damaged(good, generator))
        message = refusal(read, path)
        if message is not None:
            refused += 1
            assert str(path) in message or str(tmp_path) in message, message
            assert message.isprintable(), message
            assert len(message) < 1200, message
    assert refused > TIMES // 4
    if name in SIGNED:
        assert refused == TIMES


def test_there_are_several_hundred_of_them():
    assert TIMES * len(KINDS) > 1000


@pytest.mark.parametrize("name", SIGNED)
def test_no_single_bit_goes_unseen(name, tmp_path):
    """Every bit of the tensors and of the header, in steps that share no factor with eight."""
    write, read = KINDS[name]
    path = tmp_path / name
    write(path)
    good = path.read_bytes()
    for bit in range(0, 8 * len(good), 8 * len(good) // 150 * 2 + 1):
        found = bytearray(good)
        found[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(found)
        assert refusal(read, path) is not None, bit


def test_the_digest_is_of_everything():
    tensors = {"a": torch.arange(4.0), "b": torch.zeros(2, 2)}
    known = files.digest(tensors, "{}")
    others = [
        ({"a": torch.arange(4.0), "c": torch.zeros(2, 2)}, "{}"),
        ({"a": torch.arange(4.0), "b": torch.zeros(4)}, "{}"),
        ({"a": torch.arange(4.0), "b": torch.zeros(2, 2, dtype=torch.int32)}, "{}"),
        ({"a": torch.tensor([0.0, 1.0, 2.0, 3.0000002]), "b": torch.zeros(2, 2)}, "{}"),
        ({"a": torch.tensor([-0.0, 1.0, 2.0, 3.0]), "b": torch.zeros(2, 2)}, "{}"),
        ({"a": torch.arange(4.0)}, "{}"),
        (tensors, "{ }"),
    ]
    assert files.digest(dict(reversed(tensors.items())), "{}") == known
    assert (
        files.digest({"a": torch.stack([torch.arange(4.0)] * 2, 1)[:, 0], "b": tensors["b"]}, "{}") == known
    )
    assert len({known, *(files.digest(*other) for other in others)}) == len(others) + 1
