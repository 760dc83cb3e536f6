"""Drawing pictures: the first one of a widget is seen, however soon it comes."""

from __future__ import annotations

import pytest
from PIL import Image
from textual.app import App, ComposeResult
from textual.containers import Vertical
from textual.widget import Widget
from textual_image.widget import HalfcellImage

from dclocal_tui.previews import draw

RED = Image.new("RGB", (64, 48), "red")


class Place(App[None]):
    """One widget that draws pictures, without one so far."""

    CSS = "Vertical > * { width: auto; height: auto; }"

    def compose(self) -> ComposeResult:
        with Vertical():
            yield draw(HalfcellImage(None), None)

    @property
    def drawn(self) -> Widget:
        return self.query_one(HalfcellImage)

    def lay_out(self) -> None:
        """What a busy machine does: a layout before the widget, which was changed, has been idle."""
        self.drawn.refresh(layout=True)
        self.query_one(Vertical)._clear_arrangement_cache()
        self.screen._refresh_layout()


@pytest.mark.asyncio
async def test_a_first_picture_that_comes_before_the_widget_was_idle() -> None:
    app = Place()
    async with app.run_test(size=(20, 10)) as pilot:
        app.lay_out()
        draw(app.drawn, RED)
        await pilot.pause()
        assert app.drawn.size.area > 0


@pytest.mark.asyncio
async def test_none_takes_the_picture_away_and_another_comes() -> None:
    app = Place()
    async with app.run_test(size=(20, 10)) as pilot:
        for picture in (RED, None, RED):
            draw(app.drawn, picture)
            await pilot.pause()
            assert app.drawn.display == (picture is not None) == (app.drawn in app.screen._compositor.visible_widgets)
            app.lay_out()
