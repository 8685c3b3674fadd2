"""What the dashboard says is so: which runs there are, what it does not know, what is over, what is wrong in a form."""

import pytest
from playwright.async_api import Browser, expect

from common.messages import MAX_BATCH_MESSAGES, MAX_TEXT_CHARS
from common.sms.numbers import LONGEST_CHARS
from gateway.api.simulated import MAX_RUN_MESSAGES
from gateway.callbacks.address import MAX_URL_LENGTH
from tests.gateway.browser import PHONE, Cut, visiting
from tests.gateway.running import KEY, NUMBER, running

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_all_runs_are_counted_and_can_be_reached(browser: Browser) -> None:
    """60 of them, begun before and after the page was opened: newest first, each reached in the panel by keys."""
    names = [f"run-{k:02d}" for k in range(60)]
    async with running(sends=False) as gateway:
        for name in names[:30]:
            await gateway.post("/runs", {"num_messages": 1, "run": name})
        async with visiting(browser, gateway.url) as visit:
            await visit.is_live()
            for name in names[30:]:
                await gateway.post("/runs", {"num_messages": 1, "run": name})
            await expect(visit.one("#runs-count")).to_have_text("60 going on")
            await expect(visit.one("#runs .name")).to_have_text(names[:-9:-1])
            height = await visit.height()
            await visit.one("#runs-all").click()
            await expect(visit.one("#runs .name")).to_have_text(names[::-1])
            assert await visit.height() < height + 400
            await visit.one("#runs .name").first.focus()
            await visit.page.keyboard.press("End")
            await expect(visit.one("#runs .name").last).to_be_focused()
            await expect(visit.one("#runs .name").last).to_be_in_viewport()


async def test_the_log_shows_the_messages_of_one_run(browser: Browser) -> None:
    """Those of the run whose name is pressed."""
    async with running() as gateway, visiting(browser, gateway.url) as visit:
        await visit.is_live()
        await gateway.send(text="another")
        batch = [{"number": NUMBER, "text": text} for text in ("first", "second")]
        _, accepted = await gateway.post("/sms/batch?track=true", batch)
        await expect(visit.one("#log > li[data-status=sent]")).to_have_count(3)
        await visit.one(f"tr[data-run='{accepted['run']}'] .name").click()
        await expect(visit.one("#log-count")).to_have_text("2 of 3")
        assert {*await visit.one("#log > li .text").all_text_contents()} == {"first", "second"}


async def test_an_empty_log_says_why(browser: Browser) -> None:
    """No messages yet, or none since the page was opened: it can't show those that were sent before."""
    async with running() as gateway, visiting(browser, gateway.url) as visit:
        await expect(visit.one("#log-empty")).to_contain_text("No messages yet")
        await visit.is_live()
        await visit.one("#send-number").fill(NUMBER)
        await visit.one("#send-text").fill("by keys")
        await visit.one("#send-text").press("Control+Enter")
        await expect(visit.one("#log > li")).to_have_attribute("data-status", "sent")
        await expect(visit.one("#f-sent")).to_have_text("1")
        await visit.page.reload()
        await expect(visit.one("#log-empty")).to_contain_text("None since this page was opened")


async def test_a_form_takes_back_that_nobody_answers(browser: Browser) -> None:
    """Once there is a connection again."""
    cut = Cut()
    async with running() as gateway, visiting(browser, gateway.url, cut=cut) as visit:
        await visit.is_live()
        await cut.cut("gone")
        await visit.page.route("**/sms", lambda route: route.abort())
        await visit.one("#send-number").fill(NUMBER)
        await visit.one("#send-text").fill("hello")
        await visit.one("#send button[type=submit]").click()
        await expect(visit.one("#send .outcome")).to_have_text("The gateway does not answer.")
        cut.away = False
        await visit.one("#try-now").dispatch_event("click")  # hidden if the page was quicker
        await visit.is_live()
        await expect(visit.one("#send .outcome")).to_be_empty()
        assert [fault for fault in visit.faults if "ERR_FAILED" not in fault] == []
        visit.faults.clear()


