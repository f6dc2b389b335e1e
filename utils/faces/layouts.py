"""What lies in a folder of faces: people and photos by name, read from each data set's official layout, unopened."""

from __future__ import annotations

import contextlib
import glob
import re
from collections.abc import Callable
from pathlib import Path

from ..settings import CourseError
from .listing import (
    ASTRAY,
    DEEPEST,
    OF_THE_SYSTEM,
    SHARED,
    SYSTEM,
    VGGFACE2_LAYOUT,
    VGGFACE2_PARTS,
    Listing,
    Photo,
    Skipped,
    entries_of,
    folders_below,
    folders_in,
    has_people,
    kind_of,
    levels,
    passed_over,
    photos_in,
    sorted_entries,
    visible,
    why_no_people,
    why_no_photo,
)
from .lists import clear_name, name_key, read_meta, read_pairs

LFW_LAYOUT = "'root/Ada_Lovelace/Ada_Lovelace_0001.jpg' and 'root/Alan_Turing/Alan_Turing_0001.jpg'"
CELEBA_LAYOUT = (
    "'root/img_align_celeba/000001.jpg', 'root/identity_CelebA.txt' with lines like '000001.jpg 2880', and "
    "'root/list_eval_partition.txt' with lines like '000001.jpg 0'"
)
CELEBA_PARTS = {"train": "0", "valid": "1", "test": "2"}


# Labeled Faces in the Wild -------------------------------------------------------------------------------------------


def find_lfw(given: Path) -> Path:
    """Return LFW's folder at the given one, or a few levels below or one above it; raises CourseError."""
    above = [given.parent] if any(given.glob(f"{glob.escape(given.name)}_*.*")) else []
    for path in (given, *above):
        if _is_lfw(path):
            return path
    for path, _ in folders_below(given):
        if _is_lfw(path):
            return path
    if has_people(given):
        raise CourseError(
            f"The photos in '{given}' are not named after their folders, as LFW's are; expected {LFW_LAYOUT}. "
            "Any other folder of people opens as the data set 'folder'."
        )
    raise CourseError(why_no_people(given, LFW_LAYOUT))


def _is_lfw(root: Path) -> bool:
    """True if the first visible sub-folders hold files named after themselves, Name/Name_0001.jpg."""
    return any(any(f.glob(f"{glob.escape(f.name)}_[0-9][0-9][0-9][0-9].*")) for f in folders_in(root)[:5])


# CelebA --------------------------------------------------------------------------------------------------------------


def find_celeba(given: Path) -> Path:
    """Return the given folder if CelebA's identity file lies in it; raises CourseError with a better place if known."""
    if given.name not in ("Anno", "Eval") and _celeba_file(given, "identity_CelebA.txt"):
        return given
    if better := _better_place(given, lambda path: _celeba_file(path, "identity_CelebA.txt") is not None):
        raise CourseError(f"'{given}' is {better}; expected {CELEBA_LAYOUT}.")
    if _celeba_file(given, "identity_CelebA.txt"):
        return given
    raise CourseError(
        f"There is no identity_CelebA.txt in '{given}', so nobody is named (it is in the folder Anno of the "
        f"official download); expected {CELEBA_LAYOUT}."
    )


def _better_place(given: Path, fits: Callable[[Path], bool]) -> str:
    """Return 'one level too deep: try ...' (or too high) for the nearest folder that fits, or nothing."""
    above = zip(given.parents, range(1, DEEPEST + 1), strict=False)
    for way, places in (("deep", above), ("high", folders_below(given))):
        for path, distance in places:
            with contextlib.suppress(OSError, CourseError):  # a folder that may not be looked into
                if fits(path):
                    return f"{levels(distance)} too {way}: try '{path}'"
    return ""


def celeba_images(root: Path) -> Path | None:
    """Return the folder of CelebA's aligned photos, also where unpacking put it into a folder of its own name."""
    nested = Path("img_align_celeba", "img_align_celeba")
    for place in (nested, Path("Img") / nested, nested.parent, Path("Img") / nested.parent):
        if (root / place).is_dir():
            return root / place
    return None


def read_celeba(root: Path, images: Path, part: str | None = None) -> Listing:
    """List CelebA's people, named 'celeb-' and the official number, of one official part or of all; raises
    CourseError for lists that are malformed, contradict each other, or name photos that are not there."""
    identities = read_pairs(_celeba_file(root, "identity_CelebA.txt"), "a photo and a person's number", CELEBA_LAYOUT)
    present = {entry.name for entry in entries_of(images)}
    if absent := identities.keys() - present:
        raise CourseError(
            f"{len(absent):,} of {len(identities):,} photos that identity_CelebA.txt lists are not in '{images}' "
            f"(first: {min(absent)}); unpack the whole of img_align_celeba.zip; expected {CELEBA_LAYOUT}."
        )
    skipped = [
        Skipped(file, OF_THE_SYSTEM if SYSTEM.fullmatch(file) else "not listed in identity_CelebA.txt")
        for file in sorted(present - identities.keys())
    ]
    chosen = _celeba_part(root, identities, part)
    by_person: dict[int, list[str]] = {}
    for file in sorted(chosen):
        by_person.setdefault(int(identities[file]), []).append(file)
    home, people = str(images), []
    for number in sorted(by_person):
        person = f"celeb-{number}"
        people.append((person, [Photo(home, file, f"{person}/{file}") for file in by_person[number]]))
    return Listing(people, skipped, [])


