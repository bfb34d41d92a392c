"""The form of what ``PredictionCollapse`` keeps in a checkpoint."""

from __future__ import annotations

from typing import Any

from lightning_tricks.collapse import reduction
from lightning_tricks.collapse.prediction_values import KINDS
from lightning_tricks.numerics import form

_ROWS = {"logits": reduction.form_of(logits=2, target=1), "output": reduction.form_of(output=2, values=2)}
OPTIONAL_FORMS: dict[str, form.Form] = {  # of what ``PredictionProbe.state`` returns: older versions lack some of it
    "start": form.none_or(form.tensor),
    "at_start": form.dict_of(form.measured),
    "kind": form.one_of(*KINDS),
    "logits": form.flag,
    "highest": form.measured,
    "prints": form.none_or(form.tensor),
    "known": form.none_or(form.tensor),
    "pool": form.list_of(form.list_of(form.measured, 3)),
    "evidence": form.record(
        {"last": form.list_of(form.measured), "sum": form.number, "checks": form.count, "samples": form.least_zero}
    ),
    "recent": form.record(
        {"scores": form.list_of(form.measured), "skills": form.list_of(form.list_of(form.measured, 2))},
        optional={"extents": form.list_of(form.measured, 2), "compares": form.flag},
    ),
}


def rows_form(value: Any, where: str) -> str | None:
    """Rows of classes or of numbers, with the numbers of their batches unless an older version gathered them."""
    if not isinstance(value, dict):
        return _ROWS["logits"](value, where)
    beside = {"part": 1, "inputs": 2, "ids": 2, "explained": 1}
    rows = {name: part for name, part in value.items() if name not in beside}
    fault = _ROWS["output" if "output" in rows else "logits"](rows, where)
    for name in beside.keys() & value.keys():
        fault = fault or reduction.form_of(**{name: beside[name]})({name: value[name]}, where)
    return fault
