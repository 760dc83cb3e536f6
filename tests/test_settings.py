"""Settings: a file that a person edits keeps what they wrote, and an error says where to look."""

from __future__ import annotations

from pathlib import Path

import pytest

from dclocal.settings import Settings, SettingsError, read_settings, write_settings

WRITTEN = """\
# my settings
temperature = 0.50  # warm
from_the_future = [1, 2]
theme = "nord"

[keys]
quit = "ctrl+x"  # as in nano
send = "enter"

[other]
kept = true
"""


def test_no_file_is_the_defaults(own_home: Path) -> None:
    assert read_settings() == Settings()


def test_written_settings_are_read_again(own_home: Path) -> None:
    settings = Settings(0.7, 99, 12, "Be brief.\n\"Now\" 'ß'", "nord", "my-bundle", {"quit": "ctrl+q"})
    write_settings(settings)
    assert read_settings() == settings
    assert [file.name for file in own_home.iterdir()] == ["settings.toml"]
    write_settings(Settings())
    assert read_settings() == Settings()


def test_what_a_person_wrote_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(WRITTEN)
    settings = read_settings(file)
    assert (settings.temperature, settings.keys) == (0.5, {"quit": "ctrl+x", "send": "enter"})
    write_settings(settings, file)
    assert file.read_text() == WRITTEN
    write_settings(Settings(temperature=0.5, max_tokens=7, keys={"quit": "ctrl+x"}), file)
    text = file.read_text()
    for kept in ("# my settings", "temperature = 0.50  # warm", "from_the_future = [1, 2]", "[other]\nkept = true"):
        assert kept in text
    assert "theme" not in text and "send" not in text and '"ctrl+x"  # as in nano' in text
    assert read_settings(file).max_tokens == 7


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("theme = 'a'\ntemperature = 'hot'\n", 2, "number from 0 to 5"),
        ("\n\nmax_tokens = 0\n", 3, "whole number"),
        ("frames = true\n", 1, "whole number"),
        ("theme = 'a'\n[keys]\nquit = 3\n", 2, "table"),
        ("temperature = nan\n", 1, "number"),
        ("theme = 'a'\nsystem = \n", 2, "mend that line"),
        ("theme = 'a'\n\ntheme 'b'\n", 3, "mend that line"),
    ],
)
def test_an_error_names_file_and_line(tmp_path: Path, text: str, line: int, what: str) -> None:
    file = tmp_path / "s.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=what) as raised:
        read_settings(file)
    assert f"{file}, line {line}:" in str(raised.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_bytes(b"theme = 'a'\nsystem = '\xff'\n")
    with pytest.raises(SettingsError, match="line 2: not UTF-8"):
        read_settings(file)


def test_a_damaged_file_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text("theme = \n")
    with pytest.raises(SettingsError):
        write_settings(Settings(theme="nord"), file)
    assert file.read_text() == "theme = \n"


def test_a_link_stays_a_link_and_a_home_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "real.toml").write_text("")
    (tmp_path / "link.toml").symlink_to(tmp_path / "real.toml")
    write_settings(Settings(theme="nord"), tmp_path / "link.toml")
    assert (tmp_path / "link.toml").is_symlink() and "nord" in (tmp_path / "real.toml").read_text()
    with pytest.raises(SettingsError, match="DCLOCAL_HOME"):
        write_settings(Settings(theme="nord"), tmp_path / "real.toml" / "s.toml")
