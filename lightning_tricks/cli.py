"""Run a script watched, find a learning rate, check a config, draw a schedule, report on a run.

lightning-tricks list                           every name, with one line
lightning-tricks explain GradientClip           what a name, a recipe or a log key means
lightning-tricks doctor train.py --epochs 3     run a script as it is, watched, and write one page about it
lightning-tricks lr-find mine:make              the learning rate for the model that a function makes
lightning-tricks advise mine:make               the precision for it on this machine
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
from typing import NoReturn

from lightning_tricks.errors import TrickError, nearest

# the names of ``schedules.phases.DECAYS``, for a help that is there at once
DECAY_NAMES = (
    "constant, linear, cosine, cosine_restarts, polynomial, exponential, natural_exponential, inverse_time, "
    "inverse_sqrt, step, multistep, piecewise, linear_cosine, one_minus_sqrt, one_cycle, noam"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 for success, 1 for findings, 2 for wrong use.

    Example:
        >>> main(["check", "no_such_file.yaml"])
        no_such_file.yaml: no such file. Pass the path of a YAML config.
        2
        >>> main(["chekc"])
        lightning-tricks: there is no command 'chekc'. Did you mean 'check'?
        2
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser, names = _parser()
    if not given:
        parser.print_help()
        return 2
    if not given[0].startswith("-") and given[0] not in names:
        near = nearest(given[0], names)
        hint = f"Did you mean {near!r}?" if near else f"There are: {', '.join(names)}."
        print(f"lightning-tricks: there is no command {given[0]!r}. {hint}")
        return 2
    # (before the parser, which does not know their arguments)
    if given[:1] in (["demo"], ["bench"]):
        return _in_checkout(given[0], given[1:])
    options = parser.parse_args(given)
    try:  # (what else is raised is a fault of ours, and keeps its traceback)
        return int(options.do(options))
    except options.told as error:
        print(error)
        return 2


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        # argparse counts the arguments of a script among those that have to be there
        message = message.replace("script, arguments", "script")
        self.exit(2, f"{self.prog}: {message}. {self.prog} --help shows how.\n")


def _parser() -> tuple[argparse.ArgumentParser, list[str]]:
    from lightning_tricks import __version__

    form = argparse.RawDescriptionHelpFormatter
    parser = _Parser("lightning-tricks", description=__doc__, formatter_class=form)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    listing = commands.add_parser("list", help="every public name, with one line")
    listing.set_defaults(do=_list, told=())
    explain = commands.add_parser("explain", help="what a name, a recipe or a log key means")
    explain.add_argument("name", nargs="+", help="e.g. GradientClip, cnn, grad/norm")
    explain.set_defaults(do=_explain, told=ValueError)
    doctor = commands.add_parser("doctor", help="run a script as it is, watched, and write one page about it")
    doctor.add_argument("--folder", default="runs/doctor", help="for runs without a logger (default: runs/doctor)")
    doctor.add_argument("script", help="a Python file that trains")
    doctor.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of the script")
    doctor.set_defaults(do=_doctor, told=ValueError)
    find = commands.add_parser("lr-find", help="the learning rate for the model that a function makes")
    find.add_argument("target", help="package.module:name or file.py:name; returns a module or (module, train_loader)")
    find.add_argument("--min-lr", type=float, default=1e-7, help="first rate (default: 1e-7)")
    find.add_argument("--max-lr", type=float, default=10.0, help="last rate (default: 10)")
    find.add_argument("--num-steps", type=int, default=100, help="rates to try (default: 100)")
    find.add_argument("--suggestion", default="minimum", help="minimum, center, slide, valley or steepest")
    find.add_argument("-o", "--output", default=None, help="a picture of the curve, .png")
    find.set_defaults(do=_lr_find, told=(ImportError, OSError, TypeError, ValueError, TrickError))
    advise = commands.add_parser("advise", help="the precision that pays for a model on this machine")
    advise.add_argument("target", help="package.module:name or file.py:name; returns (module, batch)")
    advise.add_argument("--seconds", type=float, default=10.0, help="time to spend (default: 10)")
    advise.set_defaults(do=_advise, told=(TypeError, ValueError, TrickError))
    check = commands.add_parser("check", help="name what is wrong in a LightningCLI config, without running it")
    check.add_argument("config", nargs="+", help="YAML files")
    check.set_defaults(do=_check, told=())
    schedule = commands.add_parser("schedule", help="draw a schedule into a PNG")
    schedule.add_argument("name", nargs="?", metavar="decay", help="the same as --decay")
    schedule.add_argument("--decay", help=f"{DECAY_NAMES} (default: cosine)")
    schedule.add_argument("--updates", type=int, default=1000, help="length of the run (default: 1000)")
    schedule.add_argument("--lr", type=float, default=1.0, help="base rate (default: 1)")
    schedule.add_argument("--warmup", default=None, help="updates, epochs (2ep) or a share (5%%)")
    schedule.add_argument("--warmup-shape", default="linear", help="linear, cosine, exponential or constant")
    schedule.add_argument("--warmup-start", type=float, default=0.0, help="multiplier at which the warm-up begins")
    schedule.add_argument("--hold", default="0", help="length at the base rate")
    schedule.add_argument("--final", type=float, default=0.0, help="multiplier at the end")
    schedule.add_argument("-o", "--output", default="schedule.png", help="the picture (default: schedule.png)")
    schedule.set_defaults(do=_schedule, told=(OSError, TypeError, ValueError, RuntimeError))
    report = commands.add_parser("report", help="write one page about a run, from its logs")
    report.add_argument("run", type=Path, help="folder of a run: TensorBoard events or metrics.csv")
    report.add_argument("-o", "--output", type=Path, help="the page, .html or .md (default: report.html and .md in it)")
    report.add_argument("--compare", type=Path, metavar="RUN2", help="folder of another run to compare it with")
    report.add_argument("--watch", action="store_true", help="renew the page every 30 seconds until the run has ended")
    report.set_defaults(do=_report, told=(OSError, ValueError))
    for name, text in (("demo", "train on real data for half a minute"), ("bench", "run the benchmarks")):
        commands.add_parser(name, help=f"{text} (in a checkout)", add_help=False)
    return parser, list(commands.choices)


# Each command imports what it needs by itself: torch and Lightning take seconds, and a help text needs neither.
def _list(options: argparse.Namespace) -> int:
    from lightning_tricks.name_pages import listing

    print(listing())
    return 0


def _explain(options: argparse.Namespace) -> int:
    from lightning_tricks.name_pages import explanation

    print("\n\n".join(explanation(name) for name in options.name))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from lightning_tricks.report.page import write_report
    from lightning_tricks.script_run import run_script

    code, folders = run_script(Path(options.script), options.arguments, Path(options.folder))
    for folder in folders:
        try:
            print(write_report(folder)[0])
        except (ImportError, OSError, ValueError) as error:
            print(f"{folder}: no page could be written: {error}")
    return code


def _lr_find(options: argparse.Namespace) -> int:
    from lightning_tricks.model_commands import find_rate

    names = ("min_lr", "max_lr", "num_steps", "suggestion")
    result = find_rate(options.target, {name: getattr(options, name) for name in names})
    if options.output is not None:
        result.plot().savefig(options.output, dpi=180)
    print(result)
    return int(not result.confident)


def _advise(options: argparse.Namespace) -> int:
    from lightning_tricks.model_commands import advise

    print(advise(options.target, options.seconds))
    return 0


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

    if options.name and options.decay and options.name != options.decay:
        print(f"two decays: {options.name} and --decay {options.decay}. Leave one of them out.")
        return 2
    try:
        schedule = LRSchedule(
            options.name or options.decay or "cosine",
            warmup=_length(options.warmup),
            warmup_shape=options.warmup_shape,
            warmup_start=options.warmup_start,
            hold=_length(options.hold) or 0,
            final=options.final,
        )
        figure = schedule.plot(options.updates, base_lr=options.lr)
        figure.savefig(options.output, dpi=180)
    except ImportError:
        print("a picture needs matplotlib. Install it: pip install matplotlib.")
        return 2
    print(options.output)
    return 0


def _length(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdigit() else text


def _report(options: argparse.Namespace) -> int:
    from lightning_tricks.report.page import watch, write_report

    try:
        written = (watch if options.watch else write_report)(options.run, options.output, compare=options.compare)
    except KeyboardInterrupt:  # (the way in which a --watch is ended before the run is)
        return 0
    except ImportError as error:
        print(f"{error}. A report needs matplotlib and tensorboard: pip install matplotlib tensorboard.")
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
