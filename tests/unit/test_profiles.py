"""sender/providers/profiles/: the behaviour of a provider, as data; the same for everything that plays it."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from msgspec.structs import replace

from common.errors import UsageError
from common.messages import Outcome
from common.settings import Distribution, load_settings
from sender.cli import main as sender_main
from sender.providers.bulk import Sends
from sender.providers.draws import Draws
from sender.providers.profiles import (
    Conditions,
    Profile,
    Window,
    builtin_profiles,
    configured_profile,
    load_profile,
)
from sender.providers.simulated import SimulatedProvider
from simulation.simulate import main as simulate_main
from tests.providers import failures

ROOT = Path(__file__).parents[2]
SEQS = np.arange(100_000, dtype=np.int64)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The path for a user's profile."""
    return tmp_path / "mine.yaml"


def shares(profile: Profile, age_s: float = 0) -> dict[Outcome, float]:
    outcomes = profile.play(1, SEQS, 1, age_s).outcomes
    return {outcome: float(np.mean(outcomes == outcome)) for outcome in Outcome}


# The built-in ones


def test_six_profiles_are_built_in() -> None:
    """Healthy, slow, flaky, throttling, outage and dead; `.env.example` lists them all."""
    assert builtin_profiles() == ["dead", "flaky", "healthy", "outage", "slow", "throttling"]
    listed = next(line for line in (ROOT / ".env.example").read_text().splitlines() if "healthy" in line)
    assert all(name in listed for name in builtin_profiles())


@pytest.mark.parametrize("name", builtin_profiles())
def test_a_built_in_profile_tells_how_to_make_ones_own(name: str, mine: Path) -> None:
    """It has a description, begins with instructions for a copy, and a copy is the same profile."""
    text = (ROOT / "sender/providers/profiles" / f"{name}.yaml").read_text()
    profile = load_profile(name)
    assert profile.description
    head = text[: text.index("description:")]
    assert all(words in head for words in ("copy this file", "PROVIDER_PROFILE=", "docs/providers.md"))
    mine.write_text(text)
    assert load_profile(str(mine)) == profile


def test_each_built_in_profile_does_what_it_is_called() -> None:
    """A healthy one sends nearly all messages, a dead one none, and each of the others fails in its own way."""
    healthy = load_profile("healthy")
    assert shares(healthy)[Outcome.SENT] > 0.99
    slow_s, healthy_s = (p.play(1, SEQS, 1, 0).times_us.mean() / 1e6 for p in (load_profile("slow"), healthy))
    assert slow_s > 10 * healthy_s
    assert shares(load_profile("flaky"))[Outcome.RETRY] == pytest.approx(0.2, abs=0.01)
    throttling = load_profile("throttling").play(1, SEQS, 1, 0).retry_after_s
    assert throttling is not None
    assert np.mean(throttling == 2) == pytest.approx(0.4, abs=0.01)
    assert shares(load_profile("dead"))[Outcome.RETRY] == 1


def test_the_outage_comes_and_goes() -> None:
    """From 30 s to 60 s of every 300 s each send fails temporarily and slowly; otherwise sends succeed."""
    outage = load_profile("outage")
    for age_s in (0, 29.9, 60, 299, 300, 329.9, 360):
        assert shares(outage, age_s)[Outcome.SENT] > 0.99
    for age_s in (30, 45, 59.9, 330, 359.9, 3_045):
        assert shares(outage, age_s)[Outcome.RETRY] == 1
        assert outage.play(1, SEQS, 1, age_s).times_us.mean() == pytest.approx(2e6, rel=0.01)


# Outcomes and times


def test_each_outcome_has_its_share() -> None:
    """Failed, retry and throttled have the configured shares, and the rest is sent."""
    profile = Profile(mean_s=1, failed=0.1, retry=0.2, throttled=0.3, retry_after_s=7)
    plays = profile.play(1, SEQS, 1, 0)
    assert np.mean(plays.outcomes == Outcome.SENT) == pytest.approx(0.4, abs=0.006)
    assert np.mean(plays.outcomes == Outcome.FAILED) == pytest.approx(0.1, abs=0.006)
    assert np.mean(plays.outcomes == Outcome.RETRY) == pytest.approx(0.5, abs=0.006)
    assert plays.retry_after_s is not None
    assert set(plays.retry_after_s.tolist()) == {0.0, 7.0}
    assert np.mean(plays.retry_after_s == 7) == pytest.approx(0.3, abs=0.006)


