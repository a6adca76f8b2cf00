from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from itertools import combinations

import pytest
import yaml

import distillers
from benchmark.analysis import published
from benchmark.analysis.published import PublishedTable
from benchmark.analysis.published.entry import Level
from benchmark.errors import UserError

ENTRIES = published.entries()
FILES = [
    file for file in (resources.files("benchmark.analysis") / "published").iterdir() if file.name.endswith(".yaml")
]
#: the tables that papers print themselves with the usual teachers and weights, but for methods that are not here
USUAL = {"crd", "dist", "dkd", "lskd", "nkd", "rld", "sdd", "ttm", "wkd"}
PAPERS = [name for name in published.ids() if name.partition("/")[0] in USUAL]
R8X4, SHUFFLE_V1 = "resnet32x4:resnet8x4", "resnet32x4:shufflenet_v1"


def series_over(factor: str | None = None) -> list[published.PublishedSeries]:
    """All series, or those over a factor, by id."""
    every = [one for one in ENTRIES.values() if isinstance(one, published.PublishedSeries)]
    return [one for one in every if factor in (None, one.factor)]


def test_kinds() -> None:
    tables, runs, series = published.ids(), published.run_ids(), [one.id for one in series_over()]
    assert set(runs) < set(tables), "runs are read as tables of their means"
    assert {*tables, *series} == set(ENTRIES)
    assert not set(tables) & set(series)
    for listed in (tables, runs, series, list(ENTRIES)):
        assert listed == sorted(listed)
    assert {f"sdd/table{number}" for number in range(1, 6)} < set(tables)
    assert {f"sdd/table{number}" for number in range(6, 10)} < set(series)


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_says_where_it_is_from(name: str) -> None:
    entry = ENTRIES[name]
    assert entry.id == name
    assert all(text.strip() for text in (entry.title, entry.source, entry.selection, entry.metric))
    for note in entry.notes:
        # a number's point is inside, so what ends a sentence is followed by a space
        assert note.endswith("."), note
        assert not re.search(r"[.?!] [A-Z]", note), f"more than one sentence: {note}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_key_stands_twice(file: resources.abc.Traversable) -> None:
    def walk(node: yaml.Node) -> Iterator[yaml.MappingNode]:
        if isinstance(node, yaml.MappingNode):
            yield node
        if isinstance(node, yaml.MappingNode | yaml.SequenceNode):
            for child in node.value:
                for part in child if isinstance(child, tuple) else (child,):
                    yield from walk(part)

    document = yaml.compose(file.read_text(encoding="utf-8"))
    assert document is not None
    for mapping in walk(document):
        keys = [key.value for key, _ in mapping.value]
        assert len(keys) == len(set(keys)), "YAML would keep the last"


