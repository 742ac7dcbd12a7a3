"""A click group that answers an unknown command with the nearest one."""

from __future__ import annotations

import click

from lorapack.errors import did_you_mean


class Group(click.Group):
    """As :class:`click.Group`, with a hint: use it for commands that have commands."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command of ``args``, or says which one was meant."""
        name, names = args[0], self.list_commands(ctx)
        if name not in names and not name.startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"no command {name!r}: {did_you_mean(name, names)}", ctx)
        return super().resolve_command(ctx, args)
