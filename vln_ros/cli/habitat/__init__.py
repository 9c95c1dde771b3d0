"""``vln_ros habitat``: is Habitat here what this package believes it to be?"""
