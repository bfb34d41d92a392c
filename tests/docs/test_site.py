"""The documentation site: it builds without a warning, needs no network, and says what the code says."""

from __future__ import annotations

import ast
import base64
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from filelock import FileLock

import lightning_tricks
from lightning_tricks import functional
from lightning_tricks.lifecycle.trick import Trick
from tests.forked import run_script

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RUN = [DOCS / "index.md", DOCS / "symptoms.md", *sorted((DOCS / "migration").glob("*.md"))]
RUN += sorted((DOCS / "tricks").glob("*.md"))


def load_hooks() -> Any:
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks = load_hooks()


# mkdocs in a forked process, which ignores warnings: here they are shown as a new interpreter would
BUILD = """
import runpy, warnings
warnings.resetwarnings()
for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
    warnings.simplefilter("ignore", kind)
runpy.run_module("mkdocs", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder of the site and what the build said; made once, however many workers there are."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    folder, said = shared / "site", shared / "site.txt"
    with FileLock(shared / "site.lock"):
        if not said.exists():
            (shared / "build_site.py").write_text(BUILD)
            arguments = ["build", "--strict", "-q", "-f", str(ROOT / "mkdocs.yml"), "-d", str(folder)]
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
            done = run_script(Path("build_site.py"), *arguments, folder=shared, environment=environment)
            said.write_text(f"{done.returncode}\n{done.stdout}{done.stderr}")
    return folder, said.read_text()


@pytest.fixture
def site(built: tuple[Path, str]) -> Path:
    folder, said = built
    assert said.startswith("0\n"), said
    return folder


class Page(HTMLParser):
    """Ids, links and what a browser loads by itself."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        self.ids.add(found.get("id", ""))
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in ("script", "img", "iframe", "source", "video", "audio") and "src" in found:
            self.loaded.append(found["src"])
        if tag == "link" and found.get("rel") not in ("canonical", "prev", "next", "alternate"):
            self.loaded.append(found["href"])

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="session")
def pages(built: tuple[Path, str]) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(built[0].rglob("*.html"))}


def test_the_site_builds_without_a_warning(built: tuple[Path, str]) -> None:
    assert built[1].strip() == "0"


# -- every public name is there -------------------------------------------------------------------------------------


def callbacks() -> list[str]:
    found = {name: getattr(lightning_tricks, name) for name in lightning_tricks.__all__}
    return [name for name, thing in found.items() if inspect.isclass(thing) and issubclass(thing, Trick)]


def test_every_trick_has_a_page_with_its_arguments_and_log_keys(site: Path, pages: dict[Path, Page]) -> None:
    others = {"CachedMixedPrecision", "advise_precision", "MixedGenerations"}
    assert {*callbacks(), *others} <= set(hooks.tricks())
    for name in hooks.tricks():
        page = pages[site / "tricks" / f"{name}.html"]
        for argument, parameter in inspect.signature(getattr(lightning_tricks, name)).parameters.items():
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                assert argument in page.text, f"{name}: {argument}"
        assert "<!-- docstring" not in (site / "tricks" / f"{name}.md").read_text()
        if name in callbacks():
            assert {"arguments", "log-keys", "cost", "state-and-resume", "errors"} <= page.ids, name
            documented = re.findall(r"``((?:grad|amp|schedule|accumulation)/[\w/<>]+)``", hooks.public(name).__doc__)
            assert all(key in page.text for key in documented)


def test_every_callback_and_its_page_says_when_to_use_it_and_what_it_cannot_do() -> None:
    for path in sorted((DOCS / "tricks").glob("*.md")):
        if path.stem in lightning_tricks.__all__:
            text = path.read_text()
            for part in ("## When to use", "## Three lines", "## Limits", "docstring: summary", "docstring: reference"):
                assert part in text, f"{path.name}: {part}"


def test_all_other_public_names_and_functions_are_on_a_page(site: Path, pages: dict[Path, Page]) -> None:
    for name in set(hooks.names()) - set(hooks.tricks()):
        assert name.lower() in pages[site / hooks.parts_address(hooks.room(name)).replace(".md", ".html")].ids, name
    page = pages[site / "tricks/functional.html"]
    assert all(name.lower() in page.ids for name in functional.__all__)


def test_every_public_name_has_a_visible_heading_in_the_api(site: Path) -> None:
    headings = re.findall(r"^### (\w+)$", (site / "api/index.md").read_text(), re.M)
    assert sorted(headings, key=str.lower) == hooks.names()


# -- tabs, notebooks ------------------------------------------------------------------------------------------------


