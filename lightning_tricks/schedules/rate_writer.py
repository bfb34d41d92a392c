"""Writes the values of the next update into the parameter groups of every optimizer."""

from __future__ import annotations

from torch import Tensor

from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.optimizer_step.logbook import OptimizerView, Page
from lightning_tricks.schedules.groups import KnownGroup, known_groups, refuse_unmatched
from lightning_tricks.schedules.plan import Track
from lightning_tricks.schedules.position import MultiplierTables, Position, position_by_clock, position_of
from lightning_tricks.schedules.spec import ScheduleSpec
from lightning_tricks.schedules.wall_clock import WallClock
from lightning_tricks.schedules.written import write_groups


class RateWriter:
    """Knows the base values of the groups, and the position of every optimizer."""

    def __init__(self, spec: ScheduleSpec) -> None:
        self.spec = spec
        self.groups: list[list[KnownGroup]] = []
        self.clock = WallClock()
        self._tables = MultiplierTables()
        self._skipped: dict[int, int] = {}  # attempts that changed nothing, as the host knew it at the last logged step

    def base_rates(self, index: int) -> list[float]:
        """Return the rates that the groups of an optimizer came with."""
        return [group.lr for group in self.groups[index]]

    def take_groups(self, run: TrainingRun, view: OptimizerView) -> None:
        """Take up the groups as they are: all of them at first; later those that a callback unfroze, or other ones."""
        self.groups += [[] for _ in range(view.index + 1 - len(self.groups))]
        if view.stale:
            view.refresh()
        self.groups[view.index] = known_groups(self.spec, view, self.groups[view.index])
        if all(self.groups[v.index] for v in run.views):
            refuse_unmatched(self.spec, self.groups, view)

    def write(self, run: TrainingRun, view: OptimizerView, track: Track, *, timed: bool, lowered: float) -> None:
        """Write the values of the next update.

        Args:
            timed: whether the wall clock alone bounds the run.
            lowered: the factor of a plateau, which holds for the schedule's own curve.
        """
        index, attempted = view.index, run.clock.attempted(view.index)
        position = self.position(run, index, track, timed=timed)
        # (callbacks such as BaseFinetuning add groups in the middle of a run)
        if len(self.groups[index]) < len(view.optimizer.param_groups):
            self.take_groups(run, view)

        def multiplier(number: int) -> float | Tensor:
            value = self._tables.multiplier(index, number, track, position.exact, attempted)
            return value if number else lowered * value

        groups, known = view.optimizer.param_groups, self.groups[index]
        write_groups(self.spec, groups, known, track, position, factor=run.rate.factor, multiplier=multiplier)

    def position(self, run: TrainingRun, index: int, track: Track, *, timed: bool) -> Position:
        """Return where on the curve the next update of an optimizer is."""
        attempted, applied = run.clock.attempted(index), run.clock.applied(index)
        if timed and self.spec.total_of(index) is None:
            return position_by_clock(self.clock.share(run.trainer, attempted))
        time = None
        if self.clock.read is not None and track.course.planned is not None:
            # A warm-up that was given in updates stays as long, also where time is short.
            warms_up = self.spec.warmup.unit != "%" and attempted < track.curves[0].warmup
            time = None if warms_up else self.clock.share(run.trainer, attempted)
        return position_of(track, applied, attempted, skipped=self._skipped.get(index, 0), time=time)

    def send_skipped(self, run: TrainingRun, page: Page) -> None:
        """Send the number of skipped steps to the host, for momentum and weight decay: torch takes them as numbers.

        Only at logged steps, together with all else that goes there: a host read in each step would cost too much.
        """
        index, applied = page.view.index, run.clock.applied(page.view.index)
        needed = self.spec.momentum is not None or self.spec.weight_decay_final is not None
        if needed and isinstance(applied, Tensor):
            skipped = run.clock.attempted(index) - 1 - applied
            run.publisher.put_private(page.step, skipped.reshape(1), lambda n: self._skipped.update({index: int(n[0])}))
