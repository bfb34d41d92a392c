"""MkDocs hooks: pages that are made from docstrings, cards and results at build time, so that nothing is written twice.

What the site takes from elsewhere in the repository, and where it puts it:

- a public name of ``lightning_tricks`` that is a trick -> ``tricks/<Name>.md``: its hand-written page if there is one,
  else a page of this file's making; in both the docstring takes the place of ``<!-- docstring: ... -->``,
- other public names -> ``tricks/<room>_parts.md``; pure functions -> ``tricks/functional.md``,
- ``lightning_tricks/<room>/README.md`` -> ``tricks/<room>.md``,
- ``examples/<name>.py`` -> ``examples/<name>.md``; ``benchmarks/results`` -> ``benchmarks/``; the pages of ``TOP``,
- ``examples/notebooks/<name>.ipynb`` -> ``examples/notebooks/<name>.md`` with the output that is committed in it,
- all public names, each below a heading with its signature -> ``api/index.md``.

Links are written for the repository and changed here for the site; a link to source code, which the site does not have,
becomes its text. Every page is also there as Markdown, beside the
HTML, for language models; ``llms.txt`` lists them. ``python docs/hooks.py`` brings the signatures in it up to date.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
for folder in (ROOT, ROOT / "docs"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from notebook_page import notebook_page  # noqa: E402

import lightning_tricks  # noqa: E402
from lightning_tricks import decays, functional, metrics  # noqa: E402

PLACES = (lightning_tricks, decays, metrics)  # where public names are
ROOMS = {  # in the order in which data flow through a training step; other rooms come after them
    "gradients": "Gradients",
    "accumulation": "Accumulation",
    "schedules": "Schedules",
    "lr_finder": "LR finder",
    "precision": "Precision",
    "diagnosis": "Diagnosis",
    "collapse": "Collapse",
}
DETECTING = ("diagnosis", "collapse")  # rooms that are shown with the detectors, and not among the tricks again
PARTS = {"gradients": "Clip rules", "schedules": "Decays and phases", "precision": "Results", "collapse": "Metrics"}
ENTRANCE, ELSEWHERE = "entrance", "elsewhere"
GROUPS = {ENTRANCE: "Ways in", ELSEWHERE: "Actions, verdicts and errors"}
TOP = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md")
SECTIONS = {
    "Args": "Arguments",
    "Returns": "Returns",
    "Raises": "Errors",
    "Logs": "Log keys",
    "Changes": "What it changes",
    "State": "State and resume",
    "Cost": "Cost",
    "Example": "Example",
    "Reference": "Reference",
}
SHOWN_METHODS = ("plot", "values")
CSS = """\
.md-grid { max-width: 72rem; }
.md-sidebar { width: 10.6rem; }
.md-sidebar__inner { padding-right: 0.4rem; }
.md-typeset h1, .md-typeset h2, .md-typeset h3 { font-weight: 500; }
.md-typeset dd { margin-top: 0.2em; }
.md-typeset dt { margin-top: 0.9em; }
.md-typeset img { max-width: min(100%, 36rem); }
.md-typeset .output { border-left: 2px solid var(--md-default-fg-color--lighter); padding-left: 0.8rem; }
.md-typeset .output { overflow-x: auto; }
.md-typeset .output table:not([class]) { font-size: 0.66rem; }
.md-typeset pre > code { font-size: 0.92em; }
.md-typeset__table { min-width: 100%; }
.md-typeset table:not([class]) { display: table; font-size: 0.66rem; }
.md-typeset table:not([class]) td, .md-typeset table:not([class]) th { min-width: 3rem; padding: 0.6em 0.8em; }
.md-typeset table:not([class]) code { overflow-wrap: break-word; word-break: normal; white-space: normal; }
@media (max-width: 40em) { .md-typeset table:not([class]) code { overflow-wrap: anywhere; } }
"""
WORKER = """\
// Pages that are read from a disk may not start a Worker; the search then runs in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      this.inside = frame.contentWindow;
      this.inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const script = frame.contentDocument.createElement("script");
      script.src = url;
      this.ready = new Promise((resolve) => script.addEventListener("load", resolve));
      frame.contentDocument.body.appendChild(script);
    }
    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() {}
  };
}
"""


# -- what there is ------------------------------------------------------------------------------------------------


def names() -> list[str]:
    """Return the public names, sorted without regard to case."""
    return sorted({n for place in PLACES for n in place.__all__}, key=str.lower)


def public(name: str) -> Any:
    """Return what a public name stands for."""
    return next(getattr(place, name) for place in PLACES if name in place.__all__)


def room(name: str) -> str:
    """Return where a name belongs: a room with a card, the entrance (a module of the roof), or elsewhere."""
    path = public(name).__module__.split(".")
    if len(path) == 2 and path[1] != "errors":
        return ENTRANCE
    return path[1] if (ROOT / "lightning_tricks" / path[1] / "README.md").exists() else ELSEWHERE


def is_trick(name: str) -> bool:
    """Whether a name has a page of its own: something for a Trainer, a function, or what has a hand-written page."""
    thing = public(name)
    if (ROOT / "docs" / "tricks" / f"{name}.md").exists() or inspect.isfunction(thing) or room(name) == ENTRANCE:
        return True
    foreign = [c.__module__.split(".")[0] for c in inspect.getmro(thing)] if inspect.isclass(thing) else []
    return any(package in ("lightning", "pytorch_lightning") for package in foreign)


def tricks() -> list[str]:
    """Return the names that have a page of their own."""
    return [name for name in names() if is_trick(name)]


def rooms() -> list[str]:
    """Return the rooms that have a card."""
    found = sorted(path.parent.name for path in (ROOT / "lightning_tricks").glob("*/README.md"))
    return sorted(found, key=lambda r: list(ROOMS).index(r) if r in ROOMS else len(ROOMS))


def parts(of: str) -> list[str]:
    """Return the names of a room that have no page of their own."""
    return [name for name in names() if room(name) == of and not is_trick(name)]


# -- docstrings ---------------------------------------------------------------------------------------------------


def sections(docstring: str) -> tuple[list[str], dict[str, str]]:
    """Return the paragraphs before the first section of a docstring, and the sections by their names."""
    described: list[str] = []
    found: dict[str, list[str]] = {}
    into = described
    for line in inspect.cleandoc(docstring).splitlines():
        header = re.match(rf"({'|'.join(SECTIONS)}|[A-Z]\w+(?=:$)):(?: (.*))?$", line)
        if header:
            into = found.setdefault(header[1], [])
            line = header[2] or ""
        elif line.startswith(">>>"):  # an example without a heading
            into = found.setdefault("Example", [""])
        into.append(line)
    paragraphs = re.split(r"\n\n+", "\n".join(described).strip())
    return paragraphs, {name: _dedented(lines) for name, lines in found.items()}


def _dedented(lines: list[str]) -> str:
    return "\n".join([lines[0], textwrap.dedent("\n".join(lines[1:]))]).strip()


def entries(section: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of the entries of a section such as ``Args``."""
    for entry in re.split(r"\n(?=\S)", section):
        name, _, text = entry.partition(": ")
        yield name, " ".join(text.split())


