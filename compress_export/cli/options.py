"""Options of the command line: those that settings make, `--recipe` and `--set`, and those that commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from compress_export.console import output_options, set_output
from compress_export.errors import InputError, nearest
from compress_export.settings import GROUPS, RENAMED, SETTINGS, Setting, said
from exporters.formats import FORMATS, TARGETS

Command = TypeVar("Command", bound=Callable[..., Any])
RUN, FILES, MEASURING = "The run", "Files", GROUPS["bench"]


@dataclass
class Given:
    """The user's settings by dotted name, each of its type, and the recipe that they go before."""

    values: dict[str, object] = field(default_factory=dict)
    recipe: str | None = None

    def add(self, setting: Setting, text: str) -> None:
        if setting.name in self.values:
            raise InputError(f"{setting.option or '--set'} {setting.name} is given twice; pass it once")
        self.values[setting.name] = setting.parse(text)


def given_in(context: click.Context) -> Given:
    """The settings that were given to the command of this context."""
    found: Given = context.meta.setdefault(f"{__name__}.given", Given())
    return found


def find_setting(name: str, sections: Iterable[str], where: str) -> Setting:
    """The setting of that dotted name, found `where`. InputError, with the nearest names, unless it is one of these
    sections."""
    sections = tuple(sections)
    known = [each for each in SETTINGS if each.partition(".")[0] in sections]
    if name in known:
        return SETTINGS[name]
    section, _, own = name.partition(".")
    if own in RENAMED and f"{section}.{RENAMED[own]}" in known:
        raise InputError(f"{where} {name} has another name now: {section}.{RENAMED[own]}; pass that one")
    if name in SETTINGS:
        raise InputError(f"{where} {name}: this command takes settings of {', '.join(sections)} alone; leave it out")
    raise InputError(
        f"{where} {name}: there is no such setting (`compress-export list settings` has all): {nearest(name, known)}"
    )


class GroupedOption(click.Option):
    """An option, and the heading that it stands under in `--help`."""

    def __init__(self, words: tuple[str, ...], group: str = RUN, **rest: Any) -> None:
        super().__init__(words, **rest)
        self.group = group


class GroupedCommand(click.Command):
    """A command that shows its options in groups, and says how one is spelled that is a setting without an option."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(context):
            record = option.get_help_record(context) if isinstance(option, click.Option) else None
            if record is not None:
                groups.setdefault(getattr(option, "group", RUN), []).append(record)
        for title in sorted(groups, key=RUN.__eq__):
            with formatter.section(title):
                formatter.write_dl(groups[title])

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        words = list(args)
        try:
            return super().parse_args(context, args)
        except click.NoSuchOption as error:
            sections: tuple[str, ...] = getattr(self.callback, "sections", ())
            name = error.option_name.removeprefix("--").replace("-", "_")
            name = RENAMED.get(name, name)
            index = next(index for index, word in enumerate(words) if word.partition("=")[0] == error.option_name)
            text = words[index].partition("=")[2] or next(iter(words[index + 1 : index + 2]), "VALUE")
            moved = []
            for setting in reversed(SETTINGS.values()):
                section, _, own = setting.name.partition(".")
                if section in sections and name in (own, f"no_{own}"):
                    moved.append(f"--set {setting.name}={said(name == own) if setting.kind is bool else text}")
            if not moved:
                raise
            raise InputError(f"{error.option_name} is no option but a setting: pass {' or '.join(moved)}") from None


def options(*each: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order in which help shows them."""

    def add(command: Command) -> Command:
        for option in reversed(each):
            command = option(command)
        return command

    return add


def option(*words: str, **rest: Any) -> Callable[[Command], Command]:
    """click.option with a `group`."""
    return click.option(*words, cls=GroupedOption, **rest)


def listed(*words: str, **rest: Any) -> Callable[[Command], Command]:
    """An option of names between commas that may also be given several times: none of them is dropped."""

    def together(_context: click.Context, _option: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name.strip() for text in texts for name in text.split(",") if name.strip())

    return option(*words, multiple=True, callback=together, **rest)


