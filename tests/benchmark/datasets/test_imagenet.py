"""ImageNet: parts are named as what they are, other layouts are refused with a way out, archives unpacked safely."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat

from benchmark.datasets import create, imagenet, imagenet_archives
from benchmark.datasets.imagenet_archives import ARCHIVES, DEVKIT, META, TRUTH, Packed
from benchmark.errors import UserError
from tests.imagenet import WNIDS, write_tree

FEW = WNIDS[:3]


def tiny(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Write three classes of small images; return the options."""
    write_tree(root / "imagenet", FEW, per_class=4, scale=0.1, val_per_class=2)
    return {"num_workers": 0}


def light(root: Path, wnids: Iterable[str] = FEW) -> Path:
    """Write the layout with files that are no images, which loading does not notice."""
    for split in ("train", "val"):
        for wnid in wnids:
            (root / "imagenet" / split / wnid).mkdir(parents=True)
            for number in range(2):
                (root / "imagenet" / split / wnid / f"{wnid}_{number}.JPEG").write_bytes(b"x")
    return root / "imagenet"


@pytest.mark.parametrize(
    ("sizes", "name"),
    [
        ((1000, 1_281_167, 50_000), "imagenet"),
        ((1000, 100_000, 50_000), "imagenet[150000 images]"),
        ((20, 400, 100), "imagenet[20 classes]"),
    ],
)
def test_name_says_which_part(sizes: tuple[int, int, int], name: str) -> None:
    assert imagenet._name(*sizes) == name


def test_the_digest_follows_names_sizes_and_classes(tmp_path: Path) -> None:
    folder = light(tmp_path)
    data = create("imagenet", tmp_path)
    assert (data.name, data.is_part, data.classes) == ("imagenet[3 classes]", True, FEW)
    assert data.train.targets.tolist() == [0, 0, 1, 1, 2, 2]
    assert create("imagenet", folder).digest == data.digest  # the data folder may be ImageNet's own
    image = folder / "val" / FEW[1] / f"{FEW[1]}_0.JPEG"
    image.write_bytes(b"xx")
    larger = create("imagenet", tmp_path).digest
    image.rename(image.with_stem("other"))
    assert len({data.digest, larger, create("imagenet", tmp_path).digest}) == 3


def flat(folder: Path) -> None:
    shutil.rmtree(folder / "val")
    (folder / "val").mkdir()
    for number in range(3):
        (folder / "val" / f"ILSVRC2012_val_{number:08}.JPEG").write_bytes(b"x")


def packed_class(folder: Path) -> None:
    (folder / "train" / f"{FEW[0]}.tar").write_bytes(b"x")


def empty_class(folder: Path) -> None:
    for path in (folder / "train" / FEW[1]).iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder / "val"), r"no folder val; .*put ILSVRC2012_img_val\.tar and .*t12\.tar"),
        (lambda folder: shutil.rmtree(folder), r"no folder train; .*put ILSVRC2012_img_train\.tar"),
        (flat, "val has 3 images and no folder of a class: move them into folders <wnid>/, or delete it, and put"),
        (packed_class, r"train has 1 archives of classes, which are not unpacked: delete it, and put"),
        (empty_class, f"{FEW[1]} has no image: unpack this class again, or delete it in train and val"),
        (lambda folder: shutil.rmtree(folder / "val" / FEW[2]), rf"different classes: {FEW[2]} \(only in train\)"),
        (lambda folder: (folder / "train" / "cats").mkdir(), "'cats' is no class of ImageNet.*take it out"),
        (lambda folder: (folder / "val" / FEW[0] / f"{FEW[0]}_1.JPEG").write_bytes(b""), "_1.JPEG is empty: replace"),
    ],
)
def test_other_layouts_are_refused(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(light(tmp_path))
    with pytest.raises(UserError, match=message):
        create("imagenet", tmp_path, render=True)


def test_a_thousand_other_classes_are_not_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "NUM_CLASSES", 3)
    light(tmp_path)
    with pytest.raises(UserError, match=f"from {FEW[0]} to {FEW[2]}, and those of .* to n15075141: .*`folder`"):
        create("imagenet", tmp_path)


def tar_of(files: dict[str, bytes], mode: str = "w:") -> bytes:
    """Pack files; a name that begins with `->` is a link."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name.removeprefix("->"))
            member.size = len(content)
            if name.startswith("->"):
                member.type, member.linkname, member.size = tarfile.SYMTYPE, "/etc/passwd", 0
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def devkit() -> bytes:
    """Pack the ground truth of six val images; the classes' numbers are not in the order of their names."""
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = [(1, FEW[2], "c", "", 0), (2, FEW[0], "a", "", 0), (3, FEW[1], "b", "", 0), (4, "n00000001", "any", "", 3)]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array([[row] for row in rows], dtype=kind)})
    return tar_of({TRUTH: b"2\n1\n3\n3\n2\n1\n", META: meta.getvalue()}, "w:gz")