def test_the_tabs_are_seven_and_show_every_detector_once(site: Path, pages: dict[Path, Page]) -> None:
    text = (site / "index.html").read_text()
    tabs = re.findall(r'md-tabs__link">\s*([^<]+?)\s*<', text)
    assert tabs == ["Get started", "Tricks", "Detectors", "How-to", "Benchmarks", "API", "Changes"]
    sections = [[link for link in str(entry).split("'") if link.endswith(".md")] for entry in hooks._tricks_nav()]
    tricks = [link for section in sections for link in section]
    detectors = re.findall(r"'([\w/]+\.md)'", str(hooks._detectors_nav()))
    assert not set(tricks) & set(detectors)
    assert len(detectors) == len(set(detectors))
    shown = {Path(link).stem for link in (*tricks, *detectors)}
    assert set(hooks.tricks()) <= shown


def test_notebooks_are_shown_with_the_output_that_is_committed(site: Path, pages: dict[Path, Page]) -> None:
    assert len(hooks.notebooks()) == 5
    for path in hooks.notebooks():
        page = (site / "examples/notebooks" / f"{path.stem}.md").read_text()
        cells = json.loads(path.read_text())["cells"]
        drawn = sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))
        assert page.count("![What the cell draws]") == drawn
        for cell in cells:
            assert "".join(cell["source"]).strip() in page
            for output in cell.get("outputs", []):
                assert "".join(output.get("text", "")).strip() in page
        assert "data:image" not in page
    assert "LRFinder()" in pages[site / "examples/notebooks/quickstart.html"].text


def test_pictures_of_a_notebook_become_files_and_colours_of_a_terminal_are_left_out(tmp_path: Path) -> None:
    png = base64.b64encode(b"picture").decode()
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {
            "cell_type": "code",
            "source": "draw()",
            "outputs": [
                {"output_type": "display_data", "data": {"image/png": png, "text/plain": "Figure"}},
                {
                    "output_type": "display_data",
                    "data": {"text/html": f'<img src="data:image/png;base64,{png}">\n<b>x</b>'},
                },
                {"output_type": "stream", "text": ["\x1b[31mred\x1b[0m\n"]},
                {"output_type": "stream", "text": "\n"},
            ],
        },
    ]
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    page, pictures = hooks.notebook_page(path)
    assert pictures == {"a_1.png": b"picture", "a_2.png": b"picture"}
    assert page.startswith("# Title\ntext\n\nIn a checkout it is `examples/notebooks/a.ipynb`")
    shown = ["```py\ndraw()\n```", "![What the cell draws](a_1.png)"]
    shown += ['<div class="output"><img src="a_2.png"> <b>x</b></div>', "```text\nred\n```"]
    assert page.endswith("\n\n".join(shown) + "\n")


def test_results_are_listed_by_titles_for_people() -> None:
    listed = hooks.results_list().splitlines()
    assert len(listed) == len(set(re.findall(r"\[(.+?)\]", hooks.results_list()))) == len(hooks.results("md"))
    assert "- [Learning-rate finders (cpu)](benchmarks/results/lr_finder-cpu.md)" in listed


def test_a_callback_that_nobody_has_written_about_has_a_page_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    class Newcomer(Trick):
        """Do something new: and more.

        Args:
            layer: where.
            often: how often,
                in updates.

        Logs:
            - ``new/key``: always.

        Reference: A paper, 2020, arXiv:2001.00001.
        """

        def __init__(self, layer: str, often: int = 25) -> None: ...

        @property
        def seen(self) -> int:
            """How much was seen."""
            return 0

    Newcomer.__module__ = "lightning_tricks.new.callbacks"
    monkeypatch.setattr(lightning_tricks, "Newcomer", Newcomer, raising=False)
    monkeypatch.setattr(lightning_tricks, "__all__", [*lightning_tricks.__all__, "Newcomer"])
    assert hooks.is_trick("Newcomer")
    page = hooks.trick_page("Newcomer")
    assert "class_path: lightning_tricks.Newcomer\n      init_args: {layer: ...}" in page
    text = hooks.reference("Newcomer", Newcomer)
    assert "`often`: `int`, default `25`\n:   how often, in updates." in text
    assert "`.seen`\n:   How much was seen." in text and ".run" not in text
    assert "## Log keys\n\n- ``new/key``: always." in text
    assert "[arXiv:2001.00001](https://arxiv.org/abs/2001.00001)" in text


