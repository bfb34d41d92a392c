"""FP32Islands: Lightning's hooks on one side, the islands themselves (``islands.py``) on the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from lightning.pytorch.utilities import rank_zero_info

from lightning_tricks.errors import TrickError, UnsupportedError, message
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.modules.names import plain_modules
from lightning_tricks.numerics import form
from lightning_tricks.precision.callbacks.precision_doctor import PrecisionDoctor
from lightning_tricks.precision.islands import AUTO, Islands, named_islands, refuse_half_weights
from lightning_tricks.precision.specs import IslandsSpec
from lightning_tricks.precision.trainer_precision import precision_of


@final
class FP32Islands(Trick):
    """Run named modules in float32 inside a mixed-precision run.

    Inputs of such a module are cast to float32, autocast is off inside of it, and its output stays float32 until
    autocast casts it for whoever comes next. The module's weights are float32 anyway under mixed precision. For
    functions in ``training_step`` use ``lightning_tricks.functional.in_fp32``.

    Args:
        modules: names or globs, as ``["head", "blocks.*.norm", "loss*"]``. ``"auto"`` stands for the modules in whose
            forward pass a ``PrecisionDoctor`` of the same Trainer found an overflow, from the next batch on.

    Raises:
        TypeError: ``modules`` is not a list of str.
        ValueError: it is empty.
        TrickError: at fit start, a pattern matches no module, or ``"auto"`` has no doctor.
        UnsupportedError: at fit start, the precision keeps weights in 16 bit, or a module is part of a compiled graph.

    Logs:
        Nothing.

    Changes:
        The precision in which these modules compute, in training, validation, test and prediction.

    State:
        The islands that ``"auto"`` found: a resumed run has them from its first batch.

    Cost:
        Two hooks per module and call; float32 arithmetic in these modules.

    Example:
        >>> from lightning_tricks import FP32Islands
        >>> FP32Islands(["head"]).islands
        []

    Reference: Micikevicius et al., "Mixed Precision Training", 2018, arXiv:1710.03740, section 3.3 (fp32 arithmetic).
    """

    identity = ("modules",)

    state_form = staticmethod(form.record({"found": form.list_of(form.text)}, more=True))

    def __init__(self, modules: list[str]) -> None:
        self.modules = IslandsSpec(modules).modules
        self._reset()

    def _reset(self) -> None:
        self._islands: Islands | None = None
        self._names: list[str] = []
        self._found: list[str] = []

    @property
    def islands(self) -> list[str]:
        """The modules that are islands, or were in the last run."""
        return list(self._names)

    def _configure(self, run: TrainingRun) -> None:
        """``auto`` needs a doctor."""
        if AUTO in self.modules and not any(isinstance(c, PrecisionDoctor) for c in run.trainer.callbacks):
            text = "'auto' takes the modules that a PrecisionDoctor finds"
            raise TrickError(
                message("FP32Islands", "modules", self.modules, text, "Add PrecisionDoctor() to callbacks")
            )

    # modules may be made in configure_model, which comes after setup; validation may come before training
    def _on_optimizers_created(self, run: TrainingRun) -> None:
        self._make(run.trainer, run.trainer.lightning_module)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the islands."""
        super().on_validation_start(trainer, pl_module)
        self._make(trainer, pl_module)

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the islands."""
        self._make(trainer, pl_module)

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the islands."""
        self._make(trainer, pl_module)

    def _make(self, trainer: Any, pl_module: Any) -> None:
        if self._islands is not None:
            return
        precision = precision_of(trainer)
        refuse_half_weights(precision, self.modules)
        if precision in ("32-true", "64-true"):
            rank_zero_info(f"FP32Islands: this run computes in {precision}, so it has nothing to do.")
        chosen = named_islands(pl_module, self.modules, self._found)
        self._islands, self._names = Islands(trainer.strategy.root_device.type), list(chosen)
        for name, module in chosen.items():
            self._islands.add(name, module)

    def _on_start(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Take up the islands that were found before."""
        if AUTO in self.modules and run.trainer.world_size > 1 and any(v.scaled for v in run.views):
            text = "'auto' with a fused optimizer on several processes cannot decide the same on all of them"
            raise UnsupportedError(
                message("FP32Islands", "modules", self.modules, text, "Use fused=False, or name them")
            )
        if state is not None:
            self._add(run, state["found"])

    def _trick_state(self) -> dict[str, Any]:
        return {"found": list(self._found)}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Make islands of what the doctor has found."""
        run = self.live_run
        if run is not None and AUTO in self.modules:
            # (its overflows are those of all processes, so that all of them make the same islands)
            doctor = next(t for t in run.tricks if isinstance(t, PrecisionDoctor))
            self._add(run, [n for n in doctor.overflowing if n not in self._found])

    def _add(self, run: TrainingRun, names: Sequence[str]) -> None:
        known = plain_modules(run.trainer.lightning_module) if names else {}
        for name in names:
            self._found.append(name)
            if self._islands is not None and name in known:
                self._names.append(name)
                self._islands.add(name, known[name])
                rank_zero_info(f"FP32Islands: {name!r} runs in float32 from now on.")

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Make the modules as they were."""
        self._drop()
        super().teardown(trainer, pl_module, stage)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Make the modules as they were."""
        self._drop()
        super().on_exception(trainer, pl_module, exception)

    def _drop(self) -> None:
        if self._islands is not None:
            self._islands.remove()
        self._islands = None
