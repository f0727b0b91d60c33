"""The former name of msngan.networks, for code written against it."""

from msngan.networks import Critic, Generator

__all__ = ["Critic", "Generator"]
