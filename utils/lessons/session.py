"""The session in which notebooks 05 to 11 try method after method: same faces, same model, same pictures.

`session = open_session(...)`, then `trial = session.forget("gradient_ascent")`, then `session.bars(trial.after)`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from ..experiments.benchmark import results_table, run_benchmark, run_method, shipped_outcome
from ..experiments.plan import Plan, check_plan, prepared, references
from ..experiments.runner import refuse
from ..experiments.tables import remark, with_remarks
from ..experiments.worlds import mean_scores, runs_by_method
from ..faces.datasets import FaceDataset
from ..faces.splits import Splits
from ..models.checkpoints import Recogniser
from ..models.interface import Lacking
from ..retrieval.evaluation import Evaluation, evaluate
from ..retrieval.scores import RetrievalScores, retrieval_scores
from ..settings import BUILD_DIR, one_of, resolve_device
from ..tables import text_table
from ..unlearning.loop import Unlearned, unlearn
from ..unlearning.registry import METHODS
from . import figures

DRAWN = Plan()  # the faces and the model that the notebooks' texts tell of
MORE = ("backbone", "pretrained", "train_epochs", "max_identities", "image_size")


@dataclass(frozen=True)
class Trial:
    """One method's run on the session: what it returned, and its model's view of the held-out photos. Notebook 05."""

    name: str
    title: str
    outcome: Unlearned
    after: Evaluation


@dataclass(frozen=True, eq=False)
class Session:
    """One request to be forgotten: the plan, the splits, the original model, and its view of the held-out photos.

    Made by `open_session`; nothing on it is ever changed. Introduced in notebook 05.
    """

    plan: Plan
    splits: Splits
    recogniser: Recogniser
    before: Evaluation
    results: Path

    @property
    def faces(self) -> FaceDataset:
        """The data set."""
        return self.splits.faces

    def forget(self, name: str, **options: object) -> Trial:
        """Run a method on the session's forget people and evaluate the result on held-out photos.

        Without options it runs with the profile's own settings and notes its scores for the benchmark; with options it
        is a mere trial and notes nothing. A model trained elsewhere cannot be retrained, and `without_names` stands in.
        Raises CourseError as `unlearn` does. Introduced in notebook 05.
        """
        if name == "retrain" and name not in references(self.plan):
            outcome = self.without_names()
            after = evaluate(outcome.model, self.splits, outcome.head, device=self.plan.device)
        elif not options:
            if known := shipped_outcome(self.plan, self.splits, name):
                print(f"{METHODS[name].title}: the course ships this model, made in {known.seconds:.0f} s; loaded.")
            outcome, after = run_method(self.plan, self.splits, self.recogniser, name, self.results, known=known)
        else:
            model, head, device = self.recogniser.model, self.recogniser.head, resolve_device(self.plan.device)
            outcome = unlearn(name, model, head, self.splits, seed=self.plan.seed, device=device, **options)
            after = evaluate(outcome.model, self.splits, outcome.trained_head, device=device)
        return Trial(name, METHODS[name].title, outcome, after)

    def forget_by(self, *names: str) -> dict[str, Trial]:
        """Run methods as `forget` does and return their trials by name; names and leaves out those that need what the
        network does not have or does not show. Introduced in notebook 06."""
        trials = {}
        for name in names:
            try:
                trials[name] = self.forget(name)
            except Lacking as why:
                print(f"{METHODS[name].title} is left out. {why}")
        return trials

    def without_names(self) -> Unlearned:
        """Return the original model with a head that has no rows for the forget people: all that can be made anew of a
        model whose weights were trained elsewhere."""
        print(
            f"'{self.plan.backbone}' was trained elsewhere: 'retrained' is the same model, its head made without them."
        )
        head, rows = copy.deepcopy(self.recogniser.head), self.splits.class_of(self.splits.retain_train)
        head.weight = torch.nn.Parameter(head.weight.detach()[torch.from_numpy(rows).to(head.weight.device)])
        return Unlearned(copy.deepcopy(self.recogniser.model), head)

    def example(self) -> int:
        """Return the label of the forget person the panels show: the one with the most held-out photos."""
        return max(self.splits.forget, key=lambda person: len(self.before.photos_of(person)))

    def panel(self, after: Evaluation, title: str) -> Figure:
        """Show a model before and after: one forget person's cosines, first ranks, and bars. Notebook 05.

        Everything in it is held-out photos; queries are searched in the gallery of all pools.
        """
        person, views = self.example(), (self.before, after)
        photos = self.before.photos_of(person)
        return figures.forgetting_panel(
            *(view.rows(photos) for view in views),
            *(view.retrieval("forget").first_rank for view in views),
            *(self.bars(view) for view in views),
            gallery_size=len(self.splits.gallery),
            person=self.faces.identities[person],
            title=f"{title}: held-out photos",
        )

    def bars(self, view: Evaluation) -> dict[str, float]:
        """Return the four shares that the panels show: forget accuracy, and R@1 of forget, retain and unseen people."""
        found = {f"{pool} R@1": view.retrieval(pool).r1 for pool in ("forget", "retain", "unseen")}
        return {"forget accuracy": view.name_accuracy("forget")} | found

    def old_gallery(self, after: Evaluation, pool: str = "forget") -> RetrievalScores:
        """Score the new model's queries against the gallery as the original model had embedded it. Notebook 05."""
        query, gallery = self.splits.photos(pool, "query"), self.splits.gallery
        queries, enrolled = after.rows(query), self.before.rows(gallery)
        labels = self.before.labels(query), self.before.labels(gallery)
        return retrieval_scores(queries, labels[0], enrolled, labels[1], query_ids=query, gallery_ids=gallery)

    def stayed(self, after: Evaluation, pool: str = "forget") -> np.ndarray:
        """Return the cosine (n,) of each held-out photo to its own place before: 1 if nothing moved. Notebook 05."""
        photos = self.before.held_out(pool)
        return (self.before.rows(photos) * after.rows(photos)).sum(dim=1).numpy()

    def table(self, *names: str) -> str:
        """Return the scores of some methods under the two references as text; what is missing runs. Notebook 05."""
        return results_table(run_benchmark(replace(self.plan, methods=names), self.results), narrow=True)

    def results_of(self, *names: str) -> dict[str, dict]:
        """Return the results rows of the references and some methods, by name; what is missing runs. Notebook 08.

        What diverged has no row; raises CourseError for what failed.
        """
        results = run_benchmark(replace(self.plan, methods=names), self.results)
        refuse(results.get("failed", ()))
        return {row["method"]: row for row in results["runs"] if "error" not in row}


