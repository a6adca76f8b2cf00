"""Which published tables stand in a report, and what of them is printed."""

from __future__ import annotations

import pytest

from benchmark.analysis import published
from benchmark.analysis.comparison import comparison as detailed
from reports import build
from reports.sections import comparison
from reports.sections.literature import printed, printed_text, tables_of
from tests.reports import frames

LIKE, UNLIKE = "resnet56:resnet20", "vgg13:mobilenet_v2"


@pytest.mark.parametrize(
    ("methods", "pair", "further"),
    [
        (["paper"], LIKE, []),
        (["paper"], UNLIKE, []),
        (["kd", "nst"], LIKE, ["crd/homogeneous"]),
        (["kd", "nst"], UNLIKE, ["crd/heterogeneous"]),
        (["kd", "wttm"], LIKE, ["ttm/homogeneous"]),
        (["dist"], LIKE, ["ttm/homogeneous"]),
        (["dist", "rld", "sp"], LIKE, ["crd/homogeneous", "ttm/homogeneous", "rld/cifar100"]),
        (["ls_kd", "reviewkd"], LIKE, []),
        (["sdd_ttm"], LIKE, []),
    ],
)
def test_tables_of_further_methods_stand_only_where_one_is_chosen(
    methods: list[str], pair: str, further: list[str]
) -> None:
    plan = frames.plan(methods=methods, pairs=[pair])
    own = [table for table in plan.suite.rebuilds if pair in published.load(table).pairs]
    assert tables_of(plan) == own + further


def test_a_further_method_stands_beside_what_is_published_of_it() -> None:
    plan = frames.plan(methods=("vanilla", "kd", "ls_kd", "nst"), pairs=[LIKE], seeds=3)
    runs = [*frames.runs("kd", [70.0, 70.2, 70.1], pair=LIKE), *frames.runs("nst", [69.0, 69.2, 69.4], pair=LIKE)]
    found = frames.context(runs, plan)
    rows = {row.fields["method"]: row.fields for row in detailed(plan, found.frame, {}).sections[0].rows}
    assert (rows["nst"]["published"], rows["nst"]["published_table"]) == (69.6, "crd/homogeneous")
    assert (rows["ls_kd"]["published"], rows["ls_kd"]["published_table"]) == (71.43, "lskd/homogeneous")
    notes = " ".join(detailed(plan, found.frame, {}).notes)
    assert "crd/homogeneous: These are accuracies after the last epoch" in notes
    table = frames.tables(comparison.comparison(found))["comparison-crd-homogeneous"]
    texts = [[cell.text for cell in row.cells] for section in table.sections for row in section.rows]
    # the last epoch beside the last epoch: 69.20 and 69.60, though our best is 69.70
    assert ["ours", "69.20"] in texts and ["published", "69.60"] in texts and ["difference", "−0.40"] in texts
    assert ". Last epoch, as published:" in table.subtitle
    assert rows["nst"]["minus_published"] == -0.4
    assert any("after the last epoch" in note for note in table.notes)


def test_a_report_is_whole_where_a_method_cannot_run() -> None:
    """Its pair has no run and no settings of it."""
    pairs = ["vgg13:mobilenet_v2", "vgg13:vgg8"]
    plan = frames.plan(methods=["vanilla", "kd", "ofd"], pairs=pairs, seeds=3)
    assert [one.pair for one in plan.refused] == pairs[:1]
    kd = [run for pair in pairs for run in frames.runs("kd", [70.0, 70.2, 70.1], pair=pair)]
    found = frames.context([*kd, *frames.runs("ofd", [71.0, 71.2, 71.1], pair=pairs[1])], plan)
    sections = ["result", "verdict", "comparison", "coverage", "literature", "cost", "selection"]
    report = build.make(found, build.chosen_sections(sections))
    assert not report.faults
    settings = next(listing.table for listing in report.for_papers if listing.name == "hyperparameters")
    ofd = [row for row in settings.sections[0].rows if row.cells[0].text == "OFD"]
    assert [row.cells[1].text for row in ofd] == ["all"]


def test_deviations_are_printed_where_the_source_has_them() -> None:
    crd = published.load("crd/homogeneous")
    assert printed_text(crd, LIKE, "kd") == "70.66 ± 0.24"
    assert printed_text(crd, LIKE, "sp") == "69.67"
    assert printed_text(published.load("sdd/table1"), "wrn_40_2:vgg8", "sdd_kd") == "74.44 (+0.57)"
    assert "70.66 ± 0.24" in [cell.text for row in printed(crd).sections[1].rows for cell in row.cells]
