"""What drawings are of: their names, which names could be taken for one another, and what is not in a picture."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dclocal_train.synthetic.colours import NAMED
from dclocal_train.synthetic.english import LINKS
from dclocal_train.synthetic.things import Thing

# Of two names with words in one line, it is never asked whether the one is there where the other is: a tiger is a
# cat to some, and a taxi is a car.
_ALIKE = """
bird penguin duck eagle owl parrot flamingo peacock swan goose rooster chicken hen turkey chick dove pigeon crow raven dodo sparrow seagull ostrich toucan phoenix hatching poultry
dog poodle puppy wolf fox hound terrier husky
cat kitten lion tiger leopard jaguar cheetah panther lynx
fish shark blowfish salmon whale dolphin carp tuna seal
bear panda teddy koala polar
monkey gorilla orangutan ape chimpanzee baboon
cow ox bull buffalo bison cattle calf yak
sheep ram goat ewe lamb llama
horse unicorn zebra donkey pony carousel mule
deer moose reindeer elk stag
pig boar piglet hog
mouse rat hamster squirrel chipmunk rodent beaver
rabbit bunny hare
lizard crocodile alligator dragon dinosaur sauropod rex snake
insect bug beetle ladybug ladybird ant bee honeybee fly mosquito cricket cockroach butterfly moth caterpillar
spider web
crab lobster shrimp prawn squid octopus shellfish oyster
turtle tortoise snail shell
tree palm evergreen deciduous christmas tanabata forest wood log
flower rose tulip sunflower blossom hibiscus bouquet lotus hyacinth daisy dahlia rosette lily
plant leaf herb shamrock clover seedling cactus potted sheaf grass fern bamboo
car automobile taxi suv jeep van minibus bus truck lorry ambulance pickup vehicle limousine trolleybus engine utility police coach tractor racing
boat ship sailboat ferry canoe speedboat motorboat yacht liner kayak rowboat submarine
train tram locomotive metro railway monorail streetcar station
airplane aeroplane plane jet aircraft helicopter
bicycle bike motorcycle scooter motorbike moped cyclist wheelchair
house home hut building castle office hospital hotel school bank church mosque temple factory store cottage shop stadium synagogue kaaba shrine museum tower skyscraper city town village cityscape barn
clock watch alarm stopwatch timer timepiece hourglass
phone telephone mobile receiver cellphone smartphone pager fax
computer laptop desktop monitor screen television tv display
book notebook ledger dictionary diary album
cup glass mug beverage drink juice tea coffee teacup goblet cocktail tumbler milk beer tropical straw
bottle champagne wine sake
bread baguette croissant bagel toast bun loaf sandwich burger hamburger flatbread pita taco burrito
cake cupcake shortcake pie pancake dessert birthday muffin tart cookie biscuit doughnut donut
spaghetti ramen noodle pasta bowl soup pot stew curry pan
rice sushi onigiri dango oden
ice cream sundae sorbet
meat steak bacon ham poultry drumstick sausage
hat cap helmet crown
shoe boot sandal sneaker heel slipper flat skate
shirt tshirt blouse dress kimono sari coat jacket robe vest sweater clothes
trousers pants jeans shorts swimsuit bikini briefs
bag handbag purse backpack briefcase clutch pouch luggage suitcase satchel
ball soccer football basketball baseball softball volleyball tennis rugby bowling billiards golf pool beach
knife dagger sword blade axe kitchen
money coin banknote dollar euro yen pound cash
envelope letter mail email mailbox postbox
guitar banjo violin ukulele cello
lamp light bulb flashlight torch candle lantern
star sparkle glowing
moon crescent
sun sunrise sunset
key lock padlock
document page paper clipboard memo scroll newspaper notepad bookmark
box package parcel carton crate
man woman boy girl person people child face baby doctor king queen prince princess mrs mr santa
orange tangerine lemon lime mandarin grapefruit
blueberry strawberry raspberry berry
globe earth world map planet
glasses sunglasses goggles spectacles
pen pencil crayon paintbrush fountain brush
chair sofa couch seat armchair stool
bucket pail basket
umbrella parasol
circle oval ring round
square rectangle diamond frame
chart graph
camera video movie film
volcano mountain hill fuji
potato yam
nut peanut chestnut acorn coconut
hammer pick wrench screwdriver saw tool
drum maracas
trumpet horn saxophone
bell gong
dish plate fork spoon chopsticks utensil
bed couch
""".split("\n")
_GROUPS: dict[str, set[str]] = defaultdict(set)
for _line in filter(None, _ALIKE):
    for _word in _line.split():
        _GROUPS[_word].add(f"#{_line.split()[0]}")
# Parts of other things, and what a background may show: never said to be absent.
_PARTS = frozenset(
    "eye ear nose mouth tongue tooth teeth leg foot arm hand hair face head wheel tail bone rock stone sky cloud shadow "
    "wing feather horn wood leaf line symbol sign button mark object dot paw claw fur skin".split()
)
_LITTLE = frozenset((*LINKS, *NAMED, "the", "a", "an", "small", "large", "big", "little", "grey", "old", "new", "hot"))


@dataclass(frozen=True)
class Concepts:
    """The names of things, each with its drawings; build it with `concepts_of`.

    `words`: what a name shares with names that could be taken for it.  `everyday`: the names most often drawn.
    """

    names: tuple[str, ...]
    things: dict[str, tuple[Thing, ...]]
    categories: dict[str, tuple[str, ...]]
    words: dict[str, frozenset[str]]
    everyday: tuple[str, ...]

    def category(self, name: str) -> str:
        """The name's category, "" where none is known."""
        return self.things[name][0].category if name in self.things else ""

    def alike(self, one: str, other: str) -> bool:
        """Whether people could call the one by the other's name."""
        return not self._words(one).isdisjoint(self._words(other))

    def absent(
        self,
        present: Sequence[str],
        contents: Sequence[str],
        random_source: random.Random,
        *,
        among: Sequence[str] = (),
    ) -> str | None:
        """A name of `among` (default: any) that nothing `present` could be taken for, or None after 40 tries."""
        seen = frozenset[str]().union(*(self._words(name) for name in (*present, *contents)))
        for _ in range(40):
            name = random_source.choice(among or self.names)
            words = self._words(name)
            if words.isdisjoint(seen) and words.isdisjoint(_PARTS):
                return name
        return None

    def _words(self, name: str) -> frozenset[str]:
        return self.words[name] if name in self.words else words_of((name,))