def methods_gallery(lines: Mapping[str, tuple[str, str]]) -> str:
    """Return methods as a table, {name: (what it does, what to look at)}, with their stored scores. Notebook 05.

    The scores are of the drawn faces with ten people to forget, whatever a session holds: means over three seeds.
    """
    runs = runs_by_method()
    shown = {"forget accuracy": ("forget", "accuracy")}
    shown |= {
        f"{pool} {word}": (pool, key) for pool in ("forget", "unseen") for word, key in (("R@1", "r1"), ("mAP", "map"))
    }
    rows, remarks = [["method", "what it does", "what to look at", *shown]], []
    for name, told in lines.items():
        means = mean_scores(runs[name])
        rows.append(
            [METHODS[name].title, *told, *(f"{means[p][key]:.0%}" if means else "–" for p, key in shown.values())]
        )
        remarks.append(remark(runs[name]))
    return text_table(
        with_remarks(rows, remarks), notes=["Stored scores: drawn faces, ten people to forget, mean over three seeds."]
    )


def remind_of_drawn_faces(dataset: str, backbone: str) -> None:
    """Say in one sentence that a notebook's text tells of drawn faces, if others or another model were chosen."""
    if (dataset, backbone) != (DRAWN.dataset, DRAWN.backbone):
        print(
            f"You chose the faces '{dataset}' and the model '{backbone}', but the text tells what the drawn faces and "
            "the model trained on them show: where they differ, believe your own figures and tables."
        )


def open_session(
    dataset: str = "synthetic",
    root: str = "",
    n_forget: int = 0,
    seed: int = 0,
    profile: str = "quick",
    device: str = "auto",
    results: Path = BUILD_DIR / "results.json",
    **more: object,
) -> Session:
    """Open the data set, draw the forget people, load or train the face model and evaluate it; raises CourseError.

    `more` are further fields of the benchmark's `Plan`: backbone, pretrained, train_epochs, max_identities, image_size.
    `n_forget` 0 is the usual number. The crops are as large as the backbone wants them. Introduced in notebook 05.
    """
    for name in more:
        one_of(name, MORE, "option of the session")
    plan = Plan(dataset=dataset, root=root, forget=n_forget or None, seed=seed, profile=profile, device=device, **more)
    check_plan(plan)
    splits, recogniser = prepared(plan, seed, {}, progress=True)
    before = evaluate(recogniser.model, splits, recogniser.head, device=device)
    return Session(plan, splits, recogniser, before, results)
