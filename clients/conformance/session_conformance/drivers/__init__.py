"""Drivers that come with the kit."""
