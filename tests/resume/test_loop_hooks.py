from __future__ import annotations

import copy
from collections.abc import Callable

from lightning_tricks.resume.loop_hooks import LoopHooks


class Loop:
    def __init__(self) -> None:
        self.told: list[str] = []

    def run(self) -> None:
        self.told.append("run")


def call(function: Callable[[], None]) -> None:
    function()


def test_functions_stand_around_a_method_until_the_end() -> None:
    loop, hooks = Loop(), LoopHooks(call)
    hooks.around(loop, "run", before=lambda: loop.told.append("before"), after=lambda: loop.told.append("after"))
    hooks.around(loop, "run", before=lambda: loop.told.append("outside"))
    loop.run()
    assert loop.told == ["outside", "before", "run", "after"]
    hooks.end()
    loop.run()
    assert loop.told[4:] == ["run"] and vars(loop).keys() == {"told"}


def test_an_error_of_ours_is_the_guards_matter_and_the_method_runs() -> None:
    caught: list[str] = []

    def guarded(function: Callable[[], None]) -> None:
        try:
            function()
        except ZeroDivisionError as error:
            caught.append(str(error))

    loop, hooks = Loop(), LoopHooks(guarded)
    hooks.around(loop, "run", before=lambda: print(1 / 0))
    loop.run()
    assert loop.told == ["run"] and caught == ["division by zero"]
    hooks.end()


def test_what_was_changed_last_is_undone_first_and_once() -> None:
    hooks, undone = LoopHooks(call), list[int]()
    for i in range(3):
        hooks.at_end(lambda i=i: undone.append(i))  # type: ignore[misc]
    hooks.end()
    hooks.end()
    assert undone == [2, 1, 0]


def test_a_copy_of_a_loop_takes_no_function_along() -> None:
    loop, hooks = Loop(), LoopHooks(call)
    hooks.replace(loop, "run", lambda: loop.told.append("ours"))
    twin = copy.deepcopy(loop)
    twin.run()
    loop.run()
    assert (twin.told, loop.told) == (["run"], ["ours"])
    hooks.end()
