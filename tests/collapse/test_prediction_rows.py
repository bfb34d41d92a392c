from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_tricks import TrickError
from lightning_tricks.collapse.prediction_rows import Parts, are_next_tokens, no_output, output_of, rows_of, targets_of


@pytest.mark.parametrize(
    ("output", "target", "names", "shape", "dense"),
    [
        ((6, 3), torch.arange(6) % 3, ["logits", "target"], (6, 3), False),
        ((2, 5, 3), torch.zeros(2, 5, dtype=torch.long), ["logits", "target"], (10, 3), False),
        ((2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long), ["logits", "target"], (32, 3), True),
        ((6, 3), torch.rand(6, 3), ["output", "values"], (6, 3), False),
        ((6,), torch.ones(6, dtype=torch.long), ["output", "values"], (6, 1), False),
        ((6, 9), torch.rand(6), ["output", "values"], (6, 9), False),
    ],
    ids=["classes", "tokens", "pixels", "numbers", "two classes", "quantiles"],
)
def test_the_kind_of_rows_is_told_from_shapes_and_dtypes(
    output: tuple[int, ...], target: Tensor, names: list[str], shape: tuple[int, int], dense: bool
) -> None:
    found = rows_of(torch.randn(output), [target])
    assert found is not None
    rows, pixels = found
    assert list(rows) == names and pixels is dense
    assert rows[names[0]].shape == shape and len(rows[names[1]]) == shape[0]


def test_class_numbers_come_before_floats_of_the_same_length() -> None:
    labels = torch.arange(6) % 3
    found = rows_of(torch.randn(6, 3), [torch.rand(6), labels])
    assert found is not None and torch.equal(found[0]["target"], labels)


@pytest.mark.parametrize(("classes", "left"), [(3, -100), (256, 255)])
def test_pixels_of_255_do_not_count_where_there_are_not_as_many_classes(classes: int, left: int) -> None:
    found = rows_of(torch.randn(2, classes), [torch.tensor([0, 255])])
    assert found is not None
    assert found[0]["target"].tolist() == [0, left]


def test_a_target_of_another_length_fits_nothing() -> None:
    assert rows_of(torch.randn(6, 3), [torch.zeros(7, dtype=torch.long), torch.zeros(7)]) is None


def test_the_output_is_a_tensor_of_that_name_among_what_the_step_returned() -> None:
    logits = torch.randn(4, 2)
    assert output_of({"loss": torch.zeros(()), "logits": logits}, "logits") is logits
    assert output_of({"logits": "a text"}, "logits") is None
    assert output_of(logits, "logits") is None


@pytest.mark.parametrize(
    ("outputs", "modules", "text"),
    [
        ({"logitz": torch.zeros(2)}, ["net"], "The nearest name is 'logitz'"),
        (None, ["", "logit"], "The nearest name is 'logit'"),
        (None, ["net"], r"Return \{'loss': loss, 'logits': logits\}"),
    ],
)
def test_the_error_of_an_unknown_output_names_the_nearest(outputs: Any, modules: list[str], text: str) -> None:
    with pytest.raises(TrickError, match=f"training_step returns no such key, .*{text}"):
        raise no_output(outputs, "logits", modules)


def test_a_named_target_is_looked_for_in_the_result_first() -> None:
    one, two = torch.zeros(3), torch.ones(3)
    assert targets_of({"y": one}, {"y": two}, "y")[0] is two
    assert targets_of({"y": one}, None, "y")[0] is one


def test_of_a_batch_without_keys_whole_numbers_come_first_and_later_tensors_before_earlier_ones() -> None:
    x, y, z, w = torch.rand(3, 2), torch.zeros(3, dtype=torch.long), torch.rand(3), torch.ones(3, dtype=torch.long)
    found = targets_of((x, y, z, w), None, "target")
    assert [id(t) for t in found] == [id(t) for t in (w, y, z)], "the input itself is no target"


@pytest.mark.parametrize(
    ("batch", "name", "text"),
    [
        ({"labels": torch.zeros(2)}, "label", "The nearest name is 'labels'"),
        ({"x": torch.zeros(2)}, "target", r"Return \{'loss': \.\.\., 'target': \.\.\.\}"),
        ((torch.zeros(2),), "label", r"Return \{'loss': \.\.\., 'target': \.\.\.\}"),
    ],
)
def test_the_error_of_an_unknown_target_names_the_nearest(batch: Any, name: str, text: str) -> None:
    with pytest.raises(TrickError, match=f"neither the batch nor what training_step returns has such a key.*{text}"):
        targets_of(batch, None, name)


def test_small_batches_share_a_part_until_it_has_sixteen_rows() -> None:
    parts, numbers = Parts(), []
    for i in range(8):
        numbers += [parts.begin(5, first=i == 0)] * 5
    assert [numbers.count(part) for part in (0, 1)] == [20, 20]
    resumed = Parts.of(torch.tensor(numbers))
    assert (resumed.part, resumed.inside) == (parts.part, parts.inside)
    assert parts.begin(64, first=True) == 0 and parts.begin(64, first=False) == 1


@pytest.mark.parametrize("form", ["one more", "the same"])
def test_the_next_tokens_are_the_targets_of_a_language_model(form: str) -> None:
    """Tokens ``[n, T + 1]`` beside logits ``[n, T, K]`` lose the first; of the same tokens the loss says so."""
    tokens = torch.randint(7, (4, 6))
    logits = torch.randn(4, 6 if form == "the same" else 5, 7)
    if form == "one more":
        found = rows_of(logits, [tokens])
        assert found is not None and torch.equal(found[0]["target"], tokens[:, 1:].flatten())
        return
    shifted = cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    plain = cross_entropy(logits.flatten(0, 1), tokens.flatten())
    assert are_next_tokens(logits, [tokens], shifted) and not are_next_tokens(logits, [tokens], plain)
    padded = tokens.masked_fill(torch.arange(6) > 3, -100)
    masked = cross_entropy(logits[:, :-1].flatten(0, 1), padded[:, 1:].flatten())
    assert are_next_tokens(logits, [padded], masked)
    assert not are_next_tokens(logits, [tokens], None) and not are_next_tokens(logits[:, 0], [tokens[:, 0]], plain)


class Store:
    """A batch that is no mapping, as that of torch-geometric."""

    def __init__(self, **tensors: Any) -> None:
        self.tensors = tensors

    def keys(self) -> list[str]:
        return list(self.tensors)

    def __getitem__(self, key: str) -> Any:
        return self.tensors[key]


@dataclass
class Fields:
    x: Tensor
    y: Tensor


@pytest.mark.parametrize("kind", [Store, Fields])
def test_targets_are_found_by_name_in_objects(kind: Any) -> None:
    batch = kind(x=torch.randn(4, 3), y=torch.arange(4))
    for name in ("y", "target"):
        assert targets_of(batch, None, name)[0] is batch_y(batch)
    with pytest.raises(TrickError, match="The nearest name is 'y'|neither the batch nor"):
        targets_of(batch, None, "why")


def batch_y(batch: Any) -> Any:
    return batch["y"] if isinstance(batch, Store) else batch.y
