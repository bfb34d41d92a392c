"""The numbers of tools/measure_code.py, on a package that is small enough to count by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools.measure_code import circles, main, measure, read_package

FILES = {
    "__init__.py": '"""A package of three files."""\n',
    "shapes/__init__.py": "",
    "shapes/area.py": '''\
"""Areas."""

from dataclasses import dataclass

# A comment with a line to itself.
LIMIT = 3  # a comment at the end of a line


@dataclass(frozen=True)
class Square:
    """A frozen dataclass: its methods are pure."""

    side: float

    def area(self) -> float:
        """Return the area."""
        return self.side**2


def double(value: float) -> float:
    """Return twice the value.

    # not a comment
    """

    def inner() -> float:
        return value + value

    return inner()
''',
    "shapes/shell.py": """\
from typing import TYPE_CHECKING

from made_up.shapes.area import Square

if TYPE_CHECKING:
    from made_up.shapes.user import User


class Base:
    kind = "base"

    def __init__(self, user: "User") -> None:
        self.user, self.count = user, 0
        self.user.name = "another object's attribute"

    def size(self) -> float:
        return Square(1.0).area()
""",
    "shapes/user.py": """\
from made_up.shapes import shell


class User(shell.Base):
    def size(self) -> float:
        self.total = 2.0
        return self.total

    @property
    def name(self) -> str:
        return "user"
""",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "made_up" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "made_up"


@pytest.fixture
def numbers(package: Path) -> dict[str, Any]:
    return measure(read_package(package))


def test_lines_are_counted_per_package(numbers: dict[str, Any]) -> None:
    total = {name: len(text.splitlines()) for name, text in FILES.items()}
    assert numbers["files"] == 5
    assert numbers["lines"] == sum(total.values())
    assert numbers["lines_per_package"] == {"(top level)": 1, "shapes": sum(total.values()) - 1}
    assert numbers["largest_files"][0] == ("made_up.shapes.area", total["shapes/area.py"])
    assert numbers["files_over_limit"] == 0


def test_code_lines_hold_no_comments_and_no_docstrings(numbers: dict[str, Any]) -> None:
    area, shell, user = 11, 11, 8
    assert numbers["code_lines"] == area + shell + user
    assert numbers["comments_per_100_code_lines"] == pytest.approx(100 * 2 / 30)
    assert numbers["comment_lines_per_100_code_lines"] == pytest.approx(100 * 1 / 30)


def test_code_is_pure_at_module_level_and_in_frozen_dataclasses(numbers: dict[str, Any]) -> None:
    module, frozen, classes = 4, 2, 5 + 6
    assert numbers["pure_share"] == pytest.approx((module + frozen) / (module + frozen + classes))
    assert numbers["module_level_share"] == pytest.approx(module / (module + frozen + classes))


def test_a_class_over_the_limits_is_named_and_members_of_an_enumeration_are_no_attributes(tmp_path: Path) -> None:
    def numbers_of(text: str) -> list[str]:
        (tmp_path / "large").mkdir(exist_ok=True)
        (tmp_path / "large" / "file.py").write_text(text)
        found: list[str] = measure(read_package(tmp_path / "large"))["classes_over_limit"]
        return found

    def methods(n: int) -> str:
        return "class Many:\n" + "".join(f"    def f{i}(self): pass\n" for i in range(n))

    def attributes(n: int, base: str) -> str:
        return f"import enum\nclass Many({base}):\n" + "".join(f"    a{i} = {i}\n" for i in range(n))

    assert numbers_of(methods(20)) == [] and numbers_of(methods(21)) == ["large.file.Many"]
    assert numbers_of(attributes(15, "object")) == [] and numbers_of(attributes(16, "object")) == ["large.file.Many"]
    assert numbers_of(attributes(16, "str, enum.Enum")) == []
    held = "    def __init__(self):\n" + "".join(f"        self.b{i} = {i}\n" for i in range(16))
    assert numbers_of(attributes(1, "enum.Enum") + held) == ["large.file.Many"]


def test_nested_functions_count_as_functions_and_their_code_as_that_of_the_outer_one(numbers: dict[str, Any]) -> None:
    assert numbers["functions_per_1000_lines"] == pytest.approx(1000 * 7 / numbers["lines"])
    assert numbers["functions_per_1000_code_lines"] == pytest.approx(1000 * 7 / 30)
    largest = numbers["largest_functions"]
    assert largest[0] == {"place": "made_up.shapes.area.double", "lines": 4, "owner": "module"}
    assert len(largest) == 6


def test_classes_are_counted_with_and_without_what_they_inherit(numbers: dict[str, Any]) -> None:
    rows = {row.pop("class").rpartition(".")[2]: row for row in numbers["classes"]}
    assert rows == {
        "Square": {"methods": 1, "attributes": 1, "all_methods": 1, "all_attributes": 1},
        "Base": {"methods": 2, "attributes": 3, "all_methods": 2, "all_attributes": 3},
        "User": {"methods": 2, "attributes": 1, "all_methods": 3, "all_attributes": 4},
    }


def test_a_circle_is_found_that_only_type_checking_closes(numbers: dict[str, Any]) -> None:
    assert numbers["import_circles"] == [["made_up.shapes.shell", "made_up.shapes.user"]]


def test_circles_may_share_no_node_and_may_have_one() -> None:
    assert circles({"a": ["b"], "b": ["c"], "c": ["a"], "d": ["d"], "e": ["a", "missing"]}) == [["a", "b", "c"], ["d"]]


def test_the_command_prints_text_or_json(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(package), "--json"])
    as_json = json.loads(capsys.readouterr().out)
    assert as_json["classes"][0]["class"] == "made_up.shapes.user.User"
    main([str(package)])
    text = capsys.readouterr().out
    assert f"pure share of the code in functions: {as_json['pure_share']:.1%}" in text
    assert "   3 (  2)    4 (  1)  made_up.shapes.user.User" in text


def test_an_empty_package_has_no_shares(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "__init__.py").write_text("")
    assert measure(read_package(tmp_path / "empty"))["pure_share"] == 0
