"""What the package says of itself: metadata, README, and the map of its files."""

import re
from importlib.metadata import entry_points, metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_metadata_say_what_they_must():
    found = metadata("ppl_vae")
    assert found["License-Expression"] == "Apache-2.0"
    assert found["Requires-Python"] == ">=3.10"
    assert found["Author"] == "the ppl_vae developers"
    assert found["Description-Content-Type"] == "text/markdown"
    assert [point.value for point in entry_points(group="console_scripts", name="ppl-vae")] == [
        "ppl_vae.cli:main"
    ]


def test_the_readme_is_short():
    """A newcomer reads it to its end, and the first example at once."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 130
    first = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    assert len([line for line in first.splitlines() if line.strip()]) <= 16


@pytest.mark.parametrize("path", sorted((ROOT / "ppl_vae").glob("*.py")), ids=lambda path: path.name)
def test_every_file_at_the_root_is_on_the_map(path):
    assert path.name == "__init__.py" or path.name in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path", [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")], ids=lambda path: path.name
)
def test_links_between_documents_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / link).exists(), link
