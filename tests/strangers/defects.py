"""What is known to go wrong: (stranger, test) -> why. A test of these that passes is an error: take its line out."""

_CACHE = "ExactResume does not notice a loader that is not a DataLoader and keeps batches of its first pass"

DEFECTS: dict[tuple[str, str], str] = {
    ("torch-geometric CachedLoader", "resume"): _CACHE,
}
