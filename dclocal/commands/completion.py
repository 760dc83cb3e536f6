"""`dclocal completion`: the script that makes a shell complete commands, options and paths."""

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of SHELL.

    Example: dclocal completion bash >> ~/.bashrc
    """
    from click.shell_completion import get_completion_class

    from dclocal.cli import cli

    maker = get_completion_class(shell)
    assert maker is not None  # the choices above are click's own
    click.echo(maker(cli, {}, "dclocal", "_DCLOCAL_COMPLETE").source())
