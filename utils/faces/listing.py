"""Which files below a folder are photos of whom: every file is listed, or passed over with a reason."""

from __future__ import annotations

import functools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from ..settings import CourseError, resolved
from .lists import clear_name, name_key

LAYOUT = "one folder per person, for example 'root/Ada Lovelace/first.jpg' and 'root/Alan Turing/party.png'"
VGGFACE2_LAYOUT = (
    "'root/train/n000002/0001_01.jpg', 'root/test/n000001/0001_01.jpg' (either may be absent), and "
    "'root/identity_meta.csv' with lines like 'n000001, \"14th_Dalai_Lama\", 424, 0, m'"
)
VGGFACE2_PARTS = {"train": "1", "test": "0"}  # as the column Flag of identity_meta.csv has it

# Pillow opens these too, but nobody keeps portraits in them (and some start other programs).
NOT_PHOTOS = {"EPS", "WMF", "MPEG", "HDF5", "GRIB", "BUFR", "FITS"}
UNSIGNED = {"TGA", "PCD", "IPTC"}  # formats that almost any bytes could be: believed only by their ending
MAY_NEED_A_PLUGIN = {".heic", ".heif", ".avif", ".jxl", ".webp", ".jp2", ".dng", ".cr2", ".nef", ".arw", ".raw"}
SYSTEM = re.compile(
    r"\._.*|__MACOSX|@eaDir|\.(DS_Store|git|svn|ipynb_checkpoints|directory|nomedia|localized|picasa\.ini|Spotlight.*"
    r"|Trash.*|thumbnails|fseventsd|venv|cache)|(eh)?Thumbs\.db|desktop\.ini|\$RECYCLE\.BIN|System Volume Information",
    re.IGNORECASE,
)
NOT_A_PHOTO = "not a photo"
OF_THE_SYSTEM = "kept there by the system or a program, not a photo"
HIDDEN = "hidden, because a name begins with a dot"
ASTRAY = "lies beside the people's folders, in nobody's"
ONE_PERSON = "folders whose names look alike, taken for one person"
NESTED = "lies in a folder within the person's folder"
SHARED = "classes that the list gives one name, taken for different people"
DEEPEST = 3  # levels below (or above) a root in which the right one is looked for
MOST_FOLDERS = 500  # of them
MOST_STRANGERS = 10_000  # files that are no photos in one person's folder, unless a tenth as many are: a wrong root


@dataclass(frozen=True)
class Skipped:
    """A photo (or person) that was left out or needs a remark, the reason, and perhaps which other photo is meant."""

    photo: str
    reason: str
    other: str = ""


def account(skipped: Iterable[Skipped], noted: Iterable[Skipped], names: int = 3) -> list[str]:
    """Return a line per reason, with the number and the first names, and one that says whose files were left out."""
    lines = []
    for title, entries in (("skipped", list(skipped)), ("noted", list(noted))):
        by_reason: dict[str, list[Skipped]] = {}
        for entry in entries:
            by_reason.setdefault(entry.reason, []).append(entry)
        for reason, group in sorted(by_reason.items(), key=lambda item: -len(item[1])):
            first = [f"{entry.photo} = {entry.other}" if entry.other else entry.photo for entry in group[:names]]
            lines.append(f"{title} {len(group)}: {reason} ({', '.join(first)}{', ...' if len(group) > names else ''})")
        if title == "skipped" and lines:
            whose = Counter(e.photo.split("/")[0] for e in entries if "/" in e.photo).most_common()
            told = [f"{person} {count}" for person, count in whose[:names]] + ["..."] * (len(whose) > names)
            lines += [f"skipped by person: {', '.join(told)}"] if whose else []
    return lines


class Photo(NamedTuple):
    """A file that looks like a photo: its folder and file name on the disk, and its printable name 'person/file'."""

    folder: str
    file: str
    name: str

    @property
    def path(self) -> Path:
        """The file's whole path."""
        return Path(self.folder, self.file)

    def stamp(self) -> tuple[int, int, int, int]:
        """Return size, times of the last change of content and of anything, and the file's number: another file under
        this name differs in them, even if its size and date were made equal."""
        try:
            status = os.stat(f"{self.folder}{os.sep}{self.file}")
        except OSError:  # gone since it was listed: reading it will say so
            return -1, 0, 0, 0
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


People = list[tuple[str, list[Photo]]]


