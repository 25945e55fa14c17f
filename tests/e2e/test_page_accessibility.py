"""The page at / for people who use a keyboard, a screen reader, or other colours."""

from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from testkit.service import Service
from tests.e2e.page import (
    choose,
    enhance,
    open_page,
    patch_capabilities,
    pick,
    share,
    wait_for_comparison,
    wait_for_state,
    wait_for_words,
)

FINGER, FINGER_WIDTH = 44, 32  # CSS pixels; WCAG 2.5.5 and 2.5.8
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
}


def expect_no_finding(page: Page, state: str) -> None:
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme)
        results = Axe().run(page)
        assert results.violations_count == 0, f"{state}, {scheme}: {results.generate_report()}"


@pytest.mark.parametrize("form", ["desktop", "phone"])
@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_accessibility_checker_finds_nothing_in_any_state(
    browser: Browser,
    light_service: Service,
    photo: Path,
    tmp_path: Path,
    form: str,
    locale: str,
) -> None:
    # The checker is a separate script, which the page's policy would block.
    options = PHONE if form == "phone" else {}
    context = browser.new_context(bypass_csp=True, locale=locale, **options)
    page = context.new_page()
    open_page(page, light_service.url)
    expect_no_finding(page, "first screen")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    choose(page, photo, broken)
    pick(page, "scale", "width")
    pick(page, "format", "webp")
    expect_no_finding(page, "options")
    page.route("**/api/enhance*", lambda route: route.abort())
    page.route("**/api/capabilities", lambda route: route.abort())
    page.route("**/api/result*", lambda route: route.abort())
    page.click("#start")
    expect(page.locator("#offline")).to_be_visible()
    expect_no_finding(page, "the service is away")
    for path in ("enhance*", "capabilities", "result*"):
        page.unroute(f"**/api/{path}")
    wait_for_state(page, "done")
    wait_for_state(page, "failed", 1)
    expect(page.locator("#offline")).to_be_hidden()
    expect_no_finding(page, "one done, one failed")
    page.locator(".thumb").first.click()
    wait_for_comparison(page)
    expect_no_finding(page, "comparison")
    page.click("#side-by-side")
    page.click("#use-lens")
    expect_no_finding(page, "side by side, with the lens")
    if form == "phone":
        page.click("#close-viewer")
    page.click("#show-code")
    expect_no_finding(page, "code")
    context.close()


def test_accessibility_checker_finds_nothing_when_something_is_refused(
    browser: Browser, light_service: Service, photo: Path, tmp_path: Path
) -> None:
    context = browser.new_context(bypass_csp=True)
    page = context.new_page()
    patch_capabilities(page, api_key_required=True)
    open_page(page, light_service.url)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    choose(page, broken, photo)
    expect(page.locator("#key-form")).to_be_visible()
    expect(page.locator("#stage-text")).to_have_text("This image cannot be shown here")
    expect_no_finding(page, "a key is asked for, and an image cannot be shown")
    refusal = {"code": "rate_limited", "error": "Too many."}
    page.route(
        "**/api/enhance*",
        lambda route: route.fulfill(status=429, json=refusal, headers={"Retry-After": "3600"}),
    )
    pick(page, "format", "avif")
    page.click("#start")
    wait_for_words(page, "^Limit used up")
    expect_no_finding(page, "a limit is used up")
    context.close()


def test_everything_is_large_enough_for_a_finger(
    browser: Browser, light_service: Service, photo: Path
) -> None:
    context = browser.new_context(**PHONE)
    page = context.new_page()

    def find_small() -> list[str]:
        found: list[str] = page.evaluate(
            f"""[...document.querySelectorAll(
                "button, nav a, select, #panel label, #welcome label, #panel [type=number]")]
                .filter((each) => each.checkVisibility({{ visibilityProperty: true }}))
                .map((each) => [each, each.getBoundingClientRect()])
                .filter(([, {{ width, height }}]) => height < {FINGER} || width < {FINGER_WIDTH})
                .map(([each, {{ height }}]) => `${{each.outerHTML}}: ${{height}}`)"""
        )
        return found

    open_page(page, light_service.url)
    assert find_small() == []
    choose(page, photo, photo)
    pick(page, "scale", "width")
    pick(page, "format", "webp")
    assert find_small() == []
    page.click("#start")
    wait_for_state(page, "done", 1)
    assert find_small() == []
    page.locator(".thumb").first.tap()
    wait_for_comparison(page)
    assert find_small() == []
    context.close()


def test_what_is_chosen_is_seen_in_high_contrast(
    browser: Browser, light_service: Service, photo: Path
) -> None:
    context = browser.new_context(forced_colors="active")
    page = context.new_page()
    open_page(page, light_service.url)
    enhance(page, photo)
    wait_for_comparison(page)

    def background(selector: str) -> str:
        colour: str = page.locator(selector).evaluate(
            "(element) => getComputedStyle(element).backgroundColor"
        )
        return colour

    assert background("[name=scale]:checked + span") != background("[name=scale][value='2'] + span")
    assert background("#fit") != background("#full-size")
    page.locator("#list [aria-current]").evaluate("(row) => row.scrollIntoView()")
    expect(page.locator("#list [aria-current]")).to_have_css("outline-style", "solid")
    context.close()


def test_keyboard_alone_is_enough(page: Page, photo: Path) -> None:
    def focused() -> str:
        name: str = page.evaluate(
            "(({ id, name, className }) => id || name || className)(document.activeElement)"
        )
        return name

    def tab_to(name: str) -> None:
        for _ in range(40):
            if focused() == name:
                return
            page.keyboard.press("Tab")
        pytest.fail(f"{name} is not reached")

    tab_to("files")
    choose(page, photo)
    expect(page.locator("#start")).to_be_focused()
    page.keyboard.press("Enter")
    wait_for_state(page, "done")
    wait_for_comparison(page)
    assert focused() == "actions"  # the button is gone; the focus is not lost
    tab_to("stage")
    page.keyboard.press("Tab")
    assert focused() == "divider"
    page.keyboard.press("ArrowRight")
    assert share(page) == 51
    for name in ("zoom-in", "fit", "full-size", "hold", "side-by-side", "use-lens"):
        tab_to(name)
    page.keyboard.press("Space")
    expect(page.locator(".lens")).to_be_visible()


def test_removed_row_gives_the_focus_to_the_next(page: Page, photo: Path) -> None:
    choose(page, photo, photo)
    page.locator('[data-action="remove"]').first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#list li")).to_have_count(1)
    assert page.evaluate("document.activeElement.className") == "thumb"
    page.locator('[data-action="remove"]').focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "files"


def test_what_happens_is_announced(page: Page, photo: Path) -> None:
    enhance(page, photo)
    expect(page.locator("#announcement")).to_have_text("1 image enhanced")


def test_nothing_moves_by_itself(page: Page, photo: Path) -> None:
    enhance(page, photo)
    wait_for_comparison(page)
    assert page.evaluate("document.getAnimations().length") == 0


def test_text_may_be_twice_as_large(browser: Browser, light_service: Service, photo: Path) -> None:
    # WCAG 1.4.10: 320 px wide, as at 400 % on a desktop, without scrolling in two directions.
    context = browser.new_context(viewport={"width": 320, "height": 640})
    page = context.new_page()
    open_page(page, light_service.url)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    enhance(page, photo)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    context.close()
