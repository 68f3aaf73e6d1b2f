"""Predictions and refusals of one study -> files: SEG and SR, written whole or not at all."""

from __future__ import annotations
