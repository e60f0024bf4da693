"""The page in a real browser: nothing fails, nothing is fetched, and it says what the JSON says."""

from __future__ import annotations

import itertools
import json
import re

import pytest

from tests.report.conftest import HOSTILE
from tests.results_files import samples

WIDTHS = {"phone": 360, "desktop": 1200}


@pytest.fixture
def look(browser, tmp_path):
    """Open a page; every message, error and request of it is collected in `trouble`."""
    contexts = []

    def open_page(html, *, width=1200, scheme="light"):
        path = tmp_path / "page.html"
        path.write_text(html, encoding="utf-8")
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
        )
        contexts.append(context)
        view = context.new_page()
        view.trouble = []
        view.on("console", lambda message: view.trouble.append(message.text))
        view.on("pageerror", lambda error: view.trouble.append(str(error)))
        view.on("request", lambda request: view.trouble.append(request.url))
        view.goto(path.as_uri())
        assert view.trouble.pop(0) == path.as_uri()
        view.trouble[:] = [what for what in view.trouble if not what.startswith("data:")]
        return view

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def whole(everything):
    return everything.html


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_it_opens_without_errors_or_requests_and_never_scrolls_sideways(look, whole, width, scheme):
    view = look(whole, width=width, scheme=scheme)
    assert not view.trouble
    assert view.evaluate("document.documentElement.scrollWidth") == width
    assert len(view.screenshot(full_page=True)) > 50_000
    background = view.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", background))) > 380
    assert light == (scheme == "light")


def test_every_figure_is_the_jsons(look, whole, everything):
    values = list(everything.values.values())
    view = look(whole)
    shown = view.eval_on_selector_all(
        "data[data-from]", "all => all.map(d => [d.dataset.from, d.value, d.textContent])"
    )
    assert len(shown) > 150
    for source, value, text in shown:
        tag, _, pointer = source.partition("#/")
        found = values[int(tag[1:]) - 1]
        for step in pointer.split("/"):
            key = step.replace("~1", "/").replace("~0", "~")
            found = found[int(key)] if isinstance(found, list) else found[key]
        assert json.loads(value) == found, source
        assert means(text, found), (source, text, found)


def means(text, value):
    """Whether a text, in whatever unit, is the value to three digits or two decimals."""
    number = float(re.sub(r"[^0-9.e+−-]", "", text).replace("−", "-"))
    scales = (1, 100, 1e3, 1e-6, 1e-9)
    return any(abs(number - scale * value) <= max(0.0051, 0.006 * abs(number)) for scale in scales)


def test_the_answer_comes_first_and_is_the_jsons(look, whole, everything):
    bench = everything.values["bench.json"]["engines"]
    view = look(whole)
    first = view.locator(".answer .sentence").first
    ratio = bench[0]["latency_ms"]["p50"] / bench[1]["latency_ms"]["p50"]
    assert float(first.locator("data").first.get_attribute("value")) == pytest.approx(ratio)
    assert "4.0× smaller than FP32 at batch 1" in first.inner_text()
    assert "2.5× less energy" in first.inner_text()
    assert first.bounding_box()["y"] < 300
    assert view.locator(".tiles div").count() == 4


def test_names_from_data_are_text(look, hostile):
    view = look(hostile[0])
    assert not view.trouble
    made = "document.querySelectorAll('script, img[onerror], svg[onload]').length"
    assert view.evaluate(made) == 0
    assert view.title() == HOSTILE[0]
    text = view.evaluate("document.body.textContent")
    for name in HOSTILE[:4]:
        assert name in text
    # In the plots as well: a $ does not begin a formula, a name that begins with _ is not left out.
    assert "$x^2$" in " ".join(view.locator(".plot svg text").all_text_contents())


