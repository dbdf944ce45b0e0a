import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def real_data():
    """A folder of the real data (`$PPL_VAE_DATA`, or shared/data beside the repository); skips without it."""

    def find(name):
        root = Path(os.environ.get("PPL_VAE_DATA", REPOSITORY.parent / "shared" / "data"))
        if not (root / name).is_dir():
            pytest.skip(f"no folder {name} of real data in {root}; set PPL_VAE_DATA to one that has it")
        return root / name

    return find
