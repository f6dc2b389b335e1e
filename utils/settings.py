"""Where things live, which profile runs, on which device, from which seed."""

from __future__ import annotations

import contextlib
import difflib
import errno
import functools
import gc
import hashlib
import importlib.metadata
import os
import platform
import random
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

REPO_ROOT = Path(__file__).resolve().parent.parent
MODEL_DIR = REPO_ROOT / "data" / "models"
BUILD_PLACE = "FACE_COURSE_BUILD"  # the environment variable that moves what runs leave behind
BUILD_DIR = Path(os.environ.get(BUILD_PLACE) or REPO_ROOT / "build")
BLOCK = 4096  # bytes of the smallest file that a disk makes room for
PROFILES = ("quick", "full")
REPOSITORY, PUBLISHED = "face-identity-unlearning/course", False  # the course's address on GitHub: nowhere else
# a GPU's name -> minutes of 'make run PROFILE=full' on it; nothing is entered unmeasured
FULL_MINUTES: dict[str, int] = {}


class CourseError(ValueError):
    """A mistake in the input that one sentence can explain and one action can mend."""


def cache_dir() -> Path:
    """Return the folder for everything that can be made again (environment variable FACE_COURSE_CACHE moves it)."""
    folder = Path(os.environ.get("FACE_COURSE_CACHE") or REPO_ROOT / "data" / "cache")
    try:
        folder = folder.expanduser()
        if not folder.exists() or folder.is_dir():
            return folder
        told = "is no folder"
    except (OSError, RuntimeError) as error:
        told = f"cannot be used ({error})"
    raise CourseError(f"The cache {folder} {told}; set FACE_COURSE_CACHE to a folder that can be written.")


@dataclass(frozen=True)
class Settings:
    """One run's fixed choices: profile, seed and device. Introduced in notebook 00."""

    profile: str
    seed: int
    device: torch.device

    @property
    def quick(self) -> bool:
        """True for the profile that suits a laptop and a classroom."""
        return self.profile == "quick"


def make_settings(profile: str = "quick", seed: int = 0, device: str = "auto") -> Settings:
    """Check the choices, seed every generator and return them frozen; raises CourseError. Introduced in notebook 00."""
    one_of(profile, PROFILES, "profile")
    seed_everything(seed)
    return Settings(profile, as_seed(seed), resolve_device(device))


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """Turn 'auto', 'cpu', 'cuda' or 'mps' into a torch device that is present here; raises CourseError."""
    if isinstance(name, torch.device):
        return name
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = name.split(":")[0]
    one_of(kind, ("cpu", "cuda", "mps"), "device")
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present[kind]:
        raise CourseError(f"Device '{name}' is not available on this machine; use 'auto' or 'cpu'.")
    return torch.device(name)


def plain(value: object) -> object:
    """Return a NumPy or torch scalar as Python's own number, truth value or text, and anything else as it is."""
    scalar = isinstance(value, np.generic) or (isinstance(value, np.ndarray | torch.Tensor) and value.ndim == 0)
    return value.item() if scalar and not np.ma.isMaskedArray(value) else value


def whole_number(value: object, what: str, lowest: int = 0, highest: int | None = None) -> int:
    """Return a whole number of any library as an int; raises CourseError for all else and for one out of bounds."""
    number = plain(value)
    number = int(number) if isinstance(number, float) and number.is_integer() else number
    fits = isinstance(number, int) and not isinstance(number, bool) and number >= lowest
    if not fits or (highest is not None and number > highest):
        bounds = f"of at least {lowest}" if highest is None else f"from {lowest} to {highest}"
        raise CourseError(f"{what} is {value!r}, but it must be a whole number {bounds}.")
    return number


def as_seed(seed: object) -> int:
    """Return a seed that Python, NumPy, torch and scikit-learn all take, as an int; raises CourseError."""
    return whole_number(seed, "The seed", 0, 2**32 - 1)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices); raises CourseError for what is no seed."""
    seed = as_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def suggest(name: str, valid: Iterable[str], n: int = 3) -> str:
    """Return the valid names nearest to a misspelt one, as ' Nearest: a, b.' or an empty string."""
    folded = {candidate.casefold(): candidate for candidate in valid}
    close = difflib.get_close_matches(str(name).casefold(), folded, n=n, cutoff=0.5)
    return f" Nearest: {', '.join(folded[key] for key in close)}." if close else ""


def one_of(value: str, valid: Iterable[str], what: str) -> str:
    """Return the value if it is valid; otherwise raise a CourseError that lists the valid ones."""
    valid = tuple(valid)
    if value not in valid:
        raise CourseError(f"Unknown {what} '{value}'; choose one of: {', '.join(valid)}.")
    return value


def progress_bar(items: Iterable | None = None, *, desc: str, total: int | None = None, enabled: bool = True) -> tqdm:
    """Return a tqdm bar that vanishes when done, or passes silently when disabled."""
    return tqdm(items, desc=desc, total=total, leave=False, disable=not enabled, dynamic_ncols=True)


def sha256_of(path: Path) -> str:
    """Return the hexadecimal sha256 of a file, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def writable_file(path: str | Path) -> Path:
    """Return the file that `path` means (~ and links followed), checked before the work; CourseError if unwritable."""
    target = regular_target(path)
    writable_folder(target.parent, 2 * target.stat().st_size if target.exists() else BLOCK)
    if target.exists():
        try:
            open(target, "ab").close()
        except OSError as error:
            raise CourseError(f"{target} cannot be written ({error.strerror}); choose another file.") from error
    return target


