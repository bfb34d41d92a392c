from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lightning_tricks import MemoryDoctor
from lightning_tricks.detection.alarm import Verdict
from lightning_tricks.diagnosis.memory_epochs import LookAtEnd, LookAtEpochs


class Watched:
    """A watch and a probe that note what they are asked for."""

    def __init__(self, *, suspects: bool = False, certain: bool = False, alarmed: bool = False) -> None:
        self.suspects, self._certain = suspects, certain
        self.looked: list[str] = []
        self.values: list[dict[str, float]] = []
        self.trick = SimpleNamespace(live_run="run")
        verdict = Verdict("MemoryDoctor", alarmed)
        self.judge = SimpleNamespace(verdict=verdict, history=[(4, {"resident": 5.0})], step=4)

    def look_again(self, run: Any) -> None:
        self.looked.append("again")

    def last_look(self, run: Any) -> bool:
        self.looked.append("last")
        return self._certain

    def judged(self, values: dict[str, float]) -> None:
        self.values.append(values)

    def forget(self) -> None:
        self.looked.append("forgotten")


@pytest.mark.parametrize("suspects", [True, False])
@pytest.mark.parametrize("batch_idx", [0, 1])
def test_where_something_is_suspected_the_first_batch_of_an_epoch_is_looked_at(suspects: bool, batch_idx: int) -> None:
    watched: Any = Watched(suspects=suspects)
    LookAtEpochs(watched, watched).on_train_batch_end(None, None, None, None, batch_idx)
    assert watched.looked == (["again"] if suspects and batch_idx == 0 else [])


def test_outside_of_a_run_nothing_is_looked_at_and_after_it_all_is_forgotten() -> None:
    watched: Any = Watched(suspects=True)
    watched.trick.live_run = None
    part = LookAtEpochs(watched, watched)
    part.on_train_batch_end(None, None, None, None, 0)
    part._cleanup(None)  # type: ignore[arg-type]
    assert watched.looked == ["forgotten"]


@pytest.mark.parametrize(("certain", "alarmed"), [(True, False), (True, True), (False, False)])
def test_what_is_certain_at_the_end_is_judged_where_it_is_not_known_yet(certain: bool, alarmed: bool) -> None:
    watched: Any = Watched(certain=certain, alarmed=alarmed)
    publisher = SimpleNamespace(flush=lambda: None)
    run: Any = SimpleNamespace(publisher=publisher, trainer=SimpleNamespace(world_size=1), step=9)
    LookAtEnd(watched, watched)._finished(run)
    new = certain and not alarmed
    assert watched.values == ([{"resident": 5.0, "_certain": 1.0}] if new else [])
    assert watched.judge.step == (9 if new else 4)


def test_the_last_look_comes_before_the_watch_ends_and_the_others_after_its_check() -> None:
    names = [type(part).__name__ for part in MemoryDoctor().parts]
    assert names.index("LookAtEnd") < names.index("Watch") < names.index("LookAtEpochs")
    assert names.index("BatchInHand") < names.index("Watch") < names.index("FirstStep")
