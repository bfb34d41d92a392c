"""Values travel to the host without being waited for, and are right whatever they travel with."""

from __future__ import annotations

import pytest
import torch

from lightning_tricks.publishing.publish import Publisher
from lightning_tricks.publishing.transfer import device_of
from tests.gpu.devices import everywhere, only_cuda
from tests.problems import Memory

pytestmark = pytest.mark.filterwarnings("ignore:.*ynchroniz:UserWarning")


def sent(logger: Memory) -> Publisher:
    return Publisher(lambda: [logger])


@everywhere
@pytest.mark.parametrize("host_first", [False, True])
def test_values_of_the_host_and_of_the_device_arrive_under_their_names(device: str, host_first: bool) -> None:
    logger = Memory()
    publisher = sent(logger)
    on_device = torch.arange(3.0, device=device) + 10
    parts = [(["a", "b"], torch.tensor([1.0, 2.0])), (["x", "y", "z"], on_device), (["c"], torch.tensor([3.0]))]
    for names, values in parts if host_first else parts[1:] + parts[:1]:
        publisher.put_many(4, names, values)
    publisher.put(4, {"n": 7.0, "t": on_device[0]})
    publisher.flush()
    assert logger.rows == [(4, {"a": 1.0, "b": 2.0, "c": 3.0, "x": 10.0, "y": 11.0, "z": 12.0, "n": 7.0, "t": 10.0})]


@everywhere
def test_doubles_keep_their_range(device: str) -> None:
    logger = Memory()
    publisher = sent(logger)
    publisher.put_many(0, ["large", "small"], torch.tensor([1e300, 1e-300], dtype=torch.float64, device=device))
    publisher.put_many(0, ["one"], torch.ones(1))
    publisher.flush()
    assert logger.rows == [(0, {"large": 1e300, "small": 1e-300, "one": 1.0})]


@everywhere
def test_a_value_is_the_one_of_its_moment(device: str) -> None:
    logger = Memory()
    publisher, value = sent(logger), torch.ones(1, device=device)
    publisher.put_many(0, ["v"], value)
    value.fill_(5)
    publisher.flush()
    assert logger.rows == [(0, {"v": 1.0})]


@everywhere
def test_private_values_and_histograms_come_with_the_rest(device: str) -> None:
    logger, told = Memory(), []
    publisher = sent(logger)
    publisher.put_many(0, ["v"], torch.zeros(1))
    publisher.put_private(0, torch.tensor([1.0, 2.0], device=device), told.append)
    publisher.put_private(0, torch.tensor([3.0]), told.append)
    publisher.flush()
    assert told == [[1.0, 2.0], [3.0]]


@only_cuda
def test_the_hosts_memory_is_pinned_and_the_copy_is_not_waited_for(device: str) -> None:
    logger = Memory()
    publisher = sent(logger)
    torch.cuda._sleep(200_000_000)
    value = torch.ones(1, device=device) * 3
    publisher.put_many(0, ["cpu"], torch.ones(1))  # first: its device must not be taken for all
    publisher.put_many(0, ["gpu"], value)
    torch.cuda.set_sync_debug_mode("error")
    try:
        publisher.start_transfer()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    parcel = publisher._travelling[0]
    assert parcel.host is not None
    assert parcel.host.is_pinned()
    assert parcel.arrived is not None
    assert logger.rows == [], "the device is still busy"
    publisher.flush()
    assert logger.rows == [(0, {"cpu": 1.0, "gpu": 3.0})]


@only_cuda
def test_parcels_are_handed_over_in_order(device: str) -> None:
    logger = Memory()
    publisher = sent(logger)
    torch.cuda._sleep(50_000_000)
    for step in range(5):
        publisher.put_many(step, ["v"], torch.full((1,), float(step), device=device))
        publisher.start_transfer()
    publisher.flush()
    assert [step for step, _ in logger.rows] == list(range(5))
    assert [row["v"] for _, row in logger.rows] == list(map(float, range(5)))


@everywhere
def test_the_device_of_a_parcel_is_never_the_hosts_when_another_is_there(device: str) -> None:
    tensors = [torch.zeros(1), torch.zeros(1, device=device)]
    assert device_of(tensors).type == device
