"""To see every step of an optimizer, also of one that torch's own hooks do not reach."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from lightning_tricks.modules.replaced import PutBack, replaced

StepHook = Callable[[Optimizer, Any, Any], None]  # with the arguments of ``step``


def hook_steps(optimizer: Optimizer, before: StepHook, after: StepHook) -> tuple[PutBack, ...]:
    """Call functions before and after every step of an optimizer; return what takes them away again.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> put_back = hook_steps(optimizer, lambda *_: print("before"), lambda *_: print("after"))
    >>> optimizer.step()
    before
    after
    >>> for undo in put_back: undo()
    >>> optimizer.step()
    """
    # torch marks a class's ``step`` as hooked when the first object of it is made (Optimizer._patch_step_function)
    if getattr(type(optimizer).step, "hooked", False):
        handles = optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)
        return tuple(handle.remove for handle in handles)
    # torch calls no hooks where a wrapper left out super().__init__(), and from its first zero_grad on where it
    # left that to torch
    step = optimizer.step

    @functools.wraps(step)
    def seen(*arguments: Any, **named: Any) -> Any:
        before(optimizer, arguments, named)
        result = step(*arguments, **named)
        after(optimizer, arguments, named)
        return result

    return (replaced(optimizer, "step", seen),)