class _Written(str):
    """An annotation that is shown as it is written, not as the text that it is."""

    def __repr__(self) -> str:
        return str(self)


def _written(annotation: Any) -> Any:
    return _Written(annotation) if isinstance(annotation, str) else annotation


def signature(thing: Any) -> inspect.Signature | None:
    """Return how something is called; None for errors, which nobody calls."""
    if inspect.isclass(thing) and issubclass(thing, BaseException):
        return None
    found = inspect.signature(thing)
    arguments = [p.replace(annotation=_written(p.annotation)) for p in found.parameters.values()]
    return found.replace(parameters=arguments, return_annotation=_written(found.return_annotation))


def one_line(name: str, thing: Any) -> str:
    """Return name and signature in one line."""
    return f"{name}{signature(thing) or ''}".removesuffix(" -> None")


def code(line: str) -> str:
    """Return a signature as a block of code, with a line for each argument where one line is not enough."""
    if len(line) > 88:
        depth, broken = 0, ""
        for character in line:
            depth += (character in "([{") - (character in ")]}")
            ends = character == ")" and depth == 0
            begins = character in "(," and depth == 1
            broken += (",\n" if ends else "") + character + ("\n    " if begins else "")
        line = broken.replace("\n     ", "\n    ")
    return f"```py\n{line}\n```"


