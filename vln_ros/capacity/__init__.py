"""What a checkpoint needs of a device, estimated before it runs there."""
