"""PredictionCollapse: a model without skill on its targets, from the start or from some point on."""

from __future__ import annotations

from typing import final

from lightning_tricks.collapse.keys import PREDICTION
from lightning_tricks.collapse.prediction_probe import PredictionProbe
from lightning_tricks.collapse.prediction_rows import ANY_OUTPUT, ANY_TARGET
from lightning_tricks.collapse.prediction_state import OPTIONAL_FORMS, rows_form
from lightning_tricks.collapse.reduction import require_name
from lightning_tricks.detection.action import Action
from lightning_tricks.detection.detector import Detector
from lightning_tricks.detection.settings import WatchSettings
from lightning_tricks.detection.watch import Watch, watch_form
from lightning_tricks.lifecycle.stages import Stages
from lightning_tricks.lifecycle.trick import Trick


@final
class PredictionCollapse(Detector, Trick):  # type: ignore[misc]  # (Lightning has Callback twice, with hooks that differ)
    """Notice a model that never learns, or stops learning: constant predictions, ignored inputs, divergence.

    The measure is the skill ``1 - CE / H(labels)``: the entropy of the label histogram is the loss of the best answer
    that ignores the input, so 0 is that, for free, and imbalance is accounted for. Whether there is any skill at all is
    asked of a permutation test, pooled over checks, so that a weak signal is not taken for none. The kind of target is
    told from shapes and dtypes, and for targets of the size of the output from their values:

    - classes: whole numbers of one dimension less than the output. Also pixels, ``[n, K, h, w]`` with ``[n, h, w]``:
      there "all background" is a collapse, whatever the skill is.
    - labels: 0 or 1, of the size of the output (several labels at once, or two classes). Skill: ``1 - BCE / H`` of the
      label frequencies. Outputs that are all in [0, 1] are taken as probabilities, others as logits.
    - shares that add up to 1 in each row, of the size of the output: soft classes.
    - numbers, of the size of the output: a regression. Skill: the squared correlation of scores that few rows far out
      do not decide, so that a target in other units, a heavy tail and a reversed sign do not matter.
    - quantiles: output ``[n, Q]``, floating-point target ``[n]``: only whether their mean goes with the target.

    Alarms: the output is constant (after the grace); it is worse than the best constant one, skill below -0.2
    (after the grace); no association with the target on samples that are new, z below 2 (after three times the
    grace), or on known ones, which are learnt by heart, a skill below 0.02 that does not grow (after twice the
    grace; "not yet" until then; both after four times the grace in a network with recurrent layers or attention);
    all background (after twice the grace); less than a quarter of what a trivial learner has on the same rows, and
    no rise (after three times the grace; four times in a network for sequences); or the skill was above 0.2 and fell
    below a quarter of its best (after half of the grace).

    The trivial learner answers with the targets of the nearest samples by their raw inputs, or of other rows with the
    same ids in ``nn.Embedding``: users, articles, words, the token before. Classes are compared by the accuracy above
    that of the commonest one, numbers by the squared correlation, where a usual loss (squared, absolute, Huber) of
    these outputs and targets is the loss of the step. Where it has less than 0.2, nothing follows.

    Args:
        output: the logits or predictions: a key of what ``training_step`` returns, or the name of a module. ``[n, K]``,
            ``[n, tokens, K]``, ``[n, K, ...]``, or ``[n]`` for one number or two classes. With ``"logits"``, and a
            training step that returns no such key, the module is looked for whose output explains the loss.
        target: a key of what ``training_step`` returns or of the batch; ``"target"`` also means ``"labels"``,
            ``"label"``, ``"targets"`` or ``"y"``, or of a batch that is a tuple the tensor whose shape fits: class
            numbers before floats of the same size. Negative labels (-100), 255 where there are not as many classes, and
            rows of floats with a NaN are left out.
        every_n_steps: updates between two checks; as in ``RepresentationCollapse``, as the rest.
        action: what to do about an alarm.
        patience: bad checks in a row that make an alarm.
        grace: how much learning comes before the first alarm.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range.
        TrickError: at the first batch, there is no such output, or no target that fits it.
        UnsupportedError: at fit start, the module is part of a compiled graph.
        AlarmError: while training, with ``action="raise"`` or after too many rollbacks.

    Logs:
        At every check, ``collapse/prediction_collapse/`` with ``skill``, ``input_dependence``, ``class_divergence``
        (Jensen-Shannon, of predicted from labelled classes), ``macro_f1``, ``macro_f1_gain`` (over the trivial answer),
        ``predicted_classes`` and ``label_classes`` (effective numbers), ``top_share``, ``top_class``,
        ``cross_entropy``, ``label_entropy``, ``balanced_skill`` and ``soft_balanced_skill`` (mean recall over classes,
        over chance), ``moved_skill`` (with predictions moved to the label frequencies), ``association`` (pooled z),
        ``seen_before`` (share of samples), ``not_yet`` (1 while there is none and time is left) and ``alarm``; of a
        regression ``correlation``, ``r_squared``, ``variance_ratio`` and ``squared_error``. At an alarm the verdict as
        text, and a figure of predicted classes over time.

    Changes:
        Nothing; with ``"rollback"`` weights, optimizer state, rates and accumulation window, after an alarm.

    State:
        As ``RepresentationCollapse``.

    Cost:
        At a check softmax and counts of 512 rows, distances of 256 samples by 64 numbers of each, comparisons of
        512 rows by their ids where embeddings look any up, and one copy of some 100 numbers; on several processes two
        or three all-reduces more than for other detectors; at the batches before it a copy of their rows of logits (at
        most 1,023 are held; with more than 65,536 classes at most 67 million numbers, or 128 rows). Else the test of a
        flag.

    Example:
        >>> from lightning_tricks import PredictionCollapse
        >>> PredictionCollapse("head").output
        'head'

    Reference: the input-independent baseline of Karpathy, "A Recipe for Training Neural Networks", 2019; the collapse
    itself: huggingface/transformers#297; Cover and Hart, "Nearest neighbor pattern classification", 1967;
    Micci-Barreca, "A preprocessing scheme for high-cardinality categorical attributes", 2001.
    """

    log_keys = PREDICTION
    identity = ("output", "target")
    state_form = watch_form(sums=rows_form, optional=OPTIONAL_FORMS)

    def __init__(
        self,
        output: str = ANY_OUTPUT,
        target: str = ANY_TARGET,
        every_n_steps: int | None = 25,
        action: Action = "warn",
        patience: int = 3,
        grace: int | str = "10%",
    ) -> None:
        self.output = require_name("PredictionCollapse", "output", output)
        self.target = require_name("PredictionCollapse", "target", target)
        self.take(WatchSettings.checked("PredictionCollapse", every_n_steps, action, patience, grace))
        self._reset()

    def _make_parts(self) -> tuple[Stages, ...]:
        return (Watch(self, PredictionProbe(self.output, self.target, self.patience), self.settings),)
