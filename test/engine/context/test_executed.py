"""The model is told what the robot did, whatever became of the queues; a history has a frame a primitive."""

import itertools
from bisect import bisect_right
from dataclasses import replace

import numpy as np
import pytest
import torch
from conversations import assert_stream_is, conversation, frame, profile, windowed
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.config import StreamConfig, TinyConfig
from vln_ros.datatypes import STOP, Action, Executed, Frame, Instruction, Pose
from vln_ros.engine.checkpoint.model import load_model
from vln_ros.engine.checkpoint.profile import list_profiles, load_profile
from vln_ros.engine.context.base import PrimitiveBank
from vln_ros.engine.context.travelled import TravelledWay
from vln_ros.engine.decision import DecisionLoop, Progress
from vln_ros.engine.decode.reply import spoken
from vln_ros.engine.execution_log import ExecutionLog
from vln_ros.engine.inputs import prompt
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.stream.segments import Image
from vln_ros.engine.tiny import build_tiny
from vln_ros.motion.action_queue import Acceptance, ActionQueue

TICK_NS = 100_000_000
LOST_NS = 10 * TICK_NS
TEXT = "go to the red chair"
ENGINES: dict[object, QwenEngine] = {}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    build_tiny(folder, TinyConfig(hidden=96, layers=2, heads=6, intermediate=128, vision_depth=2))
    return load_model(str(folder), device="cpu", dtype="float32", attention="sdpa", quantisation="none")


def tokens_of(robot):
    return [i for s in robot.session.timeline.segments for i in s.ids if s.grid is None]


def expected_tokens(model, own, turns, frames):
    items = conversation(model, own, TEXT, turns, frames)
    return [i for item in items if isinstance(item, tuple) for i in item]


class Chat:
    """The simple twin: turns, each with its frames and with what the robot did before the next question."""

    def __init__(self, own):
        self.own = own
        self.words = {p.actions: p.text for p in own.vocabulary}
        self.keep = own.context.unasked_frames == "keep"
        self.turns = []  # [frames, what was done or None]
        self.waiting = []
        self.unseen = None
        self.told = 0

    def see(self, shown, stopping):
        """Behind a stop only the newest frame is of interest, and only if something is asked after all."""
        self.unseen = shown if stopping else None
        if not stopping:
            self.waiting = [*self.waiting, shown] if self.keep else [shown]

    def ask(self, known):
        if self.unseen is not None:
            self.see(self.unseen, stopping=False)
        stamp = self.waiting[-1].stamp_ns
        done = [e.action for e in known[self.told :] if e.stamp_ns <= stamp]
        if self.turns and not done:  # nothing came of the last question: it was not asked
            frames = self.turns.pop()[0]
            self.waiting = [*frames, *self.waiting] if self.keep else self.waiting
        elif self.turns:
            self.told += len(done)
            self.turns[-1][1] = self.own.separator.join(self.words[(a,)] for a in done)
        self.turns.append([self.waiting, None])
        self.waiting = []

    def rendered(self):
        turns = [prompt.Turn(images=len(frames), reply=reply) for frames, reply in self.turns]
        return turns, [f for frames, _ in self.turns for f in frames]


class Rig:
    """Loop and engine against the executor's real queue; every tick has a camera frame."""

    def __init__(self, model, own, ahead, counting, seed=0, **options):
        # One engine for many runs, as on a robot: it takes a second to make, and its runs must not mix.
        key = repr((own, sorted(options.items())))
        if key not in ENGINES:
            stream = StreamConfig(max_phrases=3, **options)
            ENGINES[key] = QwenEngine(model, own, temperature=100.0, seed=0, stream=stream)
        self.robot = ENGINES[key]
        self.robot._seed = seed
        self.loop = DecisionLoop(self.robot, "progress", ahead, LOST_NS)
        self.queue, self.counting = ActionQueue(), counting
        self.truth, self.held, self.known = [], [], []
        self.tick = self.counted = 0
        self.queue.offer(self.loop.start(Instruction(1, TEXT)))
        self.chat = Chat(own)
        self.accepted = []
        self.stopping = False

    @property
    def stamp_ns(self):
        return self.tick * TICK_NS

    def report(self):
        state = self.queue.state
        executed = None if self.counting else self.queue.executed
        numbers = state.instruction, state.queue, len(state.remaining), self.stamp_ns
        self.held.append((Progress(*numbers, executed), len(self.truth)))

    def complete(self):
        if self.queue.current is not None:
            self.queue.begin(self.stamp_ns)
            self.truth.append(Executed(self.stamp_ns, self.queue.complete(self.stamp_ns)))
            self.report()

    def flush(self):
        self.queue.flush(self.stamp_ns)
        self.report()

    def pause(self):
        hold = self.loop.pause(True)
        if hold is not None:
            self.queue.offer(hold)
            self.stopping = False
        self.loop.pause(False)
        self.report()

    def deliver(self):
        for progress, count in self.held:
            self.loop.progress(progress)
            self.known = self.truth[:count]
        self.held = []

    def see(self, lose=False):
        self.tick += 1
        shown = replace(frame(self.tick), stamp_ns=self.stamp_ns)
        self.loop.observe(shown)
        self.chat.see(shown, self.stopping)
        if not self.loop.due():
            return None
        chunk = self.loop.decide()
        self.stopping = STOP in chunk.actions
        self.chat.ask(self.known)
        if not lose:
            if self.queue.current is not None:
                self.queue.begin(self.stamp_ns)  # it is under way, and will be finished first
            self.accepted.append(self.queue.offer(chunk))
            self.report()
        return chunk


