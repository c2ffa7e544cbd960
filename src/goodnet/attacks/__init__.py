"""The attacker's side: one file an attack."""

from goodnet.attacks.recipe import Attack, AttackSettings, BadNet, Recipe, train_clean
from goodnet.attacks.registry import ATTACKS

__all__ = ["ATTACKS", "Attack", "AttackSettings", "BadNet", "Recipe", "train_clean"]
