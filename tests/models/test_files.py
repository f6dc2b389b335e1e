"""Other people's recognisers: TorchScript, state dicts and ONNX behind one door, and what is said of wrong ones."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from utils.audit import audit, make_case
from utils.experiments.plan import Plan, check_plan, face_size, references
from utils.models import finetuning
from utils.models.backbones import BACKBONES, FaceBackbone, card_of, make_backbone
from utils.models.checkpoints import EMBEDDED, TrainConfig, room_for
from utils.models.embedding import embed
from utils.models.files import FileBackbone
from utils.models.finetuning import FinetuneConfig, finetune
from utils.models.interface import Card, Lacking, take_after
from utils.models.training import load_or_train
from utils.settings import MODEL_DIR, CourseError
from utils.unlearning.loop import unlearn
from utils.unlearning.methods.adapters import last_layers

MINI = {"input_size": 64, "embedding_dim": 128}


class Inner(nn.Module):
    """The embedded network without the course's interface, as somebody else might hand it over."""

    def __init__(self, last: nn.Module | None = None):
        super().__init__()
        mini = make_backbone("mini")
        weights = load_file(MODEL_DIR / EMBEDDED["original"])
        mini.load_state_dict({k[6:]: v for k, v in weights.items() if k.startswith("model.")})
        self.layers = nn.Sequential(mini.stem, mini.stages, mini.embedding, *([last] if last else []))

    def forward(self, x):
        return self.layers(x)


def put(folder: Path, network: nn.Module, told: dict | None = None, name: str = "theirs.pt", size: int = 64) -> str:
    """Write a TorchScript file and its description; return the name of the backbone."""
    network = network.eval()
    torch.jit.trace(network, torch.zeros(2, 3, size, size), check_trace=False).save(str(folder / name))
    (folder / name).with_suffix(".json").write_text(json.dumps(MINI if told is None else told))
    return f"file:{folder / name}"


def test_a_torchscript_network_gives_the_same_embeddings(tmp_path, tiny_faces):
    name, inner = put(tmp_path, Inner()), Inner().eval()
    model, photos = make_backbone(name, "auto"), np.arange(5)
    with torch.no_grad():
        wanted = inner((tiny_faces.images(photos).float() - 127.5) / 128)
    assert torch.allclose(embed(model, tiny_faces, photos, normalised=False), wanted, atol=1e-4)


def test_a_state_dict_needs_the_name_of_its_architecture(tmp_path, tiny_faces):
    mini = Inner().layers
    state = {f"{part}.{k}": v for part, module in zip(("stem", "stages", "embedding"), mini, strict=True)
             for k, v in module.state_dict().items()}  # fmt: skip
    torch.save(state, tmp_path / "weights.pth")
    beside, name = tmp_path / "weights.json", f"file:{tmp_path / 'weights.pth'}"
    beside.write_text(json.dumps(MINI))
    with pytest.raises(CourseError, match="must say the architecture"):
        make_backbone(name, "auto")
    beside.write_text(json.dumps(MINI | {"architecture": "mini"}))
    model = make_backbone(name, "auto")
    assert torch.equal(model.state_dict()["stem.0.weight"], state["stem.0.weight"]) and model.name == name
    assert list(model.layers())[0] == "stem"
    del state["stem.0.weight"]
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(CourseError, match="no weights of the mini architecture"):
        make_backbone(name, "auto")


def test_it_runs_where_a_backbone_runs_and_results_keep_no_path(tmp_path, tiny_splits):
    name = put(tmp_path, Inner(), MINI | {"crop_size": 80})
    plan = Plan(backbone=name)
    check_plan(plan)
    assert face_size(plan) == 80 and references(plan) == ("original",)
    assert card_of(name).label.startswith("file:theirs-") and str(tmp_path) not in card_of(name).label
    found = load_or_train(tiny_splits, backbone=name, device="cpu", progress=False)
    assert "theirs.pt" in found.source and "not known" in found.source
    outcome = unlearn("dispersion", found.model, found.head, tiny_splits, steps=2, device="cpu", progress=False)
    assert outcome.history and isinstance(outcome.model, FaceBackbone)
    scrambled = make_backbone(name, "none")
    assert not torch.allclose(*(next(m.parameters()) for m in (scrambled, found.model)))


