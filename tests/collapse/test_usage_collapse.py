from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import pytest
import scipy.stats
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import TrickError, TrickWarning, UsageCollapse
from lightning_tricks.collapse.usage_probe import entries_of
from tests.problems import trainer

K = 16


class Scripted(nn.Module):
    """Returns what a function of the number of the batch and of its size says."""

    def __init__(self, output: Callable[[int, int], Any]) -> None:
        super().__init__()
        self.output, self.calls = output, 0

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        return self.output(self.calls - 1, len(x))


class Module(L.LightningModule):
    """Calls the module; learns nothing."""

    def __init__(self, output: Callable[[int, int], Any], reward: Callable[[int], float] | None = None) -> None:
        super().__init__()
        self.chooser, self.weight, self.reward = Scripted(output), nn.Parameter(torch.zeros(())), reward

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.chooser(batch[0])
        if self.reward is not None:
            self.log("train/reward", torch.tensor(self.reward(self.chooser.calls - 1)))
        return self.weight * 0.0

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def watched(
    output: Callable[[int, int], Any],
    kind: Any = "codebook",
    batches: int = 24,
    batch: int = 128,
    reward: Callable[[int], float] | None = None,
    **more: Any,
) -> tuple[UsageCollapse, list[Any]]:
    """Return the detector after a run, and its alarms."""
    alarms: list[Any] = []
    arguments = {"every_n_steps": 2, "patience": 2, "grace": 0, "action": alarms.append, **more}
    detector = UsageCollapse("chooser", kind, **arguments)
    torch.manual_seed(0)
    data = TensorDataset(torch.zeros(batches * batch, 1))
    trainer([detector]).fit(Module(output, reward), DataLoader(data, batch_size=batch))
    return detector, alarms


