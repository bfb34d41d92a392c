from __future__ import annotations

import pytest
import torch

from lightning_tricks import UnsupportedError
from lightning_tricks.precision.fp32_flags import fp32_flags, fp32_mode, parts_with_new_flags


@pytest.mark.parametrize("tf32", [True, False])
def test_flags_are_put_back_also_after_an_error(tf32: bool) -> None:
    before, newer = fp32_flags(), [p.fp32_precision for p in parts_with_new_flags()]
    with pytest.raises(ZeroDivisionError), fp32_mode(tf32):
        assert torch.backends.cuda.matmul.allow_tf32 is tf32
        assert torch.backends.cudnn.allow_tf32 is tf32
        if newer:  # torch >= 2.9
            assert torch.backends.cuda.matmul.fp32_precision == ("tf32" if tf32 else "ieee")
        1 / 0  # noqa: B018
    assert fp32_flags() == before
    assert [p.fp32_precision for p in parts_with_new_flags()] == newer


@pytest.mark.skipif(not parts_with_new_flags(), reason="this torch has only the old interface")
def test_the_new_interface_is_refused_by_name() -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        with pytest.raises(UnsupportedError, match="#21256"):
            fp32_flags()
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
        torch.set_float32_matmul_precision("highest")
