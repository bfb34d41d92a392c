"""One file for each kind of package; each lists its strangers."""

from tests.strangers.packages import adversarial, biology, graphs, images, reinforcement, tables, time_series

STRANGERS = (
    *time_series.STRANGERS,
    *tables.STRANGERS,
    *biology.STRANGERS,
    *images.STRANGERS,
    *graphs.STRANGERS,
    *reinforcement.STRANGERS,
    *adversarial.STRANGERS,
)
