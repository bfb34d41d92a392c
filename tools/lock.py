"""`./dev lock`: renew requirements.lock. See docs/supply.md.

Uses uv's resolver, which finds one solution for all platforms and Pythons; pip and pip-compile see only their own.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements" / "requirements.lock"
CPU_LOCK = ROOT / "build" / "requirements-cpu.lock"

HEADER = """\
# Every package of the extras demo, test and supply, with the SHA-256 of each file that PyPI offers of that version, for
# Python 3.10 to 3.14 on Linux, macOS and Windows. Made by `./dev lock` from pyproject.toml and constraints.txt.
#     pip install --require-hashes -r requirements/requirements.lock
#     pip install --no-deps -e .
# On Linux torch is PyPI's build, which needs the CUDA libraries (lines nvidia-*, cuda-* and triton), also without a
# GPU: about 3 GB. The CPU build is not on PyPI, so its hash is not here: `./dev lock --cpu` writes
# build/requirements-cpu.lock with that of the file that pip finds on this machine.
"""
CPU_HEADER = """\
# requirements.lock with the CPU build of torch that pip found on this machine, and without the CUDA libraries.
"""
CUDA = re.compile(r"(nvidia|cuda)-|triton==")


def entries(text: str) -> list[str]:
    """Return the requirements of a lock, each with its hashes."""
    return [part for part in re.split(r"\n(?=[a-z0-9])", "\n" + text) if "==" in part.split("\n")[0]]


def parsed(text: str) -> dict[str, set[str]]:
    """Return requirement -> hashes."""
    return {entry.split(" \\\n")[0].strip(): set(re.findall(r"--hash=(sha256:\w+)", entry)) for entry in entries(text)}


def resolved(old: str) -> str:
    """Return the lock for the present pyproject.toml and constraints.txt; free versions stay those of ``old``."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "requirements.lock"
        # Without its hashes: uv would take them over, and a wrong one would never be noticed.
        output.write_text("".join(line + "\n" for line in parsed(old)))
        command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--output-file", str(output)]
        command += ["--quiet", "--no-config", "--no-header", "--no-annotate", "--generate-hashes"]
        command += ["--default-index", "https://pypi.org/simple", "--universal", "--python-version", "3.10"]
        command += ["--constraints", "requirements/constraints.txt", "--extra", "demo", "--extra", "supply"]
        if subprocess.call(command, cwd=ROOT, stdout=subprocess.DEVNULL):
            sys.exit("lock: uv found no solution, or no network")
        return HEADER + output.read_text()


def for_cpu(lock: str) -> str:
    """Return ``lock`` with torch as pip finds it here, hashed from the file itself."""
    kept = [entry.strip() for entry in entries(lock) if not CUDA.match(entry.strip())]
    (torch,) = (entry for entry in kept if entry.startswith("torch=="))
    version = torch.split(" ")[0]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        if subprocess.call([*command, "--dest", folder, f"{version}+cpu"]):
            sys.exit(
                "lock: pip found no CPU build. Name the index that has it: "
                "PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu ./dev lock --cpu"
            )
        (wheel,) = Path(folder).iterdir()
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    kept[kept.index(torch)] = f"{version}+cpu \\\n    --hash=sha256:{digest}"
    return CPU_HEADER + "\n".join(kept) + "\n"


def compared(old: str, new: str) -> str:
    """Return what may differ between the lock and what PyPI has now: files added since. Exit with what may not."""
    was, now = parsed(old), parsed(new)
    faults = [f"{line} is not wanted" for line in was if line not in now]
    faults += [f"{line} is missing" for line in now if line not in was]
    added = []
    for line in was.keys() & now.keys():
        name = line.split("==")[0]
        faults += [f"{name}: PyPI has no file with {digest}" for digest in sorted(was[line] - now[line])]
        added += [name] if now[line] - was[line] else []
    if faults:
        sys.exit("lock: run ./dev lock, and look at what it changes:\n" + "\n".join(sorted(faults)))
    said = f"{LOCK.name}: {len(was)} packages, all files as PyPI has them"
    return said + (f"; new files of {', '.join(sorted(added))}" if added else "")


def main() -> None:
    """Renew, or compare."""
    parser = argparse.ArgumentParser(prog="dev lock", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if it is not what PyPI has")
    parser.add_argument("--upgrade", action="store_true", help="newest versions of what constraints.txt leaves free")
    parser.add_argument("--cpu", action="store_true", help="write build/requirements-cpu.lock from the lock")
    options = parser.parse_args()
    old = LOCK.read_text() if LOCK.exists() else ""
    if options.cpu:
        CPU_LOCK.parent.mkdir(exist_ok=True)
        CPU_LOCK.write_text(for_cpu(old))
        print(f"wrote build/{CPU_LOCK.name}")
        return
    new = resolved("" if options.upgrade else old)
    if options.check:
        print(compared(old, new))
    else:
        LOCK.write_text(new)
        print(f"wrote {LOCK.name}: {len(entries(new))} packages, {new.count('--hash=')} hashes")


if __name__ == "__main__":
    main()
