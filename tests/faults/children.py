"""The faults that end a process, or happen between two. They are played in children, forked from a server that has
imported everything; what they leave behind is then resumed in the process of the test."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from lightning_tricks import TrickError
from lightning_tricks.resume import durable_files
from tests.faults.scenes import BATCHES, durable, exactly, example, fitted, fitted_by, goes_on, no_hooks, pick
from tests.forked import server
from tests.matrix import EXAMPLES, UNDER
from tests.problems import Classifier, loader, trainer, weights

DONE, REFUSED = 10, 20  # exit codes
LONGEST = 30.0  # seconds until a process counts as hanging


def run(function: Callable[..., Any], *arguments: Any, processes: int = 1, longest: float = LONGEST) -> list[int]:
    """Run a function in children that know of one another; return their exit codes, negative ones being signals."""
    context = server()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    started = [
        context.Process(target=_child, args=(rank if processes > 1 else None, port, os.getcwd(), function, arguments))
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(longest)
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
        process.join()
        process.close()
    assert None not in codes, f"a process hangs: {codes}"
    return [code or 0 for code in codes]


def _child(rank: int | None, port: int, folder: str, function: Callable[..., Any], arguments: Any) -> None:
    os.chdir(folder)  # else it is where the test session began
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # (a session in the background ignores it, and so would this)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if rank is not None:
        os.environ.update(
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), GROUP_RANK="0",
            WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", TORCHELASTIC_RUN_ID="faults",
        )  # fmt: skip
    try:
        function(*arguments)
    except TrickError:
        os._exit(REFUSED)
    os._exit(DONE)


class Strike(L.Callback):
    """Does something once, in a hook of the update that is asked for."""

    def __init__(self, hook: str, update: int, do: Callable[[], None]) -> None:
        self.update, self.do, self.done = update, do, False
        setattr(self, hook, self._called)

    def _called(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step >= self.update and not self.done:
            self.done = True
            self.do()


def send(which: signal.Signals) -> None:
    os.kill(os.getpid(), which)


MOMENTS = ("on_train_batch_start", "on_before_backward", "on_before_optimizer_step", "on_before_zero_grad")


def arguments_of(name: str) -> dict[str, Any]:
    return {"precision": UNDER.get(name, "32-true")}


def struck(name: str, folder: Path, which: signal.Signals) -> None:
    """Train, and get a signal at some moment of some update after the first."""
    strike = Strike(MOMENTS[pick(name, 4)], 1 + pick(name[::-1], BATCHES - 2), functools.partial(send, which))
    t = trainer(exactly([strike, example(name)], folder), **durable(arguments_of(name)))
    module = Classifier()
    try:
        fitted_by(t, module)
    except SystemExit:
        no_hooks(t, module)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        return
    raise AssertionError("nothing struck")


def killed_while_writing(name: str, folder: Path, elsewhere: Path | None) -> None:
    """Be killed at some write, flush or replacement after the first whole checkpoint."""
    left = pick(name, 40)

    def counted(real: Any) -> Any:
        def called(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if (folder / "last.ckpt").exists():
                left -= 1
                if left < 0:
                    send(signal.SIGKILL)
            return real(*args, **kwargs)

        return called

    if elsewhere is not None:
        tempfile.tempdir = str(elsewhere)
    os.fsync, os.replace = counted(os.fsync), counted(os.replace)
    durable_files.Sink.write = counted(durable_files.Sink.write)  # type: ignore[method-assign]
    fitted(Classifier(), exactly([example(name)], folder), durable(arguments_of(name)))
    raise AssertionError("nothing was written")


def resumed_after(name: str, folder: Path, codes: list[int], wanted: list[int]) -> str:
    if codes == [REFUSED] * len(codes):
        return "refused"
    assert codes == wanted, codes
    goes_on([example(name)], folder, arguments_of(name))
    return "passed"


def kill_at_any_step(name: str, folder: Path) -> str:
    return resumed_after(name, folder, run(struck, name, folder, signal.SIGKILL), [-signal.SIGKILL])


def terminate(name: str, folder: Path) -> str:
    return resumed_after(name, folder, run(struck, name, folder, signal.SIGTERM), [DONE])


def interrupt(name: str, folder: Path) -> str:
    return resumed_after(name, folder, run(struck, name, folder, signal.SIGINT), [DONE])


def kill_while_writing(name: str, folder: Path) -> str:
    return resumed_after(name, folder, run(killed_while_writing, name, folder, None), [-signal.SIGKILL])


def kill_while_writing_elsewhere(name: str, folder: Path) -> str:
    """The folder for temporary files is on another filesystem, where there is one."""
    elsewhere = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    try:
        codes = run(killed_while_writing, name, folder, elsewhere)
        assert not list(elsewhere.iterdir())
    finally:
        shutil.rmtree(elsewhere)
    return resumed_after(name, folder, codes, [-signal.SIGKILL])


# -- two processes --------------------------------------------------------------------------------------------------

EVERYTHING = "all together"


def tricks_of(name: str) -> list[Any]:
    return [example(each) for each in (sorted(EXAMPLES) if name == EVERYTHING else [name])]


def two(name: str, folder: Path, *others: Any, strategy: Any = None, **given: Any) -> nn.Module:
    """Train on two processes."""
    module = Classifier()
    # A process whose neighbour left it waits that long; Lightning's default is half an hour.
    strategy = strategy or DDPStrategy(timeout=timedelta(seconds=5))
    settings = {**durable(arguments_of(name)), "strategy": strategy, "devices": 2}
    t = fitted(module, exactly([*others, *tricks_of(name)], folder), settings, loader(16 * BATCHES), **given)
    no_hooks(t, module)
    return module


def whole_on_two(name: str, folder: Path) -> None:
    torch.save(weights(two(name, folder)), folder / "whole.pt")


def resumed_on_two(name: str, folder: Path) -> None:
    found = weights(two(name, folder, ckpt_path=folder / "last.ckpt"))
    assert torch.equal(found, torch.load(folder / "whole.pt", weights_only=True)), "the resumed run is another one"


def one_dies(name: str, folder: Path, which: signal.Signals) -> None:
    mine = [Strike("on_train_batch_start", 3, functools.partial(send, which))] if os.environ["RANK"] == "1" else []
    try:
        two(name, folder, *mine)
    except (RuntimeError, SystemExit):  # what gloo says of a neighbour that is gone
        return
    raise AssertionError("nothing struck")


def kill_one_of_two(name: str, folder: Path) -> str:
    """The other one must end, and both be able to resume from what it saved."""
    codes = run(whole_on_two, name, folder, processes=2)
    if codes == [REFUSED, REFUSED]:
        return "refused"
    assert codes == [DONE, DONE], codes
    (folder / "last.ckpt").unlink()
    assert run(one_dies, name, folder, signal.SIGKILL, processes=2) == [DONE, -signal.SIGKILL]
    torch.load(folder / "last.ckpt", weights_only=True)
    assert run(resumed_on_two, name, folder, processes=2) == [DONE, DONE]
    return "passed"


def terminate_one_of_two(name: str, folder: Path) -> str:
    """Lightning 2.6.6 waits in the signal's handler for a broadcast that nobody sends (its issue 20806); what ends the
    wait is the timeout of the process group. What was saved before must be good then."""
    codes = run(one_dies, name, folder, signal.SIGTERM, processes=2)
    assert all(code in (DONE, -signal.SIGABRT) for code in codes), codes
    torch.load(folder / "last.ckpt", weights_only=True)
    return "passed"


def other_number_of_processes(name: str, folder: Path) -> str:
    """Saved by two, resumed by one: right, or told; never an error from the depths."""
    codes = run(whole_on_two, name, folder, processes=2)
    if codes == [REFUSED, REFUSED]:
        return "refused"
    assert codes == [DONE, DONE], codes
    module = Classifier()
    t = fitted(module, [example(name)], {**arguments_of(name), "max_epochs": 2}, ckpt_path=folder / "last.ckpt")
    no_hooks(t, module)
    assert weights(module).isfinite().all()
    return "passed"


def launched(name: str, folder: Path, start: str) -> None:
    os.environ.clear()
    two(name, folder, strategy=start)


def fork_launcher(name: str, folder: Path) -> str:
    code = run(launched, name, folder, "ddp_fork")
    assert code in ([DONE], [REFUSED]), code
    return "refused" if code == [REFUSED] else "passed"


def spawn_launcher(name: str, folder: Path) -> str:
    # its processes import everything anew, which is no hang
    assert run(launched, name, folder, "ddp_spawn", longest=100.0) == [DONE]
    return "passed"
