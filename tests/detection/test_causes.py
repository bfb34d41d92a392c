from __future__ import annotations

import io
import json

import torch

from lightning_tricks.detection.alarm import Verdict
from lightning_tricks.detection.causes import Cause, Hint, Rate, Remedy, kind_of


def test_a_cause_is_its_text_for_everyone_who_reads_it() -> None:
    for cause in Cause:
        assert cause == cause.value == str(cause) == f"{cause}"
        assert json.loads(json.dumps({"cause": cause})) == {"cause": cause.value}
        assert isinstance(cause.remedy, Remedy)
    assert not Cause.NONE


def test_a_verdict_is_saved_as_plain_values_and_an_old_or_unknown_cause_loads() -> None:
    verdict = Verdict("DeadUnits", True, 5, 4, Cause.DEAD_UNITS, ("a",), {"b": 1.0}, ("c",))
    plain = verdict.as_dict()
    assert type(plain["cause"]) is str
    file = io.BytesIO()
    torch.save(plain, file)
    file.seek(0)
    assert Verdict.from_dict(torch.load(file, weights_only=True)) == verdict
    assert Verdict.from_dict({**plain, "cause": "a name of another version"}).cause is Cause.NONE


def test_every_kind_of_finding_has_a_name_of_its_own_and_a_direction() -> None:
    kinds = [*Cause, *Hint]
    assert len({k.value for k in kinds}) == len(kinds)
    for kind in kinds:
        assert kind_of(kind.value) is kind and isinstance(kind.rate, Rate)
        assert f"{kind}" == str(kind) == kind.value
    assert kind_of("a name of another version") is Cause.NONE


def test_lost_weights_are_worse_than_what_an_earlier_state_repairs() -> None:
    assert Cause.NON_FINITE.severity > Cause.DEAD_UNITS.severity > Cause.OVERFITTING.severity
    assert {c.severity for c in Cause} == {1, 2, 3}
