// FollowInstruction for Nav2's behaviour trees: a client of the action follow_instruction of vln_ros.

#include <cstdint>
#include <memory>
#include <string>

#include "behaviortree_cpp/bt_factory.h"
#include "nav2_behavior_tree/bt_action_node.hpp"
#include "vln_msgs/action/follow_instruction.hpp"

namespace vln_nav2
{

using FollowInstruction = vln_msgs::action::FollowInstruction;

// Success: the model said stop. Failure: every other end; `outcome` and `reason` say which.
class FollowInstructionAction : public nav2_behavior_tree::BtActionNode<FollowInstruction>
{
public:
  FollowInstructionAction(
    const std::string & xml_tag_name, const std::string & action_name,
    const BT::NodeConfiguration & conf)
  : BtActionNode<FollowInstruction>(xml_tag_name, action_name, conf)
  {
  }

  void on_tick() override
  {
    getInput("instruction", goal_.instruction);
    getInput("max_duration_s", goal_.max_duration_s);
    getInput("max_distance_m", goal_.max_distance_m);
    getInput("max_decisions", goal_.max_decisions);
  }

  BT::NodeStatus on_success() override
  {
    return tell(BT::NodeStatus::SUCCESS);
  }

  BT::NodeStatus on_aborted() override
  {
    return tell(BT::NodeStatus::FAILURE);
  }

  // Nobody but a halt of this node cancels its goal. A cancel from elsewhere leaves the robot on its way: no success.
  BT::NodeStatus on_cancelled() override
  {
    return tell(BT::NodeStatus::FAILURE);
  }

  static BT::PortsList providedPorts()
  {
    return providedBasicPorts(
      {
        BT::InputPort<std::string>("instruction", "What the robot is told"),
        BT::InputPort<double>("max_duration_s", 0.0, "Limit of time; 0: the navigator's own"),
        BT::InputPort<double>("max_distance_m", 0.0, "Limit of the way; 0: the navigator's own"),
        BT::InputPort<std::uint32_t>("max_decisions", 0u, "Limit of decisions; 0: the navigator's own"),
        BT::OutputPort<std::uint8_t>("outcome", "How it ended: a constant of the action's result"),
        BT::OutputPort<std::string>("reason", "The same in words"),
      });
  }

private:
  BT::NodeStatus tell(BT::NodeStatus status)
  {
    setOutput("outcome", result_.result->outcome);
    setOutput("reason", result_.result->reason);
    return status;
  }
};

}  // namespace vln_nav2

BT_REGISTER_NODES(factory)
{
  BT::NodeBuilder builder = [](const std::string & name, const BT::NodeConfiguration & config) {
      return std::make_unique<vln_nav2::FollowInstructionAction>(name, "follow_instruction", config);
    };
  factory.registerBuilder<vln_nav2::FollowInstructionAction>("FollowInstruction", builder);
}
