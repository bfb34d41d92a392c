"""RepresentationCollapse: the outputs of a layer become one vector, or fill few dimensions only."""

from __future__ import annotations

from typing import final

from lightning_tricks.collapse.callbacks.features_probe import FeaturesProbe, rows_form
from lightning_tricks.collapse.keys import REPRESENTATION
from lightning_tricks.collapse.reduction import require_name
from lightning_tricks.detection.action import Action
from lightning_tricks.detection.detector import Detector
from lightning_tricks.detection.settings import WatchSettings
from lightning_tricks.detection.watch import Watch, watch_form
from lightning_tricks.errors import is_list, message
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.numerics import form


@final
class RepresentationCollapse(Detector, Trick):  # type: ignore[misc]  # (Lightning has Callback twice, with hooks that differ)
    """Notice that the outputs of a layer become one vector, or fill few dimensions only.

    Three measures, since none sees all: the variance of directions ``V = 1 - ||mean of unit rows||^2`` (complete
    collapse below 0.05, or below 0.015 while spread and half of the rank are kept, and only the mean moves away), the
    effective rank of the centred covariance (dimensional collapse, which the std of SimSiam's paper misses behind
    BatchNorm), and the size of the features, the root of their variance, against that at the first check (they
    shrink to a point, as the latents of a flow whose loss lacks the determinant). For embeddings: in the last layer
    of a good classifier a low rank is healthy. Where the batch holds labels, and most of the variance lies between
    classes, the rank that is possible is that of the classes, K - 1. Two halves on different scales, as ``[mean, log
    variance]`` of an encoder, collapse when both do. A network that looks collapsed at first and rises over eight
    checks is at its beginning.

    Args:
        layer: name of the module whose output is watched, ``[n, d]``, ``[n, tokens, d]`` or ``[n, d, ...]``; or a list
            of names, from the first layer to the last: a rank that falls with depth is named oversmoothing.
        every_n_steps: updates between two checks; None for the Trainer's ``log_every_n_steps``. A check looks at the
            last batches before it, as many as give 512 samples.
        action: ``"log"``, ``"warn"``, ``"stop"``, ``"raise"``, ``"rollback"``, a ``Rollback``, or a function that takes
            the verdict.
        patience: bad checks in a row that make an alarm.
        grace: how much learning comes before the first alarm: updates, each counted as its learning rate over the
            highest one, or ``"10%"`` of the run (at most 1,000; 200 where its length is not known), or ``"1ep"``.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.
        TrickError: at fit start, there is no such module; at the first batch, its output holds no tensor of features.
        UnsupportedError: at fit start, the module is part of a compiled graph.
        AlarmError: while training, with ``action="raise"`` or after too many rollbacks.

    Logs:
        At every check, ``collapse/representation_collapse/`` with ``sphere_variance``, ``effective_rank``,
        ``rank_share`` (of the possible), ``embedding_std``, ``mean_cosine``, ``finite`` and ``alarm`` (0 or 1); with a
        list each but the last as ``<value>/<layer>``. The layer is in the key where several detectors watch. At an
        alarm the verdict as text, and a figure of the spectrum or of the depth.

    Changes:
        Nothing; with ``"rollback"`` weights, optimizer state, rates and accumulation window, after an alarm.

    State:
        Baselines of the alarms, what was gathered, the verdict, and with ``"rollback"`` the states to go back to: a
        checkpoint is then up to ``keep`` times larger.

    Cost:
        At a check sums of 512 rows, of at most 128 dimensions (wider ones through a fixed random projection; of more
        than 65,536 numbers, 4,096 sums with random signs are kept), one copy to the host, eigenvalues of 128 x 128
        there; on several processes three all-reduces and a host read. At the batches before it a copy of their rows.
        Else the test of a flag.

    Example:
        >>> from lightning_tricks import RepresentationCollapse
        >>> RepresentationCollapse("projector", action="stop").verdict.alarmed
        False

    Reference: Garrido et al., "RankMe", 2022, arXiv:2210.02885; Chen and He, "SimSiam", 2020, arXiv:2011.10566; Papyan
    et al., neural collapse, 2020, arXiv:2008.08186; Li et al., oversmoothing, 2018, arXiv:1801.07606.
    """

    log_keys = REPRESENTATION
    identity = ("layer",)
    state_form = watch_form(sums=rows_form, optional={"first_size": form.dict_of(form.number)})

    def __init__(
        self,
        layer: str | list[str],
        every_n_steps: int | None = 25,
        action: Action = "warn",
        patience: int = 3,
        grace: int | str = "10%",
    ) -> None:
        owner = "RepresentationCollapse"
        self.layer = [require_name(owner, "layer", name) for name in layer] if is_list(layer) else layer
        if isinstance(self.layer, list):
            if len(set(self.layer)) < max(2, len(self.layer)):
                rule = "a list must name two different layers or more, each once"
                remedy = "Use e.g. ['blocks.0', 'blocks.5', 'blocks.11'], or the name of one layer"
                raise ValueError(message(owner, "layer", layer, rule, remedy))
        else:
            require_name(owner, "layer", layer)
        self.take(WatchSettings.checked(owner, every_n_steps, action, patience, grace))
        self._reset()

    @property
    def layers(self) -> list[str]:
        """The names of all layers."""
        return list(self.layer) if isinstance(self.layer, list) else [self.layer]

    def _make_parts(self) -> tuple[Stages, ...]:
        """A watch over the features; with the layers in its log keys where there are several detectors."""
        return (Watch(self, FeaturesProbe(self.layer, self.patience), self.settings, label="+".join(self.layers)),)
