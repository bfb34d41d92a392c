"""UsageCollapse: a codebook, router, set of prototypes or policy of which few entries are in use."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from lightning_tricks.collapse import causes, figures, usage
from lightning_tricks.collapse.callbacks.reduction import over_all, require_name
from lightning_tricks.detection.action import Action
from lightning_tricks.detection.alarm import Alarm
from lightning_tricks.detection.causes import Explained
from lightning_tricks.detection.detector import Detector, detector_form, keep_bounded
from lightning_tricks.errors import TrickError, message, require_choice
from lightning_tricks.lifecycle.training_run import TrainingRun
from lightning_tricks.modules.batches import samples_of
from lightning_tricks.numerics import form

_HOLDING_SIZES = ("codebook_size", "num_embeddings", "num_codes", "num_experts", "num_prototypes", "num_actions")
_REWARD = re.compile(r"(?:^|[/_.\s])(?:reward|return)s?(?:$|[/_.\s])", re.IGNORECASE)
_ENOUGH = 32  # samples: with fewer, chance alone can leave entries out
_ROWS = ("votes", "probability", "entropy", "rows", "broken", "given", "effective")


@dataclass(frozen=True)
class _Kind:
    """What is asked of a kind of assignment.

    Args:
        alarms: by the name of their statistic; their patience is that of the user times their own.
        least: share of its fair share from which an entry counts as used. Codes of rare patches are rare, and in use.
    """

    alarms: Mapping[str, Alarm]
    least: float = 0.05


_CAPACITY = Alarm(below=0.45, gain=0.05, trend=5, patience=1)
_KINDS: dict[str, _Kind] = {
    "codebook": _Kind({"capacity": _CAPACITY}, least=0.01),
    "router": _Kind(
        {
            "usage": Alarm(below=0.2, gain=0.02, growth=1.3, trend=5, patience=1),
            "balance": Alarm(below=0.1, gain=0.02, growth=1.3, trend=5, patience=1),
            "starved": Alarm(below=0.2, gain=0.02, growth=1.3, trend=5, patience=3),
        }
    ),
    "prototypes": _Kind({"capacity": _CAPACITY, "information": Alarm(below=5e-4, growth=1.3, trend=5, patience=1)}),
    "policy": _Kind(
        {
            "variety": Alarm(below=0.05, gain=0.05, growth=1.5, patience=1),
            "exploration": Alarm(of_peak=0.05, least_peak=0.2, gain=0.05, patience=1),
        }
    ),
}


def _sums_form(value: Any, where: str) -> str | None:
    """The form of what is gathered: nothing, the numbers of entries, or sums of rows."""
    if not isinstance(value, dict) or not value:
        return form.named(form.tensor)(value, where)
    names = ("numbers", "effective") if "numbers" in value else _ROWS
    names = (*names, "reward") if "reward" in value else names
    fault = form.record(dict.fromkeys(names, form.tensor))(value, where)
    flat = {"numbers", "votes", "probability", "reward"}
    wrong = None if fault else next((n for n in names if value[n].ndim != int(n in flat)), None)
    return f"{where}[{wrong!r}] must have {int(wrong in flat)} dimensions" if wrong else fault


@final
class UsageCollapse(Detector):
    """Notice that few codes of a codebook, experts of a router, prototypes or actions of a policy are in use.

    The choices of a module are counted over a window: whole numbers, or the largest entry of each row of probabilities
    or logits, which no temperature changes. The number of entries in use is compared with what so many samples show
    when all are equally likely, so that a small window is not evidence against a large codebook. Alarms: a codebook or
    prototypes whose entries in use carry less than 45 % of the information (6 codes of 64, 16 of 512); a router with
    less than 20 % of its experts in use, or with a perplexity of less than 10 %; prototypes with equal probabilities
    for all inputs; a policy that takes one action in all states, or
    whose entropy vanishes while a known reward does not rise. A policy that is deterministic, but takes different
    actions in different states, is healthy.

    Args:
        assignments: name of the module whose output is watched: whole numbers ``[...]``, or probabilities or logits
            ``[..., K]`` (``[n, K, ...]`` of a convolution). Of a tuple or dict the first tensor of whole numbers, else
            the first of rows; negative numbers are left out. The rows are probabilities where all of them are >= 0 and
            sum to 1. With whole numbers K is the module's attribute ``codebook_size``, ``num_embeddings``,
            ``num_codes``, ``num_experts``, ``num_prototypes`` or ``num_actions``; else the number of rows of its only
            direct child that is an ``nn.Embedding``; else the largest number seen so far, plus one.
        kind: ``"codebook"``, ``"router"``, ``"prototypes"`` or ``"policy"``: what the alarms are, and the advice. For a
            policy, a scalar that is logged, or returned by ``training_step``, with "reward" or "return" in its name
            tells learning from collapse: where it has clearly risen there is no alarm.
        every_n_steps: updates between two checks; as in ``RepresentationCollapse``, as the rest.
        action: what to do about an alarm.
        patience: bad checks in a row that make an alarm.
        grace: how much learning comes before the first alarm.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.
        TrickError: at fit start, there is no such module; at the first batch, it was not called, or its output holds no
            assignments.
        UnsupportedError: at fit start, the module is part of a compiled graph.
        AlarmError: while training, with ``action="raise"`` or after too many rollbacks.

    Logs:
        At every check, ``collapse/usage_collapse/`` with ``perplexity`` (effective number of entries), its share
        ``perplexity_share`` of K, ``unused_share`` (entries that never occur in the window), ``usage``, ``capacity``
        and ``balance`` (used entries, their logarithm, and perplexity, from 0 for one entry to 1 for what the samples
        can show), ``top_share``, ``top_entry``, ``marginal_entropy`` and, of rows, ``conditional_entropy`` (in nats; of
        logits at temperature 1), ``entries`` (K), ``samples``, ``finite``, ``reward`` (of a policy, where there is one)
        and ``alarm``. At an alarm the verdict as text, and a figure of the shares.

    Changes:
        Nothing; with ``"rollback"`` weights, optimizer state, rates and accumulation window, after an alarm.

    State:
        As ``RepresentationCollapse``; of a policy also its rewards.

    Cost:
        At the batches before a check, as many as give 1,024 samples, a softmax and sums of at most 2,048 rows, or a
        copy of as many numbers; at a check one copy of at most 270 numbers to the host. With whole numbers a host read
        at the first batch and, where K is not known or there are several processes, at a check. On several processes
        two or three all-reduces at a check. Else the test of a flag.

    Example:
        >>> from lightning_tricks import UsageCollapse
        >>> UsageCollapse("quantizer", kind="codebook").kind
        'codebook'

    Reference: van den Oord et al., "VQ-VAE", 2017, arXiv:1711.00937; Fedus et al., "Switch Transformers", 2021,
    arXiv:2101.03961; Caron et al., "DINO", 2021, arXiv:2104.14294; Mnih et al., 2016, arXiv:1602.01783 (entropy).
    """

    identity = ("assignments",)
    samples: ClassVar[int] = 1024
    state_form = detector_form(
        sums=_sums_form,
        entries=form.whole,
        masks=form.flag,
        rewards=form.many(form.measured),
        start=form.maybe(form.tensor),
    )

    def __init__(
        self,
        assignments: str,
        kind: Literal["codebook", "router", "prototypes", "policy"] = "codebook",
        every_n_steps: int | None = 25,
        action: Action = "warn",
        patience: int = 3,
        grace: int | str = "10%",
    ) -> None:
        self.assignments = require_name("UsageCollapse", "assignments", assignments)
        self.kind = require_choice("UsageCollapse", "kind", kind, _KINDS)
        super().__init__(every_n_steps, action, patience, grace)

    def configuration(self) -> dict[str, Any]:
        """The arguments."""
        return {**super().configuration(), "kind": self.kind}

    def reset(self) -> None:
        """Forget what was measured."""
        super().reset()
        self._known = 0  # entries that the module says it has; 0 where it does not
        self._entries = 0  # the largest number seen, plus one
        self._exceeded = False
        self._masks = False
        self._channels_first = False
        self._seen: list[tuple[int, int]] = []  # of each forward pass: samples, and rows that were kept of them
        self._shares: list[float] = []
        self._rewards: list[float] = []
        self._baseline: Tensor | None = None  # sum and number of rewards of the first batch
        self._begun = math.nan  # their mean over all processes

    def rules(self) -> dict[str, Alarm]:
        """The alarms of the kind."""
        alarms = _KINDS[self.kind].alarms
        return {name: replace(alarm, patience=alarm.patience * self.patience) for name, alarm in alarms.items()}

    def slowness(self, name: str) -> float:
        """Codes spread slowly: their grace is 1.5 times as long."""
        return 1.5 if self.kind == "codebook" else 1.0

    def attach(self, run: TrainingRun) -> None:
        """Watch the module; see whether it says how many entries there are."""
        module = self.module(run, self.assignments, "assignments")
        self._known, self._channels_first = _entries_of(module), isinstance(module, nn.modules.conv._ConvNd)
        self.watch(module, self._see)

    def _see(self, output: Any) -> None:
        found = usage.assignments_of(output)
        if found is None:
            rule = f"its output ({type(output).__name__}) holds neither whole numbers nor rows of two numbers or more"
            raise self._refused(rule, "Name the module that returns codes, experts, actions, or their logits")
        if not found.numel():
            return
        if found.is_floating_point():
            rows = found.movedim(1, -1) if self._channels_first and found.ndim > 2 else found
            self._add_rows(rows.reshape(-1, rows.shape[-1]), len(found))
            return
        if self._first:
            self._masks = self._masks or usage.is_mask(found)
        if self._masks or found.dtype == torch.bool:
            self._add_rows(usage.rows_of_mask(found), len(found))
            return
        if self._first:
            self._check_numbers(found)
        numbers = usage.kept_rows(found.reshape(-1)).to(torch.int64)
        self._keep("numbers", numbers.clamp(-1, usage.MOST_ENTRIES).to(torch.int32))
        self._seen.append((len(found), len(numbers)))

    def _add_rows(self, rows: Tensor, samples: int) -> None:
        kept = usage.kept_rows(rows)
        usage.add_assignments(self._sums, kept)
        self._seen.append((samples, len(kept)))

    def _check_numbers(self, found: Tensor) -> None:
        """Once, at the first batch: one host read."""
        largest = int(found.max())
        if largest >= usage.MOST_ENTRIES:
            rule = f"its output holds {largest}, which is not the number of an entry"
            raise self._refused(rule, "Name the module that returns codes, experts or actions")
        self._exceeded = largest >= self._known  # what the module says is the size of something else

    def _refused(self, rule: str, remedy: str) -> TrickError:
        return TrickError(message("UsageCollapse", "assignments", self.assignments, rule, remedy))

    def gather(self, run: TrainingRun, batch: Any, outputs: Any) -> int:
        """Count what the hook has added: neighbouring positions of one sample say little about the others."""
        seen, self._seen = self._seen, []
        rows = sum(kept for _, kept in seen)
        if not rows:
            if self._first:
                raise self._refused("it was not called in the first training step", "Name one that is")
            return 0
        samples = min(sum(n for n, _ in seen), _batch_size(batch) or rows)
        effective = min(rows, usage.ROWS_OF_A_SAMPLE * max(1, samples))
        device = next(iter(self._sums.values())).device
        before = self._sums.get("effective", torch.zeros((), device=device))
        self._sums["effective"] = before + effective
        if self.kind == "policy":
            self._add_reward(run, outputs, device)
        return effective

    def _add_reward(self, run: TrainingRun, outputs: Any, device: torch.device) -> None:
        """Add the reward that this step returned or logged, on the device; the very first one is a baseline."""
        found = _reward_in(outputs) if isinstance(outputs, Mapping) else None
        found = _reward_in(run.trainer.callback_metrics) if found is None else found
        pair = torch.zeros(2) if found is None else torch.stack([found, torch.ones_like(found)])
        pair = pair.to(device, torch.float32)
        if self._first:
            self._baseline = pair
        self._sums["reward"] = self._sums.get("reward", torch.zeros_like(pair)) + pair

    def measure(self, run: TrainingRun) -> Tensor:
        """Counts over all processes."""
        sums = dict(self._sums)
        if "numbers" in sums:
            numbers = sums.pop("numbers")
            sums["votes"] = usage.counted_entries(numbers, self._size(run, numbers))
        if self.kind == "policy":
            sums["start"] = torch.zeros_like(sums["reward"]) if self._baseline is None else self._baseline
        total = over_all(run, sums)
        rewards = [total.pop(name) for name in ("reward", "start") if name in total]
        means = [(value / count).reshape(1) for value, count in rewards]  # (NaN where there is none)
        return torch.cat([*means, usage.measured_usage(total, _KINDS[self.kind].least)])

    def _size(self, run: TrainingRun, numbers: Tensor) -> int:
        """Return how many entries there are, equal on all ranks: a host read where the module alone cannot tell."""
        exceeded = not self._known or self._exceeded or self._entries > self._known
        if run.trainer.world_size == 1 and not exceeded:
            return self._known
        largest = over_all(run, {"largest": numbers.max().float()}, "max")["largest"]
        self._entries = min(usage.MOST_ENTRIES, max(self._entries, int(largest) + 1, 1))
        # on several processes only what all of them know may decide
        alone = run.trainer.world_size == 1
        return self._entries if self._entries > self._known or (alone and exceeded) else self._known

    def read(self, vector: list[float]) -> dict[str, float]:
        """The measures by name."""
        reward, begun = (vector[0], vector[1]) if self.kind == "policy" else (math.nan, math.nan)
        values, self._shares = usage.read_usage(vector[2:] if self.kind == "policy" else vector)
        if math.isfinite(reward):
            self._begun = begun
            values["reward"] = reward
            self._rewards.append(reward)
            keep_bounded(self._rewards)
        return values

    def statistics(self, values: Mapping[str, float]) -> dict[str, float]:
        """What the alarms of this kind follow; with too few samples nothing is concluded."""
        names = _KINDS[self.kind].alarms
        if not values["finite"]:
            return dict.fromkeys(names, -1.0)
        if values["_effective"] < _ENOUGH:
            return dict.fromkeys(names, math.nan)
        information = usage.information_share(values)
        if self.kind == "policy":
            return self._of_a_policy(values, information)
        # while a router is undecided, a balancing loss moves many choices at once: it may take longer
        own = {
            "usage": max(values["usage"], values["_soft"], float(usage.routes(values))),
            "balance": max(values["balance"], values["_soft"]),
            "starved": max(values["usage"], float(usage.routes(values))),
            "capacity": values["capacity"],
            # of logits the temperature is not known
            "information": information if values["_given"] else math.nan,
        }
        return {name: own[name] for name in names}

    def _of_a_policy(self, values: Mapping[str, float], information: float) -> dict[str, float]:
        """Return how varied actions are, and how random; both are 1, healthy, where the reward has risen."""
        learned = usage.has_learned(self._rewards, self._begun, self._span)
        if learned:
            return {"variety": 1.0, "exploration": 1.0}
        if usage.has_unlearned(self._rewards, math.nan, self._span):
            return {"variety": 1.0, "exploration": -1.0}
        whole = math.log(max(2.0, values["entries"]))
        share = values["marginal_entropy"] / whole
        if math.isnan(information):  # sampled actions: only one that is nearly always taken is certainly a collapse
            return {"variety": 5 * share, "exploration": math.nan}
        # a rare action that is taken in its own states depends on the input, however rare it is
        dependence = information / share if share > 1e-4 else 0.0
        random = values["conditional_entropy"] / whole
        if learned is None:  # too early to tell: only its best value counts
            random = max(random, 0.1) if self._rewards else math.nan
        return {"variety": max(share, dependence / 4), "exploration": random}

    def explain(self, active: list[str], values: Mapping[str, float]) -> Explained:
        """Say what is no longer used."""
        return causes.of_usage(self.kind, active, values, self.assignments)

    def figure(self) -> Callable[[], Any] | None:
        """Shares of the entries, and curves."""
        return lambda: figures.draw_usage(self._shares, self._history, self.assignments)

    def trick_state(self) -> dict[str, Any]:
        """What detectors keep, the number of entries seen so far, and rewards."""
        kept = super().trick_state()
        seen = {"entries": self._entries, "masks": self._masks, "rewards": list(self._rewards)}
        return {**kept, **seen, "start": None if self._baseline is None else self._baseline.clone()}

    def _take_up(self, run: TrainingRun, state: dict[str, Any]) -> None:
        super()._take_up(run, state)
        if state["entries"] > usage.MOST_ENTRIES:
            raise ValueError("the number of entries in the checkpoint is too large")
        start = state["start"]
        if start is not None and start.shape != (2,):
            raise ValueError("the first reward in the checkpoint is not a sum and a number")
        self._entries, self._masks, self._rewards = state["entries"], state["masks"], list(state["rewards"])
        self._baseline = None if start is None else start.float().to(run.trainer.strategy.root_device)


def _entries_of(module: nn.Module) -> int:
    """Return how many entries a module says that it has; 0 where it does not."""
    sizes = [getattr(module, name, None) for name in _HOLDING_SIZES]
    for size in sizes:
        if type(size) is int and 1 < size <= usage.MOST_ENTRIES:
            return size
    tables = [child for child in module.children() if isinstance(child, nn.Embedding)]
    return tables[0].num_embeddings if len(tables) == 1 else 0


def _batch_size(batch: Any) -> int | None:
    """Return how many samples the batch holds; None where it cannot be told."""
    try:
        return samples_of(batch).count
    except ValueError:
        return None


def _reward_in(place: Mapping[Any, Any]) -> Tensor | None:
    """Return the mean of the first tensor with "reward" or "return" in its name, 0-d; None where there is none."""
    for name, value in place.items():
        named = isinstance(name, str) and _REWARD.search(name) and "loss" not in name.lower()
        if named and isinstance(value, Tensor) and value.numel() and not value.is_complex():
            return value.detach().float().mean()
    return None
