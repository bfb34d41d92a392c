"""What the experiments of SanityCheck on data mean: labels and rows in, passed or not, and the fix. No Lightning."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from lightning_tricks.diagnosis.sanity import Check

_CHANCE = 3.0
_BY_HEART = 4.0  # standard errors by which pairs that were trained on are told from wrong ones
_COMMON = 0.4  # of what is learned of seen pairs: more is not about pairs
STRUCTURE = 0.1  # inputs with less are like noise: labels need not have to do with their neighbours
_RARE = 1e-6  # error rate of the test for sorted data
_MISSING = 0.3  # share of the data whose labels are missing in a stretch of it
_PURE = 0.25  # entropy of the labels of a batch over that of the data


def neighbours_agree(inputs: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return how often the nearest other sample has the same label, in standard errors above chance, and the share.

    Args:
        inputs: ``[n, d]``.
        labels: ``[n]``.

    >>> z, share = neighbours_agree(torch.tensor([[0.0], [0.1], [5.0], [5.1]] * 5), torch.tensor([0, 0, 1, 1] * 5))
    >>> z > 3, share
    (True, 1.0)
    """
    apart = torch.cdist(inputs.double(), inputs.double()).fill_diagonal_(torch.inf)
    same = float((labels[apart.argmin(1)] == labels).double().mean())
    n = len(labels)
    shares = torch.bincount(labels.clamp(min=0)).double() / n
    chance = float(shares.square().sum())
    error = math.sqrt(max(chance * (1 - chance), 1e-12) / n)
    return (same - chance) / error, same


def structure(inputs: Tensor, seed: int = 0) -> float:
    """Return how much nearer the nearest neighbours are than in rows whose columns were shuffled: 0 for noise.

    Columns are the principal components, so that a linear correlation alone is not structure. Labels of inputs that
    have groups or lie on a surface have something to do with it, as a rule; those of noise need not.

    Args:
        inputs: ``[n, d]``.
        seed: of the shuffle; the global generator is left alone.

    >>> generator = torch.Generator().manual_seed(0)
    >>> noise = torch.randn(200, 5, generator=generator)
    >>> groups = noise * 0.1 + torch.randint(4, (200, 1), generator=generator) * torch.tensor([[3.0, -2, 1, 4, -5]])
    >>> structure(noise) < 0.1, structure(groups) > 0.1
    (True, True)
    """
    x = inputs.double()
    x = (x - x.mean(0)) / x.std(0).clamp(min=1e-12)
    _, _, axes = torch.linalg.svd(x, full_matrices=False)
    x = x @ axes.T
    # (a generator of its own: the run's numbers stay, and all processes shuffle alike)
    generator = torch.Generator().manual_seed(seed)
    orders = torch.rand(x.shape, generator=generator, dtype=torch.float64).to(x.device).argsort(0)
    mixed = x.gather(0, orders)
    real, null = (torch.cdist(t, t).fill_diagonal_(torch.inf).amin(1).mean() for t in (x, mixed))
    return float(1 - real / null.clamp(min=1e-12))


def association(probabilities: Tensor, labels: Tensor) -> float:
    """Return by how many standard errors the probability of the true label is above that of another sample's label.

    Args:
        probabilities: ``[n, K]``, of samples that were not trained on.
        labels: ``[n]``, each of them a class.

    >>> right = torch.eye(4).repeat(25, 1) * 0.2 + 0.2
    >>> association(right, torch.arange(4).repeat(25)) > 5, association(right, torch.zeros(100, dtype=torch.long))
    (True, 0.0)
    """
    p, n = probabilities.double(), len(labels)
    own = p.gather(1, labels.unsqueeze(1)).squeeze(1)
    shares = torch.bincount(labels, minlength=p.shape[1]).double() / n
    excess = own - p @ shares  # (the mean over all other labels: the permutation test's expectation)
    mean = p.mean(0)
    centred = p - mean
    second, first = centred.square() @ shares, centred @ shares
    variance = float((second - first.square()).sum())
    gain = float(excess.sum())
    return 0.0 if variance < 1e-18 or abs(gain) < 1e-12 else gain / math.sqrt(variance)


