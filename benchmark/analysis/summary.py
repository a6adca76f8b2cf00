"""A comparison table in brief, for the end of a command: its result in one line, and the notes on its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from benchmark.analysis import stats
from benchmark.analysis.methods import title_of
from benchmark.analysis.numbers import signed, two_decimals
from benchmark.analysis.table import FEW_SEEDS, Section, Table, Value

#: pairs that one line can name
_MAX_PAIRS = 4


def result_of(table: Table) -> str:
    """Put the result in one line: on each pair, the method with the highest mean after the last epoch.

    Of the methods with all their seeds, as in reports; empty while every pair has fewer than two of them.
    """
    best = {section.title: fields for section in table.sections if (fields := _highest(section)) is not None}
    if not best:
        return ""
    if len(best) > _MAX_PAIRS:
        tally = Counter(title_of(str(fields["method"])) for fields in best.values())
        return "highest accuracy after the last epoch, by number of pairs: " + ", ".join(
            f"{title} {count}" for title, count in tally.most_common()
        )
    return "highest accuracy after the last epoch: " + "; ".join(
        f"{_described(fields)} ({pair})" for pair, fields in best.items()
    )


def _highest(section: Section) -> Mapping[str, Value] | None:
    rows = [row.fields for row in section.rows if row.fields.get("last_mean") is not None]
    complete = [fields for fields in rows if fields["num_finished"] == fields["num_planned"]]
    return max(complete, key=lambda fields: _number(fields, "last_mean") or 0.0) if len(complete) > 1 else None


def _number(fields: Mapping[str, Value], name: str) -> float | None:
    value = fields.get(name)
    return None if value is None else float(value)


def _described(fields: Mapping[str, Value]) -> str:
    """Describe a method's row, e.g. `SD-KD 84.92 ± 0.68, +6.73 [+4.48, +8.99] to KD: holds here`."""
    std, gain = _number(fields, "last_std"), _number(fields, "gain")
    text = f"{title_of(str(fields['method']))} {two_decimals(_number(fields, 'last_mean'))}"
    text += "" if std is None else f" ± {two_decimals(std)}"
    text += f" {FEW_SEEDS}" if (_number(fields, "num_finished") or 0) < stats.MIN_SEEDS else ""
    if gain is None:
        return text
    low, high = _number(fields, "gain_low"), _number(fields, "gain_high")
    interval = "" if low is None else f" [{signed(low)}, {signed(high)}]"
    base = title_of(str(fields["base"]), alone="the student alone")
    return f"{text}, {signed(gain)}{interval} to {base}: {fields['gain_outcome']}"


def notes_of_rows(table: Table, full: str) -> tuple[str, ...]:
    """Choose the notes for a terminal: a published table's source, and what is about a row that is shown.

    The notes on a table follow its source. How many are left out is said; they stand in the written table, `full`.
    """
    rows = [(section.title, row) for section in table.sections for row in section.rows]
    sources = {str(row.fields["published_table"]) for _, row in rows if row.fields.get("published_table")}
    shown = {f"{pair}, {row.cells[0].text.partition(' (')[0]}:" for pair, row in rows}
    kept: list[str] = []
    named: set[str] = set()
    num_left_out = 0
    for note in table.notes:
        source, colon, text = note.partition(": ")
        if not colon or source not in sources:
            kept.append(note)
        elif source not in named:  # the first names the paper
            named.add(source)
            kept.append(note)
        elif any(text.startswith(row) for row in shown):
            kept.append(f"  {text}")
        else:
            num_left_out += 1
    if num_left_out:
        kept.append(f"{num_left_out} more notes on these published tables are in {full}")
    return tuple(kept)
