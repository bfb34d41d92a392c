"""What is known to go wrong: (stranger, test) -> why. A test of these that passes is an error: take its line out."""

_CACHE = "batches that a loader keeps as objects cannot be saved; ExactResume names it, and the resumed run is another"

DEFECTS: dict[tuple[str, str], str] = {("torch-geometric CachedLoader", "resume"): _CACHE}

# The same for trainings around modules of packages: (training, test) -> why.
_LEAK = "SanityCheck takes the matrix of distances that a loss makes of all samples for the prediction"
_HOOK = "SanityCheck does not know that a hook of the module took gradients away that backward had given"
_KEYS = "PredictionCollapse finds no key of a batch that is not a mapping, and ends the training"

TRAINING_DEFECTS: dict[tuple[str, str], str] = {
    ("metric learning: multi-similarity", "quiet"): _LEAK,
    ("metric learning: cross-batch memory", "quiet"): _LEAK,
    ("lightly: DINO", "quiet"): _HOOK,
    ("lightly: VICReg without variance", "noticed"): "directions stay apart while the std of the embeddings falls to 0",
    ("torch-geometric: rings", "label"): _KEYS,
    ("torch-geometric: rings", "trace"): _KEYS,
    ("torch-geometric: rings", "quiet"): _KEYS,
    ("zuko: spline flow, sign flipped", "noticed"): "nobody asks whether a loss has a floor",
}
