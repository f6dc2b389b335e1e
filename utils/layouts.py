"""What lies in a folder of faces: people and photos by name, read from each data set's official layout, unopened."""

from __future__ import annotations

import glob
import os
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from utils.pretrained import META_LINE
from utils.settings import CourseError

LAYOUT = "one folder per person, for example 'root/Ada Lovelace/first.jpg' and 'root/Alan Turing/party.png'"
LFW_LAYOUT = "'root/Ada_Lovelace/Ada_Lovelace_0001.jpg' and 'root/Alan_Turing/Alan_Turing_0001.jpg'"
CELEBA_LAYOUT = (
    "'root/img_align_celeba/000001.jpg', 'root/identity_CelebA.txt' with lines like '000001.jpg 2880', and "
    "'root/list_eval_partition.txt' with lines like '000001.jpg 0'"
)
VGGFACE2_LAYOUT = (
    "'root/train/n000002/0001_01.jpg', 'root/test/n000001/0001_01.jpg' (either may be absent), and "
    "'root/identity_meta.csv' with lines like 'n000001, \"14th_Dalai_Lama\", 424, 0, m'"
)
CELEBA_PARTS = {"train": "0", "valid": "1", "test": "2"}
VGGFACE2_PARTS = {"train": "1", "test": "0"}  # as the column Flag of identity_meta.csv has it
# Pillow opens these too, but nobody keeps portraits in them (and some start other programs).
NOT_PHOTOS = {"EPS", "WMF", "MPEG", "HDF5", "GRIB", "BUFR", "FITS"}
MAY_NEED_A_PLUGIN = {".heic", ".heif", ".avif", ".jxl", ".webp", ".jp2", ".dng", ".cr2", ".nef", ".arw", ".raw"}


@dataclass(frozen=True)
class Skipped:
    """A photo (or person) that was left out or needs a remark, and the reason."""

    photo: str
    reason: str


class Photo(NamedTuple):
    """A file that looks like a photo: its folder and file name on the disk, and its printable name 'person/file'."""

    folder: str
    file: str
    name: str

    @property
    def path(self) -> Path:
        """The file's whole path."""
        return Path(self.folder, self.file)

    def stamp(self) -> tuple[int, int]:
        """Return size and time of the last change in nanoseconds, which differ once the file was replaced."""
        try:
            status = os.stat(f"{self.folder}{os.sep}{self.file}")
        except OSError:  # gone since it was listed: reading it will say so
            return -1, 0
        return status.st_size, status.st_mtime_ns


People = list[tuple[str, list[Photo]]]


