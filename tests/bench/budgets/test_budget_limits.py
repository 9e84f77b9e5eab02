"""budgets.toml is read as it is written, and every slip is answered with its file, line, key and the keys there are."""

import re

import pytest

from bench.budgets.figures import FIGURES
from bench.budgets.limits import (
    EXAMPLES,
    GROWTHS,
    QUANTITIES,
    UNITS,
    BudgetError,
    Limit,
    Where,
    parse_limit,
    read_budgets,
)


@pytest.mark.parametrize(
    ("key", "text", "wanted"),
    [
        ("size", "8 MB", ("absolute", 8e6, False, 0)),
        ("size", "8MiB", ("absolute", 8 * 2**20, False, 0)),
        ("size", "28,513,576 B", ("absolute", 28_513_576, False, 0)),
        ("size", "1,500.5 kB", ("absolute", 1_500_500, False, 0)),
        ("size", "+2 %", ("growth", 0.02, True, 0)),
        ("size", "+2 % or 4 kB", ("growth", 0.02, True, 4000)),
        ("size", "+4 kB", ("growth", 4000, False, 0)),
        ("size", "+0 %", ("growth", 0, True, 0)),
        ("shipped", "0.2x", ("ratio", 0.2, False, 0)),
        ("parameters", "8.7M", ("absolute", 8.7e6, False, 0)),
        ("macs", "700_000", ("absolute", 7e5, False, 0)),
        ("instructions", "1.5 G", ("absolute", 1.5e9, False, 0)),
        ("latency", "12.5 ms", ("absolute", 12.5, False, 0)),
        ("latency", "900 us", ("absolute", 0.9, False, 0)),
        ("latency", "0.5x", ("ratio", 0.5, False, 0)),
        ("memory", "1 GB", ("absolute", 1e9, False, 0)),
        ("accuracy", "97 %", ("absolute", 97, False, 0)),
        ("accuracy", "-0.5 points", ("growth", 0.5, False, 0)),
        ("accuracy", "0.99x", ("ratio", 0.99, False, 0)),
        ("agreement", "100 %", ("absolute", 100, False, 0)),
        ("agreement", "-1 point", ("growth", 1, False, 0)),
    ],
)
def test_limits(key, text, wanted):
    kind, amount, share, floor = wanted
    found = parse_limit(key, text, 7)
    assert found == Limit(key, text, 7, kind, pytest.approx(amount), share, floor)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("size", "8 Mb", "there is no unit 'Mb'; did you mean MB? (units: B, kB, MB, GB, KiB, MiB, GiB)"),
        ("size", "8", "it has no unit (units: B, kB"),
        ("size", 8_000_000, "size = 8000000 is no limit; size takes \"8 MB\""),
        ("size", "much", "is no limit"),
        ("size", "", "is no limit"),
        ("size", "0 MB", "a limit of 0 lets nothing pass"),
        ("size", "0x", "a limit of 0 lets nothing pass"),
        ("size", "-2 %", "growth begins with +"),
        ("size", "+2 % or 4", "it has no unit"),
        ("size", "+two %", "is no limit"),
        ("size", "1,5 MB", "size = '1,5 MB' is no limit: a comma stands between thousands (28,513,576), a point before "
         "a fraction (1.5); size takes \"8 MB\""),
        *((key, text, "a comma stands between thousands") for key, text in (
            ("size", "0,2x"), ("size", "0,200x"), ("size", "1,MB"), ("size", "1,5005 B"), ("size", "1234,567 B"),
            ("size", "1_000,000 B"), ("size", "+1,5 %"), ("size", "+2 % or 1,5 kB"), ("latency", "12,25 ms"),
            ("accuracy", "97,5 %"), ("accuracy", "-0,5 points"),
        )),
        ("parameters", "8 MB", "there is no unit 'MB'; did you mean M? (units: k, M, G)"),
        ("latency", "12 sec", "there is no unit 'sec'"),
        ("accuracy", "+1 points", "a loss begins with -"),
        ("accuracy", "-1 %", "is no limit; accuracy takes \"97 %\""),
        ("accuracy", "-1 points or 2", "is no limit"),
        ("accuracy", "101 %", "accuracy = '101 %': accuracy is 100 % at most, so nothing passes; accuracy takes"),
        ("agreement", "100.5 %", "agreement is 100 % at most"),
        ("agreement", "0.9x", "it is compared with the module already; agreement takes \"97 %\", or a change"),
    ],
)  # fmt: skip
def test_what_is_no_limit_is_answered_with_what_is(key, value, text):
    with pytest.raises(BudgetError, match=re.escape(text)):
        parse_limit(key, value)


@pytest.mark.parametrize("key", QUANTITIES)
def test_every_example_in_an_error_is_a_limit(key):
    unit = QUANTITIES[key].unit
    for text in [EXAMPLES[unit], *GROWTHS[unit].split(", ")]:
        assert parse_limit(key, text.strip('"')).quantity == key


def test_every_quantity_has_a_figure_and_every_unit_an_example():
    assert set(FIGURES) == set(QUANTITIES)
    assert set(UNITS) == set(EXAMPLES) == set(GROWTHS)


