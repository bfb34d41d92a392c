from __future__ import annotations

import pickle

from lightning_tricks.resume.findings import Finding, lines


def test_a_finding_is_one_line_and_can_be_pickled() -> None:
    finding = Finding("a is wrong", "Mend a.")
    assert str(finding) == "a is wrong. Mend a." and pickle.loads(pickle.dumps(finding)) == finding


def test_a_list_of_findings_has_a_line_for_each() -> None:
    assert lines([]) == ""
    assert lines([Finding("a is wrong.", "Mend a"), Finding("b", "c")]).splitlines() == [
        "",
        "- a is wrong. Mend a.",
        "- b. c.",
    ]