@dataclass(frozen=True)
class FaceIndex:
    """A data set before any photo is opened: (person, photos) in a fixed order, and what was left out already.
    Introduced in notebook 01."""

    name: str
    root: Path
    people: People
    source: str
    licence: str
    skipped: tuple[Skipped, ...] = ()

    @property
    def n_photos(self) -> int:
        """How many photos all people have together."""
        return sum(len(photos) for _, photos in self.people)

    def report(self) -> str:
        """Return the numbers of people and photos, and how many photos a person has, in one line."""
        counts = sorted(len(photos) for _, photos in self.people)
        middle = counts[len(counts) // 2]
        spread = f"{counts[0]} to {counts[-1]} photos each, median {middle}"
        return f"{self.name}: {self.n_photos:,} photos of {len(counts):,} people ({spread}). {self.source}"


# One folder per person -----------------------------------------------------------------------------------------------


def list_people(root: Path) -> People:
    """List (person, photos) per sub-folder in alphabetical order; hidden files and files that do not look like photos
    are passed over. Names are in Unicode's composed form, so that an accent compares equal everywhere."""
    folders = sorted(entry.name for entry in visible(root) if entry.is_dir())
    names = _composed(folders)
    return [(name, photos_in(root / folder, name)) for name, folder in zip(names, folders, strict=True)]


def photos_in(folder: Path, person: str) -> list[Photo]:
    """List the photos of one folder in alphabetical order."""
    files = sorted(entry.name for entry in visible(folder) if _looks_like_photo(entry))
    home = str(folder)
    return [Photo(home, file, f"{person}/{name}") for file, name in zip(files, _composed(files), strict=True)]


def visible(folder: Path) -> list[os.DirEntry]:
    """Return a folder's entries without the hidden ones; raises CourseError if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))]
    except OSError as error:
        raise CourseError(f"The folder '{folder}' cannot be read ({error.strerror}); check its permissions.") from error


def _composed(names: list[str]) -> list[str]:
    if all(map(str.isascii, names)):
        return names
    printable = [os.fsencode(name).decode("utf-8", "replace") for name in names]
    composed = [unicodedata.normalize("NFC", name) for name in printable]
    return composed if len(set(composed)) == len(names) else names


def _looks_like_photo(entry: os.DirEntry) -> bool:
    if not entry.is_file():
        return False
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix in MAY_NEED_A_PLUGIN:  # certainly photos: listed as unreadable where Pillow cannot open them
        return True
    image_format = Image.registered_extensions().get(suffix)
    if image_format is not None:
        return image_format in Image.OPEN and image_format not in NOT_PHOTOS
    return not suffix and _opens(entry.path)


def _opens(path: str) -> bool:
    try:
        with Image.open(path):
            return True
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def existing_root(root: str | Path | None, name: str, layout: str) -> Path:
    """Return the folder that was given as root; raises CourseError if there is none."""
    if root is None:
        raise CourseError(f"The data set '{name}' needs root, the folder it lies in; expected {layout}.")
    path = Path(root).expanduser().resolve()
    if not path.exists():
        raise CourseError(f"There is no folder '{path}'; expected {layout}.")
    if not path.is_dir():
        raise CourseError(f"'{path}' is a file, not a folder; expected {layout}.")
    return path


def why_no_people(root: Path, layout: str) -> str:
    """Say in one sentence why a folder gave nobody."""
    if any(_looks_like_photo(entry) for entry in visible(root)):
        return f"'{root}' holds photos directly, so nobody is named; expected {layout}."
    folders = _folders(root)
    for folder in folders:
        if any(photos for _, photos in list_people(folder)):
            return f"'{root}' is one level too high: try '{folder}'; expected {layout}."
    found = "no photos in its sub-folders" if folders else "nothing" if not visible(root) else "no sub-folders"
    return f"'{root}' holds {found}; expected {layout}."


def _folders(root: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in visible(root) if entry.is_dir())


# Labeled Faces in the Wild -------------------------------------------------------------------------------------------


def find_lfw(given: Path) -> Path:
    """Return LFW's folder at the given one, or one level below or above it; raises CourseError."""
    above = [given.parent] if any(given.glob(f"{glob.escape(given.name)}_*.*")) else []
    for path in (given, *_folders(given), *above):
        if _is_lfw(path):
            return path
    if any(photos for _, photos in list_people(given)):
        raise CourseError(
            f"The photos in '{given}' are not named after their folders, as LFW's are; expected {LFW_LAYOUT}. "
            "Any other folder of people opens as the data set 'folder'."
        )
    raise CourseError(why_no_people(given, LFW_LAYOUT))


def _is_lfw(root: Path) -> bool:
    """True if the first visible sub-folders hold files named after themselves, Name/Name_0001.jpg."""
    return any(any(f.glob(f"{glob.escape(f.name)}_[0-9][0-9][0-9][0-9].*")) for f in _folders(root)[:5])


# CelebA --------------------------------------------------------------------------------------------------------------


def find_celeba(given: Path) -> Path:
    """Return the given folder if CelebA's identity file lies in it; raises CourseError with a better place if known."""
    if _celeba_file(given, "identity_CelebA.txt"):
        return given
    for path, what in ((given.parent, "deep"), (given.parent.parent, "deep"), *((p, "high") for p in _folders(given))):
        if _celeba_file(path, "identity_CelebA.txt"):
            raise CourseError(f"'{given}' is one level too {what}: try '{path}'; expected {CELEBA_LAYOUT}.")
    raise CourseError(
        f"There is no identity_CelebA.txt in '{given}', so nobody is named (it is in the folder Anno of the "
        f"official download); expected {CELEBA_LAYOUT}."
    )


def celeba_images(root: Path) -> Path | None:
    """Return the folder of CelebA's aligned photos, also where unpacking put it into a folder of its own name."""
    nested = Path("img_align_celeba", "img_align_celeba")
    for place in (nested, Path("Img") / nested, nested.parent, Path("Img") / nested.parent):
        if (root / place).is_dir():
            return root / place
    return None


def read_celeba(root: Path, images: Path, part: str | None = None) -> tuple[People, list[Skipped]]:
    """List CelebA's people, named 'celeb-' and the official number, of one official part or of all; raises
    CourseError for lists that are malformed, contradict each other, or name photos that are not there."""
    identities = _read_pairs(_celeba_file(root, "identity_CelebA.txt"), "a photo and a person's number", CELEBA_LAYOUT)
    present = {entry.name for entry in visible(images) if entry.name.endswith((".jpg", ".png"))}
    if absent := identities.keys() - present:
        raise CourseError(
            f"{len(absent):,} of {len(identities):,} photos that identity_CelebA.txt lists are not in '{images}' "
            f"(first: {min(absent)}); unpack the whole of img_align_celeba.zip; expected {CELEBA_LAYOUT}."
        )
    skipped = [Skipped(file, "not listed in identity_CelebA.txt") for file in sorted(present - identities.keys())]
    chosen = _celeba_part(root, identities, part)
    by_person: dict[int, list[str]] = {}
    for file in sorted(chosen):
        by_person.setdefault(int(identities[file]), []).append(file)
    home, people = str(images), []
    for number in sorted(by_person):
        person = f"celeb-{number}"
        people.append((person, [Photo(home, file, f"{person}/{file}") for file in by_person[number]]))
    return people, skipped


def _celeba_part(root: Path, identities: dict[str, str], part: str | None) -> list[str]:
    """Return the files of one part (or all), after checking that the partition names the same photos."""
    path = _celeba_file(root, "list_eval_partition.txt")
    if path is None:
        if part:
            raise CourseError(f"There is no list_eval_partition.txt in '{root}'; expected {CELEBA_LAYOUT}.")
        return list(identities)
    parts = _read_pairs(path, "a photo and 0, 1 or 2", CELEBA_LAYOUT)
    strangers = parts.keys() ^ identities.keys()
    strangers |= {file for file, number in parts.items() if number not in CELEBA_PARTS.values()}
    if strangers:
        raise CourseError(
            f"list_eval_partition.txt does not fit identity_CelebA.txt in '{root}': {len(strangers):,} photos are in "
            f"only one of them or in no part 0, 1 or 2 (first: {min(strangers)}); expected {CELEBA_LAYOUT}."
        )
    return [file for file, number in parts.items() if number == CELEBA_PARTS[part]] if part else list(parts)


def _celeba_file(root: Path, name: str) -> Path | None:
    places = (root / name, root / "Anno" / name, root / "Eval" / name)
    return next((path for path in places if path.is_file()), None)


def _read_pairs(path: Path, what: str, layout: str) -> dict[str, str]:
    """Read a text file with a name and a number per line; raises CourseError with the first bad line."""
    pairs: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        fields = line.split()
        if len(fields) == 2 and fields[1].isdigit() and pairs.setdefault(fields[0], fields[1]) == fields[1]:
            continue
        if fields:
            why = "contradicts an earlier line" if len(fields) == 2 and fields[0] in pairs else f"is not {what}"
            raise CourseError(f"Line {number} of '{path}' ('{line[:60]}') {why}; expected {layout}.")
    if not pairs:
        raise CourseError(f"'{path}' is empty; expected {layout}.")
    return pairs


# VGGFace2 ------------------------------------------------------------------------------------------------------------


def find_vggface2(given: Path) -> Path:
    """Return the given folder if VGGFace2's train or test folder lies in it; raises CourseError with a better place."""
    if _vggface2_parts(given):
        return given
    above = ((given.parent, "one level too deep"), (given.parent.parent, "two levels too deep"))
    for path, what in (*above, *((path, "one level too high") for path in _folders(given))):
        if _vggface2_parts(path):
            raise CourseError(f"'{given}' is {what}: try '{path}'; expected {VGGFACE2_LAYOUT}.")
    raise CourseError(f"'{given}' has neither train nor test with folders like n000001; expected {VGGFACE2_LAYOUT}.")


def read_vggface2(root: Path, part: str | None = None, meta: Path | None = None) -> tuple[People, list[Skipped]]:
    """List VGGFace2's people under their official names, of one official part or of both; raises CourseError if
    identity_meta.csv is absent, malformed, or puts a person into the other part."""
    meta = meta or next((p for p in (root / "identity_meta.csv", root / "meta/identity_meta.csv") if p.is_file()), None)
    if meta is None:
        raise CourseError(f"There is no identity_meta.csv in '{root}'; expected {VGGFACE2_LAYOUT}.")
    names, flags = _read_meta(meta)
    there = _vggface2_parts(root)
    if part and part not in there:
        raise CourseError(f"There is no folder '{part}' in '{root}'; expected {VGGFACE2_LAYOUT}.")
    people, skipped = [], []
    for folder in (folder for name in ([part] if part else there) for folder in _folders(root / name)):
        if flags.get(folder.name) == VGGFACE2_PARTS[folder.parent.name]:
            people.append((names[folder.name], photos_in(folder, folder.name)))
        elif re.fullmatch(r"n\d{6}", folder.name):
            listed = folder.name in flags
            told = f"puts {folder.name} into the other part" if listed else f"does not list {folder.name}"
            raise CourseError(f"'{meta}' {told}, but it lies in '{folder.parent}'; expected {VGGFACE2_LAYOUT}.")
        else:
            skipped.append(Skipped(f"{folder.parent.name}/{folder.name}", "not a folder like n000001"))
    return people, skipped


def _vggface2_parts(root: Path) -> list[str]:
    parts = [part for part in VGGFACE2_PARTS if (root / part).is_dir()]
    return [part for part in parts if any(re.fullmatch(r"n\d{6}", entry.name) for entry in visible(root / part))]


def _read_meta(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return name and flag per class id; a name that two people share is followed by the id."""
    names, flags = {}, {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if match := META_LINE.match(line):
            class_id, name, flag = match.groups()
            names[class_id], flags[class_id] = unicodedata.normalize("NFC", name), flag
        elif line.strip() and not line.lstrip("\ufeff").startswith("Class_ID"):
            raise CourseError(f"Line {number} of '{path}' ('{line[:60]}') is malformed; expected {VGGFACE2_LAYOUT}.")
    shared = {name for name, count in Counter(names.values()).items() if count > 1}
    return {key: f"{name} ({key})" if name in shared or not name else name for key, name in names.items()}, flags
