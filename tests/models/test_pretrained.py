"""facenet-pytorch's weights: whole ones load, broken ones are fetched again, absent ones are named; label lists."""

from __future__ import annotations

import functools
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from facenet_pytorch import InceptionResnetV1

from utils.experiments import benchmark, plan
from utils.faces import downloads
from utils.faces.datasets import load_faces
from utils.lessons import session as session
from utils.models import pretrained
from utils.models.backbones import FacenetBackbone, make_backbone
from utils.models.embedding import embed
from utils.models.finetuning import FinetuneConfig, finetune
from utils.models.pretrained import (
    FACENET_WEIGHTS,
    facenet_weights_path,
    label_list_path,
    plain_name,
    read_training_people,
    who_was_trained_on,
)
from utils.models.training import load_or_train
from utils.settings import CourseError, sha256_of

checksum = functools.cache(sha256_of)
NOBODY = "http://127.0.0.1:9"  # the discard port: refuses at once, and nothing leaves the machine


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def shelf(tmp_path_factory) -> Iterator[Path]:
    """A folder with random weights in the published format, for both models; made once, two seconds."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    tensors = InceptionResnetV1().state_dict()
    for name, legacy in (("vggface2", False), ("casia-webface", True)):
        n = FACENET_WEIGHTS[name].n_classes
        last = {"logits.weight": torch.zeros(n, 512), "logits.bias": torch.zeros(n)}
        path = folder / FACENET_WEIGHTS[name].remote.name
        torch.save({**tensors, **last}, path, _use_new_zipfile_serialization=not legacy)
    yield folder
    shutil.rmtree(folder)  # 220 MB


@pytest.fixture
def world(shelf, tmp_path, monkeypatch):
    """An empty cache folder, and a function that publishes the shelf at addresses of the test's choice."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    monkeypatch.setattr(FacenetBackbone, "input_size", 80)  # a quarter of the pixels: the crops keep their size
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(shelf)))
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def publish(*hosts: str, **changes):
        for name, weights in FACENET_WEIGHTS.items():
            path = shelf / weights.remote.name
            known = {"size": path.stat().st_size, "checksum": f"sha256:{checksum(path)}"}
            known = (known if weights.remote.checksum else {}) | changes
            bases = [f"http://127.0.0.1:{server.server_port}" if host == "here" else host for host in hosts]
            remote = replace(weights.remote, urls=tuple(f"{base}/{weights.remote.name}" for base in bases), **known)
            monkeypatch.setitem(pretrained.FACENET_WEIGHTS, name, replace(weights, remote=remote))

    publish(NOBODY)
    yield publish
    server.shutdown()
    server.server_close()
    shutil.rmtree(tmp_path / "torch", ignore_errors=True)


def place(name: str, content: bytes) -> Path:
    path = facenet_weights_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def whole(shelf: Path, name: str) -> bytes:
    return (shelf / FACENET_WEIGHTS[name].remote.name).read_bytes()


def last_layer(shelf: Path, name: str) -> torch.Tensor:
    return torch.load(shelf / FACENET_WEIGHTS[name].remote.name, weights_only=True)["last_linear.weight"]


def test_the_addresses_are_those_that_facenet_pytorch_uses():
    import inspect

    from facenet_pytorch.models import inception_resnet_v1

    source = inspect.getsource(inception_resnet_v1)
    assert all(weights.remote.urls[0] in source for weights in FACENET_WEIGHTS.values())


@pytest.mark.parametrize("name", FACENET_WEIGHTS)
def test_a_file_placed_by_hand_is_used_without_a_network(world, shelf, name):
    place(name, whole(shelf, name))
    model = make_backbone("facenet", name)
    assert torch.equal(model.network.last_linear.weight, last_layer(shelf, name))
    assert not any("logits" in key for key in model.state_dict())


@pytest.mark.parametrize(
    ("name", "keep"),
    [("vggface2", 100), ("vggface2", 60_000_000), ("casia-webface", 0), ("casia-webface", 60_000_000)],
)
def test_a_half_downloaded_file_is_refused_and_fetched_again(world, shelf, name, keep):
    world("here")
    path = place(name, whole(shelf, name)[:keep])
    model = make_backbone("facenet", name)
    assert torch.equal(model.network.last_linear.weight, last_layer(shelf, name))
    assert path.read_bytes() == whole(shelf, name)


def test_without_a_network_the_message_names_file_folder_and_address(world, shelf):
    for name in FACENET_WEIGHTS:
        path = facenet_weights_path(name)
        with pytest.raises(CourseError) as caught:
            make_backbone("facenet", name)
        text = str(caught.value)
        assert str(path) in text and f"{NOBODY}/{path.name}" in text and "'none'" in text and "\n" not in text
        assert not path.exists()
    place("vggface2", b"<html>too many users</html>")
    with pytest.raises(CourseError, match="has 27 bytes instead of"):
        make_backbone("facenet", "vggface2")


