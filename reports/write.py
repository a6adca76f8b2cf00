"""Write a report to files: the PDF, the HTML page, and a folder with its tables, figures, cells and sources."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmark import files
from benchmark.analysis.latex import latex
from benchmark.analysis.table import Table
from benchmark.errors import UserError
from reports import document, html, pdf, style
from reports.base import Context, Drawing, Listing
from reports.build import Report

#: name of the report's run in MLflow
RUN_NAME = "report"


def write(report: Report, out: Path) -> Path:
    """Write the PDF, the HTML page, and a folder with tables, figures and sources; return the path of the PDF."""
    folder = out / report.slug
    contents = dict(_files(report))
    _remove_old(folder, contents)
    for name, content in contents.items():
        files.write(folder / name, content)
    path = out / f"{report.slug}.pdf"
    files.write(path, pdf.compiled(folder, report.timestamp))
    figures = {name: shown for name, shown in contents.items() if name.endswith(".svg")}
    files.write(path.with_suffix(".html"), html.page(json.loads(contents[pdf.DATA]), figures).encode())
    return path


def _files(report: Report) -> Iterator[tuple[str, bytes]]:
    """Yield every file of a report's folder by name."""
    tables = [block for part in report.parts for block in part.blocks if isinstance(block, Listing)]
    names = []
    for listing in (*tables, *report.for_papers):
        writers: dict[str, Callable[[], str]] = {
            "md": listing.table.to_markdown,
            "tex": partial(latex, listing.table, listing.name),
            "csv": listing.table.to_csv,
        }
        for ending, writer in writers.items():
            names.append(f"tables/{listing.name}.{ending}")
            yield names[-1], writer().encode()
    for part in report.parts:
        for block in part.blocks:
            if isinstance(block, Drawing):
                for ending, picture in style.saved(block.figure).items():
                    names.append(f"figures/{block.name}.{ending}")
                    yield names[-1], picture
    yield "cells.csv", cells(tables).encode()
    content = document.content(
        *(report.title, report.subtitle, report.head, report.commit),
        *(report.parts, report.empty, report.link),
    )
    yield pdf.DATA, (json.dumps({**content, "files": names}, indent=1, ensure_ascii=False) + "\n").encode()
    yield pdf.SOURCE, pdf.template()


def cells(tables: Sequence[Listing]) -> str:
    """Write every cell of every table as CSV, with the runs behind it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "row", "column", "text", "run_ids"])
    for listing in tables:
        for row, column, shown, run_ids in _cells(listing.table):
            writer.writerow([listing.name, row, column, shown, " ".join(run_ids)])
    return text.getvalue()


def _cells(table: Table) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    for section in table.sections:
        for row in section.rows:
            name = " / ".join(filter(None, (section.title, row.cells[0].text)))
            for column, cell in zip(table.columns, row.cells, strict=True):
                yield name, column.header, cell.text, cell.run_ids


def _remove_old(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Remove the files that an earlier report lists as its own and that this report does not write."""
    try:
        old = json.loads((folder / pdf.DATA).read_text()).get("files", [])
    except (OSError, ValueError, AttributeError):
        return
    for name in old:
        if isinstance(name, str) and re.fullmatch(r"(tables|figures)/[A-Za-z0-9._-]+", name) and name not in contents:
            (folder / name).unlink(missing_ok=True)


def log(context: Context, path: Path) -> str | None:
    """Log the report to the suite's experiment; return the reason when that fails, or None."""
    if context.tracker is None:
        return None
    tracker = context.tracker
    if tracker.is_read_only:
        return f"The report was written, but not logged to MLflow: {tracker.uri} can only be read."
    try:
        with tracker.named_errors():
            experiment = tracker.experiments().get(context.plan.experiment_name)
            if experiment is None:  # a report without runs creates no experiment
                return None
            run_id = tracker.parent(experiment, RUN_NAME, {"suite": context.plan.suite.name})
            tracker.artifacts(
                run_id,
                {
                    path.name: path,
                    path.with_suffix(".html").name: path.with_suffix(".html"),
                    f"{path.stem}-cells.csv": path.with_suffix("") / "cells.csv",
                },
            )
            tracker.end(run_id, "FINISHED")
    except UserError as error:
        return f"The report was written, but not logged to MLflow: {error}"
    return None
