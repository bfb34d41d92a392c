from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import cells, claims, figures, precision, precision_report
from benchmarks.__main__ import main
from benchmarks.cells import Plan, measure, settings_for
from benchmarks.settings import PRECISIONS, Setting, all_flags
from benchmarks.workloads import Storage, Workload, workloads
from tests.benchmarks import made_up
from tests.benchmarks.made_up import interval, result
from tests.legible import faults

CPU = torch.device("cpu")
CEILINGS = {"flops": dict.fromkeys(PRECISIONS, 1e12), "bytes_per_second": 1e11, "matmul_size": 8}
FAST = Plan(5, 0.001, 1, 1)


@pytest.mark.timeout(110)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "names",
    [("mlp_tab", "simsiam"), pytest.param(tuple(workloads("quick")), marks=pytest.mark.slow)],
    ids=["two workloads", "all of the quick form"],
)
def test_the_whole_pipeline_runs_and_keeps_everything(names: tuple[str, ...], tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "q.json"
    logs = tmp_path / "logs"
    flags = all_flags()
    only = [] if names == tuple(workloads("quick")) else ["--only", ",".join(names)]
    command = ["run", "precision", "--quick", *only, "--out", str(out), "--tensorboard", str(logs)]
    assert main(command) == 0
    assert all_flags() == flags
    found = json.loads(out.read_text())
    assert out.with_suffix(".md").read_text() == precision_report.markdown(found)
    assert found["complete"]
    assert found["schema"] == 2
    assert {"commit", "flags", "threads", "torch", "cpu"} <= set(found["environment"])
    done = {(c["workload"], c["setting"]): c for c in found["cells"]}
    assert set(names) == {name for name, _ in done}
    for name in names:
        assert done[name, "tf32"]["status"] == done[name, "16-mixed"]["status"] == "unavailable"
        for setting in ("ieee-fp32", "bf16-mixed", "bf16-true"):
            cell = done[name, setting]
            assert cell["status"] == "ok", cell
            assert len(cell["seconds"]) == 5
            assert cell["faster_than_ieee-fp32"]["low"] <= cell["faster_than_ieee-fp32"]["high"]
        assert done[name, "bf16-true"]["memory_of_ieee-fp32"] < 0.75
        assert done[name, "bf16-mixed"]["gradient_cosine"] > 0.9
        assert {"pack_cost", "pack_cost_off", "pack_cost_logged"} <= set(done[name, "bf16-mixed"])
        assert done[name, "ieee-fp32 again"]["faster_than_main"]["low"] < 2
    assert "faster_than_uncached" in done["simsiam", "bf16-mixed+cache"]
    assert done["simsiam", "bf16-mixed+cache"]["memory_of_uncached"] < 1
    for kind in ("speed", "memory", "accuracy"):
        assert out.with_name(f"q_{kind}.png").stat().st_size > 5_000
    assert any(logs.rglob("events*"))
    assert main(["compare", str(out), str(out)]) == 0
    assert main([*command, "--resume"]) == 0
    assert json.loads(out.read_text())["cells"] == found["cells"], "what was there is not measured again"
    assert "written:" in capsys.readouterr().out


@pytest.mark.parametrize("profile", [pytest.param("gpu", marks=pytest.mark.slow), "cpu"])
def test_every_workload_of_every_profile_can_be_counted(profile: str) -> None:
    """The GPU's sizes are exercised without memory: on the meta device."""
    from benchmarks.counting import model_flops

    for name, workload in workloads(profile).items():
        if profile == "gpu":
            with torch.device("meta"):
                module = workload.make(False)
            tokens = {"gpt": (8, 1024), "bert": (16, 512), "lstm_lm": (64, 128)}
            shapes = {"lstm": (128, 256, 256), "mlp_tab": (4096, 64)}
            if name in tokens:
                rows, length = tokens[name]
                batch: Any = (torch.zeros(rows, length, dtype=torch.int64, device="meta"), torch.zeros(rows * length, dtype=torch.int64, device="meta"))  # fmt: skip
            elif name in shapes:
                batch = (torch.zeros(shapes[name], device="meta"), torch.zeros(shapes[name][0], dtype=torch.int64, device="meta"))  # fmt: skip
            else:
                pixels = 64 if name in ("dcgan", "simsiam") else 224
                images = torch.zeros(8, 3, pixels, pixels, device="meta")
                batch = (images, images if name == "simsiam" else torch.zeros(8, dtype=torch.int64, device="meta"))
        else:
            module, batch = workload.make(False), workload.batches()[0]
        assert model_flops(module, batch) > 1e6, name


def test_known_sizes_are_those_of_the_papers() -> None:
    """ResNet-50: 25.6 M weights and 4.1 G multiply-adds; ResNet-18: 11.7 M, 1.8 G; ViT-S/16: 22 M, 4.6 G;
    ViT-B/16: 86.6 M, 17.6 G; ConvNeXt-T: 28.6 M, 4.5 G."""
    from benchmarks.counting import model_flops

    for name, weights, multiply_adds in (
        ("resnet50", 25.6e6, 4.1e9),
        ("resnet18", 11.7e6, 1.82e9),
        ("vit", 22e6, 4.6e9),
        ("vit_b", 86.5e6, 17.5e9),
        ("convnext", 28.6e6, 4.5e9),
    ):
        with torch.device("meta"):
            module = workloads("gpu")[name].make(False)
        assert sum(p.numel() for p in module.parameters()) == pytest.approx(weights, rel=0.02), name
        batch = (torch.zeros(1, 3, 224, 224, device="meta"), torch.zeros(1, dtype=torch.int64, device="meta"))
        assert model_flops(module, batch) == pytest.approx(3 * 2 * multiply_adds, rel=0.06), name


def test_an_lstms_work_is_counted_though_torch_does_not_see_it() -> None:
    from benchmarks.counting import model_flops

    workload = workloads("cpu")["lstm"]
    n, steps, into, width, classes = 64, 24, 32, 64, 16
    forward = 2 * n * (steps * 4 * width * (into + width) + width * classes)
    # neither the input nor the first hidden state needs a gradient
    wanted = 3 * forward - 2 * n * steps * 4 * width * into - 2 * n * 4 * width * width
    assert model_flops(workload.make(False), workload.batches()[0]) == wanted


def test_out_of_memory_and_errors_mark_their_cell_and_the_rest_goes_on() -> None:
    known = workloads("quick")["mlp_tab"]

    def make(fused: bool) -> Any:
        module = known.make(fused)
        step = module.training_step

        def training_step(batch: Any, batch_idx: int) -> Any:
            if torch.is_autocast_enabled("cpu"):
                raise torch.OutOfMemoryError("no memory")
            if module.net[0].weight.dtype == torch.bfloat16:
                raise ValueError("no bfloat16\nsecond line")
            return step(batch, batch_idx)

        module.training_step = training_step
        return module

    hungry = Workload("x", "", "rows", 128, make, known.batches)
    with precision._quiet():
        found = measure(hungry, settings_for(hungry, ["ieee-fp32", "bf16-mixed", "bf16-true"]), CPU, FAST, CEILINGS)
    by_name = {c["setting"]: c for c in found}
    assert by_name["ieee-fp32"]["status"] == "ok"
    assert by_name["bf16-mixed"]["status"] == by_name["bf16-mixed+pack"]["status"] == "out of memory"
    assert by_name["bf16-true"]["reason"] == "ValueError: no bfloat16"
    assert "out of memory" in precision_report.markdown({**result(), "cells": [{**c, "text": ""} for c in found]})


def test_what_is_only_missed_while_lanes_run_marks_the_cell_too(monkeypatch: pytest.MonkeyPatch) -> None:
    known, real = workloads("quick")["mlp_tab"], cells._lane

    def lane(workload: Any, setting: Setting, *rest: Any) -> Any:
        if setting.precision == "bf16-true":
            raise torch.OutOfMemoryError("six models are too many")
        return real(workload, setting, *rest)

    monkeypatch.setattr(cells, "_lane", lane)
    with precision._quiet():
        found = measure(known, settings_for(known, ["ieee-fp32", "bf16-true"]), CPU, FAST, CEILINGS)
    assert {c["setting"]: c["status"] for c in found}["bf16-true"] == "out of memory"
    assert found[0]["status"] == "ok"


# the quick form of the whole pipeline trains a small one of the last kind
@pytest.mark.parametrize("name", ["mlp_tab", *(pytest.param(n, marks=pytest.mark.slow) for n in ("dcgan", "simsiam"))])
def test_all_columns_of_a_gpu_are_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU has and a CPU has not is played: TF32 by its flags alone, 16-mixed by a real GradScaler."""
    from lightning.pytorch.plugins import MixedPrecision

    def arguments(self: Setting, device: torch.device) -> dict[str, Any]:
        if self.precision == "16-mixed":
            return {"plugins": [MixedPrecision("16-mixed", "cpu")]}
        return {"precision": self.precision if self.precision[:4] in ("bf16", "16-m") else "32-true"}

    monkeypatch.setattr(Setting, "missing", lambda self, device: "")
    monkeypatch.setattr(Setting, "trainer", arguments)
    workload = workloads("cpu")[name]
    with precision._quiet():
        found = measure(workload, settings_for(workload, PRECISIONS), CPU, FAST, CEILINGS)
    by_name = {c["setting"]: c for c in found}
    assert all(c["status"] == "ok" for c in found), [c.get("reason") for c in found]
    half = by_name["16-mixed"]
    assert half["skipped_steps"] >= 0
    assert 1.0 <= half["loss_scale"] <= 65536.0
    assert half["gradient_cosine"] > 0.9, "the loss scale does not turn a gradient"
    for cell in found:
        assert {"faster_than_ieee-fp32", "faster_than_tf32", "memory_of_tf32", "mfu_ceiling"} <= set(cell)
    text = precision_report.markdown({**result(), "cells": [{**c, "text": name} for c in found]})
    assert f"| {name} | 16-mixed |" in text
    page = claims.page([{**result(), "cells": [{**c, "text": name} for c in found], "file": "r.json"}])
    assert "over tf32:" in page


def test_an_interrupted_run_keeps_what_is_finished(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    real, out = precision.measure, tmp_path / "a.json"
    seen: list[str] = []

    def measure_two(workload: Workload, *arguments: Any, **options: Any) -> Any:
        seen.append(workload.name)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(workload, *arguments, **options)

    monkeypatch.setattr(precision, "measure", measure_two)
    two = ["--only", "mlp_tab,lstm"]
    command = ["--quick", *two, "--sections", "speed", "--rounds", "5", "--precisions", "ieee-fp32,bf16-mixed", "--out", str(out), "--tensorboard", str(tmp_path)]  # fmt: skip
    assert precision.main(command) == 130
    first = json.loads(out.read_text())
    assert not first["complete"]
    assert {c["workload"] for c in first["cells"]} == {seen[0]}
    assert "Not complete" in out.with_suffix(".md").read_text()
    monkeypatch.setattr(precision, "measure", real)
    assert f"--sections speed --rounds 5 --precisions ieee-fp32,bf16-mixed --out {out}" in capsys.readouterr().out
    assert precision.main([*command, "--resume"]) == 0
    second = json.loads(out.read_text())
    assert second["complete"]
    assert second["cells"][: len(first["cells"])] == first["cells"]
    assert {c["workload"] for c in second["cells"]} == {"mlp_tab", "lstm"}
    with pytest.raises(SystemExit, match="was measured with precisions"):
        precision.main(["--quick", *two, "--out", str(out), "--resume", "--precisions", "ieee-fp32"])
    out.write_text("{")
    with pytest.raises(SystemExit, match="cannot be read .*Remove it"):
        precision.main([*command, "--resume"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "resnet19"], r"not one of resnet18.*Did you mean 'resnet18'"),
        (["--precisions", "bf16-mixd"], r"not one of ieee-fp32.*Did you mean 'bf16-mixed'"),
        (["--precisions", ","], "names none"),
        (["--sections", "speeed"], "Did you mean 'speed'"),
        (["--rounds", "-1"], "must be > 0"),
        (["--rounds", "4"], "at least 5, since the interval"),
        (["--data-root", "nowhere"], "no such folder"),
        (["--profile", "gpu"], "sees no CUDA device.*--profile cpu"),
    ],
    ids=str,
)
def test_bad_input_is_named(arguments: list[str], words: str, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        precision.main(["--profile", "cpu", *arguments])
    assert re.search(words, capsys.readouterr().err.replace("\n", " ").replace("  ", " "), re.S)


@pytest.mark.parametrize("name", PRECISIONS)
def test_flags_hold_within_a_setting_and_are_put_back(name: str) -> None:
    before = all_flags()
    with Setting(name).flags():
        inside = all_flags()
    assert all_flags() == before
    tf32 = name == "tf32"
    assert inside["cuda.matmul.allow_tf32"] is tf32
    assert inside["cudnn.allow_tf32"] is (tf32 or name == "torch-default")
    assert inside["float32_matmul_precision"] == ("high" if tf32 else "highest")


def test_lanes_hold_their_flags_only_while_they_run() -> None:
    from benchmarks.measure import Lane

    seen: list[str] = []

    def train(batches: Any) -> None:
        for _ in batches:
            seen.append(torch.get_float32_matmul_precision())

    lane = Lane("x", train, [0], 1, around=Setting("tf32").flags)
    lane.block(2)
    assert torch.get_float32_matmul_precision() == "highest"
    lane.block(1)
    lane.stop()
    assert set(seen[:2]) == {"high"}


def test_columns_of_a_workload() -> None:
    names = [s.name for s in settings_for(workloads("cpu")["dcgan"], PRECISIONS)]
    packs = ["ieee-fp32 again", "bf16-mixed+pack", "bf16-mixed+pack logged"]
    assert names == [*PRECISIONS, *packs, "bf16-mixed+cache", "16-mixed+cache"]
    on_gpu = [s.name for s in settings_for(workloads("gpu")["resnet50"], PRECISIONS, gpu=True)]
    assert on_gpu == [*PRECISIONS, *packs, "tf32 contiguous", "bf16-mixed contiguous"]
    assert [s.name for s in settings_for(workloads("cpu")["data_bound"], ["tf32", "bf16-true"])] == ["tf32"]


def test_a_slow_store_sets_the_pace() -> None:
    import time

    store = Storage([(torch.zeros(1),)], 0.02)
    start = time.perf_counter()
    for i in range(5):
        store[i % len(store)]
    assert time.perf_counter() - start >= 0.08


def test_no_claim_is_made_where_the_interval_contains_1() -> None:
    assert precision_report.ratio({"value": 1.2, "low": 0.99, "high": 1.4}).startswith("no claim")
    assert precision_report.ratio({"value": 1.2, "low": 1.01, "high": 1.4}) == "1.20 [1.01, 1.40]x"
    text = precision_report.markdown(result())
    assert "| net | bf16-mixed | 5.00 |" in text
    assert "2.00 [1.90, 2.10]x" in text


def test_pictures_are_drawn_from_a_result(tmp_path: Path) -> None:
    paths = figures.draw(result(), tmp_path / "r.json")
    assert [p.name for p in paths] == ["r_speed.png", "r_memory.png", "r_accuracy.png"]


def many_cells(values: tuple[float, ...]) -> dict[str, Any]:
    """A result with long names, every precision, and verdicts at every place."""
    made, base = result(), "ieee-fp32"
    made["environment"] |= {
        "gpu": "NVIDIA H100 80GB HBM3",
        "cuda": "12.8",
        "lightning": "2.6.6",
        "torch": "2.13.0+cu128",
    }
    made["profile"] = "gpu"
    shares = {f"faster_than_{base}": interval(3.14, 0.4), f"memory_of_{base}": 1.0}
    made["cells"] = [
        {**made_up.cell(precision, 10.0, 100, **shares), "workload": workload}
        for workload in ("resnet50", "gpt_124m_packed", "data_bound")
        for precision in figures.COLORS
    ]
    row = made["accuracy"][0]["rows"][1]
    made["accuracy"][0]["task"] = "cifar10_resnet18"
    made["accuracy"][0]["rows"][1:] = [
        {**row, "precision": p, "difference": interval(v, 0.1), "verdict": "INCONCLUSIVE"}
        for p, v in zip(list(figures.COLORS)[1:], values, strict=False)
    ]
    return made


@pytest.mark.parametrize("values", [(0.1, -0.1), (9.0, -9.0, 0.0), (0.01, 0.2, -0.55, 0.8)], ids=str)
def test_pictures_can_be_read_at_400_pixels(values: tuple[float, ...]) -> None:
    drawn = figures.pictures(many_cells(values)) | {f"{k}, small": f for k, f in figures.pictures(result()).items()}
    assert len(drawn) == 6
    assert {kind: found for kind, figure in drawn.items() if (found := faults(figure))} == {}


def test_logs_of_the_same_name_are_replaced(tmp_path: Path) -> None:
    for _ in range(2):
        figures.tensorboard(result(), tmp_path / "r")
        # of each cell one file of hparams and one of scalars, of each precision's accuracy one
        assert len(list(tmp_path.rglob("events*"))) == 3 * 2 + 2


# -- claims -------------------------------------------------------------------------------------------------------


def test_claims_follow_from_the_numbers() -> None:
    page = claims.page([{**result(), "file": "r.json"}])
    assert "reached in 1 of 1 cells" in page, "2.0 times is at least 1.7"
    assert "net bf16-mixed 60%" in page
    assert (
        "the same within 0.5 points of accuracy and 1 % of the bits per byte (digits after 2 epochs, 3 seeds)" in page
    )
    assert "the whole order in 1 of 1" in page
    assert "at most 1 % by the interval's upper limit in 0 of 1" in page, "the interval reaches to 1.015"
    slow = copy.deepcopy(result())
    for cell in slow["cells"]:
        if "faster_than_ieee-fp32" in cell:
            cell["faster_than_ieee-fp32"] = {"value": 1.1, "low": 0.9, "high": 1.2}
    text = claims.page([{**slow, "file": "r.json"}])
    assert "not reached here" in text
    assert "no claim in 1" in text


def test_a_gpus_result_comes_first_and_unfinished_ones_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "FOLDER", tmp_path)
    for name, changed in (
        ("a.json", {"date": "2026-01-01"}),
        ("b.json", {"date": "2026-02-01"}),
        ("c.json", {"date": "2026-03-01", "complete": False}),
        ("d.json", {"date": "2026-01-01", "profile": "gpu"}),
        ("e.json", {"date": "2026-04-01", "profile": "quick"}),
        ("f.json", {"date": "2026-05-01", "command": "python -m benchmarks run precision --only lstm"}),
        ("g.json", {"date": "2026-06-01", "only": ["lstm"]}),
    ):
        (tmp_path / name).write_text(json.dumps({**result(), **changed}))
    assert [r["file"] for r in claims.newest()] == ["d.json", "b.json"]
    assert "No GPU was measured" not in claims.page(claims.newest())
    readme = "head\n<!-- precision: made -->\nold\n<!-- /precision -->\ntail"
    new = claims.with_headline(readme, claims.newest())
    assert new.startswith("head\n<!-- precision: made -->\n")
    assert new.endswith("<!-- /precision -->\ntail")
    assert "old" not in new
    assert "2.00 [1.90, 2.10]x" in new


def test_the_page_and_the_headline_tables_are_those_of_the_results() -> None:
    assert claims.PAGE.read_text() == claims.page(claims.newest(), claims.newest_tricks())
    pages = [path.read_text() for path in claims.HEADLINES]
    assert pages == [claims.with_headline(page, claims.newest(), claims.newest_tricks()) for page in pages]
    assert "<!-- precision" in pages[0] and "<!-- tricks" in pages[1]