def test_a_lying_source_is_refused_with_both_hashes_and_the_next_one_tried(world, shelf):
    world("here", checksum=f"sha256:{'0' * 64}")
    found = checksum(shelf / FACENET_WEIGHTS["vggface2"].remote.name)
    with pytest.raises(CourseError, match=rf"expected sha256:{'0' * 64} but got {found}"):
        make_backbone("facenet", "vggface2")
    assert list(facenet_weights_path("vggface2").parent.iterdir()) == []
    world(NOBODY, "here")
    assert make_backbone("facenet", "vggface2").name == "facenet"


def test_weights_of_another_model_are_refused(world, shelf):
    place("casia-webface", whole(shelf, "vggface2"))
    with pytest.raises(CourseError, match="No 'casia-webface' weights"):
        make_backbone("facenet", "casia-webface")
    (shelf / "other").mkdir(exist_ok=True)
    (shelf / "other" / FACENET_WEIGHTS["casia-webface"].remote.name).write_bytes(whole(shelf, "vggface2"))
    world("here")
    remote = FACENET_WEIGHTS["casia-webface"].remote
    lying = replace(remote, urls=tuple(url.replace(remote.name, f"other/{remote.name}") for url in remote.urls))
    pretrained.FACENET_WEIGHTS["casia-webface"] = replace(FACENET_WEIGHTS["casia-webface"], remote=lying)
    with pytest.raises(CourseError, match=r"\(8631, 512\) instead of \(10575, 512\)"):
        make_backbone("facenet", "casia-webface")


def test_the_pretrained_model_meets_a_data_set_and_is_fine_tuned_once(world, shelf, own_cache, tiny_splits):
    place("vggface2", whole(shelf, "vggface2"))
    few = replace(tiny_splits, train=tiny_splits.train[::4])
    recogniser = load_or_train(few, backbone="facenet", pretrained="vggface2", device="cpu", progress=False)
    assert recogniser.head.weight.shape == (len(few.trained), 512)
    assert "8,631" in recogniser.source and "unknown" in recogniser.source
    config = FinetuneConfig(epochs=1, trainable=1)
    tuned = [
        finetune(few, backbone="facenet", start="vggface2", config=config, device="cpu", progress=False)
        for _ in range(2)
    ]
    assert "just now" in tuned[0].source and "loaded from" in tuned[1].source
    points = [embed(one.model, few.faces, few.train[:2]) for one in (*tuned, recogniser)]
    assert torch.allclose(points[0], points[1], atol=1e-5) and not torch.allclose(points[0], points[2], atol=1e-3)


# ------------------------------------------------------------------------------------------------------ label lists

META = """Class_ID, Name, Sample_Num, Flag, Gender
n000001, "14th_Dalai_Lama",424,0, m,
n000004, "Ada_Löve-Lace",205,1, f,
n000002, "A_Fine_Frenzy",315,1, f,
n000003, "Smith,_Jr.",205,1, m
"""

# what a spreadsheet makes of it: the blank before a quote makes the quote part of the cell
META_CSV = '''Class_ID, Name, Sample_Num, Flag, Gender
n000001," ""14th_Dalai_Lama""",424,0, m,
n000004," ""Ada_Löve-Lace""",205,1, f,
n000002," ""A_Fine_Frenzy""",315,1, f,
n000003," ""Smith,_Jr.""",205,1, m,
'''


@pytest.fixture
def three_classes(monkeypatch):
    monkeypatch.setitem(pretrained.FACENET_WEIGHTS, "vggface2", replace(FACENET_WEIGHTS["vggface2"], n_classes=3))


def test_identity_meta_gives_the_training_people_in_class_order(tmp_path, three_classes):
    path = tmp_path / "identity_meta.csv"
    path.write_text(META, encoding="utf-8")
    people = read_training_people(path)
    assert people.names == ("A_Fine_Frenzy", "Smith,_Jr.", "Ada_Löve-Lace")
    assert people.ids == ("n000002", "n000003", "n000004")
    assert [people.class_of(name) for name in ("a fine frenzy", "n000003", "ADA LOVE LACE")] == [0, 1, 2]
    assert people.class_of("14th_Dalai_Lama") is None and people.class_of("n000001") is None


