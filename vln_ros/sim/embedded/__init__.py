"""The embedded simulator: procedural flats, rendered on the CPU."""
