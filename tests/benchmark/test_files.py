"""Files are whole or absent, whatever the disk does."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import resource
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as deserialize

from benchmark import files
from benchmark.errors import UserError
from benchmark.train import checkpoint
from tests.processes import exit_code, heard, pipe, start


@pytest.mark.parametrize(
    ("error", "free"), [(None, True), (errno.EWOULDBLOCK, False), (errno.EBADF, True), (errno.ENOLCK, True)]
)
def test_only_a_holder_makes_a_lock_held(
    tmp_path: Path, error: int | None, free: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS refuses to lock what is open for reading (EBADF): every lock that existed counted as held for ever."""
    lock, modes = tmp_path / "x.lock", []
    assert files.is_free(lock)
    lock.touch()

    def flock(file: Any, operation: int) -> None:
        modes.append(file.mode)
        if error is not None:
            raise OSError(error, "no")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert files.is_free(lock) == free
    assert modes == ["rb+"]


def test_write_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    files.write(path, b"old")
    files.write(path, b"ne", b"w")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def state(epochs_done: int, weights: torch.Tensor) -> dict[str, Any]:
    return {"signature": "s", "epochs_done": epochs_done, "weights": weights}


def save_past_a_limit(path: Path, said: Connection) -> None:
    """Write a checkpoint that is larger than the kernel allows."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        checkpoint.save(path, state(2, torch.ones(100_000)))
    except UserError as error:
        said.send(str(error))


@pytest.mark.processes
def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    """The kernel itself refuses to write past a limit, as a full disk does."""
    path = tmp_path / "checkpoint"
    checkpoint.save(path, state(1, torch.ones(10)))
    ours, theirs = pipe()
    process = start(save_past_a_limit, path, theirs)
    assert exit_code(process) == 0
    message = heard(ours)
    assert "cannot write" in message
    assert "the file that was there is untouched" in message
    assert "--runs" in message
    assert checkpoint.load(path)["epochs_done"] == 1
    assert set(tmp_path.iterdir()) == {path, checkpoint.previous(path)}


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write .*file/inside"):
        files.write(tmp_path / "file" / "inside", b"")


def with_checksum(content: dict[str, Any] | list[int]) -> bytes:
    """A file as a checkpoint is written, of any content."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest().encode()
    return b"distillation checkpoint 1\n" + digest + b"\n" + buffer.getvalue()


def test_a_checkpoint_of_version_1_is_still_read(tmp_path: Path) -> None:
    history = [{"lr": 0.1}]
    written = {**state(3, torch.arange(5)), "network": {"fc.weight": torch.ones(2)}, "history": history}
    (tmp_path / "c").write_bytes(with_checksum(written))
    found = checkpoint.load(tmp_path / "c")
    assert (found["signature"], found["history"], checkpoint.place(found)) == ("s", history, "after epoch 3")
    assert torch.equal(found["weights"], torch.arange(5))
    assert torch.equal(found["network"]["fc.weight"], torch.ones(2))


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda content: content[:-1], "damaged or truncated"),
    "flipped": (lambda content: content[:500] + bytes([content[500] ^ 1]) + content[501:], "damaged or truncated"),
    "empty": (lambda content: b"", "damaged or truncated"),
    "foreign": (lambda content: b"PK\x03\x04 something else", "damaged or truncated"),
    "later": (lambda content: content.replace(b"checkpoint 2\n", b"checkpoint 3\n", 1), "is of version 3, and this"),
    "no version": (lambda content: content.replace(b"checkpoint 2\n", b"checkpoint 0\n", 1), "is of version 0, and"),
    "no dict": (lambda content: with_checksum([1, 2]), "does not hold what it should"),
    "no epochs": (lambda content: with_checksum({"signature": "s"}), "does not hold what it should .KeyError"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoints_are_refused_or_the_one_before_is_used(tmp_path: Path, damage: str) -> None:
    path, (changed, reason) = tmp_path / "checkpoint", DAMAGES[damage]
    checkpoint.save(path, state(1, torch.arange(100)))
    only = changed(path.read_bytes())
    path.write_bytes(only)
    with pytest.raises(UserError, match=f"{reason}.*delete it to start"):
        checkpoint.load(path)
    assert path.read_bytes() == only
    path.unlink()
    for epoch in (1, 2, 3):
        checkpoint.save(path, state(epoch, torch.arange(100)))
    path.write_bytes(changed(path.read_bytes()))
    said: list[str] = []
    assert checkpoint.load(path, said.append)["epochs_done"] == 2
    assert len(said) == 1
    assert said[0].endswith("; the one before it is used, after epoch 2")
    checkpoint.previous(path).write_bytes(b"")
    with pytest.raises(UserError, match=rf"{reason}.*, and checkpoint .*previous is damaged"):
        checkpoint.load(path)


def test_checkpoints_keep_every_bit(tmp_path: Path) -> None:
    weights = torch.tensor([0.1, float("nan"), -0.0])
    group = {"fc.weight": torch.ones(3, 2).T, "fc.bias/odd": torch.tensor(5)}
    rows = [{"lr": 0.1, "sum": 1e-320, "large": 2**60, "third": 1 / 3}]
    written = {**state(3, weights), "history": rows, "network": group, "momentum": {}, "names": ["a"]}
    checkpoint.save(tmp_path / "c", written)
    content = (tmp_path / "c").read_bytes()
    assert deserialize(content[content.index(b"\n", 30) + 1 :]).keys() == {  # nothing but safetensors, no pickle
        "weights", "network/fc.weight", "network/fc.bias/odd"
    }  # fmt: skip
    found = checkpoint.load(tmp_path / "c")
    assert found["weights"].numpy().tobytes() == weights.numpy().tobytes()
    assert found["network"].keys() == group.keys()
    assert all(torch.equal(found["network"][name], group[name]) for name in group)
    plain = {name: value for name, value in found.items() if name not in ("weights", "network")}
    assert plain == {"signature": "s", "epochs_done": 3, "steps_done": 0, "steps_per_epoch": 0, "history": rows,
                     "momentum": {}, "names": ["a"]}  # fmt: skip
