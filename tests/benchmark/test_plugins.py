"""Methods, networks, data sets and suites outside the clone."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path

import pytest
import yaml
from rich.console import Console

import benchmark.__main__ as looking
import distillers
import models
from benchmark import command_line, plugins, registry, run, tracking
from reports.__main__ import parser as reporting
from tests.conftest import make_config
from tests.mistakes import refusal

pytestmark = pytest.mark.usefixtures("plugins_are_forgotten")

ROOT = Path(__file__).resolve().parents[2]
#: the example of docs/extending.md
EXAMPLE = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(), re.DOTALL)[-1]
TINY = {
    "title": "tiny",
    "data": {"name": "digits", "num_train": 64, "num_test": 32},
    "recipe": {"epochs": 1, "batch_size": 32},
    "seeds": 1,
    "methods": {"vanilla": {}, "l1": {}},
    "pairs": [{"teacher": "resnet8_half", "student": "resnet8_half"}],
}
METHOD = """
from distillers.sample_loss import SampleLoss, sample_loss

@sample_loss("{name}", title="{name}")
class Mine(SampleLoss):
    '''A difference.'''

    def per_sample(self, student_NK, teacher_NK, target_N):
        return (student_NK - teacher_NK).abs().mean(-1)
"""
NETWORKS = """
from models.base import registry

