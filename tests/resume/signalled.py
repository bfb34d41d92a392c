"""Trains one process under a scheduler's signals, and goes on where a checkpoint is; leaves a digest of the weights.

Usage: ``python -m tests.resume.signalled FOLDER SIGNAL BATCH WHERE [later]``. The process sends itself the signal at a
batch, counted from 1, at its end (WHERE is ``end``) or inside of ``training_step`` (``inside``); BATCH 0 is never.
With ``later`` SIGUSR1 is taken by a handler of this script, which saves at the end of the batch, as the page
"from one GPU to many" recommends. Under the variables of SLURM, Lightning installs its handlers for SIGUSR1.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader

from lightning_tricks import DurableCheckpointIO, ExactResume, GradientAccumulation, GradientClip, LRSchedule
from tests.problems import weights
from tests.resume.problems import Augmented, Net


class SaveWhenTold(L.Callback):
    """Notes a signal, and saves at the end of the batch: a checkpoint from inside of a step is of no batch."""

    def __init__(self, path: Path) -> None:
        self.path, self.told = path, False

    def note(self, *_: Any) -> None:
        self.told = True

    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        if self.told:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


class Signal(L.Callback):
    """Sends this process a signal, once, in the first run only."""

    def __init__(self, number: int, batch: int, where: str, note: Path) -> None:
        self.number, self.batch, self.where, self.file = number, batch, where, note
        self.count = 0

    def send(self) -> None:
        if self.count == self.batch and not self.file.exists():
            self.file.touch()
            os.kill(os.getpid(), self.number)

    def on_train_batch_start(self, *_: Any) -> None:
        self.count += 1

    def on_before_backward(self, *_: Any) -> None:
        if self.where == "inside":
            self.send()

    def on_train_batch_end(self, *_: Any) -> None:
        if self.where == "end":
            self.send()


def main() -> None:
    warnings.simplefilter("ignore")
    # a launcher may have left others: what this relies on is set here
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    folder, name, batch, where = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
    later = SaveWhenTold(folder / "told.ckpt")
    if "later" in sys.argv:
        signal.signal(signal.SIGUSR1, later.note)
    begun = (folder / "sent").exists()
    L.seed_everything(77 if begun else 3, verbose=False)
    # on a SIGTERM Lightning raises at the end of the batch, and ModelCheckpoint saves then
    saver = ModelCheckpoint(folder, "regular", every_n_train_steps=10**6, save_on_exception=True)
    number = getattr(signal, name)
    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_epochs=3, logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, plugins=[DurableCheckpointIO()],
        callbacks=[GradientClip(1.0), LRSchedule("cosine", warmup="10%"), GradientAccumulation(2),
                   ExactResume(gradients=True), later, Signal(number, batch, where, folder / "sent"), saver],
    )  # fmt: skip
    found = sorted(folder.glob("*.ckpt")) if begun and not list(folder.glob("hpc_*")) else []
    module = Net()
    try:
        trainer.fit(module, DataLoader(Augmented(88), 4, shuffle=True), ckpt_path=found[-1] if found else None)
    except SIGTERMException:
        sys.exit(143)
    if trainer.should_stop and trainer.current_epoch < 3 and later.told:
        sys.exit(99)
    digest = hashlib.sha256(weights(module).numpy().tobytes()).hexdigest()
    (folder / "digest.txt").write_text(f"{digest} {trainer.global_step}")


if __name__ == "__main__":
    main()
