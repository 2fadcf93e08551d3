"""From environments and policies to trajectories."""
