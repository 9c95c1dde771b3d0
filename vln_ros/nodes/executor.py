"""Action queues and odometry in; velocities out."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from rclpy.duration import Duration
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory

from vln_ros.config import ExecutorConfig
from vln_ros.datatypes import ActionChunk
from vln_ros.motion.action_queue import Acceptance
from vln_ros.motion.executor import Executor, ExecutorState
from vln_ros.nodes.node_profiling import NodeProfiling
from vln_ros.nodes.running import ProcessNode, run_node
from vln_ros.profiling.spans import span
from vln_ros.ros import convert, qos
from vln_ros.ros.diagnostics import Health, Level, diagnostics_from_health
from vln_ros.ros.parameters import bind_live_parameters, declare_config

ENDING_WAIT_NS = 500_000_000
"""How long the process waits for the base to have heard its last velocity."""


class ExecutorNode(ProcessNode):
    """See docs/nodes.md for topics and parameters. Thin: the state machine is in vln_ros.motion."""

    def __init__(self) -> None:
        super().__init__("executor")
        self.config = c = declare_config(self, ExecutorConfig)
        self._profiling = NodeProfiling(self, c.profiling)
        self._executor = Executor(c)
        self._state = ExecutorState.IDLE
        self._refused = 0
        self._command_pub = self.create_publisher(Twist, "cmd_vel", qos.commands())
        self._progress_pub = self.create_publisher(JointTrajectory, "queue_progress", qos.commands())
        self._stopped_pub = self.create_publisher(Header, "stopped", qos.commands())
        self._diagnostics_pub = self.create_publisher(DiagnosticArray, "/diagnostics", qos.diagnostics())
        self.create_subscription(Odometry, "odom", self._on_odometry, qos.sensor("best_effort", 1))
        self.create_subscription(JointTrajectory, "action_queue", self._on_queue, qos.commands())
        self.create_timer(1.0 / c.rate_hz, self._control)
        self.create_timer(1.0 / c.diagnostics_hz, self._diagnose)
        bind_live_parameters(self, c, self._reconfigure)

    def close(self) -> None:
        """The last velocity that the base hears from this process is zero."""
        self._command_pub.publish(convert.twist_from_velocity(0.0, 0.0))
        # A process that ends at once takes what is still on its way with it.
        self._command_pub.wait_for_all_acked(Duration(nanoseconds=ENDING_WAIT_NS))
        self._profiling.close()

    def _reconfigure(self, config: ExecutorConfig) -> None:
        self._executor.config = config

    def _now_s(self) -> float:
        return float(self.get_clock().now().nanoseconds) / 1e9

    def _on_odometry(self, msg: Odometry) -> None:
        try:
            pose = convert.pose_from_odometry(msg)
            stamp_ns = convert.stamp_ns_from_time(msg.header.stamp)
        except convert.MessageError as error:
            self._refuse(error)  # and the age of the last good one runs on
            return
        self._executor.odometry(stamp_ns, pose, self._now_s())

    def _on_queue(self, msg: JointTrajectory) -> None:
        try:
            chunk = convert.chunk_from_trajectory(msg)
        except convert.MessageError as error:
            self._refuse(error)
            return
        if self._executor.offer(chunk) is not Acceptance.STALE:
            self._report_progress()

    def _refuse(self, error: convert.MessageError) -> None:
        self._refused += 1
        self.get_logger().warning(str(error), throttle_duration_sec=2.0)

    def _control(self) -> None:
        with span("executor"):
            output = self._executor.update(self._now_s())
        # A robot that is to stand still is told so all the time: a lost message must not leave it moving.
        velocity = output.velocity
        self._command_pub.publish(convert.twist_from_velocity(velocity.linear_m_s, velocity.angular_rad_s))
        if output.state is not self._state:
            self.get_logger().info(f"{self._state.value} -> {output.state.value}")
            self._state = output.state
        if output.completed:
            self._report_progress()
        if any(action.stop for action in output.completed):
            stamp = convert.time_from_stamp_ns(self._executor.odometry_stamp_ns)
            self._stopped_pub.publish(Header(stamp=stamp, frame_id=self.config.base_frame))

    def _report_progress(self) -> None:
        state = self._executor.queue.state
        left = ActionChunk(state.queue, state.instruction, self._executor.odometry_stamp_ns, state.remaining)
        c = self.config
        self._progress_pub.publish(
            convert.trajectory_from_chunk(left, c.base_frame, c.max_linear_m_s, c.max_angular_rad_s)
        )

    def _diagnose(self) -> None:
        executor, queue = self._executor, self._executor.queue
        no_odometry = self._state is ExecutorState.NO_ODOMETRY
        health = Health(
            Level.ERROR if no_odometry else Level.OK,
            self._state.value,
            (
                ("instruction", queue.state.instruction),
                ("queue", queue.state.queue),
                ("actions left", len(queue.state.remaining)),
                ("stale queues", queue.stale),
                ("contradicted queues", queue.contradicted),
                ("blocked actions", executor.blocked),
                ("clock resets", executor.clock_resets),
                ("refused messages", self._refused),
                *self._profiling.values(),
            ),
        )
        stamp_ns = self.get_clock().now().nanoseconds
        self._diagnostics_pub.publish(diagnostics_from_health(health, "vln_ros: executor", "", stamp_ns))


def main() -> None:
    run_node(ExecutorNode)


if __name__ == "__main__":
    main()
