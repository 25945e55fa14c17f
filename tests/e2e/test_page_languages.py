"""The languages of the page at /."""

import json
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from superres.settings import Settings
from superres.web import web_pages
from superres.web.web_pages import PAGE_DIR
from testkit.app_client import AppMaker
from testkit.service import Service
from tests.e2e.page import choose, open_page, wait_for_words


def test_browser_in_chinese_sees_chinese(browser: Browser, light_service: Service) -> None:
    context = browser.new_context(locale="zh-CN")
    page = context.new_page()
    open_page(page, light_service.url)
    expect(page.locator("#drop .button")).to_have_text("选择图片")
    expect(page).to_have_title("超分辨率")
    assert page.evaluate("document.documentElement.lang") == "zh"
    context.close()


def test_language_is_changed_by_hand_and_kept(
    page: Page, light_service: Service, photo: Path
) -> None:
    choose(page, photo)
    page.select_option("#language", "zh")
    expect(page.locator("#start")).to_contain_text("放大 1 张图片")
    wait_for_words(page, "· 约 ")
    expect(page.locator("#hold")).to_have_attribute("aria-label", "按住看原图")
    page.reload()
    expect(page.locator("#start")).to_contain_text("放大 1 张图片")
    page.select_option("#language", "en")
    expect(page.locator("#start")).to_contain_text("Enhance 1 image")


def test_right_to_left_language_needs_a_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_app: AppMaker, settings: Settings
) -> None:
    folder = tmp_path / "page"
    shutil.copytree(PAGE_DIR, folder)
    texts = json.loads((folder / "languages" / "en.json").read_text())
    texts |= {"language": "עברית", "direction": "rtl"}
    (folder / "languages" / "he.json").write_text(json.dumps(texts))
    monkeypatch.setattr(web_pages, "PAGE_DIR", folder)
    client = make_app().test_client()
    html = client.get("/").text
    assert '<option value="he" lang="he">עברית</option>' in html
    version = html.partition("static/")[2].partition("/")[0]
    assert client.get(f"/static/{version}/languages/he.json").get_json()["direction"] == "rtl"


def test_page_is_mirrored_but_not_the_comparison(page: Page, photo: Path) -> None:
    def answer(route: Route) -> None:
        texts = route.fetch().json()
        route.fulfill(json=texts | {"direction": "rtl"})

    page.route("**/languages/en.json", answer)
    page.reload()
    choose(page, photo)
    assert page.evaluate("document.documentElement.dir") == "rtl"
    panel, viewer = page.locator("#panel").bounding_box(), page.locator("#viewer").bounding_box()
    assert panel is not None and viewer is not None
    assert panel["x"] > viewer["x"]
    assert page.locator("#stage").evaluate("(stage) => getComputedStyle(stage).direction") == "ltr"
    wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert not wide
