"""medzip completion: scripts that complete medzip's commands and options in a shell, made from the parser itself."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medzip.cli.common import Commands, Console, Parser, add_command

_DESCRIPTION = "Print a script that completes medzip's commands, options, presets and file names in your shell."


@dataclass(frozen=True)
class Argument:
    """An option (`flags` not empty) or positional argument. `choices` empty and `takes_value`: a file name or any text."""

    flags: tuple[str, ...]
    takes_value: bool
    choices: tuple[str, ...]
    is_path: bool
    help: str


@dataclass(frozen=True)
class Command:
    name: str
    summary: str
    arguments: tuple[Argument, ...]

    @property
    def options(self) -> list[Argument]:
        return [argument for argument in self.arguments if argument.flags]

    @property
    def positionals(self) -> list[Argument]:
        return [argument for argument in self.arguments if not argument.flags]


def register(commands: Commands[Parser]) -> None:
    parser = add_command(
        commands,
        "completion",
        run,
        summary="print a completion script for a shell",
        description=_DESCRIPTION,
        examples=(
            'bash: eval "$(medzip completion bash)"            in ~/.bashrc',
            "zsh:  medzip completion zsh > ~/.zfunc/_medzip    with fpath+=~/.zfunc before compinit in ~/.zshrc",
            "fish: medzip completion fish > ~/.config/fish/completions/medzip.fish",
        ),
    )
    parser.add_argument("shell", choices=list(_SCRIPTS), metavar="SHELL", help="bash, zsh or fish")


def run(arguments: argparse.Namespace, console: Console) -> int:
    from medzip.cli import build_parser

    script = _SCRIPTS[arguments.shell](describe(build_parser()))
    console.answer({"shell": arguments.shell, "script": script}, script)
    return 0


def describe(parser: Parser) -> list[Command]:
    """The commands of a parser with all that a shell may complete."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    summaries = {choice.dest: choice.help or "" for choice in commands._choices_actions}
    return [
        Command(name, summaries[name], tuple(_argument(action) for action in command._actions))
        for name, command in commands.choices.items()
    ]


def _argument(action: argparse.Action) -> Argument:
    choices = tuple(str(choice) for choice in action.choices or ())
    summary = re.split(r"[;(]", (action.help or "").replace("%%", "%"))[0].strip()
    return Argument(tuple(action.option_strings), action.nargs != 0, choices, action.type is Path, summary)


def bash(commands: Sequence[Command]) -> str:
    """A bash script; where no words are offered, bash falls back to file names."""
    names = " ".join(command.name for command in commands)
    cases = []
    for command in commands:
        for option in command.options:
            if option.takes_value:
                pattern = "|".join(f'"{command.name} {flag}"' for flag in option.flags)
                cases.append(f'        {pattern}) words="{" ".join(option.choices)}" ;;')
        flags = " ".join(flag for option in command.options for flag in option.flags)
        choices = " ".join(choice for positional in command.positionals for choice in positional.choices)
        cases.append(f'        "{command.name} "*) words="{choices}"; [[ $word == -* ]] && words="{flags}" ;;')
    return "\n".join(
        [
            "_medzip() {",
            '    local word="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" words=""',
            '    case "${COMP_WORDS[1]} $previous" in',
            *cases,
            "    esac",
            f'    [[ $COMP_CWORD -eq 1 ]] && words="{names} --help --version"',
            '    COMPREPLY=($(compgen -W "$words" -- "$word"))',
            "}",
            "complete -o default -F _medzip medzip",
        ]
    )


def zsh(commands: Sequence[Command]) -> str:
    """A zsh script, for a folder of $fpath or to be sourced."""
    names = [shlex.quote(f"{command.name}:{command.summary}") for command in commands]
    cases = []
    for command in commands:
        specifications = [_zsh_option(option, flag) for option in command.options for flag in option.flags]
        specifications += [f"*:{argument.help}:{_zsh_values(argument)}" for argument in command.positionals]
        cases += [f"        {command.name}) _arguments \\"]
        cases += [f"            {shlex.quote(specification)} \\" for specification in specifications]
        cases += ["            ;;"]
    return "\n".join(
        [
            "#compdef medzip",
            "_medzip() {",
            "    local -a commands=(",
            *(f"        {name}" for name in names),
            "    )",
            "    if (( CURRENT == 2 )); then",
            "        _describe command commands",
            "        return",
            "    fi",
            "    shift words",
            "    (( CURRENT-- ))",
            "    case $words[1] in",
            *cases,
            "    esac",
            "}",
            'if [[ $funcstack[1] == _medzip ]]; then _medzip "$@"; else compdef _medzip medzip; fi',
        ]
    )


def _zsh_option(option: Argument, flag: str) -> str:
    summary = re.sub(r"([\[\]:\\])", r"\\\1", option.help)
    return f"{flag}[{summary}]" + (f":value:{_zsh_values(option)}" if option.takes_value else "")


def _zsh_values(argument: Argument) -> str:
    if argument.choices:
        return f"({' '.join(argument.choices)})"
    return "_files" if argument.is_path else " "


def fish(commands: Sequence[Command]) -> str:
    """A fish script, for fish's folder of completions or to be sourced."""
    lines = []
    for command in commands:
        lines.append(f"complete -c medzip -n __fish_use_subcommand -f -a {command.name} -d {shlex.quote(command.summary)}")
        condition = f"complete -c medzip -n '__fish_seen_subcommand_from {command.name}'"
        for option in command.options:
            flags = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags)
            values = _fish_values(option) if option.takes_value else ""
            lines.append(f"{condition} {flags}{values} -d {shlex.quote(option.help)}")
        lines += [f"{condition} -f -a '{' '.join(argument.choices)}'" for argument in command.positionals if argument.choices]
    return "\n".join(lines)


def _fish_values(option: Argument) -> str:
    if option.choices:
        return f" -x -a '{' '.join(option.choices)}'"
    return " -r" if option.is_path else " -x"


_SCRIPTS = {"bash": bash, "zsh": zsh, "fish": fish}
