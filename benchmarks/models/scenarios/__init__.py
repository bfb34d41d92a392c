"""Small real trainings, half of which fail: on one half of them thresholds are tuned, on the other they are verified."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.models import failures, failures_held_out
from benchmarks.models.scenario import Scenario
from benchmarks.models.scenarios import (
    autoencoders,
    bugs,
    bugs_in_data,
    bugs_in_updates,
    classification,
    classification_regimes,
    draw_bugs,
    draw_classification,
    draw_embeddings,
    draw_generative,
    draw_sequences,
    everyday_second,
    everyday_sequences,
    everyday_tables,
    everyday_unlabelled,
    everyday_updates,
    everyday_vision,
    finetuning,
    forum_generative,
    forum_sequences,
    forum_tables,
    forum_updates,
    forum_vision,
    fresh_classes,
    fresh_sequences,
    fresh_tables,
    fresh_unlabelled,
    gans,
    generative,
    graphs,
    guides_decisions,
    guides_sequences,
    guides_tables,
    guides_unlabelled,
    guides_vision,
    language,
    listed_classes,
    listed_generative,
    listed_sequences,
    listed_tables,
    listed_updates,
    mixtures,
    recurrent,
    regression,
    regression_distributions,
    reinforcement,
    review_classes,
    review_embeddings,
    review_generators,
    review_graphs_and_policies,
    review_regression,
    review_sequences,
    self_supervised,
    self_supervised_labels,
    variational,
    wide_adaptation,
    wide_bugs,
    wide_classification,
    wide_embeddings,
    wide_generative,
    wide_regression,
    wide_sequences,
)

# The older scenarios: thresholds were tuned on the first ones, and the others have never been read for that.
_OLDER = [
    *(replace(s, fixed_half="develop") for s in failures.SCENARIOS),
    *(replace(s, fixed_half="verify") for s in failures_held_out.SCENARIOS),
]
SCENARIOS: list[Scenario] = [
    *_OLDER,
    *language.SCENARIOS,
    *recurrent.SCENARIOS,
    *mixtures.SCENARIOS,
    # Moved from the half of their names: the first run of verify showed that SanityCheck took one graph, of which other
    # nodes are held out, for validation on training data. That was mended, so they verify nothing any more.
    *(replace(s, fixed_half="develop") for s in graphs.SCENARIOS),
    *reinforcement.SCENARIOS,
    *finetuning.SCENARIOS,
    *classification.SCENARIOS,
    *classification_regimes.SCENARIOS,
    *regression.SCENARIOS,
    *regression_distributions.SCENARIOS,
    *bugs.SCENARIOS,
    *bugs_in_updates.SCENARIOS,
    *bugs_in_data.SCENARIOS,
    *self_supervised.SCENARIOS,
    *self_supervised_labels.SCENARIOS,
    *autoencoders.SCENARIOS,
    *variational.SCENARIOS,
    *generative.SCENARIOS,
    *gans.SCENARIOS,
    # Written by those who write the rules, to find what the rules get wrong: they verify nothing.
    *(replace(s, fixed_half="develop") for s in everyday_vision.SCENARIOS),
    *(replace(s, fixed_half="develop") for s in everyday_tables.SCENARIOS),
    *(replace(s, fixed_half="develop") for s in everyday_updates.SCENARIOS),
    *(replace(s, fixed_half="develop") for s in everyday_sequences.SCENARIOS),
    *(replace(s, fixed_half="develop") for s in everyday_unlabelled.SCENARIOS),
    *(replace(s, fixed_half="develop") for s in everyday_second.SCENARIOS),
    # From threads of forums and documented examples; their names put them into develop.
    *forum_vision.SCENARIOS,
    *forum_sequences.SCENARIOS,
    *forum_tables.SCENARIOS,
    *forum_generative.SCENARIOS,
    *forum_updates.SCENARIOS,
    # Written to be like trainings that nobody here has made; their names put them into develop.
    *wide_classification.SCENARIOS,
    *wide_regression.SCENARIOS,
    *wide_sequences.SCENARIOS,
    *wide_generative.SCENARIOS,
    *wide_embeddings.SCENARIOS,
    *wide_adaptation.SCENARIOS,
    *wide_bugs.SCENARIOS,
    # From tutorials and documented examples; their names put them into develop.
    *guides_vision.SCENARIOS,
    *guides_sequences.SCENARIOS,
    *guides_tables.SCENARIOS,
    *guides_unlabelled.SCENARIOS,
    *guides_decisions.SCENARIOS,
    # Drawn as somebody would who holds trainings back; their names put them into develop.
    *draw_classification.SCENARIOS,
    *draw_sequences.SCENARIOS,
    *draw_generative.SCENARIOS,
    *draw_embeddings.SCENARIOS,
    *draw_bugs.SCENARIOS,
    # Written as a reviewer would who holds trainings back; their names put them into develop.
    *review_regression.SCENARIOS,
    *review_embeddings.SCENARIOS,
    *review_classes.SCENARIOS,
    *review_sequences.SCENARIOS,
    *review_graphs_and_policies.SCENARIOS,
    *review_generators.SCENARIOS,
    # Families that are seldom combined with these bugs; their names put them into develop.
    *fresh_classes.SCENARIOS,
    *fresh_sequences.SCENARIOS,
    *fresh_unlabelled.SCENARIOS,
    *fresh_tables.SCENARIOS,
    # From a list of families and mistakes, by somebody who has not seen the rules; their names put them into develop.
    *listed_classes.SCENARIOS,
    *listed_sequences.SCENARIOS,
    *listed_generative.SCENARIOS,
    *listed_updates.SCENARIOS,
    *listed_tables.SCENARIOS,
]


def of_half(half: str) -> list[Scenario]:
    """Return the scenarios of one half."""
    return [s for s in SCENARIOS if s.half == half]
