"""``python -m lightning_tricks`` is the command ``lightning-tricks``."""

from lightning_tricks.cli import main

raise SystemExit(main())
