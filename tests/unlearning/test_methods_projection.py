"""ESC: the erased directions are those numpy finds, and a projected model is a face model like any other."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from utils.models.backbones import FaceBackbone
from utils.models.embedding import embed
from utils.retrieval.evaluation import evaluate
from utils.settings import CourseError
from utils.unlearning.loop import unlearn
from utils.unlearning.methods.projection import ProjectedBackbone, erasing_projection, fold_projection
from utils.unlearning.registry import METHODS, make_config


def run(recogniser, splits, **config):
    return unlearn("esc", recogniser.model, recogniser.head, splits, device="cpu", progress=False, **config)


@pytest.fixture
def points() -> torch.Tensor:
    """Twenty points in twelve dimensions, with directions of clearly different strength."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(20, 12, generator=generator) * torch.linspace(3.0, 0.2, 12) + 0.5


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("k", [1, 3, 11])
def test_the_projection_is_numpys(points, k, centred):
    x = points.double().numpy()
    x = x - x.mean(0) if centred else x
    values, vectors = np.linalg.eigh(x.T @ x)  # ascending
    rest = vectors[:, :-k]
    found = erasing_projection(points, k, centred)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), rest @ rest.T, atol=1e-5)
    left = np.linalg.svd(x, full_matrices=False)
    np.testing.assert_allclose(found.numpy(), np.eye(12) - left[2][:k].T @ left[2][:k], atol=1e-5)


def test_the_projection_is_idempotent_symmetric_and_of_rank_d_minus_k(points):
    p = erasing_projection(points, 4)
    torch.testing.assert_close(p @ p, p, atol=1e-6, rtol=0)
    torch.testing.assert_close(p, p.T, atol=1e-6, rtol=0)
    assert p.trace().item() == pytest.approx(8.0, abs=1e-5)


