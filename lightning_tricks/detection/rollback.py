"""Healthy states of a run in memory, and the way back to one of them.

One ``RollbackManager`` per run, shared by all detectors that roll back: a state is kept only
when all of them have found the run healthy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_tricks.detection.action import AlarmError, Rollback
from lightning_tricks.detection.alarm import Verdict
from lightning_tricks.detection.averages import averages, put_averages
from lightning_tricks.detection.carried import carried, mend_carried
from lightning_tricks.detection.causes import Cause, Remedy
from lightning_tricks.detection.training_state import on_host, put_training_state, training_state
from lightning_tricks.errors import ConflictError, UnsupportedError
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.numerics import form
from lightning_tricks.optimizer_step.rate_request import RateRequest

_ASKER = "rollback"
_STRONG = 0.04  # a stronger factor than this is used only where the user asks for it

_TRAINING = form.record(
    {
        "parameters": form.dict_of(form.tensor),
        "buffers": form.dict_of(form.tensor),
        "optimizers": form.list_of(form.record({}, more=True)),
        "scaler": form.none_or(form.dict_of(form.plain)),
    },
    optional={
        "inner_optimizers": form.list_of(form.record({}, more=True)),
        "groups": form.list_of(form.list_of(form.dict_of(form.anything))),
        "averages": form.dict_of(form.dict_of(form.tensor)),
        "carried": form.dict_of(form.anything),
    },
)
_KEPT = form.record({"step": form.count, "state": _TRAINING})
ROLLBACK_STATE = form.record(
    {
        "times": form.count,
        "lr_factor": form.factor,
        "accumulate_factor": form.count,
        "states": form.list_of(_KEPT),
        "first": form.none_or(_KEPT),
        "content": form.dict_of(form.flag),
    },
    optional={"lr_inside": form.none_or(form.list_of(form.list_of(form.positive)))},
)


class RollbackManager:
    """The states that are kept, what was asked for so far, and how often.

    Args:
        owner: the detector that keeps the states in its checkpoint state.
        distance: updates between two kept states.
    """

    def __init__(self, owner: Trick, config: Rollback, distance: int) -> None:
        self.owner, self.config, self.distance = owner, config, distance
        self.times = 0
        self.lr_factor, self.accumulate_factor = 1.0, 1
        self._first: tuple[int, dict[str, Any]] | None = None
        self._states: list[tuple[int, dict[str, Any]]] = []
        self._healthy: dict[str, bool] = {}
        self._rate: RateRequest | None = None  # of the run, when there is one

    @classmethod
    def join(cls, run: TrainingRun, owner: Trick, config: Rollback, distance: int) -> RollbackManager:
        """Return the run's manager; made by the first detector that asks.

        Raises:
            ConflictError: two detectors want to roll back in different ways.
            UnsupportedError: weights are sharded, or the strategy keeps them to itself.
        """
        name = type(owner).__name__
        if type(run.trainer.strategy).__name__ not in ("SingleDeviceStrategy", "DDPStrategy"):
            text = f"{type(run.trainer.strategy).__name__}, whose weights cannot be kept in memory"
            raise UnsupportedError(f"{name}(action={config!r}) does not work with {text}. Use action='stop' or 'warn'.")
        manager = run.common.shared(cls)
        if manager is None:
            manager = run.common.share(cls(owner, config, distance))
        elif manager.config != config:
            other = type(manager.owner).__name__
            text = f"{other} rolls back with {manager.config!r}, and {name} with {config!r}"
            raise ConflictError(f"{text}. Give both the same Rollback, or one of them action='warn'.")
        manager._rate = run.rate
        manager._healthy.setdefault(owner.state_key, True)  # (a resume has put in what it was)
        return manager

    @property
    def steps(self) -> list[int]:
        """Updates before each state that is kept, the oldest first; that of the first batch until there are others."""
        return [step for step, _ in self._states or ([self._first] if self._first else [])]

    def begin(self, run: TrainingRun) -> None:
        """Keep the state before the first update: where to go while nothing was healthy yet."""
        if self._first is None and not self._states:
            self._first = (run.clock.attempted(0), self._taken(run))

    def save_if_healthy(self, run: TrainingRun, owner: Trick, healthy: bool) -> None:
        """Keep the present state when every detector has found it healthy and the last one is old enough."""
        self._healthy[owner.state_key] = healthy
        now = run.clock.attempted(0)
        # The copy waits for the device. It is made only where all is well, and at most once per ``distance`` updates.
        if all(self._healthy.values()) and (not self._states or now - self._states[-1][0] >= self.distance):
            self._states = [*self._states, (now, self._taken(run))][-self.config.keep :]
            self._first = None

    @staticmethod
    def _taken(run: TrainingRun) -> dict[str, Any]:
        trainer = run.trainer
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        kept = averages(trainer.lightning_module, trainer.callbacks)
        copies = {owner: {name: on_host(t) for name, t in held.items()} for owner, held in kept.items()}
        state = training_state(trainer.lightning_module, trainer.optimizers, scaler)
        return state | {"averages": copies, "carried": carried(trainer.lightning_module)}

    def roll_back(self, run: TrainingRun, verdict: Verdict) -> str:
        """Put the oldest state back and ask for the remedy; return what was done, in words.

        Raises:
            AlarmError: there were as many rollbacks as are allowed.
        """
        if self.times >= self.config.max_times:
            raise AlarmError(verdict, f" {self.times} rollbacks did not help (max_times={self.config.max_times}).")
        self.times += 1
        trainer = run.trainer
        kept = self._states or ([self._first] if self._first else [])
        # the oldest: later states may have been kept while the failure had begun, and no alarm had seen it
        step, state = kept[0]
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        put_training_state(state, trainer.lightning_module, trainer.optimizers, scaler)
        put_averages(state.get("averages", {}), trainer.lightning_module, trainer.callbacks)
        mend_carried(state.get("carried", {}), trainer.lightning_module)
        # (the later ones may hold the beginning of the failure)
        self._states = self._states[:1]
        self._healthy = dict.fromkeys(self._healthy, False)  # (until each has looked again)
        remedy = self._remedy(run, verdict.cause, ever_healthy=bool(self._states))
        done = [f"Went back to the state after {step} updates", *remedy]
        run.rolled_back()
        values = {"rollbacks": self.times, "lr_factor": self.lr_factor, "accumulate_factor": self.accumulate_factor}
        run.publisher.put(run.step, {f"collapse/rollback/{name}": value for name, value in values.items()})
        return ", ".join(done) + f" (rollback {self.times} of {self.config.max_times})."

    def _remedy(self, run: TrainingRun, cause: Cause, *, ever_healthy: bool) -> list[str]:
        """Ask for what fits the cause; for all of it from the second time on. Return what was asked for, in words.

        Bad batches are passed over by going on with the data; noise needs a larger batch as well as a lower rate. A
        run that was never healthy began with a rate that is wrong by an order of magnitude, not by a little.
        """
        again = self.times > 1
        automatic = run.trainer.lightning_module.automatic_optimization
        # (a rate that is wrong from the start needs updates, and no fewer of them)
        noisy = cause.remedy is Remedy.LARGER_BATCH or (again and ever_healthy)
        larger = automatic and self.config.accumulate_factor > 1 and noisy
        lower = self.config.lr_factor < 1 and (again or cause.remedy is not Remedy.OTHER_DATA)
        done = []
        if larger:
            # Set and not multiplied: with each rollback the window would otherwise grow by the factor again.
            self.accumulate_factor = self.config.accumulate_factor
            run.window.ask(self.accumulate_factor)
            done.append(f"updates from {self.accumulate_factor} times as many batches")
        if lower:
            factor = self.config.lr_factor
            self.lr_factor *= factor if ever_healthy else min(factor, max(factor**2, _STRONG))
            run.rate.ask(self.lr_factor, run.trainer.optimizers, _ASKER)
            done.append(f"learning rates times {self.lr_factor:g}")
        return done or ["the batches since then are passed over"]

    # -- state ----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors: a resumed run goes back to the same states."""
        return {
            "times": self.times,
            "lr_factor": self.lr_factor,
            "lr_inside": None if self._rate is None else self._rate.inside(),
            "accumulate_factor": self.accumulate_factor,
            "states": [{"step": step, "state": state} for step, state in self._states],
            "first": None if self._first is None else {"step": self._first[0], "state": self._first[1]},
            # (earlier versions used this key, and their checkpoints load)
            "content": dict(self._healthy),
        }

    def load(self, run: TrainingRun, state: Mapping[str, Any]) -> None:
        """Take up what ``state_dict`` returned.

        Raises:
            ValueError: the states to go back to are those of another model.
        """
        shapes = {name: p.shape for name, p in run.trainer.lightning_module.named_parameters()}
        for kept in [*state["states"], *([state["first"]] if state["first"] else [])]:
            held = kept["state"]
            same = shapes == {name: t.shape for name, t in held["parameters"].items()}
            if not same or len(held["optimizers"]) != len(run.trainer.optimizers):
                raise ValueError("the states to go back to are those of another model")
        self.times, self._healthy = state["times"], dict(state["content"])
        self.lr_factor, self.accumulate_factor = state["lr_factor"], state["accumulate_factor"]
        self._states = [(kept["step"], kept["state"]) for kept in state["states"]]
        first = state["first"]
        self._first = None if first is None else (first["step"], first["state"])
        run.rate.restore(self.lr_factor, _ASKER, state.get("lr_inside"))
        if self.accumulate_factor > 1:
            run.window.ask(self.accumulate_factor)