def codes(entries: int, of: int = K, since: int = 0) -> Callable[[int, int], Tensor]:
    """Whole numbers: from a batch on only so many of all entries, spread over the range."""

    def output(i: int, n: int) -> Tensor:
        used = entries if i >= since else of
        return torch.randint(used, (n, 4)) * (of // used) + (of - 1) % (of // used)

    return output


def rows(entries: int, of: int = K, scale: float = 5.0) -> Callable[[int, int], Tensor]:
    """Logits of which the largest is one of so many entries."""

    def output(i: int, n: int) -> Tensor:
        return scale * (nn.functional.one_hot(torch.randint(entries, (n,)), of) + 0.01 * torch.randn(n, of))

    return output


# -- what is measured ------------------------------------------------------------------------------------------------


def test_measures_are_those_of_the_batches_before_the_check() -> None:
    seen: list[Tensor] = []

    def output(i: int, n: int) -> Tensor:
        seen.append(torch.randint(K, (n, 4)).square() // K)
        return seen[-1]

    detector, _ = watched(output, every_n_steps=6)
    step, values = detector.history[1]
    assert step == 11
    numbers = torch.cat(seen[10:12])  # two batches of 128 samples with 4 places each are the 1,024 that are wanted
    counts = numbers.flatten().bincount().numpy()
    assert values["samples"] == numbers.numel()
    assert values["entries"] == max(int(s.max()) for s in seen) + 1
    assert values["perplexity"] == pytest.approx(math.exp(scipy.stats.entropy(counts)), rel=1e-5)
    assert values["top_entry"] == counts.argmax()
    assert values["unused_share"] == pytest.approx(1 - (counts > 0).sum() / values["entries"])


@pytest.mark.parametrize("kind", ["codebook", "router", "prototypes"])
@pytest.mark.parametrize("given", ["numbers", "logits", "probabilities", "one-hot", "bool", "tuple", "dict"])
@pytest.mark.parametrize("used", [1, K])
def test_few_entries_are_noticed_in_every_form_and_balanced_use_is_not(kind: Any, given: str, used: int) -> None:
    def output(i: int, n: int) -> Any:
        logits = rows(used)(i, n)
        return {
            "numbers": logits.argmax(1),
            "logits": logits,
            "probabilities": logits.softmax(1),
            "one-hot": nn.functional.one_hot(logits.argmax(1), K),
            "bool": nn.functional.one_hot(logits.argmax(1), K).bool(),
            "tuple": (torch.randn(n, 3), logits.argmax(1), torch.tensor(0.1)),
            "dict": {"logits": logits.unsqueeze(1).expand(n, 2, K)},
        }[given]

    detector, alarms = watched(output, kind)
    names = {"codebook": "codebook collapse", "router": "router collapse", "prototypes": "prototype collapse"}
    assert [a.cause for a in alarms] == ([names[kind]] if used == 1 else [])
    if used == 1:
        assert "100% of these go to" in alarms[0].reasons[0] and len(alarms[0].advice) == 3


def test_a_collapse_in_the_midst_is_told_since_its_step() -> None:
    _, alarms = watched(codes(1, since=10), "codebook", batches=40)
    assert [a.cause for a in alarms] == ["codebook collapse"]
    assert 10 <= alarms[0].since_step <= 13 and alarms[0].step <= 17


def test_a_codebook_that_is_only_beginning_to_be_used_is_left_alone() -> None:
    def output(i: int, n: int) -> Tensor:
        return torch.randint(1 + i // 3, (n, 4))

    assert not watched(lambda i, n: output(i, n).clamp(max=63), batches=60)[1]


# -- false alarms ----------------------------------------------------------------------------------------------------


class Told(Scripted):
    """Says how many codes there are."""

    codebook_size = 8192


@pytest.mark.parametrize("batch", [4, 32])
def test_a_codebook_larger_than_the_window_is_no_alarm(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.collapse.test_usage_collapse.Scripted", Told)
    detector, alarms = watched(lambda i, n: torch.randint(8192, (n,)), batches=64, batch=batch)
    assert detector.history[-1][1]["entries"] == 8192 and detector.history[-1][1]["unused_share"] > 0.9
    assert not alarms


def test_few_samples_conclude_nothing() -> None:
    detector, alarms = watched(lambda i, n: torch.zeros(n, dtype=torch.long), batches=64, batch=1)
    assert detector.history and not alarms


def test_places_of_one_image_do_not_count_as_samples_each() -> None:
    """One image of 1,024 places shows few codes; twenty of them show many."""
    detector, alarms = watched(
        lambda i, n: torch.randint(4, (n, 32, 32)) + 4 * (i % 16), batches=64, batch=1, every_n_steps=20, patience=1
    )
    assert detector.history[-1][1]["usage"] > 0.9 and not alarms
    assert detector.history[0][1]["samples"] == 20 * 1024


@pytest.mark.parametrize("share", [0.9, 0.95])
def test_an_uneven_router_with_few_experts_is_no_alarm(share: float) -> None:
    def output(i: int, n: int) -> Tensor:
        return (torch.rand(n) > share).long()

    assert not watched(output, "router", batches=100, patience=1)[1]


def test_a_background_code_beside_rare_codes_is_no_alarm() -> None:
    def output(i: int, n: int) -> Tensor:
        return torch.where(torch.rand(n, 4) < 0.9, 0, torch.randint(64, (n, 4)))

    assert not watched(output, "codebook", batches=60)[1]


def test_an_undecided_router_is_given_more_time() -> None:
    def output(decided: float) -> Callable[[int, int], Tensor]:
        # nearly uniform probabilities, and always the same largest one
        return lambda i, n: decided * nn.functional.one_hot(torch.zeros(n, dtype=torch.long), 8).float()

    def first(alarms: list[Any]) -> int:
        return int(alarms[0].step)

    slow, quick = watched(output(0.1), "router", batches=40)[1], watched(output(9.0), "router", batches=40)[1]
    assert first(quick) == 3 and first(slow) == 11, "two bad checks against six"


def test_logits_of_an_unknown_temperature_are_no_uniform_prototypes() -> None:
    assert not watched(rows(K, scale=0.001), "prototypes", batches=60)[1]
    alarms = watched(lambda i, n: rows(K, scale=0.001)(i, n).softmax(1), "prototypes", batches=60)[1]
    assert [a.cause for a in alarms] == ["prototype collapse"]
    assert "gives all inputs the same probabilities" in alarms[0].reasons[0]


def test_outputs_that_are_not_finite_are_named() -> None:
    _, alarms = watched(lambda i, n: rows(K)(i, n) * math.nan, "router")
    assert [a.cause for a in alarms] == ["non-finite values"]


# -- policies --------------------------------------------------------------------------------------------------------


def policy(states: int, sharpness: float = 50.0) -> Callable[[int, int], Tensor]:
    """Logits of four actions in so many kinds of states."""
    return lambda i, n: sharpness * nn.functional.one_hot(torch.randint(states, (n,)), 4).float()


def test_one_action_in_all_states_is_a_collapse_and_an_action_for_each_state_is_not() -> None:
    assert [a.cause for a in watched(policy(1), "policy")[1]] == ["policy collapse"]
    assert not watched(policy(4), "policy")[1], "deterministic, and different in different states"
    assert not watched(policy(1, sharpness=0.1), "policy")[1], "the same in all states, and random"


def test_a_rare_action_in_its_own_states_is_health() -> None:
    def rare(depends: bool) -> Callable[[int, int], Tensor]:
        p = torch.tensor([0.005, 0.995])

        def output(i: int, n: int) -> Tensor:
            if not depends:
                return p.log().expand(n, 2)
            return 50.0 * nn.functional.one_hot((torch.arange(n) % 200 != 0).long(), 2)

        return output

    assert not watched(rare(True), "policy", batch=400)[1]
    assert [a.cause for a in watched(rare(False), "policy", batch=400)[1]] == ["policy collapse"]


def test_sampled_actions_are_a_collapse_only_when_one_is_nearly_always_taken() -> None:
    assert watched(lambda i, n: torch.zeros(n, dtype=torch.long), "policy")[1]
    assert not watched(lambda i, n: (torch.rand(n) < 0.05).long(), "policy")[1]


@pytest.mark.parametrize(("last", "alarmed"), [(1.0, False), (0.25, True)])
def test_a_reward_that_rose_tells_learning_from_collapse(last: float, alarmed: bool) -> None:
    detector, alarms = watched(
        policy(1), "policy", batches=60, grace=20, reward=lambda i: last if i else 0.25, patience=3
    )
    assert bool(alarms) is alarmed
    assert detector.history[-1][1]["reward"] == pytest.approx(last)


def test_a_policy_that_stops_exploring_while_the_reward_is_flat_is_a_collapse() -> None:
    def output(i: int, n: int) -> Tensor:
        return policy(4, sharpness=0.1 if i < 10 else 50.0)(i, n)

    noise = torch.rand(200, generator=torch.Generator().manual_seed(0)).tolist()
    flat = watched(output, "policy", batches=60, reward=lambda i: noise[i])[1]
    assert "but the reward did not rise" in flat[0].reasons[0]
    assert not watched(output, "policy", batches=60, reward=lambda i: noise[i] / 9 + (i > 4))[1]


def test_a_reward_may_be_returned_and_a_loss_is_not_one() -> None:
    class Returning(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return {"loss": loss, "return_loss": torch.tensor(7.0), "episode_return": torch.tensor([1.0, 2.0])}

    detector = UsageCollapse("chooser", "policy", every_n_steps=2, action="log")
    data = DataLoader(TensorDataset(torch.zeros(1024, 1)), batch_size=128)
    trainer([detector]).fit(Returning(policy(4)), data)
    assert [values["reward"] for _, values in detector.history] == [1.5] * 4


# -- K, and names ----------------------------------------------------------------------------------------------------


class Quantiser(nn.Module):
    def __init__(self, **sizes: Any) -> None:
        super().__init__()
        for name, value in sizes.items():
            setattr(self, name, value)


@pytest.mark.parametrize(
    ("module", "entries"),
    [
        (Quantiser(codebook_size=512), 512),
        (Quantiser(table=nn.Embedding(64, 8)), 64),
        (Quantiser(table=nn.Embedding(64, 8), other=nn.Embedding(9, 8)), 0),
        (Quantiser(inner=Quantiser(table=nn.Embedding(64, 8))), 0),
        (Quantiser(num_experts="8"), 0),
        (Quantiser(num_codes=True, num_experts=4), 4),
        (nn.Linear(3, 4), 0),
    ],
)
def test_a_module_may_say_how_many_entries_it_has(module: nn.Module, entries: int) -> None:
    assert entries_of(module) == entries


def test_a_number_of_entries_that_is_exceeded_is_of_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scripted, "num_embeddings", 4, raising=False)
    detector, _ = watched(codes(K))
    assert detector.history[-1][1]["entries"] == K


def test_channels_of_a_convolution_are_the_entries() -> None:
    class Convolution(Module):
        def __init__(self) -> None:
            super().__init__(rows(K))
            self.conv = nn.Conv2d(1, 12, 3)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.conv(batch[0].view(-1, 1, 1, 1).expand(-1, 1, 8, 8))
            return self.weight * 0.0

    detector = UsageCollapse("conv", every_n_steps=2, action="log")
    data = DataLoader(TensorDataset(torch.randn(512, 1)), batch_size=128)
    trainer([detector]).fit(Convolution(), data)
    assert detector.history[-1][1]["entries"] == 12


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda i, n: torch.zeros(n), r"its output \(Tensor\) holds neither whole numbers nor rows"),
        (lambda i, n: None, r"its output \(NoneType\) holds neither"),
        (lambda i, n: torch.full((n,), 2**40), r"its output holds 1099511627776, which is not the number of an entry"),
    ],
)
def test_an_output_without_assignments_is_refused_at_the_first_batch(output: Any, message: str) -> None:
    with pytest.raises(TrickError, match=message):
        watched(output)


def test_a_module_that_is_not_called_is_refused() -> None:
    class Silent(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.weight * 0.0

    data = DataLoader(TensorDataset(torch.zeros(8, 1)))
    with pytest.raises(TrickError, match="it was not called in the first training step. Name one that is"):
        trainer([UsageCollapse("chooser")]).fit(Silent(rows(K)), data)


def test_a_kind_that_does_not_exist_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"kind='prototype'.*Did you mean 'prototypes'\?"):
        UsageCollapse("chooser", "prototype")  # type: ignore[arg-type]


# -- state -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "output"), [("codebook", codes(2, 64)), ("policy", policy(1))])
def test_a_resumed_run_measures_and_judges_as_the_whole_one(kind: Any, output: Any, tmp_path: Any) -> None:
    def part(epochs: int, start: Any = None) -> UsageCollapse:
        detector = UsageCollapse("chooser", kind, every_n_steps=3, patience=5, grace=0, action="log")

        def fixed(i: int, n: int) -> Any:
            torch.manual_seed(i + (5 if start else 0))
            return output(i, n)

        module = Module(fixed, reward=lambda i: 0.3)
        t = trainer([detector], max_epochs=epochs)
        data = DataLoader(TensorDataset(torch.zeros(5 * 128, 1)), batch_size=128)
        t.fit(module, data, ckpt_path=start)
        t.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return detector

    whole, first = part(4), part(1)
    torch.load(tmp_path / "1.ckpt", weights_only=True)
    resumed = part(4, tmp_path / "1.ckpt")
    assert [repr(row) for row in resumed.history] == [repr(row) for row in whole.history[len(first.history) :]]
    assert resumed.verdict == whole.verdict and whole.verdict.alarmed
    states = [d.state_dict()["state"] for d in (whole, resumed)]
    assert repr(states[0]) == repr(states[1])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("entries", 2**30, "the number of entries in the checkpoint is too large"),
        ("start", torch.zeros(3), "the first reward in the checkpoint is not a sum and a number"),
        ("sums", {"numbers": torch.zeros(2, 2), "effective": torch.zeros(())}, "must have 1 dimensions"),
        ("sums", {"numbers": torch.zeros(2)}, r"\['effective'\] is missing"),
        ("sums", [1.0], "must be a dict"),
    ],
)
def test_a_damaged_state_is_refused(key: str, value: Any, message: str) -> None:
    state = watched(policy(4), "policy", action="log")[0].state_dict()
    state["state"][key] = value
    detector = UsageCollapse("chooser", "policy", every_n_steps=2, patience=2, grace=0, action="log")
    data = DataLoader(TensorDataset(torch.zeros(256, 1)), batch_size=128)
    with pytest.raises((TrickError, ValueError), match=message):
        detector.load_state_dict(state)
        trainer([detector]).fit(Module(policy(4)), data)