def test_it_is_sane_for_keyboards_and_screen_readers(look, whole):
    view = look(whole)
    view.keyboard.press("Tab")
    skip = view.locator(":focus")
    assert skip.inner_text() == "Skip to the answer"
    assert skip.bounding_box()["x"] >= 0
    view.keyboard.press("Enter")
    assert view.evaluate("document.activeElement.id") == "main"
    assert view.evaluate(
        "[...document.querySelectorAll('[id]')].every("
        "(e, i, all) => all.findIndex(o => o.id === e.id) === i)"
    ), "an id is there twice"
    found = view.evaluate("""() => ({
        unnamed: [...document.querySelectorAll('.plot')].filter(
            p => p.getAttribute('role') !== 'img' || p.ariaLabel.length < 20).length,
        uncaptioned: [...document.querySelectorAll('table')].filter(
            t => !t.caption || t.querySelectorAll('th:not([scope])').length).length,
        plots: document.querySelectorAll('figure > .plot + figcaption').length,
        levels: [...document.querySelectorAll('h1, h2, h3')].map(h => +h.tagName[1]),
        dangling: [...document.querySelectorAll('a[href^="#"], [aria-labelledby]')].filter(
            e => !document.getElementById(
                e.getAttribute('aria-labelledby') ?? e.getAttribute('href').slice(1))).length,
        unreachable: [...document.querySelectorAll('.scroll')].filter(
            e => e.tabIndex !== 0 || e.getAttribute('role') !== 'region').length,
    })""")
    assert found["plots"] >= 10
    assert not found["unnamed"] + found["uncaptioned"] + found["dangling"] + found["unreachable"]
    levels = found["levels"]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(look, whole, scheme):
    view = look(whole, scheme=scheme)
    colors = view.evaluate("""() => {
        const paint = document.createElement('i');
        document.body.append(paint);
        const read = name => { paint.style.color = `var(--${name})`;
            return getComputedStyle(paint).color.match(/[0-9.]+/g).slice(0, 3).map(Number); };
        return Object.fromEntries(['paper', 'raised', 'ink', 'muted', 'link', 'good', 'bad',
            'doubt', 'bad-paper', ...[1, 2, 3, 4, 5, 6].map(n => `series-${n}`)]
            .map(n => [n, read(n)]));
    }""")
    for name in ("ink", "muted", "link", "good", "bad", "doubt"):
        for paper in ("paper", "raised"):
            assert contrast(colors[name], colors[paper]) >= 4.5, (name, paper)
    assert contrast(colors["bad"], colors["bad-paper"]) >= 4.5
    for number in range(1, 7):
        assert contrast(colors[f"series-{number}"], colors["paper"]) >= 3


def contrast(first, second):
    """WCAG 2.2, relative luminance."""

    def luminance(color):
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in (part / 255 for part in color)
        ]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    light, dark = sorted(map(luminance, (first, second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_plots_stay_within_their_frames(look, whole):
    view = look(whole, width=360)
    outside = view.evaluate("""() => [...document.querySelectorAll('.plot svg')].flatMap(svg => {
        const frame = svg.getBoundingClientRect();
        return [...svg.querySelectorAll('text')]
            .map(t => [t.textContent, t.getBoundingClientRect()])
            .filter(([, b]) => b.left < frame.left - 3 || b.right > frame.right + 3)
            .map(([text]) => text);
    })""")
    assert outside == []
    sizes = view.evaluate("""() => [...document.querySelectorAll('.plot svg')].map(svg =>
        9.5 * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)""")
    assert min(sizes) >= 8.5, "the smallest text of a plot on a phone, in pixels"


def test_values_of_negative_bars_stand_clear_of_the_names(look, page):
    classes = [
        dict(
            samples.parity()["per_class"][0],
            **{"class": f"{name} with a long name", "drop_pp": drop},
        )
        for name, drop in (("cat", -12.345), ("dog", -100.0), ("tench", 1.25), ("ray", -0.0123))
    ]
    for few in (classes, classes[:1], classes[2:]):
        html, _ = page(samples.parity(per_class=few))
        boxes = look(html, width=360).evaluate("""() =>
            [...document.querySelectorAll('figure .plot')]
            .filter(plot => plot.ariaLabel.startsWith('Top-1 lost by class'))
            .flatMap(plot => [...plot.querySelectorAll('text')])
            .map(t => [t.textContent, t.getBoundingClientRect()])
            .map(([text, b]) => [text, b.left, b.right, b.top + 2, b.bottom - 2])""")
        assert len(boxes) > 2 * len(few)
        for first, second in itertools.combinations(boxes, 2):
            apart = first[2] < second[1] or second[2] < first[1]
            assert apart or first[4] < second[3] or second[4] < first[3], (first, second)


def test_it_prints(look, whole):
    view = look(whole, scheme="dark")
    pdf = view.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    view.emulate_media(media="print")
    assert view.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert not view.locator("nav").is_visible()
    view.set_viewport_size({"width": 690, "height": 1000})  # A4 less its margins
    assert view.evaluate("document.documentElement.scrollWidth") == 690
