"""What tests of the leaderboard and of the page start from."""

import pytest

from tests.report.test_report import card, write_tables


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the tables of `original` and `retrain`, where the test works."""
    monkeypatch.chdir(tmp_path)
    write_tables("original", card())
    write_tables("retrain", card())
    return tmp_path