def archives() -> dict[str, bytes]:
    """Contents of the three archives by split."""
    classes = {f"{wnid}.tar": tar_of({f"{wnid}_{n}.JPEG": bytes([n] * 9) for n in (1, 2)}) for wnid in FEW}
    return {
        "train": tar_of(classes),
        "val": tar_of({f"ILSVRC2012_val_{n:08}.JPEG": bytes([n]) for n in range(1, 7)}),
        "devkit": devkit(),
    }


def put(root: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write archives, with their checksums in the place of the known ones."""
    folder = root / "imagenet"
    folder.mkdir(exist_ok=True)
    known = {}
    for split, content in contents.items():
        old = DEVKIT if split == "devkit" else ARCHIVES[split]
        known[split] = Packed(old.filename, hashlib.md5(content).hexdigest())
        (folder / old.filename).write_bytes(content)
    monkeypatch.setattr(imagenet_archives, "DEVKIT", known.pop("devkit"))
    monkeypatch.setattr(imagenet_archives, "ARCHIVES", known)
    return folder


def test_archives_are_unpacked_where_writing_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put(tmp_path, archives(), monkeypatch)
    with pytest.raises(UserError, match=r"img_train\.tar is not unpacked yet: `python -m benchmark prepare imagenet`"):
        create("imagenet", tmp_path)
    data = create("imagenet", tmp_path, render=True)
    assert (len(data.train), len(data.test)) == (6, 6)
    found = {int(path.stem[-8:]): path.parent.name for path in folder.glob("val/*/*.JPEG")}
    a, b, c = FEW
    assert found == {1: a, 2: c, 3: b, 4: b, 5: a, 6: c}
    assert (folder / "train" / b / f"{b}_2.JPEG").read_bytes() == bytes([2] * 9)
    assert not [*folder.glob("*.partial"), *folder.rglob(".checked")]


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_killed_unpacking_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    folder = put(tmp_path, archives(), monkeypatch)
    write, written = imagenet_archives._write, list[str]()

    def killed(place: Path, *given: Any) -> None:
        if len(written) == 3:
            place.write_bytes(b"")
            raise KeyboardInterrupt
        written.append(place.name)
        write(place, *given)

    monkeypatch.setattr(imagenet_archives, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        imagenet_archives.provide(folder, split, True)
    assert not (folder / split).exists()

    def counted(place: Path, *given: Any) -> None:
        written.append(place.name)
        write(place, *given)

    monkeypatch.setattr(imagenet_archives, "_write", counted)
    monkeypatch.setattr(imagenet_archives.hashlib, "md5", lambda **_: pytest.fail("the archive was checked again"))
    monkeypatch.setattr(imagenet_archives, "check", lambda *_: None)
    imagenet_archives.provide(folder, split, True)
    assert len(written) == {"train": 3 + 4, "val": 3 + 3}[split]  # of a class that was begun, both images
    assert {path.stat().st_size for path in folder.glob(f"{split}/*/*.JPEG")} == {9 if split == "train" else 1}
    assert len(list(folder.glob(f"{split}/*/*"))) == 6


@pytest.mark.parametrize(
    ("split", "content", "message"),
    [
        ("train", {f"../{FEW[0]}.tar": b""}, "'../n.*' in it is no file of ImageNet"),
        ("train", {f"{FEW[0]}.tar": tar_of({f"/tmp/{FEW[0]}_1.JPEG": b"x"})}, "'/tmp/n.*' in it is no file"),
        ("train", {f"{FEW[0]}.tar": tar_of({f"->{FEW[0]}_1.JPEG": b"x"})}, "in it is no file of ImageNet"),
        ("train", {f"{FEW[0]}.tar": tar_of({f"{FEW[0]}_1.JPEG": b"x" * 4000})[:2048]}, "it is damaged"),
        ("val", {f"->ILSVRC2012_val_{n:08}.JPEG": b"" for n in range(1, 7)}, "in it is no file of ImageNet"),
        ("val", {"ILSVRC2012_val_00000001.JPEG": b"x"}, r"has 1 images, and .*devkit.* the classes of 6"),
    ],
)
def test_what_archives_should_not_hold_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str, content: dict[str, bytes], message: str
) -> None:
    folder = put(tmp_path, {**archives(), split: tar_of(content)}, monkeypatch)
    with pytest.raises(UserError, match=message):
        imagenet_archives.provide(folder, split, True)
    assert not (folder / split).exists()


def test_a_truncated_archive_and_a_full_disk_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put(tmp_path, archives(), monkeypatch)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"needs 0\.0 GB more where 0\.0 GB are free: free some space"):
        imagenet_archives.provide(folder, "train", True)
    archive = folder / "ILSVRC2012_img_train.tar"
    archive.write_bytes(archive.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"img_train\.tar is damaged \(md5 .*download it again"):
        imagenet_archives.provide(folder, "train", True)


def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    light(tmp_path)
    data = create("imagenet", tmp_path, num_workers=0)
    with pytest.raises(UserError, match=f"cannot decode .*{FEW[0]}_1.JPEG"):
        list(data.test.batches([torch.tensor([1])], torch.device("cpu")))
