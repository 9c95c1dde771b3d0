# ROS 2 Jazzy and vln_ros, built as the README does on a robot. Two images of one file, for one machine or two:
#   docker build -t vln_ros .                          everything, for the machine with the GPU (or a robot that has one)
#   docker build -t vln_ros:robot --target robot .     without torch: what machine:=robot starts
#   docker run --rm -it --net host --ipc host --gpus all vln_ros ros2 launch vln_ros robot.launch.py ...
# compose.yaml has the split. Fast DDS needs --net host to be heard. --gpus all needs NVIDIA's
# container toolkit; torch brings CUDA itself, so that the base stays small.

FROM ros:jazzy AS ros
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /ws
# What changes least comes first: the packages of ROS, then those of Python, then the source.
COPY package.xml src/vln_ros/
COPY interfaces/vln_msgs/package.xml src/vln_ros/interfaces/vln_msgs/
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-venv \
 && rosdep update --rosdistro jazzy \
 && rosdep install --from-paths src src/vln_ros/interfaces/vln_msgs --ignore-src -y \
 && rm -rf /var/lib/apt/lists/*
COPY requirements.txt src/vln_ros/
# Commands find the workspace as in a terminal that has sourced it.
RUN sed -i '/^exec/i [ ! -f /ws/install/setup.bash ] || source /ws/install/setup.bash --' /ros_entrypoint.sh

FROM ros AS robot
# The executor, inspector and recorder need no model.
RUN python3 -m venv --system-site-packages .venv \
 && touch .venv/COLCON_IGNORE \
 && grep -vE '^(torch|transformers|tokenizers|safetensors)\b' src/vln_ros/requirements.txt > robot.txt \
 && .venv/bin/pip install --no-cache-dir -r robot.txt \
 && chown -R 1000:1000 /ws
COPY . src/vln_ros/
RUN source /opt/ros/jazzy/setup.bash \
 && .venv/bin/python -m colcon build --base-paths src src/vln_ros/interfaces/vln_msgs
USER 1000:1000
CMD ["ros2", "launch", "vln_ros", "robot.launch.py", "machine:=robot"]

FROM ros AS dependencies
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN python3 -m venv --system-site-packages .venv \
 && touch .venv/COLCON_IGNORE \
 && .venv/bin/pip install --no-cache-dir -r src/vln_ros/requirements.txt \
 && chown -R 1000:1000 /ws

FROM dependencies AS gpu
COPY . src/vln_ros/
RUN source /opt/ros/jazzy/setup.bash \
 && .venv/bin/python -m colcon build --base-paths src src/vln_ros/interfaces/vln_msgs
# The base's user "ubuntu".
USER 1000:1000
CMD ["vln_ros", "doctor"]
