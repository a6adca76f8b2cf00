"""Stored teachers: weights as safetensors, and a manifest with their checksum, accuracy and origin."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load as deserialize
from safetensors.torch import save as serialize
from torch import Tensor

import models
from benchmark import files, process
from benchmark.config import Frozen
from benchmark.datasets.base import DataSet
from benchmark.errors import UserError
from benchmark.train.batches import eval_batches
from benchmark.train.evaluate import evaluate
from benchmark.train.messages import TeacherFile

IMPORTED = "imported"


class Manifest(Frozen):
    """Facts about a stored teacher, kept as JSON next to the weights."""

    model: str
    dataset: str
    data_digest: str
    num_classes: int
    image_size: int
    #: sha256 of the safetensors file
    checksum: str
    #: measured from the stored file, percent
    test_top1: float
    #: accuracy of the best epoch on the test set, percent: the literature's habit; None for imported weights
    best_test_top1: float | None = None
    epochs: int | None = None
    #: how the weights came to be: `trained`, or the file they were imported from
    origin: str
    #: checksum of the teacher whose weights were rounded to fp16 to make this one; None for weights as trained
    rounded_from: str | None = None
    #: signature of the run that trained it; None for imported weights
    signature: str | None = None
    mlflow_run: str | None = None
    git_commit: str
    git_dirty: bool
    device: str
    versions: dict[str, str]
    created: str

    @property
    def text(self) -> str:
        """The manifest as its file holds it."""
        return json.dumps(self.model_dump(), indent=2) + "\n"

    def file(self, folder: Path) -> TeacherFile:
        """Path of the weights and the checksum that they must have."""
        name = self.model.replace("/", "-")
        return TeacherFile(self.model, folder / f"{name}-{self.signature or IMPORTED}.safetensors", self.checksum)


def folder_of(teachers: Path, data: DataSet) -> Path:
    """Folder that holds the teachers of a data set."""
    return teachers / folder_name(data.name)


def folder_name(dataset: str) -> str:
    """Name of the folder of a data set's teachers."""
    return dataset.replace("[", "-").replace("]", "").replace(" ", "-")


def manifests(teachers: Path) -> Iterator[tuple[Path, Manifest]]:
    """Yield (folder, manifest) of every stored teacher.

    Raises:
        UserError: for a manifest that cannot be read.
    """
    for path in sorted(teachers.glob("*/*.json")):
        try:
            yield path.parent, Manifest.model_validate_json(path.read_text())
        except (ValueError, OSError) as error:  # not JSON, wrong fields, or not even text
            raise UserError(
                f"teacher manifest {path} cannot be read: {first_line(error)}; delete it and its"
                " .safetensors, and the next run trains the teacher again"
            ) from error


def choose(stored: Iterable[Manifest], model: str, data_digest: str, signature: str) -> Manifest | None:
    """Choose the teacher that a suite uses: imported weights if there are any, else those its own recipe trained.

    Only teachers of exactly these images count (the data digest decides), so a subset never gets the full set's
    teacher.
    """
    usable = {
        manifest.signature: manifest
        for manifest in stored
        if manifest.model == model and manifest.data_digest == data_digest
    }
    return usable.get(None) or usable.get(signature)


def find(teachers: Path, data: DataSet, model: str, signature: str) -> tuple[Path, Manifest] | None:
    """Find the folder and manifest of the teacher that a suite uses on these images; see `choose`."""
    stored = list(manifests(teachers))
    chosen = choose((manifest for _, manifest in stored), model, data.digest, signature)
    return next(((folder, manifest) for folder, manifest in stored if manifest is chosen), None)


def load_weights(file: TeacherFile) -> dict[str, Tensor]:
    """Read the stored weights.

    Raises:
        UserError: when the file is missing or its checksum does not match.
    """
    if not file.path.exists():
        raise UserError(
            f"teacher weights {file.path} are missing; delete {file.path.with_suffix('.json')} and the next"
            " run trains the teacher again"
        )
    content = file.path.read_bytes()
    if hashlib.sha256(content).hexdigest() != file.checksum:
        raise UserError(
            f"teacher weights {file.path} are damaged: their checksum is not {file.checksum[:16]}… as the"
            " manifest says; restore the file, or delete it and its .json to train the teacher again"
        )
    weights: dict[str, Tensor] = deserialize(content)
    return weights


def load_network(file: TeacherFile, data: DataSet) -> models.Network:
    """Load a stored teacher as a network. Raises UserError when it is damaged or does not fit the data set."""
    return network_with(file.model, load_weights(file), data, str(file.path))


class Sizes(Protocol):
    """What a network is made for: a data set, or a manifest that names one."""

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""

    @property
    def image_size(self) -> int:
        """Side of the images, pixels."""


def network_with(model: str, weights: dict[str, Tensor], data: Sizes, source: str) -> models.Network:
    """Create a network with the given weights, which come from `source`. Raises UserError when they do not fit."""
    with torch.random.fork_rng(devices=[]):
        network = models.create(model, data.num_classes, data.image_size)
    try:
        network.load_state_dict(weights)
    except Exception as error:  # of torch, by the kind of misfit
        first = [*str(error).splitlines(), "", ""][1].strip() or first_line(error)
        raise UserError(
            f"weights {source} do not fit {model} with {data.num_classes} classes at {data.image_size} pixels: {first}"
        ) from error
    return network


def measure(network: models.Network, data: DataSet, device: torch.device, members: Tensor | None = None) -> float:
    """Measure a network's accuracy in percent on the test set, or on these `members` of it."""
    placed = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    chosen = torch.arange(len(data.test)) if members is None else members
    batches = eval_batches(data, data.test, chosen, device)
    return evaluate([placed], batches, data.num_classes, device)[0].top1


def store(
    teachers: Path, data: DataSet, model: str, weights: dict[str, Tensor], *, test_top1: float, **about: Any
) -> tuple[Path, Manifest]:
    """Write a teacher and its manifest; `test_top1` is the accuracy of exactly these weights.

    Unless `about` says otherwise, this process made them: with this checkout and these packages.
    """
    folder = folder_of(teachers, data)
    content = content_of(model, weights)
    commit, dirty = process.git_state()
    made: dict[str, Any] = {"git_commit": commit, "git_dirty": dirty, "versions": process.package_versions()}
    manifest = Manifest(
        model=model,
        dataset=data.name,
        data_digest=data.digest,
        num_classes=data.num_classes,
        image_size=data.image_size,
        checksum=hashlib.sha256(content).hexdigest(),
        test_top1=test_top1,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        **{**made, **about},
    )
    put(folder, manifest, content)
    return folder, manifest


def put(folder: Path, manifest: Manifest, content: bytes) -> None:
    """Write the files of a teacher into a folder.

    The weights go first and the manifest last: a teacher without a manifest does not exist.
    """
    file = manifest.file(folder)
    files.write(file.path, content)
    network_with(manifest.model, load_weights(file), manifest, str(file.path))  # the written file is whole and fits
    files.write(file.path.with_suffix(".json"), manifest.text.encode())


def content_of(model: str, weights: dict[str, Tensor]) -> bytes:
    """Weights as their file holds them."""
    # one entry of metadata only: safetensors writes several in any order, and the checksum is part of signatures
    content: bytes = serialize(weights, metadata={"model": model})
    return content


def first_line(error: BaseException) -> str:
    """First line of an error's message; its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