def test_what_is_refused_as_too_many_is_so_quickly() -> None:
    """A throttled send is retried after the wait and takes a tenth of the time; the others take their own."""
    usual, throttled = (
        Profile(mean_s=1, failed=0.1, retry=0.2, throttled=share).play(1, SEQS, 1, 0) for share in (0.0, 0.3)
    )
    assert usual.retry_after_s is None
    assert throttled.retry_after_s is not None
    refused = throttled.retry_after_s > 0
    assert np.all(throttled.outcomes[refused] == Outcome.RETRY)
    assert np.array_equal(throttled.times_us[refused], usual.times_us[refused] // 10)
    assert np.array_equal(throttled.times_us[~refused], usual.times_us[~refused])


@pytest.mark.parametrize("share", ["failed", "retry", "throttled"])
def test_a_share_of_one_is_all_and_of_zero_none(share: str) -> None:
    """The ends are exact."""
    outcome = Outcome.FAILED if share == "failed" else Outcome.RETRY
    assert shares(replace(Profile(mean_s=1), **{share: 1.0}))[outcome] == 1
    assert shares(replace(Profile(mean_s=1), **{share: 0.0}))[Outcome.SENT] == 1


@pytest.mark.parametrize("parts", [(0.1, 0.2, 0.7), (0.7, 0.2, 0.1), (0.33, 0.56, 0.11), (0.11, 0.33, 0.56)])
def test_shares_that_make_one_in_decimals_do_so(parts: tuple[float, float, float]) -> None:
    """Shares that add up to 1 in decimals are not refused for a rounding error, and no message is sent."""
    failed, retry, throttled = parts
    profile = Profile(mean_s=1, failed=failed, retry=retry, throttled=throttled)
    assert shares(profile)[Outcome.SENT] == 0


@pytest.mark.parametrize("distribution", Distribution)
@pytest.mark.parametrize("attempt", [1, 3])
def test_the_settings_alone_are_a_profile(distribution: Distribution, attempt: int) -> None:
    """Without PROVIDER_PROFILE each message has the time and outcome that MEAN_PROCESSING_TIME etc. always gave it."""
    settings = load_settings(
        mean_processing_time=0.5,
        processing_time_stddev=0.2,
        processing_time_distribution=distribution,
        failure_rate=0.3,
    )
    plays = configured_profile(settings).play(9, SEQS, attempt, 0)
    assert np.array_equal(
        plays.times_us,
        Draws(9, SEQS, attempt).times_us(distribution, 0.5, 0.2),
    )
    fails = failures(9, SEQS, attempt, 0.3)
    assert np.array_equal(plays.outcomes, np.where(fails, Outcome.RETRY, Outcome.SENT))
    assert plays.retry_after_s is None


def test_the_standard_deviation_is_a_tenth_of_the_mean_unless_given() -> None:
    """In a profile and in the settings; 0 stays 0."""
    assert Profile(mean_s=2).play(1, SEQS, 1, 0).times_us.std() == pytest.approx(0.2e6, rel=0.02)
    assert Profile(mean_s=2, stddev_s=0).play(1, SEQS, 1, 0).times_us.std() == 0


def test_a_profile_takes_the_place_of_the_settings(bare_environment: Path) -> None:
    """PROVIDER_PROFILE=dead fails all messages, with any FAILURE_RATE."""
    settings = load_settings(provider_profile="dead", failure_rate=0.0)
    assert configured_profile(settings) == load_profile("dead")


# Windows


def test_a_window_holds_from_its_beginning_until_before_its_end() -> None:
    """Once, unless `every_s` is set."""
    once, again = (Window(from_s=10, to_s=20, every_s=every_s) for every_s in (None, 100))
    ages = (0, 9.999, 10, 19.999, 20, 109.999, 110, 119.999, 120, 1_015)
    assert [age for age in ages if once.contains(age)] == [10, 19.999]
    assert [age for age in ages if again.contains(age)] == [10, 19.999, 110, 119.999, 1_015]


def test_a_window_changes_what_it_names_and_nothing_else() -> None:
    """The other fields are the profile's; a standard deviation that is not set follows the mean in force."""
    profile = Profile(
        mean_s=1, failed=0.1, retry_after_s=3, windows=(Window(from_s=0, to_s=1, mean_s=5, retry=0.2),)
    )
    assert profile.at(0.5) == Conditions(mean_s=5, failed=0.1, retry=0.2, retry_after_s=3)
    assert profile.at(1) is profile
    assert profile.play(1, SEQS, 1, 0.5).times_us.std() == pytest.approx(0.5e6, rel=0.02)


def test_the_first_window_that_holds_counts() -> None:
    """Where windows overlap, their order in the file decides."""
    first, second = Window(from_s=0, to_s=10, mean_s=2), Window(from_s=5, to_s=20, mean_s=3)
    profile = Profile(mean_s=1, windows=(first, second))
    assert [profile.at(age_s).mean_s for age_s in (0, 5, 10, 20)] == [2, 2, 3, 1]


def test_the_shortest_mean_counts_windows_too() -> None:
    """A window of quick sends needs short ticks."""
    assert Profile(mean_s=1).shortest_mean_s == 1
    assert Profile(mean_s=1, windows=(Window(from_s=0, to_s=1, mean_s=0.1),)).shortest_mean_s == 0.1


# The same for whoever plays it

FULL = """
description: everything a profile can have
mean_s: 0.5
stddev_s: 0.3
distribution: lognormal
failed: 0.1
retry: 0.2
throttled: 0.1
retry_after_s: 4
windows:
  - {from_s: 30, to_s: 60, every_s: 300, mean_s: 2, distribution: normal, throttled: 0.5, retry_after_s: 8}
  - {from_s: 100, to_s: 110, distribution: exponential, throttled: 0, retry: 0.9, failed: 0}
"""
AGES = (0.0, 45.5, 105.0, 345.5)
COUNT, SEED = 600, 77

Key = tuple[float, int, int]
Play = tuple[int, int, float]

OTHER_PROCESS = """
import json, sys
import numpy as np
from sender.providers.profiles import load_profile

path, seed, count, ages = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
profile, rows = load_profile(path), []
for age in ages:
    for attempt in (1, 2):
        for part in range(7):  # every seventh message, backwards
            seqs = np.arange(part, count, 7)[::-1].copy()
            plays = profile.play(seed, seqs, attempt, age)
            after = np.zeros(seqs.size) if plays.retry_after_s is None else plays.retry_after_s
            for k, seq in enumerate(seqs.tolist()):
                rows.append([age, attempt, seq, int(plays.times_us[k]), int(plays.outcomes[k]), float(after[k])])
print(json.dumps(rows))
"""


def played_elsewhere(path: Path) -> dict[Key, Play]:
    args = [str(path), str(SEED), str(COUNT), json.dumps(AGES)]
    done = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, *args],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
        timeout=60,
    )
    return {
        (age, attempt, seq): (us, outcome, after)
        for age, attempt, seq, us, outcome, after in json.loads(done.stdout)
    }