def regular_target(path: str | Path) -> Path:
    """Follow ~ and links to the file itself; CourseError if a folder, device, pipe or socket stands there."""
    try:
        target = Path(path).expanduser().resolve()
        wrong = target.exists() and not target.is_file()
    except (OSError, RuntimeError) as error:
        raise CourseError(f"{path} cannot be reached ({error}); choose another file.") from error
    if wrong:
        raise CourseError(f"{target} is not a regular file; choose another file to write to.")
    return target


def resolved(folder: str | Path) -> Path:
    """Return the folder that a path means, links and '~' followed; CourseError if it means none."""
    try:
        return Path(folder).expanduser().resolve()
    except (OSError, RuntimeError) as error:
        raise CourseError(f"{folder} is no place ({error}); choose another folder.") from error


def writable_folder(path: str | Path, room: int = BLOCK) -> Path:
    """Return the folder that `path` means, made if need be and tried with a file of `room` bytes; CourseError if that
    cannot be written."""
    try:
        folder = Path(path).expanduser().resolve()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:  # root is refused nothing by os.access: only writing tells
            file.write(bytes(max(room, BLOCK)))
            return folder
    except (OSError, RuntimeError) as error:
        raise CourseError(f"The folder {path} cannot be written ({error}); choose another.") from error


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary neighbour of `path` (links followed) that replaces it on success, and vanishes on failure."""
    path = regular_target(path)
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    except OSError as error:
        raise CourseError(f"{path} cannot be written ({error.strerror}); choose another place.") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, mode)
        temporary.replace(path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
            raise
        raise CourseError(f"{path} could not be written ({error.strerror}); make room or choose another.") from error
    finally:
        temporary.unlink(missing_ok=True)


def printable_output() -> None:
    """Let a stream that lacks a character (cp1252, ascii) print its escape in place of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def command(main: Callable[..., int | None]) -> Callable[..., int]:
    """Make `main` a command for any stream: a CourseError is one sentence and exit code 2, Ctrl-C one word and 130,
    and nobody who reads on is no error."""

    @functools.wraps(main)
    def run(arguments: Iterable[str] | None = None) -> int:
        printable_output()
        try:
            code = main(arguments) or 0
            sys.stdout.flush()
            return code
        except BrokenPipeError:  # whoever read has had enough, as in `| head`; what is left must not be flushed at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except CourseError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("Stopped.", file=sys.stderr)
            return 130

    return run


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Keep Python's garbage collector from walking over and over through a list of 200,000 photos as it grows."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def offer_full_profile() -> None:
    """Print one line where a GPU is found: the full profile and its price in minutes, if measured. Notebook 00."""
    if not torch.cuda.is_available():
        return
    gpu = torch.cuda.get_device_name()
    price = f"about {FULL_MINUTES[gpu]} minutes" if gpu in FULL_MINUTES else "its minutes on this GPU were not measured"
    print(f"GPU found: {gpu}. profile = 'full' in the next cell takes longer schedules (the whole course: {price}).")


def check_environment() -> dict[str, str]:
    """Exercise packages that break often and return their versions; CourseError says what to mend. Notebook 00."""
    mend = "run 'make run' in the repository, which builds a fitting environment"
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise CourseError(f"Python {platform.python_version()} is outside 3.11 to 3.13; {mend}.")
    try:
        import facenet_pytorch  # noqa: F401
        import faiss
        import torchvision

        # a torchvision from another build than torch imports and then fails: one real call tells
        torchvision.ops.nms(torch.rand(2, 4), torch.rand(2), 0.5)
    except (ImportError, RuntimeError, OSError) as error:
        raise CourseError(f"torch {torch.__version__} and its companions do not work ({error}); {mend}.") from error
    index = faiss.IndexFlatIP(4)
    index.add(np.eye(4, dtype=np.float32))
    if index.search(np.eye(4, dtype=np.float32), 1)[1].ravel().tolist() != [0, 1, 2, 3]:
        raise CourseError(f"faiss {faiss.__version__} does not find a vector in its own gallery; {mend}.")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    packages = ("torch", "torchvision", "facenet-pytorch", "faiss-cpu")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **versions, "device": device}
