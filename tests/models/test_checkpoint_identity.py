"""A checkpoint is used only for the recipe that made it, undamaged; a trained model outlives a place that fails."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from utils.faces.datasets import FaceDataset
from utils.faces.splits import Splits, make_splits
from utils.models import checkpoints, finetuning, training
from utils.models.backbones import MiniFaceNet
from utils.models.checkpoints import Recogniser, TrainConfig, load_recogniser, recipe_key, recipe_of, save_recogniser
from utils.models.finetuning import FinetuneConfig, finetune
from utils.models.heads import make_head
from utils.models.training import load_or_train
from utils.settings import CourseError, writable_file, writable_folder

HOW = {"device": "cpu", "progress": False}


def noise(people: int = 14, seed: int = 0, side: int = 16, photos: int = 6) -> FaceDataset:
    pixels = torch.randint(0, 256, (people * photos, 3, side, side), generator=torch.Generator().manual_seed(seed))
    labels, names = np.repeat(np.arange(people), photos), tuple(f"P{i:02d}" for i in range(people))
    files = tuple(f"{names[label]}/{i}" for i, label in enumerate(labels))
    about = {"name": "noise", "source": "noise", "licence": "MIT", "trained_min_photos": 6, "image_size": side}
    return FaceDataset(pixels=pixels.to(torch.uint8), labels=labels, identities=names, photo_names=files, **about)


@pytest.fixture
def splits():
    return make_splits(noise(), n_forget=2, n_dev=2)


@pytest.fixture
def trainings(own_cache, monkeypatch) -> list[tuple]:
    """Training that takes no time: each gives a random model, and notes for whom."""
    trained = []

    def train(splits, identities, backbone, config, device, progress) -> Recogniser:
        trained.append(identities)
        model = MiniFaceNet().eval()
        head = make_head(config.loss, 128, len(identities), scale=config.scale, margin=config.margin)
        return Recogniser(model, head, "trained just now", 3.0)

    monkeypatch.setattr(training, "train_from_scratch", train)
    tune = lambda model, splits, people, config, device, progress: train(splits, people, "mini", config, 0, 0)  # noqa: E731
    monkeypatch.setattr(finetuning, "_finetune_now", tune)
    return trained


def others_of(config: TrainConfig) -> dict[str, TrainConfig]:
    """The same recipe with one field changed, for every field."""
    others = {"loss": "arcface", "grey": 0.5, "tint": 0.5}
    changed = {field.name: others.get(field.name) or getattr(config, field.name) + 1 for field in fields(config)}
    return {name: replace(config, **{name: value}) for name, value in changed.items()}


# ------------------------------------------------------------------------------------------------------- what is reused


@pytest.mark.parametrize("name", [field.name for field in fields(TrainConfig)])
def test_one_other_field_of_the_recipe_is_another_training(name, splits, trainings):
    config = TrainConfig(epochs=2)
    for one in (config, others_of(config)[name], config, others_of(config)[name]):
        load_or_train(splits, config=one, **HOW)
    assert len(trainings) == 2


@pytest.mark.parametrize("name", [field.name for field in fields(FinetuneConfig)])
def test_one_other_field_of_the_fine_tuning_is_another_one(name, splits, trainings):
    config = FinetuneConfig(epochs=2)
    for one in (config, others_of(config)[name], config):
        finetune(splits, config=one, **HOW)
    assert len(trainings) == 2


def worlds() -> dict:
    """The same people and photos with one thing changed."""
    faces = noise()
    strangers = replace(faces, identities=(*faces.identities[:-1], "Somebody"))
    return {
        "other pixels": make_splits(noise(seed=1), n_forget=2, n_dev=2),
        "another name of the data": make_splits(replace(faces, name="hers"), n_forget=2, n_dev=2),
        "another size": make_splits(noise(side=24), n_forget=2, n_dev=2),
        "more people": make_splits(noise(people=15), n_forget=2, n_dev=2),
        "another person's name": make_splits(strangers, n_forget=2, n_dev=2),
        "fewer photos": replace(make_splits(faces, n_forget=2, n_dev=2), train=make_splits(faces, n_dev=2).train[1:]),
        "others unseen": make_splits(faces, n_forget=2, n_dev=2, unseen_fraction=0.4),
    }


@pytest.mark.parametrize("change", worlds())
@pytest.mark.parametrize("load", [load_or_train, finetune])
def test_other_faces_people_or_photos_are_another_training(change, load, splits, trainings):
    other = worlds()[change]
    for one in (splits, other, make_splits(noise(), n_forget=2, n_dev=2), other):
        load(one, **HOW)
    assert len(trainings) == 2


def test_photos_people_and_pixels_count_even_where_a_source_is_known_by_its_name(splits):
    """Drawn faces are told by renderer and seed, whatever their size and number: the recipe looks on."""

    def on(faces: FaceDataset, fingerprint: str = "renderer 4, seed 0") -> Splits:
        return replace(splits, faces=faces.known_as(fingerprint))

    faces = noise()
    base = on(faces)
    changed = [
        on(noise(side=24)),
        on(noise(), "renderer 5, seed 0"),
        on(replace(faces, name="hers")),
        on(replace(faces, photo_names=faces.photo_names[::-1])),
        on(replace(faces, identities=faces.identities[::-1])),
        replace(base, retain=base.retain[1:], train=np.setdiff1d(base.train, base.photos("retain", "train")[:4])),
        replace(base, train=np.append(base.train[1:], base.query[:1]), query=base.query[1:]),
    ]
    keys = [recipe_key(recipe_of(one, one.trained, "mini", "none", TrainConfig())) for one in (base, *changed)]
    assert len(set(keys)) == len(keys)
    again = on(noise())
    assert recipe_key(recipe_of(again, again.trained, "mini", "none", TrainConfig())) == keys[0]


def test_every_single_name_of_a_person_or_a_trained_photo_is_in_the_key(splits):
    """As many people and photos, and all names but one: a hash of some of them would not tell."""
    faces = splits.faces

    def key(part: str, changed: int) -> str:
        names = tuple(name + "x" * (place == changed) for place, name in enumerate(getattr(faces, part)))
        one = replace(splits, faces=replace(faces, **{part: names}).known_as("renderer 4, seed 0"))
        return recipe_key(recipe_of(one, one.trained, "mini", "none", TrainConfig()))

    for part, counted in (("identities", splits.trained), ("photo_names", splits.train.tolist())):
        keys = [key(part, place) for place in (-1, *counted)]
        assert len(set(keys)) == len(keys), part


def test_backbone_start_and_version_of_the_recipe_are_in_its_key(splits, monkeypatch):
    def key(backbone: str = "mini", pretrained: str = "none") -> str:
        return recipe_key(recipe_of(splits, splits.trained, backbone, pretrained, TrainConfig()))

    keys = {key(), key("facenet"), key("mini", "fine-tuned")}
    monkeypatch.setattr(checkpoints, "RECIPE_VERSION", checkpoints.RECIPE_VERSION + 1)
    assert len({*keys, key()}) == 4


def test_the_retrained_model_is_one_of_its_own_for_each_request_and_the_original_is_one_for_all(splits, trainings):
    requests = [splits, make_splits(splits.faces, n_forget=2, n_dev=2, seed=1), splits]
    assert requests[0].forget != requests[1].forget
    for request in requests:
        load_or_train(request, **HOW)
        load_or_train(request, without_forget=True, **HOW)
    everybody, first, second = trainings
    assert everybody == splits.trained and not set(first) & set(splits.forget)
    assert set(second) == set(splits.trained) - set(requests[1].forget)


def test_every_start_of_a_fine_tuning_is_another_one(splits, trainings, tmp_path):
    starts = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model, path = MiniFaceNet().eval(), tmp_path / f"{seed}.safetensors"
        recipe = recipe_of(splits, splits.trained, "mini", "none", TrainConfig())
        save_recogniser(path, Recogniser(model, make_head("cosface", 128, 3), ""), recipe)
        starts.append(path)
    for start in (*starts, "none", *starts, "none"):
        finetune(splits, start=start, **HOW)
    assert len(trainings) == 3


# ------------------------------------------------------------------------------------------------------ what is refused


def kept(splits, cache: Path, load=load_or_train) -> Path:
    load(splits, **HOW)
    (path,) = (cache / "models").glob("*.safetensors")
    return path


def rewritten(path: Path, metadata: dict, **tensors: torch.Tensor) -> None:
    """Write the file anew with a few things changed, as somebody would who repairs it by hand."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() | metadata
    save_file(load_file(path) | tensors, path, metadata=metadata)


