"""The page in a real browser: its script runs, nothing is complained of, and hostile texts make no element."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess

import pytest
from reports import HOSTILE, Page

from nas.report.page import report_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def opened(page, width, tmp_path):
    """The document after its script ran, and what the browser wrote of it."""
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install chromium")
    path = tmp_path / "page.html"
    path.write_text(page, encoding="utf-8")
    ran = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900",
         "--enable-logging=stderr",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return Page(ran.stdout), ran.stderr


def test_the_page_runs_without_a_complaint(finished, tmp_path):
    page, said = opened(report_page([finished]), 360, tmp_path)
    assert "CONSOLE" not in said
    assert [each for each in page.all("div") if each.get("class") == "tip"]  # its script came to an end
    assert len(page.all("figure")) >= 10


def test_hostile_texts_make_no_element_and_run_nothing(finished, tmp_path):
    reason = dataclasses.replace(finished.reason, classes=(HOSTILE, "<b>b</b>", "c", "d"), notice=HOSTILE)
    hostile = dataclasses.replace(finished, name=HOSTILE, reason=reason)
    page, said = opened(report_page([hostile, finished]), 1600, tmp_path)
    assert "CONSOLE" not in said
    assert len(page.all("script")) == 1
    assert page.all("img") == page.all("b") == []
    assert "onerror=alert(2)" in page.text
