"""What a bundle's archive holds, how it is written, and how every byte of it is checked before anything is taken.

The archive is a zip: `runs/<signature>/` has run.json, metrics.csv and artifacts/; `teachers/<data set>/` the files of
stored teachers; `checkpoints/<signature>/` the checkpoints of open runs; `bundle.json` names every other member with
its checksum. Nothing in it is code that is run, and no pickle is read here.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import platform
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from stat import S_IFMT, S_IFREG
from typing import IO, Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as deserialize

from benchmark import catalogue, process, tracking
from benchmark.bundles import pieces
from benchmark.bundles.pieces import FORMAT, PROJECT, Whole
from benchmark.config import Frozen, explain
from benchmark.errors import UserError, name_fault, shown, unprintable
from benchmark.tracking import Point
from benchmark.train import checkpoint, teacher_store
from benchmark.train.teacher_store import Manifest

#: artifact with a student's weights
STUDENT = "student.safetensors"
CONTENTS = "bundle.json"
_SIGNATURE = "[0-9a-f]{16}"
_LAYOUT = re.compile(
    rf"runs/{_SIGNATURE}/(run\.json|metrics\.csv|artifacts/.+)|teachers/[^/]+/[^/]+\.(safetensors|json)"
    rf"|checkpoints/{_SIGNATURE}/checkpoint"
)
#: bytes of a member that is compressed, once it is read: only weights are larger, and they are stored as they are
MAX_TEXT = 256 * pieces.MEGABYTE
MAX_MEMBERS = 1_000_000
#: sizes that no teacher has more of: its network is made to check that the weights fit
_MAX_CLASSES, _MAX_SIDE = 1_000_000, 4096
_COLUMNS = ("name", "step", "timestamp", "value")
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")
#: what zipfile raises for archives that are none
_FAULTS = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError, IndexError,
    OverflowError, OSError,
)  # fmt: skip

Weights = Literal["fp32", "fp16"]
Signature = Annotated[str, StringConstraints(pattern=f"^{_SIGNATURE}$")]
Count = Annotated[int, Field(ge=0, le=2**62)]
#: epochs, and steps of the epoch after them, that a checkpoint holds
Progress = tuple[int, int]


class Member(Frozen):
    """A file of the archive."""

    path: str
    bytes: Count
    sha256: str


class Contents(Frozen):
    """What a bundle says of itself, kept as its bundle.json."""

    project: str = PROJECT
    format: int = FORMAT
    created: str
    #: the machine and commit that packed it
    host: str
    commit: str
    #: precision of the weights in it: fp16 when they were rounded
    weights: Weights
    runs: tuple[Signature, ...]
    #: `<folder>/<file>` without its ending
    teachers: tuple[str, ...]
    checkpoints: tuple[Signature, ...]
    members: tuple[Member, ...]


class Images(Frozen):
    """The images that a run was trained on, as MLflow describes them."""

    name: str
    digest: str
    source_type: str
    source: str
    profile: str | None = None


class RunRecord(Frozen):
    """A run as its run.json holds it: all that MLflow has of it, but metrics and artifacts."""

    signature: Signature
    experiment: str
    experiment_tags: dict[str, str]
    #: name of the run that it is nested in
    parent: str | None = None
    parent_tags: dict[str, str] = {}
    name: str
    role: tracking.Role
    status: Literal["FINISHED", "FAILED", "KILLED"]
    start_time: Count
    end_time: Count | None = None
    tags: dict[str, str]
    params: dict[str, str]
    #: the resolved configuration; None where the run has none on record
    config: dict[str, Any] | None = None
    data: Images | None = None

    @property
    def label(self) -> str:
        """Readable name of the run."""
        return label_of(self.tags, self.signature)

    def content(self, experiment_id: str, tags: Mapping[str, str]) -> tracking.Content:
        """The run as a store holds it, under these tags."""
        data = None if self.data is None else tracking.Input(**self.data.model_dump())
        return tracking.Content(self.name, experiment_id, self.start_time, self.end_time, dict(tags), self.params, data)


def label_of(tags: Mapping[str, str], signature: str) -> str:
    """Readable name of a run by its tags: `teacher resnet8`, or `resnet8 -> resnet8_half, kd, seed 1`."""
    if tags.get("role") == "teacher":
        return f"teacher {tags.get('student', signature)}"
    words = [tags.get("pair", tags.get("student", signature)), tags.get("variant", tags.get("method", ""))]
    return ", ".join(filter(None, [*words, tags.get("seed") and f"seed {tags['seed']}"]))


def progress_of(state: Mapping[str, Any]) -> Progress:
    """How far a checkpoint's state is."""
    return int(state["epochs_done"]), int(state.get("steps_done", 0))


