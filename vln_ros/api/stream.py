"""A stream of one robot: it is shown pictures, says what to do, and answers questions."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from numbers import Real
from os import PathLike, fspath
from types import TracebackType
from typing import Concatenate, ParamSpec, TypeVar

from vln_ros.api.inputs import (
    Depth,
    Picture,
    check_camera,
    read_choices,
    read_depth,
    read_instruction,
    read_pose,
    read_rgb,
)
from vln_ros.axes import extrinsics_of
from vln_ros.config import ConfigError, NavigatorConfig, Scalar, from_flat, nearest, walk_options
from vln_ros.datatypes import (
    Action,
    ActionChunk,
    CameraModel,
    Executed,
    Float64Array,
    Frame,
    Instruction,
    Pose,
    apply_action,
)
from vln_ros.engine.checkpoint.profile import Profile, load_profile
from vln_ros.engine.decision import DecisionLoop, Progress
from vln_ros.engines import build_engine, build_loop, free_memory
from vln_ros.protocols import AnswersQuestions
from vln_ros.questions import Question, Spoken

_TAKEN = (
    "qwen.", "place.", "step.", "guards.", "questions.max_question_tokens", "questions.max_answer_tokens",
    "camera_x_m", "camera_y_m", "camera_z_m", "camera_roll_deg", "camera_pitch_down_deg", "camera_yaw_deg",
    "decide_on",
)  # fmt: skip
"""Parameters of the navigator that say something without ROS, by how they begin."""
_BY_ARGUMENT = {"qwen.checkpoint": "checkpoint", "qwen.profile": "profile"}
_MOST_STAMP_S = 9e9
"""In nanoseconds it still fits into 64 bits."""
_PERIOD_NS = 1_000_000_000
"""Between two pictures of which nobody says when they were taken. Only their order counts then."""


def load(
    checkpoint: str | PathLike[str],
    profile: str | PathLike[str],
    instruction: str | None = None,
    *,
    camera: CameraModel | None = None,
    options: Mapping[str, Scalar] | None = None,
) -> Stream:
    """Load a checkpoint and begin a stream. Takes as long as reading the weights does.

    Args:
        checkpoint: folder, hub name (``owner/name``), or ``shipped:tiny``.
        profile: the one that the checkpoint was trained with: name of a shipped one, or path of a YAML file.
        instruction: what to do; None: :meth:`Stream.instruct` says it later.
        camera: intrinsics of the pictures; needed with depth, and by profiles that answer with pixels.
        options: parameters of the navigator by their dotted names, e.g. ``{"qwen.device": "cuda"}``; see
            docs/reference/parameters.md. Those that speak of ROS are refused.

    Raises:
        ConfigError: no such checkpoint, profile, option or device, or the checkpoint cannot be used; the
            message names it and the nearest one that there is.
        ValueError: an instruction as :meth:`Stream.instruct` does not take.
    """
    text = None if instruction is None else read_instruction(instruction)
    values = {"checkpoint": checkpoint, "profile": profile}
    for name, value in values.items():
        if not isinstance(value, str | PathLike):
            raise ConfigError(f"{name} = {value!r}: give a name or a path")
    named = {f"qwen.{name}": str(fspath(value)) for name, value in values.items()}
    config = from_flat(NavigatorConfig, {**_checked(options or {}), **named, "engine": "qwen"})
    if camera is not None:
        check_camera(camera)
    spec = load_profile(config.qwen.profile)
    why = _needs_camera(config, spec)
    if camera is None and why is not None:
        raise ConfigError(
            f"camera is missing: {why}, and where that is takes the camera's intrinsics; give "
            "camera=vln_ros.CameraModel.from_hfov(width, height, hfov_rad)"
        )
    stream = Stream(config, spec, camera)
    if text is not None:
        stream.instruct(text)
    return stream


def _needs_camera(config: NavigatorConfig, profile: Profile) -> str | None:
    """What the intrinsics of the pictures are needed for; None: nothing."""
    if profile.pixel_goal is not None:
        return f"profile {profile.name} answers with pixels"
    if config.qwen.reuse.enabled:
        return "qwen.reuse.enabled goes by what depth shows"
    if config.qwen.stream.prune.strategy != "none":
        return f"qwen.stream.prune.strategy = {config.qwen.stream.prune.strategy!r} goes by what depth shows"
    return None


def taken_options() -> tuple[str, ...]:
    """Names of the navigator's parameters that :func:`load` takes as options."""
    names = (e.name for e in walk_options(NavigatorConfig))
    return tuple(n for n in names if n.startswith(_TAKEN) and n not in _BY_ARGUMENT)


