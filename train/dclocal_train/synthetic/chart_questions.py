"""Questions on a chart, with answers that are exactly true of it."""

from __future__ import annotations

from random import Random

from dclocal_train.synthetic.charts import Chart
from dclocal_train.synthetic.english import number

NOUN = {"bar": "bar", "lying": "bar", "line": "point", "pie": "slice"}
KIND_NAMES = {"bar": "bar chart", "lying": "bar chart", "line": "line chart", "pie": "pie chart"}
LARGEST = (
    "Which {} is the largest?",
    "Which {} is the highest?",
    "What is the label of the largest {}?",
    "Which category has the largest value?",
    "Which one is the biggest?",
)
SMALLEST = (
    "Which {} is the smallest?",
    "Which {} is the lowest?",
    "What is the label of the smallest {}?",
    "Which category has the smallest value?",
    "Which one is the least?",
)
VALUE = (
    "What is the value of {}?",
    "How much is {}?",
    "What value does {} have?",
    "what is the number for {}",
    "Read the value of {}.",
)
HOW_MANY = ("How many {}s are there?", "How many {}s does the chart have?", "Count the {}s.")
KIND = (
    "What kind of chart is this?",
    "What type of chart is shown?",
    "What is this?",
    "Which sort of chart do you see?",
)
TITLE = ("What is the title of the chart?", "What is the chart about?", "Read the title.", "What is the title?")
LARGER = ("Is {} larger than {}?", "Is the value of {} higher than that of {}?", "Does {} have more than {}?")
NO_TITLE = "The chart has no title."
Turn = tuple[str, str]


def ask_chart(chart: Chart, random: Random) -> list[Turn]:
    """Six to eight turns, in random order."""
    noun, order = NOUN[chart.kind], sorted(range(len(chart.values)), key=lambda index: chart.values[index])
    first, second = random.sample(range(len(chart.values)), 2)
    turns = [
        (random.choice(LARGEST).format(noun), chart.labels[order[-1]]),
        (random.choice(SMALLEST).format(noun), chart.labels[order[0]]),
        (random.choice(HOW_MANY).format(noun), str(len(chart.values))),
        (random.choice(KIND), f"a {KIND_NAMES[chart.kind]}"),
        (random.choice(TITLE), chart.title or NO_TITLE),
        (
            random.choice(LARGER).format(chart.labels[first], chart.labels[second]),
            "yes" if chart.values[first] > chart.values[second] else "no",
        ),
    ]
    if chart.kind != "pie" or chart.printed:
        for index in random.sample(range(len(chart.values)), 2):
            turns.append((random.choice(VALUE).format(chart.labels[index]), str(chart.values[index])))
    if chart.kind == "line":
        rises = chart.values[-1] > chart.values[0]
        turns.append(("Does the line end higher than it starts?", "yes" if rises else "no"))
    if len(set(chart.colours)) > 1:
        turns.append((f"What color is the {noun} of {chart.labels[first]}?", chart.colours[first]))
    random.shuffle(turns)
    return turns[:8]


def chart_caption(chart: Chart) -> str:
    """ "a bar chart with four bars, titled Sales"."""
    said = f"a {KIND_NAMES[chart.kind]} with {number(len(chart.values))} {NOUN[chart.kind]}s"
    return f"{said}, titled {chart.title}" if chart.title else said
