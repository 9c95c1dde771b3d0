"""From frames to action chunks: a folder for each stage of a frame's life inside the model."""
