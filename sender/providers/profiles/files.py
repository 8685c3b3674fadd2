"""Loads profiles: built-in ones by name, others from YAML files."""

from importlib import resources
from pathlib import Path

import msgspec

from common.cli import printable
from common.errors import UsageError
from common.settings import Settings
from sender.providers.profiles.profile import Profile

PACKAGE = "sender.providers.profiles"


def builtin_profiles() -> list[str]:
    """The names of the built-in profiles."""
    names = (Path(file.name) for file in resources.files(PACKAGE).iterdir())
    return sorted(name.stem for name in names if name.suffix == ".yaml")


def configured_profile(settings: Settings) -> Profile:
    """The profile of PROVIDER_PROFILE, or one made of MEAN_PROCESSING_TIME to FAILURE_RATE. Raises UsageError."""
    if settings.provider_profile is not None:
        return load_profile(settings.provider_profile)
    return Profile(
        mean_s=settings.mean_processing_time,
        stddev_s=settings.stddev_s,
        distribution=settings.processing_time_distribution,
        retry=settings.failure_rate,
    )


def load_profile(name_or_path: str) -> Profile:
    """A built-in profile by its name, or one from a YAML file. Raises UsageError, in one line."""
    try:
        return msgspec.yaml.decode(_read(name_or_path), type=Profile, strict=False)
    except (msgspec.MsgspecError, OSError, ValueError, RecursionError) as error:
        raise UsageError(_one_line(f"PROVIDER_PROFILE={name_or_path}: {_reason(error)}")) from None


def refuse_beside_profile(settings: Settings, flags: dict[str, float | None]) -> None:
    """Raises UsageError if a flag is given that the profile in force would silently override."""
    for name, value in flags.items():
        if value is not None and settings.provider_profile is not None:
            flag = f"--{name.replace('_', '-')}"
            profile = f"PROVIDER_PROFILE={settings.provider_profile}"
            raise UsageError(
                f"{flag} does not go with a profile ({profile}): change the profile, or use none"
            )


def _read(name_or_path: str) -> bytes:
    if name_or_path in builtin_profiles():
        return (resources.files(PACKAGE) / f"{name_or_path}.yaml").read_bytes()
    return Path(name_or_path).read_bytes()


def _reason(error: Exception) -> str:
    """Why a profile is not valid, and where."""
    if isinstance(error, FileNotFoundError):
        return f"neither a built-in profile ({', '.join(builtin_profiles())}) nor a file"
    if isinstance(error, OSError):
        return f"can't be read: {error.strerror}"
    if isinstance(error, RecursionError):
        return "nested too deep"
    if isinstance(error, msgspec.ValidationError):
        return _invalid(str(error))
    return f"not YAML: {error}".replace('in "<byte string>", ', "at ")


def _invalid(message: str) -> str:
    """Rephrases msgspec's "Expected `float` >= 0.0 - at `$.windows[0].mean_s`", which omits the top level."""
    problem, _, path = message.partition(" - at ")
    place = path.replace("`", "").removeprefix("$").removeprefix(".") or "the top level"
    return f"{problem[:1].lower()}{problem[1:]} at {place}"


def _one_line(text: str) -> str:
    """Joins the lines of YAML's errors, and escapes unprintable characters of the path."""
    return printable(" ".join(text.split()))
