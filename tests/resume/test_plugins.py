from __future__ import annotations

import errno
import io
import json
import os
import pickle
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import pytorch_lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.plugins import AsyncCheckpointIO
from torch import nn

from lightning_tricks import DurableCheckpointIO, TrickError, TrickWarning, UnsupportedError
from lightning_tricks.resume import durable_files, plugins
from tests.forked import run_module
from tests.problems import STRICT, Classifier, loader, sgd, weights
from tests.resume.kills import checkpoint, whole
from tests.resume.problems import usable


def number(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["number"])


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# -- kills ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path | None]:
    """A folder on another filesystem than the test's; None where there is none."""
    other = next((p for p in map(Path, ("/dev/shm", "/tmp", "/var/tmp")) if usable(p, tmp_path)), None)
    if other is None:
        yield None
        return
    folder = other / f"kills-{os.getpid()}"
    folder.mkdir()
    yield folder
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def killed(tmp_path: Path, *jobs: tuple[str, Path, int], megabytes: float) -> list[dict[str, Any]]:
    asked = []
    for i, (kind, temporary, kills) in enumerate(jobs):
        folder = tmp_path / f"checkpoints{i}"
        folder.mkdir()
        temporary.mkdir(exist_ok=True)
        asked.append([kind, str(folder), str(temporary), kills, megabytes])
    done = run_module("tests.resume.kills", json.dumps(asked), folder=tmp_path, environment=os.environ, timeout=500)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_a_kill_leaves_a_whole_checkpoint_whatever_the_temporary_folder(tmp_path: Path, elsewhere: Path | None) -> None:
    beside = tmp_path / "temporary"
    for found in killed(tmp_path, ("durable", beside, 6), ("durable", elsewhere or beside, 6), megabytes=2):
        assert found["torn"] == 0 and found["kills"] == 6 and found["whole"]
        assert found["files"] == ["last.ckpt"], "what killed runs left is removed by the next"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_of_hundreds_of_kills_none_tears_a_durable_checkpoint_and_some_tear_lightnings(
    tmp_path: Path, elsewhere: Path | None, capsys: Any
) -> None:
    if elsewhere is None:
        pytest.skip("no second filesystem")
    jobs = (("durable", elsewhere, 200), ("durable", tmp_path / "temporary", 50), ("lightning", elsewhere, 80))
    ours, same, theirs = killed(tmp_path, *jobs, megabytes=4)
    with capsys.disabled():
        print(f"\ntorn: durable {ours['torn']} of {ours['kills']}, Lightning {theirs['torn']} of {theirs['kills']}")
    assert ours["torn"] == same["torn"] == 0
    assert ours["left"] > 0, "kills came while it was writing"
    assert ours["files"] == same["files"] == ["last.ckpt"]
    assert theirs["torn"] > 0