def _celeba_part(root: Path, identities: dict[str, str], part: str | None) -> list[str]:
    """Return the files of one part (or all), after checking that the partition names the same photos."""
    path = _celeba_file(root, "list_eval_partition.txt")
    if path is None:
        if part:
            raise CourseError(f"There is no list_eval_partition.txt in '{root}'; expected {CELEBA_LAYOUT}.")
        return list(identities)
    parts = read_pairs(path, "a photo and 0, 1 or 2", CELEBA_LAYOUT)
    strangers = parts.keys() ^ identities.keys()
    strangers |= {file for file, number in parts.items() if number not in CELEBA_PARTS.values()}
    if strangers:
        raise CourseError(
            f"list_eval_partition.txt does not fit identity_CelebA.txt in '{root}': {len(strangers):,} photos are in "
            f"only one of them or in no part 0, 1 or 2 (first: {min(strangers)}); expected {CELEBA_LAYOUT}."
        )
    return [file for file, number in parts.items() if number == CELEBA_PARTS[part]] if part else list(parts)


def _celeba_file(root: Path, name: str) -> Path | None:
    names = (name, f"{Path(name).stem}.csv")  # as some mirrors and every spreadsheet call them
    places = (root / folder / file for file in names for folder in ("", "Anno", "Eval"))
    return next((path for path in places if path.is_file()), None)


# VGGFace2 ------------------------------------------------------------------------------------------------------------


def find_vggface2(given: Path) -> Path:
    """Return the given folder if VGGFace2's train or test folder lies in it; raises CourseError with a better place."""
    if _vggface2_parts(given):
        return given
    if better := _better_place(given, lambda path: bool(_vggface2_parts(path))):
        raise CourseError(f"'{given}' is {better}; expected {VGGFACE2_LAYOUT}.")
    raise CourseError(f"'{given}' has neither train nor test with folders like n000001; expected {VGGFACE2_LAYOUT}.")


def read_vggface2(root: Path, part: str | None = None) -> Listing:
    """List VGGFace2's people under their official names, of one official part or of both; raises CourseError if
    identity_meta.csv is absent, malformed, or puts a person into the other part."""
    meta = next((p for p in (root / "identity_meta.csv", root / "meta/identity_meta.csv") if p.is_file()), None)
    if meta is None:
        raise CourseError(f"There is no identity_meta.csv in '{root}'; expected {VGGFACE2_LAYOUT}.")
    names, flags, shared = _read_meta(meta)
    there = _vggface2_parts(root)
    if part and part not in there:
        raise CourseError(f"There is no folder '{part}' in '{root}'; expected {VGGFACE2_LAYOUT}.")
    people, skipped, here = [], [], set()
    for entry in (entry for name in ([part] if part else there) for entry in sorted_entries(root / name)):
        folder, kind = Path(entry.path), kind_of(entry)
        name = f"{folder.parent.name}/{clear_name(entry.name)}"
        if kind != "folder":
            skipped.append(Skipped(name, why_no_photo(entry, kind) or ASTRAY))
        elif passed_over(entry, name, skipped):
            continue
        elif flags.get(folder.name) == VGGFACE2_PARTS[folder.parent.name]:
            photos, others = photos_in(folder, folder.name, root)
            people.append((names[folder.name], photos))
            skipped += others
            here.add(folder.name)
        elif re.fullmatch(r"n\d{6}", folder.name):
            listed = folder.name in flags
            told = f"puts {folder.name} into the other part" if listed else f"does not list {folder.name}"
            raise CourseError(f"'{meta}' {told}, but it lies in '{folder.parent}'; expected {VGGFACE2_LAYOUT}.")
        else:
            skipped.append(Skipped(name, "not a folder like n000001"))
    noted = [Skipped(" and ".join(ids), SHARED, name) for name, ids in shared if here & set(ids)]
    return Listing(people, skipped, noted)


def _vggface2_parts(root: Path) -> list[str]:
    parts = [part for part in VGGFACE2_PARTS if (root / part).is_dir()]
    return [part for part in parts if any(re.fullmatch(r"n\d{6}", entry.name) for entry in visible(root / part))]


def _read_meta(path: Path) -> tuple[dict[str, str], dict[str, str], list[tuple[str, list[str]]]]:
    """Return name and flag per class id, and who shares a name: there the name is followed by the id."""
    rows = read_meta(path, VGGFACE2_LAYOUT)
    names, flags = {key: name for key, name, _ in rows}, {key: flag for key, _, flag in rows}
    same: dict[str, list[str]] = {}
    for key, name in names.items():
        same.setdefault(name_key(name), []).append(key)
    shared = [(names[ids[0]], ids) for ids in same.values() if len(ids) > 1]
    doubled = {key for _, ids in shared for key in ids}
    told = {key: f"{name} ({key})" if key in doubled or not name else name for key, name in names.items()}
    return told, flags, shared
