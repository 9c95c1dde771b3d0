"""From the files of a checkpoint to a loaded model, and the profile of how it was trained."""
