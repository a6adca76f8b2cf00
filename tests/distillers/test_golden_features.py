"""Losses of feature methods, their gradients and those of their side modules, equal the released codes' values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import distillers
from distillers import Outputs, crd
from distillers.base import Extras
from distillers.ctkd import Temperature
from distillers.feature_loss import FeatureDistiller
from distillers.fitnet import Regressor
from distillers.mgd import Generation
from distillers.network import Stages
from distillers.ofd import Connectors, margins, partial_l2
from distillers.reviewkd import Fusion
from distillers.semckd import Calibration
from distillers.simkd import Reuse
from distillers.vid import Predictor

GOLDEN = Path(__file__).parents[1] / "golden"
CASES: dict[str, list[dict[str, Any]]] = json.loads((GOLDEN / "next_losses.json").read_text())["cases"]


def tensor(values: Any, grad: bool = False) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).requires_grad_(grad)


def close(actual: Tensor | None, expected: Any) -> None:
    assert actual is not None
    torch.testing.assert_close(actual.detach(), tensor(expected), rtol=1e-9, atol=1e-9)


def seen(
    maps: Sequence[Tensor] = (), pre: Sequence[Tensor] = (), last: Tensor | None = None, head: Any = None
) -> Outputs:
    """Outputs whose features are given; the last map is the last of the stages unless it is given."""
    last = last if last is not None else maps[-1]
    logits = last.new_zeros(len(last), 2)
    return Outputs(logits, logits[:, None][:, :0], Stages(tuple(maps), tuple(pre), last), head)


def pooled(embedding_BD: Tensor) -> Outputs:
    """Outputs whose last map has one place."""
    return seen(last=embedding_BD[:, :, None, None])


def loss_of(
    method: str,
    student: Outputs,
    teacher: Outputs,
    modules: nn.Module | None = None,
    epoch: int = 1000,
    index_B: Tensor | None = None,
    **fields: Any,
) -> Tensor:
    """A method's weighted loss on features; by default at an epoch after any warm-up."""
    distiller = distillers.create(method, **{method: fields})
    assert isinstance(distiller, FeatureDistiller)
    target_B = torch.zeros(len(student.logits), dtype=torch.int64)
    return distiller.losses({"weak": student}, {"weak": teacher}, target_B, epoch, Extras(modules, index_B))["feature"]


def loaded(module: nn.Module, weights: Mapping[str, Any]) -> nn.Module:
    """A module in double precision with the given weights; counters of batches are left."""
    made = module.double().train()
    missing = made.load_state_dict({name: tensor(value) for name, value in weights.items()}, strict=False)
    assert not missing.unexpected_keys and all(key.endswith("num_batches_tracked") for key in missing.missing_keys)
    return made


