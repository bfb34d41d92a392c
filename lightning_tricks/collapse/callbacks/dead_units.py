"""DeadUnits: activation layers whose units have stopped."""

from __future__ import annotations

from typing import final

from lightning_tricks.collapse.callbacks.units_probe import UnitsProbe
from lightning_tricks.collapse.keys import DEAD_UNITS
from lightning_tricks.detection.action import Action
from lightning_tricks.detection.detector import Detector
from lightning_tricks.detection.settings import WatchSettings
from lightning_tricks.detection.watch import Watch, watch_form
from lightning_tricks.errors import is_list, message
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.numerics import form


@final
class DeadUnits(Detector, Trick):  # type: ignore[misc]  # (Lightning has Callback twice, with hooks that differ)
    """Notice layers whose units have stopped: dead (ReLU), saturated (sigmoid, tanh), or dormant (others).

    A unit is dead when its largest output over all samples of a check is not above 0: a sparse layer, whose units are
    0 for most inputs, is not dead. In a sparse code, where units that live fire less than ten times in a check, it is
    one that did not fire in eight checks. A sigmoid or tanh that bounds the output of the network, with no parameters
    behind it or of the size of a sample in the batch, may lie at its ends. Alarm: more than 80 % of a layer dead, 90 %
    saturated, or 90 % dormant (at most 2.5 % of the layer's mean magnitude).

    Args:
        layers: names or globs of modules; None for all activation modules (ReLU, GELU, SiLU, sigmoid, tanh, ...).
            Name a linear or convolutional layer to watch what ``torch.relu`` makes of it.
        every_n_steps: updates between two checks; as in ``RepresentationCollapse``, as the rest.
        action: what to do about an alarm.
        patience: bad checks in a row that make an alarm.
        grace: how much learning comes before the first alarm.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.
        TrickError: at fit start, no module matches; at the first batch, none was called.
        UnsupportedError: at fit start, a module is part of a compiled graph.
        AlarmError: while training, with ``action="raise"`` or after too many rollbacks.

    Logs:
        At every check, ``collapse/dead_units/dead/<layer>`` (``saturated/``, ``dormant/``): shares of units; ``alarm``.
        A layer that bounds the output is logged, and left out of the alarm.
        At an alarm the verdict as text, and a figure of the shares over time.

    Changes:
        Nothing; with ``"rollback"`` weights, optimizer state, rates and accumulation window, after an alarm.

    State:
        As ``RepresentationCollapse``, and for each unit how long it has been silent.

    Cost:
        At a check three reductions of each watched output, for as many batches as give 512 samples, and one copy of
        three numbers per layer. At the first batch a walk through the graph of the loss, on the host. Else the test of
        a flag per layer.

    Example:
        >>> from lightning_tricks import DeadUnits
        >>> DeadUnits(["encoder.*"]).layers
        ['encoder.*']

    Reference: Sokar et al., "The Dormant Neuron Phenomenon", 2023, arXiv:2302.12902; Lu et al., "Dying ReLU and
    Initialization", 2019, arXiv:1903.06733.
    """

    log_keys = DEAD_UNITS
    identity = ("layers",)
    state_form = watch_form(
        optional={"silent": form.dict_of(form.tensor), "outputs": form.none_or(form.list_of(form.text))}
    )

    def __init__(
        self,
        layers: list[str] | None = None,
        every_n_steps: int | None = 25,
        action: Action = "warn",
        patience: int = 3,
        grace: int | str = "10%",
    ) -> None:
        remedy = "Use e.g. ['encoder.*'], or None for all activation modules"
        if layers is not None and (not is_list(layers) or not all(isinstance(n, str) and n for n in layers)):
            raise TypeError(message("DeadUnits", "layers", layers, "layers must be a list of names", remedy))
        if layers is not None and not layers:
            raise ValueError(message("DeadUnits", "layers", layers, "layers must name at least one module", remedy))
        self.layers = None if layers is None else list(layers)
        self.take(WatchSettings.checked("DeadUnits", every_n_steps, action, patience, grace))
        self._reset()

    def _make_parts(self) -> tuple[Stages, ...]:
        return (Watch(self, UnitsProbe(self.layers, self.patience), self.settings),)
