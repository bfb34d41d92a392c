from __future__ import annotations

from lightning_tricks.diagnosis import sanity, sanity_gradients
from lightning_tricks.diagnosis.sanity import Check
from lightning_tricks.diagnosis.sanity_gradients import Gradients


def test_a_check_has_a_mark() -> None:
    assert [Check("a", passed, "").mark for passed in (True, False, None)] == ["pass", "FAIL", "?"]


def test_inputs_that_change_outputs_and_loss_matter() -> None:
    assert sanity.input_matters(0.1, 0.1).passed
    assert sanity.input_matters(None, 0.1).passed
    assert sanity.input_matters(0.1, None).passed
    assert sanity.input_matters(0.0, 0.0, 5).passed is False
    assert sanity.input_matters(0.1, 0.0, 5).passed is False  # (the outputs that change are not those of the loss)
    assert sanity.input_matters(0.0, 0.0, 5, moved=False).passed is None
    assert sanity.input_matters(None, None).evidence == "no output of a module was seen"
    assert sanity.input_matters(0.0, 0.0, 5).evidence.endswith("zeroed, after 5 updates")


def test_leaks_are_told_from_batch_norm_and_from_what_is_meant() -> None:
    assert sanity.independence(0.1, 0.1, []).passed is False
    assert sanity.independence(0.1, 0.1, [], by_design="a graph").passed is None
    assert sanity.independence(0.0, 0.1, []).passed is None
    assert sanity.independence(0.0, 0.1, ["bn"]).passed
    assert sanity.independence(0.0, 0.0, ["bn"]).evidence == "in eval mode 0"


def test_outputs_that_change_with_later_elements_look_into_the_future() -> None:
    assert sanity.no_future(1e-7).passed
    assert sanity.no_future(0.01).passed is False


def test_a_label_belongs_to_the_rows_of_its_sample() -> None:
    assert sanity.wrong_partner([2, 3], [3], 1) is None
    assert sanity.wrong_partner([], [3], 1) is None
    assert sanity.wrong_partner([2], [], 1) is None
    found = sanity.wrong_partner([2, 3], [1, 5], 1)
    assert found is not None
    assert found.evidence.startswith("sample 1 is row 2")
    assert sanity.pairing(False, ((2, 1), (2,))) is None


def test_who_takes_part() -> None:
    def arrive(**found: object) -> Check:
        return sanity_gradients.gradients_arrive(Gradients(**found))  # type: ignore[arg-type]

    assert arrive().passed
    assert arrive(unused=("a",)).passed is None
    assert arrive(unused=("a",)).evidence == "no gradient: a"
    assert arrive(detached=("a",)).passed is False
    assert arrive(zero=("a",), all_zero=True, frozen=("b",)).evidence == "gradient 0 everywhere: a; frozen: b"
    assert arrive(zero=("a",), all_zero=True).passed is False
    assert arrive(zero=("a",)).passed is None
    assert arrive(zero=("a",), all_zero=True, idle=True).passed is None
    assert arrive(forgotten=("a",)).fix.startswith("pass self.parameters() to the optimizer")
    assert arrive(left_out=("a",)).passed is None
    assert arrive(kept=True).passed is False
    assert "and 3 more" in arrive(unused=tuple(f"p{i}" for i in range(9))).evidence


def test_eval_mode_is_a_fault_unless_statistics_of_an_earlier_training_are_kept() -> None:
    assert sanity.in_training_mode([], []).passed
    assert sanity.in_training_mode([], ["bn"]).passed is None
    assert sanity.in_training_mode(["drop"], ["bn"]).passed is False
