"""What grows, and how to stop it, in words. Texts only: nothing is decided by them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_tricks.detection.causes import Cause, Explained
from lightning_tricks.diagnosis.memory import Growth
from lightning_tricks.diagnosis.memory_table import shown_bytes

_MOST = 3  # holders that a verdict names


def explained(growths: Sequence[Growth], tensors: Sequence[str] = ()) -> Explained:
    """Return the cause, a reason for each holder, and what to change, the certain and largest first.

    Args:
        growths: what grows.
        tensors: the commonest tensors of the process, for a growth without a holder.

    Example:
        >>> loss = Growth("module.losses", "graph", True, per_update=2048.0, held=100.0, nbytes=204800.0)
        >>> cause, reasons, advice = explained([loss])
        >>> print(reasons[0]); print(advice[0])
        module.losses keeps 100 tensors with their autograd graphs: 200 KiB, and 2 KiB more with each update
        store numbers: self.losses.append(loss.item()), or loss.detach() to stay on the device
    """
    if not growths:
        return Cause.MEMORY_GROWTH, ("the memory of another process grows",), ("see the output of that process",)
    ranked = sorted(growths, key=lambda g: (not g.certain, not g.holder, -g.per_update))[:_MOST]
    reasons = [reason(growth) for growth in ranked]
    if tensors and not any(growth.holder for growth in ranked):
        reasons.append(f"the commonest live tensors are {', '.join(tensors)}")
    return Cause.MEMORY_GROWTH, tuple(reasons), tuple(dict.fromkeys(fix(growth) for growth in ranked))


def reason(growth: Growth) -> str:
    """Return what grows, with its figures."""
    more = f"{shown_bytes(growth.nbytes)}, and {shown_bytes(growth.per_update)} more with each update"
    if math.isfinite(growth.full_after):
        more += f"; at this rate the memory is full after about {growth.full_after:,.0f} more"
    name, count = growth.holder, f"{growth.held:,.0f}"
    if growth.kind == "hooks":
        owner = name.rsplit(".", 1)[0]
        return f"{owner} has {count} hooks ({name}), {growth.per_update:.2g} more with each update"
    if growth.kind == "graph" and growth.traceback:
        return f"{name} keeps exceptions, whose tracebacks keep {count} tensors with their autograd graphs: {more}"
    if growth.kind == "graph" and growth.single:
        return f"the autograd graph of {name} grows, since it was never detached: {more}"
    kept = {
        "graph": f"keeps {count} tensors with their autograd graphs",
        "batch": f"keeps {count} tensors of earlier batches or outputs",
        "metric": "is the state of a metric that is never reset",
        "tensors": f"holds {count} tensors or arrays",
    }
    if growth.kind in kept:
        return f"{name} {kept[growth.kind]}: {more}"
    return f"memory in use rises steadily: {more}"


def fix(growth: Growth) -> str:
    """Return what to change in the code."""
    name = attribute(growth.holder)
    if growth.kind == "hooks":
        return "register hooks once (in __init__ or setup), or keep the handle and call handle.remove()"
    if growth.kind == "metric":
        return f"call {name.rsplit('.', 1)[0]}.reset() at the end of each epoch, or give the metric itself to self.log"
    if growth.kind == "batch":
        return f"clear {name} in each epoch, or store what is needed of it as numbers or on the CPU"
    if growth.kind == "memory":
        return "look for lists that are appended to in each step, and for data sets or caches that grow"
    if growth.kind == "tensors":
        return f"bound {name} (collections.deque(maxlen=...)), or clear it"
    if growth.traceback:
        return f"store str(error) or traceback.format_exc() in {name}, not the exception itself"
    if growth.single and growth.elements == 1:
        return f"add a number: {name} += loss.item(), or loss.detach() to stay on the device"
    if growth.single:
        return f"detach it where it is carried on: {name} = {name}.detach()"
    if growth.elements == 1:
        return f"store numbers: {name}.append(loss.item()), or loss.detach() to stay on the device"
    return f"detach what is stored: {name}.append(x.detach()), with .cpu() to free the device"


def attribute(holder: str) -> str:
    """Return a holder's name as it stands in the code of its class.

    >>> attribute("module.losses"), attribute("callback Keeps.outputs"), attribute("train.KEPT")
    ('self.losses', 'self.outputs', 'KEPT')
    """
    if ", variable " in holder:
        return holder.split(", variable '", 1)[1].split("'", 1)[0]
    root, _, rest = holder.partition(".")
    own = root in ("module", "datamodule") or root.startswith(("callback ", "train_dataloader"))
    return f"self.{rest}" if own and rest else holder.rsplit(".", 1)[-1]
