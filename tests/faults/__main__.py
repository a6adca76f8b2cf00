"""Break commands at every point, run them again, and check that nothing was lost: `make test-faults`.

After each fault, the same command must end with 0; its runs' weights must equal those of an undisturbed run bit by bit;
every signature must have exactly one finished run, with every metric once; nothing may stand as RUNNING; no process and
no stray file may be left.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.faults.cases import Command, Fault, faults

SUITE = """\
title: small
data: {name: digits, num_train: 96, num_test: 60}
recipe: {epochs: 3, batch_size: 32, milestones: [2]}
seeds: 1
methods: {vanilla: {}, kd: {}, sdd_kd: {}}
pairs: [{teacher: resnet8, student: resnet8_half}]
"""
#: of one command
TIMEOUT_S = 400
ORPHANS_S = 30
INJECT = Path(__file__).parent / "inject"
#: words that name the case in the environment of its processes
MARK = "FAULT_CASE"


@dataclass(frozen=True)
class Outcome:
    """What became of a case."""

    name: str
    #: what the broken command did: its exit status, and the last line that it printed
    broken: str
    problems: tuple[str, ...]
    seconds: float


def words(command: Command, suite: Path, runs: Path) -> list[str]:
    """Write a command's arguments."""
    places = ["--runs", str(runs)]
    return {
        "run": ["benchmark.run", str(suite), *places, "--workers", "1"],
        "inline run": ["benchmark.run", str(suite), *places, "--engine", "inline"],
        "cached run": ["benchmark.run", str(suite), *places, "--workers", "1", "--cache"],
        "report": ["reports", str(suite), *places],
        "study": ["benchmark.study", "sdd_beta", "--suite", str(suite), *places, "--workers", "1", "--confirm", "1"],
        "study of two": [
            *("benchmark.study", "sdd_joint", "--suite", str(suite), *places),
            *("--workers", "2", "--trials", "8", "--confirm", "1"),
        ],
    }[command]