async def played_embedded(path: Path, size: int) -> dict[Key, Play]:
    """The results of the simulated provider, in batches of this size."""
    provider = SimulatedProvider(load_profile(str(path)), seed=SEED)
    played: dict[Key, Play] = {}
    for age_s in AGES:
        for attempt in (1, 2):
            for first in range(0, COUNT, size):
                seqs = np.arange(first, min(first + size, COUNT), dtype=np.int64)
                owners = np.zeros(seqs.size, np.int32)
                sends = Sends("a-run", attempt, seqs, owners, [], lambda *_: None, age_s)
                provider.start(sends)
                after = sends.retry_after_s if sends.retry_after_s is not None else np.zeros(seqs.size)
                for k, seq in enumerate(sends.seqs.tolist()):
                    one = int(sends.times_us[k]), int(sends.outcomes[k]), float(after[k])
                    played[age_s, attempt, seq] = one
    await provider.close()
    return played


async def test_every_process_plays_the_same(mine: Path) -> None:
    """Embedded in one sender, or distributed over others in another process: each (seed, seq, attempt, window) has the
    same delay, outcome and wait, which depend on the window and not on the exact age of the run."""
    mine.write_text(FULL)
    elsewhere = await asyncio.to_thread(played_elsewhere, mine)
    embedded = await played_embedded(mine, 64)
    assert len(embedded) == len(AGES) * 2 * COUNT
    assert embedded == elsewhere
    assert await played_embedded(mine, 1) == embedded
    for attempt in (1, 2):
        in_window, again = (
            [embedded[age_s, attempt, seq] for seq in range(COUNT)] for age_s in (45.5, 345.5)
        )
        assert in_window == again
        assert in_window != [embedded[0.0, attempt, seq] for seq in range(COUNT)]