def standard_errors(values: Sequence[float]) -> float:
    """Return by how many standard errors a mean is above 0, as a normal number: of few values, less than Student's t.

    Of eight values a t of 3.9 is as likely by chance as a normal number of 2.7.

    Args:
        values: two or more.

    Reference: Wallace, "Bounds on normal approximations to Student's and the chi-square distributions", 1959.

    >>> standard_errors([1.0, 2.0, 3.0, 2.0] * 100) > 25, standard_errors([1.0, -1.0])
    (True, 0.0)
    """
    x = torch.tensor(values, dtype=torch.float64)
    freedom = len(values) - 1
    t = float(x.mean() / (x.std() / len(values) ** 0.5).clamp(min=1e-12))
    z = (8 * freedom + 1) / (8 * freedom + 3) * math.sqrt(freedom * math.log1p(t * t / freedom))
    return math.copysign(z, t) if t else 0.0


def labels_follow(z: float, share: float, shape: float, skill: tuple[float, float] | None) -> Check:
    """Judge whether labels belong to their inputs, from nearest neighbours and from a short training.

    Args:
        z: standard errors above chance of ``neighbours_agree``.
        share: of neighbours with the same label.
        shape: ``structure`` of the inputs.
        skill: association on the batches that were trained on, and on others; None where it was not measured.

    >>> labels_follow(20.0, 0.9, 0.3, None).passed, labels_follow(0.3, 0.1, 0.3, (40.0, 0.1)).passed
    (True, False)
    """
    name = "labels follow from inputs"
    seen = f"{share:.0%} of nearest neighbours have the same label ({z:+.1f} standard errors from chance)"
    if z > _CHANCE:
        return Check(name, True, seen)
    if skill is None:
        return Check(name, None, seen, "neighbours of raw inputs say nothing here")
    seen += f"; after a short training the outputs are {skill[1]:+.1f} standard errors from chance on unseen batches"
    if skill[1] > _CHANCE:
        return Check(name, True, seen)
    if shape < STRUCTURE or skill[0] < 2 * _CHANCE or skill[1] > 0.8 * _CHANCE:
        return Check(name, None, seen, "a weak signal, noise, or too short a training: TrainingDoctor() watches it")
    return Check(name, False, seen, "inputs and labels may have been shuffled or sorted apart: look at some pairs")


def one_label(label: int, count: int, classes: int) -> Check:
    """Report labels that are all the same, for a model of several classes.

    >>> one_label(4, 1024, 5).evidence
    'all of 1024 labels are 4, of 5 classes'
    """
    seen = f"all of {count} labels are {label}, of {classes} classes"
    return Check(
        "labels follow from inputs",
        False,
        seen,
        "look at how data are filtered, and how labels are read, mapped and clamped",
    )


def pairs_belong(at_once: float, shape: float, skill: tuple[float, float] | None, learned: float = 0.0) -> Check:
    """Judge whether two inputs of each sample belong together, from the loss of wrong pairs.

    Args:
        at_once: standard errors by which wrong pairs have a higher loss, before training.
        shape: ``structure`` of one of the inputs.
        skill: the same after a short training, on pairs that were trained on and on others; None where not measured.
        learned: by how much the loss of others has fallen, over that of those that were trained on; 0 where the loss
            compares samples with each other, so that it is about pairs. Else what it learns of each of the two inputs
            holds for all, and the two need not belong together, as content and style.

    >>> pairs_belong(9.0, 0.3, None).passed, pairs_belong(0.1, 0.3, (20.0, 0.2)).passed
    (True, False)
    >>> pairs_belong(0.1, 0.3, (20.0, 0.2), learned=0.9).evidence.endswith("the loss of unseen ones falls all the same")
    True
    """
    name = "labels follow from inputs"
    if skill is None:
        seen = f"wrong pairs of inputs have a higher loss by {at_once:+.1f} standard errors"
        return Check(name, True if at_once > _CHANCE else None, seen)
    seen = (
        f"after a short training wrong pairs of inputs have a higher loss by {skill[0]:+.1f} standard errors, "
        f"on unseen batches by {skill[1]:+.1f}"
    )
    if skill[1] > _CHANCE:
        return Check(name, True, seen)
    if skill[0] < _BY_HEART or skill[1] > 0.5 * _CHANCE:
        return Check(name, None, seen)
    if learned > _COMMON:
        return Check(name, None, f"{seen}, and the loss of unseen ones falls all the same")
    return Check(name, False, seen, "the two inputs may have been shuffled or sorted apart: look at some pairs")


