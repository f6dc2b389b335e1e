"""The frame every unlearning method shares: what it is given, how its steps run, what it returns."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbones import FaceBackbone
from ..dispersion import hardest_cosine, mean_cosine, pairs_by_identity
from ..heads import CosineHead
from ..settings import PROFILES, CourseError, one_of, progress_bar, resolve_device, seed_everything
from ..splits import Splits
from ..training import augment, embed


@dataclass(frozen=True)
class StepConfig:
    """The knobs that all step-wise methods share; one step sees P x K forget photos and some retained ones."""

    steps: int = 60
    learning_rate: float = 1e-3
    identities_per_step: int = 10
    photos_per_identity: int = 8
    retain_per_step: int = 0
    max_gradient_norm: float = 1.0
    augment: bool = False
    batchnorm: str = "frozen"

    def __post_init__(self) -> None:
        one_of(self.batchnorm, ("frozen", "train"), "BatchNorm policy")
        if self.identities_per_step < 1 or self.photos_per_identity < 2:
            raise CourseError("A step needs identities_per_step of at least 1 and photos_per_identity of at least 2.")


@dataclass
class Unlearned:
    """What a method returns: a new model and head, its diary, and its price. Introduced in notebook 08."""

    model: FaceBackbone
    head: CosineHead
    history: list[dict] = field(default_factory=list)
    seconds: float = 0.0
    images_processed: int = 0
    config: dict = field(default_factory=dict)


@dataclass
class Task:
    """One unlearning request: copies a method may change, the photos it may see, and its bookkeeping."""

    model: FaceBackbone
    head: CosineHead
    splits: Splits
    seed: int
    device: torch.device
    progress: bool
    generator: torch.Generator
    history: list[dict] = field(default_factory=list)
    images_processed: int = 0
    seconds: float | None = None

    @property
    def forget_photos(self) -> np.ndarray:
        """Indices of the forget identities' training photos."""
        return self.splits.photos("forget", "train")

    @property
    def kept_photos(self) -> np.ndarray:
        """Indices of the training photos a method may use to keep everybody else."""
        return self.splits.photos("kept", "train")

    def head_rows(self, photos: np.ndarray) -> Tensor:
        """Return the head row (B,) int64 of each photo's identity."""
        return torch.from_numpy(self.splits.class_of(self.splits.faces.labels[photos])).to(self.device)


@dataclass
class Batch:
    """One step's embeddings (with gradient, L2-normalised) and what is known about each photo.

    forget (Bf, d) and retain (Br, d) are float32; *_photos index the data set; *_rows are head rows, labels identities.
    """

    forget: Tensor
    forget_photos: np.ndarray
    forget_labels: Tensor
    forget_rows: Tensor
    retain: Tensor
    retain_photos: np.ndarray
    retain_rows: Tensor


@dataclass(frozen=True)
class Method:
    """A registry entry: the function, its typed config, what data it needs, and where it comes from."""

    name: str
    run: Callable[[Task, object], None]
    config: type
    title: str
    needs: tuple[str, ...]
    source: str
    notebook: str
    full: dict = field(default_factory=dict)


METHODS: dict[str, Method] = {}


def method(name: str, config: type, **about: object) -> Callable:
    """Register an unlearning method under a name; used as a decorator on `run(task, config)`.

    `about` holds the remaining fields of Method; `full` lists what the full profile sets differently from the
    config's defaults, which are the quick profile.
    """

    def register(run: Callable[[Task, object], None]) -> Callable[[Task, object], None]:
        METHODS[name] = Method(name, run, config, **about)
        return run

    return register


def make_config(name: str, options: dict) -> object:
    """Build a method's config; raises CourseError for an unknown method or key, or a value of the wrong type."""
    one_of(name, METHODS, "method")
    known = {f.name: f for f in dataclasses.fields(METHODS[name].config)}
    checked = {}
    for key, value in options.items():
        if key not in known:
            raise CourseError(f"Method '{name}' has no option '{key}'; it knows: {', '.join(known) or 'none'}.")
        wanted = type(known[key].default)
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not wanted:
            raise CourseError(f"Option '{key}' of method '{name}' must be of type {wanted.__name__}, not {value!r}.")
        if wanted in (int, float) and not (math.isfinite(value) and value >= 0):
            raise CourseError(f"Option '{key}' of method '{name}' must be finite and not negative; it is {value}.")
        checked[key] = value
    return METHODS[name].config(**checked)


