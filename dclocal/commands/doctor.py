"""`dclocal doctor`: what is installed, what is missing and how to get it."""

from __future__ import annotations

import json

import click


@click.command(epilog="Example: dclocal doctor --json")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> int:
    """Say what is installed, what is missing and how to get it; exits 1 where chat cannot run."""
    from dclocal.doctor import examine

    report = examine()
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        for section, facts in report.items():
            if isinstance(facts, dict):
                print(section)
                rows = [_readable(name, value) for name, value in facts.items()]
                width = max((len(name) for name, _ in rows), default=0)
                for name, value in rows:
                    print(f"  {name.ljust(width)}  {value}")
        for problem in report["problems"]:
            print(f"! {problem}")
        print("chat can run" if report["can_chat"] else "chat cannot run")
    return 0 if report["can_chat"] else 1


def _readable(name: str, value: object) -> tuple[str, str]:
    """A fact for people: sizes in GB."""
    if isinstance(value, int) and name.endswith("_bytes"):
        return name.removesuffix("_bytes"), f"{value / 1e9:.1f} GB" if value else "unknown"
    return name, str(value)
