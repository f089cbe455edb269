"""Data sets as users have them on disk, and the synthetic worlds. The names are those of a recipe's ``data`` section."""

from affuse.data.nmnist import NMNIST
from affuse.data.see import SEE
from affuse.data.synthetic.eyes import Eyes
from affuse.data.synthetic.talk import Talk

DATASETS = {"see": SEE, "nmnist": NMNIST, "eyes": Eyes, "talk": Talk}
