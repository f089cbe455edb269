"""The small systems that the others are compared with: each in one file, with its reference; none imports another."""
