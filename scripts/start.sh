# Sourced by the executables beside it: runs $node under the interpreter that the package was installed with, whatever
# python3 this terminal has. The command vln_ros, installed by the same step, knows it; VLN_ROS_PYTHON names another.
command=$(cd "$(dirname "$0")/../.." && pwd)/bin/vln_ros
wanted="the interpreter that the package was built with (first line of $command)"
trap 'echo "$node: cannot run $wanted. Build the package again with the Python that has its requirements
(.venv/bin/python -m colcon build), or name that Python: export VLN_ROS_PYTHON=/path/to/.venv/bin/python" >&2' EXIT
if [ -n "${VLN_ROS_PYTHON:-}" ]; then
    wanted="VLN_ROS_PYTHON=$VLN_ROS_PYTHON"
    if [ -f "$command" ]; then
        exec "$VLN_ROS_PYTHON" "$command" node "$node" "$@"
    fi
    exec "$VLN_ROS_PYTHON" -m vln_ros node "$node" "$@"
elif [ -f "$command" ]; then
    exec "$command" node "$node" "$@"
fi
wanted="python3 of PATH"  # from the source, not installed
exec python3 -m vln_ros node "$node" "$@"
