"""The command ``lightning-tricks``: check a config, draw a schedule, report on a run.

lightning-tricks check config.yaml              a misspelt key, and the nearest right one
lightning-tricks schedule --decay cosine        a schedule as PNG
lightning-tricks report runs/demo/version_0     what happened in a run, as one HTML page
lightning-tricks demo | bench ...               in a checkout of the repository
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one command; return its exit code: 0 for good, 1 for findings, 2 for wrong use.

    Example:
        >>> main(["check", "no_such_file.yaml"])
        no_such_file.yaml: no such file. Pass the path of a YAML config.
        2
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    if given[:1] in (["demo"], ["bench"]):
        return _in_checkout(given[0], given[1:])
    options = parser.parse_args(given)
    return int(options.do(options))


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("lightning-tricks", description=__doc__, formatter_class=form)
    commands = parser.add_subparsers(required=True, metavar="command")
    check = commands.add_parser("check", help="name what is wrong in a LightningCLI config, without running it")
    check.add_argument("config", nargs="+", help="YAML files")
    check.set_defaults(do=_check)
    schedule = commands.add_parser("schedule", help="draw a schedule into a PNG")
    schedule.add_argument("--decay", default="cosine", help="name of a decay (default: cosine)")
    schedule.add_argument("--updates", type=int, default=1000, help="length of the run (default: 1000)")
    schedule.add_argument("--lr", type=float, default=1.0, help="base rate (default: 1)")
    schedule.add_argument("--warmup", default=None, help="updates, epochs (2ep) or a share (5%%)")
    schedule.add_argument("--warmup-shape", default="linear", help="linear, cosine, exponential or constant")
    schedule.add_argument("--warmup-start", type=float, default=0.0, help="multiplier at which the warm-up begins")
    schedule.add_argument("--hold", default="0", help="length at the base rate")
    schedule.add_argument("--final", type=float, default=0.0, help="multiplier at the end")
    schedule.add_argument("-o", "--output", default="schedule.png", help="the picture (default: schedule.png)")
    schedule.set_defaults(do=_schedule)
    report = commands.add_parser("report", help="write one page about a run, from its logs")
    report.add_argument("run", help="folder of a run: TensorBoard events or metrics.csv")
    report.add_argument(
        "-o", "--output", default=None, help="the page, .html or .md (default: report.html and .md in it)"
    )
    report.add_argument("--compare", metavar="RUN2", default=None, help="folder of another run to compare it with")
    report.add_argument("--watch", action="store_true", help="renew the page every 30 seconds until the run has ended")
    report.set_defaults(do=_report)
    for name, text in (("demo", "train on real data for half a minute"), ("bench", "run the benchmarks")):
        commands.add_parser(name, help=f"{text} (in a checkout)", add_help=False)
    return parser


def _check(options: argparse.Namespace) -> int:
    from lightning_tricks.config_check import check_file

    worst = 0
    for path in options.config:
        try:
            findings = check_file(Path(path))
        except (OSError, ValueError) as error:
            print(f"{path}: {error}")
            worst = 2
            continue
        for finding in findings.problems:
            print(f"{path}: {finding}")
        for name in findings.unchecked:
            print(f"{path}: {name} is not ours: not imported, not checked")
        if not findings.problems:
            print(f"{path}: {findings.checked} of ours checked, nothing wrong")
        worst = max(worst, int(bool(findings.problems)))
    return worst


def _schedule(options: argparse.Namespace) -> int:
    from lightning_tricks.schedules.callbacks import LRSchedule

    try:
        schedule = LRSchedule(
            options.decay,
            warmup=_length(options.warmup),
            warmup_shape=options.warmup_shape,
            warmup_start=options.warmup_start,
            hold=_length(options.hold) or 0,
            final=options.final,
        )
        figure = schedule.plot(options.updates, base_lr=options.lr)
        figure.savefig(options.output, dpi=120)
    except ImportError:
        print("a picture needs matplotlib. Install it: pip install matplotlib.")
        return 2
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        print(error)
        return 2
    print(options.output)
    return 0


def _length(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdigit() else text


def _report(options: argparse.Namespace) -> int:
    from lightning_tricks.report.page import watch, write_report

    output = None if options.output is None else Path(options.output)
    compare = None if options.compare is None else Path(options.compare)
    try:
        written = (watch if options.watch else write_report)(Path(options.run), output, compare=compare)
    except KeyboardInterrupt:  # (the way in which a --watch is ended before the run is)
        return 0
    except ImportError as error:
        print(f"{error}. A report needs matplotlib and tensorboard: pip install matplotlib tensorboard.")
        return 2
    except (OSError, ValueError) as error:
        print(error)
        return 2
    for path in written:
        print(path)
    return 0


def _in_checkout(command: str, rest: list[str]) -> int:
    root = Path(__file__).resolve().parents[1]
    if not (root / "dev").is_file():
        print(
            f"lightning-tricks {command}: the {'demo' if command == 'demo' else 'benchmarks'} are not part of the "
            "installed package. Get a checkout of the repository, and run it there."
        )
        return 2
    what = [str(root / "examples" / "demo.py")] if command == "demo" else ["-m", "benchmarks"]
    return subprocess.call([sys.executable, *what, *rest], cwd=root)
