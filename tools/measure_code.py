"""Measure a Python package: sizes, share of pure code, comments, classes and import circles.

    python tools/measure_code.py [PACKAGE] [--json]

How each number is counted:

- a *code line* holds a token that is neither a comment nor part of a docstring; comments at the end of a code line are
  counted beside those that have a line to themselves,
- a function is counted by its code lines; one that is nested in another belongs to the outer one,
- *pure* is the code of functions at module level and of methods of frozen dataclasses, divided by the code of all
  functions and methods; the share of functions at module level alone is printed beside it,
- attributes of a class are the names that its body assigns or annotates, and those that its methods assign on ``self``;
  inherited ones come from base classes in the same package only, and members of an enumeration are values,
- a *circle* is a set of modules that import one another, including imports for type checking and inside functions.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LONGEST_FILE = 250  # lines; the convention is 60 to 250
MOST_METHODS, MOST_ATTRIBUTES = 20, 15  # of a class itself
SHOWN = 10  # rows of each list of the largest
_NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Function:
    """A function at module level, or a method.

    Args:
        place: module and qualified name.
        lines: its code lines.
        owner: "module", "frozen" for a frozen dataclass, or "class".
    """

    place: str
    lines: int
    owner: str


@dataclass(frozen=True)
class Class:
    """A class at module level.

    Args:
        place: module and name.
        bases: places of the base classes that are in the same package.
        methods: names of its own methods.
        attributes: names of its own attributes.
    """

    place: str
    bases: tuple[str, ...]
    methods: frozenset[str]
    attributes: frozenset[str]


@dataclass(frozen=True)
class Module:
    """One file.

    Args:
        name: dotted name, starting with that of the package.
        lines: all lines.
        code: code lines.
        comments: comments, also those at the end of a line.
        comment_lines: lines that hold a comment only.
        functions: its functions and methods.
        nested: number of functions inside of functions; lambdas are not counted.
        classes: its classes.
        imports: modules of the same package that it imports.
    """

    name: str
    lines: int
    code: int
    comments: int
    comment_lines: int
    functions: tuple[Function, ...]
    nested: int
    classes: tuple[Class, ...]
    imports: frozenset[str]


def read_package(folder: Path) -> list[Module]:
    """Return every module of a package, sorted by name."""
    paths = {".".join((folder.name, *p.relative_to(folder).with_suffix("").parts)): p for p in folder.rglob("*.py")}
    texts = {name.removesuffix(".__init__"): path.read_text(encoding="utf-8") for name, path in paths.items()}
    return [read_module(name, text, set(texts)) for name, text in sorted(texts.items())]


def read_module(name: str, text: str, known: set[str]) -> Module:
    """Return what one file holds.

    Args:
        name: dotted name of the module.
        text: its source.
        known: names of all modules of the package.
    """
    tree = ast.parse(text)
    docstrings = {line for node in ast.walk(tree) for line in _docstring_lines(node)}
    code, comments, comment_lines = set[int](), 0, 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        comments += token.type == tokenize.COMMENT
        comment_lines += token.type == tokenize.COMMENT and token.line.lstrip().startswith("#")
        if token.type not in _NOT_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
    code -= docstrings
    origins = dict(_imported_names(tree, name))
    functions, classes = [], []
    for node in tree.body:
        if isinstance(node, _Function):
            functions.append(_function(name, node, code, "module"))
        elif isinstance(node, ast.ClassDef):
            owner = "frozen" if _is_frozen(node) else "class"
            members = [member for member in node.body if isinstance(member, _Function)]
            functions += [_function(f"{name}.{node.name}", member, code, owner) for member in members]
            classes.append(_class(name, node, origins))
    every = sum(isinstance(node, _Function) for node in ast.walk(tree))
    parents = {name.rpartition(".")[0], name}
    return Module(
        name=name,
        lines=len(text.splitlines()),
        code=len(code),
        comments=comments,
        comment_lines=comment_lines,
        functions=tuple(functions),
        nested=every - len(functions),
        classes=tuple(classes),
        imports=frozenset(m for m in _imported_modules(tree) if m in known and m not in parents),
    )


def _docstring_lines(node: ast.AST) -> Iterable[int]:
    if not isinstance(node, ast.Module | ast.ClassDef | _Function) or not node.body:
        return ()
    first = node.body[0]
    value = first.value if isinstance(first, ast.Expr) else None
    if not (isinstance(value, ast.Constant) and isinstance(value.value, str)):
        return ()
    return range(first.lineno, (first.end_lineno or first.lineno) + 1)


def _function(place: str, node: ast.FunctionDef | ast.AsyncFunctionDef, code: set[int], owner: str) -> Function:
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    lines = sum(first <= line <= (node.end_lineno or node.lineno) for line in code)
    return Function(f"{place}.{node.name}", lines, owner)


def _is_frozen(node: ast.ClassDef) -> bool:
    return any(
        isinstance(decorator, ast.Call)
        and ast.unparse(decorator.func).split(".")[-1] == "dataclass"
        and any(k.arg == "frozen" and isinstance(k.value, ast.Constant) and k.value.value for k in decorator.keywords)
        for decorator in node.decorator_list
    )


def _class(module: str, node: ast.ClassDef, origins: Mapping[str, str]) -> Class:
    methods = [member for member in node.body if isinstance(member, _Function)]
    is_enumeration = any(ast.unparse(base).split(".")[-1].endswith(("Enum", "Flag")) for base in node.bases)
    body = [] if is_enumeration else node.body
    attributes = {name for member in body for name in _assigned(member) if name.isidentifier()}
    for method in methods:
        if method.args.args:
            own = method.args.args[0].arg + "."
            assigned = {name for inner in ast.walk(method) for name in _assigned(inner)}
            attributes |= {name.removeprefix(own) for name in assigned if name.startswith(own) and name.count(".") == 1}
    bases = []
    for base in node.bases:
        first, _, rest = ast.unparse(base).partition(".")
        bases.append(".".join(filter(None, (origins.get(first, f"{module}.{first}"), rest))))
    return Class(
        f"{module}.{node.name}", tuple(bases), frozenset(m.name for m in methods), frozenset(attributes - {"__slots__"})
    )


def _assigned(node: ast.AST) -> Iterator[str]:
    """Yield the names that one statement assigns, dotted where they are attributes."""
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = list(node.targets)
    elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.For | ast.NamedExpr):
        targets = [node.target]
    elif isinstance(node, ast.With):
        targets = [item.optional_vars for item in node.items if item.optional_vars is not None]
    while targets:
        target = targets.pop()
        if isinstance(target, ast.Tuple | ast.List):
            targets += target.elts
        elif isinstance(target, ast.Name | ast.Attribute):
            yield ast.unparse(target)


def _imported_names(tree: ast.Module, module: str) -> Iterator[tuple[str, str]]:
    """Yield each name that a module binds by an import, and what it stands for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.asname or alias.name, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


