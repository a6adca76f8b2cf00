from __future__ import annotations

import pytest
from pydantic import ValidationError

import distillers
import models
from benchmark import published
from benchmark.errors import UserError
from benchmark.published import PublishedTable

TABLES = published.ids()


@pytest.mark.parametrize("name", TABLES)
def test_table_is_complete_and_uses_known_models(name: str) -> None:
    table = published.load(name)
    assert table.id == name
    assert table.title
    assert table.source
    assert table.selection
    for pair in table.pairs:
        teacher, student = pair.split(":")
        assert teacher in models.registry
        assert student in models.registry
    # keys of ours are lower case, printed names are not: a misspelt key would silently lose its row
    for row in table.rows:
        assert row in distillers.registry or row != row.lower() or row.startswith("beta=")


@pytest.mark.parametrize(
    ("table", "pair", "method", "value"),
    [
        ("sdd/table1", "wrn_40_2:vgg8", "sdd_kd", 74.44),
        ("sdd/table2", "resnet32x4:shufflenet_v1", "nkd", 75.31),
        ("sdd/table2", "resnet50:vgg8", "vanilla", 70.36),
        ("sdd/table5", "vgg13:vgg8", "sdd_dkd", 68.67),
        ("sdd/table4", "torchvision/resnet50:mobilenet_v1", "sdd_nkd", 73.12),
        ("dkd/homogeneous", "wrn_40_2:wrn_16_2", "dkd", 76.23),
        ("dkd/homogeneous", "resnet56:resnet20", "vanilla", 69.06),
        ("lskd/homogeneous", "resnet32x4:resnet8x4", "mlkd", 77.08),
        ("lskd/heterogeneous", "wrn_40_2:mobilenet_v2", "mlkd", 70.78),
        ("sdd/scripts", "vgg13:vgg8", "sdd_kd", 73.47),
        ("sdd/table1", "wrn_40_2:vgg8", "ReviewKD", None),
        ("sdd/table1", "wrn_40_2:vgg8", "mlkd", None),
        ("sdd/table1", "vgg13:vgg8", "kd", None),
    ],
)
def test_cells(table: str, pair: str, method: str, value: float | None) -> None:
    assert published.load(table).value(pair, method) == value


def test_lookup_takes_the_first_table_that_prints_a_value() -> None:
    tables = ["lskd/heterogeneous", "sdd/table2", "dkd/heterogeneous"]
    pair = "resnet32x4:shufflenet_v2"
    mlkd, kd = published.lookup(tables, pair, "mlkd"), published.lookup(tables, pair, "kd")
    assert mlkd is not None
    assert kd is not None
    assert (mlkd.value, mlkd.table, mlkd.confidence) == (78.44, "lskd/heterogeneous", "unsure")
    assert (kd.value, kd.table, kd.confidence) == (74.45, "sdd/table2", "read")
    assert "2403.13512" in kd.source
    assert published.lookup(tables, pair, "sdd_mlkd") is None
    assert published.lookup([], pair, "kd") is None


def test_lookup_teacher() -> None:
    teacher = published.lookup_teacher(["lskd/homogeneous", "dkd/homogeneous"], "resnet110:resnet32")
    assert teacher is not None
    assert (teacher.value, teacher.table) == (74.31, "dkd/homogeneous")
    assert published.lookup_teacher(["sdd/table6"], "resnet32x4:resnet8x4") is None


def test_tables_that_print_the_same_cell_agree() -> None:
    sdd, dkd = published.load("sdd/table2"), published.load("dkd/heterogeneous")
    for pair in dkd.pairs:
        assert sdd.teacher_value(pair) == dkd.teacher_value(pair)
        for method in ("vanilla", "kd", "dkd"):
            assert sdd.value(pair, method) == dkd.value(pair, method)


def test_unknown_table_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'sdd/table2'"):
        published.lookup(["sdd/tabel2"], "vgg13:vgg8", "kd")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": {"kd": (70.0,)}}, "row kd: 1 values for 2 pairs"),
        ({"teacher": (70.0,)}, "row teacher"),
        ({"rows": {"kd": (0.7, 170.0)}}, "not in percent"),
        ({"pairs": ("a:b", "a:b")}, "twice"),
        ({"colums": ()}, "Extra inputs"),
    ],
)
def test_malformed_tables_are_refused(change: dict[str, object], message: str) -> None:
    fields: dict[str, object] = {
        "id": "x/y", "title": "", "source": "", "confidence": "read", "metric": "", "selection": "",
        "pairs": ("a:b", "c:d"), "rows": {},
    }  # fmt: skip
    with pytest.raises(ValidationError, match=message):
        PublishedTable.model_validate(fields | change)
