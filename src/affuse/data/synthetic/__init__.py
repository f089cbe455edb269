"""Worlds with a known answer. Every number from one of them is labelled synthetic."""
