"""The executor node: lifecycle, timers and publishers around the state machine of vln_ros.motion."""

from __future__ import annotations

from dataclasses import replace

from geometry_msgs.msg import Twist, TwistStamped
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from std_msgs.msg import Header
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory

from vln_ros.config import ExecutorConfig
from vln_ros.datatypes import ActionChunk, Velocity
from vln_ros.motion.executor import Executor, ExecutorState, Output
from vln_ros.motion.safety import Fault
from vln_ros.nodes.executor.inputs import ExecutorInput
from vln_ros.nodes.executor.report import ControlTimes, ExecutorReport, described, health, is_error
from vln_ros.nodes.heartbeat import Rivals, commands_heartbeat, identity_of
from vln_ros.nodes.lifecycle import ManagedNode
from vln_ros.nodes.process import run_node
from vln_ros.nodes.profiling import NodeProfiling
from vln_ros.profiling.spans import span
from vln_ros.ros import convert, qos
from vln_ros.ros.parameters import bind_live_parameters, declare_config

OBSTACLES_HZ = 5.0
"""How often it tells what it knows of obstacles."""
ENDING_WAIT_NS = 500_000_000
"""How long it waits for the base to have heard its last velocity."""


class ExecutorNode(ManagedNode):
    """See docs/design/executor.md for states and faults. Thin: the state machine is in vln_ros.motion."""

    def __init__(self) -> None:
        super().__init__("executor")
        self.config = declare_config(self, ExecutorConfig)
        self._profiling = NodeProfiling(self, self.config.profiling)
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._core: Executor | None = None
        bind_live_parameters(self, self.config, self._reconfigure)

    def configure(self) -> None:
        command = TwistStamped if self.config.stamped_cmd_vel else Twist
        self._command_pub = self.create_publisher(command, "cmd_vel", qos.commands())
        self._progress_pub = self.create_publisher(JointTrajectory, "queue_progress", qos.commands())
        self._heartbeat_pub = self.create_publisher(Header, commands_heartbeat(self), qos.commands())
        self._stopped_pub = self.create_publisher(Header, "stopped", qos.commands())
        self._identity = identity_of(self)
        self._report = ExecutorReport(self, self.config.base_frame)

    def activate(self) -> None:
        """Nothing is kept from before: what moved the robot meanwhile, this node does not know."""
        c = self.config
        self._core = Executor(c)
        self._times = ControlTimes(1.0 / c.rate_hz)
        self._rivals = Rivals(self, TwistStamped if c.stamped_cmd_vel else Twist, c.rate_hz)
        self._warned = ""
        self._state: tuple[ExecutorState, tuple[Fault, ...]] = (ExecutorState.IDLE, ())
        self._input = ExecutorInput(self, c, self._core, self._now_s, self._check, self._report_progress)
        # Control goes with simulated time where there is one; nothing else may depend on a clock that
        # can stand still or jump.
        simulated = self.get_parameter("use_sim_time").value
        self.create_timer(
            1.0 / c.rate_hz, self._control, clock=self.get_clock() if simulated else self._steady
        )
        self.create_timer(1.0 / c.rate_hz, self._watch, clock=self._steady)
        self.create_timer(1.0 / c.diagnostics_hz, self._remind, clock=self._steady)
        self.create_timer(1.0 / OBSTACLES_HZ, self._show_obstacles, clock=self._steady)
        self.create_service(SetBool, "~/pause", self._on_pause)

    def deactivate(self) -> None:
        """The last velocity that the base hears from this node is zero."""
        if self._core is None:
            return
        self._core = None
        self._send(Velocity())
        # A process that ends at once takes what is still on its way with it.
        self._command_pub.wait_for_all_acked(Duration(nanoseconds=ENDING_WAIT_NS))

    def close(self) -> None:
        super().close()
        self._profiling.close()

    def _reconfigure(self, config: ExecutorConfig) -> None:
        self.config = config
        if self._core is not None:
            self._core.config = config

    @property
    def _active(self) -> Executor:
        assert self._core is not None, "callbacks exist only while the node is active"
        return self._core

    def _now_s(self) -> float:
        return float(self._steady.now().nanoseconds) / 1e9

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._active.pause(request.data)
        self._check()
        response.success = True
        response.message = "paused" if request.data else "going on with the next queue"
        return response

    # ------------------------------------------------------------------ what goes out

    def _control(self) -> None:
        self._times.tick()
        with span("executor"):
            output = self._active.update(self._now_s())
        self._apply(output)

    def _watch(self) -> None:
        stamp = convert.time_from_stamp_ns(self._active.odometry_stamp_ns)
        self._heartbeat_pub.publish(Header(stamp=stamp, frame_id=self._identity))
        self._check()

    def _check(self) -> None:
        output = self._active.check(self._now_s())
        if output is not None:
            self._apply(output)

    def _apply(self, output: Output) -> None:
        # A robot that is to stand still is told so all the time: a lost message must not leave it moving.
        self._send(output.velocity)
        if (output.state, output.faults) != self._state:
            self._state = output.state, output.faults
            text = described(*self._state, self._active.reasons)
            if is_error(output.faults):
                self.get_logger().error(text)
            else:
                self.get_logger().info(text)
            self._diagnose()
        if output.report:
            self._report_progress()
        if any(action.stop for action in output.completed):
            stamp = convert.time_from_stamp_ns(self._active.odometry_stamp_ns)
            self._stopped_pub.publish(Header(stamp=stamp, frame_id=self.config.base_frame))
        self._report.publish(output, self._active.reasons, self._active.odometry_stamp_ns)

    def _send(self, velocity: Velocity) -> None:
        self._rivals.sent(velocity)
        if self.config.stamped_cmd_vel:
            now_ns = self.get_clock().now().nanoseconds
            stamped = convert.stamped_from_velocity(velocity, now_ns, self.config.base_frame)
            self._command_pub.publish(stamped)
        else:
            self._command_pub.publish(convert.twist_from_velocity(velocity))

    def _report_progress(self) -> None:
        queue, c = self._active.queue, self.config
        state = queue.state
        stamp_ns = self._active.odometry_stamp_ns
        left = ActionChunk(state.queue, state.instruction, stamp_ns, state.remaining, epoch=state.epoch)
        self._progress_pub.publish(
            convert.trajectory_from_report(
                left, queue.executed, c.base_frame, c.max_linear_m_s, c.max_angular_rad_s
            )
        )

    def _show_obstacles(self) -> None:
        self._report.obstacles(self._active, self.config.odom_frame)

    def _remind(self) -> None:
        """Say again how things are: to who has missed it, or counts on a queue from before a restart."""
        self._report_progress()
        self._diagnose()

    def _diagnose(self) -> None:
        last, now_s = self._report.last, self._now_s()
        refused = self._input.refused
        warning = self._rivals.warning(drives=self._state[0] is ExecutorState.MOVING)
        if warning and warning != self._warned:
            self.get_logger().warning(warning)
        self._warned = warning
        is_now = health(self._active, *self._state, last, self._times, refused, warning, now_s)
        self.say(replace(is_now, values=(*is_now.values, *self._input.values(), *self._profiling.values())))


def main() -> None:
    run_node(ExecutorNode)


if __name__ == "__main__":
    main()