# -- writing ---------------------------------------------------------------------------------------------------------


class Writer:
    """An archive that is being written: members in the order they are added, its bundle.json last."""

    def __init__(self, file: IO[bytes]) -> None:
        self._zip = zipfile.ZipFile(file, "w")
        self.members: list[Member] = []

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._zip.close()

    def add(self, path: str, content: bytes) -> None:
        """Add a member; equal content makes equal bytes."""
        assert path_fault(path) is None, path
        self._write(path, content)
        self.members.append(Member(path=path, bytes=len(content), sha256=hashlib.sha256(content).hexdigest()))

    def close(self, weights: Weights, created: datetime | None = None) -> Contents:
        """Add the bundle.json, and end the archive."""
        paths = [Path(member.path) for member in self.members]
        contents = Contents(
            created=(created or datetime.now(UTC)).isoformat(timespec="seconds"),
            host=platform.node(),
            commit=process.git_state()[0],
            weights=weights,
            runs=tuple(path.parts[1] for path in paths if path.name == "run.json" and len(path.parts) == 3),
            teachers=tuple(
                f"{path.parts[1]}/{path.stem}"
                for path in paths
                if path.parts[0] == "teachers" and path.suffix == ".json"
            ),
            checkpoints=tuple(path.parts[1] for path in paths if path.parts[0] == "checkpoints"),
            members=tuple(self.members),
        )
        self._write(CONTENTS, (json.dumps(contents.model_dump(mode="json"), indent=1) + "\n").encode())
        self._zip.close()
        return contents

    def _write(self, path: str, content: bytes) -> None:
        about = zipfile.ZipInfo(path)  # its time is always the same
        about.create_system, about.external_attr = 3, 0o100644 << 16
        about.compress_type = zipfile.ZIP_STORED if _is_weights(path) else zipfile.ZIP_DEFLATED
        self._zip.writestr(about, content, compresslevel=6)


def _is_weights(path: str) -> bool:
    return path.endswith((".safetensors", "/checkpoint"))