class Listing(NamedTuple):
    """The people of a folder with their photos, the files that are none of these, and remarks."""

    people: People
    skipped: list[Skipped]
    noted: list[Skipped]


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
    noted: tuple[Skipped, ...] = ()

    @property
    def n_photos(self) -> int:
        """How many photos all people have together."""
        return sum(len(photos) for _, photos in self.people)

    def report(self) -> str:
        """Return the numbers of people and photos, how many photos a person has, and what was left out."""
        counts = sorted(len(photos) for _, photos in self.people)
        middle = counts[len(counts) // 2]
        spread = f"{counts[0]} to {counts[-1]} photos each, median {middle}"
        line = f"{self.name}: {self.n_photos:,} photos of {len(counts):,} people ({spread}). {self.source}"
        return "\n".join([line, *account(self.skipped, self.noted)])


# One folder per person -----------------------------------------------------------------------------------------------


def list_people(root: Path) -> Listing:
    """List (person, photos) per sub-folder in alphabetical order; whatever else lies there is named with a reason.
    Folders whose names look the same are one person."""
    folders, skipped, noted = {}, [], []
    for entry in sorted_entries(root):
        kind, name = kind_of(entry), clear_name(entry.name)
        if kind == "folder" and not passed_over(entry, name, skipped):
            folders.setdefault(name_key(entry.name), []).append(entry.name)
        elif kind != "folder":
            skipped.append(Skipped(name, why_no_photo(entry, kind) or ASTRAY))
    people = []
    for same in sorted(folders.values(), key=lambda same: clear_name(same[0])):
        person = clear_name(same[0])
        found = [photos_in(root / folder, person, root) for folder in same]
        photos = _unique([photo for listed, _ in found for photo in listed])
        people.append((person, photos))
        skipped += [entry for _, entries in found for entry in entries]
        noted += [Skipped(photo.name, NESTED) for photo in photos if photo.name.count("/") > 1]
        if len(same) > 1:
            noted.append(Skipped(" and ".join(map(ascii, same)), ONE_PERSON))
    return Listing(people, skipped, noted + alike([person for person, _ in people]))


def alike(people: list[str]) -> list[Skipped]:
    """Name people whose names differ only in case or in the width of letters: they stay different people."""
    groups: dict[str, list[str]] = {}
    for person in people:
        groups.setdefault(unicodedata.normalize("NFKC", person).casefold(), []).append(person)
    reason = "names that differ in case or width only, taken for different people"
    return [Skipped(" and ".join(map(repr, group)), reason) for group in groups.values() if len(group) > 1]


def photos_in(folder: Path, person: str, root: Path | None = None) -> tuple[list[Photo], list[Skipped]]:
    """List the photos of one folder and of those within it in alphabetical order, and what else lies there."""
    photos, skipped = [], []
    above = (root, *Path(root).resolve().parents) if root else ()  # a link there would lead to everybody's photos
    seen = {_identity(place) for place in above}
    _walk(str(folder), person, photos, skipped, seen)
    return photos, skipped


def _walk(folder: str, name: str, photos: list[Photo], skipped: list[Skipped], seen: set) -> None:
    try:
        with os.scandir(folder) as entries:
            inside = sorted(entries, key=lambda entry: entry.name)
        here = _identity(folder)
    except OSError as error:
        skipped.append(Skipped(name, f"a folder that cannot be read: {error.strerror.lower()}"))
        return
    if here in seen:
        skipped.append(Skipped(name, "a link to a folder that was listed already"))
        return
    seen.add(here)
    for entry in inside:
        kind, path_name = kind_of(entry), f"{name}/{_printable(entry.name)}"
        if kind == "folder":
            if not passed_over(entry, path_name, skipped):
                _walk(entry.path, path_name, photos, skipped, seen)
        elif reason := why_no_photo(entry, kind):
            skipped.append(Skipped(path_name, reason))
        else:
            photos.append(Photo(folder, entry.name, path_name))
    if len(skipped) > max(MOST_STRANGERS, 10 * len(photos)):
        person, example = name.split("/")[0], skipped[-1].photo
        told = f"'{person}' holds over {MOST_STRANGERS:,} files that are no photos (such as '{example}')"
        raise CourseError(f"{told}, so this is no folder of people; expected {LAYOUT}.")


def passed_over(entry: os.DirEntry, name: str, skipped: list[Skipped]) -> bool:
    """True, and listed, for folders of the system (as one) and for hidden ones (file by file)."""
    if SYSTEM.fullmatch(entry.name):
        skipped.append(Skipped(name, OF_THE_SYSTEM))
        return True
    if not entry.name.startswith("."):
        return False
    for home, _, files in os.walk(entry.path):
        within = _printable(os.path.relpath(home, entry.path)).removeprefix(".")
        skipped += [Skipped("/".join(filter(None, (name, within, _printable(file)))), HIDDEN) for file in sorted(files)]
    return True


def kind_of(entry: os.DirEntry) -> str:
    """Return 'folder', 'file', or in words why an entry is neither."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        return "a link that leads nowhere" if entry.is_symlink() else "neither a file nor a folder"
    except OSError as error:  # a link to itself, or a place that may not be looked at
        return f"cannot be looked at: {error.strerror.lower()}"


def why_no_photo(entry: os.DirEntry, kind: str) -> str:
    """Say why an entry that is no folder is no photo, or nothing if it looks like one; known endings stay unopened."""
    if SYSTEM.fullmatch(entry.name):
        return OF_THE_SYSTEM
    if entry.name.startswith("."):
        return HIDDEN
    if kind != "file":
        return kind
    return "" if _known_ending(os.path.splitext(entry.name)[1].lower()) else _why_unopened(entry.path)


@functools.cache
def _known_ending(suffix: str) -> bool:
    image_format = Image.registered_extensions().get(suffix)
    known = image_format in Image.OPEN and image_format not in NOT_PHOTOS
    return known or suffix in MAY_NEED_A_PLUGIN  # listed as unreadable where Pillow cannot open them


def _why_unopened(path: str) -> str:
    """Open a file whose ending tells nothing: say why it is no photo, or nothing if Pillow finds an image inside."""
    try:
        if not os.stat(path).st_size:  # also the files of /proc, some of which wait for ever
            return "the file is empty"
        with open(path, "rb") as file:
            head = file.read(32)
            if image_kind(head):
                return ""
            Image.init()
            with Image.open(file, formats=[known for known in Image.OPEN if known not in NOT_PHOTOS | UNSIGNED]):
                return ""
    except Image.DecompressionBombError:
        return ""  # an image: reading it will say that it is too large
    except UnidentifiedImageError:
        return NOT_A_PHOTO
    except MemoryError:
        raise
    except OSError as error:
        return f"cannot be read: {error.strerror.lower()}" if error.errno else NOT_A_PHOTO
    except Exception:  # bytes that merely begin like an image make Pillow's many readers raise almost anything
        return NOT_A_PHOTO


def image_kind(head: bytes) -> str:
    """Return the kind of photo that a file's first 32 bytes announce, where Pillow may need help with it, or ''."""
    if head[4:8] == b"ftyp":
        brands = {head[8:12], *(head[k : k + 4] for k in range(16, 32, 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        return "HEIC" if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"} else ""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "JPEG XL"
    return "JPEG 2000" if head.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")) else ""


def visible(folder: Path) -> list[os.DirEntry]:
    """Return a folder's entries without the hidden ones; raises CourseError if it cannot be read."""
    return [e for e in entries_of(folder) if not e.name.startswith(".") and not SYSTEM.fullmatch(e.name)]


def entries_of(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise CourseError(f"The folder '{folder}' cannot be read ({error.strerror}); check its permissions.") from error


def sorted_entries(folder: Path) -> list[os.DirEntry]:
    return sorted(entries_of(folder), key=lambda entry: entry.name)


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _printable(name: str) -> str:
    if name.isascii():
        return name
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))


def _unique(photos: list[Photo]) -> list[Photo]:
    """Number the photos whose printable names are equal, so that every name is met once."""
    taken: set[str] = set()
    for k, photo in enumerate(photos):
        name, n = photo.name, 1
        while name in taken:
            n += 1
            name = f"{photo.name} ({n})"
        taken.add(name)
        photos[k] = photo._replace(name=name)
    return photos


def existing_root(root: str | Path | None, name: str, layout: str) -> Path:
    """Return the folder that was given as root; raises CourseError if there is none."""
    if root is None:
        raise CourseError(f"The data set '{name}' needs root, the folder it lies in; expected {layout}.")
    path = resolved(root)
    if not os.path.exists(path):  # also where the way to it is barred
        raise CourseError(f"There is no folder '{path}'; expected {layout}.")
    if not path.is_dir():
        raise CourseError(f"'{path}' is a file, not a folder; expected {layout}.")
    return path


def has_people(root: Path) -> bool:
    """True if at least one sub-folder holds photos itself, not only in folders within it."""
    return any(map(_holds_photos, folders_in(root)))


def _holds_photos(folder: Path) -> bool:
    try:
        return any(kind_of(entry) == "file" and not why_no_photo(entry, "file") for entry in sorted_entries(folder))
    except CourseError:  # unreadable
        return False


def why_no_people(root: Path, layout: str) -> str:
    """Say in one sentence why no sub-folder of a folder holds photos itself."""
    entries = visible(root)
    if _holds_photos(root):
        return f"'{root}' holds photos directly, so nobody is named; expected {layout}."
    for path, level in folders_below(root):
        if has_people(path):
            person = f"(if '{path.name}' is a person, keep a photo in that folder itself)"
            return f"'{root}' is {levels(level)} too high: try '{path}' {person}; expected {layout}."
    found = "no photos in its sub-folders" if folders_in(root) else "no sub-folders" if entries else "nothing"
    return f"'{root}' holds {found}; expected {layout}."


def levels(n: int) -> str:
    """Return 'one level' or 'two levels'."""
    return f"{('no', 'one', 'two', 'three')[n]} level{'s' * (n != 1)}"


def folders_below(root: Path) -> Iterator[tuple[Path, int]]:
    """Yield the first folders below one, the nearest levels first, each with its level; links are not followed."""
    level, count = [Path(root)], 0
    for depth in range(1, DEEPEST + 1):
        level = [path for folder in level[:MOST_FOLDERS] for path in folders_in(folder)]
        for path in level:
            count += 1
            if count > MOST_FOLDERS:
                return
            yield path, depth


def folders_in(root: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in visible(root) if kind_of(entry) == "folder")
    except CourseError:  # unreadable: nothing can be found there
        return []
