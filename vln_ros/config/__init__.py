"""Options: the only place where a default value is written.

Each group of options is a frozen dataclass; each field carries its meaning, unit, range and
whether it may change while running. ROS parameters (``vln_ros.ros.parameters``), YAML files, the
command line and the tables in the documentation are all made from these classes.
"""

from vln_ros.config.engine import PacedConfig, QwenConfig, SamplingConfig, StreamConfig
from vln_ros.config.evaluation import EvalConfig, FarmConfig
from vln_ros.config.executor import ExecutorConfig, SafetyConfig
from vln_ros.config.nodes import NODES
from vln_ros.config.options import (
    ConfigError,
    Option,
    OptionEntry,
    Scalar,
    check_value,
    flatten,
    from_flat,
    group,
    load_yaml,
    option,
    to_flat,
    walk_options,
)
from vln_ros.config.profiling import ProfilingConfig
from vln_ros.config.reuse import FrameCheckConfig, LandmarkConfig, PruneConfig, ReuseConfig
from vln_ros.config.robot import (
    CameraExtrinsics,
    DepthInputConfig,
    Extrinsics,
    ExtrinsicsConfig,
    ImageInputConfig,
    NavigatorConfig,
    OdometryConfig,
    SyncConfig,
)
from vln_ros.config.simulation import (
    PROTOCOL_RULES,
    BridgeConfig,
    CameraConfig,
    ExpertConfig,
    HabitatConfig,
    LimitsConfig,
    StepConfig,
    WorldConfig,
    with_protocol,
)
from vln_ros.config.tools import InspectorConfig, PlayerConfig, RecorderConfig
from vln_ros.config.training import TinyConfig, TrainConfig

__all__ = [
    "NODES",
    "PROTOCOL_RULES",
    "BridgeConfig",
    "CameraConfig",
    "CameraExtrinsics",
    "ConfigError",
    "DepthInputConfig",
    "EvalConfig",
    "ExecutorConfig",
    "ExpertConfig",
    "Extrinsics",
    "ExtrinsicsConfig",
    "FarmConfig",
    "FrameCheckConfig",
    "HabitatConfig",
    "ImageInputConfig",
    "InspectorConfig",
    "LandmarkConfig",
    "LimitsConfig",
    "NavigatorConfig",
    "OdometryConfig",
    "Option",
    "OptionEntry",
    "PacedConfig",
    "PlayerConfig",
    "ProfilingConfig",
    "PruneConfig",
    "QwenConfig",
    "RecorderConfig",
    "ReuseConfig",
    "SafetyConfig",
    "SamplingConfig",
    "Scalar",
    "StepConfig",
    "StreamConfig",
    "SyncConfig",
    "TinyConfig",
    "TrainConfig",
    "WorldConfig",
    "check_value",
    "flatten",
    "from_flat",
    "group",
    "load_yaml",
    "option",
    "to_flat",
    "walk_options",
    "with_protocol",
]
