"""lr_find and sanity_check: one line, no Trainer, no trace."""

from __future__ import annotations

import copy
import logging
import random
import warnings
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import pytorch_lightning
import torch

from lightning_tricks import LRFinder, SanityCheck, TrickError, lr_find, sanity_check
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.without_trainer import CheckTable
from tests.problems import Classifier, Collapsed, fit, loader, trainer


def test_the_rate_is_that_of_the_callback() -> None:
    module, twin = Classifier(), Classifier()
    result = lr_find(module, loader(480), num_steps=60)
    finder = LRFinder(num_steps=60, apply=False)
    fit(twin, [finder], n=480)
    assert finder.result is not None and result.suggestion == finder.result.suggestion
    assert result.losses == finder.result.losses


def test_the_answers_are_those_of_the_callback(capsys: Any) -> None:
    table = sanity_check(Collapsed(), loader(480))
    assert capsys.readouterr() == ("", "")
    check = SanityCheck()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(Collapsed(), [check], n=480)
    assert [(c.name, c.passed) for c in table] == [(c.name, c.passed) for c in check.checks]


def test_validation_data_are_compared_where_they_are_given() -> None:
    class Validated(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            raise AssertionError("no validation is run")

    data = loader(480)
    assert "validation data are new" not in [c.name for c in sanity_check(Validated(), data)]
    found = {c.name: c.passed for c in sanity_check(Validated(), data, data)}
    assert found["validation data are new"] is False


@pytest.mark.parametrize("look", [lambda m, d: lr_find(m, d, num_steps=20), sanity_check])
def test_nothing_is_different_afterwards(look: Any) -> None:
    module = Classifier()
    module.net.eval()
    before = copy.deepcopy(module.state_dict())
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    levels = {name: logging.getLogger(name).level for name in ("lightning.pytorch", "lightning.fabric")}
    look(module, loader(96))
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in before.items())
    assert module.training and not module.net.training and module._trainer is None
    assert all(p.grad is None for p in module.parameters())
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()
    assert (states[2] == np.random.get_state()[1]).all()
    assert levels == {name: logging.getLogger(name).level for name in levels}


def test_the_module_keeps_the_trainer_that_it_has() -> None:
    module = Classifier()
    own = trainer()
    module.trainer = own
    lr_find(module, loader(96), num_steps=20)
    assert module.trainer is own


def test_not_a_word_is_said(capsys: Any, caplog: Any, recwarn: Any) -> None:
    lr_find(Classifier(), loader(96), num_steps=20)
    sanity_check(Classifier(), loader(96))
    assert capsys.readouterr() == ("", "") and not caplog.records and not recwarn.list


def test_a_module_of_the_other_namespace_is_taken() -> None:
    class Other(pytorch_lightning.LightningModule):
        training_step = Classifier.training_step
        configure_optimizers = Classifier.configure_optimizers

        def __init__(self) -> None:
            super().__init__()
            vars(self).update(vars(Classifier()))

    assert len(lr_find(Other(), loader(96), num_steps=20).lrs) > 3


def test_a_data_module_is_taken() -> None:
    class Data(L.LightningDataModule):
        def train_dataloader(self) -> Any:
            return loader(96)

    assert lr_find(Classifier(), Data(), num_steps=20).losses == lr_find(Classifier(), loader(96), num_steps=20).losses


@pytest.mark.parametrize("look", [lr_find, sanity_check])
def test_what_is_no_lightning_module_is_refused(look: Any) -> None:
    with pytest.raises(
        TypeError, match=r"\(module='Linear'\): module must be a LightningModule\. Put the network into"
    ):
        look(torch.nn.Linear(1, 1), loader())


def test_a_rate_is_never_set() -> None:
    with pytest.raises(TypeError, match=r"lr_find\(apply=True\): lr_find never sets a rate\. Set result\.suggestion"):
        lr_find(Classifier(), loader(), apply=True)
    with pytest.raises(TypeError, match=r"Did you mean 'num_steps'\?|LRFinder has no argument"):
        lr_find(Classifier(), loader(), number_steps=3)


class Failing(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        raise ValueError("there is no label")


@pytest.mark.parametrize("look", [lr_find, sanity_check])
def test_where_nothing_could_be_done_the_error_says_why(look: Any) -> None:
    with pytest.raises(TrickError, match=rf"^{look.__name__}: .*there is no label"):
        look(Failing(), loader())
    with pytest.raises(TrickError, match="cannot be iterated"):
        look(Classifier(), [1, 2, 3])


CHECKS = (
    Check("inputs matter", True, "outputs change"),
    Check("initial loss", False, "4.1; knowing nothing gives 2.3", "drop <one> softmax"),
    Check("data are shuffled", None, "not known"),
)


def test_the_failed_ones_are_known() -> None:
    table = CheckTable(CHECKS)
    assert not table.ok and table.failed == [CHECKS[1]] and list(table) == list(CHECKS) and len(table) == 3
    assert CheckTable(CHECKS[:1]).ok


def test_every_form_holds_all_answers_and_the_remedy_in_full() -> None:
    table = CheckTable(CHECKS)
    assert str(table).splitlines() == [
        "pass  inputs matter      outputs change",
        "FAIL  initial loss       4.1; knowing nothing gives 2.3",
        "      -> drop <one> softmax",
        "?     data are shuffled  not known",
    ]
    assert (
        table.markdown().splitlines()[3]
        == "| initial loss | FAIL | 4.1; knowing nothing gives 2.3 | drop <one> softmax |"
    )
    html = table._repr_html_()
    assert html.count("<tr>") == 4 and "drop &lt;one&gt; softmax" in html


def test_a_table_without_answers_is_empty() -> None:
    assert str(CheckTable(())) == "" and CheckTable(()).ok
