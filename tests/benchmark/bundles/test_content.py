"""A bundle's archive: what is in it, and what is refused before anything is taken."""

from __future__ import annotations

import io
import json
import math
import re
import warnings
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load as deserialize
from safetensors.torch import save as serialize

from benchmark.bundles import content, pack, pieces
from benchmark.bundles.rounding import rounded
from benchmark.errors import UserError
from benchmark.train import checkpoint
from tests.benchmark.bundles.conftest import Home
from tests.benchmark.bundles.stores import archive_of, opened, wrapped

Members = dict[str, bytes]
CONVOLUTION = "layer1.0.conv1.weight"
pytestmark = pytest.mark.xdist_group("bundles")  # one `home` for all


def members_of(archive: bytes) -> Members:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened_zip:
        return {info.filename: opened_zip.read(info) for info in opened_zip.infolist()}


def zipped(members: Members, about: Callable[[zipfile.ZipInfo], None] = lambda _: None) -> bytes:
    """An archive of members, each after `about` has changed what it says of itself."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for path, text in members.items():
            info = zipfile.ZipInfo(path)
            info.compress_type = zipfile.ZIP_DEFLATED
            about(info)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made.writestr(info, text)
    return buffer.getvalue()


def declared(members: Members, **changes: Any) -> Members:
    """The members with a bundle.json that names them as they are."""
    said = json.loads(members[content.CONTENTS])
    rest = {path: text for path, text in members.items() if path != content.CONTENTS}
    said["members"] = [
        {"path": path, "bytes": len(text), "sha256": sha256(text).hexdigest()} for path, text in rest.items()
    ]
    return {**rest, content.CONTENTS: json.dumps({**said, **changes}).encode()}


@pytest.fixture(scope="module")
def members(home: Home) -> Members:
    return members_of(archive_of(*home.packed.pieces))


def place(members: Members, ending: str) -> str:
    return next(path for path in members if path.endswith(ending))


def field(ending: str, **changes: Any) -> Callable[[Members], bytes]:
    """Change fields of a JSON file."""

    def changed(members: Members) -> bytes:
        path = place(members, ending)
        text = json.dumps({**json.loads(members[path]), **changes}).encode()
        return zipped(declared({**members, path: text}))

    return changed


def tags(**changes: str) -> Callable[[Members], bytes]:
    def changed(members: Members) -> bytes:
        path = place(members, "run.json")
        fields = json.loads(members[path])
        return field("run.json", tags={**fields["tags"], **changes})(members)

    return changed


def metric(row: str) -> Callable[[Members], bytes]:
    return text("metrics.csv", lambda old: old + row.encode())


def text(ending: str, change: Callable[[bytes], bytes]) -> Callable[[Members], bytes]:
    def changed(members: Members) -> bytes:
        path = place(members, ending)
        return zipped(declared({**members, path: change(members[path])}))

    return changed


def added(path: str) -> Callable[[Members], bytes]:
    return lambda members: zipped(declared({**members, path: b"x"}))


def with_info(change: Callable[[zipfile.ZipInfo], None]) -> Callable[[Members], bytes]:
    def changed(members: Members) -> bytes:
        path = place(members, "metrics.csv")
        return zipped(members, lambda info: change(info) if info.filename == path else None)

    return changed


def link(info: zipfile.ZipInfo) -> None:
    info.create_system, info.external_attr = 3, 0o120777 << 16


def twice(members: Members) -> bytes:
    buffer = io.BytesIO(zipped(members))
    with zipfile.ZipFile(buffer, "a") as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.writestr(place(members, "metrics.csv"), b"again")
    return buffer.getvalue()


def nul(members: Members) -> bytes:
    """A name that ends at a NUL for whoever reads it as C does."""
    return zipped({**members, "runs/Z": b"x"}).replace(b"runs/Z", b"runs/\0")


def bomb(members: Members) -> bytes:
    """A member that says it has 100 bytes, and inflates to a million."""
    path = place(members, "metrics.csv")
    said = declared({**members, path: b"0" * 100})
    archive = zipped({**said, path: b"0" * 1_000_000})
    return archive.replace((1_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little"))


def honest_bomb(members: Members) -> bytes:
    """A member that says how large it is, which is too large to be read."""
    archive = zipped({**members, place(members, "metrics.csv"): b"0" * 1_000_000})
    return archive.replace((1_000_000).to_bytes(4, "little"), (content.MAX_TEXT + 1).to_bytes(4, "little"))


def lying(members: Members) -> bytes:
    said = declared(members)
    path = place(members, "metrics.csv")
    return zipped({**said, path: said[path] + b"more"})


def other_weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Members], bytes]:
    """Change the teacher's weights, with a manifest that has their checksum."""

    def changed(members: Members) -> bytes:
        path = place({one: b"" for one in members if one.startswith("teachers/")}, ".safetensors")
        weights = deserialize(members[path])
        change(weights)
        made = serialize(weights)
        manifest = path.replace(".safetensors", ".json")
        fields = {**json.loads(members[manifest]), "checksum": sha256(made).hexdigest()}
        return zipped(declared({**members, path: made, manifest: json.dumps(fields).encode()}))

    return changed


