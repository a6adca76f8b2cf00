"""Build the report of a suite: its sections, with unique names of files and links to the runs."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote

from benchmark import process
from benchmark.errors import UserError, among
from benchmark.tracking import Tracked
from reports import paper, sections
from reports.base import Block, Command, Context, Listing, ReportSection, Text
from reports.document import Link, Part

#: a cell has no link when more runs are behind it than a page can show side by side; cells.csv names them
_MAX_LINKED = 20


@dataclass(frozen=True)
class Report:
    """A finished report, before it is written."""

    slug: str
    title: str
    subtitle: str
    head: str
    commit: str
    parts: tuple[Part, ...]
    #: tables that are written for papers and not shown
    for_papers: tuple[Listing, ...]
    #: titles of sections that have nothing to show yet
    empty: tuple[str, ...]
    link: Link
    #: start of the newest run in seconds since 1970: the same data has the same time
    timestamp: int
    problems: tuple[str, ...]
    #: errors of sections that could not be made, one line each
    faults: tuple[str, ...]


def chosen_sections(names: Sequence[str]) -> list[ReportSection]:
    """Select sections by name, in the order of the report; all of them without names.

    Raises:
        UserError: for an unknown name, with the nearest known one.
    """
    known = {section.name: section for section in sections.in_order()}
    for name in names:
        if name not in known:
            raise UserError(f"unknown section '{name}'{among(name, known)} (`python -m reports --list`)")
    return [section for name, section in known.items() if not names or name in names]


def make(context: Context, chosen: Sequence[ReportSection], own: Sequence[str] = ()) -> Report:
    """Make the report of a suite. A section that fails is replaced by its error, and the others are made.

    `own` names methods that are set beside the published tables, for a paper.
    """
    parts, empty, faults = [], [], []
    unique = _Names()
    for section in chosen:
        blocks, fault = _blocks(section, context)
        faults += [fault] if fault else []
        if blocks:
            parts.append(Part(section.name, section.title, [unique.named(block) for block in blocks]))
        else:
            empty.append(section.title)
    plan = context.plan
    return Report(
        slug=plan.file_name,
        title=plan.suite.title,
        subtitle=f"Suite {plan.name} on {context.dataset}: {_counted(context)}",
        head=f"{plan.name}, {context.dataset}",
        commit=f"report made at {checkout()}",
        parts=tuple(parts),
        for_papers=tuple(paper.tables(context, own)),
        empty=tuple(empty),
        link=linker(context),
        timestamp=newest(context.tracked),
        problems=context.problems,
        faults=tuple(faults),
    )


def checkout() -> str:
    """Describe the commit that reports are made from."""
    commit, dirty = process.git_state()
    return commit[:12] + (" (changed)" if dirty else "")


def newest(tracked: Sequence[Tracked]) -> int:
    """Start time of the newest run, in seconds since 1970; 0 without a run."""
    return max((run.start_time for run in tracked), default=0) // 1000


def _blocks(section: ReportSection, context: Context) -> tuple[Sequence[Block], str | None]:
    try:
        return list(section.make(context)), None
    except Exception as error:  # whatever the error, the other sections are still made
        fault = f"{section.name}: {type(error).__name__}: {error}"
        return [Text(f"This section could not be made. {fault}")], fault


class _Names:
    """File names that are unique in a report."""

    def __init__(self) -> None:
        self.used: Counter[tuple[type[Block], str]] = Counter()

    def named(self, block: Block) -> Block:
        """Rename the block to a name that is safe for files and not used before."""
        if isinstance(block, Text | Command):
            return block
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", block.name).strip("-.") or "unnamed"
        self.used[type(block), name] += 1
        count = self.used[type(block), name]
        return replace(block, name=name if count == 1 else f"{name}-{count}")


def _counted(context: Context) -> str:
    finished = int((context.frame["status"] == "FINISHED").sum())
    return f"{finished} of {len(context.plan.runs)} planned runs are finished"


def linker(context: Context) -> Link:
    """Make the function that maps runs to their address in the tracking UI."""
    experiments = {run.run_id: run.experiment_id for run in context.tracked}
    server = (context.server or "").rstrip("/")

    def link(run_ids: tuple[str, ...]) -> str | None:
        known = [run_id for run_id in run_ids if run_id in experiments]
        if not server or not 0 < len(known) <= _MAX_LINKED:
            return None
        if len(known) == 1:
            return f"{server}/#/experiments/{experiments[known[0]]}/runs/{known[0]}"
        places = sorted({experiments[run_id] for run_id in known})
        return f"{server}/#/compare-runs?runs={quote(json.dumps(known))}&experiments={quote(json.dumps(places))}"

    return link
