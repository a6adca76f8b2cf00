"""Bundles: changed pieces, changed archives in good pieces, and changed fields in good archives."""

from __future__ import annotations

import io
import json
import random
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from benchmark import process
from benchmark.bundles import content, pieces
from benchmark.bundles.content import Writer
from benchmark.tracking import Point
from tests.fuzz import nasty

SIGNATURE = "0123456789abcdef"
RUN: dict[str, Any] = {
    "signature": SIGNATURE, "experiment": "digits", "experiment_tags": {"suite": "digits"}, "parent": "a -> b",
    "parent_tags": {"pair": "a -> b"}, "name": "kd seed 1", "role": "student", "status": "FINISHED", "start_time": 1,
    "end_time": 2, "tags": {
        "signature": SIGNATURE, "role": "student", "student": "resnet8", "seed": "1", "method": "kd",
        "data_digest": "d",
    }, "params": {"recipe.epochs": "3"}, "config": {"method": "kd"},
    "data": {"name": "digits", "digest": "d", "source_type": "local", "source": "", "profile": None},
}  # fmt: skip
process.git_state()  # asks git, which a check must not
POINTS = [Point("lr", 1, 5, 0.1), Point("test/top1", 1, 5, 50.0)]


def archive(run: str, metrics: str) -> bytes:
    buffer = io.BytesIO()
    with Writer(buffer) as writer:
        writer.add(f"runs/{SIGNATURE}/artifacts/config.json", b"{}")
        writer.add(f"runs/{SIGNATURE}/metrics.csv", metrics.encode("utf-8", "replace"))
        writer.add(f"runs/{SIGNATURE}/run.json", run.encode("utf-8", "replace"))
        writer.close("fp32")
    return buffer.getvalue()


@cache
def good() -> bytes:
    return archive(json.dumps(RUN), content.metrics_text(POINTS))


def generate(rng: random.Random) -> list[Any]:
    kind = rng.choice(("pieces", "archive", "run", "metrics"))
    if kind == "pieces":
        return [kind, rng.choice((1, 2)), rng.randrange(2**32)]
    if kind == "archive":
        return [kind, rng.randrange(2**32)]
    if kind == "run":
        tree = json.loads(json.dumps(RUN))
        nasty.change(rng, tree)
        text = json.dumps(tree)
        return [kind, text if rng.random() < 0.8 else nasty.changed_text(rng, text)]
    return [kind, nasty.changed_text(rng, content.metrics_text(POINTS))]


def check(case: list[Any], folder: Path) -> None:
    if len(case) < 2:
        return
    kind, *how = case
    made = good()
    if kind == "archive":
        made = nasty.changed_bytes(random.Random(how[0]), made)
    elif kind == "run" and isinstance(how[0], str):
        made = archive(how[0], content.metrics_text(POINTS))
    elif kind == "metrics" and isinstance(how[0], str):
        made = archive(json.dumps(RUN), how[0])
    files = pieces.split(io.BytesIO(made), folder / "home", pieces.MAX_HEADER + len(made) // 2 + 1)
    if kind == "pieces" and len(how) == 2:
        path = files[how[0] % len(files)]
        path.write_bytes(nasty.changed_bytes(random.Random(how[1]), path.read_bytes()))
    for whole in pieces.gather(files):
        bundle = content.opened(whole)
        for signature, record in bundle.runs.items():
            assert record.tags["signature"] == signature
            assert all(abs(point.value) < float("inf") for point in bundle.points(signature))
            assert sha256(b"".join(text for _, text in bundle.artifacts(signature))).hexdigest()
        bundle.close()