def teacher(**changes: Any) -> Callable[[Members], bytes]:
    def changed(members: Members) -> bytes:
        path = place({one: b"" for one in members if one.startswith("teachers/")}, ".json")
        return zipped(declared({**members, path: json.dumps({**json.loads(members[path]), **changes}).encode()}))

    return changed


def moved_checkpoint(members: Members) -> bytes:
    path = place(members, "/checkpoint")
    signature = path.split("/")[1]
    rest = {one.replace(f"checkpoints/{signature}", f"checkpoints/{'e' * 16}"): text for one, text in members.items()}
    return zipped(declared(rest, checkpoints=["e" * 16]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: b"", "its archive cannot be read"),
        (lambda _: b"PK\x03\x04 and no more", "its archive cannot be read"),
        (lambda old: zipped(old)[:-30], "its archive cannot be read"),
        (lambda old: zipped({one: old[one] for one in old if one != content.CONTENTS}), "has no bundle.json"),
        (field("bundle.json", format=2), r"is of format 2, and this program reads 1; update it"),
        (field("bundle.json", project="other"), "is of another project, 'other'"),
        (field("bundle.json", runs=["../up"]), "bundle.json: runs.0: "),
        (field("bundle.json", runs=[]), "belongs to nothing in it"),
        (field("bundle.json", checkpoints=["0" * 16]), "checkpoint is missing|belongs to nothing"),
        (field("bundle.json", more=1), "bundle.json: more: unknown key"),
        (added("../x"), r"member '../x': its path leaves the folder"),
        (added("runs/../../x"), "its path leaves the folder"),
        (added("/etc/passwd"), "its path leaves the folder"),
        (added("C:/x"), "its path leaves the folder"),
        (added("runs\\x"), "its path leaves the folder"),
        (added("runs/a\nb"), "its name has a line end"),
        (added("runs/x.py"), "a bundle has no such member"),
        (nul, "its name has a line end or another control character"),
        (with_info(link), "metrics.csv': it is no plain file but a link or the like"),
        (twice, "metrics.csv': it is there twice"),
        (bomb, r"metrics.csv: .*(it is damaged|bytes)"),
        (honest_bomb, "it would be of 256,000,001 bytes, at most 256,000,000"),
        (lying, r"metrics.csv: has [\d,]+ bytes, and the bundle says"),
        (lambda old: zipped({**old, f"runs/{'a' * 16}/run.json": b"x"}), "is not named in its bundle.json"),
        (lambda old: zipped({one: old[one] for one in old if not one.endswith("metrics.csv")}), "is missing"),
        (lambda old: zipped({**old, place(old, ".png"): old[place(old, ".png")][::-1]}), "checksum does not match"),
        (metric("lr,1,0,nan\n"), "metrics.csv: line .*: metric 'lr' is no number: 'nan'"),
        (metric("lr,1,0,inf\n"), "is no number: 'inf'"),
        (metric("lr,1,0,1e999\n"), "is no number: '1e999'"),
        (metric("lr,1,0,abc\n"), "is no number: 'abc'"),
        (metric("lr,1,0,1_0.0\n"), "is no number: '1_0.0'"),
        (metric("lr,1,0,\n"), "is no number: ''"),
        (metric("lr,one,0,1.0\n"), "step and time of 'lr' are no whole numbers"),
        (metric("lr,1,0\n"), "has 3 values, not 4"),
        (metric("../lr,1,0,1.0\n"), "run.json: Invalid value"),
        (text("metrics.csv", lambda _: b"a,b\n"), "its columns are not name, step, timestamp, value"),
        (text("metrics.csv", lambda old: old + b"\xff"), "it is no CSV"),
        (text("run.json", lambda _: b"[]"), "no JSON object"),
        (text("run.json", lambda _: b'{"a": NaN}'), "no JSON: NaN is no number"),
        (text("run.json", lambda _: b"[" * 100_000), "no JSON"),
        (field("run.json", signature="0" * 16), "it is of another run"),
        (field("run.json", start_time=-1), "start_time: "),
        (field("run.json", status="RUNNING"), "status: "),
        (field("run.json", experiment="../up"), "experiment: a name that starts with '.'"),
        (field("run.json", parent="x' or 1 = '1"), "a name that has a quote"),
        (field("run.json", params={"a" * 300: "1"}), "run.json: .*(exceeds|Invalid|length)"),
        (field("run.json", params={"recipe.epochs": "many"}), "recipe.epochs: 'many' is no whole number"),
        (tags(seed="one"), "tag seed: 'one' is no whole number"),
        (tags(role="pair"), "tag role differs from its role"),
        (tags(long="x" * 9_000), "run.json: tag long has more than"),
        (field("run.json", parent_tags={"long": "x" * 9_000}), "run.json: tag of its parent long has more than 8,000"),
        (field("run.json", experiment_tags={"": "x"}), "run.json: "),
        (field("run.json", experiment_tags={"s" * 300: "x"}), "run.json: .*length"),
        (teacher(num_classes=10**9), "no size of a network"),
        (teacher(num_classes=11), "do not fit resnet8 with 11 classes"),
        (teacher(model="timm/../x"), "it is of another teacher"),
        (teacher(signature="../../up"), "it is of another teacher"),
        (teacher(checksum="0" * 64), "the checksum of its weights does not match"),
        (other_weights(lambda weights: weights.pop(CONVOLUTION)), "do not fit resnet8"),
        (other_weights(lambda weights: weights[CONVOLUTION].fill_(math.nan)), "values that are not finite"),
        (text("student.safetensors", lambda old: old[:-1]), "it holds no weights"),
        (text("/checkpoint", lambda old: old[:-1]), "checkpoint: is damaged or truncated"),
        (moved_checkpoint, "it belongs to another run"),
    ],
)  # fmt: skip
def test_bad_archives_are_refused(
    change: Callable[[Members], bytes], message: str, members: Members, tmp_path: Path
) -> None:
    files = wrapped(change(dict(members)), tmp_path / "bad")
    with pytest.raises(UserError) as refused:
        opened(*files)
    assert re.search(message, str(refused.value)), str(refused.value)
    assert re.match(r"bundle \w{12} \(bad\.001\)", str(refused.value)), str(refused.value)


