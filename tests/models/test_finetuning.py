"""Fine-tuning: what is frozen stays, what moves moves, checkpoints are found again by everything that decides them."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from utils.models import finetuning, training
from utils.models.backbones import MiniFaceNet
from utils.models.checkpoints import EMBEDDED, recipe_of, save_recogniser
from utils.models.embedding import embed
from utils.models.finetuning import FinetuneConfig, cost_table, finetune, frozen_front, starting_model, step_costs
from utils.settings import MODEL_DIR, CourseError

QUICK = FinetuneConfig(epochs=1, batch_size=16)


def state_by_part(model) -> dict[str, torch.Tensor]:
    """All weights and BatchNorm statistics of each part, as one vector."""
    parts = model.layers()
    return {
        name: torch.cat([value.float().flatten() for module in part for value in module.state_dict().values()])
        for name, part in parts.items()
    }


@pytest.mark.parametrize(("trainable", "moving"), [(0, []), (1, ["embedding"]), (2, ["stage 3", "embedding"])])
def test_only_the_last_parts_move_statistics_included(own_cache, tiny_splits, trainable, moving):
    before = state_by_part(starting_model("mini", "embedded"))
    config = replace(QUICK, trainable=trainable)
    recogniser = finetune(tiny_splits, config=config, device="cpu", progress=False)
    after = state_by_part(recogniser.model)
    assert [name for name in after if not torch.equal(before[name], after[name])] == moving
    assert all(weight.requires_grad for weight in recogniser.model.parameters())  # unlearning may move everything


def test_the_head_starts_at_the_centroids_and_knows_people_at_once(own_cache, tiny_splits):
    config = replace(QUICK, trainable=0, learning_rate=1e-9)
    recogniser = finetune(tiny_splits, config=config, device="cpu", progress=False)
    photos = tiny_splits.train
    rows = torch.from_numpy(tiny_splits.class_of(tiny_splits.faces.labels[photos]))
    points = embed(recogniser.model, tiny_splits.faces, photos)
    means = torch.stack([points[rows == k].mean(0) for k in range(len(tiny_splits.trained))])
    assert torch.allclose(recogniser.head.cosines(means).diagonal(), torch.ones(len(means)), atol=1e-4)
    assert (recogniser.head(points).argmax(1) == rows).float().mean() > 0.9


def test_it_trains_once_then_loads_and_can_refuse(own_cache, tiny_splits, monkeypatch):
    first = finetune(tiny_splits, config=QUICK, device="cpu", progress=False)
    monkeypatch.setattr(finetuning, "_finetune_now", lambda *_: pytest.fail("trained twice"))
    second = finetune(tiny_splits, config=QUICK, device="cpu", progress=False)
    assert torch.equal(first.head.weight, second.head.weight) and "loaded from" in second.source
    with pytest.raises(CourseError, match="No fine-tuned model"):
        finetune(tiny_splits, config=replace(QUICK, epochs=2), train=False, device="cpu", progress=False)


def test_another_start_is_another_checkpoint(own_cache, tiny_splits, tiny_recogniser, tmp_path):
    path = tmp_path / "mine.safetensors"
    mine = replace(tiny_recogniser, model=MiniFaceNet().eval())
    save_recogniser(path, mine, recipe_of(tiny_splits, tiny_splits.trained, "mini", "none", QUICK))
    for start in ("embedded", path, MODEL_DIR / EMBEDDED["original"]):  # the last is the first by another name
        finetune(tiny_splits, start=start, config=QUICK, device="cpu", progress=False)
    assert len(list((own_cache / "models").glob("*.safetensors"))) == 2


def test_without_forget_leaves_their_rows_out(own_cache, tiny_splits):
    recogniser = finetune(tiny_splits, config=QUICK, without_forget=True, device="cpu", progress=False)
    assert recogniser.head.weight.shape[0] == len(tiny_splits.retain_train)


def test_the_starting_model_is_left_alone(tiny_splits):
    model = MiniFaceNet().eval()
    before = copy.deepcopy(model.state_dict())
    with frozen_front(model, 1) as moving:
        assert moving == ["embedding"] and not model.stem[0].weight.requires_grad
    assert all(weight.requires_grad for weight in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_wrong_choices_are_one_sentence(own_cache, tiny_splits, tmp_path):
    with pytest.raises(CourseError, match="5 parts|trainable is 9"):
        finetune(tiny_splits, config=replace(QUICK, trainable=9), device="cpu", progress=False)
    with pytest.raises(CourseError, match="from 0 on"):
        FinetuneConfig(trainable=-1)
    with pytest.raises(CourseError, match="mini backbone"):
        starting_model("facenet", "embedded")
    with pytest.raises(CourseError, match="embedded, vggface2"):
        starting_model("mini", "imagenet")
    with pytest.raises(CourseError, match="no checkpoint"):
        starting_model("mini", tmp_path / "absent.safetensors")
    with pytest.raises(CourseError, match="not 'facenet'"):
        starting_model("facenet", MODEL_DIR / EMBEDDED["original"])


def test_costs_grow_with_what_moves():
    rows = step_costs("mini", batch_size=4, steps=1, device="cpu")
    assert [len(row["moving"]) for row in rows] == [0, 1, 2, 3, 4, 5]
    assert rows[0]["weights"] == 100 * 128 and rows[-1]["weights"] > 1_000_000
    assert "nothing" in cost_table(rows) and cost_table(rows).count("\n") == 6


def test_a_centred_model_is_centred_on_the_training_photos_of_those_who_stay(own_cache, tiny_splits, monkeypatch):
    seen = []
    monkeypatch.setattr(MiniFaceNet, "card", replace(MiniFaceNet.card, centred=True))
    monkeypatch.setattr(training, "centre_on", lambda model, faces, photos, **_: seen.append(photos.tolist()))
    finetune(tiny_splits, config=QUICK, device="cpu", progress=False)
    stays = set(tiny_splits.trained) - set(tiny_splits.forget)
    assert seen == [[i for i in tiny_splits.train.tolist() if tiny_splits.faces.labels[i] in stays]]