@pytest.mark.parametrize(
    ("table", "pair", "method", "value"),
    [
        ("sdd/table1", "wrn_40_2:vgg8", "sdd_kd", 74.44),
        ("sdd/table2", "resnet32x4:shufflenet_v1", "nkd", 75.31),
        ("sdd/table2", "resnet50:vgg8", "vanilla", 70.36),
        ("sdd/table3", "torchvision/resnet34:torchvision/resnet18", "sdd_dkd", 72.02),
        ("sdd/table3_top5", "torchvision/resnet34:torchvision/resnet18", "sdd_nkd", 91.31),
        ("sdd/table4", "torchvision/resnet50:mobilenet_v1", "sdd_nkd", 73.12),
        ("sdd/table4_top5", "torchvision/resnet50:mobilenet_v1", "kd", 90.34),
        ("sdd/table5", "vgg13:vgg8", "sdd_dkd", 68.67),
        ("sdd/appendix_combined", "resnet32x4:shufflenet_v1", "SDD-KD+CRD", 76.89),
        ("sdd/appendix_features", "resnet32x4:shufflenet_v2", "SP", 74.45),
        ("sdd/scripts", "vgg13:vgg8", "sdd_kd", 73.47),
        ("sdd/scripts", "resnet32x4:resnet8x4", "sdd_dkd", None),
        ("sdd/scripts", "vgg13:mobilenet_v2", "sdd_nkd", 69.01),
        ("sdd/scripts_cub", "vgg13:vgg8", "sdd_nkd", 69.3),
        ("sdd/scripts_imagenet", "torchvision/resnet50:mobilenet_v1", "sdd_dkd", 73.08),
        ("dkd/homogeneous", "wrn_40_2:wrn_16_2", "dkd", 76.23),
        ("dkd/homogeneous", "resnet56:resnet20", "vanilla", 69.06),
        ("dkd/imagenet", "torchvision/resnet34:torchvision/resnet18", "kd", 71.03),
        ("lskd/homogeneous", "resnet32x4:resnet8x4", "mlkd", 77.08),
        ("lskd/homogeneous", "resnet110:resnet20", "MLKD+LS", 72.27),
        ("lskd/heterogeneous", "wrn_40_2:mobilenet_v2", "mlkd", 70.78),
        ("lskd/imagenet_top5", "torchvision/resnet50:mobilenet_v1", "OFD", 90.34),
        ("lskd/logs", "resnet32x4:wrn_40_2", "DKD+LS", 78.97),
        ("crd/heterogeneous", "resnet50:vgg8", "VID", 70.3),
        ("nkd/imagenet", "torchvision/resnet34:torchvision/resnet18", "vanilla", 69.9),
        ("nkd/cifar100", "resnet32x4:shufflenet_v1", "nkd", 76.31),
        ("reproductions/icd", "resnet32x4:mobilenet_v2", "sdd_dkd", 69.58),
        ("reproductions/skd", "vgg13:vgg8", "SDD", 72.29),
        ("later/dskd", "resnet110:resnet20", "KD+SDD+LS", 71.86),
        ("icd/cub", "vgg13:vgg8", "icd_nkd", 68.951),
        ("icd/table2", "resnet50:vgg8", "iCD-DKD, gamma 2", 75.24),
        ("icd/table2", "vgg13:mobilenet_v2", "icd_kd", 60.43),
        ("crd/homogeneous", "wrn_40_2:wrn_40_1", "nst", 72.24),
        ("crd/homogeneous", "wrn_40_2:wrn_40_1", "FSP", None),
        ("crd/homogeneous", "resnet110:resnet20", "at", 70.22),
        ("crd/heterogeneous", "vgg13:mobilenet_v2", "nst", 58.16),
        ("ttm/homogeneous", "resnet32x4:resnet8x4", "wttm", 76.06),
        ("ttm/homogeneous", "vgg13:vgg8", "dist", 73.89),
        ("ttm/heterogeneous", "wrn_40_2:shufflenet_v1", "ttm", 75.39),
        ("dist/cifar100", "wrn_40_2:wrn_40_1", "dist", 74.43),
        ("rld/cifar100", "resnet32x4:wrn_40_2", "rld", 78.91),
        ("wkd/cifar100", "wrn_40_2:shufflenet_v1", "WKD-L+WKD-F", 77.5),
        ("simkd/cifar100", "resnet32x4:resnet8x4", "simkd", 78.08),
        ("simkd/cifar100", "resnet32x4:resnet8x4", "vanilla", 73.09),
        ("skd/homogeneous", "vgg13:vgg8", "skd", 75.75),
        ("skd/homogeneous", "resnet56:resnet20", "ofd", 68.77),
        ("lskd/heterogeneous", "resnet32x4:wrn_40_2", "vanilla", 75.61),
        ("lskd/homogeneous", "resnet32x4:resnet8x4", "ls_mlkd", 78.28),
        ("lskd/logs_ctkd", "resnet56:resnet20", "CTKD+LS", 71.29),
        ("lskd/logs_ctkd_last", "resnet56:resnet20", "CTKD+LS", 70.94),
        ("later/pama_cub", "vgg13:vgg8", "PAMA, best variant", 69.23),
        ("sdd/table1", "wrn_40_2:vgg8", "ReviewKD", None),
        ("sdd/table1", "wrn_40_2:vgg8", "mlkd", None),
        ("sdd/table1", "vgg13:vgg8", "kd", None),
    ],
)
def test_cells(table: str, pair: str, method: str, value: float | None) -> None:
    assert published.load(table).value(pair, method) == value


