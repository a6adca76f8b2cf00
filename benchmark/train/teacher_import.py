"""Weights that others trained, imported as teachers: of mdistiller's checkpoints, and of torchvision's files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import models
from benchmark import machine
from benchmark.datasets.base import DataSet
from benchmark.errors import UserError
from benchmark.train.lane import weights_of
from benchmark.train.teacher_store import Manifest, first_line, measure, network_with, store

#: torchvision's files end in the first digits of their sha256
_HASHED = re.compile(r"(?P<name>\w+)-(?P<sha256>[0-9a-f]{8})\.pth", re.ASCII)
_NAMED = re.compile(r"torchvision-(?P<name>\w+)\.(pth|safetensors)", re.ASCII)
EXPECTED = "<network>_vanilla/ckpt_epoch_240.pth, or torchvision's <network>-<8 digits>.pth"
#: points of accuracy by which decoding and devices may differ from torchvision's
TOLERANCE = 0.2


def import_folder(source: Path, teachers: Path, data: DataSet, device: torch.device) -> Iterator[Manifest]:
    """Import the weights of a folder; each is loaded strictly, evaluated on the test set and stored as safetensors.

    Yields each manifest when it is stored. A folder that others use too, such as that of torch's hub, may hold weights
    that do not fit: the rest is imported first.

    | file | model |
    | --- | --- |
    | `<network>_vanilla/ckpt_epoch_240.pth`, weights under the key "model" | `<network>`, of this project |
    | `<network>-<8 digits of its sha256>.pth`, as torchvision names it | `torchvision/<network>` |
    | `torchvision-<network>.pth` or `.safetensors` | `torchvision/<network>` |

    Raises:
        UserError: when nothing is recognised, when two files are of one network, and at the end for weights that are
            damaged or do not fit.
    """
    found = [(path, _model_of(path)) for path in sorted(source.glob("*/ckpt_epoch_240.pth"))]
    found += [(path, _torchvisions(path)) for path in sorted(source.glob("*")) if not path.is_dir()]
    by_model: dict[str, list[Path]] = {}
    for path, model in found:
        if model is not None:
            by_model.setdefault(model, []).append(path)
    if not by_model:
        raise UserError(
            f"no published checkpoint under {source}: expected {EXPECTED}; networks are those of"
            " `python -m benchmark list models`"
        )
    for model, paths in by_model.items():
        if len(paths) > 1:
            raise UserError(
                f"{' and '.join(path.name for path in paths)} are both weights of {model}, which has one teacher: move"
                f" the others out of {source}"
            )
    refused = []
    for model, (path,) in by_model.items():
        try:
            yield _import(path, model, teachers, data, device)
        except UserError as error:
            refused.append(str(error))
    if refused:
        raise UserError("; ".join(refused))


def beside_torchvisions(manifest: Manifest) -> str:
    """Set the accuracy of imported weights beside the one that torchvision gives for its file; empty for others."""
    name = Path(manifest.origin).name
    hashed = _HASHED.fullmatch(name)
    if hashed is None or manifest.dataset.partition("[")[0] != "imagenet":
        return ""
    from torchvision.models import get_model_weights  # slow to import

    own: list[Any] = [one for one in get_model_weights(hashed["name"]) if one.url.endswith(f"/{name}")]
    if not own:
        return ""
    top1, side = own[0].meta["_metrics"]["ImageNet-1K"]["acc@1"], own[0].transforms().resize_size[0]
    text = f"; torchvision gives {top1:.2f}%"
    if side != 256:
        return f"{text}, of images whose shorter side is {side}, not 256"
    if manifest.dataset != "imagenet" or abs(manifest.test_top1 - top1) <= TOLERANCE:
        return text
    return f"{text}: WARNING, they differ, so that these are not the images or not the classes of torchvision"


def _model_of(path: Path) -> str | None:
    folder = path.parent.name.lower()
    name = folder.removesuffix("_vanilla")
    # the published archive spells some networks in its own way
    name = {"mobilenetv2": "mobilenet_v2", "shufflev1": "shufflenet_v1", "shufflev2": "shufflenet_v2"}.get(name, name)
    return name if name in models.names() else None


def _torchvisions(path: Path) -> str | None:
    match = _HASHED.fullmatch(path.name) or _NAMED.fullmatch(path.name)
    if match is None:
        return None
    from torchvision.models import list_models  # slow to import

    return f"torchvision/{match['name']}" if match["name"] in list_models() else None


def _import(path: Path, model: str, teachers: Path, data: DataSet, device: torch.device) -> Manifest:
    network = network_with(model, published_weights(path), data, str(path))
    weights = weights_of(network)
    top1 = measure(network, data, device)
    described = machine.describe_device(device)
    _, manifest = store(teachers, data, model, weights, test_top1=top1, device=described, origin=str(path))
    return manifest


def published_weights(path: Path) -> dict[str, Tensor]:
    """Read published weights; nothing in the file is executed. Raises UserError for one that is not weights by name."""
    if not path.is_file():  # opening a pipe would wait for its writer
        raise UserError(f"checkpoint {path} cannot be read: it is not a file")
    if hashed := _HASHED.fullmatch(path.name):
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if not found.startswith(hashed["sha256"]):
            raise UserError(f"checkpoint {path} is damaged: its sha256 begins with {found[:8]}; download it again")
    try:
        if path.suffix == ".safetensors":
            content: object = load_file(path)
        else:
            content = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        raise UserError(f"checkpoint {path} cannot be read: {first_line(error)}") from error
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f'checkpoint {path} holds no weights under the key "model"')
    weights = {str(name).removeprefix("module."): value for name, value in state.items()}
    for name, value in weights.items():
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized or value.is_complex():
            raise UserError(f"checkpoint {path}: {name} is no plain tensor of numbers ({value.dtype}, {value.layout})")
        if not value.isfinite().all():
            raise UserError(f"checkpoint {path}: {name} has values that are not finite")
    return weights
