from __future__ import annotations

from typing import Any

from lightning_tricks.runtime.replaced import replaced


class Owner:
    def method(self) -> str:
        return "of the class"


def test_an_attribute_of_the_object_comes_back_and_one_of_the_class_is_seen_again() -> None:
    owner: Any = Owner()
    owner.own = before = object()
    for name, value in (("own", 1), ("method", lambda: "replaced")):
        put_back = replaced(owner, name, value)
        assert getattr(owner, name) is value
        put_back()
        put_back()
    assert owner.own is before and owner.method() == "of the class" and list(vars(owner)) == ["own"]
