from __future__ import annotations

from typing import Any

import lightning.pytorch
import pytorch_lightning

from lightning_tricks.lifecycle import namespaces
from lightning_tricks.lifecycle.namespaces import defined_by_lightning
from lightning_tricks.lifecycle.trick import Trick
from tests.problems import Classifier


def test_a_trick_is_a_callback_of_both_namespaces() -> None:
    assert namespaces.lightning_pytorch is lightning.pytorch
    assert namespaces.pytorch_lightning is pytorch_lightning
    assert issubclass(Trick, lightning.pytorch.Callback) and issubclass(Trick, pytorch_lightning.Callback)


def test_overridden_methods_are_told_from_lightnings_in_both_namespaces() -> None:
    import pytorch_lightning

    class Own(Classifier):
        def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None: ...

    assert defined_by_lightning(Classifier(), "configure_gradient_clipping")
    assert defined_by_lightning(pytorch_lightning.LightningModule(), "configure_gradient_clipping")
    assert not defined_by_lightning(Own(), "configure_gradient_clipping")
