"""Profiles: the behaviour of the simulated provider, as data (docs/providers.md).

The YAML files beside this one are the built-in profiles.
"""

from sender.providers.profiles.conditions import Conditions, Plays
from sender.providers.profiles.files import (
    builtin_profiles,
    configured_profile,
    load_profile,
    refuse_beside_profile,
)
from sender.providers.profiles.profile import Profile, Window

__all__ = [
    "Conditions",
    "Plays",
    "Profile",
    "Window",
    "builtin_profiles",
    "configured_profile",
    "load_profile",
    "refuse_beside_profile",
]
