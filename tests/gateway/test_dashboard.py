"""The dashboard in a real browser, on a gateway that runs in this process: what people do, and what they see."""

import re

import pytest
from playwright.async_api import Browser, Dialog, expect

from tests.gateway.browser import PHONE, Cut, Visit, visiting
from tests.gateway.running import KEY, NUMBER, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG = "https://example.org/" + "a-very-long-word" * 12


async def send(visit: Visit, number: str = NUMBER, text: str = "hello") -> None:
    """Sends a message with the form."""
    await visit.one("#send-number").fill(number)
    await visit.one("#send-text").fill(text)
    await visit.one("#send button[type=submit]").click()


async def test_a_message_from_the_form_turns_to_sent(browser: Browser) -> None:
    """It shows up in the log, turns to sent by itself, and opens on its timeline; its text never becomes markup."""
    async with running() as gateway, visiting(browser, gateway.url) as visit:
        await visit.is_live()
        await send(visit, "+54 11 6658-7382", "<img src=x onerror=alert(1)> hello")
        row = visit.one("#log > li")
        await expect(row).to_have_attribute("data-status", "sent")
        await expect(row.locator(".number")).to_have_text(NUMBER)
        await expect(row.locator(".text")).to_have_text("<img src=x onerror=alert(1)> hello")
        await expect(visit.one("#send .outcome .status")).to_have_text("sent")
        await row.locator("summary").click()
        await expect(row.locator(".timeline .what")).to_have_text(["Queued", "Sending", "Sent"])
        await expect(row.locator(".full")).to_have_text("<img src=x onerror=alert(1)> hello")
        assert await visit.one("#log img").count() == 0
        uuid = await row.get_attribute("data-uuid")
        times = await row.locator("time").evaluate_all("all => all.map((time) => time.dateTime)")
        _, view = await gateway.get(f"/sms/{uuid}")
        assert times == [view["accepted_at"], view["sending_at"], view["settled_at"]]
        await expect(visit.one("#f-sent")).to_have_text("1")


async def test_a_failed_message_shows_its_attempts(browser: Browser) -> None:
    """The timeline tells of the attempt that failed, of the next one, and of the end; the figures count one failed."""
    trying = running(failure_rate=1.0, max_attempts=2, retry_backoff=0.01)
    async with trying as gateway, visiting(browser, gateway.url) as visit:
        await visit.is_live()
        await send(visit)
        row = visit.one("#log > li")
        await expect(row).to_have_attribute("data-status", "failed")
        await row.locator("summary").click()
        expected = ["Queued", "Sending", "To be tried again", "Sending", "Failed"]
        await expect(row.locator(".timeline .what")).to_have_text(expected)
        await expect(visit.one("#f-failed")).to_have_text("1")
        await expect(visit.one("#f-failed")).to_have_attribute("data-share", "100 %")


async def test_what_is_queued_is_canceled_once_that_is_confirmed(browser: Browser) -> None:
    """A message from its row in the log, a run from its row in the list; what is dismissed changes nothing."""
    async with running(sends=False) as gateway, visiting(browser, gateway.url) as visit:
        await visit.is_live()
        await send(visit)
        row = visit.one("#log > li")
        await row.locator("summary").click()
        answers = iter([False, True, True])

        async def answer(dialog: Dialog) -> None:
            await (dialog.accept() if next(answers) else dialog.dismiss())

        visit.page.on("dialog", answer)
        await row.locator("button.cancel").click()
        await expect(row).to_have_attribute("data-status", "queued")
        await row.locator("button.cancel").click()
        await expect(row).to_have_attribute("data-status", "canceled")
        await expect(row.locator(".timeline .what")).to_have_text(["Queued", "Canceled"])
        await expect(row.locator("button.cancel")).to_have_count(0)
        await gateway.ledger.begin("drill", "", 5, "a-producer")
        await gateway.ledger.announce("drill", 0, 5)
        drill = visit.one("#runs tr[data-run=drill]")
        await drill.locator("button.cancel").click()
        await expect(drill).to_have_attribute("data-over", "true")
        assert (await gateway.ledger.snapshot("drill")).canceled == 5