# -- disk full ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"checksum": True, "keep_previous": True}], ids=str)
def test_a_full_disk_leaves_the_old_checkpoint_and_no_temporary_file(tmp_path: Path, options: dict[str, Any]) -> None:
    path, durable = tmp_path / "last.ckpt", DurableCheckpointIO(**options)
    durable.save_checkpoint(checkpoint(1, 0.5), path)
    before = sorted(os.listdir(tmp_path))
    child = os.fork()
    if child == 0:
        seen = 0
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
            durable.save_checkpoint(checkpoint(2, 0.5), path)
        except OSError as error:
            seen = error.errno or 0
        finally:
            os._exit(seen)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == errno.EFBIG
    assert sorted(os.listdir(tmp_path)) == before
    assert whole(path) and durable.load_checkpoint(path)["number"] == 1


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_an_error_while_writing_goes_on_as_it_is(
    tmp_path: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    DurableCheckpointIO().save_checkpoint(checkpoint(1, 0.1), path)
    real, written = durable_files.temporary, []

    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            written.append(len(data))
            if sum(written) > 50_000:
                raise error
            return len(data)

    def temporary(folder: Path) -> Any:
        context = real(folder)

        class Context:
            def __enter__(self) -> Any:
                return Full(), context.__enter__()[1]

            def __exit__(self, *args: Any) -> Any:
                return context.__exit__(*args)

        return Context()

    monkeypatch.setattr(plugins, "temporary", temporary)
    with pytest.raises(type(error)) as caught:
        DurableCheckpointIO().save_checkpoint(checkpoint(2, 0.1), path)
    assert caught.value is error
    assert os.listdir(tmp_path) == ["last.ckpt"] and number(path) == 1


def test_what_cannot_be_pickled_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    class Angry:
        def __reduce__(self) -> Any:
            raise RuntimeError("not me")

    path = tmp_path / "last.ckpt"
    DurableCheckpointIO().save_checkpoint({"number": 1}, path)
    with pytest.raises(RuntimeError, match="not me"):
        DurableCheckpointIO().save_checkpoint({"number": Angry()}, path)
    assert os.listdir(tmp_path) == ["last.ckpt"] and number(path) == 1


# -- what is written ------------------------------------------------------------------------------------------------


def test_the_bytes_are_those_of_lightnings_own_plugin(tmp_path: Path) -> None:
    content = {"state_dict": nn.Linear(300, 300).state_dict(), "epoch": 3, "callbacks": {"a": [1, 2.0, None]}}
    TorchCheckpointIO().save_checkpoint(content, tmp_path / "theirs.ckpt")
    DurableCheckpointIO(checksum=True).save_checkpoint(content, tmp_path / "new" / "folder" / "ours.ckpt")
    ours = tmp_path / "new" / "folder" / "ours.ckpt"
    assert ours.read_bytes() == (tmp_path / "theirs.ckpt").read_bytes()
    assert ours.stat().st_mode == (tmp_path / "theirs.ckpt").stat().st_mode
    assert sorted(os.listdir(ours.parent)) == ["ours.ckpt", "ours.ckpt.sha256"]


def test_file_and_folder_are_flushed_before_and_after_the_replacement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        order.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        sync(descriptor)

    def move(source: Any, target: Any) -> None:
        order.append("replace")
        assert Path(source).parent == Path(target).parent
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", move)
    DurableCheckpointIO().save_checkpoint({"number": 1}, tmp_path / "a" / "last.ckpt")
    assert order == ["folder", "file", "replace", "folder"], "the first is that of the new folder's parent"


def test_a_filesystem_that_cannot_flush_folders_is_taken_as_it_is_but_other_errors_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, answer = os.fsync, errno.EINVAL

    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(answer, "folder")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    DurableCheckpointIO().save_checkpoint({"number": 1}, tmp_path / "last.ckpt")
    assert number(tmp_path / "last.ckpt") == 1
    answer = errno.EIO
    with pytest.raises(OSError, match="folder"):
        DurableCheckpointIO().save_checkpoint({"number": 2}, tmp_path / "last.ckpt")


def test_a_link_to_the_best_checkpoint_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    durable = DurableCheckpointIO(keep_previous=True)
    durable.save_checkpoint({"number": 1}, tmp_path / "best.ckpt")
    (tmp_path / "last.ckpt").symlink_to("best.ckpt")
    durable.save_checkpoint({"number": 2}, tmp_path / "last.ckpt")
    assert number(tmp_path / "best.ckpt") == number(tmp_path / "last.ckpt.previous") == 1
    assert number(tmp_path / "last.ckpt") == 2


# -- loading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", [{}, {"weights_only": None}, {"weights_only": True}, {"weights_only": False}], ids=str
)
@pytest.mark.skipif(not STRICT, reason="Lightning 2.5 takes no weights_only here")
def test_weights_only_means_what_it_means_in_lightning(tmp_path: Path, given: dict[str, Any]) -> None:
    path = tmp_path / "last.ckpt"
    DurableCheckpointIO().save_checkpoint({"root": Path("data")}, path)

    def outcome(plugin: Any) -> Any:
        try:
            return plugin.load_checkpoint(path, **given)
        except pickle.UnpicklingError as error:
            return str(error)

    assert outcome(DurableCheckpointIO(checksum=False, keep_previous=True)) == outcome(TorchCheckpointIO())


