"""Files are whole or absent, whatever the disk does."""

from __future__ import annotations

import resource
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from benchmark import files
from benchmark.errors import UserError
from benchmark.train import checkpoint
from tests.processes import exit_code, heard, pipe, start


def test_write_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    files.write(path, b"old")
    files.write(path, b"ne", b"w")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def save_past_a_limit(path: Path, said: Connection) -> None:
    """Write a checkpoint that is larger than the kernel allows."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        checkpoint.save(path, {"epochs_done": 2, "weights": torch.ones(100_000)})
    except UserError as error:
        said.send(str(error))


@pytest.mark.processes
def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    """The kernel itself refuses to write past a limit, as a full disk does."""
    path = tmp_path / "checkpoint"
    checkpoint.save(path, {"epochs_done": 1, "weights": torch.ones(10)})
    ours, theirs = pipe()
    process = start(save_past_a_limit, path, theirs)
    assert exit_code(process) == 0
    message = heard(ours)
    assert "cannot write" in message
    assert "the file that was there is untouched" in message
    assert "--runs" in message
    assert checkpoint.load(path)["epochs_done"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write .*file/inside"):
        files.write(tmp_path / "file" / "inside", b"")


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "foreign"])
def test_damaged_checkpoints_are_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "checkpoint"
    checkpoint.save(path, {"weights": torch.arange(100)})
    content = bytearray(path.read_bytes())
    if damage == "truncate":
        content = content[:-1]
    elif damage == "flip":
        content[len(content) // 2] ^= 1
    elif damage == "empty":
        content = bytearray()
    else:
        content = bytearray(b"PK\x03\x04 something else")
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged or truncated"):
        checkpoint.load(path)
    assert path.read_bytes() == bytes(content)


def test_checkpoints_keep_every_bit(tmp_path: Path) -> None:
    state = {"a": torch.tensor([0.1, float("nan"), -0.0]), "history": [{"lr": 0.1}], "epochs_done": 3}
    checkpoint.save(tmp_path / "c", state)
    found = checkpoint.load(tmp_path / "c")
    assert found["a"].numpy().tobytes() == state["a"].numpy().tobytes()  # type: ignore[attr-defined]
    assert (found["history"], found["epochs_done"]) == (state["history"], 3)
