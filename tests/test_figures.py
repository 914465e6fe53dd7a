"""Numbers as people read them."""

import math

import pytest

from dltrain.report.figures import figure, short

SHOWN = {
    16362.44: "16,362.4",
    345678.9: "345,679",
    1234.56: "1,234.6",
    45.12345: "45.1234",
    0.98123: "0.9812",
    1.0: "1.0000",
    0.0123456: "0.0123",
    0.000123456: "0.0001235",
    1.23456e-05: "1.235e-05",
    -16362.44: "-16,362.4",
    1.5e18: "1.5e+18",
    0.0: "0",
    math.inf: "inf",
    10000: "10,000",
    7: "7",
}


@pytest.mark.parametrize(("value", "text"), SHOWN.items())
def test_a_number_has_the_digits_that_tell(value, text):
    assert figure(value) == text


def test_what_is_no_number_stays_as_it_is():
    assert [figure(None), figure("text"), figure(True), figure(math.nan)] == ["–", "text", "True", "nan"]


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (16362.44, 4, "16,362"),
        (45.126, 4, "45.13"),
        (0.05, 4, "0.05"),
        (1.23456e-05, 4, "1.235e-05"),
        (1e18, 4, "1e+18"),
        (0.0012345, 2, "0.0012"),
        (1234.5, 2, "1,234"),
        (-30.44, 3, "-30.4"),
        (0.0, 2, "0"),
        (math.nan, 4, "nan"),
    ],
)
def test_a_number_in_a_line_has_so_many_digits(value, digits, text):
    assert short(value, digits) == text
