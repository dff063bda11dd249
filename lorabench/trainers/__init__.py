"""Trainers whose memory and time are predicted: a file each."""