@pytest.mark.timeout(300)
@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=4, max_size=16),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from(["drop", "keep"]),
    st.booleans(),
    st.integers(0, 80),
)
def test_the_chat_is_that_of_what_happened(model, ticks, ahead, eager, unasked, late, seed):
    """Beside an executor that is there: it reports before the first frame, if only that it stands."""
    own = profile()
    own = replace(own, context=replace(own.context, unasked_frames=unasked))
    rig = Rig(model, own, ahead, counting=False, seed=seed, prefill_on_arrival=eager)
    rig.report()
    rig.deliver()
    for what, deliver in ticks:
        if what in (0, 1, 2, 3):
            rig.complete()
        if what == 1:
            rig.complete()
        if what == 4:
            rig.flush()
        if what == 5:
            rig.pause()
        if deliver or not late:
            rig.deliver()
        stopped = any(e.action.stop for e in rig.truth)
        if stopped:
            break
        if rig.see(lose=what == 6) is not None:
            turns, frames = rig.chat.rendered()
            assert tokens_of(rig.robot) == expected_tokens(model, own, turns, frames)
    if rig.chat.turns and not rig.chat.waiting:
        turns, frames = rig.chat.rendered()
        assert_stream_is(rig.robot, model, conversation(model, own, TEXT, turns, frames))


def test_the_property_meets_every_kind_of_queue(model):
    """Those that are accepted, contradicted, flushed midway: or it would say little."""
    seen = set()
    for seed in range(20):
        rig = Rig(model, profile(), 2, counting=False, seed=seed)
        for tick in range(15):
            rig.deliver()
            rig.see()
            if any(e.action.stop for e in rig.truth):
                break
            rig.complete()
            if tick % 7 == 6:
                rig.flush()
        seen.update(rig.accepted)
    assert {Acceptance.ACCEPTED, Acceptance.CONTRADICTED} <= seen


@pytest.mark.parametrize("counting", [True, False])
@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize(("done", "flushed"), [(3, False), (2, True), (1, True), (0, True)])
def test_a_reply_is_cut_to_what_was_done_of_it(model, counting, eager, done, flushed):
    """Also by an executor that only counts what is left."""
    own = profile("tiny")
    for seed in range(100):
        rig = Rig(model, own, 0, counting, seed=seed, prefill_on_arrival=eager)
        chunk = rig.see()
        if len(chunk.actions) == 3 and STOP not in chunk.actions:
            break
    for _ in range(done):
        rig.complete()
        rig.deliver()
        if len(rig.truth) < 3:
            assert rig.see() is None
    if flushed:
        rig.flush()
    rig.deliver()
    assert rig.see() is not None
    turns, frames = rig.chat.rendered()
    assert len(turns) == (2 if done else 1)
    assert tokens_of(rig.robot) == expected_tokens(model, own, turns, frames)
    assert_stream_is(rig.robot, model, conversation(model, own, TEXT, turns, frames))


def test_a_queue_that_never_arrived_was_not_done(model):
    """Also where nobody has ever reported anything."""
    own = profile("tiny")
    rig = Rig(model, own, 0, counting=False)
    assert rig.see(lose=True) is not None
    while rig.see() is None:
        pass
    assert rig.loop.lost == 1
    assert len(rig.chat.rendered()[0]) == 1
    assert tokens_of(rig.robot) == expected_tokens(model, own, *rig.chat.rendered())


def test_deciding_on_every_frame_is_open_loop_and_keeps_what_was_said(model):
    robot = QwenEngine(model, profile("tiny"), temperature=0.0, seed=0)
    loop = DecisionLoop(robot, "frame", 0, LOST_NS)
    loop.start(Instruction(1, TEXT))
    for index in (0, 1, 2):
        loop.observe(replace(frame(index), stamp_ns=index * TICK_NS))
        loop.progress(Progress(1, 0, 0, index * TICK_NS, ()))
        loop.decide()
    assert len(robot.session.timeline.blocks()) == 2


