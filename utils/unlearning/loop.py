"""The frame every unlearning method shares: what it is given, how its steps run, what it returns."""

from __future__ import annotations

import copy
import dataclasses
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..faces.splits import Splits
from ..models.backbones import FaceBackbone, bare
from ..models.embedding import embed
from ..models.heads import CosineHead, cleared
from ..models.trunks import Looks, kept_outputs, points_of
from ..retrieval.scores import retrieval_scores
from ..settings import CourseError, as_seed, progress_bar, resolve_device, seed_everything
from .dispersion import hardest_cosine, mean_cosine, pairs_by_identity
from .rates import evenly, share_of_rate
from .registry import METHODS, Method, StepConfig, check_data, make_config

WATCHED_PHOTOS, WATCHED_PEOPLE = 4, 40
ASKED_PHOTOS, SURE = 100, 0.3  # a check of the head, and the lead in cosine with which a wrong name is no weakness
MAX_MOVED = 5.0  # a run whose weights have moved five times their own length has blown up


@dataclass
class Unlearned:
    """What a method returns: a new model and head, its history, and its price. Introduced in notebook 05.

    `head` is what may be shipped: the rows of the forgotten are cleared. `trained_head` is as the method left it, to
    ask whether names went.
    """

    model: FaceBackbone
    head: CosineHead
    history: list[dict] = field(default_factory=list)
    seconds: float = 0.0
    images_processed: int = 0
    config: dict = field(default_factory=dict)
    trained_head: CosineHead | None = None

    def __post_init__(self) -> None:
        self.trained_head = self.trained_head or self.head


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
    looks: Looks = field(init=False)

    def __post_init__(self) -> None:
        self.looks = Looks(self.model, self.splits.faces, self.generator, self.device)

    @property
    def forget_photos(self) -> np.ndarray:
        """Indices of the forget identities' training photos."""
        return self.splits.photos("forget", "train")

    @property
    def retain_train_photos(self) -> np.ndarray:
        """Indices of the training photos a method may use to keep everybody else."""
        return self.splits.photos("retain_train", "train")

    @property
    def forget_columns(self) -> Tensor:
        """Head rows (int64) of all forget identities: never a target, but where SalUn draws from all names."""
        return torch.from_numpy(self.splits.class_of(self.splits.forget)).to(self.device)

    @property
    def retain_train_columns(self) -> Tensor:
        """Head rows (int64) of the identities that stay."""
        return torch.from_numpy(self.splits.class_of(self.splits.retain_train)).to(self.device)

    def head_rows(self, photos: np.ndarray) -> Tensor:
        """Return the head row (B,) int64 of each photo's identity."""
        return torch.from_numpy(self.splits.class_of(self.splits.faces.labels[photos])).to(self.device)


@dataclass
class Batch:
    """One step's embeddings (with gradient, L2-normalised) and what is known about each photo.

    forget (Bf, d) and retain (Br, d) are float32; *_photos index the data set; *_rows are head rows, labels identities.
    """

    step: int
    forget: Tensor
    forget_photos: np.ndarray
    forget_labels: Tensor
    forget_rows: Tensor
    retain: Tensor
    retain_photos: np.ndarray
    retain_rows: Tensor


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

    `config` overrides fields of the method's own dataclass. In the head that comes back the rows of the forgotten are
    cleared, whatever the method. Raises CourseError for unknown names and keys, for data that the method needs and the
    splits lack, and when a run diverges. Introduced in notebook 05.
    """
    settings, seed = make_config(name, config), as_seed(seed)
    model, head = bare(model), bare(head, CosineHead)
    check_data(METHODS[name], settings, splits)
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
    task.model.let_move()
    task.head.requires_grad_(False)
    warn_of_strange_head(task, METHODS[name])
    start = time.perf_counter()
    METHODS[name].run(task, settings)
    seconds = time.perf_counter() - start if task.seconds is None else task.seconds
    check_weights(name, task)
    task.model.eval().requires_grad_(True)
    options = dataclasses.asdict(settings)
    holds_them = name != "original" and len(task.head.weight) == len(splits.trained)  # the retrained head has no rows
    shipped = without_their_rows(task.head, splits) if holds_them else task.head
    return Unlearned(task.model, shipped, task.history, seconds, task.images_processed, options, task.head)


def without_their_rows(head: CosineHead, splits: Splits) -> CosineHead:
    """Return a copy of a head whose rows of the forgotten are cleared."""
    device = head.weight.device
    rows = (torch.from_numpy(splits.class_of(people)).to(device) for people in (splits.forget, splits.retain_train))
    return cleared(head, *rows)


def check_head(head: CosineHead, model: FaceBackbone, splits: Splits) -> None:
    """Raise a CourseError unless the head has one row per trained identity, as wide as the model's embeddings."""
    wanted, given = (len(splits.trained), model.embedding_dim), tuple(head.weight.shape)
    if given != wanted:
        raise CourseError(f"The head has shape {given}, but these splits and this model need {wanted}: pass their own.")


