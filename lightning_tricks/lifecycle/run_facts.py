"""``run.json``: the facts of a run that no curve tells, beside the logs that Lightning's loggers keep on the disk.

Written when training starts and again when it ends, by the first process. A report for somebody who did not train the
model is made from it.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

NAME = "run.json"
_PACKAGES = ("torch", "lightning", "pytorch-lightning", "lightning-tricks")
_SHOWN = ("lr", "momentum", "nesterov", "betas", "weight_decay")


class RunFacts:
    """Writes the facts of one fit.

    Args:
        run: the ``TrainingRun``; the loggers of its Trainer say where.
    """

    def __init__(self, run: Any) -> None:
        self._run = run
        self._folders = folders_of(run.trainer)
        self._facts: dict[str, Any] = {}
        self._began = datetime.now(timezone.utc)

    def begin(self) -> None:
        """Write what is known when training starts."""
        if self._folders:
            self._facts = {"started": self._began.isoformat(timespec="seconds"), "ended": None}
            self._facts |= known({name: (lambda f=f: f(self._run.trainer)) for name, f in _FACTS.items()})  # type: ignore[misc]
            self._write()

    def end(self, outcome: str) -> None:
        """Write how it ended, with what the tricks have found; the first word about that counts."""
        if not self._folders or self._facts.get("ended") is not None:
            return
        run, now = self._run, datetime.now(timezone.utc)
        self._facts |= {"ended": now.isoformat(timespec="seconds"), "outcome": outcome[:2000]}
        self._facts["seconds"] = round((now - self._began).total_seconds(), 1)
        self._facts |= known({"steps": lambda: run.step, "updates": lambda: _updates(run)})
        for trick in run.tricks:
            self._facts |= trick.guarded(trick.facts) or {}
        self._write()

    def _write(self) -> None:
        for folder in self._folders:
            with suppress(OSError):  # a full disk ends no training
                folder.mkdir(parents=True, exist_ok=True)
                # Renamed when complete: whoever reads it while training runs, or after a kill, finds the old file or
                # the new one.
                unfinished = folder / f".{NAME}.part"
                unfinished.write_text(json.dumps(self._facts, indent=1, default=str), encoding="utf-8")
                unfinished.replace(folder / NAME)


def folders_of(trainer: Any) -> list[Path]:
    """Return the folders in which loggers keep files, on the first process; none in a ``fast_dev_run``."""
    if not trainer.is_global_zero or trainer.fast_dev_run:
        return []
    found = [getattr(logger, "log_dir", None) for logger in trainer.loggers]
    return list(dict.fromkeys(Path(folder) for folder in found if isinstance(folder, (str, Path)) and str(folder)))


def known(ask: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """Return the facts that can be found out.

    >>> known({"a": lambda: 1, "b": lambda: [][0], "c": lambda: None})
    {'a': 1}
    """
    found = {}
    for name, fact in ask.items():
        with suppress(Exception):  # what a user's model or loader does when it is asked must not end a run
            value = fact()
            if value is not None:
                found[name] = value
    return found


def commit_of(folder: Path) -> str | None:
    """Return the git commit that is checked out in a folder or above it; None where there is none. Runs no program."""
    for parent in (folder, *folder.parents):
        git = parent / ".git"
        if git.is_file():  # (a worktree or a submodule names its folder there)
            git = (parent / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()).resolve()
        if (git / "HEAD").is_file():
            return _commit_in(git)
    return None


def _commit_in(git: Path) -> str | None:
    head = (git / "HEAD").read_text(encoding="utf-8").strip()
    if not head.startswith("ref: "):
        return head
    # (a worktree has a HEAD of its own, and its branches in the folder of the repository)
    common = git / (git / "commondir").read_text(encoding="utf-8").strip() if (git / "commondir").is_file() else git
    name = head.removeprefix("ref: ")
    if (common / name).is_file():
        return (common / name).read_text(encoding="utf-8").strip()
    packed = common / "packed-refs"
    lines = packed.read_text(encoding="utf-8").splitlines() if packed.is_file() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {name}")), None)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a run depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    # which build of torch it is, as "+cu130", stands in its own words only
    return found | {"torch": str(torch.__version__)}


def optimizer_in_words(optimizer: Any) -> str:
    """Return an optimizer with the settings of its first parameter group.

    >>> optimizer_in_words(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9))
    'SGD(lr=0.1, momentum=0.9)'
    """
    group = optimizer.param_groups[0]
    start = {**group, "lr": group.get("initial_lr", group["lr"])}
    settings = [f"{name}={_rounded(start[name])}" for name in _SHOWN if start.get(name)]
    return f"{type(optimizer).__name__}({', '.join(settings)})"


def _rounded(value: Any) -> Any:
    return f"{float(value):.4g}" if isinstance(value, (float, torch.Tensor)) else value


def _updates(run: Any) -> int:
    # (a host read where only the device knows; the run is over)
    return max(int(run.clock.applied(view.index)) for view in run.views)


def _device(trainer: Any) -> str:
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    return f"{trainer.world_size} x {name}" if trainer.world_size > 1 else name


_FACTS: dict[str, Callable[[Any], Any]] = {
    "model": lambda trainer: type(trainer.lightning_module).__name__,
    "parameters": lambda trainer: sum(p.numel() for p in trainer.lightning_module.parameters()),
    "trained_parameters": lambda trainer: sum(
        p.numel() for p in trainer.lightning_module.parameters() if p.requires_grad
    ),
    "optimizers": lambda trainer: [optimizer_in_words(optimizer) for optimizer in trainer.optimizers],
    "training_samples": lambda trainer: len(trainer.train_dataloader.dataset),
    "batches_per_epoch": lambda trainer: _finite(trainer.num_training_batches),
    "max_epochs": lambda trainer: trainer.max_epochs,
    "precision": lambda trainer: str(trainer.precision),
    "device": _device,
    "versions": lambda trainer: versions(),
    "commit": lambda trainer: commit_of(Path.cwd()),
}


def _finite(count: Any) -> int | None:
    return int(count) if count < float("inf") else None