async def test_a_simulated_run_reaches_its_end(browser: Browser) -> None:
    """Started with the form, it gets a row whose bar goes to 100 %; figures, sender and charts have it too."""
    async with running(mean_processing_time=0.2) as gateway, visiting(browser, gateway.url) as visit:
        await visit.is_live()
        await visit.one("#simulate-num_messages").fill("1500")
        await visit.one("#simulate-run").fill("watched")
        await visit.one("#simulate button[type=submit]").click()
        row = visit.one("tr[data-run=watched]")
        await expect(row.locator(".percent")).to_have_text("100 %")
        await expect(row.locator(".eta")).to_contain_text("done in")
        assert await row.locator("progress").evaluate("(bar) => bar.value") == 1
        outcome = "watched is over: 1,500 sent, 0 failed."
        await expect(visit.one("#simulate .outcome")).to_have_text(outcome)
        await expect(row.locator("small")).to_have_text("1,500 of 1,500")
        await expect(visit.one("#f-sent")).to_have_text("1,500")
        await expect(visit.one("#f-p99")).to_contain_text("ms")
        await expect(visit.one("#senders tbody tr")).to_contain_text("a-sender")
        await expect(visit.one("#senders tbody td").last).to_have_text("100 %")
        await expect(visit.one("#queues tbody tr").first).to_contain_text("sms_queue")
        for chart in ("rate", "depth", "latency"):
            await expect(visit.one(f"#chart-{chart} canvas")).to_be_visible()
            await expect(visit.one(f"#chart-{chart} .plot")).to_have_attribute(
                "aria-label", re.compile("Chart. Now .*[0-9]")
            )
        assert (await gateway.get("/runs/watched"))[1]["over"]


async def test_the_log_is_searched_by_word_status_and_id(browser: Browser) -> None:
    """Words and status filter what is there; Enter looks up a message id that is not, and says if there is none."""
    fails = running(stand_in=True, failure_rate=0.0)
    async with fails as gateway, visiting(browser, gateway.url, refused=[404]) as visit:
        await visit.is_live()
        for text in ("flood warning", "train leaves", "flood is over"):
            await send(visit, text=text)
            await expect(visit.one("#log > li").first.locator(".text")).to_have_text(text)
        await expect(visit.one("#log > li[data-status=sent]")).to_have_count(3)
        await visit.one("#log-search").fill("FLOOD over")
        await expect(visit.one("#log > li .text")).to_have_text(["flood is over"])
        await expect(visit.one("#log-count")).to_have_text("1 of 3")
        await visit.one("#log-search").fill("")
        await visit.one("#log-status").select_option("failed")
        await expect(visit.one("#log > li")).to_have_count(0)
        await expect(visit.one("#log-empty")).to_contain_text("No message here matches")
        await visit.one("#log-status").select_option("")

        _, batch = await gateway.post("/runs", {"num_messages": 5, "run": "bulk"})
        await expect(visit.one("tr[data-run=bulk] .percent")).to_have_text("100 %")
        await visit.one("#log-search").fill(f"{batch['run']}.3")
        await visit.one("#log-search").press("Enter")
        found = visit.one('#log > li[data-uuid="bulk.3"]')
        await expect(found).to_have_attribute("data-status", "sent")
        await expect(found.locator(".inside")).to_contain_text("the ledger keeps the status only")
        await visit.one("#log-search").fill("bulk.77")
        await visit.one("#log-search").press("Enter")
        await expect(visit.one("#log-problem")).to_contain_text("no message with this id")


async def test_the_log_stands_still_while_paused(browser: Browser) -> None:
    """Paused, it takes nothing in, so that it can be read; afterwards it has it all."""
    async with running() as gateway, visiting(browser, gateway.url) as visit:
        await visit.is_live()
        await send(visit, text="before")
        await expect(visit.one("#log > li[data-status=sent]")).to_have_count(1)
        await visit.one("#log-pause").click()
        await expect(visit.one("#log-pause")).to_have_attribute("aria-pressed", "true")
        await send(visit, text="meanwhile")
        await expect(visit.one("#send .outcome .status")).to_have_text("sent")
        await expect(visit.one("#f-sent")).to_have_text("2")
        assert await visit.one("#log > li .text").all_text_contents() == ["before"]
        await visit.one("#log-pause").click()
        await expect(visit.one("#log > li .text")).to_have_text(["meanwhile", "before"])


