"""What is known to go wrong: (stranger, test) -> why. A test of these that passes is an error: take its line out."""

_SLOTS = "GradientAccumulation(weight='samples') calls vars() on a dataclass with slots (accumulation/weights.py)"
_CACHE = "ExactResume does not notice a loader that is not a DataLoader and keeps batches of its first pass"

DEFECTS: dict[tuple[str, str], str] = {
    **{
        (name, test): _SLOTS
        for name in ("darts NBEATSModel", "darts RNNModel", "chemprop MPNN")
        for test in ("full list", "bf16-mixed")
    },
    ("torch-geometric CachedLoader", "resume"): _CACHE,
}
