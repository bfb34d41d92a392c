"""What goes back takes the averages of the weights along, whoever keeps them."""

from __future__ import annotations

import copy
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lightning_tricks import Rollback, TrainingDoctor
from lightning_tricks.detection.averages import averages, put_averages
from tests.problems import Classifier, digits, trainer

_DECAY = 0.9


class Shadow(L.Callback):
    """Keeps averages in a dict, as many published callbacks do."""

    def on_train_start(self, t: Any, module: Any) -> None:
        self.shadow = {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def on_train_batch_end(self, t: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        for name, p in module.named_parameters():
            self.shadow[name].lerp_(p, 1 - _DECAY)

    def average(self) -> list[Tensor]:
        return list(self.shadow.values())


class Listed:
    """Keeps averages in a list, as torch_ema does, with a state of its own."""

    def __init__(self, parameters: Any) -> None:
        self.shadow_params = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, parameters: Any) -> None:
        for mine, p in zip(self.shadow_params, parameters, strict=True):
            mine.lerp_(p, 1 - _DECAY)

    def state_dict(self) -> dict[str, Any]:
        return {"shadow_params": self.shadow_params}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.shadow_params = state["shadow_params"]


class OwnAverage(Classifier):
    """A module that keeps such an object itself."""

    def on_fit_start(self) -> None:
        self.ema = Listed(self.parameters())

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.ema.update(self.parameters())


def ruined(at: int) -> Any:
    """A loss that is NaN in one batch of the first epoch."""
    return lambda batch_idx, loss: loss * float("nan") if batch_idx == at else loss


def fit(module: Any, callbacks: list[Any], *, epochs: int) -> None:
    trainer(callbacks, max_epochs=epochs).fit(module, torch.utils.data.DataLoader(digits(1792), batch_size=64))


def once(module: Any, at: int) -> Any:
    """Let one update of the run be ruined."""
    spoil = ruined(at)

    def only_once(batch_idx: int, loss: Tensor) -> Tensor:
        result: Tensor = spoil(batch_idx, loss)
        if result is not loss:
            module.spoil = None
        return result

    module.spoil = only_once
    return module


def doctor() -> TrainingDoctor:
    return TrainingDoctor(4, action=Rollback(accumulate_factor=1))


@pytest.mark.filterwarnings("ignore::lightning_tricks.TrickWarning")
@pytest.mark.parametrize("kind", ["dict in a callback", "list in the module", "Lightning's EMA", "Lightning's SWA"])
def test_after_a_rollback_from_nan_averages_are_numbers_again(kind: str) -> None:
    module: Any = OwnAverage() if kind == "list in the module" else Classifier()
    others: dict[str, list[Any]] = {
        "dict in a callback": [Shadow()],
        "Lightning's EMA": [EMAWeightAveraging(decay=_DECAY)],
        "Lightning's SWA": [StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1, annealing_epochs=1)],
    }
    callbacks = others.get(kind, [])
    fit(once(module, 20), [*callbacks, watch := doctor()], epochs=4)
    assert watch.alarms  # (the run did fail, and went on)
    tensors = {
        "dict in a callback": lambda: callbacks[0].average(),
        "list in the module": lambda: module.ema.shadow_params,
    }.get(kind, lambda: list(module.parameters()))()  # (Lightning's put the average into the module at the end)
    assert all(t.isfinite().all() for t in tensors)


def test_without_averages_nothing_is_kept() -> None:
    assert averages(Classifier(), [doctor(), L.Callback()]) == {}


def test_the_weights_themselves_are_no_average() -> None:
    module = Classifier()
    holder = L.Callback()
    holder.__dict__.update(module=module, weights=list(module.parameters()), state=dict(module.named_parameters()))
    assert averages(module, [holder]) == {}


def test_averages_go_back_in_place() -> None:
    module, holder = nn.Linear(3, 2), L.Callback()
    holder.__dict__["model"] = model = AveragedModel(module)
    model.update_parameters(module)
    saved = copy.deepcopy(averages(module, [holder]))
    with torch.no_grad():
        module.weight.fill_(torch.nan)
    model.update_parameters(module)
    model.update_parameters(module)
    assert model.module.weight.isnan().all()
    put_averages(saved, module, [holder])
    assert model.module.weight.isfinite().all()
    assert int(model.n_averaged) == 1


def test_other_lists_of_tensors_are_left_alone() -> None:
    module, holder = nn.Linear(3, 2), L.Callback()
    holder.__dict__.update(losses=[torch.zeros(())], stats={"mean": torch.zeros(3)}, mixed=[torch.zeros(2, 3), "name"])
    assert averages(module, [holder]) == {}


def test_models_in_a_dict_or_an_object_of_a_script_are_found() -> None:
    module, holder = nn.Linear(3, 2), L.Callback()
    average = AveragedModel(module)
    box = type("Box", (), {})()
    box.average = average
    for held in ({"average": average}, [average], box):
        holder.__dict__["held"] = held
        assert [len(tensors) for tensors in averages(module, [holder]).values()] == [3]
