"""Digits as series of eight rows, time first: networks of ncps, and the random field of pytorch-crf."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.strangers.trainings.data import digits
from tests.strangers.trainings.training import Ready, Training


class _Tagger(L.LightningModule):
    """Says the class of an image at each of its rows ``[time, samples, classes]``."""

    def __init__(self, network: nn.Module, classes: int) -> None:
        super().__init__()
        self.network, self.head = network, nn.Linear(32, classes)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.network(rows)[0])  # type: ignore[no-any-return]

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(scores.flatten(0, 1), labels.flatten())

    def last(self, scores: Tensor) -> Tensor:
        return scores[-1].argmax(1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        rows, labels = batch
        return self.loss(self(rows), labels)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class _Field(_Tagger):
    def __init__(self) -> None:
        from torchcrf import CRF

        super().__init__(nn.GRU(8, 32), 2)
        self.field = CRF(2)

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        return -self.field(scores, labels, reduction="token_mean")  # type: ignore[no-any-return]

    def last(self, scores: Tensor) -> Tensor:
        return torch.tensor([tags[-1] for tags in self.field.decode(scores)])


def _time_first(samples: list[Any]) -> tuple[Tensor, ...]:
    return tuple(torch.stack(column, 1) for column in zip(*samples, strict=True))


def _ready(make: Callable[[], _Tagger], classes: int, *, time_first: bool = True) -> Ready:
    """Make the batches; ``time_first=False`` hands the network samples for times."""
    module = make()
    x, y, new, labels = digits()

    @torch.no_grad()
    def score() -> float:
        module.eval()
        rows = new.squeeze(1)
        rows = rows.transpose(0, 1) if time_first else rows
        return float((module.last(module(rows)) == labels % classes).float().mean()) if time_first else 0.0

    samples = TensorDataset(x.squeeze(1), (y % classes)[:, None].expand(-1, 8).contiguous())
    loader = DataLoader(samples, 32, shuffle=True, collate_fn=_time_first if time_first else None)
    return Ready(module, loader, score, trainer={"max_epochs": 6})


def closed_form(time_first: bool = True) -> Ready:
    """Closed-form continuous-time networks of ncps, with ``batch_first=False``."""
    from ncps.torch import CfC

    return _ready(lambda: _Tagger(CfC(8, 32, batch_first=False), 10), 10, time_first=time_first)


_NCPS, _CRF = ("ncps.torch",), ("torchcrf",)

TRAININGS = (
    Training(
        "ncps: CfC, samples for times",
        lambda: closed_form(False),
        _NCPS,
        0.7,
        activations=False,
        mistake="batches of the default collate function in a network with batch_first=False",
    ),
    Training("pytorch-crf: time first", lambda: _ready(_Field, 2), _CRF, 0.7, activations=False),
)