@torch.no_grad()
def warn_of_strange_head(task: Task, entry: Method) -> None:
    """Warn if the head surely gives wrong names to the training photos of those who stay, right ones as by chance.

    A hardly trained model is as wrong, but unsure. A method that may see no retained photo is asked about its own.
    """
    photos = task.retain_train_photos if "retain_train" in (*entry.needs, *entry.optional) else task.forget_photos
    photos = evenly(photos, ASKED_PHOTOS)
    if not len(photos):
        return
    cosines = task.head.cosines(embed(task.model, task.splits.faces, photos).to(task.device))
    best, named = cosines.max(dim=1)
    rows = task.head_rows(photos)
    right, chance = int((named == rows).sum()), len(photos) / cosines.shape[1]
    lead = float((best - cosines.gather(1, rows[:, None]).squeeze(1)).mean())
    if right <= chance + 2 * chance**0.5 and lead > SURE:
        told = f"The head names {right} of {len(photos)} training photos rightly, no more than a guess would"
        warnings.warn(f"{told}: pass model, head and splits that belong together.", stacklevel=3)


def check_weights(name: str, task: Task) -> None:
    """Raise a CourseError if any weight or buffer of the result is not a finite number."""
    tensors = [*task.model.state_dict().values(), *task.head.state_dict().values()]
    if not all(torch.isfinite(tensor).all() for tensor in tensors if tensor.is_floating_point()):
        raise CourseError(f"Method '{name}' diverged: its weights are not finite numbers; use milder settings.")
    if task.looks.kept is not None and kept_outputs(task.looks.model, task.splits.faces) is None:
        raise CourseError(f"Method '{name}' moved layers that were to rest: what was kept of them no longer holds.")


# -------------------------------------------------------------------------------------------------------- batches


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
    """Yield for ever `size` shuffled photos of the retained identities, every photo once per round."""
    photos = task.retain_train_photos
    waiting = np.empty(0, dtype=np.int64)
    while True:
        while len(waiting) < size:
            waiting = np.concatenate([waiting, photos[torch.randperm(len(photos), generator=task.generator).numpy()]])
        yield waiting[:size]
        waiting = waiting[size:]


def forward(task: Task, photos: np.ndarray, augmented: bool = False) -> Tensor:
    """Return the un-normalised embeddings (B, d), with gradient, of photos by index."""
    return points_of(task.model, task.looks.augmented(photos) if augmented else task.looks.of(photos))


def make_batch(task: Task, step: int, forget_photos: np.ndarray, retain_photos: np.ndarray, augmented: bool) -> Batch:
    """Run one mixed forward pass and sort its embeddings into the forget and the retain side."""
    photos = np.concatenate([forget_photos, retain_photos])
    points = F.normalize(forward(task, photos, augmented).float())
    return sort_batch(task, step, forget_photos, retain_photos, points)


def sort_batch(task: Task, step: int, forget_photos: np.ndarray, retain_photos: np.ndarray, points: Tensor) -> Batch:
    """Return unit embeddings, forget photos first and retained ones next, with what is known about each photo."""
    labels = torch.from_numpy(task.splits.faces.labels[forget_photos]).to(task.device)
    n = len(forget_photos)
    return Batch(
        step=step,
        forget=points[:n],
        forget_photos=forget_photos,
        forget_labels=labels,
        forget_rows=task.head_rows(forget_photos),
        retain=points[n : n + len(retain_photos)],
        retain_photos=retain_photos,
        retain_rows=task.head_rows(retain_photos),
    )


