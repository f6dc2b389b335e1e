"""Own photos: read into memory, joined to the data set, forgotten; and proof that nothing is left behind."""

from __future__ import annotations

import asyncio
import shutil
import socket
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from notebook_numbers import Seen
from PIL import Image

from utils.faces.alignment import Aligner
from utils.faces.listing import Photo
from utils.lessons import own_photos as al
from utils.lessons.own_photos import (
    OwnPhotos,
    changed_files,
    chosen_photos,
    files_in,
    joined,
    my_parts,
    no_network,
    parse_choices,
    read_own_photos,
)
from utils.models.embedding import embed
from utils.retrieval.evaluation import Evaluation, evaluate, held_out_photos
from utils.settings import CourseError
from utils.unlearning.loop import unlearn

LFW = Path(__file__).parents[3] / "shared" / "faces" / "lfw-deepfunneled"
real_faces = pytest.mark.skipif(not LFW.is_dir(), reason="no real faces beside the repository")


def noise_album(n_mine: int = 6, size: int = 64) -> OwnPhotos:
    rng = np.random.default_rng(0)
    labels = np.array([0] * n_mine + [1] * 3 + [2])
    crops = torch.from_numpy(rng.integers(0, 256, (len(labels), 3, size, size), dtype=np.uint8))
    return OwnPhotos(("me", "Ada", "Bo"), crops, labels, tuple(f"{i}.jpg" for i in range(len(labels))))


@pytest.mark.parametrize(("n", "parts"), [(3, (1, 1)), (4, (2, 1)), (5, (3, 1)), (30, (24, 3))])
def test_few_photos_and_many_are_dealt(n, parts):
    assert my_parts(n) == parts


def test_two_photos_are_too_few():
    with pytest.raises(CourseError, match="at least 3 usable photos"):
        my_parts(2)


def test_choices_are_read_or_refused():
    assert parse_choices(" party.jpg=2, a=b.png=1 ,") == {"party.jpg": 2, "a=b.png": 1} and parse_choices("") == {}
    for wrong in ("party.jpg", "party.jpg=0", "=2", "party.jpg=two"):
        with pytest.raises(CourseError, match="written like"):
            parse_choices(wrong)


def test_the_album_joins_as_one_to_forget_and_friends_nobody_trained_on(tiny_splits):
    size = tiny_splits.faces.image_size
    both = joined(tiny_splits, noise_album(size=size), "me")
    first = len(tiny_splits.faces.identities)
    assert both.forget == (first,) and {first + 1, first + 2} <= set(both.unseen)
    assert both.trained == (*tiny_splits.trained, first)
    assert [len(both.photos("forget", part)) for part in ("train", "query", "gallery")] == [2, 2, 2]
    assert set(tiny_splits.train) <= set(both.train) and len(both.train) == len(tiny_splits.train) + 2
    assert both.faces.identities[first] == "me" and len(both.faces) == len(tiny_splits.faces) + 10
    assert torch.equal(both.faces.images(tiny_splits.query), tiny_splits.faces.images(tiny_splits.query))
    with pytest.raises(CourseError, match="No identity 'you' in 'the album'"):
        joined(tiny_splits, noise_album(size=size), "you")


def test_people_who_play_the_album_are_not_in_the_crowd_as_well(tiny_splits):
    played = al.drawn_own_photos(tiny_splits, people=2, photos=4)
    both = joined(tiny_splits, played, "you")
    assert played.people[0] == "you" and set(played.taken).isdisjoint(both.unseen)
    assert not np.isin(both.faces.labels[np.concatenate([both.query, both.gallery])], played.taken).any()
    with pytest.raises(CourseError, match="people nobody trained on"):
        al.drawn_own_photos(tiny_splits, people=1000)


def test_you_are_enrolled_forgotten_and_looked_for(tiny_recogniser, tiny_splits):
    both = joined(tiny_splits, al.drawn_own_photos(tiny_splits, people=2, photos=6), "you")
    head = al.enrolled(tiny_recogniser, both)
    assert len(head.weight) == len(both.trained) == len(tiny_recogniser.head.weight) + 1
    outcome = unlearn("gather_scatter", tiny_recogniser.model, head, both, steps=5, progress=False, device="cpu")
    photos = both.photos("forget", "train")
    rows = tuple(embed(model, both.faces, photos) for model in (tiny_recogniser.model, outcome.model))
    before, after = evaluate(tiny_recogniser.model, both, head), evaluate(outcome.model, both, outcome.trained_head)
    ranks = al.attempts(before, after, rows)
    assert len(ranks) == 4 and all(1 <= rank <= len(both.gallery) for pair in ranks.values() for rank in pair)
    assert ranks["a new photo"][0] == ranks["a new photo, the old gallery"][0]