def test_lookup_takes_the_first_table_that_prints_a_value() -> None:
    tables = ["lskd/heterogeneous", "sdd/table2", "dkd/heterogeneous"]
    pair = "resnet32x4:shufflenet_v1"
    kd, mlkd = published.lookup(tables, pair, "kd"), published.lookup(tables, "resnet32x4:shufflenet_v2", "mlkd")
    assert kd is not None
    assert mlkd is not None
    assert (kd.value, kd.table, kd.confidence) == (74.07, "sdd/table2", "read")
    assert "2403.13512" in kd.source
    assert (mlkd.value, mlkd.table, mlkd.confidence) == (78.44, "lskd/heterogeneous", "unsure")
    ours = published.lookup(tables, "resnet32x4:shufflenet_v2", "kd")
    assert ours is not None
    assert (ours.table, ours.confidence) == ("lskd/heterogeneous", "read"), "only its MLKD is second-hand"
    assert published.lookup(tables, pair, "sdd_mlkd") is None
    assert published.lookup([], pair, "kd") is None


def test_standard_deviations_stand_where_they_are_printed() -> None:
    ttm = published.load("ttm/homogeneous")
    assert ttm.printed_std("resnet56:resnet20", "wttm") == 0.4
    assert ttm.printed_std("resnet56:resnet20", "ITRD") is None
    assert published.load("dist/cifar100").printed_std("resnet50:mobilenet_v2", "dist") == 0.23
    assert published.load("crd/heterogeneous").printed_std("resnet50:vgg8", "kd") == 0.13
    assert published.load("crd/homogeneous").printed_std("vgg13:vgg8", "sp") is None


def test_rows_copied_from_crd_are_said_to_be_of_the_last_epoch() -> None:
    """Wherever a table prints what CRD's prints, to the digit and on all pairs that both have."""
    own = [published.load(f"crd/{name}") for name in ("homogeneous", "heterogeneous")]
    assert all(table.selection.startswith("last epoch") for table in own)
    found = 0
    for table in (table for table in map(published.load, PAPERS) if table.data == "cifar100" and table not in own):
        for method in table.rows:
            cells = {
                pair: [table.value(pair, method), *(one.value(pair, method) for one in own)] for pair in table.pairs
            }
            both = [set(values) - {None} for values in cells.values() if values[0] and any(values[1:])]
            if sum(len(values) == 1 for values in both) >= max(1, len(both) / 2):
                found += 1
                assert table.epoch_of(method) == "last", f"{table.id}: {method}"
                title = distillers.registry.get(method).title if method in distillers.registry else method
                notes = [note for note in table.notes if "CRD's number" in note and "of the last epoch" in note]
                assert any(re.search(rf"\b{title}\b", note) for note in notes), f"{table.id}: {title}"
    assert found >= 20


@pytest.mark.parametrize("name", published.ids())
def test_the_epoch_is_the_one_that_the_selection_names(name: str) -> None:
    """Our own figure of the same choice of epoch stands beside it."""
    table = published.load(name)
    is_best = re.search(r"^best epoch|keeps the best epoch|logs give best_acc", table.selection)
    is_last = table.selection.startswith("last epoch")
    assert table.epoch == ("best" if is_best else "last" if is_last else "unknown")


def test_methods_that_are_said_not_to_be_here_are_not() -> None:
    for name in (name for name in published.ids() if name.startswith("later/")):
        assert not set(published.load(name).rows) & set(distillers.names()), "move it to a file of its paper"


def test_mlkd_is_second_hand_wherever_lskd_reports_it() -> None:
    tables = [table for table in map(published.load, PAPERS) if "mlkd" in table.rows]
    assert len(tables) == 4
    assert all(table.confidence_of("mlkd") == "unsure" for table in tables)


def test_lookup_teacher() -> None:
    tables = ["sdd/appendix_features", "dkd/homogeneous"]
    teacher = published.lookup_teacher(tables, R8X4)
    assert teacher is not None
    assert (teacher.value, teacher.table) == (79.42, "dkd/homogeneous")
    assert published.lookup_teacher(["sdd/appendix_features"], R8X4) is None


