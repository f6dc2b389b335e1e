"""Which rows may be averaged, and how rows are shown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from ..tables import text_table
from .results import complete

# what two runs must share to be told apart by their seed alone: anything else is another setting
SETTING = (
    "dataset", "fingerprint", "image_size", "n_identities", "n_forget", "held_out", "dev", "half_unseen", "backbone",
    "pretrained", "train", "profile", "config", "group", "label", "options", "sizes", "attacks",
)  # fmt: skip
NAMES, NAMES_A_SEED = 12, 4  # how many people a line names


# ------------------------------------------------------------------------------------------- which rows belong together


def by_setting(runs: Iterable[Mapping], apart: Sequence[str] = ()) -> dict[str, list[dict]]:
    """Return runs that differ by their seed alone, under "method" or, where a method has several, "method (epochs 8)".

    Fields in `apart` may differ within a group. Introduced in notebook 09.
    """
    groups = grouped(runs, apart=apart)
    return {f"{group[0]['method']} ({note})" if note else group[0]["method"]: group for group, note in groups}


def grouped(
    runs: Iterable[Mapping], shown: Sequence[str] = (), apart: Sequence[str] = ()
) -> list[tuple[list[dict], str]]:
    """Return groups of runs that differ by their seed alone, each with a note on what sets it apart.

    The note tells a group from others of its method that agree in the `shown` fields; `apart` may differ inside one.
    """
    runs = list(runs)
    settings = [setting_of(run, apart) for run in runs]
    draws = [
        json.dumps([run["method"], setting, run.get("seed"), run.get("n_forget")], sort_keys=True)
        for run, setting in zip(runs, settings, strict=True)
    ]
    people: dict[str, set] = {}
    for run, draw in zip(runs, draws, strict=True):
        people.setdefault(draw, set()).add(str(run.get("forget_ids")))
    groups: dict[str, list[dict]] = {}
    seen: dict[str, dict] = {}
    for run, setting, draw in zip(runs, settings, draws, strict=True):
        if len(people[draw]) > 1:  # one seed draws one set of people: these were asked for by name
            setting = setting | {"people": run.get("forget_ids")}
        key = json.dumps([run["method"], setting], sort_keys=True)
        groups.setdefault(key, []).append(run)
        seen[key] = setting | {"method": run["method"], "dataset_name": run.get("dataset_name")}
    return [(group, difference(seen[key], seen.values(), shown)) for key, group in groups.items()]


def setting_of(run: Mapping, apart: Sequence[str] = ()) -> dict:
    """Return a run's whole setting as a flat dict: two runs that agree in it may be averaged."""
    found = {"people": run.get("forget_ids") if run.get("asked") else None}
    for field, value in ((field, complete(run).get(field)) for field in SETTING):
        nested = isinstance(value, Mapping)
        parts = {f"{field}.{key}": item for key, item in value.items()} if nested else {field: value}
        found |= parts if field not in apart else {}
    return found


def difference(mine: dict, settings: Iterable[dict], shown: Sequence[str] = ()) -> str:
    """Return in what a setting differs from the others of its method that agree in the shown fields: 'epochs 8'."""
    rivals = [other for other in settings if all(other.get(field) == mine.get(field) for field in ("method", *shown))]
    fields = [field for field in mine if any(other.get(field) != mine[field] for other in rivals)]
    parts = [(field.split(".")[-1].replace("_", " "), mine[field]) for field in fields if mine[field] is not None]
    return ", ".join(dict.fromkeys(f"{name} {written(value)}" for name, value in parts))


def written(value: object) -> str:
    """Return a setting's value in few characters."""
    if isinstance(value, list | tuple):
        return names_of(value, 3)
    return f"{value:g}" if isinstance(value, float) else str(value)[:24]


# ---------------------------------------------------------------------------------------------------- under every table


def names_of(people: Sequence, most: int = NAMES) -> str:
    """Return names in a row, the first few and how many more if there are many."""
    shown = list(map(str, people if len(people) <= most else people[: most - 1]))
    return ", ".join(shown) + (f" and {len(people) - len(shown)} more" if len(people) > len(shown) else "")


