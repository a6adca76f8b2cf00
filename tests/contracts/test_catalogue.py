"""Names that are read from the source equal those that an import registers."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark import catalogue
from benchmark.errors import UserError
from benchmark.plan import suite


@pytest.mark.parametrize("kind", catalogue.KINDS)
def test_reading_equals_importing(kind: str) -> None:
    names = catalogue.read(kind)
    registered = catalogue.imported(kind)
    assert names == registered and names.entries
    assert list(names.entries) == list(registered.entries)


def test_a_name_is_wrong_in_the_same_words_with_and_without_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, spec in catalogue.KINDS.items():
        said = []
        for way in (catalogue.read, catalogue.imported):
            monkeypatch.setattr(catalogue, "known", way)
            with pytest.raises(UserError) as refused:
                catalogue.check(kind, "nosuchname")
            said.append(str(refused.value))
        assert said[0] == said[1] and f"`{spec.listed_by}`" in said[0]


def test_suites_are_those_that_load() -> None:
    assert [suite.load(name).name for name in catalogue.suites()] == catalogue.suites()


@pytest.mark.parametrize(
    "text",
    [
        "for depth in (8, 20):\n    registry.add(f'plain{depth}', make)",
        "registry.add('plain' + '8', make)",
        "def later():\n    registry.add('plain8', make)\nlater()",
        "if True:\n    registry.add('plain8', make)",
    ],
)
def test_a_name_that_cannot_be_read_is_never_overlooked(text: str, tmp_path: Path) -> None:
    """Otherwise it would be refused as unknown; so, the package is imported."""
    path = tmp_path / "plain.py"
    path.write_text(f"from models.base import registry\n{text}")
    with pytest.raises(catalogue.Unreadable):
        catalogue.read_files("models", {path: "models.plain"})
