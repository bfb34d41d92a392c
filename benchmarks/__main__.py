"""``python -m benchmarks list | run TABLE [options] | gpu [options] | compare OLD.json NEW.json | claims``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.compare import compare_files

TABLES = {
    "overhead": "what the callbacks add to a training step, against Lightning's own means",
    "precision": "float32 against mixed precision: time, memory and accuracy in five precisions",
    "collapse": "failing trainings and healthy ones that look like them: found, named, rescued, against other tools",
    "tricks": "what the training tricks of the literature bring: one-cycle, dropout, warm-up, clipping and others",
    "dry_run": "what a snapshot for a dry run costs, in seconds and bytes",
    "scale": "what grows with steps, layers and parameter groups: calls, objects, bytes",
    "lr_finder": "how good the suggested learning rate is, against Lightning's finder and a grid",
}


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="name the tables")
    run = commands.add_parser("run", help="measure a table", add_help=False)
    run.add_argument("table", choices=list(TABLES))
    commands.add_parser("gpu", help="all that a box with one GPU can say, in nine minutes", add_help=False)
    old_new = commands.add_parser("compare", help="put two result files side by side")
    old_new.add_argument("old", type=Path)
    old_new.add_argument("new", type=Path)
    commands.add_parser(
        "claims", help="write docs/claims.md and the headline tables of docs/benchmarks from benchmarks/results"
    )
    options, rest = parser.parse_known_args(arguments)
    if options.command == "gpu":
        return int(importlib.import_module("benchmarks.gpu.suite").main(rest))
    if options.command != "run" and rest:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    if options.command == "list":
        for name, text in TABLES.items():
            print(f"{name:12}{text}")
        return 0
    if options.command == "compare":
        text, code = compare_files(options.old, options.new)
        print(text)
        return code
    if options.command == "claims":
        return int(importlib.import_module("benchmarks.claims").main())
    return int(importlib.import_module(f"benchmarks.{options.table}").main(rest))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
