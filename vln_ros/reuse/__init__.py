"""VLN-Cache: taking over keys and values of tokens that were seen before."""
