from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_tricks.config_check import check, check_file

GOOD = """
seed_everything: 1
trainer:
  max_epochs: 3
  callbacks:
    - class_path: lightning_tricks.GradientClip
      init_args: {rule: {class_path: lightning_tricks.AutoClip, init_args: {percentile: 20.0}}}
    - class_path: lightning_tricks.gradients.callbacks.GradientMonitor
    - class_path: LRFinder
      init_args: {min_lr: 1e-6}
    - class_path: lightning_tricks.LRSchedule
      init_args: {decay: one_cycle, momentum: [0.95, 0.85]}
    - class_path: lightning_tricks.DeadUnits
      init_args: {action: {class_path: lightning_tricks.Rollback}}
    - class_path: lightning.pytorch.callbacks.EarlyStopping
      init_args: {monitor: val_loss}
model:
  class_path: my.Model
optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1}}
"""


def test_a_good_config_has_no_problem_and_what_is_not_ours_is_named() -> None:
    findings = check(yaml.safe_load(GOOD))
    assert findings.problems == [] and findings.checked == 7
    assert findings.unchecked == ["lightning.pytorch.callbacks.EarlyStopping", "my.Model", "torch.optim.SGD"]


@pytest.mark.filterwarnings("ignore")  # jsonargparse on its own future
def test_what_is_good_is_taken_by_lightningcli_too(tmp_path: Path) -> None:
    from lightning.pytorch.cli import LightningCLI
    from lightning.pytorch.demos.boring_classes import BoringModel

    content = yaml.safe_load(GOOD)
    del content["model"], content["optimizer"]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    arguments = ["--config", str(tmp_path / "c.yaml"), "--trainer.logger", "false"]
    cli: Any = LightningCLI(BoringModel, run=False, args=arguments, save_config_callback=None)
    assert len(cli.trainer.callbacks) >= 6


def callback(path: str, **arguments: Any) -> dict[str, Any]:
    return {"trainer": {"callbacks": [{"class_path": path, "init_args": arguments}]}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (callback("lightning_tricks.GradientClip", rul=1.0), r"init_args\.rul: GradientClip has no argument 'rul'. Did you mean 'rule'"),
        (callback("lightning_tricks.GradientClp"), r"no class 'lightning_tricks.GradientClp'. Did you mean 'lightning_tricks.GradientClip'"),
        (callback("GradientMonitr"), "Did you mean 'lightning_tricks.GradientMonitor'"),
        (callback("lightning_tricks.cli.main"), "no class 'lightning_tricks.cli.main'"),
        (callback("lightning_tricks.GradientClip", rule=-1.0), r"callbacks\[0\]: .*max_norm must be > 0"),
        (callback("lightning_tricks.RepresentationCollapse"), "RepresentationCollapse needs layer"),
        (callback("lightning_tricks.GradientClip", rule={"class_path": "lightning_tricks.ZClip", "init_args": {"alhpa": 1}}), r"rule\.init_args\.alhpa: ZClip has no argument 'alhpa'. Did you mean 'alpha'"),
        ({"trainer": {"callbacks": [{"class_pth": "x"}]}}, "a callback is written as class_path"),
        ({"trainer": {"callbacks": [{"class_path": "lightning_tricks.GradientClip", "init_arg": {}}]}}, "Did you mean 'init_args'"),
        ({"trainer": {"callbacks": [{"class_path": "lightning_tricks.GradientClip", "init_args": [1]}]}}, "is not a mapping"),
        ({"trainer": {"max_epoch": 3}}, "trainer.max_epoch: Trainer has no argument 'max_epoch'. Did you mean 'max_epochs'"),
        ({"trianer": {}}, "trianer: the config has no argument 'trianer'. Did you mean 'trainer'"),
        ({"fit": {"trainer": {"max_epoch": 3}}}, "fit.trainer.max_epoch"),
        ({"trainer": {"callbacks": "lightning_tricks.GradientClp"}}, "Did you mean 'lightning_tricks.GradientClip'"),
        ({"model": {"init_args": {"tricks": [{"class_path": "lightning_tricks.AGC", "init_args": {"factr": 1}}]}}}, r"model\.init_args\.tricks\[0\]\.init_args\.factr"),
    ],
)  # fmt: skip
def test_each_mistake_is_named_with_its_place(content: dict[str, Any], words: str) -> None:
    problems = check(content).problems
    assert len(problems) == 1 and re.search(words, problems[0]), problems


def test_a_key_of_a_cli_of_ones_own_is_no_mistake() -> None:
    assert check({"my_early_stopping": {"patience": 3}, "trainer": {"max_epochs": 1}}).problems == []


def test_nothing_that_the_file_names_is_imported(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "sneaky.py").write_text("open('was_here', 'w').close()")
    monkeypatch.syspath_prepend(str(tmp_path))
    content = """
trainer:
  logger: {class_path: sneaky.Logger}
  callbacks:
    - class_path: sneaky.Nope
    - {class_path: lightning_tricks.DeadUnits, init_args: {action: sneaky.function}}
    - {class_path: lightning_tricks.GradientClip, init_args: {rule: {class_path: sneaky.Rule}}}
    - {class_path: lightning_tricks.GradientAccumulation, init_args: {weight: sneaky.weight}}
model: {class_path: sneaky.Model}
"""
    (tmp_path / "c.yaml").write_text(content)
    findings = check_file(tmp_path / "c.yaml")
    assert "sneaky" not in sys.modules and not (tmp_path / "was_here").exists()
    assert findings.problems == [] and "sneaky.Nope" in findings.unchecked


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: [", "invalid YAML"),
        ("- 1", "no mapping"),
        ("!!python/object/apply:os.getpid []", "invalid YAML"),
        ("", "no mapping"),
    ],
)
def test_what_is_no_config_is_told(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(ValueError, match=words):
        check_file(tmp_path / "c.yaml")


def test_a_script_is_sent_to_the_command_that_runs_it(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("")
    with pytest.raises(ValueError, match="a Python file. Pass a YAML config; lightning-tricks doctor runs a script."):
        check_file(tmp_path / "train.py")
