"""Subscribes to camera and odometry, joins and decodes them, counts what is refused."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from nav_msgs.msg import Odometry
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vln_ros.config import NavigatorConfig, SyncConfig
from vln_ros.datatypes import Frame, Pose
from vln_ros.geometry.frame_checks import depth_unit_suspicion
from vln_ros.nodes.navigator.cameras import CameraPair, ImageMsg, RawFrame, frame_of
from vln_ros.profiling.spans import Waits, waited
from vln_ros.protocols import Engine, LooksDown
from vln_ros.ros import convert, qos
from vln_ros.ros.extrinsics import ExtrinsicsSources
from vln_ros.ros.odometry import BaseOdometry, hear_odometry
from vln_ros.sync.aligner import Aligned, Aligner, SyncCounts

COLOR_TOPIC = NavigatorConfig.color_topic
DEPTH_TOPIC = NavigatorConfig.depth_topic
INFO_TOPIC = NavigatorConfig.camera_info_topic


def look_down_input(
    node: Node, config: NavigatorConfig, engine: Engine, deliver: Callable[[RawFrame], None]
) -> SensorInput | None:
    """The second camera, which looks down; None where the engine wants no such picture."""
    if not (isinstance(engine, LooksDown) and engine.wants_look_down):
        return None
    o = config.qwen.look_down
    second = replace(
        config,
        color_topic=o.color_topic,
        depth_topic=o.depth_topic,
        camera_info_topic=o.camera_info_topic,
        camera_pitch_down_deg=o.pitch_down_deg,
    )
    return SensorInput(node, second, deliver)


class SensorInput:
    """Subscribes a node to its camera and odometry, and hands on complete observations.

    Callbacks only look at headers; images are decoded by :meth:`decode`, in another thread.

    Args:
        node: gets the subscriptions.
        config: topics' quality of service, transport, extrinsics and alignment.
        deliver: receives each complete observation, in the thread of the callbacks.
        moved: the same of each pose of the base, with its stamp; None: nobody asks.
    """

    def __init__(
        self,
        node: Node,
        config: NavigatorConfig,
        deliver: Callable[[RawFrame], None],
        moved: Callable[[Pose, int], None] | None = None,
    ) -> None:
        self._node = node
        self._deliver, self._moved = deliver, moved
        self._aligner: Aligner[ImageMsg, ImageMsg] = Aligner(config.sync, config.base_frame)
        self._base_frame = config.base_frame
        sources = ExtrinsicsSources(node, config)
        self._cameras = CameraPair(config, sources.camera(), sources.depth_camera())
        self._odometry = BaseOdometry(config, "", sources.odometry_tf())  # the aligner asks for odom_frame
        # camera_info and transform may arrive just after the image.
        self._incomplete: deque[Aligned[ImageMsg, ImageMsg]] = deque(maxlen=8)
        self._sync_wait = Waits("sync wait")
        self.newest_ns = 0
        """Stamp of the newest complete frame."""
        self.refused: Counter[str] = Counter()
        """How often what was wrong, by the reasons of :class:`vln_ros.ros.convert.MessageError`."""

        color_type, color = Image, config.color_topic
        if config.color_transport == "compressed":
            color_type, color = CompressedImage, f"{color}/compressed"
        depth_type, depth = Image, config.depth_topic
        if config.depth_transport == "compressed":
            depth_type, depth = CompressedImage, f"{depth}/compressedDepth"
        cameras = self._cameras
        heard: list[tuple[type, str, Callable[..., None]]] = [
            (color_type, color, self._on_color),
            (depth_type, depth, self._on_depth),
            (CameraInfo, config.camera_info_topic, partial(self._on_camera_info, cameras.take_color_info)),
            (CameraInfo, config.depth_camera_info_topic, partial(self._on_camera_info, cameras.depth.take)),
        ]
        for type_, topic, take in heard:
            if topic:
                sensor = qos.sensor(config.reliability, config.image_depth)
                node.create_subscription(type_, topic, take, sensor, qos_overriding_options=qos.OVERRIDABLE)
        hear_odometry(node, self._on_odometry, self._odometry, config.sync.odom_frame, 100)

    @property
    def counts(self) -> SyncCounts:
        return self._aligner.counts

    def tune(self, config: SyncConfig) -> None:
        """Only live options may have changed."""
        self._aligner.tune(config)

    def begin_anew(self) -> None:
        """A new instruction: see :meth:`vln_ros.sync.aligner.Aligner.begin_anew`."""
        self._aligner.begin_anew()

    def refuse(self, error: convert.MessageError) -> None:
        """Count and report a message that cannot be used."""
        self.refused[error.reason] += 1
        self._node.get_logger().warning(str(error), throttle_duration_sec=2.0)

    def _on_color(self, msg: ImageMsg) -> None:
        def add() -> list[Aligned[ImageMsg, ImageMsg]]:
            stamp_ns = convert.stamp_ns_from_time(msg.header.stamp)
            self._sync_wait.begin(stamp_ns)
            return self._aligner.add_color(stamp_ns, msg)

        self._take(add)

    def _on_depth(self, msg: ImageMsg) -> None:
        self._take(lambda: self._aligner.add_depth(convert.stamp_ns_from_time(msg.header.stamp), msg))

    def _on_odometry(self, msg: Odometry) -> None:
        def add() -> list[Aligned[ImageMsg, ImageMsg]]:
            try:
                pose = self._odometry.base_pose(msg)
            except convert.MessageError:
                self._aligner.reject_odometry()
                raise
            stamp_ns = convert.stamp_ns_from_time(msg.header.stamp)
            if self._moved is not None:
                self._moved(pose, stamp_ns)
            return self._aligner.add_odometry(stamp_ns, pose, msg.header.frame_id)

        self._take(add)

    def _take(self, add: Callable[[], list[Aligned[ImageMsg, ImageMsg]]]) -> None:
        try:
            complete = add()
        except convert.MessageError as error:
            self.refuse(error)
            return
        for aligned in complete:
            self._sync_wait.end(aligned.stamp_ns)
            if len(self._incomplete) == self._incomplete.maxlen:
                self.refuse(self._missing(self._incomplete[0]))
            self._incomplete.append(aligned)
        self._deliver_complete()

    def _missing(self, aligned: Aligned[ImageMsg, ImageMsg]) -> convert.MessageError:
        if (missing := self._cameras.missing(aligned.depth is not None)) is not None:
            return missing
        frames = {i.header.frame_id for i in (aligned.color, aligned.depth) if i is not None}
        named = f"{self._base_frame} to {' or '.join(sorted(frames))}"
        return convert.MessageError("no_transform", f"no transform from {named} at an image's stamp on /tf")

    def _deliver_complete(self) -> None:
        """In order: nothing overtakes a frame that still waits."""
        while self._incomplete:
            aligned = self._incomplete[0]
            try:
                raw = self._cameras.raw_frame(aligned)
            except convert.MessageError as error:
                self.refuse(error)
            else:
                if raw is None:
                    return
                self.newest_ns = aligned.stamp_ns
                self._deliver(raw)
            self._incomplete.popleft()

    def _on_camera_info(
        self, take: Callable[[CameraInfo], list[convert.MessageError]], msg: CameraInfo
    ) -> None:
        try:
            for suspicion in take(msg):
                self.refuse(suspicion)
        except convert.MessageError as error:
            self.refuse(error)
            return
        self._deliver_complete()

    def decode(self, raw: RawFrame, index: int) -> Frame:
        """As :func:`frame_of`, counting what looks wrong. Safe in another thread than the callbacks'."""
        waited("mailbox wait", round(raw.arrived_s * 1e9))
        frame = frame_of(raw, index)
        depth = raw.aligned.depth
        if depth is not None and frame.depth_m is not None:
            encoding = depth.format if isinstance(depth, CompressedImage) else depth.encoding
            if reason := depth_unit_suspicion(encoding, frame.depth_m):
                self.refused[reason] += 1
        return frame