def check_modules(module: nn.Module, expected: Mapping[str, Any]) -> None:
    """Compare the gradients and the buffers of side modules."""
    gradients = {name: parameter.grad for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert gradients.keys() == expected["weight_grad"].keys()
    for name, gradient in gradients.items():
        close(gradient, expected["weight_grad"][name])
    buffers = dict(module.named_buffers())
    for name, value in expected.get("buffers_after", {}).items():
        close(buffers[name], value)


def stages(case: Mapping[str, Any], name: str, grad: bool = False) -> list[Tensor]:
    """The maps of a case, the stem's left out."""
    return [tensor(values, grad) for values in case["inputs"][name][1:]]


def check_stages(case: Mapping[str, Any], students: Sequence[Tensor], name: str = "student_feats") -> None:
    for student, expected in zip(students, case["expected"]["grad"][name][1:], strict=True):
        close(student.grad if student.grad is not None else torch.zeros_like(student), expected)


@pytest.mark.parametrize(("method", "case"), [(name, case) for name in ("at", "sp", "nst") for case in CASES[name]])
def test_stages(method: str, case: dict[str, Any]) -> None:
    students = stages(case, "student_feats", grad=True)
    loss = loss_of(method, seen(students), seen(stages(case, "teacher_feats")), weight=case["settings"]["weight"])
    loss.backward()
    close(loss, case["expected"]["loss"])
    check_stages(case, students)


@pytest.mark.parametrize("case", CASES["fitnet"])
def test_fitnet(case: dict[str, Any]) -> None:
    students, teachers = stages(case, "student_feats", grad=True), stages(case, "teacher_feats")
    stage = case["settings"]["stage"]
    shapes = [(maps[stage - 1].shape[1], maps[stage - 1].shape[2]) for maps in (students, teachers)]
    module = loaded(Regressor(*shapes), case["weights"])
    loss = loss_of("fitnet", seen(students), seen(teachers), module, stage=stage, weight=case["settings"]["weight"])
    loss.backward()
    close(loss, case["expected"]["loss"])
    check_stages(case, students)
    check_modules(module, case["expected"])


@pytest.mark.parametrize(("method", "case"), [(name, case) for name in ("rkd", "pkt") for case in CASES[name]])
def test_embeddings(method: str, case: dict[str, Any]) -> None:
    student = tensor(case["inputs"]["student_pooled"], grad=True)
    settings = {key: value for key, value in case["settings"].items() if key != "eps"}
    loss = loss_of(method, pooled(student), pooled(tensor(case["inputs"]["teacher_pooled"])), **settings)
    loss.backward()
    close(loss, case["expected"]["loss"])
    close(student.grad, case["expected"]["grad"]["student_pooled"])


def test_cc() -> None:
    (case,) = CASES["cc"]
    student = tensor(case["inputs"]["student"], grad=True)
    module = loaded(
        nn.ModuleDict({"student": nn.Linear(8, 5), "teacher": nn.Linear(10, 5)}),
        {name.replace(".linear", ""): value for name, value in case["weights"].items()},
    )
    loss = loss_of("cc", pooled(student), pooled(tensor(case["inputs"]["teacher"])), module, **case["settings"])
    loss.backward()
    close(loss, case["expected"]["loss"])
    close(student.grad, case["expected"]["grad"]["student"])
    for name, expected in case["expected"]["weight_grad"].items():
        close(module.get_parameter(name.replace(".linear", "")).grad, expected)


def predictors(*channels: tuple[int, int], is_trained: bool) -> nn.ModuleList:
    """VID's modules in double precision; the initial scale stays rounded to single, as in the released code."""
    return nn.ModuleList(Predictor(s, t, 5.0, is_trained) for s, t in channels).double()


def test_vid_of_mdistiller_whose_variances_stay() -> None:
    (case,) = CASES["vid"]
    students, teachers = stages(case, "student_feats", grad=True), stages(case, "teacher_feats")
    pairs = zip(students, teachers, strict=True)
    module = predictors(*((s.shape[1], t.shape[1]) for s, t in pairs), is_trained=False)
    weights = {name.replace(".", ".regressor.", 1): tensor(value) for name, value in case["weights"].items()}
    assert not module.load_state_dict(weights, strict=False).unexpected_keys
    loss = loss_of("vid", seen(students), seen(teachers), module)
    loss.backward()
    close(loss, case["expected"]["loss"])
    check_stages(case, students)
    for name, expected in case["expected"]["weight_grad"].items():
        close(module.get_parameter(name.replace(".", ".regressor.", 1)).grad, expected)


def test_vid_of_crd_whose_variances_are_trained() -> None:
    (case,) = CASES["vid_trained_scale"]
    student, teacher = tensor(case["inputs"]["student"], grad=True), tensor(case["inputs"]["teacher"])
    module = loaded(predictors((4, 5), is_trained=True), {f"0.{key}": each for key, each in case["weights"].items()})
    loss = loss_of("vid", seen([student]), seen([teacher]), module)
    loss.backward()
    close(loss, case["expected"]["loss"])
    close(student.grad, case["expected"]["grad"]["student"])
    check_modules(module.get_submodule("0"), case["expected"])


@pytest.mark.parametrize("case", CASES["ctkd"])
def test_ctkd(case: dict[str, Any]) -> None:
    settings, inputs = case["settings"], case["inputs"]
    assert (settings["temperature_start"], settings["temperature_range"]) == (1, 20)
    student = tensor(inputs["student"], grad=True)
    module = loaded(Temperature(), {"theta": case["weights"]["global_T"]})
    distiller = distillers.create("ctkd", ctkd={"weight": settings["weight"]})
    shown = {"weak": Outputs(tensor(inputs["teacher"]), student[:, None][:, :0])}
    own = {"weak": Outputs(student, student[:, None][:, :0])}
    target = torch.tensor(inputs["target"])
    loss = distiller.losses(own, shown, target, settings["epoch_from_1"], Extras(module))["kd"]
    loss.backward()
    close(loss, case["expected"]["loss"])
    close(student.grad, case["expected"]["grad"]["student"])
    close(module.get_parameter("theta").grad, case["expected"]["weight_grad"]["global_T"])
    at_tensor = distiller.losses(own, shown, target, torch.tensor(settings["epoch_from_1"]), Extras(module))["kd"]
    close(at_tensor, case["expected"]["loss"])


@pytest.mark.parametrize("case", CASES["cat_kd"])
def test_cat_kd(case: dict[str, Any]) -> None:
    """The values start from class maps, as those of a head that is the identity."""
    student = tensor(case["inputs"]["student_cam"], grad=True)
    settings = {"normalized" if key == "normalize" else key: value for key, value in case["settings"].items()}
    teacher = seen(last=tensor(case["inputs"]["teacher_cam"]), head=lambda x: x + 3.0)
    loss = loss_of("cat_kd", seen(last=student, head=lambda x: x + 5.0), teacher, **settings)
    loss.backward()
    close(loss, case["expected"]["loss"])
    close(student.grad, case["expected"]["grad"]["student_cam"])


@pytest.mark.parametrize("case", CASES["simkd"])
def test_simkd(case: dict[str, Any]) -> None:
    student, teacher = tensor(case["inputs"]["student_map"], grad=True), tensor(case["inputs"]["teacher_map"])
    head = nn.Linear(teacher.shape[1], len(case["teacher_head"]["bias"])).double()
    head.load_state_dict({name: tensor(value) for name, value in case["teacher_head"].items()})
    factor, side = case["settings"]["factor"], teacher.shape[2]
    reuse = Reuse(student.shape[1], teacher.shape[1], factor, side, head)
    weights = {**case["weights"], **{f"head.{name}": value for name, value in case["teacher_head"].items()}}
    module = loaded(reuse, weights)
    distiller = distillers.create("simkd")
    loss = loss_of("simkd", seen([student]), seen(last=teacher), module)
    loss.backward()
    close(loss, case["expected"]["loss"])
    close(student.grad, case["expected"]["grad"]["student_map"])
    check_modules(module, case["expected"])
    again = loaded(Reuse(student.shape[1], teacher.shape[1], factor, side, head), weights)
    close(distiller.tested_logits(seen([student]), Extras(again)), case["student_logits_by_teacher_head"])


def test_srrl() -> None:
    (case,) = CASES["srrl"]
    student = tensor(case["inputs"]["student_pooled"], grad=True)
    head = nn.Linear(8, 7).double()
    head.load_state_dict({name: tensor(value) for name, value in case["teacher_head"].items()})
    connector = nn.Sequential(nn.Conv2d(6, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
    module = loaded(nn.ModuleDict({"transfer": connector}), case["weights"])
    teacher = pooled(tensor(case["inputs"]["teacher_pooled"]))
    teacher = teacher._replace(logits=tensor(case["inputs"]["teacher_logits"]), head=head)
    own = pooled(student)._replace(logits=torch.zeros(6, 7, dtype=torch.float64))
    loss = loss_of("srrl", own, teacher, module.get_submodule("transfer"))
    loss.backward()
    close(loss, case["expected"]["loss"])
    close(student.grad, case["expected"]["grad"]["student_pooled"])
    check_modules(module, case["expected"])


@pytest.mark.parametrize("case", CASES["reviewkd"])
def test_reviewkd(case: dict[str, Any]) -> None:
    settings, inputs = case["settings"], case["inputs"]
    students = [tensor(values, grad=True) for values in inputs["student_feats"]]
    embedding = tensor(inputs["student_pooled"], grad=True)
    widths = list(zip(settings["in_channels"], settings["out_channels"], strict=True))
    mid = min(512, settings["in_channels"][-1])
    fusions = [Fusion(s, mid, t, number == 0) for number, (s, t) in enumerate(reversed(widths))]
    module = loaded(nn.ModuleList(fusions), case["weights"])
    teacher = seen(pre=stages(case, "teacher_pre"), last=tensor(inputs["teacher_pooled"])[:, :, None, None])
    loss = loss_of(
        "reviewkd",
        seen(students, last=embedding[:, :, None, None]),
        teacher,
        module,
        epoch=settings["epoch"],
        weight=settings["weight"],
        warmup_epochs=settings["warmup_epochs"],
    )
    loss.backward()
    close(loss, case["expected"]["loss"])
    close(embedding.grad, case["expected"]["grad"]["student_pooled"])
    for student, expected in zip(students, case["expected"]["grad"]["student_feats"], strict=True):
        close(student.grad, expected)
    check_modules(module, case["expected"])


def test_ofd() -> None:
    (case,) = CASES["ofd"]
    students, teachers = stages(case, "student_pre", grad=True), stages(case, "teacher_pre")
    widths = [(s.shape[1], t.shape[1]) for s, t in zip(students, teachers, strict=True)]
    given = [tensor(values).flatten() for values in case["margins_float32"]]
    weights = {**case["weights"], **{f"margin{i}": margin_D.tolist() for i, margin_D in enumerate(given)}}
    module = loaded(Connectors(widths, given), weights)
    loss = loss_of("ofd", seen(pre=students, last=students[-1]), seen(pre=teachers, last=teachers[-1]), module)
    loss.backward()
    close(loss, case["expected"]["loss"])
    check_stages(case, students, "student_pre")
    check_modules(module, case["expected"])
    for weight, bias, expected in zip(case["bn_weight"], case["bn_bias"], given, strict=True):
        norm = nn.BatchNorm2d(len(weight)).double()
        norm.load_state_dict({"weight": tensor(weight), "bias": tensor(bias)}, strict=False)
        torch.testing.assert_close(margins(norm), expected, rtol=1e-6, atol=1e-6)


def test_the_partial_l2_of_ofd() -> None:
    (case,) = CASES["ofd_partial_l2"]
    student = tensor(case["inputs"]["student"], grad=True)
    loss = partial_l2(student, tensor(case["inputs"]["teacher"]), tensor(case["inputs"]["margin"]).flatten())
    loss.backward()
    close(loss, case["expected"]["loss"])
    close(student.grad, case["expected"]["grad"]["student"])


def test_itrd() -> None:
    (case,) = CASES["itrd"]
    student = tensor(case["inputs"]["student_pooled"], grad=True)
    prefix = "embed.linear."
    module = loaded(nn.Linear(5, 8), {name.removeprefix(prefix): each for name, each in case["weights"].items()})
    alpha = case["settings"]["alpha"]
    teacher = pooled(tensor(case["inputs"]["teacher_pooled"]))
    for weights in ({"correlation": 1, "mutual": 0}, {"correlation": 0, "mutual": 1}):
        (term,) = (name for name, weight in weights.items() if weight)
        loss = loss_of("itrd", pooled(student), teacher, module, alpha=alpha, **weights)
        close(loss, case["expected"]["terms"][term])
    loss = loss_of("itrd", pooled(student), teacher, module, alpha=alpha, correlation=1, mutual=1)
    loss.backward()
    close(loss, case["expected"]["loss"])
    close(student.grad, case["expected"]["grad"]["student_pooled"])
    gradients = {name.removeprefix(prefix): each for name, each in case["expected"]["weight_grad"].items()}
    check_modules(module, {"weight_grad": gradients})


def test_semckd() -> None:
    (case,) = CASES["semckd"]
    names = {"query_": "queries.", "key_": "keys.", "linear1": "0", "linear2": "2", ".regressor.": "."}

    def ours(values: Mapping[str, Any]) -> dict[str, Any]:
        """Values under our names, without those of layers that the released code makes and never uses."""
        named = {}
        for key, value in values.items():
            if key.startswith(("query", "key")) and ".regressor." in key:
                continue
            for theirs, mine in names.items():
                key = key.replace(theirs, mine)
            named[re.sub(r"^regressor(\d)(\d)", r"projectors.\1.\2", key)] = value
        return named

    students, teachers = (
        [tensor(values, name == "student") for values in case["inputs"][f"{name}_feats"]]
        for name in ("student", "teacher")
    )
    settings, expected = case["settings"], case["expected"]
    widths = [[x.shape[1] for x in maps] for maps in (students, teachers)]
    module = loaded(Calibration(*widths, 8, settings["factor"]), ours(case["weights"]))
    loss = loss_of(
        "semckd", seen(students), seen(teachers), module, weight=settings["weight"], softness=settings["soft"]
    )
    loss.backward()
    close(loss, expected["loss"])
    for student, gradient in zip(students, expected["grad"]["student_feats"], strict=True):
        close(student.grad, gradient)
    check_modules(module, {key: ours(expected[key]) for key in ("weight_grad", "buffers_after")})
    before = {name: value.clone() for name, value in module.state_dict().items()}
    fewer = [seen([x[:7] for x in maps]) for maps in (students, teachers)]
    assert loss_of("semckd", *fewer, module) == 0
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_mgd() -> None:
    """The numbers that decide which channels are kept are those of the case."""
    (case,) = CASES["mgd"]
    settings = case["settings"]
    uniform_BC = tensor(case["inputs"]["uniform"])[:, :, 0, 0]

    class Drawn(Generation):
        def uniform(self, index_B: Tensor, epoch: int | Tensor) -> Tensor:
            return uniform_BC

    student = tensor(case["inputs"]["student_map"], grad=True)
    teacher = seen(last=tensor(case["inputs"]["teacher_map"]))
    made = Drawn(student.shape[1], teacher.features.map.shape[1])
    module = loaded(made, {**case["weights"], "salt": int(made.salt)})
    index_B = torch.arange(len(student))
    loss = loss_of("mgd", seen(last=student), teacher, module, index_B=index_B, **settings)
    loss.backward()
    close(loss, case["expected"]["loss"])
    close(student.grad, case["expected"]["grad"]["student_map"])
    check_modules(module, case["expected"])


class Given(nn.Module):
    """Negatives that are given."""

    def __init__(self, index_BK: Tensor) -> None:
        super().__init__()
        self.index_BK = index_BK

    def forward(self, index_B: Tensor, target_B: Tensor, epoch: int) -> Tensor:
        return self.index_BK


CRD_NAMES = {
    "embed_s.linear": "student.linear",
    "embed_t.linear": "teacher.linear",
    "contrast.memory_v1": "student.memory_ND",
    "contrast.memory_v2": "teacher.memory_ND",
}


@pytest.mark.parametrize("whole_memory", [True, False])
def test_crd(whole_memory: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps: the first sets the constants, both move the memories."""
    if not whole_memory:
        monkeypatch.setattr(crd, "_WHOLE_MEMORY_UP_TO", 0)
    first, second = CASES["crd"]
    num_images, dimension = first["settings"]["num_data"], 4
    sides = [crd.Side(width, dimension, num_images).double() for width in (8, 10)]
    both = crd.Contrast(*sides, Given(torch.empty(0)), num_images)

    def ours(values: Mapping[str, Any]) -> dict[str, Any]:
        """Values under our names, the constants out of the released code's list of parameters."""
        named = {
            CRD_NAMES[key]
            if key in CRD_NAMES
            else f"{CRD_NAMES[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value
            for key, value in values.items()
            if key != "contrast.params"
        }
        if constants := values.get("contrast.params"):
            named |= {"student.constant": constants[2], "teacher.constant": constants[3]}
        return named

    module = loaded(both, ours(first["weights"]))
    for case in (first, second):
        for name, expected in ours(case["weights"]).items():
            close(module.state_dict()[name], expected)
        settings, inputs = case["settings"], case["inputs"]
        student = tensor(inputs["student_pooled"], grad=True)
        drawn = torch.tensor(inputs["contrast_index"])
        index_B = torch.tensor(inputs["index"])
        assert torch.equal(drawn[:, 0], index_B)
        both.negatives = Given(drawn[:, 1:])
        module.zero_grad()
        loss = loss_of(
            "crd",
            pooled(student),
            pooled(tensor(inputs["teacher_pooled"])),
            module,
            index_B=index_B,
            weight=settings["weight"],
            momentum=settings["momentum"],
            temperature=settings["temperature"],
        )
        loss.backward()
        expected = case["expected"]
        close(loss, expected["loss"])
        close(student.grad, expected["grad"]["student_pooled"])
        named = {key: ours(expected[key]) for key in ("weight_grad", "buffers_after")}
        check_modules(module, named)