def test_long_signatures_have_a_line_for_each_argument() -> None:
    line = "F(a: dict[str, int] = {}, *, b: Literal['x', 'y'] = 'x', c: str = 'much too long for a line of the page') -> int"
    assert hooks.code(line).splitlines() == [
        "```py",
        "F(",
        "    a: dict[str, int] = {},",
        "    *,",
        "    b: Literal['x', 'y'] = 'x',",
        "    c: str = 'much too long for a line of the page',",
        ") -> int",
        "```",
    ]


# -- no network -----------------------------------------------------------------------------------------------------


def test_pages_load_nothing_from_the_network(site: Path, pages: dict[Path, Page]) -> None:
    assert len(pages) > 50
    for path, page in pages.items():
        assert not [url for url in page.loaded if re.match(r"(https?:)?//", url)], path
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\(\s*[\"']?)\s*[\"']?(https?:)?//", sheet.read_text()), sheet


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_search_works_on_pages_that_are_read_from_a_disk(site: Path, tmp_path: Path) -> None:
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    page = f"{(site / 'tricks/index.html').as_uri()}?q=overflow+skipped"
    command = [str(CHROMIUM), *options, "--virtual-time-budget=8000", "--dump-dom", page]
    seen = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    assert re.search(r"\d+ matching documents", seen)
    assert "LossScaleGuard" in seen.partition("matching documents")[2]


# -- links ----------------------------------------------------------------------------------------------------------


def targets(page: Path, links: list[str]) -> Iterator[tuple[str, Path, str]]:
    for link in links:
        if not re.match(r"(\w+:|//)", link):
            path, _, anchor = unquote(link).partition("#")
            yield link, (page.parent / path).resolve() if path else page, anchor


def test_links_between_pages_lead_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    known = {path.resolve(): page for path, page in pages.items()}
    for path, page in known.items():
        if path.name == "404.html":
            continue
        for link, target, anchor in targets(path, [*page.links, *page.loaded]):
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{path.relative_to(site)}: {link}"
            if anchor and target.suffix == ".html":
                assert anchor in known[target].ids, f"{path.relative_to(site)}: {link}"


def test_the_cards_are_on_the_site_with_all_their_links(site: Path, pages: dict[Path, Page]) -> None:
    for card in sorted((ROOT / "lightning_tricks").glob("*/README.md")):
        page = pages[site / "tricks" / f"{card.parent.name}.html"]
        for heading in re.findall(r"^## (.+)$", card.read_text(), re.M):
            assert re.sub(r"[`*]", "", heading) in page.text, f"{card.parent.name}: {heading}"
        written = re.findall(r"(?<!!)\]\((?!\w+:|#)([^)]+)\)", re.sub(r"```.*?```", "", card.read_text(), flags=re.S))
        for link in written:
            address = hooks.address(os.path.normpath(card.parent.relative_to(ROOT) / link))
            assert (site / address).exists(), f"{card.parent.name}: {link}"


def test_links_are_changed_for_the_site() -> None:
    text = "[a](../../docs/claims.md#x) ![b](../../docs/demo.png) [c](https://x.org) [d](#here) `[e](no)`\n```\n[f](no)\n```\n"
    assert hooks.relinked(text, "lightning_tricks/gradients", "tricks/gradients.md") == (
        "[a](../claims.md#x) ![b](../demo.png) [c](https://x.org) [d](#here) `[e](no)`\n```\n[f](no)\n```\n"
    )
    assert hooks.address("examples/demo.py") == "examples/demo.md"
    assert hooks.address("lightning_tricks/gradients/README.md") == "tricks/gradients.md"


def test_links_to_source_code_become_their_text_on_the_site() -> None:
    text = "[`Trick`](../lightning_tricks/lifecycle/trick.py#Trick), [a](claims.md), [rules](../tests/matrix.py), [no](gone.py)"
    assert hooks.relinked(text, "docs", "architecture.md") == "`Trick`, [a](claims.md), rules, [no](gone.py)"


def test_every_page_is_there_as_markdown_too(site: Path, pages: dict[Path, Page]) -> None:
    for path in pages:
        if path.name not in ("404.html", "index.html"):
            assert path.with_suffix(".md").exists(), path


# -- what the pages say ---------------------------------------------------------------------------------------------


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in RUN:
        written = re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.S | re.M)
        found += [(f"{page.relative_to(DOCS)}#{i}", block) for i, block in enumerate(written)]
    return found


@pytest.mark.parametrize(("where", "block"), blocks("python"), ids=lambda x: x if "#" in x[:60] else "")
@pytest.mark.filterwarnings("ignore")
def test_the_code_on_the_pages_runs(where: str, block: str) -> None:
    exec(compile(block, where, "exec"), {})