@pytest.mark.parametrize("load", [load_or_train, finetune])
@pytest.mark.parametrize("place", [-1, -100_000])
def test_a_flipped_bit_in_a_kept_model_is_refused(load, place, splits, trainings, own_cache):
    path = kept(splits, own_cache, load)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(CourseError, match=f"{path.name} is damaged.*delete it and train again"):
        load(splits, **HOW)
    path.unlink()
    assert load(splits, **HOW).source == "trained just now"


@pytest.mark.parametrize("load", [load_or_train, finetune])
def test_a_model_of_another_recipe_under_this_ones_name_is_refused(load, splits, trainings, own_cache):
    path = kept(splits, own_cache, load)
    config = FinetuneConfig(epochs=9) if load is finetune else TrainConfig(epochs=9)
    load(splits, config=config, **HOW)
    (other,) = set((own_cache / "models").glob("*.safetensors")) - {path}
    path.write_bytes(other.read_bytes())
    with pytest.raises(CourseError, match=r"another recipe \(another train\); delete it"):
        load(splits, **HOW)


@pytest.mark.parametrize(
    "metadata",
    [
        {"recipe": "{"},
        {"recipe": "[]"},
        {"recipe": "{}"},
        {"recipe": '{"backbone": "vit", "train": {"loss": "cosface", "scale": 1, "margin": 0}}'},
        {"recipe": '{"backbone": "mini", "train": {"loss": "softmax", "scale": 1, "margin": 0}}'},
    ],
)
def test_a_recipe_that_cannot_be_read_is_one_sentence(metadata, splits, trainings, own_cache):
    path = kept(splits, own_cache)
    with pytest.raises(CourseError, match="is damaged"):
        rewritten(path, metadata)
        load_recogniser(path)
    tensors = load_file(path)
    save_file(tensors, path, metadata=metadata)  # as an older file, without a digest
    with pytest.raises(CourseError, match="no readable recipe .*delete it and train again"):
        load_recogniser(path)


