"""The systems, by the name that a recipe calls them."""

from affuse.systems.mco_e import MCOENet
from affuse.types import System

SYSTEMS: dict[str, type[System]] = {"mco_e": MCOENet}
