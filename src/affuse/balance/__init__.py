"""Balancing methods that any system can be trained with: OGM-GE, PMR and AGM, chosen by ``training.balance`` in a recipe.

Each is a Lightning callback (`affuse.balance.base.Balance`) that adds terms to the loss, or scales the gradients of each
modality's own modules. With more than two modalities each is compared with the mean of the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from affuse.balance.settings import METHODS, AGMSettings, BalanceSettings, OGMGESettings, PMRSettings

if TYPE_CHECKING:
    from affuse.balance.base import Balance

__all__ = ["METHODS", "AGMSettings", "BalanceSettings", "OGMGESettings", "PMRSettings", "balancing"]


def balancing(settings: BalanceSettings) -> Balance:
    """The callback of a method. The trainer's package is loaded here and not with the settings, which any recipe needs."""
    from affuse.balance.agm import AGM
    from affuse.balance.ogm_ge import OGMGE
    from affuse.balance.pmr import PMR

    if isinstance(settings, OGMGESettings):
        return OGMGE(settings)
    return PMR(settings) if isinstance(settings, PMRSettings) else AGM(settings)
