"""`dclocal eval`: a bundle's score on a test."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click


@click.command("eval", epilog="Example: dclocal eval easy-vqa --limit 500 --json")
@click.argument("task", type=click.Choice(["easy-vqa"]))
@click.option("--bundle", "bundle_name", metavar="BUNDLE", help="A bundle's name or folder.  [default: dc-tiny]")
@click.option("--limit", type=click.IntRange(1), help="Ask at most this many questions.")
@click.option("--from", "source_dir", type=click.Path(path_type=Path), help="A folder with the test's wheel.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(task: str, bundle_name: str | None, limit: int | None, source_dir: Path | None, as_json: bool) -> None:
    """Measure a bundle on TASK, quantized as it runs."""
    from dclocal.evaluate import easy_vqa_items, run_task
    from dclocal.progress import for_terminal
    from dclocal.session import open_session
    from dclocal.store import home, open_bundle
    from dclocal.wheels import WHEELS, fetch_wheel

    with for_terminal() as progress:
        bundle = open_bundle(bundle_name, progress)
        wheel = fetch_wheel(WHEELS["easy_vqa"], source_dir, home() / "tests", progress)
        items = easy_vqa_items(wheel, limit)
        session = open_session(bundle)
        started = time.perf_counter()
        score = run_task(task, items, session, progress)
    seconds = time.perf_counter() - started
    if as_json:
        result = {
            "task": task,
            "bundle": bundle.manifest.name,
            "asked": score.asked,
            "right": score.right,
            "accuracy": score.accuracy,
            "by_answer": {kind: {"right": right, "asked": asked} for kind, (right, asked) in score.by_answer.items()},
            "seconds": round(seconds, 1),
            "mistakes": score.mistakes,
        }
        print(json.dumps(result, indent=2))
        return
    print(f"{task}: {score.right} of {score.asked} right, {100 * score.accuracy:.1f} %, in {seconds:.0f} s")
    for kind, (right, asked) in score.by_answer.items():
        print(f"  {kind}: {right} of {asked}, {100 * right / asked:.1f} %")