@pytest.mark.skipif(bool(STRICT), reason="Lightning takes weights_only itself")
def test_where_lightning_takes_no_weights_only_it_is_had_all_the_same(tmp_path: Path) -> None:
    plugin, path = DurableCheckpointIO(), tmp_path / "last.ckpt"
    plugin.save_checkpoint({"root": Path("data")}, path)
    assert plugin.load_checkpoint(path)["root"] == Path("data")
    with pytest.raises(pickle.UnpicklingError):
        plugin.load_checkpoint(path, weights_only=True)


def test_map_location_and_missing_files_are_treated_as_in_lightning(tmp_path: Path) -> None:
    DurableCheckpointIO().save_checkpoint({"w": torch.ones(2)}, tmp_path / "last.ckpt")
    found = DurableCheckpointIO().load_checkpoint(tmp_path / "last.ckpt", map_location="meta")
    assert found["w"].device.type == "meta"
    for plugin in (DurableCheckpointIO(), DurableCheckpointIO(True, True), TorchCheckpointIO()):
        with pytest.raises(FileNotFoundError, match="Checkpoint file not found"):
            plugin.load_checkpoint(tmp_path / "none.ckpt")


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_flipped_byte_is_found_by_the_checksum(tmp_path: Path, place: float) -> None:
    path, durable = tmp_path / "last.ckpt", DurableCheckpointIO(checksum=True)
    durable.save_checkpoint(checkpoint(1, 0.1), path)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1
    path.write_bytes(data)
    with pytest.raises(TrickError, match=r"last.ckpt is not the file that was written.* remove last.ckpt.sha256"):
        durable.load_checkpoint(path)