@pytest.mark.parametrize(
    ("series", "pair", "points"),
    [
        ("sdd/table6", R8X4, (("none", 73.33), ("consistent", 75.14), ("complementary", 74.79), ("both", 76.63))),
        ("sdd/table7", SHUFFLE_V1, (((1,), 74.07), ((1, 2), 75.1), ((1, 4), 75.84), ((1, 2, 4), 76.3))),
        ("sdd/table8", SHUFFLE_V1, ((1.0, 75.62), (2.0, 76.3), (4.0, 75.99), (6.0, 76.15), (8.0, 75.78))),
        ("sdd/table9", R8X4, (("CRD", 41.0), ("ReviewKD", 26.0), ("kd", 11.0), ("sdd_kd", 11.0))),
        ("sdd/table8", R8X4, ()),
    ],
)
def test_points(series: str, pair: str, points: tuple[tuple[Level, float], ...]) -> None:
    own = tuple((published.method_key(level) if isinstance(level, str) else level, value) for level, value in points)
    assert published.ablation(series).points(pair) == own


def test_points_of_one_row_of_several() -> None:
    weights = published.ablation("lskd/kd_weight")
    assert weights.points(R8X4, "KD+LS")[3] == (9.0, 76.62)
    assert weights.points(R8X4, "kd")[-1] == (18.0, 63.45)
    assert weights.points(label="KD on logits minus their mean")[5] == (15.0, 62.01)
    assert weights.points(R8X4, "dkd") == ()
    with pytest.raises(ValueError, match="several rows fit: resnet32x4:resnet8x4 kd, "):
        weights.points(R8X4)
    released = published.ablation("reference/cifar100").points(label="released weights measured by iCD")
    assert released == (("resnet32x4", 79.42), ("wrn_40_2", 75.6), ("resnet50", 79.33))
    assert published.ablation("reproductions/icd_time").points(label="highest")[1] == ("sdd_kd", 135.0)


def test_series_of_a_factor() -> None:
    assert [series.id for series in series_over("sdd.beta")] == ["sdd/table8"]
    assert [series.id for series in series_over("sdd.scales")] == ["sdd/table7"]
    assert [series.id for series in series_over("method")] == ["reproductions/icd_time", "sdd/table9"]
    assert R8X4 in {row.pair for row in published.ablation("sdd/table7").rows}
    assert R8X4 not in {row.pair for row in published.ablation("sdd/table8").rows}
    assert published.ablation("sdd/table9").unit == "ms"


def test_ablations_agree_with_the_main_tables() -> None:
    main = published.load("sdd/table2")
    cells: list[tuple[str, Level, str]] = [
        ("sdd/table6", "none", "kd"),
        ("sdd/table6", "both", "sdd_kd"),
        ("sdd/table7", (1,), "kd"),
        ("sdd/table7", (1, 2, 4), "sdd_kd"),
        ("sdd/table8", 2.0, "sdd_kd"),
    ]
    for series, level, method in cells:
        assert dict(published.ablation(series).points(SHUFFLE_V1))[level] == main.value(SHUFFLE_V1, method)
    weights = dict(published.ablation("lskd/kd_weight").points(R8X4, "KD+LS"))
    assert weights[9.0] == published.load("lskd/homogeneous").value(R8X4, "KD+LS")


def test_repeated_runs() -> None:
    runs = published.runs("sdd/scripts")
    (row,) = runs.of("wrn_40_2:mobilenet_v2", "sdd_dkd")
    assert row.values == (68.51, 69.68, 69.98, 70.11)
    assert row.settings == {"sdd.scales": (1, 2, 4)}
    assert row.mean == pytest.approx(69.57)
    assert row.std == pytest.approx(0.7292, abs=1e-4)
    assert published.runs("lskd/logs").rows[0].std is None
    by_scales = runs.of("vgg13:mobilenet_v2", "sdd_nkd")
    assert [row.settings["sdd.scales"] for row in by_scales] == [(1, 2, 4), (1, 2)]
    assert runs.of("vgg13:vgg8", "kd") == ()
    assert published.runs("dkd/reproductions").of(R8X4, "dkd")[0].values == (76.2, 75.8, 75.89, 75.85, 76.15)
    assert published.runs("sdd/scripts_cub").spread() is None