def test_a_good_archive_is_taken_apart_and_put_together(members: Members, tmp_path: Path) -> None:
    """What the cases above start from is accepted."""
    (bundle,) = opened(*wrapped(zipped(declared(members)), tmp_path / "good"))
    assert len(bundle.runs) == 4 and len(bundle.teachers) == len(bundle.checkpoints) == 1
    bundle.close()


def test_the_same_content_makes_the_same_bytes(home: Home) -> None:
    again = home.store.pack("again", with_students=True)
    assert [path.read_bytes() for path in again.pieces] == [path.read_bytes() for path in home.packed.pieces]
    assert all(path.stat().st_size <= 200_000 for path in again.pieces)
    assert len(again.pieces) > 1
    archive = zipfile.ZipFile(io.BytesIO(archive_of(*again.pieces)))
    names = [info.filename for info in archive.infolist()]
    assert names[:-1] == sorted(names[:-1]) and names[-1] == "bundle.json"
    assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_what_is_packed_follows_from_the_choice(home: Home) -> None:
    store = home.store
    whole = {(kind, label) for kind, label, _ in home.packed.rows}
    assert {kind for kind, _ in whole} == {"finished run", "failed run", "open run", "checkpoint", "teacher"}
    one = store.pack("one", choice=pack.of_plan(store.survey(1)))
    assert {(kind, label) for kind, label, _ in one.rows} == {
        ("finished run", "resnet8 -> resnet8_half, kd, seed 1"), ("finished run", "teacher resnet8"),
        ("teacher", "teacher resnet8 on digits"),
    }  # fmt: skip
    names = {member.path.rpartition("/")[2] for member in one.contents.members}
    assert "student.safetensors" not in names and {"config.json", "per_class_accuracy.csv"} <= names
    with pytest.raises(UserError, match=r"nothing to pack"):
        store.pack("none", choice=pack.Choice(frozenset({"0" * 16}), ()))


