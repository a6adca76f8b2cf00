"""Checks of what a runs folder keeps: the tracking store, teachers and caches."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmark.doctor.base import Finding, Places, deleting, size_of, size_text
from benchmark.errors import UserError
from benchmark.train import teacher_store


def folder(places: Places) -> Iterator[Finding]:
    """The runs folder is there and can be written."""
    if not places.runs.exists():
        yield Finding("note", f"{places.runs} does not exist yet: the first run makes it; --runs names another folder")
    elif not os.access(places.runs, os.W_OK, effective_ids=True):
        yield Finding("note", f"{places.runs} can only be read: runs can be listed and reported on, none be trained")
    else:
        yield Finding("ok", f"{places.runs}")


def tracking_store(places: Places) -> Iterator[Finding]:
    """The tracking store opens and has this version's schema."""
    tracker = places.tracker  # a store that does not open, or has another schema, is a UserError with the reason
    if tracker is None:
        yield Finding("note", "nothing is tracked yet")
        return
    with tracker.named_errors():
        experiments = tracker.experiments()
    where = tracker.uri
    if tracker.is_local and (database := places.runs / "mlflow.db").exists():
        where = f"{database}, {size_text(database.stat().st_size)}"
        if (database.parent / f"{database.name}-journal").exists() and tracker.is_read_only:
            yield Finding(
                "wrong", f"{database} was left amid a change and cannot be written: copy the folder and open the copy"
            )
    yield Finding("ok", f"{where}: {len(experiments)} experiments")
    with tracker.named_errors():
        foreign, lost = tracker.foreign_artifacts(), tracker.lost_artifacts()
    for place in foreign:  # only of a store that can only be read: opening any other mends it
        yield Finding(
            "note", f"the store names artifacts in {place}, and cannot be changed: commands read those in {places.runs}"
        )
    for folder in lost:
        yield Finding("wrong", f"{folder} is not there: copy it from where mlflow.db came from")


def teachers(places: Places) -> Iterator[Finding]:
    """Stored teachers have a manifest and the weights that it names."""
    root = places.options.teachers
    known: set[Path] = set()
    count = 0
    for path in sorted(root.glob("*/*.json")):
        known.add(path.with_suffix(".safetensors"))
        try:
            manifest = teacher_store.Manifest.model_validate_json(path.read_text())
            teacher_store.load_weights(manifest.file(path.parent))
            count += 1
        except (UserError, ValueError) as error:
            yield Finding("wrong", f"{path.stem}: {str(error).splitlines()[0]}")
    for path in sorted({*root.glob("*/*.safetensors")} - known):
        yield Finding("wrong", f"{path} has no manifest: delete it, and the next run trains the teacher again")
    yield Finding("ok", f"{count} stored, checksums match") if count else Finding("note", f"none under {root}")


def image_caches(places: Places) -> Iterator[Finding]:
    """Decoded images are as they were written; damaged ones are made again by themselves."""
    sizes = []
    for cache in sorted(places.options.cache.glob("*.npy")):
        try:
            manifest = json.loads(cache.with_suffix(".json").read_text())
            with cache.open("rb") as file:
                is_whole = hashlib.file_digest(file, "sha256").hexdigest() == manifest["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            is_whole = False
        if is_whole:
            sizes.append(size_of(cache))
            continue
        text = f"{cache} is damaged: the next command that needs it makes it again"
        yield Finding("wrong", text, deleting(Path(f"{cache}.lock"), cache, cache.with_suffix(".json")))
    yield Finding("ok", f"{len(sizes)} whole, {size_text(sum(sizes))}")


def view_caches(places: Places) -> Iterator[Finding]:
    """Teachers' outputs on disk belong to a stored teacher."""
    stored = set()
    for path in places.options.teachers.glob("*/*.json"):
        try:
            stored.add(teacher_store.Manifest.model_validate_json(path.read_text()).checksum)
        except (OSError, ValueError):  # reported with the teachers
            continue
    for cache in sorted(one for one in places.options.cache.glob("views-*") if one.is_dir()):
        mend = deleting(Path(f"{cache}.lock"), cache)
        try:
            key = json.loads((cache / "manifest.json").read_text())
            marks = np.fromfile(cache / "marks.bin", np.uint64)
            checksum = key["teacher_checksum"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            yield Finding("wrong", f"{cache} is damaged ({error}): the next run makes it again", mend)
            continue
        about = f"{cache.name}: {np.count_nonzero(marks):,} of {len(marks):,} views, {size_text(size_of(cache))}"
        if checksum in stored:
            yield Finding("ok", about)
        else:  # it is not deleted here: it took hours to fill, and its teacher may come back
            yield Finding("note", f"{about}; its teacher is not stored here: delete the folder to have the space")