def test_ranks_and_the_new_row_against_plain_loops(tiny_recogniser, tiny_splits):
    both = joined(tiny_splits, al.drawn_own_photos(tiny_splits, people=2, photos=6), "you")
    draw = torch.Generator().manual_seed(2)
    train, labels, me = both.photos("forget", "train"), both.faces.labels, both.forget[0]
    seen = [Seen(both, range(len(labels)), torch.randn(len(labels), 6, generator=draw)) for _ in range(2)]
    photos = held_out_photos(both)
    views = [Evaluation.make(torch.from_numpy(s.rows(photos)).float(), photos, both) for s in seen]
    rows = tuple(torch.from_numpy(s.rows(train)).float() for s in seen)

    def rank(row, gallery: Seen) -> int:
        order = sorted(both.gallery, key=lambda g: -(row @ gallery.at[int(g)]))
        return 1 + [labels[g] == me for g in order].index(True)

    def photo(one: Seen, gallery: Seen) -> float:
        return float(np.mean([rank(one.at[int(q)], gallery) for q in both.photos("forget", "query")]))

    (old, new), means = seen, [s.rows(train).mean(axis=0) for s in seen]
    assert al.attempts(*views, rows) == {
        "a new photo": (photo(old, old), photo(new, new)),
        "a template of several photos": (rank(means[0], old), rank(means[1], new)),
        "a new photo, the old gallery": (photo(old, old), photo(new, old)),
        "an old template, the new gallery": (rank(means[0], old), rank(means[0], new)),
    }
    head = al.enrolled(tiny_recogniser, both)
    mean = embed(tiny_recogniser.model, both.faces, train).double().mean(dim=0)
    assert torch.allclose(head.weight[-1].double(), mean / mean.norm(), atol=1e-5)
    assert torch.equal(head.weight[:-1], tiny_recogniser.head.weight)


def test_everybody_has_one_part_to_play(tiny_splits):
    both = joined(tiny_splits, noise_album(size=tiny_splits.faces.image_size), "me")
    first = len(tiny_splits.faces.identities)
    assert set(both.retain) == {*tiny_splits.retain, *tiny_splits.forget} and both.forget == (first,)
    assert set(both.unseen) == {*tiny_splits.unseen, first + 1, first + 2}
    parts = [set(map(int, part)) for part in (both.train, both.query, both.gallery)]
    assert not parts[0] & parts[1] and not parts[1] & parts[2] and not parts[0] & parts[2]
    album = {photo for photo in set.union(*parts) if photo >= len(tiny_splits.faces)}
    assert len(album) == 10 and {both.faces.labels[p] for p in parts[0] & album} == {first}


def test_the_network_is_cut_off_and_comes_back():
    with no_network() as tried:
        with pytest.raises(OSError, match="without a network"):
            socket.create_connection(("127.0.0.1", 9), timeout=0.1)
        assert len(tried) == 1 and "127.0.0.1" in tried[0]
    server = socket.create_server(("127.0.0.1", 0))
    with server, socket.create_connection(server.getsockname(), timeout=5):
        pass
    assert "connect" not in vars(socket.socket) and socket.getaddrinfo("127.0.0.1", 9)


HERE = ("127.0.0.1", 9)


@pytest.mark.parametrize(
    "way",
    [
        lambda sock: sock.connect(HERE),
        lambda sock: sock.connect_ex(HERE),
        lambda sock: sock.sendto(b"x", HERE),
        lambda sock: sock.sendto(b"x", 0, HERE),
        lambda sock: sock.sendmsg([b"x"], [], 0, HERE),
        lambda sock: socket.create_connection(HERE),
        lambda sock: socket.create_connection(address=HERE),
        lambda sock: socket.getaddrinfo("127.0.0.1", 9),
        lambda sock: socket.gethostbyname("127.0.0.1"),
        lambda sock: socket.gethostbyname_ex("127.0.0.1"),
        lambda sock: socket.gethostbyaddr("127.0.0.1"),
        lambda sock: socket.getnameinfo(HERE, 0),
        lambda sock: urllib.request.urlopen("http://127.0.0.1:9", timeout=1),
        lambda sock: asyncio.run(asyncio.open_connection(*HERE)),
    ],
)
def test_every_way_out_is_refused_in_one_sentence(way):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, no_network() as tried:
        with pytest.raises(OSError, match="works without a network, and has cut it off"):
            way(sock)
        assert len(tried) >= 1 and "127.0.0.1" in tried[0]