def test_plain_text_lists_one_name_a_line_and_the_count_must_fit(tmp_path, three_classes):
    path = tmp_path / "names.txt"
    path.write_text("Ada\nBo Bo\nCleo\n\n", encoding="utf-8")
    assert read_training_people(path).class_of("Bo_Bo") == 1
    path.write_text("Ada\nBo\n", encoding="utf-8")
    with pytest.raises(CourseError, match="lists 2 people, but the 'vggface2' model has 3 classes"):
        read_training_people(path)
    with pytest.raises(CourseError, match="cannot be read"):
        read_training_people(tmp_path / "absent.csv")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CourseError, match="cannot be read"):
        read_training_people(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_label_list_opens_in_every_usual_encoding(tmp_path, three_classes, encoding, end):
    path = tmp_path / "identity_meta.csv"
    for text in (META, "A Fine Frenzy\nSmith, Jr.\nAda Löve-Lace\n"):
        path.write_bytes(text.replace("\n", end).encode(encoding))
        people = read_training_people(path)
        assert [people.class_of(name) for name in ("A_Fine_Frenzy", "Smith Jr", "Ada_Löve_Lace")] == [0, 1, 2]


SPREADSHEETS = {
    "saved as csv": META_CSV,
    "semicolons": META_CSV.replace(",", ";").replace("Smith;_", "Smith,_"),
    "a comma in a name split its cell": META_CSV.replace('" ""Smith,_Jr."""', '" ""Smith","_Jr."""'),
    "one cell a row": "".join('"' + line.replace('"', '""') + '"\n' for line in META.splitlines()),
    "tabs": META_CSV.replace(",", "\t").replace("Smith\t_", "Smith,_"),
    "decimals": META_CSV.replace("205", "205.0").replace(",1,", ",1.0,"),
    "announced": "sep=,\n" + META_CSV,
    "blanks": META.replace(",", " , ").replace("Smith , _", "Smith,_"),
}


@pytest.mark.parametrize("text", SPREADSHEETS.values(), ids=SPREADSHEETS)
def test_a_label_list_saved_by_a_spreadsheet_names_the_same_people(tmp_path, three_classes, text):
    path = tmp_path / "identity_meta.csv"
    path.write_text(text, encoding="utf-8")
    assert read_training_people(path).names == ("A_Fine_Frenzy", "Smith,_Jr.", "Ada_Löve-Lace")


def test_a_malformed_row_of_a_label_list_is_named(tmp_path, three_classes):
    path = tmp_path / "identity_meta.csv"
    path.write_text(META.replace("315,1", "many"), encoding="utf-8")
    with pytest.raises(CourseError, match="Line 4 of .* is malformed"):
        read_training_people(path)


def test_a_student_is_told_who_was_trained_on_or_that_nobody_knows(own_cache, three_classes):
    assert "unknown" in who_was_trained_on(["Ada"], "vggface2") and "vggface2.csv" in who_was_trained_on([], "vggface2")
    path = label_list_path("vggface2")
    path.parent.mkdir(parents=True)
    path.write_text(META, encoding="utf-8")
    told = who_was_trained_on(["A Fine Frenzy", "Nobody", "14th Dalai Lama"], "vggface2")
    assert told == "1 of these 3 people share a name with one 'vggface2' was trained on: A Fine Frenzy."
    assert "0 of these 1" in who_was_trained_on(["Nobody"], "vggface2")


def test_names_meet_across_spellings():
    assert plain_name("Löve-Lace,_Ada ") == plain_name("LOVE LACE ADA") == "love lace ada"
    assert plain_name("Иван") != plain_name("Мария") and plain_name("Иван")


# Benchmark and session ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder_of_people(tmp_path, tiny_faces, monkeypatch) -> Path:
    """The tiny world as a folder of photos, cropped already: the detector is tested elsewhere."""
    from PIL import Image

    for label, name in enumerate(tiny_faces.identities[:6]):
        (tmp_path / "people" / name).mkdir(parents=True)
        for k, photo in enumerate(tiny_faces.images(tiny_faces.photos_of(label)[:10])):
            Image.fromarray(photo.permute(1, 2, 0).numpy()).save(tmp_path / "people" / name / f"{k:02d}.png")
    monkeypatch.setattr(plan, "load_faces", functools.partial(load_faces, align=False))
    return tmp_path / "people"


def test_the_workbench_and_the_benchmark_run_on_pretrained_weights(
    world, shelf, folder_of_people, own_cache, tmp_path, capsys
):
    place("vggface2", whole(shelf, "vggface2"))
    known = sorted(entry.name for entry in folder_of_people.iterdir())
    label_list_path("vggface2").parent.mkdir(parents=True)
    others = [f"somebody {k}" for k in range(8631 - len(known))]
    label_list_path("vggface2").write_text("\n".join([*known, *others]))

    chosen = {"backbone": "facenet", "pretrained": "vggface2", "max_identities": 6}
    bench = session.open_session("folder", str(folder_of_people), 1, device="cpu", **chosen)
    forgotten = bench.faces.identities[bench.splits.forget[0]]
    assert bench.faces.image_size == 160 and bench.before.embeddings.shape[1] == 512
    told = f"1 of these 1 people share a name with one 'vggface2' was trained on: {forgotten}."
    assert told in bench.recogniser.source
    trial = bench.forget("gradient_ascent", steps=2, check_every=0)
    assert bench.stayed(trial.after).max() < 1 and bench.panel(trial.after, trial.title)

    out = tmp_path / "results.json"
    where = f"--dataset folder --root {folder_of_people} --backbone facenet --pretrained vggface2 --device cpu --quiet"
    few = "--set dispersion.steps=2 --set dispersion.retain_per_step=4"
    what = f"--methods dispersion {few} --forget 1 --out {out}"
    assert benchmark.main(f"{where} {what}".split()) == 0
    runs = benchmark.read_results(out)["runs"]
    assert [run["method"] for run in runs] == ["original", "dispersion"]  # no retraining of what came trained
    assert all(run["image_size"] == 160 and run["pretrained"] == "vggface2" for run in runs)


def test_the_workbench_refuses_an_option_it_does_not_know():
    with pytest.raises(CourseError, match="Unknown option of the session 'backbon'.*backbone"):
        session.open_session(backbon="facenet")
