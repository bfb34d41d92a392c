from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_tricks.collapse.neighbours import WIDTH, features_of
from lightning_tricks.collapse.prediction_values import Targets
from lightning_tricks.collapse.raw_inputs import TABLES, RawInputs, features_beside, ids_beside

TOKENS = torch.arange(12).reshape(3, 4)
YES = torch.tensor(True)


def rows_of_classes(n: int) -> dict[str, Tensor]:
    return {"logits": torch.zeros(n, 5), "target": torch.zeros(n, dtype=torch.int64)}


@pytest.mark.parametrize(
    ("looked_up", "rows", "next_tokens", "expected"),
    [
        ([torch.arange(3), torch.tensor([5, 5, 6])], 3, False, [[0, 5], [1, 5], [2, 6]]),
        ([TOKENS], 3, False, TOKENS.tolist()),
        ([TOKENS], 12, False, [[i] for i in range(12)]),
        ([TOKENS, torch.arange(4).expand(3, 4)], 12, False, [[i, i % 4] for i in range(12)]),
        ([TOKENS], 9, True, [[i] for i in range(12) if i % 4 < 3]),
        ([torch.arange(7), torch.zeros(3, TABLES + 1).long(), torch.tensor(4)], 3, False, [[], [], []]),
        ([torch.arange(3)] * 20, 3, False, [[i] * TABLES for i in range(3)]),
    ],
    ids=["two tables", "columns", "tokens", "tokens and places", "next tokens", "of other rows", "many tables"],
)
def test_ids_stand_beside_the_rows_they_belong_to(
    looked_up: list[Tensor], rows: int, next_tokens: bool, expected: list[list[int]]
) -> None:
    assert ids_beside(rows_of_classes(rows), looked_up, next_tokens=next_tokens).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_target_is_no_input_in_whatever_dtype_it_was_compared(dtype: torch.dtype) -> None:
    batch = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    rows = {"output": torch.zeros(8, 3, dtype=dtype), "values": batch.to(dtype)}
    assert features_beside(rows, batch).isnan().all()
    assert torch.equal(features_beside(rows, batch + 1), features_of(batch + 1))


def test_what_is_not_one_sample_for_a_row_is_not_known() -> None:
    rows = rows_of_classes(6)
    assert features_beside(rows, torch.zeros(3, 4)).isnan().all() and features_beside(rows, None).isnan().all()
    assert features_beside(rows, torch.zeros(6, 4)).shape == (6, WIDTH)


def test_ids_have_as_many_columns_as_those_of_the_rows_before_and_are_forgotten_with_their_batch() -> None:
    raw, rows, batch = RawInputs(), rows_of_classes(3), (torch.zeros(3, 2), torch.zeros(3).long())
    held = {"ids": torch.zeros(5, 2, dtype=torch.int64)}
    raw.see(torch.arange(3))
    raw.see("no tensor")
    assert raw.beside(rows, batch, Targets(), held, YES)["ids"].tolist() == [[0, -1], [1, -1], [2, -1]]
    assert raw.beside(rows, batch, Targets(), {}, YES)["ids"].shape == (3, 0)
    raw.see(torch.arange(3))
    pixels = raw.beside(rows, batch, Targets(dense=True), {}, YES)
    assert pixels["ids"].shape == (3, 0) and pixels["inputs"].isnan().all() and pixels["explained"].all()
    unknown = RawInputs.unknown(torch.zeros(4, 2))
    assert unknown["inputs"].isnan().all() and unknown["ids"].shape == (4, 0) and not unknown["explained"].any()
    assert pixels.keys() == unknown.keys() == set(RawInputs.NAMES)
