"""Compute together on data which none of the parties may show the others."""
