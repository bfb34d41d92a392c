"""Trains twice under torchrun, undisturbed and killed as planned; each process leaves what came of it, as JSON.

The processes that torchrun starts again find the first training done, and go on with the second. Usage::

    python -m torch.distributed.run ... -m tests.resume.restarts FOLDER '{"kills": [{"rank": 1, "batch": 17}]}'

A kill is at the end of a batch, counted from 1, or in the midst of writing a checkpoint: ``{"checkpoint": 2}``.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_tricks import DurableCheckpointIO, ExactResume, GradientAccumulation, GradientClip, LRSchedule
from lightning_tricks.resume import durable_files
from tests.problems import weights
from tests.resume.problems import Augmented, Net

RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))  # torchrun sets them
EVERY = 5  # updates from checkpoint to checkpoint


def die(folder: Path, number: int, said: str) -> None:
    """End as ``kill -9`` does, unless this kill has been; leave what was there to say."""
    note = folder / f"killed{number}.txt"
    if not note.exists():
        note.write_text(said)
        os.kill(os.getpid(), signal.SIGKILL)


class DieAfterBatch(L.Callback):
    def __init__(self, folder: Path, kills: list[dict[str, int]]) -> None:
        self.folder, self.kills = folder, kills

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        batch = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        for number, kill in enumerate(self.kills):
            if (RANK, batch) == (kill.get("rank"), kill.get("batch")):
                die(self.folder, number, f"update {trainer.global_step}")


class SaveAtBatch(L.Callback):
    """In the middle of windows too, where ModelCheckpoint writes nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.total.ready % EVERY == 0:
            trainer.save_checkpoint(self.path)


class DieWhileWriting(DurableCheckpointIO):
    """Dies when some of a checkpoint's bytes are in the file, and others are not."""

    folder: Path
    kills: list[dict[str, int]]

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        update = checkpoint["global_step"]
        due = [i for i, kill in enumerate(self.kills) if kill.get("checkpoint") == update // EVERY]
        whole, writes = durable_files.Sink.write, 0

        def write(sink: Any, data: bytes) -> int:
            nonlocal writes
            writes += 1
            if due and writes > 10:
                sink.flush()
                (temporary,) = self.folder.glob(".durable-checkpoint-*.tmp")
                die(self.folder, due[0], f"{temporary.stat().st_size} bytes")
            return whole(sink, data)

        durable_files.Sink.write = write  # type: ignore[method-assign,assignment]
        try:
            super().save_checkpoint(checkpoint, path, storage_options)
        finally:
            durable_files.Sink.write = whole  # type: ignore[method-assign]


def train(folder: Path, kills: list[dict[str, int]], window: int, gradients: bool) -> None:
    """Train, or go on where the newest checkpoint is; do nothing where it is done."""
    result, last = folder / f"rank{RANK}.json", folder / "last.ckpt"
    if result.exists():
        return
    durable = DieWhileWriting(keep_previous=True)
    durable.folder, durable.kills = folder, kills
    begun = last.exists()
    L.seed_everything(77 if begun else 3, verbose=False)  # what a checkpoint does not hold is another one
    saver = SaveAtBatch(last) if gradients else ModelCheckpoint(
        folder, "last", every_n_train_steps=EVERY, enable_version_counter=False
    )  # fmt: skip
    tricks = [GradientClip(1.0), LRSchedule("cosine", warmup="10%"), GradientAccumulation(window)]
    trainer = L.Trainer(
        accelerator="cpu", devices=WORLD, strategy="ddp" if WORLD > 1 else "auto", max_epochs=3, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=not gradients, plugins=[durable],
        callbacks=[*tricks, ExactResume(gradients), DieAfterBatch(folder, kills), saver],
    )  # fmt: skip
    module = Net()
    trainer.fit(module, DataLoader(Augmented(88), 4, shuffle=True), ckpt_path=last if begun else None)
    digest = hashlib.sha256(weights(module).numpy().tobytes()).hexdigest()
    restarts = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    result.write_text(json.dumps({"digest": digest, "restarts": restarts, "updates": trainer.global_step}))


def main() -> None:
    warnings.simplefilter("ignore")
    folder, plan = Path(sys.argv[1]), json.loads(sys.argv[2])
    for name, kills in (("whole", []), ("killed", plan["kills"])):
        (folder / name).mkdir(exist_ok=True)
        train(folder / name, kills, plan["window"], plan["gradients"])


if __name__ == "__main__":
    main()
