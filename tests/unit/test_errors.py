"""Every error is one line and has the exit code of its kind: 2 when the call was wrong, 1 when the data was."""

from __future__ import annotations

import pytest

from wavespike import errors
from wavespike.cli import main as command
from wavespike.errors import MissingDependencyError, WavespikeError, nearest

USAGE = {"UsageError", "ConfigError", "MissingDependencyError"}
ALL = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, WavespikeError)]


@pytest.mark.parametrize("kind", ALL, ids=lambda c: c.__name__)
def test_exit_codes(kind: type[WavespikeError]) -> None:
    assert kind.exit_code == (2 if kind.__name__ in USAGE else 1)
    assert kind.__doc__


def test_a_missing_package_names_the_line_that_installs_it() -> None:
    assert str(MissingDependencyError("A picture", "matplotlib", "view")) == (
        "A picture needs the package 'matplotlib', which is not installed; run: pip install 'wavespike[view]'")


def test_nearest_says_nothing_when_nothing_is_near() -> None:
    assert nearest("vocoss", ["vocos", "griffin-lim"]) == "; did you mean 'vocos'?"
    assert nearest("xyz", ["vocos", "griffin-lim"]) == ""


def test_the_command_line_prints_one_line_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["modles"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "did you mean 'models'?" in err
    assert command.main(["modles", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err