def test_spread_from_run_to_run_is_what_its_note_says() -> None:
    runs = published.runs("sdd/scripts")
    all_runs = runs.spread()
    without = runs.spread(without=[("wrn_40_2:mobilenet_v2", "sdd_dkd"), ("wrn_40_2:shufflenet_v1", "sdd_kd")])
    assert all_runs is not None
    assert without is not None
    assert (round(all_runs.std, 3), all_runs.degrees_of_freedom) == (0.312, 46)
    assert (round(without.std, 3), without.degrees_of_freedom) == (0.252, 40)
    assert "0.31 points (46 degrees of freedom), or 0.25 (40)" in runs.notes[0]


def test_printed_values_outside_their_runs_are_what_the_note_counts() -> None:
    printed = [published.load("sdd/table1"), published.load("sdd/table2")]
    above = below = 0
    for row in published.runs("sdd/scripts").rows:
        values = [value for table in printed if (value := table.value(row.pair, row.method)) is not None]
        if (row.pair, row.method) == (R8X4, "sdd_kd"):
            values = [published.ablation("sdd/table7").points(R8X4)[1][1]]
        above += any(value > max(row.values) for value in values)
        below += any(value < min(row.values) for value in values)
    assert (above, below) == (6, 7)
    assert any("13 printed" in note and "6 above and 7 below" in note for note in published.runs("sdd/scripts").notes)


def test_every_wrong_gain_has_a_note_and_every_note_a_wrong_gain() -> None:
    wrong = set()
    for table in (published.load(name) for name in PAPERS):
        for method in table.gains:
            base = distillers.registry.get(method).base
            assert base is not None
            for pair in table.pairs:
                printed, ours, theirs = (
                    table.printed_gain(pair, method), table.value(pair, method), table.value(pair, base)
                )  # fmt: skip
                if printed is None or ours is None or theirs is None:
                    continue
                gain = round(ours - theirs, 2)
                if gain != printed:
                    title = distillers.registry.get(method).title
                    wrong.add(f"{pair}, {title}: the printed gain is {printed:+.2f}, the cells give {gain:+.2f}.")
    noted = {note for entry in ENTRIES.values() for note in entry.notes if "printed gain is" in note}
    assert len(wrong) == 8
    assert wrong == noted


def _disagreements() -> Iterator[tuple[str, str, str, PublishedTable, PublishedTable]]:
    tables = [table for table in map(published.load, PAPERS) if table.id not in published.run_ids()]
    for one, other in combinations(tables, 2):
        if (one.data, one.metric) == (other.data, other.metric):
            for pair in set(one.pairs) & set(other.pairs):
                for method in set(one.rows) & set(other.rows):
                    if None not in (values := {one.value(pair, method), other.value(pair, method)}) and len(values) > 1:
                        yield pair, method, f"{one.id} {other.id}", one, other


def test_cells_that_two_papers_print_differently_have_a_note() -> None:
    found = 0
    for pair, method, where, one, other in _disagreements():
        found += 1
        title = distillers.registry.get(method).title if method in distillers.registry else method
        values = {one.id: one.value(pair, method), other.id: other.value(pair, method)}
        covered = any(
            # a note of one table gives the other's value
            pair in note and title in note and f"{value:.2f}" in note
            for table, value in ((one, values[other.id]), (other, values[one.id]))
            for note in table.notes
        )
        assert covered, f"{pair} {method}: {values} in {where}"
    assert found >= 10


