"""The dashboard's modules by themselves: steps of messages, runs, numbers in words, segments."""

import re

import pytest
from playwright.async_api import Browser, expect

from common.sms.segments import segments
from common.sms.texts import normal_text
from tests.gateway.browser import visiting
from tests.gateway.running import running

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_steps_in_any_order_come_to_the_same(browser: Browser) -> None:
    """The model of the log: a step that comes late takes nothing back, a retry does; 500 are kept, and what was dropped
    stays away until somebody asks for it. How long it took is said of a message that is through.
    """
    async with running() as gateway, visiting(browser, gateway.url) as visit:
        assert await visit.page.evaluate(ORDERS) == ["sent"] * 24 + [
            *("queued", "sending", 500, True, False),
            *(None, 500, False, 500, True),
            *(None, 0.2),
        ]


async def test_runs_are_in_the_order_of_their_beginning(browser: Browser) -> None:
    """The model of the runs: an unknown one goes where it belongs; of too many it says so; a total may be unknown."""
    async with running() as gateway, visiting(browser, gateway.url) as visit:
        order, many, later, opened = await visit.page.evaluate(RUNS)
        assert order == "new listed-4 listed-3 between listed-2 listed-1 old"
        assert many == ["latest 200, 200 going on", "Show the latest 200"]
        assert later == [False, True]
        assert opened == ["3 of 5 so far", "open", True]


async def test_numbers_are_exact_and_times_short(browser: Browser) -> None:
    """As people are shown them: no rounded counts before ten million, no share that looks like none."""
    async with running() as gateway, visiting(browser, gateway.url) as visit:
        assert await visit.page.evaluate(FORMATS) == [
            *("202,013", "9,999,999", "12.3M"),
            *("<0.1 %", "0.1 %", "99 %", "100 %", "0 %"),
            *("0", "50 ms", "100 ms", "1.5 s", "2 s"),
        ]
        await expect(visit.one("#send-segments")).to_have_text(re.compile("^0 segments"))


async def test_segments_are_counted_as_the_gateway_counts_them(browser: Browser) -> None:
    """What is shown while one types is what the answer will say."""
    texts = ["", "hello", "a" * 160, "a" * 161, "€" * 80, "€" * 81, "a" * 152 + "€" * 10, "ä" * 400]
    texts += [
        "п" * 70,
        "п" * 71,
        "😀" * 35,
        "a" + "😀" * 33,
        "a" * 66 + "😀" * 40,
        "~^{}[]\\|" * 30,
        "`",
        "ç\n",
        "a\r\n" * 80,
        "a\r" * 80,
        "caffe\u0300 " * 12,  # in NFC, and so in GSM-7
        "e\u0301\u0301\u0301" + "a" * 69,
    ]
    async with running() as gateway, visiting(browser, gateway.url) as visit:
        load = "const { segments } = await import('/assets/segments.js');"
        shown = await visit.page.evaluate(f"async (texts) => {{ {load} return texts.map(segments); }}", texts)
        assert [(s["encoding"], s["segments"], s["units"]) for s in shown] == [
            (s.encoding, s.segments, s.units) for s in (segments(normal_text(text)) for text in texts)
        ]


ORDERS = """async () => {
  const { Messages } = await import("/assets/messages.js");
  const step = (status, attempt, uuid = "r.0") =>
    ({ uuid, run: "r", status, attempt, at: `2026-11-21T07:26:1${attempt}.000000Z`, number: "+1", text: "t" });
  const orders = (all) => all.length < 2 ? [all] : all.flatMap((one, k) =>
    orders([...all.slice(0, k), ...all.slice(k + 1)]).map((rest) => [one, ...rest]));
  const after = (steps, log = new Messages()) => steps.map((step) => log.take(step)).at(-1).status;
  const kept = new Messages();
  kept.take(step("queued", 0, "r.0"));
  kept.pin("r.0", true);
  for (let seq = 1; seq < 700; seq++) kept.take(step("queued", 0, `r.${seq}`));
  const first = [kept.size, Boolean(kept.find("r.0")), Boolean(kept.find("r.1"))];
  const dropped = [kept.take(step("sending", 1, "r.1")), kept.size, Boolean(kept.find("r.1"))];
  kept.learn({ uuid: "r.1", run: "r", status: "sending", attempts: 1, steps: [] });
  const again = new Messages();
  const took = [["queued", 1, 0.1], ["sent", 2, 0.2]].map(([status, attempt, time_s]) =>
    again.take({ ...step(status, attempt), time_s }).took);
  return [
    ...orders([step("queued", 0), step("sending", 1), step("queued", 1), step("sent", 2)]).map((steps) => after(steps)),
    after([step("queued", 1), step("queued", 0), step("sending", 1)]),
    after([step("sending", 2), step("sending", 1), step("queued", 1)]),
    ...first, ...dropped, kept.size, Boolean(kept.find("r.1")), ...took,
  ];
}"""

RUNS = """async () => {
  const { Runs } = await import("/assets/runs.js");
  const view = (run, elapsed_s, over = false, total = 10) => ({ run, elapsed_s, over, total, published: 5, sent: 3,
    failed: 0, progress: total ? 0.3 : null, rate_per_s: 0, eta_s: null });
  const runs = new Runs(() => {}, () => {});
  const drawn = (query) => { runs.draw(""); return document.querySelector(query); };
  runs.list([view("listed-4", 10), view("listed-3", 2, true), view("listed-2", 30), view("listed-1", 40)]);
  for (const run of [view("old", 99), view("between", 20), view("new", 0)]) runs.take(run);
  const order = [...drawn("#runs tbody").children].map((row) => row.dataset.run).join(" ");

  runs.list(Array.from({ length: 201 }, (_, k) => view(`run-${k}`, k)));
  const many = [drawn("#runs-count").textContent, drawn("#runs-all").textContent];
  const later = [runs.take(view("older", 1000)), runs.take(view("newer", 0))];

  runs.list([view("open", 1, false, 0)]);
  const opened = [drawn("#runs small").textContent, drawn("#runs .eta > span").textContent];
  opened.push(drawn("#runs progress").parentElement.hidden);
  return [order, many, later, opened];
}"""

FORMATS = """async () => {
  const { compact, percent, tick } = await import("/assets/format.js");
  return [202013, 9999999, 12345678].map(compact).concat(
    [1 / 202013, 0.0015, 0.9999, 1, 0].map(percent), [0, 0.05, 0.1, 1.5, 2].map(tick));
}"""
