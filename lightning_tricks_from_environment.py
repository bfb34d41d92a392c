"""What Lightning calls in every Trainer of this environment: the callbacks of the variable LIGHTNING_TRICKS.

A file of its own, without imports, since every Trainer of the environment loads it: without the variable nothing of the
pack is imported, and whatever is wrong with the variable or the pack, a Trainer never fails because of it.
"""

import os
import sys
import warnings


def callbacks():  # type: ignore[no-untyped-def]
    """Return the callbacks that LIGHTNING_TRICKS names; none without it. Never raises."""
    text = os.environ.get("LIGHTNING_TRICKS", "").strip()
    if not text:
        return []
    try:
        from lightning_tricks.activation import callbacks_of

        found, problems = callbacks_of(text)
    except Exception as error:
        found, problems = [], [f"{type(error).__name__}: {error}"]
    if problems and os.environ.get("LOCAL_RANK", "0") == "0":
        _say("LIGHTNING_TRICKS: " + " ".join(" ".join(problems).split()))
    return found


def _say(line):  # type: ignore[no-untyped-def]
    try:
        warnings.warn_explicit(line, UserWarning, "LIGHTNING_TRICKS", 1)
    except Exception:  # warnings may be errors here
        sys.stderr.write(line + "\n")
