"""``cyclades completion``."""

import click

from cyclades.pipeline.commands.terminal import examples

VARIABLE = "_CYCLADES_COMPLETE"


@click.command(
    epilog=examples(
        "cyclades completion bash >> ~/.bashrc",
        "cyclades completion zsh >> ~/.zshrc",
        "cyclades completion fish > ~/.config/fish/completions/cyclades.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the lines that make SHELL complete commands, options and names of cyclades.

    Append them to the file that the shell reads when it starts, and start a new one.
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    # the script of the class itself: `source` would first start a shell to ask for its version
    made = kind(context.find_root().command, {}, "cyclades", VARIABLE)
    click.echo(made.source_template % made.source_vars())
