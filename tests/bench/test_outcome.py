"""A command says whether it measured all, a part or nothing, and why."""

from __future__ import annotations

import pytest

from outcome import PrintRow, exit_code_of
from realtime_serve.errors import ModelLoadError


@pytest.mark.parametrize("error", [ModelLoadError("damaged"), OSError("damaged")])
@pytest.mark.parametrize(
    ("num_rows", "code", "message"),
    [
        (0, 2, "Nothing measured: damaged\n"),
        (2, 1, "Only the rows above were measured: damaged\n"),
    ],
)
def test_what_hindered_the_measuring_is_told_beside_what_was_measured(
    num_rows: int,
    code: int,
    message: str,
    error: Exception,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def measure(print_row: PrintRow) -> None:
        for _ in range(num_rows):
            print_row("| 1 |")
        raise error

    assert exit_code_of(measure) == code
    printed = capsys.readouterr()
    assert printed.err == message
    assert printed.out == "| 1 |\n" * num_rows


def test_all_that_was_to_be_measured_is_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(lambda print_row: print_row("| 1 |")) == 0
    assert capsys.readouterr() == ("| 1 |\n", "")


def test_a_mistake_of_the_commands_own_is_not_taken_for_a_measurement() -> None:
    def mistake(print_row: PrintRow) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        exit_code_of(mistake)
