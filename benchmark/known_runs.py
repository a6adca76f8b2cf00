"""The runs of signatures that were asked for, remembered in the runs folder so that a store is not scanned again.

A store finds a signature by reading that tag of every run: 20 ms among ten thousand runs, and a suite has hundreds of
signatures. What is remembered here are ids only; whether a run still exists, and its state, is asked of the store.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock

from benchmark import files

#: clocks of machines that share a store may differ by as much, ms
OVERLAP_MS = 3_600_000


@dataclass
class KnownRuns:
    """Ids of all runs of some signatures, as of the newest run that was seen.

    The file is a copy of what the store says: lost, damaged or of another store, it is made again by asking.
    """

    #: names the store that the ids are from
    store: str
    #: start of the newest run that was seen, ms since 1970
    newest: int = 0
    #: start by id of the runs that are younger than `since`
    recent: dict[str, int] = field(default_factory=dict)
    #: ids by signature, of every signature that was asked for
    runs: dict[str, list[str]] = field(default_factory=dict)
    #: the file that this was read from; b"" where there was none
    read: bytes = field(default=b"", compare=False)

    @property
    def since(self) -> int:
        """Time from which on the store may hold runs that were not seen."""
        return max(0, self.newest - OVERLAP_MS)

    def unknown(self, signatures: Iterable[str]) -> list[str]:
        """Signatures that were not asked for yet."""
        return [signature for signature in signatures if signature not in self.runs]

    def ids(self, signatures: Iterable[str]) -> list[str]:
        """Ids of the runs of known signatures."""
        return [run_id for signature in signatures for run_id in self.runs[signature]]

    def see(self, found: Collection[tuple[str, str | None, int]], now: int) -> None:
        """Note runs that are new, as (id, signature, start), and that no others started until now.

        A start later than now is that of a clock which is ahead: what starts until then is still new.
        """
        for run_id, signature, start in found:
            self.recent[run_id] = start
            if signature in self.runs and run_id not in self.runs[signature]:
                self.runs[signature].append(run_id)
        self.newest = min(now, max([self.newest, *self.recent.values()]))
        self.recent = {run_id: start for run_id, start in self.recent.items() if start >= self.since}

    def save(self, path: Path) -> None:
        """Write the file, unless another process has written it meanwhile, or the folder cannot be written."""
        content = {"store": self.store, "newest": self.newest, "recent": self.recent, "runs": self.runs}
        with (
            contextlib.suppress(OSError, filelock.Timeout),
            filelock.FileLock(f"{path}.lock", timeout=0),
        ):
            if _content_of(path) == self.read:
                _write(path, content)


def forget(path: Path) -> None:
    """Let every signature be asked for again: runs came into the store whose start is of long ago.

    A process that looked at the store before does not write down what it knows: the file is another one by then.
    """
    with filelock.FileLock(f"{path}.lock"):
        _write(path, {"forgotten": time.time_ns()})


def _write(path: Path, content: dict[str, Any]) -> None:
    with files.written_whole(path) as file:
        file.write(json.dumps(content).encode())


def _content_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def load(path: Path, store: str, now: int) -> KnownRuns:
    """Read the file; with nothing known when there is none, it is damaged, of another store, or from the future.

    Had a clock been ahead, runs that started since then at the right time would not be looked for.
    """
    read = b""
    try:
        read = _content_of(path)
        content = json.loads(read)
        known = KnownRuns(
            store=str(content["store"]),
            newest=int(content["newest"]),
            recent={str(run_id): int(start) for run_id, start in content["recent"].items()},
            runs={str(signature): [str(one) for one in ids] for signature, ids in content["runs"].items()},
            read=read,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return KnownRuns(store, read=read)
    return known if known.store == store and known.newest <= now else KnownRuns(store, read=read)
