"""CachedMixedPrecision: Lightning's mixed precision with autocast's weight cache, where Lightning switches that off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import lightning.pytorch.plugins as lightning_plugins
import pytorch_lightning.plugins as pytorch_lightning_plugins
import torch
from torch.nn.functional import linear

from lightning_tricks.errors import UnsupportedError, message, require_choice

_OWNER = "CachedMixedPrecision"
_DTYPES = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


class CachedMixedPrecision(lightning_plugins.MixedPrecision, pytorch_lightning_plugins.MixedPrecision):  # type: ignore[misc]
    """Mixed precision in which a weight is cast to 16 bit once per step, however often its module is called.

    Lightning 2.5.6 to 2.6.6 run autocast with ``cache_enabled=False`` (#20921, to work around a torch bug under
    ``no_grad``; #21611): every call of a module casts its weights again, and every copy is kept for the backward pass.
    A GAN's discriminator, a Siamese encoder or a recurrent decoder pays for it in time and memory. This plugin puts
    the cache back where torch no longer has the bug, and empties it after every optimizer step: in manual optimization
    the region holds several steps, and the cast of the old weights would otherwise be used after the step. Where
    Lightning's own plugin uses the cache again, its region is left as it is, and only the emptying remains.

    Pass it instead of ``precision=``: ``Trainer(plugins=[CachedMixedPrecision("bf16-mixed", "cuda")])``.

    Args:
        precision: ``"16-mixed"`` or ``"bf16-mixed"``.
        device: of the autocast region, ``"cuda"`` or ``"cpu"``.
        scaler: a ``torch.amp.GradScaler`` for ``"16-mixed"``; None for a new one.

    Raises:
        ValueError: ``precision`` or ``device`` is unknown, or a scaler is given beside ``"bf16-mixed"``.
        UnsupportedError: this torch loses gradients when a cached weight was first cast under ``no_grad``, and
            Lightning does not prevent it.

    Example:
        >>> from lightning_tricks import CachedMixedPrecision
        >>> plugin = CachedMixedPrecision("bf16-mixed", "cpu")
        >>> with plugin.forward_context():
        ...     torch.is_autocast_cache_enabled()
        True

    Reference: torch.amp documentation, ``cache_enabled``; https://github.com/Lightning-AI/pytorch-lightning/issues/21611
    """

    def __init__(
        self,
        precision: Literal["16-mixed", "bf16-mixed"],
        device: str,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        kind = _checked_kind(precision, device, scaler)
        if not (lightning_caches() or cache_is_safe()):
            raise UnsupportedError(
                f"{_OWNER}: torch {torch.__version__} loses the gradient of a weight that was first cast under no_grad "
                "(pytorch #112583). Update torch, or use precision= without the cache."
            )
        super().__init__(precision, kind, scaler)

    def autocast_context_manager(self) -> torch.autocast:
        """The region of the forward pass, with the cache."""
        return torch.autocast(self.device, dtype=_DTYPES[self.precision], cache_enabled=True)

    def optimizer_step(  # type: ignore[override]
        self, optimizer: Any, model: Any, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        """Step, then forget the casts of the old weights."""
        try:
            return super().optimizer_step(optimizer, model=model, closure=closure, **kwargs)
        finally:
            torch.clear_autocast_cache()


def _checked_kind(precision: str, device: object, scaler: object) -> str:
    """Return the kind of device, after checking all arguments."""
    require_choice(_OWNER, "precision", precision, _DTYPES)
    kind = require_choice(_OWNER, "device", str(device).split(":")[0], ("cuda", "cpu", "mps", "xpu"))
    if scaler is not None and not isinstance(scaler, torch.amp.GradScaler):
        text = "scaler must be a torch.amp.GradScaler"
        raise TypeError(message(_OWNER, "scaler", scaler, text, "Leave it out for a new one"))
    if scaler is not None and precision == "bf16-mixed":
        raise ValueError(message(_OWNER, "scaler", scaler, "bf16-mixed needs no loss scale", "Leave scaler out"))
    return kind


def lightning_caches() -> bool:
    """Whether Lightning's own plugin runs autocast with the cache; then it also empties it after ``no_grad``."""
    with lightning_plugins.MixedPrecision("bf16-mixed", "cpu").forward_context():
        return torch.is_autocast_cache_enabled()


def cache_is_safe() -> bool:
    """Whether a weight that was first used under ``no_grad`` still gets its gradient: tried once on four numbers."""
    weight, ones = torch.ones(2, 2, requires_grad=True), torch.ones(1, 2)
    with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=True):
        with torch.no_grad():
            linear(ones, weight)
        total = linear(ones, weight).sum()
    if not total.requires_grad:
        return False
    total.backward()  # type: ignore[no-untyped-call]
    return weight.grad is not None and bool((weight.grad == 1).all())