# ---------------------------------------------------------------------------------------------------------- steps


def both_sides(step: int) -> tuple[bool, bool]:
    """Say that a step sees forget photos and retained photos; methods that take turns bring their own rule."""
    return True, True


def run_steps(
    task: Task,
    config: StepConfig,
    losses_of: Callable[[Batch], dict[str, Tensor]],
    *,
    parameters: list[torch.nn.Parameter] | None = None,
    through: list[torch.nn.Parameter] | None = None,
    sides: Callable[[int], tuple[bool, bool]] = both_sides,
    after_step: Callable[[int], None] = lambda step: None,
    batch_of: Callable[[Task, int, np.ndarray, np.ndarray, bool], Batch] | None = None,
) -> None:
    """Minimise the sum of a method's losses for `config.steps` steps of AdamW on the task's copies.

    One mixed forward pass per step over the `sides` (forget, retain) it asks for; BatchNorm statistics stay frozen
    unless config.batchnorm is "train"; `parameters` default to what config.trainable says. A network whose points move
    more easily takes a share of the learning rate (see `rates`), for which a few photos are looked at that do not
    count as processed; `through` names the weights that the moving ones change, where it is others. `after_step` is
    called after each update; `batch_of` replaces `make_batch`. Raises CourseError, naming the step, when the run
    diverges.
    """
    parameters = parameters or moving_parameters(task, config)
    probe = task.retain_train_photos if config.retain_per_step else task.forget_photos
    rate = config.learning_rate * share_of_rate(task.model.eval(), through or parameters, task.looks, probe)
    set_batchnorm(task.model, config.batchnorm)
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(config.steps, 1), rate * 0.05)
    forget_stream = forget_batches(task, config)
    retain_stream = retain_batches(task, config.retain_per_step) if config.retain_per_step else None
    journey = WeightDrift.begin(parameters)
    watch = EarlyStopping.begin(task, config) if config.check_every else None
    nothing = np.empty(0, dtype=np.int64)
    for step in progress_bar(range(config.steps), desc="unlearning", enabled=task.progress):
        with_forget, with_retain = sides(step)
        forget_photos = next(forget_stream) if with_forget else nothing
        retain_photos = next(retain_stream) if with_retain and retain_stream else nothing
        batch = (batch_of or make_batch)(task, step, forget_photos, retain_photos, config.augment)
        losses = losses_of(batch)
        total = torch.stack(list(losses.values())).sum()
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_gradient_norm)
        check_step(step, total, norm)
        optimiser.step()
        schedule.step()
        after_step(step)
        task.images_processed += len(forget_photos) + len(retain_photos)
        entry = {"step": len(task.history), **history_entry(losses, batch), "moved": journey.moved(step)}
        task.history.append(entry)
        due = config.check_every and ((step + 1) % config.check_every == 0 or step + 1 == config.steps)
        if watch and due and not watch.passed(entry):
            break
    if watch:
        watch.restore()


def set_batchnorm(model: torch.nn.Module, policy: str) -> None:
    """Put a model into evaluation mode, but for BatchNorm under the policy "train"; dropout stays off either way."""
    model.eval()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.train(policy == "train")


def moving_parameters(task: Task, config: StepConfig) -> list[torch.nn.Parameter]:
    """Return the weights that config.trainable lets move, and make them ask for gradients."""
    policy = getattr(config, "trainable", "backbone")
    task.model.let_move() if policy != "head" else task.model.requires_grad_(False)
    task.head.requires_grad_(policy != "backbone")
    return [p for p in (*task.model.parameters(), *task.head.parameters()) if p.requires_grad]


def check_step(step: int, total: Tensor, gradient_norm: Tensor) -> None:
    """Raise a CourseError that names the step if its loss or its gradient is not a finite number."""
    for what, value in (("loss", total), ("gradient", gradient_norm)):
        if not torch.isfinite(value):
            raise CourseError(f"The run diverged at step {step + 1} ({what} {value.item()}): lower the learning rate.")


