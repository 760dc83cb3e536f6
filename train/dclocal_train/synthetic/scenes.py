"""Scenes composed of drawings and shapes, with the exact truth of where everything is.

`draw_scene` makes one: a kind of scene picks what to draw and where (`scene_kinds`), a background that sets it
off is found, and the finished picture is a little worn, as photographs and downloads are.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from dclocal_train.synthetic import scene_kinds
from dclocal_train.synthetic.backgrounds import CANVAS, Background, Photo, draw_background
from dclocal_train.synthetic.concepts import Concepts
from dclocal_train.synthetic.scene_kinds import Plan, Spot
from dclocal_train.synthetic.sprites import Sprite, contrast, draw_sprite, names_a_colour, visible_box
from dclocal_train.synthetic.things import Thing

Box = tuple[int, int, int, int]
SMALL, LARGE = 78, 128  # the longer side in pixels: at most, at least
WANTED_CONTRAST = {True: 55.0, False: 95.0}  # of a thing, of a shape
KINDS: dict[str, tuple[int, Callable[[Concepts, random.Random], Plan]]] = {
    "single": (34, scene_kinds.single),
    "pair": (14, scene_kinds.pair),
    "many": (14, scene_kinds.many),
    "counting": (14, scene_kinds.counting),
    "shapes": (9, scene_kinds.shapes),
    "mixed": (3, scene_kinds.mixed),
    "containment": (4, scene_kinds.containment),
    "twins": (5, scene_kinds.twins),
    "sizes": (3, scene_kinds.sizes),
}


@dataclass(frozen=True)
class Placed:
    """One object of a scene: a drawing, or a geometric shape where `thing` is None.

    `box`: (x0, y0, x1, y1) in pixels, the last column and row excluded, tight around what is seen.  `size` is told
    where it is beyond dispute, `colour` where one hue clearly dominates.
    """

    thing: Thing | None
    name: str
    box: Box
    size: str | None
    colour: str | None


@dataclass(frozen=True)
class Scene:
    """A picture, RGB of CANVAS² pixels, and what is in it, in the order in which it was drawn.

    `inside`: pairs of indices into `objects`, the first lies within the second.  `monochrome`: its colours were
    taken out or changed, and nothing may be asked about them.
    """

    image: Image.Image
    background: Background
    objects: tuple[Placed, ...]
    kind: str
    inside: tuple[tuple[int, int], ...] = ()
    monochrome: bool = False


def draw_scene(
    drawn: Concepts, random_source: random.Random, photos: Sequence[Photo] = (), kinds: Sequence[str] = tuple(KINDS)
) -> Scene:
    """A scene of one of `kinds`, as often as KINDS weighs them, of `drawn`'s drawings; worn.

    The same state of `random_source` gives the same bytes.  Raises KeyError for an unknown kind.
    """
    kind = random_source.choices(kinds, [KINDS[kind][0] for kind in kinds])[0]
    return worn(compose(KINDS[kind][1](drawn, random_source), kind, random_source, photos), random_source)


def compose(plan: Plan, kind: str, random_source: random.Random, photos: Sequence[Photo] = ()) -> Scene:
    """The plan's objects on a background that sets them off."""
    sprites = [draw_sprite(spot.wanted, spot.side, random_source) for spot in plan.spots]
    background = _fitting_background(plan, sprites, random_source, photos)
    image = background.image.copy()
    objects = []
    for spot, sprite in zip(plan.spots, sprites):
        x, y = _corner(spot, sprite)
        image.paste(sprite.picture, (x, y), sprite.picture)
        objects.append(_placed(sprite, x, y))
    return Scene(image, background, tuple(objects), kind, plan.inside)


def worn(scene: Scene, random_source: random.Random) -> Scene:
    """Slightly brighter or darker, blurred, noisy, compressed, sometimes without colour; mostly little of it."""
    image, monochrome = scene.image, False
    if random_source.random() < 0.05 and not _needs_colour(scene):
        monochrome = True
        grey = image.convert("L")
        tint = random_source.choice(((255, 255, 255), (255, 255, 255), (255, 240, 205), (215, 230, 255)))
        image = ImageOps.colorize(grey, (0, 0, 0), tint)
    if random_source.random() < 0.4:
        image = ImageEnhance.Brightness(image).enhance(random_source.uniform(0.88, 1.12))
        image = ImageEnhance.Contrast(image).enhance(random_source.uniform(0.88, 1.12))
    if random_source.random() < 0.12:
        image = image.filter(ImageFilter.GaussianBlur(random_source.uniform(0.5, 1.1)))
    if random_source.random() < 0.12:
        image = _noisy(image, random_source)
    if random_source.random() < 0.25:
        image = _compressed(image, random_source.randint(35, 85))
    if not monochrome:
        return replace(scene, image=image)
    objects = tuple(replace(placed, colour=None) for placed in scene.objects)
    return Scene(image, replace(scene.background, colour=None), objects, scene.kind, scene.inside, True)


def _fitting_background(
    plan: Plan, sprites: Sequence[Sprite], random_source: random.Random, photos: Sequence[Photo]
) -> Background:
    """The first of ten backgrounds on which every object stands out, else the best of them.

    What lies inside another object stands on that.  A photograph goes with one or two drawings alone: of more,
    one could not tell what is counted.
    """
    inner = {index for index, _ in plan.inside}
    outer = [sprite for index, sprite in enumerate(sprites) if index not in inner or plan.hollow]
    allowed = photos if len(sprites) <= 2 and all(sprite.wanted.thing for sprite in sprites) else ()
    best, best_margin = draw_background(random_source, allowed), float("-inf")
    for attempt in range(10):
        background = best if attempt == 0 else draw_background(random_source, allowed)
        margin = min(
            contrast(sprite, background.image) - WANTED_CONTRAST[sprite.wanted.thing is not None] for sprite in outer
        )
        if any(word in sprite.wanted.name for word in background.contents for sprite in sprites):
            margin = -1000
        if margin > best_margin:
            best, best_margin = background, margin
        if best_margin >= 0:
            break
    return best


def _corner(spot: Spot, sprite: Sprite) -> tuple[int, int]:
    """Where to paste the sprite so that it is centred on its spot and within the canvas."""
    width, height = sprite.picture.size
    x, y = round(spot.x - width / 2), round(spot.y - height / 2)
    return min(max(0, x), CANVAS - width), min(max(0, y), CANVAS - height)


def _placed(sprite: Sprite, x: int, y: int) -> Placed:
    x0, y0, x1, y1 = visible_box(sprite.picture) or (0, 0, *sprite.picture.size)
    longer = max(x1 - x0, y1 - y0)
    size = "small" if longer <= SMALL else "large" if longer >= LARGE else None
    box = (x + x0, y + y0, x + x1, y + y1)
    return Placed(sprite.wanted.thing, sprite.wanted.name, box, size, sprite.colour)


def _needs_colour(scene: Scene) -> bool:
    """Whether a name or a shape is told by its colour."""
    return any(placed.thing is None or names_a_colour(placed.name) for placed in scene.objects)


def _noisy(image: Image.Image, random_source: random.Random) -> Image.Image:
    strength = random_source.uniform(4, 14)
    grain = np.frombuffer(random_source.randbytes(image.width * image.height), np.uint8)
    noise = (grain.reshape(image.height, image.width, 1) / np.float32(127.5) - 1) * np.float32(strength)
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def _compressed(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as read:
        return read.convert("RGB")
