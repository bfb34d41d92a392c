from __future__ import annotations

import torch

from lightning_tricks.numerics.host import as_scalar, value_on_host


def test_a_value_in_the_hosts_memory_is_read_and_one_of_a_device_is_not() -> None:
    assert value_on_host(torch.tensor(0.25)) == 0.25
    assert value_on_host(torch.empty((), device="meta")) is None


def test_numbers_and_tensors_of_any_form_become_scalars_of_the_wanted_type() -> None:
    device = torch.device("cpu")
    for value in (3, 3.0, torch.tensor(3), torch.tensor([[3.0]], dtype=torch.float64)):
        found = as_scalar(value, device, torch.float64)
        assert found.shape == () and found.dtype == torch.float64 and found.item() == 3.0


def test_a_scalar_of_the_right_form_is_not_copied() -> None:
    value = torch.tensor(1.5)
    assert (
        as_scalar(value, torch.device("cpu")) is value
        or as_scalar(value, torch.device("cpu")).data_ptr() == value.data_ptr()
    )
