"""Interfaces of segmenters and detectors, and their shared parts: windows, upsampling, background."""
