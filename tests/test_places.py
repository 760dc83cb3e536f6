"""Where things lie on this machine."""

from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest

from dclocal.places import home


@pytest.mark.parametrize("cache", [None, "", "/var/tmp/caches", "caches"])
def test_everything_lies_where_platformdirs_would_have_it(monkeypatch: pytest.MonkeyPatch, cache: str | None) -> None:
    monkeypatch.delenv("DCLOCAL_HOME", raising=False)
    if cache is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
    assert home() == platformdirs.user_cache_path("dclocal")


def test_the_user_may_have_it_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCLOCAL_HOME", "~/mine")
    assert home() == Path.home() / "mine"
