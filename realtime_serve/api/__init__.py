"""The HTTP edge: bytes of requests become types, and types become bytes of answers.

Parsing and formatting know no web framework; only the blueprints do.
"""