def metrics_text(points: Sequence[Point]) -> str:
    """Write metrics as CSV, so that every value comes back to the bit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows((point.name, point.step, point.timestamp, repr(point.value)) for point in points)
    return text.getvalue()


# -- reading ---------------------------------------------------------------------------------------------------------


def path_fault(path: str) -> str | None:
    """Explain why a member cannot have this path; None when it can."""
    if fault := unprintable(path):
        return f"its name {fault}"
    parts = path.split("/")
    if (
        path.startswith("/")
        or "\\" in path
        or re.match("[A-Za-z]:", path)
        or any(one in ("", ".", "..") for one in parts)
    ):
        return "its path leaves the folder"
    return None if _LAYOUT.fullmatch(path) or path == CONTENTS else "a bundle has no such member"


@dataclass
class Bundle:
    """A bundle of which every byte was checked; its members are read again when they are needed."""

    whole: Whole
    contents: Contents
    archive: zipfile.ZipFile
    runs: dict[str, RunRecord] = field(default_factory=dict)
    #: by `<folder>/<file>`
    teachers: dict[str, Manifest] = field(default_factory=dict)
    checkpoints: dict[str, Progress] = field(default_factory=dict)
    _sizes: dict[str, Member] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The bundle as messages name it."""
        return self.whole.title

    def read(self, path: str) -> bytes:
        """Read a member. Raises UserError when it is not what the bundle says."""
        with self.named(path):
            member = self._sizes[path]
            with self.archive.open(path) as file:
                content = file.read(member.bytes + 1)
            if len(content) != member.bytes:
                raise UserError(f"has {'more' if len(content) > member.bytes else 'fewer'} bytes than the bundle says")
            if hashlib.sha256(content).hexdigest() != member.sha256:
                raise UserError("its checksum does not match")
        return content

    def points(self, signature: str) -> list[Point]:
        """Metrics of a run."""
        path = f"runs/{signature}/metrics.csv"
        content = self.read(path)
        with self.named(path):
            return points_of(content)

    def artifacts(self, signature: str) -> Iterator[tuple[str, bytes]]:
        """Names and contents of a run's artifacts."""
        folder = f"runs/{signature}/artifacts/"
        for path in self._sizes:
            if path.startswith(folder):
                yield path.removeprefix(folder), self.read(path)

    @contextmanager
    def named(self, path: str) -> Iterator[None]:
        """Turn what is wrong with a member into a UserError that names the bundle and the member."""
        try:
            yield
        except UserError as error:
            raise UserError(f"{self.title}: {path}: {error}") from error
        except _FAULTS as error:
            raise UserError(f"{self.title}: {path}: it is damaged ({error})") from error

    def close(self) -> None:
        """Close its files."""
        self.archive.close()
        self.whole.close()


def opened(whole: Whole) -> Bundle:
    """Open a bundle and check all that is in it, before anything is taken.

    Raises:
        UserError: with the member and what is wrong with it.
    """
    title = whole.title
    try:
        archive = zipfile.ZipFile(io.BufferedReader(whole))
        infos = _members(archive, title)
        with archive.open(infos[CONTENTS]) as file:
            text = file.read(MAX_TEXT + 1)
    except _FAULTS as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{title} is damaged: its archive cannot be read ({error})") from error
    contents = _contents(text, title)
    bundle = Bundle(whole, contents, archive)
    bundle._sizes = _declared(contents, infos, title)
    _check_structure(bundle)
    for path in bundle._sizes:
        _check_member(bundle, path)
    return bundle


def _members(archive: zipfile.ZipFile, title: str) -> dict[str, zipfile.ZipInfo]:
    """Members of an archive by path. Raises UserError for one that is no plain file of a bundle."""
    found: dict[str, zipfile.ZipInfo] = {}
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise UserError(f"{title} has {len(infos):,} members, at most {MAX_MEMBERS:,} can be")
    for info in infos:
        name = info.orig_filename  # `filename` ends at a NUL
        fault = path_fault(name)
        if fault is None and info.filename != name:
            fault = "its path leaves the folder"
        if fault is None and name in found:
            fault = "it is there twice"
        if fault is None and S_IFMT(info.external_attr >> 16) not in (0, S_IFREG):
            fault = "it is no plain file but a link or the like"
        if fault is None and (
            info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        ):
            fault = "it is encrypted, or compressed in a way that bundles are not"
        if fault is None and info.compress_type != zipfile.ZIP_STORED and info.file_size > MAX_TEXT:
            fault = f"it would be of {info.file_size:,} bytes, at most {MAX_TEXT:,} can be compressed"
        if fault is not None:
            raise UserError(f"{title}: member {shown(name)}: {fault}")
        found[name] = info
    if CONTENTS not in found:
        raise UserError(f"{title} has no {CONTENTS}")
    return found


def _contents(text: bytes, title: str) -> Contents:
    fields = _json(text, f"{title}: {CONTENTS}")
    pieces.check_origin(fields, title)
    try:
        return Contents.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"{title}: {CONTENTS}: {explain(error, Contents)}") from error


