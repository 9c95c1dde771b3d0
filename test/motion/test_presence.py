"""Two that live at the same time are told from one that was started again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vln_ros.config import ExecutorConfig
from vln_ros.datatypes import Action, ActionChunk, Pose
from vln_ros.motion.executor import Executor, ExecutorState
from vln_ros.motion.presence import ALTERNATION_S, Presence
from vln_ros.motion.safety import Fault

TIMEOUT_S = 0.5
BEAT_S = 0.05


def beats(presence: Presence, *senders: str, begin_s: float = 0.0) -> float:
    """One after the other; when the last one came."""
    now_s = begin_s
    for sender in senders:
        now_s += BEAT_S
        presence.heard(sender, now_s, TIMEOUT_S)
    return now_s


@pytest.mark.parametrize(
    ("senders", "found"),
    [
        ((), ()),
        (("a",) * 9, ()),
        (("a", "a", "b", "b", "b"), ()),  # killed, and started again at once
        (("a", "b", "c", "c"), ()),  # twice
        (("a", "b", "a"), ("a", "b")),
        (("a", "a", "b", "b", "a"), ("a", "b")),
        (("a", "b", "c", "a"), ("a", "b", "c")),
        (("a", "", "a"), ("", "a")),  # who gives no name is somebody, too
    ],
)
def test_who_is_heard_again_after_another_one_is_alive(
    senders: tuple[str, ...], found: tuple[str, ...]
) -> None:
    presence = Presence()
    now_s = beats(presence, *senders)
    assert presence.doubles(now_s, TIMEOUT_S) == found


def test_two_are_one_again_when_one_has_been_silent_for_the_time_out() -> None:
    presence = Presence()
    now_s = beats(presence, "a", "b", "a", "b")
    assert presence.doubles(now_s + TIMEOUT_S - 1.5 * BEAT_S, TIMEOUT_S) == ("a", "b")
    for _ in range(20):
        now_s = beats(presence, "a", begin_s=now_s)
    assert presence.doubles(now_s, TIMEOUT_S) == ()
    now_s = beats(presence, "b", begin_s=now_s)  # it is back, or another one is called so
    assert presence.doubles(now_s, TIMEOUT_S) == ()
    now_s = beats(presence, "a", begin_s=now_s)
    assert presence.doubles(now_s, TIMEOUT_S) == ("a", "b")


class Rig:
    """An executor that lacks nothing, and navigators and executors around it."""

    def __init__(self) -> None:
        config = ExecutorConfig()
        self.executor = Executor(replace(config, safety=replace(config.safety, obstacles="none")))
        self.now_s, self.queue = 100.0, 0
        self.navigators, self.executors = ["a"], ["x"]

    def period(self) -> ExecutorState:
        self.now_s += BEAT_S
        stamp_ns = round(self.now_s * 1e9)
        self.executor.odometry(stamp_ns, Pose.identity(), self.now_s)
        for sender in self.navigators:
            self.executor.heartbeat(stamp_ns, self.now_s, sender)
        for sender in self.executors:
            self.executor.doubles.executor(sender, self.now_s)
        return self.executor.update(self.now_s).state

    def drive(self, epoch: int, instruction: int = 1) -> ExecutorState:
        self.queue += 1
        actions = (Action(forward_m=9.0),)
        self.executor.offer(
            ActionChunk(self.queue, instruction, round(self.now_s * 1e9), actions, epoch=epoch)
        )
        self.period()
        return self.period()


def test_the_executor_stands_beside_a_double_and_says_who_they_are() -> None:
    for fault, members, own in (
        (Fault.TWO_NAVIGATORS, "navigators", "a"), (Fault.TWO_EXECUTORS, "executors", "x"),
    ):  # fmt: skip
        rig = Rig()
        rig.period()
        assert rig.drive(7) is ExecutorState.MOVING
        setattr(rig, members, [own, "left over"])
        states = [rig.period() for _ in range(3)]
        assert states[-1] is ExecutorState.STOPPED
        assert rig.executor.reasons == {fault: " and ".join(sorted([own, "left over"]))}
        assert rig.drive(7) is ExecutorState.STOPPED
        setattr(rig, members, ["left over"])  # it does not matter which of the two ends
        while rig.period() is ExecutorState.STOPPED:
            pass
        assert rig.executor.stops[fault] == 1
        assert rig.drive(7) is ExecutorState.MOVING


def test_a_restarted_navigator_goes_on_at_once() -> None:
    rig = Rig()
    rig.period()
    assert rig.drive(7) is ExecutorState.MOVING
    rig.navigators = ["b"]
    for epoch in (8, 8, 8):
        assert rig.drive(epoch) is ExecutorState.MOVING
    rig.navigators = ["c"]
    assert rig.drive(9) is ExecutorState.MOVING
    assert not any(rig.executor.stops[f] for f in (Fault.TWO_NAVIGATORS, Fault.TWO_EXECUTORS))


def test_queues_of_two_navigators_stop_it_even_where_only_one_heartbeat_is_heard() -> None:
    rig = Rig()
    rig.period()
    assert rig.drive(7) is ExecutorState.MOVING
    assert rig.drive(8) is ExecutorState.MOVING  # a restart looks like this
    assert rig.drive(7) is ExecutorState.STOPPED
    assert rig.executor.reasons == {Fault.TWO_NAVIGATORS: "epoch 7 and epoch 8"}
    stopped_s = rig.now_s
    while rig.period() is ExecutorState.STOPPED:
        pass
    assert rig.now_s - stopped_s == pytest.approx(ALTERNATION_S, abs=3 * BEAT_S)
    assert rig.drive(7) is ExecutorState.MOVING
    assert rig.drive(8) is ExecutorState.MOVING
    assert rig.drive(7) is ExecutorState.STOPPED  # it was not over


def test_a_hold_and_a_sender_without_an_epoch_are_nobodys_double() -> None:
    rig = Rig()
    rig.period()
    for epoch in (7, 0, 7, 0, 7):
        assert rig.drive(epoch) is ExecutorState.MOVING
    rig.executor.offer(ActionChunk(rig.queue, 1, 0, (), epoch=8))  # the last word of one that ends
    rig.period()
    assert rig.drive(7) is ExecutorState.MOVING
