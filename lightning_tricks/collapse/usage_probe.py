"""What ``UsageCollapse`` looks at: which entries a module chooses, counted over a window."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_tricks.collapse import assignments, figures, latent_causes, usage, usage_kinds
from lightning_tricks.collapse.reduction import over_all
from lightning_tricks.collapse.rewards import Rewards
from lightning_tricks.detection.alarm import Alarm
from lightning_tricks.detection.attachment import Attachment
from lightning_tricks.detection.causes import Explained
from lightning_tricks.detection.judge import Judge
from lightning_tricks.detection.probe import Probe
from lightning_tricks.detection.sampler import Sampler
from lightning_tricks.errors import TrickError, message
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.modules.batches import samples_of
from lightning_tricks.numerics import form
from lightning_tricks.numerics.torch_internals import CONVOLUTION

_HOLDING_SIZES = ("codebook_size", "num_embeddings", "num_codes", "num_experts", "num_prototypes", "num_actions")
_ROWS = ("votes", "probability", "entropy", "rows", "broken", "given", "effective")
FORMS: dict[str, form.Form] = {  # of what ``state`` returns
    "entries": form.count,
    "masks": form.flag,
    "rewards": form.list_of(form.measured),
    "start": form.none_or(form.tensor),
}


def sums_form(value: Any, where: str) -> str | None:
    """The form of what is gathered: nothing, the numbers of entries, or sums of rows."""
    if not isinstance(value, dict) or not value:
        return form.dict_of(form.tensor)(value, where)
    names = ("numbers", "effective") if "numbers" in value else _ROWS
    names = (*names, "reward") if "reward" in value else names
    fault = form.record(dict.fromkeys(names, form.tensor))(value, where)
    flat = {"numbers", "votes", "probability", "reward"}
    wrong = None if fault else next((n for n in names if value[n].ndim != int(n in flat)), None)
    return f"{where}[{wrong!r}] must have {int(wrong in flat)} dimensions" if wrong else fault


class UsageProbe(Probe):
    """Choices of a module."""

    samples: ClassVar[int] = 1024

    def __init__(self, assignments: str, kind: str, patience: int) -> None:
        super().__init__()
        self._assignments, self._kind, self._patience = assignments, kind, patience
        self._sampler = Sampler(1, self.samples)  # that of the watch, once attached
        self._known = 0  # entries that the module says it has; 0 where it does not
        self._entries = 0  # the largest number seen, plus one
        self._exceeded = False
        self._masks = False
        self._channels_first = False
        self._seen: list[tuple[int, int]] = []  # of each forward pass: samples, and rows that were kept of them
        self._shares: list[float] = []
        self._rewards = Rewards()

    def rules(self) -> dict[str, Alarm]:
        """The alarms of the kind."""
        return usage_kinds.KINDS[self._kind].rules(self._patience)

    def grace_factor(self, alarm: str) -> float:
        """That of the kind."""
        return usage_kinds.KINDS[self._kind].grace

    def attach(self, to: Attachment) -> None:
        """Watch the module; see whether it says how many entries there are."""
        module = to.module(self._assignments, "assignments")
        self._sampler = to.sampler
        self._known, self._channels_first = entries_of(module), isinstance(module, CONVOLUTION)
        to.watch(module, self._see)

    # -- on the device --------------------------------------------------------------------------------------------

    def _see(self, output: Any) -> None:
        found = assignments.assignments_of(output)
        if found is None:
            rule = f"its output ({type(output).__name__}) holds neither whole numbers nor rows of two numbers or more"
            raise self._refused(rule, "Name the module that returns codes, experts, actions, or their logits")
        if not found.numel():
            return
        if found.is_floating_point():
            rows = found.movedim(1, -1) if self._channels_first and found.ndim > 2 else found
            self._add_rows(rows.reshape(-1, rows.shape[-1]), len(found))
            return
        if self._sampler.first:
            self._masks = self._masks or assignments.is_mask(found)
        if self._masks or found.dtype == torch.bool:
            self._add_rows(assignments.rows_of_mask(found), len(found))
            return
        if self._sampler.first:
            self._check_numbers(found)
        numbers = assignments.kept_rows(found.reshape(-1)).to(torch.int64)
        self.keep("numbers", numbers.clamp(-1, assignments.MOST_ENTRIES).to(torch.int32))
        self._seen.append((len(found), len(numbers)))

    def _add_rows(self, rows: Tensor, samples: int) -> None:
        kept = assignments.kept_rows(rows)
        usage.add_assignments(self.sums, kept)
        self._seen.append((samples, len(kept)))

    def _check_numbers(self, found: Tensor) -> None:
        """Once, at the first batch: one host read."""
        largest = int(found.max())
        if largest >= assignments.MOST_ENTRIES:
            rule = f"its output holds {largest}, which is not the number of an entry"
            raise self._refused(rule, "Name the module that returns codes, experts or actions")
        self._exceeded = largest >= self._known  # what the module says is the size of something else

    def _refused(self, rule: str, remedy: str) -> TrickError:
        return TrickError(message("UsageCollapse", "assignments", self._assignments, rule, remedy))

    def gather(self, run: TrainingRun, batch: Any, outputs: Any, *, first: bool) -> int:
        """Count what the hook has added: neighbouring positions of one sample say little about the others."""
        seen, self._seen = self._seen, []
        rows = sum(kept for _, kept in seen)
        if not rows:
            if first:
                raise self._refused("it was not called in the first training step", "Name one that is")
            return 0
        samples = min(sum(n for n, _ in seen), _batch_size(batch) or rows)
        effective = min(rows, assignments.ROWS_OF_A_SAMPLE * max(1, samples))
        device = next(iter(self.sums.values())).device
        self.sums["effective"] = self.sums.get("effective", torch.zeros((), device=device)) + effective
        if self._kind == "policy":
            pair = self._rewards.of_batch(outputs, run.trainer.callback_metrics, device, first=first)
            self.sums["reward"] = self.sums.get("reward", torch.zeros_like(pair)) + pair
        return effective

    def measure(self, run: TrainingRun) -> Tensor:
        """Counts over all processes."""
        sums = dict(self.sums)
        if "numbers" in sums:
            numbers = sums.pop("numbers")
            sums["votes"] = assignments.counted_entries(numbers, self._size(run, numbers))
        if self._kind == "policy":
            baseline = self._rewards.baseline
            sums["start"] = torch.zeros_like(sums["reward"]) if baseline is None else baseline
        total = over_all(run, sums)
        rewards = [total.pop(name) for name in ("reward", "start") if name in total]
        means = [(value / count).reshape(1) for value, count in rewards]  # (NaN where there is none)
        return torch.cat([*means, usage.measured_usage(total, usage_kinds.KINDS[self._kind].least)])

    def _size(self, run: TrainingRun, numbers: Tensor) -> int:
        """Return how many entries there are, equal on all ranks: a host read where the module alone cannot tell."""
        exceeded = not self._known or self._exceeded or self._entries > self._known
        if run.trainer.world_size == 1 and not exceeded:
            return self._known
        largest = over_all(run, {"largest": numbers.max().float()}, "max")["largest"]
        self._entries = min(assignments.MOST_ENTRIES, max(self._entries, int(largest) + 1, 1))
        # on several processes only what all of them know may decide
        alone = run.trainer.world_size == 1
        return self._entries if self._entries > self._known or (alone and exceeded) else self._known

    # -- on the host ----------------------------------------------------------------------------------------------

    def read(self, vector: list[float], judge: Judge) -> dict[str, float]:
        """The measures by name."""
        reward, begun = (vector[0], vector[1]) if self._kind == "policy" else (math.nan, math.nan)
        values, self._shares = usage.read_usage(vector[2:] if self._kind == "policy" else vector)
        if self._rewards.add(reward, begun):
            values["reward"] = reward
        return values

    def statistics(self, values: Mapping[str, float], judge: Judge) -> dict[str, float]:
        """What the alarms of this kind follow."""
        rewards, batches = self._rewards, self._sampler.span
        if self._kind != "policy":
            return usage_kinds.statistics(self._kind, values)
        return usage_kinds.statistics(
            self._kind,
            values,
            learned=rewards.learned(batches),
            rewarded=bool(rewards.means),
            unlearned=rewards.unlearned(batches),
        )

    def explain(self, active: list[str], values: Mapping[str, float], judge: Judge) -> Explained:
        """Say what is no longer used."""
        return latent_causes.of_usage(self._kind, active, values, self._assignments)

    def figure(self, history: list[tuple[int, dict[str, float]]]) -> Callable[[], Any] | None:
        """Shares of the entries, and curves."""
        return lambda: figures.draw_usage(self._shares, history, self._assignments)

    # -- state ----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The number of entries seen so far, and rewards."""
        return {"entries": self._entries, "masks": self._masks, **self._rewards.state()}

    def load(self, run: TrainingRun, state: Mapping[str, Any]) -> None:
        """Take them up.

        Raises:
            ValueError: there are too many entries, or the first reward has another shape.
        """
        if state["entries"] > assignments.MOST_ENTRIES:
            raise ValueError("the number of entries in the checkpoint is too large")
        self._rewards.load(state, run.trainer.strategy.root_device)
        self._entries, self._masks = state["entries"], state["masks"]


def entries_of(module: nn.Module) -> int:
    """Return how many entries a module says that it has; 0 where it does not."""
    sizes = [getattr(module, name, None) for name in _HOLDING_SIZES]
    for size in sizes:
        if type(size) is int and 1 < size <= assignments.MOST_ENTRIES:
            return size
    tables = [child for child in module.children() if isinstance(child, nn.Embedding)]
    return tables[0].num_embeddings if len(tables) == 1 else 0


def _batch_size(batch: Any) -> int | None:
    try:
        return samples_of(batch).count
    except ValueError:
        return None