def test_the_window_is_reset_by_what_was_done_not_by_what_was_said(model):
    own = windowed()
    own = replace(own, context=replace(own.context, reset_steps=3))
    rig = Rig(model, own, 0, counting=False)
    reset = 0
    before = 0
    for _ in range(14):
        rig.deliver()
        asked = rig.see()
        first = rig.robot.session.timeline.blocks()
        if asked is not None and before and not first:
            assert rig.counted >= 3
            reset += 1
            rig.counted = 0
        if asked is not None:
            before = 1
        if any(a.stop for a in rig.queue.state.remaining[:1]):
            break
        rig.complete()
        rig.counted += 1
        rig.flush()  # never more than one of each queue
    assert rig.robot.context._actions < 3
    assert reset or len(rig.truth) < 3


def test_several_robots_keep_their_own_reports_apart(model):
    from vln_ros.engine.batch import decide_together, observe_together

    own = profile("tiny")
    robots = [QwenEngine(model, own, temperature=0.0, seed=0) for _ in range(3)]
    alone = [QwenEngine(model, own, temperature=0.0, seed=0) for _ in range(3)]
    done = [[], [], []]
    for each in (*robots, *alone):
        each.start(Instruction(1, TEXT))
    for index in range(4):
        shown = [replace(frame(10 * k + index), stamp_ns=(index + 1) * TICK_NS) for k in range(3)]
        for group in (robots, alone):
            for k, robot in enumerate(group):
                robot.executed(done[k])
        assert observe_together(robots, shown) == [None] * 3
        chunks = decide_together(robots, [index] * 3)
        for k, robot in enumerate(alone):
            robot.observe(shown[k])
            chunk = robot.decide(index)
            assert chunk.actions == chunks[k].actions
            # Robot 0 does nothing, robot 1 one action, robot 2 all of them.
            part = {0: 0, 1: 1, 2: len(chunk.actions)}[k]
            done[k] = done[k] + [Executed((index + 1) * TICK_NS + 5, a) for a in chunk.actions[:part]]
    assert [tokens_of(r) for r in robots] == [tokens_of(r) for r in alone]
    assert [len(r.session.timeline.blocks()) for r in robots] == [0, 3, 3]


# -- what a vocabulary says ---------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_what_was_done_is_said_in_as_few_words_as_there_are(data):
    own = load_profile(data.draw(st.sampled_from(list_profiles())))
    phrases = own.vocabulary
    moving = [i for i, p in enumerate(phrases) if p.actions != (STOP,)]
    said = tuple(data.draw(st.lists(st.sampled_from(moving), max_size=4)))
    actions = tuple(a for i in said for a in phrases[i].actions)
    cut = data.draw(st.integers(0, len(actions)))
    others = [a for i in data.draw(st.lists(st.sampled_from(moving), max_size=1)) for a in phrases[i].actions]
    done = (*actions[:cut], *others)
    words = spoken(phrases, said, done)
    assert tuple(a for i in words for a in phrases[i].actions) == done
    kept = 0
    for number in range(len(said) + 1):
        prefix = tuple(a for i in said[:number] for a in phrases[i].actions)
        if done[: len(prefix)] == prefix:
            kept = number
    assert words[:kept] == said[:kept]
    rest = done[len([a for i in said[:kept] for a in phrases[i].actions]) :]
    fewest = next(
        n
        for n in range(len(rest) + 1)
        for way in itertools.product(moving, repeat=n)
        if tuple(a for i in way for a in phrases[i].actions) == rest
    )
    assert len(words) == kept + fewest


def test_a_phrase_without_words_for_its_beginning_is_said_from_its_half_on():
    own = load_profile("activevln-r2r")
    coarse = [p for p in own.vocabulary if len(p.actions) == 3]
    f = Action(forward_m=0.25)
    assert spoken(coarse, (0,), (f, f)) == (0,)
    assert spoken(coarse, (0,), (f,)) == ()
    assert spoken(coarse, (0, 0), (f,) * 5) == (0, 0)


# -- the log of what was reported ----------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 2), max_size=30),
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8)), max_size=20),
)
def test_reports_that_overlap_repeat_or_come_late_add_up_to_what_was_done(steps, windows):
    stamps = list(itertools.accumulate(steps))
    truth = [Executed(s, Action(forward_m=0.01 * (i + 1))) for i, s in enumerate(stamps)]
    log, reached = ExecutionLog(), 0
    for end, length in windows:
        end = min(end, len(truth))
        start = max(0, min(end - length, reached))  # none is missed
        while start and start < len(truth) and stamps[start - 1] == stamps[start]:
            start -= 1
        log.hear(Progress(1, 1, 0, 0, tuple(truth[start:end])))
        reached = max(reached, end)
        assert list(log.entries) == truth[:reached]