def test_what_needs_layers_says_in_a_sentence_that_a_scripted_network_shows_none(tmp_path, tiny_splits):
    found = load_or_train(tiny_splits, backbone=put(tmp_path, Inner()), device="cpu", progress=False)
    for method, said in (("gs_lora", "shows no convolution"), ("esc_folded", "last linear map.*RecursiveScriptModule")):
        with pytest.raises(Lacking, match=said):
            unlearn(method, found.model, found.head, tiny_splits, device="cpu", progress=False)
    case = make_case(tiny_splits, (found.model, found.head), device="cpu")
    for row in audit(case, ["layers", "batchnorm", "int8", "int4", "pruned_10", "distil_back"]):
        assert math.isnan(row["score"]) and "shows no" in row["note"] or "no earlier parts" in row["note"], row
    assert all(weight.requires_grad for weight in copy.deepcopy(found.model).parameters())


def test_layers_are_found_where_a_converted_network_shows_some(tiny_faces):
    for network, count in ((Inner(), 4), (nn.Sequential(nn.Flatten(), nn.Linear(192, 8)), 1)):
        model = FileBackbone(torch.fx.symbolic_trace(network))  # as of ONNX
        take_after(model, Card("theirs", embedding_dim=8, input_size=64 if count > 1 else 8, crop_size=64))
        assert len(last_layers(model.eval())) == count
    with pytest.raises(CourseError, match="Unknown part 'body'; choose one of: embedding"):
        model.let_only_move(["body"])


def test_it_can_be_trained_fine_tuned_and_found_again(tmp_path, tiny_splits, own_cache):
    name, once = put(tmp_path, Inner()), {"epochs": 1}
    for make in (
        lambda: load_or_train(
            tiny_splits, backbone=name, pretrained="none", config=TrainConfig(**once), progress=False
        ),
        lambda: finetune(tiny_splits, backbone=name, start="none", config=FinetuneConfig(**once), progress=False),
    ):
        first, found = make(), make()
        assert "just now" in first.source and found.source.startswith("loaded from")
        points = [embed(one.model, tiny_splits.faces, np.arange(3)) for one in (first, found)]
        assert torch.allclose(*points, atol=1e-4)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_place_must_take_more_than_the_model_before_it_is_trained(name):
    model = make_backbone(name)
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    assert 1.2 * size < room_for(model) < 2 * size + (16 << 20)


def test_another_file_or_description_is_another_model_to_results(tmp_path):
    name = put(tmp_path, Inner())
    first = card_of(name).label
    (tmp_path / "theirs.json").write_text(json.dumps(MINI | {"scale": 127.5}))
    second = card_of(name).label
    put(tmp_path, Inner(nn.Linear(128, 128)))
    assert len({first, second, card_of(name).label}) == 3


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"input_size": 64}, "does not say embedding_dim"),
        (MINI | {"color": "rgb"}, "holds 'color'"),
        (MINI | {"colour": "grey"}, "order of colours"),
        (MINI | {"window": [0.5, 0.5, 0.6]}, "outside the photo"),
        (MINI | {"window": [0.5, 0.5]}, "does not fit together"),
        (MINI | {"scale": 0}, "needs a scale"),
        ([1], "no list of names"),
        (MINI | {"embedding_dim": 64}, r"gives \(128,\) numbers a photo, and its description says 64"),
        (MINI | {"input_size": 48}, "takes no photos of 48 pixels"),
    ],
)
def test_a_wrong_description_is_one_sentence(told, said, tmp_path):
    with pytest.raises(CourseError, match=said):
        make_backbone(put(tmp_path, Inner(), told), "auto")


class Chance(nn.Module):
    def forward(self, x):
        return torch.randn(x.shape[0], 128)


class Constant(nn.Module):
    def forward(self, x):
        return torch.ones(x.shape[0], 128) + 1e-6 * x.flatten(1)[:, :128]


class Sides(nn.Module):
    """Sees only whether the left is brighter than the right, column by column."""

    def forward(self, x):
        columns = x.mean(dim=(1, 2))
        return (columns - columns.flip(1)).repeat(1, 2)


