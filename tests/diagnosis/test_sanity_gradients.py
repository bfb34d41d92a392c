from __future__ import annotations

from lightning_tricks.diagnosis import sanity_gradients


def test_layers_are_dead_for_certain_only_when_nearly_all_units_are_on_enough_samples() -> None:
    assert sanity_gradients.units_are_alive([], 512).passed
    assert sanity_gradients.units_are_alive([("a", "dead", 1.0)], 512).passed is False
    assert sanity_gradients.units_are_alive([("a", "dead", 1.0)], 8).passed is None
    assert sanity_gradients.units_are_alive([("a", "saturated", 0.9)], 512).passed is None