async def test_what_is_wrong_is_said_at_its_field(browser: Browser) -> None:
    """A number that is none, an empty text, a taken run name: said in words where the eyes and the focus are."""
    async with running() as gateway, visiting(browser, gateway.url, refused=[409, 422]) as visit:
        await visit.is_live()
        await send(visit, "0401234567", "")
        await expect(visit.one("#send-text-problem")).to_have_text("This is needed.")
        await visit.one("#send-text").fill("hello")
        await expect(visit.one("#send-text-problem")).to_be_empty()
        await visit.one("#send button[type=submit]").click()
        number = visit.one("#send-number")
        await expect(visit.one("#send-number-problem")).to_contain_text("country code")
        await expect(number).to_have_attribute("aria-invalid", "true")
        await expect(number).to_have_accessible_description(re.compile("country code"))
        await expect(number).to_be_focused()
        assert await visit.one("#log > li").count() == 0

        await gateway.post("/runs", {"num_messages": 1, "run": "taken"})
        await visit.one("#simulate-run").fill("taken")
        await visit.one("#simulate button[type=submit]").click()
        await expect(visit.one("#simulate .outcome")).to_contain_text("choose another name")
        await visit.one("#simulate-run").fill("No Name")
        await visit.one("#simulate button[type=submit]").click()
        await expect(visit.one("#simulate-run-problem")).not_to_be_empty()


async def test_a_key_is_asked_for_where_one_is_needed(browser: Browser) -> None:
    """A wrong key is asked for again, the right one is kept for the tab only; who cancels is left in peace."""
    guarded = running(gateway_auth=True, gateway_api_key=KEY)
    async with guarded as gateway, visiting(browser, gateway.url, refused=[401]) as visit:
        dialog = visit.one("#key")
        await expect(dialog).to_be_visible()
        await visit.page.keyboard.press("Escape")
        await expect(visit.one("#offline p")).to_have_text("Locked. This gateway asks for an API key.")
        await expect(visit.one("#connection")).to_have_text("Locked")
        for empty in ("#runs-unknown", "#log-empty"):
            await expect(visit.one(empty)).to_have_text("Shown once a key is given.")
        await expect(visit.one("#runs-empty")).to_be_hidden()
        await expect(dialog).to_be_hidden()
        await expect(visit.one("#try-now")).to_have_text("Enter key")
        await visit.one("#try-now").click()
        await expect(dialog).to_be_visible()
        await visit.one("#key-value").fill("no-such-key-at-all")
        await visit.page.keyboard.press("Enter")
        await expect(visit.one("#key-problem")).to_have_text("This key is not accepted.")
        await visit.one("#key-value").fill(KEY)
        await visit.page.keyboard.press("Enter")
        await visit.is_live()
        await expect(visit.one("#offline")).to_be_hidden()
        await send(visit)
        await expect(visit.one("#log > li")).to_have_attribute("data-status", "sent")
        kept = "[JSON.stringify(sessionStorage).includes(%r), JSON.stringify(localStorage), location.href]"
        assert await visit.page.evaluate(kept % KEY) == [True, "{}", gateway.url + "/"]
        await visit.page.reload()
        await visit.is_live()


async def test_the_keyboard_is_enough(browser: Browser) -> None:
    """Tab and Enter send a message and open its timeline, with the focus seen at each stop and no trap on the way."""
    async with running() as gateway, visiting(browser, gateway.url) as visit:
        await visit.is_live()
        keys = visit.page.keyboard
        await visit.tab_to("send-number")
        await keys.type(NUMBER)
        await visit.tab_to("send-text")
        await keys.type("typed")
        await visit.tab_to("Send")
        await keys.press("Enter")
        await expect(visit.one("#log > li")).to_have_attribute("data-status", "sent")
        await keys.press("Tab")
        await gateway.send(text="another")
        await expect(visit.one("#log > li[data-status=sent]")).to_have_count(2)
        await visit.tab_to("log-pause")
        await keys.press("Tab")
        await keys.press("ArrowDown")
        await keys.press("Enter")
        await expect(visit.one("#log > li details[open] .full")).to_have_text("typed")
        await keys.press("Home")
        await expect(visit.one("#log > li").first.locator("summary")).to_be_focused()
        # On from the last stop, out of the page.
        await keys.press("Tab")
        assert await visit.focused() is None