def _checked(options: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
    """Raises ConfigError: an option that says nothing here, or that there is not."""
    if not isinstance(options, Mapping):
        raise ConfigError(f"options = {options!r}: give a mapping of names to values")
    known = taken_options()
    for name in options:
        if name in known:
            continue
        if name in _BY_ARGUMENT:
            raise ConfigError(f"option {name!r}: give it as the argument {_BY_ARGUMENT[name]}")
        if name in {e.name for e in walk_options(NavigatorConfig)}:
            raise ConfigError(f"option {name!r} is of the ROS node and says nothing here: leave it out")
        near = nearest(str(name), known) or nearest(f"qwen.{name}", known)
        meant = (
            f"did you mean {near!r}?" if near else "docs/reference/parameters.md lists those of the navigator"
        )
        raise ConfigError(f"unknown option {name!r}; {meant}")
    return options


_P = ParamSpec("_P")
_R = TypeVar("_R")


def _one_at_a_time(
    method: Callable[Concatenate[Stream, _P], _R],
) -> Callable[Concatenate[Stream, _P], _R]:
    """The method; while another thread is in one of these, a RuntimeError."""

    @wraps(method)
    def alone(stream: Stream, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not stream._lock.acquire(blocking=False):
            raise RuntimeError(
                f"{method.__name__}() while another call of this stream is under way: use a stream "
                "from one thread at a time"
            )
        try:
            return method(stream, *args, **kwargs)
        finally:
            stream._lock.release()

    return alone


class Stream:
    """One robot's stream. Made by :func:`load`; used from one thread.

    It runs what the navigator's node and the evaluation run: the same engine behind the same decision loop.

    Without poses the robot is taken to do what it was told: every picture that follows :meth:`act` shows one
    more action done. Where it may do something else, give poses, or say what was ``executed``.
    """

    def __init__(self, config: NavigatorConfig, profile: Profile, camera: CameraModel | None) -> None:
        self._config, self._profile, self._camera = config, profile, camera
        self._base_from_optical = extrinsics_of(config)
        self._lock = threading.Lock()
        self._loop: DecisionLoop | None = build_loop(build_engine(config), config)
        self._reports = False
        self._runs = itertools.count(1)
        self._begin(None, None)

    def _begin(self, instruction: Instruction | None, hold: ActionChunk | None) -> None:
        self._instruction = instruction
        self._queue = 0 if hold is None else hold.queue
        self._pictures = 0
        self._newest: Frame | None = None
        self._decided: Frame | None = None
        self._pose = Pose.identity()
        self._assumed: list[Action] = []
        self._given: dict[str, bool] = {}
        self._failure: str | None = None

    @property
    def ended(self) -> str | None:
        """Why the run is over: ``"stop"``, a run that got nowhere, an error; None while it goes on."""
        if self._failure is not None:
            return self._failure
        if self._loop is None or self._instruction is None or self._loop.running:
            return None
        return self._loop.ended_by or "stop"

    @_one_at_a_time
    def instruct(self, instruction: str) -> None:
        """Begin a new run. What was seen before is forgotten.

        Raises:
            ValueError: no words, too many, or characters that are none.
        """
        loop = self._open("instruct")
        told = Instruction(next(self._runs), read_instruction(instruction))
        with self._run_ends_on_error():
            self._begin(told, loop.start(told))

    @_one_at_a_time
    def see(
        self,
        rgb: Picture,
        depth: Depth | None = None,
        pose: Pose | Float64Array | None = None,
        *,
        executed: Sequence[Action] | None = None,
        stamp_s: float | None = None,
    ) -> None:
        """Show the next picture. Where the profile keeps pictures, this computes most of the next decision.

        Once the run has ended, nothing is computed for a picture: while a queue that ends in a stop is done,
        the robot may go on showing them.

        Args:
            rgb: ``[H, W, 3]`` uint8, RGB, or a PIL picture of mode RGB. OpenCV gives BGR: ``bgr[..., ::-1]``.
            depth: ``[H, W]`` floating point, metres along the optical axis, registered to ``rgb``; 0 or NaN
                where there is no reading. Needs ``pose`` here and ``camera`` in :func:`load`.
            pose: ``odom_from_base`` when the picture was taken: a :class:`vln_ros.Pose`, or the ``[4, 4]``
                matrix. With every picture of a run, or with none.
            executed: actions that the robot has completed since the picture before; ``()`` for none. Once
                given, with every picture. None: an answer counts as done.
            stamp_s: when it was taken, seconds, increasing. With every picture of a run, or with none.

        Raises:
            RuntimeError: no instruction yet, or an error has ended the run.
            ValueError: the message names the argument, what is wrong with it, and what to give instead.
            EngineError: what the model computed is of no use; the run is over.
        """
        loop = self._following("see")
        frame = self._frame(rgb, depth, pose, stamp_s, self._read_executed(executed))
        with self._run_ends_on_error():
            if self._newest is not None:
                loop.work_ahead()  # nobody asks about the picture before, or has asked
            if executed is not None:
                self._report(loop, frame.stamp_ns, executed)
            loop.observe(frame)
        self._given |= {"pose": pose is not None, "stamp_s": stamp_s is not None}
        if self._reads_reports:
            self._given["executed"] = executed is not None
        self._pose, self._newest = frame.odom_from_base, frame
        self._assumed = self._assumed[1:] if executed is None else []
        self._pictures += 1

    @_one_at_a_time
    def act(self) -> ActionChunk:
        """Decide about the newest picture.

        Returns:
            What to do, in order: ``.actions``, each with ``.forward_m``, ``.turn_rad`` (left positive) and
            ``.stop``. No actions: stand still, and ``.held`` says why. A queue that is not done when this is
            called again is to be dropped.

        Raises:
            RuntimeError: no instruction or no new picture yet, or the run is over.
            EngineError: what the model computed is of no use; the run is over.
        """
        loop = self._following("act")
        if self.ended is not None:
            raise RuntimeError(
                f"act() after the run has ended ({self.ended}): call instruct(text) to begin anew"
            )
        if self._newest is None or self._newest is self._decided:
            before = "any picture" if self._newest is None else "a new picture: the last one is decided about"
            raise RuntimeError(f"act() before {before}; call see(rgb) first")
        with self._run_ends_on_error():
            chunk = loop.decide()
        for action in self._assumed:  # of a queue of which not every action got its picture
            self._pose = apply_action(self._pose, action)
        self._decided, self._queue = self._newest, chunk.queue
        self._assumed = [] if self._reports else list(chunk.actions)
        return chunk

    @_one_at_a_time
    def ask(self, question: str, choices: Sequence[str] = ()) -> Spoken:
        """Ask about what was seen since the instruction; the run goes on as if nobody had asked.

        Args:
            choices: answers to choose among; none: it answers freely.

        Returns:
            ``.text``; with ``choices`` the most probable one, and ``.probabilities`` of all. ``.cut``: it
            would have said more.

        Raises:
            RuntimeError: no instruction or no picture yet.
            QuestionError: no words, one choice only, too long.
            EngineError: what the model computed is of no use.
        """
        loop = self._open("ask")
        if not isinstance(question, str):
            raise ValueError(f"question = {question!r}: give a sentence")
        among = read_choices(choices)
        if self._instruction is None or self._failure is not None or self._newest is None:
            missing = "any picture; call see(rgb)" if self._newest is None else "a run; call instruct(text)"
            if self._instruction is None:
                missing = "any instruction; call instruct(text)"
            raise RuntimeError(f"ask() before {missing} first")
        asked = Question(f"{self._instruction.number}", question, among)
        assert isinstance(loop.engine, AnswersQuestions), "load builds a model"
        limits = self._config.questions
        steps = loop.engine.asking(
            asked,
            self._newest,
            max_question_tokens=limits.max_question_tokens,
            max_answer_tokens=limits.max_answer_tokens,
        )
        while True:
            try:
                next(steps)
            except StopIteration as end:
                spoken: Spoken = end.value
                return spoken

    @_one_at_a_time
    def close(self) -> None:
        """Free the model's memory. Nothing but ``ended`` can be used afterwards."""
        loop, self._loop = self._loop, None
        if loop is not None:
            self._begin(None, None)
            loop.engine.close()
            del loop
            free_memory(self._config)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        qwen = self._config.qwen
        doing = "closed" if self._loop is None else "no instruction yet"
        if self._instruction is not None:
            doing = f"{self._instruction.text!r}, {self._pictures} pictures"
        return f"<Stream of {qwen.checkpoint}, profile {self._profile.name}: {doing}>"

    def _open(self, call: str) -> DecisionLoop:
        if self._loop is None:
            raise RuntimeError(f"{call}() after close(): load the checkpoint again")
        return self._loop

    def _following(self, call: str) -> DecisionLoop:
        loop = self._open(call)
        if self._instruction is None:
            raise RuntimeError(f"{call}() before any instruction: call instruct(text) first")
        if self._failure is not None:
            raise RuntimeError(
                f"{call}() after an error ({self._failure}): call instruct(text) to begin anew"
            )
        return loop

    @contextmanager
    def _run_ends_on_error(self) -> Iterator[None]:
        """As in the navigator: of what an engine that failed holds nothing may move a robot."""
        try:
            yield
        except BaseException as error:
            if self._loop is not None:
                self._loop.cancel()
            self._failure = f"{type(error).__name__}: {error}"
            raise

    @property
    def _reads_reports(self) -> bool:
        """A queue was answered, so that there is something to report."""
        return self._decided is not None

    def _frame(
        self,
        rgb: object,
        depth: object,
        pose: object,
        stamp_s: float | None,
        executed: Sequence[Action] | None,
    ) -> Frame:
        """What the caller gives as a frame. Raises ValueError, and then nothing has changed."""
        for name, value in (("pose", pose), ("stamp_s", stamp_s)):
            self._check_regular(name, value is not None)
        picture = read_rgb(rgb)
        height, width = picture.shape[:2]
        camera = self._camera
        if camera is not None and (camera.height, camera.width) != (height, width):
            raise ValueError(
                f"rgb has {width} x {height} pixels and camera {camera.width} x {camera.height}: give the "
                f"intrinsics of these pictures, e.g. camera.resized({width}, {height})"
            )
        if depth is not None and (camera is None or pose is None):
            missing = "camera in load()" if camera is None else "pose"
            raise ValueError(
                f"depth without {missing}: where its points are is not known; give {missing}, too"
            )
        if pose is None and self._profile.pixel_goal is not None:
            raise ValueError(
                f"pose is missing: profile {self._profile.name} answers with pixels, whose places are in the "
                "odometry frame; give odom_from_base"
            )
        odom_from_base = self._assumed_pose(executed) if pose is None else read_pose(pose)
        return Frame(
            self._pictures,
            self._stamp_ns(stamp_s),
            picture,
            None if depth is None else read_depth(depth, height, width),
            # Without depth and pixel goals nothing is computed from the intrinsics.
            camera or CameraModel(width, height, width, width, (width - 1) / 2, (height - 1) / 2),
            odom_from_base,
            odom_from_base @ self._base_from_optical,
        )

    def _check_regular(self, name: str, is_given: bool) -> None:
        before = self._given.get(name)
        if before is None or before == is_given:
            return
        how = "came with the pictures before and is missing now" if before else "is new in this run"
        raise ValueError(f"{name} {how}: give it with every picture of a run, or with none")

    def _read_executed(self, executed: Sequence[Action] | None) -> Sequence[Action] | None:
        if executed is None:
            if self._reports and self._reads_reports:
                raise ValueError(
                    "executed is missing: it was given before; give it with every picture, () for none"
                )
            return None
        if isinstance(executed, Action) or not isinstance(executed, Sequence):
            raise ValueError(f"executed = {executed!r}: give a list of actions, [action] for a single one")
        for action in executed:
            if not isinstance(action, Action):
                raise ValueError(
                    f"executed holds {action!r}: give the vln_ros.Action objects that act() returned"
                )
        self._check_regular("executed", True)
        if not self._reads_reports and executed:
            raise ValueError(f"executed = {[str(a) for a in executed]}: nothing was to be done before act()")
        return executed

    def _assumed_pose(self, executed: Sequence[Action] | None) -> Pose:
        """Where the base is if it does what it is told."""
        pose = self._pose
        for action in self._assumed[:1] if executed is None else executed:
            pose = apply_action(pose, action)
        return pose

    def _stamp_ns(self, stamp_s: float | None) -> int:
        last_ns = -1 if self._newest is None else self._newest.stamp_ns
        if stamp_s is None:
            if self._profile.context.strategy == "delayed_batch":
                raise ValueError(
                    f"stamp_s is missing: profile {self._profile.name} shows a video, whose rate counts; "
                    "give seconds, increasing"
                )
            return last_ns + _PERIOD_NS
        if not isinstance(stamp_s, Real) or not 0.0 <= stamp_s < _MOST_STAMP_S:
            raise ValueError(
                f"stamp_s = {stamp_s!r}: give seconds as a number, from 0 to {_MOST_STAMP_S:g}; of "
                "nanoseconds give stamp / 1e9"
            )
        stamp_ns = round(stamp_s * 1e9)
        if stamp_ns <= last_ns:
            raise ValueError(
                f"stamp_s = {stamp_s}: not after the picture before ({last_ns / 1e9} s); show pictures in "
                "their order"
            )
        return stamp_ns

    def _report(self, loop: DecisionLoop, stamp_ns: int, executed: Sequence[Action]) -> None:
        """Tell the loop as the executor would."""
        assert self._instruction is not None, "a run was begun"
        self._reports = True
        done = tuple(Executed(stamp_ns, action) for action in executed)
        loop.progress(Progress(self._instruction.number, self._queue, 0, stamp_ns, done))
