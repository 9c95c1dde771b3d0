"""Subscribes to camera and odometry, joins and decodes them, counts what is refused."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from nav_msgs.msg import Odometry
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vln_ros.config import NavigatorConfig, SyncConfig
from vln_ros.datatypes import CameraModel, Frame, Pose
from vln_ros.geometry.frame_checks import depth_unit_suspicion
from vln_ros.profiling.spans import Waits, waited
from vln_ros.ros import convert, qos
from vln_ros.ros.calibration import CameraCalibration
from vln_ros.ros.extrinsics import ExtrinsicsSources
from vln_ros.ros.odometry import BaseOdometry
from vln_ros.sync.aligner import Aligned, Aligner, SyncCounts

ImageMsg: TypeAlias = "Image | CompressedImage"
COLOR_TOPIC = NavigatorConfig.color_topic
DEPTH_TOPIC = NavigatorConfig.depth_topic
INFO_TOPIC = NavigatorConfig.camera_info_topic


@dataclass(frozen=True, eq=False)
class RawFrame:
    """An aligned observation whose images are still messages.

    Attributes:
        aligned: colour and depth message, and the pose at the colour's stamp.
        camera: from the newest camera_info.
        base_from_optical: where the camera was on the robot.
        arrived_s: monotonic time at which it was complete.
    """

    aligned: Aligned[ImageMsg, ImageMsg]
    camera: CameraModel
    base_from_optical: Pose
    arrived_s: float


def frame_of(raw: RawFrame, index: int) -> Frame:
    """Messages to a frame.

    Raises:
        MessageError: an image cannot be decoded, or its size is not the one of the camera_info.
    """
    aligned, camera = raw.aligned, raw.camera
    rgb = convert.rgb_from_message(aligned.color)
    depth_m = None if aligned.depth is None else convert.depth_from_message(aligned.depth)
    size = (camera.height, camera.width)
    for name, image in (("colour", rgb), ("depth", depth_m)):
        if image is not None and image.shape[:2] != size:
            raise convert.MessageError(
                "wrong_size",
                f"{name} image is {image.shape[1]}x{image.shape[0]}, camera_info says "
                f"{camera.width}x{camera.height}: use a depth registered to colour, and its camera_info",
            )
    base = aligned.odom_from_base
    return Frame(index, aligned.stamp_ns, rgb, depth_m, camera, base, base @ raw.base_from_optical)


class SensorInput:
    """Subscribes a node to its camera and odometry, and hands on complete observations.

    Callbacks only look at headers; images are decoded by :meth:`decode`, in another thread.

    Args:
        node: gets the subscriptions.
        config: topics' quality of service, transport, extrinsics and alignment.
        deliver: receives each complete observation, in the thread of the callbacks.
    """

    def __init__(self, node: Node, config: NavigatorConfig, deliver: Callable[[RawFrame], None]) -> None:
        self._node = node
        self._deliver = deliver
        self._aligner: Aligner[ImageMsg, ImageMsg] = Aligner(config.sync, config.base_frame)
        self._calibration = CameraCalibration(
            config.camera_info_topic, config.color_topic, config.calibration
        )
        self._base_frame = config.base_frame
        sources = ExtrinsicsSources(node, config)
        self._extrinsics = sources.camera()
        self._odometry = BaseOdometry(config, "", sources.odometry_tf())  # the aligner asks for odom_frame
        # camera_info and transform may arrive just after the image.
        self._incomplete: deque[Aligned[ImageMsg, ImageMsg]] = deque(maxlen=8)
        self._sync_wait = Waits("sync wait")
        self.newest_ns = 0
        """Stamp of the newest complete frame."""
        self.refused: Counter[str] = Counter()
        """How often what was wrong, by the reasons of :class:`vln_ros.ros.convert.MessageError`."""

        sensor = qos.sensor(config.reliability, config.image_depth)
        color_type, color = Image, config.color_topic
        if config.color_transport == "compressed":
            color_type, color = CompressedImage, f"{color}/compressed"
        depth_type, depth = Image, config.depth_topic
        if config.depth_transport == "compressed":
            depth_type, depth = CompressedImage, f"{depth}/compressedDepth"
        node.create_subscription(color_type, color, self._on_color, sensor)
        node.create_subscription(depth_type, depth, self._on_depth, sensor)
        node.create_subscription(CameraInfo, config.camera_info_topic, self._on_camera_info, sensor)
        node.create_subscription(Odometry, "odom", self._on_odometry, qos.sensor("best_effort", 100))

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
        if self._calibration.camera is None and self._calibration.lost is not None:
            return self._calibration.lost
        frames = f"{self._base_frame} to {aligned.color.header.frame_id}"
        return convert.MessageError("no_transform", f"no transform from {frames} at an image's stamp on /tf")

    def _deliver_complete(self) -> None:
        """In order: nothing overtakes a frame that still waits."""
        while (camera := self._calibration.camera) is not None and self._incomplete:
            aligned = self._incomplete[0]
            try:
                frame_id, depth = aligned.color.header.frame_id, aligned.depth
                self._calibration.check_frames(frame_id, "" if depth is None else depth.header.frame_id)
                extrinsics = self._extrinsics.at(frame_id, aligned.stamp_ns)
            except convert.MessageError as error:
                self.refuse(error)
            else:
                if extrinsics is None:
                    return
                self.newest_ns = aligned.stamp_ns
                self._deliver(RawFrame(aligned, camera, extrinsics, time.monotonic()))
            self._incomplete.popleft()

    def _on_camera_info(self, msg: CameraInfo) -> None:
        try:
            for suspicion in self._calibration.take(msg):
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
