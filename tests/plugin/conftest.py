"""Fixtures of tests that look at pages."""

import os
from collections.abc import Iterator

import pytest

from tests.browser import Tab, browser


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    try:
        with browser(tmp_path_factory.mktemp("chromium")) as tab:
            yield tab
    except FileNotFoundError as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no browser to look with: {missing}")
