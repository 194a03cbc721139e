import io

import pytest

from vdu_jax.runtime import terminal


class Terminal(io.StringIO):
    def isatty(self):
        super().isatty()  # raises if it is closed
        return True


@pytest.mark.parametrize(
    ("stream", "variables", "colours"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"TERM": "dumb"}, False),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"NO_COLOR": ""}, True),  # an empty one does not count
        (io.StringIO(), {}, False),
        (io.StringIO(), {"FORCE_COLOR": "1"}, True),
        (io.StringIO(), {"FORCE_COLOR": "1", "TERM": "dumb"}, True),
        (io.StringIO(), {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        (None, {}, False),  # Python's, where the process has no standard error
    ],
)
def test_colours_are_for_terminals_unless_the_environment_says_otherwise(
    monkeypatch, stream, variables, colours
):
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert terminal.has_colours(stream) == colours
    if stream is not None:
        painted = "\x1b[32mdone\x1b[0m" if colours else "done"
        assert terminal.paint("done", "done", stream) == painted


def test_a_closed_stream_has_no_colours():
    stream = Terminal()
    stream.close()
    assert not terminal.has_colours(stream)


def test_the_label_of_a_line_is_painted_and_nothing_else(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert terminal.paint_label("warning: a: b") == "\x1b[33mwarning\x1b[0m: a: b"
    for line in ("train: done", "a warning: b", "warning"):
        assert terminal.paint_label(line).startswith("\x1b") == (line == "warning")
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.paint_label("warning: a: b") == "warning: a: b"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 0 s"),
        (182, "3 min 2 s"), (3599.6, "1 h 0 min"), (7500, "2 h 5 min"), (360_000, "100 h 0 min"),
    ],
)  # fmt: skip
def test_durations(seconds, words):
    assert terminal.duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (12_345, "12 kB"),
        (999_600, "1.0 MB"), (270_914_877, "271 MB"), (3_100_000_000, "3.1 GB"),
        (5e12, "5000 GB"),
    ],
)  # fmt: skip
def test_sizes(count, words):
    assert terminal.size(count) == words
