"""What the benches measure with: engines under load, broken links, noisy bases, recorded frames."""