def summary(thing: Any) -> str:
    """Return the first paragraph of a docstring, in one line."""
    return " ".join(sections(thing.__doc__ or "")[0][0].split())


def readable(cls: type) -> list[tuple[str, str]]:
    """Return what a callback says about itself: properties, and methods that draw; with what they mean."""
    found = {}
    # (what every callback has is of use inside the package)
    common = ("lightning_tricks.lifecycle.",)
    ours = [c for c in inspect.getmro(cls) if c.__module__.startswith("lightning_tricks")]
    ours = [c for c in ours if not c.__module__.startswith(common)]
    for owner in reversed(ours):
        for name, member in vars(owner).items():
            if not name.startswith("_") and (isinstance(member, property) or name in SHOWN_METHODS):
                text = inspect.getdoc(member) or ""
                found[name if isinstance(member, property) else f"{name}()"] = " ".join(text.split("\n\n")[0].split())
    return sorted(found.items())


def reference(name: str, thing: Any) -> str:
    """Return a docstring as Markdown: how to call it, arguments, results, errors, log keys, state and cost."""
    described, found = sections(thing.__doc__ or "")
    out = ["## What it does", *described[1:]] if described[1:] else []
    out += ["## Arguments", code(one_line(name, thing))]
    if "Args" in found:
        out.append(_definitions(found.pop("Args"), thing))
    if is_callback(thing) and (says := readable(thing)):
        out += ["## What it tells", "\n\n".join(f"`.{attribute}`\n:   {text}" for attribute, text in says)]
    for section, text in found.items():
        out += [f"## {SECTIONS.get(section, section)}", _section(section, text)]
    return "\n\n".join(out)


def short_reference(name: str, thing: Any) -> str:
    """Return a docstring as Markdown for a page that has many: one heading each."""
    described, found = sections(thing.__doc__ or "")
    out = [f"## {name}", *([code(one_line(name, thing))] if signature(thing) else []), *map(_linked, described)]
    if "Args" in found:
        out.append(_definitions(found.pop("Args"), thing))
    for section, text in found.items():
        between = "\n\n" if section == "Raises" else " "
        label = "" if section == "Example" else f"**{SECTIONS.get(section, section)}.**{between}"
        out.append(label + _section(section, text))
    return "\n\n".join(out)


def _section(section: str, text: str) -> str:
    if section == "Example":
        return f"```pycon\n{text}\n```"
    if section == "Raises":
        return "\n\n".join(f"`{error}`\n:   {why}" for error, why in entries(text))
    return _linked(text) if section == "Reference" else text