def profile_options(name: str, profile: str) -> dict:
    """Return the settings by which a method's profile differs from its config's defaults; raises CourseError."""
    one_of(name, METHODS, "method")
    one_of(profile, PROFILES, "profile")
    return dict(METHODS[name].full) if profile == "full" else {}


def unlearn(
    name: str,
    model: FaceBackbone,
    head: CosineHead,
    splits: Splits,
    *,
    seed: int = 0,
    device: torch.device | str = "auto",
    progress: bool = True,
    **config: object,
) -> Unlearned:
    """Make the splits' forget identities unfindable by one registered method; model and head are never changed.

    `config` overrides fields of the method's own dataclass. Raises CourseError for unknown names and keys, for data
    that the method needs and the splits lack, and when a run diverges. Introduced in notebook 08.
    """
    settings = make_config(name, config)
    check_needs(METHODS[name], splits)
    check_head(head, model, splits)
    device = resolve_device(device)
    seed_everything(seed)
    task = Task(
        model=copy.deepcopy(model).to(device).eval(),
        head=copy.deepcopy(head).to(device),
        splits=splits,
        seed=seed,
        device=device,
        progress=progress,
        generator=torch.Generator().manual_seed(seed),
    )
    task.model.requires_grad_(True)
    task.head.requires_grad_(False)
    start = time.perf_counter()
    METHODS[name].run(task, settings)
    seconds = time.perf_counter() - start if task.seconds is None else task.seconds
    task.model.eval()
    options = dataclasses.asdict(settings)
    return Unlearned(task.model, task.head, task.history, seconds, task.images_processed, options)


def check_needs(entry: Method, splits: Splits) -> None:
    """Raise a CourseError that names the photos a method needs and the splits lack."""
    for pool in entry.needs:
        if len(splits.photos(pool, "train")) == 0:
            raise CourseError(f"Method '{entry.name}' needs training photos of the {pool} people; there are none.")


def check_head(head: CosineHead, model: FaceBackbone, splits: Splits) -> None:
    """Raise a CourseError unless the head has one row per trained identity, as wide as the model's embeddings."""
    wanted, given = (len(splits.trained), model.embedding_dim), tuple(head.weight.shape)
    if given != wanted:
        raise CourseError(f"The head has shape {given}, but these splits and this model need {wanted}: pass their own.")


def forget_batches(task: Task, config: StepConfig) -> Iterator[np.ndarray]:
    """Yield for ever P identities x K photos (all of them where a person has fewer) of the forget set."""
    splits, labels = task.splits, task.splits.faces.labels
    by_identity = [task.forget_photos[labels[task.forget_photos] == person] for person in splits.forget]
    while True:
        chosen = []
        for person in torch.randperm(len(by_identity), generator=task.generator)[: config.identities_per_step].tolist():
            photos = by_identity[person]
            order = torch.randperm(len(photos), generator=task.generator)[: config.photos_per_identity]
            chosen.append(photos[order.numpy()])
        yield np.concatenate(chosen)


def retain_batches(task: Task, size: int) -> Iterator[np.ndarray]:
    """Yield for ever `size` shuffled photos of the kept identities, every photo once per round; raises CourseError."""
    photos = task.kept_photos
    if len(photos) == 0:
        raise CourseError("There are no retained training photos; set retain_per_step to 0 or keep more people.")
    waiting = np.empty(0, dtype=np.int64)
    while True:
        while len(waiting) < size:
            waiting = np.concatenate([waiting, photos[torch.randperm(len(photos), generator=task.generator).numpy()]])
        yield waiting[:size]
        waiting = waiting[size:]