async def test_forms_know_their_limits(browser: Browser) -> None:
    """What is out of range is said in words, and never asked of the gateway, whose limits are the same."""
    async with running() as gateway, visiting(browser, gateway.url) as visit:
        await visit.is_live()
        limits = [
            ("#simulate-num_messages", "max", MAX_RUN_MESSAGES),
            ("#simulate-batch_size", "max", MAX_BATCH_MESSAGES),
            ("#send-text", "data-longest", MAX_TEXT_CHARS),
            ("#send-number", "data-longest", LONGEST_CHARS),
            ("#send-callback_url", "data-longest", MAX_URL_LENGTH),
        ]
        for field, attribute, limit in limits:
            await expect(visit.one(field)).to_have_attribute(attribute, str(limit))
        wrong = [
            (
                "simulate",
                "num_messages",
                ("0", "1.5", str(MAX_RUN_MESSAGES + 1)),
                "whole number from 1 to 10,000,000",
            ),
            ("simulate", "batch_size", ("0", str(MAX_BATCH_MESSAGES + 1)), "whole number from 1 to 10,000"),
            ("simulate", "run", ("No", "a b", "a" * 41), "Small letters"),
            ("send", "text", ("a" * (MAX_TEXT_CHARS + 1),), "At most 1,600 characters"),
            ("send", "number", ("+" + "1" * LONGEST_CHARS,), "At most 100 characters"),
        ]
        for form, name, values, words in wrong:
            for value in values:
                await visit.one(f"#{form}-{name}").fill(value)
                await visit.one(f"#{form} button[type=submit]").click()
                await expect(visit.one(f"#{form}-{name}-problem")).to_contain_text(words)
        await visit.one("#simulate-num_messages").fill("7")
        await visit.one("#simulate-batch_size").fill("")
        await visit.one("#simulate-run").fill("a-7")
        await visit.one("#simulate button[type=submit]").click()
        await expect(visit.one("#simulate .outcome")).to_have_text("a-7 is over: 7 sent, 0 failed.")


@pytest.mark.parametrize("stand_in", [False, True])
async def test_a_phone_has_first_things_first(browser: Browser, stand_in: bool) -> None:
    """In one line the top; then figures, the form, messages, runs; what is folded opens by keys. A stand-in's key is
    that of the settings, since it keeps no others.
    """
    serving = running(stand_in=stand_in, gateway_auth=True, gateway_api_key=KEY)
    async with serving as gateway, visiting(browser, gateway.url, size=PHONE, refused=[401]) as visit:
        await expect(visit.one("#key")).to_be_visible()
        await expect(visit.one("#key-given")).to_be_visible(visible=stand_in)
        await expect(visit.one("#key-made")).to_be_visible(visible=not stand_in)
        await visit.one("#key-value").fill(KEY)
        await visit.page.keyboard.press("Enter")
        await visit.is_live()
        top = [
            await visit.one(name).bounding_box() for name in ("h1", "#connection", "#change-key", "#theme")
        ]
        assert max(box["y"] for box in top) < min(box["y"] + box["height"] for box in top)
        panels = visit.one("main > *, #flow > *")
        order = ["now", "send-panel", "flow", "log-panel", "runs-panel", "charts", "rest"]
        assert await panels.evaluate_all("all => all.map((one) => one.id)") == order
        heights = [box["y"] for box in [await panels.nth(k).bounding_box() for k in range(len(order))]]
        assert heights == sorted(heights)

        await expect(visit.one("#simulate")).to_be_hidden()
        await visit.one(".fold > summary").first.focus()
        await visit.page.keyboard.press("Enter")
        await expect(visit.one("#simulate")).to_be_visible()
        await visit.page.set_viewport_size({"width": 1360, "height": 900})
        await expect(visit.one("#queues")).to_be_visible()
        order = ["now", "charts", "send-panel", "rest", "flow", "runs-panel", "log-panel"]
        assert await panels.evaluate_all("all => all.map((one) => one.id)") == order
        tops = await visit.one(".legend").evaluate_all(
            "all => all.map((one) => one.getBoundingClientRect().top)"
        )
        assert len(set(tops)) == 1
