"""The attacker's side."""

from goodnet.attacks.badnet import BadNet, train_badnet

__all__ = ["BadNet", "train_badnet"]
