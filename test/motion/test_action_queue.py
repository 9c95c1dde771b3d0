"""The action queue: what is stale, what is skipped, what contradicts, what is left."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.datatypes import STOP, Action, ActionChunk
from vln_ros.motion.action_queue import Acceptance, ActionQueue

F = Action(forward_m=0.25)
L = Action(turn_rad=math.radians(15.0))
R = Action(turn_rad=-math.radians(15.0))


def chunk(queue: int, *actions: Action, instruction: int = 1, stamp: int = 0) -> ActionChunk:
    return ActionChunk(queue, instruction, stamp, actions)


def run(queue: ActionQueue, stamp: int) -> Action:
    queue.begin(stamp - 1)
    return queue.complete(stamp)


def test_executes_in_order_and_reports_what_is_left() -> None:
    queue = ActionQueue()
    assert queue.current is None
    assert (queue.state.instruction, queue.state.queue) == (0, 0)
    assert queue.offer(chunk(3, F, L, STOP)) is Acceptance.ACCEPTED
    assert queue.state.remaining == (F, L, STOP)
    assert [run(queue, s) for s in (1, 2, 3)] == [F, L, STOP]
    state = queue.state
    assert (state.instruction, state.queue, state.remaining) == (1, 3, ())


@pytest.mark.parametrize(
    ("instruction", "number", "expected"),
    [
        (1, 5, Acceptance.STALE),  # doubled by the network
        (1, 4, Acceptance.STALE),
        (0, 9, Acceptance.STALE),  # of the run before, though its number is higher
        (1, 6, Acceptance.ACCEPTED),
        (2, 1, Acceptance.ACCEPTED),
    ],
)
def test_stale_queues_are_dropped_and_counted(instruction: int, number: int, expected: Acceptance) -> None:
    queue = ActionQueue()
    queue.offer(chunk(5, F, F))
    assert queue.offer(chunk(number, L, instruction=instruction)) is expected
    stale = expected is Acceptance.STALE
    assert queue.stale == stale
    assert queue.state.remaining == ((F, F) if stale else (L,))


def test_actions_executed_since_the_frame_are_skipped() -> None:
    queue = ActionQueue()
    queue.offer(chunk(1, F, L, F, stamp=0))
    run(queue, 10)
    run(queue, 20)
    assert queue.offer(chunk(2, L, F, R, stamp=10)) is Acceptance.ACCEPTED  # its frame saw the first
    assert queue.state.remaining == (F, R)


def test_an_action_in_progress_is_finished_and_counts_as_done() -> None:
    queue = ActionQueue()
    queue.offer(chunk(1, F, L))
    queue.begin(5)
    assert queue.offer(chunk(2, F, R, R)) is Acceptance.ACCEPTED
    assert queue.state.remaining == (F, R, R)
    assert queue.complete(6) == F
    # It was not begun anew: the next queue, from a frame after it, is taken as it is.
    assert queue.offer(chunk(3, L, stamp=6)) is Acceptance.ACCEPTED
    state = queue.state
    assert state.remaining == (L,)


def test_a_contradiction_flushes_and_says_that_no_queue_is_executed() -> None:
    queue = ActionQueue()
    queue.offer(chunk(1, F, F))
    run(queue, 10)
    assert queue.offer(chunk(2, L, L, stamp=5)) is Acceptance.CONTRADICTED
    assert queue.contradicted == 1
    assert (queue.state.instruction, queue.state.queue, queue.state.remaining) == (1, 0, ())
    assert queue.offer(chunk(2, F)) is Acceptance.STALE
    assert queue.offer(chunk(3, F, stamp=10)) is Acceptance.ACCEPTED
    assert queue.state.queue == 3


def test_too_short_a_queue_contradicts() -> None:
    queue = ActionQueue()
    queue.offer(chunk(1, F, F))
    run(queue, 10)
    run(queue, 20)
    assert queue.offer(chunk(2, F, stamp=0)) is Acceptance.CONTRADICTED


def test_a_hold_flushes_even_what_is_in_progress() -> None:
    queue = ActionQueue()
    queue.offer(chunk(1, F, F))
    queue.begin(1)
    assert queue.offer(chunk(2)) is Acceptance.ACCEPTED
    assert queue.state.remaining == ()
    assert queue.state.queue == 2


def test_a_new_instruction_owes_nothing_to_the_old_one() -> None:
    queue = ActionQueue()
    queue.offer(chunk(1, F, F))
    run(queue, 10)
    queue.begin(11)
    assert queue.offer(chunk(1, L, instruction=2, stamp=0)) is Acceptance.ACCEPTED
    assert queue.state.remaining == (L,)
    assert run(queue, 20) == L


def test_nothing_of_the_run_moves_after_its_stop() -> None:
    queue = ActionQueue()
    queue.offer(chunk(1, STOP))
    run(queue, 10)
    assert queue.offer(chunk(2, F, stamp=11)) is Acceptance.STALE
    assert queue.offer(chunk(3, F, instruction=2, stamp=11)) is Acceptance.ACCEPTED


def test_a_flush_keeps_the_numbers_and_a_reset_does_not() -> None:
    queue = ActionQueue()
    queue.offer(chunk(4, F))
    queue.flush(10)
    assert queue.current is None
    assert queue.state.queue == 0  # whoever counts on queue 4 must know
    assert queue.offer(chunk(4, F, stamp=11)) is Acceptance.STALE
    queue.reset()
    assert queue.offer(chunk(1, F)) is Acceptance.ACCEPTED


def test_a_queue_that_counts_on_what_was_flushed_contradicts() -> None:
    queue = ActionQueue()
    queue.offer(chunk(4, F, F))
    queue.flush(10)
    assert queue.offer(chunk(5, F, stamp=9)) is Acceptance.CONTRADICTED
    assert queue.offer(chunk(6, F, stamp=10)) is Acceptance.ACCEPTED


def test_a_flush_of_nothing_is_none() -> None:
    queue = ActionQueue()
    queue.offer(chunk(4, F, STOP))
    run(queue, 10)
    run(queue, 11)
    queue.flush(20)
    assert queue.state.queue == 4


def test_a_navigator_that_was_restarted_counts_from_one_again() -> None:
    queue = ActionQueue()
    queue.offer(chunk(7, F, F, instruction=3))
    queue.begin(1)
    again = ActionChunk(1, 1, 2, (L,), epoch=2)
    assert queue.offer(again) is Acceptance.ACCEPTED
    assert (queue.state.instruction, queue.state.queue, queue.state.epoch) == (1, 1, 2)
    assert queue.state.remaining == (L,)
    assert queue.offer(again) is Acceptance.STALE


def test_a_hold_sent_in_haste_has_the_number_of_the_queue_that_it_ends() -> None:
    queue = ActionQueue()
    queue.offer(chunk(4, F, F))
    queue.begin(1)
    assert queue.offer(chunk(4)) is Acceptance.ACCEPTED
    assert queue.current is None
    assert queue.offer(chunk(3)) is Acceptance.STALE


def test_nothing_to_begin_or_complete_is_an_error() -> None:
    with pytest.raises(ValueError, match="no action to begin"):
        ActionQueue().begin(0)
    with pytest.raises(ValueError, match="no action to complete"):
        ActionQueue().complete(0)


class Reference:
    """The same rule, said once more over the whole history of the run instead of a window."""

    def __init__(self) -> None:
        self.numbers, self.begun = (0, 0), False
        self.left: list[Action] = []
        self.done: list[tuple[int, Action]] = []
        self.flushed = 0

    def offer(self, c: ActionChunk) -> Acceptance:
        same = c.instruction == self.numbers[0]
        number = (c.instruction, c.queue)
        old = number < self.numbers or (number == self.numbers and bool(c.actions))
        if old or (same and any(a.stop for _, a in self.done)):
            return Acceptance.STALE
        if not same:
            self.left, self.done, self.begun = [], [], False
        self.numbers = (c.instruction, c.queue)
        under_way = self.left[:1] if self.begun else []
        past = [a for s, a in self.done if s > c.frame_stamp_ns] + under_way
        usable = [*c.actions][: len(past)] == past and c.frame_stamp_ns >= self.flushed
        if not c.actions or not usable:
            self.left, self.begun = [], False
            return Acceptance.ACCEPTED if not c.actions else Acceptance.CONTRADICTED
        self.left = under_way + [*c.actions][len(past) :]
        return Acceptance.ACCEPTED


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.integers(-1, 1), st.integers(-1, 2), st.integers(0, 3),
                st.lists(st.sampled_from((F, L, STOP)), max_size=4),
            ),
            st.sampled_from(("begin", "complete", "flush")),
        ),
        max_size=30,
    )
)  # fmt: skip
def test_equals_the_obvious_bookkeeping(events: list[Any]) -> None:
    queue, reference = ActionQueue(), Reference()
    stale = contradicted = 0
    for now, event in enumerate(events, start=1):
        match event:
            case "begin":
                if queue.current is not None:
                    queue.begin(now)
                    reference.begun = True
            case "complete":
                if queue.current is not None:
                    action = queue.complete(now)
                    assert action == reference.left.pop(0)
                    reference.done.append((now, action))
                    reference.begun = False
            case "flush":
                queue.flush(now)
                reference.flushed = now if reference.left else reference.flushed
                reference.left, reference.begun = [], False
            case (instruction, number, age, actions):
                stopped = next((i + 1 for i, a in enumerate(actions) if a.stop), len(actions))
                known = reference.numbers
                offered = ActionChunk(
                    max(0, known[1] + number),
                    max(0, known[0] + instruction),
                    now - age,
                    (*actions[:stopped],),
                )
                acceptance = reference.offer(offered)
                assert queue.offer(offered) is acceptance
                stale += acceptance is Acceptance.STALE
                contradicted += acceptance is Acceptance.CONTRADICTED
        assert list(queue.state.remaining) == reference.left
        assert (queue.stale, queue.contradicted) == (stale, contradicted)