def _imported_modules(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def with_inherited(classes: Mapping[str, Class], place: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return methods and attributes of a class, with those of its base classes in ``classes``."""
    methods, attributes = classes[place].methods, classes[place].attributes
    for base in classes[place].bases:
        if base in classes:
            more_methods, more_attributes = with_inherited(classes, base)
            methods, attributes = methods | more_methods, attributes | more_attributes
    return methods, attributes


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Return the sets of nodes that reach one another, each sorted.

    >>> circles({"a": ["b"], "b": ["a", "c"], "c": []})
    [['a', 'b']]
    """
    reached = {node: _reachable(graph, node) for node in graph}
    found = {frozenset(m for m in reached[n] if m in reached and n in reached[m]) for n in graph if n in reached[n]}
    return sorted(sorted(circle) for circle in found)


def _reachable(graph: Mapping[str, Iterable[str]], start: str) -> set[str]:
    seen, waiting = set[str](), list(graph[start])
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += graph.get(node, ())
    return seen


def measure(modules: list[Module]) -> dict[str, Any]:
    """Return all numbers of a package, as plain values."""
    functions = [function for module in modules for function in module.functions]
    classes = {found.place: found for module in modules for found in module.classes}
    lines, code = sum(m.lines for m in modules), sum(m.code for m in modules)
    of = {owner: sum(f.lines for f in functions if f.owner == owner) for owner in ("module", "frozen", "class")}
    in_functions = max(1, sum(of.values()))
    count = len(functions) + sum(m.nested for m in modules)
    packages: dict[str, int] = {}
    for module in modules:
        names = module.name.split(".")
        is_package = any(other.name.startswith(module.name + ".") for other in modules)
        package = names[1] if len(names) > 2 or (len(names) == 2 and is_package) else "(top level)"
        packages[package] = packages.get(package, 0) + module.lines
    rows: list[dict[str, Any]] = []
    for place, found in classes.items():
        methods, attributes = with_inherited(classes, place)
        own = {"methods": len(found.methods), "attributes": len(found.attributes)}
        rows.append({"class": place, **own, "all_methods": len(methods), "all_attributes": len(attributes)})
    files = sorted(((m.name, m.lines) for m in modules), key=lambda row: (-row[1], row[0]))
    return {
        "files": len(modules),
        "lines": lines,
        "code_lines": code,
        "lines_per_package": dict(sorted(packages.items())),
        "pure_share": (of["module"] + of["frozen"]) / in_functions,
        "module_level_share": of["module"] / in_functions,
        "functions_per_1000_lines": 1000 * count / max(1, lines),
        "functions_per_1000_code_lines": 1000 * count / max(1, code),
        "comments_per_100_code_lines": 100 * sum(m.comments for m in modules) / max(1, code),
        "comment_lines_per_100_code_lines": 100 * sum(m.comment_lines for m in modules) / max(1, code),
        "classes": sorted(rows, key=lambda r: (-r["all_methods"] - r["all_attributes"], r["class"])),
        "classes_over_limit": [
            row["class"] for row in rows if row["methods"] > MOST_METHODS or row["attributes"] > MOST_ATTRIBUTES
        ],
        "largest_files": files[:SHOWN],
        "largest_functions": [asdict(f) for f in sorted(functions, key=lambda f: (-f.lines, f.place))[:SHOWN]],
        "files_over_limit": sum(size > LONGEST_FILE for _, size in files),
        "import_circles": circles({m.name: m.imports for m in modules}),
    }


def report(numbers: Mapping[str, Any]) -> str:
    """Return the numbers as text."""
    out = [f"{numbers['files']} files, {numbers['lines']:,} lines, {numbers['code_lines']:,} code lines", ""]
    out += [f"{lines:7,}  {name}" for name, lines in numbers["lines_per_package"].items()]
    out += [
        "",
        f"pure share of the code in functions: {numbers['pure_share']:.1%} "
        f"(functions at module level alone: {numbers['module_level_share']:.1%})",
        f"functions per 1,000 lines: {numbers['functions_per_1000_lines']:.0f} "
        f"(per 1,000 code lines: {numbers['functions_per_1000_code_lines']:.0f})",
        f"comments per 100 code lines: {numbers['comments_per_100_code_lines']:.1f} "
        f"(with a line to themselves: {numbers['comment_lines_per_100_code_lines']:.1f})",
        f"files of more than {LONGEST_FILE} lines: {numbers['files_over_limit']}",
        f"import circles: {numbers['import_circles'] or 'none'}",
        f"classes of more than {MOST_METHODS} methods or {MOST_ATTRIBUTES} attributes of their own: "
        f"{', '.join(numbers['classes_over_limit']) or 'none'}",
        "",
        "methods and attributes, with inherited ones (own ones):",
    ]
    out += [
        f"{row['all_methods']:4} ({row['methods']:3}) {row['all_attributes']:4} ({row['attributes']:3})  {row['class']}"
        for row in numbers["classes"][:SHOWN]
    ]
    out += ["", "largest files, lines:", *(f"{lines:6}  {name}" for name, lines in numbers["largest_files"])]
    out += ["", "largest functions, code lines:"]
    out += [f"{row['lines']:6}  {row['place']}" for row in numbers["largest_functions"]]
    return "\n".join(out)


def main(arguments: list[str] | None = None) -> None:
    """Print the numbers of a package."""
    parser = argparse.ArgumentParser(description="Measure a Python package.")
    default = Path(__file__).resolve().parents[1] / "lightning_tricks"
    parser.add_argument("package", nargs="?", type=Path, default=default, help="a folder; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON, with every class")
    options = parser.parse_args(arguments)
    numbers = measure(read_package(options.package.resolve()))
    print(json.dumps(numbers, indent=1) if options.json else report(numbers))


if __name__ == "__main__":
    main()
