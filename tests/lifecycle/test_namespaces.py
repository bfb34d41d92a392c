from __future__ import annotations

import lightning.pytorch
import pytorch_lightning

from lightning_tricks.lifecycle import namespaces
from lightning_tricks.lifecycle.trick import Trick


def test_a_trick_is_a_callback_of_both_namespaces() -> None:
    assert namespaces.lightning_pytorch is lightning.pytorch
    assert namespaces.pytorch_lightning is pytorch_lightning
    assert issubclass(Trick, lightning.pytorch.Callback) and issubclass(Trick, pytorch_lightning.Callback)