# Bad files


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "expected `object`, got `null` at the top level"),
        ("- 1", "expected `object`, got `array` at the top level"),
        ("retry: 0.5", "object missing required field `mean_s` at the top level"),
        ("mean: 1", "object contains unknown field `mean` at the top level"),
        ("mean_s: fast", "expected `float`, got `str` at mean_s"),
        ("mean_s: -1", "expected `float` >= 0.0 at mean_s"),
        ("mean_s: .nan", "expected `float` >= 0.0 at mean_s"),
        ("mean_s: .inf", "expected `float` <= 86400.0 at mean_s"),
        ("mean_s: 1\ndistribution: uniform", "invalid enum value 'uniform' at distribution"),
        ("mean_s: 1\nfailed: 1.5", "expected `float` <= 1.0 at failed"),
        ("mean_s: 1\nretry: 10%", "expected `float`, got `str` at retry"),
        ("mean_s: 1\nretry_after_s: 513", "expected `float` <= 512.0 at retry_after_s"),
        ("mean_s: 1\nretry: 0.6\nfailed: 0.6", "failed, retry and throttled together are more than 1 at the top level"),
        ("mean_s: 1\nwindows: 3", "expected `array`, got `int` at windows"),
        ("mean_s: 1\nwindows: [{to_s: 3}]", "object missing required field `from_s` at windows[0]"),
        ("mean_s: 1\nwindows: [{from_s: 3, to_s: 3}]", "to_s must be later than from_s at windows[0]"),
        (
            "mean_s: 1\nwindows: [{from_s: 1, to_s: 30, every_s: 20}]",
            "every_s must not be less than to_s at windows[0]",
        ),
        (
            "mean_s: 1\nwindows: [{from_s: 1, to_s: 3}, {from_s: 1, to_s: 3, retry: 2}]",
            "expected `float` <= 1.0 at windows[1].retry",
        ),
        (
            "mean_s: 1\nfailed: 0.1\nwindows: [{from_s: 1, to_s: 3}, {from_s: 1, to_s: 3, retry: 1}]",
            "failed, retry and throttled together are more than 1 at windows[1]",
        ),
        (
            "mean_s: 1\nwindows: [{from_s: 1, to_s: 3, windows: []}]",
            "object contains unknown field `windows` at windows[0]",
        ),
        ("mean_s: [", "not YAML: while parsing a flow node did not find expected node content at line 2, column 1"),
        ("mean_s: 2024-99-99", "not YAML: month must be in 1..12"),
        ("mean_s: 1\n'a\\nb': 2", "object contains unknown field"),
    ],
)  # fmt: skip
def test_a_bad_profile_is_one_line_that_says_what_and_where(text: str, wrong: str, mine: Path) -> None:
    """It names the setting, the file, what is wrong and at which field."""
    mine.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_profile(str(mine))
    line = str(caught.value)
    assert line.startswith(f"PROVIDER_PROFILE={mine}: {wrong}")
    assert line.isprintable()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("flakey", "neither a built-in profile (dead, flaky, healthy, outage, slow, throttling) nor a file"),
        ("missing/mine.yaml", "neither a built-in profile"),
        (".", "can't be read: Is a directory"),
        ("a\nb", "neither a built-in profile"),
        ("a\x00b", "not YAML: embedded null byte"),
    ],
)
def test_a_name_that_is_none_is_one_line(name: str, wrong: str) -> None:
    """The line for a misspelt built-in name lists the right ones."""
    with pytest.raises(UsageError) as caught:
        load_profile(name)
    line = str(caught.value)
    assert line.startswith("PROVIDER_PROFILE=")
    assert wrong in line
    assert line.isprintable()


@pytest.mark.parametrize("text", ["mean_s: 1e-3", "mean_s: '0.001'", "{mean_s: 0.001}", "mean_s: 1.0e-3"])
def test_numbers_may_be_written_in_any_way(text: str, mine: Path) -> None:
    """YAML reads 1e-3 as a string; a profile reads it as a number."""
    mine.write_text(text)
    assert load_profile(str(mine)).mean_s == 0.001