@pytest.mark.cache  # of one page
@pytest.mark.filterwarnings("ignore")
def test_the_yaml_on_the_pages_is_taken_by_lightningcli(tmp_path: Path) -> None:
    import yaml
    from jsonargparse import ArgumentParser
    from lightning.pytorch import Callback
    from lightning.pytorch.plugins import Precision

    parser = ArgumentParser()
    parser.add_argument("--callbacks", type=list[Callback])
    parser.add_argument("--plugins", type=list[Precision])
    written = blocks("yaml")
    assert len(written) > 15
    for where, block in written:
        given = yaml.safe_load(block)["trainer"]
        chosen = {name: given[name] for name in ("callbacks", "plugins") if name in given}
        made = parser.instantiate_classes(parser.parse_object(chosen))
        for name, things in chosen.items():
            found = [f"lightning_tricks.{type(thing).__name__}" for thing in made[name]]
            assert found == [thing["class_path"] for thing in things], where


def rows() -> list[list[str]]:
    lines = [line for line in (DOCS / "symptoms.md").read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if row[0] not in ("what you see", "---")]


def test_the_table_of_symptoms_has_a_trick_and_a_place_to_look_for_each() -> None:
    assert len(rows()) >= 25
    for symptom, look, trick in rows():
        assert symptom and look, symptom
        assert "](tricks/" in trick, symptom


def test_what_the_cheat_sheet_says_can_be_made() -> None:
    text = (DOCS / "cheat_sheet.md").read_text()
    written = [code for code in re.findall(r"`(lt\.\w+\([^`]*\))`", text) if "(module)" not in code]
    assert len(written) >= 25
    for code in written:
        assert isinstance(eval(code, {"lt": lightning_tricks}), Trick), code


def test_what_the_table_of_symptoms_calls_can_be_called() -> None:
    calls = 0
    for row in rows():
        for code in re.findall(r"`(\w+\([^`]*\))`", row[2]):
            call = ast.parse(code, mode="eval").body
            assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
            thing = getattr(lightning_tricks, call.func.id, None)
            if thing is None:
                assert call.func.id == "Trainer", code
                continue
            given = [a for a in call.args if not (isinstance(a, ast.Constant) and a.value is ...)]
            inspect.signature(thing).bind_partial(*given, **{str(k.arg): k.value for k in call.keywords})
            calls += 1
    assert calls > 40


def test_the_log_keys_in_the_table_of_symptoms_are_those_of_the_code() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "lightning_tricks").rglob("*.py"))
    keys = {
        key
        for row in rows()
        for key in re.findall(r"`((?:grad|amp|schedule|accumulation|diagnosis|collapse)/[^`]+)`", row[1])
    }
    assert len(keys) > 30
    for key in keys:
        detector = re.match(r"(collapse/\w+|diagnosis/\w+_doctor)/", key)
        assert detector is None or f"``{detector[0]}" in code, key
        last = re.sub(r"/(<\w+>|optimizer\d)$", "", key.removeprefix(detector[0] if detector else "")).removeprefix(
            "diagnosis/"
        )
        assert last in code or last.replace("_", " ") in code, key


def test_llms_txt_has_every_public_name_with_its_present_signature(site: Path) -> None:
    text, written = (site / "llms.txt").read_text(), (DOCS / "llms.txt").read_text()
    assert re.match(r"# lightning_tricks\n\n> ", text)
    for name in lightning_tricks.__all__:
        thing = getattr(lightning_tricks, name)
        called = not (inspect.isclass(thing) and issubclass(thing, BaseException))
        # annotations are texts: inspect shows them with quotes around
        bare = (
            re.sub(r"(: |-> )(['\"])(.*?)\2(?= = |, |\)|$)", r"\1\3", str(inspect.signature(thing))) if called else ""
        )
        bare = bare.removesuffix(" -> None")
        for where, found in (("the site's", text), ("docs/llms.txt; `python docs/hooks.py` mends it", written)):
            assert f"`{name}{bare}`" in found, f"{where}: {name}{bare}"
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert (site / link).exists(), link


def test_llms_txt_is_brought_up_to_date_without_touching_the_rest() -> None:
    text = (DOCS / "llms.txt").read_text()
    old = re.sub(r"- \[GradientClip\].*\n", "", text)
    assert "`GradientClip(" not in old
    assert hooks.brought_up_to_date(old) == hooks.brought_up_to_date(text)


def test_the_output_folder_is_not_in_git() -> None:
    assert "site/" in (ROOT / ".gitignore").read_text().splitlines()