def _linked(text: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def is_callback(thing: Any) -> bool:
    """Whether it is a Lightning callback."""
    bases = inspect.getmro(thing) if inspect.isclass(thing) else ()
    return any(c.__name__ == "Callback" and "lightning" in c.__module__ for c in bases)


def _definitions(section: str, thing: Any) -> str:
    """Return arguments with type and default."""
    found = signature(thing)
    arguments = found.parameters if found else {}
    out = []
    for name, text in entries(section):
        shown, parameter = f"`{name}`", arguments.get(name)
        if parameter is not None and parameter.annotation is not parameter.empty:
            shown += f": `{inspect.formatannotation(parameter.annotation)}`"
        if parameter is not None and parameter.default is not parameter.empty:
            shown += f", default `{parameter.default!r}`"
        out.append(f"{shown}\n:   {text}")
    return "\n\n".join(out)


# -- pages --------------------------------------------------------------------------------------------------------


def trick_page(name: str) -> str:
    """Return the page of a trick that nobody has written one for."""
    required = [n for n, p in (signature(public(name)) or inspect.Signature()).parameters.items() if _must(p)]
    text = f"# {name}\n\n<!-- docstring: summary -->\n\n"
    if is_callback(public(name)):
        init = f"\n      init_args: {{{', '.join(f'{n}: ...' for n in required)}}}" if required else ""
        shown = f"trainer:\n  callbacks:\n    - class_path: lightning_tricks.{name}{init}"
        text += f"## In YAML (LightningCLI)\n\n```yaml\n{shown}\n```\n\n"
    return text + "<!-- docstring: reference -->\n"


def _must(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in (
        parameter.VAR_POSITIONAL,
        parameter.VAR_KEYWORD,
    )


def parts_page(title: str, members: Iterable[tuple[str, Any]]) -> str:
    """Return a page of names that share one."""
    return "\n\n".join([f"# {title}", *(short_reference(name, thing) for name, thing in members)]) + "\n"


def tricks_table() -> str:
    """Return the table of everything that has a page of its own, with links from the root of the repository."""
    lines = ["| trick | what it does |", "| --- | --- |"]
    for group in (ENTRANCE, *rooms(), ELSEWHERE):
        for name in (n for n in tricks() if room(n) == group):
            first = re.split(r"(?<=[.!?])\s|:\s", summary(public(name)))[0].rstrip(".")
            lines.append(f"| [{name}](docs/tricks/{name}.md) | {first} |")
    return "\n".join(lines)


def example_page(path: Path) -> str:
    """Return an example as a page."""
    return f"# {path.name}\n\n```py\n{path.read_text(encoding='utf-8')}```\n"


def results_list() -> str:
    """Return the list of committed results, with links from the root of the repository."""
    return "\n".join(f"- [{result_title(path)}]({path})" for path in results("md"))


def result_title(path: str) -> str:
    """Return what a committed result is about, for people: its heading, and what distinguishes it from others.

    >>> result_title("benchmarks/results/overhead-goals-cpu.md")
    'Overhead of the callbacks (goals, cpu)'
    """
    title = (ROOT / path).read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
    stem = Path(path).stem
    more = stem.split("-")[1:] if not stem[:4].isdigit() else stem.rsplit("_", 2)[1:]
    return f"{title} ({', '.join(more)})"


def api_page() -> str:
    """Return every public name below a heading of its own, with signature, meaning and the way to all about it."""
    lines = [
        "# API",
        "",
        "Every public name, with the module to import it from. Pure functions, from `lightning_tricks.functional`,",
        "are on [a page of their own](../tricks/functional.md).",
    ]
    for group in (ENTRANCE, *rooms(), ELSEWHERE):
        found = [name for name in names() if room(name) == group]
        if found:
            lines += ["", f"## {GROUPS.get(group) or ROOMS.get(group) or group.capitalize()}"]
        for name in found:
            page = f"{name}.md" if is_trick(name) else f"{Path(parts_address(group)).name}#{name.lower()}"
            shown = code(one_line(name, public(name))) if signature(public(name)) else ""
            home = next(place.__name__ for place in PLACES if name in place.__all__)
            says = f"{summary(public(name))} From `{home}`; [all about it](../tricks/{page})."
            lines += ["", f"### {name}", "", says, "", shown]
    return "\n".join(lines) + "\n"


def generated() -> dict[str, tuple[str, str]]:
    """Return the pages that the site takes from elsewhere: address -> (text, where links in it start)."""
    pages = {}
    for name in tricks():
        if not (ROOT / "docs/tricks" / f"{name}.md").exists():
            pages[f"tricks/{name}.md"] = trick_page(name), "docs/tricks"
    for group in (*rooms(), ELSEWHERE):
        if parts(group):
            title = PARTS.get(group, "Actions, verdicts and errors" if group == ELSEWHERE else f"Parts of {group}")
            pages[parts_address(group)] = parts_page(title, [(n, public(n)) for n in parts(group)]), "docs/tricks"
    functions = [(n, getattr(functional, n)) for n in functional.__all__]
    pages["tricks/functional.md"] = parts_page("Functions (lightning_tricks.functional)", functions), "docs/tricks"
    for source in (*(f"lightning_tricks/{r}/README.md" for r in rooms()), *TOP):
        pages[address(source)] = (ROOT / source).read_text(encoding="utf-8"), dirname(source)
    unsearched = "---\nsearch:\n  exclude: true\n---\n\n"  # tables of numbers would be found for every word
    for source in results("md"):
        pages[address(source)] = unsearched + (ROOT / source).read_text(encoding="utf-8"), dirname(source)
    for path in examples():
        pages[f"examples/{path.stem}.md"] = unsearched + example_page(path), "examples"
    for path in notebooks():
        pages[f"examples/notebooks/{path.stem}.md"] = notebook_page(path)[0], "examples/notebooks"
    pages["api/index.md"] = api_page(), "docs/api"
    return pages


def parts_address(group: str) -> str:
    """Return the page of the names that share one."""
    return f"tricks/{'actions_and_errors' if group == ELSEWHERE else f'{group}_parts'}.md"


def examples() -> list[Path]:
    """Return the examples that can be run by themselves."""
    return sorted(p for p in (ROOT / "examples").glob("*.py") if "__main__" in p.read_text(encoding="utf-8"))


def notebooks() -> list[Path]:
    """Return the notebooks, the quickstart first."""
    return sorted(
        (ROOT / "examples/notebooks").glob("*.ipynb"), key=lambda path: (path.stem != "quickstart", path.stem)
    )


def results(kind: str) -> list[str]:
    """Return the files of results of one kind."""
    return sorted(f"benchmarks/results/{p.name}" for p in (ROOT / "benchmarks/results").glob(f"*.{kind}"))


# -- links --------------------------------------------------------------------------------------------------------


def address(path: str) -> str:
    """Return where a file of the repository is on the site; the same text for what is not there.

    >>> address("lightning_tricks/gradients/README.md"), address("docs/claims.md"), address("examples/demo.py")
    ('tricks/gradients.md', 'claims.md', 'examples/demo.md')
    """
    known = {
        "README.md": "index.md",
        **{page: page.lower() for page in TOP},
        "examples/README.md": "examples.md",
        "benchmarks/results": "benchmarks/index.md",
    }
    if path in known:
        return known[path]
    rules = (
        (r"lightning_tricks/(\w+)/README\.md", r"tricks/\1.md"),
        (r"docs/(.+)", r"\1"),
        (r"examples/(\w+)\.py", r"examples/\1.md"),
        (r"examples/notebooks/(\w+)\.ipynb", r"examples/notebooks/\1.md"),
        (r"benchmarks/results/(.+)", r"benchmarks/\1"),
    )
    return next((re.sub(pattern, to, path) for pattern, to in rules if re.fullmatch(pattern, path)), path)


def relinked(text: str, start: str, page: str) -> str:
    """Return Markdown whose links, written for the repository, lead to pages of the site.

    Args:
        text: the Markdown.
        start: the folder of the repository that the links are written in.
        page: the address of the page on the site.
    """

    def change(link: re.Match[str]) -> str:
        target, mark, anchor = link[1].partition("#")
        if not target or re.match(r"\w+:", target):
            return link[0]
        there = relpath(address(normpath(join(start, target))), dirname(page) or ".")
        return f"]({there}{mark}{anchor})"

    text = re.sub(r"\[([^\]\n]+)\]\(([^)\s#]+)(?:#[\w.-]+)?\)", lambda link: _unless_source(link, start), text)
    blocks = re.split(r"(^```.*?^```$|`[^`\n]+`)", text, flags=re.M | re.S)
    return "".join(b if i % 2 else re.sub(r"\]\(([^)\s]+)\)", change, b) for i, b in enumerate(blocks))


def _unless_source(link: re.Match[str], start: str) -> str:
    """Return a link, or its text where it leads to a file of the repository that the site does not have."""
    path = normpath(join(start, link[2]))
    return link[1] if address(path) == path and (ROOT / path).is_file() and not path.startswith("docs/") else link[0]


# -- llms.txt -----------------------------------------------------------------------------------------------------


def listed(members: Iterable[str]) -> str:
    """Return public names for a language model: page, signature and meaning, one line each."""
    lines = []
    for name in members:
        page = f"tricks/{name}.md" if is_trick(name) else f"{parts_address(room(name))}#{name.lower()}"
        lines.append(f"- [{name}]({page}): `{one_line(name, public(name))}`. {summary(public(name))}")
    return "\n".join(lines)


def brought_up_to_date(text: str) -> str:
    """Return ``llms.txt`` with the present names and signatures in its two sections of names."""
    others = [name for name in names() if not is_trick(name)]
    for title, members in (("Tricks", tricks()), ("Rules, decays, metrics, actions and errors", others)):
        before, heading, after = text.partition(f"## {title}\n\n")
        after = after[after.index("## ") :]
        text = f"{before}{heading}{listed(members)}\n\n{after}"
    return text


# -- what MkDocs calls --------------------------------------------------------------------------------------------

_starts: dict[str, str] = {}
_markdown: dict[str, str] = {}


def on_config(config: Any) -> Any:
    """Fill the entries of the navigation that end in a slash."""
    config.nav = list(_filled(config.nav))
    return config


def _filled(nav: list[Any]) -> Iterator[Any]:
    for entry in nav:
        if isinstance(entry, str):
            yield from _below(entry) if entry.endswith("/") else [entry]
        else:
            for title, value in entry.items():
                page = isinstance(value, str) and not value.endswith("/")
                yield {title: value if page else list(_filled([value] if isinstance(value, str) else value))}


def _below(folder: str) -> list[Any]:
    if folder == "tricks/":
        return _tricks_nav()
    if folder == "detectors/":
        return _detectors_nav()
    if folder == "examples/":
        return ["examples.md", *(f"examples/{path.stem}.md" for path in examples())]
    if folder == "examples/notebooks/":
        return [f"examples/notebooks/{path.stem}.md" for path in notebooks() if path.stem != "quickstart"]
    if folder == "api/":
        pages = [parts_address(group) for group in (*rooms(), ELSEWHERE) if parts(group)]
        return ["api/index.md", *pages, {"Functions": "tricks/functional.md"}]
    return [{result_title(path): address(path)} for path in results("md")]


def _detectors_nav() -> list[Any]:
    """Return each detector once: what it looks like, and its reference; in the order of the first page."""
    page = (ROOT / "docs/detectors/README.md").read_text(encoding="utf-8")
    found = re.findall(r"\]\((\w+\.md)\)", page)
    found += sorted({p.name for p in (ROOT / "docs/detectors").glob("*.md")} - {*found, "README.md"})
    nav: list[Any] = ["detectors/README.md"]
    shown = set()
    for name in found:
        trick = detector_of(f"detectors/{name}")
        guide = {"How to use it": f"detectors/{name}"}
        nav.append({trick: [guide, {"Reference": f"tricks/{trick}.md"}]} if trick else f"detectors/{name}")
        shown.add(trick)
    for group in rooms():
        if group in DETECTING:
            others = [f"tricks/{name}.md" for name in tricks() if room(name) == group and name not in shown]
            nav.append({f"More on {ROOMS[group].lower()}": [{"Overview": f"tricks/{group}.md"}, *others]})
    return nav


def detector_of(page: str) -> str | None:
    """Return the class that a page of ``docs/detectors`` is about; None for a page about none.

    >>> detector_of("detectors/sanity_check.md")
    'SanityCheck'
    """
    plain = Path(page).stem.replace("_", "")
    return next((name for name in tricks() if name.lower() == plain), None)


def _tricks_nav() -> list[Any]:
    written = {path.stem for path in (ROOT / "docs/tricks").glob("*.md")}
    free = sorted(written - set(tricks()) - {"index"})
    entrance = [f"tricks/{stem}.md" for stem in free] + [f"tricks/{n}.md" for n in tricks() if room(n) == ENTRANCE]
    nav: list[Any] = ["tricks/index.md", *([{"Ways in": entrance}] if entrance else [])]
    for group in (each for each in rooms() if each not in DETECTING):
        pages: list[Any] = [{"Overview": f"tricks/{group}.md"}]
        pages += [f"tricks/{name}.md" for name in tricks() if room(name) == group]
        nav.append({ROOMS.get(group, group.replace("_", " ").capitalize()): pages})
    return nav + [f"tricks/{name}.md" for name in tricks() if room(name) == ELSEWHERE]


def on_files(files: Any, config: Any) -> Any:
    """Add what comes from elsewhere in the repository."""
    from mkdocs.structure.files import File

    for page, (text, start) in generated().items():
        files.append(File.generated(config, page, content=text))
        _starts[page] = start
    for picture in results("png"):
        files.append(File.generated(config, address(picture), abs_src_path=str(ROOT / picture)))
    for path in notebooks():
        for name, content in notebook_page(path)[1].items():
            files.append(File.generated(config, f"examples/notebooks/{name}", content=content))
    files.append(File.generated(config, "assets/site.css", content=CSS))
    files.append(File.generated(config, "assets/iframe-worker.js", content=WORKER))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Change links for the site, and put in what is made from the code."""
    where = page.file.src_uri
    text = relinked(markdown, _starts.get(where, normpath(join("docs", dirname(where)))), where)
    name = Path(where).stem
    if where.startswith("tricks/") and name in names():
        text = text.replace("<!-- docstring: summary -->", summary(public(name)))
        text = text.replace("<!-- docstring: reference -->", reference(name, public(name)))
    if where.startswith("detectors/"):
        text += _see_reference(where)
    text = text.replace("<!-- tricks -->", relinked(tricks_table(), ".", where))
    text = text.replace("<!-- results -->", relinked(results_list(), ".", where))
    text = re.sub(r"<!-- include: (\S+) -->", lambda found: _included(found[1], where), text)
    _markdown[where] = text
    return text


def _included(source: str, page: str) -> str:
    text = re.sub(r"\A# .*\n", "", (ROOT / source).read_text(encoding="utf-8"))
    return relinked(text, dirname(source), page).strip()


def _see_reference(where: str) -> str:
    """Return the way from a detector's page to its reference."""
    name = detector_of(where)
    return f"\n[Every argument, log key and cost of {name}](../tricks/{name}.md)\n" if name else ""


def on_post_build(config: Any) -> None:
    """Write each page as Markdown too, and the present signatures into ``llms.txt``."""
    site = Path(config.site_dir)
    for page, text in _markdown.items():
        path = site / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    path = site / "llms.txt"
    path.write_text(brought_up_to_date(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    llms = ROOT / "docs/llms.txt"
    llms.write_text(brought_up_to_date(llms.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"{llms.relative_to(ROOT)}: {len(names())} names")
