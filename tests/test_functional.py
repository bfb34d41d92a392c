from __future__ import annotations

import inspect

from lightning_tricks import functional


def test_the_door_is_sorted_and_leads_to_pure_things_only() -> None:
    assert functional.__all__ == sorted(functional.__all__)
    bound = {n for n, v in vars(functional).items() if not n.startswith("_") and not inspect.ismodule(v)}
    assert bound == set(functional.__all__)
    for name in functional.__all__:
        module = inspect.getmodule(getattr(functional, name))
        assert module is not None
        assert "lightning.pytorch" not in inspect.getsource(module)
