"""Names of classes, folders, suites and pairs, and all places that they go to."""

from __future__ import annotations

import csv
import io
import random
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from benchmark import datasets, errors
from benchmark.analysis.latex import latex
from benchmark.analysis.table import Cell, Column, Row, Table
from benchmark.datasets.folder import folder as load_folder
from benchmark.train import teacher_store
from studies.search import slug
from tests.fuzz import nasty


@cache
def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((2, 2, 3), number, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def generate(rng: random.Random) -> list[str]:
    return [nasty.word(rng), nasty.word(rng), nasty.word(rng)]


def check(case: list[str], folder: Path) -> None:
    tree_name, name, image = (*case, "a", "a", "a")[:3]
    line = errors.one_line("".join(case))
    assert line.encode() and len(line.splitlines()) <= 1
    assert len(slug("".join(case))) < 200
    fault = errors.name_fault(name)
    if fault is None:
        assert (folder / f"{name}.md").resolve().parent == folder.resolve()
    tree = folder / tree_name.rpartition("/")[2]
    number = 0
    for split in ("train", "test"):
        for one in (name, "other"):
            number += 1
            path = tree / split / one / f"{image}{number}.png"
            try:
                if not path.resolve().is_relative_to(tree / split) or path.parent.parent != tree / split:
                    return
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture(number))
            except (OSError, ValueError, RuntimeError):  # no file system holds such a name
                return
    data = load_folder(folder, path=tree, image_size=8, cache=folder / "cache")
    assert data.digest
    place = teacher_store.folder_of(folder / "teachers", data)
    assert place.resolve().parent == (folder / "teachers").resolve()
    show(data)


def show(data: datasets.DataSet) -> None:
    """Write the names as every table does, and read the CSV back."""
    rows = [Row.of(Cell(name), data.name, name=name, folder=data.name) for name in data.classes]
    columns = (Column("class", "left"), Column("folder"))
    table = Table.of_rows(data.source, "", columns, rows)
    for text in (table.to_markdown(), latex(table, "t")):
        assert text.encode()
    found = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert [row["name"] for row in found] == list(data.classes)