def concepts_of(things: Iterable[Thing]) -> Concepts:
    """The concepts of those drawings, things of one name taken together.  Raises ValueError where there are none."""
    by_name: dict[str, list[Thing]] = defaultdict(list)
    for thing in things:
        by_name[thing.name].append(thing)
    if not by_name:
        raise ValueError("no drawings")
    names = tuple(sorted(by_name))
    aliases = {name: {alias for thing in by_name[name] for alias in thing.names} for name in names}
    frequent = Counter(word for name in names for word in words_of(tuple(aliases[name])))
    broad = {word for word, count in frequent.items() if count > 8 and word not in by_name}  # "fruit", "animal"
    words = {name: words_of((name,)) | (words_of(tuple(aliases[name])) - broad) for name in names}
    categories: dict[str, list[str]] = defaultdict(list)
    for name in names:
        categories[by_name[name][0].category].append(name)
    often = sorted(names, key=lambda name: (-len(by_name[name]), len(name), name))
    return Concepts(
        names,
        {name: tuple(found) for name, found in by_name.items()},
        {category: tuple(members) for category, members in categories.items() if category},
        words,
        tuple(often[:80]),
    )


def words_of(names: tuple[str, ...]) -> frozenset[str]:
    """The words of names that could be mistaken, singular, with a mark for each group of things alike."""
    words = {_single(word) for name in names for word in re.findall(r"[a-z]+", name.lower())} - _LITTLE
    return frozenset(words.union(*(_GROUPS.get(word, set()) for word in words)) if words else names)


def _single(word: str) -> str:
    if len(word) < 4 or word.endswith(("ss", "us", "is")) or not word.endswith("s"):
        return word
    return word[:-3] + "y" if word.endswith("ies") else word[:-1]
