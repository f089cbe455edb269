"""Data sets as users have them on disk. The names are those of a recipe's ``data`` section."""

from affuse.data.nmnist import NMNIST
from affuse.data.see import SEE

DATASETS = {"see": SEE, "nmnist": NMNIST}
