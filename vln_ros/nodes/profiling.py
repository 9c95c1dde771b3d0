"""Gives a node its profiler: report by service, values for diagnostics, files at the end."""

from __future__ import annotations

from pathlib import Path

from rclpy.node import Node
from std_srvs.srv import Trigger

from vln_ros.config import ProfilingConfig
from vln_ros.profiling import spans
from vln_ros.profiling.export import prometheus_text
from vln_ros.profiling.files import ScrapePage, write_recording
from vln_ros.profiling.report import summarise, write_report
from vln_ros.profiling.timings import freeze


class NodeProfiling:
    """Records from its construction on, if the options say so. Offers ``~/profile`` in any case.

    Raises:
        ConfigError: the port for scraping cannot be used.
    """

    def __init__(self, node: Node, config: ProfilingConfig) -> None:
        self._name = node.get_name()
        self._folder = config.folder
        self._recorder = recorder = spans.start(config)
        self._page: ScrapePage | None = None
        if recorder is not None and config.prometheus_port:
            self._page = ScrapePage(
                config.prometheus_address,
                config.prometheus_port,
                lambda: prometheus_text(freeze(recorder, self._name)),
            )
        node.create_service(Trigger, "~/profile", self._on_profile)

    def values(self) -> list[tuple[str, str | int | float | bool]]:
        """For /diagnostics; empty when nothing is recorded."""
        return [] if self._recorder is None else [*summarise(freeze(self._recorder, self._name))]

    def close(self) -> None:
        if self._page is not None:
            self._page.close()
        if self._recorder is not None and self._folder:
            write_recording(self._recorder, self._name, Path(self._folder))
        spans.stop()

    def _on_profile(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._recorder is not None
        response.message = (
            "nothing is recorded: start the node with profiling.level spans"
            if self._recorder is None
            else write_report(freeze(self._recorder, self._name))
        )
        return response
