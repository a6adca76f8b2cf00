"""The first page: the best method, the outcome of each claim, what is open, and the command that closes most of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from benchmark.analysis import stats
from benchmark.analysis.decision import MAX_SEEDS, Decision, Outcome, confidence_text
from benchmark.analysis.gains import Best, Gain
from benchmark.analysis.methods import base_of, pair_title, title_of
from benchmark.analysis.numbers import MISSING, bracketed, plus_minus, rounded, signed
from benchmark.analysis.scores import scores
from benchmark.analysis.table import Cell, Column, Row, Table
from reports import style
from reports.base import Block, Command, Context, Drawing, Listing, Text, section
from reports.sections.coverage import command_for, open_runs
from reports.sections.verdict import Claim, claims_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IN_SHORT = (
    "A difference holds when its interval over seeds lies above 0, does not hold when the interval lies below 0 or"
    " excludes the published gain, and is open otherwise; the intervals allow for the number of differences. The rule"
    " stands in full in the next section."
)
#: pairs whose best method is told in a sentence; more are a table
MAX_SENTENCES = 2
#: pairs whose points in the figure have their intervals drawn
MAX_WITH_INTERVALS = 4
_COLOURS = {Outcome.HOLDS: style.COLOURS[0], Outcome.DOES_NOT_HOLD: style.COLOURS[1], Outcome.OPEN: style.FAINT}


@dataclass(frozen=True)
class Leader:
    """The best method of a pair, with its own gain."""

    pair: str
    best: Best
    #: over its base; None where the base was not run
    gain: Gain | None


@section("Result")
def result(context: Context) -> list[Block]:
    """Best method, claims, the next command, and the gains in a figure."""
    measured = [one for one in context.gains if one.decision.difference is not None]
    if not measured and not any(
        scores(context.frame, p, m).values for p in context.plan.pairs for m in context.plan.methods
    ):
        return [Text("No run of this plan has finished: there is no result yet."), *open_runs(context)]
    blocks: list[Block] = []
    if context.plan.profile:
        blocks.append(Text(f"This is the {context.plan.profile} profile: a small slice, not a result."))
    found = leaders(context)
    if 0 < len(found) <= MAX_SENTENCES:
        blocks += [Text(sentence(one)) for one in found]
    elif found:
        blocks.append(Listing("best", best_table(found)))
    if measured:
        blocks.append(Drawing("gains", figure(measured), caption(measured)))
        claims = [claim for claim in claims_of(context) if claim.evidence]
        blocks.append(Listing("outcomes", outcomes(measured, claims)))
    return [*blocks, *next_step(context)]


def leaders(context: Context) -> list[Leader]:
    """The best method of every pair that has one."""
    of = {(one.comparison.pair.name, one.comparison.method): one for one in context.gains}
    found = context.leaders.items()
    return [Leader(pair, leader, of.get((pair, leader.method))) for pair, leader in found if leader is not None]


def sentence(one: Leader) -> str:
    """Tell the best method of a pair, its gain, and how far it is ahead."""
    leader = one.best
    mean = plus_minus(leader.scores.mean or 0.0, leader.scores.std)
    text = f"{pair_title(one.pair)}: {title_of(leader.method)} reaches {mean}% after the last epoch, the highest mean"
    num = len(leader.scores.values)
    text += f" over {num} seeds." if num > 1 else ", of one seed."
    if one.gain is not None:
        base, decision = title_of(one.gain.comparison.base), one.gain.decision
        text += f" Its gain over {base} is {decision.text}: {decision.word}."
    ahead = "it is the best by the rule" if leader.is_separated else "by the rule it is not separated from the others"
    interval = f" {bracketed(leader.interval)}" if leader.interval else ""
    return f"{text} It leads {title_of(leader.second)} by {signed(leader.lead.mean)}{interval}; {ahead}."


def best_table(found: Sequence[Leader]) -> Table:
    """Tabulate the best method of every pair."""
    rows = []
    for one in found:
        leader, decision = one.best, one.gain.decision if one.gain else None
        rows.append(
            Row.of(
                pair_title(one.pair),
                Cell(title_of(leader.method), leader.scores.run_ids, bold=leader.is_separated),
                Cell(plus_minus(leader.scores.mean or 0.0, leader.scores.std), leader.scores.run_ids),
                Cell(decision.text if decision else MISSING, one.gain.run_ids if one.gain else ()),
                decision.word if decision else MISSING,
                f"{signed(leader.lead.mean)} to {title_of(leader.second)}",
                pair=one.pair,
                method=leader.method,
                last_mean=rounded(leader.scores.mean),
                gain=rounded(decision.difference.mean) if decision and decision.difference else None,
                outcome=decision.word if decision else None,
                second=leader.second,
                lead=rounded(leader.lead.mean),
                is_separated=leader.is_separated,
            )
        )
    columns = (
        *(Column("Pair", "left"), Column("highest mean", "left"), Column("last"), Column("gain over its base")),
        *(Column("outcome", "left"), Column("lead", "left")),
    )
    notes = ("Bold: by the rule the best, above every other complete method; else the highest by its mean only.",)
    return Table.of_rows("Best method by pair", "After the last epoch, in percent.", columns, rows, notes)


def outcomes(gains: Sequence[Gain], claims: Sequence[Claim]) -> Table:
    """Tabulate the outcome of every claim, counted over the pairs."""
    by_label: dict[str, list[Gain]] = {}
    for gain in gains:
        by_label.setdefault(gain.comparison.label, []).append(gain)
    lines: list[tuple[str, list[tuple[Outcome, str]], float | None, float | None, tuple[str, ...]]] = [
        (
            _statement(mine[0]),
            [(one.decision.outcome, one.decision.word) for one in mine],
            *_means([one.decision for one in mine]),
            tuple(run_id for one in mine for run_id in one.run_ids),
        )
        for mine in by_label.values()
    ]
    # the paper's own claims first
    lines.sort(key=lambda line: not line[0].startswith("SD-"))
    by_text: dict[str, list[Claim]] = {}
    for claim in claims:
        by_text.setdefault(claim.text, []).append(claim)
    for text, same in by_text.items():
        lines.append((text, [(claim.outcome, claim.word) for claim in same], None, None, ()))
    rows = []
    for text, found, mean, published, run_ids in lines:
        counts = [sum(one is outcome for one, _ in found) for outcome in Outcome]
        word = (
            found[0][1]
            if len(found) == 1
            else ", ".join(f"{num} {word}" for word, num in Counter(word for _, word in found).items())
        )
        rows.append(
            Row.of(
                text,
                Cell(word, bold=any(one is not Outcome.OPEN for one, _ in found)),
                Cell(signed(mean), run_ids),
                signed(published),
                claim=text,
                **{outcome.name.lower(): count for outcome, count in zip(Outcome, counts, strict=True)},
                mean=rounded(mean),
                published=rounded(published),
            )
        )
    has_published = any(line[3] is not None for line in lines)
    pairs = {one.comparison.pair.name for one in gains}
    columns = [Column("Claim", "left"), Column("outcome", "left"), Column("mean gain"), Column("published")]
    if not has_published:
        columns, rows = columns[:3], [Row(row.cells[:3], row.fields) for row in rows]
    of_which = "those with a published gain, where there are any" if has_published else "them"
    over = "" if len(pairs) == 1 else f" Counted over {len(pairs)} pairs, gains averaged over {of_which}."
    return Table.of_rows("Claims", f"By the rule.{over}", columns, rows, (IN_SHORT,))


def _statement(gain: Gain) -> str:
    base = gain.comparison.base
    over = "the student alone" if base_of(base) is None else title_of(base)
    return f"{title_of(gain.comparison.method)} is better than {over}"


def _means(decisions: Sequence[Decision]) -> tuple[float | None, float | None]:
    """The mean of the measured gains, and that of the published ones on the same pairs where any is published."""
    measured = [(one.difference.mean, one.published) for one in decisions if one.difference is not None]
    with_published = [(mean, published) for mean, published in measured if published is not None]
    if not with_published:
        return stats.mean_std([mean for mean, _ in measured])[0], None
    means, published = zip(*with_published, strict=True)
    return stats.mean_std(means)[0], stats.mean_std(published)[0]


def next_step(context: Context) -> list[Block]:
    """The one command that closes most of what is open, or the sentence that nothing is."""
    unfinished = open_runs(context)
    if unfinished:
        return [*unfinished[:1]]
    open_ones = [one for one in context.gains if one.decision.outcome is Outcome.OPEN]
    if not open_ones:
        return [Text("Every planned run is finished, and every difference is decided.")]
    total, num_open = len(context.gains), len(open_ones)
    verb = "is" if num_open == 1 else "are"
    if context.plan.seeds < stats.MIN_SEEDS:
        text = (
            f"{num_open} of {total} differences {verb} open: none is decided below {stats.MIN_SEEDS} seeds. This adds"
            " them:"
        )
        return [Command(text, _with_seeds(context, open_ones, stats.MIN_SEEDS))]
    needed = sorted(one.decision.seeds for one in open_ones if one.decision.seeds is not None)
    if not needed:
        beyond = f"more than {MAX_SEEDS} seeds would be needed"
        reasons = dict.fromkeys(one.decision.because if one.decision.interval is None else beyond for one in open_ones)
        return [Text(f"{num_open} of {total} differences {verb} open: {'; '.join(reasons)}.")]
    num_seeds = needed[len(needed) // 2]
    closed = [one for one in open_ones if one.decision.seeds is not None and one.decision.seeds <= num_seeds]
    text = (
        f"{num_open} of {total} differences {verb} open. If the measured differences and"
        f" spreads are the true ones, {num_seeds} seeds decide {_named(closed)} in 8 of 10 repeats. This adds them;"
        " finished runs are not trained again:"
    )
    return [Command(text, _with_seeds(context, closed, num_seeds))]


def _named(gains: Sequence[Gain]) -> str:
    labels = list(dict.fromkeys(one.comparison.label for one in gains))
    return f"{len(gains)} of them ({', '.join(labels)})" if len(gains) > 1 else labels[0]


def _with_seeds(context: Context, gains: Sequence[Gain], num_seeds: int) -> str:
    """The command that trains the methods of these differences on their pairs under more seeds."""
    wanted = {name for one in gains for name in (one.comparison.method, one.comparison.base)}
    methods = [method for method in context.plan.methods if method in wanted]
    pairs = list(dict.fromkeys(one.comparison.pair.name for one in gains))
    return command_for(context, pairs, methods, ["--seeds", str(num_seeds)])


def caption(gains: Sequence[Gain]) -> str:
    """Describe the figure of the gains."""
    confidence = confidence_text([one.decision for one in gains])
    pairs = {one.comparison.pair.name for one in gains}
    points = "mean over seeds" if len(pairs) == 1 else f"one point for each of {len(pairs)} pairs"
    text = f"Gain of every method over its base, {points}"
    text += (
        f", with its {confidence} interval." if len(pairs) <= MAX_WITH_INTERVALS else "; intervals are in the table."
    )
    text += " Filled: decided by the rule; hollow: open."
    if any(one.decision.published is not None for one in gains):
        text += " Grey lines: the published gain."
    return text


def figure(gains: Sequence[Gain]) -> Figure:
    """Draw the gains as points with intervals, a line per difference, coloured by outcome."""
    labels = list(dict.fromkeys(one.comparison.label for one in gains))
    pairs = list(dict.fromkeys(one.comparison.pair.name for one in gains))
    step = 0.6 / max(len(pairs) - 1, 1)
    with style.style():
        made = style.canvas(style.WIDTH, 0.9 + 0.24 * len(labels) * max(1.0, len(pairs) / 5))
        axes = made.subplots()
        axes.axvline(0, color=style.ALONE, linewidth=0.8)
        for one in gains:
            shift = (pairs.index(one.comparison.pair.name) - (len(pairs) - 1) / 2) * step
            _draw(axes, one.decision, labels.index(one.comparison.label) + shift, len(pairs) <= MAX_WITH_INTERVALS)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set(xlabel="gain in last test top-1 (points)", ylabel="difference")
        words = {one.decision.outcome: one.decision.word for one in gains}
        handles = [
            axes.plot([], [], "o", color=_COLOURS[o], markerfacecolor="white" if o is Outcome.OPEN else _COLOURS[o])[0]
            for o in words
        ]
        made.legend(handles, list(words.values()), loc="outside lower center", ncols=3)
    return made


def _draw(axes: Axes, decision: Decision, at: float, with_interval: bool) -> None:
    if decision.difference is None:
        return
    colour = _COLOURS[decision.outcome]
    filled = colour if decision.outcome is not Outcome.OPEN else "white"
    if with_interval and decision.interval is not None:
        axes.plot(decision.interval, [at, at], color=colour, linewidth=1.4, solid_capstyle="butt")
    if decision.published is not None:
        axes.plot([decision.published] * 2, [at - 0.25, at + 0.25], color=style.PUBLISHED, linewidth=1.6)
    axes.plot([decision.difference.mean], [at], "o", color=colour, markerfacecolor=filled, zorder=3)