def test_a_figure_shows_the_shares_and_a_state_is_plain() -> None:
    detector, _ = watched(codes(3, 9))
    draw = detector.watch.probe.figure(detector.history)
    assert draw is not None
    assert draw().axes[0].get_title() == "usage of chooser"
    buffer = io.BytesIO()
    torch.save(detector.state_dict(), buffer)
    buffer.seek(0)
    torch.load(buffer, weights_only=True)


def test_a_warning_says_what_to_try() -> None:
    with pytest.warns(TrickWarning, match=r"router collapse since step \d+ .*Try: add a load-balancing loss"):
        watched(codes(1), "router", action="warn")


def test_numbers_that_are_all_negative_are_left_out_without_a_word() -> None:
    detector, alarms = watched(lambda i, n: torch.full((n,), -1))
    assert detector.history[-1][1]["samples"] == 0 and not alarms


def test_a_resume_before_the_first_check_still_learns_how_many_entries_there_are(tmp_path: Any) -> None:
    def part(epochs: int, start: Any = None) -> UsageCollapse:
        detector = UsageCollapse("chooser", every_n_steps=7, action="log")
        t = trainer([detector], max_epochs=epochs)
        data = DataLoader(TensorDataset(torch.zeros(5 * 128, 1)), batch_size=128)
        t.fit(Module(codes(K)), data, ckpt_path=start)
        t.save_checkpoint(tmp_path / "a.ckpt")
        return detector

    assert not part(1).history
    assert part(2, tmp_path / "a.ckpt").history[0][1]["entries"] == K
