from __future__ import annotations

import pytest
import torch

from lightning_tricks.publishing.transfer import Transfer, device_of, runs_of


@pytest.mark.parametrize("order", [["cpu", "meta", "meta", "cpu", "meta"], ["cpu", "cpu"], ["meta"], ["meta", "cpu"]])
def test_values_are_gathered_where_the_first_one_of_a_device_lies(order: list[str]) -> None:
    tensors = [torch.zeros(2, device=kind) for kind in order]
    assert device_of(tensors).type == ("meta" if "meta" in order else "cpu")


def test_values_of_the_host_and_of_a_device_keep_their_order() -> None:
    """What is copied run by run, as to pinned memory, is what the tensors in a row are."""
    remote, sizes = [False, True, True, False, False, True], [2, 1, 3, 1, 2, 2]
    pieces = list(torch.arange(float(sum(sizes))).split(sizes))
    host = torch.full((sum(sizes),), -1.0)
    for place, piece, there in zip(host.split(sizes), pieces, remote, strict=True):
        if not there:
            place.copy_(piece)
    for start, end, run in runs_of(remote, sizes):
        assert all(remote[run])
        host[start:end] = torch.cat(pieces[run])
    assert host.tolist() == torch.cat(pieces).tolist()


def test_everything_that_was_put_in_is_read_under_its_own_name() -> None:
    """Each kind of content has vectors of another length, so that one read too far or too short would show."""
    got: list[list[float]] = []
    transfer = Transfer(step=4, numbers={"number": 0.5}, names=["a", "b"], tensors=[torch.tensor([1.0, 2.0])])
    transfer.histograms["h"] = torch.tensor([[3.0], [4.0], [5.0]])
    transfer.private.append((torch.tensor([6.0]), got.append))
    transfer.selected.append((torch.tensor([7.0, 8.0, 9.0, 10.0]), lambda v: {"largest": max(v)}))
    transfer.selected.append((torch.tensor([11.0]), lambda v: None))
    transfer.send()
    assert transfer.has_arrived(wait=False), "on a CPU nothing is waited for"
    values, samples, private = transfer.read()
    assert values == {"number": 0.5, "a": 1.0, "b": 2.0, "largest": 10.0}
    assert samples == {"h": [3.0, 4.0, 5.0]}
    assert [numbers for _, numbers in private] == [[6.0]] and got == []


def test_a_norm_beyond_the_range_of_float32_arrives_as_it_is() -> None:
    transfer = Transfer(0, names=["large", "one"], tensors=[torch.tensor([1e300], dtype=torch.float64), torch.ones(1)])
    transfer.send()
    assert transfer.read().values == {"large": 1e300, "one": 1.0}
