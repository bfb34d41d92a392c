from __future__ import annotations

from typing import Any

from lightning_tricks.dry_run.attributes import slots_of
from lightning_tricks.dry_run.objects import DictRecord, ObjectRecord


class Shouting(dict[str, Any]):
    """A dict whose methods must not be called."""

    def __setitem__(self, key: str, value: Any) -> None:
        raise AssertionError

    def clear(self) -> None:
        raise AssertionError

    def items(self) -> Any:
        raise AssertionError


def test_methods_of_a_subclass_are_not_called() -> None:
    table = Shouting(a=[1])
    inner = dict.__getitem__(table, "a")
    record = DictRecord(table)
    dict.__setitem__(table, "b", 2)
    dict.__setitem__(table, "a", 3)
    assert not record.intact()
    record.restore()
    assert dict.__getitem__(table, "a") is inner and len(table) == 1


def test_the_order_of_keys_is_content() -> None:
    table = {"a": 1, "b": 2}
    record = DictRecord(table)
    table["a"] = table.pop("a")
    assert not record.intact()
    record.restore()
    assert list(table) == ["a", "b"]


def test_a_class_that_was_exchanged_and_a_dict_that_was_replaced() -> None:
    class One:
        pass

    class Two:
        pass

    thing: Any = One()
    thing.x, attributes = 1, vars(thing)
    record = ObjectRecord(thing, slots_of(One))
    thing.__class__, thing.__dict__ = Two, {"y": 2}
    record.restore()
    assert type(thing) is One and vars(thing) is attributes and attributes == {"x": 1}