def test_teachers_and_students_agree_with_the_reference() -> None:
    for data in ("cifar100", "cub200", "imagenet"):
        printed = dict(published.ablation(f"reference/{data}").points(label="printed"))
        tables = [table for table in map(published.load, PAPERS) if table.data == data]
        for table in (table for table in tables if table.metric == "top-1 accuracy" and table.id != "nkd/imagenet"):
            for pair in table.pairs:
                teacher, student = pair.split(":")
                assert table.teacher_value(pair) in (None, printed[teacher])
                assert table.value(pair, "vanilla") in (None, printed.get(student))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("sdd/table1", "below the printed 70.13"),
        ("sdd/table2", "copied, not run"),
        ("sdd/table3", "71.03 in mdistiller and LSKD"),
        ("sdd/table4_top5", "OFD's value"),
        ("sdd/table5", "60.20, the printed value 65.58"),
        ("sdd/table6", "75.63 in the appendix"),
        ("sdd/table7", "cannot run scales {1,4}"),
        ("sdd/table8", "beta = 2"),
        ("sdd/table9", "GPU is not named"),
        ("sdd/appendix_combined", "76.63 in Tables 6 and 7"),
        ("sdd/appendix_features", "Table 2 has 74.56"),
        ("nkd/imagenet", "left the target class"),
        ("reproductions/skd", "below plain KD"),
        ("crd/homogeneous", "after the last epoch"),
        ("lskd/homogeneous", "whose student alone has 73.09"),
        ("lskd/logs_ctkd", "KD+LS at temperature 2"),
        ("skd/homogeneous", "below CRD's own numbers"),
    ],
)
def test_notes_stand_with_the_table_they_touch(name: str, part: str) -> None:
    assert any(part in note for note in ENTRIES[name].notes)


def test_values_that_only_the_notes_compare() -> None:
    kd = published.load("sdd/table4_top5").value("torchvision/resnet50:mobilenet_v1", "kd")
    assert kd == published.load("lskd/imagenet_top5").value("torchvision/resnet50:mobilenet_v1", "OFD")
    skd = published.load("reproductions/skd")
    for pair in skd.pairs:
        sdd, plain = skd.value(pair, "SDD"), skd.value(pair, "kd")
        assert sdd is not None and plain is not None and sdd < plain
    combined = published.load("sdd/appendix_combined").value(R8X4, "sdd_kd")
    assert combined == 75.63
    for row in published.runs("sdd/scripts_imagenet").rows:
        tables = ["sdd/table3", "sdd/table4"]
        value = published.lookup(tables, row.pair, row.method)
        assert value is not None
        assert (value.value,) == row.values


def test_unknown_entries_name_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'sdd/table2'"):
        published.lookup(["sdd/tabel2"], "vgg13:vgg8", "kd")
    with pytest.raises(UserError, match="did you mean 'sdd/table8'"):
        published.ablation("sdd/tabel8")
    with pytest.raises(UserError, match="did you mean 'sdd/scripts'"):
        published.runs("sdd/script")
    with pytest.raises(UserError, match="'sdd/table8' is published as PublishedSeries, not as table"):
        published.load("sdd/table8")


SAID: dict[str, object] = {"title": "t", "source": "s", "confidence": "read", "data": "cifar100", "selection": "best"}
RUN: dict[str, object] = {"pair": R8X4, "method": "kd", "values": [70, 71]}
TABLE = SAID | {"pairs": ["vgg13:vgg8", R8X4], "rows": {"kd": [70, 71], "sdd_kd": [72, 73]}}
SERIES = SAID | {"kind": "series", "factor": "sdd.beta", "levels": [1, 2], "rows": [RUN]}
RUNS = SAID | {"kind": "runs", "rows": [RUN]}


def test_a_title_is_read_as_the_key() -> None:
    table = published.parse("x/y", TABLE | {"rows": {"KD": [70, 71], "SD-KD": [72, 73]}, "unsure": ["SD-KD"]})
    assert isinstance(table, PublishedTable)
    assert list(table.rows) == ["kd", "sdd_kd"]
    assert table.confidence_of("sdd_kd") == "unsure"


def test_the_entries_that_the_next_test_breaks_are_whole() -> None:
    for content in (TABLE, SERIES, RUNS):
        assert published.parse("x/y", content).id == "x/y"


@pytest.mark.parametrize("data", ["digits", "folder", "imagenet"])
def test_numbers_may_be_of_any_data_set(data: str) -> None:
    """Of every one that is registered."""
    assert published.parse("x/y", TABLE | {"data": data}).data == data


