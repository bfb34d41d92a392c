"""What is known to go wrong: (stranger, test) -> why. A test of these that passes is an error: take its line out."""

_CACHE = "batches that a loader keeps as objects cannot be saved; ExactResume names it, and the resumed run is another"

DEFECTS: dict[tuple[str, str], str] = {("torch-geometric CachedLoader", "resume"): _CACHE}
