"""The simulator bridge node: publishes and takes what a robot does, and runs episodes."""

from __future__ import annotations

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from vln_ros.config import BridgeConfig, with_protocol
from vln_ros.evaluation.episode.run import EpisodeLimits
from vln_ros.nodes.process import ProcessNode, run_node
from vln_ros.nodes.robot_topics import RobotTopics
from vln_ros.nodes.sim_bridge.doubles import OtherSources
from vln_ros.nodes.sim_bridge.episodes import EpisodeOrder, StartList, load_episodes
from vln_ros.nodes.sim_bridge.live import LiveRunner
from vln_ros.nodes.sim_bridge.results import BridgeResults
from vln_ros.nodes.sim_bridge.runner import EpisodeRunner
from vln_ros.nodes.sim_bridge.services import EpisodeServices
from vln_ros.ros import convert, qos
from vln_ros.ros.parameters import declare_config
from vln_ros.sim.worlds import open_world


class SimBridge(ProcessNode):
    """See docs/reference/nodes.md for topics and parameters: it makes what the options ask for, and hands on
    what it hears."""

    def __init__(self) -> None:
        super().__init__("sim_bridge")
        c = with_protocol(declare_config(self, BridgeConfig))
        limits = EpisodeLimits.of(c.max_steps, c.limits, None)
        episodes = load_episodes(c)
        others = OtherSources(self, clock_matters=c.mode in ("realtime", "live"))
        self._world = world = open_world(c)
        others.refuse(otherwise=world.close)
        topics = RobotTopics(self, c, world, others.published)
        results = BridgeResults(c, episodes, limits)
        self._runner: EpisodeRunner | LiveRunner
        if c.mode == "live":
            starts = StartList(episodes, world)
            if c.episode:
                starts.current = starts.find(c.episode)
            self._runner = LiveRunner(
                self, c, world, starts=starts, results=results, topics=topics, others=others
            )
            EpisodeServices(self, starts.find, self._runner.restart)
        else:
            order = EpisodeOrder(episodes, results.is_done)
            if c.episode:
                order.put_first(order.find(c.episode))
            self._runner = EpisodeRunner(
                self, c, world, limits=limits, results=results, order=order, topics=topics, others=others
            )
            EpisodeServices(self, order.find, self._runner.restart)
        self.create_subscription(JointTrajectory, "action_queue", self._on_queue, qos.commands())
        self.create_subscription(String, "engine_failure", self._on_failure, qos.events())
        others.begin()
        period_s = 1.0 / (c.odometry_hz * c.realtime_factor) if c.mode in ("realtime", "live") else 0.02
        self.create_timer(period_s, self._runner.tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def close(self) -> None:
        self._runner.close()
        self._world.close()

    def _on_queue(self, msg: JointTrajectory) -> None:
        try:
            chunk = convert.chunk_from_trajectory(msg)
        except convert.MessageError as error:
            self.get_logger().warning(str(error))
            return
        self._runner.hear(chunk)

    def _on_failure(self, msg: String) -> None:
        self._runner.engine_failed(msg.data)


def main() -> None:
    run_node(SimBridge)


if __name__ == "__main__":
    main()