@pytest.mark.parametrize(
    ("content", "change", "message"),
    [
        (TABLE, {"rows": {"kd": [70]}}, "row kd: 1 values for 2 pairs"),
        (TABLE, {"teacher": [70]}, "row teacher: 1 values"),
        (TABLE, {"rows": {"kd": [0.7, 70]}}, "row kd: not in percent"),
        (TABLE, {"rows": {"kd": [70, 170]}}, "row kd: not in percent"),
        (TABLE, {"rows": {"kd": [70, "?"]}}, "rows: kd: 1: "),
        (TABLE, {"rows": {"kdd": [70, 71]}}, "row kdd: neither"),
        (TABLE, {"rows": {"kd": [70, 71], "KD": [70, 71]}}, "method kd appears twice"),
        (TABLE, {"rows": {"vanilla": [70, 71]}}, "row vanilla"),
        (TABLE, {"pairs": [R8X4, R8X4]}, f"pair {R8X4} appears twice"),
        (TABLE, {"pairs": ["vgg13:vgg9", R8X4]}, "no network 'vgg9'"),
        (TABLE, {"pairs": ["vgg13", R8X4]}, "'vgg13' is not teacher:student"),
        (TABLE, {"gains": {"sdd_kd": [1.0]}}, "gains sdd_kd: 1 values for 2 pairs"),
        (TABLE, {"std": {"sdd_kd": [0.1]}}, "std sdd_kd: must be 2 numbers of points below 10"),
        (TABLE, {"std": {"kd": [0.1, 70]}}, "std kd: must be 2 numbers of points below 10"),
        (TABLE, {"std": {"mlkd": [0.1, 0.2]}}, "no row mlkd"),
        (TABLE, {"gains": {"kd": [1.0, 2.0]}}, "gains kd: the table has no row of its base method"),
        (TABLE, {"unsure": ["mlkd"]}, "no row mlkd"),
        (TABLE, {"colums": []}, "colums: Extra inputs"),
        (TABLE, {"source": ""}, "source: "),
        (TABLE, {"confidence": "sure"}, "confidence: "),
        (TABLE, {"data": "cifar10"}, "data: no data set 'cifar10'; did you mean 'cifar100'?"),
        (TABLE, {"kind": "plot"}, "'plot' must be one of table, series, runs"),
        (SERIES, {"levels": [1, -1]}, "sdd.beta: "),
        (SERIES, {"levels": [1, 1]}, "level 1.0 appears twice"),
        (SERIES, {"levels": [1, 2, 4]}, f"row {R8X4} kd: 2 values for 3 levels"),
        (SERIES, {"factor": "sdd.scales", "levels": [[1], [2, 1]]}, "ascending"),
        (SERIES, {"factor": "sdd.betta"}, "sdd.betta: unknown; did you mean 'beta'"),
        (SERIES, {"factor": "ssd.beta"}, "no distiller has the hyperparameters 'ssd'"),
        (SERIES, {"factor": "method", "levels": ["kd", "kdd"]}, "row kdd"),
        (SERIES, {"factor": "network", "levels": ["vgg8", "vgg9"]}, "no network 'vgg9'"),
        (SERIES, {"unit": "ms", "rows": [{"label": "a", "values": [0, 11]}]}, "row a: not positive"),
        (SERIES, {"rows": [{"pair": R8X4, "values": [70, 71], "runs": 2}]}, "rows: 0: runs: Extra inputs"),
        (SERIES, {"rows": [{"pair": "a:b", "values": [70, 71]}]}, "no network 'a'"),
        (SERIES, {"rows": [{"pair": R8X4, "method": "kdd", "values": [70, 71]}]}, "row kdd"),
        (RUNS, {"rows": [{"pair": R8X4, "method": "kd", "values": []}]}, "rows: 0: values: "),
        (RUNS, {"rows": [{"pair": R8X4, "method": "kd", "values": [0.7]}]}, f"row {R8X4} kd: not in percent"),
        (RUNS, {"rows": [RUN, RUN]}, "appears twice"),
        (RUNS, {"rows": [RUN | {"settings": {"sdd.scales": [4, 2]}}]}, "ascending"),
        (RUNS, {"rows": [RUN | {"method": "kdd"}]}, "row kdd"),
    ],
)  # fmt: skip
def test_malformed_entries_are_refused(content: dict[str, object], change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as refusal:
        published.parse("x/y", content | change)
    assert "published entry x/y" in str(refusal.value)
    assert "\n" not in str(refusal.value)
