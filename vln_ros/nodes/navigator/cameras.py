"""Makes frames of aligned messages: by what the camera_infos say, and where the two cameras sit."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TypeAlias

from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vln_ros.config import NavigatorConfig
from vln_ros.datatypes import Frame, Pose
from vln_ros.geometry.lens import undistortion
from vln_ros.geometry.registration import register_depth
from vln_ros.lenses import Lens
from vln_ros.profiling.spans import span
from vln_ros.ros import convert
from vln_ros.ros.calibration import CameraCalibration, check_size
from vln_ros.ros.extrinsics import ExtrinsicsSource
from vln_ros.sync.aligner import Aligned

ImageMsg: TypeAlias = "Image | CompressedImage"


@dataclass(frozen=True, eq=False)
class DepthView:
    """A depth camera that does not see what the colour camera sees, pixel for pixel.

    Attributes:
        lens: of the depth camera.
        color_from_depth: its optical frame in the colour camera's, at the stamp of the colour image.
        info_topic: of its camera_info, to be named in errors.
    """

    lens: Lens
    color_from_depth: Pose
    info_topic: str


@dataclass(frozen=True, eq=False)
class RawFrame:
    """An aligned observation whose images are still messages.

    Attributes:
        aligned: colour and depth message, and the pose at the colour's stamp.
        lens: of the colour camera, from the newest camera_info.
        base_from_optical: where the camera was on the robot.
        arrived_s: monotonic time at which it was complete.
        depth_view: how depth is to be registered; None where it is, pixel for pixel.
    """

    aligned: Aligned[ImageMsg, ImageMsg]
    lens: Lens
    base_from_optical: Pose
    arrived_s: float
    depth_view: DepthView | None = None


def frame_of(raw: RawFrame, index: int) -> Frame:
    """Messages to a frame: undistorted, and depth registered to colour.

    Raises:
        MessageError: an image cannot be decoded, or its size is not the one of the camera_info.
    """
    aligned, lens, view = raw.aligned, raw.lens, raw.depth_view
    rgb = convert.rgb_from_message(aligned.color)
    check_size("colour", rgb.shape, lens, "its camera_info")
    depth_m = None if aligned.depth is None else convert.depth_from_message(aligned.depth)
    if depth_m is not None and view is None:
        check_size("depth", depth_m.shape, lens, "the camera_info of colour")
    elif depth_m is not None and view is not None:
        check_size("depth", depth_m.shape, view.lens, view.info_topic)
        with span("register depth"):
            depth_m = register_depth(depth_m, view.lens, lens.camera, view.color_from_depth)
    if not lens.is_ideal:
        with span("undistort"):
            straight = undistortion(lens)
            rgb = straight.color(rgb)
            depth_m = straight.depth(depth_m) if depth_m is not None and view is None else depth_m
    base = aligned.odom_from_base
    return Frame(index, aligned.stamp_ns, rgb, depth_m, lens.camera, base, base @ raw.base_from_optical)


class CameraPair:
    """What the camera_infos of colour and depth say, and where the two cameras sit.

    Args:
        config: topics, calibration, and whether depth has a calibration of its own.
        color_source, depth_source: the second counts where depth is not registered.
    """

    def __init__(
        self, config: NavigatorConfig, color_source: ExtrinsicsSource, depth_source: ExtrinsicsSource
    ) -> None:
        info, own = config.camera_info_topic, config.depth_camera_info_topic
        self.color = CameraCalibration(info, config.color_topic, config.calibration)
        if own:
            self.depth = CameraCalibration(own, config.depth_topic, "auto")
        else:  # registered: to the raw or to the rectified image, and its name may say to which
            named = convert.names_calibration(config.depth_topic)
            topic = config.depth_topic if named else config.color_topic
            self.depth = CameraCalibration(info, topic, config.calibration)
        self._has_own = bool(own)
        self._color_extrinsics, self._depth_extrinsics = color_source, depth_source

    def take_color_info(self, msg: CameraInfo) -> list[convert.MessageError]:
        """As :meth:`vln_ros.ros.calibration.CameraCalibration.take`."""
        suspicions = self.color.take(msg)
        if not self._has_own:
            self.depth.take(msg)
        return suspicions

    def missing(self, depth_is_there: bool) -> convert.MessageError | None:
        """The camera_info that a frame still waits for; None: they are there."""
        for calibration in (self.color, self.depth) if depth_is_there else (self.color,):
            if calibration.lens is None:
                return calibration.lost
        return None

    def raw_frame(self, aligned: Aligned[ImageMsg, ImageMsg]) -> RawFrame | None:
        """The frame with its cameras; None while a camera_info or a transform is not known (yet).

        Raises:
            MessageError: it will never be complete.
        """
        depth, color_frame = aligned.depth, aligned.color.header.frame_id
        lens, depth_lens = self.color.lens, self.depth.lens
        if lens is None or (depth is not None and depth_lens is None):
            return None
        registered_to = "" if depth is None or self._has_own else depth.header.frame_id
        self.color.check_frames(color_frame, registered_to)
        extrinsics = self._color_extrinsics.at(color_frame, aligned.stamp_ns)
        if extrinsics is None:
            return None
        view = None
        if depth is not None and depth_lens is not None and (self._has_own or depth_lens != lens):
            color_from_depth = Pose.identity()
            if self._has_own:
                self.depth.check_frames(depth.header.frame_id)
                depth_extrinsics = self._depth_extrinsics.at(depth.header.frame_id, aligned.stamp_ns)
                if depth_extrinsics is None:
                    return None
                color_from_depth = extrinsics.inverse() @ depth_extrinsics
            view = DepthView(depth_lens, color_from_depth, self.depth.info_topic)
        return RawFrame(aligned, lens, extrinsics, time.monotonic(), view)