def _declared(contents: Contents, infos: Mapping[str, zipfile.ZipInfo], title: str) -> dict[str, Member]:
    """Members that the bundle.json names, by path. Raises UserError unless they are those that are there."""
    named = {member.path: member for member in contents.members}
    if len(named) != len(contents.members):
        raise UserError(f"{title}: {CONTENTS} names a member twice")
    there = infos.keys() - {CONTENTS}
    if undeclared := sorted(there - named.keys()):
        raise UserError(f"{title}: member {shown(undeclared[0])} is not named in its {CONTENTS}")
    if missing := sorted(named.keys() - there):
        raise UserError(f"{title}: member {shown(missing[0])} is missing")
    for path, member in named.items():
        if infos[path].file_size != member.bytes:
            raise UserError(
                f"{title}: {path}: has {infos[path].file_size:,} bytes, and the bundle says {member.bytes:,}"
            )
    return named


def _check_structure(bundle: Bundle) -> None:
    """Raise UserError unless every run, teacher and checkpoint that is named has its files, and no other is there."""
    contents = bundle.contents
    wanted = {f"runs/{one}/{name}" for one in contents.runs for name in ("run.json", "metrics.csv")}
    wanted |= {f"teachers/{one}{ending}" for one in contents.teachers for ending in (".json", ".safetensors")}
    wanted |= {f"checkpoints/{one}/checkpoint" for one in contents.checkpoints}
    artifacts = re.compile(r"runs/([^/]+)/artifacts/.+")
    there = {
        path for path in bundle._sizes if (found := artifacts.fullmatch(path)) is None or found[1] not in contents.runs
    }
    if wanted != there:
        first = min(wanted ^ there)
        raise UserError(f"{bundle.title}: {first} {'is missing' if first in wanted else 'belongs to nothing in it'}")


def _check_member(bundle: Bundle, path: str) -> None:
    """Read a member and check what it means. Raises UserError."""
    content = bundle.read(path)
    with bundle.named(path):
        kind, _, name = path.partition("/")
        if kind == "runs" and path.endswith("/run.json") and path.count("/") == 2:
            signature = name.partition("/")[0]
            bundle.runs[signature] = checked_run(content, bundle.points(signature), signature)
        elif kind == "runs" and path.endswith(f"/artifacts/{STUDENT}"):
            _tensors(content)
        elif kind == "teachers" and path.endswith(".json"):
            bundle.teachers[name.removesuffix(".json")] = _teacher(
                content, name, bundle.read(path.removesuffix(".json") + ".safetensors")
            )
        elif kind == "checkpoints":
            signature = name.partition("/")[0]
            bundle.checkpoints[signature] = checkpoint_progress(content, signature)


def checked_run(content: bytes, points: Iterable[Point], signature: str) -> RunRecord:
    """Parse a run.json and check that a store takes it, with these metrics. Raises UserError."""
    record = _record(content, signature)
    about = record.content("", record.tags)
    if fault := tracking.fault_of(about, points, record.parent_tags, record.experiment_tags):
        raise UserError(fault)
    return record


def _record(content: bytes, signature: str) -> RunRecord:
    """Parse a run.json. Raises UserError for fields that no run has."""
    _json(content, "the file")  # refuses numbers that are none
    try:
        record = RunRecord.model_validate_json(content)
    except ValidationError as error:
        raise UserError(explain(error, RunRecord)) from error
    tags = record.tags
    if not record.signature == tags.get("signature") == signature:
        raise UserError("it is of another run")
    if fault := name_fault(record.experiment, max_bytes=250):
        raise UserError(f"experiment: a name that {fault}")
    for name in filter(None, (record.name, record.parent)):
        if (fault := unprintable(name)) or "'" in name:
            raise UserError(f"{shown(name)}: a name that {fault or 'has a quote'}")
    if missing := [key for key in ("student", "seed", "data_digest") if key not in tags]:
        raise UserError(f"tag {missing[0]} is missing")
    if not {"method", "distiller"} & tags.keys():
        raise UserError("tag method is missing")
    if tags.get("role") != record.role:
        raise UserError("tag role differs from its role")
    for name, text in (
        ("tag seed", tags["seed"]),
        ("parameter recipe.epochs", record.params.get("recipe.epochs", "0")),
    ):
        if _WHOLE.fullmatch(text) is None:
            raise UserError(f"{name}: {shown(text)} is no whole number")
    return record