def forgotten(runs: Iterable[Mapping]) -> list[str]:
    """Return who was forgotten in some runs: a line per data set, number of people and way of choosing. Notebook 09."""
    found: dict[tuple, dict[str, dict]] = {}
    for run in runs:
        people, where = run.get("forget_ids"), run.get("dataset_name") or run.get("dataset") or "synthetic"
        how = "names were not noted" if people is None else "asked for by name" if run.get("asked") else "drawn by seed"
        sets = found.setdefault((where, run.get("n_forget"), how), {})
        sets.setdefault(json.dumps(people), {})[run.get("seed", 0)] = None
    lines = []
    for (where, number, how), sets in found.items():
        most, told = NAMES if len(sets) == 1 else NAMES_A_SEED, []
        for people, seeds in sorted(sets.items(), key=lambda item: min(item[1])):
            drawn = f"seed {', '.join(map(str, sorted(seeds)))}: " if how == "drawn by seed" else ""
            told.append(drawn + people_text(json.loads(people) or [], most))
        named = "; ".join(filter(None, told))
        lines.append(f"Forgotten ({', '.join(map(str, filter(None, (where, number))))}), {how}{named and ': '}{named}.")
    return lines


def people_text(people: Sequence, most: int) -> str:
    """Return names, group by group where people asked in groups."""
    if people and isinstance(people[0], list | tuple):
        return " | ".join(names_of(group, most) for group in people)
    return names_of(people, most)


def told(row: Mapping) -> str:
    """Return which run gave no result, and why."""
    place = [f"seed {row['seed']}"] if "seed" in row else []
    place += [", ".join(f"{key} {written(value)}" for key, value in row.get("options", {}).items())]
    place += [f"{row['n_forget']} people"] if "n_forget" in row else []
    return f"{', '.join([row['method'], *filter(None, place)])}: {row.get('error') or row.get('failure')}"


def table_with_people(
    rows: Sequence[Sequence[str]], runs: Iterable[Mapping], markdown: bool = False, failed: Iterable[Mapping] = ()
) -> str:
    """Return a table of runs and, under it, who was forgotten and which runs gave no result. Notebook 05."""
    runs = list(runs)
    lines = [*forgotten(runs), *(f"No result: {told(run)}" for run in runs if "error" in run)]
    lines += [f"Failed, and will be tried again: {told(run)}" for run in failed]
    return text_table(rows, markdown, lines)


def score_cells(runs: Sequence[Mapping], columns: Iterable[tuple[str, str]]) -> list[str]:
    """Return the percentages of (pool, score) columns, the mean over those runs that have a result."""
    return [percent([run.get(pool, {}).get(score) for run in runs]) for pool, score in columns]


def remark(runs: Sequence[Mapping], note: str = "") -> str:
    """Return a group's note, and which of its seeds gave no result."""
    bad = [run for run in runs if "error" in run]
    what = "diverged" if all("diverged" in run["error"] for run in bad) else "no result"
    seeds = "" if len(bad) == len(runs) else f": seed {', '.join(str(run.get('seed', 0)) for run in bad)}"
    return ", ".join(filter(None, [note, f"{what}{seeds}" if bad else ""]))


def with_remarks(rows: Sequence[Sequence[str]], remarks: Sequence[str]) -> list[list[str]]:
    """Return a table with a last column of remarks, if there is any."""
    return [[*row, note] for row, note in zip(rows, ["remark", *remarks], strict=True)] if any(remarks) else list(rows)


def percent(values: Sequence[float | None]) -> str:
    """Return fractions as 'mean' or 'mean ± half range' in percent; a dash where there is no known value."""
    values = [value for value in values if value is not None and not math.isnan(value)]
    if not values:
        return "–"
    spread = 50 * (max(values) - min(values))
    return f"{100 * fmean(values):.1f}" + (f" ± {spread:.1f}" if len(values) > 1 else "")
