# ROS 2 Jazzy and vln_ros, built as the README does on a robot.
#   docker build -t vln_ros .
#   docker run --rm -it --net host --ipc host --gpus all vln_ros ros2 launch vln_ros robot.launch.py ...
# Fast DDS needs --net host to be heard, and --ipc host to share images. --gpus all needs NVIDIA's container toolkit; torch
# brings CUDA itself, so that the base stays small.

FROM ros:jazzy AS dependencies
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /ws
# What changes least comes first: the packages of ROS, then those of Python, then the source.
COPY package.xml src/vln_ros/
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-venv \
 && rosdep update --rosdistro jazzy \
 && rosdep install --from-paths src --ignore-src -y \
 && rm -rf /var/lib/apt/lists/*
COPY requirements.txt src/vln_ros/
RUN python3 -m venv --system-site-packages .venv \
 && touch .venv/COLCON_IGNORE \
 && .venv/bin/pip install --no-cache-dir -r src/vln_ros/requirements.txt \
 && chown -R 1000:1000 /ws

FROM dependencies
COPY . src/vln_ros/
RUN source /opt/ros/jazzy/setup.bash && .venv/bin/python -m colcon build
# Commands find the workspace as in a terminal that has sourced it.
RUN sed -i '/^exec/i source /ws/install/setup.bash --' /ros_entrypoint.sh
# The base's user "ubuntu".
USER 1000:1000
CMD ["vln_ros", "doctor"]