@dataclass
class WeightDrift:
    """How far weights have travelled from where they began, as a share of their own length."""

    parameters: list[torch.nn.Parameter]
    start: list[Tensor]
    length: float

    @classmethod
    def begin(cls, parameters: list[torch.nn.Parameter]) -> WeightDrift:
        start = [p.detach().clone() for p in parameters]
        return cls(parameters, start, max(length_of(start), 1e-12))

    @torch.no_grad()
    def moved(self, step: int) -> float:
        """Return the share; raises CourseError, naming the step, when it shows that the weights explode."""
        pairs = zip(self.parameters, self.start, strict=True)
        share = length_of([p - s for p, s in pairs]) / self.length
        if not share <= MAX_MOVED:  # also true of NaN
            raise CourseError(f"The run diverged at step {step + 1} (its weights explode): lower the learning rate.")
        return share


def length_of(tensors: list[Tensor]) -> float:
    """Return the Euclidean length of several tensors taken as one vector."""
    return float(torch.stack([t.float().norm() for t in tensors]).norm())


@dataclass
class EarlyStopping:
    """Early stopping: are the dev-forget people, who stay, still found on training photos as well as before?"""

    task: Task
    photos: np.ndarray
    queries: np.ndarray
    worst: float
    kept: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    @classmethod
    def begin(cls, task: Task, config: StepConfig) -> EarlyStopping:
        dev = task.splits.dev_forget
        if not dev:
            raise CourseError("Early stopping asks the dev-forget people, and there are none: set check_every to 0.")
        others = [person for person in task.splits.retain_train if person not in dev][:WATCHED_PEOPLE]
        queries, rest = first_photos(task.splits, dev), first_photos(task.splits, others)
        watch = cls(task, np.concatenate([queries, rest]), queries, 0.0)
        watch.worst = watch.score() - config.max_dev_loss
        watch.keep()
        return watch

    def score(self) -> float:
        """Return the mAP of the dev-forget people's photos among all watched ones."""
        task = self.task
        policies = [(module, module.training) for module in task.model.modules()]
        points = embed(task.model, task.splits.faces, self.photos)
        for module, training in policies:
            module.training = training
        task.images_processed += len(self.photos)
        labels, n = task.splits.faces.labels, len(self.queries)
        return retrieval_scores(
            points[:n], labels[self.queries], points, labels[self.photos],
            query_ids=self.queries, gallery_ids=self.photos,
        ).map  # fmt: skip

    def passed(self, entry: dict) -> bool:
        """Note the score in the history; keep these weights if it is good enough, else say no."""
        entry["dev_map"] = self.score()
        good = entry["dev_map"] >= self.worst
        if good:
            self.keep()
        return good

    def keep(self) -> None:
        """Remember the weights as they are."""
        self.kept = {name: snapshot(module) for name, module in self._modules()}

    def restore(self) -> None:
        """Go back to the weights of the last good check."""
        for name, module in self._modules():
            module.load_state_dict(self.kept[name])

    def _modules(self) -> list[tuple[str, torch.nn.Module]]:
        return [("model", self.task.model), ("head", self.task.head)]


def first_photos(splits: Splits, people: tuple[int, ...] | list[int]) -> np.ndarray:
    """Return a few training photos of each of some people."""
    labels = splits.faces.labels[splits.train]
    chosen = [splits.train[labels == person][:WATCHED_PHOTOS] for person in people]
    return np.concatenate([*chosen, np.empty(0, dtype=np.int64)])


def snapshot(module: torch.nn.Module) -> dict[str, Tensor]:
    """Return a copy of a module's weights and buffers."""
    return {name: value.clone() for name, value in module.state_dict().items()}


@torch.no_grad()
def history_entry(losses: dict[str, Tensor], batch: Batch) -> dict:
    """Return the losses of a step and how compact its forget identities were."""
    entry = {name: value.item() for name, value in losses.items()}
    groups = pairs_by_identity(batch.forget, batch.forget_labels)
    if groups:
        entry["mean_cosine"] = float(torch.stack([mean_cosine(z) for z in groups]).mean())
        entry["nearest_cosine"] = float(torch.stack([hardest_cosine(z) for z in groups]).mean())
    return entry