numbers = st.one_of(st.floats(), st.integers(), st.none(), st.booleans(), st.text(max_size=5))
fields = st.sampled_from([*Conditions.__struct_fields__, "from_s", "to_s", "every_s", "description", "x"])
mappings = st.dictionaries(fields, numbers, max_size=6)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_file_is_a_profile_or_told_in_one_line(mine: Path, body: bytes) -> None:
    """Any bytes are either a profile or one line."""
    mine.write_bytes(body)
    try:
        load_profile(str(mine))
    except UsageError as error:
        assert str(error).isprintable()  # noqa: PT017


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mappings, st.lists(mappings, max_size=2), st.floats(0, 1e9), st.integers(0, 2**63 - 1))
def test_what_is_taken_can_be_played(
    mine: Path, usual: object, windows: object, age_s: float, seed: int
) -> None:
    """Any fields are either refused in one line, or play: times are not negative, and outcomes are valid."""
    assert isinstance(usual, dict)
    mine.write_text(json.dumps({"mean_s": 1} | usual | {"windows": windows}))
    try:
        profile = load_profile(str(mine))
    except UsageError as error:
        assert str(error).isprintable()  # noqa: PT017
        return
    plays = profile.play(seed, SEQS[:50], 1, age_s)
    assert plays.times_us.min() >= 0
    assert set(plays.outcomes.tolist()) <= set(Outcome)


# In commands


COMMANDS = [
    pytest.param(simulate_main, ["--num-messages", "1"], id="simulate"),
    pytest.param(sender_main, [], id="send"),
]
in_a_command = pytest.mark.usefixtures("bare_environment", "process_as_before")
Main = Callable[[list[str], str], int]
Captured = pytest.CaptureFixture[str]


@in_a_command
@pytest.mark.parametrize(("text", "failed"), [("failed: 1", 200), ("failed: 0", 0)])
def test_an_embedded_run_plays_a_profile(text: str, failed: int, capsys: Captured, mine: Path) -> None:
    """A message that fails finally is failed, and never tried again."""
    mine.write_text(f"mean_s: 0.001\n{text}")
    args = ["--num-messages", "200", "--profile", str(mine), "--max-attempts", "5", "--json"]
    assert simulate_main(args) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["sent"], result["failed"], result["retried"]) == (200 - failed, failed, 0)


@in_a_command
@pytest.mark.parametrize(
    ("window", "failed"), [("from_s: 0, to_s: 1000", 200), ("from_s: 1000, to_s: 2000", 0)]
)
def test_an_embedded_run_goes_by_its_age(window: str, failed: int, capsys: Captured, mine: Path) -> None:
    """A window of the first 1000 s applies to a short run; the next window does not."""
    mine.write_text(f"mean_s: 0.001\nwindows: [{{{window}, failed: 1}}]")
    assert simulate_main(["--num-messages", "200", "--profile", str(mine), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["sent"], result["failed"]) == (200 - failed, failed)


@in_a_command
@pytest.mark.parametrize(("main", "args"), COMMANDS)
def test_a_bad_profile_is_bad_usage(
    main: Main, args: list[str], capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line on stderr and exit code 2, before it connects to any server."""
    monkeypatch.setenv("REDIS_PORT", "1")
    assert main([*args, "--profile", "flakey"], "a-command") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("a-command: PROVIDER_PROFILE=flakey: neither a built-in profile")
    assert err.count("\n") == 1


@in_a_command
@pytest.mark.parametrize(("main", "args"), COMMANDS)
@pytest.mark.parametrize("flag", ["--failure-rate", "--mean-processing-time"])
def test_a_flag_that_a_profile_would_overrule_is_bad_usage(
    main: Main, args: list[str], flag: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the profile comes from the environment: a flag is never silently ignored."""
    monkeypatch.setenv("PROVIDER_PROFILE", "flaky")
    assert main([*args, flag, "0.5"], "a-command") == 2
    err = capsys.readouterr().err
    assert err.startswith(f"a-command: {flag} does not go with a profile (PROVIDER_PROFILE=flaky)")
    assert err.count("\n") == 1
