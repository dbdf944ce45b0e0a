import pytest
from plot_cases import evidence_of


@pytest.fixture(scope="session")
def evidence():
    return evidence_of()
