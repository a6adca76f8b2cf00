"""Files that a user may break: CUB's tables, teachers' manifests, caches of pixels."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.datasets.cub200 import _read
from benchmark.datasets.mapped import Content, mapped
from benchmark.train import teacher_store
from tests.fuzz import nasty

TABLES = {
    "classes": "1 001.Crow\n2 002.Duck\n",
    "images": "1 001.Crow/a.jpg\n2 001.Crow/b.jpg\n3 002.Duck/c.jpg\n",
    "image_class_labels": "1 1\n2 1\n3 2\n",
    "train_test_split": "1 1\n2 0\n3 1\n",
}
MANIFEST: dict[str, Any] = {
    "model": "resnet8", "dataset": "digits", "data_digest": "d", "num_classes": 10, "image_size": 16, "checksum": "c",
    "test_top1": 10.0, "best_test_top1": None, "epochs": 3, "origin": "trained", "signature": "0", "mlflow_run": None,
    "git_commit": "g", "git_dirty": False, "device": "cpu", "versions": {"torch": "2"}, "created": "now",
}  # fmt: skip
PIXELS = np.zeros((2, 3, 4, 4), np.uint8)


def generate(rng: random.Random) -> list[Any]:
    kind = rng.choice(("tables", "manifest", "cache"))
    if kind == "tables":
        name = rng.choice(tuple(TABLES))
        return [kind, name, nasty.changed_text(rng, TABLES[name])]
    if kind == "manifest":
        tree = dict(MANIFEST)
        nasty.change(rng, tree)
        text = json.dumps(tree)
        return [kind, text if rng.random() < 0.6 else nasty.changed_text(rng, text)]
    return [kind, rng.choice((".npy", ".json")), rng.randrange(2**32)]


def check(case: list[Any], folder: Path) -> None:
    if len(case) < 2:
        return
    if case[0] == "tables" and len(case) == 3:
        for name, text in {**TABLES, case[1]: case[2]}.items():
            (folder / f"{name}.txt").write_bytes(text.encode("utf-8", "replace"))
        classes, splits = _read(folder)
        assert len(classes) >= 1
        assert all(len(paths) == len(targets) for paths, targets in splits.values())
    elif case[0] == "manifest":
        (folder / "digits").mkdir()
        (folder / "digits" / "a.json").write_bytes(case[1].encode("utf-8", "replace"))
        for place, manifest in teacher_store.manifests(folder):
            manifest.file(place)
    elif case[0] == "cache" and len(case) == 3:
        made = Content(PIXELS.shape, lambda: [PIXELS], {"targets": [0, 1]}, "")
        lists = {"targets": int}
        mapped(folder / "a.npy", "source", lambda: made, lists)
        path = (folder / "a.npy").with_suffix(case[1])
        path.write_bytes(nasty.changed_bytes(random.Random(case[2]), path.read_bytes()))
        pixels, about = mapped(folder / "a.npy", "source", lambda: made, lists)
        assert tuple(pixels.shape) == PIXELS.shape and len(about["targets"]) == 2
