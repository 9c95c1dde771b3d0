"""Keeps a camera's newest camera_info, and checks that it is that of an image."""

from __future__ import annotations

from sensor_msgs.msg import CameraInfo

from vln_ros.datatypes import CameraModel
from vln_ros.lenses import Lens
from vln_ros.ros import convert
from vln_ros.ros.convert import MessageError


class CameraCalibration:
    """Keeps what the camera_info says.

    Args:
        info_topic: of the camera_info, to be named in errors.
        image_topic: of the images that it is for: its name may say whether they are rectified.
        calibration: the option of that name.

    Attributes:
        lens: the camera of the newest usable camera_info, as it is; None before the first.
        lost: why the newest one cannot be used; None while it can.
    """

    def __init__(self, info_topic: str, image_topic: str, calibration: str) -> None:
        self.info_topic = info_topic
        self._image_topic, self._choice = image_topic, calibration
        self.lens: Lens | None = None
        self.lost: MessageError | None = MessageError("no_camera_info", f"no camera_info on {info_topic}")
        self._frame_id = ""

    @property
    def camera(self) -> CameraModel | None:
        """The pinhole that images are brought to; None before the first usable camera_info."""
        return None if self.lens is None else self.lens.camera

    def take(self, msg: CameraInfo) -> list[MessageError]:
        """A camera_info. What is to be said of one that is used all the same: nothing while it stays.

        Raises:
            MessageError: it cannot be used.
        """
        try:
            lens = convert.lens_from_info(msg, self._choice, self._image_topic)
        except MessageError as error:
            self.lost = error
            raise
        self.lost, self._frame_id = None, msg.header.frame_id
        before, self.lens = self.lens, lens
        if before is None or lens == before:
            return []
        return [MessageError("camera_info_changed", f"{self.info_topic} now says {lens}")]

    def check_frames(self, frame_id: str, depth_frame_id: str = "") -> None:
        """Of an image in this frame, and the depth that comes with it.

        Raises:
            MessageError: ``camera_info_of_another_frame``, ``depth_of_another_frame``.
        """
        if not convert.same_frame(frame_id, self._frame_id):
            raise MessageError(
                "camera_info_of_another_frame",
                f"image is in {frame_id}, {self.info_topic} is of {self._frame_id}: give the "
                "camera_info_topic of this image, and depth that is registered to colour or has a "
                "depth_camera_info_topic of its own",
            )
        if not convert.same_frame(frame_id, depth_frame_id):
            raise MessageError(
                "depth_of_another_frame",
                f"depth is in {depth_frame_id}, colour in {frame_id}: use depth that is registered to "
                "colour, or name its own calibration in depth_camera_info_topic",
            )

    def of_image(self, frame_id: str, shape: tuple[int, ...]) -> Lens:
        """The camera of an image in this frame, of so many rows and columns.

        Raises:
            MessageError: no usable camera_info has come, or it is that of another image.
        """
        if self.lost is not None or self.lens is None:
            raise self.lost or MessageError("no_camera_info", f"no camera_info on {self.info_topic}")
        self.check_frames(frame_id)
        check_size("depth", shape, self.lens, self.info_topic)
        return self.lens


def check_size(what: str, shape: tuple[int, ...], lens: Lens, info_topic: str) -> None:
    """Raises MessageError ``wrong_size`` for an image that its camera_info is not of."""
    camera = lens.camera
    if shape[:2] != (camera.height, camera.width):
        raise MessageError(
            "wrong_size",
            f"{what} image is {shape[1]}x{shape[0]}, {info_topic} says {camera.width}x{camera.height}: give "
            "the camera_info_topic of this image; depth of another size than colour needs its own, in "
            "depth_camera_info_topic",
        )


CALIBRATION_REASONS = frozenset(
    {
        "no_camera_info",
        "no_calibration",
        "bad_camera_info",
        "right_camera",
        "unsupported_distortion",
        "camera_info_of_another_frame",
        "wrong_size",
    }
)
"""Of the errors of :meth:`CameraCalibration.of_image`."""