def test_sha256sum_reads_the_checksums(tmp_path: Path) -> None:
    durable = DurableCheckpointIO(checksum=True, keep_previous=True)
    for i in (1, 2, 3):
        durable.save_checkpoint({"number": i}, tmp_path / "last.ckpt")
    done = subprocess.run(["sha256sum", "-c", "last.ckpt.sha256"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "last.ckpt: OK\nlast.ckpt.previous: OK\n"


def test_a_file_without_a_checksum_is_loaded_with_a_warning(tmp_path: Path) -> None:
    TorchCheckpointIO().save_checkpoint({"number": 1}, tmp_path / "last.ckpt")
    with pytest.warns(TrickWarning, match="has no checksum beside it"):
        assert DurableCheckpointIO(checksum=True).load_checkpoint(tmp_path / "last.ckpt")["number"] == 1


def test_a_run_without_checksums_after_one_with_them_leaves_no_wrong_one(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    DurableCheckpointIO(checksum=True).save_checkpoint({"number": 1}, path)
    DurableCheckpointIO().save_checkpoint({"number": 2}, path)
    with pytest.warns(TrickWarning, match="no checksum"):
        assert DurableCheckpointIO(checksum=True).load_checkpoint(path)["number"] == 2


@pytest.mark.parametrize("first", [TorchCheckpointIO(), DurableCheckpointIO(checksum=True)], ids=["theirs", "ours"])
@pytest.mark.parametrize("stop", range(1, 9))
def test_at_whichever_step_it_ends_the_checksums_fit_a_loadable_checkpoint(
    tmp_path: Path, first: Any, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, durable = tmp_path / "last.ckpt", DurableCheckpointIO(checksum=True, keep_previous=True)
    first.save_checkpoint({"number": 1}, path)
    calls, replace, sync = [0], os.replace, os.fsync

    def counted(do: Any) -> Any:
        def step(*arguments: Any) -> Any:
            calls[0] += 1
            if calls[0] == stop:
                raise KeyboardInterrupt
            return do(*arguments)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", counted(replace))
        patch.setattr(os, "fsync", counted(sync))
        with pytest.raises(KeyboardInterrupt):
            durable.save_checkpoint({"number": 2}, path)
    sidecar = tmp_path / "last.ckpt.sha256"
    if not sidecar.exists():
        assert number(path) == 1
        return
    assert DurableCheckpointIO(checksum=True).load_checkpoint(path)["number"] in (1, 2)


@pytest.mark.parametrize("options", [{}, {"checksum": True}], ids=str)
@pytest.mark.parametrize("harm", ["torn", "empty", "missing"])
def test_a_torn_newest_falls_back_to_the_previous_one(tmp_path: Path, options: dict[str, Any], harm: str) -> None:
    path, durable = tmp_path / "last.ckpt", DurableCheckpointIO(keep_previous=True, **options)
    for i in (1, 2, 3):
        durable.save_checkpoint(checkpoint(i, 0.1), path)
    assert durable.load_checkpoint(path)["number"] == 3
    {"torn": torn, "empty": lambda p: p.write_bytes(b""), "missing": Path.unlink}[harm](path)
    with pytest.warns(TrickWarning, match=r"last.ckpt is torn or missing .*last.ckpt.previous is loaded instead"):
        assert durable.load_checkpoint(path)["number"] == 2
    with pytest.raises(Exception) as theirs:
        TorchCheckpointIO().load_checkpoint(path)
    checked = "checksum" in options and harm != "missing"
    with pytest.raises(TrickError if checked else type(theirs.value)) as ours:
        DurableCheckpointIO(**options).load_checkpoint(path)
    assert "not the file that was written" in str(ours.value) if checked else str(ours.value) == str(theirs.value)


def test_a_whole_file_that_may_not_be_loaded_does_not_fall_back(tmp_path: Path) -> None:
    durable = DurableCheckpointIO(keep_previous=True)
    durable.save_checkpoint({"number": 1}, tmp_path / "last.ckpt")
    durable.save_checkpoint({"number": 2, "root": Path("data")}, tmp_path / "last.ckpt")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        durable.load_checkpoint(tmp_path / "last.ckpt", weights_only=True)


def test_the_previous_one_is_copied_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*arguments: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    durable = DurableCheckpointIO(keep_previous=True)
    for i in (1, 2, 3):
        durable.save_checkpoint(checkpoint(i, 0.1), tmp_path / "last.ckpt")
    assert number(tmp_path / "last.ckpt.previous") == 2 and number(tmp_path / "last.ckpt") == 3
    assert sorted(os.listdir(tmp_path)) == ["last.ckpt", "last.ckpt.previous"]


def test_removing_a_checkpoint_removes_what_belongs_to_it(tmp_path: Path) -> None:
    durable = DurableCheckpointIO(checksum=True, keep_previous=True)
    for name in ("a.ckpt", "a.ckpt", "b.ckpt"):
        durable.save_checkpoint({"number": 1}, tmp_path / name)
    durable.remove_checkpoint(tmp_path / "a.ckpt")
    durable.remove_checkpoint(tmp_path / "a.ckpt")  # what is gone is no error, as in Lightning
    assert sorted(os.listdir(tmp_path)) == ["b.ckpt", "b.ckpt.sha256"]


# -- refusals -------------------------------------------------------------------------------------------------------


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match=r"DurableCheckpointIO\(checksum=1\): checksum must be True or False"):
        DurableCheckpointIO(checksum=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"keep_previous must be True or False"):
        DurableCheckpointIO(keep_previous="yes")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"storage_options belong to remote filesystems"):
        DurableCheckpointIO().save_checkpoint({}, "a.ckpt", storage_options={})


def test_remote_paths_are_refused_when_saving_and_loaded_by_lightning(tmp_path: Path) -> None:
    durable = DurableCheckpointIO(checksum=True, keep_previous=True)
    for address in ("s3://bucket/last.ckpt", "memory://last.ckpt", "simplecache::s3://bucket/last.ckpt"):
        with pytest.raises(UnsupportedError, match="only local paths can be written durably"):
            durable.save_checkpoint({"number": 1}, address)
    TorchCheckpointIO().save_checkpoint({"number": 1}, "memory://last.ckpt")
    assert durable.load_checkpoint("memory://last.ckpt")["number"] == 1
    durable.remove_checkpoint("memory://last.ckpt")
    with pytest.raises(FileNotFoundError):
        durable.load_checkpoint("memory://last.ckpt")
    durable.save_checkpoint({"number": 2}, f"file://{tmp_path}/last.ckpt")
    assert number(tmp_path / "last.ckpt") == 2


def test_a_folder_of_shards_is_refused_as_a_target_but_can_be_removed(tmp_path: Path) -> None:
    folder = tmp_path / "sharded.ckpt"
    folder.mkdir()
    (folder / "meta.pt").touch()
    with pytest.raises(UnsupportedError, match="the path is a folder, as strategies write that shard"):
        DurableCheckpointIO().save_checkpoint({}, folder)
    DurableCheckpointIO().remove_checkpoint(folder)
    assert not folder.exists()


# -- in a Trainer ---------------------------------------------------------------------------------------------------


def settings(tmp_path: Path, plugin: Any, namespace: Any = L, **options: Any) -> dict[str, Any]:
    keep = namespace.callbacks.ModelCheckpoint(
        tmp_path / "checkpoints", save_last=True, every_n_train_steps=2, enable_version_counter=False
    )
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    return {"callbacks": [keep], "plugins": [plugin], "max_epochs": 1, "default_root_dir": tmp_path, **quiet, **options}


@pytest.mark.parametrize("namespace", [L, pytorch_lightning], ids=["lightning", "pytorch_lightning"])
def test_either_trainer_takes_it_with_modelcheckpoint_and_resumes(namespace: Any, tmp_path: Path) -> None:
    class Net(namespace.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Linear(64, 10)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return sgd(self.parameters(), momentum=0.9)

    plugin = DurableCheckpointIO(checksum=True, keep_previous=True)
    net, folder = Net(), tmp_path / "checkpoints"
    t = namespace.Trainer(**settings(tmp_path, plugin, namespace))
    t.fit(net, loader(64))
    assert t.strategy.checkpoint_io is plugin
    newest = "epoch=0-step=8.ckpt"
    expected = [newest, f"{newest}.sha256", "last.ckpt", "last.ckpt.previous", "last.ckpt.sha256"]
    assert sorted(os.listdir(folder)) == expected, "older ones are removed with what belongs to them"
    assert torch.load(folder / "last.ckpt.previous", weights_only=True)["global_step"] == 6
    whole_run, resumed = Net(), Net()
    namespace.Trainer(**settings(tmp_path / "a", TorchCheckpointIOOf(namespace), namespace, max_epochs=2)).fit(
        whole_run, loader(64)
    )
    t = namespace.Trainer(**settings(tmp_path, plugin, namespace, max_epochs=2))
    t.fit(resumed, loader(64), ckpt_path="last")
    assert torch.equal(weights(resumed), weights(whole_run))
    torn(folder / "last.ckpt")
    with pytest.warns(TrickWarning, match="is torn or missing"):
        namespace.Trainer(**settings(tmp_path, plugin, namespace, max_epochs=3)).fit(
            Net(), loader(64), ckpt_path="last"
        )


def TorchCheckpointIOOf(namespace: Any) -> Any:
    return namespace.plugins.TorchCheckpointIO()


def test_it_works_within_lightnings_asynchronous_plugin(tmp_path: Path) -> None:
    t = L.Trainer(**settings(tmp_path, AsyncCheckpointIO(DurableCheckpointIO())))
    t.fit(Classifier(), loader(64))
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 8
    assert not list(tmp_path.rglob(".durable*"))


@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore")
def test_on_two_processes_one_of_them_writes(tmp_path: Path) -> None:
    plugin = DurableCheckpointIO(checksum=True)
    options = settings(tmp_path, plugin, strategy="ddp_fork", devices=2)
    try:
        L.Trainer(**options).fit(Classifier(), loader(64))
    finally:
        os.environ.pop("MASTER_PORT", None)  # Lightning's launcher leaves it
    path = tmp_path / "checkpoints" / "last.ckpt"
    assert sorted(os.listdir(path.parent)) == ["epoch=0-step=4.ckpt", "epoch=0-step=4.ckpt.sha256", "last.ckpt", "last.ckpt.sha256"]  # fmt: skip
    assert plugin.load_checkpoint(path, weights_only=True)["global_step"] == 4


def test_it_is_pickled_for_other_processes() -> None:
    twin = pickle.loads(pickle.dumps(DurableCheckpointIO(checksum=True)))
    assert twin.checksum and not twin.keep_previous