class Ground:
    """A folder with a suite, and finished runs of every command to compare with."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.suite = folder, folder / "small.yaml"
        self.suite.write_text(SUITE)
        self.reference: dict[Command, Path] = {}

    def prepare(self, command: Command) -> None:
        """Run a command undisturbed, once."""
        if command in self.reference:
            return
        runs = self.folder / f"reference {command}"
        if command in ("inline run", "report"):  # compared with, or made of, runs that worker processes trained
            self.prepare("run")
            runs = self.reference["run"]
        else:
            done = self.execute(words(command, self.suite, runs), "reference")
            if done.returncode:
                raise SystemExit(f"the undisturbed {command} failed:\n{done.stdout}")
        self.reference[command] = runs

    def start(self, arguments: Sequence[str], mark: str, fault: Mapping[str, object] | None = None) -> Process:
        """Start a command, with a fault or without."""
        path = os.pathsep.join(filter(None, [str(INJECT), os.environ.get("PYTHONPATH")]))
        variables = {**os.environ, "PYTHONPATH": path, MARK: mark, "EVERY_STEP": "1"}
        if fault is not None:
            variables["FAULT"] = json.dumps(fault)
        command = [sys.executable, "-m", *arguments]
        return subprocess.Popen(
            command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def execute(
        self, arguments: Sequence[str], mark: str, fault: Mapping[str, object] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return ended(self.start(arguments, mark, fault))


Process = subprocess.Popen[str]


def ended(process: Process) -> subprocess.CompletedProcess[str]:
    """Wait for a command; one that hangs is killed, and counts as status 124."""
    try:
        text, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        text, _ = process.communicate()
        return subprocess.CompletedProcess(process.args, 124, text)
    return subprocess.CompletedProcess(process.args, process.returncode, text)


def summary(done: subprocess.CompletedProcess[str]) -> str:
    """Describe how a command ended: its status, or the signal that ended it, and its last line."""
    status = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit {done.returncode}"
    lines = done.stdout.strip().splitlines()
    return f"{status}: {lines[-1] if lines else 'no output'}"


def carry_out(ground: Ground, fault: Fault) -> Outcome:
    """Break a command, run it again, and check what is there."""
    started = time.monotonic()
    mark = hashlib.sha256(fault.name.encode()).hexdigest()[:12]
    runs, once = ground.folder / mark, ground.folder / f"{mark}.happened"
    if fault.command == "report":
        shutil.copytree(ground.reference["report"], runs)
    arguments = words(fault.command, ground.suite, runs)
    broken = ground.execute(arguments, mark, {**dataclasses.asdict(fault), "once": str(once)})
    problems = [] if once.exists() else ["the point was never reached"]
    problems += orphans(mark)
    if "Traceback" in broken.stdout and fault.action != "out of memory":
        problems.append(f"traceback: {broken.stdout[-1500:]}")
    again = ground.execute(arguments, mark)
    if again.returncode:
        problems.append(f"the same command ended with {summary(again)}\n{again.stdout[-1500:]}")
    problems += orphans(mark)
    problems += list(faulty(runs, ground.reference[fault.command], fault.command))
    if not problems:
        shutil.rmtree(runs)
    return Outcome(
        fault.name, summary(broken).replace(str(ground.folder), ""), tuple(problems), time.monotonic() - started
    )


def orphans(mark: str) -> list[str]:
    """Processes of a case that are still there some time after its command has ended."""
    until = time.monotonic() + ORPHANS_S
    while left := sorted(_processes(mark)):
        if time.monotonic() > until:
            for number in left:
                os.kill(number, signal.SIGKILL)
            return [f"orphans: {left}"]
        time.sleep(0.2)
    return []


def _processes(mark: str) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={mark}\0".encode() in path.read_bytes():
                yield int(path.parent.name)
        except OSError:
            continue


def faulty(runs: Path, reference: Path, command: Command) -> Iterator[str]:
    """What is wrong with a runs folder that a command has finished, one line each."""
    with sqlite3.connect(f"file:{runs / 'mlflow.db'}?mode=ro", uri=True) as store:
        yield from _faulty_runs(store)
        found = weights(runs, store)
    if command != "study of two":  # a sampler's points depend on the order in which trials end
        with sqlite3.connect(f"file:{reference / 'mlflow.db'}?mode=ro", uri=True) as store:
            expected = weights(reference, store)
        if found != expected:
            differing = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
            yield f"weights differ from an undisturbed run's: {differing}"
    stray = [path for pattern in ("*.partial", "*.link", "worker-*.lock") for path in runs.rglob(pattern)]
    stray += list((runs / "work").glob("*"))
    if stray:
        yield f"stray files: {sorted(str(path.relative_to(runs)) for path in stray)}"
    if command in ("run", "inline run") and accuracies(runs) != accuracies(reference):
        yield "the table differs from an undisturbed run's"


def accuracies(runs: Path) -> list[tuple[str, ...]]:
    """Accuracies of the table that a run has written."""
    with (runs / "results" / "small.csv").open(newline="") as file:
        return [
            tuple(row[name] for name in ("method", "last_mean", "best_test_mean", "gain"))
            for row in csv.DictReader(file)
        ]


def _faulty_runs(store: sqlite3.Connection) -> Iterator[str]:
    query = "select status, count(*) from runs where lifecycle_stage = 'active' group by status"
    statuses = dict(store.execute(query).fetchall())
    if statuses.get("RUNNING"):
        yield f"{statuses['RUNNING']} runs stand as RUNNING"
    query = (
        "select tags.value, count(*) from tags join runs using (run_uuid)"
        " where tags.key = 'signature' and status = 'FINISHED' group by tags.value having count(*) > 1"
    )
    for signature, count in store.execute(query):
        yield f"{signature} has {count} finished runs"
    query = (
        "select t.value from tags t where t.key = 'signature' group by t.value having sum((select status = 'FINISHED'"
        " from runs r where r.run_uuid = t.run_uuid)) = 0"
    )
    for (signature,) in store.execute(query):
        yield f"{signature} has no finished run"
    query = (  # of training runs: the figures of a pair's run change as its runs end
        "select name, m.key, m.step, count(*) from metrics m join runs using (run_uuid) join tags t using (run_uuid)"
        " where status = 'FINISHED' and t.key = 'signature' group by run_uuid, m.key, m.step having count(*) > 1"
    )
    for name, key, step, count in store.execute(query):
        yield f"{key} of {name} was logged {count} times for step {step}"


def weights(runs: Path, store: sqlite3.Connection) -> dict[str, str]:
    """Digests of the weights of finished runs, by signature."""
    query = (
        "select tags.value, artifact_uri from tags join runs using (run_uuid)"
        " where tags.key = 'signature' and status = 'FINISHED'"
    )
    found = {}
    for signature, place in store.execute(query):
        path = Path(place.removeprefix("file://").replace("%20", " ")) / "student.safetensors"
        found[signature] = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "no weights"
    return found


def at_once(ground: Ground, count: int, killed: bool) -> Outcome:
    """Start several commands on one new folder, and perhaps kill the first of them when it trains."""
    started = time.monotonic()
    name = f"run: {count} commands at once" + (", one of them killed" if killed else "")
    mark = hashlib.sha256(name.encode()).hexdigest()[:12]
    runs = ground.folder / mark
    arguments = words("run", ground.suite, runs)
    place = "benchmark.tracking:Tracker.log_epochs"
    fault = Fault("run", "command", "", place, "after", "SIGKILL", 2)
    broken = {**dataclasses.asdict(fault), "once": str(ground.folder / f"{mark}.happened")}
    processes = [ground.start(arguments, mark, broken if killed else None) for _ in range(count)]
    done = [ended(process) for process in processes]
    expected = [0] * (count - killed) + [-signal.SIGKILL] * killed
    problems = [] if sorted(one.returncode for one in done) == sorted(expected) else [summary(one) for one in done]
    problems += orphans(mark)
    problems += list(faulty(runs, ground.reference["run"], "run"))
    return Outcome(
        name,
        "; ".join(sorted(summary(one).partition(":")[0] for one in done)),
        tuple(problems),
        time.monotonic() - started,
    )


def server_away(ground: Ground, away_s: float = 30.0) -> Outcome:
    """End the tracking server while runs train, and start it again after a while."""
    started = time.monotonic()
    name = f"run: the tracking server away for {away_s:.0f} s"
    runs, port = ground.folder / "server runs", 20_000 + os.getpid() % 20_000
    folder = ground.folder / "server"
    folder.mkdir()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    variables = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", MARK: "server"}

    def serve() -> subprocess.Popen[bytes]:
        server = subprocess.Popen(
            command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        for _ in range(600):
            time.sleep(0.2)
            if subprocess.run(["curl", "-sf", f"http://127.0.0.1:{port}/health"], capture_output=True).returncode == 0:
                return server
        raise SystemExit("the tracking server did not start")

    server = serve()
    try:
        os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{port}"
        suite = ground.folder / "longer.yaml"
        suite.write_text(SUITE.replace("epochs: 3", "epochs: 60"))
        process = ground.start(words("run", suite, runs), "away")
        while not list((runs / "work").glob("*/checkpoint")):  # the teacher trains
            time.sleep(0.2)
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        time.sleep(away_s)
        server = serve()
        done = ended(process)
    finally:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.killpg(server.pid, signal.SIGKILL)
    problems = [] if done.returncode == 0 else [done.stdout[-3000:]]
    if "The tracking store is back" not in done.stdout:
        problems.append(f"nobody noticed that the server was away: {done.stdout[-2000:]}")
    with sqlite3.connect(folder / "mlflow.db") as store:
        problems += list(_faulty_runs(store))
        query = "select count(*) from metrics where key = 'lr'"
        (count,) = store.execute(query).fetchone()
        if count != 4 * 60:
            problems.append(f"{count} of 240 epochs were logged")
    problems += orphans("away")
    return Outcome(name, summary(done).partition(":")[0], tuple(problems), time.monotonic() - started)


def table(outcomes: Sequence[Outcome]) -> str:
    """Write outcomes as a Markdown table, one row for what a process does when it breaks, whatever breaks it."""
    rows: dict[tuple[str, str], list[str]] = {}
    for outcome in outcomes:
        command, _, words = outcome.name.partition(": ")
        action, _, place = words.partition(" of the ")
        ended = outcome.broken.partition(":")[0]
        how = action if ended == action else f"{action} → {ended}" if place else ended
        problems = f" **{'; '.join(outcome.problems)[:200]}**" if outcome.problems else ""
        rows.setdefault((command, place or words), []).append(how + problems)
    lines = ["| command | what breaks, and where | how → how the command ended |", "| --- | --- | --- |"]
    for (command, place), endings in rows.items():
        cells = (command, place, "; ".join(endings))
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the cases; return 1 when one of them lost something."""
    parser = argparse.ArgumentParser("python -m tests.faults", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases whose name contains this")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="cases at the same time (default: 2)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table of outcomes here")
    parser.add_argument("--list", action="store_true", help="list the cases")
    given = parser.parse_args()
    special: dict[str, Callable[[Ground], Outcome]] = {
        "run: 2 commands at once": lambda ground: at_once(ground, 2, False),
        "run: 4 commands at once": lambda ground: at_once(ground, 4, False),
        "run: 2 commands at once, one of them killed": lambda ground: at_once(ground, 2, True),
        "run: 4 commands at once, one of them killed": lambda ground: at_once(ground, 4, True),
        "run: the tracking server away for 30 s": server_away,
    }
    chosen = [fault for fault in faults() if given.only in fault.name]
    others = [make for name, make in special.items() if given.only in name]
    if given.list:
        print("\n".join([fault.name for fault in chosen] + [name for name in special if given.only in name]))
        return 0
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    ground, outcomes = Ground(folder), []
    for command in sorted({fault.command for fault in chosen} | ({"run"} if others else set())):
        ground.prepare(command)

    def tell(outcome: Outcome) -> None:
        outcomes.append(outcome)
        print(
            f"{'FAILED' if outcome.problems else 'ok':6} {outcome.seconds:4.0f} s  {outcome.name}: {outcome.broken}"[
                :200
            ],
            flush=True,
        )
        for problem in outcome.problems:
            print(f"       {problem}", flush=True)

    with ThreadPoolExecutor(given.jobs) as pool:
        for outcome in pool.map(lambda fault: carry_out(ground, fault), chosen):
            tell(outcome)
    for make in others:
        tell(make(ground))
    counted = Counter("failed" if outcome.problems else "ok" for outcome in outcomes)
    print(f"{len(outcomes)} cases: {dict(counted)}; folder: {folder}")
    if given.out:
        given.out.write_text(table(outcomes))
    if not counted["failed"]:
        shutil.rmtree(folder)
    return 1 if counted["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