def points_of(content: bytes) -> list[Point]:
    """Parse a metrics.csv. Raises UserError for a line that is no metric."""
    try:
        rows = list(csv.reader(io.StringIO(content.decode(), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"it is no CSV: {error}") from error
    if not rows or tuple(rows[0]) != _COLUMNS:
        raise UserError(f"its columns are not {', '.join(_COLUMNS)}")
    return [_point(row, number) for number, row in enumerate(rows[1:], 2)]


def _point(row: Sequence[str], number: int) -> Point:
    if len(row) != len(_COLUMNS):
        raise UserError(f"line {number} has {len(row)} values, not {len(_COLUMNS)}")
    name, step, timestamp, text = row
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    # only what `repr` writes: Python's own floats are read from much more
    if repr(value) != text or not abs(value) < float("inf"):
        raise UserError(f"line {number}: metric {shown(name)} is no number: {shown(text)}")
    if _WHOLE.fullmatch(step) is None or _WHOLE.fullmatch(timestamp) is None:
        raise UserError(f"line {number}: step and time of {shown(name)} are no whole numbers")
    return Point(name, int(step), int(timestamp), value)


def _teacher(content: bytes, name: str, weights: bytes) -> Manifest:
    """Check a teacher: its manifest, its checksum, and that its weights fit its network. Raises UserError."""
    _json(content, "the file")
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise UserError(explain(error, Manifest)) from error
    folder = Path(teacher_store.folder_name(manifest.dataset))
    expected = manifest.file(folder).path.with_suffix(".json")
    signature = re.compile(_SIGNATURE)
    if str(expected) != name or (manifest.signature is not None and signature.fullmatch(manifest.signature) is None):
        raise UserError("it is of another teacher")
    if hashlib.sha256(weights).hexdigest() != manifest.checksum:
        raise UserError("the checksum of its weights does not match")
    if not (0 < manifest.num_classes <= _MAX_CLASSES and 0 < manifest.image_size <= _MAX_SIDE):
        raise UserError("num_classes or image_size is no size of a network")
    catalogue.check("models", manifest.model)
    tensors = _tensors(weights)
    teacher_store.network_with(manifest.model, tensors, manifest, f"{folder}/{expected.stem}.safetensors")
    return manifest


def _tensors(content: bytes) -> dict[str, Any]:
    """Read safetensors. Raises UserError for any other bytes, and for values that are not finite."""
    try:
        tensors: dict[str, Any] = deserialize(content)
    except (SafetensorError, KeyError) as error:  # the latter for types that PyTorch does not have
        raise UserError(f"it holds no weights: {error}") from error
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise UserError(f"{name} has values that are not finite")
    return tensors


def checkpoint_progress(content: bytes, signature: str) -> Progress:
    """Check the bytes of a checkpoint, and return how far it is. Raises UserError when it is not of this run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint"
        path.write_bytes(content)
        try:
            state = checkpoint.load(path)
        except UserError as error:
            raise UserError(str(error).replace(f"checkpoint {path} ", "").partition("; nothing was")[0]) from error
    if state["signature"] != signature:
        raise UserError("it belongs to another run")
    return progress_of(state)


def _json(text: bytes, what: str) -> dict[str, Any]:
    """Parse an object of JSON whose numbers are finite. Raises UserError."""
    try:
        fields = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} is no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise UserError(f"{what} is no JSON object")
    return fields


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")