@pytest.mark.parametrize(
    ("network", "said"),
    [(Chance(), "left to chance"), (Constant(), "tells no two people apart"), (Sides(), "mirror image less like it")],
)
def test_a_network_that_is_no_recogniser_is_found_by_the_check(network, said, tmp_path):
    torch.manual_seed(0)
    with pytest.raises(CourseError, match=said):
        make_backbone(put(tmp_path, network), "auto")


def test_a_file_that_is_none_is_one_sentence(tmp_path):
    with pytest.raises(CourseError, match="no file at"):
        card_of(f"file:{tmp_path / 'absent.pt'}")
    (tmp_path / "junk.pt").write_bytes(b"nothing of the kind")
    with pytest.raises(CourseError, match="describe the network there"):
        card_of(f"file:{tmp_path / 'junk.pt'}")
    (tmp_path / "junk.json").write_text(json.dumps(MINI | {"architecture": "mini"}))
    with pytest.raises(CourseError, match="no weights of the mini"):
        make_backbone(f"file:{tmp_path / 'junk.pt'}", "auto")


# -------------------------------------------------------------------------------------------------------------- ONNX


def onnx_file(folder: Path, *, inputs: int = 1, rank: int = 4, last: str = "") -> str:
    """Write a small ONNX recogniser: a fixed random projection of the pixels, with what may be wrong with one."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnx2torch")
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).normal(size=(3 * 8 * 8, 16)).astype(np.float32)
    shape = ["n", 3, 8, 8][:rank]
    given = [helper.make_tensor_value_info(f"x{k}", TensorProto.FLOAT, shape) for k in range(inputs)]
    nodes = [helper.make_node("Flatten", ["x0"], ["f"], axis=1)]
    nodes += [helper.make_node("Gemm", ["f", "w"], ["y"])]
    nodes += [helper.make_node(last, ["y"], ["z"])] if last else []
    out = helper.make_tensor_value_info("z" if last else "y", TensorProto.FLOAT, ["n", 16])
    graph = helper.make_graph(nodes, "theirs", given, [out], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(folder / "theirs.onnx"))
    (folder / "theirs.json").write_text(json.dumps({"input_size": 8, "crop_size": 64, "embedding_dim": 16}))
    return f"file:{folder / 'theirs.onnx'}"


def test_an_onnx_network_is_what_its_numbers_say(tmp_path, tiny_faces):
    model = make_backbone(onnx_file(tmp_path), "auto")
    weight = torch.from_numpy(np.random.default_rng(0).normal(size=(3 * 8 * 8, 16)).astype(np.float32))
    x = model.preprocess(tiny_faces.images(np.arange(3)))
    with torch.no_grad():
        assert torch.allclose(model(x), x.flatten(1) @ weight, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"inputs": 2}, "has 2 inputs"), ({"rank": 3}, "has rank 3"), ({"last": "Softmax"}, "ends with Softmax")],
)
def test_an_onnx_file_that_is_no_recogniser_is_one_sentence(wrong, said, tmp_path):
    with pytest.raises(CourseError, match=said):
        make_backbone(onnx_file(tmp_path, **wrong), "auto")


def test_a_broken_onnx_file_or_missing_packages_are_one_sentence(tmp_path):
    (tmp_path / "theirs.onnx").write_bytes(b"junk" * 9)
    (tmp_path / "theirs.json").write_text(json.dumps(MINI))
    with pytest.raises(CourseError, match="no ONNX file|pip install onnx2torch"):
        make_backbone(f"file:{tmp_path / 'theirs.onnx'}", "auto")


def test_the_cost_of_a_step_is_measured_for_a_foreign_network_and_an_unknown_one_is_one_sentence(tmp_path, capsys):
    name = put(tmp_path, Inner())
    assert finetuning.main(["--cost", "--backbone", name, "--batch-size", "2", "--device", "cpu"]) == 0
    assert "nothing" in capsys.readouterr().out
    assert finetuning.main(["--cost", "--backbone", "minni"]) == 2
    assert "mini" in capsys.readouterr().err
