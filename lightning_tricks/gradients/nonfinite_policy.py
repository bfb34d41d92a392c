"""What happens to NaN and inf in gradients, as ``GradientClip(nonfinite=)`` says. Pure decisions on plain values.

Under a GradScaler such steps are the scaler's to skip, whatever the policy: it finds the loss scale by overflowing.
"""

from __future__ import annotations

from lightning_tricks.gradients.nonfinite import NonFinite


def zeroes(policy: str, *, scaled: bool) -> bool:
    """Whether elements that are not finite become 0.

    >>> zeroes("zero", scaled=False), zeroes("zero", scaled=True)
    (True, False)
    """
    return policy == "zero" and not scaled


def skips(policy: str, *, scaled: bool) -> bool:
    """Whether an update whose gradient is not finite is left out.

    >>> [skips(policy, scaled=False) for policy in ("skip", "zero", "warn", "raise")]
    [True, True, False, True]
    """
    return policy != "warn" or scaled


def raises_at_once(policy: str, *, scaled: bool, on_host: bool, folds: bool) -> bool:
    """Whether the host looks at each norm and ends the run before the step; else it is told at a logged step.

    Args:
        policy: ``nonfinite=``.
        scaled: whether there is a GradScaler.
        on_host: whether the host can read the norm without waiting for a device.
        folds: whether the optimizer's fused step skips on the device, so that waiting for the norm can be avoided.
    """
    return policy == "raise" and not scaled and (on_host or not folds)


def is_ordinary(found: NonFinite, *, scaled: bool) -> bool:
    """Whether the loss scale was too large: the scaler has skipped the update, and lowers the scale."""
    return scaled and found.loss_finite is not False


def error_text(step: int, found: NonFinite | None) -> str:
    """Return the text of the error that ends a run."""
    return (
        f"GradientClip(nonfinite='raise'): step {step}: {found} The weights are those of the last finite update. "
        "Lower the learning rate, look at the named layers, or use nonfinite='skip'."
    )


def warning_text(policy: str, step: int, found: NonFinite, *, scaled: bool) -> str:
    """Return the text of a warning."""
    through = policy == "warn" and not scaled
    return f"step {step}: {found} {'They went through' if through else 'They were skipped'}."
