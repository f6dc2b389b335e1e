"""Backbones, heads, embeddings, checkpoints."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from utils.faces.splits import make_splits
from utils.models import checkpoints, training
from utils.models.augmentation import augment
from utils.models.backbones import FacenetBackbone, MiniFaceNet, make_backbone
from utils.models.checkpoints import (
    EMBEDDED,
    Recogniser,
    TrainConfig,
    embedded_models,
    load_recogniser,
    recipe_key,
    recipe_of,
    save_recogniser,
)
from utils.models.embedding import embed
from utils.models.heads import ArcFace, CosFace, head_from_centroids, make_head
from utils.models.training import load_or_train, train_from_scratch, train_recogniser
from utils.retrieval.evaluation import evaluate
from utils.retrieval.scores import retrieval_scores
from utils.settings import MODEL_DIR, CourseError, sha256_of


def faces(n: int = 5, size: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


# ----------------------------------------------------------------------------------------------------- backbones


def test_mini_has_about_a_million_parameters_and_128_outputs():
    model = MiniFaceNet().eval()
    assert 0.9e6 < sum(p.numel() for p in model.parameters()) < 1.2e6
    assert model(model.preprocess(faces())).shape == (5, 128)


def test_preprocess_centres_pixels_and_resizes():
    x = MiniFaceNet().preprocess(torch.full((2, 3, 100, 90), 255, dtype=torch.uint8))
    assert x.shape == (2, 3, 64, 64) and x.dtype == torch.float32
    assert torch.allclose(x, torch.tensor(127.5 / 128), atol=1e-5)


def test_facenet_sits_behind_the_same_interface():
    model = make_backbone("facenet").eval()
    points = embed(model, faces(2))
    assert isinstance(model, FacenetBackbone) and points.shape == (2, 512)


def test_wrong_backbone_and_weights_name_the_valid_ones():
    with pytest.raises(CourseError, match="mini, facenet"):
        make_backbone("resnet")
    with pytest.raises(CourseError, match="auto, vggface2"):
        make_backbone("facenet", "imagenet")
    with pytest.raises(CourseError, match="mini backbone has no 'vggface2'"):
        make_backbone("mini", "vggface2")


def test_facenet_sees_160_pixels_standardised_as_it_was_trained():
    x = make_backbone("facenet").preprocess(faces(1, 64))
    assert x.shape == (1, 3, 160, 160) and x.min() >= -127.5 / 128 and x.max() <= 127.5 / 128
    assert torch.equal(make_backbone("facenet").preprocess(faces(1, 160)), (faces(1, 160).float() - 127.5) / 128)


@pytest.mark.parametrize("name", ["mini", "facenet"])
def test_parts_hold_every_weight_once_in_order(name):
    model = make_backbone(name)
    weights = [weight for part in model.layers().values() for module in part for weight in module.parameters()]
    assert len(weights) == len({id(weight) for weight in weights}) == len(list(model.parameters()))
    assert list(model.layers())[0] == "stem" and list(model.layers())[-1] == "embedding"


def test_a_frozen_part_stays_in_evaluation():
    model = MiniFaceNet()
    model.stem.requires_grad_(False)
    model.train()
    assert model.training and not model.stem.training and not model.stem[1].training and model.stages.training
    model.requires_grad_(True).train()
    assert all(module.training for module in model.modules())
    assert not any(module.training for module in model.eval().modules())


# --------------------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize("kind", ["cosface", "arcface"])
def test_logits_ignore_lengths_and_the_margin_touches_one_column(kind):
    torch.manual_seed(0)
    head, z, y = make_head(kind, 8, 5), torch.randn(6, 8), torch.tensor([0, 1, 2, 3, 4, 0])
    plain = head(z)
    with torch.no_grad():
        head.weight.mul_(3.0)
    assert torch.allclose(head(7 * z), plain, atol=1e-5)
    changed = (head(z, y) - plain).abs() > 1e-4
    assert torch.equal(changed, F.one_hot(y, 5).bool())


def test_cosface_and_arcface_by_hand():
    z, y = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    for head, true in (
        (CosFace(2, 2, 10.0, 0.3), 0.6 - 0.3),
        (ArcFace(2, 2, 10.0, 0.5), math.cos(math.acos(0.6) + 0.5)),
    ):
        with torch.no_grad():
            head.weight.copy_(torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
        assert torch.allclose(head(z, y), torch.tensor([[10 * true, 0.0]]), atol=1e-4)


def test_arcface_stays_finite_at_the_poles():
    head, y = ArcFace(2, 1), torch.tensor([0, 0])
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0]]))
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    head(z, y).sum().backward()
    assert torch.isfinite(z.grad).all()


def test_centroid_head_points_at_class_means():
    points = F.normalize(torch.tensor([[1.0, 0.1], [1.0, -0.1], [0.0, 2.0]]))
    head = head_from_centroids("cosface", points, torch.tensor([0, 0, 1]), 2)
    assert torch.allclose(head.weight, torch.eye(2), atol=1e-6)


def test_a_class_without_photos_has_no_centroid():
    with pytest.raises(CourseError, match="no photo"):
        head_from_centroids("cosface", torch.randn(2, 3), torch.tensor([0, 2]), 3)


def test_faces_of_the_wrong_kind_are_refused_with_their_shape():
    for wrong in (torch.rand(2, 3, 64, 64), faces(1)[0], torch.zeros(2, 1, 64, 64, dtype=torch.uint8)):
        with pytest.raises(CourseError, match="uint8 of shape"):
            MiniFaceNet().preprocess(wrong)


def test_a_mask_chooses_photos_to_embed(tiny_faces):
    model, mask = MiniFaceNet(), tiny_faces.labels == 3
    assert torch.allclose(embed(model, tiny_faces, mask), embed(model, tiny_faces, np.flatnonzero(mask)))


def test_unknown_head_lists_the_valid_ones():
    with pytest.raises(CourseError, match="cosface, arcface"):
        make_head("softmax", 4, 2)


# ---------------------------------------------------------------------------------------------------- embeddings


def test_embed_is_normalised_batched_and_leaves_the_mode_alone(tiny_faces):
    model = MiniFaceNet().train()
    whole = embed(model, tiny_faces, batch_size=7)
    part = embed(model, tiny_faces, np.array([3, 100]), batch_size=1)
    assert whole.dtype == torch.float32 and whole.shape == (len(tiny_faces), 128)
    assert torch.allclose(whole.norm(dim=1), torch.ones(len(whole)), atol=1e-5)
    assert torch.allclose(whole[[3, 100]], part, atol=1e-4)
    assert model.training and not whole.requires_grad


def test_embed_of_nothing_is_empty(tiny_faces):
    assert embed(MiniFaceNet(), tiny_faces, np.array([], dtype=np.int64)).shape == (0, 128)


def test_augment_keeps_shape_and_type_changes_pixels_and_repeats_with_its_seed(tiny_faces):
    photos = tiny_faces.images(range(6))
    before = photos.clone()
    once, again = (augment(photos, torch.Generator().manual_seed(3)) for _ in range(2))
    assert once.shape == photos.shape and once.dtype == torch.uint8
    assert torch.equal(once, again) and not torch.equal(once, photos)
    assert torch.equal(photos, before)


# ------------------------------------------------------------------------------------------------------ training


def test_training_lowers_the_loss_and_same_seed_same_model(tiny_splits):
    config = TrainConfig(epochs=3, batch_size=16, learning_rate=0.05)
    runs = [
        train_from_scratch(tiny_splits, tiny_splits.trained, "mini", config, torch.device("cpu"), False)
        for _ in range(2)
    ]
    assert runs[0].history[-1]["loss"] < runs[0].history[0]["loss"]
    assert torch.equal(runs[0].head.weight, runs[1].head.weight)


def test_diverging_training_is_one_sentence(tiny_splits):
    photos = tiny_splits.train
    classes = tiny_splits.class_of(tiny_splits.faces.labels[photos])
    model = MiniFaceNet()
    with torch.no_grad():
        model.stem[0].weight.fill_(math.nan)
    with pytest.raises(CourseError, match="diverged in epoch 1"):
        train_recogniser(
            model,
            CosFace(128, 8),
            tiny_splits.faces,
            photos,
            classes,
            TrainConfig(epochs=1),
            device="cpu",
            progress=False,
        )


# --------------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture
def saved(tmp_path, tiny_splits, tiny_recogniser):
    config = TrainConfig(epochs=8)
    recipe = recipe_of(tiny_splits, tiny_splits.trained, "mini", "none", config)
    path = tmp_path / "model.safetensors"
    save_recogniser(path, tiny_recogniser, recipe)
    return path, recipe


def test_a_checkpoint_comes_back_as_it_was(saved, tiny_faces, tiny_recogniser):
    path, recipe = saved
    loaded, found = load_recogniser(path, sha256_of(path))
    assert found == recipe
    assert torch.equal(embed(loaded.model, tiny_faces), embed(tiny_recogniser.model, tiny_faces))
    assert torch.equal(loaded.head.weight, tiny_recogniser.head.weight)


def test_a_wrong_hash_is_refused_with_both_values(saved):
    path, _ = saved
    with pytest.raises(CourseError) as caught:
        load_recogniser(path, "0" * 64)
    assert sha256_of(path) in str(caught.value) and "0" * 64 in str(caught.value)


def test_wrong_shapes_are_refused_with_both_values(saved):
    path, recipe = saved
    tensors = load_file(path)
    tensors["model.stem.0.weight"] = torch.zeros(24, 3, 5, 5)
    save_file(tensors, path, metadata={"recipe": json.dumps(recipe)})
    with pytest.raises(CourseError, match=r"\(24, 3, 5, 5\).*\(24, 3, 3, 3\)"):
        load_recogniser(path)


@pytest.mark.parametrize("damage", ["truncate", "text", "absent", "foreign"])
def test_a_damaged_checkpoint_is_one_sentence(saved, damage):
    path, _ = saved
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "text":
        path.write_text("<html>404</html>")
    elif damage == "absent":
        path.unlink()
    else:
        save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(CourseError, match="model.safetensors"):
        load_recogniser(path)


def test_a_failed_save_leaves_nothing_behind(tmp_path, tiny_recogniser, monkeypatch):
    def broken(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(checkpoints, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        save_recogniser(tmp_path / "x.safetensors", tiny_recogniser, {})
    assert list(tmp_path.iterdir()) == []


def test_load_or_train_trains_once_then_loads(own_cache, tiny_splits, monkeypatch):
    config = TrainConfig(epochs=1, batch_size=16)
    first = load_or_train(tiny_splits, config=config, device="cpu", progress=False)
    monkeypatch.setattr(training, "train_from_scratch", lambda *_: pytest.fail("trained twice"))
    second = load_or_train(tiny_splits, config=config, device="cpu", progress=False)
    assert torch.equal(first.head.weight, second.head.weight)
    assert second.seconds == pytest.approx(first.seconds, abs=0.1)


def test_load_or_train_can_refuse_to_train(own_cache, tiny_splits):
    with pytest.raises(CourseError, match="training was switched off"):
        load_or_train(tiny_splits, train=False, device="cpu", progress=False)


def test_the_retrained_model_has_its_own_recipe_and_fewer_rows(own_cache, tiny_splits):
    config = TrainConfig(epochs=1, batch_size=16)
    recogniser = load_or_train(tiny_splits, config=config, without_forget=True, device="cpu", progress=False)
    assert recogniser.head.weight.shape[0] == len(tiny_splits.retain_train) == len(tiny_splits.trained) - 2
    recipes = [
        recipe_of(tiny_splits, people, "mini", "none", config)
        for people in (tiny_splits.trained, tiny_splits.retain_train)
    ]
    assert recipe_key(recipes[0]) != recipe_key(recipes[1])


def test_every_part_of_the_recipe_changes_its_key(tiny_splits):
    config = TrainConfig()
    keys = {recipe_key(recipe_of(tiny_splits, tiny_splits.trained, "mini", "none", config))}
    for name, value in asdict(config).items():
        other = replace(config, **{name: {"loss": "arcface", "grey": 0.5, "tint": 0.5}.get(name) or value + 1})
        keys.add(recipe_key(recipe_of(tiny_splits, tiny_splits.trained, "mini", "none", other)))
    assert len(keys) == 1 + len(asdict(config))


def test_the_same_names_over_other_faces_are_another_recipe(tiny_splits):
    """Two folders with the same people and file names, but other photos, never share a trained model."""
    faces = tiny_splits.faces
    others = replace(faces, pixels=255 - faces.images(np.arange(len(faces))))
    same = replace(faces, pixels=faces.images(np.arange(len(faces))))
    keys = [
        recipe_key(recipe_of(replace(tiny_splits, faces=one), tiny_splits.trained, "mini", "none", TrainConfig()))
        for one in (faces, same, others)
    ]
    assert keys[0] == keys[1] != keys[2]


# ---------------------------------------------------------------------------------------- the committed checkpoints


@pytest.mark.parametrize("which", EMBEDDED)
def test_committed_checkpoint_fits_its_manifest_and_size(which):
    entry = next(entry for entry in embedded_models().values() if entry["file"] == EMBEDDED[which])
    path = MODEL_DIR / entry["file"]
    assert sha256_of(path) == entry["sha256"] and path.stat().st_size == entry["bytes"] <= 5 * 2**20
    _, recipe = load_recogniser(path, entry["sha256"])
    assert recipe == entry["recipe"] and embedded_models()[recipe_key(recipe)] == entry


@pytest.mark.parametrize(("which", "seed"), [("original", 0), ("retrain", 0), ("retrain1", 1), ("retrain2", 2)])
def test_committed_checkpoint_belongs_to_the_training_command(which, seed, default_splits):
    splits = make_splits(default_splits.faces, seed=seed)
    people = splits.trained if which == "original" else splits.retain_train
    recipe = recipe_of(splits, people, "mini", "none", TrainConfig())
    assert embedded_models()[recipe_key(recipe)]["file"] == EMBEDDED[which]


def test_committed_model_reaches_its_targets_on_the_rendered_faces(default_splits):
    recogniser = load_or_train(default_splits, train=False, device="cpu", progress=False)
    assert isinstance(recogniser, Recogniser)
    scores = evaluate(recogniser.model, default_splits, device="cpu").scores()
    assert scores["retain"]["r1"] >= 0.97 and scores["forget"]["r1"] >= 0.95 and scores["unseen"]["r1"] >= 0.92
    photos = np.concatenate([default_splits.photos("unseen", part) for part in ("query", "gallery")])
    points, labels = embed(recogniser.model, default_splits.faces, photos), default_splits.faces.labels[photos]
    among = retrieval_scores(points, labels, points, labels, query_ids=photos, gallery_ids=photos)
    assert among.r1 >= 0.96  # each unseen photo against all others of unseen people