def with_settings(*sections: str, recipe: bool = False, without: tuple[str, ...] = ()) -> Callable[[Command], Command]:
    """The options of these sections' settings, but for those `without` one, and `--set`; `given_in` tells what was
    given."""

    def own(setting: Setting) -> Callable[[Command], Command]:
        def store(context: click.Context, option: click.Parameter, given: str | tuple[str, ...] | None) -> None:
            beneath = context.get_parameter_source(option.name or "") is ParameterSource.ENVIRONMENT
            if given not in (None, ()) and not (beneath and setting.name in given_in(context).values):
                given_in(context).add(setting, given if isinstance(given, str) else ",".join(given or ()))

        plain = setting.default in (None, "default", (), {}) or "[default" in setting.help
        return option(
            setting.option,
            setting.name.replace(".", "_"),
            group=setting.group,
            metavar=setting.metavar,
            multiple=setting.metavar.endswith(",..."),
            envvar="COMPRESS_EXPORT_DEVICE" if setting.name == "bench.device" else None,
            help=setting.help if plain else f"{setting.help}  [default: {said(setting.default)}]",
            callback=store,
            expose_value=False,
        )

    def store_recipe(context: click.Context, _option: click.Parameter, name: str | None) -> None:
        given_in(context).recipe = name

    def store_set(context: click.Context, _option: click.Parameter, texts: tuple[str, ...]) -> None:
        for text in texts:
            name, equals, value = text.partition("=")
            if not equals:
                raise InputError(f"--set takes SECTION.FIELD=VALUE, such as fine_tune.optimizer=sgd, not {text!r}")
            given_in(context).add(find_setting(name.strip(), sections, "--set"), value.strip())

    found = [
        own(each)
        for each in SETTINGS.values()
        if each.option and each.name.partition(".")[0] in sections and each.name not in without
    ]
    if recipe:
        found.append(option("--recipe", group=GROUPS["fine_tune"], metavar="NAME|FILE.toml", expose_value=False,
                            callback=store_recipe, help="A whole system (see list recipes), or your own. Options go "
                            "before it.  [default: default]"))  # fmt: skip
    group = GROUPS["fine_tune" if "fine_tune" in sections else sections[0]]
    found.append(option("--set", "assignments", group=group, metavar="NAME=VALUE", multiple=True,
                        expose_value=False, callback=store_set, help="Any other setting, such as "
                        "fine_tune.optimizer=sgd (see list settings)."))  # fmt: skip

    def add(command: Command) -> Command:
        command.sections = sections  # type: ignore[attr-defined]  # a function may have attributes
        return options(*found)(command)

    return add


def _output(*words: str, field: str, help: str) -> Callable[[Command], Command]:
    """A flag that sets a field of the output options."""

    def store(_context: click.Context, _option: click.Parameter, value: bool) -> None:
        if value:
            set_output(replace(output_options(), **{field: True}))

    return option(*words, is_flag=True, expose_value=False, callback=store, help=help)


QUIET = options(
    _output("-q", "--quiet", field="quiet", help="Print nothing but errors."),
    _output("-v", "--verbose", field="verbose", help="Print progress more often, and where an error arose."),
)
OUTPUT = options(_output("--json", field="as_json", help="Print the result as JSON instead of a table."), QUIET)
"""The options of every command that prints a table."""

FORCE = option("--force", is_flag=True, help="Replace results that were made with other settings.")
RUN_DIRECTORY = options(
    option("--runs", default="runs", metavar="DIR", help="Folder of runs.", show_default=True),
    option("--name", metavar="NAME", help="Name of the run.  [default: NETWORK-TARGET, for plan NETWORK]"),
    FORCE,
)
EXPORT = options(
    option("--target", group=FILES, metavar="NAME", help=f"android (.{' .'.join(TARGETS['android'])}), ios "
           f"(.{' .'.join(TARGETS['ios'])}) or all.  [default: android]"),
    listed("--format", "formats", group=FILES, metavar="NAME,...", help=f"Single formats: {', '.join(FORMATS)}."),
)  # fmt: skip