def test_an_open_connection_goes_on():
    left, right = socket.socketpair()
    with left, right, no_network() as tried:
        left.sendmsg([b"x"])
        left.send(b"y")
        assert right.recv(1) + right.recv(1) == b"xy" and tried == []


def test_new_and_changed_files_are_seen(tmp_path):
    (tmp_path / "old").write_text("same", encoding="utf-8")
    before = files_in(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "new").write_text("x", encoding="utf-8")
    (tmp_path / "old").write_text("longer", encoding="utf-8")
    assert [Path(path).name for path in changed_files(before, files_in(tmp_path))] == ["new", "old"]
    assert changed_files(before, before) == []


def test_a_folder_without_people_is_one_sentence(tmp_path):
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(CourseError):
            read_own_photos(folder, 64)


@real_faces
def test_real_photos_turned_tiny_and_broken(tmp_path):
    person = sorted((LFW / "Abdullah_Gul").glob("*.jpg"))
    mine, friend = tmp_path / "me", tmp_path / "Friend"
    mine.mkdir(), friend.mkdir()
    shutil.copy(person[0], mine / "straight.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # a phone held upright: stored turned, to be shown turned back
    Image.open(person[1]).rotate(90, expand=True).save(mine / "phone.jpg", exif=exif)
    left, right = (Image.open(path) for path in sorted((LFW / "Adrien_Brody").glob("*.jpg"))[:2])
    group = Image.new("RGB", (500, 250))
    group.paste(left, (0, 0)), group.paste(right, (250, 0))
    group.save(friend / "party.png")
    (mine / "broken.jpg").write_bytes(person[0].read_bytes()[:900])
    (mine / "phone.heic").write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(50))
    Image.new("RGB", (200, 200)).save(mine / "wall.jpg")
    before = files_in(tmp_path)
    read = read_own_photos(tmp_path, 64)
    assert set(read.people) == {"me", "Friend"} and read.crops.dtype == torch.uint8
    assert (read.labels == read.people.index("me")).sum() == 2
    reasons = {entry.photo.split("/")[1]: entry.reason for entry in read.skipped}
    assert set(reasons) == {"broken.jpg", "phone.heic", "wall.jpg"} and "as JPEG" in reasons["phone.heic"]
    (n_faces,) = (len(faces) for faces in read.crowds.values())
    assert n_faces >= 2 and f"party.png ({n_faces} found)" in read.report()
    which = read.photos.index("Friend/party.png")
    ends = [read_own_photos(tmp_path, 64, {"party.png": number}).crops[which] for number in (1, n_faces)]
    assert torch.equal(ends[0], read.crowds["Friend/party.png"][0]) and not torch.equal(*ends)
    assert changed_files(before, files_in(tmp_path)) == []
    for wrong, words in (({"party.png": 9}, "no face number 9"), ({"nobody.png": 1}, "No photo is called")):
        with pytest.raises(CourseError, match=words):
            read_own_photos(tmp_path, 64, wrong)


def test_a_choice_means_one_photo_or_is_refused():
    photos = [Photo("", name.split("/")[-1], name) for name in ("Ada/party.jpg", "Bob/party.jpg", "Bob/trip/sea.jpg")]
    assert chosen_photos({"Bob/party.jpg": 2, "sea.jpg": 1}, photos) == {"Bob/party.jpg": 2, "Bob/trip/sea.jpg": 1}
    for wrong, words in (
        ({"party.jpg": 2}, "Several photos are called 'party.jpg': .*Ada/party.jpg or Bob/party.jpg"),
        ({"sea.png": 1}, "No photo is called 'sea.png'. Nearest"),
        ({"sea.jpg": 1, "Bob/trip/sea.jpg": 2}, "two choices for 'Bob/trip/sea.jpg'"),
    ):
        with pytest.raises(CourseError, match=words):
            chosen_photos(wrong, photos)


def test_a_choice_for_a_photo_without_a_face_says_so(tmp_path, monkeypatch):
    (tmp_path / "Ada").mkdir()
    Image.new("RGB", (200, 200)).save(tmp_path / "Ada" / "wall.jpg")
    monkeypatch.setattr(Aligner, "every_face", lambda self, image: [])
    with pytest.raises(CourseError, match="'Ada/wall.jpg': no face found, so there is no face number 1"):
        read_own_photos(tmp_path, 64, {"wall.jpg": 1})
