"""UsageCollapse: a codebook, router, set of prototypes or policy of which few entries are in use."""

from __future__ import annotations

from typing import Literal, final

from lightning_tricks.collapse.keys import USAGE
from lightning_tricks.collapse.reduction import require_name
from lightning_tricks.collapse.usage_kinds import KINDS
from lightning_tricks.collapse.usage_probe import FORMS, UsageProbe, sums_form
from lightning_tricks.detection.action import Action
from lightning_tricks.detection.detector import Detector
from lightning_tricks.detection.settings import WatchSettings
from lightning_tricks.detection.watch import Watch, watch_form
from lightning_tricks.errors import require_choice
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.trick import Trick


@final
class UsageCollapse(Detector, Trick):  # type: ignore[misc]  # (Lightning has Callback twice, with hooks that differ)
    """Notice that few codes of a codebook, experts of a router, prototypes or actions of a policy are in use.

    The choices of a module are counted over a window: whole numbers, or the largest entry of each row of probabilities
    or logits, which no temperature changes. The number of entries in use is compared with what so many samples show
    when all are equally likely, so that a small window is not evidence against a large codebook. Alarms: a codebook or
    prototypes whose entries in use carry less than 45 % of the information (6 codes of 64, 16 of 512); a codebook of
    which, beside the commonest code, less than 6 % are in use by perplexity; a router with less than 20 % of its
    experts in use, or with a perplexity of less than 10 %; prototypes with equal probabilities for all inputs; a policy
    that takes one action in all states, or whose entropy vanishes while a known reward does not rise. A policy that is
    deterministic, but takes different actions in different states, is healthy.

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

    log_keys = USAGE
    identity = ("assignments",)
    state_form = watch_form(optional=None, sums=sums_form, **FORMS)

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
        self.kind = require_choice("UsageCollapse", "kind", kind, KINDS)
        self.take(WatchSettings.checked("UsageCollapse", every_n_steps, action, patience, grace))
        self._reset()

    def _make_parts(self) -> tuple[Stages, ...]:
        return (Watch(self, UsageProbe(self.assignments, self.kind, self.patience), self.settings),)
