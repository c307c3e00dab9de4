"""Converters: models of other frameworks into formats that built-in functions run, checked numerically."""