def forward(task: Task, photos: np.ndarray, augmented: bool) -> Tensor:
    """Return the un-normalised embeddings (B, d), with gradient, of photos by index."""
    faces = task.splits.faces.images(photos).to(task.device)
    if augmented:
        faces = augment(faces, task.generator)
    return task.model(task.model.preprocess(faces))


def original_points(task: Task, photos: np.ndarray) -> Tensor:
    """Return a table (all photos, d) with the original model's embeddings in the rows of `photos`, zeros elsewhere.

    Call it before the first step: the copy in the task is still the original model then.
    """
    table = torch.zeros(len(task.splits.faces), task.model.embedding_dim)
    table[torch.from_numpy(photos)] = embed(task.model, task.splits.faces, photos)
    task.images_processed += len(photos)
    return table.to(task.device)


def run_steps(
    task: Task,
    config: StepConfig,
    losses_of: Callable[[Batch], dict[str, Tensor]],
    *,
    parameters: list[torch.nn.Parameter] | None = None,
    forget: bool = True,
) -> None:
    """Minimise the sum of a method's losses for `config.steps` steps of AdamW on the task's model copy.

    One mixed forward pass per step; BatchNorm statistics stay frozen unless config.batchnorm is "train"; the head
    moves only if its parameters are passed in. Raises CourseError, naming the step, when a loss is not finite.
    """
    task.model.eval()
    for module in task.model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):  # dropout stays off either way
            module.train(config.batchnorm == "train")
    parameters = parameters or list(task.model.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(config.steps, 1), config.learning_rate * 0.05)
    forget_stream = forget_batches(task, config)
    retain_stream = retain_batches(task, config.retain_per_step) if config.retain_per_step else None
    nothing = np.empty(0, dtype=np.int64)
    for step in progress_bar(range(config.steps), desc="unlearning", enabled=task.progress):
        forget_photos = next(forget_stream) if forget else nothing
        retain_photos = next(retain_stream) if retain_stream else nothing
        batch = make_batch(task, forget_photos, retain_photos, config.augment)
        losses = losses_of(batch)
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            raise CourseError(f"The run diverged at step {step + 1} (loss {total.item()}): lower the learning rate.")
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.max_gradient_norm)
        optimiser.step()
        schedule.step()
        task.images_processed += len(forget_photos) + len(retain_photos)
        task.history.append(diary_entry(step, losses, batch))


def make_batch(task: Task, forget_photos: np.ndarray, retain_photos: np.ndarray, augmented: bool) -> Batch:
    """Run one mixed forward pass and sort its embeddings into the forget and the retain side."""
    photos = np.concatenate([forget_photos, retain_photos])
    points = F.normalize(forward(task, photos, augmented).float())
    labels = torch.from_numpy(task.splits.faces.labels[forget_photos]).to(task.device)
    n = len(forget_photos)
    return Batch(
        forget=points[:n],
        forget_photos=forget_photos,
        forget_labels=labels,
        forget_rows=task.head_rows(forget_photos),
        retain=points[n:],
        retain_photos=retain_photos,
        retain_rows=task.head_rows(retain_photos),
    )


@torch.no_grad()
def diary_entry(step: int, losses: dict[str, Tensor], batch: Batch) -> dict:
    """Return one line of the history: the losses, and how compact the step's forget identities were."""
    entry = {"step": step} | {name: value.item() for name, value in losses.items()}
    groups = pairs_by_identity(batch.forget, batch.forget_labels)
    if groups:
        entry["mean_cosine"] = float(torch.stack([mean_cosine(z) for z in groups]).mean())
        entry["nearest_cosine"] = float(torch.stack([hardest_cosine(z) for z in groups]).mean())
    return entry


def distillation(batch: Batch, targets: Tensor) -> Tensor:
    """Return the mean of 1 - cos between retained embeddings now and in the original model (both unit length)."""
    rows = torch.from_numpy(batch.retain_photos).to(targets.device)
    return (1.0 - (batch.retain * targets[rows]).sum(dim=1)).mean()