def written(tmp_path, text):
    (tmp_path / "budgets.toml").write_text(text)
    return tmp_path / "budgets.toml"


def test_budgets_know_their_lines(tmp_path):
    found = read_budgets(
        written(
            tmp_path,
            '# one\n[[budget]]\nrun = "runs/a"\n\nsize = ["8 MB",\n  "+2 %"]\n"macs" = "1M"\n\n'
            '[[budget]]\nfiles = "*.pte"\ndevice = "host"\nlatency = "1 ms"\n',
        )
    )
    first, second = found.budgets
    assert (first.pattern, first.is_run, first.where, first.line) == ("runs/a", True, Where(), 2)
    assert [(limit.quantity, limit.text, limit.line) for limit in first.limits] == [
        ("size", "8 MB", 5),
        ("size", "+2 %", 5),
        ("macs", "1M", 7),
    ]
    assert (second.pattern, second.is_run, second.where, second.line) == ("*.pte", False, Where("host"), 9)
    assert second.limits[0].line == 12


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[budget]\n", "is no TOML: .*line 1"),
        ('[[budget]]\nfiles = "a"\nsise = "8 MB"\n', "line 3: there is no key 'sise'; did you mean size\\? \\(keys: "
         "files, run, dtype, device, process, size, shipped, parameters, macs, instructions, latency, memory, "
         "accuracy, agreement, metric\\)"),
        ('[[budget]]\nfiles = "a"\nsize = "8 MB"\n[[budget]]\nfiles = "b"\nlatencee = "8 ms"\n', "line 6: there is no "
         "key 'latencee'; did you mean latency"),
        ('\n[[budgets]]\nfiles = "a"\n', "line 2: there is no key 'budgets'; did you mean budget"),
        ("", r"line 1: it has no \[\[budget\]\]"),
        ("budget = 3", r"line 1: it has no \[\[budget\]\]"),
        ('[budget]\nsize = "8 MB"\n', r"line 1: it has no \[\[budget\]\]"),
        ('[[budget]]\nsize = "8 MB"\n', 'line 1: a budget has either run = "runs/NAME" or files = "GLOB"'),
        ('[[budget]]\nfiles = "a"\nrun = "b"\nsize = "8 MB"\n', "line 1: a budget has either"),
        ('[[budget]]\nfiles = 3\nsize = "8 MB"\n', "line 2: files is a text, not 3"),
        ('[[budget]]\nfiles = ""\nsize = "8 MB"\n', "line 2: files is a text, not ''"),
        ('[[budget]]\nfiles = "a"\ndevice = ["x"]\nsize = "8 MB"\n', "line 3: device is a text"),
        ('[[budget]]\nfiles = "a"\n', "line 1: it limits nothing; add one or more of size, shipped"),
        ('[[budget]]\nfiles = "a"\nmemory = "8 MB"\n', 'line 3: memory is measured on a device, and none is named; add '
         'device = "host"'),
        ('[[budget]]\nfiles = "a"\ndevice = "phone"\nprocess = "browser"\nlatency = "8 ms"\n', "line 4: a phone runs "
         "files inside shell, app, app_process, not inside 'browser'; name one of these"),
        ('[[budget]]\nfiles = "a"\nprocess = "app"\nlatency = "8 ms"\n', "line 3: process = 'app' tells rows of a "
         'phone apart, and the device is not named; add device = "phone" or a phone\'s name, or take process out'),
        ('[[budget]]\nfiles = "a"\ndevice = "host"\nprocess = "app"\nsize = "1 B"\n', "line 4: .* the device is host; "
         "add"),
        ('[[budget]]\nfiles = "a"\ndtype = "int4"\nsize = "1 B"\n', "line 3: there is no number type 'int4'; did you "
         "mean int8\\? \\(number types: float32, float16, int8\\)"),
        ('[[budget]]\nfiles = "a"\ndtype = 8\nsize = "1 B"\n', "line 3: dtype is a text, not 8"),
        ('[[budget]]\nfiles = "a"\nprocess = 3\nsize = "1 B"\n', "line 3: process is a text, not 3"),
        ('[[budget]]\nrun = "a"\n\naccuracy = "101 %"\n', "budgets.toml, line 4: accuracy = '101 %': "
         "accuracy is 100 % at most"),
        ('[[budget]]\nfiles = "a"\nsize = "8 Mb"\n', "budgets.toml, line 3: size = '8 Mb': there is no unit 'Mb'"),
    ],
)  # fmt: skip
def test_a_slip_is_answered_with_its_line(tmp_path, text, said):
    with pytest.raises(BudgetError, match=said):
        read_budgets(written(tmp_path, text))


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(BudgetError, match="there is no such file; `compress-export check --init RUN` writes one"):
        read_budgets(tmp_path / "budgets.toml")
    with pytest.raises(BudgetError, match=r"cannot be read \(Is a directory\); pass a file that can be with --budgets"):
        read_budgets(tmp_path)
    (tmp_path / "budgets.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BudgetError, match=r"budgets.toml is no text .* TOML is UTF-8"):
        read_budgets(tmp_path / "budgets.toml")
