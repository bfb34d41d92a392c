"""Detector: the base of callbacks that look at a run now and then, judge what they see, and act.

A detector gathers samples on the device in the last batches before a check, measures them at the check, and sends one
vector to the host without waiting. The verdict is acted on after the next update: then it has arrived on every rank, so
all do the same at the same step. Between checks there is nothing but the test of a flag in each hook.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from lightning_tricks.detection.action import Action, Rollback, as_action, carry_out
from lightning_tricks.detection.alarm import Alarm, Verdict
from lightning_tricks.detection.alarm import State as AlarmState
from lightning_tricks.detection.causes import Explained
from lightning_tricks.detection.rollback import RESCUE, Rescue
from lightning_tricks.errors import TrickError, in_one_line, message, nearest, require_count
from lightning_tricks.lifecycle.horizon import UnknownHorizonError, forecast_updates, updates_per_epoch
from lightning_tricks.lifecycle.messages import warn
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.lifecycle.trick import Trick
from lightning_tricks.modules.names import (
    in_compiled_graphs,
    matching_modules,
    plain_modules,
    reachable,
    refuse_compiled,
)
from lightning_tricks.modules.replaced import Hook
from lightning_tricks.numerics import form
from lightning_tricks.numerics.duration import Duration
from lightning_tricks.numerics.shards import on_any_rank
from lightning_tricks.optimizer_step.logbook import Page
from lightning_tricks.publishing.publish import Cadence

_T = TypeVar("_T")

MOST_POINTS = 4096  # of a curve that is kept for pictures and trends
LONGEST_GRACE = 1000
UNKNOWN_GRACE = 200
UNKNOWN_CADENCE = 50
_SPARSE_CHECKS = 8
_MOST_ALARMS = 256  # that are kept of a run
_ALARM = form.record(
    {
        "version": form.whole,
        "peak": form.maybe(form.measured),
        "last": form.many(form.measured),
        "streak": form.whole,
        "first": form.maybe(form.step),
        "alarmed": form.flag,
        "since": form.maybe(form.step),
    }
)
_VERDICT = form.record(
    {
        **{"detector": form.text, "alarmed": form.flag, "step": form.step, "since_step": form.maybe(form.step)},
        **{"cause": form.text, "reasons": form.many(form.text), "values": form.named(form.measured)},
        "advice": form.many(form.text),
    }
)
_RAISED = form.many(form.record({"verdict": _VERDICT, "checks": form.whole}))


class _Raised(NamedTuple):
    """An alarm of the run: its verdict, and at how many checks it has been on."""

    verdict: Verdict
    checks: int = 1


def detector_form(*, optional: dict[str, form.Form] | None = None, **more: form.Form) -> Any:
    """Return the form of a detector's state, with what a subclass adds, as a class attribute.

    Args:
        optional: of keys that states of older versions do not have.
        more: of keys that every state has.
    """
    own: dict[str, form.Form] = {
        "alarms": form.named(_ALARM),
        "sums": form.named(form.tensor),
        "counters": form.many(form.whole, 4),
        "flags": form.many(form.flag, 3),
        "progress": form.least_zero,
        "verdict": _VERDICT,
        "pending": form.maybe(_VERDICT),
        "rescue": form.maybe(RESCUE),
    }
    later = {"raised": _RAISED, **(optional or {})}
    return staticmethod(form.record({**own, **more}, more=True, optional=later))


def keep_bounded(*curves: list[Any]) -> None:
    """Thin out curves of one length that have grown long: of the older half every second point goes.

    >>> curve = list(range(5000))
    >>> keep_bounded(curve); len(curve), curve[:3], curve[-2:]
    (3976, [0, 2, 4], [4998, 4999])
    """
    for curve in curves:
        if len(curve) > MOST_POINTS:
            del curve[1 : MOST_POINTS // 2 : 2]


class Detector(Trick, abstract=True):
    """Base of the pack's detectors. A subclass says what to watch, what to measure and what it means.

    Args:
        every_n_steps: updates between two checks; None for the Trainer's ``log_every_n_steps``.
        action: what to do about an alarm.
        patience: bad checks in a row that make an alarm.
        grace: how much learning comes before the first alarm.
    """

    observer = True
    state_form = detector_form()
    topic: ClassVar[str] = "collapse"
    hooks_modules: ClassVar[bool] = True  # whether it is nothing without a look into the module
    samples: ClassVar[int] = 512  # wanted for a check
    fewest: ClassVar[int] = 128  # with less, the check waits for the next ones

    every_n_steps: int | None
    patience: int
    grace: int | str
    _rescue: Rescue | None = None

    def __init__(self, every_n_steps: int | None, action: Action, patience: int, grace: int | str) -> None:
        owner = type(self).__name__
        if every_n_steps is not None:
            require_count(owner, "every_n_steps", every_n_steps, remedy="Use e.g. 25")
        self.every_n_steps = every_n_steps
        self.action = as_action(owner, action)
        self.patience = require_count(owner, "patience", patience, remedy="Use e.g. 3")
        self.grace = grace
        Duration.parse(grace, owner=owner, argument="grace")
        self.reset()

    # -- what a subclass says -------------------------------------------------------------------------------------

    def rules(self) -> dict[str, Alarm]:
        """Return the alarms by the name of their statistic."""
        raise TrickError(f"{type(self).__name__} has no alarms.")

    def attach(self, run: TrainingRun) -> None:
        """Find what is watched, and put hooks on it with ``watch``; called once per fit."""

    def gather(self, run: TrainingRun, batch: Any, outputs: Any) -> int:
        """A watched batch is over: add what was seen to ``self._sums``; return how many samples that were."""
        return 0

    def measure(self, run: TrainingRun) -> Tensor:
        """Return what was gathered as one vector on the device, equal on all ranks; called at a check."""
        raise TrickError(f"{type(self).__name__} measures nothing.")

    def read(self, vector: list[float]) -> dict[str, float]:
        """Return the values by name from the vector; on the host."""
        raise TrickError(f"{type(self).__name__} reads nothing.")

    def statistics(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return what the alarms follow, by their names; by default the values of the same names."""
        return {name: values[name] for name in self._states if name in values}

    def explain(self, active: list[str], values: Mapping[str, float]) -> Explained:
        """Return cause, reasons and advice for the alarms that are on."""
        raise TrickError(f"{type(self).__name__} explains nothing.")

    def figure(self) -> Callable[[], Any] | None:
        """Return a function that draws what was seen; None where there is nothing to see."""
        return None

    # -- what users see -------------------------------------------------------------------------------------------

    @property
    def verdict(self) -> Verdict:
        """The verdict of the worst alarm of the run, also when it is over; without an alarm that of the last check.

        The worst is the one with the most severe cause (``Cause.severity``), among equal ones the one that was on at
        the most checks, and among those the first.
        """
        worst = max(self._raised, key=lambda r: (r.verdict.cause.severity, r.checks), default=None)
        return self._verdict if worst is None else worst.verdict

    @property
    def alarms(self) -> list[Verdict]:
        """The verdicts of all alarms of the run, in the order in which they were raised."""
        return [raised.verdict for raised in self._raised]

    @property
    def history(self) -> list[tuple[int, dict[str, float]]]:
        """Step and values of the checks of this run, since its last resume: all, or fewer old ones of a long run."""
        return list(self._history)

    # -- life -----------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget what was measured."""
        self._every = self.every_n_steps or UNKNOWN_CADENCE
        self._sums: dict[str, Tensor] = {}
        self._verdict = Verdict(type(self).__name__)  # of the present
        self._raised: list[_Raised] = []
        self._pending: Verdict | None = None
        self._history: list[tuple[int, dict[str, float]]] = []
        self._states: dict[str, AlarmState] = {}
        self._progress, self._last, self._content = 0.0, 0, False
        self._samples, self._waited, self._span = 0, 0, 1
        self._sent, self._first, self._armed, self._attached = False, True, False, False
        self._watched = False  # (Lightning announces no batch that is None, but its end)
        self._stepped: int | None = None
        self._number = 0
        self._resumed = False
        self._handles: list[Any] = []

    def configuration(self) -> dict[str, Any]:
        """The arguments."""
        action = self.action if isinstance(self.action, str) else repr(self.action)
        if callable(self.action):
            action = getattr(self.action, "__qualname__", type(self.action).__qualname__)
        plain = {n: getattr(self, n) for n in ("every_n_steps", "patience", "grace")}
        return {**plain, "action": action, **{n: getattr(self, n) for n in self.identity}}

    def configure(self, run: TrainingRun) -> None:
        """Attach before the first forward pass: a compiled module takes no hook later."""
        self._attach(run, final=False)

    def _attach(self, run: TrainingRun, *, final: bool) -> None:
        self._detach()
        if self.hooks_modules:
            refuse_compiled(run.trainer.lightning_module, type(self).__name__)
        try:
            self.attach(run)
        except TrickError:
            self._detach()
            # modules that configure_model makes are not there yet
            if final or not hasattr(run.trainer.lightning_module, "configure_model"):
                raise
            return
        self._attached = True

    def module(self, run: TrainingRun, name: str, argument: str) -> nn.Module:
        """Return a module by its plain name.

        Raises:
            TrickError: there is none; the message names the nearest.
            UnsupportedError: it is part of a compiled graph.
        """
        root = run.trainer.lightning_module
        known = plain_modules(root)
        if name not in known or not name:
            near = nearest(name, [n for n in known if n])
            remedy = f"The nearest name is {near!r}" if near else f"The module has {', '.join(list(known)[1:9])}"
            raise TrickError(message(type(self).__name__, argument, name, "there is no such module", remedy))
        reachable(known, in_compiled_graphs(root), [name], type(self).__name__, [name])
        return known[name]

    def _keep(self, name: str, rows: Tensor) -> None:
        """Add rows to those that are kept for the check: a copy, since later layers may write into an output."""
        held = [self._sums[name]] if name in self._sums else []
        self._sums[name] = torch.cat([*held, rows]) if held else rows.clone()

    def hidden(self, run: TrainingRun) -> set[int]:
        """Return the ids of the modules that hooks cannot reach."""
        return in_compiled_graphs(run.trainer.lightning_module)

    def matching(self, run: TrainingRun, patterns: list[str]) -> list[str]:
        """Return the names of the modules that names or globs match; no match is an error with the nearest name."""
        return matching_modules(plain_modules(run.trainer.lightning_module), patterns, owner=type(self).__name__)

    def watch(self, module: nn.Module, seen: Callable[[Any], None]) -> None:
        """Call ``seen(output)`` for each forward pass of ``module`` in the training step of a watched batch."""

        def hook(_: nn.Module, args: Any, output: Any) -> None:
            if self._armed:
                with torch.no_grad():
                    self.guarded(self._or_anew, lambda: seen(output))

        self._handles.append(module.register_forward_hook(Hook(hook)))

    def started(self, run: TrainingRun, state: dict[str, Any] | None) -> None:
        """Learn the length of the run; take up the state."""
        if not self._attached:
            self._attach(run, final=True)
        self._every = self.every_n_steps or run.trainer.log_every_n_steps or UNKNOWN_CADENCE
        # counted in attempts: Lightning's own count is one behind after a resume in the midst of an epoch
        self._cadence = Cadence(self._every, run.clock.attempted(0) if run.views else 0)
        self._grace = self._grace_of(run)
        self._states = self._states or {name: alarm.init() for name, alarm in self.rules().items()}
        self._alarms = self.rules()
        self._rescue = None
        if isinstance(self.action, Rollback):
            distance = 2 * self._every
            self._rescue = Rescue.join(run, self, self.action, distance)
        if state is not None:
            self._take_up(run, state)

    def _grace_of(self, run: TrainingRun) -> float:
        """Return the grace time in updates at the highest learning rate."""
        duration = Duration.parse(self.grace, owner=type(self).__name__, argument="grace")
        try:
            total = forecast_updates(run.trainer)
        except UnknownHorizonError:
            total = None
        if duration.unit == "%":
            share = UNKNOWN_GRACE if total is None else duration.updates(total)
            return float(min(share, LONGEST_GRACE))
        per_epoch = updates_per_epoch(run.trainer)
        if duration.unit == "ep" and per_epoch is None:
            rule = "the length of an epoch is not known"
            raise TrickError(message(type(self).__name__, "grace", self.grace, rule, "Use a number of updates"))
        return float(duration.updates(total, per_epoch))

    def stopped(self, run: TrainingRun) -> None:
        """Take the hooks away."""
        self._detach()

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._armed, self._attached = [], False, False

    def settled(self, run: TrainingRun) -> bool:
        """Whether it has looked at a first batch: only there it is seen whether an argument names what there is."""
        return run.has_stepped and not self._first

    # -- a batch --------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Watch the last batches before a check, and the very first one, to see that there is something to see."""
        run = self._live
        if run is None:
            return
        self._stepped = None
        left = self._every - run.clock.attempted(0) % self._every
        self._armed = self._first or left <= self._span
        self._watched = self._armed
        if self._rescue is not None:
            self._rescue.begin(run)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Look away: activation checkpointing runs modules again. With manual optimization, more is to come."""
        if pl_module.automatic_optimization:
            self._armed = False

    def gradients_ready(self, run: TrainingRun, page: Page) -> None:
        """An update comes: note its step and its number (of the first optimizer)."""
        if page.view.index == 0:
            self._stepped, self._number = page.step, page.attempt

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Act on the last check, gather, and check."""
        run = self._live
        if run is not None:
            self._armed = False
            if self._sent and self._stepped is not None:
                self._sent = False
                run.publisher.deliver(wait=True)
                self._act(run)
            if self._watched and _has_loss(pl_module, outputs):
                self._gather(run, batch, outputs)
            if self._stepped is not None and self._due():
                self._check(run, self._stepped)

    def _due(self) -> bool:
        """Whether the present update is one after which there is a check."""
        return self._cadence.due(self._number - 1)

    @torch.no_grad()
    def _gather(self, run: TrainingRun, batch: Any, outputs: Any) -> None:
        count = self._or_anew(lambda: self.gather(run, batch, outputs)) or 0
        self._samples += count
        if self._first and count:
            self._first = False
            self._span = min(self._every, math.ceil(self.samples / count))
            if run.clock.attempted(0) + self._span < self._every:  # it was watched to see that there is something
                self._sums, self._samples = {}, 0

    @torch.no_grad()
    def _check(self, run: TrainingRun, step: int) -> None:
        """Measure, and send what was measured to the host."""
        self._waited += 1
        if not self.ready(run):
            return
        measured = self._or_anew(lambda: self.measure(run))
        if measured is None:
            return
        vector, self._resumed = measured.reshape(-1).float(), False
        self._sums, self._samples, self._waited = {}, 0, 0
        elapsed, self._last = self._number - self._last, self._number
        height = run.rate.height(0, run.views[0].optimizer)
        known = None if isinstance(height, Tensor) else height
        if isinstance(height, Tensor):
            vector = torch.cat([vector, height.detach().reshape(1).to(vector)])
        hear = self.guard(lambda numbers: self._hear(run, step, elapsed, known, numbers))
        run.publisher.put_private(step, vector, hear)
        self._sent = True

    def _or_anew(self, do: Callable[[], _T]) -> _T | None:
        """Return what ``do`` returns; where that fails on what came from a checkpoint, gather anew."""
        try:
            return do()
        except (TrickError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            if not self._resumed:
                raise
            self._sums, self._samples, self._resumed = {}, 0, False
            owner, what = type(self).__name__, in_one_line(error)
            warn(owner, f"the samples in the checkpoint do not fit this run ({what}). They are gathered anew.")
            return None

    def ready(self, run: TrainingRun) -> bool:
        """Whether there is enough to measure; if not, gathering goes on. Equal on all ranks; all must call."""
        if run.trainer.world_size > 1:  # a module need not have been called on all of them, as an expert of a mixture
            return not any(on_any_rank([not self._sums], run.trainer.strategy.root_device))
        return bool(self._sums) and (self._samples >= self.fewest or self._waited >= _SPARSE_CHECKS)

    # -- on the host ----------------------------------------------------------------------------------------------

    def _hear(self, run: TrainingRun, step: int, elapsed: int, height: float | None, numbers: list[float]) -> None:
        """Judge what was measured at a check."""
        if height is None:
            *numbers, height = numbers
        self._progress += elapsed * height
        values = self.read(numbers)
        begun = self._judge(values, step)
        active = [name for name, state in self._states.items() if state["alarmed"]]
        if self._raised and self._verdict.alarmed and active:
            self._raised[-1] = self._raised[-1]._replace(checks=self._raised[-1].checks + 1)
        if begun:
            self._begin(run, active, values, step)
        elif not active:
            self._verdict = Verdict(type(self).__name__, step=step, values=values)
        self._history.append((step, values))
        keep_bounded(self._history)
        shown = {**{k: v for k, v in values.items() if not k.startswith("_")}, "alarm": float(bool(active))}
        run.publisher.put(step, {f"{self.prefix(run)}/{name}": value for name, value in shown.items()})

    def _begin(self, run: TrainingRun, active: list[str], values: Mapping[str, float], step: int) -> None:
        """There is an alarm: explain it, and act on it after the next update. The same one again is no news."""
        cause, reasons, advice = self.explain(active, values)
        if self._verdict.alarmed and self._verdict.cause == cause:
            return
        since = min(self._states[name]["since"] for name in active)
        self._verdict = Verdict(type(self).__name__, True, step, since, cause, reasons, dict(values), advice)
        self._pending = self._verdict
        self._raised = [*self._raised, _Raised(self._verdict)][-_MOST_ALARMS:]

    def _judge(self, values: Mapping[str, float], step: int) -> list[str]:
        """Let every alarm hear its statistic; return the names of those that begin."""
        statistics, begun, content = self.statistics(values), [], True
        for name, value in statistics.items():
            alarm = self._alarms[name]
            ready = self._progress >= self._grace * self.slowness(name)
            started, self._states[name] = alarm.update(value, step=step, ready=ready, state=self._states[name])
            content &= alarm.healthy(value, self._states[name])
            if started:
                begun.append(name)
        self._content = content and bool(statistics)
        return begun

    def slowness(self, name: str) -> float:
        """Return by how many times the grace of an alarm is longer."""
        return 1.0

    def prefix(self, run: TrainingRun) -> str:
        """Return what log keys begin with; with the identity where there is more than one of the class."""
        several = sum(type(trick) is type(self) for trick in run.tricks) > 1
        words = "".join("_" + c.lower() if c.isupper() else c for c in type(self).__name__).strip("_")
        return f"{self.topic}/{words}" + (f".{getattr(self, self.identity[0])}" if several and self.identity else "")

    def _act(self, run: TrainingRun) -> None:
        """Do what the user wants done about an alarm; keep a state when all is well."""
        verdict, self._pending = self._pending, None
        if verdict is not None:
            self._show(run, verdict)
            carry_out(run, self.action, verdict, None if self._rescue is None else self._rescue.roll_back)
        elif self._rescue is not None:
            self._rescue.offer(run, self, self._content)

    def _show(self, run: TrainingRun, verdict: Verdict) -> None:
        run.publisher.tell(verdict.step, f"{self.prefix(run)}/verdict", str(verdict))
        if (draw := self.figure()) is not None:
            run.publisher.draw(verdict.step, f"{self.prefix(run)}/figure", draw)

    def rolled_back(self, run: TrainingRun) -> None:
        """Begin again, with the same grace: the run is where it was."""
        self._sums, self._samples, self._waited = {}, 0, 0
        self._states = {name: alarm.init() for name, alarm in self._alarms.items()}
        self._progress, self._last, self._pending, self._sent = 0.0, self._number, None, False
        self._verdict = Verdict(type(self).__name__)  # (the same cause may come again, and is told again)

    def finished(self, run: TrainingRun) -> None:
        """Judge what was sent last; a run that is over can neither be stopped nor rolled back."""
        run.publisher.flush()
        verdict, self._pending = self._pending, None
        if verdict is not None:
            self._show(run, verdict)
            last = "warn" if self.action == "stop" or isinstance(self.action, Rollback) else self.action
            carry_out(run, last, verdict)
        elif self._history and (draw := self.figure()) is not None:
            run.publisher.draw(self._history[-1][0], f"{self.prefix(run)}/figure", draw)

    # -- state ----------------------------------------------------------------------------------------------------

    def trick_state(self) -> dict[str, Any]:
        """Alarms with their baselines, what was gathered since the last check, and the states to go back to."""
        if self._run is not None:
            self._run.publisher.flush()
        rescue = self._rescue
        return {
            "alarms": {name: dict(state) for name, state in self._states.items()},
            "sums": {name: t.detach().clone() for name, t in self._sums.items()},
            "counters": [self._samples, self._waited, self._span, self._last],
            "flags": [self._sent, self._first, self._content],
            "progress": self._progress,
            "verdict": self._verdict.as_dict(),
            "raised": [{"verdict": r.verdict.as_dict(), "checks": r.checks} for r in self._raised],
            "pending": None if self._pending is None else self._pending.as_dict(),
            "rescue": rescue.state_dict() if rescue is not None and rescue.owner is self else None,
        }

    def _take_up(self, run: TrainingRun, state: dict[str, Any]) -> None:
        device = run.trainer.strategy.root_device
        known = {name: dict(saved) for name, saved in state["alarms"].items() if name in self._states}
        if any(s["since" if s["alarmed"] else "first"] is None for s in known.values() if s["alarmed"] or s["streak"]):
            raise ValueError("an alarm without a begin")
        self._states = {**self._states, **known}
        self._sums = {name: t.to(device) for name, t in state["sums"].items()}
        self._resumed = bool(self._sums)
        self._samples, self._waited, self._span, self._last = state["counters"]
        self._span = max(1, min(self._span, self._every))
        self._sent, self._first, self._content = state["flags"]
        self._progress, self._verdict = state["progress"], Verdict.from_dict(state["verdict"])
        self._pending = None if state["pending"] is None else Verdict.from_dict(state["pending"])
        raised = [_Raised(Verdict.from_dict(r["verdict"]), r["checks"]) for r in state.get("raised", [])]
        self._raised = raised or ([_Raised(self._verdict)] if self._verdict.alarmed else [])
        if self._rescue is not None and self._rescue.owner is self and state["rescue"] is not None:
            self._rescue.load(run, state["rescue"])


def _has_loss(module: Any, outputs: Any) -> bool:
    """Whether ``training_step`` returned something: where it returned None, its modules need not have been called."""
    return not module.automatic_optimization or bool(outputs)
