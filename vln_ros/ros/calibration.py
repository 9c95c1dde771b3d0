"""Keeps a camera's newest camera_info, and checks that it is that of an image."""

from __future__ import annotations

from sensor_msgs.msg import CameraInfo

from vln_ros.datatypes import CameraModel
from vln_ros.ros import convert
from vln_ros.ros.convert import MessageError


class CameraCalibration:
    """Keeps what the camera_info says.

    Args:
        info_topic: of the camera_info, to be named in errors.
        image_topic: of the images that it is for: its name may say whether they are rectified.
        calibration: the option of that name.

    Attributes:
        camera: of the newest usable camera_info; None before the first.
        lost: why the newest one cannot be used; None while it can.
    """

    def __init__(self, info_topic: str, image_topic: str, calibration: str) -> None:
        self._info_topic, self._image_topic, self._choice = info_topic, image_topic, calibration
        self.camera: CameraModel | None = None
        self.lost: MessageError | None = MessageError("no_camera_info", f"no camera_info on {info_topic}")
        self._frame_id = ""

    def take(self, msg: CameraInfo) -> list[MessageError]:
        """A camera_info. What is to be said of one that is used all the same: nothing while it stays.

        Raises:
            MessageError: it cannot be used.
        """
        try:
            camera = convert.camera_from_info(msg, self._choice, self._image_topic)
        except MessageError as error:
            self.lost = error
            raise
        self.lost, self._frame_id = None, msg.header.frame_id
        suspicions: list[MessageError] = []
        if camera != self.camera:
            if self.camera is not None:
                suspicions.append(MessageError("camera_info_changed", f"camera_info is now {camera}"))
            if reason := convert.distortion_suspicion(msg, self._choice, self._image_topic):
                text = f"{self._info_topic} has distortion and {self._image_topic} is not rectified: "
                text += "places near its edge are wrong; subscribe to the rectified image, or set calibration"
                suspicions.append(MessageError(reason, text))
        self.camera = camera
        return suspicions

    def check_frames(self, frame_id: str, depth_frame_id: str = "") -> None:
        """Of an image in this frame, and the depth that comes with it.

        Raises:
            MessageError: ``camera_info_of_another_frame``, ``depth_of_another_frame``.
        """
        if not convert.same_frame(frame_id, self._frame_id):
            raise MessageError(
                "camera_info_of_another_frame",
                f"image is in {frame_id}, {self._info_topic} is of {self._frame_id}: give the "
                "camera_info_topic of this image, and depth that is registered to colour",
            )
        if not convert.same_frame(frame_id, depth_frame_id):
            raise MessageError(
                "depth_of_another_frame",
                f"depth is in {depth_frame_id}, colour in {frame_id}: use depth that is registered to colour",
            )

    def of_depth(self, frame_id: str, shape: tuple[int, ...]) -> CameraModel:
        """The camera of a depth image in this frame, of so many rows and columns.

        Raises:
            MessageError: no usable camera_info has come, or it is that of another image.
        """
        if self.lost is not None or self.camera is None:
            raise self.lost or MessageError("no_camera_info", f"no camera_info on {self._info_topic}")
        self.check_frames(frame_id)
        camera = self.camera
        if shape != (camera.height, camera.width):
            raise MessageError(
                "wrong_size",
                f"depth image is {shape[1]}x{shape[0]}, {self._info_topic} says "
                f"{camera.width}x{camera.height}: give the camera_info_topic of this image",
            )
        return camera


CALIBRATION_REASONS = frozenset(
    {
        "no_camera_info",
        "no_calibration",
        "bad_camera_info",
        "right_camera",
        "camera_info_of_another_frame",
        "wrong_size",
    }
)
"""Of the errors of :meth:`CameraCalibration.of_depth`."""
