"""The ablation's results as a table in Markdown and as a plot.

`python -m dclocal_train.ablation_report runs/ablation --plot docs/ablation.svg` (the plot needs matplotlib).
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

ORDER = ("baseline", "sti", "sci", "dci")
MEASURES = ("easy", "scenes", "colour", "existence", "place", "size")

Runs = dict[tuple[str, int], list[dict[str, Any]]]


def read_results(folder: Path) -> Runs:
    """Runs by (connector, token grid), in the order of seeds."""
    runs: Runs = defaultdict(list)
    for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        runs[run["connector"], run["grid"]].append(run)
    return {key: sorted(found, key=lambda run: run["seed"]) for key, found in runs.items()}


def spread(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {deviation:.1f}"


def table(runs: Runs, blind: dict[str, float]) -> str:
    """One row a connector and grid: mean ± standard deviation over seeds, in per cent."""
    head = ["connector", "tokens", "seeds", *MEASURES, "loss", "training, s"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    guess = [f"{blind[name]:.1f}" if name in blind else "" for name in MEASURES]
    lines.append("| " + " | ".join(["question alone", "0", "", *guess, "", ""]) + " |")
    for grid in sorted({grid for _, grid in runs}, reverse=True):
        for kind in ORDER:
            found = runs.get((kind, grid), [])
            if found:
                scores = [spread([run[name] for run in found]) for name in MEASURES]
                loss = f"{statistics.mean(run['loss'] for run in found):.3f}"
                seconds = f"{statistics.median(run['train_s'] for run in found):.0f}"
                row = [kind, str(found[0]["tokens"]), str(len(found)), *scores, loss, seconds]
                lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def plot(runs: Runs, blind: dict[str, float], file: Path) -> None:
    """Every run as a dot, its group's mean as a line, the two sets side by side."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), sharex=True)
    for axis, name, title in zip(axes, ("easy", "scenes"), ("easy-VQA", "scenes of several shapes")):
        for offset, grid, colour in ((-0.16, 576, "tab:blue"), (0.16, 144, "tab:orange")):
            for place, kind in enumerate(ORDER):
                values = [run[name] for run in runs.get((kind, grid), [])]
                if values:
                    label = f"{grid} tokens" if place == 0 else None
                    axis.plot([place + offset] * len(values), values, "o", color=colour, alpha=0.6, label=label)
                    mean = statistics.mean(values)
                    axis.plot([place + offset - 0.1, place + offset + 0.1], [mean, mean], color=colour)
        axis.axhline(blind[name], color="gray", linestyle=":", label="question alone")
        axis.set_xticks(range(len(ORDER)), ORDER)
        axis.set_title(title)
        axis.set_ylabel("answers right, %")
    axes[0].legend()
    figure.tight_layout()
    matplotlib.rcParams["svg.hashsalt"] = "dclocal"  # the same results, the same file
    figure.savefig(file, metadata={"Date": None})


@click.command(epilog="Example: python -m dclocal_train.ablation_report runs/ablation --plot docs/ablation.svg")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Draw the runs into this file.")
def main(folder: Path, plot_file: Path | None) -> None:
    """Print the table of an ablation's results."""
    runs = read_results(folder)
    blind = json.loads((folder / "blind.json").read_text(encoding="utf-8"))
    click.echo(table(runs, blind))
    if plot_file is not None:
        plot(runs, blind, plot_file)


if __name__ == "__main__":
    main()
