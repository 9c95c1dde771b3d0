"""Pictures for the page: taken only while somebody looks, encoded once, the newest wins."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

import cv2
import numpy.typing as npt
from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from vln_ros.config import WebConfig
from vln_ros.ros import convert, qos
from vln_ros.sync.mailbox import LatestMailbox
from vln_ros.web.feed import Feed
from vln_ros.web.messages import GOAL_PICTURE

Picture: TypeAlias = Image | CompressedImage
KEPT = 30
"""Pictures, of a model that answers with points: an answer is about one that came before it."""
NEAR_NS = 250_000_000
"""Not every picture of the camera is taken."""


class PictureStream:
    """One topic of pictures as one view of the page. What is encoded, a thread of its own encodes.

    Args:
        node: gets the subscription.
        config: size, rate and quality.
        feed: gets the pictures.
        view: their name there.
        topic: where they come from, and whether ``compressed``.
        refuse: gets what cannot be used, in the node's thread or the stream's.

    Attributes:
        encoded: how many pictures were brought to the feed.
        keeps: take pictures also while nobody looks, so that one that was answered can be shown later.
    """

    def __init__(
        self, node: Node, config: WebConfig, feed: Feed, view: str, topic: str, compressed: bool,
        refuse: Callable[[convert.MessageError], None],
    ) -> None:  # fmt: skip
        self._node, self._config, self._feed, self.view = node, config, feed, view
        self._topic, self._compressed, self._refuse = topic, compressed, refuse
        self._mailbox: LatestMailbox[tuple[int, Picture]] = LatestMailbox()
        self._subscription: Subscription | None = None
        self._recent: deque[tuple[int, Picture]] = deque(maxlen=KEPT)
        self._due_s = 0.0
        self._looks = self.keeps = False
        self.encoded = 0
        self._thread = threading.Thread(target=self._run, name=f"pictures {view}", daemon=True)
        self._thread.start()

    def watch(self, wanted: bool) -> None:
        """Somebody looks from now on, or nobody any more."""
        self._looks = wanted
        wanted = wanted or self.keeps
        if wanted and self._subscription is None:
            profile = qos.sensor("best_effort", 1)
            if self._compressed:
                self._subscription = self._node.create_subscription(
                    CompressedImage, f"{self._topic}/compressed", self._take, profile
                )
            else:
                self._subscription = self._node.create_subscription(Image, self._topic, self._take, profile)
        elif not wanted and self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
            self._recent.clear()

    def show_goal(self, stamp_ns: int) -> None:
        """Bring the picture of that time to the feed, for pages that are opened later.

        Where a model answers with points, pictures are kept from the first answer on.
        """
        if not self.keeps:
            self.keeps = True
            self.watch(self._looks)
        near = [picture for picture in self._recent if abs(picture[0] - stamp_ns) <= NEAR_NS]
        if not near:
            return
        taken_ns, msg = min(near, key=lambda picture: abs(picture[0] - stamp_ns))
        try:
            self._feed.put_picture(GOAL_PICTURE, taken_ns, *self._jpeg(msg))
        except convert.MessageError as error:
            self._refuse(error)

    def close(self) -> None:
        self._mailbox.close()
        self._thread.join()

    def _take(self, msg: Picture) -> None:
        """Not more than are to be sent: one is taken where its turn has come, within half a period."""
        now_s = time.monotonic()
        period_s = 1.0 / self._config.image_hz
        if now_s < self._due_s - period_s / 4:
            return
        self._due_s = max(self._due_s + period_s, now_s)
        try:
            picture = convert.stamp_ns_from_time(msg.header.stamp), msg
        except convert.MessageError as error:
            self._refuse(error)
            return
        self._recent.append(picture)
        if self._looks:
            self._mailbox.put(picture)

    def _run(self) -> None:
        while (picture := self._mailbox.take()) is not None:
            stamp_ns, msg = picture
            try:
                jpeg, scale = self._jpeg(msg)
            except convert.MessageError as error:
                self._refuse(error)
                continue
            self.encoded += 1
            self._feed.put_picture(self.view, stamp_ns, jpeg, scale)

    def _jpeg(self, msg: Picture) -> tuple[bytes, float]:
        """With the size that it has of the camera's. Raises MessageError for one that cannot be read."""
        if isinstance(msg, CompressedImage) and bytes(msg.data[:2]) == b"\xff\xd8":
            return bytes(msg.data), 1.0  # encoded by the camera
        rgb: npt.NDArray[Any] = convert.rgb_from_message(msg)
        c = self._config
        height, width = rgb.shape[:2]
        if width > c.image_width_px:
            size = c.image_width_px, max(1, round(height * c.image_width_px / width))
            rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        done, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, c.jpeg_quality])
        if not done:
            raise convert.MessageError("not_encodable", f"a picture of {width} x {height} cannot be encoded")
        return jpeg.tobytes(), rgb.shape[1] / width
