"""The latest-wins slot."""

from __future__ import annotations

import threading

from vln_ros.sync.mailbox import LatestMailbox, MailboxCounts


def test_the_newest_wins_and_the_older_are_counted() -> None:
    box: LatestMailbox[int] = LatestMailbox()
    assert box.take(0.0) is None
    for i in range(3):
        assert box.put(i)
    assert box.take(0.0) == 2
    assert box.take(0.0) is None
    assert box.counts == MailboxCounts(received=3, replaced=2, taken=1)


def test_clear_forgets() -> None:
    box: LatestMailbox[int] = LatestMailbox()
    box.put(1)
    box.clear()
    box.clear()
    assert box.take(0.0) is None
    assert box.counts == MailboxCounts(received=1, replaced=1, taken=0)


def test_close_wakes_the_taker_and_stays_closed() -> None:
    box: LatestMailbox[int] = LatestMailbox()
    got: list[int | None] = []
    taker = threading.Thread(target=lambda: got.append(box.take()))
    taker.start()
    box.close()
    taker.join(10)
    assert got == [None]
    assert box.closed
    assert not box.put(1)
    assert box.take() is None
    assert box.counts == MailboxCounts(0, 0, 0)


def test_nothing_is_lost_or_reordered_between_threads() -> None:
    box: LatestMailbox[int] = LatestMailbox()
    total, got = 2000, []

    def take() -> None:
        while (item := box.take(10.0)) is not None:
            got.append(item)
            if item == total - 1:
                return

    taker = threading.Thread(target=take)
    taker.start()
    for i in range(total):
        box.put(i)
    taker.join(30)
    assert got == sorted(set(got))
    assert got[-1] == total - 1
    counts = box.counts
    assert counts.received == total == counts.replaced + counts.taken
    assert counts.taken == len(got)