def test_what_is_being_trained_is_packed_as_it_stands(home: Home, tmp_path: Path) -> None:
    (signature,) = home.packed.contents.checkpoints
    path = home.store.options.work(signature) / "checkpoint"
    choice = pack.Choice(frozenset({signature}), ())
    with FileLock(home.store.options.lock_file(signature)):
        packed = home.store.pack("open", choice=choice)
    assert packed.notes == [
        "resnet8 -> resnet8_half, kd, seed 2: is being trained; packed as it stood after epoch 1"
    ]  # fmt: skip
    # the last checkpoint is damaged: the one before is as good
    whole = path.read_bytes()
    try:
        checkpoint.previous(path).write_bytes(whole)
        path.write_bytes(whole[:-1])
        assert home.store.pack("open", choice=choice).contents.members == packed.contents.members
        checkpoint.previous(path).unlink()
        with pytest.raises(UserError, match=r"nothing to pack .*: its checkpoint cannot be read: is damaged or trunc"):
            home.store.pack("open", choice=choice)
    finally:
        checkpoint.previous(path).unlink(missing_ok=True)
        path.write_bytes(whole)


def test_values_come_back_to_the_bit() -> None:
    values = [0.1, 1 / 3, 5e-324, -0.0, 1.7976931348623157e308, 2.0**60]
    points = [content.Point("a", step, 10**12, value) for step, value in enumerate(values)]
    back = content.points_of(content.metrics_text(points).encode())
    assert [value.value.hex() for value in back] == [value.hex() for value in values]
    assert content.metrics_text([]) == "name,step,timestamp,value\n"


def test_weights_that_fp16_does_not_hold_are_refused_by_name() -> None:
    half = rounded({"a": torch.tensor([1 / 3]), "n": torch.tensor(7)}, "x")
    assert half["a"].dtype == torch.float16 and half["n"].dtype == torch.int64
    with pytest.raises(
        UserError, match=r"x: b has values up to 7e\+04, and fp16 ends at 65,504: pack it without --fp16"
    ):
        rounded({"b": torch.tensor([7e4])}, "x")


def test_headers_fit(home: Home) -> None:
    largest = pieces.Header(pieces.PROJECT, 1, "f" * 64, 10**5, 10**5, "f" * 64, 2**62, 2**62)
    assert len(largest.line) < pieces.MAX_HEADER
