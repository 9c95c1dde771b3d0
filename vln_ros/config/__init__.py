"""Options: the only place where a default value is written.

Each group of options is a frozen dataclass; each field carries its meaning, unit, range and
whether it may change while running. ROS parameters (``vln_ros.ros.parameters``), YAML files, the
command line and the tables in the documentation are all made from these classes.
"""

from vln_ros.config.engine import PacedConfig, QwenConfig, SamplingConfig, StreamConfig
from vln_ros.config.evaluation import EvalConfig, FarmConfig
from vln_ros.config.executor import ExecutorConfig, SafetyConfig
from vln_ros.config.names import (
    NAME_ARGUMENTS,
    OWN_DEPTH_INFO_TOPIC,
    NameArgument,
    name_parameters,
    name_remappings,
)
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
    nearest,
    option,
    to_flat,
    walk_options,
)
from vln_ros.config.place import LookDownConfig, Nav2Config, PlaceConfig
from vln_ros.config.profiling import ProfilingConfig
from vln_ros.config.reuse import (
    FrameCheckConfig,
    LandmarkConfig,
    PruneConfig,
    ReuseConfig,
    StandstillConfig,
)
from vln_ros.config.robot import (
    CameraExtrinsics,
    ColorInputConfig,
    DepthCameraConfig,
    DepthInputConfig,
    Extrinsics,
    ExtrinsicsConfig,
    FleetConfig,
    GuardsConfig,
    ImageInputConfig,
    NavigatorConfig,
    OdometryConfig,
    QuestionConfig,
    RunLimitsConfig,
    SyncConfig,
)
from vln_ros.config.sensors import LensName, SensorsConfig
from vln_ros.config.simulation import (
    PROTOCOL_RULES,
    BridgeConfig,
    CameraConfig,
    ExpertConfig,
    HabitatConfig,
    LimitsConfig,
    PixelOracleConfig,
    StepConfig,
    WorldConfig,
    WorldName,
    with_protocol,
)
from vln_ros.config.tools import (
    InspectorConfig,
    PlayerConfig,
    RecorderConfig,
    TrailOdometryConfig,
    WebConfig,
)
from vln_ros.config.training import TinyConfig, TrainConfig

__all__ = [
    "NAME_ARGUMENTS",
    "NODES",
    "OWN_DEPTH_INFO_TOPIC",
    "PROTOCOL_RULES",
    "BridgeConfig",
    "CameraConfig",
    "CameraExtrinsics",
    "ColorInputConfig",
    "ConfigError",
    "DepthCameraConfig",
    "DepthInputConfig",
    "EvalConfig",
    "ExecutorConfig",
    "ExpertConfig",
    "Extrinsics",
    "ExtrinsicsConfig",
    "FarmConfig",
    "FleetConfig",
    "FrameCheckConfig",
    "GuardsConfig",
    "HabitatConfig",
    "ImageInputConfig",
    "InspectorConfig",
    "LandmarkConfig",
    "LensName",
    "LimitsConfig",
    "LookDownConfig",
    "NameArgument",
    "Nav2Config",
    "NavigatorConfig",
    "OdometryConfig",
    "Option",
    "OptionEntry",
    "PacedConfig",
    "PixelOracleConfig",
    "PlaceConfig",
    "PlayerConfig",
    "ProfilingConfig",
    "PruneConfig",
    "QuestionConfig",
    "QwenConfig",
    "RecorderConfig",
    "ReuseConfig",
    "RunLimitsConfig",
    "SafetyConfig",
    "SamplingConfig",
    "Scalar",
    "SensorsConfig",
    "StandstillConfig",
    "StepConfig",
    "StreamConfig",
    "SyncConfig",
    "TinyConfig",
    "TrailOdometryConfig",
    "TrainConfig",
    "WebConfig",
    "WorldConfig",
    "WorldName",
    "check_value",
    "flatten",
    "from_flat",
    "group",
    "load_yaml",
    "name_parameters",
    "name_remappings",
    "nearest",
    "option",
    "to_flat",
    "walk_options",
    "with_protocol",
]
