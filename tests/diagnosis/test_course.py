"""What the doctor remembers: of hand-made curves, and in small trainings that fail or look as if they did."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import GradientClip, TrainingDoctor
from lightning_tricks.detection.causes import Cause, Hint
from lightning_tricks.diagnosis.course import Course, Plan
from lightning_tricks.diagnosis.findings import Finding
from lightning_tricks.diagnosis.loss_curve import Check
from tests.problems import Classifier, Memory, digits, fit, loader, sgd, trainer

SOUND = {"_finite": 1.0, "_vanishing": 0.0, "_silent": 0.0}


def follow(course: Course, losses: list[list[float]], **more: Any) -> list[set[str]]:
    """Give a course its checks; return which statistics were bad at each."""
    bad = []
    for part in losses:
        step = 10 * len(course.checks) + 10
        course.add(Check(step, math.nan, math.nan, **more), part, [0.5, 0.1], [3.0])
        course.follow_spikes(part)
        bad.append({name for name, value in course.statistics(SOUND).items() if value < 0.5 and name != "divergence"})
    return bad


def noisy(level: float, checks: int, seed: int = 0) -> list[list[float]]:
    generator = random.Random(seed)
    return [[level * (1 + 0.03 * generator.gauss(0, 1)) for _ in range(10)] for _ in range(checks)]


LEARNED = [*noisy(2.3, 1), *noisy(1.5, 1), *noisy(1.0, 2), *noisy(0.5, 8)]


def test_a_spike_that_recovers_is_advice_and_one_that_stays_an_alarm() -> None:
    course = Course(3)
    assert follow(course, [*LEARNED, *noisy(1.6, 1), *noisy(1.0, 1), *noisy(0.5, 4)])[-6:] != [{"spike"}] * 6
    assert [f.kind for f in course.findings()] == [Hint.PASSING_SPIKE]
    assert "came down by themselves" in course.findings()[0].evidence
    course = Course(3)
    bad = follow(course, [*LEARNED, *noisy(1.6, 8)])
    assert bad[-4:] == [{"spike"}] * 4 and not any(bad[: len(LEARNED)])


def test_a_rise_in_which_the_first_batch_has_no_part_is_harder_data() -> None:
    course = Course(3)
    follow(course, LEARNED, fixed=0.5)
    assert not any(follow(course, noisy(1.6, 8), fixed=0.5))
    follow(course, noisy(0.5, 2), fixed=0.4)
    assert course.findings() == []


def test_a_higher_rate_explains_a_rise_for_as_many_checks_as_patience() -> None:
    course = Course(3)
    follow(course, LEARNED, rate=0.01)
    bad = follow(course, noisy(1.6, 8), rate=0.4)
    assert not any(bad[:2]) and bad[-1] == {"spike"}


def test_hints_are_told_after_three_checks_and_taken_back_after_three_without() -> None:
    hint = Finding(Hint.WAITING, "60% of the time", 0.8, "use more workers", 7)
    course, weak = Course(3), Finding(Hint.PLATEAU, "flat", 0.5, "stop", 7)
    shown = []
    for found in [[hint, weak]] * 4 + [[]] * 4:
        course.advise(found)
        shown.append([f.kind for f in course.findings()])
    assert shown == [[], [], [Hint.WAITING], [Hint.WAITING], [Hint.WAITING], [Hint.WAITING], [], []]
    assert course.hints == {}


def test_no_hint_on_the_loss_is_left_once_the_task_is_solved() -> None:
    course = Course(3)
    follow(course, [*noisy(2.3, 1), *noisy(0.01, 30)], ratio=1e-6, rate=0.1)
    assert course.hints_now(310) == []
    assert course.parts is not None and course.parts.solved


def test_validation_that_is_only_overconfident_is_advice() -> None:
    course = Course(3)
    follow(course, [*noisy(2.3, 1), *noisy(0.01, 3)])
    assert [course.validated(loss, [0.97]) for loss in (0.5, 0.6, 1.0, 1.2)] == [False] * 4
    assert [f.kind for f in course.findings()] == [Hint.OVERCONFIDENCE]
    course = Course(3)
    follow(course, [*noisy(2.3, 1), *noisy(0.01, 3)])
    found = [course.validated(loss, [score]) for loss, score in ((0.5, 0.97), (0.6, 0.96), (1.0, 0.9), (1.2, 0.85))]
    assert found == [False, False, True, True]


def test_a_state_is_what_was_saved_and_older_ones_load() -> None:
    course, other = Course(3), Course(3)
    follow(course, [*LEARNED, *noisy(1.6, 2)], rate=0.1)
    course.noted[Cause.OVERFITTING] = Finding(Cause.OVERFITTING, "a", 0.9, "b", 3)
    course.advise([Finding(Hint.WAITING, "60% of the time", 0.8, "use more workers", 7)])
    other.load(course.state_dict())
    assert repr(other.state_dict()) == repr(course.state_dict()) and other.limit == course.limit
    later = noisy(1.6, 4)
    assert follow(course, later) == follow(other, later)
    older = {n: course.state_dict()[n] for n in ("steps", "means", "usual", "validation", "findings")}
    other.load(older)
    assert [c.median for c in other.checks] == older["means"] and other.start == older["means"][0]
    with pytest.raises(ValueError, match="not as many steps as losses"):
        other.load({**older, "means": [1.0]})


# -- small trainings ------------------------------------------------------------------------------------------------------


quiet = pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")


class Hinge(Classifier):
    """The loss of triplets and of hinges: exactly 0 once every margin is kept, and then there is no gradient."""

    margin = 0.5

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        scores, labels = self.net(batch[0]), batch[1]
        right = scores.gather(1, labels[:, None])
        others = scores.masked_fill(nn.functional.one_hot(labels, 10).bool(), -math.inf).amax(1, keepdim=True)
        return (self.margin - right + others).clamp(min=0).mean()


@quiet
def test_no_gradient_after_the_task_is_learned_is_a_success_and_from_the_beginning_on_a_failure() -> None:
    doctor, logger = TrainingDoctor(every_n_steps=4, action="raise"), Memory()
    few = DataLoader(digits(16), batch_size=16)
    t = trainer([doctor], max_epochs=200, logger=logger)
    t.fit(Hinge(lambda p: torch.optim.Adam(p, lr=1e-2)), few)
    assert logger.series("diagnosis/training_doctor/last_gradient")[199] == 0.0, "nothing left to learn"
    assert not doctor.verdict.alarmed and doctor.findings == []
    doctor = TrainingDoctor(every_n_steps=4, action="log")

    class Detached(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx).detach().requires_grad_()

    fit(Detached(), [doctor], n=800)
    assert doctor.verdict.cause == Cause.NO_GRADIENTS


@quiet
@pytest.mark.parametrize("steps", [True, False])
def test_manual_optimization_that_makes_no_step_is_named(steps: bool) -> None:
    class Manual(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(nn.functional.cross_entropy(self.net(batch[0]), batch[1]))
            if steps:
                optimizer.step()

    module = Manual()
    module.automatic_optimization = False
    doctor = TrainingDoctor(every_n_steps=5, action="log")
    fit(module, [doctor], n=1600, max_epochs=1)
    assert [v.cause for v in doctor.alarms] == ([] if steps else [Cause.UNCHANGED_WEIGHTS])


@quiet
@pytest.mark.parametrize("momentum", [1e-5, 0.1, None])
def test_running_statistics_that_do_not_follow_are_named(momentum: float | None) -> None:
    class Normalised(Classifier):
        def __init__(self) -> None:
            super().__init__()
            width = next(m.in_features for m in self.net.modules() if isinstance(m, nn.Linear))
            norm = nn.BatchNorm1d(width, momentum=momentum)
            self.net = nn.Sequential(norm, *self.net)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step((100 + 50 * batch[0], *batch[1:]), batch_idx)

    doctor = TrainingDoctor(every_n_steps=5, action="log")
    fit(Normalised(), [doctor], n=3200, max_epochs=2)
    assert [v.cause for v in doctor.alarms] == ([Cause.EVALUATION_DIFFERS] if momentum == 1e-5 else [])


@quiet
@pytest.mark.parametrize("gamma", [0.5, 0.999])
def test_a_schedule_that_is_gone_long_before_the_end_is_named(gamma: float) -> None:
    class Scheduled(Classifier):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=1e-3)
            scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    doctor = TrainingDoctor(every_n_steps=5, action="log")
    fit(Scheduled(), [doctor], n=1600, max_epochs=1)
    assert [v.cause for v in doctor.alarms] == ([] if gamma > 0.9 else [Cause.UNCHANGED_WEIGHTS])


@quiet
@pytest.mark.parametrize(("decay", "shrinks"), [(40.0, True), (0.01, False), (1.0, False)])
def test_weights_that_shrink_to_nothing_are_named(decay: float, shrinks: bool) -> None:
    doctor = TrainingDoctor(every_n_steps=5, action="log")
    module = Classifier(lambda p: torch.optim.AdamW(p, lr=3e-3, weight_decay=decay))
    fit(module, [doctor], n=1600, max_epochs=1)
    assert [v.cause for v in doctor.alarms] == ([Cause.SHRINKING_WEIGHTS] if shrinks else [])


@quiet
@pytest.mark.parametrize("value", [1e8, math.nan])
def test_the_row_and_the_batch_of_the_first_giant_or_broken_loss_are_named(value: float) -> None:
    data = digits(320)
    images = data.tensors[0].clone()
    images[8 * 13 + 5] = value
    doctor = TrainingDoctor(every_n_steps=5, action="log")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))  # nothing in it normalises a giant row
    few = DataLoader(TensorDataset(images, data.tensors[1]), batch_size=8)
    trainer([doctor], max_epochs=1).fit(Classifier(net=net), few)
    assert "batch 13" in doctor.probe.parts.culprit.text and "row 5 of [0]" in doctor.probe.parts.culprit.text
    said = [reason for verdict in doctor.alarms for reason in verdict.reasons] + [f.evidence for f in doctor.findings]
    assert any("batch 13" in text and "row 5 of [0]" in text for text in said)


@quiet
def test_weights_that_one_update_broke_name_the_row_of_the_batch_before() -> None:
    class Overflows(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            giant = (batch[0] > 1e6).any()
            return loss + torch.where(giant, self.net[0].weight.sum() * 1e38 * 1e10 * 0, 0.0)

    data = digits(320)
    images = data.tensors[0].clone()
    images[8 * 13 + 5, 0] = 1e8
    doctor = TrainingDoctor(every_n_steps=5, action="log")
    t = trainer([doctor, GradientClip(1.0, nonfinite="warn")], max_epochs=1)
    with pytest.warns(Warning):
        t.fit(Overflows(), DataLoader(TensorDataset(images, data.tensors[1]), batch_size=8))
    assert "row 5 of [0]" in doctor.probe.parts.culprit.text


@quiet
@pytest.mark.parametrize("seed", range(3))
def test_a_short_run_of_batches_that_differ_by_far_is_left_alone(seed: int) -> None:
    generator = random.Random(seed)
    scales = [math.exp(generator.gauss(0, 1)) for _ in range(16)]
    doctor = TrainingDoctor(every_n_steps=1, action="raise")
    fit(Classifier(lambda p: sgd(p, lr=1e-3), spoil=lambda i, loss: loss * scales[i]), [doctor], n=16 * 8)
    assert doctor.alarms == [] and doctor.findings == []


@quiet
def test_warm_restarts_are_healthy() -> None:
    def restarts(parameters: Any) -> Any:
        optimizer = torch.optim.AdamW(parameters, lr=2e-2)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 50)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    doctor = TrainingDoctor(every_n_steps=5, action="raise")
    fit(Classifier(restarts), [doctor], n=1600, max_epochs=1)
    assert doctor.alarms == [] and doctor.findings == []


@quiet
def test_labels_that_say_nothing_from_half_of_the_run_on_are_a_loss_that_stays() -> None:
    class Damaged(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if self.seen >= 120:
                batch[1].copy_(torch.randint(10, batch[1].shape))

    doctor = TrainingDoctor(every_n_steps=6, action="log")
    fit(Damaged(lambda p: torch.optim.AdamW(p, lr=5e-3)), [doctor], n=1600, batch=16, max_epochs=3)
    assert doctor.verdict.cause in (Cause.LOSS_SPIKES, Cause.DIVERGENCE)
    assert 120 <= doctor.verdict.step < 220


@quiet
def test_a_sound_run_ends_with_one_line_and_the_parts_of_its_error(caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[str, str]] = []

    class Board(Memory):
        @property
        def experiment(self) -> Any:
            class Experiment:
                def add_text(self, name: str, text: str, step: int) -> None:
                    told.append((name, text))

            return Experiment()

    class Validated(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val/loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    logger, doctor = Board(), TrainingDoctor(every_n_steps=5)
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        t = trainer([doctor], max_epochs=2, logger=logger)
        t.fit(Validated(), loader(400), DataLoader(digits(200), batch_size=100))
    assert sum("TrainingDoctor: nothing wrong was found in 100 updates" in r.message for r in caplog.records) == 1
    (summary,) = [text for name, text in told if name == "diagnosis/summary"]
    assert "nothing wrong was found" in summary and ("Training error (bias)" in summary or "solved" in summary)
    parts = doctor.error_parts
    assert parts is not None
    ends = [list(logger.series(f"diagnosis/training_doctor/error/{n}").values()) for n in ("initial", "validation")]
    assert ends == [[pytest.approx(parts.start)], [pytest.approx(parts.last)]]


def test_a_state_of_an_older_version_resumes(tmp_path: Path) -> None:
    t = trainer([TrainingDoctor(every_n_steps=3)], max_epochs=1)
    t.fit(Classifier(), loader(200))
    t.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    (key,) = [k for k in checkpoint["callbacks"] if "TrainingDoctor" in k]
    state = checkpoint["callbacks"][key]["state"]
    for name in ("raised", "checks", "counts", "early", "spike", "sizes", "scores", "hints", "felt"):
        del state[name]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    doctor = TrainingDoctor(every_n_steps=3)
    trainer([doctor], max_epochs=2).fit(Classifier(), loader(200), ckpt_path=tmp_path / "old.ckpt")
    assert len(doctor.probe.course.checks) == 16 and not doctor.verdict.alarmed


@pytest.mark.parametrize(("decay", "bad"), [(0.3, True), (0.05, True), (0.01, False), (1e-4, False), (math.nan, False)])
def test_a_decay_that_nothing_outlasts_is_bad_whatever_the_loss_does(decay: float, bad: bool) -> None:
    course = Course(3)
    follow(course, [[2.0 - 0.1 * i] * 10 for i in range(12)])
    assert (course.statistics(SOUND, plan=Plan(1000, 1e-3, decay))["shrinkage"] < 0.5) is bad


def test_a_loss_of_0_without_gradients_from_the_start_is_no_matter_of_the_rate() -> None:
    course = Course(3)
    for step in range(10, 210, 10):
        course.add(Check(step, math.nan, math.nan, rate=1e-3, ratio=0.0), [0.0] * 10, [0.0, 0.0], [3.0])
    values = course.statistics({**SOUND, "_silent": 1.0}, plan=Plan(250, 1e-3, 0.0))
    assert values["silence"] < 0.5 < values["idle"]
    assert [f for f in course.hints_now(250) if f is not None and f.kind == Hint.RATE_TOO_LOW] == []


def test_a_rise_that_is_on_its_way_down_is_no_alarm_also_below_the_first_losses() -> None:
    """Classes that arrive one after another: each time the loss jumps, to less than it began with, and falls."""
    course = Course(3)
    low = [[2.3] * 4 + [1.5] * 4, *[[0.3 * 0.7**i] * 8 for i in range(8)]]
    rise = [[3.2, 3.0, 2.6, 2.3, 2.1, 2.0, 1.9, 1.9], [1.8] * 8, [1.4] * 8, [0.9] * 8, [0.4] * 8]
    assert [bad for bad in follow(course, low + rise)[len(low) + 1 :] if "spike" in bad] == []


def test_a_loss_of_a_policy_that_comes_back_to_0_is_mostly_noise() -> None:
    generator = random.Random(0)

    def noise(level: float, size: float) -> list[list[float]]:
        return [[level + size * generator.gauss(0, 1) for _ in range(15)] for _ in range(8)]

    reward = Course(3)
    assert not any("spike" in bad for bad in follow(reward, noise(0.0, 0.08) + noise(-0.25, 0.08) + noise(-0.1, 0.06)))
    similarity = Course(3)  # (as large a change without noise: what was learned is lost)
    assert any("spike" in bad for bad in follow(similarity, noise(0.0, 0.01) + noise(-0.9, 0.01) + noise(-0.1, 0.01)))


@pytest.mark.parametrize(
    ("extents", "alarmed"), [((8.0, 16.0), False), ((8.0, 8.0), True), ((math.nan, math.nan), True)]
)
def test_a_rise_that_comes_with_longer_samples_comes_from_the_data(extents: tuple[float, float], alarmed: bool) -> None:
    course, bad = Course(3), []
    for i, part in enumerate(noisy(2.0, 2) + noisy(0.3, 12) + noisy(1.5, 6, seed=1)):
        check = Check(10 * i + 10, math.nan, math.nan, extent=extents[i >= 14])
        course.add(check, part, [0.5, 0.1], [3.0])
        course.follow_spikes(part)
        bad.append(course.statistics(SOUND)["spike"] < 0.5)
    assert any(bad) is alarmed


def test_how_large_samples_were_is_kept_over_a_resume() -> None:
    course = Course(3)
    for i in range(4):
        course.add(Check(i, math.nan, math.nan, extent=8.0 + i), [1.0], [0.5], [3.0])
    other = Course(3)
    other.load(course.state_dict())
    assert [c.extent for c in other.checks] == [8.0, 9.0, 10.0, 11.0]
    old = {name: value for name, value in course.state_dict().items() if name != "extents"}
    other.load(old)
    assert all(math.isnan(c.extent) for c in other.checks)