# -- a frame a primitive -------------------------------------------------------------------------------


def shown(stamp_ns, pose):
    picture = np.zeros((8, 8, 3), np.uint8)
    return Frame(0, stamp_ns, picture, None, replace(frame(0).camera, width=8, height=8), pose, pose)


def kept_by(bank, way, stream):
    for index, one in enumerate(stream):
        bank.show(one, Image(torch.full((1, 1), float(index)), 1, 1))
    return [int(image.features) for image in bank.choose(range(bank.past))]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.booleans())
def test_a_frame_enters_for_each_primitive_that_is_reported(done_per_frame, all_at_once):
    """The first frame behind each; wherever the odometry says that the robot is."""
    stamps, stream = [], []
    for index, count in enumerate(done_per_frame):
        stream.append(shown((index + 1) * 10, Pose.planar(5.0 * index, 0.0, 0.0)))
        stamps += [(index + 1) * 10 - 3] * count
    way = TravelledWay(0.25, 0.26)
    bank = PrimitiveBank(1000, way)
    kept = []
    for index, one in enumerate(stream):
        known = stamps if all_at_once else stamps[: bisect_right(stamps, one.stamp_ns)]
        way.stamps_ns = known
        bank.show(one, Image(torch.full((1, 1), float(index)), 1, 1))
    for index in range(len(stream)):
        if index == 0 or done_per_frame[index]:
            kept.append(index)
    assert [int(i.features) for i in bank.choose(range(bank.past))] == kept
    assert len(bank) in (bank.past, bank.past + 1) and int(bank.choose([len(bank) - 1])[0].features) == index


@settings(max_examples=80, deadline=None)
@given(
    st.floats(2.0, 40.0),
    st.floats(0.1, 0.6),
    st.lists(st.tuples(st.booleans(), st.integers(1, 12)), min_size=1, max_size=6),
)
def test_without_reports_a_frame_enters_for_each_25_cm_and_15_degrees(hz, speed_m_s, legs):
    """Forwards and turns in place at any rate of frames: as many as there were primitives."""
    turn_rad = np.radians(15.0)
    x = yaw = 0.0
    stream = [shown(1, Pose.planar(0.0, 0.0, 0.0))]
    per_frame = min(speed_m_s / 0.25 / hz, 0.45)
    primitives = 0
    for turning, count in legs:
        left = float(count)
        while left > 1e-9:
            part = min(per_frame, left)
            left -= part
            if turning:
                yaw += part * turn_rad
            else:
                x += part * 0.25
            stream.append(shown(len(stream) + 1, Pose.planar(x, 0.0, yaw)))
        primitives += count
    bank = PrimitiveBank(
        1000, TravelledWay.of(a for p in load_profile("navida").vocabulary for a in p.actions)
    )
    kept = kept_by(bank, None, stream)
    assert abs(len(kept) - 1 - primitives) <= 1
    assert kept[0] == 0 and kept == sorted(set(kept))


def test_a_robot_that_stands_fills_no_history_and_keeps_the_one_it_has():
    way = TravelledWay.of(a for p in load_profile("navida").vocabulary for a in p.actions)
    bank = PrimitiveBank(1000, way)
    driving = [shown(i + 1, Pose.planar(0.05 * i, 0.0, 0.0)) for i in range(101)]
    standing = [shown(1000 + i, Pose.planar(5.0, 0.001 * (i % 2), 0.0)) for i in range(300)]
    assert kept_by(bank, way, [*driving, *standing])[:20] == list(range(0, 100, 5))
    assert bank.past in (20, 21)


def test_a_history_in_real_time_reaches_back_to_the_start(model):
    """40 s at 15 Hz and 0.25 m/s, through the loop, as the executor reports it."""
    own = profile("navida")
    robot = QwenEngine(model, own, temperature=0.0, seed=0)
    robot._encoder.encode = lambda rgb: Image(torch.zeros(4, 96), 2, 2)
    loop = DecisionLoop(robot, "progress", 0, LOST_NS)
    loop.start(Instruction(1, TEXT))
    done = []
    for index in range(600):
        stamp_ns = int(index * 1e9 / 15)
        if index and index % 15 == 0:
            done.append(Executed(stamp_ns, Action(forward_m=0.25)))
            loop.progress(Progress(1, 2, 0, stamp_ns, tuple(done[-ActionQueue.HISTORY :])))
        loop.observe(replace(frame(0), stamp_ns=stamp_ns))
    assert robot.context._bank.past == 40  # the start, and 39 primitives
