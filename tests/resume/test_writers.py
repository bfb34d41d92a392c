from __future__ import annotations

from lightning_tricks.resume.writers import Writer, written


def test_a_writer_of_another_class_silences_what_is_not_known() -> None:
    best = Writer(monitor="loss")
    assert written([], others=True) == written([best], others=True) == []
    assert written([best, Writer(every_n_steps=5, every_n_epochs=0)]) == []
    assert "only the best state is kept" in written([best])[0].what
    assert "no checkpoint callback" in written([])[0].what
    assert "nothing is written while training" in written([Writer(save_last=True, every_n_epochs=0)])[0].what
