"""What is known to go wrong: (stranger, test) -> why. A test of these that passes is an error: take its line out."""

_CACHE = "batches that a loader keeps as objects cannot be saved; ExactResume names it, and the resumed run is another"

DEFECTS: dict[tuple[str, str], str] = {("torch-geometric CachedLoader", "resume"): _CACHE}

# The same for trainings around modules of packages: (training, test) -> why.

TRAINING_DEFECTS: dict[tuple[str, str], str] = {
    ("zuko: spline flow, sign flipped", "noticed"): "nobody asks whether a loss has a floor",
}