def test_one_direction_by_hand():
    points = torch.tensor([[2.0, 0.0, 0.0], [4.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert torch.allclose(erasing_projection(points, 1), torch.diag(torch.tensor([0.0, 1.0, 1.0])))


def test_points_are_not_changed_and_too_many_directions_are_refused(points):
    before = points.clone()
    erasing_projection(points, 2, centred=True)
    assert torch.equal(points, before)
    for k, n, centred, most in ((0, 20, False, 11), (12, 20, False, 11), (5, 4, False, 4), (4, 4, True, 3)):
        with pytest.raises(CourseError, match=f"let 1 to {most} directions be erased, not {k}"):
            erasing_projection(points[:n], k, centred)


def test_on_the_forget_photos_own_directions_the_projection_is_the_reference_and_beyond_them_it_keeps_all():
    """The public code takes U of the thin SVD of features (d, n) and keeps its columns after the k-th: of 40 photos
    with 128 numbers and k = 3 that leaves rank 40 - 3 = 37. Here I - V_k V_k^T leaves 128 - 3 = 125: what no forget
    photo holds is kept. Its own share p = 1.5 % erases floor(128 x 0.015) = 1 direction, here two for each person."""
    points = torch.randn(40, 128, generator=torch.Generator().manual_seed(0)) * torch.linspace(3.0, 0.2, 128)
    left = np.linalg.svd(points.double().numpy().T, full_matrices=False)[0]
    reference = left[:, 3:] @ left[:, 3:].T
    found = erasing_projection(points, 3).double().numpy()
    assert np.linalg.matrix_rank(reference, tol=1e-3) == 37 and np.linalg.matrix_rank(found, tol=1e-3) == 125
    span = left @ left.T
    np.testing.assert_allclose(found @ span, reference, atol=1e-6)
    np.testing.assert_allclose(found - reference, np.eye(128) - span, atol=1e-6)
    assert int(128 * 0.015) == 1 and make_config("esc", {}).per_person == 2


# ------------------------------------------------------------------------------------------------------- the method


def test_embeddings_are_the_old_ones_projected(tiny_recogniser, tiny_splits):
    outcome = run(tiny_recogniser, tiny_splits, per_person=1)
    forget = tiny_splits.photos("forget", "train")
    new = embed(outcome.model, tiny_splits.faces)
    with torch.no_grad():
        model = tiny_recogniser.model.eval()
        old = model(model.preprocess(tiny_splits.faces.images(np.arange(len(tiny_splits.faces)))))
    v = np.linalg.svd(old[forget].double().numpy(), full_matrices=False)[2][: len(tiny_splits.forget)]
    expected = old.double().numpy() - old.double().numpy() @ v.T @ v
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(new.numpy(), expected, atol=1e-4)
    assert np.abs(new.numpy() @ v.T).max() < 1e-4
    assert outcome.images_processed == len(forget) and outcome.history == [{"step": 0, "erased": 2.0}]


def test_model_and_head_given_stay_as_they_were(tiny_recogniser, tiny_splits):
    before = {key: value.clone() for key, value in tiny_recogniser.model.state_dict().items()}
    outcome = run(tiny_recogniser, tiny_splits, directions=3)
    inside = outcome.model.backbone.state_dict()
    assert inside.keys() == before.keys() and outcome.model.backbone is not tiny_recogniser.model
    assert all(torch.equal(value, inside[key]) for key, value in before.items())
    assert all(torch.equal(value, before[key]) for key, value in tiny_recogniser.model.state_dict().items())
    assert torch.equal(outcome.trained_head.weight, tiny_recogniser.head.weight)


def test_directions_win_over_per_person_and_centring_matters(tiny_recogniser, tiny_splits):
    erased = [
        run(tiny_recogniser, tiny_splits, **config).history[0]["erased"]
        for config in ({"directions": 5, "per_person": 3}, {"per_person": 3})
    ]
    assert erased == [5.0, 6.0]
    plain, centred = (run(tiny_recogniser, tiny_splits, centred=flag).model.projection for flag in (False, True))
    assert not torch.allclose(plain, centred, atol=1e-2)


@pytest.mark.parametrize(
    "config, told",
    [
        ({"directions": 128}, "directions be erased, not 128"),
        ({"per_person": 0}, "not 0"),
        ({"directions": -1}, "negative"),
        ({"share": 0.015}, "no option 'share'"),
    ],
)
def test_settings_that_cannot_work_are_refused(config, told, tiny_recogniser, tiny_splits):
    with pytest.raises(CourseError, match=told):
        run(tiny_recogniser, tiny_splits, **config)


def test_the_method_needs_no_labels_and_the_same_model_comes_out_twice(task, tiny_recogniser, tiny_splits):
    assert METHODS["esc"].labels == ()
    METHODS["esc"].run(task, make_config("esc", {}))
    assert torch.equal(task.model.projection, run(tiny_recogniser, tiny_splits).model.projection)


# ------------------------------------------------------------------------------------------------ the model it makes


def test_a_projected_model_is_a_face_model_like_any_other(tiny_recogniser, tiny_splits):
    model = run(tiny_recogniser, tiny_splits).model
    assert isinstance(model, FaceBackbone) and not model.training
    assert (model.name, model.embedding_dim, model.input_size) == ("mini", 128, 64)
    faces = tiny_splits.faces.images(np.arange(3))
    assert torch.equal(model.preprocess(faces), tiny_recogniser.model.preprocess(faces))
    with pytest.raises(CourseError, match="uint8"):
        model.preprocess(faces.float())
    scores = evaluate(model, tiny_splits, tiny_recogniser.head, device="cpu").scores()
    assert 0.0 <= scores["forget"]["map"] <= 1.0


def test_a_projected_model_survives_copying_moving_and_a_state_dict(tiny_recogniser, tiny_splits):
    model = run(tiny_recogniser, tiny_splits).model
    points = embed(model, tiny_splits.faces)
    twin = copy.deepcopy(model).to(torch.device("cpu"))
    assert torch.equal(embed(twin, tiny_splits.faces), points)
    fresh = ProjectedBackbone(type(tiny_recogniser.model)(), torch.eye(128))
    assert "projection" in model.state_dict()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(embed(fresh, tiny_splits.faces), points)
    assert model.to(torch.device("meta")).projection.device.type == "meta"


def test_a_projected_model_can_be_projected_and_unlearned_again(tiny_recogniser, tiny_splits):
    once = run(tiny_recogniser, tiny_splits)
    head = tiny_recogniser.head
    for name, config in (("esc", {}), ("random_labels", {"steps": 2})):
        again = unlearn(name, once.model, head, tiny_splits, device="cpu", progress=False, **config)
        assert not torch.equal(embed(again.model, tiny_splits.faces), embed(once.model, tiny_splits.faces))


def test_a_model_that_normalises_its_own_output_is_projected_too():
    class Unit(FaceBackbone):
        name, embedding_dim, input_size = "unit", 4, 2

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(12, 4)

        def parts(self):
            return {"layer": [self.layer]}

        def forward(self, x):
            return nn.functional.normalize(self.layer(x.flatten(1)))

    torch.manual_seed(0)
    inner = Unit()
    faces = torch.randint(0, 256, (6, 3, 2, 2), dtype=torch.uint8)
    p = erasing_projection(embed(inner, faces), 1)
    found = embed(ProjectedBackbone(inner, p), faces)
    torch.testing.assert_close(found, nn.functional.normalize(embed(inner, faces) @ p), atol=1e-6, rtol=0)


# ------------------------------------------------------------------------------------------------ folded into weights


def folded(recogniser, splits, **config):
    return unlearn("esc_folded", recogniser.model, recogniser.head, splits, device="cpu", progress=False, **config)


@pytest.mark.parametrize("centred", [False, True])
def test_folded_weights_give_the_layers_embeddings_in_the_same_network(centred, tiny_recogniser, tiny_splits):
    layer, weights = (f(tiny_recogniser, tiny_splits, centred=centred) for f in (run, folded))
    found, expected = (embed(outcome.model, tiny_splits.faces) for outcome in (weights, layer))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert type(weights.model) is type(tiny_recogniser.model) and METHODS["esc_folded"].kind == "weights"
    changed = {
        k for k, v in weights.model.state_dict().items() if not torch.equal(v, tiny_recogniser.model.state_dict()[k])
    }
    assert changed and all(name.startswith("embedding.") for name in changed)
    assert weights.history == layer.history


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("normed", [False, True, "without weights"])
def test_a_fold_is_exact_for_every_kind_of_last_map(bias, normed):
    class Last(FaceBackbone):
        name, embedding_dim, input_size = "last", 5, 2

        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, 7))
            self.end = nn.Sequential(
                nn.Linear(7, 5, bias=bias), *([nn.BatchNorm1d(5, affine=normed is True)] if normed else [])
            )
            self.register_buffer("centre", torch.linspace(-1, 1, 5))

        def layers(self):
            return {"body": [self.body], "end": [self.end]}

        def forward(self, x):
            return self.end(self.body(x)) - self.centre

    torch.manual_seed(0)
    model, x = Last(), torch.randn(40, 3, 2, 2)
    for _ in range(30 if normed else 0):
        model.train()(3 * x + 1)  # running statistics that are not the ones of the start
    if normed is True:
        nn.init.normal_(model.end[1].weight)
        nn.init.normal_(model.end[1].bias)
    before, p = model.eval()(x).detach(), erasing_projection(torch.randn(9, 5), 2)
    fold_projection(model, p)
    torch.testing.assert_close(model(x).detach(), before @ p.T, atol=1e-5, rtol=1e-5)


def test_what_cannot_be_folded_is_one_sentence(tiny_recogniser, tiny_splits):
    wrapped = run(tiny_recogniser, tiny_splits).model
    with pytest.raises(CourseError, match="here it is ProjectedBackbone"):
        unlearn("esc_folded", wrapped, tiny_recogniser.head, tiny_splits, device="cpu", progress=False)

    class Bent(type(tiny_recogniser.model)):
        def forward(self, x):
            return super().forward(x).relu()

    bent = Bent()
    bent.load_state_dict(tiny_recogniser.model.state_dict())
    with pytest.raises(CourseError, match="not linear"):
        unlearn("esc_folded", bent, tiny_recogniser.head, tiny_splits, device="cpu", progress=False)
    bent.embedding = nn.Sequential(bent.embedding[0], bent.embedding[1], nn.PReLU())
    for end in (nn.PReLU(), nn.BatchNorm1d(128, track_running_stats=False)):
        bent.embedding = nn.Sequential(bent.embedding[0], bent.embedding[1], end)
        with pytest.raises(CourseError, match=f"last linear map.*{type(end).__name__}"):
            fold_projection(bent, torch.eye(128))
    bent.embedding = nn.Sequential(nn.Linear(4, 128), nn.BatchNorm1d(128, affine=False, track_running_stats=False))
    with pytest.raises(CourseError, match="last linear map.*BatchNorm1d"):
        fold_projection(bent, torch.eye(128))


@pytest.mark.parametrize("photos", [1, 2])
def test_a_fold_of_few_photos_of_which_nothing_is_left_is_the_layer_too(photos, tiny_recogniser, tiny_splits):
    """Both erase all that these photos tell: what is left of them is rounding, and points anywhere."""
    faces, train = tiny_splits.faces, tiny_splits.train
    few = [train[faces.labels[train] == person][:photos] for person in tiny_splits.forget]
    kept = np.concatenate([*few, train[~np.isin(faces.labels[train], tiny_splits.forget)]])
    splits = replace(tiny_splits, train=np.sort(kept))
    layer, weights = (f(tiny_recogniser, splits, per_person=photos) for f in (run, folded))
    others = splits.photos("retain", "train")
    found, expected = (embed(outcome.model, faces, others) for outcome in (weights, layer))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