def shuffled(batches: Sequence[Tensor], whole: Tensor) -> Check:
    """Judge whether the labels of consecutive batches are those of the whole: those of sorted data are not.

    Both have to hold: the batches differ from the data by chi-square with an error of 1e-6, and classes that make up
    much of the data are missing in them, beyond what is missing by chance. A sampler that balances classes fails the
    first and holds the second; a curriculum that keeps what came before holds it at its end.

    Args:
        batches: classes ``[n]`` of consecutive batches, the last ones where the order is known.
        whole: classes of samples from everywhere in the data ``[m]``.

    >>> in_order = torch.arange(4).repeat_interleave(50)
    >>> mixed = in_order.view(4, -1).T.reshape(-1)
    >>> [shuffled(list(labels.split(20)[:3]), labels).passed for labels in (in_order, mixed)]
    [False, True]
    """
    name = "data are shuffled"
    window = torch.cat([b.reshape(-1) for b in batches])
    classes = int(max(window.max(), whole.max())) + 1
    seen, expected = (torch.bincount(t, minlength=classes).double() for t in (window, whole))
    if int((expected > 0).sum()) < 2:
        return Check(name, None, "all labels that were seen are the same")
    shares = expected / expected.sum()
    missing = float(shares[seen == 0].sum() - (shares * (1 - shares) ** len(window)).sum())
    told = f"{max(missing, 0):.0%} of the data have labels that {len(batches)} consecutive batches lack"
    if _differ(torch.stack([seen, expected])) < _RARE and missing > _MISSING:
        fix = "shuffle=True in the DataLoader of the training data; keep old classes when new ones come"
        return Check(name, False, told, fix)
    tables = torch.stack([torch.bincount(b.reshape(-1), minlength=classes).double() for b in batches])
    inside = sum(_entropy(row) * float(row.sum()) for row in tables) / len(window)
    possible = min(_entropy(expected), math.log(max(map(len, batches))))
    if possible > 0 and inside < _PURE * possible and _differ(tables) < _RARE:
        return Check(name, None, f"each batch holds hardly more than one label; {told}", "shuffle=True")
    return Check(name, True, told)


def weights_of_samples(weights: int, samples: int) -> Check:
    """Judge a sampler whose weights are not as many as the samples: it draws the first ones only, or none that exist.

    >>> weights_of_samples(10, 1000).evidence
    'the sampler has 10 weights for 1,000 samples, so it draws the first 10 of them only'
    """
    few = weights < samples
    drawn = f"so it draws the first {weights:,} of them only" if few else "and draws some that do not exist"
    seen = f"the sampler has {weights:,} weights for {samples:,} samples, {drawn}"
    fix = "one weight for each sample: WeightedRandomSampler(weight_of_class[labels], len(labels))"
    return Check("data are shuffled", False, seen, fix)


def _differ(table: Tensor) -> float:
    """Return the p-value of Pearson's chi-square test of homogeneity; rare classes are pooled, as its form demands."""
    table = table[table.sum(1) > 0]
    if len(table) < 2:
        return 1.0
    order = table.sum(0).argsort(descending=True)
    table = table[:, order]
    least = table.sum(0) * float(table.sum(1).min() / table.sum())
    kept = max(1, int((least >= 1).sum()))
    table = torch.cat([table[:, :kept], table[:, kept:].sum(1, keepdim=True)], 1)
    table = table[:, table.sum(0) > 0]
    if table.shape[1] < 2:
        return 1.0
    expected = table.sum(1, keepdim=True) * table.sum(0, keepdim=True) / table.sum()
    statistic = float(((table - expected).square() / expected).sum())
    freedom = torch.tensor((table.shape[0] - 1) * (table.shape[1] - 1) / 2, dtype=torch.float64)
    # (the chance that a chi-square number with so many degrees of freedom is larger)
    return float(torch.special.gammaincc(freedom, torch.tensor(statistic / 2, dtype=torch.float64)))


