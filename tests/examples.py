"""How many examples hypothesis tries: few in `make test`, many in `make test-all`."""

from hypothesis import settings


def register_profiles(on_ci: bool) -> None:
    """`default` tries the same few examples every time; `long` tries many, and new ones except on CI."""
    settings.register_profile("default", deadline=None, derandomize=True, max_examples=30)
    settings.register_profile("long", deadline=None, derandomize=on_ci, max_examples=200, print_blob=True)
    settings.load_profile("default")


def examples(few: int, many: int) -> int:
    """One of the two, by the profile that is loaded: the `max_examples` of a test that sets its own."""
    return many if settings.get_current_profile_name() == "long" else few
