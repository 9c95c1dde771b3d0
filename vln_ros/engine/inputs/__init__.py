"""From instruction and frame to what the model takes: prompt, chat template, pixels, features."""
