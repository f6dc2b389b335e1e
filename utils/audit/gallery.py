"""Attackers who also kept the embeddings that the old model had stored."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from scipy.linalg import orthogonal_procrustes
from torch import Tensor

from .case import AuditCase, attack, cannot, ridge_map, sample, searched


def orthogonal_map(x: Tensor, y: Tensor) -> Tensor:
    """Return the orthogonal M (d, d) that minimises |x M - y|: Procrustes. Introduced in notebook 10."""
    return torch.from_numpy(orthogonal_procrustes(x.numpy(), y.numpy())[0])


def fitted_ridge(x: Tensor, y: Tensor) -> Tensor:
    """Return the linear map (d, e) from x to y, barely held back."""
    return ridge_map(x, y, 0.001)


FITS: dict[str, Callable[[Tensor, Tensor], Tensor] | None] = {
    "": None,
    "orthogonal": orthogonal_map,
    "linear": fitted_ridge,
}


def cross_search(case: AuditCase, fit: Callable | None, back: bool) -> dict:
    """Search the original's gallery with new queries, or (back) the new gallery with old queries.

    A map from the queries' model to the gallery's is fitted on retained people's training photos.
    """
    asking, holding = (case.original, case.subject) if back else (case.subject, case.original)
    queries, gallery, photos = case.queries, case.splits.gallery, sample(case.splits)
    rows, stored = asking.rows(queries), holding.rows(gallery)
    if rows.shape[1] != stored.shape[1] and fit is not fitted_ridge:
        return cannot(f"one model gives {rows.shape[1]} numbers and the other {stored.shape[1]}")
    if fit is not None:
        step = fit(asking.rows(photos).double(), holding.rows(photos).double())
        rows = F.normalize(rows.double() @ step).float()
    return searched(case, rows, queries, stored, gallery)


for _fit, _function in FITS.items():
    for _back in (False, True):
        _how = f", {_fit} map" if _fit else ""
        attack(
            "_".join(filter(None, ("old_query" if _back else "old_gallery", _fit))),
            title=("old query, new gallery" if _back else "new query, old gallery") + _how,
            attacker="old gallery",
            question="Do embeddings of the two models still match" + (f" after an {_fit} map?" if _fit else "?"),
            target="chance",
        )(partial(cross_search, fit=_function, back=_back))