registry.add("my_net", registry.get("resnet8_half"))
registry.family("mine", registry.get)
"""


def forget(*methods: str) -> None:
    """Be a process again that has loaded no plugin."""
    for name in methods:
        distillers.registry.remove(name)
    plugins._loaded.clear()


def plugin(folder: Path, text: str = "", name: str = "mine") -> Path:
    path = folder / f"{name}.py"
    path.write_text(text or METHOD.format(name=name))
    return path


def signature(method: str = "kd", **changes: object) -> str:
    return make_config(method, **changes).signature("digest", "checksum")


@pytest.mark.processes
def test_the_documented_plugin_trains_and_is_recorded(tmp_path: Path, runs_folder: Path) -> None:
    path = plugin(tmp_path, EXAMPLE)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(TINY))
    words = ["mine", "--plugin", str(path), "--runs", str(runs_folder), "--engine", "inline"]
    assert run.main(words, Console(quiet=True)) == 0
    tracker = tracking.Tracker(runs_folder)
    tracked = tracker.runs_in(list(tracker.experiments().values()))
    found = {(one.tags["role"], one.tags["method"]): one for one in tracked}
    checksum = hashlib.sha256(EXAMPLE.encode()).hexdigest()
    plugged = {key: one.tags["plugins"] for key, one in found.items() if "plugins" in one.tags}
    assert len(found) == 3
    assert plugged == {("student", "l1"): f"mine.py sha256:{checksum}"}
    tracker.download(found["student", "l1"].run_id, tmp_path / "stored")
    assert (tmp_path / "stored" / "mine.py").read_text() == EXAMPLE


def test_commands_that_list_and_show_know_it(tmp_path: Path) -> None:
    one, other = plugin(tmp_path, name="one"), plugin(tmp_path, name="other")
    text = io.StringIO()
    console = Console(file=text, width=140)
    # before and after the command's name
    assert looking.main(["--plugin", str(one), "list", "methods", "--plugin", str(other)], console) == 0
    assert {"one", "sdd_one", "other", "sdd_other"} <= set(text.getvalue().split())
    assert looking.main(["show", "sdd_one", "--plugin", str(one)], console) == 0
    assert "SD-one (sdd_one)" in text.getvalue()


def test_only_runs_that_use_it_have_a_signature_of_their_own(tmp_path: Path) -> None:
    before = {method: signature(method) for method in ("vanilla", "kd", "sdd_mlkd")}
    path = plugin(tmp_path, METHOD.format(name="mine") + NETWORKS)

    def signatures() -> set[str]:
        plugins.load([path])
        assert {method: signature(method) for method in before} == before
        teachers = (signature(teacher=teacher) for teacher in ("my_net", "mine/resnet8"))
        students = (signature(student=student) for student in ("my_net", "mine/resnet8"))
        return {signature("mine"), signature("sdd_mine"), *students, *teachers}

    first = signatures()
    assert len(first) == 5  # the teacher's name is in none: its checksum is, and where its code is from
    assert not first & set(before.values())
    assert set(make_config("mine", student="my_net").origins()) == {"method", "student"}

    forget("mine", "sdd_mine")
    models.registry.remove("my_net")
    del models.registry._families["mine"]
    path.write_text(f"{path.read_text()}# a comment")
    assert not signatures() & first


def test_a_data_set_of_a_plugin_is_in_the_signature(tmp_path: Path) -> None:
    text = "from benchmark.datasets import registry\nregistry.add('mine', registry.get('digits'))"
    plugins.load([plugin(tmp_path, text)])
    ours = make_config()
    assert ours.origins() == {}
    assert set(make_config(data=ours.data.model_copy(update={"name": "mine"})).origins()) == {"data"}


def test_another_process_loads_what_the_command_read(tmp_path: Path) -> None:
    path = plugin(tmp_path)
    plugins.load([path])
    plugins.load([path])  # once
    carried, expected = plugins.loaded(), signature("mine")
    forget("mine", "sdd_mine")
    path.write_text("changed = 'while it trained'")
    plugins.add(carried)
    assert signature("mine") == expected


def test_commands_that_a_report_prints_keep_it(tmp_path: Path) -> None:
    path = plugin(tmp_path)
    given = reporting().parse_args(["digits", "--plugin", str(path)])
    assert command_line.settings_of(given, "digits")[-2:] == ["--plugin", str(path)]
    assert command_line.choices_of(given)[-2:] == ["--plugin", str(path)]


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        (METHOD.format(name="kd"), "distiller 'kd' is there already; register it under another name"),
        ("from models.base import registry\nregistry.family('timm', None)", "model family 'timm' is there already"),
        ("import not_there", "line 1: ModuleNotFoundError: No module named 'not_there'"),
        ("\nx = (", "line 2: '(' was never closed"),
        ("def f():\n    raise OSError('a\\nb')\nf()", "line 2: OSError: a b"),
        ("import sys\nsys.exit(0)", "line 2: SystemExit: 0"),
        ("import distillers\ndistillers.create('kdd')", "line 2: unknown distiller 'kdd'; did you mean 'kd'?"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_refused(tmp_path: Path, text: str, refused: str) -> None:
    path = plugin(tmp_path, text)
    assert refusal(looking.main, "list", "--plugin", str(path)).startswith(f"--plugin {path}: {refused}")


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    for main, *words in ([run.main], [looking.main, "list"]):
        assert refusal(main, *words, "--plugin", "gone.py") == "--plugin gone.py: No such file or directory"
        refused = refusal(main, *words, "--plugin", str(tmp_path))
        assert refused == f"--plugin {tmp_path}: a plugin is a Python file, FILE.py"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with an entry point, as an installer leaves it."""
    package = tmp_path / f"package_{tmp_path.parent.name}_{tmp_path.name}".replace("-", "_")
    package.mkdir()
    (package / "__init__.py").write_text("from . import method")
    (package / "method.py").write_text(METHOD.format(name="packed"))
    about = tmp_path / "mine-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Name: mine\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[{plugins.GROUP}]\nmethods = {package.name}\n")
    monkeypatch.syspath_prepend(tmp_path)
    return package


def test_an_installed_package_is_loaded_by_its_entry_point(installed: Path) -> None:
    command_line.Parser("any").parse_args([])
    origin = registry.origin_of("distiller", "sdd_packed")
    assert origin is not None
    assert origin.name == "mine:methods"
    (installed / "method.py").write_text("# changed")
    assert plugins._digest(installed.name) != origin.sha256


def test_an_installed_package_that_is_broken_is_named(installed: Path) -> None:
    (installed / "method.py").write_text("import not_there")
    why = "ModuleNotFoundError: No module named 'not_there'; repair or uninstall its package"
    assert refusal(looking.main, "list") == f"installed plugin 'mine:methods': {why}"
