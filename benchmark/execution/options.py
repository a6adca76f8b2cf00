"""Options of a command: its folders, device, engine and workers. None of them changes a number."""

from __future__ import annotations

import platform
import uuid
from dataclasses import dataclass
from pathlib import Path

from benchmark import files

#: in place of a database of leases: the files of the runs folder alone
NO_CLAIMS = "none"


@dataclass(frozen=True)
class Options:
    """Folders, device, engine and workers of a command."""

    runs: Path
    data_root: Path
    #: name of the engine that trains cohorts
    engine: str = "local"
    device: str = "cpu"
    workers: int = 1
    #: the Ray cluster that engine `ray` joins, `auto` or HOST:PORT; None: one of its own on this machine
    ray_address: str | None = None
    threads: int = 1
    retry_failed: bool = False
    #: train in bf16 even on a CPU where it is slower than fp32
    force_bf16: bool = False
    #: largest size of a view cache, GB; None: half of the free disk space
    cache_gb: float | None = None
    #: how long a tracking store may be away before the command ends, seconds
    patience_s: float = 600.0
    #: database of the leases on runs, or `none`; None: what lies beside a tracking store that is a database of others
    claims: str | None = None
    #: download nothing
    offline: bool = False
    #: when the process must have ended, on the monotonic clock; None: whenever it is done
    deadline: float | None = None
    #: under a deadline: seconds that the imports of the command took
    imports_s: float = 0.0

    @property
    def teachers(self) -> Path:
        """Folder of the stored teachers."""
        return self.runs / "teachers"

    @property
    def cache(self) -> Path:
        """Folder of decoded images and of view caches."""
        return self.runs / "cache"

    def work(self, signature: str) -> Path:
        """Folder of a run's checkpoint, until the run is finished."""
        return self.runs / "work" / signature

    def lock_file(self, signature: str) -> Path:
        """Lock that a process holds while it trains a run."""
        return self.runs / "locks" / f"{signature}.lock"

    def known_identity(self) -> str | None:
        """Name of this runs folder, None while it has none."""
        path = self.runs / "identity"
        return path.read_text() if path.exists() else None

    def identity(self) -> str:
        """Name of this runs folder, unique among all that share a tracking server; made on first use."""
        path = self.runs / "identity"
        with files.locked(path):
            if not path.exists():
                files.write(path, f"{platform.node()}-{uuid.uuid4().hex[:12]}".encode())
        return path.read_text()
