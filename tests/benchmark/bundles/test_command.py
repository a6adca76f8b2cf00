"""`python -m benchmark pack` and `merge`, as they are typed."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

from benchmark import __main__ as door
from tests.benchmark.bundles.conftest import Home
from tests.benchmark.bundles.stores import Store
from tests.mistakes import refusal

pytestmark = pytest.mark.xdist_group("bundles")  # one `home` for all


def said(*words: str) -> tuple[int, str]:
    text = io.StringIO()
    code = door.main(words, Console(file=text, width=140, markup=False, highlight=False))
    return code, text.getvalue()


def test_a_bundle_is_packed_and_merged(home: Home, new_store: Callable[[str], Store], tmp_path: Path) -> None:
    places = ("--runs", str(home.store.options.runs), "--data", str(tmp_path))
    target, suite = tmp_path / "out" / "home", str(home.store.folder / "small.yaml")
    code, text = said("pack", str(target), suite, "--device", "cpu", *places)
    assert code == 0
    assert re.search(r"finished runs +│ 2 ", text) and re.search(r"teachers +│ 1 ", text)
    assert re.search(rf"Pieces: {target}\.001, 1 of [\d.]+ (kB|MB) in all", text)
    assert f"python -m benchmark merge {target}.*" in text
    there = new_store("b")
    here = ("--runs", str(there.options.runs), "--data", str(tmp_path))
    lock = FileLock(there.options.lock_file(str(home.store.survey().entries[0].signature)))
    Path(lock.lock_file).parent.mkdir(parents=True)
    with lock:
        code, text = said("merge", f"{target}.001", *here)
    assert code == 1
    assert "left out: resnet8 -> resnet8_half, kd, seed 1: another process trains it now" in text
    code, text = said("merge", str(target.parent), *here)
    assert code == 0 and re.search(r"finished runs +│ 1 +│ 1 +│ 0 ", text)
    states = [said("status", suite, "--device", "cpu", *folder)[1] for folder in (places, here)]
    assert states[0] == states[1] and "Runs: 1 finished" in states[0]


def test_what_is_refused_leaves_nothing(home: Home, tmp_path: Path) -> None:
    new = tmp_path / "new"
    message = refusal(door.main, "merge", *map(str, home.packed.pieces[:-1]), "--runs", str(new))
    assert re.search(r"piece \d+ of \d+ is missing", message)
    message = refusal(door.main, "pack", str(tmp_path / "out"), "--runs", str(new))
    assert message.startswith(f"nothing to pack under {new}")
    damaged = tmp_path / "damaged.001"
    damaged.write_bytes(home.packed.pieces[0].read_bytes()[:-1])
    assert "is truncated" in refusal(door.main, "merge", str(damaged), "--runs", str(new))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged.001"]


def test_rounding_needs_the_images(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmark import datasets
    from benchmark.errors import UserError

    def missing(*_: object, **__: object) -> None:
        raise UserError("the images are not here")

    monkeypatch.setattr(datasets, "load", missing)
    message = refusal(door.main, "pack", str(tmp_path / "out"), "--fp16", "--runs", str(home.store.options.runs))
    assert message == (
        "--fp16: the accuracy of the rounded resnet8 is measured on the images of digits: the images are not here; name"
        " their folder with --data, or leave out --fp16"
    )
    assert not list(tmp_path.iterdir())
