from __future__ import annotations

import io
import json

import torch

from lightning_tricks.measure.alarm import Verdict
from lightning_tricks.measure.causes import Cause, Remedy


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
