"""The page in a real browser, in front of a real running loop."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("aiohttp", reason="aiohttp is not installed; it comes with the extra camera")
pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")

from alexnet_edge.camera.web import app as web_app
from tests.camera.answers import HOSTILE, make_answer, make_keeper
from tests.camera.scenes import wait_until
from tests.camera.web.conftest import CLASSES, TOKEN
from tests.camera.web.test_server import standing

CHROMIUM = Path("/usr/bin/chromium")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM} on this machine")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


def note(page, message):
    if message.type in {"error", "warning"}:
        page.problems.append(f"{message.type}: {message.text}")


@pytest.fixture
def open_page(browser):
    """Open an address; what the console said is in `page.problems`, dialogs as well."""
    contexts = []

    def open_address(url, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.problems = []
        page.on("console", lambda message: note(page, message))
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("dialog", lambda dialog: (page.problems.append("dialog"), dialog.dismiss()))
        page.requested = []
        page.on("request", lambda request: page.requested.append(request.url))
        page.goto(url)
        return page

    yield open_address
    for context in contexts:
        context.close()


def wait_for(page, expression):
    """Wait by asking; the browser's own waiting compiles text, which the page's policy forbids."""
    wait_until(lambda: page.evaluate(expression), 60, expression)


PICTURE_IS_THERE = "document.getElementById('picture').naturalWidth > 0"
RUNNING = "document.getElementById('state').textContent === 'running'"


def test_the_page_shows_the_loop(camera, open_page):
    page = open_page(camera.url)
    wait_for(page, PICTURE_IS_THERE)
    wait_for(page, RUNNING)
    assert page.locator("#picture").is_visible()
    # The loop goes on meanwhile: the page's answer is one that the loop gave in between.
    wait_until(
        lambda: page.locator("#best").text_content() == camera.stats.last_answer.top[0].name,
        what="the page says what the loop says",
    )
    assert page.locator("#best").text_content() in CLASSES
    assert page.locator("#engine").text_content() == "tiny.onnx"
    assert page.locator("#top li").count() == 3
    assert page.locator("#stages tr").count() == 4
    assert page.locator("#events li strong").all_text_contents() == ["connected"]
    wait_for(page, "document.querySelector('#age-spark .line').getAttribute('d')?.includes('L')")
    wait_for(page, "document.querySelector('#drops-spark .line').getAttribute('d')?.includes('L')")
    assert page.problems == []
    assert {url.split("/")[2] for url in page.requested} == {f"127.0.0.1:{camera.port}"}


def test_figures_are_renewed(camera, open_page):
    page = open_page(camera.url)
    wait_for(page, RUNNING)
    read = "Number(document.getElementById('answered').textContent.replaceAll(',', ''))"
    before = page.evaluate(read)
    wait_for(page, f"{read} > {before}")
    assert page.problems == []


def test_names_are_text(open_page):
    names = ("<script>alert(1)</script>", "<img src=x onerror=alert(2)>", HOSTILE)
    answer = make_answer(top=tuple((name, 0.3) for name in names), name="<b>file</b>")
    keeper = make_keeper(answer, source="<i>camera</i>")
    with standing(keeper, answer) as (camera, _):
        page = open_page(camera.url)
        wait_for(page, RUNNING)
        assert page.locator("#best").text_content() == names[0]
        assert page.locator("#top .class").all_text_contents() == list(names)
        assert page.locator("#file").text_content() == "<b>file</b>"
        assert page.locator("#source").text_content() == "<i>camera</i>"
        assert page.locator("#top script, #top img, #best script, #file b, #source i").count() == 0
        assert page.title().startswith("<script>")
        assert page.problems == []


def test_a_camera_that_stands_still_is_seen_at_once(open_page):
    """One picture and no second: browsers wait for what follows the first."""
    with standing(make_keeper(make_answer()), make_answer()) as (camera, _):
        page = open_page(camera.url)
        wait_until(lambda: page.evaluate(PICTURE_IS_THERE), web_app.REPEAT_S - 1, "the picture")
        assert page.locator("#picture").is_visible()


def test_a_stall_is_shown_and_so_is_the_end(open_page):
    keeper = make_keeper(make_answer(accepted=False))
    with standing(keeper, make_answer()) as (camera, _):
        page = open_page(camera.url)
        wait_for(page, RUNNING)
        assert page.locator("#unsure").is_visible()
        keeper.set_state("stalled")
        wait_for(page, "document.getElementById('state').dataset.state === 'stalled'")
    wait_for(page, "document.getElementById('state').textContent === 'no connection'")


def test_the_page_comes_back_with_the_server(open_page):
    from alexnet_edge.camera.web import WebServer

    keeper = make_keeper(make_answer())
    with standing(keeper, make_answer()) as (camera, _):
        page = open_page(camera.url)
        wait_for(page, PICTURE_IS_THERE)
    wait_for(page, "document.getElementById('state').dataset.state === 'lost'")

    def streams():
        return sum("stream.mjpg" in url for url in page.requested)

    before = streams()
    again = WebServer("127.0.0.1", camera.port, keeper.snapshot)
    again.start()
    again.write(make_answer())
    try:
        wait_for(page, RUNNING)
        wait_until(lambda: page.evaluate("1") and streams() > before, what="the picture again")
    finally:
        again.close()


def test_pausing_lets_the_camera_rest(camera, open_page):
    page = open_page(camera.url)
    wait_for(page, PICTURE_IS_THERE)
    wait_until(lambda: camera.metric("alexnet_edge_web_streams") == 1, what="it watches")
    page.locator("#pause").focus()
    page.keyboard.press("Enter")
    assert page.locator("#pause").text_content() == "Go on"
    wait_until(lambda: camera.metric("alexnet_edge_web_streams") == 0, what="it rests")
    assert page.evaluate(PICTURE_IS_THERE), "the last picture stays"
    page.keyboard.press("Space")
    wait_until(lambda: camera.metric("alexnet_edge_web_streams") == 1, what="it goes on")
    assert page.problems == []


def test_everything_is_reached_by_keyboard(camera, open_page):
    page = open_page(camera.url)
    wait_for(page, RUNNING)
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent"))
    assert reached[:4] == ["Skip to the answer", "Pause", "Full screen", "Save picture"]
    assert "metrics" in reached


def test_a_screen_reader_finds_names_for_everything(camera, open_page):
    page = open_page(camera.url)
    wait_for(page, PICTURE_IS_THERE)
    assert page.get_by_role("img", name="Live picture of").count() == 1
    for name in ("Answer", "Latency by stage", "Events", "Live picture", "Rates"):
        assert page.get_by_role("region", name=name).count() == 1
    assert page.get_by_role("status").text_content() == "running"
    assert page.get_by_role("rowheader").all_text_contents() == [
        "capture", "preprocess", "inference", "output",
    ]  # fmt: skip
    wait_for(page, "document.getElementById('age-spark').getAttribute('aria-label').includes('ms')")
    assert page.evaluate("document.documentElement.lang") == "en"


@pytest.mark.parametrize("width", [320, 390, 800, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_any_screen_and_scheme_will_do(camera, open_page, width, scheme):
    page = open_page(
        camera.url, viewport={"width": width, "height": 800}, color_scheme=scheme
    )  # fmt: skip
    wait_for(page, PICTURE_IS_THERE)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "no scrolling aside"
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(243, 245, 248)"
    assert light == (scheme == "light")
    for target in page.locator("button, .button").all():
        assert target.bounding_box()["height"] >= 44, "large enough for a finger"


def test_the_token_is_asked_for_and_kept(guarded, open_page):
    url = f"http://127.0.0.1:{guarded.port}/"
    page = open_page(url)
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Open").click()
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Open").click()
    wait_for(page, RUNNING)
    wait_for(page, PICTURE_IS_THERE)
    assert page.url == url, "the token stays in no address bar"
    assert page.evaluate("document.cookie") == "", "scripts do not see it"
    page.reload()
    wait_for(page, RUNNING)
    refused = [problem for problem in page.problems if "401" not in problem]
    assert refused == []