def test_the_head_comes_back_with_its_own_kind_scale_and_margin(splits, own_cache, trainings):
    config = TrainConfig(loss="arcface", scale=7.0, margin=0.3)
    load_or_train(splits, config=config, **HOW)
    head = load_or_train(splits, config=config, **HOW).head
    assert (head.kind, head.scale, head.margin) == ("arcface", 7.0, 0.3) and len(trainings) == 1


def test_an_older_file_without_a_digest_is_still_read(splits, tmp_path, trainings, own_cache):
    path = kept(splits, own_cache)
    with safe_open(path, framework="pt") as file:
        metadata = {name: value for name, value in file.metadata().items() if name != "digest"}
    save_file(load_file(path), path, metadata=metadata)
    assert load_or_train(splits, **HOW).source.startswith("loaded from") and len(trainings) == 1


def test_a_committed_file_that_was_changed_is_refused(splits, trainings, own_cache, tmp_path, monkeypatch):
    """The manifest's hash is asked, not only the file's own word."""
    path = kept(splits, own_cache)
    recipe = load_recogniser(path)[1]
    entry = {"file": path.name, "sha256": "0" * 64, "recipe": recipe}
    monkeypatch.setattr(training, "MODEL_DIR", path.parent)
    monkeypatch.setattr(training, "embedded_models", lambda: {recipe_key(recipe): entry})
    with pytest.raises(CourseError, match="is not the file it should be"):
        load_or_train(splits, **HOW)


# ------------------------------------------------------------------------------------- places that cannot keep anything


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("load", [load_or_train, finetune])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_model_that_cannot_be_kept_is_used_and_it_is_said_where_it_could_not_go(
    load, number, splits, trainings, own_cache, monkeypatch
):
    def refuse(self: Path, data: bytes) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.warns(UserWarning, match=f"gone afterwards: .*({own_cache / 'models'}|{os.strerror(number)})"):
        found = load(splits, **HOW)
    assert len(trainings) == 1 and found.head.weight.shape[0] == len(splits.trained)
    assert "not kept" in found.source and os.strerror(number) in found.source
    assert list((own_cache / "models").iterdir()) == []


@pytest.mark.parametrize("load", [load_or_train, finetune])
def test_a_place_without_room_is_refused_before_the_training(load, splits, trainings, own_cache, monkeypatch):
    from utils import settings

    class Full:
        def __init__(self, **_: object):
            self.file = open(os.devnull, "wb")

        def __enter__(self):
            return self

        def __exit__(self, *_: object):
            self.file.close()

        def write(self, data: bytes) -> None:
            if len(data) > 4_600_000:
                full()

    monkeypatch.setattr(settings.tempfile, "TemporaryFile", Full)
    with pytest.raises(CourseError, match="models cannot be written .*No space left"):
        load(splits, **HOW)
    assert not trainings
    assert writable_folder(own_cache) == own_cache, "a small file would go there"


def test_a_place_is_tried_with_as_much_as_will_be_written(tmp_path, monkeypatch):
    from utils import settings

    real, sizes = settings.tempfile.TemporaryFile, []

    def noted(**options):
        file = real(**options)
        write = file.write
        monkeypatch.setattr(file, "write", lambda data: sizes.append(len(data)) or write(data), raising=False)
        return file

    monkeypatch.setattr(settings.tempfile, "TemporaryFile", noted)
    writable_folder(tmp_path)
    (tmp_path / "r.json").write_text("x" * 9000)
    writable_file(tmp_path / "r.json")
    assert sizes == [4096, 18_000] and os.listdir(tmp_path) == ["r.json"]


def test_what_is_kept_says_its_recipe_in_full(splits, trainings, own_cache):
    path = kept(splits, own_cache)
    with safe_open(path, framework="pt") as file:
        recipe = json.loads(file.metadata()["recipe"])
    assert path.stem == recipe_key(recipe) and recipe["train"] == asdict(TrainConfig())
    assert recipe["identities"] == len(splits.trained) and recipe["photos"] == len(splits.train)
