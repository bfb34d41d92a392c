"""What a network is given, beside rows of its outputs: numbers of a sample, and ids that it looks up. No host read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_tricks.collapse.known_samples import KnownSamples, inputs_of
from lightning_tricks.collapse.neighbours import WIDTH, features_of
from lightning_tricks.collapse.prediction_values import Targets
from lightning_tricks.detection.attachment import Attachment

TABLES = 8  # columns of ids that are looked at


def features_beside(rows: Mapping[str, Tensor], inputs: Tensor | None) -> Tensor:
    """Return ``features_of`` the inputs beside rows of outputs; NaN where a row is not one sample of them, ``[n, 64]``.

    Args:
        rows: as of ``prediction_rows.rows_of``.
        inputs: of a batch; None where they are not known.
    """
    first, target = next(iter(rows.values())), rows.get("values", rows.get("target"))
    if inputs is None or target is None or len(inputs) != len(first) or inputs.data_ptr() == target.data_ptr():
        return torch.full((len(first), WIDTH), torch.nan, device=first.device)
    features = features_of(inputs)
    if "values" in rows and inputs.numel() == target.numel():  # (a target in another dtype than it had is a copy)
        same = (inputs.reshape(target.shape).to(target.dtype) == target).all()
        features = torch.where(same, torch.nan, features)
    return features


def ids_beside(rows: Mapping[str, Tensor], looked_up: Sequence[Tensor], *, next_tokens: bool = False) -> Tensor:
    """Return the ids that embeddings were given for each row, ``[n, c]``, at most eight columns and perhaps none.

    Args:
        rows: as of ``prediction_rows.rows_of``.
        looked_up: what embeddings were given in this batch: ``[n]`` and ``[n, c]`` of samples, or ``[samples, tokens]``
            where rows are tokens.
        next_tokens: rows are all tokens of a sequence but the last one.

    >>> ids_beside({"logits": torch.zeros(4, 9)}, [torch.tensor([[5, 6], [7, 8]]), torch.tensor([1, 2, 3, 4])])
    tensor([[5, 1],
            [6, 2],
            [7, 3],
            [8, 4]])
    """
    first = next(iter(rows.values()))
    columns: list[Tensor] = []
    for ids in looked_up:
        if ids.ndim == 2 and next_tokens:
            ids = ids[:, :-1]
        if ids.ndim in (1, 2) and ids.numel() == len(first):
            columns.append(ids.reshape(-1))
        elif ids.ndim == 2 and len(ids) == len(first) and ids.shape[1] <= TABLES:
            columns += ids.unbind(1)
    kept = columns[:TABLES]
    return torch.stack(kept, 1).long() if kept else torch.zeros(len(first), 0, dtype=torch.int64, device=first.device)


class RawInputs:
    """Which samples are known, what embeddings were given in a batch, and what stands beside its rows."""

    NAMES = ("inputs", "ids", "explained")

    def __init__(self) -> None:
        self.known = KnownSamples()
        self.extent = math.nan  # numbers of a sample of the last batch: of a sequence, its length
        self._looked_up: list[Tensor] = []
        self._attachment: Attachment | None = None  # until embeddings are watched

    def attach(self, to: Attachment) -> None:
        """Watch embeddings from the second batch on: what replaces one as training starts is there by then."""
        self._attachment = to

    def see(self, ids: Any) -> None:
        """Take up what an embedding is given."""
        if isinstance(ids, Tensor):
            self._looked_up.append(ids.detach())

    def _watch(self) -> None:
        to, self._attachment = self._attachment, None
        if to is None:
            return
        hidden = to.hidden()
        for module in to.root.modules():
            if isinstance(module, nn.Embedding) and id(module) not in hidden:
                to.watch_input(module, self.see)

    def beside(
        self,
        rows: Mapping[str, Tensor],
        batch: Any,
        targets: Targets,
        held: Mapping[str, Tensor],
        explained: Tensor,
        *,
        wanted: bool = True,
    ) -> dict[str, Tensor]:
        """Return ``inputs``, ``ids`` and ``explained`` of the rows of a batch, and forget its lookups.

        Args:
            rows: as of ``prediction_rows.rows_of``.
            targets: what is known of them. Pixels stand for no sample, and none of both is known of them.
            held: rows of earlier batches, whose columns of ids there are to be.
            explained: whether the loss is one of these rows, bool 0-d.
            wanted: whether anybody asks for the inputs; else nothing is known of them.
        """
        self._watch()
        looked_up, self._looked_up = self._looked_up, []
        ids = ids_beside(rows, () if targets.dense else looked_up, next_tokens=targets.next_tokens)
        width = held["ids"].shape[1] if "ids" in held else ids.shape[1]
        whole = inputs_of(batch)
        self.extent = math.nan if whole is None else whole.numel() / len(whole)
        inputs = features_beside(rows, whole if wanted and not targets.dense else None)
        padded = F.pad(ids, (0, width - ids.shape[1]), value=-1)
        return {"inputs": inputs, "ids": padded, "explained": explained.expand(len(inputs))}

    @staticmethod
    def unknown(rows: Tensor) -> dict[str, Tensor]:
        """Return the same of rows of which nothing is known."""
        inputs = torch.full((len(rows), WIDTH), torch.nan, device=rows.device)
        ids = torch.zeros(len(rows), 0, dtype=torch.int64, device=rows.device)
        return {"inputs": inputs, "ids": ids, "explained": torch.zeros(len(rows), dtype=torch.bool, device=rows.device)}