@pytest.mark.parametrize("dark", [False, True])
async def test_it_fits_a_phone_and_can_be_read_in_both_themes(browser: Browser, dark: bool) -> None:
    """At 360 pixels, and at any width, nothing sticks out, whatever is in it; all text has WCAG AA's contrast."""
    seen = visiting
    async with running() as gateway, seen(browser, gateway.url, size=PHONE, dark=dark, touch=True) as visit:
        await visit.is_live()
        await gateway.send(text=LONG)
        await gateway.post("/runs", {"num_messages": 20, "run": "a-name-that-is-as-long-as-names-can-be-x"})
        await expect(visit.one("#log > li")).to_have_attribute("data-status", "sent")
        await visit.one("#log summary").tap()
        await expect(visit.one(".timeline li")).to_have_count(3)
        await expect(visit.one("#runs .percent").first).to_have_text("100 %")
        await visit.one("#send button[type=submit]").tap()
        await expect(visit.one("#send-number-problem")).not_to_be_empty()
        for width in (PHONE[0], 320, 640, 768, 901, 1000, 1080, 1180):
            await visit.page.set_viewport_size({"width": width, "height": PHONE[1]})
            assert await visit.width() == width
        assert await visit.faint() == []
        await visit.page.set_viewport_size({"width": 1360, "height": 900})
        assert await visit.faint() == []


async def test_the_theme_is_the_systems_until_one_chooses(browser: Browser) -> None:
    """Dark where the system is dark; the button turns it to light, and a later visit finds it so."""
    async with running() as gateway, visiting(browser, gateway.url, dark=True) as visit:
        await visit.is_live()
        ground = "getComputedStyle(document.body).backgroundColor"
        assert sum(await visit.page.evaluate(f"{ground}.match(/\\d+/g).map(Number)")) < 100
        await visit.one("#theme").click()
        assert sum(await visit.page.evaluate(f"{ground}.match(/\\d+/g).map(Number)")) > 700
        await visit.page.reload()
        await visit.is_live()
        assert sum(await visit.page.evaluate(f"{ground}.match(/\\d+/g).map(Number)")) > 700


async def test_a_lost_connection_is_seen_and_made_again(browser: Browser) -> None:
    """While events are away the page says so, and why; once they are back it has what happened meanwhile."""
    cut = Cut()
    serving = running(stand_in=True)
    async with serving as gateway, visiting(browser, gateway.url, cut=cut) as visit:
        await visit.is_live()
        await cut.cut("too slow")
        await expect(visit.one("#connection")).not_to_have_text("Live")
        await expect(visit.one("#offline")).to_contain_text("closed the connection")
        await send(visit, text="sent meanwhile")
        other = await gateway.send(text="by another")
        await gateway.ends(other["uuid"])
        cut.away = False
        # The page may have tried again by itself and hidden the button, so that a click of the mouse would miss it.
        await visit.one("#try-now").dispatch_event("click")
        await visit.is_live()
        await expect(visit.one("#offline")).to_be_hidden()
        await expect(visit.one("#log > li[data-status=sent]")).to_have_count(2)


async def test_its_files_are_served_and_nothing_else_is() -> None:
    """With their types, to be asked for again by tag; HEAD answers alike; no path leads out of the folder."""
    async with running(gateway_auth=True) as gateway:
        types = {"/": "text/html", "/assets/main.js": "text/javascript", "/assets/style.css": "text/css"}
        for path, kind in types.items():
            async with gateway.http.get(path) as answer:
                assert (answer.status, answer.content_type) == (200, kind)
                assert answer.headers["Cache-Control"] == "no-cache"
                assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
                tag, size = answer.headers["ETag"], len(await answer.read())
            async with gateway.http.head(path) as answer:
                assert (answer.status, answer.headers["Content-Length"]) == (200, str(size))
            async with gateway.http.get(path, headers={"If-None-Match": f'"other", W/{tag}'}) as answer:
                assert (answer.status, await answer.read()) == (304, b"")
        for path in ("/assets/", "/assets/none.js", "/assets/..%2f__init__.py", "/assets/%2e%2e/__init__.py"):
            status, problem = await gateway.get(path)
            assert (status, problem["status"]) == (404, 404)
