from __future__ import annotations

import pytest

from lightning_tricks.publishing.layer_names import short, shorter

BLOCKS = [f"model.encoder.blocks.{i}.attention.output_projection" for i in (28, 29)]


@pytest.mark.parametrize(
    ("names", "written"),
    [
        (BLOCKS, ["…blocks.28…", "…blocks.29…"]),
        (["net.1", "net.encoder.feed_forward.activation"], ["net.1", "net.encoder…d.activation"]),
        (["a_prefix_of_all.layers.0", "a_prefix_of_all.layers.0.inner"], ["…layers.0", "…layers.0.inner"]),
        (["in_the_encoder.normalisation", "in_the_decoder.normalisation"], ["in_the_encoder…", "in_the_decoder…"]),
        (BLOCKS[:1], ["model.encod…t_projection"]),
        (["net.1", "net.3"], ["net.1", "net.3"]),
        ([], []),
        ([f"rank/{BLOCKS[0]}", f"variance/{BLOCKS[1]}"], ["rank/…blocks.28…", "variance/…blocks.29…"]),
        ([f"dead/{BLOCKS[0]}", f"dormant/{BLOCKS[0]}"], ["dead/model.e…ojection", "dormant/model.e…ojection"]),
        (
            [f"collapse/of_representation/rank/{name}" for name in BLOCKS],
            ["colla…/rank/…blocks.28…", "colla…/rank/…blocks.29…"],
        ),
    ],
    ids=[
        *("middle", "one of two", "one in the other", "beginning", "alone", "short", "none"),
        *("measures", "one layer", "long measures"),
    ],
)
def test_long_names_keep_what_differs(names: list[str], written: list[str]) -> None:
    assert shorter(names, 24) == dict(zip(names, written, strict=True))


@pytest.mark.parametrize("longest", range(3, 12))
def test_a_shortened_name_is_as_long_as_there_is_room(longest: int) -> None:
    name = short("0123456789", longest)
    head, _, tail = name.partition("…")
    assert len(name) == min(longest, 10)
    assert "0123456789".startswith(head) and "0123456789".endswith(tail)
