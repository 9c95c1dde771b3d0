// The plugin registers the node under its name, with the ports that the trees use.

#include <gtest/gtest.h>

#include <filesystem>

#include "behaviortree_cpp/bt_factory.h"

TEST(Plugin, RegistersTheNodeWithItsPorts)
{
  BT::BehaviorTreeFactory factory;
  factory.registerFromPlugin(PLUGIN);
  const auto & manifests = factory.manifests();
  ASSERT_EQ(manifests.count("FollowInstruction"), 1u);
  const auto & ports = manifests.at("FollowInstruction").ports;
  for (const auto * name : {"instruction", "max_duration_s", "max_distance_m", "max_decisions", "outcome",
      "reason", "server_name", "server_timeout"})
  {
    EXPECT_EQ(ports.count(name), 1u) << name;
  }
}

TEST(Plugin, TheTreeWithoutAMapIsRead)
{
  BT::BehaviorTreeFactory factory;
  factory.registerFromPlugin(PLUGIN);
  factory.registerBehaviorTreeFromFile(std::filesystem::path(TREES) / "by_words_only.xml");
  EXPECT_EQ(factory.registeredBehaviorTrees().size(), 1u);
}
