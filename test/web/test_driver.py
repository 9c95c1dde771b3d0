"""Who drives: one at a time, taken over on purpose only, kept over a reload."""

from __future__ import annotations

from vln_ros.web.driver import DriverSeat


def test_the_first_who_wants_drives_and_others_only_by_taking_over() -> None:
    seat = DriverSeat(5.0)
    assert seat.holder == ""
    assert seat.take("a", take_over=False)
    assert seat.take("a", take_over=False), "again is no news"
    assert not seat.take("b", take_over=False)
    assert seat.holder == "a"
    assert seat.take("b", take_over=True)
    assert seat.holder == "b"


def test_only_the_driver_gives_up() -> None:
    seat = DriverSeat(5.0)
    seat.take("a", take_over=False)
    assert not seat.give_up("b")
    assert seat.holder == "a"
    assert seat.give_up("a")
    assert seat.holder == ""
    assert not seat.give_up("")


def test_a_page_that_comes_back_in_time_still_drives() -> None:
    seat = DriverSeat(5.0)
    seat.take("a", take_over=False)
    seat.gone("a", 10.0)
    assert not seat.expire(14.9)
    assert not seat.take("b", take_over=False), "it is only loading again"
    seat.connected("a")
    assert not seat.expire(100.0)
    assert seat.holder == "a"


def test_a_page_that_stays_away_loses_the_seat_once() -> None:
    seat = DriverSeat(5.0)
    seat.take("a", take_over=False)
    seat.gone("a", 10.0)
    assert seat.expire(15.0)
    assert seat.holder == ""
    assert not seat.expire(100.0)
    seat.connected("a")
    assert seat.holder == "", "it has to take it anew"


def test_the_end_of_another_page_means_nothing() -> None:
    seat = DriverSeat(5.0)
    seat.gone("a", 0.0)
    assert not seat.expire(100.0)
    seat.take("a", take_over=False)
    seat.gone("b", 0.0)
    seat.connected("b")
    assert not seat.expire(100.0)
    assert seat.holder == "a"


def test_who_takes_over_from_a_page_that_is_gone_keeps_the_seat() -> None:
    seat = DriverSeat(5.0)
    seat.take("a", take_over=False)
    seat.gone("a", 10.0)
    assert seat.take("b", take_over=True)
    assert not seat.expire(100.0)
    assert seat.holder == "b"
