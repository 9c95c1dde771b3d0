"""Vision-language navigation for ROS 2 with a streaming Qwen2.5-VL."""

__version__ = "0.1.0"
