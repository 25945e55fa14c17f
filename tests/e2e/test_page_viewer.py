"""The viewer of the page at /: what is left and right of the divider, and how it is moved."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, CDPSession, Page, expect

from testkit.service import Service
from tests.e2e.page import (
    TIMEOUT,
    enhance,
    locate,
    open_page,
    photograph,
    pick,
    place,
    share,
    wait_for_comparison,
    zoom,
)

SIDE = 600  # of the pattern, enlarged three times: larger than the stage
EDGE = 40  # pixels around the divider and at the window's edges, which are not compared
SMOOTH_LEVELS = 12  # mean difference between two smooth interpolations of a noisy image


@pytest.fixture
def pattern(tmp_path: Path) -> Path:
    """Noise: the light service makes squares of its pixels, a browser interpolates them."""
    noise = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    path = tmp_path / "pattern.png"
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture
def viewer(page: Page, pattern: Path) -> Page:
    enhance(page, pattern)
    wait_for_comparison(page)
    return page


def expect_both_sides(page: Page, pattern: Path, split: int) -> None:
    """Compare the screenshot with the original's and the result's pixels, on their sides."""
    shown = photograph(page).astype(np.int16)
    height, width, _ = shown.shape
    x, y, scale = place(page)
    assert scale == 1
    left, top = round(-x), round(-y)
    box = (left, top, left + width, top + height)
    size = (3 * SIDE, 3 * SIDE)
    with Image.open(pattern) as original:
        result = np.asarray(original.resize(size, Image.Resampling.NEAREST).crop(box), np.int16)
        smooth = np.asarray(original.resize(size, Image.Resampling.BILINEAR).crop(box), np.int16)
    before, after = slice(EDGE, split - EDGE), slice(split + EDGE, width - EDGE)
    assert np.abs(shown - result)[:, after].max() <= 1
    assert np.abs(shown - smooth)[:, before].mean() < SMOOTH_LEVELS
    assert np.abs(shown - result)[:, before].mean() > 2 * SMOOTH_LEVELS


def test_divider_belongs_to_the_window_at_any_zoom_and_place(viewer: Page, pattern: Path) -> None:
    viewer.click("#full-size")
    _, _, width, _ = locate(viewer, "#stage")
    expect_both_sides(viewer, pattern, round(width / 2))
    viewer.mouse.move(900, 300)
    viewer.mouse.down()
    viewer.mouse.move(840, 180, steps=3)
    viewer.mouse.up()
    handle = viewer.locator("#stage .divider")
    handle.focus()
    for _ in range(2):
        viewer.keyboard.press("Shift+ArrowLeft")
    assert share(viewer) == 30
    expect_both_sides(viewer, pattern, round(0.3 * width))


def test_handle_is_dragged_on_the_image_itself_with_a_wide_grip(viewer: Page) -> None:
    viewer.click("#full-size")
    before = place(viewer)
    x, y, width, height = locate(viewer, "#stage")
    viewer.mouse.move(x + width / 2 + 20, y + height / 3)  # within 24 px of the line
    viewer.mouse.down()
    viewer.mouse.move(x + width / 2 + 20 + width / 4, y + height / 3, steps=4)
    viewer.mouse.up()
    viewer.mouse.move(x + 9, y + 9)  # after the release, moves have no effect
    assert share(viewer) == 75
    assert place(viewer) == before


def test_drag_anywhere_moves_the_divider_when_fitted_and_pans_when_zoomed(viewer: Page) -> None:
    x, y, width, height = locate(viewer, "#stage")
    before = place(viewer)

    def drag(dx: float, dy: float) -> None:
        viewer.mouse.move(x + width / 4, y + height / 4)
        viewer.mouse.down()
        viewer.mouse.move(x + width / 4 + dx, y + height / 4 + dy, steps=5)
        viewer.mouse.up()

    drag(width / 2, 30)
    assert (share(viewer), place(viewer)) == (75, before)
    viewer.click("#full-size")
    start = place(viewer)
    drag(60, 30)
    assert share(viewer) == 75
    moved = place(viewer)
    # The first 4 px tell a drag from a click, and then count too.
    assert (moved[0] - start[0], moved[1] - start[1]) == pytest.approx((60, 30), abs=0.5)


def test_wheel_zooms_around_the_pointer(viewer: Page) -> None:
    viewer.click("#full-size")
    x, y, _, _ = locate(viewer, "#stage")
    pointer = (300, 200)

    def spot() -> tuple[float, float]:
        left, top, scale = place(viewer)
        return (pointer[0] - left) / scale, (pointer[1] - top) / scale

    before = spot()
    viewer.mouse.move(x + pointer[0], y + pointer[1])
    viewer.mouse.wheel(0, -300)
    expect(viewer.locator("#zoom")).not_to_have_text("100%")
    assert spot() == pytest.approx(before, abs=0.5)
    assert place(viewer)[2] > 1
    viewer.mouse.wheel(0, 9000)
    expect(viewer.locator("#fit")).to_have_attribute("aria-pressed", "true")


def test_double_click_shows_100_percent_and_then_all(viewer: Page) -> None:
    x, y, width, height = locate(viewer, "#stage")
    fitted = zoom(viewer)
    assert fitted != "100%"
    viewer.mouse.dblclick(x + width / 4, y + height / 4)
    assert zoom(viewer) == "100%"
    viewer.mouse.dblclick(x + width / 4, y + height / 4)
    assert zoom(viewer) == fitted


def test_keys_zoom_move_compare_and_go_to_other_images(
    viewer: Page, photo: Path, pattern: Path
) -> None:
    enhance(viewer, photo)
    stage = viewer.locator("#stage")
    stage.focus()
    viewer.keyboard.press("1")
    assert zoom(viewer) == "100%"
    viewer.keyboard.press("+")
    assert zoom(viewer) == "125%"
    start = place(viewer)
    viewer.keyboard.press("Shift+ArrowRight")
    assert place(viewer)[0] == pytest.approx(start[0] - 64)
    viewer.keyboard.press("ArrowRight")
    expect(viewer.locator("#viewer-name")).to_have_text("photo.jpg")
    wait_for_comparison(viewer)
    assert zoom(viewer) == "125%"  # it stays for the next image
    viewer.keyboard.press("ArrowLeft")
    expect(viewer.locator("#viewer-name")).to_have_text(pattern.name)
    wait_for_comparison(viewer)
    assert zoom(viewer) == "125%"
    viewer.keyboard.press("0")
    expect(viewer.locator("#fit")).to_have_attribute("aria-pressed", "true")
    viewer.keyboard.down(" ")
    expect(viewer.locator("#stage .enhanced").first).to_be_hidden()
    viewer.keyboard.up(" ")
    expect(viewer.locator("#stage .enhanced").first).to_be_visible()


def test_side_by_side_shows_the_same_part_twice(viewer: Page, pattern: Path) -> None:
    viewer.click("#full-size")
    viewer.click("#side-by-side")
    expect(viewer.locator("#stage .divider")).to_be_hidden()
    shown = photograph(viewer).astype(np.int16)
    half = shown.shape[1] // 2
    x, y, scale = place(viewer)
    assert scale == 1
    left, top = round(-x), round(-y)
    box = (left, top, left + half, top + shown.shape[0])
    with Image.open(pattern) as original:
        size = (3 * SIDE, 3 * SIDE)
        result = np.asarray(original.resize(size, Image.Resampling.NEAREST).crop(box), np.int16)
        smooth = np.asarray(original.resize(size, Image.Resampling.BILINEAR).crop(box), np.int16)
    inner = slice(EDGE, half - EDGE)
    # The line between them takes 2 px from the right one.
    assert np.abs(shown[:, half + 2 :][:, inner] - result[:, inner]).max() <= 1
    assert np.abs(shown[:, :half][:, inner] - smooth[:, inner]).mean() < SMOOTH_LEVELS


def test_holding_the_button_shows_the_original_alone(viewer: Page) -> None:
    x, y, width, height = locate(viewer, "#hold")
    viewer.mouse.move(x + width / 2, y + height / 2)
    viewer.mouse.down()
    expect(viewer.locator("#stage .pane.enhanced")).to_be_hidden()
    expect(viewer.locator("#stage .pane.original")).to_have_css("clip-path", "none")
    viewer.mouse.up()
    expect(viewer.locator("#stage .pane.enhanced")).to_be_visible()


def test_viewer_fills_the_screen(viewer: Page) -> None:
    viewer.click("#fullscreen")
    viewer.locator("#viewer:fullscreen").wait_for()
    viewer.click("#fullscreen")
    expect(viewer.locator("#viewer:fullscreen")).to_have_count(0)


def test_lens_enlarges_the_spot_under_the_pointer_in_both(viewer: Page) -> None:
    viewer.click("#full-size")
    viewer.click("#use-lens")
    x, y, _, _ = locate(viewer, "#stage")
    viewer.mouse.move(x + 200, y + 400)
    left, top, scale = place(viewer)
    seen = viewer.evaluate(
        """[...document.querySelectorAll(".lens img")].map((image) => {
            const { a, e, f } = new DOMMatrix(getComputedStyle(image).transform);
            const { clientWidth, clientHeight } = image.parentElement;
            return [(clientWidth / 2 - e) / a, (clientHeight / 2 - f) / a, a];
        })"""
    )
    spot = ((200 - left) / scale, (400 - top) / scale, 3 * scale)
    assert seen[0] == pytest.approx(spot, abs=0.5)
    assert seen[1] == pytest.approx(spot, abs=0.5)
    viewer.click("#use-lens")
    expect(viewer.locator(".lens")).to_be_hidden()


def test_transparent_parts_show_a_chequerboard_on_both_sides(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "hole.png"
    picture = Image.new("RGBA", (300, 300), (200, 30, 30, 255))
    picture.paste((0, 0, 0, 0), (0, 100, 300, 200))  # transparent across the whole width
    picture.save(path)
    enhance(page, path)
    wait_for_comparison(page)
    page.click("#full-size")
    for side in ("original", "enhanced"):
        pane = page.locator(f"#stage .pane.{side}")
        expect(pane).to_have_css("clip-path", re.compile("inset"))
    shown = photograph(page)
    middle = shown.shape[0] // 2
    band = shown[middle - 20 : middle + 20]
    colours = {tuple(map(int, colour)) for colour in band.reshape(-1, 3)}
    assert not any(red > 150 > green for red, green, _ in colours)  # nothing shines through
    for part in (band[:, : band.shape[1] // 2 - EDGE], band[:, band.shape[1] // 2 + EDGE :]):
        assert {(255, 255, 255), (212, 215, 220)} <= {tuple(each) for each in part.reshape(-1, 3)}


def test_viewer_shows_the_size_that_was_chosen(page: Page, photo: Path) -> None:
    page.set_input_files("#files", photo)
    pick(page, "scale", "2")
    page.click("#start")
    wait_for_comparison(page)
    expect(page.locator("#viewer-size")).to_have_text("400 × 320")


def test_original_has_the_place_and_size_that_the_result_will_have(page: Page, photo: Path) -> None:
    page.set_input_files("#files", photo)
    expect(page.locator("#viewer-size")).to_have_text("600 × 480")
    pick(page, "scale", "4")
    expect(page.locator("#viewer-size")).to_have_text("800 × 640")
    page.click("#full-size")
    page.click("#zoom-in")
    before = place(page)
    page.click("#start")
    wait_for_comparison(page)
    assert place(page) == before  # nothing jumps
    pick(page, "scale", "2")
    page.click("#start")
    expect(page.locator("#viewer-size")).to_have_text("400 × 320")
    after = place(page)
    assert after == pytest.approx((before[0], before[1], 2 * before[2]), abs=0.01)


def test_image_that_is_wholly_seen_is_divided_by_a_drag_at_any_zoom(
    page: Page, tmp_path: Path
) -> None:
    path = tmp_path / "small.png"
    Image.new("RGB", (40, 30), (1, 90, 3)).save(path)
    enhance(page, path)
    wait_for_comparison(page)
    page.click("#zoom-in")
    assert zoom(page) == "125%"
    x, y, width, height = locate(page, "#stage")
    page.mouse.move(x + width / 4, y + height / 4)
    page.mouse.down()
    page.mouse.move(x + 3 * width / 4, y + height / 4, steps=5)
    page.mouse.up()
    assert share(page) == 75


def test_keys_work_after_a_button_was_pressed_and_the_space_bar_still_presses_it(
    viewer: Page,
) -> None:
    viewer.click("#full-size")
    viewer.keyboard.press("+")
    assert zoom(viewer) == "125%"
    viewer.keyboard.press(" ")
    assert zoom(viewer) == "100%"


def test_lens_shows_nothing_of_another_image(page: Page, photo: Path, pattern: Path) -> None:
    enhance(page, photo)
    page.click("#use-lens")
    page.set_input_files("#files", pattern)
    page.locator(".thumb").nth(1).click()
    expect(page.locator("#stage")).to_have_attribute("data-shows", "original")
    expect(page.locator(".lens img").nth(0)).to_be_visible()
    expect(page.locator(".lens img").nth(1)).to_be_hidden()


# --- fingers


def touch(session: CDPSession, kind: str, *points: tuple[float, float]) -> None:
    where = [{"x": x, "y": y, "id": index} for index, (x, y) in enumerate(points)]
    session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": where})


@pytest.fixture
def phone(browser: Browser, light_service: Service, pattern: Path) -> Page:
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    page.set_default_timeout(TIMEOUT)
    open_page(page, light_service.url)
    enhance(page, pattern)
    return page


def test_thumbnail_opens_the_viewer_over_the_phone_and_back_closes_it(phone: Page) -> None:
    expect(phone.locator("#viewer")).to_be_hidden()
    phone.locator(".thumb").tap()
    x, y, width, height = locate(phone, "#viewer")
    assert (x, y, width, height) == (0, 0, 390, 844)
    phone.go_back()
    expect(phone.locator("#viewer")).to_be_hidden()
    phone.locator(".thumb").tap()
    phone.locator("#close-viewer").tap()
    expect(phone.locator("#viewer")).to_be_hidden()


def test_viewer_is_open_after_a_reload_and_back_and_forward_close_and_open_it(
    phone: Page, photo: Path
) -> None:
    enhance(phone, photo)
    phone.locator(".thumb").nth(1).tap()
    wait_for_comparison(phone)
    phone.reload()
    expect(phone.locator("#viewer")).to_be_visible()
    expect(phone.locator("#viewer-name")).to_have_text("photo.jpg")
    phone.go_back()
    expect(phone.locator("#viewer")).to_be_hidden()
    phone.go_forward()
    expect(phone.locator("#viewer")).to_be_visible()
    phone.locator("#close-viewer").tap()
    expect(phone.locator("#viewer")).to_be_hidden()


def test_two_fingers_zoom_though_one_of_them_is_on_the_handle(phone: Page) -> None:
    phone.locator(".thumb").tap()
    wait_for_comparison(phone)
    session = phone.context.new_cdp_session(phone)
    x, y, width, height = locate(phone, "#stage")
    handle = (x + width / 2, y + height / 2)
    before = place(phone)[2]
    touch(session, "touchStart", handle, (handle[0] + 50, handle[1]))
    for step in range(1, 6):
        touch(session, "touchMove", handle, (handle[0] + 50 + 20 * step, handle[1]))
    touch(session, "touchEnd")
    assert place(phone)[2] == pytest.approx(before * 3, rel=0.1)
    assert share(phone) == 50


def test_one_finger_moves_the_divider_and_two_zoom(phone: Page) -> None:
    phone.locator(".thumb").tap()
    wait_for_comparison(phone)
    session = phone.context.new_cdp_session(phone)
    x, y, width, height = locate(phone, "#stage")
    middle = y + height / 2
    touch(session, "touchStart", (x + width / 4, middle))
    for step in range(1, 6):
        touch(session, "touchMove", (x + width / 4 + step * width / 10, middle))
    touch(session, "touchEnd")
    assert share(phone) == 75
    before = place(phone)[2]
    touch(session, "touchStart", (x + 150, middle), (x + 200, middle))
    for step in range(1, 6):
        touch(session, "touchMove", (x + 150, middle), (x + 200 + 30 * step, middle))
    touch(session, "touchEnd")
    assert place(phone)[2] == pytest.approx(before * 4, rel=0.1)  # from 50 to 200 px
    assert share(phone) == 75
