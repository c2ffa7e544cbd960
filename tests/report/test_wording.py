from __future__ import annotations

import pytest

from goodnet.report.wording import count, in_full, interval, percent, shown_name
from goodnet.results import Rate


@pytest.mark.parametrize(
    ("hits", "n", "text"),
    [
        (953, 1000, "95.3 %"),
        (12830, 12830, "100.0 %"),
        (12829, 12830, ">99.9 %"),
        (1, 12830, "<0.1 %"),
        (0, 12830, "0.0 %"),
        (0, 0, "not measured"),
    ],
)
def test_rounding_never_makes_a_rate_complete(hits: int, n: int, text: str) -> None:
    assert percent(Rate.of(hits, n)) == text


def test_interval_is_rounded_outwards() -> None:
    assert interval(Rate.of(12830, 12830)) == "99.9–100.0"
    assert interval(Rate(0.5, 5, 10, (0.1871, 0.8129))) == "18.7–81.3"
    for tenth in range(1000):  # a bound on a tenth stays there, whatever its binary fraction
        rate = Rate(0.5, 5, 10, (tenth / 1000, tenth / 1000))
        assert interval(rate) == f"{tenth // 10}.{tenth % 10}–{tenth // 10}.{tenth % 10}"
    assert interval(Rate.of(0, 0)) == ""


def test_in_full_carries_count_and_interval() -> None:
    rate = Rate.of(953, 1000)
    assert in_full(rate) == "95.3 % (953 of 1000; 95 % interval 93.7–96.6 %)"
    assert count(rate) == "953/1000"


def test_shown_name_takes_out_what_cannot_be_seen() -> None:
    shown = shown_name("a\x1b[31m\n\u202eb\u200b\ud800c")
    assert shown == "a\ufffd[31m\ufffd\ufffdb\ufffd\ufffdc"
    assert shown_name("") == "(no name)"


def test_shown_name_keeps_both_ends_of_a_long_name() -> None:
    shown = shown_name("a" * 50 + "z" * 50, limit=21)
    assert len(shown) == 21
    assert shown == "a" * 10 + "…" + "z" * 10