def _entropy(counts: Tensor) -> float:
    shares = counts / counts.sum().clamp(min=1)
    return float(-(shares * shares.clamp(min=1e-12).log()).sum())


def in_classes(values: Tensor, edges: Tensor) -> Tensor:
    """Return in which of the ranges between edges each value is: a histogram of a regression's target.

    >>> in_classes(torch.tensor([0.1, 5.0, 9.9]), torch.tensor([1.0, 6.0]))
    tensor([0, 1, 2])
    """
    return torch.bucketize(values.detach().float().contiguous(), edges.float())


def overlapping(rows: Tensor) -> bool:
    """Whether consecutive samples are windows of one series, each a step further: their order is in their nature.

    Args:
        rows: consecutive samples ``[n, T, ...]``.

    >>> series = torch.randn(30)
    >>> overlapping(series.unfold(0, 10, 1)), overlapping(torch.randn(20, 10))
    (True, False)
    """
    if rows.ndim < 2 or len(rows) < 2 or rows.shape[1] < 4:
        return False
    length = rows.shape[1]
    for step in range(1, length - 2):
        if bool((rows[1:, : length - step] == rows[:-1, step:]).all()) and bool((rows[0] != rows[-1]).any()):
            return True
    return False


def digests(tensors: Sequence[Tensor]) -> list[bytes]:
    """Return a hash of each row: of the i-th rows of all tensors together.

    Args:
        tensors: ``[n, ...]`` each.

    >>> a, b, c = digests([torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]])])
    >>> a == c, a == b
    (True, False)
    """
    rows = [t.detach().cpu().contiguous() for t in tensors]
    found = []
    for i in range(len(rows[0])):
        hashed = hashlib.blake2b(digest_size=16)
        for t in rows:
            hashed.update(t[i].reshape(-1).view(torch.uint8).numpy().tobytes() if t[i].numel() else b"")
        found.append(hashed.digest())
    return found


def validation_is_new(
    validation: Sequence[bytes], training: Collection[bytes], coverage: float, repeats: float
) -> Check:
    """Judge how many validation samples are training samples too.

    Args:
        validation: hashes of validation samples.
        training: hashes of training samples, some or all.
        coverage: share of the training data that was read.
        repeats: share of the training samples that occur in it more than once: of a small set of possible inputs.

    >>> known = [b"a", b"b", b"c", b"d", b"e"]
    >>> validation_is_new(known, known, 1.0, 0.0).passed, validation_is_new([b"f"] * 5, known, 1.0, 0.0).passed
    (False, True)
    """
    name = "validation data are new"
    known = set(training)
    shared = sum(v in known for v in validation)
    n = len(validation)
    seen = f"{shared} of {n} validation samples are among {len(training)} training samples"
    fix = "split before training; a score on training data says nothing about new ones"
    share = shared / n / max(coverage, 1e-6)
    if coverage < 1:
        seen += f", {coverage:.0%} of all"
    if shared < min(3, n) or share < 0.1:
        return Check(name, True, seen)
    # Of a set of S possible inputs, m training samples hold a new sample with a chance of m / S, and repeat themselves
    # in a share of m / 2S: so many shared samples need no explanation.
    if repeats > 0.2 or shared / n <= 3 * repeats:
        return Check(name, None, f"{seen}, but {repeats:.0%} of these occur more than once")
    if share > 0.5 and shared >= min(5, n):
        return Check(name, False, seen, fix)
    return Check(name, None, seen, fix)
